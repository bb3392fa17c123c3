//! Drains under budgets, and several at once.

use std::collections::HashSet;

use super::*;

#[test]
fn a_budget_that_spares_none_is_met_by_a_surge_and_one_that_never_can_be_is_named() {
    for (spec, blocked) in [
        (json!({"maxUnavailable": 0}), None),
        (json!({"minAvailable": "100%"}), None),
        (
            json!({"minAvailable": 3}),
            Some(
                "poddisruptionbudget default/b: 3 of 2 must be available; scale web up by 1, or change minAvailable of the \
                 budget",
            ),
        ),
    ] {
        let mut sim = fleet(2, plain());
        let mut budget = spec.clone();
        budget["selector"] = json!({"matchLabels": {"app": "web"}});
        sim.put_budget("default", "b", budget);
        let node = home(&sim);
        sim.drain(&node, |_| {});
        sim.settle();
        assert_eq!(ready(&sim.world), 2, "{spec}");
        match blocked {
            None => assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained), "{spec}"),
            Some(words) => {
                assert_eq!((outcome(&sim, &node), sim.live(&web()).len()), (None, 2), "{spec}");
                assert_eq!(steps(&sim, &node), [(Step::Blocked, words.to_owned())]);
                // As it says.
                sim.edit_rc(&web(), |rc| rc.spec.replicas = 3);
                sim.settle();
                assert_eq!(
                    (outcome(&sim, &node), ready(&sim.world)),
                    (Some(DrainOutcome::Drained), 3)
                );
            }
        }
    }
}

#[test]
fn a_budget_that_can_never_be_met_holds_no_pod_that_serves_nobody() {
    let mut sim = fleet(1, plain());
    sim.put_budget("default", "b", json!({"minAvailable": 5, "selector": {}}));
    let node = home(&sim);
    let old = sim.live(&web())[0].0.clone();
    sim.report(&old, Phase::Running, false, false);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    assert!(sim.world.pods[&old].stopping(), "{:?}", steps(&sim, &node));
}

#[test]
fn what_leaves_a_node_never_comes_to_one_that_is_drained_too() {
    let mut sim = Sim::new();
    for n in 0..4 {
        sim.add_node(&format!("n{n}"), &[]);
    }
    sim.put_rc(&rc("default", "web", "u-web", 8, plain()));
    sim.settle();
    let before: HashSet<Key> = sim.world.pods.keys().cloned().collect();
    for node in ["n0", "n1", "n2"] {
        sim.drain(node, |_| {});
    }
    for _ in 0..100 {
        passes(&mut sim);
        let new = sim.world.pods.iter().filter(|(key, _)| !before.contains(*key));
        assert!(new.clone().all(|(_, p)| p.record.node == "n3"));
        if ["n0", "n1", "n2"].iter().all(|node| outcome(&sim, node).is_some()) {
            assert_eq!(new.count(), 6, "each moved once");
            return;
        }
        sim.agents();
    }
    panic!("{:?}", steps(&sim, "n0"));
}
