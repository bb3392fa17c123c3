//! A store as a file ([`proto::backup`]), and back. `Cluster.Backup` and [`schedule`] make them while the coordinator
//! serves; [`restore`] makes a cluster from one, [`migrate`] moves a store into another without one, [`stores`] finds the two.
//!
//! Invariant: a backup is the store at one version, whole; the cluster's secret is in it only under a passphrase.

pub mod migrate;
pub mod restore;
pub mod schedule;
pub mod stores;

use std::sync::Arc;

use proto::backup::{self, BackupError, Header};
use serde::{Deserialize, Serialize};

use crate::{
    ca::{
        ClusterMeta, META_CLUSTER,
        secret::{
            ClusterKey,
            passphrase::{Cost, PassphraseError},
        },
    },
    store::{Change, Expect, ReadError, Rv, Snapshot, Store, keys},
};

#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the store holds no cluster")]
    NoCluster,
    #[error("the backup {0}")]
    Form(#[from] BackupError),
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    #[error("the backup was cut short: {0}")]
    Cut(String),
}

/// Whether a key goes from one store into another: who leads does not, and where the first one was moved.
fn import_key(key: &str) -> bool {
    key != keys::TERM && key != keys::SUCCESSOR
}

/// The keys that go along.
pub struct Keys {
    pub secret: Arc<ClusterKey>,
    pub passphrase: String,
    pub cost: Cost,
}

/// A backup that was made.
#[derive(Clone, Debug)]
pub struct Taken {
    pub bytes: Vec<u8>,
    pub header: Header,
}

/// Takes a backup of what the store has now. `now_ms`: since the Unix epoch.
pub async fn take(store: &dyn Store, keys: Option<Keys>, now_ms: u64) -> Result<Taken, TakeError> {
    let snapshot = store.load().await?;
    // Encoding and the passphrase take a while.
    let made = tokio::task::spawn_blocking(move || make(snapshot, keys, now_ms)).await;
    made.unwrap_or_else(|e| Err(TakeError::Cut(e.to_string())))
}

fn make(snapshot: Snapshot, keys: Option<Keys>, now_ms: u64) -> Result<Taken, TakeError> {
    let meta = snapshot.entries.iter().find(|e| e.key == META_CLUSTER);
    let meta: ClusterMeta = meta
        .and_then(|e| serde_json::from_slice(&e.value).ok())
        .ok_or(TakeError::NoCluster)?;
    let sealed = match keys {
        Some(keys) => keys.secret.lock(&meta.cluster, &keys.passphrase, keys.cost)?,
        None => Vec::new(),
    };
    let header = Header {
        cluster: meta.cluster,
        incarnation: meta.incarnation,
        taken_at_ms: now_ms,
        newest: snapshot.rv.0,
        release: proto::VERSION.to_owned(),
        count: snapshot.entries.len() as u64,
        keys: !sealed.is_empty(),
    };
    let entries = snapshot.entries.into_iter().map(|e| backup::Entry {
        rv: e.rv.0,
        key: e.key,
        value: e.value.into(),
    });
    let whole = backup::Backup {
        header,
        entries: entries.collect(),
        sealed,
    };
    let bytes = backup::encode(&whole)?;
    Ok(Taken {
        bytes,
        header: whole.header,
    })
}

/// `meta/backup`: the last backup that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupRecord {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The store's version that it shows.
    pub version: u64,
    pub bytes: u64,
    pub keys: bool,
    /// Who asked for it; `coordinator`: the schedule.
    pub by: String,
    /// Where it lies, where that is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
}

impl BackupRecord {
    pub fn new(taken: &Taken, by: &str, file: String) -> Self {
        Self {
            at_ms: taken.header.taken_at_ms,
            version: taken.header.newest,
            bytes: taken.bytes.len() as u64,
            keys: taken.header.keys,
            by: by.to_owned(),
            file,
        }
    }

    pub fn change(&self) -> Change {
        // A struct of strings and numbers always serializes.
        Change::put(keys::BACKUP, Expect::Any, serde_json::to_vec(self).unwrap_or_default())
    }

    /// Of a store; none: no backup was ever made, or by a release that kept it otherwise.
    pub async fn last(store: &dyn Store) -> Result<Option<Self>, ReadError> {
        let entry = store.get(keys::BACKUP).await?;
        Ok(entry.and_then(|e| serde_json::from_slice(&e.value).ok()))
    }

    /// The version as others write it.
    pub fn rv(&self) -> Rv {
        Rv(self.version)
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
pub(crate) mod tests;
