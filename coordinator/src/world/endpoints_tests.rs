//! What endpoints show of fixed fleets, and what they never show of random ones.

use proptest::prelude::*;
use proto::model::{NodeAddress, Object, Phase, host_port::HOST_PORT};

use super::*;
use crate::{
    plan::sim::{Ask, Rule, Sim, key, map, rc, template},
    store::keys,
    world::{Touched, record::FactsRecord},
};

fn put_address(sim: &mut Sim, node: &str, address: &str) {
    let facts = sim.world.nodes.get(node).and_then(|n| n.facts.as_ref());
    let mut facts = facts.map(|f| FactsRecord::clone(&f.value)).unwrap_or_default();
    facts.status.addresses = [
        ("Hostname", node),
        ("InternalIP", address),
        ("InternalIP", "198.51.100.9"),
    ]
    .map(|(kind, address)| NodeAddress {
        kind: kind.into(),
        address: address.into(),
    })
    .into();
    sim.put(keys::node_facts(node), &facts);
}

/// `web` with these pods on nodes n1 and n2, settled and Ready.
fn sim(replicas: i32, ask: Ask) -> Sim {
    let mut sim = Sim::new();
    for (name, address) in [("n1", "192.0.2.1"), ("n2", "192.0.2.2")] {
        sim.add_node(name, &[]);
        put_address(&mut sim, name, address);
    }
    let mut web = rc("default", "web", "u", replicas, template("web", ask));
    web.metadata.labels = map(&[("team", "a")]);
    sim.put_rc(&web);
    sim.settle();
    sim
}

fn of(sim: &Sim) -> Endpoints {
    match sim.world.object(Kind::Endpoints, "default", "web") {
        Some(Object::Endpoints(endpoints)) => endpoints,
        other => panic!("{other:?}"),
    }
}

/// `ip:port` of what is ready, and of what is not.
fn shown(sim: &Sim) -> (Vec<String>, Vec<String>) {
    let endpoints = of(sim);
    let list = |wanted: bool| {
        let each = endpoints.each().filter(|(.., ready)| *ready == wanted);
        let mut all: Vec<_> = each
            .flat_map(|(a, ports, _)| ports.iter().map(|p| format!("{}:{}", a.ip, p.port)))
            .collect();
        all.sort();
        all
    };
    (list(true), list(false))
}

const FIXED: Ask = Ask {
    cpu_milli: 0,
    memory: 0,
    host_port: 8080,
    asking: 0,
    zone: None,
    node: "",
    rule: Rule::Nothing,
};

#[test]
fn addresses_of_equal_ports_are_one_subset_and_know_their_pods() {
    let sim = sim(2, FIXED);
    let endpoints = of(&sim);
    let [subset] = &endpoints.subsets[..] else {
        panic!("{endpoints:?}")
    };
    assert_eq!(
        shown(&sim),
        (vec!["192.0.2.1:8080".into(), "192.0.2.2:8080".into()], vec![])
    );
    assert_eq!(subset.ports.len(), 1);
    for address in &subset.addresses {
        let (key, pod) = sim.world.pod_by_uid(&address.target_ref.uid).expect("the pod");
        assert_eq!((key.0.as_str(), &key.1), ("default", &address.target_ref.name));
        assert_eq!(pod.record.node, address.node_name);
        assert_eq!(address.target_ref.kind, "Pod");
    }
    let meta = &endpoints.metadata;
    assert_eq!((meta.name.as_str(), meta.namespace.as_str()), ("web", "default"));
    assert_eq!(meta.labels, map(&[("team", "a")]));
    assert_eq!(meta.owner_references[0].uid, "u");
    assert_eq!(
        meta.resource_version,
        sim.world.controllers[&key("default", "web")].touched.to_string()
    );
    let json = Object::Endpoints(endpoints).to_json();
    assert_eq!(
        (&json["kind"], &json["apiVersion"]),
        (&"Endpoints".into(), &"v1".into())
    );
    assert_eq!(
        json["subsets"][0]["ports"],
        serde_json::json!([{"port": 8080, "protocol": "TCP"}])
    );
    assert_eq!(json["subsets"][0].get("notReadyAddresses"), None);
}

#[test]
fn given_ports_differ_so_each_pod_has_a_subset_of_its_own() {
    let sim = sim(
        3,
        Ask {
            asking: 2,
            ..Ask::default()
        },
    );
    let endpoints = of(&sim);
    assert_eq!(endpoints.subsets.len(), 3);
    for (address, ports, ready) in endpoints.each() {
        let (_, pod) = sim.world.pod_by_uid(&address.target_ref.uid).expect("the pod");
        let mut given = pod.record.ports.clone();
        given.sort_unstable();
        assert_eq!((ports.iter().map(|p| p.port).collect::<Vec<_>>(), ready), (given, true));
    }
    // The pod itself shows them, with the variables that its containers get.
    let at = sim.world.pods.keys().next().expect("a pod").clone();
    let Some(Object::Pod(pod)) = sim.world.object(Kind::Pod, &at.0, &at.1) else {
        panic!("{at:?}")
    };
    let record = &sim.world.pods[&at].record;
    let container = &pod.spec.containers[0];
    assert_eq!(
        container.ports.iter().map(|p| p.host_port).collect::<Vec<_>>(),
        record.ports
    );
    assert_eq!(container.env[0].name, "WHARF_PORT_90");
    assert_eq!(container.env[0].value, record.ports[0].to_string());
    assert!(pod.metadata.annotations.contains_key(HOST_PORT));
}

#[test]
fn only_what_is_bound_to_the_host_is_an_address() {
    let mut sim = sim(1, Ask::default());
    assert_eq!(of(&sim).subsets, [], "no host port");
    for (json, expected) in [
        (
            r#"{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]}"#,
            vec![],
        ),
        (
            r#"{"hostNetwork":true,"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]}"#,
            vec!["192.0.2.1:80"],
        ),
        (
            r#"{"containers":[{"name":"c","image":"i","ports":[
                {"containerPort":80,"hostPort":8080,"hostIP":"203.0.113.7"},
                {"containerPort":81,"hostPort":8081,"hostIP":"0.0.0.0"}]}]}"#,
            vec!["192.0.2.1:8081", "203.0.113.7:8080"],
        ),
    ] {
        sim.edit_rc(&key("default", "web"), |rc| {
            rc.spec.template.spec = serde_json::from_str(json).expect("a spec");
            rc.spec.template.spec.node_name = "n1".into();
        });
        sim.put_capabilities("n1", &proto::capability::ALL);
        for pod in sim.world.pods.keys().cloned().collect::<Vec<_>>() {
            sim.stop(&pod);
        }
        sim.settle();
        assert_eq!(shown(&sim).0, expected, "{json}");
    }
}

#[test]
fn what_leaves_leaves_at_once() {
    let mut sim = sim(2, FIXED);
    let on = |sim: &Sim, node: &str| {
        let mut pods = sim.world.pods_on(node);
        pods.next().expect("a pod").0.clone()
    };
    let (one, two) = ("192.0.2.1:8080".to_owned(), "192.0.2.2:8080".to_owned());
    let first = on(&sim, "n1");
    sim.report(&first, Phase::Running, false, false);
    assert_eq!(shown(&sim), (vec![two.clone()], vec![one.clone()]), "not Ready");
    sim.report(&first, Phase::Running, true, false);
    sim.put_ready("n2", false);
    assert_eq!(shown(&sim), (vec![one.clone()], vec![two.clone()]), "its node is lost");
    sim.put_ready("n2", true);
    assert_eq!(shown(&sim).0.len(), 2);
    sim.stop(&first);
    assert_eq!(
        shown(&sim),
        (vec![two.clone()], vec![]),
        "being stopped, and still Ready"
    );
    let second = on(&sim, "n2");
    sim.report(&second, Phase::Failed, false, false);
    assert_eq!(shown(&sim), (vec![], vec![]), "ended");
    sim.report(&second, Phase::Running, true, false);
    sim.delete_node("n2");
    assert_eq!(shown(&sim), (vec![], vec![]), "its node is gone");
}

#[test]
fn a_node_touches_the_endpoints_of_its_pods_only_when_they_change() {
    let mut sim = sim(2, FIXED);
    sim.put_rc(&rc("default", "idle", "v", 0, template("idle", FIXED)));
    sim.settle();
    let version = |sim: &Sim, name: &str| sim.world.controllers[&key("default", name)].touched;
    let (web, idle) = (version(&sim, "web"), version(&sim, "idle"));
    sim.put_ready("n1", true);
    sim.put_facts("n9", 1, 1, 1, "");
    sim.put_capabilities("n1", &["x"]);
    assert_eq!(version(&sim, "web"), web, "nothing that endpoints show");
    sim.put_ready("n1", false);
    assert_eq!(version(&sim, "web"), sim.world.rv);
    let after = version(&sim, "web");
    put_address(&mut sim, "n2", "192.0.2.22");
    assert!(version(&sim, "web") > after);
    assert_eq!(version(&sim, "idle"), idle);
    assert_eq!(sim.world.keys(Kind::Endpoints, "default")[1].1, version(&sim, "web"));
    let record = sim.world.nodes["n1"].ready.clone().expect("a condition");
    let mut ready = (*record.value).clone();
    ready.status = proto::model::ConditionStatus::True;
    let update = crate::store::Update {
        rv: crate::store::Rv::new(1 << 30, 0),
        key: keys::node_ready("n1"),
        value: Some(crate::world::record::encode(&ready).into()),
    };
    let touched = sim.world.apply(&update).expect("reads");
    assert!(
        touched.contains(&Touched::Endpoints(key("default", "web"))),
        "{touched:?}"
    );
}

#[test]
fn a_version_never_goes_back_not_even_by_a_restart() {
    let mut sim = sim(2, FIXED);
    let pods: Vec<_> = sim.world.pods.keys().cloned().collect();
    for at in &pods {
        sim.delete(keys::pod_status(&at.0, &at.1));
        sim.delete(keys::object(Kind::Pod, &at.0, &at.1));
    }
    let before = of(&sim).metadata.resource_version.parse::<u64>().expect("a number");
    let mut again = sim.reloaded();
    let newest = again.rv;
    assert!(
        again.controllers[&key("default", "web")].touched.0 < before,
        "who was there is forgotten"
    );
    again.loaded(newest);
    let Some(Object::Endpoints(loaded)) = again.object(Kind::Endpoints, "default", "web") else {
        panic!("endpoints")
    };
    assert_eq!(loaded.metadata.resource_version, newest.to_string());
    assert!(newest.0 >= before);
    assert_eq!(again.keys(Kind::Endpoints, "")[0].1, newest);
}

#[derive(Clone, Debug)]
enum Op {
    Ready(usize, bool),
    Address(usize, u8),
    DeleteNode(usize),
    Report(usize, usize, bool),
    Stop(usize),
    Scale(i32),
    Pass,
}

fn op() -> impl Strategy<Value = Op> {
    let i = 0..8_usize;
    prop_oneof![
        2 => (i.clone(), any::<bool>()).prop_map(|(i, r)| Op::Ready(i, r)),
        1 => (i.clone(), 1..9_u8).prop_map(|(i, a)| Op::Address(i, a)),
        1 => i.clone().prop_map(Op::DeleteNode),
        4 => (i.clone(), 0..4_usize, any::<bool>()).prop_map(|(i, p, r)| Op::Report(i, p, r)),
        2 => i.prop_map(Op::Stop),
        2 => (0..6_i32).prop_map(Op::Scale),
        3 => Just(Op::Pass),
    ]
}

const PHASES: [Phase; 4] = [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed];

fn apply(sim: &mut Sim, op: &Op) {
    let node = |sim: &Sim, i: usize| sim.world.nodes.keys().nth(i % sim.world.nodes.len().max(1)).cloned();
    let pod = |sim: &Sim, i: usize| sim.world.pods.keys().nth(i % sim.world.pods.len().max(1)).cloned();
    match *op {
        Op::Ready(i, ready) => {
            if let Some(name) = node(sim, i) {
                sim.put_ready(&name, ready);
            }
        }
        Op::Address(i, a) => {
            if let Some(name) = node(sim, i) {
                put_address(sim, &name, &format!("192.0.2.{a}"));
            }
        }
        Op::DeleteNode(i) => {
            if let Some(name) = node(sim, i) {
                sim.delete_node(&name);
            }
        }
        Op::Report(i, phase, ready) => {
            if let Some(at) = pod(sim, i).filter(|at| sim.world.pods[at].occupies()) {
                sim.report(&at, PHASES[phase], ready, false);
            }
        }
        Op::Stop(i) => {
            if let Some(at) = pod(sim, i).filter(|at| !sim.world.pods[at].stopping()) {
                sim.stop(&at);
            }
        }
        Op::Scale(n) => sim.edit_rc(&key("default", "web"), |rc| rc.spec.replicas = n),
        Op::Pass => {
            sim.pass(&Default::default());
            sim.agents();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// At every step: every reachable live pod once, ready exactly where pod and node are; whatever changed has a new
    /// version; and a loaded world shows the same.
    #[test]
    fn ready_addresses_are_pods_that_can_be_reached(
        ops in prop::collection::vec(op(), 1..40),
        asking in 0..2_u16,
    ) {
        let mut sim = sim(3, Ask { asking, host_port: 8080 * (1 - asking), ..Ask::default() });
        for op in &ops {
            let before = of(&sim);
            apply(&mut sim, op);
            let now = of(&sim);
            if before.subsets != now.subsets {
                prop_assert_ne!(&before.metadata.resource_version, &now.metadata.resource_version);
            }
            let mut left: BTreeMap<&str, bool> = now.each().map(|(a, _, r)| (a.target_ref.uid.as_str(), r)).collect();
            prop_assert_eq!(left.len(), now.each().count(), "a pod twice");
            for (_, pod) in sim.world.pods_of("u") {
                let node = sim.world.nodes.get(&pod.record.node);
                let here = node.is_some() && pod.record.stop.is_none() && !pod.phase().is_final();
                let ready = here && pod.ready() && node.is_some_and(NodeState::is_ready);
                prop_assert_eq!(left.remove(pod.record.uid.as_str()), here.then_some(ready));
            }
            prop_assert!(left.is_empty(), "not pods of it: {left:?}");
            let rebuilt = sim.reloaded();
            let again = rebuilt.object(Kind::Endpoints, "default", "web");
            let Some(Object::Endpoints(again)) = again else { panic!("{again:?}") };
            prop_assert_eq!(again.subsets, now.subsets);
        }
    }
}
