//! Calls to the coordinators. Used by every command that speaks to one.
//!
//! A call goes to the coordinator that answered last, else to the first that connects. On UNAVAILABLE or a broken
//! connection the others are tried, and after a pause all of them once more. Every write carries a request id that
//! stays the same when it is repeated.
//!
//! Invariant: a call that is not safe to repeat is never sent a second time once it may have been received.

mod admin;
mod backup;
mod drains;
mod holds;
mod logs;
mod replicas;
mod resources;
mod restore;
mod updates;
mod views;

use std::{error::Error as _, future::Future, time::Duration};

use proto::{
    credentials::{Credentials, root_cause},
    model::Kind,
    reason,
};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

pub use self::backup::Pieces;
pub use self::logs::{Log, LogError};
pub use self::resources::{Query, Watch, WatchError};
pub use self::views::ViewWatch;
use crate::{
    env::{Connect, Times},
    error::Error,
    known::{self, Known},
    status::Reason,
};

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

/// Puts the caller's reason into a call's metadata.
#[derive(Clone, Debug, Default)]
struct Because(Option<MetadataValue<Ascii>>);

impl Interceptor for Because {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(reason) = &self.0 {
            request.metadata_mut().insert(reason::HEADER, reason.clone());
        }
        Ok(request)
    }
}

/// What a call is sent through.
type Sending = InterceptedService<Channel, Because>;

#[derive(Clone)]
pub struct Client {
    credentials: Credentials,
    /// The addresses to try, in this order.
    coordinators: Vec<String>,
    known: Known,
    connect: Connect,
    times: Times,
    timeout: Option<Duration>,
    /// Goes with every write.
    because: Because,
    /// Index of the coordinator to try first.
    preferred: usize,
    channel: Option<Channel>,
}

/// Random, one for each write.
pub fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// As the coordinators say it.
pub fn not_found(kind: Kind, name: &str) -> Error {
    Error::Answered {
        reason: Reason::NotFound,
        message: format!("{} {name:?} not found", kind.plural()),
    }
}

impl Client {
    /// `timeout` is for one attempt of a call; none: for ever.
    pub fn new(
        credentials: Credentials,
        known: Known,
        connect: Connect,
        times: Times,
        timeout: Option<Duration>,
    ) -> Self {
        Self {
            coordinators: known.order(&credentials.coordinators),
            known,
            credentials,
            connect,
            times,
            timeout,
            because: Because::default(),
            preferred: 0,
            channel: None,
        }
    }

    /// With a reason for the writes. The error is the end of a sentence about it.
    pub fn because(self, text: &str) -> Result<Self, String> {
        let value = reason::encode(reason::check(text)?);
        let value = value.parse().map_err(|_| "cannot be sent".to_owned())?;
        Ok(Self {
            because: Because(Some(value)),
            ..self
        })
    }

    async fn call<T, F>(&mut self, kind: Call, send: impl Fn(Sending) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let because = match kind {
            Call::Read => Because::default(),
            Call::Write | Call::Once => self.because.clone(),
        };
        let count = self.coordinators.len();
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
            let channel = Sending::new(channel, because.clone());
            match self.bounded(send(channel)).await {
                Some(Ok(reply)) => {
                    let told = reply.metadata().get(known::HEADER).and_then(|v| v.to_str().ok());
                    self.known.learn(&address, told);
                    return Ok(reply.into_inner());
                }
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
                Some(Err(status)) => return Err(refused(&status)),
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
        let addresses = &self.coordinators;
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
        self.preferred = (self.preferred + 1) % self.coordinators.len().max(1);
    }
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
fn refused(status: &Status) -> Error {
    let message = if status.code() == Code::Unimplemented && status.message().is_empty() {
        "the coordinator does not know this call: it is older than this command; see `wharf version`".to_owned()
    } else {
        words(status)
    };
    Error::Answered {
        reason: Reason::of(status.code(), &message),
        message,
    }
}

/// Keeps the last reason of each address.
fn note(tried: &mut Vec<(String, String)>, (address, why): (String, String)) {
    match tried.iter_mut().find(|(a, _)| *a == address) {
        Some(known) => known.1 = why,
        None => tried.push((address, why)),
    }
}
