//! What a plan may do about daemons: where they may come, and how many nodes an update may leave without. Part of
//! `check`.
//!
//! Invariant: counts anew from the world; knows nothing of how `daemons` decides.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Checked, Group, Plan, Staged, ensure, tolerated};
use crate::world::{Key, NodeState, PodState, daemons::DaemonSetState, record::PodRecord};

impl<'a> Staged<'a> {
    fn set(&self) -> Option<&'a DaemonSetState> {
        match self.group {
            Group::DaemonSet(key) => self.world.daemon_sets.get(key),
            _ => None,
        }
    }

    /// Whether the set is for the node.
    fn is_for(&self, set: &DaemonSetState, name: &str, node: &NodeState) -> bool {
        let (spec, labels) = (&set.set.spec.template.spec, &node.node.metadata.labels);
        (spec.node_name.is_empty() || spec.node_name == name)
            && spec.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v))
            && spec.affinity.node_affinity.admits(name, labels)
            && tolerated(&set.template.record, node).is_ok()
            && node.off.is_none()
            && !self.world.stops_daemons(node)
    }

    /// A daemon comes to a node that the set is for, made of its present template, and beside no other of it that may
    /// run.
    pub(super) fn daemon(&mut self, key: &Key, record: &PodRecord) -> Checked {
        let Some(set) = self.set() else { return Ok(()) };
        let name = &record.node;
        let node = self.world.nodes.get(name);
        let node = node.ok_or_else(|| format!("daemon {key:?} is for no node"))?;
        ensure(self.is_for(set, name, node), || {
            format!("daemonset {:?} is not for node {name}", set.set.metadata.name)
        })?;
        let (hash, _) = crate::world::record::TemplateRecord::new(&set.set.spec.template).encode();
        ensure(record.template == hash, || {
            format!("daemon {key:?} is not of the set's template")
        })?;
        let mut others = self.world.pods_of(&set.set.metadata.uid);
        let other = others.find(|(_, p)| p.record.node == *name && !p.ended());
        ensure(other.is_none(), || {
            format!("{:?} may still run on {name}", other.map(|o| o.0))
        })?;
        ensure(self.daemons_on.insert(name.clone()), || {
            format!("two daemons come to node {name}")
        })
    }

    /// Of the nodes that the set is for, and that no taint takes a daemon from, no more lose their available daemon than
    /// may be without one, and none that a budget needs; none while all is frozen.
    pub(super) fn daemons(&self, plan: &Plan) -> Checked {
        let Some(set) = self.set() else { return Ok(()) };
        let stopped: BTreeSet<&Key> = plan
            .changes()
            .filter_map(|c| match c {
                Change::Stop { pod, at, .. } => Some((&pod.key, *at)),
                _ => None,
            })
            // What a taint drives out has to go, whatever a present template would bear.
            .filter(|(key, at)| self.world.pods.get(*key).is_none_or(|pod| !self.driven_out(pod, *at)))
            .map(|(key, _)| key)
            .collect();
        if stopped.is_empty() {
            return Ok(());
        }
        let mut serving: BTreeMap<&str, Vec<&Key>> = BTreeMap::new();
        let pods = self.world.pods_of(&set.set.metadata.uid);
        for (key, pod) in pods.filter(|(_, p)| self.daemon_serves(set, p)) {
            serving.entry(&pod.record.node).or_default().push(key);
        }
        let (mut nodes, mut before, mut after) = (0, 0, 0);
        for (name, _) in self.world.nodes.iter().filter(|(n, node)| self.is_for(set, n, node)) {
            let here = serving.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let goes = here.iter().all(|key| stopped.contains(key));
            nodes += 1;
            before += usize::from(here.is_empty());
            after += usize::from(goes);
            for (key, pod) in here
                .iter()
                .filter(|_| goes)
                .filter_map(|key| self.world.pods.get_key_value(*key))
            {
                self.budgets(key, pod)?;
            }
        }
        if after == before {
            return Ok(());
        }
        ensure(!self.frozen(self.admitted.now), || "the cluster is frozen".into())?;
        let most = set.set.spec.max_unavailable(nodes);
        ensure(most.is_some_and(|most| after <= most), || {
            format!("{after} of {nodes} nodes would be without an available daemon, of at most {most:?}")
        })
    }

    fn daemon_serves(&self, set: &DaemonSetState, pod: &PodState) -> bool {
        let heard = self.node_of(pod).is_some_and(NodeState::is_ready);
        pod.live() && heard && pod.ready_for(set.set.spec.min_ready_seconds, self.admitted.now)
    }

    /// Whether the set lets the pod go.
    pub(super) fn may_release(&self, key: &Key, pod: &PodState) -> Checked {
        let Some(set) = self.world.daemon_sets.get(key) else {
            return Ok(());
        };
        let ours = set.set.spec.selector.matches(|k| pod.label(k));
        ensure(set.set.metadata.deletion_timestamp.is_some() || !ours, || {
            format!("{key:?} selects the pod")
        })
    }
}

#[cfg(test)]
#[path = "check_daemons_tests.rs"]
mod tests;
