//! Which lost nodes are given up and when, which of their pods are replaced, and what holds that back.

use std::collections::HashSet;

use proto::model::{HostPathVolume, PodTemplate, Volume, VolumeMount, loss};

use super::*;
use crate::plan::{
    Group,
    sim::{Ask, Sim, key, rc, template},
};

const MINUTE: i64 = 60;

fn web() -> Key {
    key("default", "web")
}

/// So many nodes n0, n1, …, and a controller with one pod on each.
fn spread(nodes: usize) -> Sim {
    with(nodes, template("web", Ask::default()))
}

fn with(nodes: usize, template: PodTemplate) -> Sim {
    let mut sim = Sim::new();
    for n in 0..nodes {
        sim.add_node(&format!("n{n}"), &[]);
        sim.put_capabilities(&format!("n{n}"), &proto::capability::ALL);
    }
    let replicas = i32::try_from(nodes).unwrap();
    sim.put_rc(&rc("default", "web", "u", replicas, template));
    sim.settle();
    sim
}

fn annotated(pairs: &[(&str, &str)]) -> PodTemplate {
    let mut template = template("web", Ask::default());
    template.metadata.annotations = crate::plan::sim::map(pairs);
    template
}

/// The node's pod that is not being stopped.
fn live_on(sim: &Sim, node: &str) -> Option<Key> {
    let mut pods = sim.world.pods_on(node).filter(|(_, p)| p.live());
    pods.next().map(|(k, _)| k.clone())
}

fn lost_on(sim: &Sim, node: &str) -> usize {
    sim.world.pods_on(node).filter(|(_, p)| p.lost()).count()
}

fn waiting(sim: &Sim, node: &str) -> String {
    let at = live_on(sim, node).expect("a live pod");
    sim.world.pods[&at].record.waiting.clone()
}

/// Seconds from now until the pods of `node` are replaced; none within two hours.
fn replaced_after(sim: &mut Sim, node: &str) -> Option<i64> {
    let begin = sim.now;
    for _ in 0..7200 {
        sim.settle_for(0);
        if lost_on(sim, node) > 0 {
            return Some(sim.now.0 - begin.0);
        }
        sim.wait_until(Time(sim.now.0 + 1));
    }
    None
}

#[test]
fn each_kind_of_silence_has_its_time() {
    for (reason, expected) in [
        ("Unreachable", Some(60)),
        ("AgentDown", Some(300)),
        // Heard, or never heard: nothing is lost.
        ("DockerUnavailable", None),
        ("NeverConnected", None),
    ] {
        let mut sim = spread(3);
        sim.put_condition("n0", reason);
        assert_eq!(replaced_after(&mut sim, "n0"), expected, "{reason}");
        assert_eq!(sim.live(&web()).len(), 3);
        assert_eq!(live_on(&sim, "n0").is_none(), expected.is_some(), "{reason}");
    }
    let mut sim = spread(3);
    sim.set(&[
        ("replace-unreachable-after", "1500ms"),
        ("replace-agent-down-after", "0s"),
    ]);
    sim.put_condition("n0", "Unreachable");
    assert_eq!(
        replaced_after(&mut sim, "n0"),
        Some(2),
        "a part of a second counts as one"
    );
    sim.settle_for(MINUTE);
    sim.put_condition("n0", "AgentReady");
    sim.settle_for(MINUTE);
    sim.put_condition("n1", "AgentDown");
    assert_eq!(replaced_after(&mut sim, "n1"), Some(0));
}

#[test]
fn a_pods_own_toleration_goes_first() {
    for (seconds, expected) in [(Some(7), Some(7)), (Some(200), Some(200)), (None, None)] {
        let mut template = template("web", Ask::default());
        template.spec.tolerations = vec![Toleration {
            key: taint::UNREACHABLE.into(),
            operator: proto::model::TolerationOperator::Exists,
            toleration_seconds: seconds,
            ..Toleration::default()
        }];
        for reason in ["Unreachable", "AgentDown"] {
            let mut sim = with(3, template.clone());
            sim.put_condition("n0", reason);
            assert_eq!(replaced_after(&mut sim, "n0"), expected, "{seconds:?}");
        }
    }
}

#[test]
fn stop_and_replacement_are_one_commit_however_many() {
    let mut sim = Sim::new();
    for n in 0..4 {
        sim.add_node(&format!("n{n}"), &[]);
        sim.put_facts(&format!("n{n}"), 64_000, 64 << 30, 110, "");
    }
    sim.put_rc(&rc("default", "web", "u", 150, template("web", Ask::default())));
    sim.settle();
    let before = sim.world.pods_on("n0").count();
    assert!(before > 35, "{before} pods");
    sim.put_ready("n0", false);
    sim.wait_until(Time(sim.now.0 + 61));
    sim.dirty.groups = [Group::Losses].into();
    sim.pass(&HashSet::new());
    // One pod more, so that pairs do not fall on the ends of commits by themselves.
    sim.edit_rc(&web(), |rc| rc.spec.replicas = 151);
    let plans = sim.pass(&HashSet::new());
    let commits: Vec<_> = plans.iter().flat_map(|p| &p.commits).collect();
    assert!(commits.len() > 1);
    let mut more = 0;
    for commit in &commits {
        let stop = |c: &&Change| matches!(c, Change::Stop { lost: true, .. });
        let stops = commit.changes.iter().filter(stop).count();
        let created = commit.changes.len() - stops;
        assert!(created >= stops, "{stops} stops, {created} others");
        for (i, _) in commit.changes.iter().enumerate().filter(|(_, c)| stop(c)) {
            let next = commit.changes.get(i + 1);
            assert!(matches!(next, Some(Change::CreatePod { .. })), "after a stop: {next:?}");
        }
        more += created - stops;
    }
    assert_eq!(more, 1);
    assert_eq!(lost_on(&sim, "n0"), before);
    assert_eq!(sim.live(&web()).len(), 151);
    let words = &sim
        .world
        .pods_on("n0")
        .next()
        .unwrap()
        .1
        .record
        .stop
        .as_ref()
        .unwrap()
        .reason;
    assert!(words.starts_with("node n0 is Unreachable since"), "{words}");
}

#[test]
fn with_a_new_template_too() {
    let mut sim = spread(3);
    sim.edit_rc(&web(), |rc| rc.spec.template.spec.containers[0].image = "j".into());
    sim.put_ready("n0", false);
    assert_eq!(replaced_after(&mut sim, "n0"), Some(60));
    assert_eq!(sim.live(&web()).len(), 3);
}

#[test]
fn where_nothing_fits_the_old_one_is_kept_until_there_is_room() {
    let mut sim = with(
        2,
        template(
            "web",
            Ask {
                host_port: 80,
                ..Ask::default()
            },
        ),
    );
    sim.put_ready("n0", false);
    assert_eq!(replaced_after(&mut sim, "n0"), None);
    assert_eq!(
        waiting(&sim, "n0"),
        "it is not replaced: 0/2 nodes: 1 not Ready, 1 host port 80 taken"
    );
    assert_eq!(sim.live(&web()).len(), 2);
    sim.add_node("n9", &[]);
    sim.settle();
    assert_eq!((lost_on(&sim, "n0"), sim.live(&web()).len()), (1, 2));
    assert_eq!(sim.world.pods_on("n9").count(), 1);
}

#[test]
fn a_node_that_is_back_in_time_keeps_its_pods_and_words_are_taken_back() {
    let mut sim = with(3, {
        let mut template = template("web", Ask::default());
        template.spec.volumes = vec![Volume {
            name: "data".into(),
            host_path: Some(HostPathVolume::default()),
            ..Volume::default()
        }];
        template.spec.containers[0].volume_mounts = vec![VolumeMount {
            name: "data".into(),
            ..VolumeMount::default()
        }];
        template
    });
    sim.put_ready("n0", false);
    sim.settle_for(59);
    assert_eq!(waiting(&sim, "n0"), "");
    sim.settle_for(3600);
    let words = waiting(&sim, "n0");
    assert!(
        words.starts_with("it is not replaced: its data in volume data are on n0; bring that back"),
        "{words}"
    );
    sim.put_ready("n0", true);
    sim.settle();
    assert_eq!(waiting(&sim, "n0"), "");
    // Given up by its owner, it goes like any other.
    sim.put_ready("n0", false);
    sim.settle_for(100);
    let pod = live_on(&sim, "n0").unwrap();
    sim.edit_pod(&pod, |r| {
        let discard = Some("discard".to_owned());
        r.annotations.insert(proto::model::loss::LOCAL_DATA.to_owned(), discard);
    });
    sim.settle_for(100);
    assert_eq!((lost_on(&sim, "n0"), sim.live(&web()).len()), (1, 3));
}

#[test]
fn what_was_replaced_stops_before_a_node_that_is_back_takes_pods() {
    let mut sim = spread(3);
    sim.put_ready("n0", false);
    sim.settle_for(100);
    let replaced = sim.world.pods_on("n0").next().unwrap().0.clone();
    sim.put_ready("n0", true);
    sim.edit_rc(&web(), |rc| rc.spec.replicas = 9);
    sim.pass(&HashSet::new());
    assert!(sim.world.pods_on("n0").all(|(_, p)| p.lost()), "a new pod came first");
    let mut only = template(
        "only",
        Ask {
            node: "n0",
            ..Ask::default()
        },
    );
    only.metadata.labels.clear();
    sim.put_bare("default", "only", &only);
    sim.pass(&HashSet::new());
    let why = &sim.world.pods[&key("default", "only")].record.waiting;
    assert_eq!(why, "0/3 nodes: 2 are not node n0, 1 waits for replaced pods to stop");
    sim.settle();
    assert!(!sim.world.pods.contains_key(&replaced));
    assert_eq!(sim.world.pods[&key("default", "only")].record.node, "n0");
    assert_eq!(sim.live(&web()).len(), 9);
}

#[test]
fn a_singleton_waits_until_its_end_is_sure() {
    let plain = annotated(&[(loss::SINGLETON, "true")]);
    let bounded = annotated(&[(loss::SINGLETON, "true"), (loss::STOP_AFTER_DISCONNECT, "90s")]);
    for (template, reason, expected) in [
        (&plain, "Unreachable", None),
        // Last heard within a second of that; 90 s, and 10 s more.
        (&bounded, "Unreachable", Some(101)),
        // Its agent has ended: nobody stops it.
        (&bounded, "AgentDown", None),
    ] {
        let mut sim = with(3, template.clone());
        sim.put_condition("n0", reason);
        assert_eq!(replaced_after(&mut sim, "n0"), expected, "{reason}");
        if expected.is_none() {
            let words = waiting(&sim, "n0");
            assert!(
                words.contains("singleton") && words.ends_with("wharf node confirm-off n0"),
                "{words}"
            );
            sim.confirm_off("n0");
            sim.settle();
            assert_eq!(sim.world.pods_on("n0").count(), 0);
            assert_eq!(sim.live(&web()).len(), 3);
        }
    }
}

/// As after a return to an older release: the pod is there, and its agent knows nothing of the limit any more.
#[test]
fn the_limit_of_a_singleton_counts_only_where_its_agent_keeps_it() {
    let limited = annotated(&[(loss::SINGLETON, "true"), (loss::STOP_AFTER_DISCONNECT, "90s")]);
    let mut sim = with(3, limited);
    sim.put_capabilities("n0", &[]);
    sim.put_condition("n0", "Unreachable");
    assert_eq!(replaced_after(&mut sim, "n0"), None);
    assert!(
        waiting(&sim, "n0").contains("may still run on n0"),
        "{}",
        waiting(&sim, "n0")
    );
}

#[test]
fn a_singleton_is_stopped_first() {
    let mut sim = with(1, annotated(&[(loss::SINGLETON, "true")]));
    let (_, pod) = sim.live(&web())[0];
    let (at, uid) = (sim.live(&web())[0].0.clone(), pod.record.uid.clone());
    sim.stop(&at);
    sim.pass(&HashSet::new());
    assert_eq!(sim.world.pods_of("u").count(), 1, "its follower came before its end");
    sim.put_ready("n0", false);
    sim.add_node("n1", &[]);
    sim.settle_for(10 * MINUTE);
    assert_eq!(sim.world.pods_of("u").count(), 1);
    sim.put_ready("n0", true);
    sim.settle();
    let live = sim.live(&web());
    assert!(live.len() == 1 && live[0].1.record.uid != uid);
}

#[test]
fn the_brake_lets_a_tenth_a_minute_through() {
    let mut sim = spread(20);
    for n in 0..5 {
        sim.put_ready(&format!("n{n}"), false);
    }
    let begin = sim.now;
    let mut at = Vec::new();
    while at.len() < 5 {
        sim.settle_for(0);
        let given_up = sim.world.nodes.values().filter(|n| n.given_up()).count();
        at.resize(given_up, sim.now.0 - begin.0);
        if sim.now.0 - begin.0 == 70 {
            let words = brake(&sim.world, sim.now).expect("it is on");
            assert!(
                words.starts_with("pods of lost nodes n2, n3, n4 wait: those of at most 2 nodes in 1m"),
                "{words}"
            );
        }
        sim.wait_until(Time(sim.now.0 + 1));
    }
    assert_eq!(at, [60, 60, 120, 120, 180]);
    assert_eq!(sim.live(&web()).len(), 20);
    assert_eq!(brake(&sim.world, sim.now), None);
}

#[test]
fn nodes_that_came_back_meanwhile_count_all_the_same() {
    let mut sim = spread(10);
    sim.put_ready("n0", false);
    sim.put_ready("n1", false);
    sim.settle_for(60);
    let first: Vec<bool> = ["n0", "n1"].map(|n| sim.world.nodes[n].given_up()).into();
    assert_eq!(first, [true, false]);
    sim.put_ready("n0", true);
    sim.settle_for(58);
    assert_eq!(lost_on(&sim, "n0"), 0, "all has ended there");
    assert!(!sim.world.nodes["n1"].given_up(), "too early");
    sim.settle_for(2);
    assert!(sim.world.nodes["n1"].given_up());
    sim.settle_for(120);
    sim.put_ready("n1", true);
    sim.settle_for(120);
    assert_eq!(sim.world.losses().count(), 0, "records stay behind");
}

#[test]
fn each_failure_domain_has_a_brake_of_its_own() {
    let mut sim = Sim::new();
    for n in 0..40 {
        // Ten nodes of one zone, thirty of another.
        let zone = if n < 10 { "a" } else { "b" };
        sim.add_node(&format!("n{n:02}"), &[(brake::ZONE, zone)]);
    }
    sim.put_rc(&rc("default", "web", "u", 40, template("web", Ask::default())));
    sim.settle();
    for n in 0..4 {
        sim.put_ready(&format!("n{n:02}"), false);
    }
    sim.settle_for(60);
    let given_up = sim.world.nodes.values().filter(|n| n.given_up()).count();
    assert_eq!(given_up, 1, "a tenth of all would be four");
}

#[test]
fn most_of_the_fleet_lost_is_not_the_hosts() {
    for (nodes, lost, stops) in [
        (1, 1, Some("all nodes that were ever heard (1) are lost")),
        (2, 1, None),
        (2, 2, Some("all nodes")),
        (3, 2, None),
        (3, 3, Some("all nodes")),
        (5, 3, Some("3 of 5 nodes are lost (brake-stop 55%)")),
        (6, 3, None),
        (10, 5, None),
        (10, 6, Some("6 of 10 nodes")),
    ] {
        let mut sim = spread(nodes);
        // A node that never came does not count.
        sim.put_node("never", &[], false);
        for n in 0..lost {
            sim.put_ready(&format!("n{n}"), false);
        }
        let words = stopped(&sim.world);
        assert_eq!(words.is_some(), stops.is_some(), "{lost} of {nodes}: {words:?}");
        sim.settle_for(3600);
        let gone: usize = (0..nodes).map(|n| lost_on(&sim, &format!("n{n}"))).sum();
        match stops {
            None => assert_eq!(gone, lost, "{lost} of {nodes}"),
            Some(start) => {
                assert_eq!(gone, 0, "{lost} of {nodes}");
                let words = pause(&sim.world, sim.now).expect("on").words;
                assert!(
                    words.starts_with(start) && words.contains("wharf node confirm-off NODE"),
                    "{words}"
                );
                // What an operator confirms counts no more, and is replaced whatever the brake says.
                for n in 0..lost {
                    sim.confirm_off(&format!("n{n}"));
                }
                sim.settle();
                assert_eq!(stopped(&sim.world), None);
                assert_eq!(sim.live(&web()).len(), nodes);
            }
        }
    }
}

#[test]
fn the_brake_stops_what_it_let_through_before() {
    let mut sim = spread(5);
    let far = template(
        "far",
        Ask {
            node: "",
            ..Ask::default()
        },
    );
    let mut far = far;
    far.spec.tolerations = vec![Toleration {
        key: taint::UNREACHABLE.into(),
        operator: proto::model::TolerationOperator::Exists,
        toleration_seconds: Some(200),
        ..Toleration::default()
    }];
    sim.put_rc(&rc("default", "far", "v", 5, far));
    sim.settle();
    sim.put_ready("n0", false);
    sim.settle_for(100);
    assert_eq!(lost_on(&sim, "n0"), 1, "the other one tolerates more");
    sim.put_ready("n1", false);
    sim.put_ready("n2", false);
    sim.settle_for(3600);
    assert_eq!((lost_on(&sim, "n0"), lost_on(&sim, "n1")), (1, 0));
    sim.put_ready("n1", true);
    sim.settle_for(3600);
    assert_eq!((lost_on(&sim, "n0"), lost_on(&sim, "n2")), (2, 2));
}

#[test]
fn a_freeze_holds_replacements_back_and_nothing_else() {
    let mut sim = spread(3);
    sim.freeze(Some(Time(sim.now.0 + 1000)));
    sim.put_ready("n0", false);
    sim.settle_for(900);
    assert_eq!(lost_on(&sim, "n0"), 0);
    assert_eq!(
        pause(&sim.world, sim.now).map(|p| p.words).as_deref(),
        Some("frozen by user/admin: moving racks; to lift it: wharf unfreeze")
    );
    // What an operator asks for goes on; a pod that ended by itself is not replaced.
    sim.edit_rc(&web(), |rc| rc.spec.replicas = 5);
    sim.settle();
    assert_eq!(sim.live(&web()).len(), 5);
    let at = live_on(&sim, "n1").unwrap();
    sim.report(&at, proto::model::Phase::Failed, false, false);
    sim.settle();
    assert!(sim.world.pods.contains_key(&at) && sim.live(&web()).len() == 4);
    let deleted = live_on(&sim, "n2").unwrap();
    sim.stop(&deleted);
    sim.settle();
    assert_eq!(sim.live(&web()).len(), 4, "what was deleted is made anew");
    // The ended one is the first to go.
    sim.edit_rc(&web(), |rc| rc.spec.replicas = 4);
    sim.settle();
    assert!(!sim.world.pods.contains_key(&at) && sim.live(&web()).len() == 4);
    sim.settle_for(200);
    assert_eq!(frozen(&sim.world, sim.now), None, "its time is over");
    assert_eq!((lost_on(&sim, "n0") > 0, sim.live(&web()).len()), (true, 4));
}

#[test]
fn a_new_leader_gives_every_node_time() {
    let mut sim = spread(3);
    sim.put_ready("n0", false);
    sim.now = Time(sim.now.0 + 1000);
    let from = Time(sim.now.0 + 6);
    let world = sim.world.clone();
    let mut pass = crate::plan::Pass::new(sim.now, 1, crate::plan::Keep::default()).no_loss_before(from);
    let plan = pass.plan(&world, &Group::Losses).unwrap();
    assert_eq!((plan.changes().count(), plan.wake_at), (0, Some(from)));
    // Nor does it go on with what its predecessor began.
    sim.dirty.groups = [Group::Losses].into();
    sim.pass(&HashSet::new());
    assert!(sim.world.nodes["n0"].given_up());
    let world = sim.world.clone();
    let mut pass = crate::plan::Pass::new(sim.now, 1, crate::plan::Keep::default()).no_loss_before(from);
    let plan = pass.plan(&world, &Group::Controller(web())).unwrap();
    assert_eq!((plan.changes().count(), plan.wake_at), (0, Some(from)));
}

#[test]
fn bare_pods_stay_and_say_so_until_the_host_is_confirmed_off() {
    let mut sim = spread(3);
    let at = key("default", "mine");
    sim.put_bare(
        "default",
        "mine",
        &template(
            "mine",
            Ask {
                node: "n0",
                ..Ask::default()
            },
        ),
    );
    sim.settle();
    sim.put_ready("n0", false);
    sim.settle_for(100);
    assert_eq!(
        sim.world.pods[&at].record.waiting,
        "it is not replaced: it has no controller"
    );
    sim.confirm_off("n0");
    sim.settle();
    assert!(!sim.world.pods.contains_key(&at));
}

#[test]
fn confirmed_off_is_replaced_although_it_must_wait_for_room() {
    let mut sim = with(
        2,
        template(
            "web",
            Ask {
                host_port: 80,
                ..Ask::default()
            },
        ),
    );
    sim.put_ready("n0", false);
    sim.confirm_off("n0");
    sim.settle();
    assert_eq!(sim.world.pods_on("n0").count(), 0);
    let unplaced: Vec<_> = sim.world.unplaced_pods().collect();
    assert_eq!(unplaced.len(), 1);
    assert_eq!(sim.live(&web()).len(), 2);
}
