//! What budgets show of fixed fleets, and that no change of what they show passes untouched.

use proptest::prelude::*;
use proto::model::{Kind, Object, Phase};
use serde_json::json;

use super::*;
use crate::{
    plan::sim::{Ask, Sim, key, rc, template},
    store::keys,
    world::record::{OwnerRecord, PodRecord, StopRecord},
};

fn shown(sim: &Sim, name: &str) -> PodDisruptionBudget {
    match sim.world.object(Kind::PodDisruptionBudget, "default", name) {
        Some(Object::PodDisruptionBudget(budget)) => budget,
        other => panic!("{other:?}"),
    }
}

/// Available, needed, expected, allowed.
fn counts(sim: &Sim, name: &str) -> [i64; 4] {
    let status = shown(sim, name).status.unwrap_or_default();
    [
        status.current_healthy,
        status.desired_healthy,
        status.expected_pods,
        status.disruptions_allowed,
    ]
}

#[test]
fn its_status_follows_its_pods() {
    let mut sim = Sim::new();
    for name in ["n1", "n2"] {
        sim.add_node(name, &[]);
    }
    let over = |app: &str| json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": app}}});
    sim.put_budget("default", "web", over("web"));
    assert_eq!(
        counts(&sim, "web"),
        [0, 0, 0, 0],
        "nothing is expected yet, and nothing may go"
    );
    sim.put_rc(&rc("default", "web", "u", 4, template("web", Ask::default())));
    sim.settle();
    assert_eq!(counts(&sim, "web"), [4, 3, 4, 1]);
    let all: Vec<Key> = sim.world.pods.keys().cloned().collect();
    sim.report(&all[0], Phase::Running, false, false);
    assert_eq!(counts(&sim, "web"), [3, 3, 4, 0]);
    let condition = &shown(&sim, "web").status.unwrap_or_default().conditions[0];
    assert_eq!(
        (condition.status, condition.reason.as_str(), condition.message.as_str()),
        (
            ConditionStatus::False,
            "InsufficientPods",
            "3 of 4 must be available, 3 are"
        )
    );
    sim.edit_rc(&key("default", "web"), |rc| rc.spec.replicas = 2);
    assert_eq!(counts(&sim, "web"), [3, 1, 2, 2], "what is desired counts at once");
    sim.put_condition("n1", "DockerUnavailable");
    sim.put_ready("n2", false);
    assert_eq!(counts(&sim, "web"), [0, 1, 2, 0], "what is not heard is not available");
    // Its own version is that of its record.
    let version = shown(&sim, "web").metadata.resource_version;
    assert_eq!(version, sim.world.budgets[&key("default", "web")].rv.to_string());
}

#[derive(Clone, Debug)]
enum Op {
    Ready(usize, bool),
    Status(usize, bool, bool),
    Stop(usize),
    Label(usize, usize),
    Own(usize, Option<usize>),
    Replicas(usize, i32),
    Remove(usize),
    RemoveController(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let i = 0..6_usize;
    prop_oneof![
        1 => (0..2_usize, any::<bool>()).prop_map(|(i, ready)| Op::Ready(i, ready)),
        4 => (i.clone(), any::<bool>(), any::<bool>()).prop_map(|(i, ready, ended)| Op::Status(i, ready, ended)),
        1 => i.clone().prop_map(Op::Stop),
        1 => (i.clone(), 0..3_usize).prop_map(|(i, app)| Op::Label(i, app)),
        1 => (i.clone(), prop::option::of(0..2_usize)).prop_map(|(i, owner)| Op::Own(i, owner)),
        1 => (0..2_usize, 0..4_i32).prop_map(|(i, n)| Op::Replicas(i, n)),
        1 => i.prop_map(Op::Remove),
        1 => (0..2_usize).prop_map(Op::RemoveController),
    ]
}

fn pod(i: usize) -> Key {
    key("default", &format!("p{i}"))
}

fn apply(sim: &mut Sim, op: &Op) {
    let controller = |i: usize, n: i32| {
        rc(
            "default",
            &format!("c{i}"),
            &format!("u{i}"),
            n,
            template("x", Ask::default()),
        )
    };
    match *op {
        Op::Ready(i, ready) => sim.put_ready(&format!("n{i}"), ready),
        Op::Replicas(i, n) => sim.put_rc(&controller(i, n)),
        Op::RemoveController(i) => sim.delete(keys::object(Kind::ReplicationController, "default", &format!("c{i}"))),
        Op::Remove(i) => sim.delete(keys::object(Kind::Pod, "default", &format!("p{i}"))),
        Op::Status(i, ready, ended) if sim.world.pods.contains_key(&pod(i)) => {
            let phase = if ended { Phase::Failed } else { Phase::Running };
            sim.report(&pod(i), phase, ready, false);
        }
        Op::Stop(i) => edit(sim, i, |r| {
            r.stop = Some(StopRecord {
                at: Time(1),
                grace: 1,
                reason: String::new(),
                lost: false,
                drain: None,
            });
        }),
        Op::Label(i, app) => edit(sim, i, |r| {
            r.labels.insert("app".into(), Some(format!("a{app}")));
        }),
        Op::Own(i, owner) => edit(sim, i, |r| {
            r.owner = owner.map(|o| OwnerRecord {
                name: format!("c{o}"),
                uid: format!("u{o}"),
                ..OwnerRecord::default()
            });
        }),
        Op::Status(..) => {}
    }
}

fn edit(sim: &mut Sim, i: usize, f: impl FnOnce(&mut PodRecord)) {
    if sim.world.pods.contains_key(&pod(i)) {
        sim.edit_pod(&pod(i), f);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_a_status_passes_untouched(ops in prop::collection::vec(op(), 1..30)) {
        let mut sim = Sim::new();
        for i in 0..2 {
            sim.add_node(&format!("n{i}"), &[]);
            apply(&mut sim, &Op::Replicas(i, 2));
        }
        for i in 0..6 {
            let ask = Ask { node: if i % 2 == 0 { "n0" } else { "n1" }, ..Ask::default() };
            sim.put_bare("default", &format!("p{i}"), &template(&format!("a{}", i % 3), ask));
            edit(&mut sim, i, |r| r.node = ask.node.to_owned());
            apply(&mut sim, &Op::Own(i, Some(i % 2)));
        }
        for (name, selector) in [
            ("all", json!({})),
            ("a0", json!({"matchLabels": {"app": "a0"}})),
            ("not", json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a1"]}]})),
        ] {
            sim.put_budget("default", name, json!({"minAvailable": "50%", "selector": selector}));
        }
        let look = |sim: &Sim| ["all", "a0", "not"].map(|name| {
            let touched = sim.world.budgets[&key("default", name)].touched;
            (shown(sim, name), touched)
        });
        let mut before = look(&sim);
        for op in &ops {
            apply(&mut sim, op);
            let after = look(&sim);
            for ((old, was), (new, is)) in before.iter().zip(&after) {
                prop_assert!(old == new || is > was, "{:?}: {:?} became {:?}", op, old.status, new.status);
            }
            before = after;
        }
    }
}
