//! Updates from begin to end, on a fleet in memory whose agents do what they are told. Each test shows one rule; the
//! random ones are in `properties`.

use std::collections::{BTreeMap, HashSet};

use proto::model::{
    ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, IntOrPercent, Phase, PodTemplate,
    Time,
};
use serde_json::json;

use super::{
    report::{Standing, State, report},
    turn_back,
};
use crate::{
    plan::sim::{Ask, Sim, key, map, rc, set_field, template},
    store::keys,
    world::{
        Key, World,
        record::StatusRecord,
        updates::{OnFailure, Paused, UpdateOutcome},
    },
};

fn web() -> Key {
    key("default", "web")
}

fn next() -> Key {
    key("default", "web-2")
}

/// Three nodes, and a controller of so many pods, all Ready.
fn fleet(replicas: i32, template: PodTemplate) -> Sim {
    let mut sim = Sim::new();
    for name in ["n0", "n1", "n2"] {
        sim.add_node(name, &[]);
        sim.put_capabilities(name, &proto::capability::ALL);
    }
    sim.put_rc(&rc("default", "web", "u-web", replicas, template));
    sim.settle();
    sim
}

fn plain() -> PodTemplate {
    template("web", Ask::default())
}

/// Of the same app, in another version.
fn newer() -> PodTemplate {
    let mut template = plain();
    template.metadata.labels.insert("version".into(), "2".into());
    template.spec.containers[0].image = "i2".into();
    template
}

fn serving(world: &World) -> usize {
    let up = |node: &str| world.nodes.get(node).is_some_and(|n| n.is_ready());
    let pods = world.pods.values();
    pods.filter(|p| p.live() && p.ready() && up(&p.record.node)).count()
}

fn images(world: &World) -> BTreeMap<String, usize> {
    let mut images = BTreeMap::new();
    for pod in world.pods.values().filter(|p| p.live()) {
        *images.entry(pod.spec().containers[0].image.clone()).or_default() += 1;
    }
    images
}

/// Passes until nothing is left to do at this moment, with agents that say nothing.
fn passes(sim: &mut Sim) {
    for _ in 0..50 {
        if sim.dirty.groups.is_empty() {
            return;
        }
        sim.pass(&HashSet::new());
    }
    panic!("no rest: {:?}", sim.dirty);
}

fn outcome(sim: &Sim) -> Option<UpdateOutcome> {
    sim.world.updates[&web()].value.ended.map(|e| e.how)
}

/// What its steps led to, old and new.
fn steps(sim: &Sim) -> Vec<(u32, u32)> {
    let record = &sim.world.updates[&web()].value;
    record.steps.iter().map(|s| (s.old, s.new)).collect()
}

fn why(sim: &Sim) -> (State, Vec<String>) {
    let report = report(&sim.world, &web(), sim.now).expect("an update");
    (report.state, report.why)
}

/// The pods of the newer version end again and again, or wait.
fn fail(sim: &mut Sim, state: ContainerState, restarts: u32) {
    let uid = sim.world.controllers[&next()].rc.metadata.uid.clone();
    let found: Vec<_> = sim
        .world
        .pods_of(&uid)
        .map(|(k, p)| (k.clone(), p.record.uid.clone()))
        .collect();
    for (at, uid) in found {
        sim.report(&at, Phase::Running, false, false);
        let before = sim.world.pods[&at].status.as_ref().expect("a status").value.clone();
        let mut status = StatusRecord {
            uid,
            ..(*before).clone()
        };
        status.status.container_statuses = vec![ContainerStatus {
            name: "c".into(),
            restart_count: restarts,
            state: state.clone(),
            ..ContainerStatus::default()
        }];
        sim.put(keys::pod_status(&at.0, &at.1), &status);
    }
}

fn crashed() -> ContainerState {
    ContainerState::Terminated(ContainerStateTerminated {
        exit_code: 1,
        message: "starting\nno such file: /etc/app".into(),
        ..ContainerStateTerminated::default()
    })
}

#[test]
fn one_by_one_and_never_fewer_than_wanted() {
    let mut sim = fleet(3, plain());
    sim.update("web", "web-2", newer(), |_| {});
    let mut most = 0;
    for _ in 0..40 {
        passes(&mut sim);
        assert!(serving(&sim.world) >= 3, "{:?}", images(&sim.world));
        most = most.max(sim.world.pods.values().filter(|p| p.live()).count());
        sim.agents();
    }
    assert_eq!(most, 4, "one above");
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated));
    assert_eq!(steps(&sim), [(2, 1), (1, 2), (0, 3)]);
    assert_eq!(images(&sim.world), BTreeMap::from([("i2".into(), 3)]));
    assert!(!sim.world.controllers.contains_key(&web()));
    assert_eq!(sim.world.controllers[&next()].rc.spec.replicas, 3);
    // Both are on record under the name that stays.
    let revisions = &sim.world.revisions[&next()].value.revisions;
    let known: Vec<_> = revisions
        .iter()
        .map(|r| (r.number, r.controller.metadata.name.as_str(), r.cause.as_str()))
        .collect();
    assert_eq!(known, [(1, "web", ""), (2, "web-2", "image i2")]);
    assert_eq!(revisions[0].controller.spec.replicas, 3);
    // They go along with the next one.
    sim.update("web-2", "web-3", plain(), |_| {});
    sim.settle();
    let known: Vec<_> = sim.world.revisions.keys().map(|k| k.1.as_str()).collect();
    assert_eq!(known, ["web-3"]);
    assert_eq!(sim.world.revisions[&key("default", "web-3")].value.revisions.len(), 3);
    sim.assert_safe();
    assert_eq!(sim.reloaded().updates, sim.world.updates);
}

#[test]
fn the_new_one_takes_the_name_and_touches_no_pod() {
    let mut sim = fleet(2, plain());
    sim.update("web", "web-2", newer(), |u| u.renames = true);
    // Until the last commit.
    while sim.world.update_at(&web()).is_some() {
        sim.agents();
        passes(&mut sim);
    }
    assert!(!sim.world.controllers.contains_key(&next()), "one commit");
    let rc = &sim.world.controllers[&web()].rc;
    assert_eq!(rc.spec.template.spec.containers[0].image, "i2");
    let before: Vec<_> = sim
        .world
        .pods_of(&rc.metadata.uid)
        .map(|(k, p)| (k.clone(), p.rv))
        .collect();
    assert_eq!(before.len(), 2);
    let uid = rc.metadata.uid.clone();
    sim.settle();
    let after: Vec<_> = sim.world.pods_of(&uid).map(|(k, p)| (k.clone(), p.rv)).collect();
    assert_eq!(
        before.iter().map(|(k, _)| k).collect::<Vec<_>>(),
        after.iter().map(|(k, _)| k).collect::<Vec<_>>()
    );
    assert_eq!(sim.world.pods.len(), 2);
    let revisions = &sim.world.revisions[&web()].value.revisions;
    assert!(revisions.iter().all(|r| r.controller.metadata.name == "web"));
    // It can be updated again.
    sim.update("web", "web-3", plain(), |u| u.renames = true);
    sim.settle();
    assert_eq!(images(&sim.world), BTreeMap::from([("i".into(), 2)]));
    assert_eq!(sim.world.revisions[&web()].value.revisions.len(), 3);
}

#[test]
fn steps_are_as_large_as_the_limits_allow() {
    for (replicas, surge, missed, expected) in [
        (10, IntOrPercent::Int(5), IntOrPercent::Int(0), vec![(5, 5), (0, 10)]),
        (4, IntOrPercent::Int(0), IntOrPercent::Int(2), vec![(2, 2), (0, 4)]),
        (
            4,
            IntOrPercent::Percent(25),
            IntOrPercent::Percent(25),
            vec![(2, 2), (0, 4)],
        ),
        (
            3,
            IntOrPercent::Int(0),
            IntOrPercent::Int(0),
            vec![(2, 1), (1, 2), (0, 3)],
        ),
    ] {
        let mut sim = fleet(replicas, plain());
        sim.update("web", "web-2", newer(), |u| {
            u.limits.max_surge = surge;
            u.limits.max_unavailable = missed;
        });
        let whole = i64::from(replicas);
        let least = usize::try_from(whole - sim.world.updates[&web()].value.missed()).expect("a count");
        for _ in 0..60 {
            passes(&mut sim);
            assert!(serving(&sim.world) >= least);
            sim.agents();
        }
        assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated), "{:?}", why(&sim));
        assert_eq!(steps(&sim), expected);
    }
}

#[test]
fn a_step_is_over_when_its_new_pods_are_ready_and_not_before() {
    // The second one of four may be missed, so that no leave of the ledger is needed for the counts of the first step.
    let mut sim = fleet(4, plain());
    sim.update("web", "web-2", newer(), |u| {
        u.limits.max_surge = IntOrPercent::Int(0);
        u.limits.max_unavailable = IntOrPercent::Int(1);
    });
    // The old one has ended, and the new one waits for its probe.
    passes(&mut sim);
    let stopping: Vec<_> = sim.world.pods.iter().filter(|(_, p)| p.stopping()).collect();
    let gone: Vec<Key> = stopping.into_iter().map(|(k, _)| k.clone()).collect();
    for at in &gone {
        sim.report(at, Phase::Succeeded, false, true);
    }
    passes(&mut sim);
    assert_eq!(images(&sim.world)["i2"], 1);
    assert_eq!(steps(&sim), [(3, 1)], "of the second step nothing is said yet");
    assert!(sim.world.updates[&web()].value.step().is_some());
    sim.settle();
    assert_eq!(steps(&sim), [(3, 1), (2, 2), (1, 3), (0, 4)]);
}

#[test]
fn counts_that_differ_end_in_one_step() {
    for (target, last) in [(5, (0, 5)), (1, (0, 1))] {
        let mut sim = fleet(3, plain());
        sim.update("web", "web-2", newer(), |u| u.target = target);
        sim.settle();
        assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated));
        assert_eq!(steps(&sim).last(), Some(&last));
        assert_eq!(serving(&sim.world), usize::try_from(target).expect("a count"));
    }
}

#[test]
fn no_more_are_tried_than_was_asked_for() {
    let mut sim = fleet(10, plain());
    sim.update("web", "web-2", newer(), |u| {
        u.limits.max_surge = IntOrPercent::Int(5);
        u.limits.pause_after = Some(IntOrPercent::Int(1));
    });
    sim.settle_for(100);
    assert_eq!((why(&sim).0, steps(&sim)), (State::Paused, vec![(9, 1)]));
    assert_eq!(images(&sim.world), BTreeMap::from([("i".into(), 9), ("i2".into(), 1)]));
    sim.steer("web", |u| u.paused = None);
    sim.settle();
    assert_eq!(steps(&sim), [(9, 1), (4, 6), (0, 10)]);
}

#[test]
fn pods_that_end_pause_it_with_their_last_words() {
    let mut sim = fleet(3, plain());
    sim.update("web", "web-2", newer(), |_| {});
    passes(&mut sim);
    fail(&mut sim, crashed(), 1);
    passes(&mut sim);
    assert_eq!(why(&sim).0, State::Updating, "it may come yet");
    fail(&mut sim, crashed(), 2);
    passes(&mut sim);
    let (state, why) = why(&sim);
    assert_eq!(state, State::Paused);
    assert!(
        why[0].contains("exited 1 three times: no such file: /etc/app"),
        "{why:?}"
    );
    assert!(why[0].contains("wharf rolling-update web --rollback"), "{why:?}");
    assert_eq!(serving(&sim.world), 3);
    assert_eq!(images(&sim.world)["i2"], 1, "the others are not tried");
}

#[test]
fn pods_that_end_turn_it_back_where_that_was_asked_for() {
    let mut sim = fleet(3, plain());
    let before: Vec<Key> = sim.world.pods.keys().cloned().collect();
    sim.update("web", "web-2", newer(), |u| u.limits.on_failure = OnFailure::Rollback);
    passes(&mut sim);
    fail(&mut sim, crashed(), 3);
    passes(&mut sim);
    sim.settle();
    assert_eq!(outcome(&sim), Some(UpdateOutcome::RolledBack));
    assert!(!sim.world.controllers.contains_key(&next()));
    assert_eq!(
        sim.world.pods.keys().cloned().collect::<Vec<_>>(),
        before,
        "none of the old ones went"
    );
    assert!(sim.world.revisions.is_empty());
}

#[test]
fn a_step_without_progress_has_failed_after_its_time() {
    let mut sim = fleet(2, plain());
    sim.update("web", "web-2", newer(), |u| u.limits.timeout = 60);
    passes(&mut sim);
    let waiting = ContainerState::Waiting(ContainerStateWaiting {
        reason: "ImagePullBackOff".into(),
        message: "no such image".into(),
    });
    fail(&mut sim, waiting, 0);
    passes(&mut sim);
    sim.pass_time(59);
    passes(&mut sim);
    assert_eq!(why(&sim).0, State::Updating);
    sim.pass_time(1);
    passes(&mut sim);
    let (state, why) = why(&sim);
    assert_eq!(state, State::Paused);
    assert!(
        why[0].contains("no further for 60 s") && why[0].contains("ImagePullBackOff: no such image"),
        "{why:?}"
    );
}

#[test]
fn no_place_for_one_more_is_said_with_the_remedy_and_the_remedy_helps() {
    let mut template = plain();
    set_field(
        &mut template.spec,
        "containers",
        json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 8080}]}]),
    );
    let mut sim = fleet(3, template.clone());
    template.metadata.labels.insert("version".into(), "2".into());
    sim.update("web", "web-2", template, |_| {});
    sim.settle_for(30);
    let (state, words) = why(&sim);
    assert_eq!(state, State::Blocked);
    assert!(
        words[0].contains("has no place") && words[0].contains("--max-unavailable 1"),
        "{words:?}"
    );
    assert_eq!(serving(&sim.world), 3);
    sim.steer("web", |u| u.limits.max_unavailable = IntOrPercent::Int(1));
    let mut least = 3;
    for _ in 0..60 {
        passes(&mut sim);
        least = least.min(serving(&sim.world));
        sim.agents();
    }
    assert_eq!(
        (outcome(&sim), least),
        (Some(UpdateOutcome::Updated), 2),
        "{:?}",
        why(&sim)
    );
}

#[test]
fn turned_back_in_mid_way_it_ends_with_the_old_ones() {
    let mut sim = fleet(3, plain());
    sim.update("web", "web-2", newer(), |_| {});
    while steps(&sim).len() < 2 {
        passes(&mut sim);
        sim.agents();
    }
    let now = sim.now;
    sim.steer("web", |u| turn_back(u, now, String::new()));
    for _ in 0..40 {
        passes(&mut sim);
        assert!(serving(&sim.world) >= 3);
        sim.agents();
    }
    assert_eq!(outcome(&sim), Some(UpdateOutcome::RolledBack));
    assert_eq!(images(&sim.world), BTreeMap::from([("i".into(), 3)]));
    assert_eq!(steps(&sim).last(), Some(&(3, 0)));
    assert!(sim.world.controllers.contains_key(&web()) && !sim.world.controllers.contains_key(&next()));
}

#[test]
fn it_pauses_after_as_many_as_asked_and_goes_on_when_told() {
    let mut sim = fleet(4, plain());
    sim.update("web", "web-2", newer(), |u| {
        u.limits.pause_after = Some(IntOrPercent::Percent(50))
    });
    sim.settle_for(3600);
    assert_eq!(why(&sim).0, State::Paused);
    assert_eq!(images(&sim.world), BTreeMap::from([("i".into(), 2), ("i2".into(), 2)]));
    let now = sim.now;
    sim.steer("web", |u| {
        u.paused = None;
        u.progressed = now;
    });
    sim.settle();
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated));
}

#[test]
fn a_pause_and_a_freeze_hold_it() {
    let mut sim = fleet(2, plain());
    sim.update("web", "web-2", newer(), |u| {
        u.paused = Some(Paused {
            at: Time(1),
            by: "user/admin".into(),
            failed: false,
            why: String::new(),
        });
    });
    sim.settle_for(100);
    assert_eq!(images(&sim.world), BTreeMap::from([("i".into(), 2)]));
    assert!(
        why(&sim).1[0].starts_with("paused by admin; go on: wharf rollout resume rc web"),
        "{:?}",
        why(&sim)
    );
    sim.freeze(None);
    sim.steer("web", |u| u.paused = None);
    sim.settle_for(100);
    assert_eq!(images(&sim.world), BTreeMap::from([("i".into(), 2)]));
    assert!(why(&sim).1[0].contains("wharf unfreeze"), "{:?}", why(&sim));
    sim.delete(keys::FREEZE.to_owned());
    sim.settle_for(100);
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated));
}

#[test]
fn time_that_is_held_does_not_count_against_a_step() {
    let mut sim = fleet(2, plain());
    sim.update("web", "web-2", newer(), |u| u.limits.on_failure = OnFailure::Rollback);
    passes(&mut sim);
    assert_eq!(steps(&sim), [(1, 1)]);
    // Far longer than a step may take, with a new pod that becomes Ready meanwhile.
    sim.freeze(None);
    sim.settle_for(4_000);
    sim.delete(keys::FREEZE.to_owned());
    passes(&mut sim);
    assert!(!sim.world.updates[&web()].value.back, "nothing has failed");
    sim.settle_for(100);
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated));
}

#[test]
fn a_coordinator_that_comes_late_finds_no_failure() {
    let mut sim = fleet(2, plain());
    sim.update("web", "web-2", newer(), |_| {});
    passes(&mut sim);
    sim.agents();
    // The new pod is Ready, and nobody has looked at it for an hour.
    sim.now = Time(sim.now.0 + 3_600);
    passes(&mut sim);
    assert_eq!(why(&sim).0, State::Updating, "{:?}", why(&sim));
    sim.settle();
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated));
}

#[test]
fn many_pods_without_a_place_go_by_several_commits() {
    let mut sim = fleet(60, plain());
    sim.update("web", "web-2", newer(), |u| u.limits.max_surge = IntOrPercent::Int(50));
    for node in ["n0", "n1", "n2"] {
        sim.cordon(node, "user/admin", "full", None);
    }
    for _ in 0..10 {
        passes(&mut sim);
        sim.agents();
    }
    let uid = sim.world.controllers[&next()].rc.metadata.uid.clone();
    assert_eq!(sim.world.pods_of(&uid).count(), 50, "none has a place");
    let now = sim.now;
    sim.steer("web", |u| turn_back(u, now, String::new()));
    sim.settle();
    assert_eq!(outcome(&sim), Some(UpdateOutcome::RolledBack), "{:?}", why(&sim));
    assert_eq!(images(&sim.world), BTreeMap::from([("i".into(), 60)]));
    sim.assert_safe();
}

#[test]
fn what_an_old_pod_has_been_through_is_no_failure_of_a_rollback() {
    let mut sim = fleet(2, plain());
    sim.update("web", "web-2", newer(), |_| {});
    passes(&mut sim);
    let now = sim.now;
    sim.steer("web", |u| turn_back(u, now, String::new()));
    // One of the old ones has ended often in its life, and is not Ready for a moment.
    let (at, uid) = {
        let mut pods = sim
            .world
            .pods
            .iter()
            .filter(|(k, _)| k.1.starts_with("web-") && !k.1.starts_with("web-2"));
        let (at, pod) = pods.next().expect("an old one");
        (at.clone(), pod.record.uid.clone())
    };
    sim.report(&at, Phase::Running, false, false);
    let before = sim.world.pods[&at].status.as_ref().expect("a status").value.clone();
    let mut status = StatusRecord {
        uid,
        ..(*before).clone()
    };
    status.status.container_statuses = vec![ContainerStatus {
        name: "c".into(),
        restart_count: 7,
        last_state: Some(crashed()),
        ..ContainerStatus::default()
    }];
    sim.put(keys::pod_status(&at.0, &at.1), &status);
    passes(&mut sim);
    assert_eq!(why(&sim).0, State::RollingBack, "{:?}", why(&sim));
    sim.settle();
    assert_eq!(outcome(&sim), Some(UpdateOutcome::RolledBack));
}

#[test]
fn steps_keep_their_distance() {
    let mut sim = fleet(2, plain());
    sim.update("web", "web-2", newer(), |u| u.limits.period = 30);
    let begun = sim.now;
    sim.settle_for(29);
    assert_eq!(steps(&sim), [(1, 1)]);
    sim.settle_for(10);
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated));
    assert!(sim.now.0 - begun.0 >= 30);
}

#[test]
fn a_budget_holds_the_old_ones() {
    let mut sim = fleet(2, plain());
    let of = json!({"matchLabels": {"app": "web"}});
    sim.put_budget("default", "web", json!({"minAvailable": 3, "selector": of}));
    sim.update("web", "web-2", newer(), |_| {});
    sim.settle_for(60);
    let (state, words) = why(&sim);
    assert_eq!(state, State::Blocked, "{words:?}");
    assert!(
        words[0].starts_with("poddisruptionbudget default/web: 3 of"),
        "{words:?}"
    );
    assert_eq!(images(&sim.world)["i"], 2);
    sim.delete(keys::object(proto::model::Kind::PodDisruptionBudget, "default", "web"));
    sim.settle_for(60);
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated));
}

#[test]
fn a_singleton_ends_before_the_next_one_starts() {
    let mut template = plain();
    template.metadata.annotations = map(&[("wharfinger.io/singleton", "true")]);
    let mut sim = fleet(1, template.clone());
    template.spec.containers[0].image = "i2".into();
    sim.update("web", "web-2", template, |u| u.renames = true);
    for _ in 0..20 {
        passes(&mut sim);
        let there = sim.world.pods.values().filter(|p| !p.ended()).count();
        assert!(there <= 1, "two of them");
        sim.agents();
    }
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated));
    assert_eq!(images(&sim.world), BTreeMap::from([("i2".into(), 1)]));
}

#[test]
fn scaled_meanwhile_it_ends_with_the_new_count() {
    for count in [6, 1, 0] {
        let mut sim = fleet(3, plain());
        sim.update("web", "web-2", newer(), |_| {});
        while steps(&sim).len() < 2 {
            passes(&mut sim);
            sim.agents();
        }
        let now = sim.now;
        sim.steer("web", |u| {
            (u.from, u.target) = (count, count);
            u.steps.last_mut().expect("a step").done = Some(now);
        });
        sim.settle_for(60);
        assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated), "{:?}", why(&sim));
        assert_eq!(serving(&sim.world), usize::try_from(count).expect("a count"));
    }
}

#[test]
fn a_drain_of_a_node_at_the_same_time_takes_nobody_away() {
    let mut sim = fleet(3, plain());
    sim.update("web", "web-2", newer(), |_| {});
    sim.drain("n0", |_| {});
    for _ in 0..80 {
        passes(&mut sim);
        assert!(serving(&sim.world) >= 3, "{:?}", images(&sim.world));
        sim.agents();
    }
    sim.settle_for(60);
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated), "{:?}", why(&sim));
    assert_eq!(sim.world.pods_on("n0").count(), 0);
}

#[test]
fn a_lost_node_does_not_end_it() {
    let mut sim = fleet(3, plain());
    sim.update("web", "web-2", newer(), |_| {});
    passes(&mut sim);
    sim.put_ready("n0", false);
    sim.settle_for(600);
    assert_eq!(outcome(&sim), Some(UpdateOutcome::Updated), "{:?}", why(&sim));
    assert_eq!(images(&sim.world), BTreeMap::from([("i2".into(), 3)]));
}

#[test]
fn endpoints_of_both_names_have_the_pods_of_both() {
    let reached = |mut template: PodTemplate, port: u16| {
        let ports = json!([{"containerPort": 80, "hostPort": port, "hostIP": "10.0.0.1"}]);
        set_field(
            &mut template.spec,
            "containers",
            json!([{"name": "c", "image": "i", "ports": ports}]),
        );
        template
    };
    let mut sim = fleet(2, reached(plain(), 8080));
    let newer = reached(newer(), 8081);
    sim.update("web", "web-2", newer, |u| u.renames = true);
    passes(&mut sim);
    sim.agents();
    let addresses = |sim: &Sim, at: &Key| {
        let endpoints = sim.world.endpoints(at, &sim.world.controllers[at]);
        endpoints.subsets.iter().map(|s| s.addresses.len()).sum::<usize>()
    };
    assert_eq!((addresses(&sim, &web()), addresses(&sim, &next())), (3, 3));
    let version = sim
        .world
        .endpoints(&web(), &sim.world.controllers[&web()])
        .metadata
        .resource_version;
    sim.settle();
    assert_eq!(addresses(&sim, &web()), 2);
    let later = sim
        .world
        .endpoints(&web(), &sim.world.controllers[&web()])
        .metadata
        .resource_version;
    assert_ne!(version, later);
}

#[test]
fn the_report_counts() {
    let mut sim = fleet(3, plain());
    sim.update("web", "web-2", newer(), |_| {});
    assert_eq!(why(&sim), (State::Updating, Vec::new()), "nothing is in the way");
    passes(&mut sim);
    assert_eq!(why(&sim), (State::Updating, Vec::new()));
    let report = report(&sim.world, &web(), sim.now).expect("an update");
    let side = |replicas, available| Standing { replicas, available };
    assert_eq!((report.old, report.new, report.steps), (side(3, 3), side(1, 0), 3));
    assert!(super::report::report(&sim.world, &key("default", "other"), sim.now).is_none());
}
