//! Which pods a controller gains and loses. Called by `plan` for each controller that was touched.
//!
//! Invariant: pods belong to a controller by its uid (a selector only adopts ownerless pods, and lets go of pods whose
//! labels became others); what is
//! retired goes in the fixed order of [`retire_order`]; a new pod is born with its node in one write.

mod fill;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
};

use proto::model::{EventType, Phase, ReplicationController, loss::LossPolicy};

use self::fill::Wanted;
use super::{
    Draft, Group, before,
    change::Change,
    drain::moves,
    evict::evict,
    gc, health, pod_note,
    scheduler::{self, Counts, Placed},
};
use crate::world::{
    Key, NodeState, PodState, World,
    record::{OwnerKind, OwnerRecord, TemplateRecord},
};

/// Finalizer that the api sets, with the deletion mark, on a controller whose pods shall live on.
pub const ORPHAN: &str = "orphan";

/// Most pods created in one plan: the world is locked while a plan is made.
pub(super) const MAX_CREATED: usize = 4096;

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
                ..OwnerRecord::default()
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

/// The group that takes this pod over: of the first controller by name of those that select it, else, for a pod that has
/// a node, of the first daemon set.
pub fn adopter(world: &World, key: &Key, pod: &PodState) -> Option<Group> {
    if pod.record.owner.is_some() || !pod.live() || world.deserted(pod) || world.terminating(&key.0) {
        return None;
    }
    let mut controllers = gc::range(&world.controllers, &key.0);
    let controller = controllers.find(|(_, c)| c.rc.metadata.deletion_timestamp.is_none() && selects(&c.rc, pod));
    if let Some((controller, _)) = controller {
        return Some(Group::Controller(controller.clone()));
    }
    let mut sets = gc::range(&world.daemon_sets, &key.0).filter(|_| !pod.record.node.is_empty());
    let set = sets.find(|(_, s)| s.set.metadata.deletion_timestamp.is_none() && s.selects(pod));
    set.map(|(set, _)| Group::DaemonSet(set.clone()))
}

/// What is otherwise for a controller whose pods give way to another one's, or come in its place.
pub(super) struct Under<'a> {
    /// Its count, which is being written.
    pub desired: usize,
    /// Pods that are being stopped by the same plan.
    pub going: &'a HashSet<Key>,
}

pub(super) fn plan(world: &World, key: &Key, seed: u64, placed: &mut Placed, out: &mut Draft) {
    let Some((key, controller)) = world.controllers.get_key_value(key) else {
        return;
    };
    // Otherwise all of it is another group's.
    if Group::of_controller(world, key) != Group::Controller(key.clone()) {
        return;
    }
    let rc = &*controller.rc;
    if rc.metadata.deletion_timestamp.is_some() {
        let orphan = rc.metadata.finalizers.iter().any(|f| f == ORPHAN);
        if !(orphan && release(world, &rc.metadata.uid, out)) {
            out.push(Change::RemoveController {
                kind: OwnerKind::ReplicationController,
                key: key.clone(),
                rv: controller.rv,
            });
        }
        return;
    }
    let under = Under {
        desired: ReplicaGroup::of(key, rc).desired,
        going: &HashSet::new(),
    };
    plan_under(world, key, &under, seed, placed, out);
}

/// The pods of a controller that is not being deleted.
pub(super) fn plan_under(world: &World, key: &Key, under: &Under<'_>, seed: u64, placed: &mut Placed, out: &mut Draft) {
    let Some((key, controller)) = world.controllers.get_key_value(key) else {
        return;
    };
    let rc = &*controller.rc;
    let group = ReplicaGroup {
        desired: under.desired,
        ..ReplicaGroup::of(key, rc)
    };
    let mut live = Vec::new();
    // Pods on their way out whose place nobody may take yet.
    let mut awaited = 0;
    // Pods that a drain stopped before there was another one in their place.
    let mut vacated = Vec::new();
    let annotations = &rc.spec.template.metadata.annotations;
    let singleton = LossPolicy::of(|k| annotations.get(k).map(String::as_str)).singleton;
    let one_at_a_time = moves::one_at_a_time(rc);
    for (key, pod) in world
        .pods_of(&group.owner.uid)
        .filter(|(key, _)| !under.going.contains(*key))
    {
        if gc::removable(world, pod) {
            vacated.extend(moves::vacated(world, key, pod));
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
        let drained = pod.record.stop.as_ref().is_some_and(|s| s.drain.is_some());
        // One that was replaced has its follower already.
        if (singleton || pod.loss_policy().singleton || (one_at_a_time && drained)) && !pod.lost() {
            match health::may_run(world, pod, out.now) {
                Ok(true) => awaited += 1,
                Ok(false) => vacated.extend(moves::vacated(world, key, pod)),
                Err(until) => {
                    awaited += 1;
                    out.wake_at(until);
                }
            }
        } else {
            vacated.extend(moves::vacated(world, key, pod));
        }
    }
    let adopted = adopt(world, key, rc, &group, out);
    let spares = Spares::of(world, &live, out);
    live.retain(|(key, _)| !spares.dropped.contains(*key));
    // An adopted pod counts at once; placing or retiring it is for the plan after its adoption. A pod and what was
    // started in its place count as one.
    let total = live.len() - spares.by_old.len() + adopted.len();
    if total > group.desired {
        retire(world, &mut live, &spares, total - group.desired, group.desired, out);
    }
    let mut counts = Counts::new();
    for (_, pod) in live.iter().filter(|(_, p)| !p.record.node.is_empty()) {
        *counts.entry(&pod.record.node).or_default() += 1;
    }
    let waiting: Vec<_> = live.iter().copied().filter(|(_, p)| p.record.node.is_empty()).collect();
    scheduler::place(world, &waiting, &mut counts, seed, placed, out);
    let missing = group.desired.saturating_sub(total + awaited);
    let mut wanted: Vec<Wanted<'_>> = (0..missing).map(|n| Wanted::New(vacated.get(n).cloned())).collect();
    for (key, pod) in live.iter().copied() {
        let spare = spares.by_old.get(pod.record.uid.as_str()).copied();
        let ended = match health::judge(world, key, pod, out) {
            health::Now::Nothing => {
                // A plan that lets a spare go starts no other one: it may fail in part.
                if !spares.is_spare(key) && !spares.bereft.contains(pod.record.uid.as_str()) {
                    wanted.extend(Wanted::moved(moves::next(world, key, pod, spare, out), key, pod));
                }
                continue;
            }
            what => what == health::Now::Ended,
        };
        match spare {
            // What was started in its place takes it.
            Some((follower, _)) => fill::give_up(world, key, pod, ended, follower, None, out),
            None => wanted.push(Wanted::Lost { key, pod, ended }),
        }
    }
    if !wanted.is_empty() {
        fill::fill(world, rc, &group, &wanted, &counts, seed, placed, out);
    }
}

type Entry<'w> = (&'w Key, &'w PodState);

/// Pods that drains started beside those that they are to replace.
struct Spares<'w> {
    /// By the uid of the old one, which is alive.
    by_old: HashMap<&'w str, Entry<'w>>,
    new: HashSet<&'w Key>,
    /// Those that go again, for they would have to leave themselves.
    dropped: HashSet<&'w Key>,
    /// Uids of those whose spare goes.
    bereft: HashSet<&'w str>,
    /// A drain was taken back, and what it had started is one of all.
    freed: bool,
}

impl<'w> Spares<'w> {
    fn of(world: &'w World, live: &[Entry<'w>], out: &mut Draft) -> Self {
        let mut spares = Self {
            by_old: HashMap::new(),
            new: HashSet::new(),
            dropped: HashSet::new(),
            bereft: HashSet::new(),
            freed: false,
        };
        let uids: HashSet<&str> = live.iter().map(|(_, pod)| pod.record.uid.as_str()).collect();
        for (key, pod) in live.iter().copied() {
            let Some(replaces) = &pod.record.replaces else { continue };
            if !uids.contains(replaces.uid.as_str()) {
                continue;
            }
            match moves::spare(world, pod, replaces, out) {
                moves::Spare::Free => spares.freed = true,
                moves::Spare::Stays if !spares.by_old.contains_key(replaces.uid.as_str()) => {
                    spares.by_old.insert(&replaces.uid, (key, pod));
                    spares.new.insert(key);
                }
                moves::Spare::Stays => {
                    gc::stop(key, pod, "another one was started for the same pod", out);
                    spares.dropped.insert(key);
                }
                moves::Spare::Goes(reason) => {
                    gc::stop(key, pod, &reason, out);
                    spares.dropped.insert(key);
                    spares.bereft.insert(&replaces.uid);
                }
            }
        }
        spares
    }

    fn is_spare(&self, key: &Key) -> bool {
        self.new.contains(key)
    }
}

/// Stops what is too many, and takes it out of `live`. What was started in another's place stays as long as that one.
fn retire(
    world: &World,
    live: &mut Vec<Entry<'_>>,
    spares: &Spares<'_>,
    surplus: usize,
    desired: usize,
    out: &mut Draft,
) {
    let (kept, mut candidates): (Vec<_>, Vec<_>) = live.drain(..).partition(|(key, _)| spares.is_spare(key));
    retire_order(world, &mut candidates);
    let reason = if spares.freed {
        format!("its controller wants {desired}, and a drain that started one more is over")
    } else {
        format!("its controller was scaled to {desired}")
    };
    for (key, pod) in candidates.drain(..surplus.min(candidates.len())) {
        if pod.record.node.is_empty() {
            gc::remove(world, key, pod, out);
        } else {
            gc::stop(key, pod, &reason, out);
        }
    }
    live.extend(kept.into_iter().chain(candidates));
    live.sort_unstable_by_key(|(key, _)| *key);
}

/// Takes the controller's pods from it; false when there are none left.
pub(super) fn release(world: &World, uid: &str, out: &mut Draft) -> bool {
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
) -> Vec<Key> {
    let mut adopted = Vec::new();
    let ours = Group::Controller(controller.clone());
    for (key, pod) in world.bare_pods(group.namespace) {
        if selects(rc, pod) && adopter(world, key, pod).as_ref() == Some(&ours) && !gc::removable(world, pod) {
            adopted.push(key.clone());
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

#[cfg(test)]
#[path = "replicas_tests.rs"]
mod tests;
