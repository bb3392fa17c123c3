//! A store in memory for the ca's tests: commits, fences, expectations and watches, nothing durable. Used here
//! and, by path, by the end-to-end tests of joining.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::store::{
    Change, CommitError, Committed, Entry, Expect, Fence, ReadError, Rv, Snapshot, Store, Update, Watch,
};

#[derive(Default)]
struct State {
    revision: u64,
    entries: BTreeMap<String, (Rv, bytes::Bytes)>,
    history: Vec<Vec<Update>>,
    fence: Option<Fence>,
    watchers: Vec<tokio::sync::mpsc::Sender<Vec<Update>>>,
}

#[derive(Default)]
pub struct TestStore {
    state: Mutex<State>,
    /// The next commit fails as a full disk does.
    pub full: AtomicBool,
}

impl TestStore {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl Store for TestStore {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        let state = self.state();
        let entries = state.entries.iter().map(|(key, (rv, value))| Entry {
            rv: *rv,
            key: key.clone(),
            value: value.clone(),
        });
        Ok(Snapshot {
            rv: Rv::new(state.revision, u16::MAX),
            entries: entries.collect(),
        })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        Ok(self.state().entries.get(key).map(|(rv, value)| Entry {
            rv: *rv,
            key: key.to_owned(),
            value: value.clone(),
        }))
    }

    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        let mut state = self.state();
        let (sender, watch) = tokio::sync::mpsc::channel(4096);
        for batch in &state.history {
            let later: Vec<Update> = batch.iter().filter(|u| u.rv > after).cloned().collect();
            if !later.is_empty() {
                sender.try_send(later).map_err(|e| ReadError::Io(e.to_string()))?;
            }
        }
        state.watchers.push(sender);
        Ok(watch)
    }

    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        // Others run between two commits, as with a real store.
        tokio::task::yield_now().await;
        if self.full.swap(false, Ordering::SeqCst) {
            return Err(CommitError::Full("test".into()));
        }
        let mut state = self.state();
        let current = state.fence.as_ref().map_or(0, |f| f.term);
        if state.fence.as_ref() != Some(fence) {
            return Err(CommitError::Fenced {
                ours: fence.term,
                current,
            });
        }
        for change in &changes {
            let actual = state.entries.get(&change.key).map(|(rv, _)| *rv);
            let holds = match change.expect {
                Expect::Any => true,
                Expect::Absent => actual.is_none(),
                Expect::At(rv) => actual == Some(rv),
            };
            if !holds {
                return Err(CommitError::Conflict {
                    key: change.key.clone(),
                    expected: change.expect,
                    actual,
                });
            }
        }
        state.revision += 1;
        let mut batch = Vec::new();
        for (ordinal, change) in changes.into_iter().enumerate() {
            let rv = Rv::new(state.revision, u16::try_from(ordinal).unwrap_or(u16::MAX));
            match &change.value {
                Some(value) => drop(state.entries.insert(change.key.clone(), (rv, value.clone()))),
                None => drop(state.entries.remove(&change.key)),
            }
            batch.push(Update {
                rv,
                key: change.key,
                value: change.value,
            });
        }
        let rvs = batch.iter().map(|u| u.rv).collect();
        state.history.push(batch.clone());
        state.watchers.retain(|w| w.try_send(batch.clone()).is_ok());
        Ok(Committed { rvs })
    }

    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        let mut state = self.state();
        state.revision += 1;
        let fence = Fence {
            incarnation: incarnation.into(),
            term: state.revision,
            nonce: format!("{holder}-{}", state.revision).into(),
        };
        state.fence = Some(fence.clone());
        Ok(fence)
    }

    fn newest(&self) -> Rv {
        Rv::new(self.state().revision, u16::MAX)
    }
}
