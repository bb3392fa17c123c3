//! Which nodes can take a pod. Each filter refuses with a [`Refusal`], which `explain` turns into words.
//!
//! Invariant: the first filter that refuses gives the reason, so that a node is counted once: what the user
//! chose (name, selector, affinity, taints) and what its agent can do before the node's state, before what may pass (ports, resources).

use proto::model::{Taint, Toleration, TopologySpreadConstraint, hold};

use crate::world::{Amounts, NodeState, Template};

/// A node as a filter sees it.
pub struct Candidate<'w> {
    pub node: &'w NodeState,
    /// Allocatable less what is used and what the pass has placed.
    pub free: Amounts,
    /// One of the pod's host ports that the node's machine has given away.
    pub port_taken: Option<u16>,
}

impl<'w> Candidate<'w> {
    /// For what does not ask for room.
    fn bare(node: &'w NodeState) -> Self {
        Self {
            node,
            free: Amounts::default(),
            port_taken: None,
        }
    }
}

/// Why a node cannot take a pod, in the order of the filters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    NotNode,
    Selector,
    Affinity,
    /// It has no such label, over which the pod must be spread.
    NoTopology(String),
    /// The first that keeps the pod away, and how.
    Taint(String),
    /// Its agent lacks this capability.
    Capability(&'static str),
    NotReady,
    /// In the words of its holds.
    Held(String),
    /// The pod's constraint of this number would be broken.
    Spread(usize),
    /// Pods that were replaced while it was lost have not ended yet.
    Returning,
    HostPort(u16),
    /// Too few are left of those that are given.
    NoFreePort,
    Cpu,
    Memory,
    Storage,
    Pods,
}

type Filter = fn(&Template, &Candidate<'_>) -> Result<(), Refusal>;

/// The pod's nodeName is not among them: it chooses the candidate itself.
const FILTERS: [Filter; 9] = [
    selector,
    affinity,
    topology,
    tolerated,
    capable,
    ready,
    settled,
    free_of_holds,
    fits,
];

/// Whether the node can take one pod of the template.
pub fn check(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    FILTERS.iter().try_for_each(|filter| filter(template, candidate))
}

/// As [`check`], for the daemon of a node that its set is for: holds keep no daemon away.
pub fn check_daemon(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    let filters: [Filter; 4] = [capable, ready, settled, fits];
    filters.iter().try_for_each(|filter| filter(template, candidate))
}

fn selector(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    let labels = &candidate.node.node.metadata.labels;
    let mut wanted = template.record.spec.node_selector.iter();
    refuse_unless(wanted.all(|(k, v)| labels.get(k) == Some(v)), Refusal::Selector)
}

fn affinity(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    let meta = &candidate.node.node.metadata;
    let affinity = &template.record.spec.affinity.node_affinity;
    refuse_unless(affinity.admits(&meta.name, &meta.labels), Refusal::Affinity)
}

fn topology(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    match missing_topology(template, candidate.node) {
        Some(constraint) => Err(Refusal::NoTopology(constraint.topology_key.clone())),
        None => Ok(()),
    }
}

fn missing_topology<'t>(template: &'t Template, node: &NodeState) -> Option<&'t TopologySpreadConstraint> {
    let labels = &node.node.metadata.labels;
    let mut hard = template
        .record
        .spec
        .topology_spread_constraints
        .iter()
        .filter(|c| c.is_hard());
    hard.find(|c| !labels.contains_key(&c.topology_key))
}

fn tolerated(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    match untolerated(template, candidate.node) {
        Some(taint) => {
            let a_while = Toleration::stay(&template.record.spec.tolerations, taint).is_some();
            let verb = if a_while {
                "tolerates for a time only"
            } else {
                "does not tolerate"
            };
            Err(Refusal::Taint(format!("{taint} that the pod {verb}")))
        }
        None => Ok(()),
    }
}

fn untolerated<'n>(template: &Template, node: &'n NodeState) -> Option<&'n Taint> {
    let tolerations = &template.record.spec.tolerations;
    let mut taints = node.node.spec.taints.iter();
    taints.find(|t| !Toleration::admit(tolerations, t))
}

/// Whether the node is part of a domain over which the pod is spread.
pub fn eligible(template: &Template, node: &NodeState) -> bool {
    let candidate = Candidate::bare(node);
    let filters: [Filter; 3] = [selector, affinity, topology];
    filters.iter().all(|filter| filter(template, &candidate).is_ok())
}

/// Whether the node takes pods at all, and with these tolerations.
pub fn takes(template: &Template, node: &NodeState) -> bool {
    let candidate = Candidate::bare(node);
    let filters: [Filter; 3] = [tolerated, ready, free_of_holds];
    filters.iter().all(|filter| filter(template, &candidate).is_ok())
}

/// An agent that lacks a capability would refuse the pod, or leave out what it does not know.
fn capable(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    match template.needs.iter().find(|need| !candidate.node.can(need)) {
        Some(need) => Err(Refusal::Capability(need)),
        None => Ok(()),
    }
}

fn ready(_: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    refuse_unless(candidate.node.is_ready(), Refusal::NotReady)
}

fn free_of_holds(_: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    if candidate.node.held().is_some() {
        return Err(Refusal::Held(hold::words(candidate.node.holds())));
    }
    Ok(())
}

/// On a node that is back, what was replaced ends before anything new starts.
fn settled(_: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    refuse_unless(candidate.node.replaced == 0, Refusal::Returning)
}

/// Host ports and resources: what changes as pods are placed.
pub fn fits(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    if let Some(port) = candidate.port_taken {
        return Err(Refusal::HostPort(port));
    }
    let (want, free) = (template.request, candidate.free);
    refuse_unless(want.cpu_milli <= free.cpu_milli, Refusal::Cpu)?;
    refuse_unless(want.memory <= free.memory, Refusal::Memory)?;
    refuse_unless(want.storage <= free.storage, Refusal::Storage)?;
    refuse_unless(want.pods <= free.pods, Refusal::Pods)
}

fn refuse_unless(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}
