//! What becomes of a node's holds when one who may asks for it, and the changes that store it. Called by `holds` for
//! its own requests, by `revise` for `spec.unschedulable`.
//!
//! Invariant: pure. Who asks changes his own hold only, unless he says that he means another's; a maintenance's and a
//! drain's are never released here.

use std::collections::BTreeSet;

use proto::model::{HoldKind, Kind, Node, NodeHold, Time, labels::quoted};

use super::errors::ApiError;
use crate::{
    store::{Change, Expect, keys},
    world::{
        NodeState,
        record::{HoldsRecord, encode},
    },
};

/// Longest reason, characters.
const MAX_REASON: usize = 256;

/// Longest life of a hold that has an end: ten years, ms.
const MAX_LIFE_MS: u64 = 10 * 365 * 24 * 3_600_000;

/// One request about the holds of a node.
#[derive(Clone, Debug)]
pub enum Asked {
    /// The caller's hold of this kind is there, so described.
    Hold {
        kind: HoldKind,
        reason: String,
        expires: Option<Time>,
    },
    /// The caller's cordon is there, with whatever words.
    Cordoned,
    /// The caller's cordon is not there, or nobody's.
    Uncordoned { all_owners: bool },
    /// This hold is not there. Empty: the caller's own for automation.
    Released { id: String, any_owner: bool },
}

impl Asked {
    /// A hold as it came from outside. Errors: INVALID_ARGUMENT.
    pub fn hold(kind: HoldKind, reason: &str, for_ms: u64, now: Time) -> Result<Self, ApiError> {
        let reason = reason.trim();
        let length = reason.chars().count();
        if length > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(ApiError::BadRequest(format!(
                "reason: one line of at most {MAX_REASON} characters, e.g. \"RAM swap\"; it has {length}"
            )));
        }
        if reason.is_empty() && kind != HoldKind::Cordon {
            return Err(ApiError::BadRequest(
                "reason: required; say in some words what holds the node, e.g. \"disk is failing\"".into(),
            ));
        }
        if for_ms > MAX_LIFE_MS {
            return Err(ApiError::BadRequest(
                "for_ms: a hold ends within ten years, or never when it is left out".into(),
            ));
        }
        // Stored times have whole seconds; none ends too early. It fits: see above.
        let seconds = i64::try_from(for_ms.div_ceil(1000)).unwrap_or(i64::MAX);
        Ok(Self::Hold {
            kind,
            reason: reason.to_owned(),
            expires: (for_ms > 0).then(|| Time(now.0.saturating_add(seconds))),
        })
    }

    /// The holds of `node` as they shall be. Errors: as of `Holds.Release`.
    pub fn decide(&self, node: &NodeState, caller: &str, now: Time) -> Result<HoldsRecord, ApiError> {
        let mut next = present(node);
        match self {
            Self::Hold { kind, reason, expires } => {
                let mut hold = NodeHold {
                    kind: *kind,
                    owner: caller.to_owned(),
                    reason: reason.clone(),
                    since: now,
                    expires: *expires,
                };
                if let Some(before) = next.get(&hold.id()) {
                    hold.since = before.since;
                    if hold.reason.is_empty() {
                        hold.reason.clone_from(&before.reason);
                    }
                }
                next.insert(hold.id(), hold);
            }
            Self::Cordoned => {
                let hold = NodeHold {
                    kind: HoldKind::Cordon,
                    owner: caller.to_owned(),
                    reason: String::new(),
                    since: now,
                    expires: None,
                };
                next.entry(hold.id()).or_insert(hold);
            }
            Self::Uncordoned { all_owners } => {
                next.retain(|_, hold| hold.kind != HoldKind::Cordon || !(*all_owners || hold.owner == caller));
            }
            Self::Released { id, any_owner } => release(node, &mut next, id, *any_owner, caller)?,
        }
        Ok(next)
    }
}

fn release(node: &NodeState, holds: &mut HoldsRecord, id: &str, any_owner: bool, caller: &str) -> Result<(), ApiError> {
    let name = &node.node.metadata.name;
    let own = |kind: HoldKind| format!("{}/{caller}", kind.as_str());
    let id = if id.is_empty() {
        own(HoldKind::Automation)
    } else {
        id.to_owned()
    };
    let Some(hold) = holds.get(&id) else {
        // Whoever repeats the release of his own finds it done.
        if [own(HoldKind::Automation), own(HoldKind::Cordon)].contains(&id) {
            return Ok(());
        }
        let ids: Vec<&str> = holds.keys().map(String::as_str).collect();
        let there = if ids.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", ids.join(", "))
        };
        return Err(ApiError::Gone(format!(
            "nodes {}: no hold {}; {there}",
            quoted(name),
            quoted(&id)
        )));
    };
    let ended_by = match hold.kind {
        HoldKind::Maintenance => Some(format!("wharf maintenance cancel {}", hold.owner)),
        HoldKind::Drain => Some(format!("wharf drain {name} --cancel")),
        HoldKind::Cordon | HoldKind::Automation => None,
    };
    if let Some(command) = ended_by {
        let what = format!("its hold {id} goes with what made it: {command}");
        return Err(ApiError::in_use(Kind::Node, name, what));
    }
    if hold.owner != caller && !any_owner {
        return Err(ApiError::NotYours {
            kind: Kind::Node,
            name: name.clone(),
            what: format!(
                "its hold {id} is {}'s; give --any-owner to release it all the same",
                hold.owner
            ),
        });
    }
    holds.remove(&id);
    Ok(())
}

/// The holds that it has.
pub fn present(node: &NodeState) -> HoldsRecord {
    node.holds
        .as_ref()
        .map(|h| HoldsRecord::clone(&h.value))
        .unwrap_or_default()
}

/// The changes that store the node's own record as `stored` and its holds as `next`, each where it differs. The
/// record goes with the first write of the holds: its version says that the node is still there, and the mark goes by
/// which an earlier release cordoned it.
pub fn changes(node: &NodeState, mut stored: Node, next: &HoldsRecord) -> Vec<Change> {
    let name = &node.node.metadata.name;
    let held = present(node) != *next;
    let first = held && node.holds_expected() == Expect::Absent;
    stored.spec.unschedulable = node.node.spec.unschedulable && !first;
    let mut changes = Vec::new();
    if first || stored != *node.node {
        let key = keys::object(Kind::Node, "", name);
        changes.push(Change::put(key, Expect::At(node.rv), encode(&stored)));
    }
    if held {
        changes.push(Change::put(keys::holds(name), node.holds_expected(), encode(next)));
    }
    changes
}

/// What changed, for the audit record.
pub fn detail(before: &HoldsRecord, after: &HoldsRecord) -> String {
    let ids: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let words: Vec<String> = ids
        .into_iter()
        .filter_map(|id| match (before.get(id), after.get(id)) {
            (None, Some(hold)) => Some(format!("made: {}", told(hold))),
            (Some(hold), None) => Some(format!("released: {}", told(hold))),
            (Some(old), Some(new)) if old != new => Some(format!("changed: {}", told(new))),
            _ => None,
        })
        .collect();
    words.join("; ")
}

fn told(hold: &NodeHold) -> String {
    match hold.expires {
        Some(at) => format!("{hold} (until {at})"),
        None => hold.to_string(),
    }
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
