//! The calls of the typed services: scale, nodes, tokens, settings, audit, the cluster itself.
//!
//! Invariant: as of [`super`].

use proto::wire::{
    self, audit_client::AuditClient, cluster_client::ClusterClient, controllers_client::ControllersClient,
    coordinators_client::CoordinatorsClient, nodes_client::NodesClient, settings_client::SettingsClient,
    tokens_client::TokensClient,
};

use super::{Call, Client, request_id};
use crate::error::Error;

impl Client {
    /// Sets a controller's count. The request id is set here.
    pub async fn scale(&mut self, request: wire::ScaleRequest) -> Result<wire::ScaleReply, Error> {
        let request = wire::ScaleRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { ControllersClient::new(channel).scale(request).await }
        })
        .await
    }

    /// Ends a node's quarantine. The request id is set here, in [`Client::forget`] and [`Client::confirm_off`].
    pub async fn readmit(&mut self, request: wire::NodeRequest) -> Result<wire::NodeReply, Error> {
        let request = wire::NodeRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { NodesClient::new(channel).readmit(request).await }
        })
        .await
    }

    /// Forgets a deleted node.
    pub async fn forget(&mut self, request: wire::NodeRequest) -> Result<wire::NodeReply, Error> {
        let request = wire::NodeRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { NodesClient::new(channel).forget(request).await }
        })
        .await
    }

    /// Says that a node's host is off.
    pub async fn confirm_off(&mut self, request: wire::NodeRequest) -> Result<wire::NodeReply, Error> {
        let request = wire::NodeRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { NodesClient::new(channel).confirm_off(request).await }
        })
        .await
    }

    pub async fn create_token(&mut self, request: &wire::CreateTokenRequest) -> Result<wire::CreateTokenReply, Error> {
        // Without a request id a repeat would leave a second token behind, whose text nobody knows.
        self.call(Call::Once, |channel| {
            let request = request.clone();
            async move { TokensClient::new(channel).create_token(request).await }
        })
        .await
    }

    pub async fn list_tokens(&mut self) -> Result<Vec<wire::Token>, Error> {
        let reply = self
            .call(Call::Read, |channel| async move {
                TokensClient::new(channel).list_tokens(wire::ListTokensRequest {}).await
            })
            .await?;
        Ok(reply.tokens)
    }

    pub async fn revoke_token(&mut self, id: &str, dry_run: bool) -> Result<wire::Token, Error> {
        self.call(Call::Write, |channel| {
            let request = wire::RevokeTokenRequest {
                id: id.to_owned(),
                dry_run,
            };
            async move { TokensClient::new(channel).revoke_token(request).await }
        })
        .await
    }

    pub async fn remove_coordinator(
        &mut self,
        name: &str,
        dry_run: bool,
    ) -> Result<wire::RemoveCoordinatorReply, Error> {
        // A repeat would say that there is none of that name.
        self.call(Call::Once, |channel| {
            let request = wire::RemoveCoordinatorRequest {
                name: name.to_owned(),
                dry_run,
            };
            async move { CoordinatorsClient::new(channel).remove(request).await }
        })
        .await
    }

    pub async fn show_settings(&mut self) -> Result<wire::ShowSettingsReply, Error> {
        self.call(Call::Read, |channel| async move {
            SettingsClient::new(channel).show(wire::ShowSettingsRequest {}).await
        })
        .await
    }

    /// Sets and unsets settings; returns the names of those that are set otherwise then. The request id is set here, and
    /// in the two that follow.
    pub async fn set_settings(&mut self, request: wire::SetSettingsRequest) -> Result<Vec<String>, Error> {
        let request = wire::SetSettingsRequest {
            request_id: request_id(),
            ..request
        };
        let reply = self
            .call(Call::Write, |channel| {
                let request = request.clone();
                async move { SettingsClient::new(channel).set(request).await }
            })
            .await?;
        Ok(reply.changed)
    }

    pub async fn freeze(&mut self, request: wire::FreezeRequest) -> Result<wire::FreezeReply, Error> {
        let request = wire::FreezeRequest {
            request_id: request_id(),
            ..request
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { SettingsClient::new(channel).freeze(request).await }
        })
        .await
    }

    pub async fn unfreeze(&mut self, dry_run: bool) -> Result<wire::FreezeReply, Error> {
        let request = wire::UnfreezeRequest {
            dry_run,
            request_id: request_id(),
        };
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { SettingsClient::new(channel).unfreeze(request).await }
        })
        .await
    }

    /// One reply of audit records, the newest first.
    pub async fn list_audit(&mut self, request: &wire::ListAuditRequest) -> Result<wire::ListAuditReply, Error> {
        self.call(Call::Read, |channel| {
            let request = request.clone();
            async move { AuditClient::new(channel).list(request).await }
        })
        .await
    }

    pub async fn info(&mut self) -> Result<wire::InfoReply, Error> {
        self.call(Call::Read, |channel| async move {
            ClusterClient::new(channel).info(wire::InfoRequest {}).await
        })
        .await
    }
}
