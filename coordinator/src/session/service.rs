//! The gRPC service `Agent`. Served by the listener; each Session becomes a task of [`Sessions`].
//!
//! Invariant: the caller is who its certificate says, as [`Callers`] reads it; no message field counts.

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use futures::{Stream, StreamExt as _, stream};
use proto::wire::{Chunk, Down, Issued, LeaveReply, LeaveRequest, RenewRequest, Up, agent_server, chunk};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::{Sessions, turns};

/// Messages on their way to one agent.
const OUTGOING: usize = 16;
/// Largest message of an agent: a Hello or Statuses of a full node.
const MAX_MESSAGE: usize = 16 << 20;

/// The agent at the other end of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Name of its node.
    pub node: String,
    /// The node was deleted.
    pub deleted: bool,
    /// Of its identity: rises each time that a host joins under the node's name.
    pub generation: u64,
    /// Where its connection comes from, for people; empty: not known.
    pub address: String,
}

/// Says who calls.
pub trait Callers: Send + Sync + 'static {
    /// The calling agent, by its certificate and what is on record about it. The error goes to the caller as it
    /// is.
    fn peer(&self, extensions: &Extensions) -> Result<Peer, Status>;

    /// Whether the caller's certificate is still valid: it was when the session began, and may have expired or
    /// been revoked or replaced since. Asked at every message, heartbeats included.
    fn still_valid(&self, extensions: &Extensions) -> Result<(), Status>;
}

/// Issues certificates to agents that have one.
#[async_trait]
pub trait Renewer: Send + Sync + 'static {
    /// A certificate for the caller's own identity and the key in `csr_der`.
    async fn renew(&self, extensions: &Extensions, csr_der: &[u8]) -> Result<Issued, Status>;
}

/// Takes nodes out of the fleet at their agents' own request.
#[async_trait]
pub trait Leaver: Send + Sync + 'static {
    /// Deletes the agent's own node; its having been deleted before is no error.
    async fn leave(&self, peer: &Peer) -> Result<(), Status>;
}

/// What the service asks of others.
#[derive(Clone)]
pub struct Helpers {
    pub callers: Arc<dyn Callers>,
    pub renewer: Arc<dyn Renewer>,
    pub leaver: Arc<dyn Leaver>,
}

pub struct AgentService {
    sessions: Arc<Sessions>,
    helpers: Helpers,
}

impl AgentService {
    /// The service, ready for a router.
    pub fn server(sessions: Arc<Sessions>, helpers: Helpers) -> agent_server::AgentServer<Self> {
        agent_server::AgentServer::new(Self { sessions, helpers }).max_decoding_message_size(MAX_MESSAGE)
    }
}

/// What a session's task writes to.
pub struct Outgoing {
    pub messages: mpsc::Sender<Down>,
    /// Comes after all messages, whether there is room among them or not.
    pub last: oneshot::Sender<Result<Down, Status>>,
}

/// Both ends of a session's way down.
pub fn outgoing() -> (Outgoing, impl Stream<Item = Result<Down, Status>> + Send + 'static) {
    let (messages, rx) = mpsc::channel(OUTGOING);
    let (last, last_rx) = oneshot::channel();
    let end = stream::once(last_rx).filter_map(async |last| last.ok());
    (Outgoing { messages, last }, ReceiverStream::new(rx).map(Ok).chain(end))
}

#[async_trait]
impl agent_server::Agent for AgentService {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<Down, Status>> + Send + 'static>>;

    async fn session(&self, request: Request<Streaming<Up>>) -> Result<Response<Self::SessionStream>, Status> {
        let peer = self.helpers.callers.peer(request.extensions())?;
        let sessions = &self.sessions;
        if sessions.stopping.is_cancelled() {
            return Err(Status::unavailable("the coordinator is stopping; come back"));
        }
        let permit = sessions
            .streams
            .clone()
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many streams are open; retry later"))?;
        let (out, down) = outgoing();
        let (_, extensions, inbound) = request.into_parts();
        let (callers, shared) = (self.helpers.callers.clone(), sessions.clone());
        let inbound = inbound.map(move |message| message.and_then(|m| callers.still_valid(&extensions).map(|()| m)));
        sessions.tasks.spawn(async move {
            turns::serve(shared, peer, inbound, out).await;
            drop(permit);
        });
        Ok(Response::new(Box::pin(down)))
    }

    type PipeStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send + 'static>>;

    async fn pipe(&self, request: Request<Streaming<Chunk>>) -> Result<Response<Self::PipeStream>, Status> {
        let peer = self.helpers.callers.peer(request.extensions())?;
        if peer.deleted {
            return Err(Status::permission_denied(
                "the node of this agent was deleted; nothing is read from it",
            ));
        }
        let mut chunks = request.into_inner();
        let within = self.sessions.settings.hello_timeout;
        let first = tokio::time::timeout(within, chunks.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the pipe was not named in time"))??;
        let Some(chunk::Message::Open(id)) = first.and_then(|c| c.message) else {
            return Err(Status::invalid_argument("the first message of a pipe does not name it"));
        };
        let down = self.sessions.pipes.claim(&id, &peer.node, chunks.boxed())?;
        Ok(Response::new(Box::pin(down)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Issued>, Status> {
        let (_, extensions, message) = request.into_parts();
        let issued = self.helpers.renewer.renew(&extensions, &message.csr_der).await?;
        Ok(Response::new(issued))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveReply>, Status> {
        let peer = self.helpers.callers.peer(request.extensions())?;
        self.helpers.leaver.leave(&peer).await?;
        Ok(Response::new(LeaveReply { node: peer.node }))
    }
}
