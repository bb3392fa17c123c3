//! What every store that several coordinators share promises of the contest: one function a promise.

use std::sync::Arc;

use super::{
    super::{
        CommitError, Fence, Rv,
        contest::{Claim, Contest, Look},
        keys,
    },
    rig::{Backend, Rig, any, lead, put, value, within},
};

/// As `on_each_backend`, for those that several coordinators share.
macro_rules! on_each_shared_backend {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Backend::Memory).await; })*
        }
    };
}

on_each_shared_backend!(
    nobody_has_led_a_new_store,
    a_term_begins_over_the_present_one_only,
    a_term_says_whose_it_is_and_is_kept,
    of_many_at_once_exactly_one_begins,
    a_look_sees_what_was_acknowledged,
    a_beat_is_fenced_and_changes_each_time,
    a_beat_is_no_object_and_no_update,
    a_deposed_fence_is_refused,
    a_takeover_leaves_the_beat_alone,
);

fn claim(coordinator: &str) -> Claim {
    Claim {
        incarnation: "inc".into(),
        holder: format!("{coordinator}:1"),
        coordinator: coordinator.into(),
        address: format!("{coordinator}:7443"),
    }
}

fn contest(rig: &Rig) -> Arc<dyn Contest> {
    rig.contest().expect("a store that several share")
}

async fn begin(contest: &dyn Contest, over: Option<&Fence>, coordinator: &str) -> Fence {
    contest
        .take_over(over.map(|f| f.term), &claim(coordinator))
        .await
        .unwrap()
}

async fn term(contest: &dyn Contest) -> Option<u64> {
    contest.look().await.unwrap().term.map(|(term, _)| term)
}

async fn nobody_has_led_a_new_store(backend: Backend) {
    let rig = Rig::new(backend);
    assert_eq!(contest(&rig).look().await, Ok(Look::default()));
    // Nor is there a term to begin over.
    let refused = contest(&rig).take_over(Some(7), &claim("a")).await;
    assert_eq!(refused, Err(CommitError::Fenced { ours: 7, current: 0 }));
    assert_eq!(contest(&rig).look().await, Ok(Look::default()));
}

async fn a_term_begins_over_the_present_one_only(backend: Backend) {
    let rig = Rig::new(backend);
    let contest = contest(&rig);
    let first = begin(&*contest, None, "a").await;
    let fenced = |ours| {
        let current = first.term;
        Err(CommitError::Fenced { ours, current })
    };
    assert_eq!(contest.take_over(None, &claim("b")).await, fenced(0));
    assert_eq!(
        contest.take_over(Some(first.term + 1), &claim("b")).await,
        fenced(first.term + 1)
    );
    assert_eq!(term(&*contest).await, Some(first.term));
    put(&*rig.store, &first, "k", "1").await;
    let second = begin(&*contest, Some(&first), "b").await;
    assert!(second.term > first.term);
    // Its own holder begins anew by the same rule, and a repeated attempt does nothing.
    let third = begin(&*contest, Some(&second), "b").await;
    assert!(third.term > second.term && third.nonce != second.nonce);
    let repeated = contest.take_over(Some(second.term), &claim("b")).await;
    assert!(matches!(repeated, Err(CommitError::Fenced { .. })), "{repeated:?}");
    // A term that was taken without a contest counts like any other.
    let plain = lead(&*rig.store).await;
    begin(&*contest, Some(&plain), "a").await;
}

async fn a_term_says_whose_it_is_and_is_kept(backend: Backend) {
    let rig = Rig::new(backend);
    let fence = begin(&*contest(&rig), None, "a").await;
    let (term, record) = contest(&rig).look().await.unwrap().term.unwrap();
    let expected = keys::TermRecord {
        incarnation: "inc".into(),
        nonce: fence.nonce.to_string(),
        holder: "a:1".into(),
        coordinator: "a".into(),
        address: "a:7443".into(),
    };
    assert_eq!((term, &record), (fence.term, &expected));
    for key in [keys::TERM.to_owned(), keys::term_history(term)] {
        let entry = rig.store.get(&key).await.unwrap().unwrap();
        assert_eq!(entry.rv.revision(), term);
        let stored: keys::TermRecord = serde_json::from_slice(&entry.value).unwrap();
        assert_eq!(stored, expected, "{key}");
    }
}

async fn of_many_at_once_exactly_one_begins(backend: Backend) {
    let rig = Rig::new(backend);
    let contest = contest(&rig);
    let mut over = None;
    for round in 0..10 {
        let mut all = tokio::task::JoinSet::new();
        for n in 0..6 {
            let contest = contest.clone();
            let over = over.as_ref().map(|f: &Fence| f.term);
            all.spawn(async move { contest.take_over(over, &claim(&format!("c{n}"))).await });
        }
        let results = within(all.join_all()).await;
        let mut won: Vec<Fence> = results.iter().filter_map(|r| r.clone().ok()).collect();
        assert_eq!(won.len(), 1, "round {round}: {results:?}");
        let fence = won.remove(0);
        for lost in results.into_iter().filter_map(Result::err) {
            assert!(
                matches!(lost, CommitError::Fenced { current, .. } if current == fence.term),
                "{lost:?}"
            );
        }
        let (term, record) = contest.look().await.unwrap().term.unwrap();
        assert_eq!((term, &*record.nonce), (fence.term, &*fence.nonce));
        put(&*rig.store, &fence, "k", "v").await;
        over = Some(fence);
    }
}

async fn a_look_sees_what_was_acknowledged(backend: Backend) {
    let rig = Rig::new(backend);
    let contest = contest(&rig);
    let mut fence = begin(&*contest, None, "a").await;
    for _ in 0..20 {
        let before = contest.look().await.unwrap();
        contest.beat(&fence).await.unwrap();
        let after = contest.look().await.unwrap();
        assert!(after.beat != before.beat && after.term == before.term);
        fence = begin(&*contest, Some(&fence), "a").await;
        assert_eq!(term(&*contest).await, Some(fence.term));
    }
}

async fn a_beat_is_fenced_and_changes_each_time(backend: Backend) {
    let rig = Rig::new(backend);
    let contest = contest(&rig);
    let old = begin(&*contest, None, "a").await;
    let mut seen = vec![0];
    for _ in 0..5 {
        contest.beat(&old).await.unwrap();
        let beat = contest.look().await.unwrap().beat;
        assert!(!seen.contains(&beat), "{beat} again, after {seen:?}");
        seen.push(beat);
    }
    let new = begin(&*contest, Some(&old), "b").await;
    let refused = CommitError::Fenced {
        ours: old.term,
        current: new.term,
    };
    assert_eq!(contest.beat(&old).await, Err(refused));
    assert_eq!(contest.look().await.unwrap().beat, seen[5], "a refused beat is none");
    let other = Fence {
        nonce: "other".into(),
        ..new.clone()
    };
    let refused = contest.beat(&other).await;
    assert!(matches!(refused, Err(CommitError::Fenced { .. })), "{refused:?}");
    contest.beat(&new).await.unwrap();
    let beat = contest.look().await.unwrap().beat;
    assert!(!seen.contains(&beat), "{beat} again, after {seen:?}");
}

async fn a_beat_is_no_object_and_no_update(backend: Backend) {
    let rig = Rig::new(backend);
    let fence = begin(&*contest(&rig), None, "a").await;
    let before = rig.store.load().await.unwrap();
    let mut watch = rig.store.watch(before.rv).await.unwrap();
    contest(&rig).beat(&fence).await.unwrap();
    assert_eq!(rig.store.load().await.unwrap().entries, before.entries);
    let put = put(&*rig.store, &fence, "k", "1").await;
    let first = within(watch.recv()).await.unwrap();
    assert_eq!(first.iter().map(|u| (&*u.key, u.rv)).collect::<Vec<_>>(), [("k", put)]);
}

async fn a_deposed_fence_is_refused(backend: Backend) {
    let rig = Rig::new(backend);
    let old = begin(&*contest(&rig), None, "a").await;
    put(&*rig.store, &old, "k", "1").await;
    let new = begin(&*contest(&rig), Some(&old), "b").await;
    let refused = rig.store.commit(&old, vec![any("k", "late")]).await;
    let expected = CommitError::Fenced {
        ours: old.term,
        current: new.term,
    };
    assert_eq!(refused, Err(expected));
    assert!(put(&*rig.store, &new, "l", "2").await > Rv::new(new.term, 0));
    assert_eq!(value(&*rig.store, "k").await.as_deref(), Some("1"));
}

async fn a_takeover_leaves_the_beat_alone(backend: Backend) {
    let rig = Rig::new(backend);
    let contest = contest(&rig);
    let old = begin(&*contest, None, "a").await;
    contest.beat(&old).await.unwrap();
    let beat = contest.look().await.unwrap().beat;
    begin(&*contest, Some(&old), "b").await;
    // So a new holder can tell whether the old one was heard of since it last looked.
    assert_eq!(contest.look().await.unwrap().beat, beat);
}
