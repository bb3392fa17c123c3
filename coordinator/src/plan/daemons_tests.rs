//! Daemon sets one by one: where daemons are, what ends them, how a template reaches them.

use std::collections::HashSet;

use proto::model::{ConditionStatus, DaemonSetStatus, Phase};
use serde_json::json;

use super::*;
use crate::{
    plan::{
        dirty::Dirty,
        sim::{Ask, Rule, Sim, ds, key, rc, template},
    },
    world::record::{LossRecord, StopRecord},
};

fn at() -> Key {
    key("default", "logs")
}

/// Three ready nodes and a set.
fn sim(ask: Ask) -> Sim {
    let mut sim = Sim::new();
    sim.put_namespace("default", false);
    for (name, zone) in [("n1", "north"), ("n2", "north"), ("n3", "south")] {
        sim.add_node(name, &[("zone", zone)]);
    }
    sim.put_ds(&ds("default", "logs", "u-logs", template("logs", ask)));
    sim
}

fn settled(ask: Ask) -> Sim {
    let mut sim = sim(ask);
    sim.settle();
    sim
}

/// Nodes with a live daemon, one entry a daemon.
fn on(sim: &Sim) -> Vec<&str> {
    let uid = sim.world.daemon_sets[&at()].uid();
    let live = sim.world.pods_of(uid).filter(|(_, p)| p.live());
    let mut nodes: Vec<&str> = live.map(|(_, p)| p.record.node.as_str()).collect();
    nodes.sort_unstable();
    nodes
}

fn daemon(sim: &Sim, node: &str) -> Key {
    let uid = sim.world.daemon_sets[&at()].uid();
    let mut live = sim.world.pods_of(uid).filter(|(_, p)| p.live());
    let found = live.find(|(_, p)| p.record.node == node);
    found.expect("a daemon").0.clone()
}

fn status(sim: &Sim) -> DaemonSetStatus {
    sim.world.daemon_set_status(&sim.world.daemon_sets[&at()], sim.now)
}

fn condition(sim: &Sim, kind: &str) -> (ConditionStatus, String, String) {
    let status = status(sim);
    let found = status.conditions.into_iter().find(|c| c.kind == kind);
    let found = found.expect("a condition");
    (found.status, found.reason, found.message)
}

fn update(sim: &mut Sim, image: &str) {
    sim.edit_ds(&at(), |set| {
        set.spec.template.spec.containers[0].image = image.into();
    });
}

/// Nodes whose daemon is of the present template.
fn updated(sim: &Sim) -> Vec<String> {
    let set = &sim.world.daemon_sets[&at()];
    let live = sim
        .world
        .pods_of(set.uid())
        .filter(|(_, p)| p.live() && set.is_current(p));
    let mut nodes: Vec<String> = live.map(|(_, p)| p.record.node.clone()).collect();
    nodes.sort_unstable();
    nodes
}

#[test]
fn one_on_each_node_held_or_not_and_on_one_that_joins() {
    let mut sim = sim(Ask::default());
    sim.cordon("n2", "ann", "", None);
    sim.settle();
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
    let pod = &sim.world.pods[&daemon(&sim, "n1")];
    assert!(pod.is_daemon());
    assert!(daemon(&sim, "n1").1.starts_with("logs-"));
    sim.add_node("n4", &[]);
    sim.settle();
    assert_eq!(on(&sim), ["n1", "n2", "n3", "n4"]);
    let s = status(&sim);
    assert_eq!(
        (
            s.desired_number_scheduled,
            s.current_number_scheduled,
            s.number_ready,
            s.number_available
        ),
        (4, 4, 4, 4)
    );
    assert_eq!(
        condition(&sim, "Ready"),
        (ConditionStatus::True, "AllReady".into(), String::new())
    );
    assert_eq!(condition(&sim, "Placed").0, ConditionStatus::True);
}

#[test]
fn nodes_come_to_match_and_stop_matching() {
    let mut sim = settled(Ask {
        zone: Some("north"),
        ..Ask::default()
    });
    assert_eq!(on(&sim), ["n1", "n2"]);
    sim.put_node("n1", &[("zone", "south")], false);
    sim.put_node("n3", &[("zone", "north")], false);
    sim.settle();
    assert_eq!(on(&sim), ["n2", "n3"]);
    // One that keeps new ones away leaves what is there; one that drives out does not.
    sim.taint("n2", &["a=1:NoSchedule"]);
    sim.settle();
    assert_eq!(on(&sim), ["n2", "n3"]);
    assert_eq!(
        (status(&sim).desired_number_scheduled, status(&sim).number_misscheduled),
        (1, 1)
    );
    sim.stop(&daemon(&sim, "n2"));
    sim.settle();
    assert_eq!(on(&sim), ["n3"], "a new one is kept away");
    sim.taint("n3", &["a=1:NoExecute"]);
    sim.settle();
    assert_eq!(on(&sim), [""; 0]);
    sim.taint("n2", &[]);
    sim.taint("n3", &[]);
    sim.settle();
    assert_eq!(on(&sim), ["n2", "n3"]);
}

#[test]
fn a_daemon_bears_a_taint_for_its_time_also_under_the_brake() {
    let mut sim = settled(Ask {
        rule: Rule::BearsAWhile,
        ..Ask::default()
    });
    sim.add_node("n4", &[]);
    sim.settle();
    for name in ["n1", "n2", "n4"] {
        sim.put_ready(name, false);
    }
    assert!(crate::plan::health::stopped(&sim.world).is_some());
    sim.taint("n3", &["a=1:NoExecute"]);
    sim.settle_for(2);
    assert_eq!(on(&sim), ["n1", "n2", "n3", "n4"]);
    sim.settle_for(5);
    assert_eq!(on(&sim), ["n1", "n2", "n4"]);
    sim.freeze(None);
    sim.put_ready("n1", true);
    sim.taint("n1", &["a=1:NoExecute"]);
    sim.settle_for(60);
    assert_eq!(on(&sim), ["n1", "n2", "n4"], "frozen: nobody is driven out");
}

#[test]
fn a_former_daemon_that_bears_what_the_present_one_does_not_is_stopped() {
    let mut sim = settled(Ask {
        rule: Rule::Bears,
        ..Ask::default()
    });
    sim.taint("n1", &["a=1:NoExecute"]);
    sim.settle();
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
    sim.freeze(None);
    sim.edit_ds(&at(), |set| set.spec.template.spec.tolerations.clear());
    sim.settle();
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
    sim.delete(crate::store::keys::FREEZE.to_owned());
    sim.settle();
    assert_eq!(on(&sim), ["n2", "n3"]);
    // And the other way round the one that is there goes as the taint says, and the new one comes.
    sim.taint("n1", &[]);
    sim.settle();
    sim.taint("n1", &["a=1:NoExecute"]);
    sim.edit_ds(&at(), |set| {
        set.spec.template.spec.tolerations = serde_json::from_value(json!([{"operator": "Exists"}])).unwrap();
    });
    sim.settle();
    assert_eq!(updated(&sim), ["n1", "n2", "n3"]);
}

#[test]
fn a_lost_nodes_daemon_stays_and_the_node_is_not_given_up_for_it() {
    let mut sim = settled(Ask::default());
    let before = daemon(&sim, "n2");
    sim.put_ready("n2", false);
    sim.settle_for(3600);
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
    assert_eq!(daemon(&sim, "n2"), before);
    assert_eq!(sim.world.losses().count(), 0);
    assert_eq!(sim.world.pods[&before].record.waiting, "");
    assert_eq!((status(&sim).number_ready, status(&sim).number_unavailable), (2, 1));
    sim.put_ready("n2", true);
    sim.settle();
    assert_eq!(daemon(&sim, "n2"), before);
}

#[test]
fn what_ended_or_vanished_is_replaced_on_its_node_after_its_end_was_seen() {
    let mut sim = settled(Ask::default());
    for (node, end) in [("n1", "stopped"), ("n2", "failed"), ("n3", "vanished")] {
        let before = daemon(&sim, node);
        match end {
            "stopped" => {
                sim.stop(&before);
                sim.pass(&HashSet::new());
                assert!(!on(&sim).contains(&node), "it may still run");
            }
            "failed" => sim.report(&before, Phase::Failed, false, false),
            _ => sim.vanish(&before),
        }
        sim.settle();
        assert_eq!(on(&sim), ["n1", "n2", "n3"], "{end}");
        assert_ne!(daemon(&sim, node), before, "{end}");
    }
}

#[test]
fn a_deleted_nodes_daemon_ends_and_a_host_that_is_off_has_none() {
    let mut sim = settled(Ask::default());
    let before = daemon(&sim, "n1");
    sim.delete_node_with_tombstone("n1");
    sim.pass(&HashSet::new());
    let stop = sim.world.pods[&before].record.stop.clone().map(|s| s.reason);
    assert_eq!(stop.as_deref(), Some("its node was deleted"));
    sim.put_ready("n2", false);
    sim.confirm_off("n2");
    sim.settle();
    assert_eq!(on(&sim), ["n3"]);
    assert_eq!(sim.world.pods_on("n2").count(), 0);
    assert_eq!(status(&sim).desired_number_scheduled, 1);
    sim.delete(crate::store::keys::off("n2"));
    sim.put_ready("n2", true);
    sim.settle();
    assert_eq!(on(&sim), ["n2", "n3"]);
}

#[test]
fn what_finds_no_room_is_said_once_and_tried_again() {
    let mut sim = sim(Ask {
        cpu_milli: 3000,
        host_port: 80,
        ..Ask::default()
    });
    sim.put_rc(&rc(
        "default",
        "web",
        "u-web",
        1,
        template(
            "web",
            Ask {
                host_port: 80,
                node: "n1",
                ..Ask::default()
            },
        ),
    ));
    sim.put_facts("n2", 2000, 4 << 30, 20, "");
    // The controller's pod is there first.
    sim.dirty.groups = [Group::Controller(key("default", "web"))].into();
    sim.pass(&HashSet::new());
    sim.dirty.groups.extend(Dirty::all(&sim.world).groups);
    let plans = sim.pass(&HashSet::new());
    let notes = plans.iter().flat_map(|p| &p.commits).flat_map(|c| &c.notes);
    let failed: Vec<_> = notes.filter(|n| n.reason == "FailedPlacement").collect();
    let words = "n1: host port 80 taken; n2: insufficient cpu";
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(
        (failed[0].message.as_str(), failed[0].involved.name.as_str()),
        (words, "logs")
    );
    sim.settle();
    assert_eq!(on(&sim), ["n3"]);
    let (placed, reason, message) = condition(&sim, "Placed");
    assert_eq!(
        (placed, reason.as_str(), message.as_str()),
        (ConditionStatus::False, "FailedPlacement", words)
    );
    assert_eq!(
        condition(&sim, "Ready").2,
        format!("1 of 3 nodes have a daemon, 1 ready; {words}")
    );
    // The same again says nothing again.
    let plans = sim.plan(&sim.world, &[Group::DaemonSet(at())].into());
    assert!(plans[0].commits.is_empty(), "{:?}", plans[0]);
    sim.put_facts("n2", 4000, 4 << 30, 20, "");
    sim.settle();
    assert_eq!(on(&sim), ["n2", "n3"]);
    sim.edit_rc(&key("default", "web"), |rc| rc.spec.replicas = 0);
    sim.settle();
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
    assert_eq!(sim.world.daemon_sets[&at()].unplaced, None);
}

#[test]
fn the_nodes_that_are_named_are_few() {
    let mut unplaced = BTreeMap::new();
    assert_eq!(words(&unplaced), "");
    let names: Vec<String> = (0..7).map(|n| format!("n{n}")).collect();
    for name in &names[..6] {
        unplaced.insert(name.as_str(), "x".to_owned());
    }
    assert_eq!(words(&unplaced), "n0: x; n1: x; n2: x; n3: x; n4: x; and 1 more node");
    unplaced.insert(&names[6], "x".to_owned());
    assert!(words(&unplaced).ends_with("n4: x; and 2 more nodes"));
}

#[test]
fn room_that_comes_free_is_a_daemons_before_a_controllers() {
    let mut sim = sim(Ask {
        cpu_milli: 3000,
        ..Ask::default()
    });
    let ask = Ask {
        cpu_milli: 3000,
        ..Ask::default()
    };
    sim.put_rc(&rc("default", "big", "u-big", 9, template("big", ask)));
    sim.settle();
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
    update(&mut sim, "i:2");
    sim.settle();
    assert_eq!(updated(&sim), ["n1", "n2", "n3"]);
}

#[test]
fn an_update_goes_node_by_node_and_waits_for_what_it_started() {
    let mut sim = settled(Ask::default());
    update(&mut sim, "i:2");
    let mut most = 0;
    for round in 1..=3 {
        // Stopped, and ended.
        sim.pass(&HashSet::new());
        assert_eq!(on(&sim).len(), 2, "round {round}");
        for _ in 0..3 {
            sim.pass(&HashSet::new());
            most = most.max(3 - on(&sim).len());
        }
        sim.agents();
        sim.pass(&HashSet::new());
        assert_eq!(updated(&sim).len(), round);
        for _ in 0..3 {
            sim.pass(&HashSet::new());
        }
        assert_eq!(
            (on(&sim).len(), updated(&sim).len()),
            (3, round),
            "the new one is not Ready"
        );
        assert_eq!(condition(&sim, "Ready").1, "NotAllReady");
        sim.agents();
    }
    assert_eq!(most, 1);
    sim.settle();
    assert_eq!(condition(&sim, "Ready").1, "AllReady");
    assert_eq!(status(&sim).updated_number_scheduled, 3);
}

#[test]
fn an_update_begins_with_what_does_not_serve() {
    let mut sim = settled(Ask::default());
    sim.report(&daemon(&sim, "n3"), Phase::Running, false, false);
    update(&mut sim, "i:2");
    sim.pass(&HashSet::new());
    assert_eq!(
        on(&sim),
        ["n1", "n2"],
        "n3 serves nobody, so that nobody else may be missing"
    );
    sim.settle();
    assert_eq!(updated(&sim), ["n1", "n2", "n3"]);
}

#[test]
fn a_new_template_that_does_not_serve_stops_the_update() {
    let mut sim = settled(Ask::default());
    update(&mut sim, "broken");
    for _ in 0..20 {
        // Agents that get nothing of the new template ready.
        let stops: Vec<Key> = sim
            .world
            .pods
            .iter()
            .filter(|(_, p)| p.stopping())
            .map(|(k, _)| k.clone())
            .collect();
        for stop in stops {
            sim.report(&stop, Phase::Failed, false, true);
        }
        sim.pass(&HashSet::new());
    }
    assert_eq!((on(&sim).len(), updated(&sim).len()), (3, 1));
    // Taking it back mends that one.
    update(&mut sim, "i");
    sim.settle();
    assert_eq!(updated(&sim), ["n1", "n2", "n3"]);
}

#[test]
fn as_many_at_once_as_the_set_allows() {
    let mut sim = settled(Ask::default());
    sim.edit_ds(&at(), |set| {
        set.spec.update_strategy = serde_json::from_value(json!({"rollingUpdate": {"maxUnavailable": "50%"}})).unwrap();
    });
    update(&mut sim, "i:2");
    sim.pass(&HashSet::new());
    assert_eq!(on(&sim), ["n3"]);
}

#[test]
fn on_delete_waits_for_deletions() {
    let mut sim = settled(Ask::default());
    sim.edit_ds(&at(), |set| {
        set.spec.update_strategy = serde_json::from_value(json!({"type": "OnDelete"})).unwrap();
    });
    update(&mut sim, "i:2");
    sim.settle_for(1000);
    assert_eq!(updated(&sim), [""; 0]);
    assert_eq!(condition(&sim, "Ready").1, "AllReady");
    sim.stop(&daemon(&sim, "n2"));
    sim.settle();
    assert_eq!(updated(&sim), ["n2"]);
}

#[test]
fn ready_for_a_while_before_the_next_one() {
    let mut sim = settled(Ask::default());
    sim.edit_ds(&at(), |set| set.spec.min_ready_seconds = 30);
    sim.settle_for(100);
    update(&mut sim, "i:2");
    sim.settle_for(20);
    assert_eq!(updated(&sim).len(), 1);
    assert_eq!((status(&sim).number_ready, status(&sim).number_available), (3, 2));
    let (_, reason, message) = condition(&sim, "Ready");
    assert_eq!(
        (reason.as_str(), message.as_str()),
        (
            "Updating",
            "1 of 3 daemons are up to date; 1 unavailable, at most 1 at a time"
        )
    );
    sim.settle_for(100);
    assert_eq!(updated(&sim).len(), 3);
}

#[test]
fn nothing_is_updated_while_frozen_and_what_is_missing_is_started() {
    let mut sim = settled(Ask::default());
    sim.freeze(None);
    update(&mut sim, "i:2");
    sim.stop(&daemon(&sim, "n1"));
    sim.add_node("n4", &[]);
    sim.settle_for(1000);
    assert_eq!(on(&sim), ["n1", "n2", "n3", "n4"]);
    assert_eq!(updated(&sim), ["n1", "n4"]);
    sim.delete(crate::store::keys::FREEZE.to_owned());
    sim.settle();
    assert_eq!(updated(&sim).len(), 4);
}

#[test]
fn a_former_daemon_stays_where_the_present_one_would_find_no_room() {
    let mut sim = settled(Ask {
        cpu_milli: 500,
        host_port: 80,
        ..Ask::default()
    });
    sim.put_facts("n2", 1000, 4 << 30, 20, "");
    let larger = template(
        "logs",
        Ask {
            cpu_milli: 3000,
            host_port: 80,
            ..Ask::default()
        },
    );
    sim.edit_ds(&at(), |set| set.spec.template = larger);
    sim.settle();
    assert_eq!(
        (on(&sim).len(), updated(&sim)),
        (3, vec!["n1".to_owned(), "n3".to_owned()])
    );
    assert_eq!(
        condition(&sim, "Placed").2,
        "n2: a former daemon stays there, for the present one finds insufficient cpu"
    );
    sim.put_facts("n2", 4000, 4 << 30, 20, "");
    sim.settle();
    assert_eq!(updated(&sim).len(), 3);
}

#[test]
fn a_node_that_is_back_takes_daemons_once_what_was_replaced_has_ended() {
    let mut sim = settled(Ask::default());
    sim.put_rc(&rc(
        "default",
        "web",
        "u-web",
        1,
        template(
            "web",
            Ask {
                node: "n1",
                ..Ask::default()
            },
        ),
    ));
    sim.settle();
    let web = sim.live(&key("default", "web"))[0].0.clone();
    let gone = daemon(&sim, "n1");
    sim.put_ready("n1", false);
    let at_once = sim.now;
    sim.put(crate::store::keys::loss("n1"), &LossRecord { at: at_once });
    sim.edit_pod(&web, |r| {
        r.stop = Some(StopRecord {
            at: at_once,
            grace: 1,
            reason: String::new(),
            lost: true,
            drain: None,
        });
    });
    sim.put_ready("n1", true);
    sim.vanish(&gone);
    for _ in 0..5 {
        sim.pass(&HashSet::new());
    }
    assert_eq!(on(&sim), ["n2", "n3"]);
    sim.settle();
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
}

#[test]
fn pods_without_an_owner_are_adopted_and_orphans_live_on() {
    let mut sim = settled(Ask::default());
    let before: Vec<Key> = sim.world.pods.keys().cloned().collect();
    let now = sim.now;
    sim.edit_ds(&at(), |set| {
        set.metadata.deletion_timestamp = Some(now);
        set.metadata.finalizers = vec![ORPHAN.into()];
    });
    sim.settle();
    assert!(sim.world.daemon_sets.is_empty());
    assert!(sim.world.pods.values().all(|p| p.record.owner.is_none() && p.live()));
    // One that waits for a node is for none; a second one on a node is too many.
    sim.put_bare(
        "default",
        "extra",
        &template(
            "logs",
            Ask {
                node: "n1",
                ..Ask::default()
            },
        ),
    );
    sim.put_bare(
        "default",
        "waits",
        &template(
            "logs",
            Ask {
                node: "n9",
                ..Ask::default()
            },
        ),
    );
    sim.settle();
    sim.put_ds(&ds("default", "logs", "u-2", template("logs", Ask::default())));
    sim.settle();
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
    let left: Vec<Key> = sim.world.pods.keys().filter(|k| k.1 != "waits").cloned().collect();
    assert_eq!(left, before, "the same pods, adopted");
    assert_eq!(sim.world.pods[&key("default", "waits")].record.owner, None);
    // A label taken from one: the set lets it go and starts another beside it.
    let gone = daemon(&sim, "n2");
    sim.edit_pod(&gone, |r| drop(r.labels.insert("app".into(), Some("mine".into()))));
    sim.settle();
    assert_eq!(sim.world.pods[&gone].record.owner, None);
    assert!(sim.world.pods[&gone].live());
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
}

#[test]
fn a_deleted_set_and_a_deleted_namespace_leave_nothing() {
    let mut sim = settled(Ask {
        cpu_milli: 9000,
        ..Ask::default()
    });
    assert!(sim.world.daemon_sets[&at()].unplaced.is_some());
    sim.put_ds(&ds(
        "other",
        "x",
        "u-x",
        template(
            "x",
            Ask {
                cpu_milli: 9000,
                ..Ask::default()
            },
        ),
    ));
    sim.put_namespace("other", false);
    sim.put_ds(&ds("other", "y", "u-y", template("y", Ask::default())));
    sim.settle();
    assert_eq!(sim.world.pods.len(), 3);
    sim.delete_ds(&at());
    sim.put_namespace("other", true);
    sim.settle_for(60);
    assert!(sim.world.pods.is_empty());
    assert!(sim.world.daemon_sets.is_empty());
    let left: Vec<_> = sim.entries.keys().filter(|k| k.starts_with("unplaced/")).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn given_host_ports_are_a_daemons_own() {
    let mut sim = sim(Ask {
        asking: 2,
        ..Ask::default()
    });
    for name in ["n1", "n2", "n3"] {
        sim.put_facts(name, 4000, 4 << 30, 20, "one machine");
    }
    sim.settle();
    assert_eq!(on(&sim), ["n1", "n2", "n3"]);
    sim.assert_safe();
    // A fixed port is one machine's once.
    sim.put_ds(&ds(
        "default",
        "port",
        "u-p",
        template(
            "port",
            Ask {
                host_port: 80,
                ..Ask::default()
            },
        ),
    ));
    sim.settle();
    sim.assert_safe();
    assert_eq!(sim.world.pods_of("u-p").count(), 1);
    let words = &sim.world.daemon_sets[&key("default", "port")]
        .unplaced
        .as_ref()
        .expect("said")
        .value
        .words;
    assert_eq!(words, "n2: host port 80 taken; n3: host port 80 taken");
}

#[test]
fn a_record_stays_small_and_one_of_before_reads_as_a_controllers() {
    let sim = settled(Ask::default());
    let (at, _) = sim.world.pods.iter().next().expect("a pod");
    let stored = &sim.entries[&format!("obj/pod/{}/{}", at.0, at.1)].1;
    assert!(stored.len() <= 300, "{} bytes", stored.len());
    let before: OwnerRecord = serde_json::from_value(json!({"n": "web", "u": "u1"})).expect("it reads");
    assert_eq!(before.kind, OwnerKind::ReplicationController);
    assert_eq!(serde_json::to_value(&before).unwrap(), json!({"n": "web", "u": "u1"}));
    let shown = serde_json::to_value(sim.world.pod(at, &sim.world.pods[at])).unwrap();
    let owner = &shown["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["apiVersion"]),
        (&json!("DaemonSet"), &json!("apps/v1"))
    );
}

#[path = "daemons_budgets_tests.rs"]
mod budgets;
