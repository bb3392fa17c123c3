//! The world equals a rebuild, and the views show what the records say.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::model::{ConditionStatus, Event, Hardware, HoldKind, Kind, NodeHold, Object, Phase, Quantity, Time};

use super::*;
use crate::{
    plan::sim::{Ask, Sim, ds, key, map, rc, template},
    store::{Expect, keys},
    world::record::{LossRecord, OwnerKind, OwnerRecord, ReplacesRecord, StatusRecord, StopRecord},
};

#[derive(Clone, Debug)]
enum Op {
    Node(usize),
    /// By whom; a record of an earlier release marks the node itself.
    Holds(usize, usize),
    MarkedNode(usize),
    Facts(usize, u64),
    Ready(usize, bool),
    Off(usize),
    Loss(usize),
    Controller(usize, i32),
    /// Over which pods.
    Budget(usize, usize),
    DaemonSet(usize, usize),
    /// Why a set of this number and uid has no daemon somewhere.
    Unplaced(usize, usize),
    /// A pod as this uid, on this node or none, of this template, of this controller or none.
    Pod {
        pod: usize,
        uid: usize,
        node: usize,
        template: usize,
        owner: usize,
        stop: bool,
    },
    Status {
        pod: usize,
        uid: usize,
        phase: usize,
        stopped: bool,
    },
    Template(usize),
    Event(usize),
    Namespace(usize, bool),
    Delete(usize),
}

const PHASES: [Phase; 4] = [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed];

fn op() -> impl Strategy<Value = Op> {
    let i = 0..3_usize;
    prop_oneof![
        2 => i.clone().prop_map(Op::Node),
        1 => (i.clone(), 0..3_usize).prop_map(|(i, by)| Op::Holds(i, by)),
        1 => i.clone().prop_map(Op::MarkedNode),
        1 => (i.clone(), 1..9_u64).prop_map(|(i, c)| Op::Facts(i, c)),
        1 => (i.clone(), any::<bool>()).prop_map(|(i, r)| Op::Ready(i, r)),
        1 => i.clone().prop_map(Op::Off),
        1 => i.clone().prop_map(Op::Loss),
        2 => (i.clone(), 0..3_i32).prop_map(|(i, n)| Op::Controller(i, n)),
        2 => (i.clone(), 0..5_usize).prop_map(|(i, of)| Op::Budget(i, of)),
        2 => (i.clone(), i.clone()).prop_map(|(i, uid)| Op::DaemonSet(i, uid)),
        1 => (i.clone(), i.clone()).prop_map(|(i, uid)| Op::Unplaced(i, uid)),
        6 => (i.clone(), 0..2_usize, 0..4_usize, i.clone(), 0..7_usize, any::<bool>())
            .prop_map(|(pod, uid, node, template, owner, stop)| Op::Pod { pod, uid, node, template, owner, stop }),
        4 => (i.clone(), 0..2_usize, 0..4_usize, any::<bool>())
            .prop_map(|(pod, uid, phase, stopped)| Op::Status { pod, uid, phase, stopped }),
        2 => i.clone().prop_map(Op::Template),
        1 => i.clone().prop_map(Op::Event),
        1 => (i, any::<bool>()).prop_map(|(i, t)| Op::Namespace(i, t)),
        4 => (0..64_usize).prop_map(Op::Delete),
    ]
}

fn record_of(i: usize) -> TemplateRecord {
    let ask = Ask {
        cpu_milli: 100 * i as u64,
        host_port: 8000 + u16::try_from(i / 2).unwrap(),
        asking: u16::try_from(i).unwrap(),
        ..Ask::default()
    };
    TemplateRecord::new(&template(&format!("app{i}"), ask))
}

fn apply(sim: &mut Sim, op: &Op) {
    match *op {
        Op::Node(i) => sim.put_node(&format!("n{i}"), &[], false),
        Op::Facts(i, cpu) => {
            sim.put_facts(&format!("n{i}"), cpu * 1000, 1 << 30, 10, "m");
            let mut hardware = Hardware::default();
            hardware.memory.total = cpu;
            sim.put(keys::node_inventory(&format!("n{i}")), &hardware);
        }
        Op::Holds(i, by) => {
            let hold = NodeHold {
                kind: HoldKind::Cordon,
                owner: format!("user/{by}"),
                reason: String::new(),
                since: sim.now,
                expires: None,
            };
            // None at all, too: what has been released.
            let holds: HoldsRecord = (by > 0).then(|| (hold.id(), hold)).into_iter().collect();
            sim.put(keys::holds(&format!("n{i}")), &holds);
        }
        Op::MarkedNode(i) => {
            let mut node = Node::default();
            node.metadata.name = format!("n{i}");
            node.spec.unschedulable = true;
            sim.put(keys::object(Kind::Node, "", &node.metadata.name), &node);
        }
        Op::Ready(i, ready) => sim.put_ready(&format!("n{i}"), ready),
        Op::Off(i) => sim.confirm_off(&format!("n{i}")),
        Op::Loss(i) => {
            let at = sim.now;
            sim.put(keys::loss(&format!("n{i}")), &LossRecord { at });
        }
        Op::Controller(i, n) => {
            sim.put_rc(&rc(
                "default",
                &format!("rc{i}"),
                &format!("u{i}"),
                n,
                template("a", Ask::default()),
            ));
        }
        Op::Budget(i, of) => {
            let spec = serde_json::json!({"minAvailable": 1, "selector": selectors()[of]});
            sim.put_budget("default", &format!("b{i}"), spec);
        }
        Op::DaemonSet(i, uid) => {
            let node = if uid == 0 { "n1" } else { "" };
            let template = template("a", Ask { node, ..Ask::default() });
            sim.put_ds(&ds("default", &format!("ds{i}"), &format!("d{i}-{uid}"), template));
        }
        Op::Unplaced(i, uid) => {
            let record = UnplacedRecord {
                uid: format!("d{i}-{uid}"),
                words: "n1: host port 80 taken".into(),
            };
            sim.put(keys::unplaced("default", &format!("ds{i}")), &record);
        }
        Op::Pod {
            pod,
            uid,
            node,
            template,
            owner,
            stop,
        } => {
            let record = PodRecord {
                uid: format!("{pod}-{uid}"),
                template: record_of(template).encode().0,
                node: if node < 3 { format!("n{node}") } else { String::new() },
                owner: match owner {
                    0..3 => Some(OwnerRecord {
                        name: format!("rc{owner}"),
                        uid: format!("u{owner}"),
                        ..OwnerRecord::default()
                    }),
                    3 => None,
                    _ => Some(OwnerRecord {
                        kind: OwnerKind::DaemonSet,
                        name: "ds0".into(),
                        uid: format!("d0-{}", owner - 4),
                    }),
                },
                labels: if uid == 1 {
                    [("app".into(), Some("app0".into())), ("x".into(), None)].into()
                } else {
                    Default::default()
                },
                ports: (0..template).map(|i| 20_000 + u16::try_from(i).unwrap()).collect(),
                stop: stop.then(|| StopRecord {
                    at: Time(1),
                    grace: 1,
                    reason: String::new(),
                    lost: uid == 0,
                    drain: None,
                }),
                replaces: (owner == 1).then(|| ReplacesRecord {
                    name: "old".into(),
                    uid: format!("old-{uid}"),
                    node: "n1".into(),
                    drain: "d".into(),
                }),
                ..PodRecord::default()
            };
            sim.put(keys::object(Kind::Pod, "default", &format!("p{pod}")), &record);
        }
        Op::Status {
            pod,
            uid,
            phase,
            stopped,
        } => {
            let mut status = StatusRecord {
                uid: format!("{pod}-{uid}"),
                stopped,
                ..StatusRecord::default()
            };
            status.status.phase = PHASES[phase];
            sim.put(keys::pod_status("default", &format!("p{pod}")), &status);
        }
        Op::Template(i) => {
            let record = record_of(i);
            sim.put(keys::template(&record.encode().0), &record);
        }
        Op::Event(i) => sim.put(keys::event("default", &format!("e{i}")), &Event::default()),
        Op::Namespace(i, terminating) => sim.put_namespace(&format!("ns{i}"), terminating),
        Op::Delete(i) => {
            if !sim.entries.is_empty() {
                let key = sim.entries.keys().nth(i % sim.entries.len()).cloned();
                sim.delete(key.unwrap_or_default());
            }
        }
    }
}

fn selectors() -> [serde_json::Value; 5] {
    [
        serde_json::json!({}),
        serde_json::json!({"matchLabels": {"app": "app0"}}),
        serde_json::json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["app1", "app2", "app1"]}]}),
        serde_json::json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["app1"]}]}),
        serde_json::json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]}),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_index_and_sum_equals_a_rebuild(ops in prop::collection::vec(op(), 1..60)) {
        let mut sim = Sim::new();
        for op in &ops {
            apply(&mut sim, op);
        }
        let mut rebuilt = sim.reloaded();
        for (at, state) in &mut rebuilt.controllers {
            // The fed world also remembers pods that are gone, and when a node came to be what it is.
            state.touched = sim.world.controllers[at].touched;
        }
        for (at, state) in &mut rebuilt.budgets {
            state.touched = sim.world.budgets[at].touched;
        }
        for (at, state) in &mut rebuilt.daemon_sets {
            state.touched = sim.world.daemon_sets[at].touched;
        }
        prop_assert_eq!(&sim.world, &rebuilt);
        for (name, node) in &sim.world.nodes {
            let (used, ports, replaced) = sim.world.usage_of(name);
            prop_assert_eq!(node.used, used);
            prop_assert_eq!(&node.ports, &ports);
            prop_assert_eq!(node.replaced, replaced);
            prop_assert_eq!(node.lost().is_some(), sim.world.lost_nodes().any(|n| n == name));
        }
        let world = &sim.world;
        for (at, pod) in &world.pods {
            let mut naive: Vec<&Key> = Vec::new();
            for (name, state) in &world.budgets {
                let selector = state.budget.spec.selector.as_ref().expect("a selector");
                let known = pod.template.is_some() || !pod.record.labels.is_empty();
                if name.0 == at.0 && known && selector.matches(|k| pod.label(k)) {
                    naive.push(name);
                }
            }
            let found: Vec<&Key> = world.budgets_of(&at.0, pod).into_iter().map(|(name, _)| name).collect();
            prop_assert_eq!(found, naive);
        }
        for selector in selectors() {
            let selector: proto::model::PodSelector = serde_json::from_value(selector).expect("a selector");
            for namespace in ["default", "other"] {
                let mut found: Vec<_> = world.selected(namespace, &selector).map(|p| &p.record.uid).collect();
                found.sort_unstable();
                // A pod whose labels are not known yet, because its template has not come, is in no selection.
                let of = world.pods.iter().filter(|(at, p)| {
                    let known = p.template.is_some() || !p.record.labels.is_empty();
                    at.0 == namespace && known && selector.matches(|k| p.label(k))
                });
                let mut all: Vec<_> = of.map(|(_, p)| &p.record.uid).collect();
                all.sort_unstable();
                prop_assert_eq!(found, all, "{:?}", selector);
            }
        }
    }
}

/// A pod of a controller on `n1`, Running and Ready.
fn one_pod() -> (Sim, Key) {
    let mut sim = Sim::new();
    sim.add_node("n1", &[]);
    let mut rc = rc("default", "web", "u", 1, template("web", Ask::default()));
    rc.spec.template.metadata.annotations = map(&[("note", "x")]);
    sim.put_rc(&rc);
    sim.settle();
    let at = sim.world.pods.keys().next().expect("a pod").clone();
    (sim, at)
}

fn shown(sim: &Sim, at: &Key) -> proto::model::Pod {
    match sim.world.object(Kind::Pod, &at.0, &at.1) {
        Some(Object::Pod(pod)) => pod,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_is_its_template_with_the_records_differences() {
    let (mut sim, at) = one_pod();
    sim.edit_pod(&at, |r| {
        r.labels.insert("app".into(), None);
        r.labels.insert("tier".into(), Some("front".into()));
        r.annotations.insert("why".into(), Some("y".into()));
    });
    let pod = shown(&sim, &at);
    assert_eq!(pod.metadata.labels, map(&[("tier", "front")]));
    assert_eq!(pod.metadata.annotations, map(&[("note", "x"), ("why", "y")]));
    assert_eq!(pod.metadata.owner_references[0].uid, "u");
    assert_eq!(pod.metadata.resource_version, sim.world.pods[&at].rv.to_string());
    assert_eq!(pod.spec.node_name, "n1");
    assert_eq!(pod.metadata.deletion_timestamp, None);
    let status = pod.status.expect("a status");
    assert_eq!(status.phase, Phase::Running);
    assert!(status.ready());
    assert_eq!(status.conditions[0].kind, "PodScheduled");
    assert_eq!(status.conditions[0].status, ConditionStatus::True);
    let state = &sim.world.pods[&at];
    assert_eq!((state.label("app"), state.label("tier")), (None, Some("front")));
    sim.stop(&at);
    let pod = shown(&sim, &at);
    assert_eq!(pod.metadata.deletion_timestamp, Some(Time(sim.now.0 + 30)));
    assert_eq!(pod.metadata.deletion_grace_period_seconds, Some(30));
}

#[test]
fn a_waiting_pod_says_why() {
    let mut sim = Sim::new();
    sim.put_bare("default", "p", &template("a", Ask::default()));
    sim.settle();
    let status = shown(&sim, &key("default", "p")).status.expect("a status");
    let scheduled = status.condition("PodScheduled").expect("the condition");
    assert_eq!(scheduled.status, ConditionStatus::False);
    assert_eq!(scheduled.reason, "Unschedulable");
    assert_eq!(scheduled.message, "0 nodes: no node has joined");
}

#[test]
fn a_lost_node_makes_its_pods_unready_and_a_final_phase_stays() {
    let (mut sim, at) = one_pod();
    sim.put_ready("n1", false);
    let status = shown(&sim, &at).status.expect("a status");
    let ready = status.condition("Ready").expect("the condition");
    assert_eq!(
        (ready.status, ready.reason.as_str()),
        (ConditionStatus::Unknown, "NodeLost")
    );
    assert_eq!(status.phase, Phase::Running, "a phase never goes back");
    sim.report(&at, Phase::Succeeded, false, false);
    let status = shown(&sim, &at).status.expect("a status");
    assert_eq!(
        status.condition("Ready").map(|c| c.status),
        Some(ConditionStatus::False)
    );
}

#[test]
fn another_pods_status_is_not_shown() {
    let (mut sim, at) = one_pod();
    sim.edit_pod(&at, |r| r.uid = "another".into());
    assert_eq!(sim.world.pods[&at].status, None);
    assert_eq!(shown(&sim, &at).status.map(|s| s.phase), Some(Phase::Pending));
    assert_eq!(sim.world.stray_statuses().map(|(k, _)| k).collect::<Vec<_>>(), [&at]);
}

#[test]
fn a_controllers_status_counts_what_is_not_being_stopped() {
    let mut sim = Sim::new();
    for name in ["n1", "n2"] {
        sim.add_node(name, &[]);
    }
    sim.put_rc(&rc("default", "web", "u", 4, template("web", Ask::default())));
    sim.settle();
    let at = key("default", "web");
    let counts = |sim: &Sim| {
        let s = sim.world.controller_status(&sim.world.controllers[&at], Time(0));
        (s.replicas, s.ready_replicas, s.fully_labeled_replicas)
    };
    let complete = |sim: &Sim| {
        let s = sim.world.controller_status(&sim.world.controllers[&at], Time(0));
        (s.conditions[0].status, s.conditions[0].message.clone())
    };
    assert_eq!(counts(&sim), (4, 4, 4));
    assert_eq!(complete(&sim), (ConditionStatus::True, String::new()));
    let before = sim.world.controllers[&at].touched;
    let pods: Vec<Key> = sim.world.pods.keys().cloned().collect();
    sim.stop(&pods[0]);
    assert_eq!(counts(&sim), (3, 3, 3));
    assert_eq!(
        complete(&sim),
        (ConditionStatus::False, "3 of 4 pods are there, 3 ready".into()),
        "too few, though all of them are ready"
    );
    sim.report(&pods[1], Phase::Running, false, false);
    assert_eq!(counts(&sim), (3, 2, 3));
    sim.edit_pod(&pods[1], |r| {
        r.labels.insert("app".into(), Some("other".into()));
    });
    assert_eq!(counts(&sim), (3, 2, 2));
    sim.report(&pods[2], Phase::Failed, false, false);
    assert_eq!(counts(&sim).0, 2);
    sim.put_ready("n1", false);
    sim.put_ready("n2", false);
    assert_eq!(counts(&sim).1, 0, "pods of nodes that are not heard are not ready");
    let versions = sim.world.keys(Kind::ReplicationController, "default");
    assert!(
        versions[0].1 > before,
        "a watch of the controller sees its status change"
    );
}

#[test]
fn a_node_shows_its_facts_and_its_one_condition() {
    let mut sim = Sim::new();
    sim.put_node("n1", &[], false);
    let node = |sim: &Sim| match sim.world.object(Kind::Node, "", "n1") {
        Some(Object::Node(node)) => node,
        other => panic!("{other:?}"),
    };
    let status = node(&sim).status.expect("a status");
    assert_eq!(status.conditions[0].reason, "NeverConnected");
    sim.put_facts("n1", 4000, 1 << 30, 7, "m");
    sim.put_ready("n1", true);
    let status = node(&sim).status.expect("a status");
    assert!(status.ready() && status.conditions.len() == 1);
    assert_eq!(status.allocatable["pods"].units(), 7);
    assert_eq!(
        node(&sim).metadata.resource_version,
        sim.world.nodes["n1"].latest().to_string()
    );
    assert_eq!(sim.world.nodes["n1"].allocatable.pods, 7);
    // The facts of an agent that does not say how many pods it takes.
    let mut facts = FactsRecord::default();
    facts.status.allocatable = BTreeMap::from([("cpu".to_owned(), Quantity::from_units(1))]);
    sim.put(keys::node_facts("n1"), &facts);
    assert_eq!(sim.world.nodes["n1"].allocatable.pods, DEFAULT_PODS);
    // Facts of a node that enrols later wait for it.
    sim.delete(keys::object(Kind::Node, "", "n1"));
    sim.put_node("n1", &[], false);
    assert_eq!(sim.world.nodes["n1"].allocatable.cpu_milli, 1000);
}

#[test]
fn a_node_shows_what_its_host_is_made_of() {
    let mut sim = Sim::new();
    sim.put_node("n1", &[], false);
    let node = |sim: &Sim| sim.world.object(Kind::Node, "", "n1").expect("a node").to_json();
    assert!(node(&sim)["status"].get("hardware").is_none());
    let mut hardware = Hardware::default();
    hardware.chassis.serial = "CH1".into();
    sim.put(keys::node_inventory("n1"), &hardware);
    assert_eq!(
        node(&sim)["status"]["hardware"],
        serde_json::json!({"chassis": {"serial": "CH1"}})
    );
    assert_eq!(
        node(&sim)["metadata"]["resourceVersion"],
        sim.world.nodes["n1"].hardware.as_ref().expect("stored").rv.to_string(),
        "a watch of the node sees it change"
    );
    sim.delete(keys::node_inventory("n1"));
    assert!(node(&sim)["status"].get("hardware").is_none());
}

#[test]
fn a_node_shows_its_holds_and_is_unschedulable_by_cordons() {
    let mut sim = Sim::new();
    let node = |sim: &Sim| match sim.world.object(Kind::Node, "", "n1") {
        Some(Object::Node(node)) => (node.spec.unschedulable, node.status.unwrap_or_default().holds),
        other => panic!("{other:?}"),
    };
    let version = |sim: &Sim| sim.world.nodes["n1"].latest();
    sim.put_node("n1", &[], false);
    assert_eq!(node(&sim), (false, vec![]));
    sim.edit_holds("n1", |holds| {
        let hold = NodeHold {
            kind: HoldKind::Maintenance,
            owner: "m-17".into(),
            reason: "DIMM".into(),
            since: Time(1),
            expires: None,
        };
        holds.insert(hold.id(), hold);
    });
    let held = node(&sim);
    assert_eq!((held.0, held.1.len()), (false, 1));
    sim.cordon("n1", "admin", "", None);
    let before = version(&sim);
    assert_eq!((node(&sim).0, node(&sim).1.len()), (true, 2));
    sim.edit_holds("n1", HoldsRecord::clear);
    assert_eq!(node(&sim), (false, vec![]));
    assert!(version(&sim) > before, "a watch of the node sees it change");
    // A mark of an earlier release counts until holds are written.
    sim.delete(keys::holds("n1"));
    let mut marked = (*sim.world.nodes["n1"].node).clone();
    marked.spec.unschedulable = true;
    sim.put(keys::object(Kind::Node, "", "n1"), &marked);
    assert_eq!(
        node(&sim).1[0].to_string(),
        "cordon by unknown: made when cordons had no owners"
    );
    assert_eq!(sim.world.nodes["n1"].holds_expected(), Expect::Absent);
    sim.put(keys::holds("n1"), &HoldsRecord::new());
    assert_eq!(node(&sim), (false, vec![]));
    assert!(matches!(sim.world.nodes["n1"].holds_expected(), Expect::At(_)));
}

#[test]
fn an_unreadable_record_is_an_error_that_names_its_key() {
    let update = Update {
        rv: Rv::new(1, 0),
        key: "obj/pod/default/p".into(),
        value: Some(bytes::Bytes::from_static(b"{")),
    };
    let error = World::default().apply(&update).expect_err("unreadable").to_string();
    assert!(
        error.starts_with("obj/pod/default/p at version 65536 cannot be read"),
        "{error}"
    );
}

#[test]
fn differences_lead_from_a_template_to_what_is_wanted() {
    use record::{differences, overlaid};
    for (template, wanted, left) in [
        (map(&[]), map(&[]), 0),
        (map(&[("a", "1")]), map(&[("a", "1")]), 0),
        (map(&[("a", "1")]), map(&[]), 1),
        (map(&[("a", "1"), ("b", "2")]), map(&[("a", "2"), ("c", "3")]), 3),
    ] {
        let found = differences(&template, &wanted);
        assert_eq!(found.len(), left, "{found:?}");
        assert_eq!(overlaid(&template, &found), wanted);
    }
    // What is as in the template takes no room.
    let bytes = record::encode(&PodRecord::default());
    let text = String::from_utf8(bytes).expect("JSON");
    assert!(!text.contains("\"a\"") && !text.contains("\"l\""), "{text}");
}

#[test]
fn a_pod_is_available_once_it_has_been_ready_for_long_enough() {
    let mut sim = Sim::new();
    sim.add_node("n1", &[]);
    let mut controller = rc("default", "web", "u", 1, template("web", Ask::default()));
    controller.spec.min_ready_seconds = 10;
    sim.put_rc(&controller);
    sim.settle();
    let at = key("default", "web");
    let pod = sim.world.pods.keys().next().expect("a pod").clone();
    let mut status = (*sim.world.pods[&pod].status.as_ref().expect("told").value).clone();
    let counts = |sim: &Sim, now: i64| {
        let s = sim.world.controller_status(&sim.world.controllers[&at], Time(now));
        (s.ready_replicas, s.available_replicas)
    };
    assert_eq!(counts(&sim, 1_000), (1, 0), "since when is not known");
    status.status.conditions[0].last_transition_time = Some(Time(100));
    status.seq += 1;
    sim.put(keys::pod_status(&pod.0, &pod.1), &status);
    assert_eq!(counts(&sim, 109), (1, 0));
    assert_eq!(counts(&sim, 110), (1, 1));
    // A clock that is behind the agent's counts as no time at all.
    assert_eq!(counts(&sim, 50), (1, 0));
    sim.put_ready("n1", false);
    assert_eq!(counts(&sim, 200), (0, 0));
}
