//! Isolation and return on real Docker: replace, patch, cordon and hold keep new pods away, leave running ones alone,
//! survive SIGKILL, and end.

use std::{collections::BTreeSet, fs};

use harness::{Cluster, cluster::controller, eventually};
use serde_json::{Value, json};

/// `wharf replace -f` of node n1; what it printed.
fn replace(cluster: &Cluster, labels: &Value, unschedulable: bool) -> String {
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}});
    if unschedulable {
        node["spec"] = json!({"unschedulable": true});
    }
    let file = cluster.dir().join("node.json");
    fs::write(&file, node.to_string()).expect("a file");
    let out = cluster.wharf(&["replace", "-f", file.to_str().expect("UTF-8")]);
    let said = out.stderr.clone();
    assert_eq!(out.ok().trim(), "node/n1 replaced");
    said
}

fn says(cluster: &Cluster, args: &[&str], line: &str) {
    assert_eq!(cluster.wharf(args).ok().trim(), line, "{args:?}");
}

fn status(cluster: &Cluster) -> String {
    let nodes = cluster.wharf(&["get", "node", "n1", "--no-headers"]).ok();
    nodes.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// Ids of the containers on a node.
fn on(cluster: &Cluster, node: &str) -> BTreeSet<String> {
    let running = cluster.running().into_iter().filter(|c| c.node == node);
    running.map(|c| c.id).collect()
}

#[track_caller]
fn waits(cluster: &Cluster, pod: &str, why: &str) {
    eventually(&format!("{pod} says why it waits"), || {
        let pod = cluster.json(&["get", "pod", pod]);
        let said = pod["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
        if pod["status"]["phase"] == "Pending" && said == why {
            Ok(())
        } else {
            Err(format!("{}", pod["status"]))
        }
    });
}

#[test]
fn a_held_node_takes_no_new_pods_and_keeps_its_own() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1", "n2"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let before = on(&cluster, "n1");
    assert_eq!(before.len(), 1);

    replace(&cluster, &json!({"zone": "north"}), true);
    assert_eq!(status(&cluster), "Ready,SchedulingDisabled");
    says(&cluster, &["cordon", "n1"], "node/n1 already cordoned");
    says(&cluster, &["cordon", "n1", "--reason", "RAM swap"], "node/n1 cordoned");
    cluster.wharf(&["scale", "rc", "web", "--replicas=5"]).ok();
    cluster.settled(5);
    assert_eq!(
        on(&cluster, "n1"),
        before,
        "the running pod is left alone, and no new one came"
    );

    let mut named = controller("named", 1, &["serve"]);
    let mut template = named["spec"]["template"].take();
    template["spec"]["nodeName"] = json!("n1");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "named"}, "spec": template["spec"]});
    cluster.create(&pod).ok();
    let held = "0/2 nodes: 1 is not node n1, 1 held (cordon by admin: RAM swap)";
    waits(&cluster, "named", held);

    // The cordon is as durable as all else.
    cluster.kill_coordinator();
    cluster.start_coordinator();
    cluster.node_ready("n1");
    assert_eq!(status(&cluster), "Ready,SchedulingDisabled");
    let described = cluster.wharf(&["describe", "node", "n1"]).ok();
    assert!(
        described.contains("user/admin") && described.contains("RAM swap"),
        "{described}"
    );
    says(&cluster, &["hold", "list", "-o", "name"], "node/n1 cordon/user/admin");

    // One reason goes, another stays.
    says(&cluster, &["hold", "add", "n1", "--reason", "disk"], "node/n1 held");
    let said = replace(&cluster, &json!({}), false);
    assert!(said.contains("metadata.labels: zone removed"), "{said}");
    assert!(said.contains("automation by admin: disk"), "{said}");
    assert_eq!(status(&cluster), "Ready,SchedulingDisabled");
    let labels = cluster.json(&["get", "node", "n1"])["metadata"]["labels"].clone();
    let labels: Vec<&String> = labels.as_object().into_iter().flat_map(|l| l.keys()).collect();
    assert_eq!(
        labels,
        ["kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os"],
        "those of the coordinator stay"
    );
    waits(
        &cluster,
        "named",
        "0/2 nodes: 1 is not node n1, 1 held (automation by admin: disk)",
    );
    let patch = r#"{"spec":{"unschedulable":true}}"#;
    says(&cluster, &["patch", "node", "n1", "-p", patch], "node/n1 patched");
    says(
        &cluster,
        &["uncordon", "n1"],
        "node/n1 uncordoned (still SchedulingDisabled: automation by admin: disk)",
    );
    says(&cluster, &["hold", "release", "n1"], "node/n1 hold released");
    assert_eq!(status(&cluster), "Ready");
    says(&cluster, &["uncordon", "n1"], "node/n1 already uncordoned");
    cluster.settled(6);

    // An end is kept without anyone's help.
    says(&cluster, &["cordon", "n1", "--expires", "2s"], "node/n1 cordoned");
    eventually("the cordon ends and says so", || {
        let events = cluster.wharf(&["events", "-A"]).ok();
        match (status(&cluster).as_str(), events.contains("HoldExpired")) {
            ("Ready", true) => Ok(()),
            other => Err(format!("{other:?}: {events}")),
        }
    });
    assert_eq!(
        cluster.wharf(&["cordon", "n9"]).refused(1),
        "error: nodes \"n9\" not found"
    );
    assert!(before.is_subset(&on(&cluster, "n1")), "the first pod never stopped");
}
