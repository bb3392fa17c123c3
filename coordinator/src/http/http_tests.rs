//! The pages, asked through the router.

use axum::{body::Body, http::Request};
use tower::ServiceExt as _;

use super::*;
use crate::session::testing::{Base, Rig};

async fn ask(rig: &Rig, path: &str) -> (StatusCode, String) {
    let sources = Sources {
        hub: rig.base.hub.clone(),
        metrics: rig.metrics.clone(),
        sessions: rig.sessions.clone(),
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
