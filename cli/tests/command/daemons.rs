//! Daemon sets as any kind: its names, tables, logs and ends.

use proto::model::Kind;
use serde_json::{Value, json};

use crate::fake::{Command, Fake, pod, wharf};

fn set() -> Value {
    json!({
        "metadata": {"name": "logs", "namespace": "default", "creationTimestamp": "2026-01-31T11:50:00Z"},
        "spec": {
            "selector": {"matchLabels": {"app": "logs"}},
            "template": {"metadata": {"labels": {"app": "logs"}},
                "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "logs:1"}]}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        },
        "status": {"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1,
            "updatedNumberScheduled": 2, "numberAvailable": 1, "numberUnavailable": 2, "conditions": [
                {"type": "Ready", "status": "False", "reason": "NotAllReady", "message": "2 of 3 nodes have a daemon, 1 ready; n3: host port 80 taken"},
                {"type": "Placed", "status": "False", "reason": "FailedPlacement", "message": "n3: host port 80 taken"}]},
    })
}

fn filled() -> Fake {
    let fake = Fake::new();
    fake.put(Kind::DaemonSet, set());
    let mut daemon = pod("default", "logs-b", "logs", "n1");
    daemon["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "logs",
        "uid": "uid-1", "controller": true}]);
    fake.put(Kind::Pod, daemon);
    fake
}

#[tokio::test]
async fn tables_and_names() {
    let server = filled().serve().await;
    let wide = "NAME   DESIRED   CURRENT   READY   UP-TO-DATE   AVAILABLE   NODE SELECTOR   AGE   CONTAINERS   IMAGES   SELECTOR\n\
                logs   3         2         1       2            1           disk=ssd        10m   c            logs:1   app=logs\n";
    for (line, expected) in [
        ("get ds -o wide", wide),
        ("get daemonset logs -o wide", wide),
        ("get daemonsets -o name", "daemonset/logs\n"),
        ("get all -o name", "pod/logs-b\ndaemonset/logs\n"),
        (
            "get ds/logs --no-headers",
            "logs   3   2   1   2   1   disk=ssd   10m\n",
        ),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out.as_str()), (0, expected), "{line}: {}", done.err);
    }
    let json: Value = serde_json::from_str(&wharf(&server, "get ds logs -o json").await.out).expect("JSON");
    assert_eq!(
        (&json["apiVersion"], &json["kind"]),
        (&json!("apps/v1"), &json!("DaemonSet"))
    );
    let text = wharf(&server, "describe ds logs").await.out;
    for words in [
        "Update Strategy:      RollingUpdate, at most 1 unavailable\n",
        "Pods Status:          1 Running / 0 Waiting / 0 Succeeded / 0 Failed\n",
        "n3: host port 80 taken",
    ] {
        assert!(text.contains(words), "{text}");
    }
    let page = wharf(&server, "status").await;
    assert_eq!(page.code, 1);
    assert!(
        page.out.contains("ds/logs")
            && page
                .out
                .contains("1 of 3 ready: 1 running, not ready, 1 not made yet; n3: host port 80 taken"),
        "{}",
        page.out
    );
}

#[tokio::test]
async fn a_manifest_is_checked_where_it_stands_and_applied() {
    let server = Fake::new().serve().await;
    let manifest = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: logs}\nspec:\n  revisionHistoryLimit: 10\n  \
                    selector: {matchLabels: {app: logs}}\n  template:\n    metadata: {labels: {app: logs}}\n    spec: \
                    {containers: [{name: c, image: \"logs:1\"}]}\n";
    let run = async |manifest: &str, line: &str| {
        let manifest: &'static str = String::leak(manifest.to_owned());
        Command::new(&[&server.address]).stdin(manifest).run(line).await
    };
    let bad = manifest.replace(
        "selector: {matchLabels: {app: logs}}",
        "updateStrategy: {rollingUpdate: {maxSurge: 1}}",
    );
    let refused = run(&bad, "create -f -").await;
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains(
            "daemonset \"logs\": spec.updateStrategy.rollingUpdate.maxSurge: not supported by Wharfinger yet"
        ),
        "{}",
        refused.err
    );
    let done = run(manifest, "apply -f -").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "daemonset/logs created\n"),
        "{}",
        done.err
    );
    assert!(
        done.err.contains("no effect here, left out: spec.revisionHistoryLimit"),
        "{}",
        done.err
    );
    let done = run(manifest, "apply -f -").await;
    assert_eq!(done.out, "daemonset/logs unchanged\n", "{}", done.err);
    for (line, expected) in [
        ("label ds logs tier=base", "daemonset/logs labeled\n"),
        ("annotate ds/logs note=x", "daemonset/logs annotated\n"),
        ("delete ds logs --wait=false", "daemonset \"logs\" deleted\n"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out.as_str()), (0, expected), "{line}: {}", done.err);
    }
    let scaled = wharf(&server, "scale ds logs --replicas 3").await;
    assert_eq!(
        (scaled.code, scaled.err.as_str()),
        (2, "error: daemonsets cannot be scaled; rc can\n")
    );
}
