//! The calls of the resource service: get, list, watch, create, replace, patch, delete.
//!
//! Invariant: as of [`super`]; a request id is made here, one for each write.

use proto::{
    model::Kind,
    wire::{self, resources_client::ResourcesClient},
};
use serde_json::Value;
use tonic::{Code, Response, Status, Streaming};

use super::{Because, Call, Client, Sending, is_elsewhere, not_found, refused, request_id, words};
use crate::{error::Error, received::Received, target::Reference};

/// Largest reply: a list of every pod of a large fleet.
const MAX_REPLY_BYTES: usize = 512 << 20;

/// What to list or watch.
#[derive(Clone, Debug)]
pub struct Query {
    pub kind: Kind,
    /// Empty: all namespaces, or a kind without.
    pub namespace: String,
    pub labels: String,
    pub fields: String,
}

impl Query {
    fn request(&self, resource_version: u64) -> wire::ListRequest {
        wire::ListRequest {
            kind: self.kind.name().to_owned(),
            namespace: self.namespace.clone(),
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            resource_version,
        }
    }
}

pub struct Watch(Streaming<wire::WatchEvent>);

#[derive(Debug)]
pub enum WatchError {
    /// The revision is no longer kept: list again.
    TooOld,
    /// The connection or the coordinator went away: try again; says why.
    Broken(String),
    /// It will not be answered otherwise the next time.
    Refused(Error),
}

/// NOT_FOUND as a value.
fn or_none<T>(result: Result<Response<T>, Status>) -> Result<Response<Option<T>>, Status> {
    match result {
        Ok(reply) => Ok(reply.map(Some)),
        Err(status) if status.code() == Code::NotFound => Ok(Response::new(None)),
        Err(status) => Err(status),
    }
}

fn resources(channel: Sending) -> ResourcesClient<Sending> {
    ResourcesClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

impl Client {
    /// Errors: `pods "x" not found` and other refusals, or no coordinator. So for all that follow.
    pub async fn get(&mut self, object: &Reference) -> Result<Received, Error> {
        self.find(object)
            .await?
            .ok_or_else(|| not_found(object.kind, &object.name))
    }

    /// As [`Client::get`], with `None` for an object that is not there.
    pub async fn find(&mut self, object: &Reference) -> Result<Option<Received>, Error> {
        let request = wire::GetRequest {
            kind: object.kind.name().to_owned(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        };
        let reply = self
            .call(Call::Read, |channel| {
                let request = request.clone();
                async move { or_none(resources(channel).get(request).await) }
            })
            .await?;
        reply.map(|found| Received::new(object.kind, found)).transpose()
    }

    /// The objects and the revision at which the list is true.
    pub async fn list(&mut self, query: &Query) -> Result<(Vec<Received>, u64), Error> {
        let reply = self
            .call(Call::Read, |channel| {
                let request = query.request(0);
                async move { resources(channel).list(request).await }
            })
            .await?;
        let items = reply.items.into_iter().map(|o| Received::new(query.kind, o));
        Ok((items.collect::<Result<_, _>>()?, reply.resource_version))
    }

    /// Opens a watch after `revision`; the status is the coordinator's, for the caller to judge.
    pub async fn watch(&mut self, query: &Query, revision: u64) -> Result<Watch, WatchError> {
        let address = self.address();
        let channel = self.channel().await.map_err(|e| {
            self.leave();
            match e {
                Error::Unreachable(why) => WatchError::Broken(format!("{address}: {why}")),
                other => WatchError::Refused(other),
            }
        })?;
        let channel = Sending::new(channel, Because::default());
        let opened = self.bounded(resources(channel).watch(query.request(revision))).await;
        match opened {
            Some(Ok(stream)) => Ok(Watch(stream.into_inner())),
            Some(Err(status)) => Err(self.judge(&status)),
            None => {
                self.leave();
                Err(WatchError::Broken("no answer".to_owned()))
            }
        }
    }

    /// The next event of a watch; `None` when the coordinator ended it.
    pub async fn next_event(&mut self, watch: &mut Watch) -> Result<Option<wire::WatchEvent>, WatchError> {
        match watch.0.message().await {
            Ok(event) => Ok(event),
            Err(status) => Err(self.judge(&status)),
        }
    }

    fn judge(&mut self, status: &Status) -> WatchError {
        // The second: the coordinator could not keep what this reader had not yet taken.
        if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted) {
            return WatchError::TooOld;
        }
        if is_elsewhere(status) || matches!(status.code(), Code::Cancelled | Code::Aborted) {
            self.leave();
            return WatchError::Broken(words(status));
        }
        WatchError::Refused(refused(status))
    }

    /// Creates an object from its JSON, which has the name; `target` says the kind and the namespace.
    pub async fn create(&mut self, target: &Reference, json: &Value, dry_run: bool) -> Result<Received, Error> {
        let request = wire::CreateRequest {
            kind: target.kind.name().to_owned(),
            namespace: target.namespace.clone(),
            json: json.to_string().into_bytes(),
            dry_run,
            request_id: request_id(),
        };
        let reply = self
            .call(Call::Write, |channel| {
                let request = request.clone();
                async move { resources(channel).create(request).await }
            })
            .await?;
        Received::new(target.kind, reply)
    }

    /// Puts an object in the place of the one of its name.
    pub async fn replace(&mut self, target: &Reference, json: &Value, dry_run: bool) -> Result<Received, Error> {
        let request = wire::ReplaceRequest {
            kind: target.kind.name().to_owned(),
            namespace: target.namespace.clone(),
            json: json.to_string().into_bytes(),
            dry_run,
            request_id: request_id(),
        };
        let reply = self
            .call(Call::Write, |channel| {
                let request = request.clone();
                async move { resources(channel).replace(request).await }
            })
            .await?;
        Received::new(target.kind, reply)
    }

    /// Merges a patch (RFC 7386) into an object.
    pub async fn patch(&mut self, object: &Reference, patch: &Value, dry_run: bool) -> Result<Received, Error> {
        let request = wire::PatchRequest {
            kind: object.kind.name().to_owned(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            patch: patch.to_string().into_bytes(),
            dry_run,
            request_id: request_id(),
        };
        let reply = self
            .call(Call::Write, |channel| {
                let request = request.clone();
                async move { resources(channel).patch(request).await }
            })
            .await?;
        Received::new(object.kind, reply)
    }

    /// Deletes an object; returns it as it then is, or `None` when it is not there. The request id is set here.
    pub async fn delete(&mut self, kind: Kind, request: wire::DeleteRequest) -> Result<Option<Received>, Error> {
        let request = wire::DeleteRequest {
            kind: kind.name().to_owned(),
            request_id: request_id(),
            ..request
        };
        let reply = self
            .call(Call::Write, |channel| {
                let request = request.clone();
                async move { or_none(resources(channel).delete(request).await) }
            })
            .await?;
        reply.map(|object| Received::new(kind, object)).transpose()
    }
}
