//! Operation 12 on real hosts: a lost node's pods are started elsewhere, and what comes back stops first.

use std::collections::BTreeSet;

use harness::{Hosts, Options, cluster::controller, docker::Container, eventually};
use serde_json::Value;

/// Quick tolerations; everything else as in other tests.
fn hosts(test: &str) -> Hosts {
    let hosts = Hosts::start(test, 3, Options::default());
    let mut args = vec!["settings", "set"];
    args.extend([
        "replace-unreachable-after=1s",
        "replace-agent-down-after=3s",
        "brake-share=100%",
    ]);
    hosts.cluster.wharf(&args).ok();
    hosts
}

fn ids(containers: &[Container]) -> BTreeSet<String> {
    containers.iter().map(|c| c.id.clone()).collect()
}

fn pods(containers: &[Container]) -> BTreeSet<String> {
    containers.iter().map(|c| c.pod.clone()).collect()
}

/// Waits until `n` pods are Ready and none of them is on this node; returns their names.
#[track_caller]
fn replaced(hosts: &Hosts, node: &str, n: usize) -> BTreeSet<String> {
    eventually(&format!("{n} pods are Ready, none on {node}"), || {
        let ready = hosts.cluster.ready_pods();
        let elsewhere = |p: &&Value| p["spec"]["nodeName"] != node;
        let names: BTreeSet<String> = ready
            .iter()
            .filter(elsewhere)
            .filter_map(|p| p["metadata"]["name"].as_str().map(str::to_owned))
            .collect();
        if names.len() == n {
            Ok(names)
        } else {
            Err(format!(
                "{names:?}\n{}",
                hosts.cluster.wharf(&["get", "pods", "-o", "wide"]).stdout
            ))
        }
    })
}

#[test]
fn a_host_that_is_cut_off_is_replaced_and_stops_when_it_returns() {
    let hosts = hosts("cut");
    hosts.cluster.create(&controller("web", 6, &["serve"])).ok();
    hosts.settled(6);
    let (lost, others): (Vec<_>, Vec<_>) = hosts.running_anywhere().into_iter().partition(|c| c.node == "n1");
    assert!(!lost.is_empty(), "pods were spread");
    hosts.cut("n1");
    hosts.condition("n1", "Unknown", "Unreachable");
    replaced(&hosts, "n1", 6);
    assert_eq!(ids(&hosts.running("n1")), ids(&lost), "behind the cut they run on");
    let now = ids(&hosts.running_anywhere());
    assert!(ids(&others).is_subset(&now), "containers elsewhere are untouched");
    let shown = hosts.cluster.wharf(&["get", "pods"]).ok();
    assert_eq!(shown.matches("Unknown").count(), lost.len(), "{shown}");

    hosts.heal("n1");
    hosts.cluster.node_ready("n1");
    hosts.settled(6);
    let end = hosts.running_anywhere();
    assert!(
        pods(&end).is_disjoint(&pods(&lost)),
        "what was replaced is stopped: {end:?}"
    );
    assert!(
        ids(&others).is_subset(&ids(&end)),
        "what ran elsewhere all the time runs on"
    );
}

#[test]
fn a_frozen_agent_loses_its_pods_only_after_the_toleration() {
    let hosts = hosts("frozen");
    hosts
        .cluster
        .wharf(&["settings", "set", "replace-unreachable-after=1h"])
        .ok();
    hosts.cluster.create(&controller("web", 6, &["serve"])).ok();
    hosts.settled(6);
    let before = ids(&hosts.running_anywhere());
    hosts.freeze("n2");
    hosts.condition("n2", "Unknown", "Unreachable");
    hosts.thaw("n2");
    hosts.cluster.node_ready("n2");
    hosts.settled(6);
    assert_eq!(
        ids(&hosts.running_anywhere()),
        before,
        "back in time, nothing was replaced"
    );

    hosts.freeze("n2");
    hosts.condition("n2", "Unknown", "Unreachable");
    hosts
        .cluster
        .wharf(&["settings", "set", "replace-unreachable-after=1s"])
        .ok();
    replaced(&hosts, "n2", 6);
    hosts.thaw("n2");
    hosts.cluster.node_ready("n2");
    hosts.settled(6);
}

#[test]
fn a_killed_agent_is_told_from_a_dead_host() {
    let mut hosts = hosts("killed");
    hosts.cluster.create(&controller("web", 6, &["serve"])).ok();
    hosts.settled(6);
    hosts.cluster.kill_agent("n3");
    hosts.condition("n3", "Unknown", "AgentDown");
    replaced(&hosts, "n3", 6);
    hosts.cluster.spawn_agent("n3", None);
    hosts.cluster.node_ready("n3");
    hosts.settled(6);
}

#[test]
fn a_host_without_power_comes_back_empty() {
    let mut hosts = hosts("power");
    hosts.cluster.create(&controller("web", 6, &["serve"])).ok();
    hosts.settled(6);
    let lost = pods(&hosts.running("n1"));
    hosts.power_off("n1");
    hosts.condition("n1", "Unknown", "Unreachable");
    let elsewhere = replaced(&hosts, "n1", 6);
    hosts.boot("n1");
    hosts.cluster.node_ready("n1");
    hosts.settled(6);
    let running = pods(&hosts.running_anywhere());
    assert!(
        running.is_disjoint(&lost),
        "replaced pods are not started again: {running:?}"
    );
    assert_eq!(running, elsewhere, "no container elsewhere moved");
    // It takes pods again.
    hosts.cluster.wharf(&["scale", "rc", "web", "--replicas=9"]).ok();
    hosts.settled(9);
    assert!(!hosts.running("n1").is_empty(), "the returned host takes its share");
}

#[test]
fn everything_killed_at_once_comes_back_in_any_order() {
    let mut hosts = hosts("all");
    hosts.cluster.create(&controller("web", 6, &["serve"])).ok();
    hosts.settled(6);
    for order in [
        ["n1", "n2", "n3", "coordinator"],
        ["coordinator", "n3", "n1", "n2"],
        ["n2", "coordinator", "n1", "n3"],
    ] {
        hosts.cluster.kill_coordinator();
        for name in hosts.names() {
            hosts.power_off(&name);
        }
        for what in order {
            if what == "coordinator" {
                hosts.cluster.start_coordinator();
            } else {
                hosts.boot(what);
            }
        }
        for name in hosts.names() {
            hosts.cluster.node_ready(&name);
        }
        hosts.settled(6);
    }
}

#[test]
fn a_singleton_waits_for_its_end_or_for_an_operators_word() {
    let mut hosts = hosts("single");
    let mut one = controller("one", 1, &["serve"]);
    one["spec"]["template"]["metadata"]["annotations"] = serde_json::json!({"wharfinger.io/singleton": "true"});
    hosts.cluster.create(&one).ok();
    hosts.cluster.create(&controller("web", 3, &["serve"])).ok();
    hosts.settled(4);
    let of = |hosts: &Hosts| hosts.running_anywhere().into_iter().find(|c| c.pod.starts_with("one-"));
    let old = of(&hosts).expect("the singleton");
    let live = hosts
        .cluster
        .wharf(&["node", "confirm-off", "--yes", &old.node, &old.node])
        .refused(1);
    assert!(live.contains(&old.node), "{live}");
    hosts.power_off(&old.node);
    hosts.condition(&old.node, "Unknown", "Unreachable");
    // The others show that its toleration has passed.
    eventually("the other controller's pods are replaced", || {
        let ready = hosts.cluster.ready_pods();
        let web = ready
            .iter()
            .filter(|p| p["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("web-")));
        let n = web.filter(|p| p["spec"]["nodeName"] != old.node.as_str()).count();
        if n == 3 { Ok(()) } else { Err(format!("{n}")) }
    });
    assert!(of(&hosts).is_none(), "it is started nowhere while its end is unknown");
    hosts
        .cluster
        .wharf(&["node", "confirm-off", "--yes", &old.node, &old.node])
        .ok();
    let new = eventually("it runs elsewhere", || of(&hosts).ok_or_else(String::new));
    assert!(new.pod != old.pod && new.node != old.node, "{new:?}");
    hosts.boot(&old.node);
    hosts.cluster.node_ready(&old.node);
    hosts.settled(4);
}
