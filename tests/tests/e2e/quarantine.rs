//! A data directory copied to a second agent, and the agent of a deleted node: nothing that runs is stopped by
//! either, and nothing new is started.

use std::{collections::BTreeSet, process::Command};

use harness::{
    Cluster, Options,
    cluster::controller,
    eventually,
    program::{self, Background},
};

fn quick() -> Options {
    Options {
        // An agent that was superseded or refused comes back soon.
        agent: "refused_retry_ms = 300\n".to_owned(),
        ..Options::default()
    }
}

fn ids(cluster: &Cluster) -> BTreeSet<String> {
    cluster.running().into_iter().map(|c| c.id).collect()
}

fn clone_events(cluster: &Cluster) -> Vec<serde_json::Value> {
    let mut events = cluster.items("events");
    events.retain(|e| e["reason"] == "CloneDetected");
    events
}

#[track_caller]
fn is_quarantined(cluster: &Cluster) {
    eventually("the node is in quarantine", || match cluster.node_condition("n1") {
        (status, reason) if status == "False" && reason == "Quarantined" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_copied_data_directory_quarantines_both_until_the_node_is_readmitted() {
    let mut cluster = Cluster::with(quick());
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let before = ids(&cluster);
    let (from, to) = (cluster.agent_dir("n1"), cluster.dir().join("copy"));
    program::run(Command::new("cp").arg("-a").arg(&from).arg(&to)).ok();
    let text = |p: &std::path::Path| p.to_str().expect("UTF-8").to_owned();
    let args: Vec<String> = cluster
        .agent_args("n1", None)
        .into_iter()
        .map(|a| if a == text(&from) { text(&to) } else { a })
        .collect();
    let copy = Background::start("wharf-agent", &args, cluster.dir().join("copy.log"));
    is_quarantined(&cluster);
    eventually("both know", || {
        let logs = [cluster.agent_log("n1"), copy.log_text()];
        if logs.iter().all(|l| l.contains("this agent is in quarantine")) {
            Ok(())
        } else {
            Err(logs.join("\n"))
        }
    });
    eventually("an event says so", || {
        let n = clone_events(&cluster).len();
        if n > 0 { Ok(()) } else { Err("none".into()) }
    });
    let shown = cluster.wharf(&["describe", "node", "n1"]).ok();
    assert!(shown.contains("wharf node readmit n1"), "{shown}");
    // Asked for more, it starts nothing; and a coordinator that returns has not forgotten.
    cluster.wharf(&["scale", "rc", "web", "--replicas=3"]).ok();
    cluster.kill_coordinator();
    cluster.start_coordinator();
    is_quarantined(&cluster);
    eventually("the new pod waits", || {
        let pods = cluster.items("pods");
        let waiting = pods.iter().filter(|p| p["spec"]["nodeName"].is_null()).count();
        if (pods.len(), waiting) == (3, 1) {
            Ok(())
        } else {
            Err(format!("{} pods, {waiting} wait", pods.len()))
        }
    });
    assert_eq!(ids(&cluster), before, "what runs goes on");
    cluster.says("CloneDetected");
    assert_eq!(clone_events(&cluster).len(), 1, "{:?}", clone_events(&cluster));
    assert_eq!(clone_events(&cluster)[0]["type"], "Warning");

    copy.kill();
    assert_eq!(cluster.wharf(&["node", "readmit", "n1"]).ok(), "node/n1 readmitted\n");
    cluster.node_ready("n1");
    cluster.settled(3);
    let after = ids(&cluster);
    assert!(before.is_subset(&after), "nothing was restarted: {before:?} {after:?}");
    assert_eq!(
        cluster.wharf(&["node", "readmit", "n1"]).ok(),
        "node/n1 is not in quarantine\n"
    );
}

#[test]
fn a_deleted_nodes_agent_comes_back_only_to_stop_what_it_runs() {
    let mut cluster = Cluster::with(quick());
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    cluster.join(&["n2"]);
    let before = ids(&cluster);
    // A node at work is not deleted under its pods.
    let line = cluster.wharf(&["delete", "node", "n1"]).refused(1);
    assert!(line.contains("2 pods are still bound to it"), "{line}");
    cluster.kill_agent("n1");
    eventually("the node is seen to be down", || match cluster.node_condition("n1") {
        (status, reason) if status != "True" && reason == "AgentDown" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let line = cluster.wharf(&["delete", "node", "n1"]).refused(1);
    assert!(line.contains("wharf node confirm-off n1"), "{line}");
    // Its agent is down, and nothing is replaced yet; an operator's word is enough, even a wrong one.
    let line = cluster.wharf(&["node", "confirm-off", "n1", "--yes", "n2"]).refused(1);
    assert!(line.contains("nothing was confirmed"), "{line}");
    let confirmed = cluster.wharf(&["node", "confirm-off", "n1", "--yes", "n1"]).ok();
    assert_eq!(confirmed, "node/n1 confirmed off\n");
    eventually("the pods are replaced on the other node", || {
        let pods = cluster.ready_pods();
        let there = pods.iter().filter(|p| p["spec"]["nodeName"] == "n2").count();
        if there == 2 {
            Ok(())
        } else {
            Err(format!("{there} on n2"))
        }
    });
    assert!(
        before.is_subset(&ids(&cluster)),
        "nobody stopped what nobody could reach"
    );
    eventually("the old pods count as ended", || match cluster.items("pods").len() {
        2 => Ok(()),
        n => Err(format!("{n} pods")),
    });
    cluster.wharf(&["delete", "node", "n1"]).ok();
    let replacements: BTreeSet<String> = ids(&cluster).difference(&before).cloned().collect();

    cluster.spawn_agent("n1", None);
    cluster.settled(2);
    assert_eq!(ids(&cluster), replacements, "the old ones were stopped, and only they");
    eventually("the agent knows that it is done", || {
        let log = cluster.agent_log("n1");
        if log.contains("nothing of it is left here") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert_eq!(cluster.items("nodes").len(), 1);
    // A host that never comes back: its pods are forgotten on an operator's word.
    let line = cluster.wharf(&["node", "forget", "n1"]).refused(1);
    assert!(line.contains("no deleted node \"n1\""), "{line}");
}
