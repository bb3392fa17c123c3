//! Daemon sets in a simulated fleet: a node that joins has its daemon at once, and a coordinator that is killed in the
//! midst of an update goes on with it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use agent::runtime::{State, fake::FakeEngine};
use coordinator::store::{Change, Expect, keys};
use harness::fleet::{Asked, Fleet};
use proto::model::Kind;
use serde_json::{Value, json};

use crate::PATIENCE;

/// Annotation of the pods that tells templates apart.
const VERSION: &str = "example.com/version";

fn logs() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "logs"},
        "spec": {
            "selector": {"matchLabels": {"app": "logs"}},
            "template": {
                "metadata": {"labels": {"app": "logs"}, "annotations": {VERSION: "1"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "logs:1"}]},
            },
        },
    })
}

fn running(engine: &FakeEngine) -> usize {
    let all = engine.containers().into_iter();
    all.filter(|c| c.owner.pod.starts_with("logs-") && matches!(c.state, State::Running { .. }))
        .count()
}

/// Each of these nodes has one ready daemon of the version, and nothing else of the set is left.
fn each_has_one(fleet: &Fleet, nodes: usize, version: &str) -> Result<(), String> {
    fleet.world(|w| {
        let pods: Vec<_> = w.pods.iter().filter(|(key, _)| key.1.starts_with("logs-")).collect();
        let on: std::collections::BTreeSet<&str> = pods.iter().map(|(_, p)| p.record.node.as_str()).collect();
        let good = pods
            .iter()
            .all(|(_, p)| p.live() && p.ready() && p.annotation(VERSION) == Some(version));
        if good && on.len() == nodes && pods.len() == nodes {
            Ok(())
        } else {
            let shown: Vec<_> = pods
                .iter()
                .map(|(key, p)| (&key.1, &p.record.node, p.ready(), p.annotation(VERSION)))
                .collect();
            Err(format!("{shown:?}"))
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_has_its_daemon_held_or_not() {
    let mut fleet = Fleet::of(3).start().await;
    fleet
        .until("all nodes are ready", PATIENCE, |f| f.converged(&Asked::new()))
        .await;
    // One of them is not a node yet.
    fleet.hosts[2].kill().await;
    let node = keys::object(Kind::Node, "", "n2");
    let gone = [
        node.clone(),
        keys::node_facts("n2"),
        keys::node_ready("n2"),
        keys::holder("n2"),
    ];
    let gone = gone.into_iter().map(|key| Change::delete(key, Expect::Any));
    fleet.commit(gone.collect()).await;
    let mut admin = fleet.admin();
    admin.make("DaemonSet", &logs()).await.expect("created");
    fleet.until("two daemons", PATIENCE, |f| each_has_one(f, 2, "1")).await;
    let joins = json!({"metadata": {"name": "n2", "uid": "uid-n2-again"}, "spec": {}});
    fleet
        .commit(vec![Change::put(node, Expect::Absent, joins.to_string())])
        .await;
    admin.cordon("n2", Duration::from_secs(600)).await.expect("cordoned");
    fleet.hosts[2].start();
    let ready = |f: &Fleet| {
        f.world(|w| {
            w.nodes["n2"]
                .is_ready()
                .then_some(())
                .ok_or_else(|| "it is not ready".to_owned())
        })
    };
    fleet.until("n2 is ready", PATIENCE, ready).await;
    let joined = Instant::now();
    fleet
        .until("three daemons", PATIENCE, |f| each_has_one(f, 3, "1"))
        .await;
    println!("the daemon ran {:?} after its node was ready", joined.elapsed());
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_goes_on_under_the_next_coordinator_one_node_at_a_time() {
    const NODES: usize = 5;
    let mut fleet = Fleet::of(NODES).start().await;
    let mut admin = fleet.admin();
    admin.make("DaemonSet", &logs()).await.expect("created");
    fleet
        .until("five daemons", PATIENCE, |f| each_has_one(f, NODES, "1"))
        .await;
    let engines: Vec<Arc<FakeEngine>> = fleet.hosts.iter().map(|h| h.engine.clone()).collect();
    let least = Arc::new(AtomicUsize::new(NODES));
    let (seen, watched) = (Arc::clone(&least), engines.clone());
    let watch = tokio::spawn(async move {
        loop {
            let counts: Vec<usize> = watched.iter().map(|e| running(e)).collect();
            seen.fetch_min(counts.iter().filter(|n| **n > 0).count(), Ordering::Relaxed);
            if let Some(n) = counts.iter().position(|n| *n > 1) {
                return n;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {VERSION: "2"}}}}});
    admin.patch("DaemonSet", "logs", &patch).await.expect("patched");
    let new = |f: &Fleet| f.world(|w| w.pods.values().filter(|p| p.annotation(VERSION) == Some("2")).count());
    for updated in 1..3 {
        let some = |f: &Fleet| (new(f) >= updated).then_some(()).ok_or_else(|| "none yet".to_owned());
        fleet.until("the update goes on", PATIENCE, some).await;
        fleet.kill_coordinator().await;
        fleet.start_coordinator().await;
    }
    fleet
        .until("all are updated", PATIENCE, |f| each_has_one(f, NODES, "2"))
        .await;
    assert!(!watch.is_finished(), "node {:?} ran two", watch.await);
    watch.abort();
    let least = least.load(Ordering::Relaxed);
    assert!(least + 1 >= NODES, "only {least} ran at once");
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
}
