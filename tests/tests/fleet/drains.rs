//! Drains in a simulated fleet: the coordinator ends at each of the commits that one is made of, on either side of it, and
//! the drain ends the same; a watch goes on under the next coordinator.

use std::time::Duration;

use harness::fleet::{Asked, Fleet, Side, Wanted};
use proto::wire::DrainView;
use serde_json::json;
use tonic::Code;

use crate::{
    PATIENCE,
    every_commit::{Met, meet},
};

/// More commits than any drain here is made of.
const MOST: u32 = 200;

fn wanted(name: &str, replicas: i32) -> Wanted {
    Wanted {
        name: name.into(),
        replicas,
        images: vec![format!("{name}:1")],
        ..Wanted::default()
    }
}

/// Three hosts with a service of one replica, and one of three whose budget wants them all.
async fn fleet() -> (Fleet, Asked) {
    let fleet = Fleet::of(3).start().await;
    let mut admin = fleet.admin();
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}}});
    admin.make("PodDisruptionBudget", &budget).await.expect("created");
    admin.create(&wanted("one", 1)).await.expect("created");
    admin.create(&wanted("web", 3)).await.expect("created");
    let asked = Asked::from([("one".to_owned(), 1), ("web".to_owned(), 3)]);
    fleet.until("the fleet is up", PATIENCE, |f| f.converged(&asked)).await;
    (fleet, asked)
}

/// The node of the only pod of `one`.
fn home(fleet: &Fleet) -> String {
    let of_one = |w: &coordinator::world::World| {
        let mut pods = w.pods.iter().filter(|(key, _)| key.1.starts_with("one-"));
        pods.next().map(|(_, pod)| pod.record.node.clone())
    };
    fleet.world(of_one).expect("a pod")
}

/// It is drained and held, nothing is on it, and all that was asked for runs elsewhere.
pub fn drained(fleet: &Fleet, node: &str, asked: &Asked) -> Result<(), String> {
    fleet.world(|w| {
        let drain = w.nodes[node].drain.as_ref().map(|d| &d.value);
        let held = w.nodes[node].emptied().is_some_and(|d| d.ended.is_some());
        let left = w.pods_on(node).count();
        (held && left == 0)
            .then_some(())
            .ok_or_else(|| format!("{left} pods are left, the drain is {drain:?}"))
    })?;
    fleet.converged(asked)
}

/// Drains nodes until one went through without meeting its commit.
async fn every_commit(side: Side) {
    let (mut fleet, asked) = fleet().await;
    let mut crashes = 0;
    for commit in 1..MOST {
        let node = home(&fleet);
        let mut admin = fleet.admin();
        let name = node.clone();
        let asking = async move { admin.drain(&name).await };
        let met = meet(&mut fleet, (commit, side), "the drain", asking, |f| {
            drained(f, &node, &asked)
        })
        .await;
        crashes += u32::from(met == Met::Commit);
        if met == Met::Nothing {
            println!("{crashes} commits of a drain");
            assert!(crashes > 8, "a drain of two pods is made of more: {crashes}");
            assert_eq!(fleet.fewest("one", 1).await, 1, "the only one was missed");
            assert_eq!(fleet.fewest("web", 3).await, 3, "the budget was broken");
            assert_eq!(fleet.crimes().await, Vec::<String>::new());
            return;
        }
        let reply = fleet.admin().cancel_drain(&node).await.expect("given back");
        assert!(reply.changed && reply.still_held_by.is_empty(), "{reply:?}");
        fleet
            .until("the fleet is as asked", PATIENCE, |f| f.converged(&asked))
            .await;
    }
    panic!("a drain is made of fewer than {MOST} commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_the_same_whatever_commit_the_coordinator_ends_before() {
    every_commit(Side::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_the_same_whatever_commit_the_coordinator_ends_after() {
    every_commit(Side::After).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_taken_up_under_each_next_coordinator_until_the_drain_is_over() {
    let (mut fleet, asked) = fleet().await;
    let node = home(&fleet);
    let mut admin = fleet.admin();
    // No coordinator but the last one lives long enough to see a replacement Ready.
    for host in &fleet.hosts {
        host.engine
            .set_latency(agent::runtime::fake::Op::Start, Duration::from_millis(300));
    }
    let began = admin.drain(&node).await.expect("it begins");
    assert!(began.began);
    let id = began.view.expect("a view").id;
    for _ in 0..3 {
        let mut views = admin.watch_drain(&node).await.expect("a stream");
        let first = views.message().await.expect("it lives").expect("a view");
        assert_eq!(
            (first.id.as_str(), first.ended_ms),
            (id.as_str(), 0),
            "the same drain goes on"
        );
        fleet.kill_coordinator().await;
        let end = loop {
            match views.message().await {
                Ok(Some(view)) => assert_eq!(view.id, id),
                Ok(None) => panic!("a watch that breaks is no drain that ends"),
                Err(status) => break status.code(),
            }
        };
        assert!(
            [Code::Unavailable, Code::Unknown, Code::Internal].contains(&end),
            "{end:?}"
        );
        fleet.start_coordinator().await;
    }
    let mut views = admin.watch_drain(&node).await.expect("a stream");
    let mut last = DrainView::default();
    while let Some(view) = views.message().await.expect("it lives") {
        last = view;
    }
    assert_eq!(
        (last.phase.as_str(), last.id.as_str(), last.left),
        ("Drained", id.as_str(), 0)
    );
    fleet
        .until("it is drained", PATIENCE, |f| drained(f, &node, &asked))
        .await;
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
}
