//! `patch`.

use proto::model::Kind;
use serde_json::{Value, json};

use crate::fake::{Command, Fake, Server, rc};

fn filled() -> Fake {
    let fake = Fake::new();
    fake.put(
        Kind::Node,
        json!({"metadata": {"name": "n1", "labels": {"a": "1"}}, "spec": {}}),
    );
    fake.put(Kind::ReplicationController, rc("web", 2));
    fake
}

async fn patch(server: &Server, words: &[&str]) -> crate::fake::Done {
    let words = std::iter::once("patch").chain(words.iter().copied()).map(str::to_owned);
    Command::new(&[&server.address]).run_words(words).await
}

#[tokio::test]
async fn changes_what_it_names_in_json_or_yaml() {
    let fake = filled();
    let server = fake.serve().await;
    for (words, out) in [
        (
            &[
                "node",
                "n1",
                "-p",
                r#"{"spec":{"unschedulable":true}}"#,
                "--dry-run=client",
            ][..],
            "node/n1 patched (dry run)\n",
        ),
        (
            &["node/n1", "-p", r#"{"spec":{"unschedulable":true}}"#],
            "node/n1 patched\n",
        ),
        (
            &["no", "n1", "-p", "spec: {unschedulable: true}"],
            "node/n1 patched (no change)\n",
        ),
        (
            &[
                "node",
                "n1",
                "--type=merge",
                "-p",
                "metadata: {labels: {a: null, b: '2'}}",
            ],
            "node/n1 patched\n",
        ),
        (
            &["rc", "web", "-p", "{}"],
            "replicationcontroller/web patched (no change)\n",
        ),
    ] {
        let done = patch(&server, words).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, out, ""),
            "{words:?}"
        );
    }
    let node = fake.object(Kind::Node, "", "n1").expect("there");
    assert_eq!(
        (&node["metadata"]["labels"], &node["spec"]),
        (&json!({"b": "2"}), &json!({"unschedulable": true}))
    );
    assert_eq!(fake.state().revision, 4, "two of them stored something");

    let command = Command::new(&[&server.address]);
    let file = command.file("p.yaml", "spec:\n  replicas: 5\n");
    let done = command
        .run(&format!("patch rc web --patch-file {} -o json", file.display()))
        .await;
    let shown: Value = serde_json::from_str(&done.out).expect("JSON");
    assert_eq!(shown["spec"]["replicas"], 5);
    let done = Command::new(&[&server.address])
        .stdin("spec: {replicas: 6}")
        .run("patch rc web --patch-file -")
        .await;
    assert_eq!(done.out, "replicationcontroller/web patched\n");
}

#[tokio::test]
async fn refusals() {
    let fake = filled();
    let server = fake.serve().await;
    let calls = |fake: &Fake| fake.state().calls.len();
    for (words, code, err) in [
        (
            &["node", "n1", "--type", "strategic", "-p", "{}"][..],
            2,
            "error: --type strategic: only merge patches (RFC 7386) are known; to change one item of a list use",
        ),
        (
            &["node", "n1", "--type", "json", "-p", "[]"],
            2,
            "error: --type json: only merge",
        ),
        (&["node", "-p", "{}"], 2, "error: which object?"),
        (
            &["node", "n1"],
            2,
            "error: the following required arguments were not provided",
        ),
        (
            &["node", "n1", "-p", "{}", "--patch-file", "x"],
            2,
            "error: the argument '--patch <PATCH>' cannot be",
        ),
        (
            &["node", "n1", "-p", "{a: 1, a: 2}"],
            1,
            "error: --patch:1:8: duplicate key: a",
        ),
        (
            &["node", "n1", "-p", "[1]"],
            1,
            "error: --patch: must be one map of fields",
        ),
        (
            &["node", "n1", "-p", ""],
            1,
            "error: --patch: must be one map of fields",
        ),
        (
            &["node", "n1", "--patch-file", "/nonexistent"],
            1,
            "error: /nonexistent: No such file",
        ),
    ] {
        let done = patch(&server, words).await;
        assert_eq!((done.code, done.out.as_str()), (code, ""), "{words:?}: {}", done.err);
        assert!(done.err.starts_with(err), "{words:?}: {}", done.err);
    }
    assert_eq!(calls(&fake), 0, "nothing was sent");
    for (words, err) in [
        (&["node", "n9", "-p", "{}"][..], "error: nodes \"n9\" not found\n"),
        (
            &["rc", "web", "-p", "spec: {replicas: many}"],
            "error: replicationcontroller \"web\" is invalid: spec.replicas: ",
        ),
        (
            &["rc", "web", "-p", "metadata: {resourceVersion: '1'}"],
            "error: replicationcontrollers \"web\": metadata.resourceVersion: is 2, not 1",
        ),
    ] {
        let done = patch(&server, words).await;
        assert_eq!(done.code, 1);
        assert!(done.err.starts_with(err), "{words:?}: {}", done.err);
    }
}
