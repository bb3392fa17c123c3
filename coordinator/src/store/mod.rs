//! The store: durable, revisioned keys under one fence. Called by `world` (load, watch) and by everything
//! that writes (commit); nothing else touches a database. Backends: [`sqlite`] (one coordinator), [`etcd`] (several),
//! [`memory`] (tests); one conformance suite (`tests.rs`) holds for each.
//!
//! Invariant: a commit is applied whole or not at all, only while its fence is the current one, and once
//! acknowledged it survives SIGKILL and power loss. No resource version is handed out twice or goes back.

mod apply;
pub mod contest;
pub mod etcd;
mod fanout;
pub mod import;
pub mod keys;
pub mod line;
pub mod memory;
pub mod sqlite;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Most changes of one logical commit; larger actions are split by their caller.
pub const MAX_CHANGES: usize = 64;
/// Most bytes (keys and values) of one logical commit.
pub const MAX_BYTES: usize = 1 << 20;

/// Resource version: `((base + revision) << 16) | ordinal within the transaction`, so that a watch can
/// resume inside a batch. Totally ordered; 0 is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rv(pub u64);

impl Rv {
    pub fn new(revision: u64, ordinal: u16) -> Self {
        Self((revision << 16) | u64::from(ordinal))
    }

    /// The transaction's part.
    pub fn revision(self) -> u64 {
        self.0 >> 16
    }
}

impl fmt::Display for Rv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What every commit must carry: the leadership under which it was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// UUID of this state history.
    pub incarnation: Arc<str>,
    /// Revision of the `term` record.
    pub term: u64,
    /// Random text written with the term.
    pub nonce: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Any,
    /// The key must not exist.
    Absent,
    /// The key must exist at this version.
    At(Rv),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub expect: Expect,
    /// `None` deletes; deleting an absent key under `Expect::Any` is no error and no update.
    pub value: Option<Bytes>,
}

impl Change {
    pub fn put(key: impl Into<String>, expect: Expect, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            expect,
            value: Some(value.into()),
        }
    }

    pub fn delete(key: impl Into<String>, expect: Expect) -> Self {
        Self {
            key: key.into(),
            expect,
            value: None,
        }
    }
}

/// One key's new state, as a watch delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub rv: Rv,
    pub key: String,
    /// `None`: deleted.
    pub value: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub rv: Rv,
    pub key: String,
    pub value: Bytes,
}

/// All entries, sorted by key, true at `rv`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub rv: Rv,
    pub entries: Vec<Entry>,
}

/// Some keys in a row, for a read whose cost follows what it returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first key that may be among them.
    pub from: String,
    /// All that are among them come before this one.
    pub until: String,
    pub order: Order,
    pub limit: usize,
}

impl Span {
    /// Those of a map, for a store that has all in memory.
    pub fn of(&self, entries: &BTreeMap<String, (Rv, Bytes)>) -> Vec<Entry> {
        if self.from >= self.until {
            return Vec::new();
        }
        let range = entries.range::<String, _>(&self.from..&self.until);
        let entry = |(key, (rv, value)): (&String, &(Rv, Bytes))| Entry {
            rv: *rv,
            key: key.clone(),
            value: value.clone(),
        };
        match self.order {
            Order::Ascending => range.take(self.limit).map(entry).collect(),
            Order::Descending => range.rev().take(self.limit).map(entry).collect(),
        }
    }
}

/// By key, compared as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

/// Updates in order of `rv`, each once, none missing. Ends when the store closes or the reader fell too far
/// behind (then load again).
pub type Watch = tokio::sync::mpsc::Receiver<Vec<Update>>;

/// Versions of the changes of one commit, in their order. A delete that found nothing is no update of its own
/// and has the newest version there was at its turn, so that a reader that waits for [`Self::last`] gets there.
/// The last one is what a reader must have seen to see all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub rvs: Vec<Rv>,
}

impl Committed {
    pub fn last(&self) -> Rv {
        self.rvs.last().copied().unwrap_or_default()
    }
}

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CommitError {
    /// Another leadership holds the store. The caller must stop acting.
    #[error("the commit's fence (term {ours}) is not the store's current one (term {current})")]
    Fenced { ours: u64, current: u64 },
    /// An expectation failed; nothing of this commit was applied.
    #[error("{key} is at version {actual:?}, not as expected ({expected:?})")]
    Conflict {
        key: String,
        expected: Expect,
        actual: Option<Rv>,
    },
    #[error("the commit has {changes} changes and {bytes} bytes; at most {MAX_CHANGES} and {MAX_BYTES} fit")]
    TooLarge { changes: usize, bytes: usize },
    /// The same key stands twice in one commit.
    #[error("{0} stands twice in one commit")]
    DuplicateKey(String),
    /// No room; nothing was applied; works again when there is room.
    #[error("the disk of the store is full: {0}; free space there and the coordinator goes on by itself")]
    Full(String),
    /// Whether it was applied is unknown; read again before a retry. The process should end.
    #[error("the store failed: {0}")]
    Io(String),
    /// The store cannot be reached just now; nothing was applied; works again when it can.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// The store does not answer, and whether it was applied is unknown; it may still appear. Read again before a
    /// retry; the process goes on.
    #[error("the store did not answer: {0}")]
    Unknown(String),
    #[error("the store is closed")]
    Closed,
}

impl CommitError {
    /// A fault of the store that passes by itself: wait, look, and try again.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Unavailable(_) | Self::Unknown(_))
    }
}

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum OpenError {
    #[error(
        "{path}: another coordinator (pid {pid}, started {since}) uses this data directory; stop it first, or use another --data-dir"
    )]
    InUse { path: String, pid: u32, since: String },
    #[error("{path}: {what}; restore a backup into an empty directory, or put back the undamaged file")]
    Damaged { path: String, what: String },
    #[error(
        "{path}: schema {found} was written by a newer release, this one knows up to {known}; run that release, or restore a backup made before the upgrade"
    )]
    NewerSchema { path: String, found: u32, known: u32 },
    #[error("{path}: {what}")]
    Io { path: String, what: String },
}

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// The updates after this version are no longer kept: load again. `oldest` is the oldest version from which
    /// a watch can still resume.
    #[error("version {after} is no longer kept (oldest: {oldest})")]
    Compacted { after: Rv, oldest: Rv },
    /// The version is beyond what this store has handed out: another or an older history.
    #[error("version {after} is beyond this store's newest ({newest})")]
    Future { after: Rv, newest: Rv },
    #[error("the store failed: {0}")]
    Io(String),
    /// It cannot be reached just now; works again when it can.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
}

/// See the module's head. All methods are safe to call concurrently; commits queued together are made durable
/// together (group commit), each still whole on its own.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// All entries at one version.
    async fn load(&self) -> Result<Snapshot, ReadError>;

    /// One key as it is now, after every commit acknowledged before the call.
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError>;

    /// The first entries of the span in its order, all true at one version, after every commit acknowledged before the
    /// call. An empty or reversed span has none.
    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError>;

    /// Updates with `rv > after`, from the kept history first, then live.
    async fn watch(&self, after: Rv) -> Result<Watch, ReadError>;

    /// Applies `changes` in one step if every expectation and the fence hold. Returns after it is durable.
    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError>;

    /// Starts a new leadership by compare-and-swap on the `term` record and writes `terms/<term>`
    /// ([`keys::term_history`]). From its return on, every commit under an older fence is refused.
    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError>;

    /// Newest version handed out.
    fn newest(&self) -> Rv;
}
