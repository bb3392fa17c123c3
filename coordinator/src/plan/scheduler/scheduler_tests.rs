//! Placement of batches, and the words for what cannot be placed.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use proto::model::Time;
use serde_json::json;

use super::*;
use crate::{
    plan::sim::{Ask, Sim, set_field, template},
    store::Rv,
    world::record::{HoldsRecord, TemplateRecord},
};

fn of(ask: Ask) -> Template {
    Template::new(Rv::default(), TemplateRecord::new(&template("app", ask)))
}

/// Places `n` pods; the nodes, and the text for the one that did not fit.
fn place_all(sim: &Sim, ask: Ask, n: usize) -> (Vec<String>, Option<String>) {
    let template = of(ask);
    let mut placed = Placed::default();
    let mut batch = Batch::new(&sim.world, Pods::new("default", &template), &Counts::new(), &placed, 7);
    let mut nodes = Vec::new();
    for _ in 0..n {
        match batch.place(&mut placed) {
            Some(place) => nodes.push(place.node.to_owned()),
            None => return (nodes, Some(batch.explain())),
        }
    }
    (nodes, None)
}

fn why(sim: &Sim, ask: Ask) -> String {
    let (nodes, why) = place_all(sim, ask, 1000);
    assert!(nodes.is_empty(), "placed on {nodes:?}");
    why.expect("a text")
}

#[test]
fn says_why_in_a_fixed_form() {
    let mut sim = Sim::new();
    let plain = Ask::default();
    assert_eq!(why(&sim, plain), "0 nodes: no node has joined");
    for name in ["n1", "n2", "n3"] {
        sim.add_node(name, &[]);
    }
    sim.put_node("n3", &[("zone", "north")], false);
    sim.put_ready("n3", false);
    let north = Ask {
        zone: Some("north"),
        ..plain
    };
    assert_eq!(
        why(&sim, north),
        "0/3 nodes: 2 do not match nodeSelector zone=north, 1 not Ready"
    );
    sim.put_node("n2", &[], true);
    let huge = Ask {
        cpu_milli: 9000,
        ..plain
    };
    assert_eq!(
        why(&sim, huge),
        "0/3 nodes: 1 not Ready, 1 held (cordon by admin), 1 insufficient cpu"
    );
    sim.put_facts("n1", 4000, 4 << 30, 0, "");
    assert_eq!(
        why(&sim, plain),
        "0/3 nodes: 1 not Ready, 1 held (cordon by admin), 1 insufficient pods"
    );
    let memory = Ask {
        memory: 1 << 40,
        ..plain
    };
    assert_eq!(
        why(&sim, memory),
        "0/3 nodes: 1 not Ready, 1 held (cordon by admin), 1 insufficient memory"
    );
    let far = Ask { node: "n9", ..plain };
    assert_eq!(why(&sim, far), "0/3 nodes: 3 are not node n9");
    let other = Ask { node: "n2", ..plain };
    assert_eq!(
        why(&sim, other),
        "0/3 nodes: 2 are not node n2, 1 held (cordon by admin)"
    );
}

#[test]
fn holds_are_counted_by_their_words() {
    let mut sim = Sim::new();
    for i in 0..9 {
        sim.add_node(&format!("n{i}"), &[]);
    }
    for (node, by, reason) in [
        ("n0", "admin", "RAM swap"),
        ("n1", "admin", "RAM swap"),
        ("n2", "bob", "RAM swap"),
        ("n2", "admin", "disk"),
    ] {
        sim.cordon(node, by, reason, None);
    }
    for i in 3..9 {
        sim.cordon(&format!("n{i}"), "admin", &format!("rack {i}"), None);
    }
    let text = why(&sim, Ask::default());
    assert_eq!(
        text,
        "0/9 nodes: 2 held (cordon by admin: RAM swap), 1 held (cordon by admin: disk; cordon by bob: RAM swap), \
         1 held (cordon by admin: rack 3), 1 held (cordon by admin: rack 4), 4 held for other reasons"
    );
    // An end that has passed and was not seen yet still holds.
    sim.edit_holds("n3", HoldsRecord::clear);
    sim.cordon("n3", "admin", "", Some(Time(sim.now.0 - 5)));
    assert!(why(&sim, Ask::default()).contains("1 held (cordon by admin)"));
    sim.edit_holds("n3", HoldsRecord::clear);
    assert_eq!(place_all(&sim, Ask::default(), 1).0, ["n3"]);
}

#[test]
fn says_which_affinity_taint_or_spread_keeps_it_waiting() {
    let mut sim = Sim::new();
    for (name, zone) in [("n1", "north"), ("n2", "south"), ("n3", "")] {
        let labels = [("zone", zone)];
        sim.add_node(name, if zone.is_empty() { &[] } else { &labels });
    }
    sim.taint("n1", &["f:PreferNoSchedule", "dedicated=db:NoSchedule"]);
    let mut pod = template("app", Ask::default());
    for (field, value) in [
        (
            "affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["south"]}]}]}}}),
        ),
        (
            "topologySpreadConstraints",
            json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2,
                "labelSelector": {"matchLabels": {"app": "app"}}}]),
        ),
    ] {
        set_field(&mut pod.spec, field, value);
    }
    let template = Template::new(Rv::default(), TemplateRecord::new(&pod));
    let place = |sim: &Sim, n: usize| {
        let mut placed = Placed::default();
        let mut batch = Batch::new(&sim.world, Pods::new("default", &template), &Counts::new(), &placed, 7);
        let nodes: Vec<_> = (0..n)
            .filter_map(|_| batch.place(&mut placed))
            .map(|p| p.node)
            .collect();
        (nodes.join(","), batch.explain())
    };
    assert_eq!(
        place(&sim, 1).1,
        "0/3 nodes: 1 does not match nodeAffinity zone notin (south), 1 has no label zone to spread pods over, \
         1 has taint dedicated=db:NoSchedule that the pod does not tolerate"
    );
    sim.taint("n1", &[]);
    // With one domain of two the least is none.
    assert_eq!(
        place(&sim, 3),
        (
            "n1".to_owned(),
            "0/3 nodes: 1 does not match nodeAffinity zone notin (south), 1 has no label zone to spread pods over, \
             1 would exceed maxSkew 1 over zone"
                .to_owned()
        )
    );
}

#[test]
fn a_full_fleet_explains_what_ran_out() {
    let mut sim = Sim::new();
    sim.add_node("n1", &[]);
    sim.add_node("n2", &[]);
    let ask = Ask {
        cpu_milli: 1000,
        ..Ask::default()
    };
    let (nodes, why) = place_all(&sim, ask, 9);
    assert_eq!(nodes.len(), 8);
    assert_eq!(why.as_deref(), Some("0/2 nodes: 2 insufficient cpu"));
}

#[test]
fn a_pod_goes_only_where_the_agent_can_do_what_it_needs() {
    let mut sim = Sim::new();
    sim.add_node("n1", &[]);
    sim.add_node("n2", &[]);
    let mut pod = template("app", Ask::default());
    pod.spec.host_network = true;
    pod.spec.security_context.run_as_user = Some(1);
    let template = Template::new(Rv::default(), TemplateRecord::new(&pod));
    let place = |sim: &Sim| {
        let mut placed = Placed::default();
        let mut batch = Batch::new(&sim.world, Pods::new("default", &template), &Counts::new(), &placed, 7);
        let node = batch.place(&mut placed).map(|p| p.node.to_owned());
        node.ok_or_else(|| batch.explain())
    };
    sim.put_capabilities("n1", &["sandbox", "security-context"]);
    assert_eq!(
        place(&sim),
        Err("0/2 nodes: 1 has an agent without host-network: update the agent, \
             1 has an agent without security-context: update the agent"
            .to_owned())
    );
    sim.put_capabilities("n2", &["security-context", "host-network"]);
    assert_eq!(place(&sim), Ok("n2".to_owned()));
    // A pod that needs nothing of the kind goes anywhere.
    assert_eq!(place_all(&sim, Ask::default(), 2).0.len(), 2);
}

#[test]
fn in_the_host_s_network_a_container_port_is_a_host_port() {
    let mut pod = template("app", Ask::default());
    pod.spec.host_network = true;
    pod.spec.containers[0].ports.push(proto::model::ContainerPort {
        container_port: 80,
        ..Default::default()
    });
    let template = Template::new(Rv::default(), TemplateRecord::new(&pod));
    assert_eq!(template.host_ports, [(80, proto::model::Protocol::Tcp)]);
}

#[test]
fn nodes_of_one_machine_share_its_host_ports() {
    let mut sim = Sim::new();
    for (name, machine) in [("a", "m1"), ("b", "m1"), ("c", ""), ("d", "")] {
        sim.add_node(name, &[]);
        sim.put_facts(name, 4000, 4 << 30, 20, machine);
    }
    let ask = Ask {
        host_port: 8080,
        ..Ask::default()
    };
    let (nodes, why) = place_all(&sim, ask, 9);
    let on_m1 = nodes.iter().filter(|n| ["a", "b"].contains(&n.as_str())).count();
    assert_eq!((nodes.len(), on_m1), (3, 1), "{nodes:?}");
    assert_eq!(why.as_deref(), Some("0/4 nodes: 4 host port 8080 taken"));
}

#[test]
fn what_a_pass_placed_counts_for_the_next_batch() {
    let mut sim = Sim::new();
    sim.add_node("n1", &[]);
    let template = of(Ask {
        cpu_milli: 3000,
        host_port: 80,
        ..Ask::default()
    });
    let mut placed = Placed::default();
    let first = Batch::new(&sim.world, Pods::new("default", &template), &Counts::new(), &placed, 1).place(&mut placed);
    assert_eq!(first.map(|p| p.node), Some("n1"));
    let small = of(Ask {
        cpu_milli: 1500,
        ..Ask::default()
    });
    let mut second = Batch::new(&sim.world, Pods::new("default", &small), &Counts::new(), &placed, 1);
    assert_eq!(second.place(&mut placed), None);
    let port = of(Ask {
        host_port: 80,
        ..Ask::default()
    });
    let mut third = Batch::new(&sim.world, Pods::new("default", &port), &Counts::new(), &placed, 1);
    assert_eq!(third.place(&mut placed), None);
    assert_eq!(third.explain(), "0/1 nodes: 1 host port 80 taken");
}

#[test]
fn spread_goes_before_load_and_load_before_chance() {
    let mut sim = Sim::new();
    for name in ["n1", "n2", "n3"] {
        sim.add_node(name, &[]);
    }
    sim.put_facts("n2", 8000, 8 << 30, 20, "");
    let template = of(Ask {
        cpu_milli: 1000,
        ..Ask::default()
    });
    let mut placed = Placed::default();
    let counts: Counts<'_> = HashMap::from([("n1", 1), ("n2", 1)]);
    let mut batch = Batch::new(&sim.world, Pods::new("default", &template), &counts, &placed, 3);
    assert_eq!(
        batch.place(&mut placed).map(|p| p.node),
        Some("n3"),
        "the node without a pod of the group"
    );
    let second = batch.place(&mut placed).map(|p| p.node);
    assert_eq!(second, Some("n2"), "the largest of those with one");
}

proptest! {
    /// Equal nodes get equal shares, and the order of the nodes depends on the seed.
    #[test]
    fn spreads_evenly(nodes in 1..8_usize, pods in 1..40_usize) {
        let mut sim = Sim::new();
        for i in 0..nodes {
            sim.add_node(&format!("n{i}"), &[]);
        }
        let (placed, _) = place_all(&sim, Ask::default(), pods);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for node in &placed {
            *counts.entry(node).or_default() += 1;
        }
        let most = counts.values().max().copied().unwrap_or(0);
        let least = if counts.len() < nodes { 0 } else { counts.values().min().copied().unwrap_or(0) };
        prop_assert!(most - least <= 1, "{counts:?}");
    }
}
