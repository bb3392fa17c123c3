//! A reader of a container's log through the API, over a connection of its own. Used by tests; read slowly, or not at
//! all, it is the slow reader.
//!
//! Invariant: it takes from its connection what it is asked for, and nothing ahead of what HTTP/2 holds.

use std::sync::Arc;

use proto::wire::{LogsChunk, LogsRequest, logs_client::LogsClient};
use tonic::{Status, Streaming};

use super::{
    Fleet,
    net::{Link, Who},
};

/// Dropping it ends the reading.
pub struct LogReader {
    chunks: Streaming<LogsChunk>,
    _link: Arc<Link>,
}

impl Fleet {
    /// Begins to read the log of the only container of a pod of the default namespace.
    pub async fn logs(&self, pod: &str, follow: bool) -> Result<LogReader, Status> {
        let link = self.net.link(Who::User("reader".into()));
        let channel = link.channel(&self.settings).await.map_err(Status::unavailable)?;
        let request = LogsRequest {
            pod: pod.into(),
            follow,
            ..LogsRequest::default()
        };
        let chunks = LogsClient::new(channel).read(request).await?.into_inner();
        Ok(LogReader { chunks, _link: link })
    }
}

impl LogReader {
    /// So many bytes, or all to the end.
    pub async fn read(&mut self, bytes: usize) -> Result<Vec<u8>, Status> {
        let mut all = Vec::new();
        while all.len() < bytes {
            match self.chunks.message().await? {
                Some(chunk) => all.extend(chunk.data),
                None => break,
            }
        }
        Ok(all)
    }

    /// How it ends, whatever comes before.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.chunks.message().await?.is_some() {}
        Ok(())
    }
}
