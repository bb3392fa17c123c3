//! Lost nodes: which of them are given up, so that their pods are started elsewhere, and when; which pods that
//! concerns; the brake and the freeze. The first is planned here, as one group for the fleet; `replicas` and `gc` ask
//! for the rest, pod by pod.
//!
//! A node is given up by a record of its own, before any pod of it is replaced. So the brake counts records, and what
//! it counts does not go when the pods of a node that is back have ended.
//!
//! Invariant: pure. A node is lost when its agent is not heard. Where Docker does not answer or two agents claim the
//! identity, agents are heard, and what runs is known to run on: such a node is not lost.

mod brake;

use std::time::Duration;

pub use brake::{Pause, brake, braking, frozen, pause, stopped};
use proto::{
    capability,
    model::{EventType, Kind, Stay, Time, Toleration, taint},
};

use self::brake::Budget;
use super::{Draft, before, change::Change, pod_note};
use crate::{
    ca::audit::{AuditRecord, COORDINATOR},
    world::{Key, Lost, NodeState, PodState, Silence, World, settings},
};

/// Added to a pod's stop-after-disconnect: what its agent's clock may be off by, and what a stop takes.
pub const DISCONNECT_MARGIN: Duration = Duration::from_secs(10);

/// What becomes of a pod whose node is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may be replaced from then on.
    Replaced(Time),
    /// It stays, for this reason, which is worth saying from then on.
    Kept(Time, String),
    /// It stays, as its owner wrote.
    Tolerates,
}

/// Stored times have whole seconds; a part of one counts as one.
fn later(from: Time, by: Duration) -> Time {
    let seconds = i64::try_from(by.as_secs() + u64::from(by.subsec_nanos() > 0)).unwrap_or(i64::MAX);
    Time(from.0.saturating_add(seconds))
}

/// What becomes of a pod of a node that is lost as `lost` says.
pub fn fate(world: &World, pod: &PodState, lost: Lost) -> Fate {
    // It is of its node: started elsewhere it would be of no use.
    if pod.is_daemon() {
        return Fate::Tolerates;
    }
    let default = match lost.why {
        Silence::Unreachable => world.settings.time(&settings::REPLACE_UNREACHABLE_AFTER),
        Silence::AgentDown => world.settings.time(&settings::REPLACE_AGENT_DOWN_AFTER),
    };
    let tolerations = &pod.template_record().spec.tolerations;
    let after = match Toleration::toleration_seconds(tolerations, taint::UNREACHABLE) {
        None => default,
        Some(Stay::Seconds(seconds)) => Duration::from_secs(seconds),
        Some(Stay::Forever) => return Fate::Tolerates,
    };
    let at = later(lost.since, after);
    let node = &pod.record.node;
    if pod.record.owner.is_none() {
        return Fate::Kept(at, "it is not replaced: it has no controller".into());
    }
    if let Some(volume) = pod.bound_by_data() {
        let words = format!(
            "it is not replaced: its data in volume {volume} are on {node}; bring that back, or give them up: annotate the pod wharfinger.io/local-data=discard"
        );
        return Fate::Kept(at, words);
    }
    if !pod.loss_policy().singleton {
        return Fate::Replaced(at);
    }
    match surely_over(world, pod, lost) {
        Some(over) => Fate::Replaced(at.max(over)),
        None => Fate::Kept(
            at,
            format!(
                "it is not replaced: it is a singleton and may still run on {node}; bring that back, or, if its host is off: wharf node confirm-off {node}"
            ),
        ),
    }
}

/// From when on a pod that nobody hears of has ended, by its own stop-after-disconnect. Its agent must see to that:
/// where the agent itself has ended, or is too old to know of it, nothing is sure.
fn surely_over(world: &World, pod: &PodState, lost: Lost) -> Option<Time> {
    let limit = pod.loss_policy().stop_after_disconnect?;
    let node = world.nodes.get(&pod.record.node)?;
    let unheard = lost.why == Silence::Unreachable && node.can(capability::STOP_AFTER_DISCONNECT);
    // The node was last heard at the latest within the second that is on record.
    unheard.then(|| later(Time(lost.since.0.saturating_add(1)), limit + DISCONNECT_MARGIN))
}

/// Whether the pod, which is being stopped, may still run beside the singleton that would follow it. `Err`: not from
/// then on.
pub fn may_run(world: &World, pod: &PodState, now: Time) -> Result<bool, Time> {
    if pod.ended() || pod.record.node.is_empty() {
        return Ok(false);
    }
    let lost = world.nodes.get(&pod.record.node).and_then(NodeState::lost);
    match lost.and_then(|lost| surely_over(world, pod, lost)) {
        Some(over) if over <= now => Ok(false),
        Some(over) => Err(over),
        None => Ok(true),
    }
}

/// What is to be done now about a live pod, with regard to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    Nothing,
    /// Replaced if there is room for its replacement.
    Replace,
    /// Its host is off: it has ended.
    Ended,
}

/// Decides it, and says in the pod's record why a lost pod stays.
pub(super) fn judge(world: &World, key: &Key, pod: &PodState, out: &mut Draft) -> Now {
    let Some(node) = world.nodes.get(&pod.record.node) else {
        return Now::Nothing;
    };
    if node.off.is_some() {
        return if pod.bound_by_data().is_some() {
            Now::Nothing
        } else {
            Now::Ended
        };
    }
    let Some(lost) = node.lost() else {
        // Of a node that is being drained `drain` says why it stays.
        if !pod.record.waiting.is_empty() && node.draining().is_none() {
            explain(key, pod, String::new(), out);
        }
        return Now::Nothing;
    };
    match fate(world, pod, lost) {
        Fate::Tolerates => {}
        Fate::Kept(at, words) if at <= out.now => explain(key, pod, words, out),
        Fate::Replaced(at) if at <= out.now => {
            // While it waits for the node's record, for the brake or the freeze, others will wake the group.
            if node.given_up() && allowed(world, out) {
                return Now::Replace;
            }
        }
        Fate::Kept(at, _) | Fate::Replaced(at) => out.wake_at(at),
    }
    Now::Nothing
}

/// Whether pods may be replaced at all now; where a time ends it, the plan wakes then.
fn allowed(world: &World, out: &mut Draft) -> bool {
    if out.now < out.no_loss_before {
        out.wake_at(out.no_loss_before);
        return false;
    }
    thawed(world, out) && stopped(world).is_none()
}

/// Whether nothing is frozen; where a time ends it, the plan wakes then. A freeze without an end is lifted by an
/// operator, which touches every group.
pub(super) fn thawed(world: &World, out: &mut Draft) -> bool {
    let Some(freeze) = frozen(world, out.now) else {
        return true;
    };
    if let Some(until) = freeze.until {
        out.wake_at(until);
    }
    false
}

/// Puts into the pod's record why it is not replaced, unless it is there.
pub(super) fn explain(key: &Key, pod: &PodState, words: String, out: &mut Draft) {
    if pod.record.waiting == words {
        return;
    }
    out.push(Change::Explain {
        pod: before(key, pod),
        waiting: words.clone(),
    });
    if !words.is_empty() {
        let note = pod_note(key, &pod.record.uid, "NotReplaced", words, EventType::Warning, out.now);
        out.note(note);
    }
}

/// When the first pod of the node may be replaced; none: never.
fn first_due(world: &World, name: &str, lost: Lost) -> Option<Time> {
    let live = world.pods_on(name).filter(|(_, p)| p.live());
    live.filter_map(|(_, pod)| match fate(world, pod, lost) {
        Fate::Replaced(at) => Some(at),
        Fate::Kept(..) | Fate::Tolerates => None,
    })
    .min()
}

/// Lost nodes that are not given up yet, with when they are due, the first first.
fn candidates(world: &World) -> Vec<(Time, &str)> {
    let mut found: Vec<_> = world
        .lost_nodes()
        .filter_map(|name| {
            let node = world.nodes.get(name).filter(|n| !n.given_up())?;
            let lost = node.lost()?;
            Some((first_due(world, name, lost)?, lost.since, name.as_str()))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(due, _, name)| (due, name)).collect()
}

/// Gives lost nodes up, as far as the brake lets it, and drops the records that count no more.
pub(super) fn plan(world: &World, out: &mut Draft) {
    let period = world.settings.time(&settings::BRAKE_PERIOD);
    for (name, loss) in world.losses() {
        let until = later(loss.value.at, period);
        let needed = world.nodes.get(name).is_some_and(|n| n.lost().is_some());
        if until > out.now {
            out.wake_at(until);
        } else if !needed {
            out.push(Change::RemoveLoss {
                node: name.clone(),
                rv: loss.rv,
            });
        }
    }
    let (due, coming): (Vec<_>, Vec<_>) = candidates(world).into_iter().partition(|(at, _)| *at <= out.now);
    if let Some((at, _)) = coming.first() {
        out.wake_at(*at);
    }
    if due.is_empty() || !allowed(world, out) {
        return;
    }
    let mut budget = Budget::new(world, out.now);
    for (_, name) in due {
        match budget.take(name) {
            Ok(()) => give_up(world, name, out),
            Err(at) => out.wake_at(at),
        }
    }
}

/// With the reason on record, for who asks later why pods moved.
fn give_up(world: &World, name: &str, out: &mut Draft) {
    let Some(node) = world.nodes.get(name) else { return };
    let Some(lost) = node.lost() else { return };
    let give_up = Change::GiveUp {
        node: name.to_owned(),
        at: out.now,
        before: node.loss.as_ref().map(|l| l.rv),
    };
    let at_ms = u64::try_from(out.now.0).unwrap_or_default().saturating_mul(1000);
    let object = format!("{}/{name}", Kind::Node.plural());
    let record = AuditRecord::new(
        at_ms,
        COORDINATOR,
        "give-up",
        object,
        "its pods may be started elsewhere",
    )
    .because(format!("it is {} since {}", lost.why.as_str(), lost.since));
    out.push_together(vec![give_up, Change::Record(record)]);
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
