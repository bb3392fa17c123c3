//! Exit statuses of each family of commands, and failures as `Status` objects.

use proto::model::Kind;
use serde_json::{Value, json};
use tonic::Status;

use crate::fake::{Command, Fake, pod, rc, three, wharf};

/// A line of each family that succeeds on the cluster below, and one that is no command line.
const FAMILIES: [(&str, &str); 21] = [
    ("get pods", "get pods -l"),
    ("describe node n1", "describe events"),
    ("events", "events --for x"),
    ("apply -f -", "apply"),
    ("create -f - --dry-run", "create pod"),
    ("replace -f -", "replace"),
    ("patch ns a -p {}", "patch ns a"),
    ("delete pod a --wait=false", "delete pods"),
    ("scale rc web --replicas 3", "scale rc web"),
    ("label node n1 a=b", "label node n1"),
    ("annotate node n1 a=b", "annotate node n1"),
    ("wait pod a --for create", "wait pod a --for x"),
    ("token create", "token create --uses 0"),
    ("token list", "token list x"),
    ("token revoke k7x2p9", "token revoke"),
    ("cluster status", "cluster status x"),
    (
        "cluster member add etcd4 --peer-url https://10.0.0.4:2380",
        "cluster member add etcd4",
    ),
    ("cluster member remove etcd3 --yes etcd3", "cluster member remove"),
    ("cluster defrag", "cluster defrag --all"),
    ("cluster transfer", "cluster transfer c2"),
    ("cluster remove-coordinator c2", "cluster remove-coordinator"),
];

fn cluster() -> Fake {
    let fake = Fake::new();
    fake.put(Kind::Node, json!({"metadata": {"name": "n1"}, "spec": {}}));
    fake.put(Kind::Namespace, json!({"metadata": {"name": "a"}}));
    fake.put(Kind::Pod, pod("default", "a", "web", "n1"));
    fake.put(Kind::ReplicationController, rc("web", 2));
    fake.state().replicas = Some(three());
    fake
}

/// A file with the namespace `a`, which is there; `create` gets another one.
fn stdin(line: &str) -> &'static str {
    if line.starts_with("create") {
        "kind: Namespace\nmetadata: {name: new}\n"
    } else {
        "kind: Namespace\nmetadata: {name: a}\n"
    }
}

#[tokio::test]
async fn each_family_of_commands_has_the_same_exit_statuses() {
    for (good, bad) in FAMILIES {
        let fake = cluster();
        let server = fake.serve().await;
        let run = async |line: &str| Command::new(&[&server.address]).stdin(stdin(line)).run(line).await;
        fake.state()
            .failures
            .push_back(Status::permission_denied("user/x may not do that"));
        let refused = run(good).await;
        assert_eq!(refused.code, 1, "{good}: {}", refused.err);
        assert_eq!(refused.err, "error: user/x may not do that\n", "{good}");
        let usage = run(bad).await;
        assert_eq!((usage.code, usage.out.as_str()), (2, ""), "{bad}: {}", usage.err);
        assert!(usage.err.starts_with("error: "), "{bad}: {}", usage.err);
        let done = run(good).await;
        assert_eq!(done.code, 0, "{good}: {}", done.err);
        // No leader.
        let away = || Status::unavailable("this coordinator is not the active one");
        fake.state().failures.extend([away(), away()]);
        let unled = run(good).await;
        assert_eq!(unled.code, 4, "{good}: {}", unled.err);
        let gone = server.address.clone();
        drop(server);
        let unreachable = Command::new(&[&gone]).stdin(stdin(good)).run(good).await;
        assert_eq!(unreachable.code, 4, "{good}: {}", unreachable.err);
        assert!(unreachable.err.contains(&gone), "{good}: {}", unreachable.err);
    }
}

#[tokio::test]
async fn a_dry_run_of_any_write_changes_nothing() {
    for line in [
        "apply -f -",
        "create -f -",
        "replace -f -",
        "patch node n1 -p {\"spec\":{\"unschedulable\":true}}",
        "delete pod a",
        "scale rc web --replicas 3",
        "label node n1 a=b",
        "annotate node n1 a=b",
        "token create",
        "token revoke k7x2p9",
        "cluster member update etcd2 --peer-url https://10.0.1.2:2380",
        "cluster member remove etcd3 --yes etcd3",
        "cluster transfer --to c2",
        "cluster remove-coordinator c2",
    ] {
        for mode in ["--dry-run", "--dry-run=client", "--dry-run=server"] {
            let fake = cluster();
            let server = fake.serve().await;
            let before = fake.state().revision;
            let done = Command::new(&[&server.address])
                .stdin(stdin(line))
                .run(&format!("{line} {mode}"))
                .await;
            assert_eq!(done.code, 0, "{line}: {}", done.err);
            assert!(done.out.ends_with(" (dry run)\n"), "{line}: {}", done.out);
            assert_eq!(fake.state().revision, before, "{line}");
            if line.starts_with("cluster") {
                let calls = fake.state().calls.clone();
                assert!(calls[0].ends_with(" dry"), "{calls:?}");
            }
            if line.starts_with("token") {
                let calls = fake.state().calls.clone();
                assert!(calls[0].ends_with(" dry") || calls[0].ends_with(" true"), "{calls:?}");
            }
        }
        let fake = cluster();
        let server = fake.serve().await;
        let line = format!("{line} --dry-run=none");
        let done = Command::new(&[&server.address]).stdin(stdin(&line)).run(&line).await;
        assert!(done.code == 0 && !done.out.contains("dry run"), "{line}: {}", done.err);
        assert_eq!(wharf(&server, &line.replace("=none", "=maybe")).await.code, 2);
    }
}

#[tokio::test]
async fn failures_are_status_objects_for_programs() {
    let fake = cluster();
    let server = fake.serve().await;
    let one = async |line: &str| -> Value {
        let done = Command::new(&[&server.address])
            .stdin("kind: Pod\nmetadata: {name: x}\nspec: {container: []}\n")
            .run(line)
            .await;
        assert_eq!(
            (done.out.as_str(), done.err.lines().count()),
            ("", 1),
            "{line}: {}",
            done.err
        );
        serde_json::from_str(&done.err).expect("JSON")
    };
    for (line, reason, code, message) in [
        ("get pod x -o json", "NotFound", 404, "pods \"x\" not found"),
        ("get pdos -o json", "BadRequest", 400, "unknown kind \"pdos\""),
        (
            "get pods --nonsense -ojson",
            "BadRequest",
            400,
            "unexpected argument '--nonsense' found",
        ),
        (
            "get -o json",
            "BadRequest",
            400,
            "the following required arguments were not provided: <KIND>",
        ),
        ("get pods -o=json -l a=b=c", "BadRequest", 400, "selector `a=b=c`"),
        (
            "create -f - -o json",
            "Invalid",
            422,
            "stdin:3:8: pod \"x\": spec.container: unknown field",
        ),
        (
            "create ns a --output json",
            "AlreadyExists",
            409,
            "namespaces \"a\" already exists",
        ),
        (
            "patch ns a --output=json -p {\"metadata\":{\"uid\":\"x\"}}",
            "Conflict",
            409,
            "namespaces \"a\": metadata.uid",
        ),
    ] {
        let status = one(line).await;
        assert_eq!(
            (&status["apiVersion"], &status["kind"], &status["status"]),
            (&json!("v1"), &json!("Status"), &json!("Failure")),
            "{line}"
        );
        assert_eq!(
            (&status["reason"], &status["code"]),
            (&json!(reason), &json!(code)),
            "{line}: {status}"
        );
        let said = status["message"].as_str().unwrap_or_default();
        assert!(said.starts_with(message), "{line}: {said}");
    }
    let invalid = one("create -f - -o json").await;
    assert_eq!(
        invalid["details"],
        json!({"name": "x", "kind": "pods", "causes": [{"reason": "FieldValueInvalid", "field": "spec.container",
            "message": "unknown field; did you mean `containers`?"}]})
    );
    let two = wharf(&server, "get pod x y -o yaml").await;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&two.err).expect("YAML");
    let names: Vec<&Value> = documents.iter().map(|d| &d["details"]["name"]).collect();
    assert_eq!(names, ["x", "y"], "{}", two.err);
    let gone = server.address.clone();
    drop(server);
    let done = Command::new(&[&gone]).run("get pods -o json").await;
    let status: Value = serde_json::from_str(&done.err).expect("JSON");
    assert_eq!(
        (done.code, &status["reason"], &status["code"]),
        (4, &json!("ServiceUnavailable"), &json!(503))
    );
}
