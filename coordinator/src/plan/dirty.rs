//! Which groups must be planned again. Fed by `control::driver` with what each update touched.
//!
//! Invariant: planners cost what changed. A group that is not marked here would plan nothing but a fresher
//! reason for a pod that waits (the property tests compare with a full pass).

use std::collections::BTreeSet;

use proto::model::TopologySpreadConstraint;

use super::{Group, evict, gc, holds, replicas};
use crate::world::{Key, Touched, World};

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
        for (key, pod) in world.bare_pods("") {
            groups.insert(Group::of_pod(world, key, pod));
        }
        for name in world.namespaces.keys().filter(|n| world.terminating(n)) {
            groups.insert(Group::Namespace(name.clone()));
        }
        for (name, _) in world.nodes.iter().filter(|(_, node)| holds::ends(node)) {
            groups.insert(Group::Holds(name.clone()));
        }
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
        for touched in touched {
            match touched {
                Touched::Controller(key) => {
                    self.groups.insert(Group::of_controller(world, key));
                    if !world.controllers.contains_key(key) {
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
                Touched::Endpoints(_) | Touched::Event(_) | Touched::Other => {}
            }
        }
        if room {
            self.room(world);
        }
        if reach {
            self.brake(world);
        }
        for namespace in spread {
            self.spread(world, namespace);
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
        // And lost pods for whose replacement there was none.
        for (key, pod) in world.lost_nodes().flat_map(|name| world.pods_on(name)) {
            if !pod.record.waiting.is_empty() {
                self.groups.insert(Group::of_pod(world, key, pod));
            }
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
        if let Some(controller) = replicas::adopter(world, key, pod) {
            self.groups.insert(Group::of_controller(world, controller));
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
            self.groups.insert(Group::Controller(key.clone()));
        }
        for (key, pod) in range(&world.pods, name) {
            self.groups.insert(Group::of_pod(world, key, pod));
        }
    }

    fn orphans(&mut self, world: &World) {
        for uid in world.owner_uids().filter(|uid| world.controller_by_uid(uid).is_none()) {
            for (key, pod) in world.pods_of(uid) {
                self.groups.insert(Group::of_pod(world, key, pod));
            }
        }
    }
}

pub(super) use gc::range;
