//! The pages, asked through the router.

use axum::{body::Body, http::Request};
use tower::ServiceExt as _;

use super::*;
use crate::{
    leader::leadership::Standing,
    session::testing::{Base, Rig},
};
use proto::model::Phase;

async fn ask(rig: &Rig, path: &str) -> (StatusCode, String) {
    let sources = Sources {
        hub: rig.base.hub.clone(),
        metrics: rig.metrics.clone(),
        sessions: rig.sessions.clone(),
        leadership: Arc::new(Leadership::sole(rig.base.hub.clone(), Standing::default())),
    };
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = router(sources).oneshot(request).await.unwrap();
    let status = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_pages_follow_leadership_and_store() {
    let rig = Rig::on(Base::new().await, crate::session::Settings::default()).await;
    for path in ["/healthz", "/readyz", "/leader"] {
        assert_eq!(ask(&rig, path).await.0, StatusCode::OK, "{path}");
    }
    let term = rig.base.hub.fence().unwrap().term;
    assert_eq!(ask(&rig, "/leader").await.1, format!("term {term}\n"));
    rig.base.hub.set_fence(None);
    assert_eq!(ask(&rig, "/healthz").await.0, StatusCode::OK);
    for path in ["/readyz", "/leader"] {
        assert_eq!(ask(&rig, path).await.0, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    rig.base.store.inner.close();
    assert_eq!(ask(&rig, "/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(&rig, "/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn metrics_count_what_is_there() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.node("n2").await;
    rig.base.pod("a", "n1").await;
    let _agent = rig.join("n1", crate::session::testing::hello()).await;
    rig.base.until_ready("n1", "AgentReady").await;
    let (status, page) = ask(&rig, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "wharf_sessions 1",
        "wharf_nodes{ready=\"true\"} 1",
        "wharf_nodes{ready=\"false\"} 1",
        "wharf_pods{phase=\"Pending\"} 1",
        "wharf_pods{phase=\"Running\"} 0",
        "wharf_assignments_sent_total{kind=\"COMPLETE\"} 1",
        "wharf_leader 1",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(page.contains(&format!("wharf_build_info{{version=\"{}\"}} 1", proto::VERSION)));
    assert!(page.ends_with("# EOF\n"));
}

/// A controller `web` with a fixed host port, and pods of it on nodes that are heard.
async fn web(rig: &Rig, pods: &[(&str, &str)]) {
    use crate::{
        plan::sim::{Ask, rc, template},
        store::keys,
        world::record::{OwnerRecord, TemplateRecord, encode},
    };
    let ask = Ask {
        host_port: 8080,
        ..Ask::default()
    };
    let web = rc("default", "web", "u", 2, template("web", ask));
    let (hash, bytes) = TemplateRecord::new(&web.spec.template).encode();
    rig.base.put(keys::template(&hash), bytes).await;
    rig.base
        .put("obj/replicationcontroller/default/web".into(), encode(&web))
        .await;
    for (name, node) in pods {
        let record = crate::world::record::PodRecord {
            template: hash.clone(),
            owner: Some(OwnerRecord {
                name: "web".into(),
                uid: "u".into(),
                ..OwnerRecord::default()
            }),
            ..crate::session::testing::pod_record(name, node)
        };
        rig.base.put_pod(name, record).await;
    }
}

/// What an agent says of a pod that is ready.
fn ready(name: &str) -> proto::wire::PodStatus {
    let status = serde_json::json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    proto::wire::PodStatus {
        status_json: status.to_string().into_bytes(),
        ..crate::session::testing::report(name, 1, Phase::Running, false)
    }
}

fn read(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test]
async fn endpoints_are_those_of_the_last_commit() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    web(&rig, &[("web-a", "n1")]).await;
    let agent = rig.join("n1", crate::session::testing::hello()).await;
    rig.base.until_ready("n1", "AgentReady").await;
    let address = rig.base.hub.read(|w| w.nodes["n1"].address().to_owned());
    assert!(!address.is_empty());
    let one = || async {
        let (status, body) = ask(&rig, "/v1/endpoints/default/web").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        read(&body)
    };
    let now = one().await;
    assert_eq!(
        (&now["kind"], &now["metadata"]["name"]),
        (&"Endpoints".into(), &"web".into())
    );
    assert_eq!(now["subsets"][0]["notReadyAddresses"][0]["ip"], address.as_str());
    assert_eq!(now["subsets"][0].get("addresses"), None);

    agent.report(1, vec![ready("web-a")]).await;
    rig.base
        .until("the pod is ready", |w| w.pods.values().any(|p| p.ready()))
        .await;
    let now = one().await;
    assert_eq!(now["subsets"][0]["addresses"][0]["targetRef"]["name"], "web-a");
    assert_eq!(now["subsets"][0]["ports"][0]["port"], 8080);
    // The answer to a question after a commit has it.
    rig.base.stop("web-a", 30).await;
    assert_eq!(one().await["subsets"], serde_json::json!([]));
}

#[tokio::test]
async fn what_cannot_be_answered_is_a_status() {
    let rig = Rig::new().await;
    let status = |code: u16, reason: &str, message: &str| {
        serde_json::json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason,
            "message": message, "code": code})
    };
    for (path, code, reason, message) in [
        (
            "/v1/endpoints/default/none",
            404,
            "NotFound",
            "endpoints \"none\" not found in namespace \"default\"",
        ),
        (
            "/v1/sd?job=web",
            400,
            "BadRequest",
            "the query: Failed to deserialize query string: job: unknown field `job`, expected `namespace` or `rc`; use \
             namespace= and rc=, each once or not at all",
        ),
    ] {
        let (found, body) = ask(&rig, path).await;
        assert_eq!(
            (found.as_u16(), read(&body)),
            (code, status(code, reason, message)),
            "{path}"
        );
    }
    rig.base.hub.set_fence(None);
    for path in ["/v1/endpoints/default/none", "/v1/sd"] {
        let (found, body) = ask(&rig, path).await;
        assert_eq!(found, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(
            read(&body)["message"],
            "this coordinator does not lead; ask the one whose /leader answers 200"
        );
    }
}

#[tokio::test]
async fn prometheus_finds_every_pod_that_can_be_reached() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    web(&rig, &[("web-a", "n1"), ("web-b", "n1")]).await;
    let agent = rig.join("n1", crate::session::testing::hello()).await;
    rig.base.until_ready("n1", "AgentReady").await;
    agent.report(1, vec![ready("web-b")]).await;
    rig.base
        .until("the pod is ready", |w| w.pods.values().any(|p| p.ready()))
        .await;
    let address = rig.base.hub.read(|w| w.nodes["n1"].address().to_owned());
    let all = read(&ask(&rig, "/v1/sd").await.1);
    let of = |pod: &str, ready: &str| {
        serde_json::json!({"targets": [format!("{address}:8080")], "labels": {
            "__meta_wharfinger_namespace": "default", "__meta_wharfinger_rc": "web", "__meta_wharfinger_pod": pod,
            "__meta_wharfinger_node": "n1", "__meta_wharfinger_port_name": "", "__meta_wharfinger_port_protocol": "TCP",
            "__meta_wharfinger_ready": ready}})
    };
    assert_eq!(all, serde_json::json!([of("web-b", "true"), of("web-a", "false")]));
    for (query, n) in [
        ("?namespace=default", 2),
        ("?rc=web&namespace=default", 2),
        ("?rc=db", 0),
        ("?namespace=other", 0),
    ] {
        let found = read(&ask(&rig, &format!("/v1/sd{query}")).await.1);
        assert_eq!(found.as_array().map(Vec::len), Some(n), "{query}");
    }
}
