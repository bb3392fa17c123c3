//! Streams of bytes beside the sessions, one for each log that is read: asked for on a node's session, opened by its
//! agent with a call of its own, read by whoever asked. Called by `api::logs` and, for the agent's call, by `service`.
//!
//! Invariant: no byte waits here: the reader polls the agent's stream, so that HTTP/2 holds back an agent whose reader
//! does not read, and that one only. A pipe ends with its reader, with its agent's call, and with the session that it
//! was asked on, whichever is first; its place is free again at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _, future, stream, stream::BoxStream};
use proto::{
    flow,
    wire::{Chunk, OpenPipe, PipeData, PipeEnd, chunk, open_pipe::Kind, pipe_end},
};
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use super::registry::Handle;

/// What an agent sends over a pipe after its first message.
type Chunks = BoxStream<'static, Result<Chunk, Status>>;

/// Why a pipe was not opened, or what ended it early.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PipeError {
    #[error("{most} logs of node {node} are read at this moment, and no more may be; end one, or try again later")]
    NodeFull { node: String, most: usize },
    #[error("{0} logs are read at this moment, and no more may be; end one, or try again later")]
    Full(usize),
    #[error("the agent of node {node} did not open a pipe within {}; try again", humantime::format_duration(*.within))]
    Late { node: String, within: Duration },
    #[error("the agent of node {0} was lost; try again")]
    Lost(String),
    #[error("another coordinator leads by now; ask it for the logs of node {0}: try again")]
    Demoted(String),
    #[error("the agent of node {node} broke the protocol of pipes: {what}")]
    Protocol { node: String, what: &'static str },
    /// In the agent's words.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Busy(String),
    #[error("{0}")]
    Failed(String),
}

/// Which pipes are awaited, and how many there are.
pub struct Pipes {
    table: Mutex<Table>,
    most: usize,
    most_of_node: usize,
    open_within: Duration,
}

#[derive(Default)]
struct Table {
    /// By id: asked for, and not yet opened.
    awaited: HashMap<String, Awaited>,
    /// Places taken, by node.
    taken: HashMap<String, usize>,
    all: usize,
}

struct Awaited {
    node: String,
    give: oneshot::Sender<Opened>,
}

/// The agent's call.
struct Opened {
    chunks: Chunks,
    /// Ends the call when it is dropped.
    call: DropGuard,
}

impl Pipes {
    /// At most `most` at a time, `most_of_node` of them of one node; an agent must open one within `open_within`.
    pub fn new(most: usize, most_of_node: usize, open_within: Duration) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            most,
            most_of_node,
            open_within,
        })
    }

    /// Asks the agent at the other end of `session` for a pipe and waits until it has opened it.
    pub async fn open(self: &Arc<Self>, session: &Arc<Handle>, kind: Kind) -> Result<Pipe, PipeError> {
        let node = &session.node;
        let place = self.take_place(node)?;
        let (give, opened) = oneshot::channel();
        let id = uuid::Uuid::new_v4().to_string();
        let awaited = Awaited {
            node: node.clone(),
            give,
        };
        self.lock().awaited.insert(id.clone(), awaited);
        // However the wait ends, nobody can open it afterwards.
        let _forget = Forget { pipes: self, id: &id };
        session.ask(OpenPipe {
            id: id.clone(),
            kind: Some(kind),
        });
        let opened = tokio::select! {
            biased;
            () = session.ended() => return Err(lost(session)),
            opened = timeout(self.open_within, opened) => opened,
        };
        match opened {
            Ok(Ok(Opened { chunks, call })) => Ok(Pipe {
                session: session.clone(),
                chunks: Some(chunks),
                _call: call,
                _place: place,
            }),
            // The sender is dropped only with the table.
            Ok(Err(_)) | Err(_) => Err(PipeError::Late {
                node: node.clone(),
                within: self.open_within,
            }),
        }
    }

    /// Gives the call of an agent of `node` to whoever waits for this id. What the agent is to be answered with: no
    /// message, and an end when the reader has gone.
    pub fn claim(&self, id: &str, node: &str, chunks: Chunks) -> Result<impl Stream<Item = Down> + use<>, Status> {
        let unknown = || Status::not_found("nobody waits for this pipe");
        let awaited = {
            let mut table = self.lock();
            let awaited = table.awaited.get(id).ok_or_else(unknown)?;
            if awaited.node != node {
                return Err(Status::permission_denied("this pipe was asked of another node"));
            }
            table.awaited.remove(id).ok_or_else(unknown)?
        };
        let done = CancellationToken::new();
        let opened = Opened {
            chunks,
            call: done.clone().drop_guard(),
        };
        awaited.give.send(opened).map_err(|_| unknown())?;
        Ok(stream::once(done.cancelled_owned()).filter_map(|()| future::ready(None)))
    }

    /// Pipes that are open or awaited.
    pub fn len(&self) -> usize {
        self.lock().all
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take_place(self: &Arc<Self>, node: &str) -> Result<Place, PipeError> {
        let mut table = self.lock();
        if table.all >= self.most {
            return Err(PipeError::Full(self.most));
        }
        if table.taken.get(node).copied().unwrap_or_default() >= self.most_of_node {
            return Err(PipeError::NodeFull {
                node: node.to_owned(),
                most: self.most_of_node,
            });
        }
        table.all += 1;
        *table.taken.entry(node.to_owned()).or_default() += 1;
        Ok(Place {
            pipes: self.clone(),
            node: node.to_owned(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message on an agent's pipe, downwards.
pub type Down = Result<Chunk, Status>;

/// One of the pipes that may be open.
struct Place {
    pipes: Arc<Pipes>,
    node: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.pipes.lock();
        table.all = table.all.saturating_sub(1);
        if let Some(taken) = table.taken.get_mut(&self.node) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                table.taken.remove(&self.node);
            }
        }
    }
}

/// Takes an id out of the table.
struct Forget<'a> {
    pipes: &'a Pipes,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.pipes.lock().awaited.remove(self.id);
    }
}

/// The reader's end. Dropping it ends the agent's call.
pub struct Pipe {
    session: Arc<Handle>,
    /// `None` after the end.
    chunks: Option<Chunks>,
    _call: DropGuard,
    _place: Place,
}

impl Pipe {
    /// What comes next; `None` after the end. Nothing comes after an error.
    pub async fn next(&mut self) -> Option<Result<PipeData, PipeError>> {
        let chunks = self.chunks.as_mut()?;
        let chunk = tokio::select! {
            biased;
            () = self.session.ended() => None,
            chunk = chunks.next() => chunk,
        };
        let data = self.judge(chunk);
        if !matches!(data, Ok(Some(_))) {
            self.chunks = None;
        }
        data.transpose()
    }

    fn judge(&self, chunk: Option<Result<Chunk, Status>>) -> Result<Option<PipeData>, PipeError> {
        let node = &self.session.node;
        let protocol = |what| PipeError::Protocol {
            node: node.clone(),
            what,
        };
        // Without an end of its own it broke.
        let Some(Ok(chunk)) = chunk else {
            return Err(lost(&self.session));
        };
        match chunk.message {
            Some(chunk::Message::Data(data)) if data.data.len() > flow::CHUNK => Err(protocol("a message too long")),
            Some(chunk::Message::Data(data)) => Ok(Some(data)),
            Some(chunk::Message::End(end)) => ended(end).map(|()| None),
            Some(chunk::Message::Open(_)) => Err(protocol("a second opening")),
            None => Err(protocol("a message of a kind that this release does not know")),
        }
    }
}

/// What a pipe ends with when its session does, or breaks.
fn lost(session: &Handle) -> PipeError {
    if session.demoted() {
        PipeError::Demoted(session.node.clone())
    } else {
        PipeError::Lost(session.node.clone())
    }
}

fn ended(end: PipeEnd) -> Result<(), PipeError> {
    Err(match end.reason() {
        pipe_end::Reason::Done => return Ok(()),
        pipe_end::Reason::Refused => PipeError::Refused(end.message),
        pipe_end::Reason::Busy => PipeError::Busy(end.message),
        pipe_end::Reason::Failed | pipe_end::Reason::Unspecified => PipeError::Failed(end.message),
    })
}

#[cfg(test)]
#[path = "pipes_tests.rs"]
mod tests;
