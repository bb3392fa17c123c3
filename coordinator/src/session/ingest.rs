//! What agents report, on its way into the store: statuses and facts are collected while a commit is under
//! way, then written together. Called by `stream`; one [`Pending`] a session.
//!
//! Invariant: a status is written only for a pod bound to the reporting node and only if it is later than what
//! is stored; what is acknowledged is durable or refused for good. Memory is bounded by the node's pods.

use std::{collections::BTreeMap, time::Duration};

use proto::{
    model::{Hardware, PodStatus},
    order, wire,
};

use super::{facts, hardware};
use crate::{
    http::metrics::Metrics,
    store::{Change, CommitError, Expect, MAX_BYTES, MAX_CHANGES, ReadError, Rv, keys},
    world::{
        Key, World,
        hub::Hub,
        record::{self, FactsRecord, StatusRecord},
    },
};

/// Most bytes of one pod's status.
const MAX_STATUS: usize = 64 << 10;
/// Most pods of one message.
const MAX_PODS: usize = 4096;
/// How often a batch is tried again after others changed what it is based on.
const TRIES: usize = 16;
/// Pause before a key that was deleted is looked at again.
const GONE_PAUSE: Duration = Duration::from_millis(2);
/// Pause while the store's disk is full.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// What of `new` is to be stored when `old` is: `None` when it is not later or changes nothing.
pub fn merge(old: &StatusRecord, new: &StatusRecord) -> Option<StatusRecord> {
    if new.stamp() <= old.stamp() {
        return None;
    }
    let follows = order::supersedes((old.stamp(), &old.status), (new.stamp(), &new.status));
    let merged = StatusRecord {
        // The end of a pod is on record even if what comes with it would take the phase back.
        status: if follows {
            new.status.clone()
        } else {
            old.status.clone()
        },
        stopped: old.stopped || new.stopped,
        vanished: old.vanished || new.vanished,
        ..new.clone()
    };
    (merged.status != old.status || merged.stopped != old.stopped || merged.vanished != old.vanished).then_some(merged)
}

/// The agent's start that a session is of, by its generation and its own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub generation: u64,
    pub epoch: u64,
}

/// A status that can be read, of a pod that need not be the reporting node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub namespace: String,
    pub name: String,
    pub record: StatusRecord,
}

/// Reads a message of an agent's start. The error says what of it the protocol does not allow.
pub fn read(message: wire::Statuses, start: Start) -> Result<(u64, Vec<Report>), String> {
    if message.pods.len() > MAX_PODS {
        return Err(format!(
            "a message with {} statuses; at most {MAX_PODS}",
            message.pods.len()
        ));
    }
    let reports: Result<_, _> = message.pods.into_iter().map(|pod| read_one(pod, start)).collect();
    Ok((message.seq, reports?))
}

fn read_one(pod: wire::PodStatus, start: Start) -> Result<Report, String> {
    let of = || {
        format!(
            "the status of pod {}/{}",
            facts::line(&pod.namespace, 64),
            facts::line(&pod.name, 64)
        )
    };
    if pod.status_json.len() > MAX_STATUS {
        return Err(format!(
            "{} has {} bytes; at most {MAX_STATUS}",
            of(),
            pod.status_json.len()
        ));
    }
    if pod.epoch > start.epoch {
        return Err(format!(
            "{} is of epoch {}, beyond this session's {}",
            of(),
            pod.epoch,
            start.epoch
        ));
    }
    // Strict: an agent is never newer than its coordinator, so an unknown field is a fault.
    let status: PodStatus =
        serde_json::from_slice(&pod.status_json).map_err(|e| format!("{} cannot be read: {e}", of()))?;
    Ok(Report {
        namespace: pod.namespace,
        name: pod.name,
        record: StatusRecord {
            uid: pod.uid,
            generation: start.generation,
            epoch: pod.epoch,
            seq: pod.seq,
            status,
            stopped: pod.stopped,
            vanished: false,
        },
    })
}

/// A report about a pod that is not the reporting node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub report: Report,
    /// The world has it, bound elsewhere.
    pub known: bool,
}

/// What is not durable yet, newest only.
#[derive(Debug, Default)]
pub struct Pending {
    statuses: BTreeMap<String, StatusRecord>,
    facts: Option<FactsRecord>,
    hardware: Option<Hardware>,
    /// Highest sequence received of what is in here.
    seq: Option<u64>,
}

impl Pending {
    /// Takes in what [`read`] gave; returns what is not this node's.
    pub fn accept(&mut self, world: &World, node: &str, seq: u64, reports: Vec<Report>) -> Vec<Foreign> {
        let mut foreign = Vec::new();
        for mut report in reports {
            match world.pod_by_uid(&report.record.uid) {
                Some((_, state)) if state.record.node == node => {
                    // Without a decision to stop it, no agent's word ends a pod.
                    report.record.stopped &= state.record.stop.is_some();
                    self.put(report.record);
                }
                found => foreign.push(Foreign {
                    report,
                    known: found.is_some(),
                }),
            }
        }
        self.seq = self.seq.max(Some(seq));
        foreign
    }

    /// Takes in the host's facts and, where it told it, its hardware; each is written unless it is the stored one.
    pub fn set_facts(&mut self, facts: FactsRecord, hardware: Option<Hardware>) {
        self.facts = Some(facts);
        self.hardware = hardware.or(self.hardware.take());
    }

    fn put(&mut self, new: StatusRecord) {
        match self.statuses.get_mut(&new.uid) {
            Some(old) => {
                if let Some(merged) = merge(old, &new) {
                    *old = merged;
                }
            }
            None => {
                self.statuses.insert(new.uid.clone(), new);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.seq.is_none() && self.facts.is_none()
    }

    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// A flush that ended well.
#[derive(Debug, PartialEq, Eq)]
pub struct Flushed {
    /// To be acknowledged, if statuses were among it.
    pub seq: Option<u64>,
    /// The facts that are durable now: whether Docker answers, and its words.
    pub docker: Option<Docker>,
    /// What of the hardware is another than was stored, in words.
    pub hardware: Vec<String>,
}

/// Whether Docker answers; if not, in whose words.
pub type Docker = Result<(), String>;

pub fn docker(facts: &FactsRecord) -> Docker {
    if facts.docker_ready {
        Ok(())
    } else {
        Err(facts.docker_reason.clone())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    #[error("{0}")]
    Commit(#[from] CommitError),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("the status of {0} changed under {TRIES} tries to write it")]
    Contended(String),
}

/// Makes all of `pending` durable. Waits while the store's disk is full.
pub async fn flush(hub: &Hub, metrics: &Metrics, node: &str, pending: Pending) -> Result<Flushed, FlushError> {
    let seq = pending.seq;
    let docker = match pending.facts {
        Some(facts) => Some(flush_facts(hub, node, facts).await?),
        None => None,
    };
    let hardware = match pending.hardware {
        Some(hardware) => flush_hardware(hub, node, hardware).await?,
        None => Vec::new(),
    };
    let mut batch = Vec::new();
    let mut bytes = 0;
    for status in pending.statuses.into_values() {
        let size = record::encode(&status).len();
        // Leave room for the keys.
        if batch.len() == MAX_CHANGES || (bytes + size > MAX_BYTES / 2 && !batch.is_empty()) {
            flush_batch(hub, metrics, std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
        bytes += size;
        batch.push(status);
    }
    if !batch.is_empty() {
        flush_batch(hub, metrics, batch).await?;
    }
    Ok(Flushed { seq, docker, hardware })
}

async fn flush_facts(hub: &Hub, node: &str, facts: FactsRecord) -> Result<Docker, FlushError> {
    let stored = hub.read(|w| w.nodes.get(node).and_then(|n| n.facts.clone()));
    if stored.is_none_or(|s| *s.value != facts) {
        let change = Change::put(keys::node_facts(node), Expect::Any, record::encode(&facts));
        commit(hub, vec![change]).await?;
    }
    Ok(docker(&facts))
}

/// Says what differs from what was stored; nothing where nothing was.
async fn flush_hardware(hub: &Hub, node: &str, new: Hardware) -> Result<Vec<String>, FlushError> {
    // The record of a node deleted meanwhile would outlive it.
    let Some(stored) = hub.read(|w| w.nodes.get(node).map(|n| n.hardware.clone())) else {
        return Ok(Vec::new());
    };
    if stored.as_ref().is_some_and(|s| *s.value == new) {
        return Ok(Vec::new());
    }
    let change = Change::put(keys::node_inventory(node), Expect::Any, record::encode(&new));
    commit(hub, vec![change]).await?;
    Ok(stored.map_or_else(Vec::new, |old| hardware::differences(&old.value, &new)))
}

/// One write of a status.
struct Write {
    key: Key,
    uid: String,
    change: Change,
}

async fn flush_batch(hub: &Hub, metrics: &Metrics, batch: Vec<StatusRecord>) -> Result<(), FlushError> {
    // A status of an earlier pod of the same name stands where the world shows none.
    let mut found: BTreeMap<String, Expect> = BTreeMap::new();
    let mut contended = String::new();
    for _ in 0..TRIES {
        let writes = hub.read(|w| plan(w, &batch, &found));
        if writes.is_empty() {
            return Ok(());
        }
        let changes = writes.iter().map(|w| w.change.clone()).collect();
        match commit(hub, changes).await {
            Ok(rvs) => {
                metrics.statuses_written.inc_by(rvs.len() as u64);
                return sweep(hub, &writes, &rvs).await;
            }
            Err(CommitError::Conflict { key, actual, .. }) => {
                match actual {
                    Some(rv) => hub.wait_for(rv).await,
                    // The world hears of a deletion a moment later.
                    None => tokio::time::sleep(GONE_PAUSE).await,
                }
                let now = hub.store().get(&key).await?;
                found.insert(key.clone(), now.map_or(Expect::Absent, |e| Expect::At(e.rv)));
                contended = key;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Err(FlushError::Contended(contended))
}

fn plan(world: &World, batch: &[StatusRecord], found: &BTreeMap<String, Expect>) -> Vec<Write> {
    let mut writes = Vec::new();
    for new in batch {
        let Some((key, pod)) = world.pod_by_uid(&new.uid) else {
            continue;
        };
        let name = keys::pod_status(&key.0, &key.1);
        let (expect, value) = match &pod.status {
            Some(old) => (Expect::At(old.rv), merge(&old.value, new)),
            None => (found.get(&name).copied().unwrap_or(Expect::Absent), Some(new.clone())),
        };
        if let Some(value) = value {
            writes.push(Write {
                key: key.clone(),
                uid: new.uid.clone(),
                change: Change::put(name, expect, record::encode(&value)),
            });
        }
    }
    writes
}

/// Takes back the statuses of pods that were deleted meanwhile: nobody else would.
async fn sweep(hub: &Hub, writes: &[Write], rvs: &[Rv]) -> Result<(), FlushError> {
    let left: Vec<Change> = hub.read(|w| {
        let gone = |write: &Write| w.pod_by_uid(&write.uid).is_none() && !w.pods.contains_key(&write.key);
        let written = writes.iter().zip(rvs).filter(|(write, _)| gone(write));
        written
            .map(|(write, rv)| Change::delete(write.change.key.clone(), Expect::At(*rv)))
            .collect()
    });
    if left.is_empty() {
        return Ok(());
    }
    match commit(hub, left).await {
        // Somebody else has swept or reused the key.
        Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Commits, waiting while the store has no room or does not answer. Where it is unknown whether an attempt was applied, the
/// next one finds a conflict if it was.
async fn commit(hub: &Hub, changes: Vec<Change>) -> Result<Vec<Rv>, CommitError> {
    loop {
        match hub.commit(changes.clone()).await {
            Err(e) if e.passes() => {
                tracing::warn!("reports wait: {e}");
                tokio::time::sleep(FULL_PAUSE).await;
            }
            Err(e) => return Err(e),
            Ok(committed) => return Ok(committed.rvs),
        }
    }
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
