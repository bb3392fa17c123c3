//! A host leaves the fleet: its agent asks that its own node be deleted (`Agent.Leave`). Called by the agents' service,
//! which knows the caller by its certificate.
//!
//! Invariant: only a node to which no pod is bound leaves; it is deleted as an operator would delete it, on record
//! as its agent's doing.

use async_trait::async_trait;
use proto::{
    model::{Kind, Time},
    wire::{DeleteRequest, LeaveRequest},
};
use tonic::Status;

use super::{
    Api,
    delete::Delete,
    errors::ApiError,
    write::{Decision, Ticket},
};
use crate::{
    session::service::{Leaver, Peer},
    world::World,
};

#[async_trait]
impl Leaver for Api {
    async fn leave(&self, peer: &Peer) -> Result<(), Status> {
        self.active()?;
        // The answer to the first request was lost.
        if peer.deleted {
            return Ok(());
        }
        let caller = format!("agent/{}", peer.node);
        let ticket = Ticket::new(caller.clone(), "leave", false, "", &LeaveRequest {})?;
        let message = DeleteRequest {
            name: peer.node.clone(),
            ..DeleteRequest::default()
        };
        let delete = Delete::new(Kind::Node, "", &caller, &message)?;
        match self.write(&ticket, |world| decide(world, &delete)).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn decide(world: &World, delete: &Delete) -> Result<Decision, ApiError> {
    let name = &delete.name;
    if world.nodes.get(name).is_some_and(|n| n.rival().is_some()) {
        return Err(ApiError::in_use(
            Kind::Node,
            name,
            format!(
                "two agents hold its identity, so that neither may take it out; stop the copy, then: wharf node readmit {name}; or delete it: wharf delete node {name}"
            ),
        ));
    }
    let bound = world.pods_on(name).count();
    if bound > 0 {
        let pods = if bound == 1 {
            "1 pod is"
        } else {
            &format!("{bound} pods are")
        };
        return Err(ApiError::in_use(
            Kind::Node,
            name,
            format!(
                "{pods} still bound to it; start its agent again, and move or delete them first: wharf get pods -A --node {name}"
            ),
        ));
    }
    delete.decide(world, Time::now())
}

#[cfg(test)]
#[path = "leave_tests.rs"]
mod tests;
