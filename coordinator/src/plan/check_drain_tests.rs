//! What a plan may do for a drain: each rule refuses what breaks it, and only that.

use proto::model::Phase;
use serde_json::json;

use crate::{
    plan::{
        Commit, Group, Plan, before,
        change::Change,
        check::Checker,
        gc,
        sim::{Ask, Sim, ds, key, rc, set_field, template},
    },
    world::{
        Key,
        drains::{DrainEnd, DrainOutcome, DrainRecord, OnDeadline},
        record::{FailureRecord, OwnerRecord, PodRecord, ReplacesRecord},
    },
};

type Spoil = fn(&mut Sim);

/// Three nodes, of which `n1` is drained by `d1`; a controller of three whose pod there serves, and its replacement.
fn sim() -> Sim {
    let mut sim = Sim::new();
    for name in ["n1", "n2", "n3"] {
        sim.add_node(name, &[]);
        sim.put_capabilities(name, &proto::capability::ALL);
    }
    let template = template("web", Ask::default());
    sim.put_rc(&rc("default", "web", "u", 3, template));
    sim.settle();
    sim.drain("n1", |d| d.id = "d1".into());
    let (old, _) = there(&sim);
    let record = spare(&sim, &old, "spare");
    sim.put(pod_key("spare"), &record);
    sim.report(&key("default", "spare"), Phase::Running, true, false);
    sim
}

fn pod_key(name: &str) -> String {
    crate::store::keys::object(proto::model::Kind::Pod, "default", name)
}

fn web() -> Group {
    Group::Controller(key("default", "web"))
}

/// The pod of `n1`, and another one of the controller.
fn there(sim: &Sim) -> (Key, Key) {
    let of = |node: &str| {
        let mut on = sim.world.pods_on(node).filter(|(k, _)| k.1 != "spare");
        on.next().map(|(k, _)| k.clone()).expect("a pod")
    };
    (of("n1"), of("n2"))
}

fn spare(sim: &Sim, old: &Key, name: &str) -> PodRecord {
    let pod = &sim.world.pods[old];
    PodRecord {
        uid: format!("uid-{name}"),
        template: pod.record.template.clone(),
        node: "n3".into(),
        owner: Some(OwnerRecord {
            name: "web".into(),
            uid: "u".into(),
            ..OwnerRecord::default()
        }),
        replaces: Some(ReplacesRecord {
            name: old.1.clone(),
            uid: pod.record.uid.clone(),
            node: "n1".into(),
            drain: "d1".into(),
        }),
        ..PodRecord::default()
    }
}

fn plan_of(group: &Group, changes: Vec<Change>) -> Plan {
    Plan {
        commits: vec![Commit {
            group: group.clone(),
            changes,
            notes: Vec::new(),
        }],
        wake_at: None,
    }
}

fn admit(sim: &Sim, group: &Group, changes: Vec<Change>) -> Result<(), String> {
    let mut checker = Checker::new(sim.now);
    let admitted = checker.admit(&sim.world, group, &plan_of(group, changes));
    admitted.map_err(|v| v.what)
}

fn refused(sim: &Sim, group: &Group, changes: Vec<Change>, why: &str) {
    let what = admit(sim, group, changes).expect_err(why);
    assert!(what.contains(why), "{what}");
}

/// The stop of the pod for the drain.
fn drained(sim: &Sim, at: &Key) -> Change {
    let mut stop = gc::stop_of(at, &sim.world.pods[at], "r", false, sim.now);
    if let Change::Stop { drain, .. } = &mut stop {
        *drain = Some("d1".into());
    }
    stop
}

#[test]
fn a_pod_that_serves_is_stopped_once_its_replacement_serves() {
    let sim_of = |change: Spoil| {
        let mut sim = sim();
        change(&mut sim);
        sim
    };
    let stop = |sim: &Sim| vec![drained(sim, &there(sim).0)];
    let fine: [Spoil; 6] = [
        |_| {},
        // It serves nobody.
        |s| {
            s.delete(pod_key("spare"));
            let (old, _) = there(s);
            s.report(&old, Phase::Running, false, false);
        },
        |s| {
            s.delete(pod_key("spare"));
            s.drain("n1", |d| {
                d.id = "d1".into();
                d.options.allow_downtime = true;
            });
        },
        |s| {
            s.delete(pod_key("spare"));
            s.drain("n1", |d| {
                d.id = "d1".into();
                d.forced = Some(d.since);
            });
        },
        |s| {
            s.delete(pod_key("spare"));
            s.edit_rc(&key("default", "web"), |rc| rc.spec.replicas = 2);
        },
        // Of three, wherever the replacement is.
        |s| {
            let of = json!({"matchLabels": {"app": "web"}});
            s.put_budget("default", "all", json!({"maxUnavailable": 0, "selector": of}));
        },
    ];
    for (n, change) in fine.into_iter().enumerate() {
        let sim = sim_of(change);
        admit(&sim, &web(), stop(&sim)).unwrap_or_else(|what| panic!("{n}: {what}"));
    }
    let broken: [(Spoil, &str); 13] = [
        (|s| s.delete(pod_key("spare")), "2 of 3 would be left"),
        (
            |s| s.report(&key("default", "spare"), Phase::Running, false, false),
            "2 of 3 would be left",
        ),
        (|s| s.put_ready("n3", false), "of 3 would be left"),
        (|s| s.stop(&key("default", "spare")), "2 of 3 would be left"),
        (
            |s| {
                s.now.0 += 100;
                for ready in [false, true] {
                    s.report(&key("default", "spare"), Phase::Running, ready, false);
                }
                s.edit_rc(&key("default", "web"), |rc| rc.spec.min_ready_seconds = 30);
            },
            "2 of 3 would be left",
        ),
        (
            |s| {
                let (old, _) = there(s);
                s.stop(&old);
            },
            "is being stopped already",
        ),
        (|s| s.cancel_drain("n1"), "is not drained by d1"),
        (|s| s.drain("n1", |_| {}), "is not drained by d1"),
        (|s| s.put_ready("n1", false), "is not heard"),
        (|s| s.freeze(None), "frozen"),
        (
            |s| {
                let of = json!({"matchLabels": {"app": "web"}});
                s.put_budget("default", "all", json!({"minAvailable": 4, "selector": of}));
            },
            "asks for 4",
        ),
        (
            |s| {
                s.put_bare("default", "lone", &template("lone", Ask::default()));
                s.put_budget("default", "all", json!({"maxUnavailable": 0, "selector": {}}));
            },
            "asks for 4",
        ),
        (
            |s| {
                for (name, labels) in [("one", json!({"app": "web"})), ("two", json!({}))] {
                    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": labels}});
                    s.put_budget("default", name, spec);
                }
            },
            "has two budgets",
        ),
    ];
    for (change, why) in broken {
        let sim = sim_of(change);
        refused(&sim, &web(), stop(&sim), why);
    }
}

#[test]
fn what_a_plan_and_its_pass_stop_serves_no_more() {
    let mut sim = sim();
    sim.delete(pod_key("spare"));
    sim.drain("n1", |d| {
        d.id = "d1".into();
        d.options.allow_downtime = true;
    });
    let (old, other) = there(&sim);
    let scaled = gc::stop_of(&other, &sim.world.pods[&other], "r", false, sim.now);
    let both = vec![scaled.clone(), drained(&sim, &old)];
    refused(&sim, &web(), both, "1 of 3 would be left");
    let mut checker = Checker::new(sim.now);
    let plan = |change| plan_of(&web(), vec![change]);
    checker.admit(&sim.world, &web(), &plan(scaled)).expect("one");
    let second = checker.admit(&sim.world, &web(), &plan(drained(&sim, &old)));
    let what = second.expect_err("another plan of the pass stops one").what;
    assert!(what.contains("1 of 3 would be left"), "{what}");
}

#[test]
fn a_daemon_stays_unless_daemons_are_to_stop() {
    for stops in [false, true] {
        let mut sim = sim();
        sim.put_ds(&ds("default", "logs", "l", template("logs", Ask::default())));
        sim.settle();
        sim.drain("n1", |d| {
            d.id = "d1".into();
            d.options.stop_daemons = stops;
        });
        let daemon = |sim: &Sim| {
            let mut daemons = sim.world.pods_on("n1").filter(|(_, pod)| pod.is_daemon());
            daemons.next().expect("a daemon").0.clone()
        };
        let at = daemon(&sim);
        let group = Group::DaemonSet(key("default", "logs"));
        let stop = vec![drained(&sim, &at)];
        if stops {
            admit(&sim, &group, stop).expect("it is to stop");
        } else {
            refused(&sim, &group, stop, "is a daemon");
        }
        // And the drain is over with it, or without.
        let others: Vec<Key> = sim
            .world
            .pods_on("n1")
            .map(|(k, _)| k.clone())
            .filter(|k| *k != at)
            .collect();
        for other in others {
            sim.delete(pod_key(&other.1));
        }
        let drain = sim.world.nodes["n1"].drain.as_ref().expect("a drain");
        let mut record = (*drain.value).clone();
        record.ended = Some(DrainEnd {
            at: sim.now,
            how: DrainOutcome::Drained,
        });
        let end = Change::SetDrain {
            node: "n1".into(),
            rv: drain.rv,
            record,
            holds: None,
        };
        let ended = admit(&sim, &Group::Drain("n1".into()), vec![end]);
        assert_eq!(ended.is_err(), stops, "{ended:?}");
    }
}

#[test]
fn data_and_pods_of_their_own_stay_unless_their_loss_is_accepted() {
    let volumes = |path: Option<&str>| match path {
        Some(path) => json!([{"name": "v", "hostPath": {"path": path}}]),
        None => json!([{"name": "v", "emptyDir": {}}]),
    };
    for (path, why) in [(None, "emptyDir"), (Some("/srv"), "hostPath")] {
        for accepted in [false, true] {
            let mut template = template(
                "lone",
                Ask {
                    node: "n1",
                    ..Ask::default()
                },
            );
            set_field(&mut template.spec, "volumes", volumes(path));
            template.spec.containers[0].volume_mounts =
                serde_json::from_value(json!([{"name": "v", "mountPath": "/v"}])).expect("a mount");
            let mut sim = sim();
            sim.put_bare("default", "lone", &template);
            sim.edit_pod(&key("default", "lone"), |r| r.node = "n1".into());
            let at = key("default", "lone");
            let group = Group::Pod(at.clone());
            refused(&sim, &group, vec![drained(&sim, &at)], "nothing replaces");
            sim.drain("n1", |d| {
                d.id = "d1".into();
                d.options.delete_unmanaged = true;
                d.options.discard_local_data = accepted;
            });
            let stop = vec![drained(&sim, &at)];
            if accepted {
                admit(&sim, &group, stop).expect("accepted");
            } else {
                refused(&sim, &group, stop, why);
            }
        }
    }
}

#[test]
fn a_pod_has_one_replacement_and_only_what_is_drained_has_one() {
    let mut sim = sim();
    let (old, other) = there(&sim);
    let create = |record: PodRecord| {
        vec![Change::CreatePod {
            key: key("default", "new"),
            record,
        }]
    };
    refused(
        &sim,
        &web(),
        create(spare(&sim, &old, "new")),
        "has a replacement already",
    );
    sim.delete(pod_key("spare"));
    admit(&sim, &web(), create(spare(&sim, &old, "new"))).expect("the first one");
    let mut stray = spare(&sim, &other, "new");
    stray.replaces.as_mut().expect("it replaces").node = "n2".into();
    refused(&sim, &web(), create(stray), "is not drained");
    sim.put_rc(&rc("default", "db", "v", 0, template("db", Ask::default())));
    let mut foreign = spare(&sim, &old, "new");
    foreign.owner = Some(OwnerRecord {
        name: "db".into(),
        uid: "v".into(),
        ..OwnerRecord::default()
    });
    refused(
        &sim,
        &Group::Controller(key("default", "db")),
        create(foreign),
        "another controller's",
    );
}

#[test]
fn a_failure_is_noted_with_the_end_of_what_failed() {
    let sim = sim();
    let (old, _) = there(&sim);
    let fail = Change::Fail {
        pod: before(&old, &sim.world.pods[&old]),
        failure: FailureRecord {
            drain: "d1".into(),
            count: 1,
            what: "w".into(),
            retry: sim.now,
        },
    };
    refused(&sim, &web(), vec![fail.clone()], "no replacement");
    let at = key("default", "spare");
    let stop = gc::stop_of(&at, &sim.world.pods[&at], "r", false, sim.now);
    admit(&sim, &web(), vec![stop, fail]).expect("both");
}

#[test]
fn a_drain_ends_once_empty_or_as_its_deadline_asks() {
    let set = |sim: &Sim, release: bool, f: &dyn Fn(&mut DrainRecord)| {
        let node = &sim.world.nodes["n1"];
        let drain = node.drain.as_ref().expect("a drain");
        let mut record = (*drain.value).clone();
        f(&mut record);
        let holds = node.holds.as_ref().filter(|_| release);
        vec![Change::SetDrain {
            node: "n1".into(),
            rv: drain.rv,
            record,
            holds: holds.map(|h| (h.rv, crate::world::record::HoldsRecord::new())),
        }]
    };
    let end = |how| {
        move |d: &mut DrainRecord| {
            d.ended = Some(DrainEnd { at: d.since, how });
        }
    };
    let group = Group::Drain("n1".into());
    let mut sim = sim();
    let (old, _) = there(&sim);
    refused(
        &sim,
        &group,
        set(&sim, false, &end(DrainOutcome::Drained)),
        "is still on node n1",
    );
    refused(
        &sim,
        &group,
        set(&sim, true, &end(DrainOutcome::Aborted)),
        "not to be aborted",
    );
    refused(
        &sim,
        &group,
        set(&sim, true, &end(DrainOutcome::Cancelled)),
        "only an operator",
    );
    refused(
        &sim,
        &group,
        set(&sim, false, &|d| d.forced = Some(d.since)),
        "not to be forced",
    );
    refused(&sim, &group, set(&sim, false, &|d| d.total = 9), "made another");
    sim.delete(pod_key(&old.1));
    sim.report(&key("default", "spare"), Phase::Running, false, false);
    refused(
        &sim,
        &group,
        set(&sim, false, &end(DrainOutcome::Drained)),
        "does not serve yet",
    );
    sim.report(&key("default", "spare"), Phase::Running, true, false);
    refused(&sim, &group, set(&sim, true, &end(DrainOutcome::Drained)), "stays held");
    admit(&sim, &group, set(&sim, false, &end(DrainOutcome::Drained))).expect("it is empty");
    for (how, forces, aborts) in [
        (OnDeadline::Block, false, false),
        (OnDeadline::Abort, false, true),
        (OnDeadline::Force, true, false),
    ] {
        sim.drain("n1", |d| d.options.on_deadline = how);
        for early in [
            set(&sim, false, &|d| d.forced = Some(d.since)),
            set(&sim, true, &end(DrainOutcome::Aborted)),
        ] {
            admit(&sim, &group, early).expect_err("before its deadline");
        }
        sim.now.0 += 3600;
        let forced = set(&sim, true, &|d| d.forced = Some(d.since));
        assert!(
            admit(&sim, &group, forced).is_err(),
            "a drain that goes on keeps its hold"
        );
        let forced = admit(&sim, &group, set(&sim, false, &|d| d.forced = Some(d.since)));
        let aborted = admit(&sim, &group, set(&sim, true, &end(DrainOutcome::Aborted)));
        assert_eq!((forced.is_ok(), aborted.is_ok()), (forces, aborts), "{how:?}");
        refused(
            &sim,
            &group,
            set(&sim, false, &end(DrainOutcome::Aborted)),
            "keeps its hold",
        );
    }
    sim.cancel_drain("n1");
    refused(&sim, &group, set(&sim, false, &end(DrainOutcome::Drained)), "is over");
}
