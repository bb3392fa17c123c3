//! Daemon sets at the service: from creation to deletion, what is refused, what is shown, what a watch hears.

use futures::StreamExt as _;
use proto::{
    model::{Phase, Time},
    wire::{CreateRequest, DeleteRequest, delete_request::Cascade, watch_event::Type},
};
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    api::testing::*,
    plan::change::{Change as Planned, to_store},
    store::{Change, Expect, keys},
    world::{
        daemons::UnplacedRecord,
        record::{OffRecord, OwnerKind, OwnerRecord, encode},
    },
};

fn set(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
        },
    })
}

fn owner(uid: &str) -> Option<OwnerRecord> {
    Some(OwnerRecord {
        kind: OwnerKind::DaemonSet,
        name: "logs".into(),
        uid: uid.into(),
    })
}

#[tokio::test]
async fn what_is_made_is_shown_with_its_defaults_and_counts() {
    let bench = Bench::new().await;
    for (name, ready) in [("n1", true), ("n2", false)] {
        bench.node(name, ready).await;
    }
    let made = bench.make("ds", &set("logs")).await;
    let shown = value(&made);
    assert_eq!(
        (&shown["kind"], &shown["apiVersion"]),
        (&json!("DaemonSet"), &json!("apps/v1"))
    );
    assert_eq!(
        shown["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}})
    );
    assert_eq!(shown["metadata"]["labels"], json!({"app": "web"}));
    bench.pod("logs-a", "n1", owner(&made.uid)).await;
    bench.pod("logs-b", "n2", owner(&made.uid)).await;
    bench.pod("logs-c", "n9", owner(&made.uid)).await;
    for name in ["logs-a", "logs-b"] {
        bench.status(name, Phase::Running, true).await;
    }
    let shown = value(&bench.get("daemonsets", "", "logs").await.expect("there"));
    let mut status = shown["status"].clone();
    let conditions = status["conditions"].take();
    // A node that is not heard has a daemon of which nobody knows.
    assert_eq!(
        status,
        json!({"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 1,
            "updatedNumberScheduled": 0, "numberAvailable": 1, "numberUnavailable": 1, "observedGeneration": 1,
            "conditions": null})
    );
    assert_eq!(
        conditions,
        json!([
            {"type": "Ready", "status": "False", "reason": "NotAllReady",
             "message": "2 of 2 nodes have a daemon, 1 ready"},
            {"type": "Placed", "status": "True", "reason": "Placed"},
        ])
    );
    let listed = bench
        .list(listing("ds", "app=web", "metadata.name=logs"))
        .await
        .expect("listed");
    assert_eq!(listed.items.len(), 1);
    let pod = value(&bench.get("pod", "", "logs-a").await.expect("there"));
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "DaemonSet");
}

#[tokio::test]
async fn what_is_refused_and_what_is_warned_of() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let surge = json!({"rollingUpdate": {"maxSurge": 1}});
    for (manifest, what) in [
        (
            with(set("logs"), "/spec/selector", json!({"matchLabels": {"app": "x"}})),
            "daemonset \"logs\" is invalid: spec.selector: app=x does not match spec.template.metadata.labels",
        ),
        (
            with(set("logs"), "/spec/template/spec/restartPolicy", json!("Never")),
            "daemonset \"logs\" is invalid: spec.template.spec.restartPolicy: must be Always in a controller's template",
        ),
        (
            with(set("logs"), "/spec/updateStrategy", surge),
            "daemonset \"logs\" is invalid: spec.updateStrategy.rollingUpdate.maxSurge: not supported by Wharfinger yet; leave it out",
        ),
        (
            with(set("logs"), "/apiVersion", json!("v1")),
            "daemonset \"logs\" is invalid: apiVersion: must be apps/v1, not \"v1\"",
        ),
    ] {
        let found = refused(bench.create(creating("ds", &manifest)).await);
        assert_eq!(found, (Code::InvalidArgument, what.to_owned()));
    }
    let dry = CreateRequest {
        dry_run: true,
        ..creating("ds", &set("logs"))
    };
    bench.create(dry).await.expect("it would be made");
    assert!(bench.store.values("obj/daemonset/").is_empty());
    bench.make("ds", &set("logs")).await;
    let again = refused(bench.create(creating("ds", &set("logs"))).await);
    assert_eq!(
        again,
        (Code::AlreadyExists, "daemonsets \"logs\" already exists".to_owned())
    );
    let elsewhere = json!({"spec": {"selector": {"matchLabels": {"app": null, "x": "y"}}}});
    assert_eq!(
        refused(bench.patch(patching("ds", "logs", &elsewhere)).await),
        (
            Code::InvalidArgument,
            "daemonset \"logs\" is invalid: spec.selector: does not change (it is app=web); create another daemonset and \
             delete this one; spec.selector: x=y does not match spec.template.metadata.labels"
                .to_owned()
        )
    );
}

#[tokio::test]
async fn replace_and_patch_change_the_template_and_its_generation() {
    let bench = Bench::new().await;
    bench.make("ds", &set("logs")).await;
    let newer = with(set("logs"), "/spec/template/spec/containers/0/image", json!("i:2"));
    let shown = value(&bench.replace(replacing("ds", &newer)).await.expect("replaced"));
    assert_eq!(
        (&shown["metadata"]["generation"], &shown["status"]["observedGeneration"]),
        (&json!(2), &json!(2))
    );
    let patch = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "50%"}}}});
    let shown = value(&bench.patch(patching("ds", "logs", &patch)).await.expect("patched"));
    assert_eq!(
        shown["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"],
        "50%"
    );
    assert_eq!(shown["metadata"]["generation"], 3);
    let labels = json!({"metadata": {"labels": {"tier": "base"}}});
    let shown = value(&bench.patch(patching("ds", "logs", &labels)).await.expect("labelled"));
    assert_eq!(
        (&shown["metadata"]["generation"], &shown["metadata"]["labels"]["tier"]),
        (&json!(3), &json!("base"))
    );
    let stored = bench.store.values("obj/daemonset/");
    assert_eq!(stored.len(), 1);
    assert!(stored[0].get("status").is_none(), "status is derived, not stored");
}

#[tokio::test]
async fn deleted_with_its_pods_or_without() {
    let bench = Bench::new().await;
    let made = bench.make("ds", &set("logs")).await;
    let unplaced = Planned::Unplaced {
        key: ("default".into(), "logs".into()),
        before: None,
        record: UnplacedRecord {
            uid: made.uid.clone(),
            words: "n1: host port 80 taken".into(),
        },
    };
    bench.put(to_store(&[unplaced])).await;
    let shown = value(&bench.get("ds", "", "logs").await.expect("there"));
    assert_eq!(shown["status"]["conditions"][1]["message"], "n1: host port 80 taken");
    let orphan = DeleteRequest {
        cascade: Cascade::Orphan.into(),
        ..deleting("ds", "logs")
    };
    let shown = value(&bench.delete(orphan).await.expect("marked"));
    assert_eq!(shown["metadata"]["finalizers"], json!(["orphan"]));
    // What was promised is kept.
    bench.delete(deleting("ds", "logs")).await.expect("no change");
    let shown = value(&bench.get("ds", "", "logs").await.expect("there"));
    assert!(shown["metadata"]["deletionTimestamp"].is_string());
    let image = json!({"spec": {"minReadySeconds": 3}});
    let (code, _) = refused(bench.patch(patching("ds", "logs", &image)).await);
    assert_eq!(code, Code::FailedPrecondition);

    bench.make("ds", &set("other")).await;
    bench
        .put(vec![Change::put(
            keys::unplaced("default", "other"),
            Expect::Any,
            "{\"uid\":\"\",\"words\":\"x\"}",
        )])
        .await;
    bench.delete(deleting("ds", "other")).await.expect("removed");
    let left: Vec<String> = bench
        .store
        .keys()
        .into_iter()
        .filter(|k| k.contains("/other"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[tokio::test]
async fn a_nodes_daemons_do_not_keep_it() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let made = bench.make("ds", &set("logs")).await;
    bench.pod("logs-a", "n1", owner(&made.uid)).await;
    bench.pod("web-a", "n1", None).await;
    let (code, message) = refused(bench.delete(deleting("node", "n1")).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        message.starts_with("nodes \"n1\": 1 pod is still bound to it"),
        "{message}"
    );
    let at = keys::object(proto::model::Kind::Pod, "default", "web-a");
    bench.put(vec![Change::delete(at, Expect::Any)]).await;
    bench.delete(deleting("node", "n1")).await.expect("removed");
    let deserted = bench.hub.read(|w| w.pods.values().all(|p| w.deserted(p)));
    assert!(deserted, "what runs there is still to be stopped");
}

#[tokio::test]
async fn a_watch_hears_of_pods_and_nodes_by_which_the_counts_change() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let made = bench.make("ds", &set("logs")).await;
    let mut watch = bench.watch(listing("ds", "", "")).await.expect("a watch");
    let mut next = async || {
        loop {
            let event = watch.next().await.expect("an event").expect("no error");
            if event.r#type() != Type::Bookmark {
                let status = value(&event.object.expect("an object"))["status"].clone();
                return [
                    status["desiredNumberScheduled"].clone(),
                    status["currentNumberScheduled"].clone(),
                    status["numberReady"].clone(),
                ];
            }
        }
    };
    assert_eq!(next().await, [1, 0, 0].map(Value::from));
    bench.pod("logs-a", "n1", owner(&made.uid)).await;
    assert_eq!(next().await, [1, 1, 0].map(Value::from));
    bench.status("logs-a", Phase::Running, true).await;
    assert_eq!(next().await, [1, 1, 1].map(Value::from));
    bench.node("n2", true).await;
    assert_eq!(next().await, [2, 1, 1].map(Value::from));
    bench.node("n1", false).await;
    assert_eq!(next().await, [2, 1, 0].map(Value::from));
    let off = OffRecord {
        by: "user/admin".into(),
        at: Time(1),
    };
    bench
        .put(vec![Change::put(keys::off("n1"), Expect::Any, encode(&off))])
        .await;
    assert_eq!(next().await, [1, 0, 0].map(Value::from));
    bench.delete(deleting("node", "n2")).await.expect("removed");
    assert_eq!(next().await, [0, 0, 0].map(Value::from));
}
