//! What the store's values hold: compact records, JSON with short keys where there are many of them. Read by
//! `world`, written by `api`, `control`, `session` and `ca`, each its own kinds (see `store::keys`).
//!
//! Invariant: a pod's record stays within 300 bytes plus its label and annotation differences; its spec lies in
//! an immutable template that many pods share.

use std::collections::BTreeMap;

use proto::{
    ids,
    model::{Kind, NodeCondition, NodeHold, NodeStatus, ObjectMeta, PodSpec, PodStatus, PodTemplate, Time, Unmanaged},
    order::Stamp,
};
use serde::{Deserialize, Serialize};

/// `obj/pod/<ns>/<name>`; written by control (placement, stop) and api (create, labels and annotations, delete).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    #[serde(rename = "u")]
    pub uid: String,
    /// Hash of the template.
    #[serde(rename = "t")]
    pub template: String,
    #[serde(rename = "c")]
    pub created: Time,
    /// Empty: not placed yet. Never changes once set.
    #[serde(rename = "n", default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerRecord>,
    /// Label differences from the template.
    #[serde(rename = "l", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Differences,
    /// Annotation differences from the template.
    #[serde(rename = "a", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Differences,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopRecord>,
    /// Host ports given to it at placement, for those of the template's ports that ask for one, in their order.
    #[serde(rename = "p", default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// The pod in whose place it was started while that ran on.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<ReplacesRecord>,
    /// What became of pods that were started in its place.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureRecord>,
    /// Why it is not placed, not replaced while its node is lost, or does not leave a node that is being drained; for
    /// people.
    #[serde(rename = "w", default, skip_serializing_if = "String::is_empty")]
    pub waiting: String,
}

/// What a map has otherwise than a template's; `None`: removed.
pub type Differences = BTreeMap<String, Option<String>>;

/// The template's map with the differences.
pub fn overlaid(template: &BTreeMap<String, String>, differences: &Differences) -> BTreeMap<String, String> {
    let mut map = template.clone();
    for (key, value) in differences {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
    map
}

/// The differences with which the template's map becomes `wanted`.
pub fn differences(template: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Differences {
    let removed = template.keys().filter(|key| !wanted.contains_key(*key));
    let set = wanted.iter().filter(|(key, value)| template.get(*key) != Some(value));
    removed
        .map(|key| (key.clone(), None))
        .chain(set.map(|(key, value)| (key.clone(), Some(value.clone()))))
        .collect()
}

/// Controller that owns a pod; ownership is by `uid`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    #[serde(rename = "k", default, skip_serializing_if = "OwnerKind::is_controller")]
    pub kind: OwnerKind,
    #[serde(rename = "n")]
    pub name: String,
    #[serde(rename = "u")]
    pub uid: String,
}

/// What kind of controller it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnerKind {
    #[default]
    #[serde(rename = "rc")]
    ReplicationController,
    /// Its pods are of their nodes: they are never moved.
    #[serde(rename = "ds")]
    DaemonSet,
}

impl OwnerKind {
    pub fn kind(self) -> Kind {
        match self {
            Self::ReplicationController => Kind::ReplicationController,
            Self::DaemonSet => Kind::DaemonSet,
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives it by reference")]
    fn is_controller(&self) -> bool {
        *self == Self::ReplicationController
    }
}

/// Which pod a new one was started for, by a drain. Never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacesRecord {
    #[serde(rename = "m")]
    pub name: String,
    #[serde(rename = "u")]
    pub uid: String,
    /// The node that is being emptied.
    #[serde(rename = "n")]
    pub node: String,
    /// Id of the drain.
    #[serde(rename = "d")]
    pub drain: String,
}

/// Replacements that came to nothing, so that the pod stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// Id of the drain.
    #[serde(rename = "d")]
    pub drain: String,
    #[serde(rename = "c")]
    pub count: u32,
    /// The last of them, and why it failed.
    #[serde(rename = "w")]
    pub what: String,
    /// The next one is not started before.
    #[serde(rename = "r")]
    pub retry: Time,
}

/// The decision to stop a pod. Once written it is only ever made more urgent (a shorter grace).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecord {
    /// When it was decided.
    #[serde(rename = "t")]
    pub at: Time,
    /// Seconds from the stop signal to the kill.
    #[serde(rename = "g")]
    pub grace: u32,
    /// For people.
    #[serde(rename = "r")]
    pub reason: String,
    /// Its node was not heard: nobody knows whether it runs, and it was replaced.
    #[serde(rename = "l", default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Id of the drain that stops it while it serves.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
}

/// `template/<hash>`: what pods are made from; immutable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRecord {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub spec: PodSpec,
}

impl TemplateRecord {
    pub fn new(template: &PodTemplate) -> Self {
        Self::of(&template.metadata, &template.spec)
    }

    pub fn of(meta: &ObjectMeta, spec: &PodSpec) -> Self {
        Self {
            labels: meta.labels.clone(),
            annotations: meta.annotations.clone(),
            spec: spec.clone(),
        }
    }

    /// Its name in the store, and its value.
    pub fn encode(&self) -> (String, Vec<u8>) {
        let bytes = encode(self);
        (ids::content_hash(&bytes), bytes)
    }
}

/// `status/pod/<ns>/<name>`; written by ingest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// Pod that it is about; another uid's status is ignored.
    #[serde(rename = "u")]
    pub uid: String,
    /// Of the reporting agent's identity; see [`Claim::generation`].
    #[serde(rename = "g", default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    #[serde(rename = "e")]
    pub epoch: u64,
    #[serde(rename = "q")]
    pub seq: u64,
    #[serde(rename = "s")]
    pub status: PodStatus,
    /// The agent observed the exit of every container after a stop entry.
    #[serde(rename = "x", default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Its host joined again and has nothing of it: it is over, whether its stop was decided or not.
    #[serde(rename = "v", default, skip_serializing_if = "std::ops::Not::not")]
    pub vanished: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives it by reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl StatusRecord {
    pub fn stamp(&self) -> Stamp {
        Stamp {
            generation: self.generation,
            epoch: self.epoch,
            seq: self.seq,
        }
    }
}

/// `facts/node/<name>`; written by ingest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsRecord {
    /// Capacity, allocatable, addresses and node info; no conditions.
    pub status: NodeStatus,
    pub hostname: String,
    pub docker_ready: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_reason: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// What runs on its host and is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmanaged: Option<Unmanaged>,
}

/// One start of an agent, as it introduced itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claim {
    /// Of its identity, as the certificate registry counts: rises each time that the name is given to a host that
    /// joined, be it another node or the same one with a new disk. Never the agent's word.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// Rises with every start, from 1; 0: nobody yet.
    pub epoch: u64,
    /// Random for each start; empty: an older agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Host name, by its own word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Where its connection came from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
}

impl Claim {
    /// The same start of the same agent.
    pub fn same_start(&self, other: &Self) -> bool {
        (self.generation, self.epoch, &self.instance) == (other.generation, other.epoch, &other.instance)
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let or = |text: &str, other: &str| if text.is_empty() { other } else { text }.to_owned();
        write!(
            f,
            "instance {} (start {}) on host {} at {}",
            or(&self.instance, "unknown"),
            self.epoch,
            or(&self.host, "unknown"),
            or(&self.address, "an unknown address")
        )
    }
}

/// `holder/<node>`: which agent process holds the node's identity; written by sessions when it changes, vacant by ca
/// when a host joins under a name that was another's, and by api when the node is readmitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRecord {
    pub holder: Claim,
    /// Another one that claims to be it; set: both are in quarantine until an operator readmits the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<Rival>,
    /// The host came without what ran there before; which pods that ends is not on record yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsettled: bool,
}

impl HolderRecord {
    /// For the first agent of this generation that says Hello.
    pub fn vacant(generation: u64, unsettled: bool) -> Self {
        Self {
            holder: Claim {
                generation,
                ..Claim::default()
            },
            rival: None,
            unsettled,
        }
    }

    pub fn is_vacant(&self) -> bool {
        self.holder.epoch == 0
    }
}

/// The second holder of an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rival {
    pub claim: Claim,
    pub since: Time,
}

/// `tombstone/<node>`: a deleted node, while its agent may still run pods. Its certificates are those of `cert/<node>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombstoneRecord {
    /// Of the node object.
    pub uid: String,
    pub at: Time,
    /// An operator said that the host will not come back: the records of its pods wait for nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
}

/// `holds/<node>`: why a node takes no new pods, by [`NodeHold::id`]. Stays, empty, when all are released: a
/// version never goes back.
pub type HoldsRecord = BTreeMap<String, NodeHold>;

/// `off/<node>`: the host is off, and with it all that it ran; while it stands the node takes no pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffRecord {
    /// Certificate identity of who said so.
    pub by: String,
    pub at: Time,
}

/// `loss/<node>`: pods of the lost node may be replaced. Kept for a brake-period at least: the brake counts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LossRecord {
    pub at: Time,
}

/// `settings`: what is set, by name and as typed; what is not there has its default.
pub type SettingsRecord = BTreeMap<String, String>;

/// `freeze`: nothing is replaced, evicted, drained or updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FreezeRecord {
    /// Certificate identity.
    pub by: String,
    pub reason: String,
    pub since: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// `ready/node/<name>`; written by liveness.
pub type ReadyRecord = NodeCondition;

/// `op/<request id>`: result of a write, kept for a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpRecord {
    pub at: Time,
    /// Who asked; another caller's id is no repeat.
    pub caller: String,
    /// Hash of the request; the same id with another request is refused.
    pub request: String,
    /// Kind, namespace and name of what it made.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// What the answer said and the object no longer tells, e.g. the count before a scale.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result: String,
}

/// JSON of a record. Records have string keys and no failing serializers.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}
