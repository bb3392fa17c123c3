//! The calls about a restored state and the pods that it does not know.
//!
//! Invariant: as of [`super`].

use proto::wire::{self, cluster_client::ClusterClient};

use super::{Call, Client, request_id};
use crate::error::Error;

impl Client {
    pub async fn show_restore(&mut self) -> Result<wire::ShowRestoreReply, Error> {
        self.call(Call::Read, |channel| async move {
            ClusterClient::new(channel)
                .show_restore(wire::ShowRestoreRequest {})
                .await
        })
        .await
    }

    /// For this cluster only. The request id is set here, and in the two that follow.
    pub async fn accept_restore(&mut self, cluster: &str, dry_run: bool) -> Result<bool, Error> {
        let request = wire::AcceptRestoreRequest {
            cluster: cluster.to_owned(),
            dry_run,
            request_id: request_id(),
        };
        let reply = self
            .call(Call::Write, |channel| {
                let request = request.clone();
                async move { ClusterClient::new(channel).accept_restore(request).await }
            })
            .await?;
        Ok(reply.changed)
    }

    pub async fn adopt_orphan(&mut self, uid: &str, dry_run: bool) -> Result<bool, Error> {
        let request = about(uid, dry_run);
        let reply = self
            .call(Call::Write, |channel| {
                let request = request.clone();
                async move { ClusterClient::new(channel).adopt_orphan(request).await }
            })
            .await?;
        Ok(reply.changed)
    }

    pub async fn delete_orphan(&mut self, uid: &str, dry_run: bool) -> Result<bool, Error> {
        let request = about(uid, dry_run);
        let reply = self
            .call(Call::Write, |channel| {
                let request = request.clone();
                async move { ClusterClient::new(channel).delete_orphan(request).await }
            })
            .await?;
        Ok(reply.changed)
    }

    pub async fn list_orphans(&mut self) -> Result<Vec<wire::Orphan>, Error> {
        let reply = self
            .call(Call::Read, |channel| async move {
                ClusterClient::new(channel)
                    .list_orphans(wire::ListOrphansRequest {})
                    .await
            })
            .await?;
        Ok(reply.orphans)
    }
}

fn about(uid: &str, dry_run: bool) -> wire::OrphanRequest {
    wire::OrphanRequest {
        uid: uid.to_owned(),
        dry_run,
        request_id: request_id(),
    }
}
