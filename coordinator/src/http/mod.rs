//! Plain HTTP for machines that watch the coordinator or follow its workloads: `/healthz`, `/readyz`, `/leader`,
//! `/metrics`, `/v1/endpoints/NAMESPACE/NAME`, `/v1/sd`. Served on loopback unless configured otherwise; started by `run`.
//!
//! Invariant: read only, says nothing secret, and an answer never waits longer than its deadline.

mod endpoints;
pub mod metrics;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use crate::{
    leader::leadership::{Leadership, Role},
    session::registry::Registry,
    store::keys,
    world::hub::Hub,
};
use metrics::Metrics;

/// How long the store may take to answer `/healthz`.
const STORE_ANSWERS: Duration = Duration::from_secs(2);

/// What the pages are made of.
#[derive(Clone)]
pub struct Sources {
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub sessions: Arc<crate::session::Sessions>,
    pub leadership: Arc<Leadership>,
}

impl Sources {
    /// Whether what is read here is true, or no older than the store's watch is.
    fn serves(&self) -> bool {
        let standing = self.leadership.standing();
        self.hub.fence().is_some()
            || (standing.role == Role::Standby && !standing.leader.is_empty() && !standing.store_away)
    }

    fn registry(&self) -> &Registry {
        self.sessions.registry()
    }
}

/// The pages; the caller may add others beside them.
pub fn router(sources: Sources) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/leader", get(leader))
        .route("/metrics", get(page))
        .route("/v1/endpoints/{namespace}/{name}", get(endpoints::one))
        .route("/v1/sd", get(endpoints::discover))
        .with_state(sources)
}

/// The process lives and its store answers.
async fn healthz(State(sources): State<Sources>) -> (StatusCode, String) {
    match tokio::time::timeout(STORE_ANSWERS, sources.hub.store().get(keys::TERM)).await {
        Ok(Ok(_)) => (StatusCode::OK, "ok\n".into()),
        Ok(Err(e)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "the store does not answer within {}\n",
                humantime::format_duration(STORE_ANSWERS)
            ),
        ),
    }
}

/// The world is loaded (there is no hub before), and this coordinator leads, or follows with a store that answers.
async fn readyz(State(sources): State<Sources>) -> (StatusCode, &'static str) {
    if sources.serves() {
        (StatusCode::OK, "ok\n")
    } else {
        let why = "this coordinator does not lead, and its store does not answer\n";
        (StatusCode::SERVICE_UNAVAILABLE, why)
    }
}

/// 200 on the active coordinator only.
async fn leader(State(sources): State<Sources>) -> (StatusCode, String) {
    match sources.hub.fence() {
        Some(fence) => (StatusCode::OK, format!("term {}\n", fence.term)),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "this coordinator does not lead\n".into(),
        ),
    }
}

async fn page(State(sources): State<Sources>) -> impl IntoResponse {
    let text = sources.metrics.page(&sources.hub, sources.registry().len());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
