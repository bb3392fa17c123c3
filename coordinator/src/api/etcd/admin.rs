//! The store's health and members, as the services see them. [`StoreAdmin`] is implemented beside each store, and by
//! [`Alone`] for one that has no members.
//!
//! Invariant: nothing here decides; what a member did not answer is never taken for a good answer.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use proto::model::Time;

/// How a store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    pub kind: StoreKind,
    /// Empty where the store has none, or none of them could be asked who they are.
    pub members: Vec<Member>,
    /// What is to be known, a sentence each, e.g. a release that is known bad.
    pub warnings: Vec<String>,
    /// How long a small durable write took at this process's start: p50 and p99.
    pub write: Option<(Duration, Duration)>,
    /// The newest backup of the schedule.
    pub last_backup: Option<Time>,
    /// Period of the schedule; none: there is no schedule.
    pub backup_every: Option<Duration>,
    /// Bytes at which no more writes are taken.
    pub quota: Option<u64>,
    /// What it is of, and when it ends.
    pub certificates: Vec<(String, Time)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    #[default]
    Sqlite,
    Etcd,
}

impl StoreKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Etcd => "etcd",
        }
    }
}

/// One member of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Empty until it has started once.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    /// It follows, and has no vote.
    pub learner: bool,
    /// `NOSPACE`, `CORRUPT`.
    pub alarms: Vec<String>,
    /// What it says of itself, or why it does not answer.
    pub answer: Result<Answer, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub version: String,
    /// It leads, by its own word.
    pub leader: bool,
    /// Bytes of its file, and of what is in use of it.
    pub size: u64,
    pub in_use: u64,
}

impl Member {
    /// As etcd's own tools write it.
    pub fn hex(&self) -> String {
        format!("{:x}", self.id)
    }

    /// Its name, or its id until it has one.
    pub fn label(&self) -> String {
        if self.name.is_empty() {
            self.hex()
        } else {
            self.name.clone()
        }
    }

    pub fn answers(&self) -> bool {
        self.answer.is_ok()
    }

    pub fn leads(&self) -> bool {
        self.answer.as_ref().is_ok_and(|a| a.leader)
    }

    pub fn started(&self) -> bool {
        !self.name.is_empty()
    }
}

/// Why etcd did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// It said no, and nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It did not answer in time: whether it was done is unknown.
    #[error("{0}")]
    Unknown(String),
}

/// Asks and changes the store. Every call ends within a deadline of its own.
#[async_trait]
pub trait StoreAdmin: Send + Sync + 'static {
    /// All of it; a member that does not answer is one with an error, never a failure of the call.
    async fn status(&self) -> StoreStatus;

    /// Takes a member in under these URLs, and returns its id.
    async fn add_member(&self, peer_urls: &[String], learner: bool) -> Result<u64, AdminError>;

    /// Gives a learner a vote. `Refused` where it has not caught up.
    async fn promote_member(&self, id: u64) -> Result<(), AdminError>;

    async fn update_member(&self, id: u64, peer_urls: &[String]) -> Result<(), AdminError>;

    async fn remove_member(&self, id: u64) -> Result<(), AdminError>;

    /// Returns once the member answers again. It answers nothing meanwhile.
    async fn defrag(&self, id: u64) -> Result<(), AdminError>;
}

/// A store that one coordinator has for itself.
#[derive(Clone, Debug, Default)]
pub struct Alone(pub StoreStatus);

impl Alone {
    /// Of which nothing more is known.
    pub fn sqlite() -> Arc<dyn StoreAdmin> {
        Arc::new(Self::default())
    }
}

/// What is said of members where there are none.
pub const NO_MEMBERS: &str =
    "members: the store of this cluster is SQLite, on the coordinator's own disk, and has none; etcd has";

#[async_trait]
impl StoreAdmin for Alone {
    async fn status(&self) -> StoreStatus {
        self.0.clone()
    }

    async fn add_member(&self, _: &[String], _: bool) -> Result<u64, AdminError> {
        Err(AdminError::Refused(NO_MEMBERS.into()))
    }

    async fn promote_member(&self, _: u64) -> Result<(), AdminError> {
        Err(AdminError::Refused(NO_MEMBERS.into()))
    }

    async fn update_member(&self, _: u64, _: &[String]) -> Result<(), AdminError> {
        Err(AdminError::Refused(NO_MEMBERS.into()))
    }

    async fn remove_member(&self, _: u64) -> Result<(), AdminError> {
        Err(AdminError::Refused(NO_MEMBERS.into()))
    }

    async fn defrag(&self, _: u64) -> Result<(), AdminError> {
        Err(AdminError::Refused(NO_MEMBERS.into()))
    }
}
