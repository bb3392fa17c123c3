//! The invariants of a plan, checked before anything of it is committed. Called by `plan` for every plan; it
//! recomputes what it checks and shares no state with the planners.
//!
//! Invariant: a plan that breaks a rule is refused whole; what other groups planned is not affected.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use proto::model::{Protocol, Time, host_port};

use super::{
    Group, Plan,
    change::Before,
    change::Change,
    change::to_store,
    check_spread::{Spreads, tolerated},
    scheduler::{port_domain, spread::Landed},
};
use crate::{
    ca::audit::COORDINATOR,
    store::{MAX_CHANGES, Rv},
    world::{
        Amounts, Key, NodeState, PodState, Template, World,
        record::{OwnerKind, OwnerRecord, PodRecord, overlaid},
    },
};

/// A broken rule: a fault of a planner, not of a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan of {group:?} was refused: {what}")]
pub struct Violation {
    pub group: Group,
    pub what: String,
}

type Ports = HashMap<String, HashSet<(u16, Protocol)>>;

/// What the admitted plans of a pass add to the world.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    now: Time,
    added: HashMap<String, Amounts>,
    ports: Ports,
    landed: Landed,
    /// Pods that a plan of the pass creates or changes.
    pods: HashSet<Key>,
    /// Pods that a plan of the pass stops.
    stopped: HashSet<Key>,
    /// Version of the world that the pass began with.
    since: Option<Rv>,
}

impl Checker {
    pub fn new(now: Time) -> Self {
        Self { now, ..Self::default() }
    }

    /// Checks a plan against the world and the plans admitted before; counts it when it holds.
    pub fn admit(&mut self, world: &World, group: &Group, plan: &Plan) -> Result<(), Violation> {
        let same_world = *self.since.get_or_insert(world.rv) == world.rv;
        let mut staged = Staged {
            world,
            group,
            admitted: self,
            added: HashMap::new(),
            ports: HashMap::new(),
            taken: None,
            spreads: Spreads::default(),
            pods: HashSet::new(),
            stopped: HashSet::new(),
            daemons_on: HashSet::new(),
            same_world,
        };
        let result = staged.plan(plan);
        let Staged {
            added,
            ports,
            pods,
            stopped,
            spreads,
            ..
        } = staged;
        result.map_err(|what| Violation {
            group: group.clone(),
            what,
        })?;
        let landed = spreads.landed;
        for (node, amounts) in added {
            self.added.entry(node).or_default().add(amounts);
        }
        for (domain, taken) in ports {
            self.ports.entry(domain).or_default().extend(taken);
        }
        self.landed.extend(landed);
        self.pods.extend(pods);
        self.stopped.extend(stopped);
        Ok(())
    }
}

struct Staged<'a> {
    world: &'a World,
    group: &'a Group,
    admitted: &'a Checker,
    added: HashMap<String, Amounts>,
    ports: Ports,
    /// Host ports that the world's pods take, built when first asked for.
    taken: Option<Ports>,
    spreads: Spreads<'a>,
    pods: HashSet<Key>,
    stopped: HashSet<Key>,
    /// Nodes to which the plan brings a daemon.
    daemons_on: HashSet<String>,
    /// The world is the one that the pass began with.
    same_world: bool,
}

type Checked = Result<(), String>;

impl Staged<'_> {
    fn plan(&mut self, plan: &Plan) -> Checked {
        let mut keys = BTreeSet::new();
        for commit in &plan.commits {
            let changes = to_store(&commit.changes);
            ensure(commit.group == *self.group, || "a commit is of another group".into())?;
            ensure(!changes.is_empty() && changes.len() <= MAX_CHANGES, || {
                format!("a commit has {} changes", changes.len())
            })?;
            for change in changes {
                ensure(!keys.contains(&change.key), || {
                    format!("{} is changed twice", change.key)
                })?;
                keys.insert(change.key);
            }
            for change in &commit.changes {
                if let Some(pod) = change.pod() {
                    // One pod is of one group. Where the world moved on during the pass it may have come to
                    // another one; then the store's expectations decide which plan holds.
                    ensure(!(self.same_world && self.admitted.pods.contains(pod)), || {
                        format!("{pod:?} is changed by another plan of this pass")
                    })?;
                    self.pods.insert(pod.clone());
                }
                self.change(change, &commit.changes)?;
                if let Change::Stop { pod, .. } | Change::RemovePod { pod } = change {
                    self.stopped.insert(pod.key.clone());
                }
            }
        }
        self.losses(plan)?;
        self.update(plan)?;
        self.daemons(plan)?;
        for (name, added) in &self.added {
            let node = self
                .world
                .nodes
                .get(name)
                .ok_or_else(|| format!("node {name} is gone"))?;
            let mut sum = node.used;
            sum.add(self.admitted.added.get(name).copied().unwrap_or_default());
            sum.add(*added);
            let room = node.allocatable;
            ensure(
                sum.cpu_milli <= room.cpu_milli
                    && sum.memory <= room.memory
                    && sum.storage <= room.storage.max(node.used.storage)
                    && sum.pods <= room.pods,
                || format!("node {name} would hold {sum:?} of {room:?}"),
            )?;
        }
        Ok(())
    }

    fn change(&mut self, change: &Change, commit: &[Change]) -> Checked {
        match change {
            Change::PutTemplate { hash, record } => ensure(record.encode().0 == *hash, || {
                format!("template {hash} is not named by its content")
            }),
            Change::CreatePod { key, record } => self.create(key, record, commit),
            Change::Bind { pod, node, ports } => {
                let state = self.current(pod)?;
                ensure(state.record.node.is_empty(), || {
                    format!("{:?} has a node already", pod.key)
                })?;
                ensure(!state.stopping(), || format!("{:?} is being stopped", pod.key))?;
                let template = state.template.clone().ok_or("its template is not known")?;
                self.land(node, &template, (&pod.key.0, &World::labels_of(state)), ports)
            }
            Change::Explain { pod, waiting } => {
                let state = self.current(pod)?;
                let placed = !state.record.node.is_empty();
                let stays = self
                    .node_of(state)
                    .is_some_and(|n| n.lost().is_some() || n.draining().is_some());
                ensure(!placed || stays || waiting.is_empty(), || {
                    format!("{:?} has a node", pod.key)
                })?;
                ensure(state.record.waiting != *waiting, || "nothing new is explained".into())
            }
            Change::Stop { pod, lost: true, .. } => self.lost(pod, commit),
            Change::Stop {
                pod,
                at,
                drain: Some(drain),
                ..
            } => self.drained(pod, drain, *at),
            Change::Stop { pod, at, .. } => {
                let state = self.current(pod)?;
                let away = self.world.deserted(state) || self.driven_out(state, *at);
                ensure(away || !matches!(self.group, Group::Pod(_)), || {
                    "nobody asked to stop it".into()
                })?;
                ensure(!state.stopping(), || format!("{:?} is being stopped already", pod.key))
            }
            Change::RemovePod { pod } => {
                let state = self.current(pod)?;
                let never_ran =
                    state.record.node.is_empty() && (state.stopping() || !matches!(self.group, Group::Pod(_)));
                let node_gone = !state.record.node.is_empty()
                    && !self.world.nodes.contains_key(&state.record.node)
                    && !self.world.deserted(state);
                let off = self.node_of(state).is_some_and(|n| n.off.is_some());
                let ended = state.stopping() && (off || state.status.as_ref().is_some_and(|s| s.value.stopped));
                ensure(never_ran || node_gone || ended || state.vanished(), || {
                    format!("{:?} may still run", pod.key)
                })
            }
            Change::Release { pod } => {
                let state = self.current(pod)?;
                if let Group::DaemonSet(key) = self.group {
                    return self.may_release(key, state);
                }
                let (Group::Controller(_) | Group::Update(_)) = self.group else {
                    return Err("only a controller's pods are released".into());
                };
                let owner = state.record.owner.as_ref().map(|o| o.uid.as_str());
                let rc = owner
                    .and_then(|uid| self.world.controller_by_uid(uid))
                    .map(|(_, c)| &c.rc);
                ensure(
                    rc.is_none_or(|rc| {
                        let selector = match &rc.spec.selector {
                            none if none.is_empty() => &rc.spec.template.metadata.labels,
                            given => given,
                        };
                        rc.metadata.deletion_timestamp.is_some()
                            || selector.iter().any(|(k, v)| state.label(k) != Some(v))
                    }),
                    || format!("{:?} is one of the controller's", pod.key),
                )
            }
            Change::Adopt { pod, owner } => {
                let state = self.state(pod)?;
                ensure(state.record.owner.is_none(), || format!("{:?} has an owner", pod.key))?;
                self.owns(&pod.key, owner)
            }
            Change::RemoveController { kind, key, rv } => {
                let found = match kind {
                    OwnerKind::ReplicationController => self.world.controllers.get(key).map(|c| (c.rv, &c.rc.metadata)),
                    OwnerKind::DaemonSet => self.world.daemon_sets.get(key).map(|s| (s.rv, &s.set.metadata)),
                };
                let (actual, meta) = found.ok_or("the controller is gone")?;
                at(actual, *rv)?;
                let marked = meta.deletion_timestamp.is_some();
                let replaced = self.is_replaced(key, commit);
                ensure(marked || replaced || self.world.terminating(&key.0), || {
                    format!("{key:?} is not being deleted")
                })
            }
            Change::RemoveBudget { key, rv } => {
                let budget = self.world.budgets.get(key).ok_or("the budget is gone")?;
                at(budget.rv, *rv)?;
                ensure(self.world.terminating(&key.0), || {
                    format!("{key:?} is in a namespace that stays")
                })
            }
            Change::RemoveNamespace { name, rv } => {
                let namespace = self.world.namespaces.get(name).ok_or("the namespace is gone")?;
                at(namespace.rv, *rv)?;
                let empty = super::gc::range(&self.world.pods, name).next().is_none()
                    && super::gc::range(&self.world.controllers, name).next().is_none()
                    && super::gc::range(&self.world.daemon_sets, name).next().is_none()
                    && super::gc::range(&self.world.budgets, name).next().is_none();
                ensure(empty && self.world.terminating(name) && name != "default", || {
                    format!("namespace {name} is in use")
                })
            }
            Change::RemoveTemplate { hash, .. } => {
                ensure(!self.world.template_used(hash), || format!("template {hash} is in use"))
            }
            Change::RemoveEvent { .. } | Change::RemoveOp { .. } => Ok(()),
            Change::Fail { pod, failure } => self.failed(pod, failure, commit),
            Change::SetDrain {
                node,
                rv,
                record,
                holds,
            } => self.set_drain(node, *rv, record, holds.as_ref()),
            Change::SetUpdate { key, rv, record } => self.set_update(key, *rv, record, commit),
            Change::SetReplicas { key, rv, replicas, .. } => self.set_replicas(key, *rv, *replicas),
            Change::Rename {
                from,
                from_rv,
                to,
                to_rv,
                controller,
            } => self.rename((from, *from_rv), (to, *to_rv), controller, commit),
            Change::SetRevisions { key, before, .. } => {
                ensure(self.world.revisions.get(key).map(|r| r.rv) == *before, || {
                    format!("the revisions of {key:?} are others by now")
                })
            }
            Change::RemoveRevisions { key, rv } => {
                let known = self.world.revisions.get(key).ok_or("the revisions are gone")?;
                at(known.rv, *rv)
            }
            Change::RemoveUpdate { key, rv } => {
                let known = self.world.updates.get(key).ok_or("the update is gone")?;
                at(known.rv, *rv)?;
                let goes_on = self.world.update_at(key).is_some() && !self.world.terminating(&key.0);
                ensure(!goes_on, || format!("the update of {key:?} goes on"))
            }
            Change::GiveUp { node, .. } => self.give_up(node),
            Change::RemoveLoss { node, rv } => self.remove_loss(node, *rv),
            Change::RemoveTombstone { node, rv } => {
                let tombstone = self.world.tombstones.get(node).ok_or("the tombstone is gone")?;
                at(tombstone.rv, *rv)
            }
            Change::ReleaseHolds {
                node,
                rv,
                at: now,
                left,
            } => {
                let state = self.world.nodes.get(node).ok_or("the node is gone")?;
                let holds = state.holds.as_ref().ok_or("the node has no holds")?;
                at(holds.rv, *rv)?;
                let over = |id: &String| holds.value.get(id).is_some_and(|h| h.expired(*now));
                let kept = left.iter().all(|(id, hold)| holds.value.get(id) == Some(hold));
                ensure(
                    kept && holds.value.keys().all(|id| left.contains_key(id) || over(id)),
                    || format!("a hold of node {node} is released whose time is not over"),
                )
            }
            Change::Unfreeze { rv } => {
                let freeze = self.world.freeze.as_ref().ok_or("it is not frozen")?;
                at(freeze.rv, *rv)?;
                ensure(freeze.value.until.is_some(), || "nobody said when it ends".into())
            }
            Change::Unplaced { key, before, record } => {
                ensure(*self.group == Group::DaemonSet(key.clone()), || {
                    format!("{key:?} is another group's")
                })?;
                let set = self.world.daemon_sets.get(key).ok_or("the set is gone")?;
                let known = self.world.unplaced_version(key) == *before;
                ensure(
                    known && record.uid == set.set.metadata.uid && !record.words.is_empty(),
                    || format!("what is said of {key:?} is not of it, or nothing"),
                )
            }
            Change::RemoveUnplaced { key, rv } => {
                let known = self.world.unplaced_version(key).ok_or("nothing is said")?;
                at(known, *rv)
            }
            Change::Record(record) => ensure(record.caller == COORDINATOR && commit.len() > 1, || {
                format!("the audit record of {} goes with no change of ours", record.object)
            }),
            Change::RemoveStatus { key, rv } => ensure(self.world.stray_status(key) == Some(*rv), || {
                format!("the status of {key:?} is in use")
            }),
        }
    }

    fn create(&mut self, key: &Key, record: &PodRecord, commit: &[Change]) -> Checked {
        ensure(!self.world.pods.contains_key(key), || format!("{key:?} exists already"))?;
        ensure(
            !record.uid.is_empty() && self.world.pod_by_uid(&record.uid).is_none(),
            || format!("{key:?} has no uid of its own"),
        )?;
        let owner = record.owner.as_ref().ok_or("a planner's pod has an owner")?;
        self.owns(key, owner)?;
        if let Some(replaces) = &record.replaces {
            self.replaces(owner, replaces, commit)?;
        }
        let template = match self.world.templates.get(&record.template) {
            Some(template) => (**template).clone(),
            None => commit
                .iter()
                .find_map(|c| match c {
                    Change::PutTemplate { hash, record: t } if *hash == record.template => {
                        Some(Template::new(Rv::default(), (**t).clone()))
                    }
                    _ => None,
                })
                .ok_or_else(|| format!("{key:?} would have no template"))?,
        };
        if record.node.is_empty() {
            ensure(!record.waiting.is_empty() && record.ports.is_empty(), || {
                format!("{key:?} waits and does not say why, or has ports already")
            })
        } else {
            let labels = overlaid(&template.record.labels, &record.labels);
            self.land(&record.node, &template, (&key.0, &labels), &record.ports)
        }?;
        self.daemon(key, record)
    }

    /// A pod of the template comes to the node.
    ///
    /// `pod` is its namespace and labels, `given` the host ports given to it.
    fn land(
        &mut self,
        name: &str,
        template: &Template,
        pod: (&str, &BTreeMap<String, String>),
        given: &[u16],
    ) -> Checked {
        let node = self
            .world
            .nodes
            .get(name)
            .ok_or_else(|| format!("there is no node {name}"))?;
        let spec = &template.record.spec;
        let labels = &node.node.metadata.labels;
        // Daemons are of their nodes, held or not.
        let held = node.held().is_some() && !matches!(self.group, Group::DaemonSet(_));
        ensure(node.is_ready() && !held, || format!("node {name} takes no pods"))?;
        let replaced = self.world.pods_on(name).find(|(_, p)| p.lost());
        ensure(replaced.is_none(), || format!("{replaced:?} may still run on {name}"))?;
        ensure(spec.node_name.is_empty() || spec.node_name == name, || {
            format!("the pod is for node {}, not {name}", spec.node_name)
        })?;
        ensure(spec.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v)), || {
            format!("node {name} does not match the pod's nodeSelector")
        })?;
        ensure(spec.affinity.node_affinity.admits(name, labels), || {
            format!("node {name} does not match the pod's node affinity")
        })?;
        tolerated(&template.record, node)
            .map_err(|taint| format!("the pod does not tolerate taint {taint} of {name}"))?;
        self.spreads
            .land(self.world, &self.admitted.landed, pod, template, name)?;
        self.added.entry(name.to_owned()).or_default().add(template.request);
        let asking = &template.asking;
        ensure(given.len() == asking.len(), || {
            format!(
                "{} host ports are given where {} are asked for",
                given.len(),
                asking.len()
            )
        })?;
        if let Some(port) = given.iter().find(|&p| !host_port::GIVEN.contains(p)) {
            return Err(format!("host port {port} is not one of those that are given"));
        }
        let given = given.iter().copied().zip(asking.iter().copied());
        let wanted: Vec<_> = template.host_ports.iter().copied().chain(given).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let domain = port_domain(name, node);
        let world = self.world;
        let taken = self.taken.get_or_insert_with(|| {
            let mut taken = Ports::new();
            for (name, node) in world.nodes.iter().filter(|(_, n)| !n.ports.is_empty()) {
                taken
                    .entry(port_domain(name, node))
                    .or_default()
                    .extend(node.ports.keys().copied());
            }
            taken
        });
        for port in &wanted {
            let before = [taken.get(&domain), self.admitted.ports.get(&domain)];
            let free = !before.into_iter().flatten().any(|p| p.contains(port))
                && self.ports.entry(domain.clone()).or_default().insert(*port);
            ensure(free, || format!("host port {} is taken on {domain}", port.0))?;
        }
        Ok(())
    }

    fn node_of(&self, pod: &PodState) -> Option<&NodeState> {
        self.world.nodes.get(&pod.record.node)
    }

    fn state(&self, pod: &Before) -> Result<&PodState, String> {
        let state = self
            .world
            .pods
            .get(&pod.key)
            .ok_or_else(|| format!("{:?} is gone", pod.key))?;
        at(state.rv, pod.rv)?;
        Ok(state)
    }

    /// The pod as the world has it; it must be of this group.
    fn current(&self, pod: &Before) -> Result<&PodState, String> {
        let state = self.state(pod)?;
        let group = Group::of_pod(self.world, &pod.key, state);
        ensure(group == *self.group, || format!("{:?} belongs to {group:?}", pod.key))?;
        Ok(state)
    }

    /// The group is the controller with this uid and of this kind, and the pod is in its namespace.
    fn owns(&self, pod: &Key, owner: &OwnerRecord) -> Checked {
        let group = match owner.kind {
            OwnerKind::ReplicationController => {
                let found = self.world.controller_by_uid(&owner.uid);
                found.map(|(key, _)| (key, Group::of_controller(self.world, key)))
            }
            OwnerKind::DaemonSet => {
                let found = self.world.daemon_set_by_uid(&owner.uid);
                found.map(|(key, _)| (key, Group::DaemonSet(key.clone())))
            }
        };
        let ours = group.is_some_and(|(key, group)| *self.group == group && key.0 == pod.0);
        ensure(ours, || format!("{pod:?} would be of another controller"))
    }
}

fn at(actual: Rv, expected: Rv) -> Checked {
    ensure(actual == expected, || {
        format!("it was decided on version {expected}, now it is {actual}")
    })
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

#[path = "check_daemons.rs"]
mod daemons;
#[path = "check_drain.rs"]
mod drain;
#[path = "check_loss.rs"]
mod loss;
#[path = "check_update.rs"]
mod update;

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
