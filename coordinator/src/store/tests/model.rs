//! Random histories against a map: every backend must answer as the map does, and load plus watch must
//! rebuild the map from any point.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use proptest::{collection::vec, prelude::*};

use super::{
    super::{Change, CommitError, Expect, Fence, Rv, Watch},
    etcd_process::Etcd,
    rig::{Backend, Bounds, Rig, lead, until},
};

#[derive(Clone, Debug)]
enum Op {
    Commit {
        stale_fence: bool,
        changes: Vec<Planned>,
    },
    TakeTerm,
    Reopen,
    /// Load here and watch from here on.
    Follow,
    /// Watch from the version of the nth update so far, in the middle of a commit or not.
    Resume(usize),
}

#[derive(Clone, Debug)]
struct Planned {
    key: u8,
    put: Option<u8>,
    expect: Wish,
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Any,
    Absent,
    /// The version that the key has; absent if it has none.
    Right,
    /// A version that it had earlier, or never.
    Wrong,
}

fn op() -> impl Strategy<Value = Op> {
    let wish = prop_oneof![
        4 => Just(Wish::Any),
        1 => Just(Wish::Absent),
        4 => Just(Wish::Right),
        1 => Just(Wish::Wrong),
    ];
    let planned = (0..6_u8, proptest::option::weighted(0.7, any::<u8>()), wish)
        .prop_map(|(key, put, expect)| Planned { key, put, expect });
    let commit = (proptest::bool::weighted(0.05), vec(planned, 0..5))
        .prop_map(|(stale_fence, changes)| Op::Commit { stale_fence, changes });
    prop_oneof![
        20 => commit,
        1 => Just(Op::TakeTerm),
        1 => Just(Op::Reopen),
        1 => Just(Op::Follow),
        1 => any::<usize>().prop_map(Op::Resume),
    ]
}

type Map = BTreeMap<String, (Rv, Vec<u8>)>;

#[derive(Default)]
struct Model {
    state: Map,
    log: Vec<(Rv, String, Option<Vec<u8>>)>,
    newest: Rv,
}

impl Model {
    /// What the commit must answer; `None`: it is applied.
    fn refusal(&self, changes: &[Change]) -> Option<CommitError> {
        for (i, change) in changes.iter().enumerate() {
            if changes[..i].iter().any(|c| c.key == change.key) {
                return Some(CommitError::DuplicateKey(change.key.clone()));
            }
        }
        changes.iter().find_map(|change| {
            let actual = self.state.get(&change.key).map(|(rv, _)| *rv);
            let holds = match change.expect {
                Expect::Any => true,
                Expect::Absent => actual.is_none(),
                Expect::At(rv) => actual == Some(rv),
            };
            (!holds).then(|| CommitError::Conflict {
                key: change.key.clone(),
                expected: change.expect,
                actual,
            })
        })
    }

    /// Takes over an applied commit under the versions that the store gave it.
    fn apply(&mut self, changes: Vec<Change>, rvs: &[Rv]) {
        assert_eq!(changes.len(), rvs.len());
        for (change, rv) in changes.into_iter().zip(rvs.iter().copied()) {
            let value = change.value.map(|v| v.to_vec());
            if value.is_none() && !self.state.contains_key(&change.key) {
                assert_eq!(rv, self.newest, "the version of a delete of nothing");
                continue;
            }
            assert!(rv > self.newest, "{rv} was handed out before {}", self.newest);
            self.newest = rv;
            self.log.push((rv, change.key.clone(), value.clone()));
            match value {
                Some(value) => self.state.insert(change.key, (rv, value)),
                None => self.state.remove(&change.key),
            };
        }
    }

    fn plan(&self, planned: Vec<Planned>) -> Vec<Change> {
        let plan = |p: Planned| {
            let key = format!("k{}", p.key);
            let right = self.state.get(&key).map(|(rv, _)| *rv);
            let expect = match p.expect {
                Wish::Any => Expect::Any,
                Wish::Absent => Expect::Absent,
                Wish::Right => right.map_or(Expect::Absent, Expect::At),
                Wish::Wrong => {
                    let earlier = self.log.iter().map(|(rv, ..)| *rv).find(|rv| Some(*rv) != right);
                    Expect::At(earlier.unwrap_or(Rv(1)))
                }
            };
            Change {
                key,
                expect,
                value: p.put.map(|v| vec![v].into()),
            }
        };
        planned.into_iter().map(plan).collect()
    }
}

/// A map rebuilt from a watch.
struct Follower {
    after: Rv,
    state: Map,
    watch: Watch,
    /// The map as it was at `after` is known only where it came from a load or the start.
    whole: bool,
}

async fn run(backend: Backend, ops: Vec<Op>) {
    play(Rig::new(backend), ops).await;
}

async fn play(mut rig: Rig, ops: Vec<Op>) {
    let mut model = Model {
        newest: rig.began,
        ..Model::default()
    };
    let mut followers = Vec::new();
    let mut fences: Vec<Fence> = Vec::new();
    for op in std::iter::once(Op::TakeTerm).chain(ops) {
        match op {
            Op::TakeTerm => {
                let fence = lead(&*rig.store).await;
                let rv = Rv::new(fence.term, 0);
                let value = rig.store.get("term").await.unwrap().unwrap().value;
                let history = super::super::keys::term_history(fence.term);
                let changes = vec![
                    Change::put("term", Expect::Any, value.clone()),
                    Change::put(history, Expect::Any, value),
                ];
                model.apply(changes, &[rv, Rv(rv.0 + 1)]);
                fences.push(fence);
            }
            Op::Commit { stale_fence, changes } => {
                let changes = model.plan(changes);
                let stale = stale_fence && fences.len() > 1;
                let fence = &fences[if stale { fences.len() - 2 } else { fences.len() - 1 }];
                let answer = rig.store.commit(fence, changes.clone()).await;
                match (model.refusal(&changes), answer) {
                    (Some(CommitError::DuplicateKey(key)), answer) => {
                        assert_eq!(answer, Err(CommitError::DuplicateKey(key)));
                    }
                    (_, answer) if stale => {
                        assert!(matches!(answer, Err(CommitError::Fenced { .. })), "{answer:?}");
                    }
                    (Some(refusal), answer) => assert_eq!(answer, Err(refusal)),
                    (None, answer) => model.apply(changes, &answer.unwrap().rvs),
                }
            }
            Op::Reopen => {
                finish(&model, std::mem::take(&mut followers)).await;
                rig.reopen().await;
            }
            Op::Follow => {
                let snapshot = rig.store.load().await.unwrap();
                let entries = snapshot.entries.into_iter().map(|e| (e.key, (e.rv, e.value.to_vec())));
                followers.push(Follower {
                    after: snapshot.rv,
                    state: entries.collect(),
                    watch: rig.store.watch(snapshot.rv).await.unwrap(),
                    whole: true,
                });
            }
            Op::Resume(nth) => {
                let after = model.log[nth % model.log.len()].0;
                followers.push(Follower {
                    after,
                    state: Map::new(),
                    watch: rig.store.watch(after).await.unwrap(),
                    whole: false,
                });
            }
        }
        assert_eq!(rig.store.newest(), model.newest);
    }
    followers.push(Follower {
        after: rig.began,
        state: Map::new(),
        watch: rig.store.watch(rig.began).await.unwrap(),
        whole: true,
    });
    finish(&model, followers).await;
    let loaded = rig.store.load().await.unwrap();
    assert_eq!(loaded.rv, model.newest);
    let loaded: Vec<_> = loaded
        .entries
        .into_iter()
        .map(|e| (e.key, (e.rv, e.value.to_vec())))
        .collect();
    assert_eq!(loaded, model.state.into_iter().collect::<Vec<_>>(), "sorted by key");
}

async fn finish(model: &Model, followers: Vec<Follower>) {
    for mut follower in followers {
        let expected: Vec<_> = model
            .log
            .iter()
            .filter(|(rv, ..)| *rv > follower.after)
            .cloned()
            .collect();
        let got = match expected.last() {
            Some((last, ..)) => until(&mut follower.watch, *last).await,
            None => Vec::new(),
        };
        let got: Vec<_> = got
            .into_iter()
            .map(|u| (u.rv, u.key, u.value.map(|v| v.to_vec())))
            .collect();
        assert_eq!(got, expected);
        assert!(follower.watch.try_recv().is_err(), "nothing is delivered twice");
        for (rv, key, value) in got {
            match value {
                Some(value) => follower.state.insert(key, (rv, value)),
                None => follower.state.remove(&key),
            };
        }
        if follower.whole {
            assert_eq!(follower.state, model.state);
        }
    }
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_answers_as_a_map_does(ops in vec(op(), 0..80)) {
        block_on(run(Backend::Memory, ops));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn sqlite_answers_as_a_map_does(ops in vec(op(), 0..60)) {
        block_on(run(Backend::Sqlite, ops));
    }
}

/// One etcd for all cases, each below a prefix of its own.
#[test]
fn etcd_answers_as_a_map_does() {
    let etcd = Arc::new(Etcd::start(1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig {
        cases: 16,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let case = AtomicUsize::new(0);
    proptest::test_runner::TestRunner::new(config)
        .run(&vec(op(), 0..60), |ops| {
            let n = case.fetch_add(1, Ordering::Relaxed);
            let prefix = format!("/case{n}/");
            let etcd = etcd.clone();
            runtime.block_on(async move {
                let mut rig = Rig::on_etcd(etcd, &prefix, Bounds::default());
                // It answers the same on what was filled from another store.
                if n % 2 == 1 {
                    rig.fill().await;
                }
                play(rig, ops).await;
            });
            Ok(())
        })
        .unwrap();
}
