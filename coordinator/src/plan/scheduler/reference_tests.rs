//! The batch against a scheduler that looks at every node and every pod for each placement, on random fleets.

use std::{cmp::Reverse, collections::BTreeSet};

use proptest::prelude::*;
use proto::model::{NodeSelectorTerm, NodeTaintsPolicy, Phase, TaintEffect, TopologySpreadConstraint};
use serde_json::{Value, json};

use super::*;
use crate::{
    plan::sim::{Ask, Sim, key, set_field, template},
    store::Rv,
    world::record::TemplateRecord,
};

const ZONES: [&str; 4] = ["", "a", "b", "c"];
const CORES: [&str; 4] = ["", "4", "8", "x"];
const TAINTS: [&str; 4] = [
    "d=db:NoSchedule",
    "d=web:NoSchedule",
    "f:PreferNoSchedule",
    "g:NoExecute",
];
const APPS: [&str; 2] = ["web", "db"];

#[derive(Clone, Debug)]
struct Host {
    zone: usize,
    cores: usize,
    taints: BTreeSet<usize>,
    ready: bool,
    unschedulable: bool,
    cpu: u64,
}

/// A pod that is there already.
#[derive(Clone, Debug)]
struct There {
    node: usize,
    app: usize,
    other_namespace: bool,
    relabelled: bool,
    stopping: bool,
    failed: bool,
}

#[derive(Clone, Debug)]
struct Case {
    hosts: Vec<Host>,
    there: Vec<There>,
    /// Placed in this pass before, by the number of their node.
    before: Vec<usize>,
    fields: Vec<(&'static str, Value)>,
    cpu: u64,
    host_port: u16,
    seed: u64,
}

fn requirement() -> impl Strategy<Value = Value> {
    let zones = prop::sample::subsequence(vec!["a", "b", "c", "d"], 1..3);
    prop_oneof![
        zones
            .clone()
            .prop_map(|v| json!({"key": "zone", "operator": "In", "values": v})),
        zones.prop_map(|v| json!({"key": "zone", "operator": "NotIn", "values": v})),
        Just(json!({"key": "cores", "operator": "Exists"})),
        Just(json!({"key": "cores", "operator": "DoesNotExist"})),
        Just(json!({"key": "cores", "operator": "Gt", "values": ["4"]})),
        Just(json!({"key": "cores", "operator": "Lt", "values": ["8"]})),
    ]
}

fn term() -> impl Strategy<Value = Value> {
    let field = prop_oneof![
        3 => Just(json!([])),
        1 => (0..5_usize).prop_map(|i| json!([{"key": "metadata.name", "operator": "NotIn", "values": [format!("n{i}")]}])),
    ];
    (prop::collection::vec(requirement(), 0..3), field)
        .prop_map(|(expressions, fields)| json!({"matchExpressions": expressions, "matchFields": fields}))
}

fn affinity() -> impl Strategy<Value = Value> {
    let required = prop::option::of(prop::collection::vec(term(), 1..3));
    let preferred = prop::collection::vec((1..=100_i32, term()), 0..3);
    (required, preferred).prop_map(|(required, preferred)| {
        let preferred: Vec<Value> = preferred
            .into_iter()
            .map(|(weight, term)| json!({"weight": weight, "preference": term}))
            .collect();
        let mut node = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
        if let Some(terms) = required {
            node["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": terms});
        }
        json!({ "nodeAffinity": node })
    })
}

fn tolerations() -> impl Strategy<Value = Value> {
    let one = prop_oneof![
        Just(json!({"key": "d", "value": "db"})),
        Just(json!({"key": "d", "operator": "Exists", "effect": "NoSchedule"})),
        Just(json!({"key": "f", "operator": "Exists"})),
        Just(json!({"key": "g", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9})),
        Just(json!({"operator": "Exists"})),
    ];
    prop::collection::vec(one, 0..3).prop_map(Value::from)
}

fn constraints() -> impl Strategy<Value = Value> {
    let selector = prop_oneof![
        4 => Just(json!({"matchLabels": {"app": "web"}})),
        1 => Just(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]})),
        1 => Just(json!({"matchLabels": {"app": "db"}})),
        1 => Just(json!({})),
        1 => Just(Value::Null),
    ];
    let one = (
        (
            1..4_i32,
            prop::sample::select(vec!["zone", "kubernetes.io/hostname", "cores"]),
            any::<bool>(),
        ),
        (selector, prop::option::of(1..4_i32), any::<bool>()),
    );
    let one = one.prop_map(|((skew, key, hard), (selector, least, honor))| {
        let mut value = json!({"maxSkew": skew, "topologyKey": key, "labelSelector": selector,
            "whenUnsatisfiable": if hard { "DoNotSchedule" } else { "ScheduleAnyway" },
            "nodeTaintsPolicy": if honor { "Honor" } else { "Ignore" }});
        if let Some(least) = least.filter(|_| hard) {
            value["minDomains"] = json!(least);
        }
        value
    });
    prop::collection::vec(one, 0..4).prop_map(Value::from)
}

prop_compose! {
    fn case()(
        hosts in prop::collection::vec(
            (0..4_usize, 0..4_usize, prop::collection::btree_set(0..4_usize, 0..2), prop::bool::weighted(0.9),
                prop::bool::weighted(0.1), 200..3000_u64)
                .prop_map(|(zone, cores, taints, ready, unschedulable, cpu)|
                    Host { zone, cores, taints, ready, unschedulable, cpu }),
            1..9),
        there in prop::collection::vec(
            (0..9_usize, 0..2_usize, prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.2),
                prop::bool::weighted(0.1))
                .prop_map(|(node, app, other_namespace, relabelled, stopping, failed)|
                    There { node, app, other_namespace, relabelled, stopping, failed }),
            0..10),
        before in prop::collection::vec(0..9_usize, 0..4),
        affinity in prop::option::of(affinity()),
        tolerations in tolerations(), constraints in constraints(),
        selector in prop::bool::weighted(0.2), cpu in 0..700_u64, port in prop::bool::weighted(0.1), seed in any::<u64>(),
    ) -> Case {
        let mut fields = vec![("tolerations", tolerations), ("topologySpreadConstraints", constraints)];
        fields.extend(affinity.map(|a| ("affinity", a)));
        if selector {
            fields.push(("nodeSelector", json!({"zone": "a"})));
        }
        Case { hosts, there, before, fields, cpu, host_port: if port { 80 } else { 0 }, seed }
    }
}

fn sim(case: &Case) -> Sim {
    let mut sim = Sim::new();
    for (i, host) in case.hosts.iter().enumerate() {
        let name = format!("n{i}");
        let mut labels = vec![("kubernetes.io/hostname", name.as_str())];
        for (key, value) in [("zone", ZONES[host.zone]), ("cores", CORES[host.cores])] {
            if !value.is_empty() {
                labels.push((key, value));
            }
        }
        sim.put_node(&name, &labels, host.unschedulable);
        sim.put_facts(&name, host.cpu, 4 << 30, 20, "");
        sim.put_ready(&name, host.ready);
        sim.taint(&name, &host.taints.iter().map(|t| TAINTS[*t]).collect::<Vec<_>>());
    }
    for (i, there) in case.there.iter().enumerate() {
        let namespace = if there.other_namespace { "other" } else { "default" };
        let at = key(namespace, &format!("p{i}"));
        sim.put_bare(namespace, &at.1, &template(APPS[there.app], Ask::default()));
        let node = format!("n{}", there.node % case.hosts.len());
        sim.edit_pod(&at, |r| {
            r.node = node;
            if there.relabelled {
                r.labels.insert("app".into(), Some(APPS[1 - there.app].into()));
            }
        });
        if there.failed {
            sim.report(&at, Phase::Failed, false, false);
        }
        if there.stopping {
            sim.stop(&at);
        }
    }
    sim
}

/// Placement of the next pod after `done`: the best node of all.
struct Reference<'a> {
    world: &'a World,
    template: &'a Template,
    seed: u64,
    /// Nodes of the pods that the pass has placed, those of the batch last.
    done: Vec<&'a str>,
    before: usize,
}

impl Reference<'_> {
    fn label(&self, name: &str, key: &str) -> Option<&str> {
        self.world.nodes[name].node.metadata.labels.get(key).map(String::as_str)
    }

    fn matches(&self, name: &str, term: &NodeSelectorTerm) -> bool {
        let holds = |is: Option<&str>, operator: &str, values: &[String]| {
            let number = |text: &str| text.parse::<i64>().ok();
            let (mine, bound) = (is.and_then(number), values.first().and_then(|v| number(v)));
            match operator {
                "In" => values.iter().any(|v| Some(v.as_str()) == is),
                "NotIn" => values.iter().all(|v| Some(v.as_str()) != is),
                "Exists" => is.is_some(),
                "DoesNotExist" => is.is_none(),
                "Gt" => mine.zip(bound).is_some_and(|(a, b)| a > b),
                "Lt" => mine.zip(bound).is_some_and(|(a, b)| a < b),
                other => panic!("{other}"),
            }
        };
        let n = term.match_expressions.len() + term.match_fields.len();
        let expressions = term.match_expressions.iter().map(|r| (self.label(name, &r.key), r));
        let fields = term.match_fields.iter().map(|r| (Some(name), r));
        n > 0
            && expressions
                .chain(fields)
                .all(|(is, r)| holds(is, &format!("{:?}", r.operator), &r.values))
    }

    /// By what users wrote about nodes' labels and names.
    fn eligible(&self, name: &str) -> bool {
        let spec = &self.template.record.spec;
        let required = spec.affinity.node_affinity.required.as_ref();
        spec.node_selector.iter().all(|(k, v)| self.label(name, k) == Some(v))
            && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| self.matches(name, t)))
            && spec
                .topology_spread_constraints
                .iter()
                .all(|c| !c.is_hard() || self.label(name, &c.topology_key).is_some())
    }

    fn takes(&self, name: &str) -> bool {
        let node = &self.world.nodes[name];
        let bad = node.node.spec.taints.iter().filter(|t| {
            let first = self.template.record.spec.tolerations.iter().find(|x| x.tolerates(t));
            match t.effect {
                TaintEffect::PreferNoSchedule => false,
                TaintEffect::NoSchedule => first.is_none(),
                TaintEffect::NoExecute => first.is_none_or(|x| x.toleration_seconds.is_some()),
            }
        });
        node.is_ready() && node.held().is_none() && bad.count() == 0
    }

    fn part_of(&self, name: &str, constraint: &TopologySpreadConstraint) -> bool {
        let honors = constraint.node_taints_policy == NodeTaintsPolicy::Honor;
        self.eligible(name) && (!honors || self.takes(name))
    }

    fn count(&self, constraint: &TopologySpreadConstraint, domain: &str) -> u32 {
        let Some(selector) = &constraint.label_selector else {
            return 0;
        };
        let in_domain =
            |name: &str| self.part_of(name, constraint) && self.label(name, &constraint.topology_key) == Some(domain);
        let there = self.world.pods.iter().filter(|((namespace, _), pod)| {
            namespace == "default" && pod.live() && in_domain(&pod.record.node) && selector.matches(|k| pod.label(k))
        });
        let labels = &self.template.record.labels;
        let own = selector.matches(|k| labels.get(k).map(String::as_str));
        let placed = self.done.iter().filter(|name| own && in_domain(name));
        u32::try_from(there.count() + placed.count()).unwrap()
    }

    fn domains(&self, constraint: &TopologySpreadConstraint) -> BTreeSet<&str> {
        let nodes = self.world.nodes.keys().filter(|n| self.part_of(n, constraint));
        nodes.filter_map(|n| self.label(n, &constraint.topology_key)).collect()
    }

    fn keeps(&self, name: &str, constraint: &TopologySpreadConstraint) -> bool {
        let domains = self.domains(constraint);
        let least = domains.iter().map(|d| self.count(constraint, d)).min().unwrap_or(0);
        let few = i64::try_from(domains.len()).unwrap() < i64::from(constraint.min_domains.unwrap_or(0));
        let own = u32::from(constraint.selects(&self.template.record.labels));
        let Some(domain) = self
            .label(name, &constraint.topology_key)
            .filter(|_| self.part_of(name, constraint))
        else {
            return true;
        };
        let then = i64::from(self.count(constraint, domain) + own);
        then - i64::from(if few { 0 } else { least }) <= i64::from(constraint.max_skew)
    }

    fn room(&self, name: &str) -> (u64, u64, u64) {
        let node = &self.world.nodes[name];
        let n = self.done.iter().filter(|d| **d == name).count() as u64;
        let request = self.template.request;
        (
            (node.allocatable.cpu_milli).saturating_sub(node.used.cpu_milli + n * request.cpu_milli),
            (node.allocatable.memory).saturating_sub(node.used.memory + n * request.memory),
            (node.allocatable.pods).saturating_sub(node.used.pods + n),
        )
    }

    fn feasible(&self, name: &str) -> bool {
        let (cpu, memory, pods) = self.room(name);
        let request = self.template.request;
        let mut hard = self
            .template
            .record
            .spec
            .topology_spread_constraints
            .iter()
            .filter(|c| c.is_hard());
        self.eligible(name)
            && self.takes(name)
            && hard.all(|c| self.keeps(name, c))
            && (request.cpu_milli <= cpu && request.memory <= memory && pods > 0)
            && (self.template.host_ports.is_empty() || !self.done.contains(&name))
    }

    fn score(&self, name: &str) -> impl Ord + use<> {
        let spec = &self.template.record.spec;
        let avoid =
            self.world.nodes[name].node.spec.taints.iter().filter(|t| {
                t.effect == TaintEffect::PreferNoSchedule && !spec.tolerations.iter().any(|x| x.tolerates(t))
            });
        let soft = spec.topology_spread_constraints.iter().filter(|c| !c.is_hard());
        let fullness = soft.fold(0_u32, |sum, c| {
            let domain = self.label(name, &c.topology_key).filter(|_| self.part_of(name, c));
            let one = domain.map_or(u32::MAX, |d| self.count(c, d) / u32::try_from(c.max_skew).unwrap());
            sum.saturating_add(one)
        });
        let preferred = spec.affinity.node_affinity.preferred.iter();
        let weight: i32 = preferred
            .filter(|p| self.matches(name, &p.preference))
            .map(|p| p.weight)
            .sum();
        let count = self.done.iter().skip(self.before).filter(|d| **d == name).count();
        let (node, room, request) = (&self.world.nodes[name], self.room(name), self.template.request);
        let share = |total: u64, free: u64, want: u64| (total - free + want) * 1_000_000 / total.max(1);
        let cpu = share(node.allocatable.cpu_milli, room.0, request.cpu_milli);
        let memory = share(node.allocatable.memory, room.1, request.memory);
        (
            avoid.count(),
            fullness,
            Reverse(weight),
            count,
            u64::midpoint(cpu, memory),
            mix(self.seed, name),
        )
    }

    fn best(&self) -> Option<&str> {
        let names = self.world.nodes.keys().map(String::as_str);
        names.filter(|n| self.feasible(n)).min_by_key(|n| self.score(n))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn places_as_a_scheduler_that_looks_at_everything(case in case()) {
        let sim = sim(&case);
        let world = &sim.world;
        let mut pod = template("web", Ask { cpu_milli: case.cpu, host_port: case.host_port, ..Ask::default() });
        for (field, value) in &case.fields {
            set_field(&mut pod.spec, field, value.clone());
        }
        let template = Template::new(Rv::default(), TemplateRecord::new(&pod));
        let pods = Pods::new("default", &template);
        let mut placed = Placed::default();
        let mut reference = Reference { world, template: &template, seed: case.seed, done: Vec::new(), before: 0 };
        for i in &case.before {
            let (name, node) = world.nodes.iter().nth(i % case.hosts.len()).expect("a node");
            placed.add(name, node, &pods);
            reference.done.push(name);
        }
        reference.before = case.before.len();
        let mut batch = Batch::new(world, pods, &Counts::new(), &placed, case.seed);
        for _ in 0..12 {
            let expected = reference.best();
            let found = batch.place(&mut placed).map(|p| p.node);
            prop_assert_eq!(found, expected, "after {:?}", &reference.done[reference.before..]);
            let Some(found) = found else {
                let text = batch.explain();
                let (_, reasons) = text.split_once(": ").expect("reasons");
                let counted: usize = reasons
                    .split(", ")
                    .map(|r| r.split(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a number"))
                    .sum();
                prop_assert_eq!(counted, case.hosts.len(), "{}", text);
                break;
            };
            reference.done.push(found);
        }
    }
}
