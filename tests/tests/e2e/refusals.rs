//! What the command refuses: exit 1 and one line that names object and field; nothing changes.

use harness::{Cluster, cluster::controller};
use serde_json::json;

const MISSPELT: &str = r"apiVersion: v1
kind: ReplicationController
metadata:
  name: misspelt
spec:
  replica: 2
  selector: {app: misspelt}
  template:
    metadata:
      labels: {app: misspelt}
    spec:
      containers:
        - name: app
          image: wharf-test-app:1
";

#[test]
fn refused_with_object_and_field() {
    let cluster = Cluster::start();
    cluster.create(&controller("web", 0, &["serve"])).ok();

    let line = cluster.create(&controller("web", 0, &["serve"])).refused(1);
    assert_eq!(line, "error: replicationcontrollers \"web\" already exists");

    let line = cluster
        .wharf(&["scale", "rc", "web", "--replicas=3", "--current-replicas=2"])
        .refused(1);
    assert!(
        line.contains("\"web\"") && line.contains("current replicas") && line.contains('0') && line.contains('2'),
        "{line}"
    );

    for (args, expected) in [
        (
            &["delete", "rc", "nope"][..],
            "error: replicationcontrollers \"nope\" not found",
        ),
        (&["get", "pod", "nope"], "error: pods \"nope\" not found"),
        (&["get", "node", "n9"], "error: nodes \"n9\" not found"),
        (
            &["describe", "rc", "nope"],
            "error: replicationcontrollers \"nope\" not found",
        ),
        (
            &["scale", "rc", "nope", "--replicas=1"],
            "error: replicationcontrollers \"nope\" not found",
        ),
    ] {
        assert_eq!(cluster.wharf(args).refused(1), expected);
    }

    let line = cluster.wharf(&["scale", "rc", "web", "--replicas=-1"]).refused(1);
    assert!(
        line.contains("replicationcontroller \"web\"") && line.contains("spec.replicas") && line.contains("-1"),
        "{line}"
    );
    let line = cluster.create(&controller("neg", -1, &["serve"])).refused(1);
    assert!(
        line.contains("\"neg\"") && line.contains("spec.replicas") && line.contains("-1"),
        "{line}"
    );

    let mut mismatched = controller("mismatched", 1, &["serve"]);
    mismatched["spec"]["selector"] = json!({"app": "other"});
    let line = cluster.create(&mismatched).refused(1);
    assert!(
        line.contains("\"mismatched\"") && line.contains("spec.selector"),
        "{line}"
    );

    let mut misspelt = controller("misspelt", 1, &["serve"]);
    misspelt["spec"]["template"]["spec"]["containers"][0]["imagee"] = json!("x");
    let line = cluster.create(&misspelt).refused(1);
    assert!(
        line.contains("spec.template.spec.containers[0].imagee") && line.contains("`image`"),
        "{line}"
    );

    // As a user writes it: the line says where in the file.
    let file = cluster.dir().join("misspelt.yaml");
    let file = file.to_str().expect("a UTF-8 path");
    std::fs::write(file, MISSPELT).expect("a manifest");
    let line = cluster.wharf(&["create", "-f", file]).refused(1);
    assert_eq!(
        line,
        format!(
            "error: {file}:6:3: replicationcontroller \"misspelt\": spec.replica: unknown field; did you mean `replicas`?"
        )
    );

    let absent = cluster.dir().join("absent.json");
    std::fs::write(&absent, controller("absent", 0, &["serve"]).to_string()).expect("a manifest");
    let absent = absent.to_str().expect("a UTF-8 path");
    assert_eq!(
        cluster.wharf(&["delete", "-f", absent]).refused(1),
        "error: replicationcontrollers \"absent\" not found"
    );

    let names: Vec<_> = cluster
        .items("rc")
        .iter()
        .map(|r| r["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["web"], "nothing of what was refused is there");
    assert_eq!(cluster.items("rc")[0]["spec"]["replicas"], 0);
}

#[test]
fn no_coordinator_is_exit_status_4() {
    let mut cluster = Cluster::start();
    cluster.kill_coordinator();
    let line = cluster.wharf(&["get", "nodes"]).refused(4);
    assert!(line.contains(&cluster.address()), "{line}");
    assert_eq!(cluster.wharf(&["get"]).code, 2, "usage");
    assert_eq!(cluster.wharf(&["frobnicate"]).code, 2, "usage");
}
