//! Reads one container's log to its end, through breaks of the connection and restarts of coordinator and agent. A task
//! of `logs` each.
//!
//! Invariant: no line is left out or comes twice, as far as the times of the lines tell; a container that ended is not
//! followed into its next start.

use std::time::Duration;

use proto::wire;
use tokio::{sync::mpsc, time::Instant};

use super::lines::Lines;
use crate::{
    client::{Client, Log, LogError},
    env::Times,
    error::Error,
};

/// Where lines are kept whole, the most that waits for a line's end.
const LONGEST_LINE: usize = 64 << 10;

/// What a reader has to tell.
pub enum Event {
    /// To be shown.
    Bytes(Vec<u8>),
    /// For people.
    Note(String),
}

pub struct Reader {
    pub client: Client,
    pub times: Times,
    /// As asked for; times come with every line.
    pub request: wire::LogsRequest,
    pub lines: Lines,
    /// Others write beside it: only whole lines are shown.
    pub whole_lines: bool,
    pub events: mpsc::Sender<Event>,
}

impl Reader {
    /// Errors: refusals; or it broke, and could not be taken up for [`Times::give_up`]. When nobody shows it any more it
    /// ends well.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut pending = Vec::new();
        let mut open = match self.open().await {
            Ok(log) => log,
            // Nothing of it was seen yet: whoever asked decides.
            Err(LogError::Broken(e) | LogError::Refused(e)) => return Err(e),
        };
        loop {
            let why = match self.copy(&mut open, &mut pending).await {
                Ok(()) => break,
                Err(LogError::Refused(e)) => return Err(e),
                Err(LogError::Broken(why)) => why,
            };
            let pod = &self.request.pod;
            let note = format!("pod/{pod}: {why}; going on where it broke");
            if self.events.send(Event::Note(note)).await.is_err() {
                return Ok(());
            }
            open = self.reopen().await?;
        }
        if !pending.is_empty() {
            // Nobody there to show it is no failure.
            let _ = self.events.send(Event::Bytes(pending)).await;
        }
        Ok(())
    }

    /// Asks until it is answered.
    async fn reopen(&mut self) -> Result<Log, Error> {
        let broke = Instant::now();
        let (mut pause, longest): (Duration, Duration) = self.times.reconnect;
        self.lines.again();
        if let Some(since_ms) = self.lines.since_ms() {
            self.request.since_ms = since_ms;
            self.request.tail_lines = None;
        }
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
            match self.open().await {
                Ok(log) => return Ok(log),
                Err(LogError::Refused(e)) => return Err(e),
                Err(LogError::Broken(e)) if broke.elapsed() >= self.times.give_up => return Err(e),
                Err(LogError::Broken(_)) => {}
            }
        }
    }

    /// Begins to read, and learns which container it is: a break must not lead into another one's log.
    async fn open(&mut self) -> Result<Log, LogError> {
        let mut log = self.client.read_log(&self.request).await?;
        if let Some(first) = self.client.next_chunk(&mut log).await? {
            self.request.container_id = first.container_id;
        }
        Ok(log)
    }

    async fn copy(&mut self, log: &mut Log, pending: &mut Vec<u8>) -> Result<(), LogError> {
        while let Some(chunk) = self.client.next_chunk(log).await? {
            let mut bytes = self.lines.push(chunk.stderr, &chunk.data);
            if self.whole_lines {
                pending.append(&mut bytes);
                let end = pending.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
                let end = if pending.len() - end > LONGEST_LINE {
                    pending.len()
                } else {
                    end
                };
                bytes = pending.drain(..end).collect();
            }
            if !bytes.is_empty() && self.events.send(Event::Bytes(bytes)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}
