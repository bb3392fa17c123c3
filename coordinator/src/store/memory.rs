//! The store in memory: the same rules as on disk, nothing durable. Used by tests and by simulated clusters. Several
//! coordinators of one process may share it, each by a [`super::line::Line`] of its own.
//!
//! Invariant: everything happens under one lock, so each commit is one transaction and one revision.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Change, CommitError, Committed, Entry, Fence, ReadError, Rv, Snapshot, Span, Store, Update, Watch,
    apply::{self, Batch, Tables},
    contest::{Claim, Contest, Look},
    fanout::Fanout,
    import::{Import, ImportError, Imported},
    keys,
};

#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// Updates kept for watches that resume.
    pub history: usize,
    /// Transactions that a watch may leave unread before it is ended.
    pub watch_queue: usize,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            history: 20_000,
            watch_queue: 1_024,
        }
    }
}

pub struct MemoryStore {
    data: Mutex<Data>,
    fanout: Arc<Fanout>,
    options: MemoryOptions,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemoryOptions::default())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore at {}", self.lock().newest)
    }
}

#[derive(Clone, Default)]
struct Data {
    state: BTreeMap<String, (Rv, Bytes)>,
    log: VecDeque<Update>,
    revision: u64,
    newest: Rv,
    /// Newest version that is no longer in the log.
    trimmed: Rv,
    /// Beats ever written.
    beat: u64,
}

impl MemoryStore {
    pub fn new(options: MemoryOptions) -> Self {
        Self::with(Data::default(), options)
    }

    fn with(data: Data, options: MemoryOptions) -> Self {
        Self {
            fanout: Arc::new(Fanout::new(data.newest, options.watch_queue)),
            data: Mutex::new(data),
            options,
        }
    }

    /// Ends the watches and refuses what comes after, as a stopped process would.
    pub fn close(&self) {
        let _data = self.lock();
        self.fanout.close();
    }

    /// Closes this store and opens another on the same data: a process that restarts on its data directory.
    pub fn reopen(&self) -> Self {
        self.close();
        Self::with(self.lock().clone(), self.options.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_to_read(&self) -> Result<MutexGuard<'_, Data>, ReadError> {
        let data = self.lock();
        if self.fanout.is_open() { Ok(data) } else { Err(closed()) }
    }

    fn transact<R>(&self, work: impl FnOnce(&mut Batch, &mut Data) -> Result<R, Infallible>) -> Result<R, CommitError> {
        let mut data = self.lock();
        if !self.fanout.is_open() {
            return Err(CommitError::Closed);
        }
        let mut batch = Batch::new(data.revision + 1, data.newest);
        let Ok(out) = work(&mut batch, &mut data);
        if let Some(last) = batch.updates.last() {
            data.revision += 1;
            data.newest = last.rv;
            while data.log.len() > self.options.history {
                data.trimmed = data.log.pop_front().map_or(data.trimmed, |u| u.rv);
            }
            // Below the lock: the order of publishing is the order of committing.
            self.fanout.publish(&batch.updates);
        }
        Ok(out)
    }
}

fn closed() -> ReadError {
    ReadError::Io("it is closed".to_owned())
}

impl Tables for Data {
    type Error = Infallible;

    fn version(&mut self, key: &str) -> Result<Option<Rv>, Infallible> {
        Ok(self.state.get(key).map(|(rv, _)| *rv))
    }

    fn get(&mut self, key: &str) -> Result<Option<(Rv, Bytes)>, Infallible> {
        Ok(self.state.get(key).cloned())
    }

    fn write(&mut self, rv: Rv, key: &str, value: Option<&Bytes>) -> Result<(), Infallible> {
        match value {
            Some(value) => self.state.insert(key.to_owned(), (rv, value.clone())),
            None => self.state.remove(key),
        };
        self.log.push_back(Update {
            rv,
            key: key.to_owned(),
            value: value.cloned(),
        });
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        let data = self.open_to_read()?;
        let entries = data.state.iter().map(|(key, (rv, value))| Entry {
            rv: *rv,
            key: key.clone(),
            value: value.clone(),
        });
        Ok(Snapshot {
            rv: data.newest,
            entries: entries.collect(),
        })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let data = self.open_to_read()?;
        Ok(data.state.get(key).map(|(rv, value)| Entry {
            rv: *rv,
            key: key.to_owned(),
            value: value.clone(),
        }))
    }

    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        let data = self.open_to_read()?;
        Ok(span.of(&data.state))
    }

    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        let data = self.open_to_read()?;
        if after > data.newest {
            return Err(ReadError::Future {
                after,
                newest: data.newest,
            });
        }
        if after < data.trimmed {
            return Err(ReadError::Compacted {
                after,
                oldest: data.trimmed,
            });
        }
        let first = data.log.partition_point(|u| u.rv <= after);
        let history = data.log.range(first..).cloned().collect();
        Ok(self.fanout.join(after).ok_or_else(closed)?.start(history))
    }

    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        apply::check_limits(&changes)?;
        self.transact(|batch, data| batch.commit(data, fence, changes))?
    }

    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        self.transact(|batch, data| batch.take_term(data, incarnation, holder))
    }

    fn newest(&self) -> Rv {
        self.lock().newest
    }
}

#[async_trait]
impl Contest for MemoryStore {
    async fn look(&self) -> Result<Look, ReadError> {
        let data = self.open_to_read()?;
        let term = data.state.get(keys::TERM).map(|(rv, value)| {
            // Only this module writes it.
            (rv.revision(), serde_json::from_slice(value).unwrap_or_default())
        });
        Ok(Look { term, beat: data.beat })
    }

    async fn take_over(&self, over: Option<u64>, claim: &Claim) -> Result<Fence, CommitError> {
        self.transact(|batch, data| batch.take_over(data, over, claim))?
    }

    async fn beat(&self, fence: &Fence) -> Result<(), CommitError> {
        self.transact(|batch, data| {
            let refused = batch.fenced(data, fence)?;
            data.beat += u64::from(refused.is_none());
            Ok(refused.map_or(Ok(()), Err))
        })?
    }
}

#[async_trait]
impl Import for MemoryStore {
    async fn import(&self, state: Imported) -> Result<(), ImportError> {
        state.check()?;
        let mut data = self.lock();
        if !self.fanout.is_open() {
            return Err(CommitError::Closed.into());
        }
        if data.newest != Rv(0) {
            return Err(ImportError::NotEmpty);
        }
        data.state = state.entries.into_iter().map(|e| (e.key, (e.rv, e.value))).collect();
        (data.revision, data.newest, data.trimmed) = (state.base, state.newest, state.newest);
        Ok(())
    }
}
