//! Endpoints over plain HTTP: `/v1/endpoints/NAMESPACE/NAME` for load balancers, `/v1/sd` for Prometheus' HTTP
//! service discovery. Part of the pages of the module above.
//!
//! Invariant: an answer is one reading of the world, so that it holds every commit that was acknowledged before the
//! question; a standby's, every one that its view includes. What is refused is a Kubernetes `Status`.

use std::{collections::BTreeMap, fmt::Display};

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use proto::model::{EndpointAddress, EndpointPort, Kind, labels::quoted};
use serde::{Deserialize, Serialize};

use super::Sources;
use crate::world::{Key, World};

/// One object, as `wharf get endpoints NAME -o json` shows it.
pub async fn one(State(sources): State<Sources>, Path((namespace, name)): Path<(String, String)>) -> Response {
    if !sources.serves() {
        return not_serving();
    }
    let found = sources
        .hub
        .read(|world| world.object(Kind::Endpoints, &namespace, &name));
    match found {
        Some(object) => json(StatusCode::OK, &object.to_json()),
        None => refusal(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!(
                "endpoints {} not found in namespace {}",
                quoted(&name),
                quoted(&namespace)
            ),
        ),
    }
}

/// Which controllers' pods are listed; empty: all.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    namespace: String,
    rc: String,
}

/// A group of Prometheus' `http_sd`: one for each port of each pod, since they differ in labels.
#[derive(Debug, Serialize)]
struct Target {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

/// Every pod that can be reached, ready or not: what is not ready is to be looked at too.
pub async fn discover(State(sources): State<Sources>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let which = match which {
        Ok(Query(which)) => which,
        Err(e) => {
            let what = format!(
                "the query: {}; use namespace= and rc=, each once or not at all",
                e.body_text()
            );
            return refusal(StatusCode::BAD_REQUEST, "BadRequest", what);
        }
    };
    if !sources.serves() {
        return not_serving();
    }
    json(StatusCode::OK, &sources.hub.read(|world| targets(world, &which)))
}

fn targets(world: &World, which: &Which) -> Vec<Target> {
    let wanted = |key: &Key| {
        (which.namespace.is_empty() || which.namespace == key.0) && (which.rc.is_empty() || which.rc == key.1)
    };
    let mut targets = Vec::new();
    for (key, controller) in world.controllers.iter().filter(|(key, _)| wanted(key)) {
        for (address, ports, ready) in world.endpoints(key, controller).each() {
            targets.extend(ports.iter().map(|port| target(key, address, port, ready)));
        }
    }
    targets
}

fn target(key: &Key, address: &EndpointAddress, port: &EndpointPort, ready: bool) -> Target {
    let labels = [
        ("__meta_wharfinger_namespace", key.0.clone()),
        ("__meta_wharfinger_rc", key.1.clone()),
        ("__meta_wharfinger_pod", address.target_ref.name.clone()),
        ("__meta_wharfinger_node", address.node_name.clone()),
        ("__meta_wharfinger_port_name", port.name.clone()),
        ("__meta_wharfinger_port_protocol", port.protocol.as_str().to_owned()),
        ("__meta_wharfinger_ready", ready.to_string()),
    ];
    Target {
        targets: [address.with_port(port.port)],
        labels: labels.into(),
    }
}

/// Its world may be behind, or a successor may have changed it: keeping the last answer is better than taking this.
fn not_serving() -> Response {
    refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        "ServiceUnavailable",
        "this coordinator does not lead; ask the one whose /leader answers 200",
    )
}

fn refusal(code: StatusCode, reason: &str, message: impl Display) -> Response {
    let status = serde_json::json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "reason": reason, "message": message.to_string(), "code": code.as_u16(),
    });
    json(code, &status)
}

fn json(code: StatusCode, value: &impl Serialize) -> Response {
    // Values with string keys only, so this cannot fail.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (code, headers, body).into_response()
}
