//! Pods that leave their node because of a NoExecute taint. Called by `replicas` and `gc` for the pods of their
//! groups, and by `dirty` to find who must be looked at.
//!
//! Invariant: a pod that tolerates the taint for ever stays; one that tolerates it for a time has that time, from
//! when both the taint and the pod were there; while the cluster is frozen or the brake on replacements is on nobody
//! leaves, but for daemons, which the brake is not about.

use proto::model::{EventType, Stay, Taint, TaintEffect, Time, Toleration};

use super::{Draft, gc, health, pod_note};
use crate::world::{Key, NodeState, PodState, World};

fn expelling(node: &NodeState) -> impl Iterator<Item = &Taint> {
    let taints = node.node.spec.taints.iter();
    taints.filter(|t| t.effect == TaintEffect::NoExecute)
}

/// Whether the node has a taint that takes pods from it.
pub(super) fn expels(node: &NodeState) -> bool {
    expelling(node).next().is_some()
}

/// When the pod has to leave its node, and for which taint. None: it stays, as things are.
pub(super) fn due<'w>(node: &'w NodeState, pod: &PodState) -> Option<(Time, &'w Taint)> {
    if !expels(node) || !pod.live() {
        return None;
    }
    let tolerations = &pod.template.as_ref()?.record.spec.tolerations;
    let started = pod.status.as_ref().and_then(|s| s.value.status.start_time);
    expelling(node)
        .filter_map(|taint| {
            let added = taint.time_added.unwrap_or_default();
            let at = match Toleration::stay(tolerations, taint) {
                None => added,
                Some(Stay::Forever) => return None,
                // Its time begins when it has started; its agent's word of that brings it back here.
                Some(Stay::Seconds(seconds)) => {
                    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                    Time(added.max(started?).0.saturating_add(seconds))
                }
            };
            Some((at, taint))
        })
        .min_by_key(|(at, _)| *at)
}

/// Stops the pod if it has to leave; says whether it did. Comes back when a time is over.
pub(super) fn evict(world: &World, key: &Key, pod: &PodState, out: &mut Draft) -> bool {
    let name = &pod.record.node;
    let Some((at, taint)) = world.nodes.get(name).and_then(|node| due(node, pod)) else {
        return false;
    };
    if at > out.now {
        out.wake_at(at);
        return false;
    }
    if !health::thawed(world, out) {
        return false;
    }
    // What is lost elsewhere says nothing of what is to run on this node.
    if let Some(brake) = health::braking(world, out.now).filter(|_| !pod.is_daemon()) {
        // Else it ends when nodes come back or a setting changes, which `dirty` notices.
        if let Some(until) = brake.until {
            out.wake_at(until);
        }
        return false;
    }
    let reason = format!("node {name} has taint {taint}");
    gc::stop(key, pod, &reason, out);
    let note = pod_note(
        key,
        &pod.record.uid,
        "TaintEviction",
        format!("{reason}: stopped here"),
        EventType::Warning,
        out.now,
    );
    out.note(note);
    true
}

#[cfg(test)]
#[path = "evict_tests.rs"]
mod tests;
