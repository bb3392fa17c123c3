//! One controller at a time: what is created, retired, adopted, replaced and released.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use proto::model::Time;

use super::*;
use crate::{
    plan::{
        Plan, SHOWN_PODS,
        sim::{Ask, Sim, key, rc, template},
    },
    store::MAX_CHANGES,
    world::record::PodRecord,
};

fn web() -> Key {
    key("default", "web")
}

/// Three nodes and a controller of `n` pods, all running.
fn running(n: i32) -> Sim {
    let mut sim = Sim::new();
    for name in ["n1", "n2", "n3"] {
        sim.add_node(name, &[]);
    }
    sim.put_rc(&rc("default", "web", "u", n, template("web", Ask::default())));
    sim.settle();
    sim
}

fn pods(sim: &Sim) -> Vec<Key> {
    sim.live(&web()).into_iter().map(|(k, _)| k.clone()).collect()
}

fn scale(sim: &mut Sim, n: i32) -> Vec<Plan> {
    sim.edit_rc(&web(), |rc| rc.spec.replicas = n);
    sim.pass(&HashSet::new())
}

#[test]
fn pods_are_born_bound_in_commits_that_fit_after_their_template() {
    let mut sim = Sim::new();
    for i in 0..10 {
        sim.add_node(&format!("n{i}"), &[]);
    }
    sim.put_rc(&rc("default", "web", "u", 200, template("web", Ask::default())));
    let first = sim.pass(&HashSet::new());
    assert!(matches!(
        first[0].commits.as_slice(),
        [one] if one.changes.len() == MAX_CHANGES && matches!(one.changes[0], Change::PutTemplate { .. })
    ));
    let second = sim.pass(&HashSet::new());
    assert_eq!(second[0].commits.len(), 3, "137 more pods");
    assert!(
        second[0]
            .changes()
            .all(|c| matches!(c, Change::CreatePod { record, .. } if !record.node.is_empty()))
    );
    let live = sim.live(&web());
    assert_eq!(live.len(), 200);
    for (key, pod) in live {
        let suffix = key.1.strip_prefix("web-").expect("its controller's name");
        assert_eq!(suffix.len(), 5);
        assert_eq!(pod.record.created, sim.now);
    }
    assert_eq!(
        second[0].commits[0]
            .notes
            .iter()
            .filter(|n| n.reason == "Scheduled")
            .count(),
        64
    );
    let about: Vec<_> = second[0].commits[0]
        .notes
        .iter()
        .filter(|n| n.involved.uid == "u")
        .collect();
    let [one] = about.as_slice() else {
        panic!("not one note about the controller: {about:?}");
    };
    assert!(one.message.starts_with("created 64 pods: web-"), "{}", one.message);
    assert!(one.message.ends_with(" and 59 more"), "{}", one.message);
    assert_eq!(one.message.matches("web-").count(), SHOWN_PODS);
}

#[test]
fn retires_in_the_fixed_order() {
    let mut sim = running(6);
    let all = pods(&sim);
    // One pod each: kept longest, youngest, not Ready, cordoned node, unready node, not running; one unplaced.
    let (keep, youngest, unready, cordoned, lost, pending) = (&all[0], &all[1], &all[2], &all[3], &all[4], &all[5]);
    for (at, node) in [(cordoned, "held"), (lost, "lost")] {
        sim.add_node(node, &[]);
        sim.edit_pod(at, |r| r.node = node.into());
    }
    for at in [keep, youngest, unready, pending] {
        sim.edit_pod(at, |r| r.node = "n1".into());
    }
    sim.put_node("held", &[], true);
    sim.put_ready("lost", false);
    sim.edit_pod(youngest, |r| r.created = Time(r.created.0 + 50));
    sim.report(unready, Phase::Running, false, false);
    sim.report(pending, Phase::Pending, false, false);
    let (hash, unplaced) = (
        sim.world.pods[keep].record.template.clone(),
        key("default", "web-zzzzz"),
    );
    let record = PodRecord {
        uid: "unplaced".into(),
        template: hash,
        owner: sim.world.pods[keep].record.owner.clone(),
        waiting: "x".into(),
        ..PodRecord::default()
    };
    sim.put("obj/pod/default/web-zzzzz".into(), &record);
    let world = sim.world.clone();
    let mut live: Vec<_> = world.pods_of("u").collect();
    retire_order(&world, &mut live);
    let order: Vec<&Key> = live.into_iter().map(|(k, _)| k).collect();
    assert_eq!(order, [&unplaced, pending, lost, cordoned, unready, youngest, keep]);
    // The plan follows it: the unplaced one goes at once, the next one is stopped.
    let plans = scale(&mut sim, 5);
    let changes: Vec<_> = plans.iter().flat_map(Plan::changes).collect();
    assert!(
        matches!(changes.as_slice(), [Change::RemovePod { pod: a }, Change::Stop { pod: b, grace: 30, .. }]
        if a.key == unplaced && b.key == *pending),
        "{changes:?}"
    );
}

#[test]
fn scaling_to_nothing_and_below() {
    let mut sim = running(5);
    scale(&mut sim, -3);
    assert!(pods(&sim).is_empty());
    assert_eq!(sim.world.pods.len(), 5, "a stopped pod stays until its agent confirms");
    assert!(sim.world.pods.values().all(|p| {
        p.record
            .stop
            .as_ref()
            .is_some_and(|s| s.reason == "its controller was scaled to 0" && s.at == sim.now)
    }));
    sim.settle();
    assert!(sim.world.pods.is_empty());
    assert!(!sim.entries.keys().any(|k| k.starts_with("status/")));
}

#[test]
fn replaces_what_has_ended_and_what_a_deleted_node_had() {
    let mut sim = running(6);
    let failed = pods(&sim)[0].clone();
    sim.report(&failed, Phase::Failed, false, false);
    sim.pass(&HashSet::new());
    assert_eq!(pods(&sim).len(), 6);
    assert!(sim.world.pods[&failed].stopping());
    sim.settle();
    assert!(!sim.world.pods.contains_key(&failed));
    let gone = sim.world.pods_on("n2").count();
    assert_eq!(gone, 2);
    sim.delete_node("n2");
    sim.settle();
    assert_eq!(pods(&sim).len(), 6);
    assert!(sim.world.pods.values().all(|p| p.record.node != "n2"));
}

#[test]
fn pods_of_a_node_that_is_not_heard_still_count() {
    let mut sim = running(6);
    sim.put_ready("n2", false);
    let plans = sim.pass(&HashSet::new());
    assert!(plans.iter().flat_map(Plan::changes).next().is_none());
}

#[test]
fn adopts_ownerless_pods_that_it_selects_and_no_other() {
    let mut sim = running(2);
    sim.put_bare("default", "mine", &template("web", Ask::default()));
    sim.put_bare("default", "yours", &template("db", Ask::default()));
    sim.put_bare("elsewhere", "far", &template("web", Ask::default()));
    sim.settle();
    assert_eq!(pods(&sim).len(), 2, "three with the adopted one, so one was retired");
    let owner = |name: &str| {
        let at = key("default", name);
        sim.world.pods.get(&at).and_then(|p| p.record.owner.clone())
    };
    assert!(owner("mine").is_some() || !sim.world.pods.contains_key(&key("default", "mine")));
    assert_eq!(owner("yours"), None);
    assert_eq!(sim.world.pods[&key("elsewhere", "far")].record.owner, None);
}

#[test]
fn the_first_by_name_of_overlapping_controllers_adopts() {
    let mut sim = running(0);
    sim.put_rc(&rc("default", "abc", "u2", 1, template("web", Ask::default())));
    sim.put_bare("default", "bare", &template("web", Ask::default()));
    sim.settle();
    let owner = sim.world.pods[&key("default", "bare")].record.owner.clone();
    assert_eq!(owner.map(|o| o.uid).as_deref(), Some("u2"));
}

#[test]
fn an_empty_selector_adopts_nothing() {
    let mut sim = running(0);
    sim.edit_rc(&web(), |rc| {
        rc.spec.selector = BTreeMap::new();
        rc.spec.template.metadata.labels = BTreeMap::new();
    });
    sim.put_bare("default", "bare", &template("web", Ask::default()));
    sim.settle();
    assert_eq!(sim.world.pods[&key("default", "bare")].record.owner, None);
}

#[test]
fn orphaning_releases_every_pod_before_the_controller_goes() {
    let mut sim = running(150);
    sim.put_facts("n1", 100_000, 1 << 40, 1000, "");
    sim.settle();
    let before: Vec<_> = sim.world.pods.values().map(|p| p.record.node.clone()).collect();
    sim.edit_rc(&web(), |rc| {
        rc.metadata.deletion_timestamp = Some(Time(1));
        rc.metadata.finalizers = vec![ORPHAN.into()];
    });
    // The second of three commits is lost: the controller must stay until its pods were released too.
    sim.pass(&HashSet::from([2]));
    assert!(sim.world.controllers.contains_key(&web()));
    assert_eq!(sim.world.pods_of("u").count(), 64);
    sim.settle();
    assert!(sim.world.controllers.is_empty());
    let after: Vec<_> = sim.world.pods.values().map(|p| p.record.node.clone()).collect();
    assert_eq!(before, after);
    assert!(
        sim.world
            .pods
            .values()
            .all(|p| p.record.owner.is_none() && !p.stopping())
    );
}

proptest! {
    /// No pod that stays ranks before one that goes.
    #[test]
    fn who_goes_ranks_before_who_stays(
        states in prop::collection::vec((0..3_usize, any::<bool>(), any::<bool>(), 0..3_i64), 1..12),
        down in 1..12_usize,
    ) {
        let mut sim = running(i32::try_from(states.len()).unwrap());
        sim.put_node("n2", &[], true);
        sim.put_ready("n3", false);
        for (at, (node, started, ready, age)) in pods(&sim).iter().zip(&states) {
            sim.edit_pod(at, |r| {
                r.node = format!("n{}", node + 1);
                r.created = Time(*age);
            });
            let phase = if *started { Phase::Running } else { Phase::Pending };
            // The phase never goes back in the world either; here it is written as it is.
            sim.report(at, phase, *ready, false);
        }
        let left = states.len().saturating_sub(down);
        let world = sim.world.clone();
        let rank = |pod: &PodState| (
            pod.phase() == Phase::Running,
            pod.record.node != "n3",
            pod.record.node != "n2",
            pod.ready(),
            -pod.record.created.0,
        );
        scale(&mut sim, i32::try_from(left).unwrap());
        let (mut goes, mut stays) = (Vec::new(), Vec::new());
        for (at, pod) in &world.pods {
            let list = if sim.world.pods[at].stopping() { &mut goes } else { &mut stays };
            list.push(rank(pod));
        }
        prop_assert_eq!(stays.len(), left);
        if let (Some(last), Some(first)) = (goes.iter().max(), stays.iter().min()) {
            prop_assert!(last <= first, "{last:?} went, {first:?} stayed");
        }
    }
}

#[test]
fn a_changed_template_is_for_new_pods_only() {
    let mut sim = running(3);
    let before: Vec<_> = sim
        .live(&web())
        .iter()
        .map(|(k, p)| ((*k).clone(), p.record.clone()))
        .collect();
    sim.edit_rc(&web(), |rc| {
        rc.spec.template.spec.containers[0].image = "next".into();
        rc.spec.template.metadata.labels.insert("version".into(), "2".into());
    });
    sim.settle();
    let now: Vec<_> = sim
        .live(&web())
        .iter()
        .map(|(k, p)| ((*k).clone(), p.record.clone()))
        .collect();
    assert_eq!(now, before, "pods of the older template stay as they are");
    scale(&mut sim, 4);
    sim.settle();
    let images = |sim: &Sim| {
        let mut images: Vec<_> = sim
            .live(&web())
            .iter()
            .map(|(_, p)| p.template_record().spec.containers[0].image.clone())
            .collect();
        images.sort_unstable();
        images
    };
    assert_eq!(images(&sim), ["i", "i", "i", "next"]);
}

#[test]
fn a_node_that_gets_the_label_takes_who_waits_and_one_that_loses_it_keeps_who_runs() {
    let mut sim = running(1);
    let zoned = key("default", "zoned");
    let ask = Ask {
        zone: Some("a"),
        ..Ask::default()
    };
    sim.put_rc(&rc("default", "zoned", "z", 1, template("zoned", ask)));
    sim.settle();
    let at = |sim: &Sim| {
        sim.live(&zoned)
            .iter()
            .map(|(k, p)| ((*k).clone(), p.record.node.clone()))
            .collect::<Vec<_>>()
    };
    let waiting = at(&sim);
    assert!(matches!(&waiting[..], [(_, node)] if node.is_empty()), "{waiting:?}");
    sim.put_node("n2", &[("zone", "a")], false);
    assert!(!sim.dirty.groups.is_empty(), "nobody was woken");
    sim.settle();
    let placed = at(&sim);
    assert_eq!(placed, [(waiting[0].0.clone(), "n2".to_owned())]);
    sim.put_node("n2", &[("zone", "b")], false);
    sim.settle();
    assert_eq!(at(&sim), placed);
}

#[test]
fn a_pod_whose_labels_leave_its_selector_is_released_and_replaced() {
    let mut sim = running(2);
    sim.put_rc(&rc("default", "other", "o", 1, template("other", Ask::default())));
    sim.settle();
    let moved = pods(&sim)[0].clone();
    sim.edit_pod(&moved, |r| {
        r.labels.insert("app".into(), Some("mine".into()));
    });
    let node = sim.world.pods[&moved].record.node.clone();
    let plan = sim.pass(&HashSet::new()).remove(0);
    assert!(matches!(
        plan.commits[0].changes.as_slice(),
        [Change::Release { .. }, Change::CreatePod { .. }]
    ));
    let notes: Vec<_> = plan.commits[0]
        .notes
        .iter()
        .map(|n| (n.reason.as_str(), n.message.as_str()))
        .collect();
    let text = "its labels do not match app=web, the selector of replicationcontroller web: released from it";
    assert!(notes.contains(&("Released", text)), "{notes:?}");
    assert!(
        notes.contains(&("Released", &format!("released pod {}", moved.1))),
        "{notes:?}"
    );
    sim.settle();
    let pod = &sim.world.pods[&moved];
    assert_eq!(
        (pod.record.owner.as_ref(), pod.live(), &pod.record.node),
        (None, true, &node),
        "it runs on"
    );
    assert_eq!(pods(&sim).len(), 2);
    // Another controller that selects it takes it, and has one too many then.
    sim.edit_pod(&moved, |r| {
        r.labels.insert("app".into(), Some("other".into()));
    });
    sim.pass(&HashSet::new());
    assert_eq!(
        sim.world.pods[&moved].record.owner.as_ref().map(|o| o.uid.as_str()),
        Some("o")
    );
    sim.settle();
    assert_eq!((pods(&sim).len(), sim.live(&key("default", "other")).len()), (2, 1));
}

#[test]
fn a_pod_that_leaves_and_comes_back_belongs_to_its_controller_again() {
    let mut sim = running(2);
    let moved = pods(&sim)[0].clone();
    let relabel = |sim: &mut Sim, app: &str| {
        sim.edit_pod(&moved, |r| {
            r.labels.insert("app".into(), Some(app.into()));
        });
    };
    relabel(&mut sim, "mine");
    sim.settle();
    relabel(&mut sim, "web");
    sim.settle();
    assert_eq!(pods(&sim).len(), 2, "one of three goes");
    assert!(sim.world.bare_pods("default").next().is_none());
}
