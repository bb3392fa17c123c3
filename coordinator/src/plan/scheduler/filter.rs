//! Which nodes can take a pod. Each filter refuses with a [`Refusal`], which `explain` turns into words.
//!
//! Invariant: the first filter that refuses gives the reason, so that a node is counted once: what the user
//! chose (name, selector) and what its agent can do before the node's state, before what may pass (ports, resources).

use crate::world::{Amounts, NodeState, Template};

/// A node as a filter sees it.
pub struct Candidate<'w> {
    pub node: &'w NodeState,
    /// Allocatable less what is used and what the pass has placed.
    pub free: Amounts,
    /// One of the pod's host ports that the node's machine has given away.
    pub port_taken: Option<u16>,
}

/// Why a node cannot take a pod, in the order of the filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    NotNode,
    Selector,
    /// Its agent lacks this capability.
    Capability(&'static str),
    NotReady,
    /// Pods that were replaced while it was lost have not ended yet.
    Returning,
    Unschedulable,
    HostPort(u16),
    Cpu,
    Memory,
    Storage,
    Pods,
}

type Filter = fn(&Template, &Candidate<'_>) -> Result<(), Refusal>;

/// The pod's nodeName is not among them: it chooses the candidate itself.
const FILTERS: [Filter; 6] = [selector, capable, ready, settled, schedulable, fits];

/// Whether the node can take one pod of the template.
pub fn check(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    FILTERS.iter().try_for_each(|filter| filter(template, candidate))
}

fn selector(template: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    let labels = &candidate.node.node.metadata.labels;
    let mut wanted = template.record.spec.node_selector.iter();
    refuse_unless(wanted.all(|(k, v)| labels.get(k) == Some(v)), Refusal::Selector)
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

/// On a node that is back, what was replaced ends before anything new starts.
fn settled(_: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    refuse_unless(candidate.node.replaced == 0, Refusal::Returning)
}

fn schedulable(_: &Template, candidate: &Candidate<'_>) -> Result<(), Refusal> {
    let node = &candidate.node.node;
    let deleting = node.metadata.deletion_timestamp.is_some();
    refuse_unless(!node.spec.unschedulable && !deleting, Refusal::Unschedulable)
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
