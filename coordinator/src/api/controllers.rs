//! Scale. Mounted by the listener.
//!
//! Invariant: only `spec.replicas` and the generation change; of a controller under a rolling update, that one's target.

use std::sync::Arc;

use async_trait::async_trait;
use proto::{
    model::{Kind, Object, ReplicationController, Time},
    wire::{self, ScaleReply, ScaleRequest},
};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::{
    Api, budgets, convert,
    errors::ApiError,
    updates,
    write::{Decision, Outcome, Ticket},
};
use crate::{
    ca::authorizer::Attributes,
    store::{Change, Expect, keys},
    world::{World, record::encode},
};

/// Most replicas of one controller.
pub const MAX_REPLICAS: i32 = 100_000;

pub struct ControllerService(pub(super) Arc<Api>);

#[async_trait]
impl wire::controllers_server::Controllers for ControllerService {
    async fn scale(&self, request: Request<ScaleRequest>) -> Result<Response<ScaleReply>, Status> {
        let message = request.get_ref();
        self.0.access.caller(request.extensions())?;
        let kind = convert::kind(&message.kind)?;
        let namespace = convert::namespace(kind, &message.namespace);
        let action = Attributes {
            verb: "update",
            resource: kind.plural(),
            subresource: "scale",
            namespace,
            name: &message.name,
        };
        let caller = self.0.admit(request.extensions(), &action)?;
        let ticket =
            Ticket::new(caller, "scale", message.dry_run, &message.request_id, message)?.because(request.metadata())?;
        Ok(Response::new(self.0.scale(&ticket, kind, namespace, message).await?))
    }
}

impl Api {
    async fn scale(
        &self,
        ticket: &Ticket,
        kind: Kind,
        namespace: &str,
        message: &ScaleRequest,
    ) -> Result<ScaleReply, ApiError> {
        if kind != Kind::ReplicationController {
            return Err(ApiError::BadRequest(format!(
                "{} cannot be scaled; only replicationcontrollers can",
                kind.plural()
            )));
        }
        let name = &message.name;
        check_replicas(message.replicas).map_err(|what| ApiError::invalid(kind, name, "spec.replicas", what))?;
        let outcome = self.write(ticket, |world| decide(world, namespace, message)).await?;
        let (previous, warnings) = match outcome {
            Outcome::Done(decision) | Outcome::Unchanged(decision) => (decision.result, decision.warnings),
            Outcome::Repeat(repeat) => (repeat.record.result, Vec::new()),
        };
        let key = (namespace.to_owned(), name.clone());
        let version = self.hub.read(|w| w.controllers.get(&key).map(|c| c.rv.to_string()));
        Ok(ScaleReply {
            previous_replicas: previous.parse().unwrap_or(message.replicas),
            replicas: message.replicas,
            resource_version: version.unwrap_or_default(),
            warnings,
        })
    }
}

/// What is wrong with a count, as the end of `spec.replicas: …`.
pub(super) fn check_replicas(replicas: i32) -> Result<(), String> {
    match replicas {
        ..0 => Err(format!("must not be negative, is {replicas}")),
        0..=MAX_REPLICAS => Ok(()),
        _ => Err(format!("must be at most {MAX_REPLICAS}, is {replicas}")),
    }
}

fn decide(world: &World, namespace: &str, message: &ScaleRequest) -> Result<Decision, ApiError> {
    let kind = Kind::ReplicationController;
    let name = message.name.as_str();
    let key = (namespace.to_owned(), name.to_owned());
    let Some(state) = world.controllers.get(&key) else {
        return Err(ApiError::not_found(kind, name));
    };
    let set = state.rc.spec.replicas;
    // Both sides of an update have one count: that of its end.
    let update = world.updating(&state.rc.metadata.uid);
    let set = update.map_or(set, |u| i32::try_from(u.record.value.target).unwrap_or(i32::MAX));
    if let Some(expected) = message.current_replicas
        && expected != set
    {
        return Err(ApiError::mismatch(
            kind,
            name,
            format!("current replicas are {set}, not {expected} as --current-replicas says"),
        ));
    }
    if state.rc.metadata.deletion_timestamp.is_some() {
        return Err(ApiError::in_use(
            kind,
            name,
            "it is being deleted; create it anew once it is gone",
        ));
    }
    if let Some(update) = update {
        return Ok(updates::steer::scale(world, &update, message.replicas, Time::now()));
    }
    let mut changed: ReplicationController = (*state.rc).clone();
    let mut changes = Vec::new();
    if message.replicas != set {
        changed.spec.replicas = message.replicas;
        changed.metadata.generation = Some(changed.metadata.generation.unwrap_or(1) + 1);
        changes.push(Change::put(
            keys::object(kind, namespace, name),
            Expect::At(state.rv),
            encode(&changed),
        ));
    }
    Ok(Decision {
        detail: format!("replicas {set} -> {}", message.replicas),
        before: Some(json!({"replicas": set})),
        after: Some(json!({"replicas": message.replicas})),
        result: set.to_string(),
        warnings: budgets::undercut(world, &key, message.replicas, Time::now()),
        ..Decision::new(changes, Object::ReplicationController(changed))
    })
}
