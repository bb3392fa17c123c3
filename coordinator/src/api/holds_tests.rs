//! The service, and `spec.unschedulable` through Replace and Patch.

use std::time::Duration;

use proto::wire::resources_server::Resources as _;
use serde_json::{Value, json};
use tonic::Code;

use super::*;
use crate::{
    api::{Settings, testing::*},
    store::{Change, Expect, keys},
};

fn as_<T>(caller: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(As(caller));
    request
}

fn service(bench: &Bench) -> HoldService {
    HoldService(Arc::clone(&bench.api))
}

fn told(reply: Result<Response<HoldReply>, Status>) -> (bool, Vec<String>) {
    let reply = reply.expect("allowed").into_inner();
    (reply.changed, reply.holds.into_iter().map(|h| h.id).collect())
}

async fn cordon(bench: &Bench, by: &'static str, reason: &str) -> (bool, Vec<String>) {
    let request = CordonRequest {
        name: "n1".into(),
        reason: reason.into(),
        ..CordonRequest::default()
    };
    told(service(bench).cordon(as_(by, request)).await)
}

async fn uncordon(bench: &Bench, by: &'static str, all_owners: bool) -> (bool, Vec<String>) {
    let request = UncordonRequest {
        name: "n1".into(),
        all_owners,
        ..UncordonRequest::default()
    };
    told(service(bench).uncordon(as_(by, request)).await)
}

async fn node(bench: &Bench) -> Value {
    value(&bench.get("node", "", "n1").await.expect("there"))
}

const ANN: &str = "user/ann";
const BOB: &str = "user/bob";

/// A maintenance's, as control would make it.
async fn maintenance(bench: &Bench) {
    let hold = json!({"kind": "maintenance", "owner": "m-17", "reason": "DIMM", "since": "2026-01-31T12:00:00Z"});
    let present = bench.hub.read(|w| held::present(&w.nodes["n1"]));
    let mut holds = serde_json::to_value(present).expect("JSON");
    holds["maintenance/m-17"] = hold;
    let change = Change::put(keys::holds("n1"), Expect::Any, holds.to_string());
    bench.put(vec![change]).await;
}

#[tokio::test]
async fn each_has_a_cordon_of_his_own() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    assert_eq!(
        cordon(&bench, ANN, "RAM swap").await,
        (true, vec!["cordon/user/ann".into()])
    );
    assert!(!cordon(&bench, ANN, "RAM swap").await.0, "with the same words");
    assert!(!cordon(&bench, ANN, "").await.0, "without words");
    assert!(cordon(&bench, ANN, "disk").await.0, "with other words");
    let both = vec!["cordon/user/ann".to_owned(), "cordon/user/bob".to_owned()];
    assert_eq!(cordon(&bench, BOB, "").await, (true, both));
    maintenance(&bench).await;
    let shown = node(&bench).await;
    assert_eq!(shown["spec"]["unschedulable"], true);
    assert_eq!(shown["status"]["holds"][0]["reason"], "disk");
    let left = vec!["cordon/user/bob".to_owned(), "maintenance/m-17".to_owned()];
    assert_eq!(uncordon(&bench, ANN, false).await, (true, left.clone()));
    assert_eq!(uncordon(&bench, ANN, false).await, (false, left));
    assert_eq!(
        uncordon(&bench, ANN, true).await,
        (true, vec!["maintenance/m-17".into()])
    );
    let shown = node(&bench).await;
    assert_eq!(
        shown["spec"].get("unschedulable"),
        None,
        "a cordon makes it so, not any hold"
    );
    assert_eq!(shown["status"]["holds"][0]["owner"], "m-17");
    let stored = bench.store.values("obj/node/");
    assert_eq!(stored[0]["spec"], json!({}), "what is derived is not stored");
    let audit = bench.store.values("audit/");
    let told: Vec<_> = audit
        .iter()
        .map(|a| (a["verb"].as_str(), a["detail"].as_str()))
        .collect();
    assert_eq!(audit.len(), 5, "{audit:?}");
    for expected in [
        (Some("cordon"), Some("made: cordon by ann: RAM swap")),
        (Some("cordon"), Some("changed: cordon by ann: disk")),
        (Some("uncordon"), Some("released: cordon by bob")),
    ] {
        assert!(told.contains(&expected), "{told:?}");
    }
}

#[tokio::test]
async fn automation_holds_by_its_own_name() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let add = |reason: &str, for_ms| AddHoldRequest {
        name: "n1".into(),
        reason: reason.into(),
        for_ms,
        ..AddHoldRequest::default()
    };
    let release = |id: &str, any_owner| ReleaseHoldRequest {
        name: "n1".into(),
        id: id.into(),
        any_owner,
        ..ReleaseHoldRequest::default()
    };
    let service = service(&bench);
    let reply = service
        .add(as_(BOB, add("disk", 60_000)))
        .await
        .expect("held")
        .into_inner();
    let hold = &reply.holds[0];
    assert_eq!(
        (hold.id.as_str(), hold.kind.as_str(), hold.owner.as_str()),
        ("automation/user/bob", "automation", BOB)
    );
    assert_eq!(hold.expires_ms - hold.since_ms, 60_000);
    assert_eq!(node(&bench).await["spec"].get("unschedulable"), None);
    let (code, words) = refused(service.add(as_(BOB, add("", 0))).await);
    assert_eq!(
        (code, words.split(';').next()),
        (Code::InvalidArgument, Some("reason: required"))
    );
    let another = "automation/user/bob";
    let (code, words) = refused(service.release(as_(ANN, release(another, false))).await);
    assert_eq!(code, Code::PermissionDenied, "{words}");
    assert_eq!(
        told(service.release(as_(ANN, release("", false))).await),
        (false, vec![another.into()])
    );
    assert_eq!(
        told(service.release(as_(ANN, release(another, true))).await),
        (true, vec![])
    );
    assert_eq!(
        told(service.release(as_(BOB, release("", false))).await),
        (false, vec![])
    );
    let (code, _) = refused(service.release(as_(ANN, release(another, true))).await);
    assert_eq!(code, Code::NotFound);
}

#[tokio::test]
async fn a_manifest_and_a_patch_say_the_caller_s_cordon() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let replace = async |by, manifest: Value| {
        let request = as_(by, replacing("node", &manifest));
        let object = bench.resources.replace(request).await.expect("replaced").into_inner();
        let ids = value(&object)["status"]["holds"].as_array().map_or(0, Vec::len);
        (ids, object.warnings.join("|"))
    };
    let patch = async |by, patch: Value| {
        let request = as_(by, patching("node", "n1", &patch));
        let object = bench.resources.patch(request).await.expect("patched").into_inner();
        let ids = value(&object)["status"]["holds"].as_array().map_or(0, Vec::len);
        (ids, object.warnings.join("|"))
    };
    let of = |labels: Value, unschedulable: bool| {
        let mut manifest = json!({"metadata": {"name": "n1", "labels": labels}});
        if unschedulable {
            manifest["spec"]["unschedulable"] = json!(true);
        }
        manifest
    };
    let none = String::new();
    assert_eq!(replace(ANN, of(json!({"a": "1"}), true)).await, (1, none.clone()));
    let newest = bench.hub.rv();
    assert_eq!(replace(ANN, of(json!({"a": "1"}), true)).await, (1, none.clone()));
    assert_eq!(bench.hub.rv(), newest, "so already");
    assert_eq!(
        patch(BOB, json!({"spec": {"unschedulable": true}})).await,
        (2, none.clone())
    );
    // Of other fields it says nothing.
    assert_eq!(
        patch(ANN, json!({"metadata": {"labels": {"b": "2"}}})).await,
        (2, none.clone())
    );
    let still = "spec.unschedulable: the node still takes no new pods: cordon by bob";
    assert_eq!(
        patch(ANN, json!({"spec": {"unschedulable": false}})).await,
        (1, still.into())
    );
    assert_eq!(
        patch(ANN, json!({"spec": null})).await,
        (1, still.into()),
        "nothing of his is left"
    );
    // An edit of what is shown makes no cordon of the editor's own.
    let mut shown = node(&bench).await;
    assert_eq!(shown["spec"]["unschedulable"], true);
    shown.as_object_mut().expect("a map").remove("status");
    shown["metadata"]["labels"]["c"] = json!("3");
    assert_eq!(replace(ANN, shown.clone()).await.0, 1);
    // The same file without its version asks for it.
    shown["metadata"]
        .as_object_mut()
        .expect("a map")
        .remove("resourceVersion");
    assert_eq!(replace(ANN, shown).await.0, 2);
    let before = bench.store.values("audit/").len();
    let gone = "metadata.labels: a, b, c removed; the manifest has no such label";
    assert_eq!(replace(ANN, of(json!({}), false)).await, (1, format!("{gone}|{still}")));
    assert_eq!(
        bench.store.values("audit/").len(),
        before + 1,
        "labels and cordon in one commit"
    );
    assert_eq!(patch(BOB, json!({"spec": {"unschedulable": null}})).await, (0, none));
    assert_eq!(node(&bench).await["spec"], json!({}));
}

#[tokio::test]
async fn nothing_is_placed_while_a_hold_is_made() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let placing = bench.hub.place().await;
    let hub = Arc::clone(&bench.hub);
    let service = service(&bench);
    let request = |name: &str| CordonRequest {
        name: name.into(),
        ..CordonRequest::default()
    };
    let mut cordoning = Box::pin(service.cordon(Request::new(request("n1"))));
    let waits = tokio::time::timeout(Duration::from_millis(50), &mut cordoning).await;
    assert!(waits.is_err() && hub.read(|w| w.nodes["n1"].held().is_none()));
    let manifest = patching("node", "n1", &json!({"spec": {"unschedulable": true}}));
    let mut patching = Box::pin(bench.patch(manifest));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut patching)
            .await
            .is_err()
    );
    // What holds no node does not wait for placements.
    bench
        .patch(super::super::testing::patching(
            "node",
            "n1",
            &json!({"metadata": {"labels": {"a": "b"}}}),
        ))
        .await
        .expect("patched");
    drop(placing);
    assert!(cordoning.await.expect("cordoned").into_inner().changed);
    patching.await.expect("patched");
    assert!(hub.read(|w| w.nodes["n1"].cordoned()));
}

#[tokio::test]
async fn a_deleted_node_takes_its_holds_with_it() {
    let bench = Bench::new().await;
    bench.node("n1", false).await;
    cordon(&bench, ANN, "").await;
    bench.delete(deleting("node", "n1")).await.expect("deleted");
    assert!(!bench.store.keys().iter().any(|k| k.starts_with("holds/")));
    let request = CordonRequest {
        name: "n1".into(),
        ..CordonRequest::default()
    };
    let refusal = refused(service(&bench).cordon(Request::new(request)).await);
    assert_eq!(refusal, (Code::NotFound, "nodes \"n1\" not found".to_owned()));
    // A cordon that was decided before the deletion leaves nothing behind for the next of the name.
    bench.node("n1", false).await;
    let gone = Change::delete(keys::object(Kind::Node, "", "n1"), Expect::Any);
    bench.store.rival(vec![gone]);
    let request = CordonRequest {
        name: "n1".into(),
        ..CordonRequest::default()
    };
    assert_eq!(
        refused(service(&bench).cordon(Request::new(request)).await).0,
        Code::NotFound
    );
    assert!(!bench.store.keys().iter().any(|k| k.starts_with("holds/")));
}

#[tokio::test]
async fn a_dry_run_and_a_repeat_change_nothing() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let request = |dry_run, id: &str| CordonRequest {
        name: "n1".into(),
        dry_run,
        request_id: id.into(),
        ..CordonRequest::default()
    };
    let newest = bench.hub.rv();
    let there = vec!["cordon/user/admin".to_owned()];
    let dry = told(service(&bench).cordon(Request::new(request(true, ""))).await);
    assert_eq!((dry, bench.hub.rv()), ((true, there.clone()), newest));
    for _ in 0..2 {
        let once = told(service(&bench).cordon(Request::new(request(false, "r1"))).await);
        assert_eq!(once, (true, there.clone()));
    }
    assert_eq!(bench.store.values("audit/").len(), 1);
}

#[tokio::test]
async fn all_ask_the_authorizer_first() {
    let bench = Bench::with(Arc::new(DenyAll), Settings::default()).await;
    let service = service(&bench);
    let name = || "n9".to_owned();
    let replies = [
        (
            service
                .cordon(Request::new(CordonRequest {
                    name: name(),
                    ..Default::default()
                }))
                .await,
            "cordon",
        ),
        (
            service
                .uncordon(Request::new(UncordonRequest {
                    name: name(),
                    ..Default::default()
                }))
                .await,
            "cordon",
        ),
        (
            service
                .add(Request::new(AddHoldRequest {
                    name: name(),
                    ..Default::default()
                }))
                .await,
            "hold",
        ),
        (
            service
                .release(Request::new(ReleaseHoldRequest {
                    name: name(),
                    ..Default::default()
                }))
                .await,
            "hold",
        ),
    ];
    for (reply, subresource) in replies {
        let asked = format!("update nodes/{subresource} /n9");
        assert_eq!(refused(reply), (Code::PermissionDenied, asked));
    }
}
