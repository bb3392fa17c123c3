//! Which node a pod runs on, or why none. Called by `replicas` and `gc`; works on batches of identical pods
//! (one equivalence class): the feasible set is found once, then kept in a heap as pods are placed.
//!
//! Invariant: a node is chosen only if every filter holds with all that this pass has placed already. The
//! cost of a batch is one look at each node and O(log nodes) a placed pod; a spread constraint adds one look at each
//! pod that it counts.

pub mod explain;
pub mod filter;
mod ports;
mod queue;
pub mod score;
pub mod single;
pub mod spread;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
};

use proto::model::EventType;

use super::{Draft, before, change::Change, mix, pod_note};
use crate::world::{
    Amounts, Key, NodeState, PodState, Template, World,
    record::{Differences, overlaid},
};
use explain::Tally;
use filter::{Candidate, Refusal};
pub use ports::port_domain;
use ports::{Given, Ports, taken_ports};
use queue::Queue;
use score::{Liking, Score};
use spread::{Landed, Spread};

/// What a pass has placed that the world does not show yet.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    nodes: HashMap<String, Amounts>,
    ports: Ports,
    landed: Landed,
    without: Option<Without>,
}

/// A node that takes nothing, as if it were held: of what would be if it were.
#[derive(Clone, Debug)]
struct Without {
    node: String,
    /// As a refusal says it.
    why: String,
    /// Its host ports are free for its neighbours on the same machine.
    vacated: bool,
}

impl Placed {
    /// Nothing yet; this node takes no pods, for this reason.
    pub fn without(node: &str, why: &str) -> Self {
        Self {
            without: Some(Without {
                node: node.to_owned(),
                why: why.to_owned(),
                vacated: false,
            }),
            ..Self::default()
        }
    }

    /// Whether that node's pods keep their host ports from its neighbours while what follows is placed.
    pub fn vacated(&mut self, vacated: bool) {
        if let Some(without) = &mut self.without {
            without.vacated = vacated;
        }
    }

    fn refuses(&self, node: &str) -> Option<&Without> {
        self.without.as_ref().filter(|w| w.node == node)
    }

    fn add(&mut self, name: &str, node: &NodeState, pods: &Pods<'_>) {
        let template = pods.template;
        self.landed.add(pods.namespace, &pods.labels, name);
        self.nodes.entry(name.to_owned()).or_default().add(template.request);
        if !template.host_ports.is_empty() {
            let ports = self.ports.entry(port_domain(name, node)).or_default();
            ports.extend(template.host_ports.iter().copied());
        }
    }

    pub fn on(&self, name: &str) -> Amounts {
        self.nodes.get(name).copied().unwrap_or_default()
    }
}

/// Where a pod runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'w> {
    pub node: &'w str,
    /// Given to the template's ports that ask for one, in their order.
    pub ports: Vec<u16>,
}

/// How many pods of a group each node has.
pub type Counts<'w> = HashMap<&'w str, u32>;

/// Identical pods: of one template and namespace, with the same labels.
#[derive(Clone, Debug)]
pub struct Pods<'t> {
    pub namespace: &'t str,
    pub template: &'t Template,
    pub labels: Cow<'t, BTreeMap<String, String>>,
}

impl<'t> Pods<'t> {
    /// With the template's labels.
    pub fn new(namespace: &'t str, template: &'t Template) -> Self {
        Self {
            namespace,
            template,
            labels: Cow::Borrowed(&template.record.labels),
        }
    }

    pub fn relabelled(namespace: &'t str, template: &'t Template, differences: &Differences) -> Self {
        let mut pods = Self::new(namespace, template);
        if !differences.is_empty() {
            pods.labels = Cow::Owned(overlaid(&template.record.labels, differences));
        }
        pods
    }
}

struct Slot<'w> {
    name: &'w str,
    node: &'w NodeState,
    liking: Liking,
    free: Amounts,
    count: u32,
    tie: u64,
}

/// Places pods of one template, one after the other.
pub struct Batch<'w, 't> {
    pods: Pods<'t>,
    slots: Vec<Slot<'w>>,
    queue: Queue,
    spread: Spread<'w, 't>,
    /// Host port domains that this batch has used; empty where the template has no host port.
    used_domains: HashSet<String>,
    /// Chooses the host ports that the template asks for.
    given: Given<'w>,
    tally: Tally,
}

impl<'w, 't> Batch<'w, 't> {
    pub fn new(world: &'w World, pods: Pods<'t>, counts: &Counts<'_>, placed: &Placed, seed: u64) -> Self {
        let template = pods.template;
        let refused = placed.without.as_ref().map(|w| w.node.as_str());
        let spread = Spread::new(world, &pods, &placed.landed, refused);
        let mut batch = Self {
            pods,
            slots: Vec::new(),
            queue: Queue::new(spread.constraints()),
            spread,
            used_domains: HashSet::new(),
            given: Given::new(world, template, seed),
            tally: Tally::new(world.nodes.len()),
        };
        let vacated = placed.without.as_ref().filter(|w| w.vacated).map(|w| w.node.as_str());
        let taken = taken_ports(world, template, &placed.ports, vacated);
        let named = template.record.spec.node_name.as_str();
        if named.is_empty() {
            for (name, node) in &world.nodes {
                batch.offer(name, node, counts, placed, &taken, seed);
            }
        } else {
            let found = world.nodes.get_key_value(named);
            batch
                .tally
                .add(Refusal::NotNode, world.nodes.len() - usize::from(found.is_some()));
            if let Some((name, node)) = found {
                batch.offer(name, node, counts, placed, &taken, seed);
            }
        }
        batch.queue.open_all(&batch.spread);
        batch
    }

    fn offer(
        &mut self,
        name: &'w str,
        node: &'w NodeState,
        counts: &Counts<'_>,
        placed: &Placed,
        taken: &HashMap<String, u16>,
        seed: u64,
    ) {
        let mut free = node.allocatable;
        free.sub(node.used);
        free.sub(placed.on(name));
        let port_taken = if taken.is_empty() {
            None
        } else {
            taken.get(&port_domain(name, node)).copied()
        };
        let candidate = Candidate { node, free, port_taken };
        let template = self.pods.template;
        let held = placed.refuses(name).map(|w| Refusal::Held(w.why.clone()));
        match held.map_or_else(|| filter::check(template, &candidate), Err) {
            Err(refusal) => self.tally.add(refusal, 1),
            Ok(()) => {
                self.slots.push(Slot {
                    name,
                    node,
                    liking: Liking::new(template, node),
                    free,
                    count: counts.get(name).copied().unwrap_or_default(),
                    tie: mix(seed, name),
                });
                let class = self.queue.class(self.spread.place(name));
                self.enter(class, self.slots.len() - 1);
            }
        }
    }

    fn enter(&mut self, class: usize, index: usize) {
        let slot = &self.slots[index];
        let (room, request) = (slot.node.allocatable, self.pods.template.request);
        let score = Score::new(slot.liking, slot.count, room, slot.free, request, slot.tie);
        self.queue.put(class, score, index);
    }

    /// The best node for one more pod, with the host ports given to it; both are taken. `None`: no node fits,
    /// [`Batch::explain`] says why.
    pub fn place(&mut self, placed: &mut Placed) -> Option<Place<'w>> {
        let template = self.pods.template;
        while let Some((class, index)) = self.queue.take(&self.spread) {
            let slot = &mut self.slots[index];
            if let Some((port, _)) = template.host_ports.first()
                && !self.used_domains.insert(port_domain(slot.name, slot.node))
            {
                self.tally.add(Refusal::HostPort(*port), 1);
                self.queue.open(class, &self.spread);
                continue;
            }
            let Some(ports) = self.given.give(slot.name, slot.node, template, &mut placed.ports) else {
                self.tally.add(Refusal::NoFreePort, 1);
                self.queue.open(class, &self.spread);
                continue;
            };
            placed.add(slot.name, slot.node, &self.pods);
            slot.free.sub(template.request);
            slot.count += 1;
            let node = slot.name;
            let next = Candidate {
                node: slot.node,
                free: slot.free,
                port_taken: template.host_ports.first().map(|(port, _)| *port),
            };
            match filter::fits(template, &next) {
                Ok(()) => self.enter(class, index),
                Err(refusal) => self.tally.add(refusal, 1),
            }
            self.queue.landed(class, &mut self.spread);
            self.queue.open(class, &self.spread);
            return Some(Place { node, ports });
        }
        None
    }

    /// Why no node took the last pod.
    pub fn explain(&self) -> String {
        let mut tally = self.tally.clone();
        for (rule, nodes) in self.queue.waiting() {
            tally.add(Refusal::Spread(rule), nodes);
        }
        explain::text(self.pods.template, &tally)
    }
}

/// Places unplaced pods that exist already, or says anew why not. `counts` are of the pods' group.
pub(super) fn place<'w>(
    world: &'w World,
    pods: &[(&'w Key, &'w PodState)],
    counts: &mut Counts<'w>,
    seed: u64,
    placed: &mut Placed,
    out: &mut Draft,
) {
    let mut classes: BTreeMap<_, Vec<(&Key, &PodState)>> = BTreeMap::new();
    for (key, pod) in pods {
        let class = (&key.0, &pod.record.template, &pod.record.labels);
        classes.entry(class).or_default().push((key, pod));
    }
    for ((namespace, hash, labels), pods) in classes {
        let Some(template) = world.templates.get(hash) else {
            for (key, pod) in pods {
                wait(key, pod, &format!("template {hash} is missing; delete the pod"), out);
            }
            continue;
        };
        let class = Pods::relabelled(namespace, template, labels);
        let mut batch = Batch::new(world, class, counts, placed, seed);
        let mut why = None;
        for (key, pod) in pods {
            let place = if why.is_none() { batch.place(placed) } else { None };
            match place {
                Some(Place { node, ports }) => {
                    *counts.entry(node).or_default() += 1;
                    out.push(Change::Bind {
                        pod: before(key, pod),
                        node: node.to_owned(),
                        ports,
                    });
                    scheduled(key, &pod.record.uid, node, out);
                }
                None => wait(key, pod, why.get_or_insert_with(|| batch.explain()), out),
            }
        }
    }
}

/// The note that goes with a pod's binding.
pub(super) fn scheduled(key: &Key, uid: &str, node: &str, out: &mut Draft) {
    let message = format!("assigned to node {node}");
    let note = pod_note(key, uid, "Scheduled", message, EventType::Normal, out.now);
    out.note(note);
}

/// The note that goes with a new reason for not placing a pod.
pub(super) fn failed(key: &Key, uid: &str, why: &str, out: &mut Draft) {
    let note = pod_note(
        key,
        uid,
        "FailedScheduling",
        why.to_owned(),
        EventType::Warning,
        out.now,
    );
    out.note(note);
}

fn wait(key: &Key, pod: &PodState, why: &str, out: &mut Draft) {
    if pod.record.waiting != why {
        out.push(Change::Explain {
            pod: before(key, pod),
            waiting: why.to_owned(),
        });
        failed(key, &pod.record.uid, why, out);
    }
}

#[cfg(test)]
mod reference_tests;
#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
