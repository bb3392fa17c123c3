//! Filling an empty store with what another one had. It does not fit into one transaction: a mark, the key `importing`,
//! lies there from the first one to the last. Called through [`Import`].
//!
//! Invariant: each transaction of an import changes the mark and compares it, so that of two imports only one goes on;
//! while the mark is there, nobody opens the store and no term begins in it. The last transaction removes the mark and
//! writes what versions count from; who opened the store before that begins no term in it.

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, DeleteOptions, KvClient, Txn, TxnOp, TxnResponse};
use serde::{Deserialize, Serialize};

use super::{
    EtcdStore, Shared,
    client::Failure,
    layout::{self, wrap_kept},
    mirror::Mirror,
    reader::{Raw, raws},
};
use crate::store::{
    CommitError, Entry, MAX_BYTES, Rv,
    import::{Import, ImportError, Imported},
    keys,
};

/// Entries of one transaction; with the mark below the 128 operations that etcd allows.
const ENTRIES: usize = 100;

/// With what a store began: nothing, or what was imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    /// Added to etcd's revisions.
    pub(super) base: u64,
    /// etcd's revision from which all of it was there; 0: nothing was imported.
    pub(super) revision: i64,
    /// Newest version that was imported.
    pub(super) newest: Rv,
}

impl Start {
    pub(super) fn read(raw: &Raw) -> Option<Self> {
        let written: Base = serde_json::from_slice(&raw.value).ok()?;
        Some(Self {
            base: written.base,
            revision: raw.revision,
            newest: written.newest,
        })
    }
}

/// Value of the key `base`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Base {
    base: u64,
    newest: Rv,
    /// Of the import.
    id: String,
}

/// Value of the key `importing`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Mark {
    id: String,
    /// Who imports, for people: `host:pid`.
    holder: String,
    /// Transactions so far.
    step: u64,
}

impl Mark {
    /// One that cannot be read is nobody's.
    fn read(raw: &Raw) -> Self {
        serde_json::from_slice(&raw.value).unwrap_or_default()
    }

    fn who(&self) -> &str {
        if self.holder.is_empty() {
            "another release"
        } else {
            &self.holder
        }
    }

    fn encode(&self) -> Vec<u8> {
        // Strings and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Why a store is not opened.
pub(super) fn unfinished(raw: &Raw) -> String {
    format!(
        "a restore or migrate into it was begun by {} and has not ended: wait for it, or run it again, it begins anew",
        Mark::read(raw).who()
    )
}

/// An import under way.
struct Filling {
    mark: Mark,
    /// Of the mark as it was last written.
    revision: i64,
}

impl Shared {
    async fn ask(&self, txn: Txn) -> Result<TxnResponse, ImportError> {
        let ask = |mut kv: KvClient| {
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        };
        let answer = self.cluster.call(self.options.commit_deadline, ask).await;
        answer.map_err(|failure| {
            ImportError::Commit(match failure {
                Failure::NoSpace(why) => self.full(&why),
                Failure::Unsent(why) => CommitError::Unavailable(format!("etcd: {why}")),
                Failure::Refused(why) => CommitError::Unavailable(format!("etcd refused it: {why}")),
                Failure::Unclear(why) | Failure::Compacted(why) => CommitError::Unknown(format!("etcd: {why}")),
            })
        })
    }

    /// That nothing but a mark is here.
    fn unused(&self) -> [Compare; 2] {
        [self.layout.schema_key(), self.layout.base_key()].map(|key| Compare::mod_revision(key, CompareOp::Equal, 0))
    }

    /// Marks the empty store as being filled; what an import left half done is removed.
    async fn claim(&self) -> Result<Filling, ImportError> {
        let importing = self.layout.importing_key();
        let (first, end) = self.layout.range();
        let mark = Mark {
            id: uuid::Uuid::new_v4().to_string(),
            holder: crate::leader::holder(),
            step: 0,
        };
        let put = TxnOp::put(importing.as_str(), mark.encode(), None);
        let [schema, base] = self.unused();
        let empty = Txn::new()
            .when([
                schema,
                base,
                Compare::mod_revision(importing.as_str(), CompareOp::Equal, 0),
                Compare::mod_revision(first.as_str(), CompareOp::Equal, 0).with_range(end.as_str()),
            ])
            .and_then([put.clone()])
            .or_else([TxnOp::get(importing.as_str(), None)]);
        let answer = self.ask(empty).await?;
        if answer.succeeded() {
            return Ok(Filling::new(mark, revision_of(&answer)));
        }
        let there = raws(&answer).into_iter().next().flatten();
        let Some(there) = there else {
            return Err(ImportError::NotEmpty);
        };
        let other = Mark::read(&there);
        if other.id == mark.id {
            return Ok(Filling::new(mark, there.revision));
        }
        // Who still fills it goes on meanwhile.
        tokio::time::sleep(self.options.import_patience).await;
        let [schema, base] = self.unused();
        let anew = Txn::new()
            .when([
                schema,
                base,
                Compare::mod_revision(importing.as_str(), CompareOp::Equal, there.revision),
            ])
            .and_then([TxnOp::delete(first, Some(DeleteOptions::new().with_range(end))), put])
            .or_else([TxnOp::get(importing, None)]);
        let answer = self.ask(anew).await?;
        if answer.succeeded() {
            tracing::warn!(by = other.who(), "what an import left half done was removed");
            return Ok(Filling::new(mark, revision_of(&answer)));
        }
        match raws(&answer).into_iter().next().flatten() {
            // The answer to the first sending was lost.
            Some(raw) if Mark::read(&raw).id == mark.id => Ok(Filling::new(mark, raw.revision)),
            Some(raw) => Err(busy(&Mark::read(&raw))),
            None => Err(ImportError::NotEmpty),
        }
    }

    async fn fill(&self, filling: &mut Filling, entries: &[Entry]) -> Result<(), ImportError> {
        let importing = self.layout.importing_key();
        let next = Mark {
            step: filling.mark.step + 1,
            ..filling.mark.clone()
        };
        let mut ops = vec![TxnOp::put(importing.as_str(), next.encode(), None)];
        ops.extend(entries.iter().map(|entry| {
            let key = self.layout.data(&entry.key);
            TxnOp::put(key, wrap_kept(entry.rv, &entry.value), None)
        }));
        let txn = Txn::new()
            .when([filling.compare(&importing)])
            .and_then(ops)
            .or_else([TxnOp::get(importing, None)]);
        let answer = self.ask(txn).await?;
        let revision = if answer.succeeded() {
            revision_of(&answer)
        } else {
            let now = raws(&answer).into_iter().next().flatten().unwrap_or_default();
            let found = Mark::read(&now);
            if (&found.id, found.step) != (&next.id, next.step) {
                return Err(busy(&found));
            }
            now.revision
        };
        *filling = Filling::new(next, revision);
        Ok(())
    }

    /// Makes it a store. The revision of that.
    async fn finish(&self, filling: &Filling, state: &Imported) -> Result<i64, ImportError> {
        let (base, importing) = (self.layout.base_key(), self.layout.importing_key());
        let written = Base {
            base: state.base,
            newest: state.newest,
            id: filling.mark.id.clone(),
        };
        let value = serde_json::to_vec(&written).unwrap_or_default();
        let txn = Txn::new()
            .when([filling.compare(&importing)])
            .and_then([
                TxnOp::put(base.as_str(), value, None),
                TxnOp::put(self.layout.schema_key(), layout::SCHEMA.to_string(), None),
                TxnOp::delete(importing.as_str(), None),
            ])
            .or_else([TxnOp::get(base, None), TxnOp::get(importing, None)]);
        let answer = self.ask(txn).await?;
        if answer.succeeded() {
            return Ok(revision_of(&answer));
        }
        let mut found = raws(&answer).into_iter();
        let (base, other) = (found.next().flatten(), found.next().flatten());
        match base {
            Some(raw) if serde_json::from_slice::<Base>(&raw.value).is_ok_and(|b| b.id == written.id) => {
                Ok(raw.revision)
            }
            _ => Err(busy(&other.map(|raw| Mark::read(&raw)).unwrap_or_default())),
        }
    }

    /// Removes what was written of an import that cannot be finished.
    async fn give_up(&self, filling: &Filling) -> Result<(), ImportError> {
        let importing = self.layout.importing_key();
        let (first, end) = self.layout.range();
        // Any step of ours: the answer to the last one may be lost. A mark of another import is not touched.
        let found = self.read_keys(std::slice::from_ref(&importing), None, self.options.read_deadline);
        let found = found.await.map_err(unknown)?.into_iter().flatten().next();
        let Some(raw) = found.filter(|raw| Mark::read(raw).id == filling.mark.id) else {
            return Ok(());
        };
        let txn = Txn::new()
            .when([Compare::mod_revision(
                importing.as_str(),
                CompareOp::Equal,
                raw.revision,
            )])
            .and_then([
                TxnOp::delete(first, Some(DeleteOptions::new().with_range(end))),
                TxnOp::delete(importing, None),
            ]);
        self.ask(txn).await.map(drop)
    }

    /// Reads anew what this process knows of the store.
    async fn begin_anew(&self, start: Start) -> Result<(), Failure> {
        self.layout.rebase(start.base);
        *self.start.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = start;
        let list = self.list(true).await?;
        let newest = self.newest_at_list(&list).await?;
        let mut mirror = self.mirror();
        *mirror = Mirror::new(self.layout.clone(), &list, newest).from(start.newest);
        self.fanout.begin_at(newest);
        self.saw_update(newest);
        drop(mirror);
        self.seen.send_replace(list.marker);
        Ok(())
    }
}

impl Filling {
    fn new(mark: Mark, revision: i64) -> Self {
        Self { mark, revision }
    }

    fn compare(&self, importing: &str) -> Compare {
        Compare::mod_revision(importing, CompareOp::Equal, self.revision)
    }
}

fn revision_of(answer: &TxnResponse) -> i64 {
    answer.header().map_or(0, etcd_client::ResponseHeader::revision)
}

fn busy(other: &Mark) -> ImportError {
    ImportError::Busy(format!(
        "{} fills it just now: wait for that, or end it and try again",
        other.who()
    ))
}

fn unknown(failure: Failure) -> ImportError {
    ImportError::Commit(CommitError::Unknown(format!("etcd: {failure}")))
}

/// As many entries as fit into one transaction, again and again.
fn portions(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            bytes += entry.key.len() + entry.value.len();
            bytes <= MAX_BYTES
        };
        // At least one: what one commit could write can be written again.
        let n = rest.iter().take(ENTRIES).take_while(fits).count().max(1);
        let (portion, after) = rest.split_at_checked(n)?;
        rest = after;
        Some(portion)
    })
}

#[async_trait]
impl Import for EtcdStore {
    async fn import(&self, state: Imported) -> Result<(), ImportError> {
        state.check()?;
        let shared = &self.shared;
        if shared.refusing.is_cancelled() {
            return Err(CommitError::Closed.into());
        }
        if state.entries.iter().any(|e| e.key == keys::TERM) {
            return Err(ImportError::Invalid("who leads is not imported"));
        }
        let mut filling = shared.claim().await?;
        let filled = async {
            for portion in portions(&state.entries) {
                shared.fill(&mut filling, portion).await?;
            }
            shared.finish(&filling, &state).await
        };
        let revision = match filled.await {
            Ok(revision) => revision,
            Err(error) => {
                if let Err(e) = shared.give_up(&filling).await {
                    tracing::warn!("what was written of the import stays until the next one: {e}");
                }
                return Err(error);
            }
        };
        let start = Start {
            base: state.base,
            revision,
            newest: state.newest,
        };
        shared.begin_anew(start).await.map_err(unknown)
    }

    async fn withdraw(&self) -> Result<(), ImportError> {
        let shared = &self.shared;
        let (start, layout) = (shared.start(), &shared.layout);
        if start == Start::default() {
            return Ok(());
        }
        let (first, end) = layout.range();
        let txn = Txn::new()
            .when([
                Compare::mod_revision(layout.base_key(), CompareOp::Equal, start.revision),
                Compare::mod_revision(layout.data(keys::TERM), CompareOp::Equal, 0),
            ])
            .and_then([
                TxnOp::delete(first, Some(DeleteOptions::new().with_range(end))),
                TxnOp::delete(layout.base_key(), None),
                TxnOp::delete(layout.schema_key(), None),
            ]);
        shared.ask(txn).await.map(drop)
    }
}
