//! A store's state moved into another store, say from the one of a single coordinator into one that several share, and
//! back. Called by [`super::stores`] with no coordinator of the cluster running; one that runs all the same is fenced by the first step.
//!
//! Incarnation, terms and versions go along, so that it is the same history: agents and watches notice a new term and
//! nothing else. What keeps it one history is [`Successor`]: the store that was left is never served again, and the copy
//! is not served before that is so.
//!
//! Invariant: at every moment, whatever step a crash came after, at most one of the two stores can be served.

use serde::{Deserialize, Serialize};

use super::import_key;
use crate::{
    ca::{ClusterMeta, META_CLUSTER, audit::AuditRecord},
    store::{
        Change, CommitError, Entry, Expect, ReadError, Rv, Snapshot, Store,
        import::{Import, ImportError, Imported},
        keys::{self, Parsed},
    },
    world::record::encode,
};

/// `meta/successor`: why a store is not served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Successor {
    /// Of the move; the same in both stores.
    pub id: String,
    /// The other store, in words.
    pub store: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// It is the copy, and the other one may still be served.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

impl Successor {
    pub async fn read(store: &dyn Store) -> Result<Option<Self>, ReadError> {
        let entry = store.get(keys::SUCCESSOR).await?;
        // One that cannot be read forbids all the same.
        Ok(entry.map(|e| serde_json::from_slice(&e.value).unwrap_or_default()))
    }

    /// Why it is not served, and what to do.
    pub fn words(&self) -> String {
        let when = proto::model::Time::from_millis(self.at_ms);
        if self.unfinished {
            format!(
                "this store is a copy of {} that was not finished ({when}): migrate again, into this one or, if that refuses it, an empty one",
                self.store
            )
        } else {
            format!(
                "the state of this store was moved to {} ({when}): use that one",
                self.store
            )
        }
    }
}

/// What was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrateReport {
    pub cluster: String,
    pub entries: usize,
    /// The next version is above this.
    pub base: u64,
    /// A move that was interrupted was finished.
    pub finished: bool,
    /// Coordinators that are not part of the cluster any more: the store is one coordinator's own.
    pub left_out: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("{store} holds no cluster: nothing is to be moved")]
    Empty { store: String },
    #[error("{store}: {words}")]
    Moved { store: String, words: String },
    #[error(
        "{store} is not empty: choose an empty one (of etcd another --etcd-prefix), or remove what is there (of a move that was interrupted, perhaps) first"
    )]
    InUse { store: String },
    #[error("{store} does not have what was copied into it ({what}); nothing was moved: empty it and try again")]
    Differs { store: String, what: String },
    #[error("{store}: {error}")]
    Read { store: String, error: ReadError },
    #[error("{store}: {error}")]
    Commit { store: String, error: CommitError },
    #[error("{store}: {error}")]
    Import { store: String, error: ImportError },
}

/// One of the two stores.
pub struct End<'s, S: ?Sized> {
    pub store: &'s S,
    /// In words, e.g. `SQLite in /var/lib/wharf`, `etcd at https://etcd1:2379`.
    pub name: String,
}

impl<S: ?Sized + Store> End<'_, S> {
    fn read(&self, error: ReadError) -> MigrateError {
        MigrateError::Read {
            store: self.name.clone(),
            error,
        }
    }

    fn commit(&self, error: CommitError) -> MigrateError {
        MigrateError::Commit {
            store: self.name.clone(),
            error,
        }
    }

    async fn load(&self) -> Result<Snapshot, MigrateError> {
        self.store.load().await.map_err(|e| self.read(e))
    }
}

/// Revisions left free: none is needed, and a mistake is seen.
const GAP: u64 = 1024;

/// Moves all of `from` into `to`. After an interruption the same call goes on. `only`: the one coordinator that the other
/// store is for, if it is for one. `now_ms`: since the Unix epoch.
pub async fn migrate(
    from: End<'_, dyn Store>,
    to: End<'_, dyn Import>,
    only: Option<&str>,
    now_ms: u64,
) -> Result<MigrateReport, MigrateError> {
    let meta = meta_of(&from).await?;
    let holder = format!("migrate:{}", std::process::id());
    if let Some(left) = Successor::read(from.store).await.map_err(|e| from.read(e))? {
        let copy = Successor::read(to.store).await.map_err(|e| to.read(e))?;
        let same = copy.is_some_and(|copy| copy.unfinished && copy.id == left.id && !left.id.is_empty());
        if !same {
            return Err(MigrateError::Moved {
                store: from.name,
                words: left.words(),
            });
        }
        let report = finish(&to, &from.name, &meta, &holder, now_ms).await?;
        return Ok(MigrateReport {
            finished: true,
            ..report
        });
    }
    // From here on nobody writes there any more; who leads learns of it by the next commit.
    let fence = from
        .store
        .take_term(&meta.incarnation, &holder)
        .await
        .map_err(|e| from.commit(e))?;
    let snapshot = from.load().await?;
    let id = uuid::Uuid::new_v4().to_string();
    let state = state_of(&snapshot, only, &id, &from.name, now_ms);
    match to.store.import(state.clone()).await {
        Ok(()) => {}
        Err(ImportError::NotEmpty) => return Err(MigrateError::InUse { store: to.name }),
        Err(error) => return Err(MigrateError::Import { store: to.name, error }),
    }
    let copied = to.load().await?;
    if let Some(what) = difference(&state, &copied) {
        return Err(MigrateError::Differs { store: to.name, what });
    }
    let left = Successor {
        id,
        store: to.name.clone(),
        at_ms: now_ms,
        unfinished: false,
    };
    let change = Change::put(keys::SUCCESSOR, Expect::Absent, encode(&left));
    from.store
        .commit(&fence, vec![change])
        .await
        .map_err(|e| from.commit(e))?;
    let report = finish(&to, &from.name, &meta, &holder, now_ms).await?;
    let left_out = snapshot.entries.iter().filter_map(|e| match keys::parse(&e.key) {
        Parsed::Coordinator(name) if !goes_along(&e.key, only) => Some(name.to_owned()),
        _ => None,
    });
    Ok(MigrateReport {
        left_out: left_out.collect(),
        ..report
    })
}

/// Whether an entry is part of the copy.
fn goes_along(key: &str, only: Option<&str>) -> bool {
    let other = match keys::parse(key) {
        Parsed::Coordinator(name) | Parsed::Issuer(name) => only.is_some_and(|only| only != name),
        _ => false,
    };
    import_key(key) && !other
}

async fn meta_of(from: &End<'_, dyn Store>) -> Result<ClusterMeta, MigrateError> {
    let entry = from.store.get(META_CLUSTER).await.map_err(|e| from.read(e))?;
    entry
        .and_then(|e| serde_json::from_slice(&e.value).ok())
        .ok_or_else(|| MigrateError::Empty {
            store: from.name.clone(),
        })
}

/// Lets the copy be served: the other one is not served any more.
async fn finish(
    to: &End<'_, dyn Import>,
    from: &str,
    meta: &ClusterMeta,
    holder: &str,
    now_ms: u64,
) -> Result<MigrateReport, MigrateError> {
    let fence = to
        .store
        .take_term(&meta.incarnation, holder)
        .await
        .map_err(|e| to.commit(e))?;
    let words = format!("from {from} to {}", to.name);
    let changes = vec![
        Change::delete(keys::SUCCESSOR, Expect::Any),
        AuditRecord::new(now_ms, "host", "migrate", format!("clusters/{}", meta.cluster), words).change(),
    ];
    to.store.commit(&fence, changes).await.map_err(|e| to.commit(e))?;
    let entries = to.load().await?.entries.len();
    Ok(MigrateReport {
        cluster: meta.cluster.clone(),
        entries,
        base: fence.term - 1,
        finished: false,
        left_out: Vec::new(),
    })
}

/// Pure: what the copy begins with.
fn state_of(snapshot: &Snapshot, only: Option<&str>, id: &str, from: &str, now_ms: u64) -> Imported {
    let base = snapshot.rv.revision().saturating_add(GAP);
    let mark = Successor {
        id: id.to_owned(),
        store: from.to_owned(),
        at_ms: now_ms,
        unfinished: true,
    };
    let newest = Rv::new(base, 0);
    let mut entries: Vec<Entry> = snapshot
        .entries
        .iter()
        .filter(|e| goes_along(&e.key, only))
        .cloned()
        .collect();
    entries.push(Entry {
        rv: newest,
        key: keys::SUCCESSOR.to_owned(),
        value: encode(&mark).into(),
    });
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    Imported { entries, newest, base }
}

/// Pure: the first thing that the copy has otherwise.
fn difference(wanted: &Imported, copied: &Snapshot) -> Option<String> {
    let other = wanted.entries.iter().zip(&copied.entries).find(|(a, b)| a != b);
    if let Some((a, _)) = other {
        return Some(format!("key {}", a.key));
    }
    (wanted.entries.len() != copied.entries.len())
        .then(|| format!("{} of {} keys", copied.entries.len(), wanted.entries.len()))
}

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;
