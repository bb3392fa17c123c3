//! The mark of what was served, kept for whatever term this process holds. Called by `elector` for each term that it
//! begins and by `run` while one is held.
//!
//! Invariant: nothing is served under a term before the mark names it; writes happen one after another and never in the
//! way of other tasks.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::guard::{Guard, GuardError, Mark};
use crate::{
    store::Fence,
    world::{World, hub::Hub},
};

#[derive(Debug)]
pub struct Marks {
    guard: Mutex<Guard>,
    cluster: String,
}

impl Marks {
    /// `cluster`: UUID of the cluster that is served.
    pub fn new(guard: Guard, cluster: &str) -> Arc<Self> {
        Arc::new(Self {
            guard: Mutex::new(guard),
            cluster: cluster.to_owned(),
        })
    }

    /// As [`Guard::open`], without blocking.
    pub async fn open(dir: &Path) -> Result<Guard, GuardError> {
        let dir = dir.to_owned();
        blocking(move || Guard::open(&dir)).await
    }

    /// Refuses a store that cannot be the one that was served.
    pub fn check(&self, incarnation: &str, world: &World) -> Result<(), GuardError> {
        self.lock().check(&self.cluster, incarnation, world)
    }

    /// Records that this revision is served under this term, durably.
    pub async fn record(self: &Arc<Self>, fence: &Fence, revision: u64) -> Result<(), GuardError> {
        let mark = Mark {
            cluster: self.cluster.clone(),
            incarnation: fence.incarnation.to_string(),
            term: fence.term,
            revision,
        };
        let marks = self.clone();
        blocking(move || marks.lock().record(mark)).await
    }

    /// Renews the mark every so often while this process leads, until `stopping`.
    pub async fn keep(self: Arc<Self>, hub: Arc<Hub>, every: Duration, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = stopping.cancelled() => return,
            }
            self.renew(&hub).await;
        }
    }

    /// Records what is served now, if this process leads.
    pub async fn renew(self: &Arc<Self>, hub: &Hub) {
        let Some(fence) = hub.fence() else { return };
        if let Err(e) = self.record(&fence, hub.rv().revision()).await {
            // Agents refuse an older history by themselves; this is the second line.
            tracing::warn!(error = %e, "the mark of what was served could not be renewed");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guard> {
        // A write that failed half way left the old file.
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GuardError> + Send + 'static,
) -> Result<T, GuardError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(GuardError::Write {
            path: "served.json".into(),
            what: e.to_string(),
        })
    })
}
