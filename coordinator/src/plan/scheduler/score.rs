//! Which of the nodes that can take a pod is the best. Called by `scheduler` for its queue.
//!
//! Invariant: a total order that depends on the world and the seed alone; the least is the best. What users ask for
//! goes before what we would do by ourselves.

use proto::model::{TaintEffect, Toleration};

use crate::world::{Amounts, NodeState, Template};

/// In this order: fewest taints that ask pods to stay away, the least full domains, the most preferred by node
/// affinity, fewest pods of the group, the least allocated, by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    avoid: u32,
    fullness: u32,
    missed: u32,
    count: u32,
    load: u32,
    tie: u64,
}

/// What a node is to pods of a template, whatever is placed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liking {
    avoid: u32,
    missed: u32,
}

impl Liking {
    pub fn new(template: &Template, node: &NodeState) -> Self {
        let (spec, meta) = (&template.record.spec, &node.node.metadata);
        let unwelcome = node.node.spec.taints.iter().filter(|taint| {
            taint.effect == TaintEffect::PreferNoSchedule && Toleration::stay(&spec.tolerations, taint).is_none()
        });
        let matched = spec.affinity.node_affinity.weight(&meta.name, &meta.labels);
        Self {
            avoid: u32::try_from(unwelcome.count()).unwrap_or(u32::MAX),
            missed: u32::MAX - matched,
        }
    }
}

impl Score {
    /// `free` is before the pod with this `request` is placed.
    pub fn new(liking: Liking, count: u32, allocatable: Amounts, free: Amounts, request: Amounts, tie: u64) -> Self {
        let cpu = share(allocatable.cpu_milli, free.cpu_milli, request.cpu_milli);
        let memory = share(allocatable.memory, free.memory, request.memory);
        Self {
            avoid: liking.avoid,
            fullness: 0,
            missed: liking.missed,
            count,
            load: cpu.midpoint(memory),
            tie,
        }
    }

    /// With what the node's domains have.
    pub fn with_fullness(self, fullness: u32) -> Self {
        Self { fullness, ..self }
    }
}

/// Millionths of `total` that are in use once `want` is taken from `free`.
fn share(total: u64, free: u64, want: u64) -> u32 {
    let used = u128::from(total.saturating_sub(free)) + u128::from(want);
    let millionths = used * 1_000_000 / u128::from(total.max(1));
    u32::try_from(millionths).unwrap_or(u32::MAX)
}
