//! Where pods run: labels, affinity, spread and taints, as an operator sets them on a running fleet.

use std::collections::BTreeMap;

use harness::{Cluster, cluster::controller, eventually};
use serde_json::{Value, json};

/// Node → ready pods on it.
fn ready_on(cluster: &Cluster) -> BTreeMap<String, usize> {
    let mut nodes = BTreeMap::new();
    for pod in cluster.ready_pods() {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        *nodes.entry(node.to_owned()).or_insert(0) += 1;
    }
    nodes
}

fn lie(cluster: &Cluster, what: &str, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> = expected.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
    eventually(what, || {
        let found = ready_on(cluster);
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}, not {expected:?}"))
        }
    });
}

fn with_spec(mut rc: Value, fields: &Value) -> Value {
    for (key, value) in fields.as_object().expect("fields") {
        rc["spec"]["template"]["spec"][key] = value.clone();
    }
    rc
}

fn waits(cluster: &Cluster, because: &str) {
    eventually("the pod says why it waits", || {
        let pods = cluster.items("pods");
        let said: Vec<_> = pods.iter().map(|p| &p["status"]["conditions"][0]["message"]).collect();
        if said.iter().any(|m| m.as_str() == Some(because)) {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    });
}

#[test]
fn labels_affinity_and_taints_decide_where_pods_run() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1", "n2", "n3"]);
    cluster.wharf(&["label", "node", "n1", "zone=north"]).ok();
    cluster.wharf(&["label", "node", "n2", "zone=south"]).ok();
    let spread = json!({
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["north", "south", "east"]}]}]}}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "nodeTaintsPolicy": "Honor", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    cluster
        .create(&with_spec(controller("web", 4, &["serve"]), &spread))
        .ok();
    lie(&cluster, "the zones have as many each", &[("n1", 2), ("n2", 2)]);

    let for_a_while = json!({"nodeSelector": {"zone": "north"}, "tolerations":
        [{"key": "power", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20}]});
    cluster
        .create(&with_spec(controller("patient", 1, &["serve"]), &for_a_while))
        .ok();
    lie(&cluster, "one more runs in the north", &[("n1", 3), ("n2", 2)]);

    // A label that goes moves nobody.
    cluster.wharf(&["label", "node", "n2", "zone-"]).ok();
    cluster.wharf(&["label", "node", "n2", "zone=south"]).ok();
    lie(&cluster, "everybody stays", &[("n1", 3), ("n2", 2)]);

    // A taint takes pods away; there is nowhere else yet but the other zone. Who bears it for a while stays so long.
    let done = cluster.wharf(&["taint", "node", "n1", "power=off:NoExecute"]).ok();
    assert_eq!(done.trim(), "node/n1 tainted");
    lie(
        &cluster,
        "the pods leave the tainted node, but for one",
        &[("n1", 1), ("n2", 4)],
    );
    let described = cluster.wharf(&["describe", "node", "n1"]).ok();
    assert!(described.contains("power=off:NoExecute"), "{described}");
    cluster.says("node n1 has taint power=off:NoExecute");
    lie(&cluster, "that one leaves too when its time is over", &[("n2", 4)]);
    waits(
        &cluster,
        "0/3 nodes: 2 do not match nodeSelector zone=north, \
         1 has taint power=off:NoExecute that the pod tolerates for a time only",
    );
    cluster.wharf(&["taint", "node", "n1", "power-"]).ok();
    lie(&cluster, "who waited runs", &[("n1", 1), ("n2", 4)]);

    // A new zone takes what is new.
    cluster.wharf(&["label", "node", "n3", "zone=east"]).ok();
    cluster.wharf(&["scale", "rc", "web", "--replicas=6"]).ok();
    eventually("none of the new ones goes to the full zone", || {
        let found = ready_on(&cluster);
        let counts = ["n1", "n2", "n3"].map(|n| found.get(n).copied().unwrap_or(0));
        if counts == [2, 4, 1] {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    });
}

#[test]
fn a_pod_whose_labels_leave_its_controller_runs_on_and_is_replaced() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let name = cluster.ready_pods()[0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let refused = cluster.wharf(&["label", "pod", &name, "app=mine"]);
    let said = refused.refused(1);
    assert!(said.contains("it is \"web\", not \"mine\""), "{said}");
    cluster.wharf(&["label", "pod", &name, "app=mine", "--overwrite"]).ok();
    cluster.settled(3);
    let pod = cluster.json(&["get", "pod", &name]);
    assert_eq!(pod["metadata"].get("ownerReferences"), None, "{pod}");
    cluster.says("released from it");
    // It is nobody's: deleting the controller leaves it.
    cluster.wharf(&["delete", "rc", "web"]).ok();
    cluster.settled(1);
    cluster.wharf(&["delete", "pod", &name]).ok();
    cluster.settled(0);
}
