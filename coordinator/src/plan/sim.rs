//! A store, a fleet and its agents in memory, for the tests of this folder: applies plans as the driver does,
//! with versions, expectations and lost commits, and feeds the world one update at a time.
//!
//! Invariant: the world is fed by updates alone; what is asserted is computed from the entries again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use proto::model::{
    ConditionStatus, Container, ContainerPort, Kind, Namespace, NamespacePhase, Node, NodeCondition, NodeInfo,
    NodeStatus, ObjectMeta, Phase, PodCondition, PodSpec, PodStatus, PodTemplate, Protocol, Quantity, RcSpec,
    ReplicationController, Time, host_port,
};
use serde::Serialize;
use serde_json::json;

use super::{Group, Keep, Pass, Plan, change::to_store, dirty::Dirty};
use crate::{
    store::{Change, Expect, MAX_CHANGES, Rv, Update, keys},
    world::{
        Key, PodState, World,
        record::{
            FactsRecord, HoldsRecord, OwnerKind, PodRecord, StatusRecord, StopRecord, TemplateRecord, TombstoneRecord,
            encode,
        },
    },
};

#[path = "sim_daemons_tests.rs"]
mod daemons;
#[path = "sim_operator_tests.rs"]
mod operator;

pub use daemons::ds;

pub struct Sim {
    pub world: World,
    pub dirty: Dirty,
    pub now: Time,
    pub seed: u64,
    revision: u64,
    /// Groups that asked to be planned again, and when.
    pub wakes: BTreeMap<Group, Time>,
    pub entries: BTreeMap<String, (Rv, Bytes)>,
    /// Counts the pods that users make.
    made: u64,
}

/// What a container of a test asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    pub cpu_milli: u64,
    pub memory: u64,
    pub host_port: u16,
    /// Ports for which placement is to choose a host port, TCP and UDP in turn.
    pub asking: u16,
    pub zone: Option<&'static str>,
    pub node: &'static str,
    pub rule: Rule,
}

/// What else it asks of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    #[default]
    Nothing,
    /// By affinity, any zone but the south.
    NotSouth,
    /// Rather the north.
    RatherNorth,
    /// Not two more of its app in one zone than in another.
    Spread,
    /// Bears every taint.
    Bears,
    /// Bears every NoExecute taint for three seconds.
    BearsAWhile,
}

impl Rule {
    fn apply(self, app: &str, spec: &mut PodSpec) {
        let zone = |operator: &str, value: &str| json!({"matchExpressions": [{"key": "zone", "operator": operator, "values": [value]}]});
        let (field, value) = match self {
            Self::Nothing => return,
            Self::NotSouth => (
                "affinity",
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [zone("NotIn", "south")]}}}),
            ),
            Self::RatherNorth => (
                "affinity",
                json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                    [{"weight": 10, "preference": zone("In", "north")}]}}),
            ),
            Self::Spread => (
                "topologySpreadConstraints",
                json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app": app}}}]),
            ),
            Self::Bears => ("tolerations", json!([{"operator": "Exists"}])),
            Self::BearsAWhile => (
                "tolerations",
                json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}]),
            ),
        };
        set_field(spec, field, value);
    }
}

/// Sets a field of a spec, written as in a manifest.
pub fn set_field(spec: &mut PodSpec, field: &str, value: serde_json::Value) {
    let mut whole = serde_json::to_value(&*spec).unwrap();
    whole[field] = value;
    *spec = serde_json::from_value(whole).unwrap();
}

pub fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

pub fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A template with the label `app`.
pub fn template(app: &str, ask: Ask) -> PodTemplate {
    let mut container = Container {
        name: "c".into(),
        image: "i".into(),
        ..Container::default()
    };
    for (name, amount) in [
        ("cpu", (ask.cpu_milli > 0).then(|| Quantity::from_milli(ask.cpu_milli))),
        ("memory", (ask.memory > 0).then(|| Quantity::from_bytes(ask.memory))),
    ] {
        if let Some(amount) = amount {
            container.resources.requests.insert(name.to_owned(), amount);
        }
    }
    if ask.host_port > 0 {
        container.ports.push(ContainerPort {
            container_port: 80,
            host_port: ask.host_port,
            ..ContainerPort::default()
        });
    }
    for i in 0..ask.asking {
        container.ports.push(ContainerPort {
            container_port: 90 + i,
            protocol: if i % 2 == 0 { Protocol::Tcp } else { Protocol::Udp },
            ..ContainerPort::default()
        });
    }
    let auto = (ask.asking > 0).then_some((host_port::HOST_PORT, host_port::AUTO));
    let mut template = PodTemplate {
        metadata: ObjectMeta {
            labels: map(&[("app", app)]),
            annotations: map(auto.as_slice()),
            ..ObjectMeta::default()
        },
        spec: PodSpec {
            containers: vec![container],
            node_selector: ask.zone.map(|z| map(&[("zone", z)])).unwrap_or_default(),
            node_name: ask.node.to_owned(),
            ..PodSpec::default()
        },
    };
    ask.rule.apply(app, &mut template.spec);
    template
}

pub fn rc(namespace: &str, name: &str, uid: &str, replicas: i32, template: PodTemplate) -> ReplicationController {
    ReplicationController {
        metadata: ObjectMeta {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            uid: uid.to_owned(),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        spec: RcSpec {
            replicas,
            selector: template.metadata.labels.clone(),
            template,
            ..RcSpec::default()
        },
        status: None,
    }
}

impl Sim {
    pub fn new() -> Self {
        Self {
            world: World::default(),
            dirty: Dirty::default(),
            now: Time(1_000_000),
            seed: 1,
            revision: 0,
            entries: BTreeMap::new(),
            made: 0,
            wakes: BTreeMap::new(),
        }
    }

    /// Applies the changes whole if their expectations hold.
    pub fn commit(&mut self, changes: &[Change]) -> bool {
        assert!(changes.len() <= MAX_CHANGES, "{} changes", changes.len());
        let holds = |c: &Change| match (c.expect, self.entries.get(&c.key)) {
            (Expect::Any, _) | (Expect::Absent, None) => true,
            (Expect::At(rv), Some((actual, _))) => rv == *actual,
            _ => false,
        };
        if !changes.iter().all(holds) {
            return false;
        }
        self.revision += 1;
        for (ordinal, change) in changes.iter().enumerate() {
            let rv = Rv::new(self.revision, u16::try_from(ordinal).unwrap());
            match &change.value {
                Some(value) => {
                    self.entries.insert(change.key.clone(), (rv, value.clone()));
                }
                None if self.entries.remove(&change.key).is_none() => continue,
                None => {}
            }
            let update = Update {
                rv,
                key: change.key.clone(),
                value: change.value.clone(),
            };
            let touched = self.world.apply(&update).unwrap();
            self.dirty.touch(&self.world, &touched);
        }
        true
    }

    pub fn put<T: Serialize>(&mut self, key: String, value: &T) {
        assert!(self.commit(&[Change::put(key, Expect::Any, encode(value))]));
    }

    pub fn delete(&mut self, key: String) {
        assert!(self.commit(&[Change::delete(key, Expect::Any)]));
    }

    /// `cordoned` says whether user/admin has a cordon on it.
    pub fn put_node(&mut self, name: &str, labels: &[(&str, &str)], cordoned: bool) {
        let mut node = Node::default();
        node.metadata.name = name.to_owned();
        node.metadata.labels = map(labels);
        self.put(keys::object(Kind::Node, "", name), &node);
        if cordoned {
            self.cordon(name, "admin", "", None);
        } else if self.world.nodes[name].cordoned() {
            self.edit_holds(name, |holds| drop(holds.remove("cordon/user/admin")));
        }
    }

    /// Puts taints on a node, written as `KEY[=VALUE]:EFFECT`, in the place of those that it has.
    pub fn taint(&mut self, name: &str, taints: &[&str]) {
        let mut node = (*self.world.nodes[name].node).clone();
        let taints = taints.iter().map(|text| {
            let (left, effect) = text.rsplit_once(':').unwrap();
            let (key, value) = left.split_once('=').unwrap_or((left, ""));
            json!({"key": key, "value": value, "effect": effect, "timeAdded": self.now})
        });
        node.spec.taints = taints.map(|t| serde_json::from_value(t).unwrap()).collect();
        self.put(keys::object(Kind::Node, "", name), &node);
    }

    pub fn put_facts(&mut self, name: &str, cpu_milli: u64, memory: u64, pods: u64, machine: &str) {
        let allocatable = [
            ("cpu", Quantity::from_milli(cpu_milli)),
            ("memory", Quantity::from_bytes(memory)),
            ("pods", Quantity::from_units(pods)),
        ];
        let allocatable = allocatable.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let facts = FactsRecord {
            status: NodeStatus {
                allocatable,
                node_info: Some(NodeInfo {
                    machine_id: machine.to_owned(),
                    ..NodeInfo::default()
                }),
                ..NodeStatus::default()
            },
            docker_ready: true,
            ..FactsRecord::default()
        };
        self.put(keys::node_facts(name), &facts);
    }

    pub fn put_capabilities(&mut self, name: &str, capabilities: &[&str]) {
        let known = self.world.nodes.get(name).and_then(|n| n.facts.as_ref());
        let facts = FactsRecord {
            capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect(),
            ..known.map(|f| FactsRecord::clone(&f.value)).unwrap_or_default()
        };
        self.put(keys::node_facts(name), &facts);
    }

    pub fn put_ready(&mut self, name: &str, ready: bool) {
        self.put_condition(name, if ready { "AgentReady" } else { "Unreachable" });
    }

    /// What liveness writes, by its reason.
    pub fn put_condition(&mut self, name: &str, reason: &str) {
        let condition = NodeCondition {
            kind: "Ready".into(),
            status: match reason {
                "AgentReady" => ConditionStatus::True,
                "DockerUnavailable" => ConditionStatus::False,
                _ => ConditionStatus::Unknown,
            },
            reason: reason.into(),
            message: String::new(),
            last_transition_time: Some(self.now),
            last_heartbeat_time: None,
        };
        self.put(keys::node_ready(name), &condition);
    }

    /// A ready node of 4 CPUs, 4 GiB and 20 pods.
    pub fn add_node(&mut self, name: &str, labels: &[(&str, &str)]) {
        self.put_node(name, labels, false);
        self.put_facts(name, 4000, 4 << 30, 20, "");
        self.put_ready(name, true);
    }

    pub fn delete_node(&mut self, name: &str) {
        let keys = [
            keys::object(Kind::Node, "", name),
            keys::node_facts(name),
            keys::node_ready(name),
            keys::holds(name),
            keys::drain(name),
        ];
        let changes: Vec<_> = keys.into_iter().map(|k| Change::delete(k, Expect::Any)).collect();
        assert!(self.commit(&changes));
    }

    /// What the api does for `delete node`.
    pub fn delete_node_with_tombstone(&mut self, name: &str) {
        let tombstone = TombstoneRecord {
            uid: "u".into(),
            at: self.now,
            forgotten: false,
        };
        let mut changes: Vec<_> = [
            keys::object(Kind::Node, "", name),
            keys::node_facts(name),
            keys::node_ready(name),
            keys::holds(name),
            keys::drain(name),
        ]
        .into_iter()
        .map(|k| Change::delete(k, Expect::Any))
        .collect();
        changes.push(Change::put(keys::tombstone(name), Expect::Any, encode(&tombstone)));
        assert!(self.commit(&changes));
    }

    pub fn put_rc(&mut self, rc: &ReplicationController) {
        let key = keys::object(Kind::ReplicationController, &rc.metadata.namespace, &rc.metadata.name);
        self.put(key, rc);
    }

    pub fn edit_rc(&mut self, at: &Key, f: impl FnOnce(&mut ReplicationController)) {
        let mut rc = (*self.world.controllers[at].rc).clone();
        f(&mut rc);
        self.put_rc(&rc);
    }

    pub fn put_namespace(&mut self, name: &str, terminating: bool) {
        let mut namespace = Namespace::default();
        namespace.metadata.name = name.to_owned();
        let status = namespace.status.get_or_insert_default();
        if terminating {
            status.phase = NamespacePhase::Terminating;
            namespace.metadata.deletion_timestamp = Some(self.now);
        }
        self.put(keys::object(Kind::Namespace, "", name), &namespace);
    }

    /// A user's pod, with its template, in one commit.
    pub fn put_bare(&mut self, namespace: &str, name: &str, template: &PodTemplate) {
        self.made += 1;
        let (hash, bytes) = TemplateRecord::new(template).encode();
        let record = PodRecord {
            uid: format!("bare-{}", self.made),
            template: hash.clone(),
            created: self.now,
            ..PodRecord::default()
        };
        let changes = [
            Change::put(keys::template(&hash), Expect::Any, bytes),
            Change::put(keys::object(Kind::Pod, namespace, name), Expect::Any, encode(&record)),
        ];
        assert!(self.commit(&changes));
    }

    pub fn edit_pod(&mut self, at: &Key, f: impl FnOnce(&mut PodRecord)) {
        let mut record = (*self.world.pods[at].record).clone();
        f(&mut record);
        self.put(keys::object(Kind::Pod, &at.0, &at.1), &record);
    }

    /// What the api does for `delete pod`.
    pub fn stop(&mut self, at: &Key) {
        let now = self.now;
        self.edit_pod(at, |r| {
            r.stop = Some(StopRecord {
                at: now,
                grace: 30,
                reason: "deleted".into(),
                lost: false,
                drain: None,
            });
        });
    }

    /// What the agent says of a pod.
    pub fn report(&mut self, at: &Key, phase: Phase, ready: bool, stopped: bool) {
        let pod = &self.world.pods[at];
        let before = pod.status.as_ref().map(|s| &s.value.status);
        let known = before.and_then(|s| s.start_time);
        let condition = before.and_then(|s| s.condition("Ready"));
        let same = condition.filter(|c| (c.status == ConditionStatus::True) == ready);
        let since = same.and_then(|c| c.last_transition_time).unwrap_or(self.now);
        let status = StatusRecord {
            uid: pod.record.uid.clone(),
            epoch: 1,
            seq: self.revision,
            status: PodStatus {
                phase,
                start_time: Some(known.unwrap_or(self.now)),
                conditions: vec![PodCondition {
                    kind: "Ready".into(),
                    status: if ready {
                        ConditionStatus::True
                    } else {
                        ConditionStatus::False
                    },
                    reason: String::new(),
                    message: String::new(),
                    last_transition_time: Some(since),
                }],
                ..PodStatus::default()
            },
            stopped,
            ..StatusRecord::default()
        };
        self.put(keys::pod_status(&at.0, &at.1), &status);
    }

    /// Its host joined again and has nothing of it.
    pub fn vanish(&mut self, at: &Key) {
        let status = StatusRecord {
            uid: self.world.pods[at].record.uid.clone(),
            generation: 1,
            vanished: true,
            ..StatusRecord::default()
        };
        self.put(keys::pod_status(&at.0, &at.1), &status);
    }

    /// Every agent that is heard does what it is told.
    pub fn agents(&mut self) {
        self.agents_of(|_| true);
    }

    /// Likewise those of some nodes.
    pub fn agents_of(&mut self, which: impl Fn(&str) -> bool) {
        let heard = |pod: &PodState| {
            let node = &pod.record.node;
            which(node) && self.world.nodes.get(node).is_some_and(|n| n.is_ready())
        };
        let mut news = Vec::new();
        for (key, pod) in self.world.pods.iter().filter(|(_, p)| heard(p)) {
            let stopped = pod.status.as_ref().is_some_and(|s| s.value.stopped);
            if pod.stopping() && !stopped {
                news.push((key.clone(), pod.phase(), false, true));
            } else if pod.live() && !pod.ready() {
                news.push((key.clone(), Phase::Running, true, false));
            }
        }
        for (key, phase, ready, stopped) in news {
            self.report(&key, phase, ready, stopped);
        }
    }

    /// Plans without applying; a plan that the checker refuses fails the test.
    pub fn plan(&self, world: &World, groups: &BTreeSet<Group>) -> Vec<Plan> {
        let mut pass = Pass::new(self.now, self.seed, Keep::default());
        groups.iter().map(|g| pass.plan(world, g).unwrap()).collect()
    }

    /// One pass over the dirty groups; every commit whose number is in `lost` fails. Returns the plans.
    pub fn pass(&mut self, lost: &HashSet<usize>) -> Vec<Plan> {
        let groups = std::mem::take(&mut self.dirty.groups);
        self.seed += 1;
        let plans = self.plan(&self.world.clone(), &groups);
        let (mut number, mut failed) = (0, false);
        for commit in plans.iter().flat_map(|p| &p.commits) {
            number += 1;
            commit.changes.iter().for_each(|c| self.assert_lawful(c));
            if lost.contains(&number) || !self.commit(&to_store(&commit.changes)) {
                self.dirty.groups.insert(commit.group.clone());
                failed = true;
            }
        }
        if failed {
            self.dirty.room(&self.world);
        }
        for (group, plan) in groups.iter().zip(&plans) {
            match plan.wake_at {
                Some(at) => self.wakes.insert(group.clone(), at),
                None => self.wakes.remove(group),
            };
        }
        plans
    }

    /// No pod but a daemon comes to a node with a hold, no hold goes before its time; from the entries, not the world.
    fn assert_lawful(&self, change: &super::change::Change) {
        use super::change::Change::{Bind, CreatePod, ReleaseHolds};
        let holds = |node: &str| -> HoldsRecord {
            let found = self.entries.get(&keys::holds(node));
            found.map_or_else(HoldsRecord::new, |(_, v)| serde_json::from_slice(v).expect("holds"))
        };
        match change {
            Bind { node, .. } => assert_eq!(holds(node), HoldsRecord::new(), "{change:?}"),
            CreatePod { record, .. } if record.owner.as_ref().is_some_and(|o| o.kind == OwnerKind::DaemonSet) => {
                self.assert_daemon_lawful(record);
            }
            CreatePod { record, .. } => assert_eq!(holds(&record.node), HoldsRecord::new(), "{change:?}"),
            ReleaseHolds { node, left, .. } => {
                let mut kept = holds(node);
                kept.retain(|_, hold| hold.expires.is_none_or(|at| at > self.now));
                assert_eq!(kept, *left, "{change:?}");
            }
            _ => {}
        }
    }

    /// Lets time pass: what was to be looked at again by then is marked.
    pub fn pass_time(&mut self, seconds: i64) {
        self.wait_until(Time(self.now.0 + seconds));
    }

    /// Lets the time pass until something is to be looked at again; false where nothing is.
    pub fn wake(&mut self) -> bool {
        let Some(at) = self.wakes.values().min().copied() else {
            return false;
        };
        self.wait_until(at);
        true
    }

    /// Time comes, and with it what was to be planned then.
    pub fn wait_until(&mut self, at: Time) {
        self.now = self.now.max(at);
        let now = self.now;
        let due = self.wakes.extract_if(.., |_, at| *at <= now);
        self.dirty.groups.extend(due.map(|(group, _)| group));
    }

    /// Passes and agents until nothing is left to do for some seconds.
    pub fn settle(&mut self) {
        self.rest_by(Time(self.now.0 + 5));
    }

    /// Likewise while so many seconds pass.
    pub fn settle_for(&mut self, seconds: i64) {
        let end = Time(self.now.0 + seconds);
        self.rest_by(end);
        self.now = end;
    }

    /// Time goes from wake to wake, and not beyond `end`.
    fn rest_by(&mut self, end: Time) {
        for _ in 0..2000 {
            self.agents();
            if self.dirty.groups.is_empty() {
                match self.wakes.values().min() {
                    Some(at) if *at <= end => self.wait_until(*at),
                    _ => return,
                }
                continue;
            }
            self.pass(&HashSet::new());
        }
        panic!("no rest after 2000 passes: {:?}", self.dirty);
    }

    pub fn live(&self, at: &Key) -> Vec<(&Key, &PodState)> {
        let uid = &self.world.controllers[at].rc.metadata.uid;
        self.world.pods_of(uid).filter(|(_, p)| p.live()).collect()
    }

    /// The world that a restart would load.
    pub fn reloaded(&self) -> World {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(_, (rv, _))| *rv);
        let mut world = World::default();
        for (key, (rv, value)) in entries {
            let update = Update {
                rv: *rv,
                key: key.clone(),
                value: Some(value.clone()),
            };
            world.apply(&update).unwrap();
        }
        world.rv = self.world.rv;
        world
    }

    /// Never over capacity, never two pods on one host port of a machine; from the entries, not the indices.
    pub fn assert_safe(&self) {
        let (mut cpu, mut memory, mut pods) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut ports = HashSet::new();
        for (key, pod) in self.world.pods.iter().filter(|(_, p)| p.occupies()) {
            let Some(node) = self.world.nodes.get(&pod.record.node) else {
                continue;
            };
            let spec = &pod.template.as_ref().expect("a pod has its template").record.spec;
            let requests = &spec.containers[0].resources.requests;
            let name = pod.record.node.as_str();
            *cpu.entry(name).or_insert(0) += requests.get("cpu").map_or(50, Quantity::milli);
            *memory.entry(name).or_insert(0) += requests.get("memory").map_or(64 << 20, Quantity::units);
            *pods.entry(name).or_insert(0) += 1;
            let given = spec.containers[0]
                .ports
                .iter()
                .filter(|p| p.host_port == 0)
                .zip(&pod.record.ports);
            let given: Vec<_> = given.map(|(p, given)| (*given, p.protocol)).collect();
            let auto = pod.template_record().annotations.contains_key(host_port::HOST_PORT);
            let asking = spec.containers[0]
                .ports
                .iter()
                .filter(|p| auto && p.host_port == 0)
                .count();
            assert_eq!(
                pod.record.ports.len(),
                asking,
                "{key:?}: as many ports as are asked for"
            );
            for port in spec.host_ports().chain(given) {
                let machine = match node.machine_id() {
                    "" => name,
                    id => id,
                };
                assert!(
                    ports.insert((machine, port)),
                    "{key:?}: port {port:?} twice on {machine}"
                );
            }
        }
        for (name, node) in &self.world.nodes {
            let room = node.allocatable;
            let sum = |of: &HashMap<&str, u64>| of.get(name.as_str()).copied().unwrap_or(0);
            assert!(sum(&cpu) <= room.cpu_milli, "{name}: cpu");
            assert!(sum(&memory) <= room.memory, "{name}: memory");
            assert!(sum(&pods) <= room.pods, "{name}: pods");
        }
    }
}
