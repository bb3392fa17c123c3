//! What is removed: stopped pods, pods whose owner is gone, namespaces with all in them, and what is kept
//! for a time only. Called by `plan` for the groups without a controller, and by `replicas` for a
//! controller's own pods.
//!
//! Invariant: the record of a placed pod goes only after its agent has seen every container end, or when its host
//! joined again without it, or when its node is deleted or its host confirmed off and nothing is left of that; an
//! unknown end is waited for.

use std::collections::{BTreeMap, HashMap, HashSet};

use proto::model::{EventType, ObjectReference, PodSpec, Time};

use super::{
    Draft, Group, Keep, before,
    change::Change,
    drain::moves,
    evict, health, pod_note, replicas,
    scheduler::{self, Placed},
};
use crate::{
    ca::audit::{AuditRecord, COORDINATOR},
    events::Note,
    store::keys,
    world::{
        Key, PodState, World,
        record::{FreezeRecord, OwnerKind},
    },
};

/// Why a pod is stopped whose node was deleted.
pub(super) const NODE_DELETED: &str = "its node was deleted";

/// Entries of a namespace.
pub(super) fn range<'a, V>(map: &'a BTreeMap<Key, V>, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a V)> {
    map.range((namespace.to_owned(), String::new())..)
        .take_while(move |(k, _)| k.0 == namespace)
}

/// Nothing of the pod runs or ever will, so that its record can go.
pub(super) fn removable(world: &World, pod: &PodState) -> bool {
    if pod.record.node.is_empty() {
        return pod.stopping();
    }
    let confirmed = pod.stopping() && pod.status.as_ref().is_some_and(|s| s.value.stopped);
    confirmed || pod.vanished() || node_is_over(world, pod) || (pod.stopping() && host_is_off(world, pod))
}

/// The pod's node was deleted, and its agent has nothing left or will not come back.
fn node_is_over(world: &World, pod: &PodState) -> bool {
    !world.nodes.contains_key(&pod.record.node) && !world.deserted(pod)
}

/// An operator said that the host is off, so that nothing runs there.
pub(super) fn host_is_off(world: &World, pod: &PodState) -> bool {
    world.nodes.get(&pod.record.node).is_some_and(|n| n.off.is_some())
}

/// Removes the record, and says so when that is the node's doing.
pub(super) fn remove(world: &World, key: &Key, pod: &PodState, out: &mut Draft) {
    out.push(Change::RemovePod { pod: before(key, pod) });
    let node = &pod.record.node;
    let (reason, message) = if !node.is_empty() && node_is_over(world, pod) {
        ("NodeDeleted", format!("node {node} was deleted"))
    } else if pod.vanished() {
        (
            "HostReplaced",
            format!("the host of node {node} joined again without it"),
        )
    } else {
        return;
    };
    let note = pod_note(key, &pod.record.uid, reason, message, EventType::Warning, out.now);
    out.note(note);
}

pub(super) fn stop(key: &Key, pod: &PodState, reason: &str, out: &mut Draft) {
    out.push(stop_of(key, pod, reason, false, out.now));
}

/// The stop of a pod; `lost`: of one whose node is not heard.
pub(super) fn stop_of(key: &Key, pod: &PodState, reason: &str, lost: bool, now: Time) -> Change {
    let grace = pod
        .template
        .as_ref()
        .map_or(PodSpec::DEFAULT_GRACE_SECONDS, |t| t.record.spec.grace_seconds());
    Change::Stop {
        pod: before(key, pod),
        at: now,
        grace: u32::try_from(grace.max(0)).unwrap_or(u32::MAX),
        reason: reason.to_owned(),
        lost,
        drain: None,
    }
}

/// Why a pod is stopped whose host is off.
pub(super) fn off_words(node: &str) -> String {
    format!("the host of node {node} was confirmed off")
}

/// Ends a pod: at once where nothing runs, else by a stop.
fn end(world: &World, key: &Key, pod: &PodState, reason: &str, out: &mut Draft) {
    if removable(world, pod) || pod.record.node.is_empty() {
        remove(world, key, pod, out);
    } else if !pod.stopping() {
        stop(key, pod, reason, out);
    }
}

/// A pod without an owner: placed when it waits, removed when it has ended.
pub(super) fn bare(world: &World, key: &Key, seed: u64, placed: &mut Placed, out: &mut Draft) {
    // It may have come to another group since it was marked.
    let Some(pod) = world
        .pods
        .get(key)
        .filter(|p| Group::of_pod(world, key, p) == Group::Pod(key.clone()))
    else {
        return;
    };
    // What a controller is about to adopt is for that to look after.
    let ours = replicas::adopter(world, key, pod).is_none();
    if removable(world, pod) {
        remove(world, key, pod, out);
    } else if world.deserted(pod) && !pod.stopping() {
        stop(key, pod, NODE_DELETED, out);
    } else if ours && pod.record.node.is_empty() {
        scheduler::place(world, &[(key, pod)], &mut HashMap::new(), seed, placed, out);
    } else if ours && !evict::evict(world, key, pod, out) && pod.live() {
        // Of one that stays: what is said of a pod is written into the record that a stop changes, too.
        if health::judge(world, key, pod, out) == health::Now::Ended {
            out.push(stop_of(key, pod, &off_words(&pod.record.node), true, out.now));
        } else {
            moves::alone(world, key, pod, out);
        }
    }
}

/// Pods whose controller was deleted.
pub(super) fn orphans(world: &World, uid: &str, out: &mut Draft) {
    if world.owner_exists(uid) {
        return;
    }
    for (key, pod) in world.pods_of(uid).filter(|(k, _)| !world.terminating(&k.0)) {
        end(world, key, pod, "its controller was deleted", out);
    }
}

/// Empties a namespace that is being deleted, then removes it.
pub(super) fn namespace(world: &World, name: &str, keep: Keep, out: &mut Draft) {
    let Some(namespace) = world.namespaces.get(name).filter(|_| world.terminating(name)) else {
        return;
    };
    // The api refuses to delete it; a mark made in another way must not empty it.
    if name == "default" {
        return;
    }
    let mut empty = true;
    for (key, controller) in range(&world.controllers, name) {
        empty = false;
        out.push(Change::RemoveController {
            kind: OwnerKind::ReplicationController,
            key: key.clone(),
            rv: controller.rv,
        });
    }
    for (key, budget) in range(&world.budgets, name) {
        empty = false;
        out.push(Change::RemoveBudget {
            key: key.clone(),
            rv: budget.rv,
        });
    }
    for (key, update) in range(&world.updates, name) {
        empty = false;
        out.push(Change::RemoveUpdate {
            key: key.clone(),
            rv: update.rv,
        });
    }
    for (key, revisions) in range(&world.revisions, name) {
        empty = false;
        out.push(Change::RemoveRevisions {
            key: key.clone(),
            rv: revisions.rv,
        });
    }
    for (key, set) in range(&world.daemon_sets, name) {
        empty = false;
        out.push(Change::RemoveController {
            kind: OwnerKind::DaemonSet,
            key: key.clone(),
            rv: set.rv,
        });
    }
    for (key, pod) in range(&world.pods, name) {
        empty = false;
        end(world, key, pod, "its namespace was deleted", out);
    }
    // While pods end there are new events.
    if !empty {
        return;
    }
    for (key, event) in range(&world.events, name) {
        empty = false;
        out.push(Change::RemoveEvent {
            key: key.clone(),
            rv: event.rv,
        });
    }
    if !empty {
        return;
    }
    let since = namespace.value.metadata.deletion_timestamp.unwrap_or_default();
    if out.now.since(since) < keep.namespace_settle_seconds {
        let settle = i64::try_from(keep.namespace_settle_seconds).unwrap_or(i64::MAX);
        out.wake_at(Time(since.0.saturating_add(settle)));
        return;
    }
    out.push(Change::RemoveNamespace {
        name: name.to_owned(),
        rv: namespace.rv,
    });
}

/// Ends a freeze whose time is over.
pub(super) fn freeze(world: &World, out: &mut Draft) {
    let Some(freeze) = &world.freeze else { return };
    let Some(until) = freeze.value.until else { return };
    if until > out.now {
        out.wake_at(until);
        return;
    }
    let FreezeRecord { by, reason, since, .. } = &*freeze.value;
    out.push(Change::Unfreeze { rv: freeze.rv });
    let at_ms = u64::try_from(out.now.0).unwrap_or_default().saturating_mul(1000);
    let record = AuditRecord::new(at_ms, COORDINATOR, "unfreeze", keys::FREEZE, "")
        .because(format!("its time was over at {until}"))
        .about(Some(serde_json::json!(&*freeze.value)), None);
    out.push(Change::Record(record));
    out.note(Note {
        involved: ObjectReference::default(),
        reason: "Unfrozen".to_owned(),
        message: format!("the freeze by {by} since {since} ended at its time: {reason}"),
        kind: EventType::Normal,
        component: "planner",
        host: String::new(),
        at: out.now,
    });
}

/// What is kept for a time only. Planned alone, with no other commit under way: no pod that is just being
/// created can be made from a template that goes.
pub(super) fn expiry(world: &World, keep: Keep, out: &mut Draft) {
    templates(world, out);
    events(world, keep, out);
    for (id, op) in &world.ops {
        if out.now.since(op.value.at) > keep.op_seconds {
            out.push(Change::RemoveOp {
                id: id.clone(),
                rv: op.rv,
            });
        }
    }
    for (node, tombstone) in &world.tombstones {
        if out.now.since(tombstone.value.at) > keep.tombstone_seconds {
            out.push(Change::RemoveTombstone {
                node: node.clone(),
                rv: tombstone.rv,
            });
        }
    }
    for (key, update) in &world.updates {
        let over = update
            .value
            .ended
            .is_some_and(|e| out.now.since(e.at) > keep.op_seconds);
        let sides = [&update.value.old, &update.value.new];
        if over || sides.iter().all(|uid| world.controller_by_uid(uid).is_none()) {
            out.push(Change::RemoveUpdate {
                key: key.clone(),
                rv: update.rv,
            });
        }
    }
    for (key, revisions) in world
        .revisions
        .iter()
        .filter(|(key, _)| !world.controllers.contains_key(*key))
    {
        out.push(Change::RemoveRevisions {
            key: key.clone(),
            rv: revisions.rv,
        });
    }
    for (key, rv) in world.stray_statuses() {
        out.push(Change::RemoveStatus { key: key.clone(), rv });
    }
    for (key, rv) in world.stray_unplaced() {
        out.push(Change::RemoveUnplaced { key: key.clone(), rv });
    }
}

fn templates(world: &World, out: &mut Draft) {
    let mut unused: Vec<_> = world
        .templates
        .iter()
        .filter(|(h, _)| !world.template_used(h))
        .collect();
    if unused.is_empty() {
        return;
    }
    let current: HashSet<String> = world
        .controllers
        .values()
        .map(|c| replicas::template_of(&c.rc).encode().0)
        .chain(world.daemon_sets.values().map(|s| s.hash.clone()))
        .collect();
    unused.retain(|(hash, _)| !current.contains(*hash));
    unused.sort_unstable_by(|a, b| a.0.cmp(b.0));
    for (hash, template) in unused {
        out.push(Change::RemoveTemplate {
            hash: hash.clone(),
            rv: template.rv,
        });
    }
}

fn events(world: &World, keep: Keep, out: &mut Draft) {
    let mut by_object: HashMap<&ObjectReference, Vec<(Time, &Key)>> = HashMap::new();
    let mut gone = Vec::new();
    for (key, event) in &world.events {
        let value = &event.value;
        let last = value.last_timestamp.or(value.first_timestamp).unwrap_or_default();
        if out.now.since(last) > keep.event_seconds {
            gone.push(key);
        } else {
            by_object.entry(&value.involved_object).or_default().push((last, key));
        }
    }
    for (_, mut events) in by_object {
        let surplus = events.len().saturating_sub(keep.events_per_object);
        if surplus > 0 {
            events.sort_unstable();
            gone.extend(events.iter().take(surplus).map(|(_, key)| *key));
        }
    }
    gone.sort_unstable();
    for key in gone {
        if let Some(event) = world.events.get(key) {
            out.push(Change::RemoveEvent {
                key: key.clone(),
                rv: event.rv,
            });
        }
    }
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
