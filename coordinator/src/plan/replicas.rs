//! Which pods a controller gains and loses. Called by `plan` for each controller that was touched.
//!
//! Invariant: pods belong to a controller by its uid (a selector only adopts ownerless pods, and lets go of pods whose
//! labels became others); what is
//! retired goes in the fixed order of [`retire_order`]; a new pod is born with its node in one write.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use proto::{
    ids::IdGen,
    model::{EventType, Phase, ReplicationController, loss::LossPolicy},
};

use super::{
    Draft, before,
    change::Change,
    evict::evict,
    gc, health, pod_note,
    scheduler::{self, Batch, Counts, Place, Placed, Pods},
};
use crate::{
    store::{MAX_CHANGES, Rv},
    world::{
        Key, NodeState, PodState, Template, World,
        record::{OwnerRecord, PodRecord, TemplateRecord},
    },
};

/// Finalizer that the api sets, with the deletion mark, on a controller whose pods shall live on.
pub const ORPHAN: &str = "orphan";

/// Most pods created in one plan: the world is locked while a plan is made.
const MAX_CREATED: usize = 4096;

/// What planners work on; a ReplicationController is one face of it.
pub struct ReplicaGroup<'w> {
    pub namespace: &'w str,
    pub owner: OwnerRecord,
    pub selector: &'w BTreeMap<String, String>,
    pub desired: usize,
}

impl<'w> ReplicaGroup<'w> {
    pub fn of(key: &'w Key, rc: &'w ReplicationController) -> Self {
        Self {
            namespace: &key.0,
            owner: OwnerRecord {
                name: key.1.clone(),
                uid: rc.metadata.uid.clone(),
            },
            selector: selector_of(rc),
            desired: usize::try_from(rc.spec.replicas).unwrap_or(0),
        }
    }
}

impl ReplicaGroup<'_> {
    fn selector_text(&self) -> String {
        let pairs = self.selector.iter().map(|(k, v)| format!("{k}={v}"));
        pairs.collect::<Vec<_>>().join(",")
    }
}

/// The template that the controller's new pods are made from.
pub fn template_of(rc: &ReplicationController) -> TemplateRecord {
    TemplateRecord::new(&rc.spec.template)
}

fn selector_of(rc: &ReplicationController) -> &BTreeMap<String, String> {
    if rc.spec.selector.is_empty() {
        &rc.spec.template.metadata.labels
    } else {
        &rc.spec.selector
    }
}

fn selects(rc: &ReplicationController, pod: &PodState) -> bool {
    let selector = selector_of(rc);
    // An empty selector adopts nothing rather than everything.
    !selector.is_empty() && selector.iter().all(|(k, v)| pod.label(k) == Some(v))
}

/// The controller that takes this pod over: the first by name of those that select it.
pub fn adopter<'w>(world: &'w World, key: &Key, pod: &PodState) -> Option<&'w Key> {
    if pod.record.owner.is_some() || !pod.live() || world.deserted(pod) || world.terminating(&key.0) {
        return None;
    }
    world
        .controllers
        .range((key.0.clone(), String::new())..)
        .take_while(|(k, _)| k.0 == key.0)
        .find(|(_, c)| c.rc.metadata.deletion_timestamp.is_none() && selects(&c.rc, pod))
        .map(|(k, _)| k)
}

pub(super) fn plan(world: &World, key: &Key, seed: u64, placed: &mut Placed, out: &mut Draft) {
    let Some((key, controller)) = world.controllers.get_key_value(key) else {
        return;
    };
    // Then all of it is the namespace's group.
    if world.terminating(&key.0) {
        return;
    }
    let rc = &*controller.rc;
    if rc.metadata.deletion_timestamp.is_some() {
        let orphan = rc.metadata.finalizers.iter().any(|f| f == ORPHAN);
        if !(orphan && release(world, &rc.metadata.uid, out)) {
            out.push(Change::RemoveController {
                key: key.clone(),
                rv: controller.rv,
            });
        }
        return;
    }
    let group = ReplicaGroup::of(key, rc);
    let mut live = Vec::new();
    // Pods on their way out whose place nobody may take yet.
    let mut awaited = 0;
    let singleton = LossPolicy::of(|k| rc.spec.template.metadata.annotations.get(k).map(String::as_str)).singleton;
    for (key, pod) in world.pods_of(&group.owner.uid) {
        if gc::removable(world, pod) {
            gc::remove(world, key, pod, out);
            continue;
        }
        let live_here = pod.live() && !world.deserted(pod);
        if live_here && !group.selector.is_empty() && !selects(rc, pod) {
            // Whoever made its labels others wants it out of here, to look at it or to give it to another controller.
            out.push(Change::Release { pod: before(key, pod) });
            let message = format!(
                "its labels do not match {}, the selector of replicationcontroller {}: released from it",
                group.selector_text(),
                group.owner.name
            );
            out.note(pod_note(
                key,
                &pod.record.uid,
                "Released",
                message,
                EventType::Normal,
                out.now,
            ));
            continue;
        }
        // One that a taint drives out counts no longer, so that its place is filled at once.
        let evicted = live_here && evict(world, key, pod, out);
        if live_here && !evicted {
            // A pod on a node that is not heard still counts: the node may come back.
            live.push((key, pod));
            continue;
        }
        if !pod.stopping() && !evicted {
            if world.deserted(pod) {
                gc::stop(key, pod, gc::NODE_DELETED, out);
            } else if !health::thawed(world, out) {
                live.push((key, pod));
                continue;
            } else {
                gc::stop(key, pod, "it has ended and is replaced", out);
            }
        }
        // One that was replaced has its follower already.
        if (singleton || pod.loss_policy().singleton) && !pod.lost() {
            match health::may_run(world, pod, out.now) {
                Ok(may) => awaited += usize::from(may),
                Err(until) => {
                    awaited += 1;
                    out.wake_at(until);
                }
            }
        }
    }
    let adopted = adopt(world, key, rc, &group, out);
    // An adopted pod counts at once; placing or retiring it is for the plan after its adoption.
    let total = live.len() + adopted;
    if total > group.desired {
        let surplus = (total - group.desired).min(live.len());
        retire_order(world, &mut live);
        let reason = format!("its controller was scaled to {}", group.desired);
        for (key, pod) in live.drain(..surplus) {
            if pod.record.node.is_empty() {
                gc::remove(world, key, pod, out);
            } else {
                gc::stop(key, pod, &reason, out);
            }
        }
        live.sort_unstable_by_key(|(key, _)| *key);
    }
    let mut counts = Counts::new();
    for (_, pod) in live.iter().filter(|(_, p)| !p.record.node.is_empty()) {
        *counts.entry(&pod.record.node).or_default() += 1;
    }
    let waiting: Vec<_> = live.iter().copied().filter(|(_, p)| p.record.node.is_empty()).collect();
    scheduler::place(world, &waiting, &mut counts, seed, placed, out);
    let gone: Vec<_> = live
        .iter()
        .copied()
        .filter_map(|(key, pod)| match health::judge(world, key, pod, out) {
            health::Now::Nothing => None,
            what => Some((key, pod, what == health::Now::Ended)),
        })
        .collect();
    let missing = group.desired.saturating_sub(total + awaited);
    if missing + gone.len() > 0 {
        let wanted = Wanted { missing, gone: &gone };
        create(world, rc, &group, &wanted, &counts, seed, placed, out);
    }
}

/// The new pods that a controller needs.
struct Wanted<'a, 'w> {
    missing: usize,
    /// Pods to be replaced, their nodes being lost; true: whether there is room for the new one or not, for the
    /// host is off.
    gone: &'a [(&'w Key, &'w PodState, bool)],
}

/// Takes the controller's pods from it; false when there are none left.
fn release(world: &World, uid: &str, out: &mut Draft) -> bool {
    let mut any = false;
    for (key, pod) in world.pods_of(uid).filter(|(_, p)| !p.stopping()) {
        any = true;
        out.push(Change::Release { pod: before(key, pod) });
    }
    any
}

fn adopt(
    world: &World,
    controller: &Key,
    rc: &ReplicationController,
    group: &ReplicaGroup<'_>,
    out: &mut Draft,
) -> usize {
    let mut adopted = 0;
    for (key, pod) in world.bare_pods(group.namespace) {
        if selects(rc, pod) && adopter(world, key, pod) == Some(controller) && !gc::removable(world, pod) {
            adopted += 1;
            out.push(Change::Adopt {
                pod: before(key, pod),
                owner: group.owner.clone(),
            });
        }
    }
    adopted
}

/// Sorts the pods so that those to go first come first: unplaced, not running, on unready nodes, on nodes
/// that take no pods, not Ready, youngest; among equals the ones whose node has most of the group.
pub fn retire_order(world: &World, pods: &mut [(&Key, &PodState)]) {
    let rank = |pod: &PodState| {
        let node = world.nodes.get(&pod.record.node);
        (
            !pod.record.node.is_empty(),
            pod.phase() == Phase::Running,
            node.is_some_and(NodeState::is_ready),
            node.is_some_and(|n| n.held().is_none()),
            pod.ready(),
            Reverse(pod.record.created),
        )
    };
    // From the one kept longest on: each gets its number among those of its node.
    pods.sort_by_cached_key(|(key, pod)| Reverse((rank(pod), (*key).clone())));
    let mut per_node: HashMap<&str, u32> = HashMap::new();
    let numbers: HashMap<&str, u32> = pods
        .iter()
        .map(|(_, pod)| {
            let n = per_node.entry(&pod.record.node).or_default();
            *n += 1;
            (pod.record.uid.as_str(), *n)
        })
        .collect();
    pods.sort_by_cached_key(|(key, pod)| {
        let number = numbers.get(pod.record.uid.as_str()).copied().unwrap_or_default();
        (rank(pod), Reverse(number), (*key).clone())
    });
}

#[allow(clippy::too_many_arguments, reason = "one caller; what a batch needs")]
fn create(
    world: &World,
    rc: &ReplicationController,
    group: &ReplicaGroup<'_>,
    wanted: &Wanted<'_, '_>,
    counts: &Counts<'_>,
    seed: u64,
    placed: &mut Placed,
    out: &mut Draft,
) {
    let (hash, _) = template_of(rc).encode();
    let known = world.templates.get(&hash);
    let fresh;
    let (template, mut room) = if let Some(template) = known {
        (&**template, MAX_CREATED)
    } else {
        // One commit brings the template; the others follow once the world has it, so that no pod is ever
        // without.
        fresh = Template::new(Rv::default(), template_of(rc));
        out.cut();
        out.push(Change::PutTemplate {
            hash: hash.clone(),
            record: Arc::new(fresh.record.clone()),
        });
        (&fresh, MAX_CHANGES - 1)
    };
    let mut ids = IdGen::new(seed);
    let pods = Pods::new(group.namespace, template);
    let mut batch = Batch::new(world, pods, counts, placed, seed);
    let mut why = None;
    let missing = std::iter::repeat_n(None, wanted.missing);
    for replaced in missing.chain(wanted.gone.iter().map(Some)) {
        let weight = 1 + usize::from(replaced.is_some());
        if room < weight {
            break;
        }
        let place = if why.is_none() { batch.place(placed) } else { None };
        if place.is_none() {
            why.get_or_insert_with(|| batch.explain());
        }
        if let (Some((old, pod, false)), Some(why)) = (replaced, &why) {
            // What runs there perhaps is better than what waits here for sure.
            health::explain(old, pod, format!("it is not replaced: {why}"), out);
            continue;
        }
        room -= weight;
        let key = out.fresh_name(world, group.namespace, &group.owner.name, &mut ids);
        let (node, ports) = place.map_or((None, Vec::new()), |Place { node, ports }| (Some(node), ports));
        let record = PodRecord {
            uid: ids.uid(),
            template: hash.clone(),
            created: out.now,
            owner: Some(group.owner.clone()),
            node: node.unwrap_or_default().to_owned(),
            ports,
            waiting: why.clone().unwrap_or_default(),
            ..PodRecord::default()
        };
        let uid = record.uid.clone();
        let create = Change::CreatePod {
            key: key.clone(),
            record,
        };
        match replaced {
            None => out.push(create),
            Some((old, pod, off)) => replace(world, old, pod, *off, create, out),
        }
        match (node, &why) {
            (Some(node), _) => scheduler::scheduled(&key, &uid, node, out),
            (None, why) => scheduler::failed(&key, &uid, why.as_deref().unwrap_or_default(), out),
        }
    }
}

/// The end of a pod whose node is lost, with the one that takes its place.
fn replace(world: &World, key: &Key, pod: &PodState, off: bool, create: Change, out: &mut Draft) {
    let node = &pod.record.node;
    let reason = match world.nodes.get(node).and_then(NodeState::lost) {
        Some(lost) if !off => format!(
            "node {node} is {} since {}: it was replaced",
            lost.why.as_str(),
            lost.since
        ),
        _ => gc::off_words(node),
    };
    let follower = create.pod().map_or_else(String::new, |k| format!(" by {}", k.1));
    let message = format!("{reason}{follower}");
    let stop = gc::stop_of(key, pod, &reason, true, out.now);
    out.push_together(vec![stop, create]);
    let note = pod_note(key, &pod.record.uid, "Replaced", message, EventType::Warning, out.now);
    out.note(note);
}

#[cfg(test)]
#[path = "replicas_tests.rs"]
mod tests;
