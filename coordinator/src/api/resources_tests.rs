//! Who may call, Get, List and Info at the service.

use std::sync::Arc;

use proto::wire::{ListRequest, cluster_server::Cluster};
use serde_json::json;
use tonic::{Code, Request};

use crate::{
    api::{
        Access, Settings,
        cluster::{ClusterFacts, ClusterService},
        testing::*,
    },
    store::{Change, CommitError, Expect, keys},
};

async fn all_refusals(access: Arc<dyn Access>) -> Vec<(Code, String)> {
    let bench = Bench::with(access, Settings::default()).await;
    // A refused write must not come near the store.
    bench.store.fail(CommitError::Closed);
    let list = ListRequest {
        namespace: "a".into(),
        ..listing("po", "in(", "x")
    };
    let scale = proto::wire::ScaleRequest {
        kind: "rc".into(),
        name: "x".into(),
        replicas: -1,
        ..proto::wire::ScaleRequest::default()
    };
    let refusals = vec![
        refused(bench.get("po", "", "x").await),
        refused(bench.list(list.clone()).await),
        refused(bench.watch(list).await.map(|_| ())),
        refused(
            bench
                .create(creating("rc", &json!({"metadata": {"name": "x", "namespace": "b"}})))
                .await,
        ),
        refused(
            bench
                .create(creating("node", &json!({"metadata": {"name": "n1"}})))
                .await,
        ),
        refused(
            bench
                .replace(replacing("po", &json!({"metadata": {"namespace": "b"}, "spec": 7})))
                .await,
        ),
        refused(bench.patch(patching("node", "n1", &json!([]))).await),
        refused(bench.delete(deleting("ns", "default")).await),
        refused(bench.scale(scale).await),
    ];
    assert_eq!(bench.store.keys(), ["obj/namespace/-/default"]);
    refusals
}

#[tokio::test]
async fn nothing_is_said_before_the_caller_is_authorized() {
    let asked = [
        "get pods/ default/x",
        "list pods/ a/",
        "watch pods/ a/",
        "create replicationcontrollers/ b/x",
        "create nodes/ /n1",
        "update pods/ b/",
        "patch nodes/ /n1",
        "delete namespaces/ /default",
        "update replicationcontrollers/scale default/x",
    ];
    let expected: Vec<_> = asked
        .iter()
        .map(|a| (Code::PermissionDenied, (*a).to_owned()))
        .collect();
    assert_eq!(all_refusals(Arc::new(DenyAll)).await, expected);
    let stranger = (Code::Unauthenticated, "no certificate".to_owned());
    assert_eq!(all_refusals(Arc::new(Stranger)).await, vec![stranger; 9]);
}

#[tokio::test]
async fn an_unknown_kind_is_told_to_known_callers_only() {
    let bench = Bench::with(Arc::new(Stranger), Settings::default()).await;
    assert_eq!(refused(bench.get("x", "", "y").await).0, Code::Unauthenticated);
    let bench = Bench::with(Arc::new(DenyAll), Settings::default()).await;
    assert_eq!(refused(bench.get("x", "", "y").await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn info_answers_of_a_standby_too() {
    let facts = ClusterFacts {
        ranks: None,
        cluster_id: "c".into(),
        coordinators: vec!["h:7443".into()],
        secret: std::sync::Arc::new(|| Err("none here".into())),
        found: std::sync::Arc::new(Default::default),
    };
    // Any authenticated caller may ask.
    let bench = Bench::with(Arc::new(DenyAll), Settings::default()).await;
    let service = ClusterService::new(Arc::clone(&bench.api), facts.clone());
    let info = service
        .info(Request::new(proto::wire::InfoRequest {}))
        .await
        .expect("told")
        .into_inner();
    assert_eq!((info.cluster_id.as_str(), info.caller.as_str()), ("c", "user/guest"));
    assert_eq!(
        (info.version.as_str(), info.coordinators),
        (proto::VERSION, vec!["h:7443".to_owned()])
    );
    assert_eq!(info.fence.map(|f| f.term), Some(1));
    assert_eq!(info.resource_version, bench.hub.rv().0);
    bench.hub.set_fence(None);
    let info = service
        .info(Request::new(proto::wire::InfoRequest {}))
        .await
        .expect("told")
        .into_inner();
    assert_eq!(info.fence, None);
    let bench = Bench::with(Arc::new(Stranger), Settings::default()).await;
    let service = ClusterService::new(Arc::clone(&bench.api), facts);
    let refusal = service
        .info(Request::new(proto::wire::InfoRequest {}))
        .await
        .map(|_| ());
    assert_eq!(refused(refusal).0, Code::Unauthenticated);
}

#[tokio::test]
async fn lists_are_sorted_selected_and_versioned() {
    let bench = Bench::new().await;
    for node in ["n2", "n1"] {
        bench.node(node, true).await;
    }
    bench.make("ns", &json!({"metadata": {"name": "a"}})).await;
    for (name, namespace) in [("y", "default"), ("x", "default"), ("z", "a")] {
        let mut pod = bare(name);
        pod["metadata"]["namespace"] = namespace.into();
        bench.make("pod", &pod).await;
    }
    bench.pod("placed", "n1", None).await;
    let event = |name: &str, involved: &str, kind: &str| {
        let event = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "reason": "Started", "type": kind,
            "involvedObject": {"kind": "Pod", "name": involved, "namespace": "default", "uid": format!("u-{involved}")}});
        Change::put(keys::event("default", name), Expect::Absent, event.to_string())
    };
    bench
        .put(vec![event("e1", "x", "Normal"), event("e2", "y", "Warning")])
        .await;
    for (kind, namespace, labels, fields, expected) in [
        ("nodes", "", "", "", vec!["n1", "n2"]),
        ("nodes", "default", "", "", vec!["n1", "n2"]),
        ("pods", "", "", "", vec!["z", "placed", "x", "y"]),
        ("pods", "default", "", "", vec!["placed", "x", "y"]),
        ("pods", "nowhere", "", "", vec![]),
        ("pods", "", "app in (x,z)", "", vec!["z", "x"]),
        ("pods", "", "app=x,app=z", "", vec![]),
        ("pods", "", "", "metadata.namespace=a", vec!["z"]),
        ("pods", "", "", "metadata.name!=x", vec!["z", "placed", "y"]),
        ("pods", "", "", "spec.nodeName=n1", vec!["placed"]),
        (
            "pods",
            "",
            "",
            "spec.nodeName=,status.phase=Pending",
            vec!["z", "x", "y"],
        ),
        ("pods", "", "", "status.phase!=Pending", vec![]),
        (
            "events",
            "",
            "",
            "involvedObject.name=x,involvedObject.kind=Pod",
            vec!["e1"],
        ),
        (
            "events",
            "",
            "",
            "involvedObject.uid=u-y,involvedObject.namespace=default",
            vec!["e2"],
        ),
        ("events", "", "", "type=Warning,reason=Started", vec!["e2"]),
        ("ns", "", "", "metadata.name=a", vec!["a"]),
    ] {
        let request = ListRequest {
            namespace: namespace.into(),
            ..listing(kind, labels, fields)
        };
        let reply = bench.list(request).await.expect("listed");
        let names: Vec<_> = reply.items.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, expected, "{kind} {namespace} {labels} {fields}");
        assert_eq!(reply.resource_version, bench.hub.rv().0);
    }
    let message = "selector `spec.host=x`: field `spec.host` cannot be selected by; use metadata.name, metadata.namespace, spec.nodeName, status.phase";
    let refusal = refused(bench.list(listing("pods", "", "spec.host=x")).await);
    assert_eq!(refusal, (Code::InvalidArgument, message.to_owned()));
}

#[tokio::test]
async fn get_takes_every_way_to_name_a_kind() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    bench.node("n1", true).await;
    for kind in ["rc", "ReplicationController", "replicationcontrollers"] {
        assert_eq!(
            bench.get(kind, "", "web").await.expect("there").kind,
            "ReplicationController"
        );
    }
    // A node has no namespace, whichever the command is set to.
    assert_eq!(bench.get("node", "default", "n1").await.expect("there").namespace, "");
    for (kind, namespace, name, expected) in [
        ("node", "", "n9", (Code::NotFound, "nodes \"n9\" not found")),
        (
            "rc",
            "other",
            "web",
            (Code::NotFound, "replicationcontrollers \"web\" not found"),
        ),
        ("rc", "", "", (Code::InvalidArgument, "name: required")),
    ] {
        let (code, message) = refused(bench.get(kind, namespace, name).await);
        assert_eq!((code, message.as_str()), expected);
    }
}
