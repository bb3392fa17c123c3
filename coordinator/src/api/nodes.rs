//! Readmit and Forget: what an operator says of a quarantined and of a deleted node. Mounted by the listener.
//!
//! Invariant: neither stops or starts a container; both say only whom to believe.

use std::sync::Arc;

use async_trait::async_trait;
use proto::{
    model::{Kind, Node, Object, ObjectMeta, labels::quoted},
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
        record::{HolderRecord, TombstoneRecord, encode},
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
}

impl NodeService {
    async fn act(
        &self,
        request: Request<NodeRequest>,
        action: Attributes<'_>,
        verb: &'static str,
        decide: fn(&World, &str) -> Result<Decision, ApiError>,
    ) -> Result<Response<NodeReply>, Status> {
        let message = request.get_ref();
        let name = &message.name;
        let caller = self.0.admit(request.extensions(), &Attributes { name, ..action })?;
        let ticket =
            Ticket::new(caller, verb, message.dry_run, &message.request_id, message)?.because(request.metadata())?;
        let outcome = self.0.write(&ticket, |world| decide(world, name)).await?;
        let changed = match outcome {
            Outcome::Done(_) | Outcome::Repeat(_) => true,
            Outcome::Unchanged(decision) => !decision.changes.is_empty(),
        };
        Ok(Response::new(NodeReply { changed }))
    }
}

fn readmit(world: &World, name: &str) -> Result<Decision, ApiError> {
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

fn forget(world: &World, name: &str) -> Result<Decision, ApiError> {
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
