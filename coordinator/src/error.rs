//! Why the coordinator does not start, or ends. Shown by `main` on one line.
//!
//! Invariant: each message names what is wrong and what to do.

use std::net::SocketAddr;

use crate::{
    backup::{restore::RestoreError, stores::StoresError},
    ca::AuthorityError,
    etcd_config::EtcdConfigError,
    init::InitError,
    join::JoinError,
    leader::guard::GuardError,
    store::{CommitError, OpenError},
    world::hub::HubError,
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration: {0}")]
    Config(String),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{0}")]
    Guard(#[from] GuardError),
    #[error("{0}")]
    Hub(#[from] HubError),
    #[error("{0} holds no cluster: run wharf-coordinator init --data-dir {0} first")]
    NoCluster(String),
    #[error(
        "{0} is missing: this directory has served a cluster; put the file back, or restore a backup into an empty directory"
    )]
    NoStore(String),
    /// Another store has its state by now, or it has another one's in part.
    #[error("{0}")]
    Moved(String),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Migrate(#[from] StoresError),
    #[error(
        "{place} holds no cluster, and {dir} belongs to cluster {cluster}: name its --etcd-endpoints and --etcd-prefix, or restore a backup"
    )]
    EmptyStore {
        place: String,
        dir: String,
        cluster: String,
    },
    #[error(
        "{place} holds cluster {found}, and {dir} belongs to cluster {cluster}: name its own --etcd-endpoints and --etcd-prefix, or use another --data-dir"
    )]
    OtherCluster {
        place: String,
        found: String,
        dir: String,
        cluster: String,
    },
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    EtcdConfig(#[from] EtcdConfigError),
    #[error("cannot begin to lead: {0}")]
    Term(CommitError),
    #[error("cannot listen on {address} for {what} ({problem}); free the port or choose another one")]
    Listen {
        what: &'static str,
        address: SocketAddr,
        problem: String,
    },
    /// A part without which the process must not go on.
    #[error("{task} ended: {problem}")]
    Task { task: &'static str, problem: String },
}

impl Error {
    /// What was asked for is wrong in itself: a flag, a variable or the configuration file.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::Init(InitError::Advertise(_) | InitError::Name(_))
            | Self::EtcdConfig(EtcdConfigError::Usage(_))
            | Self::Restore(RestoreError::Init(InitError::Advertise(_) | InitError::Name(_))) => true,
            Self::Join(error) => error.is_usage(),
            _ => false,
        }
    }
}
