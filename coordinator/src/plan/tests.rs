//! Properties of all planners together: random fleets, controllers, faults and lost commits.

use std::collections::HashSet;

use proptest::prelude::*;
use proto::model::{Kind, Phase, TaintEffect, Time};

use super::{
    Group,
    change::Change,
    dirty::Dirty,
    replicas,
    sim::{Ask, Rule, Sim, ds, key, rc, template},
};
use crate::world::{Key, PodState, World};

#[derive(Clone, Debug)]
enum Op {
    AddNode {
        cpu: u64,
        pods: u64,
        zone: usize,
        machine: usize,
    },
    Ready(usize, bool),
    /// By one of two people, for so many seconds or for good.
    Cordon(usize, usize, Option<i64>),
    Uncordon(usize, usize),
    Relabel(usize, usize),
    Taint(usize, usize),
    DeleteNode(usize),
    PutRc {
        name: usize,
        replicas: i32,
        ask: usize,
    },
    PutDs {
        name: usize,
        ask: usize,
    },
    DeleteDs(usize),
    Scale(usize, i32),
    DeleteRc(usize),
    OrphanRc(usize),
    Bare {
        name: usize,
        app: usize,
        ask: usize,
    },
    Fail(usize),
    StopPod(usize),
    Relabelled(usize, usize),
    DeleteNamespace,
    Agents,
    Pass(HashSet<usize>),
    Settle,
}

const ZONES: [&str; 2] = ["north", "south"];
const TAINTS: [&[&str]; 5] = [
    &[],
    &["a=1:NoSchedule"],
    &["a=1:NoExecute"],
    &["a:PreferNoSchedule"],
    &["a:PreferNoSchedule", "b:NoExecute"],
];
const RULES: [Rule; 5] = [
    Rule::NotSouth,
    Rule::RatherNorth,
    Rule::Spread,
    Rule::Bears,
    Rule::BearsAWhile,
];
/// How many kinds of [`ask`] there are.
const ASKS: usize = 9 + RULES.len();
/// What a daemon may ask for: all but to be spread.
const DAEMON_ASKS: [usize; 8] = [0, 1, 3, 4, 6, 7, 12, 13];
const MACHINES: [&str; 3] = ["", "m1", "m2"];
const PEOPLE: [&str; 2] = ["ann", "bob"];
const NAMESPACES: [&str; 2] = ["default", "other"];

fn ask(i: usize) -> Ask {
    let ask = Ask {
        cpu_milli: 500,
        ..Ask::default()
    };
    match i {
        0 => Ask::default(),
        1 => ask,
        2 => Ask { memory: 1 << 30, ..ask },
        3 => Ask { host_port: 8080, ..ask },
        4 => Ask {
            zone: Some("north"),
            ..ask
        },
        5 => Ask {
            host_port: 8080,
            zone: Some("south"),
            ..Ask::default()
        },
        6 => Ask { node: "n1", ..ask },
        7 => Ask { asking: 3, ..ask },
        8 => Ask {
            asking: 1,
            host_port: 8080,
            ..Ask::default()
        },
        _ => Ask {
            rule: RULES[i - 9],
            ..ask
        },
    }
}

fn op() -> impl Strategy<Value = Op> {
    let i = 0..64_usize;
    prop_oneof![
        3 => (500..4000_u64, 1..12_u64, 0..2_usize, 0..3_usize)
            .prop_map(|(cpu, pods, zone, machine)| Op::AddNode { cpu, pods, zone, machine }),
        2 => (i.clone(), any::<bool>()).prop_map(|(i, r)| Op::Ready(i, r)),
        2 => (i.clone(), 0..2_usize, prop::option::of(1..20_i64)).prop_map(|(i, by, for_)| Op::Cordon(i, by, for_)),
        1 => (i.clone(), 0..2_usize).prop_map(|(i, by)| Op::Uncordon(i, by)),
        1 => (i.clone(), 0..2_usize).prop_map(|(i, z)| Op::Relabel(i, z)),
        2 => (i.clone(), 0..TAINTS.len()).prop_map(|(i, t)| Op::Taint(i, t)),
        1 => i.clone().prop_map(Op::DeleteNode),
        4 => (0..5_usize, 0..9_i32, 0..ASKS)
            .prop_map(|(name, replicas, ask)| Op::PutRc { name, replicas, ask }),
        2 => (0..3_usize, prop::sample::select(DAEMON_ASKS.to_vec())).prop_map(|(name, ask)| Op::PutDs { name, ask }),
        1 => i.clone().prop_map(Op::DeleteDs),
        3 => (i.clone(), -1..12_i32).prop_map(|(i, n)| Op::Scale(i, n)),
        1 => i.clone().prop_map(Op::DeleteRc),
        1 => i.clone().prop_map(Op::OrphanRc),
        1 => (0..6_usize, 0..4_usize, 0..ASKS).prop_map(|(name, app, ask)| Op::Bare { name, app, ask }),
        2 => i.clone().prop_map(Op::Fail),
        1 => i.clone().prop_map(Op::StopPod),
        1 => (i, 0..4_usize).prop_map(|(i, app)| Op::Relabelled(i, app)),
        1 => Just(Op::DeleteNamespace),
        3 => Just(Op::Agents),
        6 => prop::collection::hash_set(1..12_usize, 0..4).prop_map(Op::Pass),
        1 => Just(Op::Settle),
    ]
}

fn pick<K: Clone>(keys: impl ExactSizeIterator<Item = K>, i: usize) -> Option<K> {
    let n = keys.len();
    let mut keys = keys;
    (n > 0).then(|| keys.nth(i % n)).flatten()
}

struct Run {
    sim: Sim,
    nodes: usize,
    uids: usize,
}

impl Run {
    fn new() -> Self {
        let mut sim = Sim::new();
        for namespace in NAMESPACES {
            sim.put_namespace(namespace, false);
        }
        Self { sim, nodes: 0, uids: 0 }
    }

    fn node(&self, i: usize) -> Option<String> {
        pick(self.sim.world.nodes.keys(), i).cloned()
    }

    fn controller(&self, i: usize) -> Option<Key> {
        pick(self.sim.world.controllers.keys(), i).cloned()
    }

    fn pod(&self, i: usize) -> Option<Key> {
        pick(self.sim.world.pods.keys(), i).cloned()
    }

    fn apply(&mut self, op: Op) {
        self.sim.pass_time(1);
        match op {
            Op::AddNode {
                cpu,
                pods,
                zone,
                machine,
            } => {
                // Names are never reused: a pod of a deleted node must not come to life on a smaller one.
                self.nodes += 1;
                let name = format!("n{}", self.nodes);
                self.sim.put_node(&name, &[("zone", ZONES[zone])], false);
                self.sim.put_facts(&name, cpu, 4 << 30, pods, MACHINES[machine]);
                self.sim.put_ready(&name, true);
            }
            Op::Ready(i, ready) => {
                if let Some(name) = self.node(i) {
                    self.sim.put_ready(&name, ready);
                }
            }
            Op::Cordon(i, by, seconds) => {
                let expires = seconds.map(|s| Time(self.sim.now.0 + s));
                if let Some(name) = self.node(i) {
                    self.sim.cordon(&name, PEOPLE[by], "", expires);
                }
            }
            Op::Uncordon(i, by) => {
                if let Some(name) = self.node(i) {
                    let id = format!("cordon/user/{}", PEOPLE[by]);
                    self.sim.edit_holds(&name, |holds| drop(holds.remove(&id)));
                }
            }
            Op::Relabel(i, zone) => {
                if let Some(name) = self.node(i) {
                    let mut node = (*self.sim.world.nodes[&name].node).clone();
                    node.metadata.labels.insert("zone".into(), ZONES[zone].into());
                    self.sim.put(crate::store::keys::object(Kind::Node, "", &name), &node);
                }
            }
            Op::Taint(i, taints) => {
                if let Some(name) = self.node(i) {
                    self.sim.taint(&name, TAINTS[taints]);
                }
            }
            Op::DeleteNode(i) => {
                if let Some(name) = self.node(i) {
                    self.sim.delete_node(&name);
                }
            }
            Op::PutRc { name, replicas, ask: a } => {
                // Two names share a label, so that selectors overlap.
                let namespace = NAMESPACES[name % 2];
                let at = key(namespace, &format!("rc{name}"));
                let wanted = template(&format!("app{}", name / 2), ask(a));
                if self.sim.world.controllers.contains_key(&at) {
                    self.sim.edit_rc(&at, |rc| rc.spec.template = wanted);
                } else if self.sim.world.namespaces.contains_key(namespace) {
                    self.uids += 1;
                    let uid = format!("uid-{}", self.uids);
                    self.sim.put_rc(&rc(namespace, &at.1, &uid, replicas, wanted));
                }
            }
            Op::PutDs { name, ask: a } => {
                let namespace = NAMESPACES[name % 2];
                let at = key(namespace, &format!("ds{name}"));
                let wanted = template(&format!("daemon{name}"), ask(a));
                if self.sim.world.daemon_sets.contains_key(&at) {
                    self.sim.edit_ds(&at, |set| set.spec.template = wanted);
                } else if self.sim.world.namespaces.contains_key(namespace) {
                    self.uids += 1;
                    self.sim
                        .put_ds(&ds(namespace, &at.1, &format!("uid-{}", self.uids), wanted));
                }
            }
            Op::DeleteDs(i) => {
                if let Some(at) = pick(self.sim.world.daemon_sets.keys(), i).cloned() {
                    self.sim.delete_ds(&at);
                }
            }
            Op::Scale(i, n) => {
                if let Some(at) = self.controller(i) {
                    self.sim.edit_rc(&at, |rc| rc.spec.replicas = n);
                }
            }
            Op::DeleteRc(i) => {
                if let Some(at) = self.controller(i) {
                    let kind = proto::model::Kind::ReplicationController;
                    self.sim.delete(crate::store::keys::object(kind, &at.0, &at.1));
                }
            }
            Op::OrphanRc(i) => {
                let now = self.sim.now;
                if let Some(at) = self.controller(i) {
                    self.sim.edit_rc(&at, |rc| {
                        rc.metadata.deletion_timestamp = Some(now);
                        rc.metadata.finalizers = vec![replicas::ORPHAN.into()];
                    });
                }
            }
            Op::Bare { name, app, ask: a } => {
                let at = key(NAMESPACES[name % 2], &format!("bare{name}"));
                let exists = self.sim.world.pods.contains_key(&at);
                if !exists && self.sim.world.namespaces.contains_key(&at.0) {
                    self.sim.put_bare(&at.0, &at.1, &template(&format!("app{app}"), ask(a)));
                }
            }
            Op::Fail(i) => {
                if let Some(at) = self.pod(i)
                    && self.sim.world.pods[&at].occupies()
                {
                    self.sim.report(&at, Phase::Failed, false, false);
                }
            }
            Op::StopPod(i) => {
                if let Some(at) = self.pod(i)
                    && !self.sim.world.pods[&at].stopping()
                {
                    self.sim.stop(&at);
                }
            }
            Op::Relabelled(i, app) => {
                if let Some(at) = self.pod(i) {
                    self.sim.edit_pod(&at, |r| {
                        r.labels.insert("app".into(), Some(format!("app{app}")));
                    });
                }
            }
            Op::DeleteNamespace => {
                if self.sim.world.namespaces.contains_key("other") {
                    self.sim.put_namespace("other", true);
                }
            }
            Op::Agents => self.sim.agents(),
            Op::Pass(lost) => {
                self.sim.pass(&lost);
            }
            Op::Settle => self.settle(),
        }
        self.sim.assert_safe();
    }

    fn settle(&mut self) {
        self.sim.settle_for(100_000);
        self.sim.assert_safe();
        self.assert_converged();
        // Nothing that is not marked had to be planned; only a reason may have aged.
        let all = Dirty::all(&self.sim.world).groups;
        for plan in self.sim.plan(&self.sim.world, &all) {
            let rest: Vec<_> = plan.changes().filter(|c| !reason(c)).collect();
            assert!(rest.is_empty(), "a full pass still finds {rest:?}");
        }
    }

    fn assert_converged(&self) {
        let world = &self.sim.world;
        for (at, controller) in &world.controllers {
            let rc = &controller.rc;
            assert!(rc.metadata.deletion_timestamp.is_none(), "{at:?} is still there");
            assert!(!world.terminating(&at.0), "{at:?} is still there");
            let live = self.sim.live(at);
            assert_eq!(live.len(), usize::try_from(rc.spec.replicas).unwrap_or(0), "{at:?}");
        }
        for (name, node) in &world.nodes {
            let over: Vec<_> = node.holds().filter(|h| h.expired(self.sim.now)).collect();
            assert!(over.is_empty(), "{name} keeps {over:?}");
        }
        for (at, pod) in &world.pods {
            if let Some(owner) = &pod.record.owner
                && pod.live()
            {
                assert!(world.owner_exists(&owner.uid), "{at:?} has no controller");
            }
            let lost = world.nodes.get(&pod.record.node).is_some_and(|n| !n.is_ready());
            assert!(!pod.stopping() || lost, "{at:?} is still being stopped");
            let brake = super::health::brake(world, self.sim.now);
            assert!(
                brake.is_some() || !driven_out(world, at),
                "{at:?} is still on a node whose taint it does not bear"
            );
            if let Some(owner) = pod.record.owner.as_ref().filter(|_| pod.live())
                && let Some((_, controller)) = world.controller_by_uid(&owner.uid)
            {
                let mut selector = controller.rc.spec.selector.iter();
                assert!(
                    selector.all(|(k, v)| pod.label(k) == Some(v)),
                    "{at:?} is not one of its own"
                );
            }
            assert!(
                pod.record.node.is_empty() || world.nodes.contains_key(&pod.record.node),
                "{at:?} is on a node that is gone"
            );
            if pod.live() && pod.record.node.is_empty() {
                assert!(!pod.record.waiting.is_empty(), "{at:?} waits and does not say why");
                assert_no_room(world, at);
            }
        }
    }
}

/// What only says why something waits.
fn reason(change: &Change) -> bool {
    matches!(
        change,
        Change::Explain { .. } | Change::Unplaced { .. } | Change::RemoveUnplaced { .. }
    )
}

/// Whether a taint of its node takes the live pod from it at once, or did by now: who bears it for a time has that from
/// its start on, and one on a lost node may never have started.
fn driven_out(world: &World, at: &Key) -> bool {
    let pod = &world.pods[at];
    let started = pod.status.as_ref().is_some_and(|s| s.value.status.start_time.is_some());
    let for_a_time = !pod.template_record().spec.tolerations.is_empty();
    let node = world.nodes.get(&pod.record.node);
    let node = node.filter(|_| pod.live() && (started || !for_a_time));
    let mut taints = node.iter().flat_map(|n| &n.node.spec.taints);
    taints.any(|t| t.effect == TaintEffect::NoExecute && !bears(pod))
}

/// Whether the pod bears taints for good; none of [`Rule`] bears some and not others.
fn bears(pod: &PodState) -> bool {
    let tolerations = &pod.template_record().spec.tolerations;
    tolerations.iter().any(|t| t.toleration_seconds.is_none())
}

/// Whether one more pod of its kind in the zone is too many, for a pod of [`Rule::Spread`].
fn too_many(world: &World, at: &Key, zone: &str) -> bool {
    let pod = &world.pods[at];
    let spec = &pod.template_record().spec;
    let [constraint] = spec.topology_spread_constraints.as_slice() else {
        return false;
    };
    let app = &constraint.label_selector.as_ref().expect("a selector").match_labels["app"];
    let zones: HashSet<&str> = world
        .nodes
        .values()
        .map(|n| n.node.metadata.labels["zone"].as_str())
        .collect();
    let count = |zone: &str| {
        let there = world.pods.iter().filter(|((namespace, _), p)| {
            *namespace == at.0
                && p.live()
                && p.label("app") == Some(app)
                && world
                    .nodes
                    .get(&p.record.node)
                    .is_some_and(|n| n.node.metadata.labels["zone"] == zone)
        });
        there.count()
    };
    let least = zones.into_iter().map(count).min().unwrap_or(0);
    count(zone) + usize::from(pod.label("app") == Some(app)) > least + 1
}

/// No node could take the pod; written apart from the scheduler's filters.
fn assert_no_room(world: &World, at: &Key) {
    let template = world.pods[at].template.as_ref().expect("a template");
    let spec = &template.record.spec;
    for (name, node) in &world.nodes {
        let machine = node.machine_id();
        let mut same = world
            .nodes
            .iter()
            .filter(|(n, s)| *n == name || (!machine.is_empty() && s.machine_id() == machine));
        let ports_free = same.all(|(_, s)| template.host_ports.iter().all(|p| !s.ports.contains_key(p)));
        let chosen = (spec.node_name.is_empty() || spec.node_name == *name)
            && spec
                .node_selector
                .iter()
                .all(|(k, v)| node.node.metadata.labels.get(k) == Some(v));
        let zone = &node.node.metadata.labels["zone"];
        let chosen = chosen
            && (spec.affinity.node_affinity.required.is_none() || zone != "south")
            && node
                .node
                .spec
                .taints
                .iter()
                .all(|t| t.effect == TaintEffect::PreferNoSchedule || bears(&world.pods[at]))
            && !too_many(world, at, zone);
        let room = node.used.cpu_milli + template.request.cpu_milli <= node.allocatable.cpu_milli
            && node.used.memory + template.request.memory <= node.allocatable.memory
            && node.used.pods < node.allocatable.pods;
        assert!(
            !(ports_free && chosen && room && node.is_ready() && node.held().is_none() && node.replaced == 0),
            "{at:?} waits ({}) and {name} has room",
            world.pods[at].record.waiting
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Safe at every step, converging from any state, and a full pass finds nothing that an update missed.
    #[test]
    fn converges_and_stays_safe(ops in prop::collection::vec(op(), 1..40)) {
        let mut run = Run::new();
        for op in ops {
            run.apply(op);
        }
        run.settle();
    }

    /// The same world, time and seed give the same plan, also where the world was loaded anew.
    #[test]
    fn deterministic_for_a_seed(ops in prop::collection::vec(op(), 1..40)) {
        let mut run = Run::new();
        for op in ops {
            run.apply(op);
        }
        let all = Dirty::all(&run.sim.world).groups;
        let reloaded = run.sim.reloaded();
        prop_assert_eq!(&Dirty::all(&reloaded).groups, &all);
        let plans = run.sim.plan(&run.sim.world, &all);
        prop_assert_eq!(&run.sim.plan(&reloaded, &all), &plans);
        // What is marked plans the same as a full pass does for it.
        let marked = run.sim.dirty.groups.clone();
        let rest = all.iter().filter(|g| !marked.contains(*g));
        let found: Vec<_> = rest
            .flat_map(|g| run.sim.plan(&run.sim.world, &[g.clone()].into()))
            .flat_map(|p| p.changes().cloned().collect::<Vec<_>>())
            .filter(|c| !reason(c))
            .collect();
        prop_assert!(found.is_empty(), "not marked: {found:?}");
    }

    /// Every group's state is gone or quiet after everything was deleted.
    #[test]
    fn ends_empty(ops in prop::collection::vec(op(), 1..40)) {
        let mut run = Run::new();
        for op in ops {
            run.apply(op);
        }
        for name in run.sim.world.nodes.keys().cloned().collect::<Vec<_>>() {
            run.sim.put_ready(&name, true);
        }
        while let Some(at) = run.controller(0) {
            let kind = proto::model::Kind::ReplicationController;
            run.sim.delete(crate::store::keys::object(kind, &at.0, &at.1));
        }
        while let Some(at) = run.sim.world.daemon_sets.keys().next().cloned() {
            run.sim.delete(crate::store::keys::object(Kind::DaemonSet, &at.0, &at.1));
        }
        for at in run.sim.world.pods.keys().cloned().collect::<Vec<_>>() {
            if !run.sim.world.pods[&at].stopping() {
                run.sim.stop(&at);
            }
        }
        run.sim.settle();
        prop_assert!(run.sim.world.pods.is_empty());
        run.sim.now = Time(run.sim.now.0 + 1_000_000);
        run.sim.dirty.groups.insert(Group::Expiry);
        run.sim.settle();
        let left: Vec<_> = run
            .sim
            .entries
            .keys()
            .filter(|k| k.starts_with("template/") || k.starts_with("unplaced/") || k.starts_with("status/") || k.contains("/pod/"))
            .collect();
        prop_assert!(left.is_empty(), "{left:?}");
    }
}
