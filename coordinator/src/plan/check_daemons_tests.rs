//! Each rule about daemons refuses the plan that breaks it, and only that one.

use serde_json::json;

use super::*;
use crate::{
    plan::{
        Commit, before,
        change::{Before, Change},
        check::Checker,
        sim::{Ask, Sim, ds, key, rc, set_field, template},
    },
    world::{
        daemons::UnplacedRecord,
        record::{OwnerKind, OwnerRecord, TemplateRecord},
    },
};

const ASK: Ask = Ask {
    cpu_milli: 0,
    memory: 0,
    host_port: 0,
    asking: 0,
    zone: Some("north"),
    node: "",
    rule: crate::plan::sim::Rule::Nothing,
};

/// Three held nodes in the north with daemons that serve, and one in the south.
fn sim() -> Sim {
    let mut sim = Sim::new();
    for name in ["n1", "n2", "n3"] {
        sim.add_node(name, &[("zone", "north")]);
        sim.cordon(name, "ann", "", None);
    }
    sim.add_node("s1", &[("zone", "south")]);
    sim.put_ds(&ds("default", "logs", "u", template("logs", ASK)));
    sim.settle();
    assert_eq!(sim.world.pods.len(), 3);
    sim
}

fn group() -> Group {
    Group::DaemonSet(key("default", "logs"))
}

fn admit(sim: &Sim, group: &Group, changes: Vec<Change>) -> Result<(), String> {
    let plan = Plan {
        commits: vec![Commit {
            group: group.clone(),
            changes,
            notes: Vec::new(),
        }],
        wake_at: None,
    };
    Checker::new(sim.now)
        .admit(&sim.world, group, &plan)
        .map_err(|v| v.what)
}

fn refused(sim: &Sim, changes: Vec<Change>, why: &str) {
    let what = admit(sim, &group(), changes).expect_err(why);
    assert!(what.contains(why), "{what}");
}

fn create(name: &str, node: &str) -> Change {
    let record = PodRecord {
        uid: format!("uid-{name}"),
        template: TemplateRecord::new(&template("logs", ASK)).encode().0,
        node: node.to_owned(),
        owner: Some(OwnerRecord {
            kind: OwnerKind::DaemonSet,
            name: "logs".into(),
            uid: "u".into(),
        }),
        waiting: if node.is_empty() { "x".into() } else { String::new() },
        ..PodRecord::default()
    };
    Change::CreatePod {
        key: key("default", name),
        record,
    }
}

fn with(change: Change, edit: impl FnOnce(&mut PodRecord)) -> Change {
    let Change::CreatePod { key, mut record } = change else {
        panic!("it creates a pod");
    };
    edit(&mut record);
    Change::CreatePod { key, record }
}

fn on(sim: &Sim, node: &str) -> Before {
    let (key, pod) = sim.world.pods_on(node).next().expect("a daemon");
    before(key, pod)
}

fn stop(sim: &Sim, node: &str) -> Change {
    Change::Stop {
        pod: on(sim, node),
        at: sim.now,
        grace: 30,
        reason: "r".into(),
        lost: false,
        drain: None,
    }
}

#[test]
fn an_update_stops_none_that_a_budget_needs() {
    let mut sim = sim();
    sim.put_budget("default", "b", json!({"minAvailable": 3, "selector": {}}));
    refused(&sim, vec![stop(&sim, "n1")], "2 would be left where budget");
    sim.put_budget("default", "b", json!({"minAvailable": 2, "selector": {}}));
    assert_eq!(admit(&sim, &group(), vec![stop(&sim, "n1")]), Ok(()));
    // Where the set is for its node no more, it is no update.
    sim.put_budget("default", "b", json!({"minAvailable": 3, "selector": {}}));
    sim.edit_ds(&key("default", "logs"), |set| {
        set.spec
            .template
            .spec
            .node_selector
            .insert("zone".into(), "south".into());
    });
    assert_eq!(admit(&sim, &group(), vec![stop(&sim, "n1")]), Ok(()));
}

#[test]
fn where_a_daemon_comes() {
    let mut sim = sim();
    refused(&sim, vec![create("new", "n1")], "may still run on n1");
    let gone = on(&sim, "n1").key;
    sim.stop(&gone);
    refused(&sim, vec![create("new", "n1")], "may still run on n1");
    sim.vanish(&gone);
    // Held as it is.
    assert_eq!(admit(&sim, &group(), vec![create("new", "n1")]), Ok(()));
    refused(
        &sim,
        vec![create("a", "n1"), create("b", "n1")],
        "two daemons come to node n1",
    );
    refused(&sim, vec![create("new", "s1")], "does not match the pod's nodeSelector");
    refused(&sim, vec![create("new", "")], "is for no node");
    let other = with(create("new", "n1"), |r| {
        let owner = r.owner.as_mut().expect("an owner");
        owner.kind = OwnerKind::ReplicationController;
    });
    refused(&sim, vec![other], "would be of another controller");
    let record = TemplateRecord::new(&template("logs", Ask { cpu_milli: 1, ..ASK }));
    let hash = record.encode().0;
    let put = Change::PutTemplate {
        hash: hash.clone(),
        record: record.into(),
    };
    let old = with(create("new", "n1"), |r| r.template = hash);
    refused(&sim, vec![put, old], "is not of the set's template");
    sim.taint("n1", &["a=1:NoSchedule"]);
    refused(&sim, vec![create("new", "n1")], "does not tolerate taint");
    sim.taint("n1", &[]);
    sim.put_ready("n1", false);
    refused(&sim, vec![create("new", "n1")], "takes no pods");
    // A controller's pod is still kept away by a hold.
    sim.put_ready("n1", true);
    sim.put_rc(&rc("default", "web", "u-web", 1, template("logs", ASK)));
    let web = with(create("web-1", "n1"), |r| {
        r.owner = Some(OwnerRecord {
            name: "web".into(),
            uid: "u-web".into(),
            ..OwnerRecord::default()
        });
    });
    let what = admit(&sim, &Group::Controller(key("default", "web")), vec![web]).expect_err("held");
    assert!(what.contains("takes no pods"), "{what}");
}

#[test]
fn how_many_an_update_stops() {
    let mut sim = sim();
    assert_eq!(admit(&sim, &group(), vec![stop(&sim, "n1")]), Ok(()));
    let both = vec![stop(&sim, "n1"), stop(&sim, "n2")];
    refused(
        &sim,
        both.clone(),
        "2 of 3 nodes would be without an available daemon, of at most Some(1)",
    );
    sim.freeze(None);
    refused(&sim, vec![stop(&sim, "n1")], "the cluster is frozen");
    sim.delete(crate::store::keys::FREEZE.to_owned());
    sim.edit_ds(&key("default", "logs"), |set| {
        set.spec.update_strategy = serde_json::from_value(json!({"rollingUpdate": {"maxUnavailable": 2}})).unwrap();
    });
    assert_eq!(admit(&sim, &group(), both.clone()), Ok(()));
    sim.edit_ds(&key("default", "logs"), |set| {
        set.spec.update_strategy = serde_json::from_value(json!({"type": "OnDelete"})).unwrap();
    });
    refused(&sim, vec![stop(&sim, "n1")], "would be without");
    // Where the set is no more it stops what it wants.
    sim.put_node("n1", &[("zone", "south")], true);
    sim.put_node("n2", &[("zone", "south")], true);
    assert_eq!(admit(&sim, &group(), both), Ok(()));
    // One that does not serve costs nothing; with it the one that may be missing is.
    sim.edit_ds(&key("default", "logs"), |set| {
        set.spec.update_strategy = Default::default()
    });
    sim.put_node("n1", &[("zone", "north")], true);
    let idle = on(&sim, "n1").key;
    sim.report(&idle, proto::model::Phase::Running, false, false);
    assert_eq!(admit(&sim, &group(), vec![stop(&sim, "n1")]), Ok(()));
    refused(&sim, vec![stop(&sim, "n3")], "would be without");
}

#[test]
fn where_the_set_is_no_more_it_stops_what_it_wants() {
    let south = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["south"]}]}]}}});
    for (field, value) in [
        ("nodeSelector", json!({"zone": "south"})),
        ("affinity", south),
        ("nodeName", json!("s1")),
    ] {
        let mut sim = sim();
        sim.edit_ds(&key("default", "logs"), |set| {
            set_field(&mut set.spec.template.spec, field, value.clone());
        });
        let both = vec![stop(&sim, "n1"), stop(&sim, "n2")];
        assert_eq!(admit(&sim, &group(), both), Ok(()), "{field}");
    }
    // Nor is it for one whose host is off: that one is not missed.
    let mut sim = sim();
    sim.put_ready("n2", false);
    refused(&sim, vec![stop(&sim, "n1")], "2 of 3 nodes would be without");
    sim.confirm_off("n2");
    assert_eq!(admit(&sim, &group(), vec![stop(&sim, "n1")]), Ok(()));
    // Or where a drain stops daemons.
    sim.vanish(&on(&sim, "n3").key);
    sim.drain("n3", |d| d.options.stop_daemons = true);
    refused(&sim, vec![create("new", "n3")], "is not for node n3");
}

#[test]
fn a_taint_asks_for_no_leave() {
    let bears = json!([{"key": "a", "operator": "Exists"}]);
    // Who bears it came before, or comes now: neither those that do not nor those that the set would not start count.
    for former in [false, true] {
        let mut sim = sim();
        if former {
            let mut template = template("logs", ASK);
            set_field(&mut template.spec, "tolerations", bears.clone());
            let record = TemplateRecord::new(&template);
            let hash = record.encode().0;
            sim.put(crate::store::keys::template(&hash), &record);
            let keys: Vec<Key> = sim.world.pods.keys().cloned().collect();
            for at in keys {
                sim.edit_pod(&at, |r| r.template.clone_from(&hash));
            }
        } else {
            sim.edit_ds(&key("default", "logs"), |set| {
                set_field(&mut set.spec.template.spec, "tolerations", bears.clone());
            });
        }
        for name in ["n1", "n2"] {
            sim.taint(name, &["a=1:NoExecute"]);
        }
        let both = vec![stop(&sim, "n1"), stop(&sim, "n2")];
        assert_eq!(admit(&sim, &group(), both), Ok(()), "former: {former}");
    }
}

#[test]
fn a_daemon_serves_after_a_while_where_it_is_heard() {
    let mut sim = sim();
    sim.put_ready("n2", false);
    refused(&sim, vec![stop(&sim, "n1")], "2 of 3 nodes would be without");
    sim.put_ready("n2", true);
    sim.edit_ds(&key("default", "logs"), |set| set.spec.min_ready_seconds = 3600);
    // None of them serves yet.
    let both = vec![stop(&sim, "n1"), stop(&sim, "n2")];
    assert_eq!(admit(&sim, &group(), both), Ok(()));
}

#[test]
fn what_else_is_a_sets_own() {
    let mut sim = sim();
    let release = Change::Release { pod: on(&sim, "n1") };
    refused(&sim, vec![release], "selects the pod");
    let at = key("default", "logs");
    let remove = Change::RemoveController {
        kind: OwnerKind::DaemonSet,
        key: at.clone(),
        rv: sim.world.daemon_sets[&at].rv,
    };
    refused(&sim, vec![remove.clone()], "is not being deleted");
    let unplaced = |uid: &str, words: &str| Change::Unplaced {
        key: at.clone(),
        before: None,
        record: UnplacedRecord {
            uid: uid.into(),
            words: words.into(),
        },
    };
    assert_eq!(admit(&sim, &group(), vec![unplaced("u", "n1: x")]), Ok(()));
    refused(&sim, vec![unplaced("u", "")], "is not of it, or nothing");
    refused(&sim, vec![unplaced("other", "n1: x")], "is not of it, or nothing");
    sim.edit_ds(&at, |set| set.metadata.deletion_timestamp = Some(proto::model::Time(1)));
    let release = Change::Release { pod: on(&sim, "n1") };
    assert_eq!(admit(&sim, &group(), vec![release]), Ok(()));
    let remove = Change::RemoveController {
        kind: OwnerKind::DaemonSet,
        key: at.clone(),
        rv: sim.world.daemon_sets[&at].rv,
    };
    assert_eq!(admit(&sim, &group(), vec![remove]), Ok(()));
}
