//! The call that reads a log. Used by `wharf logs`, which takes a broken one up again.
//!
//! Invariant: one attempt a call; whether to try again is the caller's to say.

use proto::wire::{self, logs_client::LogsClient};
use tonic::{Status, Streaming};

use super::{Client, is_broken, is_elsewhere, refused, words};
use crate::error::Error;

pub struct Log(Streaming<wire::LogsChunk>);

#[derive(Debug)]
pub enum LogError {
    /// The coordinator, the agent or the way to them went away: the error for who does not try again.
    Broken(Error),
    /// It will not be answered otherwise the next time.
    Refused(Error),
}

impl Client {
    /// Begins to read; the first message says which container's log it is.
    pub async fn read_log(&mut self, request: &wire::LogsRequest) -> Result<Log, LogError> {
        let address = self.address();
        let channel = self.channel().await.map_err(|e| {
            self.leave();
            match e {
                Error::Unreachable(why) => LogError::Broken(Error::Unreachable(format!("{address}: {why}"))),
                other => LogError::Refused(other),
            }
        })?;
        match self.bounded(LogsClient::new(channel).read(request.clone())).await {
            Some(Ok(reply)) => Ok(Log(reply.into_inner())),
            Some(Err(status)) => Err(self.log_error(&status)),
            None => {
                self.leave();
                let why = format!("{address}: no answer; see --request-timeout");
                Err(LogError::Broken(Error::Unreachable(why)))
            }
        }
    }

    /// What comes next; `None` at the log's end.
    pub async fn next_chunk(&mut self, log: &mut Log) -> Result<Option<wire::LogsChunk>, LogError> {
        log.0.message().await.map_err(|status| self.log_error(&status))
    }

    fn log_error(&mut self, status: &Status) -> LogError {
        if !is_elsewhere(status) {
            return LogError::Refused(refused(status));
        }
        let address = self.address();
        self.leave();
        LogError::Broken(if is_broken(status) {
            Error::Unreachable(format!("{address}: {}", words(status)))
        } else {
            refused(status)
        })
    }
}
