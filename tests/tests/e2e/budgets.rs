//! PodDisruptionBudgets at a real coordinator: made, shown, kept through a kill, refused where two would share pods.

use harness::{Cluster, cluster::controller};
use serde_json::{Value, json};

fn budget(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec})
}

#[test]
fn a_budget_lives_and_no_pod_has_two() {
    let mut cluster = Cluster::start();
    cluster.create(&controller("web", 3, &["serve"])).ok();
    let web = json!({"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}});
    assert_eq!(
        cluster.create(&budget("web", &web)).ok().trim(),
        "poddisruptionbudget/web created"
    );
    let table = cluster.wharf(&["get", "pdb"]).ok();
    let words: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(words.get(..4), Some(&["web", "50%", "N/A", "0"][..]), "{table}");
    let everything = json!({"maxUnavailable": 1, "selector": {}});
    let line = cluster.create(&budget("all", &everything)).refused(1);
    assert!(
        line.contains("poddisruptionbudgets \"all\": spec.selector: takes in pods of replicationcontroller \"web\"")
            && line.contains("poddisruptionbudget \"web\""),
        "{line}"
    );
    let line = cluster.create(&budget("none", &json!({"minAvailable": 1}))).refused(1);
    assert!(
        line.contains("\"none\"") && line.contains("spec.selector: required"),
        "{line}"
    );

    cluster.kill_coordinator();
    cluster.start_coordinator();
    let found = cluster.items("pdb");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["spec"], web);
    assert_eq!(
        (
            &found[0]["status"]["expectedPods"],
            &found[0]["status"]["desiredHealthy"]
        ),
        (&json!(3), &json!(2))
    );
    let scaled = cluster.wharf(&["scale", "rc", "web", "--replicas=1"]).ok();
    assert_eq!(scaled.trim(), "replicationcontroller/web scaled");
    let out = cluster.wharf(&["delete", "pdb", "web"]).ok();
    assert_eq!(out.trim(), "poddisruptionbudget \"web\" deleted");
    cluster.create(&budget("all", &everything)).ok();
}
