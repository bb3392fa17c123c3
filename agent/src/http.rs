//! `/healthz` and `/metrics`, on loopback unless configured. Started by [`crate::run`].
//!
//! Invariant: read-only, and nothing of the agent waits for it.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{facts::Engine, session::Contact, worker::Shared};

/// Binds; an address in use is said at start, not in a log later.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|e| format!("cannot listen on {address} for /metrics: {e}; choose another --metrics-listen"))
}

pub async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    contact: watch::Receiver<Contact>,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(Sources { shared, contact });
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(e) = served {
        tracing::error!("serving /metrics ended: {e}");
    }
}

#[derive(Clone)]
struct Sources {
    shared: Arc<Shared>,
    contact: watch::Receiver<Contact>,
}

/// 200 while the engine answers; a quarantine is said, and no restart would end it.
async fn healthz(State(sources): State<Sources>) -> (StatusCode, String) {
    let quarantine = sources.contact.borrow().quarantine.clone();
    match &*sources.shared.engine.borrow() {
        Engine::Up(_) if !quarantine.is_empty() => (StatusCode::OK, format!("in quarantine: {quarantine}\n")),
        Engine::Up(_) => (StatusCode::OK, "ok\n".into()),
        Engine::Unknown => (StatusCode::SERVICE_UNAVAILABLE, "Docker was not asked yet\n".into()),
        Engine::Down(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(sources): State<Sources>) -> String {
    sources.shared.metrics.text()
}
