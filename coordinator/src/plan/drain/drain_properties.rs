//! Properties of drains: random fleets that are drained, cut off, frozen and scaled in any order, with commits that get
//! lost and replacements that fail. What is asserted is computed from what was there before each pass.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use proto::model::{Phase, Time, host_port};
use serde_json::json;

use super::report::{State, Step, report};
use crate::{
    plan::{
        Group, Plan,
        change::Change,
        dirty::Dirty,
        sim::{Ask, Sim, key, map, rc, template},
    },
    store::keys,
    world::{
        Key, PodState, World,
        drains::{DrainOutcome, OnDeadline},
    },
};

const NAMES: [&str; 4] = ["web", "ports", "first", "single"];

#[derive(Clone, Debug)]
enum Op {
    Drain(usize, u8),
    Cancel(usize),
    Cut(usize),
    Return(usize),
    ConfirmOff(usize),
    /// A pod says that it is not Ready any more.
    Fail(usize),
    Freeze,
    Unfreeze,
    Scale(usize, i32),
    Parallel(u8),
    /// Agents of these nodes do what they are told.
    Agents(HashSet<usize>),
    /// Commits of these numbers fail.
    Pass(HashSet<usize>),
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let i = 0..64_usize;
    prop_oneof![
        5 => (i.clone(), any::<u8>()).prop_map(|(i, o)| Op::Drain(i, o)),
        2 => i.clone().prop_map(Op::Cancel),
        1 => i.clone().prop_map(Op::Cut),
        2 => i.clone().prop_map(Op::Return),
        1 => i.clone().prop_map(Op::ConfirmOff),
        2 => i.clone().prop_map(Op::Fail),
        1 => Just(Op::Freeze),
        1 => Just(Op::Unfreeze),
        2 => (0..4_usize, 0..5_i32).prop_map(|(i, n)| Op::Scale(i, n)),
        1 => (1..9_u8).prop_map(Op::Parallel),
        6 => prop::collection::hash_set(0..6_usize, 0..6).prop_map(Op::Agents),
        9 => prop::collection::hash_set(1..8_usize, 0..3).prop_map(Op::Pass),
        3 => (1..400_i64).prop_map(Op::Wait),
    ]
}

struct Run {
    sim: Sim,
    nodes: Vec<String>,
    cut: HashSet<String>,
}

/// As [`serving`], a pod and what was started beside it being one: that one is there to step in.
fn counted(world: &World, name: &str) -> usize {
    let up = |node: &str| world.nodes.get(node).is_some_and(|n| n.is_ready());
    let serves = |p: &PodState| p.live() && p.ready() && up(&p.record.node);
    let owner = format!("u-{name}");
    let pairs = world.pods_of(&owner).filter(|(_, old)| {
        let new = world.replacement_of(&old.record.uid);
        serves(old) && new.is_some_and(|(_, new)| serves(new))
    });
    serving(world, name) - pairs.count()
}

/// Pods of a controller that serve: Ready, on a node that is heard.
fn serving(world: &World, name: &str) -> usize {
    let up = |node: &str| world.nodes.get(node).is_some_and(|n| n.is_ready());
    let owner = format!("u-{name}");
    let pods = world.pods_of(&owner);
    pods.filter(|(_, p)| p.live() && p.ready() && up(&p.record.node))
        .count()
}

/// What the plans do to a controller's pods, in short.
fn of_it(plans: &[Plan], name: &str) -> String {
    let changes = plans.iter().flat_map(Plan::changes);
    let said = changes.filter_map(|c| match c {
        Change::Stop { pod, reason, drain, .. } => Some((pod.key.1.clone(), format!("stop ({drain:?}): {reason}"))),
        Change::CreatePod { key, record } => Some((key.1.clone(), format!("create {:?}", record.replaces))),
        _ => None,
    });
    let said = said.filter(|(pod, _)| pod.starts_with(name));
    said.map(|(pod, what)| format!("\n{pod}: {what}")).collect()
}

/// It has more than it wants: what goes then is not held back, and those on held nodes go first.
fn scaled_down(world: &World, name: &str) -> bool {
    let owner = format!("u-{name}");
    let live: Vec<_> = world.pods_of(&owner).filter(|(_, p)| p.live()).collect();
    let spares = live
        .iter()
        .filter(|(_, p)| world.replacement_of(&p.record.uid).is_some());
    live.len() - spares.count() > desired(world, name)
}

fn desired(world: &World, name: &str) -> usize {
    let rc = &world.controllers[&key("default", name)].rc;
    usize::try_from(rc.spec.replicas).expect("a count")
}

impl Run {
    fn new(nodes: usize) -> Self {
        let mut sim = Sim::new();
        let nodes: Vec<_> = (0..nodes).map(|n| format!("n{n}")).collect();
        for name in &nodes {
            sim.add_node(name, &[]);
            sim.put_capabilities(name, &proto::capability::ALL);
        }
        for name in NAMES {
            let ask = Ask {
                asking: u16::from(name == "ports"),
                cpu_milli: 300,
                ..Ask::default()
            };
            let mut template = template(name, ask);
            match name {
                "first" => template.metadata.annotations = map(&[("wharfinger.io/stop-first", "true")]),
                "single" => template.metadata.annotations = map(&[("wharfinger.io/singleton", "true")]),
                "ports" => template.metadata.annotations = map(&[(host_port::HOST_PORT, host_port::AUTO)]),
                _ => {}
            }
            let replicas = if name == "single" { 1 } else { 3 };
            sim.put_rc(&rc("default", name, &format!("u-{name}"), replicas, template));
        }
        let of = |app: &str| json!({"matchLabels": {"app": app}});
        sim.put_budget("default", "web", json!({"minAvailable": 2, "selector": of("web")}));
        sim.put_budget(
            "default",
            "ports",
            json!({"maxUnavailable": "34%", "selector": of("ports")}),
        );
        sim.settle();
        Self {
            sim,
            nodes,
            cut: HashSet::new(),
        }
    }

    fn apply(&mut self, op: Op) {
        let node = |i: usize| self.nodes[i % self.nodes.len()].clone();
        let sim = &mut self.sim;
        match op {
            Op::Drain(i, options) => {
                let node = node(i);
                if sim.world.nodes[&node].emptied().is_none() {
                    sim.drain(&node, |d| {
                        d.options.allow_downtime = options & 8 > 0;
                        d.options.deadline = Time(d.since.0 + 60 + i64::from(options) * 10);
                        d.options.on_deadline = match options % 4 {
                            0 => OnDeadline::Abort,
                            1 => OnDeadline::Force,
                            _ => OnDeadline::Block,
                        };
                    });
                }
            }
            Op::Cancel(i) => {
                let node = node(i);
                if sim.world.nodes[&node].emptied().is_some() {
                    sim.cancel_drain(&node);
                }
            }
            Op::Cut(i) => {
                let node = node(i);
                if sim.world.nodes[&node].off.is_none() && self.cut.insert(node.clone()) {
                    sim.put_ready(&node, false);
                }
            }
            Op::Return(i) => {
                let node = node(i);
                if self.cut.remove(&node) {
                    sim.delete(keys::off(&node));
                    sim.put_ready(&node, true);
                }
            }
            Op::ConfirmOff(i) => {
                let node = node(i);
                if self.cut.contains(&node) {
                    sim.confirm_off(&node);
                }
            }
            Op::Fail(i) => {
                let ready = |w: &World| -> Vec<Key> {
                    let pods = w.pods.iter().filter(|(_, p)| p.live() && p.ready());
                    let heard = pods.filter(|(_, p)| w.nodes.get(&p.record.node).is_some_and(|n| n.is_ready()));
                    heard.map(|(k, _)| k.clone()).collect()
                };
                let ready = ready(&sim.world);
                if let Some(at) = ready.get(i % ready.len().max(1)) {
                    sim.report(at, Phase::Running, false, false);
                }
            }
            Op::Freeze => sim.freeze(Some(Time(sim.now.0 + 50))),
            Op::Unfreeze => {
                if sim.world.freeze.is_some() {
                    sim.delete(keys::FREEZE.to_owned());
                }
            }
            Op::Scale(i, n) => {
                let name = NAMES[i % 3];
                sim.edit_rc(&key("default", name), |rc| rc.spec.replicas = n);
            }
            Op::Parallel(n) => sim.set(&[("drain-parallel", &n.to_string())]),
            Op::Agents(which) => {
                let which: HashSet<String> = which.into_iter().map(node).collect();
                sim.agents_of(|node| which.contains(node));
            }
            Op::Pass(lost) => self.pass(&lost),
            Op::Wait(seconds) => sim.pass_time(seconds),
        }
    }

    /// One pass, after which as many serve as before, as far as the rules ask for it.
    fn pass(&mut self, lost: &HashSet<usize>) {
        let before = self.sim.world.clone();
        let plans = self.sim.pass(lost);
        let world = &self.sim.world;
        let forced = world
            .draining()
            .any(|n| world.nodes[n].draining().is_some_and(|d| d.forced.is_some()));
        let downtime = world
            .draining()
            .any(|n| world.nodes[n].draining().is_some_and(|d| d.options.allow_downtime));
        for name in NAMES {
            let (had, has) = (counted(&before, name), counted(world, name));
            if scaled_down(&before, name) {
                continue;
            }
            let missed = usize::from(downtime || matches!(name, "first" | "single"));
            let floor = desired(&before, name).saturating_sub(missed);
            assert!(
                forced || has >= had.min(floor),
                "{name}: {has} serve where {had} did; {}",
                of_it(&plans, name)
            );
        }
        for (at, state) in &before.budgets {
            if scaled_down(&before, &at.1) {
                continue;
            }
            let count = |w: &World| w.tally(&at.0, &state.budget.spec, self.sim.now, |_| false);
            let (had, has) = (count(&before), count(world));
            assert!(
                forced || has.available >= had.available.min(had.floor),
                "{at:?}: {} are available where {} were; {}",
                has.available,
                had.available,
                of_it(&plans, &at.1)
            );
        }
        for change in plans.iter().flat_map(|p| p.changes()) {
            if let Change::SetDrain { node, record, .. } = change
                && record.ended.as_ref().is_some_and(|e| e.how == DrainOutcome::Drained)
            {
                let runs = before.pods_on(node).find(|(_, p)| !p.is_over());
                assert!(runs.is_none(), "{node} is not empty: {runs:?}");
            }
        }
        self.assert_pairs();
    }

    /// At most one pod lives in another's place, and as many move as may.
    fn assert_pairs(&self) {
        let mut seen = HashSet::new();
        for (key, pod) in self.sim.world.pods.iter().filter(|(_, p)| p.live()) {
            let replaces = pod.record.replaces.as_ref();
            let Some(replaces) = replaces.filter(|r| self.sim.world.drains(&r.node, &r.drain)) else {
                continue;
            };
            let old = self.sim.world.pod_by_uid(&replaces.uid);
            if old.is_some_and(|(_, p)| p.live()) {
                assert!(seen.insert(&replaces.uid), "{key:?}: two for one");
            }
        }
    }

    /// What waits says why, with what can be done.
    fn assert_told(&self) {
        // What nobody has looked at yet is not told yet.
        if !self.sim.dirty.groups.is_empty() {
            return;
        }
        for name in &self.nodes {
            let Some(report) = report(&self.sim.world, name, self.sim.now) else {
                continue;
            };
            for line in &report.lines {
                // Of a lost node the report as a whole says what can be done.
                let told = line.why.contains(';') || report.why.iter().any(|w| w.contains("confirm-off"));
                assert!(line.step != Step::Blocked || told, "{line:?}");
            }
            let told = !report.why.is_empty() || report.lines.iter().any(|l| l.step == Step::Blocked);
            assert!(
                !matches!(report.state, State::Blocked | State::Paused) || told,
                "{report:?}"
            );
        }
    }

    /// A look at everything finds nothing that was not marked.
    fn assert_marked(&self) {
        let groups = Dirty::all(&self.sim.world).groups;
        for plan in self.sim.plan(&self.sim.world, &groups) {
            for change in plan.changes() {
                assert!(matches!(change, Change::Explain { .. }), "not marked: {change:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_missed_and_all_comes_to_rest(
        nodes in 2..6_usize,
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut run = Run::new(nodes);
        for op in ops {
            run.apply(op);
            run.assert_told();
        }
        // All nodes come back, nothing is frozen, and room is made: then each drain ends and each controller is whole.
        for i in 0..nodes {
            run.apply(Op::Return(i));
        }
        run.apply(Op::Unfreeze);
        // Its budget could not be met with fewer.
        run.apply(Op::Scale(0, 3));
        for extra in ["x0", "x1", "x2"] {
            run.sim.add_node(extra, &[]);
            run.sim.put_capabilities(extra, &proto::capability::ALL);
        }
        run.sim.settle_for(4000);
        run.assert_told();
        run.assert_marked();
        let world = &run.sim.world;
        let left: BTreeMap<_, _> = run.nodes.iter().filter_map(|n| Some((n, report(world, n, run.sim.now)?))).collect();
        prop_assert!(world.draining().len() == 0, "{left:?}");
        for name in NAMES {
            prop_assert_eq!(serving(world, name), desired(world, name), "{}", name);
            let owner = format!("u-{name}");
            let live = world.pods_of(&owner).count();
            prop_assert_eq!(live, desired(world, name), "{}: nothing too many", name);
        }
        for name in run.nodes.iter().filter(|n| world.nodes[*n].emptied().is_some()) {
            prop_assert_eq!(world.pods_on(name).count(), 0, "{}", name);
        }
        run.sim.assert_safe();
        prop_assert!(!run.sim.dirty.groups.contains(&Group::Losses));
    }
}
