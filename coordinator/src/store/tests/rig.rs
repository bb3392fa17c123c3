//! A store under test, of any backend, and helpers that the tests share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::etcd_process::Etcd;

use super::super::{
    Change, Committed, Expect, Fence, Rv, Store, Update, Watch,
    contest::Contest,
    etcd::{EtcdOptions, EtcdStore},
    import::{Import as _, ImportError, Imported},
    memory::{MemoryOptions, MemoryStore},
    sqlite::{SqliteOptions, SqliteStore},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Memory,
    Sqlite,
    Etcd,
    /// etcd, filled from another store.
    Filled,
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
    /// Newest version before the first one of its own.
    pub began: Rv,
    inner: Inner,
    bounds: Bounds,
    dir: tempfile::TempDir,
}

enum Inner {
    Memory(Arc<MemoryStore>),
    Sqlite(Arc<SqliteStore>),
    Etcd(Arc<EtcdStore>, Arc<Etcd>, String),
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
            Backend::Etcd => return Self::on_etcd(Arc::new(Etcd::start(1)), "/wharf-test/", bounds),
            Backend::Filled => {
                let mut rig = Self::bounded(Backend::Etcd, bounds);
                block_on(rig.fill());
                return rig;
            }
        };
        Self {
            store: inner.store(),
            began: Rv(0),
            inner,
            bounds,
            dir,
        }
    }

    /// What several coordinators share of this backend; `None`: it has one.
    pub fn contest(&self) -> Option<Arc<dyn Contest>> {
        match &self.inner {
            Inner::Memory(store) => Some(store.clone()),
            Inner::Etcd(store, ..) => Some(store.clone()),
            Inner::Sqlite(_) => None,
        }
    }

    pub async fn import(&self, state: Imported) -> Result<(), ImportError> {
        match &self.inner {
            Inner::Memory(store) => store.import(state).await,
            Inner::Sqlite(store) => store.import(state).await,
            Inner::Etcd(store, ..) => store.import(state).await,
        }
    }

    /// As an empty store that another one was moved into.
    pub async fn fill(&mut self) {
        self.began = Rv::new(1 << 33, 5);
        let state = Imported {
            entries: Vec::new(),
            newest: self.began,
            base: (1 << 33) + 1000,
        };
        self.import(state).await.unwrap();
    }

    /// On an etcd that others may use, below a prefix of its own.
    pub fn on_etcd(etcd: Arc<Etcd>, prefix: &str, bounds: Bounds) -> Self {
        let prefix = prefix.to_owned();
        let inner = Inner::Etcd(block_on(open_etcd(&etcd, &prefix, bounds)), etcd, prefix);
        Self {
            store: inner.store(),
            began: Rv(0),
            inner,
            bounds,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Where the history has no bound of its own, all of it but the updates after `last` is given up.
    pub async fn trim(&self, last: Rv) {
        if let Inner::Etcd(store, ..) = &self.inner {
            store.compact_to(last).await.unwrap();
        }
    }

    pub async fn close(&self) {
        match &self.inner {
            Inner::Memory(store) => store.close(),
            Inner::Sqlite(store) => store.close().await,
            Inner::Etcd(store, ..) => store.close().await,
        }
    }

    /// As a process that restarts.
    pub async fn reopen(&mut self) {
        self.close().await;
        self.inner = match &self.inner {
            Inner::Memory(store) => Inner::Memory(Arc::new(store.reopen())),
            Inner::Sqlite(_) => Inner::Sqlite(open(self.dir.path().to_owned(), self.bounds)),
            Inner::Etcd(_, etcd, prefix) => {
                Inner::Etcd(open_etcd(etcd, prefix, self.bounds).await, etcd.clone(), prefix.clone())
            }
        };
        self.store = self.inner.store();
    }
}

impl Inner {
    fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Sqlite(store) => store.clone(),
            Self::Etcd(store, ..) => store.clone(),
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

async fn open_etcd(etcd: &Etcd, prefix: &str, bounds: Bounds) -> Arc<EtcdStore> {
    let options = EtcdOptions {
        endpoints: etcd.endpoints(),
        prefix: prefix.to_owned(),
        watch_queue: bounds.watch_queue,
        ..EtcdOptions::default()
    };
    Arc::new(EtcdStore::open(options).await.unwrap())
}

/// From within a runtime of several threads.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
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
