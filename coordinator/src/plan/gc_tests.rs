//! What is removed and what is waited for.

use std::collections::HashSet;

use proto::model::{Event, Kind, Phase};

use super::*;
use crate::{
    plan::{
        Plan,
        sim::{Ask, Rule, Sim, key, rc, template},
    },
    world::record::{OpRecord, TemplateRecord},
};

fn fleet() -> Sim {
    let mut sim = Sim::new();
    for namespace in ["default", "apps"] {
        sim.put_namespace(namespace, false);
    }
    sim.add_node("n1", &[]);
    sim.add_node("n2", &[]);
    sim
}

fn put_event(sim: &mut Sim, namespace: &str, name: &str, object: &str, last: i64) {
    let mut event = Event::default();
    event.involved_object.uid = object.to_owned();
    event.last_timestamp = Some(Time(last));
    sim.put(keys::event(namespace, name), &event);
}

fn expire(sim: &mut Sim) {
    sim.dirty.groups.insert(Group::Expiry);
    sim.settle();
}

#[test]
fn a_stopped_pod_goes_when_its_agent_has_seen_the_end() {
    let mut sim = fleet();
    let at = key("default", "p");
    sim.put_bare("default", "p", &template("a", Ask::default()));
    sim.settle();
    sim.stop(&at);
    // A final phase is not yet the end of every container after the stop entry.
    sim.report(&at, Phase::Failed, false, false);
    sim.pass(&HashSet::new());
    assert!(sim.world.pods.contains_key(&at));
    sim.report(&at, Phase::Failed, false, true);
    sim.pass(&HashSet::new());
    assert!(!sim.world.pods.contains_key(&at));
    assert!(!sim.entries.contains_key("status/pod/default/p"));
}

#[test]
fn what_a_host_lost_with_its_disk_is_over_and_replaced_without_waiting() {
    let mut sim = Sim::new();
    sim.put_namespace("default", false);
    sim.add_node("n1", &[]);
    sim.put_rc(&rc("default", "web", "u", 3, template("web", Ask::default())));
    sim.put_bare("default", "p", &template("a", Ask::default()));
    sim.settle();
    let old: Vec<Key> = sim.world.pods_on("n1").map(|(k, _)| k.clone()).collect();
    assert_eq!(old.len(), 4);
    // One is being stopped: of it nothing is left to stop either.
    sim.stop(&old[1]);
    let (gone, kept) = old.split_at(3);
    for at in gone {
        sim.vanish(at);
    }
    let plans = sim.pass(&HashSet::new());
    let told = |key: &Key| {
        let notes = plans.iter().flat_map(|p| &p.commits).flat_map(|c| &c.notes);
        let of = |n: &&crate::events::Note| n.reason == "HostReplaced" && n.involved.name == key.1;
        notes.filter(of).count()
    };
    for at in gone {
        assert_eq!((sim.world.pods.contains_key(at), told(at)), (false, 1), "{at:?}");
    }
    sim.settle();
    let live = sim.live(&key("default", "web"));
    assert_eq!(live.len(), 3, "there or elsewhere");
    assert!(
        live.iter().any(|(k, _)| **k == kept[0]),
        "what the host still has goes on"
    );
}

#[test]
fn a_stopped_pod_on_a_lost_node_waits_until_the_node_is_deleted() {
    let mut sim = fleet();
    sim.put_bare(
        "default",
        "p",
        &template(
            "a",
            Ask {
                node: "n1",
                ..Ask::default()
            },
        ),
    );
    sim.settle();
    sim.stop(&key("default", "p"));
    sim.put_ready("n1", false);
    sim.settle();
    assert_eq!(sim.world.pods.len(), 1);
    sim.delete_node("n1");
    let plans = sim.pass(&HashSet::new());
    assert!(sim.world.pods.is_empty());
    let notes: Vec<_> = plans.iter().flat_map(|p| &p.commits).flat_map(|c| &c.notes).collect();
    assert!(
        notes
            .iter()
            .any(|n| n.reason == "NodeDeleted" && n.message == "node n1 was deleted")
    );
}

/// A controller of two pods and a bare pod on n1, which is deleted.
fn deserted() -> (Sim, Vec<Key>) {
    let mut sim = Sim::new();
    sim.put_namespace("default", false);
    sim.add_node("n1", &[]);
    sim.put_rc(&rc("default", "web", "u", 2, template("web", Ask::default())));
    sim.put_bare("default", "p", &template("a", Ask::default()));
    sim.settle();
    sim.add_node("n2", &[]);
    sim.settle();
    let old: Vec<Key> = sim.world.pods_on("n1").map(|(k, _)| k.clone()).collect();
    assert_eq!(old.len(), 3);
    sim.delete_node_with_tombstone("n1");
    sim.settle();
    (sim, old)
}

#[test]
fn pods_of_a_deleted_node_are_replaced_and_stay_on_record_until_their_end_is_seen() {
    let (mut sim, old) = deserted();
    assert_eq!(sim.live(&key("default", "web")).len(), 2, "replaced");
    assert!(
        sim.live(&key("default", "web"))
            .iter()
            .all(|(_, p)| p.record.node == "n2")
    );
    for at in &old {
        let stop = sim.world.pods[at]
            .record
            .stop
            .clone()
            .expect("a stop entry for its agent");
        assert_eq!(stop.reason, "its node was deleted");
    }
    // Nothing but the end of each removes its record.
    sim.dirty = crate::plan::dirty::Dirty::all(&sim.world);
    sim.settle();
    assert!(old.iter().all(|at| sim.world.pods.contains_key(at)));
    sim.report(&old[0], Phase::Failed, false, true);
    sim.settle();
    let left: Vec<bool> = old.iter().map(|at| sim.world.pods.contains_key(at)).collect();
    assert_eq!(left, [false, true, true]);
    // The host will not come back.
    let forgotten = crate::world::record::TombstoneRecord {
        forgotten: true,
        ..(*sim.world.tombstones["n1"].value).clone()
    };
    sim.put(keys::tombstone("n1"), &forgotten);
    sim.settle();
    assert!(old.iter().all(|at| !sim.world.pods.contains_key(at)));
    assert_eq!(sim.world.pods.len(), 2);
}

#[test]
fn a_tombstone_goes_when_nothing_is_left_or_it_is_old_and_the_pods_with_it() {
    let (mut sim, old) = deserted();
    sim.put(keys::cert("n1"), &"any");
    let keep = i64::try_from(super::super::Keep::default().tombstone_seconds).unwrap();
    sim.now.0 += keep;
    expire(&mut sim);
    assert!(sim.world.tombstones.contains_key("n1"), "not a second too early");
    sim.now.0 += 1;
    expire(&mut sim);
    assert!(sim.world.tombstones.is_empty());
    assert!(!sim.entries.contains_key("cert/n1"));
    assert!(old.iter().all(|at| !sim.world.pods.contains_key(at)));
}

#[test]
fn a_deserted_pod_is_adopted_by_nobody_and_its_namespace_waits_for_it() {
    let (mut sim, _) = deserted();
    sim.put_rc(&rc("default", "other", "o", 1, template("a", Ask::default())));
    sim.settle();
    let bare = &sim.world.pods[&key("default", "p")];
    assert!(bare.record.owner.is_none() && bare.stopping());
    assert_eq!(sim.live(&key("default", "other")).len(), 1);
}

#[test]
fn a_finished_pod_without_a_controller_stays() {
    let mut sim = fleet();
    sim.put_bare("default", "p", &template("a", Ask::default()));
    sim.settle();
    sim.report(&key("default", "p"), Phase::Succeeded, false, false);
    sim.settle();
    assert_eq!(sim.world.pods.len(), 1);
}

#[test]
fn an_unplaced_pod_says_so_once_and_is_placed_when_there_is_room() {
    let mut sim = fleet();
    let at = key("default", "p");
    sim.put_bare(
        "default",
        "p",
        &template(
            "a",
            Ask {
                zone: Some("north"),
                ..Ask::default()
            },
        ),
    );
    let plans = sim.pass(&HashSet::new());
    let text = "0/2 nodes: 2 do not match nodeSelector zone=north";
    assert_eq!(sim.world.pods[&at].record.waiting, text);
    assert_eq!(plans[0].commits[0].notes[0].message, text);
    // Its own write, and a node that changes nothing, are no news.
    for _ in 0..2 {
        sim.put_node("n1", &[("rack", "1")], false);
        assert!(
            sim.pass(&HashSet::new())
                .iter()
                .flat_map(Plan::changes)
                .next()
                .is_none()
        );
    }
    sim.put_node("n2", &[("zone", "north")], false);
    sim.settle();
    assert_eq!(sim.world.pods[&at].record.node, "n2");
    assert_eq!(sim.world.pods[&at].record.waiting, "");
}

#[test]
fn room_that_an_ended_pod_leaves_is_given_to_one_that_waits() {
    let mut sim = fleet();
    sim.delete_node("n2");
    let ask = Ask {
        host_port: 80,
        ..Ask::default()
    };
    for name in ["p1", "p2", "p3"] {
        sim.put_bare("default", name, &template(name, ask));
        sim.settle();
    }
    let node = |sim: &Sim, name: &str| sim.world.pods[&key("default", name)].record.node.clone();
    assert_eq!((node(&sim, "p1").as_str(), node(&sim, "p2").as_str()), ("n1", ""));
    // It ends and its record stays; the next one is deleted.
    sim.report(&key("default", "p1"), Phase::Succeeded, false, false);
    sim.settle();
    assert_eq!((node(&sim, "p2").as_str(), node(&sim, "p3").as_str()), ("n1", ""));
    sim.stop(&key("default", "p2"));
    sim.settle();
    assert_eq!(node(&sim, "p3"), "n1");
}

/// It frees no room: only the spread is another.
#[test]
fn a_pod_that_comes_to_the_emptiest_domain_lets_in_who_waits_for_that() {
    let mut sim = Sim::new();
    for (name, zone, cpu) in [("n1", "north", 4000), ("n2", "south", 100)] {
        sim.put_node(name, &[("zone", zone)], false);
        sim.put_facts(name, cpu, 4 << 30, 20, "");
        sim.put_ready(name, true);
    }
    let large = Ask {
        cpu_milli: 500,
        rule: Rule::Spread,
        ..Ask::default()
    };
    for name in ["a", "b"] {
        sim.put_bare("default", name, &template("web", large));
        sim.settle();
    }
    let node = |sim: &Sim, name: &str| sim.world.pods[&key("default", name)].record.node.clone();
    assert_eq!((node(&sim, "a"), node(&sim, "b")), ("n1".into(), String::new()));
    let small = Ask {
        node: "n2",
        ..Ask::default()
    };
    // Of another app at first, and then, by its label, of theirs.
    sim.put_bare("default", "small", &template("other", small));
    sim.settle();
    assert_eq!((node(&sim, "small"), node(&sim, "b")), ("n2".into(), String::new()));
    sim.edit_pod(&key("default", "small"), |r| {
        r.labels.insert("app".into(), Some("web".into()));
    });
    sim.settle();
    assert_eq!(node(&sim, "b"), "n1");
}

#[test]
fn pods_of_a_deleted_controller_are_stopped() {
    let mut sim = fleet();
    sim.put_rc(&rc("default", "web", "u", 3, template("web", Ask::default())));
    sim.settle();
    sim.delete(keys::object(Kind::ReplicationController, "default", "web"));
    // The same name again is another controller: it gets pods of its own.
    sim.put_rc(&rc("default", "web", "u2", 1, template("web", Ask::default())));
    sim.pass(&HashSet::new());
    let old: Vec<_> = sim.world.pods_of("u").collect();
    assert_eq!(old.len(), 3);
    assert!(old.iter().all(|(_, p)| {
        p.record
            .stop
            .as_ref()
            .is_some_and(|s| s.reason == "its controller was deleted")
    }));
    sim.settle();
    assert_eq!(sim.world.pods.len(), 1);
    assert_eq!(sim.world.pods_of("u2").count(), 1);
}

#[test]
fn a_terminating_namespace_is_emptied_in_order_and_goes() {
    let mut sim = fleet();
    sim.put_rc(&rc("apps", "web", "u", 70, template("web", Ask::default())));
    sim.put_rc(&rc("default", "web", "u2", 2, template("web", Ask::default())));
    sim.put_bare("apps", "p", &template("a", Ask::default()));
    let now = sim.now.0;
    put_event(&mut sim, "apps", "e", "u", now);
    put_event(&mut sim, "default", "e", "u2", now);
    for namespace in ["apps", "default"] {
        sim.put_budget(namespace, "b", serde_json::json!({"maxUnavailable": 0, "selector": {}}));
    }
    sim.settle();
    sim.put_namespace("apps", true);
    sim.pass(&HashSet::new());
    assert!(sim.world.pods.keys().any(|k| k.0 == "apps"));
    assert!(sim.world.namespaces.contains_key("apps"));
    assert!(
        sim.world.events.contains_key(&key("apps", "e")),
        "events last as long as pods"
    );
    sim.settle();
    assert!(
        sim.entries.keys().all(|k| !k.contains("apps")),
        "{:?}",
        sim.entries.keys()
    );
    assert_eq!(sim.world.pods_of("u2").count(), 2);
    assert!(sim.world.events.contains_key(&key("default", "e")));
    assert!(sim.world.budgets.contains_key(&key("default", "b")));
}

#[test]
fn an_empty_namespace_waits_for_late_creates() {
    let mut sim = fleet();
    sim.put_namespace("apps", true);
    let now = sim.now;
    let plan = sim.plan(&sim.world, &[Group::Namespace("apps".into())].into());
    assert_eq!(plan[0].commits, []);
    assert_eq!(plan[0].wake_at, Some(Time(now.0 + 1)));
    sim.settle();
    assert!(!sim.world.namespaces.contains_key("apps"));
}

#[test]
fn default_is_never_emptied() {
    let mut sim = fleet();
    sim.put_bare("default", "p", &template("a", Ask::default()));
    sim.put_namespace("default", true);
    sim.settle();
    assert!(sim.world.namespaces.contains_key("default"));
    assert!(sim.world.pods.values().all(|p| !p.stopping()));
}

#[test]
fn expiry_removes_what_is_old_unused_or_too_much() {
    let mut sim = fleet();
    sim.put_rc(&rc("default", "web", "u", 0, template("web", Ask::default())));
    let current = TemplateRecord::new(&template("web", Ask::default()));
    let used = TemplateRecord::new(&template("used", Ask::default()));
    let unused = TemplateRecord::new(&template("unused", Ask::default()));
    sim.put_bare("default", "p", &template("used", Ask::default()));
    for record in [&current, &unused] {
        sim.put(keys::template(&record.encode().0), record);
    }
    let now = sim.now.0;
    put_event(&mut sim, "default", "old", "x", now - 72 * 3600 - 100);
    put_event(&mut sim, "default", "new", "x", now - 72 * 3600 + 100);
    for i in 0..103 {
        put_event(&mut sim, "default", &format!("many-{i}"), "y", now - 200 + i);
    }
    for (id, age) in [("old", 25 * 3600), ("new", 23 * 3600)] {
        let text = serde_json::json!({
            "at": Time(now - age), "caller": "", "request": "", "kind": "", "namespace": "", "name": "", "uid": "",
        });
        let op: OpRecord = serde_json::from_value(text).expect("an op record");
        sim.put(keys::op(id), &op);
    }
    sim.settle();
    // A status that came after its pod was removed.
    sim.put(
        keys::pod_status("default", "gone"),
        &crate::world::record::StatusRecord::default(),
    );
    expire(&mut sim);
    let mut templates: Vec<_> = sim.world.templates.keys().cloned().collect();
    templates.sort();
    let mut kept = vec![current.encode().0, used.encode().0];
    kept.sort();
    assert_eq!(templates, kept);
    assert_eq!(sim.world.events.len(), 101);
    for (name, there) in [("old", false), ("new", true), ("many-2", false), ("many-3", true)] {
        assert_eq!(sim.world.events.contains_key(&key("default", name)), there, "{name}");
    }
    assert_eq!(sim.world.ops.keys().collect::<Vec<_>>(), ["new"]);
    assert!(sim.world.stray_statuses().next().is_none());
    assert!(!sim.world.pods[&key("default", "p")].record.node.is_empty());
}

fn put_freeze(sim: &mut Sim, until: Option<Time>) {
    let record = FreezeRecord {
        by: "user/admin".into(),
        reason: "power work".into(),
        since: sim.now,
        until,
    };
    sim.put(keys::FREEZE.to_owned(), &record);
}

#[test]
fn a_freeze_ends_at_its_time_and_on_record() {
    let mut sim = fleet();
    put_freeze(&mut sim, None);
    sim.settle();
    sim.now.0 += 1_000_000;
    sim.dirty = crate::plan::dirty::Dirty::all(&sim.world);
    sim.settle();
    assert!(sim.world.freeze.is_some(), "nobody said when it ends");

    let until = Time(sim.now.0 + 10);
    put_freeze(&mut sim, Some(until));
    let mut pass = crate::plan::Pass::new(sim.now, 1, Keep::default());
    let plan = pass.plan(&sim.world, &Group::Freeze).expect("a plan");
    assert_eq!((plan.changes().count(), plan.wake_at), (0, Some(until)));
    sim.now = until;
    sim.dirty.groups.insert(Group::Freeze);
    sim.settle();
    assert!(sim.world.freeze.is_none());
    let found: Vec<serde_json::Value> = sim
        .entries
        .iter()
        .filter(|(key, _)| key.starts_with(keys::AUDIT))
        .map(|(_, (_, value))| serde_json::from_slice(value).expect("JSON"))
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0]["caller"], &found[0]["verb"]),
        (&COORDINATOR.into(), &"unfreeze".into())
    );
    assert_eq!(found[0]["before"]["reason"], "power work");
    // A new leader finds a freeze that ended while nobody led.
    let past = Time(sim.now.0 - 1);
    put_freeze(&mut sim, Some(past));
    sim.dirty = crate::plan::dirty::Dirty::all(&sim.world);
    sim.settle();
    assert!(sim.world.freeze.is_none());
}
