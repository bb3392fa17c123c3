//! Who leaves a node for a taint, and when.

use std::collections::HashSet;

use proto::model::Phase;
use serde_json::json;

use super::*;
use crate::{
    plan::{
        Plan,
        change::Change,
        sim::{Ask, Rule, Sim, key, rc, template},
    },
    store::keys,
};

/// Two nodes, a pod of a controller and one of a user on `n1`, both running.
fn fleet(rule: Rule) -> Sim {
    let mut sim = Sim::new();
    sim.add_node("n1", &[]);
    let ask = Ask { rule, ..Ask::default() };
    sim.put_rc(&rc("default", "web", "u", 1, template("web", ask)));
    sim.put_bare("default", "bare", &template("bare", ask));
    sim.settle();
    sim.add_node("n2", &[]);
    sim.settle();
    sim
}

fn nodes(sim: &Sim) -> Vec<(String, String, bool)> {
    let pods = sim.world.pods.iter();
    pods.map(|(at, p)| (at.1.chars().take(3).collect(), p.record.node.clone(), p.stopping()))
        .collect()
}

fn is(name: &str, node: &str, stopping: bool) -> (String, String, bool) {
    (name.into(), node.into(), stopping)
}

/// One pass; plans that come back later do so by themselves.
fn pass(sim: &mut Sim) -> Vec<Plan> {
    let groups = std::mem::take(&mut sim.dirty.groups);
    let plans = sim.plan(&sim.world.clone(), &groups);
    for commit in plans.iter().flat_map(|p| &p.commits) {
        assert!(sim.commit(&crate::plan::change::to_store(&commit.changes)));
    }
    plans
}

/// One plan changes a record once: it stops the pod, and leaves in it what was said of it while its node was lost.
#[test]
fn a_user_s_pod_leaves_a_node_that_is_back_and_has_a_taint() {
    let mut sim = fleet(Rule::Nothing);
    sim.put_ready("n1", false);
    sim.settle_for(3600);
    let bare = key("default", "bare");
    let said = "it is not replaced: it has no controller";
    assert_eq!(sim.world.pods[&bare].record.waiting, said);
    sim.put_ready("n1", true);
    sim.taint("n1", &["b:NoExecute"]);
    pass(&mut sim);
    assert!(sim.world.pods[&bare].stopping());
}

#[test]
fn who_does_not_bear_it_leaves_and_is_replaced_at_once() {
    let mut sim = fleet(Rule::Nothing);
    sim.taint("n1", &["a:NoSchedule", "b:PreferNoSchedule"]);
    assert!(
        pass(&mut sim).iter().all(|p| p.commits.is_empty()),
        "these take nobody away"
    );
    sim.taint("n1", &["dedicated=db:NoExecute"]);
    let plans = pass(&mut sim);
    let together = plans.iter().flat_map(|p| &p.commits).any(|commit| {
        let stops = commit.changes.iter().any(|c| matches!(c, Change::Stop { .. }));
        stops && commit.changes.iter().any(|c| matches!(c, Change::CreatePod { .. }))
    });
    assert!(together, "the stop and the replacement are one commit");
    let reason = "node n1 has taint dedicated=db:NoExecute";
    for (_, pod) in sim.world.pods.iter().filter(|(_, p)| p.stopping()) {
        assert_eq!(pod.record.stop.as_ref().map(|s| s.reason.as_str()), Some(reason));
    }
    let notes: Vec<_> = plans.iter().flat_map(|p| &p.commits).flat_map(|c| &c.notes).collect();
    let evictions = notes
        .iter()
        .filter(|n| n.reason == "TaintEviction" && n.message == format!("{reason}: stopped here"));
    assert_eq!(evictions.count(), 2, "{notes:?}");
    let mut found = nodes(&sim);
    found.sort();
    assert_eq!(
        found,
        [is("bar", "n1", true), is("web", "n1", true), is("web", "n2", false)]
    );
    sim.settle();
    assert_eq!(
        nodes(&sim),
        [is("web", "n2", false)],
        "nothing replaces a pod of a user"
    );
}

#[test]
fn who_bears_it_stays() {
    let mut sim = fleet(Rule::Bears);
    sim.taint("n1", &["a=1:NoExecute", "b:NoExecute"]);
    sim.settle();
    assert_eq!(nodes(&sim), [is("bar", "n1", false), is("web", "n1", false)]);
}

#[test]
fn who_bears_it_for_a_time_has_that_time_from_the_taint_on() {
    let mut sim = fleet(Rule::BearsAWhile);
    sim.now.0 += 100;
    sim.taint("n1", &["a:NoExecute"]);
    let added = sim.now.0;
    for (passed, wakes) in [(0, true), (2, true), (3, false)] {
        sim.now.0 = added + passed;
        for (at, pod) in sim.world.pods.clone() {
            sim.dirty
                .groups
                .insert(crate::plan::Group::of_pod(&sim.world, &at, &pod));
        }
        let plans = pass(&mut sim);
        let due = wakes.then_some(Time(added + 3));
        assert!(plans.iter().all(|p| p.wake_at == due), "after {passed} s: {plans:?}");
    }
    sim.settle();
    assert_eq!(nodes(&sim), [is("web", "n2", false)]);
}

#[test]
fn a_pod_that_starts_later_has_its_time_from_its_start_on() {
    let mut sim = fleet(Rule::BearsAWhile);
    let ask = Ask {
        rule: Rule::BearsAWhile,
        ..Ask::default()
    };
    sim.put_bare("default", "late", &template("late", ask));
    sim.pass(&HashSet::new());
    let at = key("default", "late");
    for name in ["n1", "n2"] {
        sim.taint(name, &["a:NoExecute"]);
    }
    sim.now.0 += 1000;
    let due = |sim: &Sim| {
        let pod = &sim.world.pods[&at];
        due(&sim.world.nodes[&pod.record.node], pod).map(|(at, _)| at)
    };
    assert_eq!(due(&sim), None, "it has not started");
    sim.report(&at, Phase::Running, true, false);
    assert_eq!(due(&sim), Some(Time(sim.now.0 + 3)));
    // None comes only to leave again.
    sim.put_bare("default", "new", &template("new", ask));
    sim.settle();
    let waiting = &sim.world.pods[&key("default", "new")].record.waiting;
    assert_eq!(
        waiting,
        "0/2 nodes: 2 have taint a:NoExecute that the pod tolerates for a time only"
    );
}

#[test]
fn the_time_of_one_that_was_lost_before_it_started_has_not_begun() {
    let mut sim = Sim::new();
    sim.add_node("n1", &[]);
    let ask = Ask {
        rule: Rule::BearsAWhile,
        ..Ask::default()
    };
    sim.put_bare("default", "p", &template("p", ask));
    pass(&mut sim);
    sim.add_node("n2", &[]);
    sim.put_ready("n1", false);
    sim.taint("n1", &["b:NoExecute"]);
    sim.settle_for(3600);
    assert_eq!(nodes(&sim), [is("p", "n1", false)]);
    sim.put_ready("n1", true);
    sim.settle_for(2);
    assert_eq!(nodes(&sim), [is("p", "n1", false)]);
    sim.settle_for(2);
    assert_eq!(nodes(&sim), []);
}

#[test]
fn while_frozen_nobody_leaves() {
    let mut sim = fleet(Rule::Nothing);
    let until = sim.now.0 + 50;
    sim.put(
        keys::FREEZE.into(),
        &json!({"by": "user/admin", "reason": "x", "since": sim.now, "until": Time(until)}),
    );
    sim.taint("n1", &["a:NoExecute"]);
    let plans = pass(&mut sim);
    assert!(plans.iter().all(|p| p.commits.is_empty()), "{plans:?}");
    assert!(plans.iter().any(|p| p.wake_at == Some(Time(until))), "{plans:?}");
    sim.put(
        keys::FREEZE.into(),
        &json!({"by": "user/admin", "reason": "x", "since": sim.now}),
    );
    let plans = pass(&mut sim);
    assert!(
        plans.iter().all(|p| p.commits.is_empty() && p.wake_at.is_none()),
        "{plans:?}"
    );
    sim.delete(keys::FREEZE.into());
    sim.settle();
    assert_eq!(nodes(&sim), [is("web", "n2", false)]);
}

#[test]
fn while_the_brake_is_on_nobody_leaves() {
    let mut sim = fleet(Rule::Nothing);
    for name in ["n3", "n4"] {
        sim.add_node(name, &[]);
    }
    for name in ["n2", "n3", "n4"] {
        sim.put_ready(name, false);
    }
    sim.settle();
    sim.taint("n1", &["a:NoExecute"]);
    let plans = pass(&mut sim);
    assert!(plans.iter().all(|p| p.commits.is_empty()), "{plans:?}");
    sim.put_ready("n2", true);
    sim.settle();
    assert_eq!(nodes(&sim), [is("web", "n2", false)]);
}
