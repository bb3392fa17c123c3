//! Pods that are stopped here when no coordinator has heard this agent for too long
//! (`wharfinger.io/stop-after-disconnect`): nobody else could, and elsewhere their replacements start. Run by
//! [`crate::run`], before the worker begins and then beside it.
//!
//! What counts is not when this agent last heard a coordinator but when the coordinator last heard this agent: of a
//! heartbeat that it acknowledged, the moment at which it was sent. A coordinator that waits as long after the last
//! heartbeat that it heard, and ten seconds more, knows that such a pod has ended.
//!
//! Invariant: the moment is on disk while there is such a pod, and what is on disk is never later than the truth: a
//! restart of the agent does not prolong the time. A pod that was stopped so stays stopped.

use std::{collections::VecDeque, path::Path, path::PathBuf, sync::Arc};

use proto::model::loss::LossPolicy;
use tokio::{sync::watch, time::sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::{Ledger, PodEntry, disk_replace},
    session::Contact,
    step::Note,
    worker::Shared,
};

const FILE: &str = "contact";
/// Heartbeats remembered while none is acknowledged.
const REMEMBERED: usize = 64;
/// Before a write of the ledger or of the moment that failed is tried again.
const RETRY_MS: u64 = 1_000;

/// Heartbeats of a session, by sequence, with when each was sent.
#[derive(Clone, Debug, Default)]
pub struct Beats(VecDeque<(u64, u64)>);

impl Beats {
    pub fn sent(&mut self, seq: u64, now_ms: u64) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((seq, now_ms));
    }

    /// When the newest of those up to `seq` was sent.
    pub fn heard(&mut self, seq: u64) -> Option<u64> {
        let mut at = None;
        while let Some((_, sent)) = self.0.pop_front_if(|(s, _)| *s <= seq) {
            at = Some(sent);
        }
        at
    }
}

/// How long the pod runs on unheard, if it is to end then and goes on yet.
fn limit_ms(pod: &PodEntry) -> Option<u64> {
    let over = pod.stop.is_some() || pod.forgotten || pod.disconnected.is_some();
    let policy = LossPolicy::of(|key| pod.annotations.get(key).map(String::as_str));
    let limit = policy.stop_after_disconnect.filter(|_| !over)?;
    Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
}

/// Pods whose time is over at `now_ms`, with what it was, and when the next one's is.
pub fn due(ledger: &Ledger, heard_ms: u64, now_ms: u64) -> (Vec<(Arc<PodEntry>, u64)>, Option<u64>) {
    let mut over = Vec::new();
    let mut next: Option<u64> = None;
    for pod in ledger.pods.values() {
        let Some(limit) = limit_ms(pod) else { continue };
        let at = heard_ms.saturating_add(limit);
        if at <= now_ms {
            over.push((pod.clone(), limit));
        } else {
            next = Some(next.map_or(at, |n| n.min(at)));
        }
    }
    (over, next)
}

/// When a coordinator last heard this agent, as kept in the data directory.
fn load(dir: &Path) -> Option<u64> {
    std::fs::read_to_string(dir.join(FILE)).ok()?.trim().parse().ok()
}

/// Watches over the pods. Made at the agent's start.
pub struct Watchman {
    shared: Arc<Shared>,
    dir: PathBuf,
    contact: watch::Receiver<Contact>,
    /// In this run or an earlier one.
    heard_ms: u64,
    /// As on disk.
    kept_ms: Option<u64>,
}

impl Watchman {
    /// Ends at once what is due by what is on disk; an agent that was never heard counts from now.
    pub async fn begin(shared: Arc<Shared>, dir: PathBuf, contact: watch::Receiver<Contact>) -> Self {
        let now_ms = shared.clock.now_ms();
        let kept_ms = load(&dir);
        let mut watchman = Self {
            shared,
            dir,
            contact,
            // A clock that was set back must not make it later than now.
            heard_ms: kept_ms.unwrap_or(now_ms).min(now_ms),
            kept_ms,
        };
        watchman.look().await;
        watchman
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let mut ledger = self.shared.keeper.watch();
        loop {
            let wake = self.look().await.map(|at| self.shared.clock.instant(at));
            tokio::select! {
                () = stop.cancelled() => return,
                // Neither sender goes before the agent stops.
                changed = self.contact.changed() => if changed.is_err() { return },
                changed = ledger.changed() => if changed.is_err() { return },
                () = async { match wake { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
            }
        }
    }

    /// Ends what is due; says when to look again.
    async fn look(&mut self) -> Option<u64> {
        let heard_ms = self.contact.borrow_and_update().heard_ms;
        self.heard_ms = self.heard_ms.max(heard_ms);
        let now_ms = self.shared.clock.now_ms();
        let (over, mut next) = due(&self.shared.keeper.current(), self.heard_ms, now_ms);
        let retry = Some(now_ms + RETRY_MS);
        if next.is_some() && self.kept_ms != Some(self.heard_ms) {
            match self.keep() {
                Ok(()) => self.kept_ms = Some(self.heard_ms),
                Err(e) => {
                    tracing::error!(
                        "{}: cannot be written: {e}; free space or repair the disk",
                        self.dir.join(FILE).display()
                    );
                    next = retry;
                }
            }
        }
        for (pod, limit_ms) in over {
            let limit = humantime::format_duration(std::time::Duration::from_millis(limit_ms));
            let reason = format!("no coordinator has heard this agent for {limit} (stop-after-disconnect)");
            match self.shared.keeper.disconnect(&pod.uid, reason.clone()).await {
                Ok(()) => self.shared.notes.push(&pod, Note::warning("Disconnected", reason)),
                Err(e) => {
                    tracing::error!(pod = %pod.name, "cannot be stopped yet, although {reason}: {e}");
                    next = retry;
                }
            }
        }
        next
    }

    fn keep(&self) -> std::io::Result<()> {
        let path = self.dir.join(FILE);
        let sync = self.shared.settings.sync_writes;
        disk_replace(&self.dir, &path, self.heard_ms.to_string().as_bytes(), sync)
    }
}

#[cfg(test)]
#[path = "disconnect_tests.rs"]
mod tests;
