//! Properties of updates: random fleets that are updated, turned back, paused, scaled, drained, cut off and frozen in any
//! order, with commits that get lost and pods that fail. What is asserted is computed from what was there before each
//! pass.

use std::collections::HashSet;

use proptest::prelude::*;
use proto::model::{ContainerState, ContainerStateTerminated, ContainerStatus, IntOrPercent, Phase, Time};

use super::turn_back;
use crate::{
    plan::{
        change::Change,
        dirty::Dirty,
        sim::{Ask, Sim, rc, template},
    },
    store::keys,
    world::{
        Key, World,
        record::StatusRecord,
        updates::{OnFailure, Paused, UpdateRecord},
    },
};

#[derive(Clone, Debug)]
enum Op {
    /// Surge, missed, whether it takes the name, whether it is turned back by a failure.
    Update(i32, i32, bool, bool),
    Back,
    Pause,
    Resume,
    Scale(u32),
    Drain(usize),
    Cancel(usize),
    Cut(usize),
    Return(usize),
    /// A pod says that it is not Ready any more.
    Unready(usize),
    /// A pod's container ended three times.
    Crash(usize),
    Freeze,
    Unfreeze,
    /// Agents of these nodes do what they are told.
    Agents(HashSet<usize>),
    /// Commits of these numbers fail.
    Pass(HashSet<usize>),
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let i = 0..64_usize;
    prop_oneof![
        4 => (0..4_i32, 0..3_i32, any::<bool>(), any::<bool>()).prop_map(|(s, m, n, b)| Op::Update(s, m, n, b)),
        1 => Just(Op::Back),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        2 => (0..7_u32).prop_map(Op::Scale),
        2 => i.clone().prop_map(Op::Drain),
        2 => i.clone().prop_map(Op::Cancel),
        1 => i.clone().prop_map(Op::Cut),
        2 => i.clone().prop_map(Op::Return),
        2 => i.clone().prop_map(Op::Unready),
        1 => i.clone().prop_map(Op::Crash),
        1 => Just(Op::Freeze),
        1 => Just(Op::Unfreeze),
        8 => prop::collection::hash_set(0..6_usize, 0..6).prop_map(Op::Agents),
        10 => prop::collection::hash_set(1..8_usize, 0..3).prop_map(Op::Pass),
        2 => (1..400_i64).prop_map(Op::Wait),
    ]
}

struct Run {
    sim: Sim,
    nodes: Vec<String>,
    cut: HashSet<String>,
    /// Name of the controller that there is one of when nothing is updated.
    name: String,
    made: u32,
}

fn serves(world: &World, pod: &crate::world::PodState) -> bool {
    pod.live() && pod.ready() && world.nodes.get(&pod.record.node).is_some_and(|n| n.is_ready())
}

/// Pods that serve, a pair of a drain being one.
fn counted(world: &World) -> usize {
    let all = world.pods.values().filter(|p| serves(world, p));
    let one_of_two = |p: &&crate::world::PodState| {
        let new = world.replacement_of(&p.record.uid);
        new.is_some_and(|(_, new)| serves(world, new))
    };
    all.filter(|p| !one_of_two(p)).count()
}

impl Run {
    fn new(nodes: usize, replicas: i32) -> Self {
        let mut sim = Sim::new();
        let nodes: Vec<_> = (0..nodes).map(|n| format!("n{n}")).collect();
        for name in &nodes {
            sim.add_node(name, &[]);
            sim.put_capabilities(name, &proto::capability::ALL);
        }
        sim.put_rc(&rc(
            "default",
            "web",
            "u-web",
            replicas,
            template("web", Ask::default()),
        ));
        sim.settle();
        Self {
            sim,
            nodes,
            cut: HashSet::new(),
            name: "web".into(),
            made: 0,
        }
    }

    fn update(&self) -> Option<&UpdateRecord> {
        let world = &self.sim.world;
        let found = world.updates.keys().find_map(|key| world.update_at(key));
        found.map(|u| &*u.record.value)
    }

    /// The name under which the update that goes on is kept.
    fn updated(&self) -> Option<String> {
        let world = &self.sim.world;
        world
            .updates
            .keys()
            .find(|key| world.update_at(key).is_some())
            .map(|k| k.1.clone())
    }

    fn steer(&mut self, f: impl FnOnce(&mut UpdateRecord)) {
        if let Some(name) = self.updated() {
            self.sim.steer(&name, f);
        }
    }

    fn pod(&self, i: usize, ready: bool) -> Option<Key> {
        let world = &self.sim.world;
        let pods = world.pods.iter().filter(|(_, p)| p.live() && !p.record.node.is_empty());
        let heard = pods.filter(|(_, p)| world.nodes.get(&p.record.node).is_some_and(|n| n.is_ready()));
        let found: Vec<_> = heard
            .filter(|(_, p)| !ready || p.ready())
            .map(|(k, _)| k.clone())
            .collect();
        found.get(i % found.len().max(1)).cloned()
    }

    fn apply(&mut self, op: Op) {
        let node = |i: usize| self.nodes[i % self.nodes.len()].clone();
        let now = self.sim.now;
        match op {
            Op::Update(surge, missed, renames, back) => {
                if self.update().is_some() {
                    return;
                }
                // Whichever of the two stayed.
                let names: Vec<_> = self.sim.world.controllers.keys().map(|k| k.1.clone()).collect();
                self.name.clone_from(&names[0]);
                self.made += 1;
                let mut template = template("web", Ask::default());
                template.spec.containers[0].image = format!("i{}", self.made);
                let new = format!("web-{}", self.made);
                self.sim.update(&names[0], &new, template, |u| {
                    u.renames = renames;
                    u.limits.max_surge = IntOrPercent::Int(surge);
                    u.limits.max_unavailable = IntOrPercent::Int(missed);
                    u.limits.on_failure = if back { OnFailure::Rollback } else { OnFailure::Pause };
                });
            }
            Op::Back => self.steer(|u| {
                if !u.back {
                    turn_back(u, now, String::new());
                }
            }),
            Op::Pause => self.steer(|u| {
                u.paused = Some(Paused {
                    at: now,
                    by: "user/admin".into(),
                    failed: false,
                    why: String::new(),
                });
            }),
            Op::Resume => self.steer(|u| {
                u.paused = None;
                u.progressed = now;
            }),
            Op::Scale(n) => {
                if self.update().is_some() {
                    self.steer(|u| {
                        (u.from, u.target) = (n, n);
                        if let Some(step) = u.steps.last_mut().filter(|s| s.done.is_none()) {
                            step.done = Some(now);
                        }
                        u.progressed = now;
                    });
                } else {
                    let at = self.sim.world.controllers.keys().next().expect("one").clone();
                    self.sim
                        .edit_rc(&at, |rc| rc.spec.replicas = i32::try_from(n).expect("a count"));
                }
            }
            Op::Drain(i) => {
                let node = node(i);
                if self.sim.world.nodes[&node].emptied().is_none() {
                    self.sim
                        .drain(&node, |d| d.options.deadline = Time(d.since.0 + 100_000));
                }
            }
            Op::Cancel(i) => {
                let node = node(i);
                if self.sim.world.nodes[&node].emptied().is_some() {
                    self.sim.cancel_drain(&node);
                }
            }
            Op::Cut(i) => {
                let node = node(i);
                if self.cut.insert(node.clone()) {
                    self.sim.put_ready(&node, false);
                }
            }
            Op::Return(i) => {
                let node = node(i);
                if self.cut.remove(&node) {
                    self.sim.put_ready(&node, true);
                }
            }
            Op::Unready(i) => {
                if let Some(at) = self.pod(i, true) {
                    self.sim.report(&at, Phase::Running, false, false);
                }
            }
            Op::Crash(i) => {
                if let Some(at) = self.pod(i, false) {
                    self.crash(&at);
                }
            }
            Op::Freeze => self.sim.freeze(Some(Time(now.0 + 50))),
            Op::Unfreeze => {
                if self.sim.world.freeze.is_some() {
                    self.sim.delete(keys::FREEZE.to_owned());
                }
            }
            Op::Agents(which) => {
                let which: HashSet<String> = which.into_iter().map(node).collect();
                self.sim.agents_of(|node| which.contains(node));
            }
            Op::Pass(lost) => self.pass(&lost),
            Op::Wait(seconds) => self.sim.pass_time(seconds),
        }
    }

    fn crash(&mut self, at: &Key) {
        self.sim.report(at, Phase::Running, false, false);
        let before = self.sim.world.pods[at].status.as_ref().expect("a status").value.clone();
        let mut status: StatusRecord = (*before).clone();
        status.status.container_statuses = vec![ContainerStatus {
            name: "c".into(),
            restart_count: 2,
            state: ContainerState::Terminated(ContainerStateTerminated {
                exit_code: 1,
                ..ContainerStateTerminated::default()
            }),
            ..ContainerStatus::default()
        }];
        self.sim.put(keys::pod_status(&at.0, &at.1), &status);
    }

    /// One pass: as many serve as before, as far as the limits ask for it, and no more are wanted than they allow.
    fn pass(&mut self, lost: &HashSet<usize>) {
        let before = self.sim.world.clone();
        let update = self.update().cloned();
        let plans = self.sim.pass(lost);
        let world = &self.sim.world;
        let stops = |steps_only: bool| {
            let commits = plans.iter().flat_map(|p| &p.commits);
            let of =
                commits.filter(|c| !steps_only || c.changes.iter().any(|c| matches!(c, Change::SetReplicas { .. })));
            let changes = of.flat_map(|c| &c.changes);
            changes
                .filter(|c| matches!(c, Change::Stop { lost: false, .. }))
                .count()
        };
        if let Some(update) = &update {
            let (had, has) = (counted(&before), counted(world));
            let floor = usize::try_from(update.floor() - update.missed()).unwrap_or(0);
            // What is too many after a scaling goes without a word of the ledger.
            if stops(true) == stops(false) {
                assert!(
                    has >= had.min(floor),
                    "{has} serve where {had} did, and {floor} must: {update:?}"
                );
            }
            let wanted = |w: &World| -> i64 { w.controllers.values().map(|c| i64::from(c.rc.spec.replicas)).sum() };
            assert!(wanted(world) <= update.ceiling().max(wanted(&before)), "{update:?}");
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
    fn whatever_happens_floor_and_ceiling_hold_and_it_ends(
        nodes in 2..6_usize,
        replicas in 0..7_i32,
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut run = Run::new(nodes, replicas);
        for op in ops {
            run.apply(op);
        }
        // All nodes come back and take pods, nothing is frozen or paused: then it ends.
        for i in 0..nodes {
            run.apply(Op::Return(i));
            run.apply(Op::Cancel(i));
        }
        run.apply(Op::Unfreeze);
        for extra in ["x0", "x1", "x2"] {
            run.sim.add_node(extra, &[]);
            run.sim.put_capabilities(extra, &proto::capability::ALL);
        }
        // One that paused because of what has ended so often since pauses again; whoever mends it deletes that.
        for _ in 0..8 {
            let crashed: Vec<Key> = run.sim.world.pods.iter().filter(|(_, p)| p.live() && !p.ready()).map(|(k, _)| k.clone()).collect();
            for at in crashed {
                run.sim.stop(&at);
            }
            run.apply(Op::Resume);
            run.sim.settle_for(700);
        }
        run.assert_marked();
        let world = &run.sim.world;
        prop_assert!(run.update().is_none(), "{:?}", run.update());
        prop_assert_eq!(world.controllers.len(), 1);
        let (_, last) = world.controllers.iter().next().expect("one");
        let wanted = usize::try_from(last.rc.spec.replicas).expect("a count");
        prop_assert_eq!(world.pods.len(), wanted);
        prop_assert_eq!(counted(world), wanted);
        let images: HashSet<String> = world.pods.values().map(|p| p.spec().containers[0].image.clone()).collect();
        prop_assert!(images.len() <= 1, "of one version: {images:?}");
        prop_assert_eq!(&run.sim.reloaded().controllers.len(), &1);
        run.sim.assert_safe();
    }
}
