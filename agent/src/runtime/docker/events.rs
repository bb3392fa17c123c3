//! The engine's events as hints. One task per receiver, started by [`super::DockerRuntime::hints`].
//!
//! Invariant: after every gap in the stream (start, break, full channel) the receiver gets [`Hint::All`], and the
//! stream that follows it begins before it: whoever lists everything on `All` misses nothing.

use std::{collections::HashMap, pin::pin, sync::Arc, task::Poll};

use bollard::{models::EventMessage, query_parameters::EventsOptionsBuilder};
use futures::StreamExt;
use proto::ids::label;
use tokio::{sync::mpsc, time::Instant};

use super::{DockerRuntime, errors::Problem};
use crate::runtime::{Hint, RuntimeError};

/// What changes a container's state. Health probes and execs are left out: they are many and say nothing.
const ACTIONS: [&str; 7] = ["create", "start", "die", "oom", "pause", "unpause", "destroy"];

/// Runs until the receiver is dropped.
pub(super) async fn run(runtime: Arc<DockerRuntime>, tx: mpsc::Sender<Hint>) {
    let closed = tx.clone();
    let mut outbox = Outbox { tx, all: false };
    tokio::select! {
        () = closed.closed() => {}
        () = follow(&runtime, &mut outbox) => {}
    }
}

async fn follow(runtime: &DockerRuntime, outbox: &mut Outbox) {
    let (min, max) = (runtime.settings.event_backoff_min, runtime.settings.event_backoff_max);
    let mut backoff = min;
    loop {
        let began = Instant::now();
        let why = match one_stream(runtime, outbox).await {
            Ok(()) => "the engine ended it".to_owned(),
            Err(e) => e.to_string(),
        };
        if began.elapsed() > max {
            backoff = min;
        }
        tracing::debug!(%why, retry = ?backoff, "no event stream from Docker");
        let mut pause = pin!(tokio::time::sleep(backoff));
        loop {
            tokio::select! {
                () = &mut pause => break,
                () = outbox.flush() => {}
            }
        }
        backoff = backoff.saturating_mul(2).clamp(min, max);
    }
}

/// One event stream to its end.
async fn one_stream(runtime: &DockerRuntime, outbox: &mut Outbox) -> Result<(), RuntimeError> {
    let docker = runtime.client()?;
    // By the engine's clock: what happened between this answer and the subscription is replayed.
    let since = runtime.clock().await?;
    let scope = &runtime.scope;
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        (
            "label",
            vec![
                format!("{}={}", label::CLUSTER, scope.cluster),
                format!("{}={}", label::NODE, scope.node),
            ],
        ),
        ("event", ACTIONS.map(str::to_owned).to_vec()),
    ]);
    let options = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
    let mut stream = pin!(docker.events(Some(options)));

    // Nothing is sent before the first poll.
    if let Poll::Ready(first) = futures::poll!(stream.next())
        && !take(runtime, outbox, first)?
    {
        return Ok(());
    }
    outbox.push(Hint::All);
    let ended = loop {
        tokio::select! {
            () = outbox.flush() => {}
            event = stream.next() => match take(runtime, outbox, event) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(e) => break Err(e),
            },
        }
    };
    // The engine is probably away: whoever watches it should look now rather than at the next period.
    outbox.push(Hint::All);
    ended
}

/// Passes one event on; false at the stream's end.
fn take(
    runtime: &DockerRuntime,
    outbox: &mut Outbox,
    event: Option<Result<EventMessage, bollard::errors::Error>>,
) -> Result<bool, RuntimeError> {
    let Some(event) = event else { return Ok(false) };
    match event.map_err(Problem::from) {
        Ok(event) => {
            let attributes = event.actor.and_then(|a| a.attributes).unwrap_or_default();
            if let Some(uid) = attributes.get(label::UID) {
                outbox.push(Hint::Pod(uid.clone()));
            }
            Ok(true)
        }
        // One event that cannot be read: something happened, nobody knows to whom.
        Err(Problem::Garbled(what)) => {
            tracing::debug!(%what, "unreadable event from Docker");
            outbox.push(Hint::All);
            Ok(true)
        }
        Err(problem) => Err(problem.into_error(&runtime.endpoint, "events")),
    }
}

/// The sending side: never blocks the reader of events. What does not fit becomes one [`Hint::All`].
struct Outbox {
    tx: mpsc::Sender<Hint>,
    /// An `All` waits for room; single pods need no mention until it is sent.
    all: bool,
}

impl Outbox {
    fn push(&mut self, hint: Hint) {
        if !self.all && self.tx.try_send(hint).is_err() {
            self.all = true;
        }
    }

    /// Sends the waiting `All` once there is room; waits for ever when none waits. Cancel-safe.
    async fn flush(&mut self) {
        if !self.all {
            return std::future::pending().await;
        }
        match self.tx.reserve().await {
            Ok(permit) => {
                permit.send(Hint::All);
                self.all = false;
            }
            // The receiver is gone; `run` sees that too.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_channel_becomes_one_all() {
        let (tx, mut rx) = mpsc::channel(2);
        let mut outbox = Outbox { tx, all: false };
        for n in 0..5 {
            outbox.push(Hint::Pod(n.to_string()));
        }
        assert_eq!(rx.recv().await, Some(Hint::Pod("0".into())));
        outbox.flush().await;
        outbox.push(Hint::Pod("5".into()));
        assert_eq!(rx.recv().await, Some(Hint::Pod("1".into())));
        assert_eq!(rx.recv().await, Some(Hint::All));
        // Full again when 5 came, so that it turned into an All too.
        outbox.flush().await;
        assert_eq!(rx.recv().await, Some(Hint::All));
        assert!(rx.try_recv().is_err());
    }
}
