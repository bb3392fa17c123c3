//! Info: who answers. Mounted by the listener; any authenticated caller may ask, of a standby too.
//!
//! Invariant: reads only.

use std::sync::Arc;

use async_trait::async_trait;
use proto::wire::{self, InfoReply, InfoRequest};
use tonic::{Request, Response, Status};

use super::{Api, convert};

/// What the hub does not know.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    pub cluster_id: String,
    /// Session addresses of all coordinators.
    pub coordinators: Vec<String>,
}

pub struct ClusterService {
    api: Arc<Api>,
    facts: ClusterFacts,
}

impl ClusterService {
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
}
