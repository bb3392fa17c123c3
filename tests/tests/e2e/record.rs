//! What an operator looks at: the audit record, settings that act while all runs, a freeze, and the status page.

use harness::{Cluster, cluster::controller, eventually};
use serde_json::Value;

fn audit(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let mut words = vec!["audit", "-o", "json"];
    words.extend(args);
    let text = cluster.wharf(&words).ok();
    let list: Value = serde_json::from_str(&text).expect("JSON");
    list["items"].as_array().cloned().unwrap_or_default()
}

#[test]
fn the_record_and_the_status_page_tell_what_was_done() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 1, &["serve"])).ok();
    cluster.settled(1);
    eventually("all is well", || {
        let status = cluster.wharf(&["status"]);
        if status.code == 0 {
            Ok(())
        } else {
            Err(format!("{}{}", status.stdout, status.stderr))
        }
    });

    cluster
        .wharf(&["scale", "rc", "web", "--replicas=2", "--reason", "Ostern für alle"])
        .ok();
    cluster.settled(2);
    cluster
        .wharf(&[
            "patch",
            "node",
            "n1",
            "-p",
            r#"{"spec":{"unschedulable":true}}"#,
            "--reason",
            "RAM swap",
        ])
        .ok();
    let scaled = audit(&cluster, &["--object", "rc/web"]).pop().expect("a record");
    let field = |name: &str| scaled[name].clone();
    assert_eq!(
        (field("verb"), field("caller"), field("reason")),
        ("scale".into(), "user/admin".into(), "Ostern für alle".into())
    );
    assert_eq!(
        (&scaled["before"]["replicas"], &scaled["after"]["replicas"]),
        (&1.into(), &2.into())
    );
    let node = audit(&cluster, &["--object", "node/n1"]);
    let verbs: Vec<_> = node.iter().map(|e| e["verb"].clone()).collect();
    assert_eq!(verbs, ["join", "patch"], "the newest last");
    assert_eq!(node[1]["reason"], "RAM swap");
    let held = cluster.wharf(&["status"]);
    assert_eq!(held.code, 1, "a held node is listed: {}", held.stdout);
    assert!(
        held.stdout.contains("node/n1") && held.stdout.contains("wharf uncordon n1"),
        "{}",
        held.stdout
    );

    assert_eq!(
        cluster.wharf(&["freeze", "--reason", "power work"]).ok(),
        "cluster frozen\n"
    );
    let frozen = cluster.wharf(&["status"]);
    assert_eq!(frozen.code, 1);
    assert!(
        frozen.stdout.contains("frozen by admin: power work"),
        "{}",
        frozen.stdout
    );
    // The freeze is durable, and so is what is set.
    cluster.wharf(&["settings", "set", "brake-share=20%"]).ok();
    cluster.kill_coordinator();
    cluster.start_coordinator();
    assert_eq!(
        cluster.wharf(&["freeze", "--reason", "power work"]).ok(),
        "cluster already frozen\n"
    );
    assert!(cluster.wharf(&["settings", "show", "brake-share"]).ok().contains("20%"));
    assert_eq!(cluster.wharf(&["unfreeze"]).ok(), "cluster unfrozen\n");

    // A short freeze ends by itself, on record, by the coordinator.
    cluster.wharf(&["freeze", "--reason", "a moment", "--for", "1s"]).ok();
    eventually("the freeze ended by itself", || {
        let ended = audit(&cluster, &["--object", "freeze", "--user", "coordinator"]);
        match ended.last() {
            Some(entry) if entry["verb"] == "unfreeze" => Ok(()),
            _ => Err(format!("{ended:?}")),
        }
    });
    assert_eq!(cluster.wharf(&["unfreeze"]).ok(), "cluster is not frozen\n");

    cluster.wharf(&["delete", "rc", "web"]).ok();
    cluster.settled(0);
    let deleted = audit(&cluster, &["--object", "rc/web"]).pop().expect("a record");
    assert_eq!(
        (&deleted["verb"], &deleted["before"]["spec"]["replicas"]),
        (&"delete".into(), &2.into())
    );
    cluster.wharf(&["settings", "set", "event-keep=1s"]).ok();
    eventually("old events go once event-keep is short", || {
        let events = cluster.items("events");
        if events.iter().any(|e| e["reason"] == "SuccessfulCreate") {
            Err(format!("{} events", events.len()))
        } else {
            Ok(())
        }
    });
}
