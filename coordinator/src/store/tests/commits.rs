//! What every backend promises of commits, terms and reads: one function a promise.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::{Change, CommitError, Expect, Fence, MAX_BYTES, ReadError, Rv, Store, keys},
    rig::{Backend, Rig, any, lead, put, until, value, within},
};

on_each_backend!(
    a_new_store_is_empty,
    puts_deletes_and_expectations,
    a_commit_is_whole_or_nothing,
    limits,
    a_delete_of_nothing_is_no_update,
    a_takeover_fences_older_terms,
    a_takeover_fences_commits_in_flight,
    a_fence_is_all_of_it,
    no_update_is_lost_among_concurrent_writers,
    a_closed_store_refuses,
    reopening_keeps_all_and_reuses_no_version,
);

async fn a_new_store_is_empty(backend: Backend) {
    let rig = Rig::new(backend);
    let snapshot = rig.store.load().await.unwrap();
    assert_eq!((snapshot.rv, snapshot.entries.len()), (rig.began, 0));
    assert_eq!(rig.store.newest(), rig.began);
    // Without a leadership nobody writes.
    let nobody = Fence {
        incarnation: "inc".into(),
        term: 0,
        nonce: "".into(),
    };
    assert_eq!(
        rig.store.commit(&nobody, vec![any("a", "1")]).await,
        Err(CommitError::Fenced { ours: 0, current: 0 })
    );
}

async fn puts_deletes_and_expectations(backend: Backend) {
    let rig = Rig::new(backend);
    let store = &*rig.store;
    let fence = lead(store).await;
    let commit = async |change: Change| store.commit(&fence, vec![change]).await.map(|c| c.last());
    let conflict = |key: &str, expected, actual| CommitError::Conflict {
        key: key.to_owned(),
        expected,
        actual,
    };

    let first = commit(Change::put("a", Expect::Absent, "1")).await.unwrap();
    assert_eq!(
        commit(Change::put("a", Expect::Absent, "2")).await,
        Err(conflict("a", Expect::Absent, Some(first)))
    );
    let second = commit(Change::put("a", Expect::At(first), "2")).await.unwrap();
    assert!(second > first);
    assert_eq!(store.newest(), second);
    assert_eq!(
        commit(Change::put("a", Expect::At(first), "3")).await,
        Err(conflict("a", Expect::At(first), Some(second)))
    );
    assert_eq!(value(store, "a").await.as_deref(), Some("2"));
    assert_eq!(store.get("a").await.unwrap().map(|e| e.rv), Some(second));
    assert_eq!(
        commit(Change::delete("a", Expect::At(first))).await,
        Err(conflict("a", Expect::At(first), Some(second)))
    );
    commit(Change::delete("a", Expect::At(second))).await.unwrap();
    assert_eq!(value(store, "a").await, None);
    assert_eq!(
        commit(Change::put("a", Expect::At(second), "4")).await,
        Err(conflict("a", Expect::At(second), None))
    );
    // A key that comes back does so at a version of its own.
    assert!(commit(Change::put("a", Expect::Absent, "5")).await.unwrap() > second);
}

async fn a_commit_is_whole_or_nothing(backend: Backend) {
    let rig = Rig::new(backend);
    let store = &*rig.store;
    let fence = lead(store).await;
    let before = put(store, &fence, "b", "1").await;
    let refused = store
        .commit(
            &fence,
            vec![any("a", "2"), any("b", "2"), Change::delete("c", Expect::At(before))],
        )
        .await;
    assert!(matches!(refused, Err(CommitError::Conflict { .. })), "{refused:?}");
    assert_eq!(value(store, "a").await, None);
    assert_eq!(value(store, "b").await.as_deref(), Some("1"));
    assert_eq!(store.newest(), before);
    let done = store
        .commit(
            &fence,
            vec![any("a", "2"), any("b", "2"), Change::delete("b2", Expect::Absent)],
        )
        .await
        .unwrap();
    assert_eq!(done.rvs.len(), 3);
    assert!(done.rvs.is_sorted());
    assert_eq!(done.rvs[0].revision(), done.rvs[1].revision());
    assert_eq!(store.get("b").await.unwrap().map(|e| e.rv), Some(done.rvs[1]));
}

async fn limits(backend: Backend) {
    let rig = Rig::new(backend);
    let store = &*rig.store;
    let fence = lead(store).await;
    let before = store.newest();
    let many = |n: usize| (0..n).map(|i| any(&format!("k{i}"), "v")).collect::<Vec<_>>();
    assert!(matches!(
        store.commit(&fence, many(65)).await,
        Err(CommitError::TooLarge { changes: 65, .. })
    ));
    let big = |n: usize| vec![Change::put("big", Expect::Any, vec![b'x'; n])];
    assert_eq!(
        store.commit(&fence, big(MAX_BYTES - 2)).await,
        Err(CommitError::TooLarge {
            changes: 1,
            bytes: MAX_BYTES + 1
        })
    );
    assert_eq!(
        store
            .commit(&fence, vec![any("a", "1"), any("b", "1"), any("a", "2")])
            .await,
        Err(CommitError::DuplicateKey("a".to_owned()))
    );
    assert_eq!(store.newest(), before);
    assert_eq!(store.commit(&fence, many(64)).await.unwrap().rvs.len(), 64);
    store.commit(&fence, big(MAX_BYTES - 3)).await.unwrap();
    assert_eq!(
        store.get("big").await.unwrap().map(|e| e.value.len()),
        Some(MAX_BYTES - 3)
    );
    assert_eq!(store.commit(&fence, vec![]).await.unwrap().rvs, []);
}

async fn a_delete_of_nothing_is_no_update(backend: Backend) {
    let rig = Rig::new(backend);
    let store = &*rig.store;
    let fence = lead(store).await;
    let mut watch = store.watch(store.newest()).await.unwrap();
    let a = put(store, &fence, "a", "1").await;
    let nothing = store
        .commit(&fence, vec![Change::delete("x", Expect::Any)])
        .await
        .unwrap();
    assert_eq!(nothing.rvs, [a], "a reader that waits for it must get there");
    let mixed = store
        .commit(
            &fence,
            vec![any("b", "1"), Change::delete("x", Expect::Any), any("c", "1")],
        )
        .await
        .unwrap();
    assert_eq!(mixed.rvs[1], mixed.rvs[0]);
    let keys: Vec<_> = until(&mut watch, mixed.last())
        .await
        .into_iter()
        .map(|u| u.key)
        .collect();
    assert_eq!(keys, ["a", "b", "c"]);
}

async fn a_takeover_fences_older_terms(backend: Backend) {
    let rig = Rig::new(backend);
    let store = &*rig.store;
    let old = lead(store).await;
    let record = store.get(keys::TERM).await.unwrap().unwrap();
    assert_eq!(record.rv.revision(), old.term);
    let kept = store.get(&keys::term_history(old.term)).await.unwrap().unwrap();
    assert_eq!(kept.value, record.value);
    let parsed: keys::TermRecord = serde_json::from_slice(&record.value).unwrap();
    assert_eq!((&*parsed.incarnation, &*parsed.holder), ("inc", "test:1"));
    assert_eq!(*parsed.nonce, *old.nonce);

    put(store, &old, "a", "old").await;
    let new = lead(store).await;
    assert!(new.term > old.term);
    assert_ne!(new.nonce, old.nonce);
    assert_eq!(
        store.commit(&old, vec![any("a", "late")]).await,
        Err(CommitError::Fenced {
            ours: old.term,
            current: new.term
        })
    );
    put(store, &new, "b", "new").await;
    assert_eq!(value(store, "a").await.as_deref(), Some("old"));
    assert!(store.get(&keys::term_history(old.term)).await.unwrap().is_some());
}

async fn a_takeover_fences_commits_in_flight(backend: Backend) {
    let rig = Rig::new(backend);
    let store = Arc::clone(&rig.store);
    let old = lead(&*store).await;
    let mut writers = tokio::task::JoinSet::new();
    for w in 0..8 {
        let (store, old) = (Arc::clone(&store), old.clone());
        writers.spawn(async move {
            for n in 0.. {
                match store.commit(&old, vec![any(&format!("w{w}"), &n.to_string())]).await {
                    Ok(done) => assert!(done.last().revision() > old.term),
                    Err(CommitError::Fenced { .. }) => return,
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    let mut watch = store.watch(old_rv(&*store).await).await.unwrap();
    within(watch.recv()).await.unwrap();
    let new = store.take_term("inc", "test:2").await.unwrap();
    within(writers.join_all()).await;
    // Nothing of the old term comes after the new one.
    let after = store.load().await.unwrap();
    assert!(
        after
            .entries
            .iter()
            .filter(|e| e.key.starts_with('w'))
            .all(|e| e.rv.revision() < new.term)
    );
    assert_eq!(after.rv.revision(), new.term);
}

async fn old_rv(store: &dyn Store) -> Rv {
    store.get(keys::TERM).await.unwrap().unwrap().rv
}

async fn a_fence_is_all_of_it(backend: Backend) {
    let rig = Rig::new(backend);
    let store = &*rig.store;
    let fence = lead(store).await;
    let others = [
        Fence {
            incarnation: "other".into(),
            ..fence.clone()
        },
        Fence {
            nonce: "other".into(),
            ..fence.clone()
        },
        Fence {
            term: fence.term + 1,
            ..fence.clone()
        },
    ];
    for other in others {
        let refused = store.commit(&other, vec![any("a", "1")]).await;
        assert!(
            matches!(refused, Err(CommitError::Fenced { .. })),
            "{other:?}: {refused:?}"
        );
    }
    // A new incarnation fences the old one like a new term does.
    store.take_term("restored", "test:2").await.unwrap();
    let refused = store.commit(&fence, vec![any("a", "1")]).await;
    assert!(matches!(refused, Err(CommitError::Fenced { .. })), "{refused:?}");
    assert_eq!(value(store, "a").await, None);
}

async fn no_update_is_lost_among_concurrent_writers(backend: Backend) {
    const WRITERS: usize = 8;
    const EACH: usize = 40;
    let rig = Rig::new(backend);
    let store = Arc::clone(&rig.store);
    let fence = lead(&*store).await;
    let mut writers = tokio::task::JoinSet::new();
    for w in 0..WRITERS {
        let (store, fence) = (Arc::clone(&store), fence.clone());
        writers.spawn(async move {
            let key = format!("count{}", w % 2);
            for _ in 0..EACH {
                loop {
                    let entry = store.get(&key).await.unwrap();
                    let count: usize = entry
                        .as_ref()
                        .map_or(0, |e| std::str::from_utf8(&e.value).unwrap().parse().unwrap());
                    let expect = entry.map_or(Expect::Absent, |e| Expect::At(e.rv));
                    let next = (count + 1).to_string();
                    match store.commit(&fence, vec![Change::put(&key, expect, next)]).await {
                        Ok(done) => {
                            // An acknowledged write is seen by the next read.
                            let seen = store.get(&key).await.unwrap().unwrap();
                            assert!(seen.rv >= done.last() && store.newest() >= seen.rv);
                            break;
                        }
                        Err(CommitError::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        });
    }
    within(writers.join_all()).await;
    for key in ["count0", "count1"] {
        assert_eq!(value(&*store, key).await, Some((WRITERS / 2 * EACH).to_string()));
    }
    // And each count was written exactly once.
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for update in until(&mut store.watch(rig.began).await.unwrap(), store.newest()).await {
        let text = String::from_utf8(update.value.unwrap().to_vec()).unwrap();
        seen.entry(update.key).or_default().push(text);
    }
    let expected: Vec<String> = (1..=WRITERS / 2 * EACH).map(|n| n.to_string()).collect();
    assert_eq!((&seen["count0"], &seen["count1"]), (&expected, &expected));
}

async fn a_closed_store_refuses(backend: Backend) {
    let rig = Rig::new(backend);
    let fence = lead(&*rig.store).await;
    let last = put(&*rig.store, &fence, "a", "1").await;
    let mut watch = rig.store.watch(rig.began).await.unwrap();
    rig.close().await;
    // What was delivered stays readable, then the watch ends.
    until(&mut watch, last).await;
    assert_eq!(within(watch.recv()).await, None);
    assert_eq!(
        rig.store.commit(&fence, vec![any("a", "2")]).await,
        Err(CommitError::Closed)
    );
    assert_eq!(rig.store.take_term("inc", "x").await, Err(CommitError::Closed));
    assert!(matches!(rig.store.get("a").await, Err(ReadError::Io(_))));
    assert!(matches!(rig.store.load().await, Err(ReadError::Io(_))));
    assert!(matches!(rig.store.watch(rig.began).await, Err(ReadError::Io(_))));
    rig.close().await;
}

async fn reopening_keeps_all_and_reuses_no_version(backend: Backend) {
    let mut rig = Rig::new(backend);
    let mut newest = rig.began;
    let mut terms = Vec::new();
    for round in 0..5 {
        let store = &*rig.store;
        assert_eq!(store.newest(), newest);
        // `term`, its history, and what each round but the first left.
        assert_eq!(store.load().await.unwrap().entries.len(), terms.len() * 2);
        let fence = lead(store).await;
        let put = put(store, &fence, &format!("r{round}"), "v").await;
        assert!(put > newest && fence.term > newest.revision());
        terms.push(fence);
        let gone = store
            .commit(terms.last().unwrap(), vec![Change::delete("r0", Expect::At(put))])
            .await;
        assert_eq!(gone.is_ok(), round == 0);
        newest = store.newest();
        let before = store.load().await.unwrap();
        rig.reopen().await;
        assert_eq!(rig.store.load().await.unwrap(), before);
        // An earlier process's fence holds until the next takeover, and no longer.
        assert!(rig.store.commit(terms.last().unwrap(), vec![]).await.is_ok());
        if let [.., older, _] = &terms[..] {
            assert!(matches!(
                rig.store.commit(older, vec![]).await,
                Err(CommitError::Fenced { .. })
            ));
        }
    }
}
