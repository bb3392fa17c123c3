//! What the world is asked, by its indices. Called by planners, sessions and the api.
//!
//! Invariant: nothing is changed here; pods come sorted by key.

use std::collections::{BTreeMap, BTreeSet};

use proto::model::NamespacePhase;

use super::{
    ControllerState, Key, PodState, Versioned, World,
    record::{self, LossRecord},
};
use crate::store::Rv;

impl World {
    pub fn controller_by_uid(&self, uid: &str) -> Option<(&Key, &ControllerState)> {
        self.controllers_by_uid
            .get(uid)
            .and_then(|k| self.controllers.get_key_value(k))
    }

    pub fn pod_by_uid(&self, uid: &str) -> Option<(&Key, &PodState)> {
        self.pods_by_uid.get(uid).and_then(|k| self.pods.get_key_value(k))
    }

    /// Pods whose owner has this uid, sorted by key.
    pub fn pods_of(&self, owner_uid: &str) -> impl Iterator<Item = (&Key, &PodState)> {
        self.keyed(self.pods_by_owner.get(owner_uid))
    }

    /// Pods placed on this node, sorted by key.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = (&Key, &PodState)> {
        self.keyed(self.pods_by_node.get(node))
    }

    /// Pods that were started in the place of the one with this uid, whatever became of them, sorted by key.
    pub fn replacements_of(&self, uid: &str) -> impl Iterator<Item = (&Key, &PodState)> {
        self.keyed(self.replacements.get(uid))
    }

    /// Whether the pod's node was deleted and its agent may still run it.
    pub fn deserted(&self, pod: &PodState) -> bool {
        let node = &pod.record.node;
        !self.nodes.contains_key(node) && self.tombstones.get(node).is_some_and(|t| !t.value.forgotten)
    }

    /// Nodes that are not heard, by name.
    pub fn lost_nodes(&self) -> impl ExactSizeIterator<Item = &String> {
        self.lost.iter()
    }

    /// How many nodes count when it is asked what share of them is lost: those that were heard once, without those
    /// that are confirmed off.
    pub fn fleet_size(&self) -> usize {
        self.fleet.len()
    }

    /// Whether the node is among those.
    pub fn in_fleet(&self, name: &str) -> bool {
        self.fleet.contains(name)
    }

    /// Since when pods of lost nodes were replaced, by node; also of nodes that are heard again or gone.
    pub fn losses(&self) -> impl Iterator<Item = (&String, &Versioned<LossRecord>)> {
        self.losses.iter()
    }

    /// Uids of owners that pods name, whether such a controller exists or not.
    pub fn owner_uids(&self) -> impl Iterator<Item = &String> {
        self.pods_by_owner.keys()
    }

    /// Pods without an owner, sorted by key; `namespace` empty: all.
    pub fn bare_pods<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a PodState)> {
        let from = (namespace.to_owned(), String::new());
        self.bare
            .range(from..)
            .take_while(move |k| namespace.is_empty() || k.0 == namespace)
            .filter_map(|k| self.pods.get_key_value(k))
    }

    /// Pods that have no node and are not being stopped, sorted by key.
    pub fn unplaced_pods(&self) -> impl Iterator<Item = (&Key, &PodState)> {
        self.unplaced.iter().filter_map(|k| self.pods.get_key_value(k))
    }

    /// As [`World::unplaced_pods`], of one namespace.
    pub fn unplaced_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a PodState)> {
        let keys = self.unplaced.range((namespace.to_owned(), String::new())..);
        keys.take_while(move |k| k.0 == namespace)
            .filter_map(|k| self.pods.get_key_value(k))
    }

    /// Statuses without a pod of their uid, with their versions.
    pub fn stray_statuses(&self) -> impl Iterator<Item = (&Key, Rv)> {
        self.statuses.keys().filter_map(|k| Some((k, self.stray_status(k)?)))
    }

    /// Version of the status under this key, if no pod of its uid is there.
    pub fn stray_status(&self, key: &Key) -> Option<Rv> {
        let status = self.statuses.get(key)?;
        let stray = self.pods.get(key).is_none_or(|p| p.record.uid != status.value.uid);
        stray.then_some(status.rv)
    }

    /// Whether the namespace is being emptied. One that has no record is not.
    pub fn terminating(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|n| {
            n.value
                .status
                .as_ref()
                .is_some_and(|s| s.phase == NamespacePhase::Terminating)
        })
    }

    /// Whether some pod is made from this template.
    pub fn template_used(&self, hash: &str) -> bool {
        self.pods_by_template.contains_key(hash)
    }

    /// Every label of a pod: its template's with the record's differences.
    pub fn labels_of(pod: &PodState) -> BTreeMap<String, String> {
        record::overlaid(&pod.template_record().labels, &pod.record.labels)
    }

    /// Every annotation of a pod, likewise.
    pub fn annotations_of(pod: &PodState) -> BTreeMap<String, String> {
        record::overlaid(&pod.template_record().annotations, &pod.record.annotations)
    }

    pub(super) fn keyed<'a>(
        &'a self,
        keys: Option<&'a BTreeSet<Key>>,
    ) -> impl Iterator<Item = (&'a Key, &'a PodState)> {
        keys.into_iter().flatten().filter_map(|k| self.pods.get_key_value(k))
    }
}
