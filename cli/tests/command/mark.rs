//! `label` and `annotate`.

use proto::model::Kind;
use serde_json::json;

use crate::fake::{Command, Fake, pod, rc, wharf};

fn filled() -> Fake {
    let fake = Fake::new();
    for name in ["n1", "n2"] {
        fake.put(
            Kind::Node,
            json!({"metadata": {"name": name, "labels": {"zone": "north", "disk": "ssd"}}, "spec": {}}),
        );
    }
    fake.put(Kind::Node, json!({"metadata": {"name": "n3"}, "spec": {}}));
    fake.put(Kind::Pod, pod("default", "a", "web", "n1"));
    fake.put(Kind::ReplicationController, rc("web", 2));
    fake
}

#[tokio::test]
async fn sets_changes_and_removes() {
    let fake = filled();
    let server = fake.serve().await;
    for (line, out, err) in [
        ("label node n1 rack=b7 --dry-run", "node/n1 labeled (dry run)\n", ""),
        ("label node n1 rack=b7 tier=", "node/n1 labeled\n", ""),
        ("label node n1 rack=b7", "node/n1 not labeled\n", ""),
        ("label node/n1 zone=south --overwrite", "node/n1 labeled\n", ""),
        ("label node n1 rack- disk-", "node/n1 unlabeled\n", ""),
        (
            "label node n1 rack-",
            "node/n1 not labeled\n",
            "node/n1: label \"rack\" not found\n",
        ),
        (
            "label no n1 n3 rack- zone=south",
            "node/n1 not labeled\nnode/n3 labeled\n",
            "node/n1: label \"rack\" not found\nnode/n3: label \"rack\" not found\n",
        ),
        ("label pods -l app=web tier=front", "pod/a labeled\n", ""),
        ("label rc --all tier=front", "replicationcontroller/web labeled\n", ""),
        ("label node n1 --list", "tier=\nzone=south\n", ""),
        ("label nodes -l disk=ssd --list", "disk=ssd\nzone=north\n", ""),
        (
            "label nodes -l zone=south --list",
            "node/n1:\n  tier=\n  zone=south\nnode/n3:\n  zone=south\n",
            "",
        ),
        ("label nodes -l zone=west x=y", "", "No resources found\n"),
        ("annotate node n1 a.b/c=1", "node/n1 annotated\n", ""),
        ("annotate node n1 a.b/c=1", "node/n1 not annotated\n", ""),
        ("annotate node n1 a.b/c-", "node/n1 unannotated\n", ""),
        (
            "annotate node n1 a.b/c-",
            "node/n1 not annotated\n",
            "node/n1: annotation \"a.b/c\" not found\n",
        ),
        ("label node n1 z=1 -o name", "node/n1\n", ""),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, out, err),
            "{line}"
        );
    }
    let words = ["annotate", "node", "n1", "note=a value: with = and spaces"].map(str::to_owned);
    let done = Command::new(&[&server.address]).run_words(words.into_iter()).await;
    assert_eq!(done.out, "node/n1 annotated\n", "{}", done.err);
    let node = fake.object(Kind::Node, "", "n1").expect("there");
    assert_eq!(
        node["metadata"]["annotations"],
        json!({"note": "a value: with = and spaces"})
    );
    let calls = fake.state().calls.clone();
    let sent = calls.iter().find(|c| c.contains("\"rack\":null")).expect("sent");
    assert!(
        sent.contains("\"disk\":null") && sent.contains("\"resourceVersion\":"),
        "all keys in one patch, for one version: {sent}"
    );
}

#[tokio::test]
async fn nothing_changes_when_a_value_would_be_overwritten_or_an_object_is_missing() {
    let fake = filled();
    let server = fake.serve().await;
    let before = fake.state().revision;
    let done = wharf(&server, "label nodes --all new=1 zone=south disk=hdd").await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (
            1,
            "",
            "error: node \"n1\": metadata.labels.disk: it is \"ssd\", not \"hdd\"; metadata.labels.zone: it is \
             \"north\", not \"south\"; give --overwrite to change it\nerror: node \"n2\": metadata.labels.disk: it is \
             \"ssd\", not \"hdd\"; metadata.labels.zone: it is \"north\", not \"south\"; give --overwrite to change it\n"
        )
    );
    let done = wharf(&server, "label node n1 n9 new=1").await;
    assert_eq!((done.code, done.err.as_str()), (1, "error: nodes \"n9\" not found\n"));
    assert_eq!(fake.state().revision, before);
}

#[tokio::test]
async fn what_others_change_meanwhile_is_looked_at_again() {
    let fake = filled();
    let server = fake.serve().await;
    fake.state().races = 2;
    let done = wharf(&server, "label node n1 rack=b7").await;
    assert_eq!((done.code, done.out.as_str()), (0, "node/n1 labeled\n"), "{}", done.err);
    let node = fake.object(Kind::Node, "", "n1").expect("there");
    assert_eq!(
        node["metadata"]["labels"],
        json!({"zone": "north", "disk": "ssd", "race": "0", "rack": "b7"})
    );
    // Someone else takes the key with another value first.
    fake.state().races = 1;
    let done = wharf(&server, "label node n2 race=mine").await;
    assert_eq!(done.code, 1);
    assert!(
        done.err.contains("metadata.labels.race: it is \"0\", not \"mine\""),
        "{}",
        done.err
    );
    fake.state().races = 100;
    let done = wharf(&server, "label node n1 rack=b8 --overwrite").await;
    assert_eq!(done.code, 1, "it ends");
    assert!(done.err.contains("look and try again"), "{}", done.err);
    fake.state().races = 0;
    // The first object's failure does not hide the second.
    fake.state().failures.extend([tonic::Status::internal("broken")]);
    let done = wharf(&server, "label nodes --all x=1").await;
    assert_eq!((done.code, done.err.as_str()), (1, "error: broken\n"));
}

#[tokio::test]
async fn wrong_command_lines() {
    let fake = filled();
    let server = fake.serve().await;
    for (line, err) in [
        (
            "label node n1",
            "error: nothing to change: give KEY=VALUE to set a label",
        ),
        ("label node n1 a=1 a-", "error: \"a\" is changed twice"),
        ("label node n1 a=1 n2", "error: \"n2\" is no KEY=VALUE and no KEY-"),
        ("label node n1 -a=1", "error: unexpected argument '-a'"),
        ("label node n1 a=b/c", "error: \"a=b/c\": value"),
        ("label node n1 /a=b", "error: \"/a=b\": key"),
        ("annotate node n1 /a=b", "error: \"/a=b\": key"),
        ("label node a=1", "error: which objects?"),
        ("label nodes --all --list a=1", "error: --list and changes"),
        ("label nodes n1 --all a=1", "error: a name and -l or --all"),
        ("label", "error: the following required"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{line}");
        assert!(done.err.starts_with(err), "{line}: {}", done.err);
    }
    assert_eq!(fake.state().calls.len(), 0);
}
