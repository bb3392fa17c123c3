//! Cordon, Uncordon, Add, Release: why a node takes no new pods, each its owner's own. Mounted by the listener.
//!
//! Invariant: once a hold is acknowledged, no pod comes to the node any more; a request changes the caller's holds
//! only, unless it says that it means another's.

use std::sync::Arc;

use async_trait::async_trait;
use proto::{
    model::{HoldKind, Kind, Object, Time},
    wire::{AddHoldRequest, CordonRequest, HoldReply, ReleaseHoldRequest, UncordonRequest, holds_server::Holds},
};
use tonic::{Extensions, Request, Response, Status};

use super::{
    Api, convert,
    errors::ApiError,
    held::{self, Asked},
    write::{Decision, Outcome, Ticket, audited},
};
use crate::{
    ca::authorizer::Attributes,
    world::{NodeState, World, record::HoldsRecord},
};

pub struct HoldService(pub(super) Arc<Api>);

#[async_trait]
impl Holds for HoldService {
    async fn cordon(&self, request: Request<CordonRequest>) -> Result<Response<HoldReply>, Status> {
        let r = request.get_ref();
        let caller = self.admit(request.extensions(), "cordon", &r.name)?;
        let asked = Asked::hold(HoldKind::Cordon, &r.reason, r.for_ms, Time::now())?;
        let ticket = Ticket::new(caller, "cordon", r.dry_run, &r.request_id, r)?
            .because(request.metadata())?
            .with_reason(r.reason.trim());
        self.act(&r.name, &asked, &ticket).await
    }

    async fn uncordon(&self, request: Request<UncordonRequest>) -> Result<Response<HoldReply>, Status> {
        let r = request.get_ref();
        let caller = self.admit(request.extensions(), "cordon", &r.name)?;
        let asked = Asked::Uncordoned {
            all_owners: r.all_owners,
        };
        let ticket = Ticket::new(caller, "uncordon", r.dry_run, &r.request_id, r)?.because(request.metadata())?;
        self.act(&r.name, &asked, &ticket).await
    }

    async fn add(&self, request: Request<AddHoldRequest>) -> Result<Response<HoldReply>, Status> {
        let r = request.get_ref();
        let caller = self.admit(request.extensions(), "hold", &r.name)?;
        let asked = Asked::hold(HoldKind::Automation, &r.reason, r.for_ms, Time::now())?;
        let ticket = Ticket::new(caller, "hold", r.dry_run, &r.request_id, r)?
            .because(request.metadata())?
            .with_reason(r.reason.trim());
        self.act(&r.name, &asked, &ticket).await
    }

    async fn release(&self, request: Request<ReleaseHoldRequest>) -> Result<Response<HoldReply>, Status> {
        let r = request.get_ref();
        let caller = self.admit(request.extensions(), "hold", &r.name)?;
        let asked = Asked::Released {
            id: r.id.clone(),
            any_owner: r.any_owner,
        };
        let ticket = Ticket::new(caller, "release-hold", r.dry_run, &r.request_id, r)?.because(request.metadata())?;
        self.act(&r.name, &asked, &ticket).await
    }
}

impl HoldService {
    fn admit(&self, extensions: &Extensions, subresource: &str, name: &str) -> Result<String, Status> {
        let action = Attributes {
            verb: "update",
            resource: Kind::Node.plural(),
            subresource,
            name,
            ..Attributes::default()
        };
        self.0.admit(extensions, &action)
    }

    async fn act(&self, name: &str, asked: &Asked, ticket: &Ticket) -> Result<Response<HoldReply>, Status> {
        let makes = matches!(asked, Asked::Hold { .. });
        let _held_back = self.0.held_back(makes && !ticket.dry_run).await;
        let decide = |world: &World| decide(world, name, asked, &ticket.caller);
        let (changed, object) = match self.0.write(ticket, decide).await? {
            Outcome::Done(decision) => (true, Some(decision.object)),
            Outcome::Unchanged(decision) => (!decision.changes.is_empty(), Some(decision.object)),
            Outcome::Repeat(_) => (true, self.0.hub.read(|w| w.object(Kind::Node, "", name))),
        };
        let status = match object {
            Some(Object::Node(node)) => node.status.unwrap_or_default(),
            _ => return Err(ApiError::not_found(Kind::Node, name).into()),
        };
        let holds = status.holds.iter().map(convert::hold).collect();
        Ok(Response::new(HoldReply { changed, holds }))
    }
}

fn decide(world: &World, name: &str, asked: &Asked, caller: &str) -> Result<Decision, ApiError> {
    let state = world
        .nodes
        .get(name)
        .ok_or_else(|| ApiError::not_found(Kind::Node, name))?;
    let next = asked.decide(state, caller, Time::now())?;
    let detail = held::detail(&held::present(state), &next);
    let changes = held::changes(state, (*state.node).clone(), &next);
    let object = shown(world, state, &next)?;
    let before = world.object(Kind::Node, "", name);
    Ok(Decision {
        detail,
        before: before.as_ref().map(audited),
        after: Some(audited(&object)),
        ..Decision::new(changes, object)
    })
}

/// The node with these holds.
fn shown(world: &World, state: &NodeState, holds: &HoldsRecord) -> Result<Object, ApiError> {
    let name = &state.node.metadata.name;
    let Some(Object::Node(mut node)) = world.object(Kind::Node, "", name) else {
        return Err(ApiError::not_found(Kind::Node, name));
    };
    node.status.get_or_insert_default().holds = holds.values().cloned().collect();
    node.spec.unschedulable = holds.values().any(|h| h.kind == HoldKind::Cordon);
    Ok(Object::Node(node))
}

#[cfg(test)]
#[path = "holds_tests.rs"]
mod tests;
