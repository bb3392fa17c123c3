//! Drains from begin to end, on a fleet in memory whose agents do what they are told. Each test shows one rule; the
//! random ones are in `properties`.

use std::collections::BTreeMap;

use proto::model::{
    ConditionStatus, ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HoldKind, Phase,
    PodTemplate, Time,
};
use serde_json::json;

use super::report::{State, Step, report};
use crate::{
    plan::{
        change::Change,
        sim::{Ask, Sim, ds, key, map, rc, set_field, template},
    },
    store::keys,
    world::{
        Key, World,
        drains::{DrainOutcome, OnDeadline},
        record::StatusRecord,
    },
};

fn web() -> Key {
    key("default", "web")
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

/// The node of the controller's first pod.
fn home(sim: &Sim) -> String {
    sim.live(&web())[0].1.record.node.clone()
}

fn ready(world: &World) -> usize {
    let up = |node: &str| world.nodes.get(node).is_some_and(|n| n.is_ready());
    let pods = world.pods.values();
    pods.filter(|p| p.live() && p.ready() && up(&p.record.node)).count()
}

fn outcome(sim: &Sim, node: &str) -> Option<DrainOutcome> {
    let drain = sim.world.nodes[node].drain.as_ref()?;
    drain.value.ended.as_ref().map(|e| e.how)
}

/// Steps of the node's pods with what they wait for.
fn steps(sim: &Sim, node: &str) -> Vec<(Step, String)> {
    let report = report(&sim.world, node, sim.now).expect("a drain");
    report.lines.into_iter().map(|l| (l.step, l.why)).collect()
}

fn state(sim: &Sim, node: &str) -> State {
    report(&sim.world, node, sim.now).expect("a drain").state
}

/// Passes until nothing is left to do at this moment, with agents that say nothing.
fn passes(sim: &mut Sim) {
    for _ in 0..50 {
        if sim.dirty.groups.is_empty() {
            return;
        }
        sim.pass(&std::collections::HashSet::new());
    }
    panic!("no rest: {:?}", sim.dirty);
}

/// Pods of the controller whose agents have not said that they are Ready.
fn fresh(sim: &Sim) -> Vec<Key> {
    let live = sim.live(&web());
    live.iter()
        .filter(|(_, p)| !p.ready())
        .map(|(k, _)| (*k).clone())
        .collect()
}

/// A container of the pod has ended so often, with this code and these last words, and is started again.
fn crashes(sim: &mut Sim, at: &Key, times: u32, words: &str) {
    let end = ContainerStateTerminated {
        exit_code: 1,
        message: words.into(),
        ..ContainerStateTerminated::default()
    };
    let mut status = StatusRecord {
        uid: sim.world.pods[at].record.uid.clone(),
        seq: 1,
        ..StatusRecord::default()
    };
    status.status.phase = Phase::Running;
    status.status.container_statuses = vec![ContainerStatus {
        name: "c".into(),
        state: ContainerState::Waiting(ContainerStateWaiting {
            reason: "CrashLoopBackOff".into(),
            message: String::new(),
        }),
        last_state: Some(ContainerState::Terminated(end)),
        restart_count: times - 1,
        ..ContainerStatus::default()
    }];
    sim.put(keys::pod_status(&at.0, &at.1), &status);
}

#[test]
fn a_single_replica_is_started_elsewhere_before_it_stops() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    let old = sim.live(&web())[0].0.clone();
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    let state_of = |sim: &Sim, key: &Key| sim.world.pods[key].clone();
    assert_ne!(state_of(&sim, &new).record.node, node);
    assert!(!state_of(&sim, &old).stopping(), "it serves until the other one does");
    let line = &report(&sim.world, &node, sim.now).expect("a drain").lines[0];
    assert_eq!((&line.key, line.step), (&old, Step::Starting));
    assert_eq!(line.new.as_ref().map(|n| &n.0), Some(&new));
    sim.report(&new, Phase::Running, true, false);
    passes(&mut sim);
    let stop = state_of(&sim, &old).record.stop.clone().expect("stops");
    assert_eq!(stop.reason, format!("node {node} is drained by admin: new RAM"));
    assert_eq!(outcome(&sim, &node), None, "its end was not seen");
    assert_eq!(steps(&sim, &node)[0].0, Step::Stopping);
    sim.settle();
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
    assert_eq!((ready(&sim.world), sim.live(&web()).len()), (1, 1));
    let held = sim.world.nodes[&node].holds().any(|h| h.kind == HoldKind::Drain);
    assert!(held, "an empty node stays held until the drain is taken back");
    sim.cancel_drain(&node);
    sim.settle();
    assert!(sim.world.nodes[&node].held().is_none());
}

#[test]
fn it_is_over_only_when_what_was_started_elsewhere_is_ready() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    sim.edit_rc(&web(), |rc| rc.spec.min_ready_seconds = 3);
    sim.settle_for(10);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    sim.report(&new, Phase::Running, true, false);
    passes(&mut sim);
    assert!(
        sim.world.pods.values().all(|p| !p.stopping()),
        "Ready is not yet available"
    );
    sim.settle_for(10);
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
    // One that fails again after the old one has gone keeps it from being over.
    let node = home(&sim);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    sim.report(&new, Phase::Running, true, false);
    sim.now = Time(sim.now.0 + 4);
    sim.wait_until(sim.now);
    passes(&mut sim);
    crashes(&mut sim, &new, 3, "boom");
    let old: Vec<Key> = sim
        .world
        .pods
        .iter()
        .filter(|(_, p)| p.stopping())
        .map(|(k, _)| k.clone())
        .collect();
    sim.report(&old[0], Phase::Running, false, true);
    passes(&mut sim);
    assert_eq!(outcome(&sim, &node), None);
    assert_eq!(steps(&sim, &node), [(Step::Stopped, "CrashLoopBackOff".to_owned())]);
    sim.report(&new, Phase::Running, true, false);
    sim.settle_for(10);
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
}

#[test]
fn a_replacement_that_fails_goes_and_the_pod_stays() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    let old = sim.live(&web())[0].0.clone();
    sim.drain(&node, |_| {});
    for (n, pause) in [10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        passes(&mut sim);
        let [new] = fresh(&sim).try_into().expect("one more");
        crashes(&mut sim, &new, 2, "no");
        passes(&mut sim);
        assert!(!sim.world.pods[&new].stopping(), "two ends are not enough");
        crashes(&mut sim, &new, 3, "starting\ncannot open /data\n");
        passes(&mut sim);
        assert!(sim.world.pods[&new].stopping() && !sim.world.pods[&old].stopping());
        let why = format!("replacement {} exited 1 three times: cannot open /data", new.1);
        let failure = sim.world.pods[&old].record.failure.clone().expect("on record");
        assert_eq!(
            (failure.count as usize, &failure.what, failure.retry.0 - sim.now.0),
            (n + 1, &why, pause)
        );
        let found = steps(&sim, &node);
        assert!(
            found.iter().any(|(s, w)| *s == Step::Blocked && w.starts_with(&why)),
            "{found:?}"
        );
        assert_eq!(state(&sim, &node), State::Blocked);
        sim.report(&new, Phase::Running, false, true);
        sim.wait_until(Time(sim.now.0 + pause - 1));
        passes(&mut sim);
        assert_eq!(fresh(&sim), Vec::<Key>::new(), "not before its time");
        sim.wait_until(Time(sim.now.0 + 1));
    }
    // What is mended moves.
    sim.settle();
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
}

#[test]
fn a_replacement_that_is_not_ready_in_time_has_failed() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    sim.set(&[("drain-replacement-timeout", "30s")]);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    sim.wait_until(Time(sim.now.0 + 29));
    passes(&mut sim);
    assert!(!sim.world.pods[&new].stopping());
    sim.wait_until(Time(sim.now.0 + 1));
    passes(&mut sim);
    assert!(sim.world.pods[&new].stopping());
    let why = format!("replacement {} is not Ready after 30s", new.1);
    let found = steps(&sim, &node);
    assert!(
        found.iter().any(|(s, w)| *s == Step::Blocked && w.starts_with(&why)),
        "{found:?}"
    );
}

#[test]
fn a_pod_that_does_not_serve_goes_at_once() {
    let mut sim = fleet(3, plain());
    let node = home(&sim);
    let at = sim
        .live(&web())
        .iter()
        .find(|(_, p)| p.record.node == node)
        .map(|(k, _)| (*k).clone())
        .expect("one");
    crashes(&mut sim, &at, 7, "");
    sim.drain(&node, |_| {});
    let plans = sim.pass(&std::collections::HashSet::new());
    let commits: Vec<_> = plans.iter().flat_map(|p| &p.commits).collect();
    let moved = commits.iter().any(|c| {
        let stops = |c: &Change| matches!(c, Change::Stop { pod, .. } if pod.key == at);
        let creates = |c: &Change| matches!(c, Change::CreatePod { .. });
        c.changes.iter().any(stops) && c.changes.iter().any(creates)
    });
    assert!(moved, "in one commit: {commits:?}");
    passes(&mut sim);
    assert!(sim.world.pods[&at].stopping(), "nothing is lost with it");
    assert_eq!(sim.live(&web()).len(), 3, "and another one is on its way");
    sim.report(&at, Phase::Running, false, true);
    passes(&mut sim);
    assert_eq!(
        outcome(&sim, &node),
        Some(DrainOutcome::Drained),
        "nobody waits for what was not Ready before"
    );
}

#[test]
fn where_docker_does_not_answer_no_pod_serves() {
    let mut sim = fleet(3, plain());
    let node = home(&sim);
    let here = sim.world.pods_on(&node).count();
    sim.put_condition(&node, "DockerUnavailable");
    sim.settle();
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let stopping = sim.world.pods_on(&node).filter(|(_, p)| p.stopping()).count();
    assert_eq!((stopping, fresh(&sim).len()), (here, here));
}

#[test]
fn a_pod_of_its_own_with_data_stays_though_it_may_go() {
    for accepted in [false, true] {
        let mut lone = template(
            "lone",
            Ask {
                node: "n1",
                ..Ask::default()
            },
        );
        set_field(&mut lone.spec, "volumes", json!([{"name": "data", "emptyDir": {}}]));
        let mut sim = fleet(0, plain());
        sim.put_bare("default", "lone", &lone);
        sim.settle();
        sim.drain("n1", |d| {
            d.options.delete_unmanaged = true;
            d.options.discard_local_data = accepted;
        });
        sim.settle();
        assert_eq!(outcome(&sim, "n1").is_some(), accepted);
        if !accepted {
            let [(step, why)] = steps(&sim, "n1").try_into().expect("one pod");
            assert_eq!(step, Step::Blocked);
            assert!(why.contains("volume data"), "{why}");
        }
    }
}

#[test]
fn pods_that_would_lose_data_stay_unless_that_is_accepted() {
    for (volume, kept) in [
        (json!([{"name": "data", "emptyDir": {}}]), true),
        (json!([{"name": "data", "hostPath": {"path": "/srv"}}]), true),
        (json!([]), false),
    ] {
        for (flag, annotated) in [(false, false), (true, false), (false, true)] {
            let mut template = plain();
            if kept {
                set_field(&mut template.spec, "volumes", volume.clone());
                template.spec.containers[0].volume_mounts =
                    serde_json::from_value(json!([{"name": "data", "mountPath": "/d"}])).expect("a mount");
            }
            if annotated {
                template.metadata.annotations = map(&[("wharfinger.io/local-data", "discard")]);
            }
            let mut sim = fleet(1, template);
            let node = home(&sim);
            sim.drain(&node, |d| d.options.discard_local_data = flag);
            sim.settle();
            let stays = kept && !flag && !annotated;
            assert_eq!(outcome(&sim, &node).is_none(), stays, "{volume} {flag} {annotated}");
            if stays {
                let [(step, why)] = steps(&sim, &node).try_into().expect("one pod");
                assert_eq!(step, Step::Blocked);
                assert!(
                    why.contains("volume data") && why.contains("--local-data discard"),
                    "{why}"
                );
            }
        }
    }
}

#[test]
fn a_pod_without_a_controller_stays_unless_it_may_go() {
    for may in [false, true] {
        let mut sim = fleet(0, plain());
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
        sim.settle();
        sim.drain("n1", |d| d.options.delete_unmanaged = may);
        sim.settle();
        assert_eq!(outcome(&sim, "n1").is_some(), may);
        assert_eq!(sim.world.pods.contains_key(&key("default", "lone")), !may);
        if !may {
            let [(step, why)] = steps(&sim, "n1").try_into().expect("one pod");
            assert_eq!((step, state(&sim, "n1")), (Step::Blocked, State::Blocked));
            assert_eq!(
                why,
                "no controller would start it elsewhere; delete it, or drain with --delete-unmanaged"
            );
        }
    }
}

#[test]
fn singletons_and_those_that_ask_for_it_stop_first() {
    for (annotation, of_controller) in [
        ("wharfinger.io/singleton", false),
        ("wharfinger.io/stop-first", false),
        ("wharfinger.io/stop-first", true),
    ] {
        let mut template = plain();
        let annotations = map(&[(annotation, "true")]);
        if !of_controller {
            template.metadata.annotations.clone_from(&annotations);
        }
        let mut sim = fleet(1, template);
        if of_controller {
            sim.edit_rc(&web(), |rc| rc.metadata.annotations = annotations);
            sim.settle();
        }
        let node = home(&sim);
        let old = sim.live(&web())[0].0.clone();
        sim.drain(&node, |_| {});
        passes(&mut sim);
        assert!(sim.world.pods[&old].stopping(), "{annotation}");
        assert_eq!(
            sim.live(&web()).len(),
            0,
            "{annotation}: its end comes before the next begin"
        );
        sim.report(&old, Phase::Running, false, true);
        passes(&mut sim);
        assert_eq!(sim.live(&web()).len(), 1, "{annotation}");
        assert_eq!(outcome(&sim, &node), None, "{annotation}: the next one is not Ready");
        assert_eq!(steps(&sim, &node)[0].0, Step::Stopped);
        sim.settle();
        assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained), "{annotation}");
    }
}

#[test]
fn one_of_those_that_stop_first_goes_at_a_time() {
    let mut template = plain();
    template.metadata.annotations = map(&[("wharfinger.io/stop-first", "true")]);
    let mut sim = fleet(6, template);
    let node = home(&sim);
    sim.drain(&node, |_| {});
    for _ in 0..40 {
        passes(&mut sim);
        assert!(ready(&sim.world) >= 5, "desired less one");
        if outcome(&sim, &node).is_some() {
            return;
        }
        sim.agents();
    }
    panic!("{:?}", steps(&sim, &node));
}

#[test]
fn without_room_elsewhere_it_stays_unless_downtime_is_allowed() {
    // Each node has room for one.
    let big = || {
        template(
            "web",
            Ask {
                cpu_milli: 3000,
                ..Ask::default()
            },
        )
    };
    for allowed in [false, true] {
        let mut sim = fleet(3, big());
        sim.drain("n1", |d| d.options.allow_downtime = allowed);
        sim.settle();
        let on_it = sim.world.pods_on("n1").count();
        assert_eq!(on_it, usize::from(!allowed));
        let [(step, why)] = steps(&sim, "n1").try_into().expect("one pod");
        if allowed {
            assert_eq!(step, Step::Stopped, "its replacement waits for a place");
            assert!(why.starts_with("0/3 nodes"), "{why}");
        } else {
            assert_eq!((step, state(&sim, "n1")), (Step::Blocked, State::Blocked));
            assert!(why.contains("0/3 nodes") && why.contains("--allow-downtime"), "{why}");
        }
        sim.add_node("n3", &[]);
        sim.settle();
        assert_eq!(outcome(&sim, "n1"), Some(DrainOutcome::Drained));
        assert_eq!(ready(&sim.world), 3);
    }
}

#[test]
fn a_drain_that_is_taken_back_leaves_what_runs() {
    let mut sim = fleet(2, plain());
    let node = home(&sim);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let spares = fresh(&sim);
    assert!(!spares.is_empty());
    sim.cancel_drain(&node);
    passes(&mut sim);
    assert!(spares.iter().all(|key| sim.world.pods[key].stopping()));
    assert!(sim.world.pods_on(&node).all(|(_, pod)| !pod.stopping()));
    sim.settle();
    assert_eq!((ready(&sim.world), sim.live(&web()).len()), (2, 2));
}

#[test]
fn what_is_scaled_away_goes_from_the_node_being_drained() {
    let mut sim = fleet(3, plain());
    let node = home(&sim);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    assert_eq!(sim.live(&web()).len(), 4);
    sim.edit_rc(&web(), |rc| rc.spec.replicas = 2);
    sim.settle();
    assert_eq!((ready(&sim.world), sim.live(&web()).len()), (2, 2));
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
    // Scaled up while one moves: it counts once.
    let node = home(&sim);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    sim.edit_rc(&web(), |rc| rc.spec.replicas = 3);
    passes(&mut sim);
    assert_eq!(sim.live(&web()).len(), 4, "three, and one beside");
}

#[test]
fn deadlines_are_kept_as_asked() {
    let big = || {
        template(
            "web",
            Ask {
                cpu_milli: 3000,
                ..Ask::default()
            },
        )
    };
    for how in [OnDeadline::Block, OnDeadline::Abort, OnDeadline::Force] {
        let mut sim = fleet(3, big());
        sim.drain("n1", |d| d.options.on_deadline = how);
        sim.settle_for(3590);
        assert_eq!((outcome(&sim, "n1"), ready(&sim.world)), (None, 3), "{how:?}");
        sim.settle_for(20);
        let held = sim.world.nodes["n1"].held().is_some();
        match how {
            OnDeadline::Block => {
                assert_eq!((outcome(&sim, "n1"), ready(&sim.world), held), (None, 3, true));
                let report = report(&sim.world, "n1", sim.now).expect("a drain");
                assert!(report.why[0].contains("its deadline passed"), "{:?}", report.why);
            }
            OnDeadline::Abort => {
                assert_eq!(
                    (outcome(&sim, "n1"), ready(&sim.world), held),
                    (Some(DrainOutcome::Aborted), 3, false)
                );
            }
            OnDeadline::Force => {
                assert_eq!((ready(&sim.world), held), (2, true), "it went without a replacement");
                assert_eq!(sim.world.pods_on("n1").count(), 0);
                assert!(sim.world.nodes["n1"].draining().is_some_and(|d| d.forced.is_some()));
            }
        }
    }
}

#[test]
fn force_leaves_local_data_alone() {
    let mut template = plain();
    set_field(&mut template.spec, "volumes", json!([{"name": "data", "emptyDir": {}}]));
    let mut sim = fleet(1, template);
    let node = home(&sim);
    sim.drain(&node, |d| d.options.on_deadline = OnDeadline::Force);
    sim.settle_for(4000);
    assert_eq!((outcome(&sim, &node), ready(&sim.world)), (None, 1));
    assert_eq!(steps(&sim, &node)[0].0, Step::Blocked);
}

#[test]
fn the_freeze_and_the_brake_pause_it() {
    let mut sim = fleet(2, plain());
    let node = home(&sim);
    sim.freeze(Some(Time(sim.now.0 + 100)));
    sim.drain(&node, |_| {});
    sim.settle_for(90);
    assert_eq!((sim.live(&web()).len(), state(&sim, &node)), (2, State::Paused));
    sim.settle_for(60);
    sim.delete(keys::FREEZE.to_owned());
    sim.settle();
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
}

#[test]
fn two_drains_at_once_never_take_a_workload_below_its_floor() {
    let mut sim = Sim::new();
    for n in 0..4 {
        sim.add_node(&format!("n{n}"), &[]);
    }
    sim.put_rc(&rc("default", "web", "u-web", 8, plain()));
    sim.settle();
    sim.drain("n0", |_| {});
    sim.drain("n1", |_| {});
    for _ in 0..100 {
        passes(&mut sim);
        assert!(ready(&sim.world) >= 8);
        if outcome(&sim, "n0").is_some() && outcome(&sim, "n1").is_some() {
            return;
        }
        sim.agents();
    }
    panic!("{:?} {:?}", steps(&sim, "n0"), steps(&sim, "n1"));
}

#[test]
fn daemons_stay_or_stop_last_and_come_back_with_the_node() {
    for stops in [false, true] {
        let mut sim = fleet(3, plain());
        sim.put_ds(&ds("default", "agent", "u-agent", template("agent", Ask::default())));
        sim.settle();
        let daemons = |sim: &Sim| {
            let of_it = sim.world.pods_of("u-agent").filter(|(_, p)| p.live());
            of_it.map(|(_, p)| p.record.node.clone()).collect::<Vec<_>>()
        };
        assert_eq!(daemons(&sim).len(), 3);
        let node = home(&sim);
        sim.drain(&node, |d| d.options.stop_daemons = stops);
        passes(&mut sim);
        assert_eq!(daemons(&sim).len(), 3, "as long as anything else is there");
        sim.settle();
        assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
        assert_eq!(daemons(&sim).contains(&node), !stops);
        assert_eq!(sim.world.pods_on(&node).count(), usize::from(!stops));
        sim.settle_for(1000);
        assert_eq!(daemons(&sim).contains(&node), !stops, "while it is held");
        sim.cancel_drain(&node);
        sim.settle();
        assert_eq!(daemons(&sim).len(), 3);
    }
}

#[test]
fn what_has_ended_by_itself_holds_nothing_up() {
    let mut sim = fleet(0, plain());
    let ask = Ask {
        node: "n1",
        ..Ask::default()
    };
    sim.put_bare("default", "job", &template("job", ask));
    sim.settle();
    sim.report(&key("default", "job"), Phase::Succeeded, false, false);
    sim.drain("n1", |_| {});
    sim.settle();
    assert_eq!(outcome(&sim, "n1"), Some(DrainOutcome::Drained));
}

#[test]
fn an_empty_node_is_drained_at_once() {
    let mut sim = fleet(0, plain());
    sim.drain("n0", |_| {});
    sim.settle();
    assert_eq!(outcome(&sim, "n0"), Some(DrainOutcome::Drained));
    let audits: BTreeMap<_, _> = sim.entries.range("audit/".to_owned().."audit0".to_owned()).collect();
    assert_eq!(audits.len(), 1, "on record");
    let status = sim.world.nodes["n0"].condition().status;
    assert_eq!(status, ConditionStatus::True, "and as ready as before");
}

#[path = "drain_budgets_tests.rs"]
mod budgets;
#[path = "drain_losses_tests.rs"]
mod losses;
#[path = "drain_turns_tests.rs"]
mod turns;
