//! Reading some keys in a row.

use super::{
    super::{Entry, Order, Span},
    rig::{Backend, Rig, lead, put},
};

on_each_backend!(
    a_span_is_half_open_and_in_byte_order,
    a_scan_reads_its_own_writes_with_their_versions,
    an_empty_or_reversed_span_has_nothing,
);

fn span(from: &str, until: &str, order: Order, limit: usize) -> Span {
    Span {
        from: from.to_owned(),
        until: until.to_owned(),
        order,
        limit,
    }
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|e| e.key.as_str()).collect()
}

async fn a_span_is_half_open_and_in_byte_order(backend: Backend) {
    let rig = Rig::new(backend);
    let fence = lead(&*rig.store).await;
    // `Z` < `a` < `ä`: by bytes, not by any language.
    for key in ["x/a", "x/ä", "x/Z", "x/b", "w/a", "x0", "y/a"] {
        put(&*rig.store, &fence, key, "v").await;
    }
    for (from, until, limit, expected) in [
        ("x/", "x0", 9, &["x/Z", "x/a", "x/b", "x/ä"][..]),
        ("x/", "x0", 2, &["x/Z", "x/a"]),
        ("x/a", "x/b", 9, &["x/a"]),
        ("x/", "x0", 0, &[]),
    ] {
        let found = rig
            .store
            .scan(span(from, until, Order::Ascending, limit))
            .await
            .unwrap();
        assert_eq!(keys(&found), expected, "{from} {until} {limit}");
    }
    for (from, until, limit, expected) in [
        ("x/", "x0", 9, &["x/ä", "x/b", "x/a", "x/Z"][..]),
        ("x/", "x0", 1, &["x/ä"]),
        ("x/a", "x/ä", 9, &["x/b", "x/a"]),
    ] {
        let found = rig
            .store
            .scan(span(from, until, Order::Descending, limit))
            .await
            .unwrap();
        assert_eq!(keys(&found), expected, "{from} {until} {limit}, backwards");
    }
}

async fn a_scan_reads_its_own_writes_with_their_versions(backend: Backend) {
    let mut rig = Rig::new(backend);
    let fence = lead(&*rig.store).await;
    put(&*rig.store, &fence, "x/1", "old").await;
    let rv = put(&*rig.store, &fence, "x/1", "new").await;
    let expected = Entry {
        rv,
        key: "x/1".to_owned(),
        value: "new".into(),
    };
    let all = || span("x/", "x0", Order::Descending, 9);
    assert_eq!(rig.store.scan(all()).await, Ok(vec![expected.clone()]));
    rig.reopen().await;
    assert_eq!(rig.store.scan(all()).await, Ok(vec![expected]));
    rig.close().await;
    assert!(rig.store.scan(all()).await.is_err(), "closed");
}

async fn an_empty_or_reversed_span_has_nothing(backend: Backend) {
    let rig = Rig::new(backend);
    let fence = lead(&*rig.store).await;
    put(&*rig.store, &fence, "x/1", "v").await;
    for (from, until) in [("y", "x"), ("x/1", "x/1"), ("", "")] {
        for order in [Order::Ascending, Order::Descending] {
            assert_eq!(rig.store.scan(span(from, until, order, 9)).await, Ok(Vec::new()));
        }
    }
}
