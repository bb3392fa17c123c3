//! The calls about drains, and the stream that says how one stands.
//!
//! Invariant: as of [`super`].

use proto::wire::{self, drains_client::DrainsClient};
use tonic::Code;

use super::{Because, Call, Client, Sending, ViewWatch, WatchError, request_id};
use crate::error::Error;

impl Client {
    pub async fn drain(&mut self, request: wire::DrainRequest) -> Result<wire::DrainReply, Error> {
        let request = wire::DrainRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { DrainsClient::new(channel).drain(request).await }
        })
        .await
    }

    pub async fn cancel_drain(&mut self, request: wire::CancelDrainRequest) -> Result<wire::CancelDrainReply, Error> {
        let request = wire::CancelDrainRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { DrainsClient::new(channel).cancel(request).await }
        })
        .await
    }

    /// How the node's present or last drain stands; `None` where it has none, or the coordinator knows no drains.
    pub async fn drain_view(&mut self, node: &str) -> Result<Option<wire::DrainView>, Error> {
        let request = wire::WatchDrainRequest { name: node.to_owned() };
        self.call(Call::Read, |channel| {
            let request = request.clone();
            async move {
                let first = match DrainsClient::new(channel).watch(request).await {
                    Ok(stream) => stream.into_inner().message().await,
                    Err(status) => Err(status),
                };
                match first {
                    Ok(view) => Ok(tonic::Response::new(view)),
                    Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => {
                        Ok(tonic::Response::new(None))
                    }
                    Err(status) => Err(status),
                }
            }
        })
        .await
    }

    /// The first view comes at once.
    pub async fn watch_drain(&mut self, node: &str) -> Result<ViewWatch<wire::DrainView>, WatchError> {
        let channel = self.channel_to_watch().await?;
        let channel = Sending::new(channel, Because::default());
        let request = wire::WatchDrainRequest { name: node.to_owned() };
        let opened = self.bounded(DrainsClient::new(channel).watch(request)).await;
        self.opened(opened)
    }
}
