//! Lost nodes: links are cut and silenced, agents and coordinators killed, the fleet frozen, in any order; pods are
//! started elsewhere meanwhile. Then the faults end: what was replaced has stopped, and the fleet is as asked.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use agent::runtime::{State, fake::FakeEngine};
use coordinator::{
    store::{Change, Expect, keys},
    world::record::{FreezeRecord, encode},
};
use futures::{StreamExt as _, stream};
use harness::fleet::{Asked, Fleet, Wanted};
use proto::model::{Time, loss};
use tonic::Code;

use crate::{PATIENCE, long, random::Random};

const SINGLE: &str = "single";

/// Times in which a test can see nodes lost and given up.
const QUICK: [(&str, &str); 6] = [
    ("replace-unreachable-after", "0s"),
    ("replace-agent-down-after", "1s"),
    ("agent-restart", "200ms"),
    ("brake-share", "40%"),
    ("brake-period", "1s"),
    ("brake-stop", "80%"),
];

async fn fleet(hosts: usize, settings: &[(&'static str, &'static str)]) -> Fleet {
    let mut builder = Fleet::of(hosts);
    builder.coordinator.missed_heartbeats = Some(8);
    builder.cluster = settings.to_vec();
    let fleet = builder.start().await;
    fleet
        .until("all nodes are ready", PATIENCE, |f| f.converged(&Asked::new()))
        .await;
    fleet
}

fn web(replicas: i32) -> Wanted {
    Wanted {
        name: "web".into(),
        replicas,
        images: vec!["web:1".into()],
        ..Wanted::default()
    }
}

fn single() -> Wanted {
    Wanted {
        name: SINGLE.into(),
        replicas: 1,
        images: vec!["single:1".into()],
        annotations: vec![(loss::SINGLETON.into(), "true".into())],
    }
}

/// Uids of the pods of a controller whose containers run, on whatever host.
fn running(engines: &[Arc<FakeEngine>], controller: &str) -> BTreeSet<String> {
    let all = engines.iter().flat_map(|e| e.containers());
    let of = |name: &str| name.strip_prefix(controller).is_some_and(|rest| rest.starts_with('-'));
    all.filter(|c| of(&c.owner.pod) && matches!(c.state, State::Running { .. }))
        .map(|c| c.owner.uid)
        .collect()
}

fn engines(fleet: &Fleet) -> Vec<Arc<FakeEngine>> {
    fleet.hosts.iter().map(|h| h.engine.clone()).collect()
}

/// How many pods were replaced and have not been seen to end.
fn replaced(fleet: &Fleet) -> usize {
    fleet.world(|w| w.pods.values().filter(|p| p.lost()).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_lost_comes_back_without_its_replaced_pods() {
    let seeds = match std::env::var("FLEET_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("FLEET_SEED is a number");
            seed..seed + 1
        }
        Err(_) if long() => 2000..2200,
        Err(_) => 1..4,
    };
    let at_once = if long() { 4 } else { 2 };
    let runs = stream::iter(seeds).map(|seed| async move { (seed, tokio::spawn(run(seed)).await) });
    let mut runs = std::pin::pin!(runs.buffer_unordered(at_once));
    let mut all = 0;
    while let Some((seed, result)) = runs.next().await {
        let Ok((took, replaced)) = result else {
            panic!("failed with FLEET_SEED={seed}");
        };
        println!("seed {seed}: {took:?}, {replaced} pods replaced");
        all += replaced;
    }
    assert!(all > 0, "nothing was ever replaced: the test shows nothing");
}

/// One fleet and its schedule; how long it took, and how many pods were seen replaced.
async fn run(seed: u64) -> (Duration, usize) {
    let start = Instant::now();
    let mut random = Random::new(seed);
    let mut fleet = fleet(3 + random.below(4), &QUICK).await;
    let mut admin = fleet.admin();
    let replicas = 3 + i32::try_from(random.below(6)).expect("small");
    admin.create(&web(replicas)).await.expect("created");
    admin.create(&single()).await.expect("created");
    let asked = Asked::from([("web".into(), replicas), (SINGLE.into(), 1)]);
    fleet.until("the fleet is up", PATIENCE, |f| f.converged(&asked)).await;

    let watched = engines(&fleet);
    let doubled = tokio::spawn(async move {
        loop {
            let now = running(&watched, SINGLE);
            if now.len() > 1 {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let mut most = 0;
    for _ in 0..15 + random.below(if long() { 60 } else { 15 }) {
        fault(&mut fleet, &mut random).await;
        tokio::time::sleep(Duration::from_millis(100) + random.millis(400)).await;
        if fleet.coordinated() {
            most = most.max(replaced(&fleet));
        }
    }
    fleet.heal().await;
    fleet.commit(vec![Change::delete(keys::FREEZE, Expect::Any)]).await;
    fleet
        .until("the fleet is what was asked for", PATIENCE, |f| f.converged(&asked))
        .await;
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
    assert!(!doubled.is_finished(), "a singleton ran twice: {:?}", doubled.await);
    doubled.abort();
    (start.elapsed(), most)
}

/// One node is lost or comes back, or the coordinator goes or comes.
async fn fault(fleet: &mut Fleet, random: &mut Random) {
    let kind = random.below(12);
    if kind == 0 {
        return if fleet.coordinated() {
            fleet.kill_coordinator().await;
        } else {
            fleet.start_coordinator().await;
        };
    }
    if !fleet.coordinated() && random.once_in(2) {
        fleet.start_coordinator().await;
    }
    if kind == 1 && fleet.coordinated() {
        let freeze = FreezeRecord {
            by: "user/admin".into(),
            reason: "a test".into(),
            since: Time::now(),
            until: random.once_in(2).then(|| Time(Time::now().0 + 1)),
        };
        return fleet
            .commit(vec![Change::put(keys::FREEZE, Expect::Any, encode(&freeze))])
            .await;
    }
    if kind == 2 && fleet.coordinated() {
        return fleet.commit(vec![Change::delete(keys::FREEZE, Expect::Any)]).await;
    }
    let n = random.below(fleet.hosts.len());
    let host = &mut fleet.hosts[n];
    match kind {
        3 | 4 => host.link.cut(),
        5 | 6 => host.link.silence(),
        7 => host.kill().await,
        8 => host.start(),
        9 => host.link.blip(),
        _ => host.link.restore(),
    }
}

/// A host whose power fails, and with it all that it ran.
async fn power_off(fleet: &mut Fleet, n: usize) {
    let host = &mut fleet.hosts[n];
    host.link.silence();
    host.kill().await;
    for container in host.engine.containers() {
        host.engine.kill_behind_back(&container.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_confirms_off_is_replaced_at_once_and_stopped_on_return() {
    // Nothing is replaced by itself.
    let mut fleet = fleet(3, &[("replace-unreachable-after", "1h")]).await;
    let mut admin = fleet.admin();
    admin.create(&web(6)).await.expect("created");
    let asked = Asked::from([("web".into(), 6)]);
    fleet.until("the fleet is up", PATIENCE, |f| f.converged(&asked)).await;
    let refused = admin.confirm_off("n0").await.expect_err("it is heard");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let before = running(&engines(&fleet)[..1], "web");
    assert!(!before.is_empty());

    power_off(&mut fleet, 0).await;
    let lost = |f: &Fleet| {
        f.world(|w| {
            w.nodes["n0"]
                .lost()
                .map(|_| ())
                .ok_or_else(|| "it is not lost".to_owned())
        })
    };
    fleet.until("n0 is lost", PATIENCE, lost).await;
    assert!(admin.confirm_off("n0").await.expect("confirmed").changed);
    let live = |f: &Fleet| {
        let ready = f.world(|w| w.pods.values().filter(|p| p.ready() && p.record.node != "n0").count());
        let left = f.world(|w| w.pods_on("n0").count());
        ((ready, left) == (6, 0))
            .then_some(())
            .ok_or(format!("{ready} are ready, {left} are left"))
    };
    fleet.until("all pods run elsewhere", PATIENCE, live).await;

    // The host is back with its ledger: what it starts again is stopped, then it takes pods.
    fleet.hosts[0].link.restore();
    fleet.hosts[0].start();
    fleet
        .until("the fleet is what was asked for", PATIENCE, |f| f.converged(&asked))
        .await;
    let after = running(&engines(&fleet), "web");
    assert!(before.is_disjoint(&after), "{before:?} run on among {after:?}");
    let scaled = admin.scale("web", 30).await.expect("scaled");
    assert_eq!(scaled.replicas, 30);
    let asked = Asked::from([("web".into(), 30)]);
    fleet.until("n0 takes pods", PATIENCE, |f| f.converged(&asked)).await;
    assert!(fleet.world(|w| w.pods_on("n0").count()) > 0);
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_lost_at_once_and_back_in_any_order_nothing_is_replaced() {
    let mut fleet = fleet(4, &[("replace-unreachable-after", "5s")]).await;
    fleet.admin().create(&web(8)).await.expect("created");
    let asked = Asked::from([("web".into(), 8)]);
    fleet.until("the fleet is up", PATIENCE, |f| f.converged(&asked)).await;
    let before = running(&engines(&fleet), "web");
    for host in &fleet.hosts {
        host.link.silence();
    }
    fleet
        .until("all are lost", PATIENCE, |f| {
            let n = f.world(|w| w.lost_nodes().len());
            (n == 4).then_some(()).ok_or(format!("{n} are"))
        })
        .await;
    fleet.kill_coordinator().await;
    for n in [2, 0, 3, 1] {
        fleet.hosts[n].kill().await;
        fleet.hosts[n].link.restore();
    }
    fleet.start_coordinator().await;
    for n in [1, 3, 0, 2] {
        fleet.hosts[n].start();
    }
    fleet
        .until("the fleet is as it was", PATIENCE, |f| f.converged(&asked))
        .await;
    assert_eq!(running(&engines(&fleet), "web"), before, "pods were replaced");
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
}
