//! The layer behind authentication, on both ports: a call that only the active coordinator may answer is passed on to it
//! where this one is a standby. Reads, sessions of agents and health are answered here, and a reply says so.
//!
//! While nobody leads, a call waits for who comes to lead, up to [`Settings::wait`]. A call's message is held until it
//! was sent, so that a connection that cannot be made costs nothing; once it may have been received it is never sent
//! again: the caller decides, by its request id.
//!
//! Invariant: what was passed on is passed on no further; the answer of a write comes back only after this replica
//! shows the write, so that who writes here reads its own write here.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use proto::{credentials::root_cause, identity::Role};
use tonic::{Status, body::Body, transport::Channel};
use tower::{Layer, Service};

use super::{DialError, Dialer, Leader, leader_changed, refused};
use crate::{
    ca::{certs::Caller, forwarded},
    leader::leadership::Leadership,
    store::Rv,
    world::{World, hub::Hub},
};

/// Of a reply: the version that the coordinator which answered has reached.
pub const REVISION: HeaderName = HeaderName::from_static("wharf-revision");
/// Of a reply: the standby that answered, from its own view as of [`REVISION`].
pub const STANDBY: HeaderName = HeaderName::from_static("wharf-standby");
/// Of a reply: the callee does not lead and did nothing.
pub const NOT_ACTIVE: HeaderName = HeaderName::from_static("wharf-not-active");
/// Of a reply to a user: the session addresses of all coordinators.
pub const COORDINATORS: HeaderName = HeaderName::from_static("wharf-coordinators");
/// Of a request: `linearizable` asks that a read shows every write that was answered before; a standby passes it on.
pub const CONSISTENCY: HeaderName = HeaderName::from_static("wharf-consistency");

/// How long a call of [`EITHER`] waits for one that leads.
const EITHER_WAIT: Duration = Duration::from_secs(1);
/// Most bytes of a message that is passed on.
const MESSAGE: usize = 5 << 20;

/// Answered by any replica from its own view.
const READS: [&str; 3] = [
    "/wharfinger.v1.Resources/Get",
    "/wharfinger.v1.Resources/List",
    "/wharfinger.v1.Resources/Watch",
];

/// Passed on, and answered here where nobody leads.
const EITHER: &str = "/wharfinger.v1.Replicas/Status";

/// Answered by any replica, whoever leads.
const OWN: [&str; 4] = [
    "/wharfinger.v1.Agent/Session",
    "/wharfinger.v1.Agent/Pipe",
    "/wharfinger.v1.Cluster/Info",
    // Refused there, in words of its own, where this one does not lead.
    "/wharfinger.v1.Peer/Follow",
];

#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a call waits for a coordinator that leads.
    pub wait: Duration,
    /// The same where the store does not answer.
    pub wait_blind: Duration,
    /// How long an answer waits until this replica shows what was written.
    pub catch_up: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(4),
            wait_blind: Duration::from_millis(500),
            catch_up: Duration::from_secs(1),
        }
    }
}

/// What the layer works with, shared by both ports.
pub struct Forwarder {
    hub: Arc<Hub>,
    /// This coordinator's name.
    own: String,
    dial: Dialer,
    leadership: Arc<Leadership>,
    settings: Settings,
    /// The connection to the one that leads.
    open: Mutex<Option<(Leader, Channel)>>,
}

/// Why a call was not passed on.
enum Refused {
    /// Nothing was sent.
    Unsent(String),
    Sent(String),
}

impl Forwarder {
    pub fn new(hub: Arc<Hub>, own: String, dial: Dialer, leadership: Arc<Leadership>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            hub,
            own,
            dial,
            leadership,
            settings,
            open: Mutex::new(None),
        })
    }

    fn leads(&self) -> bool {
        self.hub.fence().is_some()
    }

    async fn channel(&self, leader: &Leader) -> Result<Channel, Refused> {
        if let Some((of, channel)) = &*self.open.lock().unwrap_or_else(PoisonError::into_inner)
            && of == leader
        {
            return Ok(channel.clone());
        }
        let channel = self.dial.dial(&leader.address).await.map_err(|e| {
            Refused::Unsent(match e {
                DialError::Refused => format!("{} ({}) refuses connections", leader.name, leader.address),
                DialError::Other(why) => format!("{} ({}): {why}", leader.name, leader.address),
            })
        })?;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some((leader.clone(), channel.clone()));
        Ok(channel)
    }

    fn forget(&self, leader: &Leader) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|(of, _)| of == leader) {
            *open = None;
        }
    }

    async fn send(&self, leader: &Leader, call: &Call) -> Result<http::Response<Body>, Refused> {
        let mut channel = self.channel(leader).await?;
        let ready = std::future::poll_fn(|cx| channel.poll_ready(cx)).await;
        if let Err(e) = ready {
            self.forget(leader);
            return Err(Refused::Unsent(format!("{} ({}): {e}", leader.name, leader.address)));
        }
        channel.call(call.request()).await.map_err(|e| {
            self.forget(leader);
            let why = format!("{} ({}): {}", leader.name, leader.address, root_cause(&e));
            if refused(&e) {
                Refused::Unsent(why)
            } else {
                Refused::Sent(why)
            }
        })
    }

    /// The answer of the one that leads, or `None` where this coordinator has come to lead meanwhile.
    async fn pass_on(&self, call: &Call, wait: Duration) -> Result<Option<http::Response<Body>>, Status> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut why = "no coordinator leads".to_owned();
        loop {
            if self.leads() {
                return Ok(None);
            }
            let leader = self.hub.read(|w| Leader::of(w, &self.own));
            if let Some(leader) = &leader {
                match self.send(leader, call).await {
                    Ok(reply) if reply.headers().contains_key(&NOT_ACTIVE) => {
                        why = format!("{} ({}) does not lead any more", leader.name, leader.address);
                    }
                    Ok(reply) => {
                        self.catch_up(reply.headers()).await;
                        return Ok(Some(reply));
                    }
                    Err(Refused::Unsent(w)) => why = w,
                    Err(Refused::Sent(w)) => {
                        return Err(Status::unavailable(format!(
                            "{w}; the call was passed on and whether it was done is not known"
                        )));
                    }
                }
            }
            // The same one may answer again before another leads.
            let again = tokio::time::sleep(Duration::from_millis(100));
            tokio::select! {
                () = leader_changed(&self.hub, leader.as_ref(), &self.own) => {}
                () = again => {}
                () = tokio::time::sleep_until(deadline) => {
                    return Err(Status::unavailable(format!(
                        "{why}; this standby ({}) passes calls on once a coordinator leads: try again",
                        self.own
                    )));
                }
            }
        }
    }

    /// Waits until this replica shows what the answer is about.
    async fn catch_up(&self, headers: &HeaderMap) {
        let reached = headers.get(&REVISION).and_then(|v| v.to_str().ok()?.parse().ok());
        if let Some(rv) = reached {
            // A replica that lies behind does not hold back an answer that is there.
            let _ = tokio::time::timeout(self.settings.catch_up, self.hub.wait_for(Rv(rv))).await;
        }
    }
}

/// One call whose message has been read.
struct Call {
    path: Uri,
    headers: HeaderMap,
    message: bytes::Bytes,
}

impl Call {
    async fn read(request: http::Request<Body>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        headers.remove(header::HOST);
        headers.remove(&CONSISTENCY);
        if let Some(caller) = parts.extensions.get::<Caller>() {
            caller.to_headers(&mut headers)?;
        }
        let message = Limited::new(body, MESSAGE)
            .collect()
            .await
            .map_err(|e| Status::invalid_argument(format!("the message cannot be read: {e}")))?;
        Ok(Self {
            path: parts.uri,
            headers,
            message: message.to_bytes(),
        })
    }

    fn request(&self) -> http::Request<Body> {
        let mut request = http::Request::new(Body::new(Full::new(self.message.clone())));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

#[derive(Clone)]
pub struct ForwardLayer(pub Arc<Forwarder>);

impl<S> Layer<S> for ForwardLayer {
    type Service = ForwardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ForwardService {
            forwarder: self.0.clone(),
            inner,
        }
    }
}

#[derive(Clone)]
pub struct ForwardService<S> {
    forwarder: Arc<Forwarder>,
    inner: S,
}

impl<S> Service<http::Request<Body>> for ForwardService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let forwarder = self.forwarder.clone();
        // The service that was polled ready is the one to call; its clone waits in its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let user = request.extensions().get::<Caller>();
            let user = user.is_some_and(|c| c.identity.role == Role::User);
            let mut reply = forwarder.answer(&mut inner, request).await;
            if user {
                forwarder.tell_coordinators(reply.headers_mut());
            }
            Ok(reply)
        })
    }
}

impl Forwarder {
    /// Whom else the caller may ask.
    fn tell_coordinators(&self, headers: &mut HeaderMap) {
        let all = self.hub.read(World::coordinator_addresses);
        if all.len() > 1
            && let Ok(all) = HeaderValue::try_from(all.join(","))
        {
            headers.insert(COORDINATORS, all);
        }
    }

    /// Marks an answer as one from a view that may be old.
    fn as_standby(&self, mut reply: http::Response<Body>) -> http::Response<Body> {
        let headers = reply.headers_mut();
        headers.insert(REVISION, HeaderValue::from(self.hub.rv().0));
        if let Ok(name) = HeaderValue::from_str(&self.own) {
            headers.insert(STANDBY, name);
        }
        reply
    }

    /// Nothing was done; who asked may ask the one that leads.
    fn unsure(&self) -> http::Response<Body> {
        let mut reply = Status::unavailable(format!("coordinator {} does not lead", self.own)).into_http();
        reply.headers_mut().insert(NOT_ACTIVE, HeaderValue::from_static("true"));
        reply
    }

    async fn answer<S>(&self, inner: &mut S, request: http::Request<Body>) -> http::Response<Body>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    {
        let path = request.uri().path();
        if OWN.contains(&path) || !path.starts_with("/wharfinger.") {
            return local(inner, request).await;
        }
        // What a coordinator sends was passed on already, or is for whom it calls alone.
        let passed_on = request
            .extensions()
            .get::<Caller>()
            .is_some_and(|c| c.identity.role == Role::Coordinator)
            || request.headers().contains_key(forwarded::HEADER);
        let read = READS.contains(&path);
        let must = request.headers().get(&CONSISTENCY).is_some_and(|v| v == "linearizable");
        if self.leads() {
            let mut reply = local(inner, request).await;
            // Read, confirmed, answered, in this order: what was read before it was confirmed misses nothing.
            let sound = !read || self.leadership.confirm().await.is_ok();
            if sound {
                reply.headers_mut().insert(REVISION, HeaderValue::from(self.hub.rv().0));
                return reply;
            }
            return if must { self.unsure() } else { self.as_standby(reply) };
        }
        if read && !must {
            let reply = local(inner, request).await;
            return self.as_standby(reply);
        }
        if passed_on {
            return self.unsure();
        }
        let extensions = request.extensions().clone();
        let call = match Call::read(request).await {
            Ok(call) => call,
            Err(status) => return status.into_http(),
        };
        let either = call.path.path() == EITHER;
        let wait = match (either, self.leadership.standing().store_away) {
            (true, _) => EITHER_WAIT,
            // Who leads is told by the store: without it this one would wait in vain, and another may know.
            (false, true) => self.settings.wait_blind,
            (false, false) => self.settings.wait,
        };
        match self.pass_on(&call, wait).await {
            Ok(Some(reply)) => reply,
            Err(status) if !either => status.into_http(),
            Ok(None) | Err(_) => {
                let mut request = call.request();
                *request.extensions_mut() = extensions;
                local(inner, request).await
            }
        }
    }
}

async fn local<S>(inner: &mut S, request: http::Request<Body>) -> http::Response<Body>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    match inner.call(request).await {
        Ok(reply) => reply,
        Err(never) => match never {},
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
