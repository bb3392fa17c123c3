//! Readmit, Forget and ConfirmOff: what only an operator can know of a quarantined, of a deleted and of a lost node.
//! Mounted by the listener.
//!
//! Invariant: none stops or starts a container; they say only what to believe.

use std::sync::Arc;

use async_trait::async_trait;
use proto::{
    model::{Kind, Node, Object, ObjectMeta, Time, labels::quoted},
    wire::{self, NodeReply, NodeRequest},
};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::{
    Api,
    errors::ApiError,
    write::{Decision, Outcome, Ticket},
};
use crate::{
    ca::authorizer::Attributes,
    store::{Change, Expect, keys},
    world::{
        World,
        record::{HolderRecord, OffRecord, TombstoneRecord, encode},
    },
};

pub struct NodeService(pub(super) Arc<Api>);

#[async_trait]
impl wire::nodes_server::Nodes for NodeService {
    async fn readmit(&self, request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        let action = Attributes {
            verb: "update",
            resource: "certificates",
            subresource: "readmit",
            ..Attributes::default()
        };
        self.act(request, action, "readmit", readmit).await
    }

    async fn forget(&self, request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        let action = Attributes {
            verb: "delete",
            resource: Kind::Node.plural(),
            subresource: "forget",
            ..Attributes::default()
        };
        self.act(request, action, "forget", forget).await
    }

    async fn confirm_off(&self, request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        let action = Attributes {
            verb: "delete",
            resource: Kind::Node.plural(),
            subresource: "confirm-off",
            ..Attributes::default()
        };
        self.act(request, action, "confirm-off", confirm_off).await
    }
}

/// Decides what an operator's word about a node changes: world, node, caller.
type Decide = fn(&World, &str, &str) -> Result<Decision, ApiError>;

impl NodeService {
    async fn act(
        &self,
        request: Request<NodeRequest>,
        action: Attributes<'_>,
        verb: &'static str,
        decide: Decide,
    ) -> Result<Response<NodeReply>, Status> {
        let message = request.get_ref();
        let name = &message.name;
        let caller = self.0.admit(request.extensions(), &Attributes { name, ..action })?;
        let ticket =
            Ticket::new(caller, verb, message.dry_run, &message.request_id, message)?.because(request.metadata())?;
        let by = ticket.caller.clone();
        let outcome = self.0.write(&ticket, |world| decide(world, name, &by)).await?;
        let changed = match outcome {
            Outcome::Done(_) | Outcome::Repeat(_) => true,
            Outcome::Unchanged(decision) => !decision.changes.is_empty(),
        };
        Ok(Response::new(NodeReply { changed }))
    }
}

fn readmit(world: &World, name: &str, _: &str) -> Result<Decision, ApiError> {
    let state = world
        .nodes
        .get(name)
        .ok_or_else(|| ApiError::not_found(Kind::Node, name))?;
    let object = Object::Node((*state.node).clone());
    let Some(known) = state.holder.as_ref().filter(|_| state.rival().is_some()) else {
        return Ok(Decision::new(Vec::new(), object));
    };
    // The next agent that says Hello becomes the holder, if its identity is the node's present one.
    let vacant = HolderRecord::vacant(known.value.holder.generation, known.value.unsettled);
    let change = Change::put(keys::holder(name), Expect::At(known.rv), encode(&vacant));
    Ok(Decision {
        before: Some(json!(&*known.value)),
        ..Decision::new(vec![change], object)
    })
}

fn confirm_off(world: &World, name: &str, by: &str) -> Result<Decision, ApiError> {
    let state = world
        .nodes
        .get(name)
        .ok_or_else(|| ApiError::not_found(Kind::Node, name))?;
    let object = Object::Node((*state.node).clone());
    if state.off.is_some() {
        return Ok(Decision::new(Vec::new(), object));
    }
    if state.lost().is_none() {
        let ready = state.condition();
        let what = match ready.reason.as_str() {
            "AgentReady" => "it is heard (Ready)".to_owned(),
            "NeverConnected" => "it was never heard, so that nothing runs there".to_owned(),
            reason => format!("its agent is heard ({reason})"),
        };
        return Err(ApiError::in_use(
            Kind::Node,
            name,
            format!(
                "{what}; only a node that is Unreachable or whose agent is down can be confirmed off: switch its host off, or cut it, first"
            ),
        ));
    }
    let record = OffRecord {
        by: by.to_owned(),
        at: Time::now(),
    };
    let change = Change::put(keys::off(name), Expect::Absent, encode(&record));
    let (stay, end): (Vec<_>, Vec<_>) = world.pods_on(name).partition(|(_, p)| p.bound_by_data().is_some());
    Ok(Decision {
        detail: format!("{} pods count as ended, {} stay with their data", end.len(), stay.len()),
        ..Decision::new(vec![change], object)
    })
}

fn forget(world: &World, name: &str, _: &str) -> Result<Decision, ApiError> {
    if world.nodes.contains_key(name) {
        return Err(ApiError::in_use(
            Kind::Node,
            name,
            format!("it is not deleted; if its host is gone for good: wharf delete node {name}"),
        ));
    }
    let Some(found) = world.tombstones.get(name) else {
        return Err(ApiError::Gone(format!(
            "no deleted node {} is remembered: it was forgotten, or nothing of it is left",
            quoted(name)
        )));
    };
    let meta = ObjectMeta {
        name: name.to_owned(),
        uid: found.value.uid.clone(),
        ..ObjectMeta::default()
    };
    let object = Object::Node(Node {
        metadata: meta,
        ..Node::default()
    });
    if found.value.forgotten {
        return Ok(Decision::new(Vec::new(), object));
    }
    let forgotten = TombstoneRecord {
        forgotten: true,
        ..(*found.value).clone()
    };
    let change = Change::put(keys::tombstone(name), Expect::At(found.rv), encode(&forgotten));
    Ok(Decision::new(vec![change], object))
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
