//! Calls to the coordinators. Used by every command that speaks to one.
//!
//! A call goes to the coordinator that answered last, else to the first that connects. On UNAVAILABLE or a broken
//! connection the others are tried, and after a pause all of them once more. Every write carries a request id that
//! stays the same when it is repeated.
//!
//! Invariant: a call that is not safe to repeat is never sent a second time once it may have been received.

use std::{error::Error as _, future::Future, time::Duration};

use proto::{
    credentials::{Credentials, root_cause},
    model::Kind,
    wire::{
        self, cluster_client::ClusterClient, controllers_client::ControllersClient, nodes_client::NodesClient,
        resources_client::ResourcesClient, tokens_client::TokensClient,
    },
};
use serde_json::Value;
use tonic::{Code, Response, Status, Streaming, transport::Channel};

use crate::{
    env::{Connect, Times},
    error::Error,
    received::Received,
};

/// Largest reply: a list of every pod of a large fleet.
const MAX_REPLY_BYTES: usize = 512 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read,
    /// Safe to repeat by its request id, or by its nature.
    Write,
    /// A write to repeat only while it cannot have been received.
    Once,
}

impl Call {
    /// What to add when it failed after it may have been received.
    fn doubt(self) -> &'static str {
        match self {
            Self::Read => "",
            Self::Write | Self::Once => "; whether it was done is not known",
        }
    }
}

pub struct Client {
    credentials: Credentials,
    connect: Connect,
    times: Times,
    timeout: Option<Duration>,
    /// Index of the coordinator to try first.
    preferred: usize,
    channel: Option<Channel>,
}

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

/// Random, one for each write.
pub fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// As the coordinators say it.
pub fn not_found(kind: Kind, name: &str) -> Error {
    Error::Refused(format!("{} {name:?} not found", kind.plural()))
}

/// NOT_FOUND as a value.
fn or_none<T>(result: Result<Response<T>, Status>) -> Result<Response<Option<T>>, Status> {
    match result {
        Ok(reply) => Ok(reply.map(Some)),
        Err(status) if status.code() == Code::NotFound => Ok(Response::new(None)),
        Err(status) => Err(status),
    }
}

fn resources(channel: Channel) -> ResourcesClient<Channel> {
    ResourcesClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

impl Client {
    /// `timeout` is for one attempt of a call; none: for ever.
    pub fn new(credentials: Credentials, connect: Connect, times: Times, timeout: Option<Duration>) -> Self {
        Self {
            credentials,
            connect,
            times,
            timeout,
            preferred: 0,
            channel: None,
        }
    }

    /// Errors: `pods "x" not found` and other refusals, or no coordinator. So for all that follow.
    pub async fn get(&mut self, kind: Kind, namespace: &str, name: &str) -> Result<Received, Error> {
        self.find(kind, namespace, name)
            .await?
            .ok_or_else(|| not_found(kind, name))
    }

    /// As [`Client::get`], with `None` for an object that is not there.
    pub async fn find(&mut self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Received>, Error> {
        let request = wire::GetRequest {
            kind: kind.name().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let reply = self
            .call(Call::Read, |channel| {
                let request = request.clone();
                async move { or_none(resources(channel).get(request).await) }
            })
            .await?;
        reply.map(|object| Received::new(kind, object)).transpose()
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
                other => WatchError::Refused(other.to_string()),
            }
        })?;
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
        if status.code() == Code::OutOfRange {
            return WatchError::TooOld;
        }
        if is_elsewhere(status) || matches!(status.code(), Code::Cancelled | Code::Aborted) {
            self.leave();
            return WatchError::Broken(words(status));
        }
        WatchError::Refused(refusal(status))
    }

    /// Creates an object from its JSON.
    pub async fn create(
        &mut self,
        kind: Kind,
        namespace: &str,
        json: &Value,
        dry_run: bool,
    ) -> Result<Received, Error> {
        let request = wire::CreateRequest {
            kind: kind.name().to_owned(),
            namespace: namespace.to_owned(),
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
        Received::new(kind, reply)
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

    /// Sets a controller's count. The request id is set here.
    pub async fn scale(&mut self, request: wire::ScaleRequest) -> Result<wire::ScaleReply, Error> {
        let request = wire::ScaleRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { ControllersClient::new(channel).scale(request).await }
        })
        .await
    }

    /// Ends a node's quarantine. The request id is set here, and in [`Client::forget`].
    pub async fn readmit(&mut self, request: wire::NodeRequest) -> Result<wire::NodeReply, Error> {
        let request = wire::NodeRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { NodesClient::new(channel).readmit(request).await }
        })
        .await
    }

    /// Forgets a deleted node.
    pub async fn forget(&mut self, request: wire::NodeRequest) -> Result<wire::NodeReply, Error> {
        let request = wire::NodeRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { NodesClient::new(channel).forget(request).await }
        })
        .await
    }

    pub async fn create_token(&mut self, request: &wire::CreateTokenRequest) -> Result<wire::CreateTokenReply, Error> {
        // Without a request id a repeat would leave a second token behind, whose text nobody knows.
        self.call(Call::Once, |channel| {
            let request = request.clone();
            async move { TokensClient::new(channel).create_token(request).await }
        })
        .await
    }

    pub async fn list_tokens(&mut self) -> Result<Vec<wire::Token>, Error> {
        let reply = self
            .call(Call::Read, |channel| async move {
                TokensClient::new(channel).list_tokens(wire::ListTokensRequest {}).await
            })
            .await?;
        Ok(reply.tokens)
    }

    pub async fn revoke_token(&mut self, id: &str) -> Result<wire::Token, Error> {
        self.call(Call::Write, |channel| {
            let request = wire::RevokeTokenRequest {
                id: id.to_owned(),
                ..wire::RevokeTokenRequest::default()
            };
            async move { TokensClient::new(channel).revoke_token(request).await }
        })
        .await
    }

    pub async fn info(&mut self) -> Result<wire::InfoReply, Error> {
        self.call(Call::Read, |channel| async move {
            ClusterClient::new(channel).info(wire::InfoRequest {}).await
        })
        .await
    }

    async fn call<T, F>(&mut self, kind: Call, send: impl Fn(Channel) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let count = self.credentials.coordinators.len();
        let mut tried: Vec<(String, String)> = Vec::new();
        for attempt in 0..2 * count {
            if attempt == count {
                tokio::time::sleep(self.times.retry_pause).await;
            }
            let address = self.address();
            let channel = match self.channel().await {
                Ok(channel) => channel,
                Err(Error::Unreachable(why)) => {
                    note(&mut tried, (address, why));
                    self.leave();
                    continue;
                }
                Err(e) => return Err(e),
            };
            match self.bounded(send(channel)).await {
                Some(Ok(reply)) => return Ok(reply.into_inner()),
                Some(Err(status)) if is_elsewhere(&status) => {
                    self.leave();
                    if kind == Call::Once && is_broken(&status) {
                        return Err(Error::Unreachable(format!(
                            "{address}: {}{}",
                            words(&status),
                            kind.doubt()
                        )));
                    }
                    note(&mut tried, (address, words(&status)));
                }
                Some(Err(status)) => return Err(Error::Refused(refusal(&status))),
                None => {
                    let waited = humantime::format_duration(self.timeout.unwrap_or_default());
                    self.leave();
                    return Err(Error::Unreachable(format!(
                        "{address}: no answer within {waited}{}; see --request-timeout",
                        kind.doubt()
                    )));
                }
            }
        }
        let tried: Vec<String> = tried.into_iter().map(|(a, why)| format!("{a}: {why}")).collect();
        Err(Error::Unreachable(format!(
            "no coordinator answers: {}",
            tried.join("; ")
        )))
    }

    /// The call's result, or `None` when it took too long.
    async fn bounded<F: Future>(&self, call: F) -> Option<F::Output> {
        match self.timeout {
            Some(timeout) => tokio::time::timeout(timeout, call).await.ok(),
            None => Some(call.await),
        }
    }

    fn address(&self) -> String {
        let addresses = &self.credentials.coordinators;
        // Never empty: refused when the credentials were read.
        addresses
            .get(self.preferred % addresses.len().max(1))
            .cloned()
            .unwrap_or_default()
    }

    /// The open channel, or a new one to the preferred coordinator. Errors: as of [`Connect`].
    async fn channel(&mut self) -> Result<Channel, Error> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let mut times = self.times.channel;
        times.connect = self.timeout.map_or(times.connect, |t| t.min(times.connect));
        let connecting = (self.connect)(self.credentials.clone(), self.address(), times);
        // The connect timeout covers TCP only: a partner that accepts and is silent in TLS must not hold us.
        match tokio::time::timeout(times.connect * 2, connecting).await {
            Ok(channel) => Ok(self.channel.insert(channel?).clone()),
            Err(_) => Err(Error::Unreachable("no answer while connecting".to_owned())),
        }
    }

    /// Forgets the channel; the next call begins with the next coordinator.
    fn leave(&mut self) {
        self.channel = None;
        self.preferred = (self.preferred + 1) % self.credentials.coordinators.len().max(1);
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
    Refused(String),
}

/// Another coordinator, or this one later, may answer.
fn is_elsewhere(status: &Status) -> bool {
    status.code() == Code::Unavailable || is_broken(status)
}

/// The connection failed: the status was made on this side.
fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

fn words(status: &Status) -> String {
    match status.source() {
        Some(source) => root_cause(source),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

/// The coordinator's own line.
fn refusal(status: &Status) -> String {
    if status.code() == Code::Unimplemented && status.message().is_empty() {
        return "the coordinator does not know this call: it is older than this command; see `wharf version`"
            .to_owned();
    }
    words(status)
}

/// Keeps the last reason of each address.
fn note(tried: &mut Vec<(String, String)>, (address, why): (String, String)) {
    match tried.iter_mut().find(|(a, _)| *a == address) {
        Some(known) => known.1 = why,
        None => tried.push((address, why)),
    }
}
