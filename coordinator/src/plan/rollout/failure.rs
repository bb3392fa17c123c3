//! Whether the pods that an update brings have come to nothing. Called by the module above.
//!
//! Invariant: pure; a step that may still get further within its time has not failed.

use proto::model::Time;

use super::Entry;
use crate::{
    plan::{
        disruption::Refusal,
        drain::{failure, moves},
    },
    world::{Key, PodState, World, updates::UpdateRecord},
};

/// Why this pod will not come to serve; none: it may. An old one that a rollback meets has served, and may have ended often
/// in its life: what ails it is for its controller, and for the time of the step.
pub(super) fn failed(update: &UpdateRecord, key: &Key, pod: &PodState) -> Option<String> {
    if update.back && pod.record.created <= update.since {
        return None;
    }
    failure::exits(pod).map(|exits| format!("{} {exits}", key.1))
}

/// Until when the present step is to get further: its time runs from the last change of a count, or from when the last
/// pod became Ready.
pub(super) fn given_until(world: &World, update: &UpdateRecord, comes: &[Entry<'_>]) -> Time {
    let ready = comes.iter().filter_map(|(_, pod)| moves::available_from(world, pod));
    let last = ready.max().map_or(update.progressed, |at| at.max(update.progressed));
    Time(last.0.saturating_add(i64::from(update.limits.timeout)))
}

/// A step whose time is over. `refused`: what the ledger said last.
pub(super) fn stuck(update: &UpdateRecord, missing: &[Entry<'_>], refused: Option<&Refusal>) -> String {
    let waited = format!("the step got no further for {} s", update.limits.timeout);
    match missing.first() {
        Some((key, pod)) if pod.record.node.is_empty() => {
            format!("{waited}: {} has no place: {}", key.1, pod.record.waiting)
        }
        Some((key, pod)) => format!("{waited}: {} is not Ready{}", key.1, failure::waits(pod)),
        None => refused.map_or_else(|| waited.clone(), |r| format!("{waited}: {}", r.rule)),
    }
}
