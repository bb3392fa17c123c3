//! Properties of daemon sets: random nodes, labels, taints, holds, losses, joins and templates, with commits that get
//! lost.

use std::collections::HashSet;

use proptest::prelude::*;
use proto::model::{Kind, Phase, Taint, Time};
use serde_json::json;

use super::{
    dirty::Dirty,
    replicas::ORPHAN,
    sim::{Ask, Rule, Sim, ds, key, template},
};
use crate::world::{Key, NodeState, PodState, World, daemons::DaemonSetState};

#[derive(Clone, Debug)]
enum Op {
    Join(usize),
    Condition(usize, usize),
    Hold(usize, bool),
    Relabel(usize, usize),
    Taint(usize, usize),
    Off(usize),
    DeleteNode(usize),
    Put(usize, usize),
    Strategy(usize, usize),
    Delete(usize, bool),
    Stop(usize),
    Fail(usize),
    Vanish(usize),
    Unready(usize),
    Freeze(bool),
    Agents,
    Pass(HashSet<usize>),
    Wait(i64),
}

const ZONES: [&str; 2] = ["north", "south"];
const CONDITIONS: [&str; 5] = [
    "AgentReady",
    "AgentReady",
    "Unreachable",
    "AgentDown",
    "DockerUnavailable",
];
const TAINTS: [&[&str]; 3] = [&[], &["a=1:NoSchedule"], &["a=1:NoExecute"]];

fn op() -> impl Strategy<Value = Op> {
    let i = 0..32_usize;
    prop_oneof![
        3 => i.clone().prop_map(Op::Join),
        3 => (i.clone(), 0..CONDITIONS.len()).prop_map(|(i, c)| Op::Condition(i, c)),
        2 => (i.clone(), any::<bool>()).prop_map(|(i, on)| Op::Hold(i, on)),
        2 => (i.clone(), 0..2_usize).prop_map(|(i, z)| Op::Relabel(i, z)),
        2 => (i.clone(), 0..3_usize).prop_map(|(i, t)| Op::Taint(i, t)),
        1 => i.clone().prop_map(Op::Off),
        1 => i.clone().prop_map(Op::DeleteNode),
        5 => (0..3_usize, 0..8_usize).prop_map(|(s, v)| Op::Put(s, v)),
        1 => (0..3_usize, 0..4_usize).prop_map(|(s, v)| Op::Strategy(s, v)),
        1 => (0..3_usize, any::<bool>()).prop_map(|(s, orphan)| Op::Delete(s, orphan)),
        1 => i.clone().prop_map(Op::Stop),
        1 => i.clone().prop_map(Op::Fail),
        1 => i.clone().prop_map(Op::Vanish),
        1 => i.prop_map(Op::Unready),
        1 => any::<bool>().prop_map(Op::Freeze),
        5 => Just(Op::Agents),
        9 => prop::collection::hash_set(1..12_usize, 0..4).prop_map(Op::Pass),
        2 => (1..90_i64).prop_map(Op::Wait),
    ]
}

struct Run {
    sim: Sim,
    nodes: usize,
    uids: usize,
}

impl Run {
    fn node(&self, i: usize) -> Option<String> {
        let names = &self.sim.world.nodes;
        names.keys().nth(i % names.len().max(1)).cloned()
    }

    fn pod(&self, i: usize) -> Option<Key> {
        let pods = &self.sim.world.pods;
        pods.keys().nth(i % pods.len().max(1)).cloned()
    }

    fn set(n: usize) -> Key {
        key("default", &format!("d{n}"))
    }

    fn apply(&mut self, op: Op) {
        self.sim.pass_time(1);
        match op {
            Op::Join(zone) => {
                self.nodes += 1;
                let name = format!("n{}", self.nodes);
                self.sim.add_node(&name, &[("zone", ZONES[zone % 2])]);
            }
            Op::Condition(i, c) => {
                if let Some(name) = self.node(i) {
                    self.sim.put_condition(&name, CONDITIONS[c]);
                }
            }
            Op::Hold(i, on) => match self.node(i) {
                Some(name) if on => self.sim.cordon(&name, "ann", "", None),
                Some(name) => self.sim.edit_holds(&name, std::collections::BTreeMap::clear),
                None => {}
            },
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
            Op::Off(i) => {
                if let Some(name) = self.node(i) {
                    self.sim.put_condition(&name, "Unreachable");
                    self.sim.confirm_off(&name);
                }
            }
            Op::DeleteNode(i) => {
                if let Some(name) = self.node(i) {
                    self.sim.delete_node_with_tombstone(&name);
                }
            }
            Op::Put(n, version) => self.put(n, version),
            Op::Strategy(n, s) => {
                let strategies = [
                    json!({}),
                    json!({"type": "OnDelete"}),
                    json!({"rollingUpdate": {"maxUnavailable": 2}}),
                    json!({"rollingUpdate": {"maxUnavailable": "30%"}}),
                ];
                let strategy = serde_json::from_value(strategies[s].clone()).unwrap();
                if self.sim.world.daemon_sets.contains_key(&Self::set(n)) {
                    self.sim
                        .edit_ds(&Self::set(n), |set| set.spec.update_strategy = strategy);
                }
            }
            Op::Delete(n, orphan) => {
                let (at, now) = (Self::set(n), self.sim.now);
                if !self.sim.world.daemon_sets.contains_key(&at) {
                    return;
                }
                if orphan {
                    self.sim.edit_ds(&at, |set| {
                        set.metadata.deletion_timestamp = Some(now);
                        set.metadata.finalizers = vec![ORPHAN.into()];
                    });
                } else {
                    self.sim.delete_ds(&at);
                }
            }
            Op::Stop(i) => {
                if let Some(at) = self.pod(i)
                    && !self.sim.world.pods[&at].stopping()
                {
                    self.sim.stop(&at);
                }
            }
            Op::Fail(i) => {
                if let Some(at) = self.pod(i) {
                    self.sim.report(&at, Phase::Failed, false, false);
                }
            }
            Op::Vanish(i) => {
                if let Some(at) = self.pod(i) {
                    self.sim.vanish(&at);
                }
            }
            Op::Unready(i) => {
                if let Some(at) = self.pod(i)
                    && self.sim.world.pods[&at].live()
                {
                    self.sim.report(&at, Phase::Running, false, false);
                }
            }
            Op::Freeze(true) => self.sim.freeze(None),
            Op::Freeze(false) => self.sim.delete(crate::store::keys::FREEZE.to_owned()),
            Op::Agents => self.sim.agents(),
            Op::Pass(lost) => self.pass(&lost),
            Op::Wait(seconds) => self.sim.pass_time(seconds),
        }
        self.check();
    }

    /// A set, or another template for it: for all nodes or a zone, with or without a host port, tolerating or not.
    fn put(&mut self, n: usize, version: usize) {
        let ask = Ask {
            cpu_milli: 100,
            host_port: if version.is_multiple_of(2) { 0 } else { 8080 },
            zone: (version / 2 % 2 == 1).then_some("north"),
            rule: if version / 4 == 1 { Rule::Bears } else { Rule::Nothing },
            ..Ask::default()
        };
        let template = template(&format!("d{n}"), ask);
        let at = Self::set(n);
        match self.sim.world.daemon_sets.get(&at) {
            Some(set) if set.set.metadata.deletion_timestamp.is_some() => {}
            Some(_) => self.sim.edit_ds(&at, |set| set.spec.template = template),
            None => {
                self.uids += 1;
                let uid = format!("u{}", self.uids);
                self.sim.put_ds(&ds("default", &at.1, &uid, template));
            }
        }
    }

    /// Nodes that the set is for, and of these the ones without a daemon that serves; written apart from the product.
    fn missing(world: &World, set: &DaemonSetState, except: &HashSet<String>, now: Time) -> (usize, usize) {
        let spec = &set.set.spec.template.spec;
        let (mut wanted, mut missing) = (0, 0);
        for (name, node) in &world.nodes {
            if !is_for(node, spec) {
                continue;
            }
            wanted += 1;
            if except.contains(name) {
                continue;
            }
            let mut pods = world.pods.values();
            let serves = pods.any(|p| {
                let ours = p.record.owner.as_ref().is_some_and(|o| o.uid == set.set.metadata.uid);
                ours && p.record.node == *name && p.live() && p.ready_for(set.set.spec.min_ready_seconds, now)
            });
            missing += usize::from(!(serves && node.is_ready()));
        }
        (wanted, missing)
    }

    fn pass(&mut self, lost: &HashSet<usize>) {
        let now = self.sim.now;
        let before = self.sim.world.clone();
        self.sim.pass(lost);
        for (at, set) in &self.sim.world.daemon_sets {
            // One that is being deleted lets its pods go.
            let known = before.daemon_sets.get(at);
            let Some(known) = known.filter(|s| s.set.metadata.deletion_timestamp.is_none()) else {
                continue;
            };
            // Where a taint drives out what is there, that is no update's doing.
            let mine = before.pods_of(known.uid());
            let bears = |p: &PodState| !p.template_record().spec.tolerations.is_empty();
            let except: HashSet<String> = mine
                .filter(|(_, p)| {
                    let node = before.nodes.get(&p.record.node);
                    !bears(p) && node.is_some_and(|n| n.node.spec.taints.iter().any(expels))
                })
                .map(|(_, p)| p.record.node.clone())
                .collect();
            let (wanted, was) = Self::missing(&before, known, &except, now);
            let (_, is) = Self::missing(&self.sim.world, set, &except, now);
            let most = set.set.spec.max_unavailable(wanted).unwrap_or(0);
            assert!(is <= was.max(most), "{at:?}: {is} of {wanted} without, {was} before");
            assert!(is <= was || before.freeze.is_none(), "{at:?} is updated while frozen");
        }
    }

    fn check(&self) {
        self.sim.assert_safe();
        let mut seen = HashSet::new();
        for (at, pod) in self.sim.world.pods.iter().filter(|(_, p)| !p.ended()) {
            let node = &pod.record.node;
            assert!(!node.is_empty(), "{at:?} has no node");
            // A deleted node's name is never used again here.
            if let Some(owner) = &pod.record.owner {
                assert!(seen.insert((node, &owner.uid)), "{at:?} is a second one on {node}");
            }
        }
        for node in self.sim.world.nodes.keys() {
            assert_eq!(self.sim.world.losses().filter(|(n, _)| *n == node).count(), 0);
        }
    }

    fn end(&mut self) {
        self.sim.delete(crate::store::keys::FREEZE.to_owned());
        for name in self.sim.world.nodes.keys().cloned().collect::<Vec<_>>() {
            self.sim.delete(crate::store::keys::off(&name));
            self.sim.put_ready(&name, true);
        }
        for at in self.sim.world.daemon_sets.keys().cloned().collect::<Vec<_>>() {
            self.sim
                .edit_ds(&at, |set| set.spec.update_strategy = Default::default());
        }
        self.sim.settle_for(10_000);
        self.check();
        let world = &self.sim.world;
        for (at, set) in &world.daemon_sets {
            let spec = &set.set.spec.template.spec;
            for (name, node) in &world.nodes {
                let here: Vec<_> = world
                    .pods_of(set.uid())
                    .filter(|(_, p)| p.record.node == *name)
                    .collect();
                if is_for(node, spec) {
                    let port_taken = spec.containers[0].ports.first().is_some_and(|port| {
                        let mut others = world.pods_on(name);
                        others.any(|(_, p)| {
                            let ours = p.record.owner.as_ref().is_some_and(|o| o.uid == set.uid());
                            !ours && p.host_ports().any(|(taken, _)| taken == port.host_port)
                        })
                    });
                    // A node for whose daemon there is no port is one of those that may be without one, so that an
                    // update waits.
                    match here.as_slice() {
                        [(_, pod)] => assert!(
                            pod.live() && pod.ready() && (set.is_current(pod) || set.unplaced.is_some()),
                            "{at:?} on {name}: {pod:?}"
                        ),
                        [] => assert!(port_taken && set.unplaced.is_some(), "{at:?} has none on {name}"),
                        more => panic!("{at:?} on {name}: {more:?}"),
                    }
                } else {
                    let chosen = chooses(node, spec) && !node.node.spec.taints.iter().any(expels);
                    assert!(here.is_empty() || chosen, "{at:?} on {name}: {here:?}");
                }
            }
        }
        // Nothing that is not marked had to be planned.
        for plan in self.sim.plan(world, &Dirty::all(world).groups) {
            assert!(plan.commits.is_empty(), "a full pass still finds {:?}", plan.commits);
        }
        let reloaded = self.sim.reloaded();
        assert_eq!(Dirty::all(&reloaded).groups, Dirty::all(world).groups);
    }
}

fn expels(taint: &Taint) -> bool {
    taint.effect == proto::model::TaintEffect::NoExecute
}

fn chooses(node: &NodeState, spec: &proto::model::PodSpec) -> bool {
    let zone = node.node.metadata.labels.get("zone");
    spec.node_selector.get("zone").is_none_or(|wanted| zone == Some(wanted))
}

fn is_for(node: &NodeState, spec: &proto::model::PodSpec) -> bool {
    let borne = node.node.spec.taints.is_empty() || !spec.tolerations.is_empty();
    chooses(node, spec) && borne && node.off.is_none()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// In any order of joins, losses, labels, taints, holds, templates and lost commits: never two on a node, updates
    /// within what the set allows, and in the end one on each node that the set is for.
    #[test]
    fn daemons_in_any_order(ops in prop::collection::vec(op(), 1..80)) {
        let mut sim = Sim::new();
        sim.put_namespace("default", false);
        let mut run = Run { sim, nodes: 0, uids: 0 };
        for op in ops {
            run.apply(op);
        }
        run.end();
    }
}
