//! Each rule refuses the plan that breaks it, and only that one.

use std::sync::Arc;

use proto::model::Time;

use super::*;
use crate::{
    plan::{
        Commit, before,
        sim::{Ask, Sim, key, rc, template},
    },
    world::record::{OwnerRecord, TemplateRecord},
};

const ASK: Ask = Ask {
    cpu_milli: 1000,
    memory: 0,
    host_port: 80,
    zone: Some("north"),
    node: "",
};

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
    }
}

fn bind(pod: Before, node: &str) -> Change {
    Change::Bind {
        pod,
        node: node.to_owned(),
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
        vec![Change::RemoveController { key: at, rv }],
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

/// [`sim`], with `n1` lost and given up.
fn lost() -> Sim {
    let mut sim = sim();
    for name in ["n3", "n4", "n5"] {
        sim.add_node(name, &[("zone", "north")]);
    }
    sim.put_ready("n1", false);
    let record = crate::world::record::LossRecord { at: sim.now };
    sim.put(crate::store::keys::loss("n1"), &record);
    sim
}

fn give_up(sim: &Sim, node: &str) -> Change {
    let before = sim.world.nodes.get(node).and_then(|n| n.loss.as_ref()).map(|l| l.rv);
    Change::GiveUp {
        node: node.to_owned(),
        at: sim.now,
        before,
    }
}

fn lost_stop(sim: &Sim) -> Change {
    let at = key("default", "web-1");
    super::super::gc::stop_of(&at, &sim.world.pods[&at], "r", true, sim.now)
}

#[test]
fn a_pod_that_nobody_hears_is_given_up_by_the_rules_alone() {
    let both = |sim: &Sim| vec![lost_stop(sim), create("web-2", "n3")];
    let sim = lost();
    admit(&sim, &web(), both(&sim)).unwrap();
    refused(
        &sim,
        &web(),
        vec![lost_stop(&sim)],
        "is not replaced in the same commit",
    );
    let cases: [(fn(&mut Sim), &str); 7] = [
        (|s| s.put_ready("n1", true), "is heard"),
        (|s| s.put_condition("n1", "DockerUnavailable"), "is heard"),
        (|s| s.delete(crate::store::keys::loss("n1")), "is not given up"),
        // Lost again: what was decided of the last loss does not count.
        (
            |s| {
                s.put_ready("n1", true);
                s.now = Time(s.now.0 + 1);
                s.put_ready("n1", false);
            },
            "is not given up",
        ),
        (|s| s.freeze(None), "frozen"),
        (
            |s| ["n2", "n4"].into_iter().for_each(|n| s.put_ready(n, false)),
            "3 of 5 nodes are lost",
        ),
        (
            |s| {
                s.edit_pod(&key("default", "web-1"), |r| {
                    r.annotations
                        .insert(proto::model::loss::SINGLETON.into(), Some("true".into()));
                });
            },
            "a singleton and may still run",
        ),
    ];
    for (change, why) in cases {
        let mut sim = lost();
        change(&mut sim);
        refused(&sim, &web(), both(&sim), why);
    }
    // Of a host that is off none of that counts.
    let mut off = lost();
    off.freeze(None);
    off.confirm_off("n1");
    admit(&off, &web(), both(&off)).unwrap();
    let at = key("default", "web-1");
    off.stop(&at);
    let remove = Change::RemovePod {
        pod: before(&at, &off.world.pods[&at]),
    };
    admit(&off, &web(), vec![remove]).unwrap();
}

#[test]
fn nodes_are_given_up_within_the_brake() {
    let mut sim = lost();
    sim.put_ready("n2", false);
    refused(&sim, &Group::Losses, vec![give_up(&sim, "n1")], "given up already");
    refused(&sim, &Group::Losses, vec![give_up(&sim, "n3")], "not lost");
    refused(
        &sim,
        &Group::Losses,
        vec![give_up(&sim, "n2")],
        "2 of 5 nodes would be given up at once",
    );
    let dropped = Change::RemoveLoss {
        node: "n1".into(),
        rv: sim.world.nodes["n1"].loss.as_ref().unwrap().rv,
    };
    refused(&sim, &Group::Losses, vec![dropped.clone()], "still counts");
    sim.now = Time(sim.now.0 + 60);
    let plan = |changes: Vec<Change>| Plan {
        commits: vec![Commit {
            group: Group::Losses,
            changes,
            notes: Vec::new(),
        }],
        wake_at: None,
    };
    let now = sim.now;
    let admitted = |sim: &Sim, changes| Checker::new(now).admit(&sim.world, &Group::Losses, &plan(changes));
    admitted(&sim, vec![give_up(&sim, "n2")]).unwrap();
    assert!(admitted(&sim, vec![dropped.clone()]).is_err(), "it is lost");
    sim.put_ready("n1", true);
    admitted(&sim, vec![dropped]).unwrap();
}

#[test]
fn no_pod_lands_beside_one_that_was_replaced() {
    let mut sim = sim();
    let at = key("default", "web-1");
    sim.edit_pod(&at, |r| {
        r.stop = Some(crate::world::record::StopRecord {
            at: Time(1),
            grace: 1,
            reason: String::new(),
            lost: true,
        });
    });
    let mut record = pod("web-2", "u", "n1");
    record.template = TemplateRecord::new(&template("web", Ask { host_port: 0, ..ASK }))
        .encode()
        .0;
    sim.put(
        crate::store::keys::template(&record.template),
        &TemplateRecord::new(&template("web", Ask { host_port: 0, ..ASK })),
    );
    let land = Change::CreatePod {
        key: key("default", "web-2"),
        record,
    };
    refused(&sim, &web(), vec![land.clone()], "may still run on n1");
    sim.report(&at, proto::model::Phase::Failed, false, true);
    admit(&sim, &web(), vec![land]).unwrap();
}
