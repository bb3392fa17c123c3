//! The fake coordinator's cluster service: who it is, backups, a restored state and its orphans.

use std::pin::Pin;

use futures::{Stream, stream};
use proto::wire::{self, cluster_server::Cluster};
use tonic::{Request, Response, Status};

use super::Fake;

#[tonic::async_trait]
impl Cluster for Fake {
    async fn info(&self, _: Request<wire::InfoRequest>) -> Result<Response<wire::InfoReply>, Status> {
        self.begin("info".into()).await?;
        Ok(Response::new(wire::InfoReply {
            cluster_id: "0f8fad5b-d9cb-469f-a165-70867728950e".into(),
            version: "9.8.7".into(),
            caller: "user/admin".into(),
            fence: (!self.state().standby).then(wire::Fence::default),
            ..wire::InfoReply::default()
        }))
    }

    type BackupStream = Pin<Box<dyn Stream<Item = Result<wire::BackupChunk, Status>> + Send>>;

    async fn backup(&self, request: Request<wire::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        self.begin("backup".into()).await?;
        let passphrase = request.into_inner().passphrase;
        let sealed = if passphrase.is_empty() {
            Vec::new()
        } else {
            b"sealed".to_vec()
        };
        self.state()
            .passphrases
            .extend(Some(passphrase).filter(|p| !p.is_empty()));
        let entry = |key: &str| proto::backup::Entry {
            rv: 7,
            key: key.into(),
            value: b"{}".to_vec(),
        };
        let header = proto::backup::Header {
            cluster: "0f8fad5b-d9cb-469f-a165-70867728950e".into(),
            newest: 7,
            ..proto::backup::Header::default()
        };
        let whole = proto::backup::Backup {
            header,
            entries: vec![entry("a"), entry("b")],
            sealed,
        };
        let mut bytes = proto::backup::encode(&whole).expect("a backup");
        match self.state().spoil_backup {
            0 => {}
            1 => *bytes.last_mut().expect("bytes") ^= 1,
            _ => bytes.truncate(100),
        }
        let pieces: Vec<_> = bytes
            .chunks(50)
            .map(|c| Ok(wire::BackupChunk { data: c.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(stream::iter(pieces))))
    }

    async fn show_restore(
        &self,
        _: Request<wire::ShowRestoreRequest>,
    ) -> Result<Response<wire::ShowRestoreReply>, Status> {
        self.begin("show-restore".into()).await?;
        Ok(Response::new(self.state().restore.clone()))
    }

    async fn accept_restore(
        &self,
        request: Request<wire::AcceptRestoreRequest>,
    ) -> Result<Response<wire::AcceptRestoreReply>, Status> {
        let message = request.into_inner();
        self.begin(format!("accept-restore {} {}", message.cluster, message.dry_run))
            .await?;
        Ok(Response::new(wire::AcceptRestoreReply { changed: true }))
    }

    async fn list_orphans(
        &self,
        _: Request<wire::ListOrphansRequest>,
    ) -> Result<Response<wire::ListOrphansReply>, Status> {
        self.begin("list-orphans".into()).await?;
        let orphans = self.state().orphans.clone();
        Ok(Response::new(wire::ListOrphansReply { orphans }))
    }

    async fn adopt_orphan(&self, request: Request<wire::OrphanRequest>) -> Result<Response<wire::OrphanReply>, Status> {
        let message = request.into_inner();
        self.begin(format!("adopt {} {}", message.uid, message.dry_run)).await?;
        Ok(Response::new(wire::OrphanReply { changed: true }))
    }

    async fn delete_orphan(
        &self,
        request: Request<wire::OrphanRequest>,
    ) -> Result<Response<wire::OrphanReply>, Status> {
        let message = request.into_inner();
        self.begin(format!("delete-orphan {} {}", message.uid, message.dry_run))
            .await?;
        Ok(Response::new(wire::OrphanReply { changed: true }))
    }
}
