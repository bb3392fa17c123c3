//! The logs of the fake coordinator.
//!
//! Invariant: what is read is what the test wrote down, cut where it says.

use std::pin::Pin;

use futures::{Stream, stream};
use proto::wire::{self, logs_server::Logs};
use tonic::{Request, Response, Status};

use super::Fake;

#[tonic::async_trait]
impl Logs for Fake {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<wire::LogsChunk, Status>> + Send>>;

    async fn read(&self, request: Request<wire::LogsRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let r = request.into_inner();
        self.begin(format!(
            "log {}/{} id={:?} tail={:?} since={} previous={}",
            r.pod, r.container, r.container_id, r.tail_lines, r.since_ms, r.previous
        ))
        .await?;
        assert!(r.timestamps, "readings are taken up by the times of lines");
        let breaks = self.state().log_breaks.pop_front();
        let first = wire::LogsChunk {
            container_id: "c1".into(),
            ..wire::LogsChunk::default()
        };
        let start = (self.clone(), self.tick.subscribe(), 0, breaks, Some(r));
        let rest = stream::unfold(start, |(fake, mut tick, at, breaks, request)| async move {
            let r = request?;
            if breaks == Some(at) {
                let gone = Status::unavailable("the agent was lost");
                return Some((Err(gone), (fake, tick, at, None, None)));
            }
            loop {
                tick.borrow_and_update();
                if let Some(next) = fake.next_chunk(&r, at) {
                    return next.map(|chunk| (Ok(chunk), (fake, tick, at + 1, breaks, Some(r))));
                }
                tick.changed().await.ok()?;
            }
        });
        let all = stream::once(std::future::ready(Ok(first)));
        Ok(Response::new(Box::pin(futures::StreamExt::chain(all, rest))))
    }
}
