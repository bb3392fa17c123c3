//! Which groups must be planned again. Fed by `control::driver` with what each update touched.
//!
//! Invariant: planners cost what changed. A group that is not marked here would plan nothing but a fresher
//! reason for a pod that waits (the property tests compare with a full pass).

use std::collections::BTreeSet;

use proto::model::TopologySpreadConstraint;

use super::{Group, evict, gc, holds, replicas};
use crate::world::{Key, PodState, Touched, World};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    pub groups: BTreeSet<Group>,
}

impl Dirty {
    /// Every group that may have something to do: after a start, a new leadership, or lost updates.
    pub fn all(world: &World) -> Self {
        let mut groups = BTreeSet::new();
        for key in world.controllers.keys() {
            groups.insert(Group::of_controller(world, key));
        }
        for key in world.daemon_sets.keys() {
            groups.insert(Group::of_daemon_set(world, key));
        }
        for (key, pod) in world.bare_pods("") {
            groups.insert(Group::of_pod(world, key, pod));
        }
        for name in world.namespaces.keys().filter(|n| world.terminating(n)) {
            groups.insert(Group::Namespace(name.clone()));
        }
        for (name, _) in world.nodes.iter().filter(|(_, node)| holds::ends(node)) {
            groups.insert(Group::Holds(name.clone()));
        }
        groups.extend(world.draining().cloned().map(Group::Drain));
        if world.lost_nodes().len() > 0 || world.losses().next().is_some() {
            groups.insert(Group::Losses);
        }
        groups.extend(world.freeze.is_some().then_some(Group::Freeze));
        let mut dirty = Self { groups };
        dirty.orphans(world);
        dirty
    }

    /// Marks what an update calls for; `world` includes the update.
    pub fn touch(&mut self, world: &World, touched: &[Touched]) {
        let (mut room, mut reach, mut spread) = (false, false, BTreeSet::new());
        let mut budgets = BTreeSet::new();
        for touched in touched {
            match touched {
                Touched::Controller(key) => {
                    self.groups.insert(Group::of_controller(world, key));
                    if !world.controllers.contains_key(key) {
                        self.orphans(world);
                    }
                }
                Touched::DaemonSet(key) => {
                    self.groups.insert(Group::of_daemon_set(world, key));
                    if !world.daemon_sets.contains_key(key) {
                        self.orphans(world);
                    }
                }
                Touched::Pod(key) => room |= self.pod(world, key),
                Touched::Node(name) => {
                    room = true;
                    // A node more or less can be what takes the brake off.
                    if world.lost_nodes().len() > 0 {
                        self.groups.insert(Group::Losses);
                    }
                    let node = world.nodes.get(name);
                    if node.is_some_and(holds::ends) {
                        self.groups.insert(Group::Holds(name.clone()));
                    }
                    // A node that keeps its pods costs no look at them.
                    if node.is_none_or(evict::expels) {
                        for (key, pod) in world.pods_on(name) {
                            if node.is_none_or(|node| evict::due(node, pod).is_some()) {
                                self.groups.insert(Group::of_pod(world, key, pod));
                            }
                        }
                    }
                }
                Touched::Reach(name) => {
                    reach = true;
                    self.on(world, name);
                }
                Touched::Drain(name) => self.drain(world, name),
                Touched::Update(key) => self.update(world, key),
                Touched::Budget(key) => {
                    budgets.insert(key);
                }
                Touched::Namespace(name) => self.namespace(world, name),
                Touched::Event(key) if world.terminating(&key.0) => {
                    self.groups.insert(Group::Namespace(key.0.clone()));
                }
                Touched::Spread(namespace) => {
                    spread.insert(namespace);
                }
                // A pod whose template was late can be placed now.
                Touched::Template(_) => room = true,
                // Times and floors may be others now.
                Touched::Settings => self.groups.extend(Self::all(world).groups),
                // Where pods can be reached decides nothing.
                Touched::Endpoints(_)
                | Touched::Event(_)
                | Touched::Coordinators
                | Touched::Restored
                | Touched::Orphans(_)
                | Touched::Other => {}
            }
        }
        if room {
            self.room(world);
        }
        if reach {
            self.brake(world);
            // What is available, and whether drains and updates pause, may be another now.
            self.updates(world, "");
            for name in world.draining() {
                self.on(world, name);
            }
            for (key, _) in world.daemon_sets.iter().filter(|(_, set)| set.unplaced.is_some()) {
                self.groups.insert(Group::of_daemon_set(world, key));
            }
        }
        for namespace in spread {
            self.spread(world, namespace);
        }
        if !budgets.is_empty() {
            self.budgets(world, &budgets);
        }
    }

    /// Marks whoever waits for what a budget allows: groups with pods that it selects on nodes being drained, and daemon
    /// sets whose update goes no further.
    fn budgets(&mut self, world: &World, budgets: &BTreeSet<&Key>) {
        for (namespace, _) in budgets {
            self.short(world, namespace);
            self.updates(world, namespace);
        }
        for (key, _) in budgets.iter().filter(|(namespace, _)| world.terminating(namespace)) {
            self.groups.insert(Group::Namespace(key.clone()));
        }
        for (key, pod) in world.draining().flat_map(|node| world.pods_on(node)) {
            // One that is gone or selects others now may have held back any pod of its namespace.
            let waits = budgets.iter().any(|budget| {
                let selector = world.budgets.get(*budget).and_then(|b| b.budget.spec.selector.as_ref());
                budget.0 == key.0 && selector.is_none_or(|s| s.matches(|k| pod.label(k)))
            });
            if waits {
                self.groups.insert(Group::of_pod(world, key, pod));
            }
        }
    }

    /// Marks whoever the brake may let go or hold back now: once a batch, for it asks the whole fleet.
    fn brake(&mut self, world: &World) {
        self.groups.insert(Group::Losses);
        let held_back = world.nodes.iter().filter(|(_, node)| evict::expels(node));
        for name in world.lost_nodes().chain(held_back.map(|(name, _)| name)) {
            self.on(world, name);
        }
    }

    /// Marks whoever waits for pods to be spread otherwise.
    fn spread(&mut self, world: &World, namespace: &str) {
        for (key, pod) in world.unplaced_in(namespace) {
            let constraints = &pod.template_record().spec.topology_spread_constraints;
            if constraints.iter().any(TopologySpreadConstraint::is_hard) {
                self.groups.insert(Group::of_pod(world, key, pod));
            }
        }
    }

    /// Marks whoever waits for room. Also called after a pass of which something was not applied: its other
    /// groups made way for that, and the room is free again.
    pub fn room(&mut self, world: &World) {
        for (key, pod) in world.unplaced_pods() {
            self.groups.insert(Group::of_pod(world, key, pod));
        }
        // Sets with a node that lacks something for its daemon.
        for (key, _) in world.daemon_sets.iter().filter(|(_, s)| s.unplaced.is_some()) {
            self.groups.insert(Group::of_daemon_set(world, key));
        }
        // And pods of lost or draining nodes that stay for some reason.
        let left = world.lost_nodes().chain(world.draining());
        for (key, pod) in left.flat_map(|name| world.pods_on(name)) {
            if !pod.record.waiting.is_empty() {
                self.groups.insert(Group::of_pod(world, key, pod));
            }
        }
    }

    /// Marks the updates that go on in a namespace; empty: in all.
    fn updates(&mut self, world: &World, namespace: &str) {
        let there = world
            .updates
            .keys()
            .filter(|key| namespace.is_empty() || key.0 == namespace);
        for key in there.filter(|key| world.update_at(key).is_some()) {
            self.groups.insert(Group::of_controller(world, key));
        }
    }

    /// Marks what a drain of the node concerns: it as a whole, its pods, and what was started in their place.
    fn drain(&mut self, world: &World, node: &str) {
        self.groups.insert(Group::Drain(node.to_owned()));
        self.on(world, node);
        for (key, pod) in world.replacements_for(node) {
            self.groups.insert(Group::of_pod(world, key, pod));
        }
    }

    /// Marks both sides of an update, alone once it is over.
    fn update(&mut self, world: &World, key: &Key) {
        self.groups.insert(Group::of_controller(world, key));
        if let Some(update) = world.updates.get(key) {
            for uid in [&update.value.old, &update.value.new] {
                if let Some((key, _)) = world.controller_by_uid(uid) {
                    self.groups.insert(Group::of_controller(world, key));
                }
            }
        }
    }

    /// Marks what a change of a pod means to drains: a place for the next one is free, a replacement is Ready, or a
    /// pod that others waited for is available. `None`: the pod is gone.
    fn drains(&mut self, world: &World, namespace: &str, pod: Option<&PodState>) {
        for name in world.draining() {
            let of_it = |pod: &PodState| {
                let replaces = pod.record.replaces.as_ref();
                pod.record.node == *name || replaces.is_some_and(|r| r.node == *name)
            };
            if pod.is_none_or(of_it) {
                self.groups.insert(Group::Drain(name.clone()));
                self.on(world, name);
                continue;
            }
            for (key, pod) in world.pods_on(name).filter(|(key, _)| key.0 == namespace) {
                if !pod.record.waiting.is_empty() {
                    self.groups.insert(Group::of_pod(world, key, pod));
                }
            }
        }
    }

    /// Marks sets of the namespace that lack a daemon, or the present one, on some node.
    fn short(&mut self, world: &World, namespace: &str) {
        for (key, _) in range(&world.daemon_sets, namespace).filter(|(_, set)| set.unplaced.is_some()) {
            self.groups.insert(Group::of_daemon_set(world, key));
        }
    }

    /// Marks the groups of a node's pods.
    fn on(&mut self, world: &World, node: &str) {
        for (key, pod) in world.pods_on(node) {
            self.groups.insert(Group::of_pod(world, key, pod));
        }
    }

    /// Whether a node may have got room.
    fn pod(&mut self, world: &World, key: &Key) -> bool {
        self.drains(world, &key.0, world.pods.get(key));
        let Some(pod) = world.pods.get(key) else {
            if world.terminating(&key.0) {
                self.groups.insert(Group::Namespace(key.0.clone()));
            }
            return true;
        };
        self.groups.insert(Group::of_pod(world, key, pod));
        if world.nodes.get(&pod.record.node).is_some_and(|n| n.lost().is_some()) {
            // What it asks for when it is lost may be another now.
            self.groups.insert(Group::Losses);
        }
        self.groups
            .extend(replicas::adopter(world, key, pod).map(|group| match group {
                Group::Controller(key) => Group::of_controller(world, &key),
                other => other,
            }));
        // It may be what a budget lacked.
        if !world.budgets_of(&key.0, pod).is_empty() {
            self.short(world, &key.0);
        }
        // A node that is back takes daemons once what was replaced has ended.
        if pod.record.stop.as_ref().is_some_and(|s| s.lost)
            && let Some(node) = world.nodes.get(&pod.record.node)
        {
            let sets = world.daemon_sets.iter();
            let waiting = sets.filter(|(_, set)| world.wants_daemon(set, node));
            self.groups
                .extend(waiting.map(|(key, _)| Group::of_daemon_set(world, key)));
        }
        !pod.record.node.is_empty() && !pod.occupies()
    }

    fn namespace(&mut self, world: &World, name: &str) {
        if world.terminating(name) {
            self.groups.insert(Group::Namespace(name.to_owned()));
            return;
        }
        // Gone, or an operator took the mark back: what is in it has other groups now.
        for (key, _) in range(&world.controllers, name) {
            self.groups.insert(Group::of_controller(world, key));
        }
        for (key, _) in range(&world.daemon_sets, name) {
            self.groups.insert(Group::DaemonSet(key.clone()));
        }
        for (key, pod) in range(&world.pods, name) {
            self.groups.insert(Group::of_pod(world, key, pod));
        }
    }

    fn orphans(&mut self, world: &World) {
        for uid in world.owner_uids().filter(|uid| !world.owner_exists(uid)) {
            for (key, pod) in world.pods_of(uid) {
                self.groups.insert(Group::of_pod(world, key, pod));
            }
        }
    }
}

pub(super) use gc::range;
