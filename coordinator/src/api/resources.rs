//! Get, List, Watch, Create, Replace, Patch, Delete. Mounted by the listener.
//!
//! Invariant: each method authorizes first; a List is one reading of the world.

use std::sync::Arc;

use async_trait::async_trait;
use proto::{
    model::{Kind, Time},
    wire::{
        self, CreateRequest, DeleteRequest, GetRequest, ListReply, ListRequest, PatchRequest, ReplaceRequest,
        resources_server::Resources,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Api, convert,
    create::{self, Create},
    delete::Delete,
    errors::ApiError,
    filter::Filter,
    patch::Patch,
    replace::Replace,
    watch::WatchStream,
    write::{Decision, Outcome, Repeat, Ticket},
};
use crate::{store::Rv, world::World};

pub struct ResourceService(pub(super) Arc<Api>);

#[async_trait]
impl Resources for ResourceService {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<wire::Object>, Status> {
        let GetRequest { kind, namespace, name } = request.get_ref();
        self.0.access.caller(request.extensions())?;
        let kind = convert::kind(kind)?;
        let namespace = convert::namespace(kind, namespace);
        self.0.admit_to(request.extensions(), "get", kind, namespace, name)?;
        named(name)?;
        let found = self.0.hub.read(|world| world.object(kind, namespace, name));
        let object = found.ok_or_else(|| ApiError::not_found(kind, name))?;
        Ok(Response::new(convert::object(&object)))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let filter = self.filter("list", &request)?;
        let (rv, objects) = self.0.hub.read(|world| {
            let keys = world.keys(filter.kind, &filter.namespace);
            let objects: Vec<_> = keys.iter().filter_map(|(key, _)| filter.select(world, key)).collect();
            (world.rv, objects)
        });
        Ok(Response::new(ListReply {
            items: objects.iter().map(convert::object).collect(),
            resource_version: rv.0,
        }))
    }

    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<ListRequest>) -> Result<Response<WatchStream>, Status> {
        let filter = self.filter("watch", &request)?;
        let after = Rv(request.get_ref().resource_version);
        Ok(Response::new(self.0.watch(filter, after)?))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<wire::Object>, Status> {
        let message = request.get_ref();
        self.0.access.caller(request.extensions())?;
        let kind = convert::kind(&message.kind)?;
        let names = create::subject(kind, &message.namespace, &message.json);
        let caller = self
            .0
            .admit_to(request.extensions(), "create", kind, &names.namespace, &names.name)?;
        let ticket = Ticket::new(caller, "create", message.dry_run, &message.request_id, message)?
            .because(request.metadata())?;
        let create = Create::new(kind, &names, message, Time::now())?;
        let _one_by_one = self.0.one_by_one(kind).await;
        let outcome = self.0.write(&ticket, |world| create.decide(world)).await?;
        Ok(Response::new(self.0.answer(outcome)))
    }

    async fn replace(&self, request: Request<ReplaceRequest>) -> Result<Response<wire::Object>, Status> {
        let message = request.get_ref();
        self.0.access.caller(request.extensions())?;
        let kind = convert::kind(&message.kind)?;
        let names = create::subject(kind, &message.namespace, &message.json);
        let caller = self
            .0
            .admit_to(request.extensions(), "update", kind, &names.namespace, &names.name)?;
        let ticket = Ticket::new(caller, "replace", message.dry_run, &message.request_id, message)?
            .because(request.metadata())?;
        let replace = Replace::new(kind, &names, &message.json)?;
        let _held_back = self.0.held_back(replace.holds()).await;
        let _one_by_one = self.0.one_by_one(kind).await;
        let decide = |world: &World| replace.decide(world, &ticket.caller, Time::now());
        let outcome = self.0.write(&ticket, decide).await?;
        Ok(Response::new(self.0.answer(outcome)))
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Result<Response<wire::Object>, Status> {
        let message = request.get_ref();
        self.0.access.caller(request.extensions())?;
        let kind = convert::kind(&message.kind)?;
        let namespace = convert::namespace(kind, &message.namespace);
        let caller = self
            .0
            .admit_to(request.extensions(), "patch", kind, namespace, &message.name)?;
        named(&message.name)?;
        let ticket =
            Ticket::new(caller, "patch", message.dry_run, &message.request_id, message)?.because(request.metadata())?;
        let patch = Patch::new(kind, namespace, &message.name, &message.patch)?;
        let _held_back = self.0.held_back(patch.holds()).await;
        let _one_by_one = self.0.one_by_one(kind).await;
        let decide = |world: &World| patch.decide(world, &ticket.caller, Time::now());
        let outcome = self.0.write(&ticket, decide).await?;
        Ok(Response::new(self.0.answer(outcome)))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<wire::Object>, Status> {
        let message = request.get_ref();
        self.0.access.caller(request.extensions())?;
        let kind = convert::kind(&message.kind)?;
        let namespace = convert::namespace(kind, &message.namespace);
        let caller = self
            .0
            .admit_to(request.extensions(), "delete", kind, namespace, &message.name)?;
        named(&message.name)?;
        let delete = Delete::new(kind, namespace, &caller, message)?;
        let ticket = Ticket::new(caller, "delete", message.dry_run, &message.request_id, message)?
            .because(request.metadata())?;
        let outcome = self.0.write(&ticket, |world| delete.decide(world, Time::now())).await?;
        Ok(Response::new(self.0.answer(outcome)))
    }
}

impl ResourceService {
    fn filter(&self, verb: &str, request: &Request<ListRequest>) -> Result<Filter, Status> {
        let message = request.get_ref();
        self.0.access.caller(request.extensions())?;
        let kind = convert::kind(&message.kind)?;
        // Unlike for one object, no namespace means all of them.
        let namespace = if kind.namespaced() { &message.namespace } else { "" };
        self.0.admit_to(request.extensions(), verb, kind, namespace, "")?;
        Ok(Filter::parse(
            kind,
            namespace,
            &message.label_selector,
            &message.field_selector,
        )?)
    }
}

impl Api {
    /// The object as it is after the write; one that is gone, as it last was.
    fn answer(&self, outcome: Outcome) -> wire::Object {
        match outcome {
            Outcome::Unchanged(decision) => with_warnings(convert::object(&decision.object), decision),
            Outcome::Done(decision) => {
                let meta = decision.object.meta();
                let now = self.present(decision.object.kind(), &meta.namespace, &meta.name, &meta.uid);
                with_warnings(now.unwrap_or_else(|| convert::object(&decision.object)), decision)
            }
            Outcome::Repeat(repeat) => self.repeated(&repeat),
        }
    }

    /// The object of an earlier request, looked for among the living, then among the dead.
    fn repeated(&self, Repeat { rv, record }: &Repeat) -> wire::Object {
        let (namespace, name, uid) = (&record.namespace, &record.name, &record.uid);
        // The record was written by this service, from a kind's own name.
        let Some(kind) = Kind::parse(&record.kind) else {
            return wire::Object::default();
        };
        if let Some(now) = self.present(kind, namespace, name, uid) {
            return now;
        }
        // A removal is in the transaction of the request's record, a little before it.
        let before = Rv::new(rv.revision().saturating_sub(1), u16::MAX);
        let dead = self.hub.deleted_since(kind, before).unwrap_or_default();
        let found = dead.iter().find(|t| t.object.meta().uid == *uid);
        found.map_or_else(
            || convert::gone(kind, namespace, name, uid),
            |tombstone| convert::object(&tombstone.object),
        )
    }

    fn present(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Option<wire::Object> {
        let found = self.hub.read(|world| world.object(kind, namespace, name));
        found.filter(|o| o.meta().uid == uid).map(|o| convert::object(&o))
    }
}

fn with_warnings(mut object: wire::Object, decision: Decision) -> wire::Object {
    object.warnings = decision.warnings;
    object
}

fn named(name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::BadRequest("name: required".into()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
