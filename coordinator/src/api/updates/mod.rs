//! Begin, Steer, Undo, History, List, Watch: rolling updates. Mounted by the listener; what goes when is `plan::rollout`'s.
//!
//! | file | what it is |
//! |---|---|
//! | this | the service |
//! | `begin` | the two controllers of an update that begins, and what forbids it |
//! | `made` | the new one of them: given, by image, or by revision |
//! | `limits` | how an update may go, read and checked |
//! | `steer` | pause, resume, roll back; what a scale, a replace and a delete of either side mean |
//!
//! Invariant: an update begins in one commit with its new controller; what is under way is never made another one by a
//! second request, but for its limits and its target.

mod begin;
mod limits;
mod made;
pub(super) mod steer;

use std::sync::Arc;

use async_trait::async_trait;
use proto::{
    model::{Kind, Object, Time},
    wire::{
        BeginUpdateReply, BeginUpdateRequest, ListUpdatesReply, ListUpdatesRequest, SteerUpdateReply,
        SteerUpdateRequest, UndoUpdateRequest, UpdateHistoryReply, UpdateHistoryRequest, UpdateRevision, UpdateView,
        WatchUpdateRequest, updates_server::Updates,
    },
};
use tonic::{Extensions, Request, Response, Status};

use self::{begin::Wanted, limits::Limits, steer::Action};
use super::{
    Api, convert,
    errors::ApiError,
    update_watch,
    view_watch::ViewStream,
    write::{Outcome, Ticket, now_ms},
};
use crate::{
    ca::authorizer::Attributes,
    world::{Key, World, updates::RevisionsRecord},
};

pub struct UpdateService(pub(super) Arc<Api>);

#[async_trait]
impl Updates for UpdateService {
    async fn begin(&self, request: Request<BeginUpdateRequest>) -> Result<Response<BeginUpdateReply>, Status> {
        let r = request.get_ref();
        let key = at(&r.namespace, &r.name);
        let caller = self.admit(request.extensions(), "update", &key)?;
        let wanted = Wanted::new(r, &key)?;
        let limits = Limits::new(r.limits.as_ref())?;
        let ticket = Ticket::new(caller, "rolling-update", r.dry_run, &r.request_id, r)?.because(request.metadata())?;
        Ok(Response::new(
            self.0.begin_update(&ticket, &key, &wanted, &limits).await?,
        ))
    }

    async fn steer(&self, request: Request<SteerUpdateRequest>) -> Result<Response<SteerUpdateReply>, Status> {
        let r = request.get_ref();
        let key = at(&r.namespace, &r.name);
        let caller = self.admit(request.extensions(), "update", &key)?;
        let action = Action::parse(&r.action)?;
        let ticket = Ticket::new(caller, action.verb(), r.dry_run, &r.request_id, r)?.because(request.metadata())?;
        let limits = Limits::new(r.limits.as_ref())?;
        let decide = |world: &World| steer::steer(world, &key, action, &limits, &ticket.caller, Time::now());
        let changed = match self.0.write(&ticket, decide).await? {
            Outcome::Done(_) | Outcome::Repeat(_) => true,
            Outcome::Unchanged(decision) => !decision.changes.is_empty(),
        };
        let view = self.0.view_of(&key);
        Ok(Response::new(SteerUpdateReply { changed, view }))
    }

    async fn undo(&self, request: Request<UndoUpdateRequest>) -> Result<Response<BeginUpdateReply>, Status> {
        let r = request.get_ref();
        let key = at(&r.namespace, &r.name);
        let caller = self.admit(request.extensions(), "update", &key)?;
        let limits = Limits::new(r.limits.as_ref())?;
        let ticket = Ticket::new(caller, "undo", r.dry_run, &r.request_id, r)?.because(request.metadata())?;
        let wanted = Wanted::Revision { number: r.to_revision };
        Ok(Response::new(
            self.0.begin_update(&ticket, &key, &wanted, &limits).await?,
        ))
    }

    async fn history(&self, request: Request<UpdateHistoryRequest>) -> Result<Response<UpdateHistoryReply>, Status> {
        let r = request.get_ref();
        let key = at(&r.namespace, &r.name);
        self.admit(request.extensions(), "get", &key)?;
        let revisions = self.0.hub.read(|world| revisions(world, &key))?;
        let shown = revisions.revisions.into_iter().map(|revision| {
            let containers = &revision.controller.spec.template.spec.containers;
            UpdateRevision {
                number: revision.number,
                name: revision.controller.metadata.name.clone(),
                cause: revision.cause,
                by: revision.by,
                at_ms: convert::ms(revision.at),
                images: containers.iter().map(|c| c.image.clone()).collect(),
                controller: convert::object(&Object::ReplicationController(revision.controller)).json,
            }
        });
        Ok(Response::new(UpdateHistoryReply {
            revisions: shown.collect(),
        }))
    }

    async fn list(&self, request: Request<ListUpdatesRequest>) -> Result<Response<ListUpdatesReply>, Status> {
        let namespace = &request.get_ref().namespace;
        self.admit(request.extensions(), "list", &(namespace.clone(), String::new()))?;
        let mut updates: Vec<UpdateView> = self.0.hub.read(|world| {
            let going = world.updates.iter().filter(|(_, u)| u.value.ended.is_none());
            let here = going.filter(|(key, _)| namespace.is_empty() || key.0 == *namespace);
            here.filter_map(|(key, _)| update_watch::view(world, key, now_ms()))
                .collect()
        });
        updates.sort_by(|a, b| (&a.namespace, &a.old).cmp(&(&b.namespace, &b.old)));
        Ok(Response::new(ListUpdatesReply { updates }))
    }

    type WatchStream = ViewStream<UpdateView>;

    async fn watch(&self, request: Request<WatchUpdateRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let r = request.get_ref();
        let key = at(&r.namespace, &r.name);
        self.admit(request.extensions(), "get", &key)?;
        Ok(Response::new(self.0.watch_update(&key)?))
    }
}

impl UpdateService {
    fn admit(&self, extensions: &Extensions, verb: &str, key: &Key) -> Result<String, Status> {
        let action = Attributes {
            verb,
            resource: Kind::ReplicationController.plural(),
            subresource: "rollout",
            namespace: &key.0,
            name: &key.1,
        };
        self.0.admit(extensions, &action)
    }
}

impl Api {
    async fn begin_update(
        &self,
        ticket: &Ticket,
        key: &Key,
        wanted: &Wanted,
        limits: &Limits,
    ) -> Result<BeginUpdateReply, ApiError> {
        let decide = |world: &World| begin::begin(world, key, wanted, limits, &ticket.caller, Time::now());
        // A pod made meanwhile would lack the label that the old controller is about to select by.
        let _held_back = self.held_back(!ticket.dry_run).await;
        while !ticket.dry_run && self.hub.read(|world| begin::unlabelled(world, key, wanted)) {
            // What is refused leaves no label behind.
            self.hub.read(|world| decide(world).map(drop))?;
            let first = Ticket::new(ticket.caller.clone(), "label", false, "", &())?;
            self.write(&first, |world| begin::label(world, key, wanted)).await?;
        }
        let (began, decision) = match self.write(ticket, decide).await? {
            Outcome::Done(decision) => (true, Some(decision)),
            Outcome::Unchanged(decision) => (ticket.dry_run && !decision.changes.is_empty(), Some(decision)),
            Outcome::Repeat(_) => (true, None),
        };
        // One whose limits were changed was there before.
        let began = began && decision.as_ref().is_none_or(|d| d.result != begin::GOES_ON);
        let (pair, warnings) = match decision {
            Some(decision) => (decision.object.pair, decision.warnings),
            None => (self.hub.read(|world| begin::pair(world, key))?, Vec::new()),
        };
        let json = |rc| convert::object(&Object::ReplicationController(rc)).json;
        Ok(BeginUpdateReply {
            began,
            view: if ticket.dry_run { None } else { self.view_of(key) },
            warnings,
            old: json(pair.0),
            new: json(pair.1),
        })
    }

    fn view_of(&self, key: &Key) -> Option<UpdateView> {
        self.hub.read(|world| {
            let key = found(world, key).ok()?;
            update_watch::view(world, &key, now_ms())
        })
    }
}

fn at(namespace: &str, name: &str) -> Key {
    let namespace = convert::namespace(Kind::ReplicationController, namespace);
    (namespace.to_owned(), name.to_owned())
}

/// Under which key the update is kept that this controller is one side of: one that goes on, else the last one. Errors:
/// there is no such controller, and no update that is known by its name.
pub(super) fn found(world: &World, key: &Key) -> Result<Key, ApiError> {
    let state = world.controllers.get(key);
    if let Some(update) = state.and_then(|c| world.updating(&c.rc.metadata.uid)) {
        return Ok(update.key.clone());
    }
    // The last one that it was a side of; of one that is gone, by the name that it had.
    let of = world.updates.iter().filter(|(k, u)| {
        let uid = state.map(|c| c.rc.metadata.uid.as_str());
        let sides = [u.value.old.as_str(), u.value.new.as_str()];
        k.0 == key.0 && uid.is_some_and(|uid| sides.contains(&uid))
    });
    let named = || {
        let known = world.updates.get_key_value(key);
        known.or_else(|| {
            world
                .updates
                .iter()
                .find(|(k, u)| k.0 == key.0 && u.value.new_name == key.1)
        })
    };
    let made = of.max_by_key(|(_, u)| u.value.since).or_else(named);
    match (made, state) {
        (Some((key, _)), _) => Ok(key.clone()),
        (None, Some(_)) => Err(none(&key.1)),
        (None, None) => Err(ApiError::not_found(Kind::ReplicationController, &key.1)),
    }
}

/// No update of it is known.
pub(super) fn none(name: &str) -> ApiError {
    ApiError::Gone(format!("no update of {name} in progress"))
}

/// Those on record, or the present controller alone.
fn revisions(world: &World, key: &Key) -> Result<RevisionsRecord, ApiError> {
    let state = world.controllers.get(key);
    let state = state.ok_or_else(|| ApiError::not_found(Kind::ReplicationController, &key.1))?;
    Ok(world.revisions_of(key, &state.rc))
}

#[cfg(test)]
#[path = "updates_tests.rs"]
mod tests;
