//! Info: who answers; any authenticated caller may ask, of a standby too. Backup: the store as a file. ShowRestore,
//! AcceptRestore, and what becomes of orphans. Mounted by the listener.
//!
//! Invariant: Info reads only; a backup is the active coordinator's to make.

use std::sync::Arc;

use async_trait::async_trait;
use proto::wire::{
    self, AcceptRestoreReply, AcceptRestoreRequest, BackupRequest, InfoReply, InfoRequest, ListOrphansReply,
    ListOrphansRequest, OrphanReply, OrphanRequest, ShowRestoreReply, ShowRestoreRequest,
};
use tonic::{Request, Response, Status};

use super::{
    Api,
    backup::{Pieces, SecretSource},
    convert,
    restore::{self, FoundSource},
    write::{Ticket, now_ms},
};
use crate::{
    ca::{audit, authorizer::Attributes},
    peer::wiring::Ranks,
};

/// What the hub does not know.
#[derive(Clone)]
pub struct ClusterFacts {
    pub cluster_id: String,
    /// Session addresses of all coordinators.
    pub coordinators: Vec<String>,
    /// For backups that carry it.
    pub secret: SecretSource,
    /// What agents said that they run, while a restore is pending.
    pub found: FoundSource,
    /// Of several coordinators; none: there is one.
    pub ranks: Option<Ranks>,
}

pub struct ClusterService {
    api: Arc<Api>,
    facts: ClusterFacts,
}

impl ClusterService {
    fn admit<T>(&self, request: &Request<T>, verb: &str, resource: &str, subresource: &str) -> Result<String, Status> {
        let action = Attributes {
            verb,
            resource,
            subresource,
            ..Attributes::default()
        };
        self.api.admit(request.extensions(), &action)
    }

    async fn act(
        &self,
        request: &Request<OrphanRequest>,
        caller: String,
        verb: &'static str,
        decide: restore::Decide,
    ) -> Result<Response<OrphanReply>, Status> {
        let message = request.get_ref();
        let ticket =
            Ticket::new(caller, verb, message.dry_run, &message.request_id, message)?.because(request.metadata())?;
        let outcome = self.api.write(&ticket, |w| decide(w, &message.uid)).await?;
        let changed = restore::changed(outcome);
        Ok(Response::new(OrphanReply { changed }))
    }

    pub(super) fn new(api: Arc<Api>, facts: ClusterFacts) -> Self {
        Self { api, facts }
    }
}

#[async_trait]
impl wire::cluster_server::Cluster for ClusterService {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoReply>, Status> {
        let caller = self.api.access.caller(request.extensions())?;
        Ok(Response::new(InfoReply {
            cluster_id: self.facts.cluster_id.clone(),
            version: proto::VERSION.to_owned(),
            fence: self.api.hub.fence().map(|f| convert::fence(&f)),
            coordinators: self.facts.coordinators.clone(),
            caller,
            resource_version: self.api.hub.rv().0,
        }))
    }

    type BackupStream = Pieces;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Pieces>, Status> {
        let caller = self.admit(&request, "get", "backups", "")?;
        let reason = audit::reason(request.metadata())?;
        let passphrase = &request.get_ref().passphrase;
        let pieces = self
            .api
            .backup(&caller, &reason, passphrase, &self.facts.secret)
            .await?;
        Ok(Response::new(pieces))
    }

    async fn show_restore(&self, request: Request<ShowRestoreRequest>) -> Result<Response<ShowRestoreReply>, Status> {
        self.admit(&request, "get", "nodes", "restore")?;
        let found = (self.facts.found)();
        let mut reply = self.api.hub.read(|w| restore::show(w, &found));
        reply.cluster_id.clone_from(&self.facts.cluster_id);
        Ok(Response::new(reply))
    }

    async fn accept_restore(
        &self,
        request: Request<AcceptRestoreRequest>,
    ) -> Result<Response<AcceptRestoreReply>, Status> {
        let caller = self.admit(&request, "update", "backups", "restore")?;
        let message = request.get_ref();
        restore::check_cluster(&self.facts.cluster_id, &message.cluster)?;
        let ticket = Ticket::new(caller, "accept-restore", message.dry_run, &message.request_id, message)?
            .because(request.metadata())?;
        let by = ticket.caller.clone();
        let outcome = self.api.write(&ticket, |w| restore::accept(w, &by, now_ms())).await?;
        let changed = restore::changed(outcome);
        Ok(Response::new(AcceptRestoreReply { changed }))
    }

    async fn list_orphans(&self, request: Request<ListOrphansRequest>) -> Result<Response<ListOrphansReply>, Status> {
        self.admit(&request, "list", "pods", "orphan")?;
        let orphans = self.api.hub.read(restore::orphans);
        Ok(Response::new(ListOrphansReply { orphans }))
    }

    async fn adopt_orphan(&self, request: Request<OrphanRequest>) -> Result<Response<OrphanReply>, Status> {
        let caller = self.admit(&request, "create", "pods", "orphan")?;
        self.act(&request, caller, "adopt", restore::adopt).await
    }

    async fn delete_orphan(&self, request: Request<OrphanRequest>) -> Result<Response<OrphanReply>, Status> {
        let caller = self.admit(&request, "delete", "pods", "orphan")?;
        self.act(&request, caller, "delete", restore::delete).await
    }
}
