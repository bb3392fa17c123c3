//! The main job, as the README tells it: join, create, scale, describe, delete.

use harness::{Cluster, cluster::controller, eventually};

#[test]
fn a_controller_runs_on_the_fleet() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1", "n2", "n3"]);
    cluster.create(&controller("web", 3, &["serve"])).ok();
    cluster.settled(3);
    let nodes: std::collections::BTreeSet<String> = cluster.running().into_iter().map(|c| c.node).collect();
    assert_eq!(nodes.len(), 3, "pods spread over the nodes");

    assert_eq!(
        cluster.wharf(&["scale", "rc", "web", "--replicas=9"]).ok().trim(),
        "replicationcontroller/web scaled"
    );
    cluster.settled(9);
    cluster.wharf(&["scale", "rc", "web", "--replicas=2"]).ok();
    cluster.settled(2);

    let pod = cluster.ready_pods()[0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    eventually("describe shows the pod's life", || {
        let text = cluster.wharf(&["describe", "pod", &pod]).ok();
        let missing: Vec<_> = ["Scheduled", "Created", "Started", "Ready", "Running"]
            .into_iter()
            .filter(|w| !text.contains(w))
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("without {missing:?}: {text}"))
        }
    });

    let wide = cluster.wharf(&["get", "rc,pods", "-o", "wide"]).ok();
    assert!(wide.contains("NODE") && wide.contains("pod/"), "{wide}");
    let nodes = cluster.wharf(&["get", "nodes", "-o", "wide"]).ok();
    assert!(nodes.contains("Ready") && nodes.contains("DOCKER"), "{nodes}");

    let out = cluster.wharf(&["delete", "rc", "web"]).ok();
    assert!(out.contains("replicationcontroller \"web\" deleted"), "{out}");
    cluster.settled(0);
}

#[test]
fn a_namespace_takes_its_contents_with_it() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.wharf(&["create", "namespace", "shop"]).ok();
    let mut rc = controller("web", 2, &["serve"]);
    rc["metadata"]["namespace"] = serde_json::json!("shop");
    cluster.create(&rc).ok();
    cluster.settled(2);
    cluster.wharf(&["delete", "namespace", "shop"]).ok();
    cluster.settled(0);
    eventually("the namespace is gone", || {
        let names: Vec<_> = cluster
            .items("ns")
            .iter()
            .map(|n| n["metadata"]["name"].clone())
            .collect();
        if names == ["default"] {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    });
}

#[test]
fn pods_that_fit_nowhere_say_why_and_run_when_there_is_room() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let mut rc = controller("big", 2, &["serve"]);
    rc["spec"]["template"]["spec"]["containers"][0]["resources"] = serde_json::json!({"requests": {"cpu": "6"}});
    cluster.create(&rc).ok();
    eventually("one runs and one waits, saying why", || {
        let pods = cluster.items("pods");
        let why: Vec<String> = pods
            .iter()
            .filter(|p| p["spec"]["nodeName"].as_str().unwrap_or_default().is_empty())
            .map(|p| {
                p["status"]["conditions"][0]["message"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect();
        if cluster.ready_pods().len() == 1
            && why.len() == 1
            && why[0].starts_with("0/1 nodes: 1 ")
            && why[0].contains("cpu")
        {
            Ok(())
        } else {
            Err(format!("{pods:#?}"))
        }
    });
    cluster.join(&["n2"]);
    cluster.settled(2);
}
