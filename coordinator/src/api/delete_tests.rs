//! Deletes and scales at the service.

use proto::{
    model::{Kind, Time},
    wire::{DeleteRequest, ScaleReply, ScaleRequest, delete_request::Cascade},
};
use serde_json::json;
use tonic::Code;

use crate::{
    api::testing::*,
    store::{Change, Expect, keys},
    world::record::{OffRecord, PodRecord, StopRecord, encode},
};

fn stop_of(bench: &Bench, name: &str) -> Option<StopRecord> {
    let key = ("default".to_owned(), name.to_owned());
    bench.hub.read(|w| w.pods[&key].record.stop.clone())
}

fn scaling(name: &str, replicas: i32, current: Option<i32>) -> ScaleRequest {
    ScaleRequest {
        kind: "rc".into(),
        name: name.into(),
        replicas,
        current_replicas: current,
        ..ScaleRequest::default()
    }
}

#[tokio::test]
async fn a_placed_pod_gets_a_stop_entry_that_only_becomes_more_urgent() {
    let bench = Bench::new().await;
    bench.pod("p", "n1", None).await;
    let grace = |grace| DeleteRequest {
        grace_seconds: Some(grace),
        ..deleting("pod", "p")
    };
    let shown = bench.delete(deleting("pod", "p")).await.expect("deleted");
    let first = stop_of(&bench, "p").expect("stopping");
    assert_eq!((first.grace, first.reason.as_str()), (7, "deleted by user/admin"));
    assert_eq!(
        value(&shown)["metadata"]["deletionTimestamp"],
        json!(Time(first.at.0 + 7))
    );
    let keys = bench.store.keys();
    for (request, expected) in [(deleting("pod", "p"), 7), (grace(30), 7), (grace(7), 7)] {
        bench.delete(request).await.expect("no change");
        assert_eq!(stop_of(&bench, "p").map(|s| s.grace), Some(expected));
        assert_eq!(bench.store.keys(), keys, "no audit of nothing");
    }
    bench.delete(grace(2)).await.expect("shorter");
    assert_eq!(stop_of(&bench, "p"), Some(StopRecord { grace: 2, ..first }));
}

#[tokio::test]
async fn an_unplaced_pod_is_removed_at_once_with_its_status() {
    let bench = Bench::new().await;
    let made = bench.make("pod", &bare("p")).await;
    bench.status("p", proto::model::Phase::Pending, false).await;
    let gone = bench.delete(deleting("pod", "p")).await.expect("deleted");
    assert_eq!(gone.uid, made.uid);
    assert_eq!(
        refused(bench.get("pod", "", "p").await),
        (Code::NotFound, "pods \"p\" not found".to_owned())
    );
    assert!(bench.store.values("status/").is_empty());
}

#[tokio::test]
async fn a_pod_placed_meanwhile_is_not_removed() {
    let bench = Bench::new().await;
    bench.make("pod", &bare("p")).await;
    let key = ("default".to_owned(), "p".to_owned());
    let record = bench.hub.read(|w| (*w.pods[&key].record).clone());
    let placed = PodRecord {
        node: "n1".into(),
        ..record
    };
    let at = keys::object(Kind::Pod, "default", "p");
    bench.store.rival(vec![Change::put(at, Expect::Any, encode(&placed))]);
    bench.delete(deleting("pod", "p")).await.expect("deleted");
    assert!(stop_of(&bench, "p").is_some());
}

#[tokio::test]
async fn a_stop_entry_keeps_what_others_wrote_meanwhile() {
    let bench = Bench::new().await;
    bench.pod("p", "n1", None).await;
    let key = ("default".to_owned(), "p".to_owned());
    let mut record = bench.hub.read(|w| (*w.pods[&key].record).clone());
    record.labels.insert("colour".into(), Some("red".into()));
    let at = keys::object(Kind::Pod, "default", "p");
    bench.store.rival(vec![Change::put(at, Expect::Any, encode(&record))]);
    let shown = bench.delete(deleting("pod", "p")).await.expect("deleted");
    assert_eq!(value(&shown)["metadata"]["labels"]["colour"], "red");
    assert!(stop_of(&bench, "p").is_some());
}

#[tokio::test]
async fn a_rival_that_removes_the_object_leaves_nothing_to_delete() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let at = keys::object(Kind::ReplicationController, "default", "web");
    bench.store.rival(vec![Change::delete(at, Expect::Any)]);
    let refusal = refused(bench.delete(deleting("rc", "web")).await);
    assert_eq!(
        refusal,
        (Code::NotFound, "replicationcontrollers \"web\" not found".to_owned())
    );
}

#[tokio::test]
async fn a_controller_goes_or_is_marked_for_orphaning() {
    let bench = Bench::new().await;
    let orphan = DeleteRequest {
        cascade: Cascade::Orphan.into(),
        ..deleting("rc", "web")
    };
    bench.make("rc", &rc("web")).await;
    let shown = value(&bench.delete(orphan).await.expect("marked"));
    assert_eq!(shown["metadata"]["finalizers"], json!(["orphan"]));
    assert!(shown["metadata"]["deletionTimestamp"].is_string());
    let refusal = refused(bench.scale(scaling("web", 5, None)).await);
    let message = "replicationcontrollers \"web\": it is being deleted; create it anew once it is gone";
    assert_eq!(refusal, (Code::FailedPrecondition, message.to_owned()));
    // What was promised to the pods is not taken back.
    bench.delete(deleting("rc", "web")).await.expect("no change");
    assert!(bench.get("rc", "", "web").await.is_ok());

    bench.make("rc", &rc("api")).await;
    bench.delete(deleting("rc", "api")).await.expect("removed");
    assert_eq!(refused(bench.get("rc", "", "api").await).0, Code::NotFound);
}

#[tokio::test]
async fn a_namespace_is_marked() {
    let bench = Bench::new().await;
    bench.make("ns", &json!({"metadata": {"name": "a"}})).await;
    let shown = value(&bench.delete(deleting("ns", "a")).await.expect("marked"));
    assert_eq!(shown["status"]["phase"], "Terminating");
    assert!(shown["metadata"]["deletionTimestamp"].is_string());
    let keys = bench.store.keys();
    bench.delete(deleting("ns", "a")).await.expect("no change");
    assert_eq!(bench.store.keys(), keys);
}

#[tokio::test]
async fn a_node_goes_once_no_pod_is_bound_to_it_and_leaves_a_tombstone() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench
        .put(vec![
            Change::put(keys::cert("n1"), Expect::Absent, "{}"),
            Change::put(keys::node_inventory("n1"), Expect::Absent, "{}"),
        ])
        .await;
    bench.pod("p", "n1", None).await;
    bench.pod("q", "n1", None).await;
    let refusal = refused(bench.delete(deleting("node", "n1")).await);
    let message = "nodes \"n1\": 2 pods are still bound to it; see `wharf get pods -A --node n1`; move them first: wharf drain n1";
    assert_eq!(refusal, (Code::FailedPrecondition, message.to_owned()));
    for name in ["p", "q"] {
        let at = keys::object(Kind::Pod, "default", name);
        bench.put(vec![Change::delete(at, Expect::Any)]).await;
    }
    bench
        .put(vec![Change::put(
            keys::holder("n1"),
            Expect::Absent,
            "{\"holder\":{\"epoch\":3}}",
        )])
        .await;
    bench.delete(deleting("no", "n1")).await.expect("removed");
    let mut left = bench.store.keys();
    left.retain(|k| k.contains("n1"));
    assert_eq!(left, [keys::cert("n1"), keys::tombstone("n1")]);
    let tombstone = bench.hub.read(|w| w.tombstones["n1"].value.clone());
    assert_eq!((tombstone.uid.as_str(), tombstone.forgotten), ("uid-n1", false));
}

#[tokio::test]
async fn a_lost_node_goes_with_pods_only_when_its_host_is_off() {
    let bench = Bench::new().await;
    bench.node("n1", false).await;
    bench.pod("p", "n1", None).await;
    let refusal = refused(bench.delete(deleting("node", "n1")).await);
    let message = "nodes \"n1\": 1 pod is still bound to it; see `wharf get pods -A --node n1`; move them first: \
                   wharf drain n1; if its host is off: wharf node confirm-off n1";
    assert_eq!(refusal, (Code::FailedPrecondition, message.to_owned()));
    let off = OffRecord {
        by: "user/admin".into(),
        at: Time(1),
    };
    let off = Change::put(keys::off("n1"), Expect::Absent, encode(&off));
    bench.put(vec![off]).await;
    let gone = bench.delete(deleting("node", "n1")).await.expect("removed");
    assert_eq!(
        gone.warnings,
        ["1 pod is given up, with the data they have there: replaced elsewhere, and stopped should n1 come back"]
    );
    // Its record is control's to remove, and waits for nothing.
    assert!(bench.hub.read(|w| w.pods.contains_key(&("default".into(), "p".into()))));
    assert!(bench.hub.read(|w| w.tombstones["n1"].value.forgotten));
    assert!(!bench.store.keys().contains(&keys::off("n1")));
}

#[tokio::test]
async fn an_event_goes() {
    let bench = Bench::new().await;
    let event = json!({"metadata": {"name": "e", "namespace": "default", "uid": "u"}});
    bench
        .put(vec![Change::put(
            keys::event("default", "e"),
            Expect::Absent,
            event.to_string(),
        )])
        .await;
    bench.delete(deleting("event", "e")).await.expect("removed");
    assert!(bench.store.values("event/").is_empty());
}

#[tokio::test]
async fn delete_refusals() {
    let bench = Bench::new().await;
    let made = bench.make("rc", &rc("web")).await;
    let (uid, rv) = (&made.uid, &made.resource_version);
    let base = deleting("rc", "web");
    let table = [
        (
            deleting("rc", "x"),
            Code::NotFound,
            "replicationcontrollers \"x\" not found".to_owned(),
        ),
        (
            deleting("node", "n9"),
            Code::NotFound,
            "nodes \"n9\" not found".to_owned(),
        ),
        (deleting("rc", ""), Code::InvalidArgument, "name: required".to_owned()),
        (
            DeleteRequest {
                namespace: "other".into(),
                ..base.clone()
            },
            Code::NotFound,
            "replicationcontrollers \"web\" not found".to_owned(),
        ),
        (
            DeleteRequest {
                uid: "u".into(),
                ..base.clone()
            },
            Code::Aborted,
            format!("replicationcontrollers \"web\": its uid is \"{uid}\", not \"u\" as asked; look and try again"),
        ),
        (
            DeleteRequest {
                resource_version: "7".into(),
                ..base.clone()
            },
            Code::Aborted,
            format!(
                "replicationcontrollers \"web\": its resource version is \"{rv}\", not \"7\" as asked; look and try again"
            ),
        ),
        (
            deleting("ns", "default"),
            Code::FailedPrecondition,
            "namespaces \"default\": it cannot be deleted; delete what is in it".to_owned(),
        ),
        (
            DeleteRequest {
                cascade: 9,
                ..base.clone()
            },
            Code::InvalidArgument,
            "cascade: 9 is not BACKGROUND or ORPHAN".to_owned(),
        ),
        (
            DeleteRequest {
                cascade: Cascade::Orphan.into(),
                ..deleting("ns", "default")
            },
            Code::InvalidArgument,
            "cascade: what is in a namespace goes with it; only the pods of a replicationcontroller or daemonset can be orphaned"
                .to_owned(),
        ),
        (
            DeleteRequest {
                grace_seconds: Some(86_401),
                ..deleting("pod", "p")
            },
            Code::InvalidArgument,
            "grace_seconds: must be 0 to 86400, is 86401".to_owned(),
        ),
    ];
    let before = bench.store.keys();
    for (request, code, message) in table {
        assert_eq!(refused(bench.delete(request).await), (code, message));
    }
    bench
        .delete(DeleteRequest {
            dry_run: true,
            ..base.clone()
        })
        .await
        .expect("would do");
    assert_eq!(bench.store.keys(), before);
    let exact = DeleteRequest {
        uid: uid.clone(),
        resource_version: rv.clone(),
        request_id: "d".into(),
        ..base
    };
    bench.delete(exact.clone()).await.expect("as asked");
    // A repeat finds what the first one removed, also when another has its name by now.
    assert_eq!(bench.delete(exact.clone()).await.expect("repeated").uid, *uid);
    bench.make("rc", &rc("web")).await;
    assert_eq!(bench.delete(exact).await.expect("repeated").uid, *uid);
    assert!(bench.get("rc", "", "web").await.is_ok());
}

#[tokio::test]
async fn scale_sets_the_count_and_nothing_else() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let reply = bench.scale(scaling("web", 5, Some(2))).await.expect("scaled");
    let shown = bench.get("rc", "", "web").await.expect("there");
    assert_eq!(
        reply,
        ScaleReply {
            previous_replicas: 2,
            replicas: 5,
            resource_version: shown.resource_version.clone(),
            warnings: Vec::new(),
        }
    );
    let shown = value(&shown);
    assert_eq!(
        (&shown["spec"]["replicas"], &shown["metadata"]["generation"]),
        (&json!(5), &json!(2))
    );
    let audit = bench.store.values("audit/");
    assert!(
        audit
            .iter()
            .any(|a| a["verb"] == "scale" && a["detail"] == "replicas 2 -> 5")
    );
    let keys = bench.store.keys();
    let again = bench.scale(scaling("web", 5, None)).await.expect("nothing to do");
    assert_eq!(
        (again.previous_replicas, again.resource_version),
        (5, reply.resource_version)
    );
    let dry = ScaleRequest {
        dry_run: true,
        ..scaling("web", 9, None)
    };
    assert_eq!(bench.scale(dry).await.expect("would do").previous_replicas, 5);
    assert_eq!(bench.store.keys(), keys);
}

#[tokio::test]
async fn a_repeated_scale_does_not_undo_a_later_one() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let request = ScaleRequest {
        request_id: "s".into(),
        ..scaling("web", 5, None)
    };
    bench.scale(request.clone()).await.expect("scaled");
    bench.scale(scaling("web", 8, None)).await.expect("scaled");
    let reply = bench.scale(request).await.expect("repeated");
    assert_eq!((reply.previous_replicas, reply.replicas), (2, 5));
    assert_eq!(
        value(&bench.get("rc", "", "web").await.expect("there"))["spec"]["replicas"],
        8
    );
}

#[tokio::test]
async fn scale_checks_the_count_again_when_a_rival_was_faster() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let key = ("default".to_owned(), "web".to_owned());
    let mut changed = bench.hub.read(|w| (*w.controllers[&key].rc).clone());
    changed.spec.replicas = 3;
    let at = keys::object(Kind::ReplicationController, "default", "web");
    bench.store.rival(vec![Change::put(at, Expect::Any, encode(&changed))]);
    let refusal = refused(bench.scale(scaling("web", 5, Some(2))).await);
    let message =
        "replicationcontrollers \"web\": current replicas are 3, not 2 as --current-replicas says; look and try again";
    assert_eq!(refusal, (Code::Aborted, message.to_owned()));
}

#[tokio::test]
async fn scale_refusals() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    for (request, code, message) in [
        (
            scaling("x", 1, None),
            Code::NotFound,
            "replicationcontrollers \"x\" not found",
        ),
        (
            scaling("web", -1, None),
            Code::InvalidArgument,
            "replicationcontroller \"web\" is invalid: spec.replicas: must not be negative, is -1",
        ),
        (
            scaling("web", 100_001, None),
            Code::InvalidArgument,
            "replicationcontroller \"web\" is invalid: spec.replicas: must be at most 100000, is 100001",
        ),
        (
            scaling("web", 5, Some(1)),
            Code::Aborted,
            "replicationcontrollers \"web\": current replicas are 2, not 1 as --current-replicas says; look and try again",
        ),
        (
            ScaleRequest {
                kind: "pod".into(),
                ..scaling("web", 5, None)
            },
            Code::InvalidArgument,
            "pods cannot be scaled; only replicationcontrollers can",
        ),
    ] {
        assert_eq!(refused(bench.scale(request).await), (code, message.to_owned()));
    }
}
