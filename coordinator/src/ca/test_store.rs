//! The store in memory with two additions for tests of joining: other tasks run before each commit, and one
//! commit can be made to fail. Used here and, by path, by the end-to-end tests of joining.
//!
//! Invariant: everything else is `MemoryStore`'s, which passes the conformance suite.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::store::{
    Change, CommitError, Committed, Entry, Fence, ReadError, Rv, Snapshot, Span, Store, Watch, memory::MemoryStore,
};

#[derive(Default)]
pub struct TestStore {
    inner: MemoryStore,
    /// The next commit fails as on a full disk.
    pub full: AtomicBool,
}

impl TestStore {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
}

#[async_trait::async_trait]
impl Store for TestStore {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        self.inner.load().await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.inner.get(key).await
    }

    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        self.inner.scan(span).await
    }

    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        self.inner.watch(after).await
    }

    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        tokio::task::yield_now().await;
        if self.full.swap(false, Ordering::SeqCst) {
            return Err(CommitError::Full("test".into()));
        }
        self.inner.commit(fence, changes).await
    }

    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        self.inner.take_term(incarnation, holder).await
    }

    fn newest(&self) -> Rv {
        self.inner.newest()
    }
}
