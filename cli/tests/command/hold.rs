//! `cordon`, `uncordon` and `hold`.

use std::collections::BTreeSet;

use proto::model::Kind;
use serde_json::{Value, json};

use crate::fake::{Command, Fake, wharf};

fn filled() -> Fake {
    let fake = Fake::new();
    let hold = |kind: &str, owner: &str, reason: &str| json!({"kind": kind, "owner": owner, "reason": reason, "since": "2026-01-31T11:00:00Z"});
    let node = |name: &str, rack: &str, holds: Value| {
        json!({"metadata": {"name": name, "labels": {"rack": rack}}, "status": {
            "holds": holds, "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    let m17 = hold("maintenance", "m-17", "replace DIMM B2");
    let bob = hold("cordon", "user/bob", "");
    fake.put(Kind::Node, node("n1", "a", json!([])));
    fake.put(Kind::Node, node("n2", "a", json!([m17.clone()])));
    fake.put(Kind::Node, node("n3", "b", json!([bob, m17])));
    fake
}

#[tokio::test]
async fn every_change_is_one_line_and_may_be_repeated() {
    let fake = filled();
    let server = fake.serve().await;
    let m17 = "still SchedulingDisabled: maintenance m-17, replace DIMM B2";
    for (line, out) in [
        ("cordon n1 --dry-run", "node/n1 cordoned (dry run)\n".to_owned()),
        ("cordon n1 --reason disk", "node/n1 cordoned\n".into()),
        ("cordon node/n1 --reason disk", "node/n1 already cordoned\n".into()),
        (
            "cordon no/n1 --reason disk --dry-run",
            "node/n1 already cordoned\n".into(),
        ),
        ("uncordon n1 --dry-run", "node/n1 uncordoned (dry run)\n".into()),
        ("uncordon n1", "node/n1 uncordoned\n".into()),
        ("uncordon n1", "node/n1 already uncordoned\n".into()),
        ("cordon n1 n2", "node/n1 cordoned\nnode/n2 cordoned\n".into()),
        (
            "uncordon -l rack=a",
            format!("node/n1 uncordoned\nnode/n2 uncordoned ({m17})\n"),
        ),
        (
            "uncordon n3",
            "node/n3 already uncordoned (still SchedulingDisabled: cordon by bob; maintenance m-17, replace DIMM B2)\n"
                .into(),
        ),
        ("uncordon n3 --all-owners", format!("node/n3 uncordoned ({m17})\n")),
        ("hold add n1 --reason disk --expires 90s", "node/n1 held\n".into()),
        ("hold add n1 --reason disk", "node/n1 already held\n".into()),
        ("hold release n1 --dry-run", "node/n1 hold released (dry run)\n".into()),
        ("hold release node/n1", "node/n1 hold released\n".into()),
        ("hold release n1", "node/n1 hold already released\n".into()),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out, done.err.as_str()), (0, out, ""), "{line}");
    }
    // Each request has an id of its own, so that a repeat after a lost answer is safe.
    let calls = fake.state().calls.clone();
    let writes: Vec<_> = calls.iter().filter(|c| !c.starts_with("list")).collect();
    let ids: BTreeSet<_> = writes.iter().filter_map(|c| c.split(' ').nth(2)).collect();
    assert_eq!((ids.len(), ids.contains("")), (writes.len(), false));
    assert!(writes.iter().any(|c| c.ends_with(" \"disk\" 90000")), "{writes:?}");
}

#[tokio::test]
async fn refusals_are_one_line_and_the_others_go_on() {
    let fake = filled();
    let server = fake.serve().await;
    for (line, code, out, err) in [
        (
            "cordon n9 n1",
            1,
            "node/n1 cordoned\n",
            "error: nodes \"n9\" not found\n",
        ),
        ("uncordon n9", 1, "", "error: nodes \"n9\" not found\n"),
        (
            "hold release n3 cordon/user/bob",
            1,
            "",
            "error: nodes \"n3\": not yours\n",
        ),
        (
            "cordon pod/x",
            2,
            "",
            "error: \"pod/x\" is no node; give the name of one, e.g. n1 or node/n1\n",
        ),
        ("cordon -l rack=z", 0, "", "No resources found\n"),
        ("hold list n9", 1, "", "error: nodes \"n9\" not found\n"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (code, out, err),
            "{line}"
        );
    }
    for (line, expected) in [
        (
            "cordon n1 --expires soon",
            "expected a duration such as 250ms, 30s, 5m or 1h30m",
        ),
        ("cordon n1 --expires 0s", "expected more than 0s; leave it out"),
        ("cordon", "required"),
        ("cordon n1 -l rack=a", "cannot be used with"),
        ("hold add n1", "--reason"),
        ("hold release", "<NODE>"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{line}");
        assert!(done.err.contains(expected), "{line}: {}", done.err);
    }
    assert!(fake.state().calls.iter().all(|c| !c.contains("pod")));
}

#[tokio::test]
async fn holds_are_listed_in_every_form() {
    let fake = filled();
    let server = fake.serve().await;
    let mut ending = fake.object(Kind::Node, "", "n1").expect("there");
    ending["status"]["holds"] = json!([{"kind": "automation", "owner": "user/robot", "reason": "a\u{1b}b",
        "since": "2026-01-31T11:58:00Z", "expires": "2026-01-31T12:30:00Z"}]);
    fake.put(Kind::Node, ending);
    let all = wharf(&server, "hold list").await;
    insta::assert_snapshot!(all.out, @r"
    NODE   ID                      AGE   EXPIRES   REASON
    n1     automation/user/robot   2m    in 30m    a?b
    n2     maintenance/m-17        60m   never     replace DIMM B2
    n3     cordon/user/bob         60m   never     <none>
    n3     maintenance/m-17        60m   never     replace DIMM B2
    ");
    let names = wharf(&server, "hold list -l rack=b -o name").await;
    assert_eq!(names.out, "node/n3 cordon/user/bob\nnode/n3 maintenance/m-17\n");
    let json = wharf(&server, "hold list n1 -o json").await;
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["kind"], "List");
    assert_eq!(
        json["items"][0],
        json!({"apiVersion": "wharfinger.io/v1", "kind": "NodeHold",
            "metadata": {"name": "automation/user/robot", "creationTimestamp": "2026-01-31T11:58:00Z"},
            "spec": {"node": "n1", "kind": "automation", "owner": "user/robot", "reason": "a\u{1b}b",
                "since": "2026-01-31T11:58:00Z", "expires": "2026-01-31T12:30:00Z"}})
    );
    let status = wharf(&server, "get node n1 n2").await;
    assert_eq!(
        status.out.matches("Ready,SchedulingDisabled").count(),
        2,
        "{}",
        status.out
    );
    let words = ["hold", "release", "node/n3", "cordon/user/bob", "--any-owner"].map(str::to_owned);
    let released = Command::new(&[&server.address]).run_words(words.into_iter()).await;
    assert_eq!(
        released.out,
        "node/n3 hold released (still SchedulingDisabled: maintenance m-17, replace DIMM B2)\n"
    );
    fake.put(Kind::Node, json!({"metadata": {"name": "n4"}}));
    let none = wharf(&server, "hold list n4").await;
    assert_eq!(
        (none.code, none.out.as_str(), none.err.as_str()),
        (0, "", "No holds found\n")
    );
}
