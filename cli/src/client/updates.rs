//! The calls about rolling updates, and the stream that says how one stands.
//!
//! Invariant: as of [`super`].

use proto::wire::{self, updates_client::UpdatesClient};

use super::{Because, Call, Client, Sending, ViewWatch, WatchError, request_id};
use crate::{error::Error, status::Reason, target::Reference};

impl Client {
    pub async fn begin_update(&mut self, request: wire::BeginUpdateRequest) -> Result<wire::BeginUpdateReply, Error> {
        let request = wire::BeginUpdateRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { UpdatesClient::new(channel).begin(request).await }
        })
        .await
    }

    pub async fn undo_update(&mut self, request: wire::UndoUpdateRequest) -> Result<wire::BeginUpdateReply, Error> {
        let request = wire::UndoUpdateRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { UpdatesClient::new(channel).undo(request).await }
        })
        .await
    }

    /// `action`: `pause`, `resume`, `rollback`; `limits`: of a rollback.
    pub async fn steer_update(
        &mut self,
        target: &Reference,
        action: &str,
        limits: Option<wire::UpdateLimits>,
        dry_run: bool,
    ) -> Result<wire::SteerUpdateReply, Error> {
        let request = wire::SteerUpdateRequest {
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            action: action.to_owned(),
            limits,
            dry_run,
            request_id: request_id(),
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { UpdatesClient::new(channel).steer(request).await }
        })
        .await
    }

    pub async fn update_history(&mut self, target: &Reference) -> Result<Vec<wire::UpdateRevision>, Error> {
        let request = wire::UpdateHistoryRequest {
            namespace: target.namespace.clone(),
            name: target.name.clone(),
        };
        let reply = self.call(Call::Read, |channel| {
            let request = request.clone();
            async move { UpdatesClient::new(channel).history(request).await }
        });
        Ok(reply.await?.revisions)
    }

    /// Those that go on; an empty namespace: of all. A coordinator that is one release older knows of none.
    pub async fn list_updates(&mut self, namespace: &str) -> Result<Vec<wire::UpdateView>, Error> {
        let request = wire::ListUpdatesRequest {
            namespace: namespace.to_owned(),
        };
        let reply = self.call(Call::Read, |channel| {
            let request = request.clone();
            async move { UpdatesClient::new(channel).list(request).await }
        });
        match reply.await {
            Err(Error::Answered {
                reason: Reason::MethodNotAllowed,
                ..
            }) => Ok(Vec::new()),
            reply => Ok(reply?.updates),
        }
    }

    /// The first view comes at once.
    pub async fn watch_update(&mut self, target: &Reference) -> Result<ViewWatch<wire::UpdateView>, WatchError> {
        let channel = self.channel_to_watch().await?;
        let channel = Sending::new(channel, Because::default());
        let request = wire::WatchUpdateRequest {
            namespace: target.namespace.clone(),
            name: target.name.clone(),
        };
        let opened = self.bounded(UpdatesClient::new(channel).watch(request)).await;
        self.opened(opened)
    }
}
