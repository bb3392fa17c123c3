//! The mirror against histories written down by hand.

use super::*;
use crate::store::etcd::layout::{wrap, wrap_kept};

fn put(inner: &str, revision: i64, ordinal: u16, value: &str) -> Event {
    Event {
        inner: inner.to_owned(),
        revision,
        value: Some(wrap(ordinal, value.as_bytes())),
    }
}

fn gone(inner: &str, revision: i64) -> Event {
    Event {
        inner: inner.to_owned(),
        revision,
        value: None,
    }
}

fn marker(revision: i64) -> Event {
    put(MARKER, revision, 0, "id")
}

fn listed(inner: &str, revision: i64, ordinal: u16, value: &str) -> Listed {
    Listed {
        inner: inner.to_owned(),
        revision,
        version: Version::Own(ordinal),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn empty() -> Mirror {
    Mirror::new(Layout::new("/w/", 100), &List::default(), Rv(0))
}

fn flat(updates: &[Update]) -> Vec<(u64, u64, &str, bool)> {
    let parts = |u: &Update| (u.rv.revision(), u.rv.0 & 0xffff);
    updates
        .iter()
        .map(|u| (parts(u).0, parts(u).1, u.key.as_str(), u.value.is_some()))
        .collect()
}

#[test]
fn a_transaction_is_one_batch_and_its_versions_rise() {
    let mut mirror = empty();
    let applied = mirror.apply(vec![
        marker(3),
        put("a", 3, 0, "1"),
        put("b", 3, 2, "1"),
        marker(4),
        gone("a", 4),
        put("c", 4, 5, "1"),
        gone("b", 4),
        marker(5),
    ]);
    let batches: Vec<_> = applied.batches.iter().map(|b| flat(b)).collect();
    assert_eq!(
        batches,
        [
            vec![(103, 0, "a", true), (103, 2, "b", true)],
            vec![(104, 0, "a", false), (104, 5, "c", true), (104, 6, "b", false)],
        ]
    );
    assert_eq!((mirror.position(), mirror.marker()), (5, 5));
    assert_eq!(mirror.newest_at(3), Some(Rv::new(103, 2)));
    assert_eq!(mirror.newest_at(9), Some(Rv::new(104, 6)));
}

#[test]
fn events_that_come_again_are_dropped() {
    let mut mirror = empty();
    mirror.apply(vec![marker(3), put("a", 3, 0, "1"), marker(4), put("a", 4, 0, "2")]);
    let again = mirror.apply(vec![marker(3), put("a", 3, 0, "1"), marker(4), gone("a", 4)]);
    assert!(again.batches.is_empty(), "{again:?}");
    assert!(mirror.has("a"));
}

#[test]
fn a_term_of_the_history_is_named_by_its_number() {
    let mut mirror = empty();
    let applied = mirror.apply(vec![marker(7), put("term", 7, 0, "t"), put("terms/n-x", 7, 1, "t")]);
    assert_eq!(applied.batches[0][1].key, "terms/000000000000006b");
    assert_eq!(mirror.term_at(7), Some("terms/n-x"));
    let applied = mirror.apply(vec![marker(9), gone("terms/n-x", 9)]);
    assert_eq!(applied.batches[0][0].key, "terms/000000000000006b");
    assert_eq!(mirror.term_at(7), None);
}

#[test]
fn a_relist_says_what_was_missed_and_ends_beyond_it() {
    let mut mirror = empty();
    mirror.apply(vec![
        marker(3),
        put("kept", 3, 0, "1"),
        put("changed", 3, 1, "1"),
        put("gone", 3, 2, "1"),
    ]);
    let updates = mirror.replace(List {
        revision: 20,
        marker: 18,
        entries: vec![
            listed("changed", 18, 1, "2"),
            listed("kept", 3, 0, "1"),
            listed("new", 9, 0, "1"),
        ],
        foreign: Vec::new(),
    });
    assert_eq!(
        flat(&updates),
        [
            (109, 0, "new", true),
            (118, 1, "changed", true),
            (120, 0xfffd, "gone", false),
            (120, 0xffff, RELISTED, false),
        ]
    );
    assert!(updates.is_sorted_by(|a, b| a.rv < b.rv));
    assert_eq!(mirror.floor(), Rv::new(120, 0xffff));
    // What follows is beyond it.
    let next = mirror.apply(vec![marker(20), marker(21), put("new", 21, 0, "2")]);
    assert_eq!(flat(&next.batches[0]), [(121, 0, "new", true)]);
}

#[test]
fn an_audit_tells_what_moved_on_from_what_is_wrong() {
    let mut mirror = empty();
    mirror.apply(vec![
        marker(3),
        put("same", 3, 0, ""),
        put("old", 3, 1, ""),
        put("stale", 3, 2, ""),
        put("later", 3, 3, ""),
        marker(12),
        put("later", 12, 0, ""),
        put("young", 12, 1, ""),
    ]);
    let list = List {
        revision: 10,
        marker: 9,
        entries: vec![
            listed("lost", 5, 0, ""),
            listed("later", 3, 3, ""),
            listed("old", 6, 0, ""),
            listed("same", 3, 0, ""),
        ],
        foreign: Vec::new(),
    };
    let (wrong, lacking) = mirror.differences(&list);
    assert_eq!(wrong, ["old", "stale"]);
    assert_eq!(lacking, [("lost".to_owned(), 5)]);
}

#[test]
fn what_another_program_wrote_is_named_and_left_out() {
    let mut mirror = empty();
    let foreign = Event {
        value: Some(b"{}".to_vec()),
        ..gone("a", 3)
    };
    let applied = mirror.apply(vec![foreign, put("b", 3, 0, "1")]);
    assert_eq!(applied.foreign, ["a"]);
    assert_eq!(flat(&applied.batches[0]), [(103, 0, "b", true)]);
}

#[test]
fn what_came_from_another_store_is_known_and_told_to_nobody() {
    let kept = |revision, rv: Rv| Event {
        inner: "a".to_owned(),
        revision,
        value: Some(wrap_kept(rv, b"v")),
    };
    let mut mirror = empty();
    let old = Rv::new(9, 3);
    let applied = mirror.apply(vec![kept(5, old)]);
    assert_eq!(applied.batches, Vec::<Vec<Update>>::new());
    assert_eq!(mirror.kept("a", old), Some(5));
    assert_eq!(mirror.kept("a", Rv::new(9, 4)), None);
    assert_eq!(mirror.kept("b", old), None);
    // Nor where a list shows it; and it is no difference.
    let list = List {
        revision: 6,
        entries: vec![Listed {
            version: Version::Kept(old),
            ..listed("a", 5, 0, "v")
        }],
        ..List::default()
    };
    assert_eq!(mirror.differences(&list), (Vec::new(), Vec::new()));
    let told = empty().replace(list);
    assert_eq!(flat(&told), [(106, 65535, RELISTED, false)]);
    // Written here, it has a version of here and goes by its own name.
    let applied = mirror.apply(vec![marker(7), put("a", 7, 0, "w")]);
    assert_eq!(flat(&applied.batches.concat()), [(107, 0, "a", true)]);
    assert_eq!(mirror.kept("a", old), None);
}
