//! Properties of losses: random fleets whose nodes fall silent, return, are frozen with the fleet and confirmed off in
//! any order, with commits that get lost. What really runs is kept apart from what the records say: a node that is
//! not heard runs on what it ran.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use proto::model::{Phase, Time, loss};

use super::{
    change::Change,
    sim::{Ask, Sim, key, map, rc, template},
};
use crate::{
    store::keys,
    world::{Key, Silence},
};

const SINGLE: &str = "single";
const BOUNDED: &str = "bounded";
const ZONES: [&str; 3] = ["a", "b", ""];

#[derive(Clone, Debug)]
enum Op {
    /// Its link is cut, and its agent lives.
    Cut(usize),
    /// Its agent ends, and what it ran goes on.
    Kill(usize),
    /// The machine ends, with all on it.
    PowerOff(usize),
    Return(usize),
    ConfirmOff(usize),
    Freeze(Option<i64>),
    Unfreeze,
    Scale(usize, i32),
    Delete(usize),
    Agents,
    /// Commits of these numbers fail.
    Pass(HashSet<usize>),
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let i = 0..64_usize;
    prop_oneof![
        4 => i.clone().prop_map(Op::Cut),
        2 => i.clone().prop_map(Op::Kill),
        2 => i.clone().prop_map(Op::PowerOff),
        4 => i.clone().prop_map(Op::Return),
        2 => i.clone().prop_map(Op::ConfirmOff),
        1 => prop::option::of(1..200_i64).prop_map(Op::Freeze),
        1 => Just(Op::Unfreeze),
        2 => (0..3_usize, 0..6_i32).prop_map(|(i, n)| Op::Scale(i, n)),
        1 => i.prop_map(Op::Delete),
        3 => Just(Op::Agents),
        8 => prop::collection::hash_set(1..8_usize, 0..3).prop_map(Op::Pass),
        5 => (1..150_i64).prop_map(Op::Wait),
    ]
}

/// One machine as it really is.
#[derive(Debug, Default)]
struct Host {
    on: bool,
    agent: bool,
    linked: bool,
    /// Uids of the pods whose containers run.
    runs: BTreeSet<String>,
    /// When its agent was last heard.
    heard: Time,
}

struct Run {
    sim: Sim,
    hosts: BTreeMap<String, Host>,
    /// When each node was given up.
    given_up: Vec<(Time, String)>,
}

impl Run {
    fn new(nodes: usize) -> Self {
        let mut sim = Sim::new();
        let mut hosts = BTreeMap::new();
        for n in 0..nodes {
            let name = format!("n{n:02}");
            let zone = ZONES[n % 3];
            let labels = [("topology.kubernetes.io/zone", zone)];
            sim.add_node(&name, if zone.is_empty() { &[] } else { &labels });
            sim.put_capabilities(&name, &proto::capability::ALL);
            let host = Host {
                on: true,
                agent: true,
                linked: true,
                ..Host::default()
            };
            hosts.insert(name, host);
        }
        for (name, replicas, annotations) in [
            ("web", 4, map(&[])),
            (SINGLE, 1, map(&[(loss::SINGLETON, "true")])),
            (
                BOUNDED,
                1,
                map(&[(loss::SINGLETON, "true"), (loss::STOP_AFTER_DISCONNECT, "30s")]),
            ),
        ] {
            let mut template = template(name, Ask::default());
            template.metadata.annotations = annotations;
            sim.put_rc(&rc("default", name, &format!("u-{name}"), replicas, template));
        }
        Self {
            sim,
            hosts,
            given_up: Vec::new(),
        }
    }

    fn apply(&mut self, op: Op) {
        let pick = |i: usize| format!("n{:02}", i % self.hosts.len());
        match op {
            Op::Cut(i) => {
                let name = pick(i);
                let host = self.hosts.get_mut(&name).unwrap();
                if std::mem::replace(&mut host.linked, false) && host.agent {
                    self.silent(&name, Silence::Unreachable);
                }
            }
            Op::Kill(i) => {
                let name = pick(i);
                let host = self.hosts.get_mut(&name).unwrap();
                // An agent that ends while its link is cut is no agent that stops anything, and nobody can tell: of
                // that the docs warn.
                if host.linked && std::mem::replace(&mut host.agent, false) {
                    self.silent(&name, Silence::AgentDown);
                }
            }
            Op::PowerOff(i) => {
                let name = pick(i);
                let host = self.hosts.get_mut(&name).unwrap();
                let heard = host.agent && host.linked;
                (host.on, host.agent) = (false, false);
                host.runs.clear();
                if heard {
                    self.silent(&name, Silence::Unreachable);
                }
            }
            Op::Return(i) => self.back(&pick(i)),
            Op::ConfirmOff(i) => {
                // An operator who says so has looked.
                let name = pick(i);
                if !self.hosts[&name].on && self.sim.world.nodes[&name].lost().is_some() {
                    self.sim.confirm_off(&name);
                }
            }
            Op::Freeze(until) => self.sim.freeze(until.map(|s| Time(self.sim.now.0 + s))),
            Op::Unfreeze => self.sim.delete(keys::FREEZE.to_owned()),
            Op::Scale(i, n) => {
                let (name, most) = [("web", 5), (SINGLE, 1), (BOUNDED, 1)][i];
                self.sim
                    .edit_rc(&key("default", name), |rc| rc.spec.replicas = n.min(most));
            }
            Op::Delete(i) => {
                let pods = self.sim.world.pods.iter().filter(|(_, p)| p.live());
                let pods: Vec<Key> = pods.map(|(k, _)| k.clone()).collect();
                if let Some(at) = pods.get(i % pods.len().max(1)) {
                    self.sim.stop(at);
                }
            }
            Op::Agents => self.agents(),
            Op::Pass(lost) => self.pass(&lost),
            Op::Wait(seconds) => {
                self.sim.wait_until(Time(self.sim.now.0 + seconds));
                self.disconnected();
            }
        }
        self.check();
    }

    fn silent(&mut self, name: &str, how: Silence) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.heard = self.sim.now;
        }
        self.sim.put_condition(name, how.as_str());
    }

    fn back(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        (host.on, host.agent, host.linked) = (true, true, true);
        self.disconnected();
        if !self.sim.world.nodes[name].is_ready() {
            self.sim.put_ready(name, true);
        }
    }

    /// Agents that live and are not heard stop what asks for it.
    fn disconnected(&mut self) {
        let now = self.sim.now;
        for host in self.hosts.values_mut().filter(|h| h.agent && !h.linked) {
            let world = &self.sim.world;
            host.runs.retain(|uid| {
                let limit = world
                    .pod_by_uid(uid)
                    .and_then(|(_, p)| p.loss_policy().stop_after_disconnect);
                // A pod whose record is gone ran as long as its agent knew of no stop.
                limit.is_none_or(|l| now.since(host.heard) < l.as_secs() + 10)
            });
        }
    }

    /// Agents that are heard do what they are told, and start nothing before what is to stop has stopped.
    fn agents(&mut self) {
        self.disconnected();
        let mut news: Vec<(Key, Phase, bool, bool)> = Vec::new();
        let mut clear = Vec::new();
        for (name, host) in self.hosts.iter_mut().filter(|(_, h)| h.agent && h.linked) {
            let world = &self.sim.world;
            let off = world.nodes[name].off.is_some();
            host.runs
                .retain(|uid| world.pod_by_uid(uid).is_some_and(|(_, p)| !p.stopping() && !off));
            if off && world.pods_on(name).next().is_none() {
                clear.push(name.clone());
            }
            for (at, pod) in world.pods_on(name) {
                if pod.stopping() {
                    if !pod.status.as_ref().is_some_and(|s| s.value.stopped) {
                        news.push((at.clone(), Phase::Failed, false, true));
                    }
                } else if pod.live() && !off {
                    if !pod.ready() {
                        news.push((at.clone(), Phase::Running, true, false));
                    }
                    host.runs.insert(pod.record.uid.clone());
                }
            }
        }
        for (at, phase, ready, stopped) in news {
            self.sim.report(&at, phase, ready, stopped);
        }
        for name in clear {
            self.sim.delete(keys::off(&name));
        }
    }

    fn pass(&mut self, lost: &HashSet<usize>) {
        let before = self.sim.world.clone();
        let live = |world: &crate::world::World, uid: &str| world.pods_of(uid).filter(|(_, p)| p.live()).count();
        let plans = self.sim.pass(lost);
        // Whatever of it was applied, no controller got more than it should have.
        for (at, controller) in &self.sim.world.controllers {
            let uid = &controller.rc.metadata.uid;
            let desired = usize::try_from(controller.rc.spec.replicas).unwrap_or(0);
            let (was, is) = (live(&before, uid), live(&self.sim.world, uid));
            assert!(is <= desired.max(was), "{at:?}: {was}, then {is} of {desired}");
        }
        for change in plans.iter().flat_map(super::Plan::changes) {
            if let Change::GiveUp { node, at, .. } = change
                && self.sim.world.nodes[node].given_up()
            {
                self.given_up.push((*at, node.clone()));
            }
        }
    }

    fn check(&self) {
        let world = &self.sim.world;
        let now = self.sim.now;
        // The brake, by all that was ever given up.
        let recent: BTreeSet<&str> = self
            .given_up
            .iter()
            .filter(|(at, _)| now.since(*at) < 60)
            .map(|(_, name)| name.as_str())
            .collect();
        assert!(
            recent.len() <= 1,
            "{recent:?} within a minute, of {} nodes",
            self.hosts.len()
        );
        // Of a singleton no two run, whatever is heard of them.
        for name in [SINGLE, BOUNDED] {
            let hosts = self
                .hosts
                .iter()
                .flat_map(|(host, h)| h.runs.iter().map(move |uid| (host, uid)));
            let running: Vec<_> = hosts.filter(|(_, uid)| self.owner(uid) == Some(name)).collect();
            assert!(running.len() <= 1, "{name} runs as {running:?}");
        }
        // On a node that takes pods nothing that was replaced is left.
        for (name, node) in &world.nodes {
            let lost = world.pods_on(name).filter(|(_, p)| p.lost()).count();
            assert_eq!(lost, usize::try_from(node.replaced).unwrap(), "{name}");
        }
    }

    /// The controller of a pod, by the name that the first record gave it.
    fn owner(&self, uid: &str) -> Option<&'static str> {
        let (_, pod) = self.sim.world.pod_by_uid(uid)?;
        let name = &pod.record.owner.as_ref()?.name;
        [SINGLE, BOUNDED].into_iter().find(|n| n == name)
    }

    /// Every fault ends: the fleet is as it should be, and nothing that was replaced runs.
    fn end(&mut self) {
        if self.sim.world.freeze.is_some() {
            self.sim.delete(keys::FREEZE.to_owned());
        }
        for name in self.hosts.keys().cloned().collect::<Vec<_>>() {
            self.back(&name);
        }
        for _ in 0..50 {
            self.agents();
            self.pass(&HashSet::new());
            self.sim.wait_until(Time(self.sim.now.0 + 10));
            self.check();
        }
        let world = &self.sim.world;
        for (at, controller) in &world.controllers {
            let pods: Vec<_> = world.pods_of(&controller.rc.metadata.uid).collect();
            let desired = usize::try_from(controller.rc.spec.replicas).unwrap_or(0);
            assert_eq!(pods.len(), desired, "{at:?}: {pods:?}");
            assert!(pods.iter().all(|(_, p)| p.live() && p.ready()), "{at:?}: {pods:?}");
        }
        let bound: BTreeSet<&str> = world.pods.values().map(|p| p.record.uid.as_str()).collect();
        let running: BTreeSet<&str> = self.hosts.values().flat_map(|h| &h.runs).map(String::as_str).collect();
        assert_eq!(running, bound);
        assert!(world.nodes.values().all(|n| n.is_ready() && n.replaced == 0));
        assert_eq!(world.losses().count(), 0, "records of losses are left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn losses_in_any_order(nodes in 1..13_usize, ops in prop::collection::vec(op(), 1..80)) {
        let mut run = Run::new(nodes);
        for op in ops {
            run.apply(op);
        }
        run.end();
    }
}
