//! Hands committed updates to the watchers. Called by the backends: `publish` by their one writer, `join` by
//! `watch`.
//!
//! Invariant: a watcher gets each update after its starting version exactly once and in order, or its channel
//! ends; no watcher makes the writer wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{Rv, Update, Watch};

#[cfg(test)]
#[path = "fanout_tests.rs"]
mod tests;

pub(super) struct Fanout {
    inner: Mutex<Inner>,
    /// Batches that a watcher may leave unread.
    queue: usize,
}

struct Inner {
    /// Newest version that went to the watchers.
    published: Rv,
    open: bool,
    next_id: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    id: u64,
    /// What it knew from elsewhere when it began.
    start: Rv,
    /// Delivered (or left to the history) up to here.
    after: Rv,
    tx: mpsc::Sender<Vec<Update>>,
    /// What came while the history is being read; `None` once live.
    backlog: Option<Vec<Vec<Update>>>,
}

impl Fanout {
    pub(super) fn new(published: Rv, queue: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                published,
                open: true,
                next_id: 0,
                watchers: Vec::new(),
            }),
            queue: queue.max(1),
        }
    }

    /// Updates of one transaction, in order, once they are durable.
    pub(super) fn publish(&self, updates: &[Update]) {
        let Some(last) = updates.last() else { return };
        let mut inner = self.lock();
        inner.published = last.rv;
        inner.watchers.retain_mut(|w| w.offer(updates, self.queue));
    }

    /// As [`Self::publish`], of updates that may be older than what was published: a backend found that it had missed
    /// them. The last one is newer than all before.
    pub(super) fn heal(&self, updates: &[Update]) {
        let Some(last) = updates.last() else { return };
        let mut inner = self.lock();
        inner.published = last.rv;
        inner.watchers.retain_mut(|w| {
            let missed = updates.iter().filter(|u| u.rv > w.start).cloned();
            w.give(missed.collect(), self.queue)
        });
    }

    /// Counts all up to `published` as delivered: the store was filled, and nobody watches one that is.
    pub(super) fn begin_at(&self, published: Rv) {
        let mut inner = self.lock();
        inner.published = published;
        inner.watchers.clear();
    }

    /// Begins a watch of what comes after `after`. The caller then reads the history after `after` up to
    /// [`Joining::up_to`] and calls [`Joining::start`]. `None`: closed.
    pub(super) fn join(self: &Arc<Self>, after: Rv) -> Option<Joining> {
        let mut inner = self.lock();
        if !inner.open {
            return None;
        }
        // One place more than the backlog may hold: the history.
        let (tx, rx) = mpsc::channel(self.queue + 1);
        let id = inner.next_id;
        inner.next_id += 1;
        let up_to = inner.published;
        inner.watchers.push(Watcher {
            id,
            start: after,
            after,
            tx,
            backlog: Some(Vec::new()),
        });
        Some(Joining {
            fanout: Arc::clone(self),
            id,
            up_to,
            rx: Some(rx),
        })
    }

    /// Ends every watch, after what it already has.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.open = false;
        inner.watchers.clear();
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below the lock leaves it half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// False: the watcher is gone or too far behind, and is to be dropped.
    fn offer(&mut self, updates: &[Update], queue: usize) -> bool {
        let new = updates.partition_point(|u| u.rv <= self.after);
        let Some(fresh) = updates.get(new..).filter(|f| !f.is_empty()) else {
            return !self.tx.is_closed();
        };
        self.give(fresh.to_vec(), queue)
    }

    fn give(&mut self, updates: Vec<Update>, queue: usize) -> bool {
        let Some(last) = updates.last() else {
            return !self.tx.is_closed();
        };
        self.after = self.after.max(last.rv);
        let fits = match &mut self.backlog {
            Some(backlog) if backlog.len() < queue => {
                backlog.push(updates);
                true
            }
            Some(_) => false,
            None => match self.tx.try_send(updates) {
                Ok(()) => true,
                Err(TrySendError::Closed(_)) => return false,
                Err(TrySendError::Full(_)) => false,
            },
        };
        if !fits {
            tracing::warn!(after = %self.after, "a watch of the store fell {queue} transactions behind and was ended");
        }
        fits
    }
}

/// A watch whose history is being read. Dropping it ends the watch.
pub(super) struct Joining {
    fanout: Arc<Fanout>,
    id: u64,
    /// The history is needed up to here, and no further.
    pub(super) up_to: Rv,
    rx: Option<Watch>,
}

impl Joining {
    /// Delivers the history, then what came meanwhile, then lives.
    pub(super) fn start(mut self, history: Vec<Update>) -> Watch {
        let rx = self.rx.take().unwrap_or_else(|| mpsc::channel(1).1);
        let mut inner = self.fanout.lock();
        // Absent: fell behind already, or the store closed; the channel then ends at once.
        if let Some(watcher) = inner.watchers.iter_mut().find(|w| w.id == self.id) {
            let backlog = watcher.backlog.take().unwrap_or_default();
            // The channel holds all of it: it has one place more than the longest backlog.
            for batch in std::iter::once(history).chain(backlog).filter(|b| !b.is_empty()) {
                let _ = watcher.tx.try_send(batch);
            }
        }
        drop(inner);
        rx
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if self.rx.is_some() {
            self.fanout.lock().watchers.retain(|w| w.id != self.id);
        }
    }
}
