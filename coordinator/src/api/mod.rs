//! The admin API: tonic services over the hub. The listener mounts [`Api::resources`], [`Api::controllers`],
//! [`Api::nodes`], [`Api::holds`], [`Api::drains`], [`Api::updates`], [`Api::cluster`], [`Api::replicas`], [`Api::etcd`],
//! [`Api::cluster_settings`] and [`Api::audit_record`]; who may call is decided by the [`Access`] that it hands in.
//!
//! | file | what it is |
//! |---|---|
//! | `resources` | Get, List, Watch, Create, Replace, Patch, Delete: authorization and the way to the rest |
//! | `controllers`, `nodes`, `holds`, `cluster` | Scale; Readmit, Forget; Cordon, Uncordon, Add, Release; Info |
//! | `budgets` | what is refused and said of budgets |
//! | `drains`, `drain_watch` | Drain, Cancel; Watch, and how a drain stands on the wire |
//! | `held` | the decision about a node's holds, which `holds` and `revise` share |
//! | `updates`, `update_watch` | Begin, Steer, Undo, History of rolling updates; Watch |
//! | `view_watch` | what the watches of drains and updates share |
//! | `leave` | a node deleted at its own agent's request |
//! | `replicas` | Status, Transfer: the coordinators and their store, and what of them is a problem |
//! | `etcd` | AddMember, UpdateMember, RemoveMember, Defrag |
//! | `settings`, `freeze` | Show, Set; Freeze, Unfreeze |
//! | `audit` | List of audit records |
//! | `backup`, `restore` | the store as a file; what a restored one needs an operator's word for |
//! | `logs` | Read |
//! | `create`, `replace`, `patch`, `delete` | the decisions: what a request changes in a given world |
//! | `revise` | the decision that `replace` and `patch` share: from an object as it is to the one wanted |
//! | `write` | one write: request id, audit record, commit, retry |
//! | `filter`, `watch` | selectors; the life of a watch |
//! | `convert`, `errors` | wire types and statuses stop here |
//!
//! Invariant: nothing is looked up, said or done before the caller was authorized; every write carries its
//! audit record in its own commit.

pub mod audit;
pub mod backup;
#[cfg(test)]
mod backup_tests;
mod budgets;
pub mod cluster;
pub mod controllers;
pub mod convert;
mod create;
#[cfg(test)]
mod daemon_set_tests;
mod delete;
mod drain_watch;
pub mod drains;
pub mod errors;
pub mod etcd;
mod filter;
mod freeze;
mod held;
pub mod holds;
mod leave;
pub mod logs;
pub mod nodes;
mod patch;
mod replace;
pub mod replicas;
pub mod resources;
pub mod restore;
mod revise;
pub mod settings;
#[cfg(test)]
mod testing;
mod update_watch;
pub mod updates;
mod view_watch;
pub mod watch;
mod write;

pub use create::default_namespace;
pub use delete::ORPHAN;

use std::{sync::Arc, time::Duration};

use proto::wire::{
    audit_server::AuditServer, cluster_server::ClusterServer, controllers_server::ControllersServer,
    drains_server::DrainsServer, etcd_server::EtcdServer, holds_server::HoldsServer, logs_server::LogsServer,
    nodes_server::NodesServer, replicas_server::ReplicasServer, resources_server::ResourcesServer,
    settings_server::SettingsServer, updates_server::UpdatesServer,
};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Extensions, Status};

use self::{
    audit::AuditService,
    cluster::{ClusterFacts, ClusterService},
    controllers::ControllerService,
    drains::DrainService,
    errors::ApiError,
    etcd::{EtcdService, Members, admin::StoreAdmin},
    holds::HoldService,
    logs::LogsService,
    nodes::NodeService,
    replicas::{Leading, ReplicasService},
    resources::ResourceService,
    settings::{SettingsService, Started},
    updates::UpdateService,
};
use crate::{ca::authorizer::Attributes, session::Sessions, store::Fence, world::hub::Hub};

/// Who calls, and what he may do. One implementation decides for every service (`ca::authorizer`).
pub trait Access: Send + Sync + 'static {
    /// The caller's identity, e.g. `user/admin`. Errors: UNAUTHENTICATED.
    fn caller(&self, extensions: &Extensions) -> Result<String, Status>;

    /// Errors: UNAUTHENTICATED, PERMISSION_DENIED.
    fn allow(&self, extensions: &Extensions, request: &Attributes<'_>) -> Result<(), Status>;
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// Events that a watch keeps for a reader that is busy.
    pub watch_buffer: usize,
    /// How long a watch waits for a reader that takes nothing.
    pub watch_stall: Duration,
    /// Watches of drains and updates at once.
    pub view_watches: usize,
    /// How often a write is decided anew when others changed the same keys meanwhile.
    pub attempts: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            watch_buffer: 256,
            watch_stall: Duration::from_secs(10),
            view_watches: 256,
            attempts: 8,
        }
    }
}

/// What all services share.
pub struct Api {
    hub: Arc<Hub>,
    access: Arc<dyn Access>,
    settings: Settings,
    watches: TaskTracker,
    /// Seats of those that watch one.
    view_watches: Arc<Semaphore>,
    stop: CancellationToken,
    /// Taken by who writes budgets, from the look at the others to the commit: two at once could select one pod.
    budgets: Mutex<()>,
    /// Taken while a backup is made and sent: it has the whole store in memory.
    backups: Arc<Semaphore>,
}

impl Api {
    pub fn new(hub: Arc<Hub>, access: Arc<dyn Access>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            hub,
            access,
            view_watches: Arc::new(Semaphore::new(settings.view_watches)),
            settings,
            watches: TaskTracker::new(),
            stop: CancellationToken::new(),
            budgets: Mutex::default(),
            backups: Arc::new(Semaphore::new(1)),
        })
    }

    pub fn resources(self: &Arc<Self>) -> ResourcesServer<ResourceService> {
        ResourcesServer::new(ResourceService(Arc::clone(self)))
    }

    pub fn controllers(self: &Arc<Self>) -> ControllersServer<ControllerService> {
        ControllersServer::new(ControllerService(Arc::clone(self)))
    }

    pub fn nodes(self: &Arc<Self>) -> NodesServer<NodeService> {
        NodesServer::new(NodeService(Arc::clone(self)))
    }

    /// Over the pipes of these sessions.
    pub fn logs(self: &Arc<Self>, sessions: Arc<Sessions>) -> LogsServer<LogsService> {
        LogsServer::new(LogsService {
            api: Arc::clone(self),
            sessions,
        })
    }

    pub fn holds(self: &Arc<Self>) -> HoldsServer<HoldService> {
        HoldsServer::new(HoldService(Arc::clone(self)))
    }

    pub fn drains(self: &Arc<Self>) -> DrainsServer<DrainService> {
        DrainsServer::new(DrainService(Arc::clone(self)))
    }

    pub fn updates(self: &Arc<Self>) -> UpdatesServer<UpdateService> {
        UpdatesServer::new(UpdateService(Arc::clone(self)))
    }

    pub fn cluster(self: &Arc<Self>, facts: ClusterFacts) -> ClusterServer<ClusterService> {
        ClusterServer::new(ClusterService::new(Arc::clone(self), facts))
    }

    /// Of the cluster with this id.
    pub fn replicas(
        self: &Arc<Self>,
        cluster: String,
        leading: Arc<dyn Leading>,
        admin: Arc<dyn StoreAdmin>,
    ) -> ReplicasServer<ReplicasService> {
        ReplicasServer::new(ReplicasService {
            api: Arc::clone(self),
            cluster,
            leading,
            admin,
        })
    }

    /// Over the members that [`etcd::promote`] gives their votes.
    pub fn etcd(self: &Arc<Self>, members: Arc<Members>) -> EtcdServer<EtcdService> {
        EtcdServer::new(EtcdService { members })
    }

    pub fn cluster_settings(self: &Arc<Self>, started: Started) -> SettingsServer<SettingsService> {
        SettingsServer::new(SettingsService {
            api: Arc::clone(self),
            started,
        })
    }

    pub fn audit_record(self: &Arc<Self>) -> AuditServer<AuditService> {
        AuditServer::new(AuditService(Arc::clone(self)))
    }

    /// Ends every watch with UNAVAILABLE and returns once the last one has ended. Called at shutdown and when
    /// leadership is lost; later watches end at once.
    pub async fn close(&self) {
        self.stop.cancel();
        self.watches.close();
        self.watches.wait().await;
    }

    /// The leadership under which this request is answered.
    fn active(&self) -> Result<Arc<Fence>, ApiError> {
        self.hub.fence().ok_or(ApiError::NotActive)
    }
}
