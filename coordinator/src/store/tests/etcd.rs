//! What only etcd can show: members that die, hang and come back, a history that is gone, a full quota, lost answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Change, CommitError, Committed, Expect, Fence, OpenError, ReadError, Rv, Store, Update,
        contest::{Claim, Contest},
        etcd::{EtcdOptions, EtcdStore},
        keys,
    },
    etcd_process::{Etcd, EtcdSettings},
    proxy::{Mode, Proxy},
    rig::{any, lead, put, until, value, within},
};

const PREFIX: &str = "/wharf-test/";

fn options(endpoints: Vec<String>) -> EtcdOptions {
    EtcdOptions {
        endpoints,
        prefix: PREFIX.to_owned(),
        ..EtcdOptions::default()
    }
}

async fn open(endpoints: Vec<String>) -> EtcdStore {
    within(EtcdStore::open(options(endpoints))).await.unwrap()
}

fn claim(coordinator: &str) -> Claim {
    Claim {
        incarnation: "inc".to_owned(),
        holder: format!("{coordinator}:1"),
        coordinator: coordinator.to_owned(),
        address: format!("{coordinator}:7443"),
    }
}

/// Which member leads, as the members say.
async fn leader(etcd: &Etcd, store: &EtcdStore) -> usize {
    for _ in 0..100 {
        let status = store.status().await;
        let found = status.endpoints.iter().find(|e| e.leader).map(|e| e.endpoint.clone());
        if let Some(i) = (0..etcd.len()).find(|i| Some(etcd.endpoint(*i)) == found) {
            return i;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("etcd has no leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_takes_over() {
    let etcd = Etcd::start(1);
    let store = Arc::new(open(etcd.endpoints()).await);
    assert_eq!(store.look().await.unwrap().term, None);
    let first = store.take_over(None, &claim("c1")).await.unwrap();
    let look = store.look().await.unwrap();
    assert_eq!(look.term.as_ref().map(|(term, _)| *term), Some(first.term));
    assert_eq!(look.term.unwrap().1.address, "c1:7443");
    assert_eq!(look.beat, 0);
    store.beat(&first).await.unwrap();
    let beat = store.look().await.unwrap().beat;
    store.beat(&first).await.unwrap();
    assert!(beat > 0 && store.look().await.unwrap().beat > beat);

    let other = open(etcd.endpoints()).await;
    let (c2, c3) = (claim("c2"), claim("c3"));
    let (a, b) = tokio::join!(
        store.take_over(Some(first.term), &c2),
        other.take_over(Some(first.term), &c3)
    );
    let (won, lost) = match (a, b) {
        (Ok(won), lost) | (lost, Ok(won)) => (won, lost),
        both => panic!("{both:?}"),
    };
    assert_eq!(
        lost,
        Err(CommitError::Fenced {
            ours: first.term,
            current: won.term
        })
    );
    let fenced = CommitError::Fenced {
        ours: first.term,
        current: won.term,
    };
    assert_eq!(store.beat(&first).await, Err(fenced.clone()));
    assert_eq!(store.commit(&first, vec![any("a", "1")]).await, Err(fenced));
    // Over nothing only where there is nothing.
    let late = store.take_over(None, &claim("c4")).await;
    assert!(matches!(late, Err(CommitError::Fenced { ours: 0, current }) if current == won.term));
    put(&*store, &won, "a", "1").await;
    // The history has both, under their numbers, for whoever asks.
    for term in [first.term, won.term] {
        assert!(other.get(&keys::term_history(term)).await.unwrap().is_some());
    }
    let listed = other.load().await.unwrap();
    let names: Vec<_> = listed.entries.iter().map(|e| e.key.clone()).collect();
    assert_eq!(
        names,
        [
            "a",
            "term",
            &keys::term_history(first.term),
            &keys::term_history(won.term)
        ]
    );
    // Beats are in no version that a reader sees.
    assert_eq!(listed.rv, store.get("a").await.unwrap().unwrap().rv);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_share_a_transaction_and_stay_independent() {
    let etcd = Etcd::start(1);
    let store = Arc::new(open(etcd.endpoints()).await);
    let fence = lead(&*store).await;
    let taken = put(&*store, &fence, "taken", "1").await;
    let mut commits = tokio::task::JoinSet::new();
    for i in 0..300_usize {
        let (store, fence) = (store.clone(), fence.clone());
        commits.spawn(async move {
            let second = match i % 3 {
                0 => Change::put("taken", Expect::Absent, "2"),
                1 => Change::delete(format!("nothing{i}"), Expect::Any),
                _ => any(&format!("b{i}"), "1"),
            };
            let first = Change::put(format!("a{i}"), Expect::Absent, "1");
            (i, store.commit(&fence, vec![first, second]).await)
        });
    }
    let mut revisions = BTreeSet::new();
    let mut applied = BTreeMap::new();
    for (i, result) in within(commits.join_all()).await {
        match (i % 3, result) {
            (0, Err(CommitError::Conflict { key, actual, .. })) => assert_eq!((&*key, actual), ("taken", Some(taken))),
            (1 | 2, Ok(done)) => {
                revisions.insert(done.last().revision());
                applied.insert(format!("a{i}"), done.rvs[0]);
                if i % 3 == 2 {
                    assert!(done.rvs[1] > done.rvs[0]);
                    applied.insert(format!("b{i}"), done.rvs[1]);
                } else {
                    assert_eq!(done.rvs[1], done.rvs[0]);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(
        revisions.len() < 150,
        "{} transactions for 200 commits",
        revisions.len()
    );
    let seen = until(&mut store.watch(taken).await.unwrap(), store.newest()).await;
    let seen: BTreeMap<_, _> = seen.into_iter().map(|u| (u.key, u.rv)).collect();
    assert_eq!(seen, applied, "who wrote and who watches have the same versions");
}

/// The most that is asked of one transaction: etcd's limits of 128 operations along a path and of 1.5 MiB hold it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_group_fits() {
    let etcd = Etcd::start(1);
    let store = Arc::new(open(etcd.endpoints()).await);
    let fence = lead(&*store).await;
    for round in 0..2 {
        let mut commits = tokio::task::JoinSet::new();
        for i in 0..96 {
            let (store, fence) = (store.clone(), fence.clone());
            commits.spawn(async move {
                // Each with an expectation, which is a compare and a read more.
                let known = store.get(&format!("k{i}/0")).await.unwrap().map(|e| e.rv);
                let changes = (0..64).map(|k| {
                    let expect = match (k, known) {
                        (0, Some(rv)) => Expect::At(rv),
                        (0, None) => Expect::Absent,
                        _ if round == 0 => Expect::Absent,
                        _ => Expect::Any,
                    };
                    Change::put(format!("k{i}/{k}"), expect, vec![b'x'; 100])
                });
                store.commit(&fence, changes.collect()).await
            });
        }
        for result in within(commits.join_all()).await {
            assert_eq!(result.unwrap().rvs.len(), 64);
        }
    }
    let large = |n: usize| vec![Change::put("large", Expect::Any, vec![b'x'; n])];
    store.commit(&fence, large(super::super::MAX_BYTES - 5)).await.unwrap();
}

/// Writes until told to end; what was acknowledged, by key, and the keys whose fate is unknown.
async fn write_on(
    store: Arc<EtcdStore>,
    fence: Fence,
    who: usize,
    stop: Arc<AtomicBool>,
) -> (Vec<(String, Rv)>, Vec<String>) {
    let (mut acknowledged, mut unknown) = (Vec::new(), Vec::new());
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{who}/{n:06}");
        match store.commit(&fence, vec![Change::put(&key, Expect::Absent, "v")]).await {
            Ok(done) => acknowledged.push((key, done.last())),
            Err(CommitError::Unknown(_)) => unknown.push(key),
            Err(CommitError::Unavailable(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    (acknowledged, unknown)
}

/// Under load, `fault` happens to the member that leads, then `cure`. Nothing acknowledged is lost, the watch is
/// complete, and the writes go on in between.
async fn bears(fault: impl Fn(&Etcd, usize), cure: impl Fn(&Etcd, usize)) {
    let etcd = Etcd::start(3);
    let store = Arc::new(open(etcd.endpoints()).await);
    let fence = lead(&*store).await;
    let mut live = store.watch(Rv(0)).await.unwrap();
    let collecting = tokio::spawn(async move {
        let mut all: Vec<Update> = Vec::new();
        while let Some(batch) = live.recv().await {
            all.extend(batch);
        }
        all
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for who in 0..4 {
        writers.spawn(write_on(store.clone(), fence.clone(), who, stop.clone()));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let hit = leader(&etcd, &store).await;
    fault(&etcd, hit);
    // Writes are taken again while it is away.
    let before = store.newest();
    within(async {
        while store.newest().revision() < before.revision() + 50 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    cure(&etcd, hit);
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let written = within(writers.join_all()).await;
    let last = put(&*store, &fence, "end", "").await;
    // The same as a coordinator that comes anew has it.
    let fresh = open(etcd.endpoints()).await;
    let all = until(&mut fresh.watch(Rv(0)).await.unwrap(), last).await;
    let snapshot = fresh.load().await.unwrap();
    within(async {
        while store.watch(Rv(0)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(until(&mut store.watch(Rv(0)).await.unwrap(), last).await, all);
    store.close().await;
    assert_eq!(within(collecting).await.unwrap(), all, "live and history are the same");
    let there: BTreeMap<_, _> = snapshot.entries.into_iter().map(|e| (e.key, e.rv)).collect();
    let mut count = 0;
    let mut uncertain = BTreeSet::new();
    for (acknowledged, unknown) in written {
        count += acknowledged.len();
        for (key, rv) in acknowledged {
            assert_eq!(there.get(&key), Some(&rv), "{key} was acknowledged");
        }
        uncertain.extend(unknown);
    }
    let kept = there
        .keys()
        .filter(|k| k.starts_with('w') && !uncertain.contains(*k))
        .count();
    assert_eq!(kept, count, "nothing that was refused is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_loses_nothing() {
    bears(Etcd::kill, Etcd::restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hangs_loses_nothing() {
    bears(Etcd::pause, Etcd::resume).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_errors_are_said_and_then_it_goes_on() {
    let etcd = Etcd::start(3);
    let settings = EtcdOptions {
        read_deadline: Duration::from_secs(2),
        commit_deadline: Duration::from_secs(3),
        ..options(etcd.endpoints())
    };
    let store = EtcdStore::open(settings).await.unwrap();
    let fence = lead(&store).await;
    let before = put(&store, &fence, "a", "1").await;
    etcd.kill(0);
    etcd.kill(1);
    let refused = within(store.commit(&fence, vec![any("a", "2")])).await.unwrap_err();
    assert!(refused.passes(), "{refused:?}");
    let refused = within(store.commit(&fence, vec![any("b", "2")])).await.unwrap_err();
    let CommitError::Unavailable(why) = refused else {
        panic!("nothing of it can have been applied: {refused:?}")
    };
    for i in 0..3 {
        assert!(why.contains(&etcd.endpoint(i)), "{why}");
    }
    assert!(matches!(within(store.get("a")).await, Err(ReadError::Unavailable(_))));
    assert!(within(store.beat(&fence)).await.is_err());
    etcd.restart(0);
    etcd.restart(1);
    within(async { while store.commit(&fence, vec![any("c", "3")]).await.is_err() {} }).await;
    // The first one may have been kept by the member that stayed; the second one was never sent.
    assert!(["1", "2"].contains(&value(&store, "a").await.unwrap().as_str()));
    assert_eq!(value(&store, "b").await, None);
    let mut watch = store.watch(before).await.unwrap();
    until(&mut watch, store.get("c").await.unwrap().unwrap().rv).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_longer_than_the_history_loses_no_change() {
    let etcd = Etcd::start(1);
    let store = open(etcd.endpoints()).await;
    let fence = lead(&store).await;
    for i in 0..10 {
        put(&store, &fence, &format!("old{i}"), "1").await;
    }
    let proxy = Proxy::to(etcd.port(0)).await;
    let follower = open(vec![proxy.endpoint()]).await;
    let snapshot = follower.load().await.unwrap();
    let mut watch = follower.watch(snapshot.rv).await.unwrap();
    let mut state: BTreeMap<_, _> = snapshot.entries.into_iter().map(|e| (e.key, (e.rv, e.value))).collect();
    proxy.set(Mode::Cut);
    for i in 0..5 {
        let change = Change::delete(format!("old{i}"), Expect::Any);
        store
            .commit(&fence, vec![change, any(&format!("new{i}"), "1")])
            .await
            .unwrap();
    }
    put(&store, &fence, "old9", "2").await;
    // Written and gone again: a reader that waits for it must get there all the same.
    let brief = put(&store, &fence, "brief", "1").await;
    store
        .commit(&fence, vec![Change::delete("brief", Expect::At(brief))])
        .await
        .unwrap();
    store.compact_now(&fence).await.unwrap();
    proxy.set(Mode::Pass);
    let last = put(&store, &fence, "end", "1").await;
    let mut newest = snapshot.rv;
    while newest < last {
        for update in within(watch.recv()).await.expect("the watch goes on") {
            assert!(update.rv > newest, "{update:?} after {newest}");
            newest = update.rv;
            match update.value {
                Some(value) => state.insert(update.key, (update.rv, value)),
                None => state.remove(&update.key),
            };
        }
    }
    let expected = store.load().await.unwrap();
    let expected: BTreeMap<_, _> = expected.entries.into_iter().map(|e| (e.key, (e.rv, e.value))).collect();
    assert_eq!(state, expected);
    // What was told of is no start for another reader: it would not hear of what is gone.
    assert!(matches!(
        follower.watch(snapshot.rv).await.map(drop),
        Err(ReadError::Compacted { .. })
    ));
    // And one that opens now has the same versions.
    assert_eq!(open(etcd.endpoints()).await.newest(), store.newest());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_outlives_the_history_it_is_from() {
    let etcd = Etcd::start(1);
    let store = open(etcd.endpoints()).await;
    let fence = lead(&store).await;
    let a = put(&store, &fence, "a", "1").await;
    let gone = store
        .commit(&fence, vec![Change::delete("a", Expect::At(a))])
        .await
        .unwrap();
    store.compact_now(&fence).await.unwrap();
    let again = open(etcd.endpoints()).await;
    assert_eq!(again.newest(), gone.last());
    assert_eq!(again.load().await.unwrap().rv, gone.last());
    // Nothing was missed since, so nothing has to be kept for it.
    let mut watch = again.watch(gone.last()).await.unwrap();
    let next = put(&store, &fence, "b", "1").await;
    assert_eq!(until(&mut watch, next).await.len(), 1);
}

/// The answer to a transaction is lost: what was done is found out and told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_found_again() {
    let etcd = Etcd::start(1);
    let direct = open(etcd.endpoints()).await;
    let proxy = Proxy::to(etcd.port(0)).await;
    let store = Arc::new(open(vec![proxy.endpoint()]).await);
    let fence = lead(&*store).await;
    let old = put(&*store, &fence, "old", "1").await;
    proxy.set(Mode::Mute);
    let changes = || {
        vec![
            Change::put("a", Expect::Absent, "1"),
            Change::delete("old", Expect::At(old)),
            Change::delete("nothing", Expect::Any),
        ]
    };
    let (s, f, c) = (store.clone(), fence.clone(), changes());
    let waiting = tokio::spawn(async move { s.commit(&f, c).await });
    within(async {
        while direct.get("a").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    proxy.set(Mode::Pass);
    let done: Committed = within(waiting).await.unwrap().unwrap();
    let seen = until(&mut direct.watch(old).await.unwrap(), done.last()).await;
    let seen: Vec<_> = seen.into_iter().map(|u| (u.rv, u.key)).collect();
    assert_eq!(seen, [(done.rvs[0], "a".to_owned()), (done.rvs[1], "old".to_owned())]);
    assert_eq!(done.rvs[2], done.rvs[1]);
    // It was done once: a second time conflicts.
    assert!(matches!(
        store.commit(&fence, changes()).await,
        Err(CommitError::Conflict { actual: Some(rv), .. }) if rv == done.rvs[0]
    ));
    // A refusal whose answer is lost stays one.
    proxy.set(Mode::Mute);
    let (s, f, c) = (store.clone(), fence.clone(), changes());
    let waiting = tokio::spawn(async move { s.commit(&f, c).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.set(Mode::Pass);
    assert!(matches!(
        within(waiting).await.unwrap(),
        Err(CommitError::Conflict { .. })
    ));
}

/// As before, and another term began before it could be asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_found_again_by_who_was_deposed() {
    let etcd = Etcd::start(1);
    let direct = open(etcd.endpoints()).await;
    let proxy = Proxy::to(etcd.port(0)).await;
    let store = Arc::new(open(vec![proxy.endpoint()]).await);
    let fence = lead(&*store).await;
    put(&*store, &fence, "x", "1").await;
    proxy.set(Mode::Mute);
    let (s, f) = (store.clone(), fence.clone());
    let waiting = tokio::spawn(async move { s.commit(&f, vec![any("a", "1")]).await });
    within(async {
        while direct.get("a").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut next = direct.take_over(Some(fence.term), &claim("c2")).await.unwrap();
    put(&direct, &next, "y", "1").await;
    next = direct.take_over(Some(next.term), &claim("c3")).await.unwrap();
    put(&direct, &next, "z", "1").await;
    proxy.set(Mode::Pass);
    let done = within(waiting).await.unwrap().unwrap();
    assert_eq!(direct.get("a").await.unwrap().unwrap().rv, done.last());
    assert!(matches!(
        store.commit(&fence, vec![any("a", "2")]).await,
        Err(CommitError::Fenced { current, .. }) if current == next.term
    ));
    assert_eq!(value(&direct, "a").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_quota_refuses_writes_and_heals() {
    let settings = EtcdSettings {
        quota: 8 << 20,
        ..EtcdSettings::default()
    };
    let etcd = Etcd::with(1, settings);
    let opened = EtcdOptions {
        compact_every: Duration::from_millis(200),
        ..options(etcd.endpoints())
    };
    let store = Arc::new(EtcdStore::open(opened).await.unwrap());
    let fence = lead(&*store).await;
    // The same few keys: it is the history that fills it.
    let write = async |n: usize| {
        let change = Change::put(format!("k{}", n % 4), Expect::Any, vec![b'x'; 256 << 10]);
        store.commit(&fence, vec![change]).await
    };
    let mut full = None;
    for n in 0..200 {
        if let Err(error) = write(n).await {
            full = Some(error);
            break;
        }
    }
    assert!(matches!(full, Some(CommitError::Full(_))), "{full:?}");
    assert_eq!(store.status().await.alarms.len(), 1);
    // Reads go on.
    assert_eq!(store.get("k0").await.unwrap().unwrap().value.len(), 256 << 10);
    let stop = CancellationToken::new();
    let (keeper, leading, stopping) = (store.clone(), fence.clone(), stop.clone());
    let upkeep = tokio::spawn(async move { keeper.run_upkeep(&leading, stopping).await });
    within(async {
        while write(0).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(store.status().await.alarms.is_empty());
    stop.cancel();
    within(upkeep).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_ends_with_the_term_and_keeps_what_a_short_break_needs() {
    let etcd = Etcd::start(1);
    let opened = EtcdOptions {
        compact_every: Duration::from_millis(100),
        ..options(etcd.endpoints())
    };
    let store = Arc::new(EtcdStore::open(opened).await.unwrap());
    let fence = lead(&*store).await;
    let (keeper, leading) = (store.clone(), fence.clone());
    let upkeep = tokio::spawn(async move { keeper.run_upkeep(&leading, CancellationToken::new()).await });
    let first = put(&*store, &fence, "a", "0").await;
    // In time the first versions are no longer kept.
    within(async {
        while store.watch(first).await.is_ok() {
            put(&*store, &fence, "a", "1").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let next = lead(&*store).await;
    let ended = within(upkeep).await.unwrap();
    assert_eq!(
        ended,
        Err(CommitError::Fenced {
            ours: fence.term,
            current: next.term
        })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_is_refused() {
    let etcd = Etcd::start(1);
    let mut raw = etcd_client::Client::connect(etcd.endpoints(), None).await.unwrap();
    raw.put(format!("{PREFIX}schema"), "2", None).await.unwrap();
    let refused = EtcdStore::open(options(etcd.endpoints())).await.unwrap_err();
    assert!(
        matches!(refused, OpenError::NewerSchema { found: 2, known: 1, .. }),
        "{refused}"
    );
    let elsewhere = |prefix: &str| EtcdOptions {
        prefix: prefix.to_owned(),
        ..options(etcd.endpoints())
    };
    raw.put("/theirs/data/x", "y", None).await.unwrap();
    let refused = EtcdStore::open(elsewhere("/theirs/")).await.unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    // Beside it there is room.
    let store = EtcdStore::open(elsewhere("/ours/")).await.unwrap();
    lead(&store).await;
    assert!(
        store
            .status()
            .await
            .warnings
            .iter()
            .any(|w| w.contains("one member only"))
    );
    let mut wrong = options(etcd.endpoints());
    wrong.tls = Some(super::super::etcd::TlsFiles {
        ca: "/no/such/file".into(),
        identity: None,
    });
    let refused = EtcdStore::open(wrong).await.unwrap_err().to_string();
    assert!(refused.contains("/no/such/file"), "{refused}");
}

/// What another release of etcd's watch would have lost is noticed and made good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_finds_nothing_where_nothing_is_wrong() {
    let etcd = Etcd::start(1);
    let store = Arc::new(open(etcd.endpoints()).await);
    let fence = lead(&*store).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write_on(store.clone(), fence, 0, stop.clone()));
    for _ in 0..20 {
        assert_eq!(store.audit_now().await.unwrap(), Vec::<String>::new());
    }
    stop.store(true, Ordering::Relaxed);
    let (written, _) = within(writing).await.unwrap();
    assert!(!written.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_finds_and_heals_what_the_watch_lost() {
    let etcd = Etcd::start(1);
    let store = open(etcd.endpoints()).await;
    let fence = lead(&store).await;
    let start = store.newest();
    let mut watch = store.watch(start).await.unwrap();
    for key in ["a", "b", "c"] {
        put(&store, &fence, key, "1").await;
    }
    let last = store.newest();
    until(&mut watch, last).await;
    // As if the watch had never told of them.
    store.forget(&["b", "c"]);
    let mut found = store.audit_now().await.unwrap();
    found.sort();
    assert_eq!(found, ["b", "c"]);
    store.heal().await.unwrap();
    let mut told = Vec::new();
    while !told.iter().any(|u: &Update| u.rv > last) {
        told.extend(within(watch.recv()).await.unwrap());
    }
    let told: Vec<_> = told.into_iter().map(|u| u.key).collect();
    assert_eq!(told, ["b", "c", "meta/relisted"]);
    assert!(store.audit_now().await.unwrap().is_empty());
}

/// What the size of a group rests on: etcd counts the longest list of each level along a path, 128 in all, and not the
/// operations of a transaction together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_counts_operations_along_a_path() {
    use etcd_client::{Txn, TxnOp};
    let etcd = Etcd::start(1);
    let mut raw = etcd_client::Client::connect(etcd.endpoints(), None).await.unwrap();
    let nested = |outer: usize, inner: usize| {
        let puts = |i: usize| (0..inner).map(move |k| TxnOp::put(format!("k{i}/{k}"), "v", None));
        let ops = (0..outer).map(|i| TxnOp::txn(Txn::new().and_then(puts(i).collect::<Vec<_>>())));
        Txn::new().and_then(ops.collect::<Vec<_>>())
    };
    for (outer, inner, fits) in [
        (64, 64, true),
        (49, 79, true),
        (65, 64, false),
        (49, 80, false),
        (1, 127, true),
    ] {
        let answer = raw.txn(nested(outer, inner)).await;
        assert_eq!(answer.is_ok(), fits, "{outer} transactions of {inner}: {answer:?}");
    }
}
