//! `/healthz` and `/metrics`, on loopback unless configured. Started by [`crate::run`].
//!
//! Invariant: read-only, and nothing of the agent waits for it.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{facts::Engine, worker::Shared};

/// Binds; an address in use is said at start, not in a log later.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|e| format!("cannot listen on {address} for /metrics: {e}; choose another --metrics-listen"))
}

pub async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(shared);
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(e) = served {
        tracing::error!("serving /metrics ended: {e}");
    }
}

/// 200 while the engine answers.
async fn healthz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    match &*shared.engine.borrow() {
        Engine::Up(_) => (StatusCode::OK, "ok\n".into()),
        Engine::Unknown => (StatusCode::SERVICE_UNAVAILABLE, "Docker was not asked yet\n".into()),
        Engine::Down(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    shared.metrics.text()
}
