//! The calls about holds of nodes. Each sets the request's id.
//!
//! Invariant: as of [`super`].

use proto::wire::{self, holds_client::HoldsClient};

use super::{Call, Client, request_id};
use crate::error::Error;

impl Client {
    pub async fn cordon(&mut self, request: wire::CordonRequest) -> Result<wire::HoldReply, Error> {
        let request = wire::CordonRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { HoldsClient::new(channel).cordon(request).await }
        })
        .await
    }

    pub async fn uncordon(&mut self, request: wire::UncordonRequest) -> Result<wire::HoldReply, Error> {
        let request = wire::UncordonRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { HoldsClient::new(channel).uncordon(request).await }
        })
        .await
    }

    pub async fn add_hold(&mut self, request: wire::AddHoldRequest) -> Result<wire::HoldReply, Error> {
        let request = wire::AddHoldRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { HoldsClient::new(channel).add(request).await }
        })
        .await
    }

    pub async fn release_hold(&mut self, request: wire::ReleaseHoldRequest) -> Result<wire::HoldReply, Error> {
        let request = wire::ReleaseHoldRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { HoldsClient::new(channel).release(request).await }
        })
        .await
    }
}
