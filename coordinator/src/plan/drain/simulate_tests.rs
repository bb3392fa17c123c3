//! Where a drain's pods would go, and what would not.

use proptest::prelude::*;
use proto::{
    capability,
    model::{Kind, PodTemplate},
};
use serde_json::json;

use super::*;
use crate::{
    plan::sim::{Ask, Rule, Sim, rc, set_field, template},
    store::keys,
    world::drains::OnDeadline,
};

fn options() -> DrainOptions {
    DrainOptions {
        deadline: Time(2_000_000),
        on_deadline: OnDeadline::Block,
        discard_local_data: false,
        stop_daemons: false,
        delete_unmanaged: false,
        allow_downtime: false,
    }
}

fn asking(host_port: u16, cpu_milli: u64) -> Ask {
    Ask {
        host_port,
        cpu_milli,
        ..Ask::default()
    }
}

fn with(mut template: PodTemplate, annotation: &str, value: &str) -> PodTemplate {
    template.metadata.annotations.insert(annotation.into(), value.into());
    template
}

/// All of these on `n1`, running; then a second node.
fn fleet(pods: &[(&str, i32, PodTemplate)]) -> Sim {
    let mut sim = Sim::new();
    sim.add_node("n1", &[]);
    sim.put_capabilities("n1", &capability::ALL);
    for (name, replicas, template) in pods {
        if *replicas > 0 {
            sim.put_rc(&rc("default", name, &format!("u-{name}"), *replicas, template.clone()));
        } else {
            sim.put_bare("default", name, template);
        }
    }
    sim.settle();
    sim.add_node("n2", &[]);
    sim.put_capabilities("n2", &capability::ALL);
    sim
}

/// Each pod's controller with what becomes of it, where, and why.
fn told(sim: &Sim, options: &DrainOptions) -> Vec<(String, Step, String, String)> {
    let report = simulate(&sim.world, "n1", options, sim.now, 1);
    assert_eq!(report.state, State::Planned);
    let lines = report.lines.into_iter();
    lines
        .map(|l| {
            let name = l.key.1.split('-').next().unwrap_or_default().to_owned();
            (name, l.step, l.new.map(|(_, node)| node).unwrap_or_default(), l.why)
        })
        .collect()
}

fn one(sim: &Sim, options: &DrainOptions) -> (Step, String, String) {
    let mut lines = told(sim, options);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (_, step, to, why) = lines.remove(0);
    (step, to, why)
}

#[test]
fn what_a_controller_has_moves_to_where_there_is_room() {
    let mut sim = fleet(&[
        ("web", 2, template("web", asking(0, 1900))),
        ("api", 1, template("api", asking(0, 100))),
    ]);
    sim.put_facts("n2", 3000, 4 << 30, 20, "");
    let lines = told(&sim, &options());
    let steps: Vec<_> = lines
        .iter()
        .map(|(name, step, to, _)| (name.as_str(), *step, to.as_str()))
        .collect();
    assert_eq!(
        steps,
        [
            ("api", Step::Waiting, "n2"),
            ("web", Step::Waiting, "n2"),
            ("web", Step::Blocked, "")
        ]
    );
    assert_eq!(
        lines[2].3,
        "no node has a place for its replacement: 0/2 nodes: 1 held (to be drained), 1 insufficient cpu; make room, or \
         accept that it is missed: drain with --allow-downtime"
    );
    assert_eq!(simulate(&sim.world, "n1", &options(), sim.now, 1).left, 3);
    let bears = DrainOptions {
        allow_downtime: true,
        ..options()
    };
    let lines = told(&sim, &bears);
    assert_eq!((lines[2].1, lines[2].2.as_str()), (Step::Waiting, ""));
    assert!(
        lines[2]
            .3
            .starts_with("stopped, and missed until there is a place: 0/2 nodes"),
        "{lines:?}"
    );
}

#[test]
fn the_only_node_keeps_all_and_says_why_and_an_empty_one_nothing() {
    let mut sim = Sim::new();
    let empty = simulate(&sim.world, "n1", &options(), sim.now, 1);
    assert_eq!(
        (empty.lines.len(), empty.left, empty.why.len()),
        (0, 0, 0),
        "no such node"
    );
    sim.add_node("n1", &[]);
    sim.put_rc(&rc("default", "web", "u", 1, template("web", Ask::default())));
    sim.settle();
    let (step, to, why) = one(&sim, &options());
    assert_eq!((step, to.as_str()), (Step::Blocked, ""));
    assert!(
        why.starts_with("no node has a place for its replacement: 0/1 nodes: 1 held (to be drained); "),
        "{why}"
    );
    sim.add_node("n2", &[]);
    let empty = simulate(&sim.world, "n2", &options(), sim.now, 1);
    assert_eq!((empty.lines.len(), empty.left), (0, 0));
}

#[test]
fn local_data_and_what_nobody_replaces_wait_for_a_word() {
    let data = || {
        let mut with_data = template("db", Ask::default());
        set_field(
            &mut with_data.spec,
            "volumes",
            json!([{"name": "data", "hostPath": {"path": "/srv/db"}}]),
        );
        let mounts = json!([{"name": "data", "mountPath": "/data"}]);
        let mut container = serde_json::to_value(&with_data.spec.containers[0]).expect("JSON");
        container["volumeMounts"] = mounts;
        set_field(&mut with_data.spec, "containers", json!([container]));
        with_data
    };
    let sim = fleet(&[("db", 1, data())]);
    let (step, _, why) = one(&sim, &options());
    assert_eq!(step, Step::Blocked);
    assert_eq!(
        why,
        "its data in volume data would stay on n1; move them and delete the pod, or drain with --local-data discard"
    );
    let discard = DrainOptions {
        discard_local_data: true,
        ..options()
    };
    assert_eq!(one(&sim, &discard).0, Step::Waiting);
    // Its owner said so before.
    let sim = fleet(&[("db", 1, with(data(), "wharfinger.io/local-data", "discard"))]);
    assert_eq!(one(&sim, &options()).0, Step::Waiting);
    let sim = fleet(&[("job", 0, template("job", Ask::default()))]);
    let (step, to, why) = one(&sim, &options());
    assert_eq!((step, to.as_str()), (Step::Blocked, ""));
    assert!(why.ends_with("delete it, or drain with --delete-unmanaged"), "{why}");
    let delete = DrainOptions {
        delete_unmanaged: true,
        ..options()
    };
    let (step, to, why) = one(&sim, &delete);
    assert_eq!((step, to.as_str()), (Step::Waiting, ""));
    assert_eq!(why, "stopped for good: no controller starts it elsewhere");
}

#[test]
fn a_singleton_is_stopped_first_and_a_host_port_where_an_operator_bears_it() {
    let missed = "stopped first: it is missed until another one is Ready";
    for annotation in ["wharfinger.io/singleton", "wharfinger.io/stop-first"] {
        let sim = fleet(&[("db", 1, with(template("db", asking(80, 0)), annotation, "true"))]);
        assert_eq!(
            one(&sim, &options()),
            (Step::Waiting, "n2".into(), missed.into()),
            "{annotation}"
        );
    }
    // Another host has the port free.
    let mut sim = fleet(&[("web", 1, template("web", asking(80, 0)))]);
    assert_eq!(one(&sim, &options()), (Step::Waiting, "n2".into(), String::new()));
    // Its neighbour on the same machine has not.
    for node in ["n1", "n2"] {
        sim.put_facts(node, 4000, 4 << 30, 20, "m");
    }
    let (step, to, why) = one(&sim, &options());
    assert_eq!((step, to.as_str()), (Step::Blocked, ""));
    assert!(
        why.contains("1 host port 80 taken") && why.ends_with("--allow-downtime"),
        "{why}"
    );
    let bears = DrainOptions {
        allow_downtime: true,
        ..options()
    };
    assert_eq!(one(&sim, &bears), (Step::Waiting, "n2".into(), missed.into()));
    // Where a third node of another machine is, nothing has to be missed.
    sim.add_node("n3", &[]);
    assert_eq!(one(&sim, &options()), (Step::Waiting, "n3".into(), String::new()));
}

#[test]
fn who_serves_nobody_is_not_missed() {
    let mut sim = fleet(&[("web", 1, template("web", Ask::default()))]);
    let at = sim.world.pods.keys().next().expect("one").clone();
    sim.report(&at, proto::model::Phase::Running, false, false);
    let (step, to, why) = one(&sim, &options());
    assert_eq!(
        (step, to.as_str(), why.as_str()),
        (Step::Waiting, "n2", "it is not Ready: stopped at once")
    );
    sim.put_facts("n2", 10, 1, 1, "");
    let (step, to, why) = one(&sim, &options());
    assert!(
        step == Step::Waiting && to.is_empty() && why.contains("missed until there is a place"),
        "{why}"
    );
}

#[test]
fn budgets_that_can_never_be_met_are_named() {
    let mut sim = fleet(&[("web", 1, template("web", Ask::default()))]);
    let mut budget = |name: &str, least: u32| {
        let budget = json!({"metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "web"}}}});
        sim.put(keys::object(Kind::PodDisruptionBudget, "default", name), &budget);
        one(&sim, &options())
    };
    // With the replacement beside it there are two for a while.
    assert_eq!(budget("web", 1), (Step::Waiting, "n2".into(), String::new()));
    let (step, _, why) = budget("web", 5);
    assert_eq!(step, Step::Blocked);
    assert!(
        why.contains("poddisruptionbudget default/web") && why.contains("scale web up by 4"),
        "{why}"
    );
    let (step, _, why) = budget("more", 1);
    assert_eq!(step, Step::Blocked);
    assert!(why.contains("default/web") && why.contains("default/more"), "{why}");
}

#[test]
fn the_node_is_no_domain_for_who_counts_only_nodes_that_take_it() {
    for (policy, fits) in [("Honor", true), ("Ignore", false)] {
        let mut sim = Sim::new();
        for (name, zone, pods) in [("n1", "north", 1), ("n2", "south", 20), ("n3", "south", 20)] {
            sim.put_node(name, &[("zone", zone)], false);
            sim.put_facts(name, 4000, 4 << 30, pods, "");
            sim.put_ready(name, true);
        }
        let mut web = template("web", Ask::default());
        let spread = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "nodeTaintsPolicy": policy, "labelSelector": {"matchLabels": {"app": "web"}}}]);
        set_field(&mut web.spec, "topologySpreadConstraints", spread);
        sim.put_rc(&rc("default", "web", "u", 3, web));
        sim.settle();
        assert_eq!(sim.world.pods_on("n1").count(), 1);
        let (step, _, why) = one(&sim, &options());
        assert_eq!(step == Step::Waiting, fits, "{policy}: {why}");
    }
}

#[test]
fn daemons_stay_or_go_last_and_what_leaves_already_is_said() {
    let mut sim = fleet(&[("log", 1, template("log", Ask::default()))]);
    let at = sim.world.pods.keys().next().expect("one").clone();
    sim.edit_pod(&at, |record| {
        if let Some(owner) = &mut record.owner {
            owner.kind = crate::world::record::OwnerKind::DaemonSet;
        }
    });
    assert_eq!(one(&sim, &options()), (Step::Stays, String::new(), "a daemon".into()));
    assert_eq!(simulate(&sim.world, "n1", &options(), sim.now, 1).left, 0);
    let stop = DrainOptions {
        stop_daemons: true,
        ..options()
    };
    let (step, _, why) = one(&sim, &stop);
    assert_eq!(
        (step, why.as_str()),
        (Step::Waiting, "a daemon: stopped when all others have left")
    );
    sim.stop(&at);
    assert_eq!(one(&sim, &stop).0, Step::Stopping);
}

#[test]
fn what_halts_all_is_said_once() {
    let mut sim = fleet(&[]);
    sim.add_node("n3", &[]);
    sim.freeze(None);
    let why = |sim: &Sim| simulate(&sim.world, "n1", &options(), sim.now, 1).why;
    let frozen = why(&sim);
    assert!(frozen.len() == 1 && frozen[0].starts_with("frozen by "), "{frozen:?}");
    sim.put_ready("n1", false);
    let lost = why(&sim).pop().unwrap_or_default();
    assert!(
        lost.starts_with("node n1 is Unreachable since ") && lost.ends_with("wharf node confirm-off n1"),
        "{lost}"
    );
}

proptest! {
    /// Whatever there is: each pod of the node has one line, no node takes more than it has, the node itself nothing,
    /// and who cannot leave learns why.
    #[test]
    fn every_pod_is_told_of_and_every_place_is_there(
        nodes in prop::collection::vec((0_u64..5000, 0..3_usize, any::<bool>()), 1..5),
        groups in prop::collection::vec((1..5_i32, 0..3000_u64, 0..3_u16, any::<bool>(), 0..3_usize), 0..5),
        flags in any::<(bool, bool, bool, bool)>(),
        seed in any::<u64>(),
    ) {
        let mut sim = Sim::new();
        sim.add_node("n0", &[("zone", "north")]);
        for (i, (replicas, cpu, port, singleton, rule)) in groups.iter().enumerate() {
            let rule = [Rule::Nothing, Rule::Spread, Rule::NotSouth][*rule];
            let app = format!("a{i}");
            let ask = Ask { cpu_milli: *cpu, host_port: *port, rule, ..Ask::default() };
            let mut made = template(&app, ask);
            if *singleton {
                made = with(made, "wharfinger.io/singleton", "true");
            }
            sim.put_rc(&rc("default", &app, &format!("u{i}"), *replicas, made));
        }
        sim.settle();
        for (i, (cpu, machine, ready)) in nodes.iter().enumerate() {
            let name = format!("n{i}");
            sim.put_node(&name, &[("zone", ["north", "south"][i % 2])], false);
            sim.put_facts(&name, 4000 + cpu, 4 << 30, 20, ["", "m1", "m2"][*machine]);
            sim.put_ready(&name, i == 0 || *ready);
        }
        let options = DrainOptions {
            discard_local_data: flags.0, stop_daemons: flags.1, delete_unmanaged: flags.2, allow_downtime: flags.3,
            ..options()
        };
        let before = sim.world.nodes.clone();
        let report = simulate(&sim.world, "n0", &options, sim.now, seed);
        prop_assert_eq!(&report, &simulate(&sim.world, "n0", &options, sim.now, seed));
        prop_assert_eq!(before, sim.world.nodes.clone());
        let there: Vec<_> = sim.world.pods_on("n0").filter(|(_, p)| !p.ended()).map(|(k, _)| k).collect();
        let lines: Vec<_> = report.lines.iter().map(|l| &l.key).collect();
        prop_assert_eq!(there, lines);
        let mut taken: BTreeMap<&str, u64> = BTreeMap::new();
        for line in &report.lines {
            prop_assert!(line.step != Step::Blocked || !line.why.is_empty());
            let Some((_, node)) = line.new.as_ref() else { continue };
            prop_assert!(node != "n0" && sim.world.nodes[node].is_ready(), "{}", node);
            *taken.entry(node).or_default() += sim.world.pods[&line.key].template.as_ref().unwrap().request.cpu_milli;
        }
        for (node, cpu) in taken {
            let node = &sim.world.nodes[node];
            prop_assert!(node.used.cpu_milli + cpu <= node.allocatable.cpu_milli);
        }
    }
}
