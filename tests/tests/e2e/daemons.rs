//! A daemon set on real Docker: one on each node, also on a cordoned one and on a host that joins; an update node by
//! node; its end.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use harness::{Cluster, cluster::controller, eventually};
use serde_json::{Value, json};

fn set(name: &str, arguments: &[&str]) -> Value {
    let template = controller(name, 1, arguments)["spec"]["template"].take();
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
    })
}

fn apply(cluster: &Cluster, manifest: &Value) -> String {
    let file = cluster.dir().join("set.json");
    fs::write(&file, manifest.to_string()).expect("a file");
    cluster
        .wharf(&["apply", "-f", file.to_str().expect("UTF-8")])
        .ok()
        .trim()
        .to_owned()
}

/// Node → names of running containers' pods there.
fn on(cluster: &Cluster) -> BTreeMap<String, Vec<String>> {
    let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for container in cluster.running() {
        nodes.entry(container.node).or_default().push(container.pod);
    }
    nodes
}

fn each_has_one(cluster: &Cluster, nodes: &[&str]) {
    cluster.settled(nodes.len());
    let found = on(cluster);
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), nodes);
    assert!(found.values().all(|pods| pods.len() == 1), "{found:?}");
}

fn row(cluster: &Cluster) -> Vec<String> {
    let text = cluster.wharf(&["get", "ds", "logs", "--no-headers"]).ok();
    text.split_whitespace().take(6).map(str::to_owned).collect()
}

#[test]
fn a_daemon_on_each_node_from_its_creation_to_its_end() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1", "n2", "n3"]);
    cluster.wharf(&["cordon", "n2", "--reason", "RAM swap"]).ok();
    assert_eq!(apply(&cluster, &set("logs", &["serve"])), "daemonset/logs created");
    assert_eq!(apply(&cluster, &set("logs", &["serve"])), "daemonset/logs unchanged");
    cluster
        .wharf(&["wait", "ds/logs", "--for", "condition=Ready", "--timeout", "60s"])
        .ok();
    each_has_one(&cluster, &["n1", "n2", "n3"]);
    assert_eq!(row(&cluster), ["logs", "3", "3", "3", "3", "3"]);
    let pod = &cluster.items("pods")[0];
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "DaemonSet");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["apiVersion"], "apps/v1");

    // A host that joins has its daemon within two seconds of being ready.
    let joining = Instant::now();
    cluster.join(&["n4"]);
    let ready = Instant::now();
    eventually("n4 runs a daemon", || match on(&cluster).get("n4") {
        Some(_) => Ok(()),
        None => Err(format!("{:?}", on(&cluster))),
    });
    let took = ready.elapsed();
    println!(
        "joined in {:?}, the daemon ran {took:?} later",
        joining.elapsed() - took
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    each_has_one(&cluster, &["n1", "n2", "n3", "n4"]);
    let logs = cluster.wharf(&["logs", "ds/logs", "--tail", "1"]);
    assert_eq!(logs.code, 0, "{}", logs.stderr);

    // An update takes one node after the other.
    let before = on(&cluster);
    let mut changed = set("logs", &["serve"]);
    changed["spec"]["template"]["metadata"]["annotations"] = json!({"version": "2"});
    assert_eq!(apply(&cluster, &changed), "daemonset/logs configured");
    let mut least = 4;
    eventually("all are updated", || {
        let now = on(&cluster);
        least = least.min(now.len());
        let new = now
            .iter()
            .filter(|(node, pods)| before.get(*node) != Some(*pods))
            .count();
        let row = row(&cluster);
        if new == 4 && row == ["logs", "4", "4", "4", "4", "4"] {
            Ok(())
        } else {
            Err(format!("{row:?} {now:?}"))
        }
    });
    assert!(least >= 3, "{least} nodes had a daemon");
    each_has_one(&cluster, &["n1", "n2", "n3", "n4"]);

    // What asks for more than a node has is said, with the node.
    let mut large = changed.clone();
    large["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"] = json!("900Gi");
    apply(&cluster, &large);
    eventually("it says what is missing", || {
        let text = cluster.wharf(&["describe", "ds", "logs"]).ok();
        let said = "n1: a former daemon stays there, for the present one finds insufficient memory";
        if text.contains(said) && text.contains("FailedPlacement") {
            Ok(())
        } else {
            Err(text)
        }
    });
    assert_eq!(on(&cluster).len(), 4, "those that run go on");
    let page = cluster.wharf(&["status"]);
    assert!(page.code == 1 && page.stdout.contains("ds/logs"), "{}", page.stdout);

    let done = cluster.wharf(&["delete", "ds", "logs"]).ok();
    assert_eq!(done.trim(), "daemonset \"logs\" deleted");
    cluster.settled(0);
}
