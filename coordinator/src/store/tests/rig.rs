//! A store under test, of either backend, and helpers that the tests share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::super::{
    Change, Committed, Expect, Fence, Rv, Store, Update, Watch,
    memory::{MemoryOptions, MemoryStore},
    sqlite::{SqliteOptions, SqliteStore},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Memory,
    Sqlite,
}

/// Small bounds where a test wants to reach them.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub history: usize,
    pub watch_queue: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            history: 20_000,
            watch_queue: 1_024,
        }
    }
}

pub struct Rig {
    pub store: Arc<dyn Store>,
    inner: Inner,
    bounds: Bounds,
    dir: tempfile::TempDir,
}

enum Inner {
    Memory(Arc<MemoryStore>),
    Sqlite(Arc<SqliteStore>),
}

impl Rig {
    pub fn new(backend: Backend) -> Self {
        Self::bounded(backend, Bounds::default())
    }

    pub fn bounded(backend: Backend, bounds: Bounds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inner = match backend {
            Backend::Memory => Inner::Memory(Arc::new(MemoryStore::new(MemoryOptions {
                history: bounds.history,
                watch_queue: bounds.watch_queue,
            }))),
            Backend::Sqlite => Inner::Sqlite(open(dir.path().to_owned(), bounds)),
        };
        Self {
            store: inner.store(),
            inner,
            bounds,
            dir,
        }
    }

    pub async fn close(&self) {
        match &self.inner {
            Inner::Memory(store) => store.close(),
            Inner::Sqlite(store) => store.close().await,
        }
    }

    /// As a process that restarts.
    pub async fn reopen(&mut self) {
        self.close().await;
        self.inner = match &self.inner {
            Inner::Memory(store) => Inner::Memory(Arc::new(store.reopen())),
            Inner::Sqlite(_) => Inner::Sqlite(open(self.dir.path().to_owned(), self.bounds)),
        };
        self.store = self.inner.store();
    }
}

impl Inner {
    fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Sqlite(store) => store.clone(),
        }
    }
}

fn open(dir: PathBuf, bounds: Bounds) -> Arc<SqliteStore> {
    let options = SqliteOptions {
        history: bounds.history,
        watch_queue: bounds.watch_queue,
        ..SqliteOptions::default()
    };
    Arc::new(SqliteStore::open(&dir, options).unwrap())
}

pub async fn lead(store: &dyn Store) -> Fence {
    store.take_term("inc", "test:1").await.unwrap()
}

/// One unconditional change, acknowledged.
pub async fn put(store: &dyn Store, fence: &Fence, key: &str, value: &str) -> Rv {
    store
        .commit(fence, vec![any(key, value)])
        .await
        .map(|c: Committed| c.last())
        .unwrap()
}

pub fn any(key: &str, value: &str) -> Change {
    Change::put(key, Expect::Any, value.to_owned())
}

pub async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let entry = store.get(key).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

/// What a watch delivers up to and including `last`.
pub async fn until(watch: &mut Watch, last: Rv) -> Vec<Update> {
    let mut got: Vec<Update> = Vec::new();
    while got.last().is_none_or(|u| u.rv < last) {
        got.extend(within(watch.recv()).await.expect("the watch ended early"));
    }
    got
}

/// No wait in these tests is meant to be long.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work)
        .await
        .expect("nothing within 30 s")
}
