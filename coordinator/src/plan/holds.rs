//! Releases the holds of a node whose time is over. Called by `plan` for each node with a hold that has an end.
//!
//! Invariant: a hold without an end, or one whose time is not over, stays as it is.

use proto::model::{EventType, NodeHold, Time, hold};
use serde_json::json;

use super::{Draft, Group, change::Change};
use crate::{
    ca::audit::{AuditRecord, COORDINATOR},
    events::Note,
    world::{NodeState, World, record::HoldsRecord},
};

/// Whether time alone will change the node's holds.
pub(super) fn ends(node: &NodeState) -> bool {
    node.holds().any(|h| h.expires.is_some())
}

pub(super) fn plan(world: &World, name: &str, out: &mut Draft) {
    let Some(holds) = world.nodes.get(name).and_then(|node| node.holds.as_ref()) else {
        return;
    };
    let left = left(&holds.value, out.now);
    for at in left.values().filter_map(|h| h.expires) {
        out.wake_at(at);
    }
    if left.len() == holds.value.len() {
        return;
    }
    let over: Vec<NodeHold> = holds.value.values().filter(|h| h.expired(out.now)).cloned().collect();
    let message = format!("{}: its time is over{}", hold::words(&over), outlook(&left));
    out.push(Change::ReleaseHolds {
        node: name.to_owned(),
        rv: holds.rv,
        at: out.now,
        left: left.clone(),
    });
    let at_ms = u64::try_from(out.now.0).unwrap_or_default().saturating_mul(1000);
    let record = AuditRecord::new(
        at_ms,
        COORDINATOR,
        "release-hold",
        format!("nodes/{name}"),
        hold::words(&over),
    )
    .because("its time is over")
    .about(Some(json!(&*holds.value)), Some(json!(left)));
    out.push(Change::Record(record));
    out.note(Note {
        involved: Group::Holds(name.to_owned()).reference(world),
        reason: "HoldExpired".to_owned(),
        message,
        kind: EventType::Normal,
        component: "holds",
        host: String::new(),
        at: out.now,
    });
}

/// Those whose time is not over.
pub(super) fn left(holds: &HoldsRecord, now: Time) -> HoldsRecord {
    let mut left = holds.clone();
    left.retain(|_, hold| !hold.expired(now));
    left
}

fn outlook(left: &HoldsRecord) -> String {
    if left.is_empty() {
        "; the node takes new pods again".to_owned()
    } else {
        format!("; still held: {}", hold::words(left.values()))
    }
}

#[cfg(test)]
#[path = "holds_tests.rs"]
mod tests;
