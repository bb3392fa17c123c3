//! Daemon sets: which nodes each is for, and how it stands. Made by `World::apply`; asked by the planner of daemons, by
//! the views and by the api.
//!
//! Invariant: pure. What is derived of a set is a function of the records; its counts are computed when they are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proto::model::{ConditionStatus, DaemonSet, DaemonSetStatus, PodCondition, Time, Toleration};
use serde::{Deserialize, Serialize};

use super::{Key, NodeState, PodState, Template, Touched, Versioned, World, record::TemplateRecord};
use crate::store::Rv;

/// `unplaced/<namespace>/<name>`: why nodes have no daemon of the set, for people. Written by control; gone with the
/// set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnplacedRecord {
    /// Set that it is about; another uid's is ignored.
    pub uid: String,
    pub words: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSetState {
    pub rv: Rv,
    pub set: Arc<DaemonSet>,
    /// What its new pods are made from, with its name in the store; that may not have it yet.
    pub template: Arc<Template>,
    pub hash: String,
    /// Why nodes have no daemon of it.
    pub unplaced: Option<Versioned<UnplacedRecord>>,
    /// Newest version of it, of any pod of it, or of a node by which its counts are others: its derived status may
    /// have changed then.
    pub touched: Rv,
}

impl DaemonSetState {
    pub fn new(rv: Rv, set: DaemonSet) -> Self {
        let record = TemplateRecord::new(&set.spec.template);
        Self {
            rv,
            hash: record.encode().0,
            template: Arc::new(Template::new(rv, record)),
            set: Arc::new(set),
            unplaced: None,
            touched: rv,
        }
    }

    pub fn uid(&self) -> &str {
        &self.set.metadata.uid
    }

    /// Whether its selector takes the pod.
    pub fn selects(&self, pod: &PodState) -> bool {
        self.set.spec.selector.matches(|key| pod.label(key))
    }

    /// Whether the pod is of its present template.
    pub fn is_current(&self, pod: &PodState) -> bool {
        pod.record.template == self.hash
    }

    /// Whether its daemon may be on a node of this name and these labels.
    fn chooses(&self, node: &NodeState) -> bool {
        let meta = &node.node.metadata;
        let spec = &self.template.record.spec;
        let chosen = spec.node_name.is_empty() || spec.node_name == meta.name;
        chosen
            && spec.node_selector.iter().all(|(k, v)| meta.labels.get(k) == Some(v))
            && spec.affinity.node_affinity.admits(&meta.name, &meta.labels)
    }

    fn tolerates(&self, node: &NodeState) -> bool {
        let tolerations = &self.template.record.spec.tolerations;
        node.node.spec.taints.iter().all(|t| Toleration::admit(tolerations, t))
    }

    /// Why it has not what it is for, if that is not for the present only.
    fn why(&self) -> &str {
        self.unplaced.as_ref().map_or("", |u| &u.value.words)
    }
}

impl World {
    /// Whether daemons may be on the node at all, whatever their sets say. Holds are no matter: a daemon is what runs on
    /// a node, also on one that takes no other pods.
    pub fn hosts_daemons(&self, node: &NodeState) -> bool {
        node.off.is_none() && !self.stops_daemons(node)
    }

    /// Whether a drain stops daemons there: once all else has left, and until it is taken back.
    pub fn stops_daemons(&self, node: &NodeState) -> bool {
        let Some(drain) = node.emptied().filter(|d| d.options.stop_daemons) else {
            return false;
        };
        let mut others = self.pods_on(&node.node.metadata.name);
        drain.ended.is_some() || others.all(|(_, pod)| pod.is_daemon() || pod.is_over())
    }

    /// The node on which this pod's end, or another one's coming, can be what stops daemons.
    pub(super) fn daemons_stop_beside(&self, pod: &Key) -> Option<String> {
        let node = &self.pods.get(pod)?.record.node;
        let drain = self.nodes.get(node)?.draining()?;
        drain.options.stop_daemons.then(|| node.clone())
    }

    /// Whether the set is for the node: one daemon belongs there. That a node is not Ready is no matter here.
    pub fn wants_daemon(&self, set: &DaemonSetState, node: &NodeState) -> bool {
        self.hosts_daemons(node) && set.chooses(node) && set.tolerates(node)
    }

    /// Whether a daemon that is there stays: taints may keep a new one away and leave that alone. Whether one drives it
    /// out is asked elsewhere.
    pub fn keeps_daemon(&self, set: &DaemonSetState, node: &NodeState) -> bool {
        self.hosts_daemons(node) && set.chooses(node)
    }

    pub fn daemon_set_by_uid(&self, uid: &str) -> Option<(&Key, &DaemonSetState)> {
        let key = self.daemon_sets_by_uid.get(uid)?;
        self.daemon_sets.get_key_value(key)
    }

    /// Whether an owner of pods with this uid is there, of whatever kind.
    pub fn owner_exists(&self, uid: &str) -> bool {
        self.controllers_by_uid.contains_key(uid) || self.daemon_sets_by_uid.contains_key(uid)
    }

    pub(super) fn apply_daemon_set(&mut self, key: Key, set: Option<DaemonSet>, rv: Rv) {
        if let Some(old) = self.daemon_sets.remove(&key) {
            self.daemon_sets_by_uid.remove(old.uid());
        }
        if let Some(set) = set {
            let mut state = DaemonSetState::new(rv, set);
            state.unplaced = self.unplaced_record(&key, state.uid());
            self.daemon_sets_by_uid.insert(state.uid().to_owned(), key.clone());
            self.daemon_sets.insert(key, state);
        }
    }

    fn unplaced_record(&self, key: &Key, uid: &str) -> Option<Versioned<UnplacedRecord>> {
        let found = self.unplaced_daemons.get(key);
        found.filter(|u| u.value.uid == uid).cloned()
    }

    /// Version of the record of why daemons of a set of this name are not placed, also of one that is gone.
    pub fn unplaced_version(&self, key: &Key) -> Option<Rv> {
        self.unplaced_daemons.get(key).map(|u| u.rv)
    }

    /// Such records without a set of their uid, with their versions.
    pub fn stray_unplaced(&self) -> impl Iterator<Item = (&Key, Rv)> {
        let records = self.unplaced_daemons.iter();
        records.filter_map(|(key, record)| {
            let set = self.daemon_sets.get(key);
            set.is_none_or(|s| s.uid() != record.value.uid)
                .then_some((key, record.rv))
        })
    }

    /// After the record of why daemons are not placed became another one.
    pub(super) fn refresh_unplaced(&mut self, key: Key, rv: Rv, touched: &mut Vec<Touched>) {
        let Some(uid) = self.daemon_sets.get(&key).map(|s| s.uid().to_owned()) else {
            return;
        };
        let unplaced = self.unplaced_record(&key, &uid);
        if let Some(state) = self.daemon_sets.get_mut(&key) {
            state.unplaced = unplaced;
            state.touched = state.touched.max(rv);
            touched.push(Touched::DaemonSet(key));
        }
    }

    /// What a node is to each set: whether it is for it, has to leave it, and can be counted on.
    pub(super) fn seen_by_sets(&self, node: &str) -> BTreeMap<Key, (bool, bool, bool)> {
        let Some(node) = self.nodes.get(node) else {
            return BTreeMap::new();
        };
        let seen = |state| {
            let wants = self.wants_daemon(state, node);
            (wants, self.keeps_daemon(state, node), wants && node.is_ready())
        };
        let sets = self.daemon_sets.iter();
        sets.map(|(key, state)| (key.clone(), seen(state))).collect()
    }

    /// Touches the sets to which the node is another thing than it was.
    pub(super) fn touch_seen(
        &mut self,
        node: &str,
        before: &BTreeMap<Key, (bool, bool, bool)>,
        touched: &mut Vec<Touched>,
    ) {
        let now = self.seen_by_sets(node);
        let sets = self.daemon_sets.keys();
        let differs = sets.filter(|k| before.get(k) != now.get(k)).cloned().collect();
        self.touch_sets(differs, touched);
    }

    /// Touches the sets: what they are for, or how they stand, is another thing now.
    pub fn touch_sets(&mut self, keys: BTreeSet<Key>, touched: &mut Vec<Touched>) {
        for key in keys {
            if let Some(state) = self.daemon_sets.get_mut(&key) {
                state.touched = state.touched.max(self.rv);
                touched.push(Touched::DaemonSet(key));
            }
        }
    }

    /// When a set last looked otherwise, as far as is known.
    pub(super) fn daemon_set_version(&self, state: &DaemonSetState) -> Rv {
        state.touched.max(self.loaded)
    }

    pub(super) fn daemon_set(&self, state: &DaemonSetState, now: Time) -> DaemonSet {
        let mut set = (*state.set).clone();
        set.metadata.resource_version = state.rv.to_string();
        set.status = Some(self.daemon_set_status(state, now));
        set
    }

    /// Counts nodes with their daemons; those being stopped are not among them.
    pub fn daemon_set_status(&self, state: &DaemonSetState, now: Time) -> DaemonSetStatus {
        let mut on: BTreeMap<&str, Standing> = BTreeMap::new();
        for (_, pod) in self.pods_of(state.uid()).filter(|(_, p)| p.live()) {
            let node = pod.record.node.as_str();
            let heard = self.nodes.get(node).is_some_and(NodeState::is_ready);
            let standing = on.entry(node).or_default();
            standing.ready |= heard && pod.ready();
            standing.available |= heard && pod.ready_for(state.set.spec.min_ready_seconds, now);
            standing.updated |= state.is_current(pod);
        }
        let mut status = DaemonSetStatus {
            observed_generation: state.set.metadata.generation.unwrap_or(1),
            ..DaemonSetStatus::default()
        };
        for (name, node) in &self.nodes {
            let found = on.get(name.as_str());
            if !self.wants_daemon(state, node) {
                status.number_misscheduled += i32::from(found.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(found) = found else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(found.ready);
            status.number_available += i32::from(found.available);
            status.updated_number_scheduled += i32::from(found.updated);
        }
        status.number_unavailable = status.desired_number_scheduled - status.number_available;
        status.conditions = vec![complete(state, &status), placed(state)];
        status
    }
}

/// What a node has of a set.
#[derive(Default)]
struct Standing {
    ready: bool,
    available: bool,
    updated: bool,
}

/// Whether nothing keeps a daemon of the present template from a node that the set is for.
fn placed(state: &DaemonSetState) -> PodCondition {
    let why = state.why();
    let (status, reason) = if why.is_empty() {
        (ConditionStatus::True, "Placed")
    } else {
        (ConditionStatus::False, "FailedPlacement")
    };
    PodCondition {
        kind: "Placed".into(),
        status,
        reason: reason.into(),
        message: why.to_owned(),
        last_transition_time: None,
    }
}

/// Whether each node has what the set has for it.
fn complete(state: &DaemonSetState, status: &DaemonSetStatus) -> PodCondition {
    let desired = status.desired_number_scheduled;
    let most = state.set.spec.max_unavailable(usize::try_from(desired).unwrap_or(0));
    let mut parts = Vec::new();
    let (met, reason) = if status.number_ready != desired {
        let (have, ready) = (status.current_number_scheduled, status.number_ready);
        parts.push(format!("{have} of {desired} nodes have a daemon, {ready} ready"));
        (ConditionStatus::False, "NotAllReady")
    } else if let Some(most) = most.filter(|_| status.updated_number_scheduled != desired) {
        let (updated, missing) = (status.updated_number_scheduled, status.number_unavailable);
        parts.push(format!(
            "{updated} of {desired} daemons are up to date; {missing} unavailable, at most {most} at a time"
        ));
        (ConditionStatus::False, "Updating")
    } else {
        (ConditionStatus::True, "AllReady")
    };
    let why = state.why();
    if !why.is_empty() {
        parts.push(why.to_owned());
    }
    PodCondition {
        kind: "Ready".into(),
        status: met,
        reason: reason.into(),
        message: parts.join("; "),
        last_transition_time: None,
    }
}
