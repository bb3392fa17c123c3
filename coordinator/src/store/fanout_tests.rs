//! Interleavings of a watch's start with publishing, which a real store shows only by chance.

use super::*;

fn update(n: u64) -> Update {
    Update {
        rv: Rv(n),
        key: format!("k{n}"),
        value: None,
    }
}

fn batch(rvs: std::ops::RangeInclusive<u64>) -> Vec<Update> {
    rvs.map(update).collect()
}

/// What lies in the channel, and whether it has ended.
fn drain(watch: &mut Watch) -> (Vec<u64>, bool) {
    let mut got = Vec::new();
    loop {
        match watch.try_recv() {
            Ok(batch) => got.extend(batch.iter().map(|u| u.rv.0)),
            Err(e) => return (got, e == mpsc::error::TryRecvError::Disconnected),
        }
    }
}

#[test]
fn what_comes_while_the_history_is_read_follows_it() {
    let fanout = Arc::new(Fanout::new(Rv(3), 4));
    let joining = fanout.join(Rv(1)).unwrap();
    assert_eq!(joining.up_to, Rv(3));
    fanout.publish(&batch(4..=5));
    fanout.publish(&batch(6..=6));
    let mut watch = joining.start(batch(2..=3));
    fanout.publish(&batch(7..=8));
    assert_eq!(drain(&mut watch), (vec![2, 3, 4, 5, 6, 7, 8], false));
}

#[test]
fn a_watch_from_a_version_not_yet_published_gets_only_what_is_after_it() {
    // A load may see what the writer has committed and not yet published.
    let fanout = Arc::new(Fanout::new(Rv(3), 4));
    let joining = fanout.join(Rv(5)).unwrap();
    fanout.publish(&batch(4..=5));
    let mut watch = joining.start(Vec::new());
    fanout.publish(&batch(6..=7));
    assert_eq!(drain(&mut watch), (vec![6, 7], false));

    let mut watch = fanout.join(Rv(9)).unwrap().start(Vec::new());
    fanout.publish(&batch(8..=10));
    assert_eq!(drain(&mut watch), (vec![10], false));
}

#[test]
fn the_longest_backlog_fits_and_a_longer_one_ends_the_watch() {
    let fanout = Arc::new(Fanout::new(Rv(1), 3));
    let (fits, late) = (fanout.join(Rv(0)).unwrap(), fanout.join(Rv(0)).unwrap());
    for n in 2..=4 {
        fanout.publish(&[update(n)]);
    }
    assert_eq!(drain(&mut fits.start(batch(1..=1))), (vec![1, 2, 3, 4], false));
    fanout.publish(&[update(5)]);
    assert_eq!(drain(&mut late.start(batch(1..=1))), (vec![], true));
}

#[test]
fn a_watch_that_was_given_up_leaves_nothing() {
    let fanout = Arc::new(Fanout::new(Rv(1), 3));
    drop(fanout.join(Rv(0)).unwrap());
    assert_eq!(fanout.lock().watchers.len(), 0);
    drop(fanout.join(Rv(0)).unwrap().start(batch(1..=1)));
    fanout.publish(&[update(2)]);
    assert_eq!(fanout.lock().watchers.len(), 0);
}

#[test]
fn closing_ends_a_watch_after_what_it_has() {
    let fanout = Arc::new(Fanout::new(Rv(1), 3));
    let joining = fanout.join(Rv(0)).unwrap();
    let mut watch = fanout.join(Rv(0)).unwrap().start(batch(1..=1));
    fanout.close();
    assert_eq!(drain(&mut watch), (vec![1], true));
    assert_eq!(drain(&mut joining.start(batch(1..=1))), (vec![], true));
    assert!(fanout.join(Rv(0)).is_none());
}
