//! What a restore leaves in the store: that it awaits an operator's word, which histories this one goes on from, and the
//! pods that agents run and this history does not know. Read by `session`, `control`, `api` and `ca`.
//!
//! Invariant: while a restore is not accepted nothing is decided and no agent is told anything; an orphan is neither
//! stopped nor forgotten but by an operator's word.

use std::collections::BTreeMap;

use proto::model::Time;
use serde::{Deserialize, Serialize};

use super::{Versioned, World};
use crate::store::Rv;

/// `meta/restored`: stays when it is accepted, for agents that come later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoredRecord {
    /// When it was restored, and when the backup was taken; milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub taken_at_ms: u64,
    /// The histories that this one goes on from, the oldest first.
    pub from: Vec<Former>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
}

/// A history that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Former {
    pub incarnation: String,
    /// Its last version that is known here.
    pub newest: Rv,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// Certificate identity.
    pub by: String,
    pub at_ms: u64,
}

/// `orphan/<uid>`: a pod that an agent runs and that is not on record; written by session and api.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OrphanRecord {
    pub node: String,
    pub namespace: String,
    pub name: String,
    pub found: Time,
    /// What its agent keeps running; none: it has not told yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<OrphanRun>,
    /// An operator decided that it is to be stopped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub delete: bool,
}

/// As its agent was told to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OrphanRun {
    /// Canonical JSON of the spec.
    pub spec: String,
    pub spec_hash: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl World {
    /// A restore awaits an operator's word.
    pub fn restore_pending(&self) -> bool {
        self.restored.as_ref().is_some_and(|r| r.value.accepted.is_none())
    }

    /// The history that this one goes on from, by an operator's word.
    pub fn former(&self, incarnation: &str) -> Option<&Former> {
        let record = self.restored.as_ref().filter(|r| r.value.accepted.is_some())?;
        record.value.from.iter().find(|f| f.incarnation == incarnation)
    }

    /// Incarnations whose agents may take this one for theirs; none before an operator's word.
    pub fn replaces(&self) -> Vec<String> {
        let record = self.restored.as_ref().filter(|r| r.value.accepted.is_some());
        let from = record.iter().flat_map(|r| &r.value.from);
        from.map(|f| f.incarnation.clone()).collect()
    }

    /// Of a node, by uid.
    pub fn orphans_on<'w>(&'w self, node: &str) -> impl Iterator<Item = (&'w String, &'w Versioned<OrphanRecord>)> {
        self.orphans.iter().filter(move |(_, o)| o.value.node == node)
    }

    /// An orphan of this node.
    pub fn is_orphan(&self, uid: &str, node: &str) -> bool {
        self.orphans.get(uid).is_some_and(|o| o.value.node == node)
    }
}
