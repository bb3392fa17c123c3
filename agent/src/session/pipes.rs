//! Streams of bytes beside the session, each a call of its own on the session's connection. Opened by the session when
//! the coordinator asks for one.
//!
//! Invariant: the session waits for none of them; there are never more than `max_pipes`; nothing is read ahead of the
//! reader but what HTTP/2 has room for; all of them end with the session.

use std::sync::Arc;

use futures::{FutureExt as _, Stream, StreamExt as _};
use jiff::Timestamp;
use proto::{
    flow,
    wire::{
        Chunk, OpenPipe, PipeData, PipeEnd, ReadLog, agent_client::AgentClient, chunk::Message, open_pipe::Kind,
        pipe_end::Reason,
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::lines::Lines;
use crate::{
    runtime::{LogEntry, LogQuery, RuntimeError},
    settings::ms,
    worker::Shared,
};

/// The pipes of one session.
pub(super) struct Pipes {
    worker: Arc<Shared>,
    channel: Channel,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Pipes {
    pub(super) fn new(worker: Arc<Shared>, channel: Channel) -> Self {
        Self {
            places: Arc::new(Semaphore::new(worker.settings.max_pipes)),
            worker,
            channel,
            tasks: JoinSet::new(),
        }
    }

    /// Opens the pipe that was asked for, in a task of its own.
    pub(super) fn open(&mut self, asked: OpenPipe) {
        while self.tasks.try_join_next().is_some() {}
        let most = self.worker.settings.max_pipes;
        // Saying no takes a call, too: beyond as many of those again, silence must do.
        if self.tasks.len() >= most.saturating_mul(2) {
            tracing::warn!("the coordinator asks for more pipes than can be refused");
            return;
        }
        let place = self.places.clone().try_acquire_owned().ok();
        let (worker, channel) = (self.worker.clone(), self.channel.clone());
        self.tasks.spawn(serve(worker, channel, asked, place));
    }
}

async fn serve(worker: Arc<Shared>, channel: Channel, asked: OpenPipe, place: Option<OwnedSemaphorePermit>) {
    // One message on its way; the rest waits where it is.
    let (out, outbox) = mpsc::channel(1);
    let opening = Message::Open(asked.id);
    let _ = out.try_send(Chunk { message: Some(opening) });
    let wait = ms(worker.settings.welcome_timeout_ms);
    let mut client = AgentClient::new(channel);
    let opened = timeout(wait, client.pipe(ReceiverStream::new(outbox))).await;
    let mut down = match opened {
        Ok(Ok(reply)) => reply.into_inner(),
        // Whoever asked may be gone already.
        Ok(Err(status)) => return tracing::debug!("a pipe was not taken: {}", status.message()),
        Err(_) => return tracing::debug!("a pipe was not taken in time"),
    };
    let send = async {
        let end = match (place, asked.kind) {
            (None, _) => end(
                Reason::Busy,
                format!(
                    "the agent of node {} has too many logs open; end one, or try again later",
                    worker.node
                ),
            ),
            (Some(_place), Some(Kind::Log(log))) => read_log(&worker, &log, &out).await,
            (Some(_), None) => end(
                Reason::Refused,
                "the agent is older than what was asked of it; update it".into(),
            ),
        };
        let _ = out
            .send(Chunk {
                message: Some(Message::End(end)),
            })
            .await;
    };
    tokio::select! {
        // The coordinator has nothing to say on a log's pipe but that its reader is gone.
        _ = down.message() => return,
        () = send => {}
    }
    drop(out);
    // The last messages are read at the reader's leisure; the call ends after them.
    let _ = down.message().await;
}

/// Sends a log and says how it ended.
async fn read_log(worker: &Shared, log: &ReadLog, out: &mpsc::Sender<Chunk>) -> PipeEnd {
    let query = LogQuery {
        id: log.container_id.clone(),
        uid: log.pod_uid.clone(),
        container: log.container.clone(),
        follow: log.follow,
        tail: log.tail_lines,
        since: (log.since_ms > 0).then(|| instant(log.since_ms)),
    };
    let mut entries = match worker.runtime.logs(&query).await {
        Ok(entries) => entries.fuse(),
        Err(e) => return failed(&query, e),
    };
    let mut lines = Lines::new(log.timestamps);
    while let Some(entry) = entries.next().await {
        let problem = gather(entry, &mut entries, &mut lines).await.err();
        for (stderr, data) in lines.take(flow::CHUNK) {
            let message = Some(Message::Data(PipeData { data, stderr }));
            if out.send(Chunk { message }).await.is_err() {
                return end(Reason::Failed, "the reader is gone".into());
            }
        }
        if let Some(e) = problem {
            return failed(&query, e);
        }
    }
    end(Reason::Done, String::new())
}

/// Takes what is there already, to go in one message: a message for each line would cost more than the line.
async fn gather(
    first: Result<LogEntry, RuntimeError>,
    entries: &mut (impl Stream<Item = Result<LogEntry, RuntimeError>> + Unpin),
    lines: &mut Lines,
) -> Result<(), RuntimeError> {
    lines.push(&first?);
    while lines.len() < flow::CHUNK / 2 {
        let next = match entries.next().now_or_never() {
            Some(next) => next,
            // The engine sends a line at a time, and the task of its connection hands over one at a time: that has a turn.
            None => {
                tokio::task::yield_now().await;
                entries.next().now_or_never().flatten()
            }
        };
        match next {
            Some(entry) => lines.push(&entry?),
            None => break,
        }
    }
    Ok(())
}

fn instant(since_ms: u64) -> Timestamp {
    let ms = i64::try_from(since_ms).ok();
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}

fn end(reason: Reason, message: String) -> PipeEnd {
    PipeEnd {
        reason: reason.into(),
        message,
    }
}

fn failed(query: &LogQuery, error: RuntimeError) -> PipeEnd {
    match error {
        RuntimeError::NoSuchContainer(_) => end(
            Reason::Refused,
            format!(
                "what container {} wrote is gone: its Docker container was removed (only the newest one that ended is kept)",
                query.container
            ),
        ),
        RuntimeError::Unavailable(_) => end(Reason::Failed, error.to_string()),
        refused => end(Reason::Refused, format!("container {}: {refused}", query.container)),
    }
}

#[cfg(test)]
#[path = "pipes_tests.rs"]
mod tests;
