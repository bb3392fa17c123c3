//! Which nodes gain and lose a daemon, and when a daemon gives way to one of a new template. Called by `plan` for each
//! daemon set that was touched.
//!
//! Invariant: at most one live daemon of a set on a node, and none beside one whose end was not seen: they may share
//! host ports and paths. Holds keep no daemon away. An update makes no more nodes go without than the set and the
//! budgets of its daemons allow, and takes no daemon whose follower would not fit.

use std::{collections::BTreeMap, sync::Arc};

use proto::{
    ids::IdGen,
    model::{EventType, Kind, ObjectReference, TaintEffect, Toleration},
};

use super::{
    Draft, Group, SHOWN_PODS, before,
    change::Change,
    disruption::How,
    drain::moves,
    evict::evict,
    gc, health, pod_note,
    replicas::{self, MAX_CREATED, ORPHAN},
    scheduler::{self, Placed, Pods, explain, filter::Refusal, single::Single},
};
use crate::{
    events::Note,
    store::MAX_CHANGES,
    world::{
        Key, NodeState, PodState, World,
        daemons::{DaemonSetState, UnplacedRecord},
        record::{OwnerKind, OwnerRecord, PodRecord},
    },
};

type Daemon<'w> = (&'w Key, &'w PodState);

/// A node's pods of the set.
#[derive(Default)]
struct Here<'w> {
    live: Vec<Daemon<'w>>,
    /// One is on its way out or in, so that none may be started.
    taken: bool,
}

struct Planner<'w> {
    world: &'w World,
    key: &'w Key,
    state: &'w DaemonSetState,
    here: BTreeMap<&'w str, Here<'w>>,
    /// Nodes without a daemon, or with a former one, and why.
    unplaced: BTreeMap<&'w str, String>,
}

pub(super) fn plan(world: &World, key: &Key, seed: u64, placed: &mut Placed, out: &mut Draft) {
    let Some((key, state)) = world.daemon_sets.get_key_value(key) else {
        return;
    };
    // Then all of it is the namespace's group.
    if world.terminating(&key.0) {
        return;
    }
    let meta = &state.set.metadata;
    if meta.deletion_timestamp.is_some() {
        let orphan = meta.finalizers.iter().any(|f| f == ORPHAN);
        if !(orphan && replicas::release(world, &meta.uid, out)) {
            out.push(Change::RemoveController {
                kind: OwnerKind::DaemonSet,
                key: key.clone(),
                rv: state.rv,
            });
        }
        return;
    }
    let mut planner = Planner {
        world,
        key,
        state,
        here: BTreeMap::new(),
        unplaced: BTreeMap::new(),
    };
    planner.look(out);
    planner.adopt(out);
    planner.stop_misplaced(out);
    let mut room = Single::new(world, Pods::new(&key.0, &state.template), placed, seed);
    planner.create(&mut room, seed, placed, out);
    planner.update(&room, placed, out);
    planner.explain(out);
}

impl<'w> Planner<'w> {
    fn owner(&self) -> OwnerRecord {
        OwnerRecord {
            kind: OwnerKind::DaemonSet,
            name: self.key.1.clone(),
            uid: self.state.uid().to_owned(),
        }
    }

    /// The set's pods, by node; what is over goes.
    fn look(&mut self, out: &mut Draft) {
        let world = self.world;
        for (key, pod) in world.pods_of(self.state.uid()) {
            // One without a node is for none.
            if gc::removable(world, pod) || pod.record.node.is_empty() {
                gc::remove(world, key, pod, out);
            } else if world.deserted(pod) {
                if !pod.stopping() {
                    gc::stop(key, pod, gc::NODE_DELETED, out);
                }
            } else if pod.live() && !self.state.selects(pod) {
                self.release(key, pod, out);
                // Another one comes once this is on record.
                self.here.entry(pod.record.node.as_str()).or_default().taken = true;
            } else if pod.ended() {
                if !pod.stopping() {
                    gc::stop(key, pod, "it has ended and is replaced", out);
                }
            } else {
                let here = self.here.entry(pod.record.node.as_str()).or_default();
                if pod.stopping() {
                    here.taken = true;
                } else {
                    here.live.push((key, pod));
                }
            }
        }
    }

    /// Whoever made its labels others wants it out of here.
    fn release(&self, key: &Key, pod: &PodState, out: &mut Draft) {
        out.push(Change::Release { pod: before(key, pod) });
        let message = format!(
            "its labels do not match {}, the selector of daemonset {}: released from it",
            self.state.set.spec.selector, self.key.1
        );
        let uid = &pod.record.uid;
        out.note(pod_note(key, uid, "Released", message, EventType::Normal, out.now));
    }

    fn adopt(&mut self, out: &mut Draft) {
        let (world, ours) = (self.world, Group::DaemonSet(self.key.clone()));
        for (key, pod) in world.bare_pods(&self.key.0) {
            if self.state.selects(pod)
                && replicas::adopter(world, key, pod).as_ref() == Some(&ours)
                && !gc::removable(world, pod)
            {
                out.push(Change::Adopt {
                    pod: before(key, pod),
                    owner: self.owner(),
                });
                self.here.entry(pod.record.node.as_str()).or_default().taken = true;
            }
        }
    }

    /// Stops what is on a node that the set is not for, what a taint drives out, and all but one of a node.
    fn stop_misplaced(&mut self, out: &mut Draft) {
        let (world, state, name) = (self.world, self.state, &self.key.1);
        for (node_name, here) in &mut self.here {
            let Some(node) = world.nodes.get(*node_name) else {
                continue;
            };
            let taken = &mut here.taken;
            here.live.retain(|(key, pod)| {
                let stopped = if node.off.is_some() {
                    // As with any pod: where its data are is where it waits for its host.
                    pod.bound_by_data().is_none() && {
                        gc::stop(key, pod, &gc::off_words(node_name), out);
                        true
                    }
                } else if world.keeps_daemon(state, node) && !(outlived(state, node, pod) && health::thawed(world, out))
                {
                    evict(world, key, pod, out)
                } else {
                    let drain = node.emptied().filter(|_| world.stops_daemons(node));
                    let reason = drain.map_or_else(
                        || format!("node {node_name} is none of those that daemonset {name} is for"),
                        |drain| moves::reason(node_name, drain),
                    );
                    gc::stop(key, pod, &reason, out);
                    true
                };
                *taken |= stopped;
                !stopped
            });
            let available = |pod: &PodState| pod.ready_for(state.set.spec.min_ready_seconds, out.now);
            here.live
                .sort_by_key(|(key, pod)| (!available(pod), !state.is_current(pod), pod.record.created, *key));
            for (key, pod) in here.live.drain(1.min(here.live.len())..) {
                gc::stop(key, pod, "another daemon of its set is on its node", out);
                here.taken = true;
            }
        }
    }

    /// Starts a daemon where one is missing.
    fn create(&mut self, single: &mut Single<'w, '_>, seed: u64, placed: &mut Placed, out: &mut Draft) {
        let state = self.state;
        let mut ids = IdGen::new(seed);
        let mut known = self.world.templates.contains_key(&state.hash);
        // A commit brings the template where it is not known; what does not fit into that one follows once the world
        // has it.
        let mut left = if known { MAX_CREATED } else { MAX_CHANGES - 1 };
        for (name, node) in wanted(self.world, state) {
            let here = self.here.get(name);
            if left == 0 || here.is_some_and(|h| h.taken || !h.live.is_empty()) {
                continue;
            }
            let ports = match single.place(name, node, placed) {
                Ok(ports) => ports,
                Err(refusal) => {
                    self.refused(name, &refusal, "");
                    continue;
                }
            };
            if !known {
                known = true;
                out.cut();
                out.push(Change::PutTemplate {
                    hash: state.hash.clone(),
                    record: Arc::new(state.template.record.clone()),
                });
            }
            left -= 1;
            let key = out.fresh_name(self.world, &self.key.0, &self.key.1, &mut ids);
            let record = PodRecord {
                uid: ids.uid(),
                template: state.hash.clone(),
                created: out.now,
                owner: Some(self.owner()),
                node: name.to_owned(),
                ports,
                ..PodRecord::default()
            };
            let uid = record.uid.clone();
            out.push(Change::CreatePod {
                key: key.clone(),
                record,
            });
            scheduler::scheduled(&key, &uid, name, out);
        }
    }

    /// What passes by itself is nobody's trouble.
    fn refused(&mut self, node: &'w str, refusal: &Refusal, instead: &str) {
        if !matches!(refusal, Refusal::NotReady | Refusal::Returning) {
            let why = explain::reason(&self.state.template, refusal, true);
            self.unplaced.insert(node, format!("{instead}{why}"));
        }
    }

    /// Stops daemons of a former template, as many at once as the set allows.
    fn update(&mut self, single: &Single<'w, '_>, placed: &Placed, out: &mut Draft) {
        let (world, state, spec) = (self.world, self.state, &self.state.set.spec);
        let wanted: BTreeMap<&str, &NodeState> = wanted(world, state).collect();
        let Some(most) = spec.max_unavailable(wanted.len()) else {
            return;
        };
        let mut former = Vec::new();
        let mut available = 0;
        for (name, node) in &wanted {
            let Some((key, pod)) = self.here.get(name).and_then(|h| h.live.first()) else {
                continue;
            };
            let counts = node.is_ready() && pod.ready_for(spec.min_ready_seconds, out.now);
            available += usize::from(counts);
            if !counts
                && node.is_ready()
                && let Some(at) = pod.ready_at(spec.min_ready_seconds)
            {
                out.wake_at(at);
            }
            // Nobody hears what is stopped on a node that is not Ready: when it is back it takes its turn.
            if node.is_ready() && !state.is_current(pod) {
                former.push((*name, *node, *key, *pod, counts));
            }
        }
        if former.is_empty() || !health::thawed(world, out) {
            return;
        }
        let mut may_go = most.saturating_sub(wanted.len() - available);
        // Those that do not serve go first: it costs nothing.
        former.sort_by_key(|(name, _, _, pod, counts)| (*counts, !pod.ready(), *name));
        for (name, node, key, pod, counts) in former {
            if counts && may_go == 0 {
                break;
            }
            if let Err(refusal) = single.follows(name, node, pod, placed) {
                self.refused(
                    name,
                    &refusal,
                    "a former daemon stays there, for the present one finds ",
                );
                continue;
            }
            // Where it serves, its budget has a word in it, too.
            let (now, ledger) = (out.now, &mut out.moves.ledger);
            if let Err(refusal) = ledger.take(world, now, key, pod, How::Plain, false) {
                let why = format!("a former daemon stays there: {}; {}", refusal.rule, refusal.remedy);
                self.unplaced.insert(name, why);
                continue;
            }
            may_go -= usize::from(counts);
            let reason = format!("daemonset {} has another template", self.key.1);
            gc::stop(key, pod, &reason, out);
        }
    }

    /// Says which nodes have no daemon of the present template for want of something, where that changed.
    fn explain(&self, out: &mut Draft) {
        let words = words(&self.unplaced);
        let known = self.state.unplaced.as_ref();
        if words == known.map_or("", |u| u.value.words.as_str()) {
            return;
        }
        if words.is_empty() {
            if let Some(known) = known {
                out.push(Change::RemoveUnplaced {
                    key: self.key.clone(),
                    rv: known.rv,
                });
            }
            return;
        }
        out.push(Change::Unplaced {
            key: self.key.clone(),
            before: self.world.unplaced_version(self.key),
            record: UnplacedRecord {
                uid: self.state.uid().to_owned(),
                words: words.clone(),
            },
        });
        out.note(Note {
            involved: ObjectReference {
                kind: Kind::DaemonSet.name().to_owned(),
                namespace: self.key.0.clone(),
                name: self.key.1.clone(),
                uid: self.state.uid().to_owned(),
            },
            reason: "FailedPlacement".to_owned(),
            message: words,
            kind: EventType::Warning,
            component: "daemonset-controller",
            host: String::new(),
            at: out.now,
        });
    }
}

/// Nodes that the set is for, by name.
fn wanted<'w>(world: &'w World, state: &'w DaemonSetState) -> impl Iterator<Item = (&'w str, &'w NodeState)> {
    let nodes = world.nodes.iter().map(|(name, node)| (name.as_str(), node));
    nodes.filter(|(_, node)| world.wants_daemon(state, node))
}

/// Whether a daemon of a former template bears a taint that would drive out one of the present template.
fn outlived(state: &DaemonSetState, node: &NodeState, pod: &PodState) -> bool {
    let tolerations = &state.template.record.spec.tolerations;
    let mut taints = node.node.spec.taints.iter();
    !state.is_current(pod)
        && taints.any(|t| t.effect == TaintEffect::NoExecute && Toleration::stay(tolerations, t).is_none())
}

/// `n1: insufficient memory; n2: host port 80 taken; and 3 more nodes`.
fn words(unplaced: &BTreeMap<&str, String>) -> String {
    let shown = unplaced.iter().take(SHOWN_PODS);
    let mut parts: Vec<String> = shown.map(|(node, why)| format!("{node}: {why}")).collect();
    match unplaced.len().saturating_sub(SHOWN_PODS) {
        0 => {}
        1 => parts.push("and 1 more node".to_owned()),
        n => parts.push(format!("and {n} more nodes")),
    }
    parts.join("; ")
}

#[cfg(test)]
#[path = "daemons_tests.rs"]
mod tests;
