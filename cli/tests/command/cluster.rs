//! `wharf status`, `settings`, `freeze`, `audit`, and `--reason`.

use proto::{model::Kind, wire};
use serde_json::{Value, json};

use crate::fake::{Command, Fake, NOW, pod, rc, wharf};

async fn serve() -> (Fake, crate::fake::Server) {
    let fake = Fake::new();
    let server = fake.serve().await;
    (fake, server)
}

fn ready_node(name: &str, ready: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {}, "status": {"conditions":
        [{"type": "Ready", "status": ready, "reason": "AgentDown", "lastTransitionTime": "2026-01-31T11:59:00Z"}]}})
}

#[tokio::test]
async fn a_coordinator_is_removed_by_name() {
    let (fake, server) = serve().await;
    let done = wharf(&server, "cluster remove-coordinator c9 c2 --reason burnt").await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (1, "coordinator/c2 removed\n", "error: coordinators \"c9\" not found\n")
    );
    assert_eq!(fake.state().reasons, ["burnt", "burnt"]);
    let done = wharf(&server, "cluster remove-coordinator c2 --dry-run").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "coordinator/c2 removed (dry run)\n")
    );
    let removals = |s: &crate::fake::Fake| -> Vec<String> {
        let calls = s.state().calls.clone();
        calls
            .into_iter()
            .filter(|c| c.starts_with("remove-coordinator"))
            .collect()
    };
    let expected = [
        "remove-coordinator c9",
        "remove-coordinator c2",
        "remove-coordinator c2 dry",
    ];
    assert_eq!(removals(&fake), expected);
    assert_eq!(wharf(&server, "cluster remove-coordinator").await.code, 2);
    assert_eq!(wharf(&server, "cluster").await.code, 2);
}

#[tokio::test]
async fn status_says_by_its_exit_status_whether_all_is_well() {
    let (fake, server) = serve().await;
    fake.put(Kind::Node, ready_node("n1", "True"));
    fake.put(Kind::ReplicationController, rc("web", 1));
    let mut web = pod("default", "web-1", "web", "n1");
    web["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    fake.put(Kind::Pod, web);
    let done = wharf(&server, "status").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "all is well: 1 node, 1 controller, 1 pod\n"),
        "{}",
        done.err
    );

    fake.put(Kind::Node, ready_node("n1", "False"));
    let done = wharf(&server, "status").await;
    assert_eq!((done.code, done.err.as_str()), (1, ""));
    insta::assert_snapshot!(done.out, @r"
    1 problem: 1 node (0 ready), 1 controller, 1 pod

    OBJECT    SINCE   REMEDY                   WHAT
    node/n1   60s     wharf describe node n1   NotReady (AgentDown)
    ");
    let json = wharf(&server, "status -o json").await;
    assert_eq!((json.code, json.err.as_str()), (1, ""));
    let object: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(
        (&object["kind"], &object["well"]),
        (&json!("ClusterStatus"), &json!(false))
    );
    assert_eq!(object["problems"][0]["object"], "node/n1");

    fake.put(Kind::Node, ready_node("n1", "True"));
    wharf(&server, "freeze --reason x").await;
    let frozen = wharf(&server, "status").await;
    assert_eq!(frozen.code, 1, "a freeze is not well");
    assert!(
        frozen.out.lines().nth(3).is_some_and(|l| l.starts_with("freeze ")),
        "{}",
        frozen.out
    );
}

#[tokio::test]
async fn status_without_a_leader_is_status_4() {
    let (fake, server) = serve().await;
    fake.state().standby = true;
    let done = wharf(&server, "status").await;
    assert_eq!(done.code, 4);
    assert!(done.err.contains("no coordinator leads"), "{}", done.err);
    let address = server.address.clone();
    drop(server);
    assert_eq!(Command::new(&[&address]).run("status").await.code, 4);
}

#[tokio::test]
async fn settings_are_shown_set_and_unset() {
    let (_fake, server) = serve().await;
    let set = wharf(&server, "settings set event-keep=1h heartbeat=1s").await;
    assert_eq!(
        (set.code, set.out.as_str()),
        (0, "setting/event-keep set\nsetting/heartbeat set\n"),
        "{}",
        set.err
    );
    let again = wharf(&server, "settings set event-keep=1h").await;
    assert_eq!(again.out, "setting/event-keep unchanged\n");
    let shown = wharf(&server, "settings show -o wide").await;
    insta::assert_snapshot!(shown.out, @r"
    NAME           VALUE   DEFAULT   SET   ABOUT
    brake-period   1m      1m        no    About brake-period.
    brake-share    10%     10%       no    About brake-share.
    event-keep     1h      3days     yes   About event-keep.
    heartbeat      1s      2s        yes   About heartbeat.
    ");
    let dry = wharf(&server, "settings unset event-keep --dry-run").await;
    assert_eq!(dry.out, "setting/event-keep unset (dry run)\n");
    let one: Value = serde_json::from_str(&wharf(&server, "settings show event-keep -o json").await.out).expect("JSON");
    assert_eq!(
        (&one["kind"], &one["value"], &one["set"]),
        (&json!("Setting"), &json!("1h"), &json!(true))
    );
    wharf(&server, "settings unset event-keep heartbeat").await;
    let names = wharf(&server, "settings show -o name").await.out;
    assert_eq!(
        names,
        "setting/brake-period\nsetting/brake-share\nsetting/event-keep\nsetting/heartbeat\n"
    );
    for (line, code, words) in [
        (
            "settings show hartbeat",
            1,
            "settings \"hartbeat\" not found; did you mean `heartbeat`?",
        ),
        ("settings set x=1", 1, "settings: no setting \"x\""),
        ("settings set heartbeat", 2, "must be NAME=VALUE"),
        ("settings set heartbeat=1s heartbeat=2s", 2, "named twice"),
    ] {
        let done = wharf(&server, line).await;
        assert!(
            done.code == code && done.err.contains(words),
            "{line}: {} {}",
            done.code,
            done.err
        );
    }
}

#[tokio::test]
async fn freeze_and_unfreeze_say_what_they_did() {
    let (fake, server) = serve().await;
    for (line, code, said) in [
        ("unfreeze", 0, "cluster is not frozen\n"),
        (
            "freeze --reason power --for 2h --dry-run",
            0,
            "cluster frozen (dry run)\n",
        ),
        ("freeze --reason power", 0, "cluster frozen\n"),
        ("freeze --reason power", 0, "cluster already frozen\n"),
        ("unfreeze", 0, "cluster unfrozen\n"),
        ("freeze", 2, ""),
        ("freeze --reason power --for 0", 2, ""),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out.as_str()), (code, said), "{line}: {}", done.err);
    }
    let calls = fake.state().calls.clone();
    assert_eq!(calls[1], "freeze 7200000 \"power\"");
}

fn entry(at_ms: u64, verb: &str, object: &str, reason: &str) -> wire::AuditEntry {
    wire::AuditEntry {
        at_ms,
        caller: "user/admin".into(),
        verb: verb.into(),
        object: object.into(),
        reason: reason.into(),
        detail: "replicas 2 -> 9".into(),
        before: r#"{"replicas":2}"#.into(),
        after: r#"{"replicas":9}"#.into(),
    }
}

#[tokio::test]
async fn audit_shows_the_newest_last() {
    let (fake, server) = serve().await;
    let none = wharf(&server, "audit").await;
    assert_eq!((none.code, none.err.as_str()), (0, "No audit entries found\n"));
    let now = NOW as u64 * 1000;
    fake.state().audit = vec![
        entry(now, "scale", "replicationcontrollers/default/web", "sale"),
        entry(now - 60_000, "cordon", "nodes/n1", ""),
        entry(now - 120_000, "set", "settings", "rack move"),
    ];
    let all = wharf(&server, "audit").await;
    insta::assert_snapshot!(all.out, @r"
    TIME                   WHO          VERB     OBJECT                               REASON
    2026-01-31T11:58:00Z   user/admin   set      settings                             rack move
    2026-01-31T11:59:00Z   user/admin   cordon   nodes/n1                             <none>
    2026-01-31T12:00:00Z   user/admin   scale    replicationcontrollers/default/web   sale
    ");
    assert_eq!(all.err, "");
    let wide = wharf(
        &server,
        "audit -o wide --limit 1 --since 1h --object no/n1 --user admin",
    )
    .await;
    insta::assert_snapshot!(wide.out, @r"
    TIME                   WHO          VERB    OBJECT                               REASON   DETAIL
    2026-01-31T12:00:00Z   user/admin   scale   replicationcontrollers/default/web   sale     replicas 2 -> 9
    ");
    assert_eq!(wide.err, "there are older ones: see --limit and --since\n");
    let asked = fake.state().calls.last().cloned().unwrap_or_default();
    assert_eq!(
        asked,
        format!("audit 1 {} \"nodes/n1\" \"user/admin\" \"\"", now - 3_600_000)
    );
    let list: Value = serde_json::from_str(&wharf(&server, "audit -o json").await.out).expect("JSON");
    assert_eq!(list["items"][2]["after"], json!({"replicas": 9}));
    assert_eq!(wharf(&server, "audit --limit 0").await.code, 2);
}

#[tokio::test]
async fn a_reason_goes_with_every_write_and_no_read() {
    let (fake, server) = serve().await;
    fake.put(Kind::ReplicationController, rc("web", 1));
    let words = |line: &'static [&'static str]| line.iter().map(|w| (*w).to_owned());
    for line in [
        &["scale", "rc", "web", "--replicas=2", "--reason", "Ostern für alle"][..],
        &["--reason", "gone", "delete", "rc", "web", "--wait=false"],
        &["settings", "set", "heartbeat=1s", "--reason", "tests"],
        &["freeze", "--reason", "power"],
    ] {
        let done = Command::new(&[&server.address]).run_words(words(line)).await;
        assert_eq!(done.code, 0, "{}", done.err);
    }
    assert_eq!(fake.state().reasons, ["Ostern f%C3%BCr alle", "gone", "tests", "power"]);
    wharf(&server, "get pods --reason x").await;
    assert_eq!(fake.state().reasons.len(), 4);
    let long = format!("unfreeze --reason {}", "x".repeat(1001));
    let done = wharf(&server, &long).await;
    assert_eq!(done.code, 2);
    assert!(
        done.err.contains("--reason: must have at most 1000 bytes"),
        "{}",
        done.err
    );
}
