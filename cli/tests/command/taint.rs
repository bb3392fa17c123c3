//! `taint`.

use proto::model::Kind;
use serde_json::{Value, json};

use crate::fake::{Fake, pod, wharf};

fn filled() -> Fake {
    let fake = Fake::new();
    let db = json!([{"key": "dedicated", "value": "db", "effect": "NoSchedule", "timeAdded": "2026-01-30T00:00:00Z"}]);
    fake.put(
        Kind::Node,
        json!({"metadata": {"name": "n1", "labels": {"zone": "north"}}, "spec": {"taints": db}}),
    );
    fake.put(
        Kind::Node,
        json!({"metadata": {"name": "n2", "labels": {"zone": "north"}}, "spec": {}}),
    );
    fake.put(Kind::Pod, pod("default", "a", "web", "n1"));
    fake
}

fn taints(fake: &Fake, node: &str) -> Value {
    fake.object(Kind::Node, "", node).expect("there")["spec"]["taints"].clone()
}

#[tokio::test]
async fn sets_changes_and_removes() {
    let fake = filled();
    let server = fake.serve().await;
    for (line, out, err) in [
        (
            "taint node n2 a=1:NoSchedule --dry-run",
            "node/n2 tainted (dry run)\n",
            "",
        ),
        ("taint node n2 a=1:NoSchedule b:NoExecute", "node/n2 tainted\n", ""),
        ("taint node n2 a=1:NoSchedule", "node/n2 not changed\n", ""),
        ("taint node/n2 a=2:NoSchedule --overwrite", "node/n2 tainted\n", ""),
        (
            "taint nodes -l zone=north c:PreferNoSchedule",
            "node/n1 tainted\nnode/n2 tainted\n",
            "",
        ),
        ("taint nodes --all c-", "node/n1 untainted\nnode/n2 untainted\n", ""),
        ("taint node n2 a=2:NoSchedule- b:NoExecute-", "node/n2 untainted\n", ""),
        (
            "taint node n1 n2 dedicated:NoExecute- dedicated:NoSchedule-",
            "node/n1 untainted\nnode/n2 not changed\n",
            "node/n1: taint dedicated:NoExecute not found\nnode/n2: taint dedicated:NoExecute not found\n\
             node/n2: taint dedicated:NoSchedule not found\n",
        ),
        ("taint nodes -l zone=west c:NoSchedule", "", "No resources found\n"),
        ("taint node n1 c:NoSchedule -o name", "node/n1\n", ""),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, out, err),
            "{line}"
        );
    }
    assert_eq!(taints(&fake, "n1"), json!([{"key": "c", "effect": "NoSchedule"}]));
    assert_eq!(taints(&fake, "n2"), Value::Null);
    let calls = fake.state().calls.clone();
    let sent = calls.iter().find(|c| c.contains("\"b\"")).expect("sent");
    assert!(
        sent.contains("\"a\"") && sent.contains("\"resourceVersion\":"),
        "all in one patch: {sent}"
    );
    assert!(!calls.iter().any(|c| c.contains("timeAdded")), "{calls:?}");
}

#[tokio::test]
async fn nothing_changes_when_a_value_would_be_overwritten_or_a_node_is_missing() {
    let fake = filled();
    let server = fake.serve().await;
    let before = fake.state().revision;
    let done = wharf(&server, "taint nodes --all x:NoExecute dedicated=web:NoSchedule").await;
    let said =
        "error: node \"n1\": taint dedicated:NoSchedule: it is \"db\", not \"web\"; give --overwrite to change it\n";
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (1, "", said));
    let done = wharf(&server, "taint node n2 n9 x:NoExecute").await;
    assert_eq!((done.code, done.err.as_str()), (1, "error: nodes \"n9\" not found\n"));
    assert_eq!(fake.state().revision, before);
    // Of another effect it is another taint.
    let done = wharf(&server, "taint node n1 dedicated=web:NoExecute").await;
    assert_eq!(done.out, "node/n1 tainted\n", "{}", done.err);
}

#[tokio::test]
async fn what_others_change_meanwhile_is_looked_at_again() {
    let fake = filled();
    let server = fake.serve().await;
    fake.state().races = 2;
    let done = wharf(&server, "taint node n2 a:NoSchedule").await;
    assert_eq!((done.code, done.out.as_str()), (0, "node/n2 tainted\n"), "{}", done.err);
    fake.state().races = 100;
    let done = wharf(&server, "taint node n2 b:NoSchedule").await;
    assert_eq!(done.code, 1, "it ends");
}

#[tokio::test]
async fn wrong_command_lines() {
    let fake = filled();
    let server = fake.serve().await;
    for (line, err) in [
        ("taint node n1", "error: nothing to change: give KEY=VALUE:EFFECT"),
        (
            "taint node n1 a=1:Never",
            "error: \"a=1:Never\": \"Never\" is no effect; use NoSchedule, PreferNoSchedule",
        ),
        ("taint node n1 a:NoSchedule a-", "error: taint a is changed twice"),
        ("taint node n1 a:NoSchedule n2", "error: \"n2\": is no KEY=VALUE:EFFECT"),
        ("taint node n1 /a:NoSchedule", "error: \"/a:NoSchedule\": key"),
        ("taint node n1 a=b/c:NoSchedule", "error: \"a=b/c:NoSchedule\": value"),
        ("taint pod a x:NoSchedule", "error: pod/a: only nodes have taints"),
        ("taint node a:NoSchedule", "error: which objects?"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{line}");
        assert!(done.err.starts_with(err), "{line}: {}", done.err);
    }
    assert_eq!(fake.state().calls.len(), 0);
    let done = wharf(&server, "taint pods --all x:NoSchedule").await;
    assert_eq!(
        (done.code, done.err.as_str()),
        (2, "error: pod/a: only nodes have taints\n")
    );
}
