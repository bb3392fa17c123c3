//! The coordinator's view of everything: typed state built from the store's snapshot and updates, with the
//! indices that planners and sessions need. Written by `hub` alone; read by `plan`, `session`, `api`.
//!
//! Invariant: pure and deterministic: the same updates give the same world, however they were cut into
//! batches; every index and aggregate equals what a rebuild would give (`tests.rs` checks both).

mod budgets;
pub mod daemons;
pub mod drains;
mod endpoints;
pub mod hub;
mod index;
mod queries;
pub mod record;
pub mod replicas;
pub mod restored;
mod select;
pub mod settings;
mod state;
#[cfg(test)]
mod tests;
pub mod updates;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

pub use budgets::{BudgetState, Tally};
use daemons::{DaemonSetState, UnplacedRecord};
use drains::DrainRecord;
use proto::model::{DaemonSet, Event, Hardware, Kind, Namespace, Node, NodeCondition, ReplicationController};
use record::{
    FactsRecord, FreezeRecord, HolderRecord, HoldsRecord, LossRecord, OffRecord, PodRecord, SettingsRecord,
    StatusRecord, TemplateRecord, TombstoneRecord,
};
use replicas::CoordinatorRecord;
use restored::{OrphanRecord, RestoredRecord};
use serde::de::DeserializeOwned;
pub use state::{
    AGENT_DOWN, Amounts, ControllerState, DEFAULT_CPU_MILLI, DEFAULT_MEMORY, DEFAULT_PODS, HEARD_ELSEWHERE, Lost,
    NodeState, PodState, Silence, Template, UNREACHABLE, Versioned, allocatable_of, clone_words, request_of,
};
use updates::{RevisionsRecord, UpdateRecord};

use crate::store::{
    Rv, Update,
    keys::{self, Parsed, TermRecord},
};

/// Namespace and name.
pub type Key = (String, String);

/// What an update touched, for those who wait for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Touched {
    Node(String),
    /// A node was lost or is heard again, was confirmed off, or its pods may be replaced.
    Reach(String),
    /// A drain of the node began, went on or ended.
    Drain(String),
    Namespace(String),
    Controller(Key),
    /// A rolling update began, went on or ended; by the name of the controller that is replaced.
    Update(Key),
    /// A budget changed, or the pods that it counts did.
    Budget(Key),
    /// A daemon set, a pod of it, or a node by which it stands otherwise.
    DaemonSet(Key),
    /// By a node: a controller's pods can be reached elsewhere or no longer. What touches the controller itself or
    /// a pod of it touches its endpoints too, and is not said again.
    Endpoints(Key),
    Pod(Key),
    Event(Key),
    Template(String),
    /// Where pods of this namespace are, or what labels they have.
    Spread(String),
    /// The cluster's settings, or whether it is frozen.
    Settings,
    /// Another term began, or a replica of the coordinator came, moved or went.
    Coordinators,
    /// A restore was accepted.
    Restored,
    /// What is known of the orphans on a node.
    Orphans(String),
    /// Tokens, certificates, …: nothing of the world.
    Other,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "{key} at version {rv} cannot be read ({problem}); the store was written by another release or is damaged: restore a backup or run the release that wrote it"
)]
pub struct Unreadable {
    pub key: String,
    pub rv: Rv,
    pub problem: String,
}

/// See the module's head. Fields are public for reading; only `apply` writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    pub rv: Rv,
    pub nodes: BTreeMap<String, NodeState>,
    pub namespaces: BTreeMap<String, Versioned<Namespace>>,
    pub controllers: BTreeMap<Key, ControllerState>,
    pub budgets: BTreeMap<Key, BudgetState>,
    pub daemon_sets: BTreeMap<Key, DaemonSetState>,
    /// The present or last update of each controller that is or was replaced, by its name.
    pub updates: BTreeMap<Key, Versioned<UpdateRecord>>,
    /// What controllers were.
    pub revisions: BTreeMap<Key, Versioned<RevisionsRecord>>,
    pub pods: BTreeMap<Key, PodState>,
    pub events: BTreeMap<Key, Versioned<Event>>,
    pub templates: HashMap<String, Arc<Template>>,
    /// Every leadership on record, by term.
    pub terms: BTreeMap<u64, TermRecord>,
    /// Replicas of the coordinator, by name.
    pub coordinators: BTreeMap<String, Versioned<CoordinatorRecord>>,
    /// `op/…` records by request id, with their versions.
    pub ops: BTreeMap<String, Versioned<record::OpRecord>>,
    /// Deleted nodes, while their agents may still run pods.
    pub tombstones: BTreeMap<String, Versioned<TombstoneRecord>>,
    pub settings: settings::Settings,
    /// What `settings` was read from.
    pub settings_record: Option<Versioned<SettingsRecord>>,
    /// Nothing is to be replaced, evicted, drained or updated.
    pub freeze: Option<Versioned<FreezeRecord>>,
    /// This history goes on from another one.
    pub restored: Option<Versioned<RestoredRecord>>,
    /// Another store has this one's state: nobody may lead here.
    pub moved: bool,
    /// Pods that agents run and that are not on record, by uid.
    pub orphans: BTreeMap<String, Versioned<OrphanRecord>>,

    /// Version of the snapshot that it began with. What was derived before is dated no earlier than that: when it
    /// changed was not kept, and a version never goes back.
    loaded: Rv,

    controllers_by_uid: HashMap<String, Key>,
    daemon_sets_by_uid: HashMap<String, Key>,
    /// Updates that go on, by the uid of either side.
    updating: HashMap<String, Key>,
    unplaced_daemons: BTreeMap<Key, Versioned<UnplacedRecord>>,
    pods_by_uid: HashMap<String, Key>,
    pods_by_owner: HashMap<String, BTreeSet<Key>>,
    pods_by_node: HashMap<String, BTreeSet<Key>>,
    pods_by_template: HashMap<String, BTreeSet<Key>>,
    /// Pods without an owner.
    bare: BTreeSet<Key>,
    selection: select::Index,
    budget_index: budgets::Index,
    /// Pods that wait for a node.
    unplaced: BTreeSet<Key>,
    /// Statuses and facts whose object has not come yet (or is of another uid), by their key.
    statuses: BTreeMap<Key, Versioned<StatusRecord>>,
    facts: BTreeMap<String, Versioned<FactsRecord>>,
    inventories: BTreeMap<String, Versioned<Hardware>>,
    readies: BTreeMap<String, Versioned<NodeCondition>>,
    holders: BTreeMap<String, Versioned<HolderRecord>>,
    holds: BTreeMap<String, Versioned<HoldsRecord>>,
    offs: BTreeMap<String, Versioned<OffRecord>>,
    losses: BTreeMap<String, Versioned<LossRecord>>,
    drains: BTreeMap<String, Versioned<DrainRecord>>,
    /// Nodes whose drain goes on.
    draining: BTreeSet<String>,
    /// Pods that were started in another's place, by the other's uid and by its node.
    replacements: HashMap<String, BTreeSet<Key>>,
    replacing: HashMap<String, BTreeSet<Key>>,
    /// Nodes that are not heard ([`NodeState::lost`]).
    lost: BTreeSet<String>,
    /// Nodes that were heard once and are not confirmed off.
    fleet: BTreeSet<String>,
}

impl World {
    /// Applies one update; says what it touched. Updates must come in order of their versions.
    pub fn apply(&mut self, update: &Update) -> Result<Vec<Touched>, Unreadable> {
        self.rv = self.rv.max(update.rv);
        let mut touched = Vec::new();
        let node = node_of(&keys::parse(&update.key));
        let before = node.map(|name| {
            let face = self.nodes.get(name).map(NodeState::face);
            (face, self.reach(name), self.seen_by_sets(name))
        });
        let pod = match keys::parse(&update.key) {
            Parsed::Object {
                kind: Kind::Pod,
                namespace,
                name,
            }
            | Parsed::PodStatus { namespace, name } => Some(key(namespace, name)),
            _ => None,
        };
        let beside = pod.as_ref().and_then(|pod| self.daemons_stop_beside(pod));
        let beside = beside.map(|name| (self.seen_by_sets(&name), name));
        match keys::parse(&update.key) {
            Parsed::Object {
                kind: Kind::Node, name, ..
            } => self.apply_node(name, read(update)?, update.rv),
            Parsed::Object {
                kind: Kind::Namespace,
                name,
                ..
            } => {
                set(&mut self.namespaces, name.to_owned(), read(update)?, update.rv);
                touched.push(Touched::Namespace(name.to_owned()));
            }
            Parsed::Object {
                kind: Kind::ReplicationController,
                namespace,
                name,
            } => {
                self.apply_controller(key(namespace, name), read(update)?, update.rv, &mut touched);
                touched.push(Touched::Controller(key(namespace, name)));
            }
            Parsed::Object {
                kind: Kind::PodDisruptionBudget,
                namespace,
                name,
            } => {
                self.apply_budget(key(namespace, name), read(update)?, update.rv);
                touched.push(Touched::Budget(key(namespace, name)));
            }
            Parsed::Object {
                kind: Kind::DaemonSet,
                namespace,
                name,
            } => {
                self.apply_daemon_set(key(namespace, name), read::<DaemonSet>(update)?, update.rv);
                touched.push(Touched::DaemonSet(key(namespace, name)));
            }
            Parsed::Update { namespace, name } => {
                self.apply_update(key(namespace, name), read(update)?, update.rv, &mut touched);
            }
            Parsed::Revisions { namespace, name } => {
                set(&mut self.revisions, key(namespace, name), read(update)?, update.rv);
                touched.push(Touched::Other);
            }
            Parsed::Unplaced { namespace, name } => {
                set(
                    &mut self.unplaced_daemons,
                    key(namespace, name),
                    read(update)?,
                    update.rv,
                );
                self.refresh_unplaced(key(namespace, name), update.rv, &mut touched);
            }
            Parsed::Object {
                kind: Kind::Pod,
                namespace,
                name,
            } => {
                self.apply_pod(key(namespace, name), read(update)?, update.rv, &mut touched);
            }
            Parsed::PodStatus { namespace, name } => {
                self.apply_status(key(namespace, name), read(update)?, update.rv, &mut touched);
            }
            Parsed::NodeFacts(name) => {
                set(&mut self.facts, name.to_owned(), read(update)?, update.rv);
                self.refresh_node(name);
            }
            Parsed::NodeInventory(name) => {
                set(&mut self.inventories, name.to_owned(), read(update)?, update.rv);
                self.refresh_node(name);
            }
            Parsed::NodeReady(name) => {
                set(&mut self.readies, name.to_owned(), read(update)?, update.rv);
                self.refresh_node(name);
            }
            Parsed::Holder(name) => {
                set(&mut self.holders, name.to_owned(), read(update)?, update.rv);
                self.refresh_node(name);
            }
            Parsed::Holds(name) => {
                set(&mut self.holds, name.to_owned(), read(update)?, update.rv);
                self.refresh_node(name);
            }
            Parsed::Off(name) => {
                set(&mut self.offs, name.to_owned(), read(update)?, update.rv);
                self.refresh_node(name);
            }
            Parsed::Loss(name) => {
                set(&mut self.losses, name.to_owned(), read(update)?, update.rv);
                self.refresh_node(name);
            }
            Parsed::Drain(name) => {
                set(&mut self.drains, name.to_owned(), read(update)?, update.rv);
                self.refresh_node(name);
                touched.push(Touched::Drain(name.to_owned()));
            }
            Parsed::Settings => {
                self.settings_record = read(update)?.map(|record| versioned(record, update.rv));
                let record = self.settings_record.as_ref();
                self.settings = record.map(|r| settings::Settings::of(&r.value)).unwrap_or_default();
                touched.push(Touched::Settings);
            }
            Parsed::Freeze => {
                self.freeze = read(update)?.map(|record| versioned(record, update.rv));
                touched.push(Touched::Settings);
            }
            Parsed::Tombstone(name) => set(&mut self.tombstones, name.to_owned(), read(update)?, update.rv),
            Parsed::Template(hash) => {
                let new = read::<TemplateRecord>(update)?.map(|record| Arc::new(Template::new(update.rv, record)));
                let old = self.templates.remove(hash);
                self.selection.template(hash, old.as_deref(), new.as_deref());
                if let Some(new) = new {
                    self.templates.insert(hash.to_owned(), new);
                }
                self.refresh_pods_of_template(hash, &mut touched);
                touched.push(Touched::Template(hash.to_owned()));
            }
            Parsed::Event { namespace, name } => {
                set(&mut self.events, key(namespace, name), read(update)?, update.rv);
                touched.push(Touched::Event(key(namespace, name)));
            }
            Parsed::TermHistory(term) => match read(update)? {
                Some(record) => {
                    self.terms.insert(term, record);
                    touched.push(Touched::Coordinators);
                }
                None => {
                    self.terms.remove(&term);
                }
            },
            Parsed::Coordinator(name) => {
                set(&mut self.coordinators, name.to_owned(), read(update)?, update.rv);
                touched.push(Touched::Coordinators);
            }
            Parsed::Restored => {
                self.restored = read(update)?.map(|record| versioned(record, update.rv));
                touched.push(Touched::Restored);
            }
            Parsed::Successor => {
                self.moved = update.value.is_some();
                touched.push(Touched::Other);
            }
            Parsed::Orphan(uid) => {
                let before = self.orphans.get(uid).map(|o| o.value.node.clone());
                set(&mut self.orphans, uid.to_owned(), read(update)?, update.rv);
                let now = self.orphans.get(uid).map(|o| o.value.node.clone());
                touched.extend([before, now].into_iter().flatten().map(Touched::Orphans));
            }
            Parsed::Op(id) => set(&mut self.ops, id.to_owned(), read(update)?, update.rv),
            Parsed::Object {
                kind: Kind::Endpoints | Kind::Event,
                ..
            }
            | Parsed::Term
            | Parsed::Token(_)
            | Parsed::Cert(_)
            | Parsed::Issuer(_)
            | Parsed::Binding(_)
            | Parsed::Audit(_)
            | Parsed::Other => touched.push(Touched::Other),
        }
        if let (Some(name), Some((face, reach, seen))) = (node, before) {
            touched.push(Touched::Node(name.to_owned()));
            if face != self.nodes.get(name).map(NodeState::face) {
                self.touch_endpoints(name, &mut touched);
                self.touch_budgets_on(name, &mut touched);
            }
            if reach != self.reach(name) {
                touched.push(Touched::Reach(name.to_owned()));
            }
            self.touch_seen(name, &seen, &mut touched);
        }
        if let Some((seen, name)) = beside {
            self.touch_seen(&name, &seen, &mut touched);
        }
        Ok(touched)
    }

    /// To be called once all of a snapshot is applied.
    pub fn loaded(&mut self, rv: Rv) {
        self.rv = rv;
        self.loaded = rv;
    }

    /// What others must hear of when it changes.
    fn reach(&self, name: &str) -> (Option<Lost>, bool, Option<Rv>) {
        let node = self.nodes.get(name);
        let off = node.is_some_and(|n| n.off.is_some());
        (node.and_then(NodeState::lost), off, self.losses.get(name).map(|l| l.rv))
    }

    fn apply_node(&mut self, name: &str, node: Option<Node>, rv: Rv) {
        match node {
            Some(node) => {
                let (used, ports, replaced) = self.usage_of(name);
                let state = NodeState {
                    rv,
                    node: Arc::new(node),
                    facts: None,
                    hardware: None,
                    ready: None,
                    holder: None,
                    holds: None,
                    off: None,
                    loss: None,
                    drain: None,
                    allocatable: Amounts::default(),
                    used,
                    ports,
                    replaced,
                };
                self.nodes.insert(name.to_owned(), state);
                self.refresh_node(name);
            }
            None => {
                self.nodes.remove(name);
                self.lost.remove(name);
                self.fleet.remove(name);
                self.draining.remove(name);
            }
        }
    }

    fn refresh_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.facts = self.facts.get(name).cloned();
            node.hardware = self.inventories.get(name).cloned();
            node.ready = self.readies.get(name).cloned();
            node.holder = self.holders.get(name).cloned();
            node.holds = self.holds.get(name).cloned().or_else(|| state::cordoned_before(node));
            node.off = self.offs.get(name).cloned();
            node.loss = self.losses.get(name).cloned();
            node.drain = self.drains.get(name).cloned();
            node.allocatable = node
                .facts
                .as_ref()
                .map(|f| allocatable_of(&f.value.status))
                .unwrap_or_default();
            let (lost, counts) = (node.lost().is_some(), node.ready.is_some() && node.off.is_none());
            let draining = node.draining().is_some();
            mark(&mut self.lost, name, lost);
            mark(&mut self.draining, name, draining);
            mark(&mut self.fleet, name, counts);
        }
    }

    fn apply_controller(&mut self, key: Key, rc: Option<ReplicationController>, rv: Rv, touched: &mut Vec<Touched>) {
        let uids = |rc: &ReplicationController| rc.metadata.uid.clone();
        let mut owners: BTreeSet<String> = rc.iter().map(uids).collect();
        if let Some(old) = self.controllers.remove(&key) {
            self.controllers_by_uid.remove(&old.rc.metadata.uid);
            owners.insert(uids(&old.rc));
        }
        if let Some(rc) = rc {
            self.controllers_by_uid.insert(rc.metadata.uid.clone(), key.clone());
            self.controllers.insert(
                key,
                ControllerState {
                    rv,
                    rc: Arc::new(rc),
                    touched: rv,
                },
            );
        }
        for owner in owners {
            self.touch_budgets_under(&owner, touched);
        }
    }

    fn apply_pod(&mut self, key: Key, record: Option<PodRecord>, rv: Rv, touched: &mut Vec<Touched>) {
        let old = self.pods.remove(&key);
        if let Some(old) = &old {
            self.unindex(&key, old);
            self.touch_owner(old, rv, touched);
        }
        if select::moved(old.as_ref().map(|p| &*p.record), record.as_ref()) {
            touched.push(Touched::Spread(key.0.clone()));
        }
        if let Some(record) = record {
            let status = self.statuses.get(&key).filter(|s| s.value.uid == record.uid).cloned();
            let template = self.templates.get(&record.template).cloned();
            let pod = PodState {
                rv,
                record: Arc::new(record),
                template,
                status,
            };
            self.index(&key, &pod);
            self.touch_owner(&pod, rv, touched);
            self.touch_budgets(&key.0, old.as_ref(), Some(&pod), touched);
            self.pods.insert(key.clone(), pod);
        } else {
            self.touch_budgets(&key.0, old.as_ref(), None, touched);
        }
        touched.push(Touched::Pod(key));
    }

    fn apply_status(&mut self, key: Key, status: Option<StatusRecord>, rv: Rv, touched: &mut Vec<Touched>) {
        set(&mut self.statuses, key.clone(), status, rv);
        let Some(mut pod) = self.pods.get(&key).cloned() else {
            return;
        };
        let old = pod.clone();
        self.count_pod(&pod, false);
        pod.status = self
            .statuses
            .get(&key)
            .filter(|s| s.value.uid == pod.record.uid)
            .cloned();
        self.count_pod(&pod, true);
        self.touch_owner(&pod, rv, touched);
        self.touch_budgets(&key.0, Some(&old), Some(&pod), touched);
        self.pods.insert(key.clone(), pod);
        touched.push(Touched::Pod(key));
    }

    fn refresh_pods_of_template(&mut self, hash: &str, touched: &mut Vec<Touched>) {
        let keys: Vec<Key> = self.pods_by_template.get(hash).into_iter().flatten().cloned().collect();
        for key in keys {
            if let Some(mut pod) = self.pods.remove(&key) {
                let old = pod.clone();
                self.count_pod(&pod, false);
                pod.template = self.templates.get(hash).cloned();
                self.count_pod(&pod, true);
                self.touch_budgets(&key.0, Some(&old), Some(&pod), touched);
                self.pods.insert(key, pod);
            }
        }
    }

    fn touch_owner(&mut self, pod: &PodState, rv: Rv, touched: &mut Vec<Touched>) {
        let Some(uid) = pod.record.owner.as_ref().map(|o| &o.uid) else {
            return;
        };
        if let Some(key) = self.controllers_by_uid.get(uid)
            && let Some(owner) = self.controllers.get_mut(key)
        {
            owner.touched = owner.touched.max(rv);
            touched.push(Touched::Controller(key.clone()));
            // A pod of the other side of an update is among its endpoints too.
            if let Some(partner) = self.partner(uid).map(str::to_owned) {
                self.touch_endpoints_of(&partner, rv, touched);
            }
        }
        if let Some(key) = self.daemon_sets_by_uid.get(uid)
            && let Some(owner) = self.daemon_sets.get_mut(key)
        {
            owner.touched = owner.touched.max(rv);
            touched.push(Touched::DaemonSet(key.clone()));
        }
        // What a node's pods take is part of what a watcher of the node sees through `get -o wide`.
    }
}

/// The node that a key is about.
fn node_of<'a>(key: &Parsed<'a>) -> Option<&'a str> {
    match key {
        Parsed::Object {
            kind: Kind::Node, name, ..
        }
        | Parsed::NodeFacts(name)
        | Parsed::NodeInventory(name)
        | Parsed::NodeReady(name)
        | Parsed::Holder(name)
        | Parsed::Holds(name)
        | Parsed::Off(name)
        | Parsed::Loss(name)
        | Parsed::Drain(name)
        | Parsed::Tombstone(name) => Some(name),
        _ => None,
    }
}

fn mark(set: &mut BTreeSet<String>, name: &str, is: bool) {
    if is {
        set.insert(name.to_owned());
    } else {
        set.remove(name);
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

fn read<T: DeserializeOwned>(update: &Update) -> Result<Option<T>, Unreadable> {
    let Some(bytes) = &update.value else { return Ok(None) };
    serde_json::from_slice(bytes).map(Some).map_err(|e| Unreadable {
        key: update.key.clone(),
        rv: update.rv,
        problem: e.to_string(),
    })
}

fn versioned<T>(value: T, rv: Rv) -> Versioned<T> {
    Versioned {
        rv,
        value: Arc::new(value),
    }
}

fn set<K: Ord, T>(map: &mut BTreeMap<K, Versioned<T>>, key: K, value: Option<T>, rv: Rv) {
    match value {
        Some(value) => {
            map.insert(key, versioned(value, rv));
        }
        None => {
            map.remove(&key);
        }
    }
}
