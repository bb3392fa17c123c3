//! What the agent was told and must not forget: the highest fence, the last revision, the pods. Written by
//! [`Keeper`] alone; read at start, by the worker and by `wharf-agent status`.
//!
//! Invariants: a new fence and every stop entry are durable before anything is done under them; the fence and
//! the epoch never go back; a pod leaves only by `forget`, or when it is over and no longer assigned.

mod accept;
mod disk;
mod keeper;

use std::{collections::BTreeMap, sync::Arc};

pub use accept::{LedgerChange, Refusal, Said, accept_answer, accept_assignments, accept_welcome};
pub use disk::{DataDir, Disk, LedgerError, load, remove, replace as disk_replace, save};
pub use keeper::{Keeper, KeeperHandle, Saved};
use proto::{digest, model::PodSpec, wire};
use serde::{Deserialize, Serialize};

use crate::step::{Mode, PodBook, PodDesired};

/// Under which leadership something was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub incarnation: String,
    pub term: u64,
    pub nonce: String,
}

impl From<&wire::Fence> for Fence {
    fn from(f: &wire::Fence) -> Self {
        Self {
            incarnation: f.incarnation.clone(),
            term: f.term,
            nonce: f.nonce.clone(),
        }
    }
}

impl From<&Fence> for wire::Fence {
    fn from(f: &Fence) -> Self {
        Self {
            incarnation: f.incarnation.clone(),
            term: f.term,
            nonce: f.nonce.clone(),
        }
    }
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Highest one accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// `results_in` of the last assignments accepted.
    pub revision: u64,
    /// Number of starts of this agent.
    pub epoch: u64,
    /// The host's boot in which this agent last took up its pods; empty: not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// Session addresses of the coordinators, as last told.
    pub coordinators: Vec<String>,
    /// The cluster's setting, as last told; `None`: the agent's own holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_after_ms: Option<u32>,
    /// By uid.
    pub pods: BTreeMap<String, Arc<PodEntry>>,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodEntry {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// As received; empty for a pod of which only a stop entry was ever seen.
    pub spec_json: String,
    pub spec_hash: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopIntent>,
    /// It was stopped here because no coordinator heard this agent for too long; final.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnected: Option<StopIntent>,
    /// Runs here although the coordinator's complete set does not name it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unexpected: bool,
    /// Its end is on record at the coordinator.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
    /// When it was first accepted, by this agent's clock.
    pub accepted_ms: u64,
    pub book: PodBook,
}

/// Longest grace of a pod that stops itself; half of the margin that a coordinator allows it.
const MOST_GRACE_SECONDS: u32 = 5;

/// A stop entry; final once accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopIntent {
    pub reason: String,
    pub grace_seconds: u32,
    pub accepted_ms: u64,
    /// From the acceptance to the stop signal.
    #[serde(skip_serializing_if = "is_zero")]
    pub drain_ms: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl PodEntry {
    /// The stop of a pod by itself. It must have ended soon after: a longer grace of its own does not count.
    fn own_stop(&self, reason: String, now_ms: u64) -> StopIntent {
        let grace = self.desired().spec.grace_seconds();
        StopIntent {
            reason,
            grace_seconds: u32::try_from(grace).map_or(0, |g| g.min(MOST_GRACE_SECONDS)),
            accepted_ms: now_ms,
            drain_ms: 0,
        }
    }

    /// What [`crate::step::step`] works towards.
    pub fn desired(&self) -> PodDesired {
        let (spec, invalid) = if self.spec_json.is_empty() {
            (PodSpec::default(), None)
        } else {
            match serde_json::from_str(&self.spec_json) {
                Ok(spec) => (spec, None),
                Err(e) => (
                    PodSpec::default(),
                    Some(format!(
                        "this agent ({}) cannot read the pod's spec: {e}",
                        proto::VERSION
                    )),
                ),
            }
        };
        let mode = match (&self.stop, &self.disconnected) {
            (Some(stop), _) => Mode::Stop {
                grace_ms: u64::from(stop.grace_seconds) * 1000,
                drain_until_ms: stop.accepted_ms.saturating_add(stop.drain_ms.into()),
                reason: stop.reason.clone(),
            },
            (None, _) if self.forgotten => Mode::Forget,
            (None, Some(stop)) => Mode::Disconnected {
                grace_ms: u64::from(stop.grace_seconds) * 1000,
                reason: stop.reason.clone(),
            },
            (None, None) => Mode::Run,
        };
        PodDesired {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            spec: Arc::new(spec),
            invalid,
            mode,
            accepted_ms: self.accepted_ms,
        }
    }

    /// It may leave the ledger once nothing of it is left on the engine.
    pub fn leaves_when_gone(&self) -> bool {
        self.forgotten || (self.unexpected && self.stop.is_some())
    }

    /// Whether it is to be stopped sooner than by the entry before: then no hook is waited for.
    pub fn hurries(&self, before: &Self) -> bool {
        match (&before.stop, &self.stop) {
            (Some(before), Some(now)) => now.grace_seconds < before.grace_seconds,
            (None, Some(now)) => now.grace_seconds == 0,
            (_, None) => false,
        }
    }

    /// The same but for bookkeeping.
    pub fn same_wish(&self, other: &Self) -> bool {
        (&self.spec_json, &self.stop, &self.disconnected) == (&other.spec_json, &other.stop, &other.disconnected)
            && (self.unexpected, self.forgotten) == (other.unexpected, other.forgotten)
    }
}

impl Ledger {
    /// What runs here although the coordinator's complete set does not name it, as it was once told.
    pub fn unexpected(&self) -> Vec<wire::Run> {
        let unexpected = self
            .pods
            .values()
            .filter(|p| p.unexpected && p.stop.is_none() && !p.spec_json.is_empty());
        let run = |pod: &Arc<PodEntry>| wire::Run {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            spec_json: pod.spec_json.clone().into_bytes(),
            labels: pod.labels.clone().into_iter().collect(),
            annotations: pod.annotations.clone().into_iter().collect(),
            spec_hash: pod.spec_hash.clone(),
        };
        unexpected.map(run).collect()
    }

    /// Digest over what is assigned; what is unexpected or forgotten is not.
    pub fn digest(&self) -> String {
        let assigned = self.pods.values().filter(|p| !p.unexpected && !p.forgotten);
        digest::assignments(assigned.map(|p| digest::Item {
            uid: &p.uid,
            spec_hash: &p.spec_hash,
            marks: digest::marks(&p.labels, &p.annotations),
            stop: p.stop.as_ref().map(|s| s.grace_seconds),
        }))
    }
}

#[cfg(test)]
#[path = "ledger/accept_tests.rs"]
mod accept_tests;

#[cfg(test)]
#[path = "ledger/disk_tests.rs"]
mod disk_tests;
