//! Latest status of each pod until a coordinator has it durably. The worker updates, the session takes batches
//! and acknowledges.
//!
//! Invariants: one status a pod, however long the agent is cut off; a status that would take phase or restart
//! count back never replaces one; the order is (epoch, seq).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use proto::{
    model::PodStatus,
    order::{Stamp, supersedes},
    wire,
};
use tokio::sync::Notify;

pub struct Reporter {
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    epoch: u64,
    /// Last number given, to a status or a message.
    seq: u64,
    pods: BTreeMap<String, Slot>,
}

struct Slot {
    namespace: String,
    name: String,
    status: PodStatus,
    stopped: bool,
    seq: u64,
    state: Delivery,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Due,
    /// In the message of this number.
    Sent(u64),
    Durable,
}

impl Reporter {
    pub fn new(epoch: u64) -> Self {
        Self {
            inner: Mutex::new(Inner {
                epoch,
                seq: 0,
                pods: BTreeMap::new(),
            }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pod's status. False when it says nothing new or would go back.
    pub fn update(&self, uid: &str, namespace: &str, name: &str, status: PodStatus, stopped: bool) -> bool {
        let mut inner = self.lock();
        let stamp = Stamp {
            epoch: inner.epoch,
            seq: inner.seq + 1,
            ..Stamp::default()
        };
        if let Some(old) = inner.pods.get(uid) {
            if old.status == status && old.stopped == stopped {
                return false;
            }
            let before = Stamp {
                epoch: inner.epoch,
                seq: old.seq,
                ..Stamp::default()
            };
            if !supersedes((before, &old.status), (stamp, &status)) || (old.stopped && !stopped) {
                tracing::warn!(pod = %format!("{namespace}/{name}"), "dropped a status that goes back");
                return false;
            }
        }
        inner.seq = stamp.seq;
        let slot = Slot {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            status,
            stopped,
            seq: stamp.seq,
            state: Delivery::Due,
        };
        inner.pods.insert(uid.to_owned(), slot);
        drop(inner);
        self.changed.notify_one();
        true
    }

    /// The pod is over and on record.
    pub fn forget(&self, uid: &str) {
        self.lock().pods.remove(uid);
    }

    /// Up to `max` statuses that are due, oldest first, as one message.
    pub fn batch(&self, max: usize) -> Option<wire::Statuses> {
        let mut inner = self.lock();
        let mut due: Vec<_> = inner
            .pods
            .iter()
            .filter(|(_, s)| s.state == Delivery::Due)
            .map(|(uid, s)| (s.seq, uid.clone()))
            .collect();
        if due.is_empty() {
            return None;
        }
        due.sort_unstable();
        due.truncate(max);
        inner.seq += 1;
        let (epoch, seq) = (inner.epoch, inner.seq);
        let mut pods = Vec::with_capacity(due.len());
        for (_, uid) in due {
            if let Some(slot) = inner.pods.get_mut(&uid) {
                slot.state = Delivery::Sent(seq);
                pods.push(wire::PodStatus {
                    namespace: slot.namespace.clone(),
                    name: slot.name.clone(),
                    epoch,
                    seq: slot.seq,
                    // The model has string keys and no failing serializers.
                    status_json: serde_json::to_vec(&slot.status).unwrap_or_default(),
                    stopped: slot.stopped,
                    uid,
                });
            }
        }
        Some(wire::Statuses { seq, pods })
    }

    /// The messages up to `seq` are durable.
    pub fn ack(&self, seq: u64) {
        for slot in self.lock().pods.values_mut() {
            if matches!(slot.state, Delivery::Sent(sent) if sent <= seq) {
                slot.state = Delivery::Durable;
            }
        }
    }

    /// A new session: what was sent on the old one and not acknowledged is due again.
    pub fn resend_unacknowledged(&self) {
        self.resend(|state| matches!(state, Delivery::Sent(_)));
    }

    /// The coordinator's picture was made anew: everything is due again.
    pub fn resend_all(&self) {
        self.resend(|_| true);
    }

    /// These were no business of the coordinator's until now: it has kept nothing of them.
    pub fn resend_of(&self, uids: &[String]) {
        for uid in uids {
            if let Some(slot) = self.lock().pods.get_mut(uid) {
                slot.state = Delivery::Due;
            }
        }
        self.changed.notify_one();
    }

    fn resend(&self, which: impl Fn(Delivery) -> bool) {
        for slot in self.lock().pods.values_mut() {
            if which(slot.state) {
                slot.state = Delivery::Due;
            }
        }
        self.changed.notify_one();
    }

    /// Waits until something may be due.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Statuses not yet durable at a coordinator.
    pub fn pending(&self) -> usize {
        self.lock()
            .pods
            .values()
            .filter(|s| s.state != Delivery::Durable)
            .count()
    }

    /// Number for a heartbeat.
    pub fn next_seq(&self) -> (u64, u64) {
        let mut inner = self.lock();
        inner.seq += 1;
        (inner.epoch, inner.seq)
    }

    /// All statuses, for the status file.
    pub fn all(&self) -> Vec<(String, String, PodStatus)> {
        self.lock()
            .pods
            .values()
            .map(|s| (s.namespace.clone(), s.name.clone(), s.status.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proto::model::{ContainerStatus, Phase};

    use super::*;

    fn status(phase: Phase, restarts: u32) -> PodStatus {
        PodStatus {
            phase,
            container_statuses: vec![ContainerStatus {
                name: "c".into(),
                restart_count: restarts,
                ..ContainerStatus::default()
            }],
            ..PodStatus::default()
        }
    }

    fn put(r: &Reporter, uid: &str, phase: Phase, restarts: u32) -> bool {
        r.update(uid, "default", uid, status(phase, restarts), false)
    }

    fn uids(batch: Option<wire::Statuses>) -> Vec<String> {
        batch.map_or_else(Vec::new, |b| b.pods.into_iter().map(|p| p.uid).collect())
    }

    #[test]
    fn keeps_the_latest_only() {
        let r = Reporter::new(3);
        for n in 0..1000 {
            assert!(put(&r, "a", Phase::Running, n));
        }
        let batch = r.batch(10).expect("due");
        assert_eq!(batch.pods.len(), 1);
        let sent: PodStatus = serde_json::from_slice(&batch.pods[0].status_json).expect("JSON");
        assert_eq!(sent.container_statuses[0].restart_count, 999);
        assert_eq!((batch.pods[0].epoch, batch.pods[0].seq), (3, 1000));
        assert!(batch.seq > batch.pods[0].seq);
    }

    #[test]
    fn drops_repeats_and_regressions() {
        let r = Reporter::new(1);
        assert!(put(&r, "a", Phase::Running, 2));
        assert!(!put(&r, "a", Phase::Running, 2));
        assert!(!put(&r, "a", Phase::Pending, 2));
        assert!(!put(&r, "a", Phase::Running, 1));
        assert!(r.update("a", "default", "a", status(Phase::Running, 2), true));
        assert!(!put(&r, "a", Phase::Running, 3), "what is stopped stays so");
        assert_eq!(r.pending(), 1);
    }

    #[test]
    fn holds_until_acknowledged() {
        let r = Reporter::new(1);
        put(&r, "a", Phase::Running, 0);
        put(&r, "b", Phase::Running, 0);
        let first = r.batch(1).expect("due");
        assert_eq!(first.pods[0].uid, "a", "oldest first");
        let second = r.batch(10).expect("due");
        assert_eq!(second.pods[0].uid, "b");
        assert!(r.batch(10).is_none());
        r.ack(first.seq);
        assert_eq!(r.pending(), 1);
        r.resend_unacknowledged();
        let again = r.batch(10).expect("due");
        assert_eq!(
            (again.pods.len(), again.pods[0].seq),
            (1, second.pods[0].seq),
            "with its old stamp"
        );
        // An ack of an old message does not cover what changed since.
        put(&r, "b", Phase::Running, 1);
        r.ack(again.seq);
        assert_eq!(uids(r.batch(10)), ["b"]);
        r.ack(u64::MAX);
        assert_eq!(r.pending(), 0);
        r.resend_all();
        assert_eq!(uids(r.batch(10)), ["a", "b"]);
        r.ack(u64::MAX);
        r.resend_of(&["b".into(), "unknown".into()]);
        assert_eq!(uids(r.batch(10)), ["b"]);
        r.forget("a");
        r.resend_all();
        assert_eq!(uids(r.batch(10)), ["b"]);
    }
}
