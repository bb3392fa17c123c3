//! The record of a node's drain, and what the world keeps of drains. The record is written by `api` (a drain begins, is
//! taken back) and by `control` (what came of it); read by `plan::drain` and by the api.
//!
//! Invariant: a drain ends once. What it decided stays in the record until the node's next drain begins.

use proto::model::{HoldKind, Time};
use serde::{Deserialize, Serialize};

use super::{Key, NodeState, PodState, World};

/// `drain/<node>`: the node's present or last drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainRecord {
    /// Of this drain, not of the node: random.
    pub id: String,
    /// Certificate identity of who began it; owner of its hold.
    pub by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub since: Time,
    #[serde(flatten)]
    pub options: DrainOptions,
    /// Pods that were to leave when it began.
    #[serde(default)]
    pub total: u32,
    /// Since when budgets and floors are overridden: `onDeadline: force`. By control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<Time>,
    /// By control, or by api where an operator takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<DrainEnd>,
}

impl DrainRecord {
    /// Whether its deadline ends it.
    pub fn gives_up(&self, now: Time) -> bool {
        self.options.on_deadline == OnDeadline::Abort && now >= self.options.deadline
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainOptions {
    /// A point in time, so that no failover makes it later.
    pub deadline: Time,
    pub on_deadline: OnDeadline,
    /// Pods whose data in emptyDir or hostPath volumes would be left behind go all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discard_local_data: bool,
    /// Pods of DaemonSets are stopped too, last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_daemons: bool,
    /// Pods that nothing replaces are stopped too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delete_unmanaged: bool,
    /// Where no replacement can run beside a pod, that is stopped first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_downtime: bool,
}

/// What happens to a drain that is not over at its deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnDeadline {
    /// It goes on, and says so.
    #[default]
    Block,
    /// It ends and releases its hold; what has moved stays where it is.
    Abort,
    /// It goes on over budgets and floors; grace periods and local data stay respected.
    Force,
}

impl OnDeadline {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Abort => "abort",
            Self::Force => "force",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainEnd {
    pub at: Time,
    pub how: DrainOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DrainOutcome {
    /// The node is empty and what replaced its pods is Ready; it stays held until the drain is taken back.
    Drained,
    /// Its deadline passed; the hold is released.
    Aborted,
    /// Taken back by an operator; the hold is released.
    Cancelled,
}

impl DrainOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Aborted => "aborted",
            Self::Cancelled => "cancelled",
        }
    }
}

impl NodeState {
    /// Its drain, while that goes on.
    pub fn draining(&self) -> Option<&DrainRecord> {
        self.drain.as_ref().map(|d| &*d.value).filter(|d| d.ended.is_none())
    }

    /// Its drain, while that goes on or has left the node empty and held.
    pub fn emptied(&self) -> Option<&DrainRecord> {
        let drain = self.drain.as_ref().map(|d| &*d.value)?;
        let stays = drain.ended.as_ref().is_none_or(|e| e.how == DrainOutcome::Drained);
        let held = self.holds().any(|h| h.kind == HoldKind::Drain);
        (stays && held).then_some(drain)
    }
}

impl World {
    /// Nodes being drained, by name.
    pub fn draining(&self) -> impl ExactSizeIterator<Item = &String> {
        self.draining.iter()
    }

    /// Whether this drain of the node goes on.
    pub fn drains(&self, node: &str, id: &str) -> bool {
        let drain = self.nodes.get(node).and_then(NodeState::draining);
        drain.is_some_and(|d| d.id == id)
    }

    /// The live pod that a drain, which goes on, started in the place of the one with this uid.
    pub fn replacement_of(&self, uid: &str) -> Option<(&Key, &PodState)> {
        let goes_on = |pod: &PodState| {
            let replaces = pod.record.replaces.as_ref();
            replaces.is_some_and(|r| self.drains(&r.node, &r.drain))
        };
        self.keyed(self.replacements.get(uid))
            .find(|(_, pod)| pod.live() && goes_on(pod))
    }

    /// Pods that were started in the place of pods of this node, by any of its drains, sorted by key.
    pub fn replacements_for<'a>(&'a self, node: &str) -> impl Iterator<Item = (&'a Key, &'a PodState)> {
        self.keyed(self.replacing.get(node))
    }
}
