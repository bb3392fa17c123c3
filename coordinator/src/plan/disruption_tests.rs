//! What the ledger allows and refuses in fixed worlds, with the words.

use proto::model::Phase;
use serde_json::{Value, json};

use super::*;
use crate::{
    plan::sim::{Ask, Sim, key, map, rc, template},
    world::record::{OwnerKind, OwnerRecord, ReplacesRecord},
};

/// `web` with these pods on three nodes, all Ready, and a budget over it if a spec is given.
fn web(replicas: i32, budget: Option<Value>) -> Sim {
    let mut sim = Sim::new();
    for name in ["n1", "n2", "n3"] {
        sim.add_node(name, &[]);
    }
    sim.put_rc(&rc("default", "web", "u", replicas, template("web", Ask::default())));
    sim.settle();
    if let Some(mut spec) = budget {
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        sim.put_budget("default", "web", spec);
    }
    sim
}

fn pods(sim: &Sim) -> Vec<Key> {
    sim.world.pods.keys().cloned().collect()
}

/// `ok`, or the rule and the remedy.
fn take(ledger: &mut Ledger, sim: &Sim, at: &Key, how: How) -> String {
    say(ledger.take(&sim.world, sim.now, at, &sim.world.pods[at], how, false))
}

fn say(taken: Result<(), Refusal>) -> String {
    match taken {
        Ok(()) => "ok".to_owned(),
        Err(Refusal { rule, remedy }) => format!("{rule}: {remedy}"),
    }
}

/// A Ready pod that the drain of its node started in the place of `old`.
fn add_replacement(sim: &mut Sim, old: &Key) -> Key {
    let new = key(&old.0, &format!("{}-new", old.1));
    let record = (*sim.world.pods[old].record).clone();
    sim.drain(&record.node, |drain| drain.id = "d".into());
    let replaces = ReplacesRecord {
        name: String::new(),
        uid: record.uid.clone(),
        node: record.node.clone(),
        drain: "d".into(),
    };
    let uid = format!("{}-new", record.uid);
    let record = crate::world::record::PodRecord {
        uid,
        replaces: Some(replaces),
        ..record
    };
    sim.put(
        crate::store::keys::object(proto::model::Kind::Pod, &new.0, &new.1),
        &record,
    );
    sim.report(&new, Phase::Running, true, false);
    new
}

#[test]
fn by_default_as_many_as_are_desired_stay() {
    let mut sim = web(3, None);
    let all = pods(&sim);
    let mut ledger = Ledger::default();
    assert_eq!(
        take(&mut ledger, &sim, &all[0], How::Plain),
        "replicationcontroller default/web: 3 are desired, 2 are available besides it: wait until its replacement is \
         Ready, or accept that it is missed for a while"
    );
    // Whose absence is accepted goes, and one at a time.
    assert_eq!(take(&mut ledger, &sim, &all[0], How::Downtime), "ok");
    assert_eq!(
        take(&mut ledger, &sim, &all[1], How::Downtime),
        "replicationcontroller default/web: 3 are desired, 1 is available besides it: wait until the pods that were \
         stopped are replaced"
    );
    // What goes already costs nothing more.
    assert_eq!(take(&mut ledger, &sim, &all[0], How::Plain), "ok");

    // One that is not Ready holds the others, not itself.
    sim.report(&all[2], Phase::Running, false, false);
    let mut ledger = Ledger::default();
    let late = format!(
        "replicationcontroller default/web: 3 are desired, 1 is available besides it: wait until {} is Ready",
        all[2].1
    );
    assert_eq!(take(&mut ledger, &sim, &all[0], How::Downtime), late);
    assert_eq!(take(&mut ledger, &sim, &all[2], How::Plain), "ok");
}

#[test]
fn a_replacement_lets_its_pod_go_and_no_other() {
    let mut sim = web(2, None);
    let all = pods(&sim);
    let new = add_replacement(&mut sim, &all[0]);
    for order in [[How::Plain, How::Swap], [How::Swap, How::Plain]] {
        let mut ledger = Ledger::default();
        for how in order {
            let (at, expected) = match how {
                How::Swap => (&all[0], "ok"),
                _ => (
                    &all[1],
                    "replicationcontroller default/web: 2 are desired, 1 is available besides it",
                ),
            };
            let said = take(&mut ledger, &sim, at, how);
            assert!(said.starts_with(expected), "{order:?}: {said}");
        }
        let said = take(&mut ledger, &sim, &new, How::Plain);
        assert!(said.starts_with("replicationcontroller"), "{said}");
    }
    // A pod that replaces nothing is there for any of them.
    sim.edit_pod(&new, |r| r.replaces = None);
    let mut ledger = Ledger::default();
    assert_eq!(take(&mut ledger, &sim, &all[1], How::Plain), "ok");
    assert_ne!(take(&mut ledger, &sim, &all[0], How::Plain), "ok");
}

#[test]
fn once_its_drain_is_over_a_replacement_is_a_pod_as_any_other() {
    let mut sim = web(2, None);
    let all = pods(&sim);
    add_replacement(&mut sim, &all[0]);
    let node = sim.world.pods[&all[0]].record.node.clone();
    sim.cancel_drain(&node);
    for gone in &all {
        let mut ledger = Ledger::default();
        assert_eq!(
            take(&mut ledger, &sim, gone, How::Plain),
            "ok",
            "three serve, two are desired"
        );
        for other in pods(&sim).iter().filter(|other| *other != gone) {
            assert_ne!(
                take(&mut ledger, &sim, other, How::Plain),
                "ok",
                "{other:?} after {gone:?}"
            );
        }
    }
}

#[test]
fn a_budget_counts_whatever_comes_in_a_pods_place() {
    let mut sim = web(3, Some(json!({"minAvailable": 3})));
    let all = pods(&sim);
    let refused = "poddisruptionbudget default/web: 3 of 3 must be available, 3 are: scale web up, or change \
                   minAvailable of the budget";
    assert_eq!(take(&mut Ledger::default(), &sim, &all[0], How::Swap), refused);
    assert_eq!(take(&mut Ledger::default(), &sim, &all[0], How::Downtime), refused);
    add_replacement(&mut sim, &all[0]);
    let mut ledger = Ledger::default();
    assert_eq!(take(&mut ledger, &sim, &all[0], How::Swap), "ok");
    // Spent: no other pod goes in this pass, whoever asks.
    assert_eq!(take(&mut ledger, &sim, &all[1], How::Swap), refused);
    // By an operator's word it goes, and is counted.
    let forced = ledger.take(&sim.world, sim.now, &all[1], &sim.world.pods[&all[1]], How::Plain, true);
    assert_eq!(forced, Ok(()));
    assert_eq!(
        take(&mut ledger, &sim, &all[2], How::Swap),
        "poddisruptionbudget default/web: 3 of 3 must be available, 2 are: wait until the pods that were stopped are \
         replaced, scale web up, or change minAvailable of the budget"
    );
}

#[test]
fn shares_are_of_what_is_expected_and_round_up() {
    for (spec, go) in [
        (json!({"minAvailable": "50%"}), 2),
        (json!({"minAvailable": "41%"}), 2),
        (json!({"minAvailable": "61%"}), 1),
        (json!({"maxUnavailable": "30%"}), 2),
        (json!({"maxUnavailable": "20%"}), 1),
        (json!({"maxUnavailable": 0}), 0),
        (json!({"minAvailable": 0}), 5),
    ] {
        let mut sim = web(5, Some(spec.clone()));
        sim.edit_rc(&key("default", "web"), |rc| rc.spec.replicas = 5);
        let mut ledger = Ledger::default();
        let gone = pods(&sim)
            .iter()
            .filter(|at| take(&mut ledger, &sim, at, How::Swap) == "ok")
            .count();
        assert_eq!(gone, go, "{spec}");
    }
}

#[test]
fn what_is_lost_debits_the_budget_and_is_never_held_back() {
    let mut sim = web(3, Some(json!({"maxUnavailable": 1})));
    let all = pods(&sim);
    let lost = sim.world.pods[&all[0]].record.node.clone();
    sim.put_ready(&lost, false);
    let on_it = |at: &Key| sim.world.pods[at].record.node == lost;
    let (gone, left): (Vec<_>, Vec<_>) = all.iter().partition(|at| on_it(at));
    let mut ledger = Ledger::default();
    for at in &gone {
        assert_eq!(take(&mut ledger, &sim, at, How::Plain), "ok");
    }
    assert_eq!(gone.len(), 1);
    assert_eq!(
        take(&mut ledger, &sim, left[0], How::Swap),
        "poddisruptionbudget default/web: 2 of 3 must be available, 2 are: wait until the pods that were stopped are \
         replaced, scale web up, or change maxUnavailable of the budget"
    );
    // Asked first, the pod that is not Ready is named.
    assert_eq!(
        take(&mut Ledger::default(), &sim, left[0], How::Swap),
        format!(
            "poddisruptionbudget default/web: 2 of 3 must be available, 2 are: wait until {} is Ready, scale web up, or \
             change maxUnavailable of the budget",
            gone[0].1
        )
    );
}

#[test]
fn one_budget_may_span_controllers_and_pods_without_one() {
    let mut sim = web(2, None);
    sim.put_rc(&rc("default", "api", "u2", 2, template("api", Ask::default())));
    sim.put_bare(
        "default",
        "lone",
        &template(
            "lone",
            Ask {
                node: "n1",
                ..Ask::default()
            },
        ),
    );
    sim.put_rc(&rc("other", "web", "u3", 2, template("web", Ask::default())));
    sim.settle();
    sim.put_budget("default", "all", json!({"maxUnavailable": 1, "selector": {}}));
    let state = &sim.world.budgets[&key("default", "all")];
    let tally = sim.world.tally("default", &state.budget.spec, sim.now, |_| false);
    assert_eq!((tally.available, tally.expected, tally.floor), (5, 5, 4));
    let lone = key("default", "lone");
    let mut ledger = Ledger::default();
    assert_eq!(take(&mut ledger, &sim, &lone, How::Plain), "ok");
    let at = sim.world.pods_of("u2").next().expect("a pod").0.clone();
    assert!(take(&mut ledger, &sim, &at, How::Swap).starts_with("poddisruptionbudget default/all: 4 of 5 must be"));
    // Another namespace has its own.
    let at = sim.world.pods_of("u3").next().expect("a pod").0.clone();
    assert_eq!(take(&mut ledger, &sim, &at, How::Swap), "ok");
    // One that is being stopped is missed until its end was seen: what is stopped one by one keeps its floor.
    sim.stop(&lone);
    let tally = sim.world.tally(
        "default",
        &sim.world.budgets[&key("default", "all")].budget.spec,
        sim.now,
        |_| false,
    );
    assert_eq!((tally.available, tally.expected), (4, 5));
}

#[test]
fn two_budgets_on_a_pod_hold_it_until_one_lets_go() {
    let mut sim = web(3, Some(json!({"maxUnavailable": 2})));
    sim.put_budget("default", "all", json!({"minAvailable": 0, "selector": {}}));
    let at = pods(&sim)[0].clone();
    let refused = format!(
        "poddisruptionbudgets default/all and default/web both select pod default/{}: change the selector of all or \
         web: a pod has one budget",
        at.1
    );
    let mut ledger = Ledger::default();
    assert_eq!(take(&mut ledger, &sim, &at, How::Swap), refused);
    assert_eq!(
        say(never(&sim.world, &at, &sim.world.pods[&at]).map_or(Ok(()), Err)),
        refused
    );
    sim.edit_pod(&at, |r| drop(r.labels.insert("app".into(), Some("other".into()))));
    let mut ledger = Ledger::default();
    assert_eq!(take(&mut ledger, &sim, &at, How::Swap), "ok");
}

#[test]
fn min_ready_seconds_and_a_world_that_moves_are_counted_anew() {
    let mut sim = web(2, None);
    let all = pods(&sim);
    sim.edit_rc(&key("default", "web"), |rc| {
        rc.spec.replicas = 1;
        rc.spec.min_ready_seconds = 30;
    });
    for (at, since) in [(&all[0], 60), (&all[1], 10)] {
        let mut status = (*sim.world.pods[at].status.as_ref().expect("a status").value).clone();
        status.status.conditions[0].last_transition_time = Some(Time(sim.now.0 - since));
        sim.put(crate::store::keys::pod_status(&at.0, &at.1), &status);
    }
    let mut ledger = Ledger::default();
    let refused = format!(
        "replicationcontroller default/web: 1 is desired, 0 are available besides it: wait until {} is Ready",
        all[1].1
    );
    assert_eq!(take(&mut ledger, &sim, &all[0], How::Plain), refused);
    assert_eq!(take(&mut ledger, &sim, &all[1], How::Plain), "ok");
    // In the next pass, later: both serve, and one of them is enough.
    sim.now = Time(sim.now.0 + 20);
    let mut ledger = Ledger::default();
    assert_eq!(take(&mut ledger, &sim, &all[0], How::Plain), "ok");
    assert_ne!(take(&mut ledger, &sim, &all[1], How::Plain), "ok");
    // During the pass the other one fails: what was counted before counts no longer.
    let mut ledger = Ledger::default();
    assert_ne!(take(&mut ledger, &sim, &all[0], How::Swap), "");
    sim.report(&all[1], Phase::Running, false, false);
    let mut ledger = Ledger::default();
    sim.edit_rc(&key("default", "web"), |rc| rc.spec.min_ready_seconds = 0);
    assert_ne!(take(&mut ledger, &sim, &all[0], How::Plain), "ok");
    sim.report(&all[1], Phase::Running, true, false);
    assert_eq!(take(&mut ledger, &sim, &all[0], How::Plain), "ok");
    assert_ne!(take(&mut ledger, &sim, &all[1], How::Plain), "ok");
}

#[test]
fn a_pod_of_a_daemon_set_has_no_floor_but_its_budget() {
    let mut sim = web(1, None);
    let at = pods(&sim)[0].clone();
    sim.edit_pod(&at, |r| {
        r.owner = Some(OwnerRecord {
            kind: OwnerKind::DaemonSet,
            name: "agent".into(),
            uid: "ds".into(),
        });
    });
    assert_eq!(take(&mut Ledger::default(), &sim, &at, How::Plain), "ok");
    sim.put_budget("default", "b", json!({"minAvailable": 1, "selector": {}}));
    assert_eq!(
        take(&mut Ledger::default(), &sim, &at, How::Plain),
        "poddisruptionbudget default/b: 1 of 1 must be available, 1 is: change minAvailable of the budget"
    );
}

#[test]
fn what_a_pass_stops_for_another_reason_counts_no_more() {
    let mut sim = web(3, Some(json!({"minAvailable": 1})));
    let all = pods(&sim);
    for at in &all {
        sim.edit_pod(at, |r| r.owner = None);
    }
    let mut ledger = Ledger::default();
    assert_eq!(take(&mut ledger, &sim, &all[0], How::Plain), "ok");
    ledger.leaves(&sim.world.pods[&all[1]].record.uid);
    assert_ne!(take(&mut ledger, &sim, &all[2], How::Plain), "ok", "it is the last one");
}

#[test]
fn what_no_state_of_the_workload_could_ever_allow() {
    let said = |sim: &Sim, at: &Key| say(never(&sim.world, at, &sim.world.pods[at]).map_or(Ok(()), Err));
    for (spec, expected) in [
        (json!({"minAvailable": 3}), "ok"),
        (json!({"minAvailable": "100%"}), "ok"),
        (json!({"maxUnavailable": 0}), "ok"),
        (
            json!({"minAvailable": 5}),
            "poddisruptionbudget default/web: 5 of 3 must be available: scale web up by 2, or change minAvailable of \
             the budget",
        ),
    ] {
        let sim = web(3, Some(spec.clone()));
        assert_eq!(said(&sim, &pods(&sim)[0]), expected, "{spec}");
    }
    // Nothing comes in its place first.
    for (spec, expected) in [
        (json!({"maxUnavailable": 1}), "ok"),
        (
            json!({"maxUnavailable": 0}),
            "poddisruptionbudget default/web: 1 of 1 must be available: change maxUnavailable of the budget",
        ),
        (
            json!({"minAvailable": 1}),
            "poddisruptionbudget default/web: 1 of 1 must be available: start another pod that it selects, or change \
             minAvailable of the budget",
        ),
    ] {
        let mut sim = web(0, Some(spec.clone()));
        let mut lone = template("web", Ask::default());
        lone.metadata.labels = map(&[("app", "web"), ("lone", "")]);
        sim.put_bare("default", "lone", &lone);
        sim.edit_rc(&key("default", "web"), |rc| {
            drop(rc.spec.selector.insert("x".into(), "y".into()))
        });
        assert_eq!(said(&sim, &key("default", "lone")), expected, "{spec}");
    }
    let mut sim = web(1, Some(json!({"maxUnavailable": 0})));
    sim.edit_pod(&pods(&sim)[0].clone(), |r| {
        r.annotations
            .insert("wharfinger.io/singleton".into(), Some("true".into()));
    });
    assert_eq!(
        said(&sim, &pods(&sim)[0]),
        "poddisruptionbudget default/web: 1 of 1 must be available: change maxUnavailable of the budget"
    );
}

#[test]
fn a_budget_marks_only_who_waits_for_it_on_a_node_being_drained() {
    use crate::{
        plan::Group,
        store::keys,
        world::drains::{DrainOptions, DrainRecord, OnDeadline},
    };
    let mut sim = web(3, Some(json!({"maxUnavailable": 1})));
    sim.put_rc(&rc("default", "api", "u2", 3, template("api", Ask::default())));
    sim.settle();
    let all: Vec<Key> = sim.world.pods_of("u").map(|(at, _)| at.clone()).collect();
    let groups = |sim: &mut Sim| std::mem::take(&mut sim.dirty.groups).into_iter().collect::<Vec<_>>();
    sim.put_budget(
        "default",
        "other",
        json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "none"}}}),
    );
    assert_eq!(groups(&mut sim), [], "nothing is drained");
    let drain = DrainRecord {
        id: "d".into(),
        by: "user/admin".into(),
        reason: String::new(),
        since: sim.now,
        options: DrainOptions {
            deadline: Time(sim.now.0 + 3600),
            on_deadline: OnDeadline::Block,
            discard_local_data: false,
            stop_daemons: false,
            delete_unmanaged: false,
            allow_downtime: false,
        },
        total: 0,
        forced: None,
        ended: None,
    };
    sim.put(keys::drain("n1"), &drain);
    groups(&mut sim);
    let web = Group::Controller(key("default", "web"));
    sim.put_budget(
        "default",
        "web",
        json!({"maxUnavailable": 2, "selector": {"matchLabels": {"app": "web"}}}),
    );
    assert_eq!(groups(&mut sim), vec![web.clone()]);
    // What is Ready again elsewhere may let a pod of another controller go, if one budget is over both.
    sim.put_budget("default", "web", json!({"maxUnavailable": 1, "selector": {}}));
    let api = Group::Controller(key("default", "api"));
    assert_eq!(groups(&mut sim), [api.clone(), web.clone()]);
    sim.report(&all[0], Phase::Running, false, false);
    assert_eq!(groups(&mut sim), [api.clone(), web.clone()]);
    sim.delete(keys::object(proto::model::Kind::PodDisruptionBudget, "default", "web"));
    assert_eq!(groups(&mut sim), [api, web]);
}
