//! What every backend promises of watches and the history: one function a promise.

use std::sync::Arc;

use super::{
    super::{Change, Expect, ReadError, Rv, Update, Watch},
    rig::{Backend, Bounds, Rig, any, lead, put, until, value, within},
};

on_each_backend!(
    watches_see_every_update_once,
    a_watch_resumes_from_every_version,
    a_watch_started_amid_writes_has_no_gap,
    trimmed_history_is_refused,
    a_version_of_the_future_is_refused,
    a_slow_watch_ends_and_delays_nobody,
);

async fn watches_see_every_update_once(backend: Backend) {
    let rig = Rig::new(backend);
    let store = &*rig.store;
    let mut from_start = store.watch(rig.began).await.unwrap();
    let fence = lead(store).await;
    let mut expected = Vec::new();
    for i in 0..50_usize {
        let (a, b, old) = (
            format!("a{}", i % 7),
            format!("b{i}"),
            format!("b{}", i.wrapping_sub(2)),
        );
        let changes = vec![any(&a, "x"), any(&b, "y"), Change::delete(&old, Expect::Any)];
        let done = store.commit(&fence, changes).await.unwrap();
        expected.push((done.rvs[0], a, true));
        expected.push((done.rvs[1], b, true));
        if i >= 2 {
            expected.push((done.rvs[2], old, false));
        }
    }
    let last = store.newest();
    let mut late = store.watch(rig.began).await.unwrap();
    let live = until(&mut from_start, last).await;
    assert!(live.is_sorted_by(|a, b| a.rv < b.rv));
    assert_eq!(live, until(&mut late, last).await, "history and live deliver the same");
    // The first two are the leadership's own.
    let seen: Vec<_> = live
        .into_iter()
        .skip(2)
        .map(|u| (u.rv, u.key, u.value.is_some()))
        .collect();
    assert_eq!(seen, expected);
}

async fn a_watch_resumes_from_every_version(backend: Backend) {
    let mut rig = Rig::new(backend);
    let fence = lead(&*rig.store).await;
    for i in 0..5 {
        let changes = (0..4).map(|k| any(&format!("k{k}"), &i.to_string())).collect();
        rig.store.commit(&fence, changes).await.unwrap();
    }
    for reopened in [false, true] {
        if reopened {
            rig.reopen().await;
        }
        let store = &*rig.store;
        let last = store.newest();
        let all = until(&mut store.watch(rig.began).await.unwrap(), last).await;
        assert_eq!(all.len(), if reopened { 25 } else { 22 });
        let mut open: Vec<(Rv, Watch)> = Vec::new();
        for after in std::iter::once(rig.began).chain(all.iter().map(|u| u.rv)) {
            open.push((after, store.watch(after).await.unwrap()));
        }
        // Each goes on live behind its history.
        let fence = lead(store).await;
        let newest = put(store, &fence, "live", "1").await;
        let live = until(&mut store.watch(last).await.unwrap(), newest).await;
        for (after, mut watch) in open {
            let expected: Vec<Update> = all.iter().filter(|u| u.rv > after).chain(&live).cloned().collect();
            assert_eq!(until(&mut watch, newest).await, expected, "after {after}");
        }
    }
}

async fn a_watch_started_amid_writes_has_no_gap(backend: Backend) {
    let rig = Rig::new(backend);
    let store = Arc::clone(&rig.store);
    let fence = lead(&*store).await;
    let mut writers = tokio::task::JoinSet::new();
    for w in 0..4 {
        let (store, fence) = (Arc::clone(&store), fence.clone());
        writers.spawn(async move {
            for n in 0..150 {
                let changes = vec![
                    any(&format!("w{w}/a"), &n.to_string()),
                    any(&format!("w{w}/b"), &n.to_string()),
                ];
                store.commit(&fence, changes).await.unwrap();
            }
        });
    }
    let mut watches = Vec::new();
    while !writers.is_empty() && watches.len() < 100 {
        // From what a load shows and from the newest version, both as others would use them.
        let snapshot = store.load().await.unwrap();
        watches.push((snapshot.rv, store.watch(snapshot.rv).await.unwrap()));
        let newest = store.newest();
        watches.push((newest, store.watch(newest).await.unwrap()));
        while writers.try_join_next().is_some() {}
    }
    within(writers.join_all()).await;
    let last = put(&*store, &fence, "end", "").await;
    let all = until(&mut store.watch(rig.began).await.unwrap(), last).await;
    assert_eq!(all.len(), 2 + 4 * 150 * 2 + 1);
    for (after, mut watch) in watches {
        let expected: Vec<&Update> = all.iter().filter(|u| u.rv > after).collect();
        assert_eq!(
            until(&mut watch, last).await.iter().collect::<Vec<_>>(),
            expected,
            "after {after}"
        );
    }
}

async fn trimmed_history_is_refused(backend: Backend) {
    let mut rig = Rig::bounded(
        backend,
        Bounds {
            history: 10,
            ..Bounds::default()
        },
    );
    let fence = lead(&*rig.store).await;
    let mut all = Vec::new();
    for i in 0..100 {
        all.push(put(&*rig.store, &fence, &format!("k{}", i % 3), "v").await);
    }
    rig.trim(all[89]).await;
    for _ in 0..2 {
        let store = &*rig.store;
        let oldest = match store.watch(rig.began).await {
            Err(ReadError::Compacted { oldest, .. }) => oldest,
            other => panic!("{other:?}"),
        };
        let kept: Vec<Rv> = all.iter().copied().filter(|rv| *rv > oldest).collect();
        assert!((10..=11).contains(&kept.len()), "{kept:?}");
        let seen = until(&mut store.watch(oldest).await.unwrap(), store.newest()).await;
        assert_eq!(seen.iter().map(|u| u.rv).collect::<Vec<_>>(), kept);
        let before = all[all.len() - kept.len() - 2];
        assert!(matches!(store.watch(before).await, Err(ReadError::Compacted { .. })));
        // Trimming takes nothing from the state.
        assert_eq!(value(store, "k0").await.as_deref(), Some("v"));
        rig.reopen().await;
    }
}

async fn a_version_of_the_future_is_refused(backend: Backend) {
    let rig = Rig::new(backend);
    lead(&*rig.store).await;
    let newest = rig.store.newest();
    for after in [Rv(newest.0 + 1), Rv::new(newest.revision() + 1, 0)] {
        assert_eq!(
            rig.store.watch(after).await.map(drop),
            Err(ReadError::Future { after, newest })
        );
    }
    // A refused watch leaves nothing behind that the next write would stumble over.
    let mut watch = rig.store.watch(newest).await.unwrap();
    let fence = lead(&*rig.store).await;
    assert_eq!(within(watch.recv()).await.unwrap()[0].rv.revision(), fence.term);
}

async fn a_slow_watch_ends_and_delays_nobody(backend: Backend) {
    let rig = Rig::bounded(
        backend,
        Bounds {
            watch_queue: 8,
            ..Bounds::default()
        },
    );
    let store = &*rig.store;
    let fence = lead(store).await;
    let start = store.newest();
    let mut slow = store.watch(start).await.unwrap();
    let mut fast = store.watch(start).await.unwrap();
    let mut written = Vec::new();
    for i in 0..40 {
        written.push(put(store, &fence, "k", &i.to_string()).await);
        assert_eq!(within(fast.recv()).await.unwrap()[0].rv, written[i]);
    }
    let mut got = Vec::new();
    while let Some(batch) = within(slow.recv()).await {
        got.extend(batch.into_iter().map(|u| u.rv));
    }
    assert!((8..40).contains(&got.len()), "{}", got.len());
    assert_eq!(got, written[..got.len()], "what it has is without a gap");
    // It takes up where it was.
    let rest = until(&mut store.watch(got[got.len() - 1]).await.unwrap(), store.newest()).await;
    assert_eq!(rest.iter().map(|u| u.rv).collect::<Vec<_>>(), written[got.len()..]);
}
