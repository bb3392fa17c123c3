//! Events on their way to a coordinator: a short queue between worker and session.
//!
//! Invariant: bounded; the oldest give way. Nothing decides by events.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use proto::wire;
use tokio::sync::Notify;

use crate::{clock::wall_ms, ledger::PodEntry, step::Note};

/// Events kept while no coordinator listens.
const KEPT: usize = 1000;

#[derive(Default)]
pub struct Notes {
    queue: Mutex<VecDeque<wire::PodEvent>>,
    changed: Notify,
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, VecDeque<wire::PodEvent>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, pod: &PodEntry, note: Note) {
        let name = format!("{}/{}", pod.namespace, pod.name);
        if note.warning {
            tracing::warn!(pod = %name, reason = note.reason, "{}", note.message);
        } else {
            tracing::info!(pod = %name, reason = note.reason, "{}", note.message);
        }
        let mut queue = self.lock();
        if queue.len() >= KEPT {
            queue.pop_front();
        }
        queue.push_back(wire::PodEvent {
            pod_uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            reason: note.reason.into(),
            message: note.message,
            warning: note.warning,
            time_ms: wall_ms(),
        });
        drop(queue);
        self.changed.notify_one();
    }

    /// Takes up to `max` events.
    pub fn take(&self, max: usize) -> Vec<wire::PodEvent> {
        let mut queue = self.lock();
        let n = queue.len().min(max);
        queue.drain(..n).collect()
    }

    /// Wakes who waits for events: another one was woken that does not take them.
    pub fn nudge(&self) {
        self.changed.notify_one();
    }

    /// Waits until there may be some.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_give_way() {
        let notes = Notes::default();
        for n in 0..KEPT + 5 {
            notes.push(&PodEntry::default(), Note::normal("Test", n.to_string()));
        }
        let taken = notes.take(2);
        assert_eq!(taken.iter().map(|e| e.message.as_str()).collect::<Vec<_>>(), ["5", "6"]);
        assert_eq!(notes.take(usize::MAX).len(), KEPT - 2);
        assert!(notes.take(1).is_empty());
    }
}
