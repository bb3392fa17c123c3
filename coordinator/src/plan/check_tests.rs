//! Each rule refuses the plan that breaks it, and only that one.

use std::sync::Arc;

use proto::model::Time;
use serde_json::json;

use super::*;
use crate::{
    plan::{
        Commit, before,
        sim::{Ask, Rule, Sim, key, rc, set_field, template},
    },
    world::record::{OwnerKind, OwnerRecord, TemplateRecord},
};

const ASK: Ask = Ask {
    cpu_milli: 1000,
    memory: 0,
    host_port: 80,
    asking: 0,
    zone: Some("north"),
    node: "",
    rule: Rule::Nothing,
};

fn labelled(name: &str, app: &str) -> Change {
    let Change::CreatePod { key, mut record } = create(name, "n2") else {
        panic!("it creates a pod");
    };
    record.labels.insert("app".into(), Some(app.into()));
    Change::CreatePod { key, record }
}

/// Two nodes of 4 CPUs on one machine; a controller with one pod on `n1`, a waiting pod of a user, and one
/// of another controller.
fn sim() -> Sim {
    let mut sim = Sim::new();
    sim.put_namespace("apps", true);
    for name in ["n1", "n2"] {
        sim.add_node(name, &[("zone", "north")]);
        sim.put_facts(name, 4000, 4 << 30, 20, "m");
    }
    for (name, uid) in [("web", "u"), ("db", "u2")] {
        sim.put_rc(&rc("default", name, uid, 1, template(name, ASK)));
        let record = TemplateRecord::new(&template(name, ASK));
        sim.put(crate::store::keys::template(&record.encode().0), &record);
    }
    for (name, owner, node) in [("web-1", "u", "n1"), ("db-1", "u2", "")] {
        let record = pod(name, owner, node);
        sim.put(format!("obj/pod/default/{name}"), &record);
    }
    sim.put_bare("default", "bare", &template("other", Ask { host_port: 0, ..ASK }));
    sim
}

fn pod(name: &str, owner: &str, node: &str) -> PodRecord {
    let app = if owner == "u" { "web" } else { "db" };
    PodRecord {
        uid: format!("uid-{name}"),
        template: TemplateRecord::new(&template(app, ASK)).encode().0,
        node: node.to_owned(),
        owner: Some(OwnerRecord {
            name: app.to_owned(),
            uid: owner.to_owned(),
            ..OwnerRecord::default()
        }),
        waiting: if node.is_empty() { "x".into() } else { String::new() },
        ..PodRecord::default()
    }
}

fn web() -> Group {
    Group::Controller(key("default", "web"))
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
    Checker::default().admit(&sim.world, group, &plan).map_err(|v| v.what)
}

fn refused(sim: &Sim, group: &Group, changes: Vec<Change>, why: &str) {
    let what = admit(sim, group, changes).expect_err(why);
    assert!(what.contains(why), "{what}");
}

fn of(sim: &Sim, name: &str) -> Before {
    let at = key("default", name);
    before(&at, &sim.world.pods[&at])
}

fn create(name: &str, node: &str) -> Change {
    Change::CreatePod {
        key: key("default", name),
        record: pod(name, "u", node),
    }
}

fn stop(pod: Before) -> Change {
    Change::Stop {
        pod,
        at: Time(1),
        grace: 30,
        reason: "r".into(),
        lost: false,
        drain: None,
    }
}

fn bind(pod: Before, node: &str) -> Change {
    Change::Bind {
        pod,
        node: node.to_owned(),
        ports: Vec::new(),
    }
}

#[test]
fn accepts_what_is_right() {
    let sim = sim();
    let bare = Group::Pod(key("default", "bare"));
    assert_eq!(admit(&sim, &web(), vec![create("web-2", "")]), Ok(()));
    assert_eq!(admit(&sim, &web(), vec![stop(of(&sim, "web-1"))]), Ok(()));
    assert_eq!(admit(&sim, &bare, vec![bind(of(&sim, "bare"), "n2")]), Ok(()));
}

#[test]
fn capacity_and_host_ports() {
    let mut sim = sim();
    refused(&sim, &web(), vec![create("web-2", "n1")], "host port 80 is taken");
    refused(
        &sim,
        &web(),
        vec![create("web-2", "n2")],
        "host port 80 is taken on machine m",
    );
    let bare = Group::Pod(key("default", "bare"));
    sim.put_facts("n2", 999, 4 << 30, 20, "m");
    refused(&sim, &bare, vec![bind(of(&sim, "bare"), "n2")], "would hold");
    sim.put_facts("n2", 4000, 4 << 30, 0, "m");
    refused(&sim, &bare, vec![bind(of(&sim, "bare"), "n2")], "would hold");
    sim.put_facts("n2", 4000, 4 << 30, 20, "m2");
    let both = vec![create("web-2", "n2"), create("web-3", "n2")];
    refused(&sim, &web(), both, "host port 80 is taken");
    // What another group's admitted plan takes is taken.
    let mut checker = Checker::default();
    let plan = |name: &str| Plan {
        commits: vec![Commit {
            group: web(),
            changes: vec![create(name, "n2")],
            notes: Vec::new(),
        }],
        wake_at: None,
    };
    assert!(checker.admit(&sim.world, &web(), &plan("web-2")).is_ok());
    assert!(
        checker.admit(&sim.world, &web(), &plan("web-2")).is_err(),
        "the same name"
    );
    assert!(
        checker.admit(&sim.world, &web(), &plan("web-3")).is_err(),
        "the same port"
    );
    // A pod that came to another group during the pass is no fault.
    let bare = Group::Pod(key("default", "bare"));
    let explain = Plan {
        commits: vec![Commit {
            group: bare.clone(),
            changes: vec![Change::Explain {
                pod: of(&sim, "bare"),
                waiting: "x".into(),
            }],
            notes: Vec::new(),
        }],
        wake_at: None,
    };
    assert!(checker.admit(&sim.world, &bare, &explain).is_ok());
    assert!(checker.admit(&sim.world, &bare, &explain).is_err());
    sim.put_node("n3", &[], false);
    assert!(checker.admit(&sim.world, &bare, &explain).is_ok());
}

#[test]
fn holds_are_released_when_their_time_is_over() {
    let mut sim = sim();
    let now = sim.now;
    sim.cordon("n1", "ann", "", Some(Time(now.0)));
    sim.cordon("n1", "bob", "", Some(Time(now.0 + 1)));
    sim.cordon("n1", "eve", "", None);
    let holds = sim.world.nodes["n1"].holds.clone().expect("held");
    let group = Group::Holds("n1".into());
    let without = |gone: &[&str]| {
        let mut left = (*holds.value).clone();
        left.retain(|_, hold| !gone.contains(&hold.owner.as_str()));
        vec![Change::ReleaseHolds {
            node: "n1".into(),
            rv: holds.rv,
            at: now,
            left,
        }]
    };
    refused(
        &sim,
        &group,
        without(&["user/ann", "user/bob"]),
        "whose time is not over",
    );
    refused(&sim, &group, without(&["user/eve"]), "whose time is not over");
    let mut others = without(&["user/ann"]);
    if let Change::ReleaseHolds { left, .. } = &mut others[0] {
        left.retain(|_, hold| {
            hold.reason.push('x');
            true
        });
    }
    refused(&sim, &group, others, "whose time is not over");
    assert_eq!(admit(&sim, &group, without(&["user/ann"])), Ok(()));
    sim.cordon("n1", "ann", "", None);
    refused(&sim, &group, without(&["user/ann"]), "it was decided on version");
}

#[test]
fn nodes_that_take_no_pods_or_not_this_one() {
    let mut sim = sim();
    let bare = Group::Pod(key("default", "bare"));
    let to = |node: &str, sim: &Sim| vec![bind(of(sim, "bare"), node)];
    refused(&sim, &bare, to("n9", &sim), "no node n9");
    sim.put_ready("n2", false);
    refused(&sim, &bare, to("n2", &sim), "takes no pods");
    sim.put_ready("n2", true);
    sim.put_node("n2", &[("zone", "north")], true);
    refused(&sim, &bare, to("n2", &sim), "takes no pods");
    sim.put_node("n2", &[("zone", "south")], false);
    refused(&sim, &bare, to("n2", &sim), "nodeSelector");
}

/// Gives the waiting pod of the user a template with this field.
fn respecify(sim: &mut Sim, field: &str, value: serde_json::Value) {
    let mut pod = template("other", Ask { host_port: 0, ..ASK });
    set_field(&mut pod.spec, field, value);
    let record = TemplateRecord::new(&pod);
    let hash = record.encode().0;
    sim.put(crate::store::keys::template(&hash), &record);
    sim.edit_pod(&key("default", "bare"), |r| r.template = hash);
}

#[test]
fn affinity_and_taints() {
    let mut sim = sim();
    let bare = Group::Pod(key("default", "bare"));
    let to = |node: &str, sim: &Sim| vec![bind(of(sim, "bare"), node)];
    let required = json!({"nodeSelectorTerms": [{"matchFields":
        [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]});
    respecify(
        &mut sim,
        "affinity",
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}),
    );
    refused(&sim, &bare, to("n2", &sim), "node affinity");
    assert_eq!(admit(&sim, &bare, to("n1", &sim)), Ok(()));
    sim.taint("n1", &["a=1:PreferNoSchedule"]);
    assert_eq!(admit(&sim, &bare, to("n1", &sim)), Ok(()));
    for taint in ["a=1:NoSchedule", "a=1:NoExecute"] {
        sim.taint("n1", &[taint]);
        refused(&sim, &bare, to("n1", &sim), &format!("taint {taint} of n1"));
    }
    respecify(&mut sim, "tolerations", json!([{"key": "a", "operator": "Exists"}]));
    assert_eq!(admit(&sim, &bare, to("n1", &sim)), Ok(()));
}

#[test]
fn spread_counts_the_world_the_pass_and_the_plan() {
    let mut sim = sim();
    sim.put_facts("n2", 8000, 4 << 30, 20, "m2");
    sim.put_node("n2", &[("zone", "north"), ("rack", "b")], false);
    sim.put_node("n1", &[("zone", "north"), ("rack", "a")], false);
    let bare = Group::Pod(key("default", "bare"));
    let constraint = |selector: serde_json::Value| json!([{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]);
    let to = |node: &str, sim: &Sim| vec![bind(of(sim, "bare"), node)];
    // web-1 is on n1, rack a.
    respecify(
        &mut sim,
        "topologySpreadConstraints",
        constraint(json!({"matchExpressions":
        [{"key": "app", "operator": "In", "values": ["web", "other"]}]})),
    );
    refused(&sim, &bare, to("n1", &sim), "rack a would have 2 more");
    assert_eq!(admit(&sim, &bare, to("n2", &sim)), Ok(()));
    sim.put_node("n2", &[("zone", "north")], false);
    refused(&sim, &bare, to("n2", &sim), "in no domain");
    sim.put_node("n2", &[("zone", "north"), ("rack", "b")], false);
    // A pod that is being stopped counts no longer.
    sim.stop(&key("default", "web-1"));
    assert_eq!(admit(&sim, &bare, to("n1", &sim)), Ok(()));
    // What an admitted plan placed counts for the next one.
    let plan = |group: &Group, changes: Vec<Change>| Plan {
        commits: vec![Commit {
            group: group.clone(),
            changes,
            notes: Vec::new(),
        }],
        wake_at: None,
    };
    let mut checker = Checker::default();
    assert_eq!(
        checker.admit(&sim.world, &web(), &plan(&web(), vec![create("web-2", "n2")])),
        Ok(())
    );
    let second = checker.admit(&sim.world, &bare, &plan(&bare, to("n2", &sim)));
    assert!(second.expect_err("uneven").what.contains("rack b would have 2 more"));
    assert_eq!(checker.admit(&sim.world, &bare, &plan(&bare, to("n1", &sim))), Ok(()));
    // A pod that the selector does not choose counts for nobody.
    let mut checker = Checker::default();
    let foreign = vec![labelled("web-2", "mine")];
    assert_eq!(checker.admit(&sim.world, &web(), &plan(&web(), foreign)), Ok(()));
    assert_eq!(checker.admit(&sim.world, &bare, &plan(&bare, to("n2", &sim))), Ok(()));
}

#[test]
fn a_plan_is_spread_in_its_own_order() {
    let mut sim = sim();
    for (name, rack) in [("n1", "a"), ("n2", "b")] {
        sim.put_node(name, &[("zone", "north"), ("rack", rack)], false);
        sim.put_facts(name, 8000, 4 << 30, 20, name);
    }
    let mut db = template("db", Ask { host_port: 0, ..ASK });
    let value = json!([{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "db"}}}]);
    set_field(&mut db.spec, "topologySpreadConstraints", value);
    let record = TemplateRecord::new(&db);
    let hash = record.encode().0;
    sim.put(crate::store::keys::template(&hash), &record);
    let group = Group::Controller(key("default", "db"));
    let plan = |nodes: &[&str]| {
        let pods = nodes.iter().enumerate();
        pods.map(|(i, node)| Change::CreatePod {
            key: key("default", &format!("db-x{i}")),
            record: PodRecord {
                uid: format!("uid-x{i}"),
                template: hash.clone(),
                ..pod("", "u2", node)
            },
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(admit(&sim, &group, plan(&["n1", "n2", "n1", "n2"])), Ok(()));
    refused(
        &sim,
        &group,
        plan(&["n1", "n1", "n2", "n2"]),
        "rack a would have 2 more",
    );
}

#[test]
fn a_pod_is_released_only_when_its_labels_are_others() {
    let mut sim = sim();
    let at = key("default", "web-1");
    let release = |sim: &Sim| vec![Change::Release { pod: of(sim, "web-1") }];
    refused(&sim, &web(), release(&sim), "is one of the controller's");
    sim.edit_pod(&at, |r| {
        r.labels.insert("app".into(), None);
    });
    assert_eq!(admit(&sim, &web(), release(&sim)), Ok(()));
    sim.edit_pod(&at, |r| r.labels.clear());
    sim.edit_rc(&key("default", "web"), |rc| {
        rc.metadata.deletion_timestamp = Some(Time(1))
    });
    assert_eq!(admit(&sim, &web(), release(&sim)), Ok(()), "an orphan");
}

#[test]
fn a_pod_of_a_user_is_stopped_by_a_taint_that_it_does_not_bear() {
    let mut sim = sim();
    let at = key("default", "bare");
    sim.edit_pod(&at, |r| r.node = "n2".into());
    let group = Group::Pod(at.clone());
    let stop_at = |sim: &Sim, seconds: i64| Change::Stop {
        pod: of(sim, "bare"),
        at: Time(seconds),
        grace: 1,
        reason: "x".into(),
        lost: false,
        drain: None,
    };
    let now = sim.now.0;
    sim.taint("n2", &["a=1:NoSchedule"]);
    refused(&sim, &group, vec![stop_at(&sim, now)], "nobody asked");
    sim.taint("n2", &["a=1:NoExecute"]);
    assert_eq!(admit(&sim, &group, vec![stop_at(&sim, now)]), Ok(()));
    sim.put(
        crate::store::keys::FREEZE.into(),
        &json!({"by": "x", "reason": "y", "since": Time(1), "until": Time(now + 5)}),
    );
    refused(&sim, &group, vec![stop_at(&sim, now)], "nobody asked");
    assert_eq!(admit(&sim, &group, vec![stop_at(&sim, now + 5)]), Ok(()));
    sim.delete(crate::store::keys::FREEZE.into());
    respecify(
        &mut sim,
        "tolerations",
        json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}]),
    );
    refused(&sim, &group, vec![stop_at(&sim, now + 99)], "nobody asked");
    sim.report(&at, proto::model::Phase::Running, true, false);
    refused(&sim, &group, vec![stop_at(&sim, now + 9)], "nobody asked");
    assert_eq!(admit(&sim, &group, vec![stop_at(&sim, now + 10)]), Ok(()));
}

#[test]
fn pods_of_others_and_pods_that_moved_on() {
    let mut sim = sim();
    refused(&sim, &web(), vec![stop(of(&sim, "db-1"))], "belongs to");
    refused(&sim, &web(), vec![bind(of(&sim, "db-1"), "n2")], "belongs to");
    let bare = Group::Pod(key("default", "bare"));
    refused(&sim, &bare, vec![stop(of(&sim, "bare"))], "nobody asked");
    refused(&sim, &web(), vec![bind(of(&sim, "web-1"), "n2")], "has a node already");
    let old = of(&sim, "web-1");
    sim.edit_pod(&key("default", "web-1"), |r| r.waiting = "y".into());
    refused(&sim, &web(), vec![stop(old)], "decided on version");
    sim.stop(&key("default", "web-1"));
    refused(&sim, &web(), vec![stop(of(&sim, "web-1"))], "being stopped already");
    refused(
        &sim,
        &web(),
        vec![Change::RemovePod { pod: of(&sim, "web-1") }],
        "may still run",
    );
    let adopt = Change::Adopt {
        pod: of(&sim, "db-1"),
        owner: pod("", "u", "").owner.unwrap(),
    };
    refused(&sim, &web(), vec![adopt], "has an owner");
    let foreign = Change::CreatePod {
        key: key("default", "web-9"),
        record: pod("web-9", "u2", ""),
    };
    refused(&sim, &web(), vec![foreign], "of another controller");
}

#[test]
fn names_templates_and_sizes() {
    let sim = sim();
    refused(&sim, &web(), vec![create("web-1", "")], "exists already");
    let twice = vec![create("web-2", ""), create("web-2", "")];
    refused(&sim, &web(), twice, "changed twice");
    let many = (0..65).map(|i| create(&format!("web-x{i}"), "")).collect();
    refused(&sim, &web(), many, "65 changes");
    refused(&sim, &web(), vec![], "0 changes");
    let Change::CreatePod { key: at, mut record } = create("web-2", "") else {
        return;
    };
    record.template = "none".into();
    let missing = Change::CreatePod { key: at, record };
    refused(&sim, &web(), vec![missing], "no template");
    let wrong = Change::PutTemplate {
        hash: "h".into(),
        record: Arc::new(TemplateRecord::default()),
    };
    refused(&sim, &web(), vec![wrong], "not named by its content");
    let hash = sim.world.pods[&key("default", "bare")].record.template.clone();
    let rv = sim.world.templates[&hash].rv;
    refused(
        &sim,
        &Group::Expiry,
        vec![Change::RemoveTemplate { hash, rv }],
        "in use",
    );
}

#[test]
fn controllers_and_namespaces_in_use() {
    let mut sim = sim();
    let at = key("default", "web");
    let rv = sim.world.controllers[&at].rv;
    refused(
        &sim,
        &web(),
        vec![Change::RemoveController {
            kind: OwnerKind::ReplicationController,
            key: at,
            rv,
        }],
        "not being deleted",
    );
    sim.put_bare("apps", "p", &template("p", Ask::default()));
    let namespace = |sim: &Sim, name: &str| Change::RemoveNamespace {
        name: name.to_owned(),
        rv: sim.world.namespaces[name].rv,
    };
    let apps = Group::Namespace("apps".into());
    refused(&sim, &apps, vec![namespace(&sim, "apps")], "in use");
    sim.delete("obj/pod/apps/p".into());
    let budget = |sim: &Sim| Change::RemoveBudget {
        key: key("apps", "b"),
        rv: sim.world.budgets[&key("apps", "b")].rv,
    };
    sim.put_budget("apps", "b", serde_json::json!({"minAvailable": 1, "selector": {}}));
    refused(&sim, &apps, vec![namespace(&sim, "apps")], "in use");
    assert_eq!(admit(&sim, &apps, vec![budget(&sim)]), Ok(()));
    sim.put_namespace("apps", false);
    refused(&sim, &apps, vec![budget(&sim)], "in a namespace that stays");
    sim.put_namespace("apps", true);
    sim.delete("obj/poddisruptionbudget/apps/b".into());
    assert_eq!(admit(&sim, &apps, vec![namespace(&sim, "apps")]), Ok(()));
    sim.put_namespace("apps", false);
    refused(&sim, &apps, vec![namespace(&sim, "apps")], "in use");
}

#[test]
fn a_deserted_pod_is_stopped_by_anyone_and_removed_by_nobody() {
    let mut sim = sim();
    sim.edit_pod(&key("default", "bare"), |r| r.node = "n1".into());
    let bare = |sim: &Sim| before(&key("default", "bare"), &sim.world.pods[&key("default", "bare")]);
    let group = Group::Pod(key("default", "bare"));
    let stop = |sim: &Sim| Change::Stop {
        pod: bare(sim),
        at: Time(1),
        grace: 1,
        reason: "x".into(),
        lost: false,
        drain: None,
    };
    refused(&sim, &group, vec![stop(&sim)], "nobody asked to stop it");
    sim.delete_node_with_tombstone("n1");
    admit(&sim, &group, vec![stop(&sim)]).unwrap();
    refused(
        &sim,
        &group,
        vec![Change::RemovePod { pod: bare(&sim) }],
        "may still run",
    );
    sim.delete(crate::store::keys::tombstone("n1"));
    admit(&sim, &group, vec![Change::RemovePod { pod: bare(&sim) }]).unwrap();
    let gone = Change::RemoveTombstone {
        node: "n1".into(),
        rv: Rv(1),
    };
    refused(&sim, &Group::Expiry, vec![gone], "the tombstone is gone");
}

#[test]
fn ports_are_given_as_asked_and_once_on_a_machine() {
    let asks = Ask {
        asking: 2,
        ..Ask::default()
    };
    let mut sim = Sim::new();
    for name in ["n1", "n2"] {
        sim.add_node(name, &[]);
        sim.put_facts(name, 4000, 4 << 30, 20, "m");
    }
    for name in ["a", "b"] {
        sim.put_bare("default", name, &template("x", asks));
    }
    let group = |name: &str| Group::Pod(key("default", name));
    let give = |sim: &Sim, name: &str, node: &str, ports: &[u16]| {
        vec![Change::Bind {
            pod: of(sim, name),
            node: node.to_owned(),
            ports: ports.to_vec(),
        }]
    };
    for (ports, why) in [
        (&[][..], "0 host ports are given where 2 are asked for"),
        (&[20_000], "1 host ports are given where 2"),
        (&[20_000, 8080], "host port 8080 is not one of those"),
        (&[20_000, 32_001], "host port 32001 is not one of those"),
    ] {
        refused(&sim, &group("a"), give(&sim, "a", "n1", ports), why);
    }
    // One is TCP, one UDP: the same number twice is no clash.
    assert_eq!(
        admit(&sim, &group("a"), give(&sim, "a", "n1", &[20_000, 20_000])),
        Ok(())
    );
    sim.edit_pod(&key("default", "a"), |r| {
        r.node = "n1".into();
        r.ports = vec![20_000, 20_001];
    });
    for (node, ports) in [("n1", [20_000, 20_000]), ("n2", [20_009, 20_001])] {
        refused(
            &sim,
            &group("b"),
            give(&sim, "b", node, &ports),
            "is taken on machine m",
        );
    }
    assert_eq!(
        admit(&sim, &group("b"), give(&sim, "b", "n2", &[20_001, 20_000])),
        Ok(())
    );
}

#[path = "check_loss_tests.rs"]
mod lost;
