//! The planners: from the world to the next writes. Run by `control::driver`, group by group.
//!
//! | module | decides |
//! |---|---|
//! | [`dirty`] | which groups must be looked at after an update |
//! | [`replicas`] | which pods a controller gains and loses |
//! | [`daemons`] | which nodes gain and lose a daemon of a daemon set |
//! | [`scheduler`] | which node a pod runs on, or why none |
//! | [`disruption`] | whether a pod that serves may be stopped on purpose now |
//! | `holds` | which holds of a node are over |
//! | [`rollout`] | how the pods of one controller give way to another one's |
//! | [`drain`] | which pods leave a node that is being emptied, and when it is empty |
//! | [`disruption`] | how many pods of a workload may be missed |
//! | [`evict`] | which pods leave their node for a taint |
//! | [`health`] | which lost nodes are given up, and which of their pods are replaced |
//! | [`gc`] | what is removed: stopped pods, orphans, namespaces, what has expired |
//! | [`check`] | whether a plan keeps the invariants; nothing unchecked is committed |
//! | [`change`] | every write there is |
//!
//! Invariant: pure. No clock, randomness, logging or I/O: the same world, time and seed give the same plan.

pub mod change;
pub mod check;
mod check_spread;
#[cfg(test)]
mod daemon_properties;
pub mod daemons;
pub mod dirty;
pub mod disruption;
pub mod drain;
pub mod evict;
pub mod gc;
pub mod health;
mod holds;
#[cfg(test)]
mod loss_properties;
pub mod replicas;
pub mod rollout;
pub mod scheduler;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use proto::{
    ids::IdGen,
    model::{EventType, Kind, ObjectReference, Time},
};

use crate::{
    events::Note,
    store::MAX_CHANGES,
    world::{Key, PodState, World},
};
use change::{Before, Change};
use check::{Checker, Violation};
use drain::moves::Moves;
use scheduler::Placed;

/// Names that one event about a controller's pods shows.
pub(crate) const SHOWN_PODS: usize = 5;

/// What is planned, and parked after a fault, as one. Every pod belongs to exactly one group at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// A daemon set with its pods. Before controllers: where room is free a node's daemons come first.
    DaemonSet(Key),
    /// A controller with the pods it owns.
    Controller(Key),
    /// The two controllers of a rolling update with the pods they own, by the name of the one that is replaced.
    Update(Key),
    /// Pods whose owner, by uid, is gone.
    Orphans(String),
    /// A pod without an owner.
    Pod(Key),
    /// A namespace that is being emptied, with all in it.
    Namespace(String),
    /// The holds of a node.
    Holds(String),
    /// The drain of a node as a whole; its pods move in their own groups.
    Drain(String),
    /// Which lost nodes are given up: one decision for the fleet.
    Losses,
    /// Whether the cluster is frozen.
    Freeze,
    /// What is kept for a time only: unused templates, old events and results.
    Expiry,
}

impl Group {
    /// The group of a pod.
    pub fn of_pod(world: &World, key: &Key, pod: &PodState) -> Self {
        if world.terminating(&key.0) {
            return Self::Namespace(key.0.clone());
        }
        match &pod.record.owner {
            None => Self::Pod(key.clone()),
            Some(owner) => {
                let controller = world.controller_by_uid(&owner.uid).map(|(key, _)| key);
                let set = world.daemon_set_by_uid(&owner.uid).map(|(key, _)| key);
                match (controller, set) {
                    (Some(controller), _) => Self::of_controller(world, controller),
                    (None, Some(set)) => Self::DaemonSet(set.clone()),
                    (None, None) => Self::Orphans(owner.uid.clone()),
                }
            }
        }
    }

    /// The group of a daemon set's key.
    pub fn of_daemon_set(world: &World, key: &Key) -> Self {
        if world.terminating(&key.0) {
            Self::Namespace(key.0.clone())
        } else {
            Self::DaemonSet(key.clone())
        }
    }

    /// The group of a controller's key.
    pub fn of_controller(world: &World, key: &Key) -> Self {
        if world.terminating(&key.0) {
            return Self::Namespace(key.0.clone());
        }
        let update = world
            .controllers
            .get(key)
            .and_then(|c| world.updating(&c.rc.metadata.uid));
        update.map_or_else(
            || Self::Controller(key.clone()),
            |update| Self::Update(update.key.clone()),
        )
    }

    /// The object that an event about the group names.
    pub fn reference(&self, world: &World) -> ObjectReference {
        let of = |kind: Kind, namespace: &str, name: &str, uid: &str| ObjectReference {
            kind: kind.name().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        match self {
            Self::DaemonSet(key) => {
                let uid = world.daemon_sets.get(key).map(|s| s.uid());
                of(Kind::DaemonSet, &key.0, &key.1, uid.unwrap_or_default())
            }
            Self::Controller(key) | Self::Update(key) => {
                let uid = world.controllers.get(key).map(|c| c.rc.metadata.uid.as_str());
                of(Kind::ReplicationController, &key.0, &key.1, uid.unwrap_or_default())
            }
            Self::Orphans(uid) => match world.pods_of(uid).next() {
                Some((key, pod)) => of(Kind::Pod, &key.0, &key.1, &pod.record.uid),
                None => ObjectReference::default(),
            },
            Self::Pod(key) => {
                let uid = world.pods.get(key).map(|p| p.record.uid.as_str());
                of(Kind::Pod, &key.0, &key.1, uid.unwrap_or_default())
            }
            Self::Namespace(name) => {
                let uid = world.namespaces.get(name).map(|n| n.value.metadata.uid.as_str());
                of(Kind::Namespace, "", name, uid.unwrap_or_default())
            }
            Self::Holds(node) | Self::Drain(node) => {
                let uid = world.nodes.get(node).map(|n| n.node.metadata.uid.as_str());
                of(Kind::Node, "", node, uid.unwrap_or_default())
            }
            Self::Losses | Self::Freeze | Self::Expiry => ObjectReference::default(),
        }
    }
}

/// One logical commit: applied whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub group: Group,
    pub changes: Vec<Change>,
    /// Said once the commit is durable.
    pub notes: Vec<Note>,
}

/// The next writes of one group. Its commits share no key, so they may be applied in any order and each
/// may fail alone; the group is planned again after whatever part of it was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub commits: Vec<Commit>,
    /// Look at the group again then, even if nothing changed.
    pub wake_at: Option<Time>,
}

impl Plan {
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.commits.iter().flat_map(|c| &c.changes)
    }
}

/// For how long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Seconds after an event's last occurrence.
    pub event_seconds: u64,
    pub events_per_object: usize,
    /// Seconds after a write whose result is remembered.
    pub op_seconds: u64,
    /// Seconds from a namespace's deletion to the removal of its empty record: a create that was accepted
    /// just before must be seen first.
    pub namespace_settle_seconds: u64,
    /// Seconds after a node's deletion, unless its agent shows sooner that nothing of it is left.
    pub tombstone_seconds: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            event_seconds: 72 * 3600,
            events_per_object: 100,
            op_seconds: 24 * 3600,
            namespace_settle_seconds: 1,
            tombstone_seconds: 30 * 24 * 3600,
        }
    }
}

/// Groups planned together, before any of their commits is applied: they share what they have placed.
#[derive(Clone, Debug)]
pub struct Pass {
    now: Time,
    seed: u64,
    keep: Keep,
    /// Nothing is decided before on what was not heard.
    no_loss_before: Time,
    placed: Placed,
    moves: Moves,
    checker: Checker,
}

impl Pass {
    pub fn new(now: Time, seed: u64, keep: Keep) -> Self {
        Self {
            now,
            seed,
            keep,
            no_loss_before: Time::default(),
            placed: Placed::default(),
            moves: Moves::default(),
            checker: Checker::new(now),
        }
    }

    /// A leader that is new hears of a node what its predecessor heard, but later: nodes get time to show themselves.
    pub fn no_loss_before(mut self, at: Time) -> Self {
        self.no_loss_before = at;
        self
    }

    /// Plans one group and checks the plan. A refused plan leaves the pass usable for other groups.
    pub fn plan(&mut self, world: &World, group: &Group) -> Result<Plan, Violation> {
        let plan = self.decide(world, group);
        self.checker.admit(world, group, &plan)?;
        Ok(plan)
    }

    fn decide(&mut self, world: &World, group: &Group) -> Plan {
        let mut out = Draft::new(world, group.clone(), self.now);
        out.no_loss_before = self.no_loss_before;
        out.moves = std::mem::take(&mut self.moves);
        let seed = mix(self.seed, &format!("{group:?}"));
        match group {
            Group::DaemonSet(key) => daemons::plan(world, key, seed, &mut self.placed, &mut out),
            Group::Controller(key) => replicas::plan(world, key, seed, &mut self.placed, &mut out),
            Group::Update(key) => rollout::plan(world, key, seed, &mut self.placed, &mut out),
            Group::Pod(key) => gc::bare(world, key, seed, &mut self.placed, &mut out),
            Group::Orphans(uid) => gc::orphans(world, uid, &mut out),
            Group::Namespace(name) => gc::namespace(world, name, self.keep, &mut out),
            Group::Holds(node) => holds::plan(world, node, &mut out),
            Group::Drain(node) => drain::plan(world, node, &mut out),
            Group::Losses => health::plan(world, &mut out),
            Group::Freeze => gc::freeze(world, &mut out),
            Group::Expiry => gc::expiry(world, self.keep, &mut out),
        }
        self.moves = std::mem::take(&mut out.moves);
        out.finish()
    }
}

/// A plan in the making: cuts changes into commits that fit.
pub(crate) struct Draft {
    group: Group,
    pub now: Time,
    pub no_loss_before: Time,
    /// Of the pass.
    pub moves: Moves,
    plan: Plan,
    changes: Vec<Change>,
    notes: Vec<Note>,
    weight: usize,
    /// The controller that the group is about.
    owner: Option<ObjectReference>,
    names: BTreeSet<Key>,
}

impl Draft {
    pub fn new(world: &World, group: Group, now: Time) -> Self {
        let owns = matches!(group, Group::Controller(_) | Group::Update(_) | Group::DaemonSet(_));
        let owner = owns.then(|| group.reference(world));
        Self {
            group,
            now,
            no_loss_before: Time::default(),
            moves: Moves::default(),
            plan: Plan::default(),
            changes: Vec::new(),
            notes: Vec::new(),
            weight: 0,
            owner,
            names: BTreeSet::new(),
        }
    }

    pub fn push(&mut self, change: Change) {
        if self.weight + change.weight() > MAX_CHANGES {
            self.cut();
        }
        self.weight += change.weight();
        self.count_out(&change);
        self.changes.push(change);
    }

    /// Whatever stops a pod, the ledger must know.
    fn count_out(&mut self, change: &Change) {
        if let Change::Stop { pod, .. } | Change::RemovePod { pod } = change {
            self.moves.ledger.leaves(&pod.record.uid);
        }
    }

    /// As [`Draft::push`], for changes of which none is to happen without the others.
    pub fn push_together(&mut self, changes: Vec<Change>) {
        let weight: usize = changes.iter().map(Change::weight).sum();
        if self.weight + weight > MAX_CHANGES {
            self.cut();
        }
        self.weight += weight;
        changes.iter().for_each(|change| self.count_out(change));
        self.changes.extend(changes);
    }

    /// What follows is about the pods of this controller.
    pub fn of_controller(&mut self, key: &Key, uid: &str) {
        self.cut();
        self.owner = Some(ObjectReference {
            kind: Kind::ReplicationController.name().to_owned(),
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid: uid.to_owned(),
        });
    }

    /// Goes with the change pushed last.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Ends the commit.
    pub fn cut(&mut self) {
        if !self.changes.is_empty() {
            self.count_pods();
            self.plan.commits.push(Commit {
                group: self.group.clone(),
                changes: std::mem::take(&mut self.changes),
                notes: std::mem::take(&mut self.notes),
            });
        }
        self.weight = 0;
    }

    /// One note a commit about a controller's pods, so that a large step does not flood the events.
    fn count_pods(&mut self) {
        let Some(owner) = &self.owner else { return };
        let component = match self.group {
            Group::DaemonSet(_) => "daemonset-controller",
            _ => "replication-controller",
        };
        let (mut created, mut stopped, mut released, mut lost) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for change in &self.changes {
            match change {
                Change::CreatePod { key, .. } => created.push(key.1.as_str()),
                Change::Stop { pod, lost: true, .. } => lost.push(pod.key.1.as_str()),
                Change::Stop { pod, .. } => stopped.push(pod.key.1.as_str()),
                Change::Release { pod } => released.push(pod.key.1.as_str()),
                Change::RemovePod { pod } if pod.record.stop.is_none() => stopped.push(pod.key.1.as_str()),
                _ => {}
            }
        }
        for (reason, verb, names) in [
            ("SuccessfulCreate", "created", created),
            ("SuccessfulDelete", "deleted", stopped),
            ("Released", "released", released),
            ("ReplacedLost", "gave up", lost),
        ] {
            let message = match names.as_slice() {
                [] => continue,
                [name] => format!("{verb} pod {name}"),
                names => {
                    let shown = names.get(..SHOWN_PODS).unwrap_or(names);
                    let more = match names.len() - shown.len() {
                        0 => String::new(),
                        n => format!(" and {n} more"),
                    };
                    format!("{verb} {} pods: {}{more}", names.len(), shown.join(", "))
                }
            };
            self.notes.push(Note {
                involved: owner.clone(),
                reason: reason.to_owned(),
                message,
                kind: EventType::Normal,
                component,
                host: String::new(),
                at: self.now,
            });
        }
    }

    pub fn wake_at(&mut self, at: Time) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |w| w.min(at)));
    }

    /// A pod name that neither the world nor this plan has.
    pub fn fresh_name(&mut self, world: &World, namespace: &str, base: &str, ids: &mut IdGen) -> Key {
        loop {
            let key = (namespace.to_owned(), format!("{base}-{}", ids.suffix()));
            if !world.pods.contains_key(&key) && self.names.insert(key.clone()) {
                return key;
            }
        }
    }

    pub fn finish(mut self) -> Plan {
        self.cut();
        self.plan
    }
}

pub(crate) fn before(key: &Key, pod: &PodState) -> Before {
    Before {
        key: key.clone(),
        rv: pod.rv,
        record: pod.record.clone(),
    }
}

pub(crate) fn pod_note(key: &Key, uid: &str, reason: &str, message: String, kind: EventType, at: Time) -> Note {
    Note {
        involved: ObjectReference {
            kind: Kind::Pod.name().to_owned(),
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid: uid.to_owned(),
        },
        reason: reason.to_owned(),
        message,
        kind,
        component: "scheduler",
        host: String::new(),
        at,
    }
}

/// FNV-1a over the text, then one SplitMix64 step with the seed: cheap, and every bit depends on both.
pub(crate) fn mix(seed: u64, text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    IdGen::new(hash ^ seed).next_u64()
}
