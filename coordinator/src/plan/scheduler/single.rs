//! Whether one certain node takes a pod that belongs there. Called by `daemons`, whose nodes are not chosen.
//!
//! Invariant: as for any pod, all that this pass has placed counts; of the filters only those are left out that the
//! caller has asked itself, and the one about holds.

use std::collections::{HashMap, HashSet};

use super::{
    Placed, Pods,
    filter::{self, Candidate, Refusal},
    ports::{Given, Ports, port_domain},
};
use crate::world::{NodeState, PodState, World};

pub struct Single<'w, 't> {
    pods: Pods<'t>,
    /// Which of the template's host ports are taken, by domain.
    taken: Ports,
    given: Given<'w>,
}

impl<'w, 't> Single<'w, 't> {
    pub fn new(world: &'w World, pods: Pods<'t>, placed: &Placed, seed: u64) -> Self {
        let template = pods.template;
        let mut taken: Ports = HashMap::new();
        for wanted in &template.host_ports {
            for (name, node) in world.nodes.iter().filter(|(_, n)| n.ports.contains_key(wanted)) {
                taken.entry(port_domain(name, node)).or_default().insert(*wanted);
            }
            for (domain, _) in placed.ports.iter().filter(|(_, ports)| ports.contains(wanted)) {
                taken.entry(domain.clone()).or_default().insert(*wanted);
            }
        }
        Self {
            given: Given::new(world, template, seed),
            pods,
            taken,
        }
    }

    /// Takes the node's room for one pod; its given host ports.
    pub fn place(&mut self, name: &str, node: &NodeState, placed: &mut Placed) -> Result<Vec<u16>, Refusal> {
        filter::check_daemon(self.pods.template, &self.candidate(name, node, None, placed))?;
        let ports = self
            .given
            .give(name, node, self.pods.template, &mut placed.ports)
            .ok_or(Refusal::NoFreePort)?;
        placed.add(name, node, &self.pods);
        if !self.pods.template.host_ports.is_empty() {
            let taken = self.taken.entry(port_domain(name, node)).or_default();
            taken.extend(self.pods.template.host_ports.iter().copied());
        }
        Ok(ports)
    }

    /// Whether the node could take one in the place of a pod that is there.
    pub fn follows(&self, name: &str, node: &NodeState, former: &PodState, placed: &Placed) -> Result<(), Refusal> {
        filter::check_daemon(self.pods.template, &self.candidate(name, node, Some(former), placed))
    }

    fn candidate<'n>(
        &self,
        name: &str,
        node: &'n NodeState,
        former: Option<&PodState>,
        placed: &Placed,
    ) -> Candidate<'n> {
        let mut used = node.used;
        let mut own = HashSet::new();
        if let Some(former) = former {
            used.sub(former.template.as_ref().map(|t| t.request).unwrap_or_default());
            own.extend(former.host_ports());
        }
        let mut free = node.allocatable;
        free.sub(used);
        free.sub(placed.on(name));
        let template = self.pods.template;
        let taken = (!self.taken.is_empty()).then(|| self.taken.get(&port_domain(name, node)));
        let taken = taken.flatten();
        let mut wanted = template.host_ports.iter();
        let port = wanted.find(|p| !own.contains(*p) && taken.is_some_and(|t| t.contains(*p)));
        Candidate {
            node,
            free,
            port_taken: port.map(|(port, _)| *port),
        }
    }
}
