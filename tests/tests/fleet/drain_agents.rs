//! Drains in a simulated fleet: the agent of the node that is drained, or of the one where its pods go, ends at each of the
//! steps that its part is made of, on either side of it, and the drain ends the same. Of all steps every few here, and each
//! with `WHARF_TEST_LONG=1`.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use agent::runtime::{State, fake::FakeEngine};
use harness::fleet::{Asked, Fleet, Side, Wanted};
use proto::model::lifecycle::STOP_FIRST;
use serde_json::json;

use crate::{PATIENCE, drains::drained, long};

/// More steps than an agent has in any drain here.
const MOST: u32 = 400;
/// One of so many steps is its last, in a short run.
const FEW: u32 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Surge,
    StopFirst,
}

/// Whose agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Drained,
    Target,
}

/// Two hosts, with pods of two controllers on one of them.
async fn fleet(order: Order) -> (Fleet, Asked) {
    let fleet = Fleet::of(2).start().await;
    let mut admin = fleet.admin();
    let asked = Asked::from([("one".to_owned(), 1), ("web".to_owned(), 2)]);
    fleet
        .until("the nodes are ready", PATIENCE, |f| f.converged(&Asked::new()))
        .await;
    if order == Order::Surge {
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
            "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
        admin.make("PodDisruptionBudget", &budget).await.expect("created");
    }
    admin.cordon("n1", Duration::ZERO).await.expect("cordoned");
    for (name, replicas) in &asked {
        let stop_first = (order == Order::StopFirst).then(|| (STOP_FIRST.to_owned(), "true".to_owned()));
        let wanted = Wanted {
            name: name.clone(),
            replicas: *replicas,
            images: vec![format!("{name}:1")],
            annotations: stop_first.into_iter().collect(),
        };
        admin.create(&wanted).await.expect("created");
    }
    fleet.until("the fleet is up", PATIENCE, |f| f.converged(&asked)).await;
    admin.uncordon("n1").await.expect("uncordoned");
    (fleet, asked)
}

/// How many containers of the controller run, on whatever host.
fn running(engines: &[Arc<FakeEngine>], controller: &str) -> usize {
    let all = engines.iter().flat_map(|e| e.containers());
    all.filter(|c| c.owner.pod.starts_with(controller) && matches!(c.state, State::Running { .. }))
        .count()
}

/// Watches the engines; what it returns has the fewest containers of `web` that were seen to run at once.
fn sample(fleet: &Fleet) -> (tokio::task::JoinHandle<()>, Arc<AtomicUsize>) {
    let engines: Vec<_> = fleet.hosts.iter().map(|h| h.engine.clone()).collect();
    let fewest = Arc::new(AtomicUsize::new(usize::MAX));
    let seen = fewest.clone();
    let watch = tokio::spawn(async move {
        loop {
            // Engines are asked one after the other: a pod that moved meanwhile is found by the second look.
            let now = running(&engines, "web-").max(running(&engines, "web-"));
            seen.fetch_min(now, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    (watch, fewest)
}

/// Drains the node that has the pods, again and again, until one went through without meeting its step. At what kinds of
/// step the agent ended.
async fn every_step(order: Order, whose: Whose, side: Side) -> BTreeSet<&'static str> {
    let (mut fleet, asked) = fleet(order).await;
    let (watch, fewest) = sample(&fleet);
    let (mut kinds, mut crashes, mut met) = (BTreeSet::new(), 0, true);
    let (first, every) = match (long(), side) {
        (true, _) => (1, 1),
        (false, Side::Before) => (1, FEW),
        (false, Side::After) => (1 + FEW / 2, FEW),
    };
    let mut steps = (first..MOST).step_by(every as usize);
    for (home, target) in [(0, 1), (1, 0)].into_iter().cycle() {
        if !met {
            break;
        }
        let step = steps.next().expect("an agent has fewer steps than that in a drain");
        let ends = if whose == Whose::Drained { home } else { target };
        let node = fleet.hosts[home].name.clone();
        fleet.hosts[ends].crash_at(step, side);
        let mut admin = fleet.admin();
        assert!(admin.drain(&node).await.expect("it begins").began);
        while fleet.hosts[ends].fell().is_none() && drained(&fleet, &node, &asked).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fleet.hosts[ends].spare();
        let at = fleet.hosts[ends].fell();
        met = at.is_some();
        if let Some(kind) = at {
            crashes += 1;
            kinds.insert(kind);
            fleet.hosts[ends].kill().await;
            fleet.hosts[ends].start();
        }
        let what = format!("the drain of {node} ends, {whose:?} ended {side:?} step {step} ({at:?})");
        fleet.until(&what, PATIENCE, |f| drained(f, &node, &asked)).await;
        let reply = admin.cancel_drain(&node).await.expect("given back");
        assert!(reply.changed && reply.still_held_by.is_empty(), "{reply:?}");
        fleet
            .until("the fleet is as asked", PATIENCE, |f| f.converged(&asked))
            .await;
    }
    watch.abort();
    println!("{order:?}, {whose:?} {side:?}: {crashes} steps, of {kinds:?}");
    let (one, web) = match order {
        Order::Surge => (1, 2),
        Order::StopFirst => (0, 1),
    };
    assert!(fleet.fewest("one", 1).await >= one, "the only one was missed");
    assert!(fleet.fewest("web", 2).await >= web, "the floor was broken");
    let fewest = fewest.load(Ordering::Relaxed);
    assert!(fewest >= web, "only {fewest} of web ran at once");
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
    kinds
}

async fn both_sides(order: Order, whose: Whose) {
    let mut kinds = every_step(order, whose, Side::Before).await;
    kinds.extend(every_step(order, whose, Side::After).await);
    if long() {
        let own = match whose {
            Whose::Drained => ["ledger", "remove", "stop"],
            Whose::Target => ["create", "ledger", "start"],
        };
        assert!(
            own.iter().all(|kind| kinds.contains(kind)),
            "it ended at {kinds:?} only"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_the_same_whatever_step_the_agent_of_its_node_ends_at() {
    both_sides(Order::Surge, Whose::Drained).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_the_same_whatever_step_the_agent_of_the_other_node_ends_at() {
    both_sides(Order::Surge, Whose::Target).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_stops_first_ends_the_same_whatever_step_the_agent_of_its_node_ends_at() {
    both_sides(Order::StopFirst, Whose::Drained).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_stops_first_ends_the_same_whatever_step_the_agent_of_the_other_node_ends_at() {
    both_sides(Order::StopFirst, Whose::Target).await;
}
