//! Host ports: which ones a machine has left, and which are given to pods that ask for any. Called by the module
//! above while it places a batch.
//!
//! Invariant: no port is given that a pod of the machine has, by its template or by an earlier gift, in the world or
//! in this pass; the choice depends on the world and the seed alone.

use std::collections::{HashMap, HashSet};

use proto::model::{Protocol, host_port};

use super::mix;
use crate::world::{NodeState, Template, World};

/// Host ports by domain.
pub type Ports = HashMap<String, HashSet<(u16, Protocol)>>;

/// Nodes of one machine share its host ports.
pub fn port_domain(name: &str, node: &NodeState) -> String {
    match node.machine_id() {
        "" => format!("node {name}"),
        id => format!("machine {id}"),
    }
}

/// The first of the template's host ports that is taken, for each domain where one is. Those of the node `vacated` are
/// not.
pub fn taken_ports(world: &World, template: &Template, placed: &Ports, vacated: Option<&str>) -> HashMap<String, u16> {
    let mut taken = HashMap::new();
    for wanted in &template.host_ports {
        let takes = |name: &String, node: &NodeState| node.ports.contains_key(wanted) && vacated != Some(name.as_str());
        for (name, node) in world.nodes.iter().filter(|(name, n)| takes(name, n)) {
            taken.entry(port_domain(name, node)).or_insert(wanted.0);
        }
        for (domain, _) in placed.iter().filter(|(_, ports)| ports.contains(wanted)) {
            taken.entry(domain.clone()).or_insert(wanted.0);
        }
    }
    taken
}

/// Gives ports to the pods of one batch.
pub struct Given<'w> {
    /// The nodes of each domain; empty where the template asks for nothing.
    domains: HashMap<String, Vec<&'w NodeState>>,
    seed: u64,
    /// Pods served so far.
    served: u64,
}

impl<'w> Given<'w> {
    pub fn new(world: &'w World, template: &Template, seed: u64) -> Self {
        let mut domains: HashMap<String, Vec<&'w NodeState>> = HashMap::new();
        if !template.asking.is_empty() {
            for (name, node) in &world.nodes {
                domains.entry(port_domain(name, node)).or_default().push(node);
            }
        }
        Self {
            domains,
            seed,
            served: 0,
        }
    }

    /// Ports for one pod on this node, entered into `placed`. `None`: too few are left.
    pub fn give(&mut self, name: &str, node: &NodeState, template: &Template, placed: &mut Ports) -> Option<Vec<u16>> {
        if template.asking.is_empty() {
            return Some(Vec::new());
        }
        let domain = port_domain(name, node);
        let nodes = self.domains.get(&domain).map_or(&[][..], Vec::as_slice);
        // From a place of its own rather than the lowest free one: whoever has not heard yet that a pod is gone must
        // not find another controller's pod behind its port.
        self.served += 1;
        let start = mix(self.seed ^ self.served, &domain);
        let taken = placed.entry(domain).or_default();
        let mut given = Vec::with_capacity(template.asking.len());
        for protocol in &template.asking {
            let free = |port: &u16| {
                let port = (*port, *protocol);
                !taken.contains(&port)
                    && !template.host_ports.contains(&port)
                    && !nodes.iter().any(|n| n.ports.contains_key(&port))
            };
            let Some(port) = from(start).find(free) else {
                for port in given.into_iter().zip(&template.asking) {
                    taken.remove(&(port.0, *port.1));
                }
                return None;
            };
            taken.insert((port, *protocol));
            given.push(port);
        }
        Some(given)
    }
}

/// Every port of the range once, from somewhere on.
fn from(start: u64) -> impl Iterator<Item = u16> {
    let (low, high) = (*host_port::GIVEN.start(), *host_port::GIVEN.end());
    let offset = u16::try_from(start % u64::from(high - low + 1)).unwrap_or_default();
    (low + offset..=high).chain(low..low + offset)
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
