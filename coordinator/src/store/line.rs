//! One coordinator's line to a store in memory that several share: what lies between a process and the store in a real
//! cluster. Used by tests and by simulated clusters.
//!
//! Invariant: what a cut line was asked is either applied whole or not at all, and the asker cannot tell which by the
//! answer that it does not get; what a watch held back is delivered in order once the line is healed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    Change, CommitError, Committed, Entry, Fence, ReadError, Rv, Snapshot, Span, Store, Watch,
    contest::{Claim, Contest, Look},
    memory::MemoryStore,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Everything passes.
    Whole,
    /// What is asked gets an error at once and does not reach the store.
    Refuses,
    /// What is asked waits until the line is healed, and reaches the store then.
    Hangs,
    /// What is asked reaches the store, and the answer is lost: an error after it was applied.
    LosesAnswers,
}

pub struct Line {
    store: Arc<MemoryStore>,
    cut: watch::Sender<Cut>,
    /// How long each way takes.
    delay: Duration,
    watches: Mutex<JoinSet<()>>,
}

impl Line {
    pub fn new(store: Arc<MemoryStore>, delay: Duration) -> Arc<Self> {
        Arc::new(Self {
            store,
            cut: watch::Sender::new(Cut::Whole),
            delay,
            watches: Mutex::default(),
        })
    }

    pub fn set(&self, cut: Cut) {
        self.cut.send_replace(cut);
    }

    /// Waits on the way there. An error: it does not get there.
    async fn there(&self) -> Result<(), String> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let mut cut = self.cut.subscribe();
        // The sender lives in self, so this cannot fail.
        let _ = cut.wait_for(|cut| *cut != Cut::Hangs).await;
        let now = *cut.borrow();
        if now == Cut::Refuses { Err(lost()) } else { Ok(()) }
    }

    /// Waits on the way back. An error: the answer does not get there.
    async fn back(&self) -> Result<(), String> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let mut cut = self.cut.subscribe();
        let _ = cut.wait_for(|cut| *cut != Cut::Hangs).await;
        let now = *cut.borrow();
        if now == Cut::Whole { Ok(()) } else { Err(lost()) }
    }

    async fn read<R>(&self, work: impl Future<Output = Result<R, ReadError>>) -> Result<R, ReadError> {
        self.there().await.map_err(ReadError::Io)?;
        let result = work.await;
        self.back().await.map_err(ReadError::Io)?;
        result
    }

    async fn write<R>(&self, work: impl Future<Output = Result<R, CommitError>>) -> Result<R, CommitError> {
        self.there().await.map_err(CommitError::Io)?;
        let result = work.await;
        self.back().await.map_err(CommitError::Io)?;
        result
    }
}

fn lost() -> String {
    "the line to it is cut".to_owned()
}

/// Passes updates on while the line is whole.
async fn pass(mut from: Watch, to: mpsc::Sender<Vec<super::Update>>, mut cut: watch::Receiver<Cut>, delay: Duration) {
    while let Some(batch) = from.recv().await {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let healed = cut.wait_for(|cut| *cut == Cut::Whole).await.is_ok();
        if !healed || to.send(batch).await.is_err() {
            return;
        }
    }
}

#[async_trait]
impl Store for Line {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        self.read(self.store.load()).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.read(self.store.get(key)).await
    }

    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        self.read(self.store.scan(span)).await
    }

    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        let from = self.read(self.store.watch(after)).await?;
        let (to, watch) = mpsc::channel(1);
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        while watches.try_join_next().is_some() {}
        watches.spawn(pass(from, to, self.cut.subscribe(), self.delay));
        Ok(watch)
    }

    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        self.write(self.store.commit(fence, changes)).await
    }

    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        self.write(self.store.take_term(incarnation, holder)).await
    }

    fn newest(&self) -> Rv {
        self.store.newest()
    }
}

#[async_trait]
impl Contest for Line {
    async fn look(&self) -> Result<Look, ReadError> {
        self.read(self.store.look()).await
    }

    async fn take_over(&self, over: Option<u64>, claim: &Claim) -> Result<Fence, CommitError> {
        self.write(self.store.take_over(over, claim)).await
    }

    async fn beat(&self, fence: &Fence) -> Result<(), CommitError> {
        self.write(self.store.beat(fence)).await
    }
}
