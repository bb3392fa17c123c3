//! What the fleet costs when nothing changes, and whether it bears many hosts at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use agent::runtime::fake::Op;
use harness::fleet::{Asked, Fleet, Wanted};
use serde_json::json;

use crate::{PATIENCE, long};

fn web(replicas: i32) -> Wanted {
    Wanted {
        name: "web".into(),
        replicas,
        images: vec!["web:1".into()],
        ..Wanted::default()
    }
}

/// A fleet with one controller, at rest.
async fn at_rest(agents: usize, replicas: i32, patience: Duration) -> (Fleet, Asked) {
    let fleet = Fleet::of(agents).start().await;
    fleet
        .until("all nodes are ready", patience, |f| f.converged(&Asked::new()))
        .await;
    fleet.admin().create(&web(replicas)).await.expect("created");
    let asked = Asked::from([("web".into(), replicas)]);
    fleet
        .until("the controller converges", patience, |f| f.converged(&asked))
        .await;
    quiet(&fleet).await;
    (fleet, asked)
}

/// Waits until nothing was committed for a while: statuses and events are written a little later.
async fn quiet(fleet: &Fleet) {
    let start = Instant::now();
    loop {
        let before = fleet.newest();
        tokio::time::sleep(Duration::from_millis(700)).await;
        if fleet.newest() == before {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "commits go on: {before} and more");
    }
}

/// What agents did beyond looking.
fn acts(fleet: &Fleet) -> Vec<BTreeMap<Op, u64>> {
    let looks = [Op::Info, Op::List, Op::Inspect, Op::Volumes];
    let acts = fleet.hosts.iter().map(|h| {
        let calls = h.engine.all_calls();
        calls.into_iter().filter(|(op, _)| !looks.contains(op)).collect()
    });
    acts.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_returns_changes_nothing() {
    let agents = 6;
    let (mut fleet, asked) = at_rest(agents, 24, PATIENCE).await;
    let before = acts(&fleet);
    fleet.kill_coordinator().await;
    fleet.start_coordinator().await;
    let sent = |f: &Fleet, kind| f.metric(&format!("wharf_assignments_sent_total{{kind=\"{kind}\"}}"));
    fleet
        .until("all agents return", PATIENCE, |f| {
            let n = sent(f, "UNCHANGED");
            if n >= agents as u64 {
                Ok(())
            } else {
                Err(format!("{n} are back"))
            }
        })
        .await;
    quiet(&fleet).await;
    assert_eq!(fleet.converged(&asked), Ok(()));
    assert_eq!(sent(&fleet, "COMPLETE"), 0, "an agent got all assignments again");
    assert_eq!(sent(&fleet, "INCREMENTAL"), 0, "an assignment changed");
    assert_eq!(acts(&fleet), before, "an engine was asked to do something");
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_at_rest_writes_nothing() {
    let (fleet, asked) = at_rest(20, 200, PATIENCE).await;
    let (before, acted) = (fleet.newest(), acts(&fleet));
    // Fifty heartbeats of each agent, and several passes of the planners over everything.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(fleet.newest(), before, "something was committed");
    assert_eq!(acts(&fleet), acted, "an engine was asked to do something");
    assert_eq!(fleet.converged(&asked), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_hosts_come_at_once() {
    let (agents, replicas) = if long() { (200, 1000) } else { (30, 150) };
    let start = Instant::now();
    let (fleet, _) = at_rest(agents, replicas, 3 * PATIENCE).await;
    println!(
        "{agents} agents and {replicas} pods at rest within {:?}",
        start.elapsed()
    );
    let most = fleet.hosts.iter().map(|h| h.engine.containers().len()).max();
    let even = replicas as usize / agents;
    assert!(
        most <= Some(2 * even),
        "{most:?} pods on one host, {even} would be even"
    );
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_reach_the_agents_and_touch_no_container() {
    let agents = 3;
    let (mut fleet, mut asked) = at_rest(agents, 6, PATIENCE).await;
    let before = acts(&fleet);
    let mut admin = fleet.admin();
    let pod = admin.pods().await.expect("listed").remove(0);
    let key = ("default".to_owned(), pod.clone());
    let node = fleet.world(|w| w.pods[&key].record.node.clone());
    let host = fleet.hosts.iter().position(|h| h.name == node).expect("its host");
    let sent = |f: &Fleet, kind| f.metric(&format!("wharf_assignments_sent_total{{kind=\"{kind}\"}}"));
    let more = |kind: &'static str, than: u64| {
        move |f: &Fleet| match sent(f, kind) {
            n if n > than => Ok(()),
            n => Err(format!("{n} {kind}")),
        }
    };
    let told = sent(&fleet, "INCREMENTAL");
    let marks = json!({"metadata": {"labels": {"x": "y"}, "annotations": {"n": "m"}}});
    admin.patch("Pod", &pod, &marks).await.expect("patched");
    fleet
        .until("the agent is told", PATIENCE, more("INCREMENTAL", told))
        .await;
    quiet(&fleet).await;

    // An agent that is away meanwhile is told when it comes back.
    let told = sent(&fleet, "COMPLETE");
    fleet.hosts[host].kill().await;
    let marks = json!({"metadata": {"labels": {"x": null}, "annotations": {"n": "o"}}});
    admin.patch("Pod", &pod, &marks).await.expect("patched");
    fleet.hosts[host].start();
    fleet.until("the agent is told", PATIENCE, more("COMPLETE", told)).await;
    quiet(&fleet).await;

    // All agree: a coordinator that comes back has nothing to say.
    fleet.kill_coordinator().await;
    fleet.start_coordinator().await;
    fleet
        .until("all agents return", PATIENCE, more("UNCHANGED", agents as u64 - 1))
        .await;
    quiet(&fleet).await;
    assert_eq!((sent(&fleet, "COMPLETE"), sent(&fleet, "INCREMENTAL")), (0, 0));
    assert_eq!(acts(&fleet), before, "a container was touched");

    // A changed template is for new pods; one of them waits for a label, and the label lets it in.
    let zone = json!({"spec": {"replicas": 7, "template": {"spec": {"nodeSelector": {"zone": "a"}}}}});
    admin
        .patch("ReplicationController", "web", &zone)
        .await
        .expect("patched");
    fleet
        .until("the new pod waits", PATIENCE, |f| {
            let waits = f.world(|w| w.unplaced_pods().any(|(_, p)| !p.record.waiting.is_empty()));
            if waits { Ok(()) } else { Err("nobody waits".into()) }
        })
        .await;
    assert_eq!(acts(&fleet), before, "a container was touched");
    let label = json!({"metadata": {"labels": {"zone": "a"}}});
    admin.patch("Node", "n1", &label).await.expect("patched");
    asked.insert("web".into(), 7);
    fleet.until("the new pod runs", PATIENCE, |f| f.converged(&asked)).await;
    let on_n1 = fleet.world(|w| {
        w.pods_on("n1")
            .any(|(_, p)| !p.template_record().spec.node_selector.is_empty())
    });
    assert!(on_n1, "the new pod is elsewhere");
}
