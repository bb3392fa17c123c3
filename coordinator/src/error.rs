//! Why the coordinator does not start, or ends. Shown by `main` on one line.
//!
//! Invariant: each message names what is wrong and what to do.

use std::net::SocketAddr;

use crate::{
    ca::AuthorityError,
    init::InitError,
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
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Init(#[from] InitError),
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
        matches!(
            self,
            Self::Config(_) | Self::Init(InitError::Advertise(_) | InitError::Name(_))
        )
    }
}
