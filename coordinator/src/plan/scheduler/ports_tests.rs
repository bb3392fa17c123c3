//! Which host ports are given: free ones, as many as asked for, by the seed alone.

use proptest::prelude::*;
use proto::model::{Kind, host_port::GIVEN};

use super::*;
use crate::{
    plan::{
        scheduler::{Batch, Counts, Placed, Pods},
        sim::{Ask, Rule, Sim, key, rc, template},
    },
    store::{Rv, keys},
    world::record::{PodRecord, TemplateRecord},
};

const ASKS: Ask = Ask {
    cpu_milli: 0,
    memory: 0,
    host_port: 0,
    asking: 1,
    zone: None,
    node: "",
    rule: Rule::Nothing,
};

fn of(ask: Ask) -> Template {
    Template::new(Rv::default(), TemplateRecord::new(&template("app", ask)))
}

fn sim(nodes: &[(&str, &str)]) -> Sim {
    let mut sim = Sim::new();
    for (name, machine) in nodes {
        sim.add_node(name, &[]);
        sim.put_facts(name, 1 << 30, 1 << 60, 1 << 30, machine);
    }
    sim
}

/// A pod on the node that has these ports.
fn put(sim: &mut Sim, name: &str, node: &str, template: &Template, ports: Vec<u16>) {
    let (hash, _) = template.record.encode();
    sim.put(keys::template(&hash), &template.record);
    let record = PodRecord {
        uid: name.to_owned(),
        template: hash,
        node: node.to_owned(),
        ports,
        ..PodRecord::default()
    };
    sim.put(keys::object(Kind::Pod, "default", name), &record);
}

/// Places `n` pods; (node, ports) of each.
fn place(sim: &Sim, ask: Ask, seed: u64, n: usize) -> (Vec<(String, Vec<u16>)>, String) {
    let template = of(ask);
    let mut placed = Placed::default();
    let mut batch = Batch::new(
        &sim.world,
        Pods::new("default", &template),
        &Counts::new(),
        &placed,
        seed,
    );
    let all = std::iter::from_fn(|| batch.place(&mut placed)).take(n);
    let all = all.map(|p| (p.node.to_owned(), p.ports)).collect();
    (all, batch.explain())
}

#[test]
fn the_whole_range_is_given_and_then_no_more() {
    let sim = sim(&[("n1", ""), ("n2", "")]);
    let (all, why) = place(&sim, ASKS, 7, usize::MAX);
    let mut ports: Vec<_> = all
        .iter()
        .filter(|(n, _)| n == "n1")
        .flat_map(|(_, p)| p.clone())
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, GIVEN.collect::<Vec<_>>(), "each port of a node once");
    assert_eq!(all.len(), 2 * GIVEN.len());
    assert_eq!(why, "0/2 nodes: 2 too few free host ports from 20000 to 32000");
}

#[test]
fn what_cannot_be_given_whole_gives_nothing() {
    let mut sim = sim(&[("n1", "")]);
    // All but one port are named by a pod.
    let mut spec = template("full", Ask::default());
    spec.spec.containers[0].ports = GIVEN
        .skip(1)
        .map(|port| proto::model::ContainerPort {
            container_port: 80,
            host_port: port,
            ..Default::default()
        })
        .collect();
    put(
        &mut sim,
        "full",
        "n1",
        &Template::new(Rv::default(), TemplateRecord::new(&spec)),
        Vec::new(),
    );
    let node = &sim.world.nodes["n1"];
    let mut ports = Ports::new();
    let mut give = |asking: u16| {
        let template = of(Ask { asking, ..ASKS });
        Given::new(&sim.world, &template, 1).give("n1", node, &template, &mut ports)
    };
    assert_eq!(give(3), None, "two TCP ports are asked for and one is free");
    assert_eq!(give(1), Some(vec![20_000]), "the refused pod left it");
    assert_eq!(give(1), None);
}

#[test]
fn nodes_of_one_machine_and_ports_of_templates_are_seen() {
    let mut sim = sim(&[("a", "m"), ("b", "m")]);
    let asks = of(ASKS);
    // With this seed the first choice would be the port that a pod beside it has.
    let first = place(&sim, ASKS, 3, 1).0.remove(0).1[0];
    for (name, node) in [("p", "a"), ("q", "b")] {
        put(&mut sim, name, node, &asks, vec![first]);
        let (all, _) = place(&sim, ASKS, 3, 4);
        assert!(all.iter().all(|(_, ports)| *ports != [first]), "{all:?}");
        sim.delete(keys::object(Kind::Pod, "default", name));
    }
    let fixed = Ask {
        host_port: first,
        ..Ask::default()
    };
    put(&mut sim, "r", "b", &of(fixed), Vec::new());
    assert!(place(&sim, ASKS, 3, 4).0.iter().all(|(_, ports)| *ports != [first]));
    sim.delete(keys::object(Kind::Pod, "default", "r"));
    // Its own template's port is none to give either.
    let both = Ask {
        host_port: first,
        ..ASKS
    };
    assert_ne!(place(&sim, both, 3, 1).0[0].1, [first]);
}

#[test]
fn a_given_port_is_taken_for_a_pod_that_names_it_and_free_once_the_pod_is_gone() {
    let mut sim = sim(&[("n1", "")]);
    sim.put_rc(&rc("default", "web", "u", 1, template("web", ASKS)));
    sim.settle();
    let at = sim.world.pods.keys().next().expect("a pod").clone();
    let [port] = sim.world.pods[&at].record.ports[..] else {
        panic!("one port")
    };
    let named = Ask {
        host_port: port,
        ..Ask::default()
    };
    let (beside, why) = place(&sim, named, 1, 1);
    assert!(beside.is_empty(), "{beside:?}");
    assert_eq!(why, format!("0/1 nodes: 1 host port {port} taken"));
    sim.delete(keys::object(Kind::ReplicationController, "default", "web"));
    sim.settle();
    assert!(!sim.world.pods.contains_key(&at));
    assert_eq!(place(&sim, named, 1, 1).0.len(), 1);
    // A waiting pod gets its ports with its node.
    sim.put_ready("n1", false);
    sim.put_bare("default", "late", &template("late", ASKS));
    sim.settle();
    assert!(sim.world.pods[&key("default", "late")].record.ports.is_empty());
    sim.put_ready("n1", true);
    sim.settle();
    assert_eq!(sim.world.pods[&key("default", "late")].record.ports.len(), 1);
}

proptest! {
    /// Whatever is asked for, where and beside what: no port twice on a machine, each in the range, and the same again
    /// for the same seed.
    #[test]
    fn never_twice_on_a_machine(
        machines in prop::collection::vec(0..3_usize, 1..6),
        batches in prop::collection::vec((0..4_u16, 0..2_u16, 0..9_usize), 1..6),
        seed in any::<u64>(),
    ) {
        let names: Vec<String> = (0..machines.len()).map(|i| format!("n{i}")).collect();
        let machine = |i: usize| ["", "m1", "m2"][machines[i]];
        let nodes: Vec<_> = names.iter().enumerate().map(|(i, n)| (n.as_str(), machine(i))).collect();
        let sim = sim(&nodes);
        let run = || {
            let mut placed = Placed::default();
            let mut all = Vec::new();
            for (asking, fixed, n) in &batches {
                let template = of(Ask { asking: *asking, host_port: 21_000 * fixed, ..ASKS });
                let mut batch = Batch::new(&sim.world, Pods::new("default", &template), &Counts::new(), &placed, seed);
                for place in std::iter::from_fn(|| batch.place(&mut placed)).take(*n) {
                    all.push((place.node.to_owned(), place.ports, template.clone()));
                }
            }
            all
        };
        let all = run();
        let mut seen = HashSet::new();
        for (node, ports, template) in &all {
            prop_assert_eq!(ports.len(), template.asking.len());
            prop_assert!(ports.iter().all(|p| GIVEN.contains(p)));
            let given = ports.iter().copied().zip(template.asking.iter().copied());
            for port in template.host_ports.iter().copied().chain(given) {
                let domain = port_domain(node, &sim.world.nodes[node]);
                prop_assert!(seen.insert((domain, port)), "{port:?} twice on {node}");
            }
        }
        let again = run();
        prop_assert_eq!(
            all.iter().map(|(n, p, _)| (n, p)).collect::<Vec<_>>(),
            again.iter().map(|(n, p, _)| (n, p)).collect::<Vec<_>>()
        );
    }
}
