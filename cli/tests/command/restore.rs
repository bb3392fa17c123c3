//! `wharf cluster accept-restore` and `orphan`: what is shown first, what is asked, what is sent.

use proto::wire;
use serde_json::Value;

use crate::fake::{Command, Fake, wharf};

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn pod(name: &str) -> wire::PodName {
    wire::PodName {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
    }
}

fn restored(fake: &Fake) {
    fake.state().restore = wire::ShowRestoreReply {
        pending: true,
        restored_at_ms: 1_769_860_800_000,
        taken_at_ms: 1_769_774_400_000,
        cluster_id: CLUSTER.into(),
        nodes: vec![
            wire::RestoredNode {
                name: "n1".into(),
                heard: true,
                known: 3,
                missing: vec![pod("gone")],
                unknown: vec![pod("new")],
            },
            wire::RestoredNode {
                name: "n2".into(),
                ..wire::RestoredNode::default()
            },
        ],
        ..wire::ShowRestoreReply::default()
    };
}

fn accepted(fake: &Fake) -> Vec<String> {
    let calls = fake.state().calls.clone();
    calls.into_iter().filter(|c| c.starts_with("accept-restore")).collect()
}

#[tokio::test]
async fn what_was_found_is_shown_before_it_is_asked() {
    let fake = Fake::new();
    restored(&fake);
    let server = fake.serve().await;
    let done = wharf(&server, "cluster accept-restore --yes").await;
    assert_eq!(done.code, 0, "{}", done.err);
    insta::assert_snapshot!(done.out, @r"
    cluster 0f8fad5b-d9cb-469f-a165-70867728950e, restored 2026-01-31T12:00:00Z from a backup of 2026-01-30T12:00:00Z

    NODE   HEARD   KNOWN   MISSING   UNKNOWN
    n1     yes     3       1         1
    n2     no      ?       ?         ?

    on record, and not running: started again
      default/gone on n1

    running, and not on record: they run on as orphans
      default/new on n1

    1 of 2 nodes were not heard yet: what they run is not known
    restore accepted
    ");
    assert!(done.err.contains("wharf cluster orphan list"), "{}", done.err);
    assert_eq!(accepted(&fake), [format!("accept-restore {CLUSTER} false")]);
    // `wharf status` says it before all else.
    fake.state().orphans = vec![orphan("u1", "a", &[]), orphan("u3", "b", &[])];
    let done = wharf(&server, "status").await;
    assert_eq!(done.code, 1);
    let lines: Vec<&str> = done.out.lines().skip(3).collect();
    assert!(
        lines[0].starts_with("cluster ") && lines[0].contains("wharf cluster accept-restore"),
        "{}",
        done.out
    );
    assert!(
        lines[1].starts_with("orphans ") && lines[1].contains("2 pods on 1 node"),
        "{}",
        done.out
    );
}

#[tokio::test]
async fn nothing_is_accepted_without_a_word() {
    let fake = Fake::new();
    restored(&fake);
    let server = fake.serve().await;
    let done = wharf(&server, "cluster accept-restore").await;
    assert_eq!(done.code, 2);
    assert!(
        done.err.contains("--yes") && done.out.contains("default/new"),
        "{}",
        done.err
    );
    for (typed, code) in [("yes\n", 1), ("", 1), (CLUSTER, 0)] {
        let mut command = Command::new(&[&server.address]).stdin(typed);
        command.env.stdin_is_terminal = true;
        let done = command.run("cluster accept-restore").await;
        assert_eq!(done.code, code, "{typed:?}: {}", done.err);
    }
    assert_eq!(accepted(&fake).len(), 1);
    let done = wharf(&server, "cluster accept-restore --dry-run").await;
    assert!(done.out.ends_with("restore accepted (dry run)\n"), "{}", done.out);
    assert_eq!(accepted(&fake)[1], format!("accept-restore {CLUSTER} true"));

    fake.state().restore = wire::ShowRestoreReply::default();
    let done = wharf(&server, "cluster accept-restore --yes").await;
    assert_eq!(
        (done.code, done.err.as_str()),
        (1, "error: nothing was restored: there is nothing to accept\n")
    );
    fake.state().restore = wire::ShowRestoreReply {
        restored_at_ms: 1,
        accepted_by: "user/admin".into(),
        accepted_at_ms: 1_769_860_800_000,
        ..wire::ShowRestoreReply::default()
    };
    let done = wharf(&server, "cluster accept-restore --yes").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "restore already accepted by user/admin, 2026-01-31T12:00:00Z\n")
    );
    assert_eq!(accepted(&fake).len(), 2);
}

fn orphan(uid: &str, name: &str, containers: &[&str]) -> wire::Orphan {
    wire::Orphan {
        uid: uid.into(),
        namespace: "default".into(),
        name: name.into(),
        node: "n1".into(),
        found_ms: 1_769_860_740_000,
        containers: containers.iter().map(|c| (*c).to_owned()).collect(),
        deleting: uid == "u2",
    }
}

#[tokio::test]
async fn orphans_are_listed_and_named_by_uid_or_name() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let none = wharf(&server, "cluster orphan list").await;
    assert_eq!(
        (none.code, none.out.as_str(), none.err.as_str()),
        (0, "", "no orphans\n")
    );
    fake.state().orphans = vec![
        orphan("u1", "a", &["app", "log"]),
        orphan("u2", "b", &[]),
        orphan("u3", "b", &[]),
    ];
    let done = wharf(&server, "cluster orphan list").await;
    insta::assert_snapshot!(done.out, @r"
    NAMESPACE   NAME   NODE   CONTAINERS   STATUS        AGE   UID
    default     a      n1     app,log      Orphaned      60s   u1
    default     b      n1     <unknown>    Terminating   60s   u2
    default     b      n1     <unknown>    Orphaned      60s   u3
    ");
    let json: Value = serde_json::from_str(&wharf(&server, "cluster orphan list -o json").await.out).expect("JSON");
    assert_eq!(
        (&json["kind"], &json["items"][0]["containers"][1]),
        (&"OrphanList".into(), &"log".into())
    );

    let done = wharf(&server, "cluster orphan adopt default/a").await;
    assert_eq!(done.out, "orphan default/a adopted\n");
    let done = wharf(&server, "cluster orphan delete u3 --dry-run").await;
    assert_eq!(done.out, "orphan default/b deleted (dry run)\n");
    let calls = fake.state().calls.clone();
    assert!(calls.contains(&"adopt u1 false".to_owned()) && calls.contains(&"delete-orphan u3 true".to_owned()));
    for (line, code, words) in [
        ("cluster orphan delete default/b", 1, "2 orphans are called"),
        ("cluster orphan delete default/z", 1, "not found"),
        ("cluster orphan delete", 2, "--all"),
        ("cluster orphan delete a --all", 2, "cannot be used with"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(done.code, code, "{}", done.err);
        assert!(done.err.contains(words), "{}", done.err);
    }
    let done = wharf(&server, "cluster orphan adopt --all").await;
    assert_eq!(done.out.lines().count(), 3);
}
