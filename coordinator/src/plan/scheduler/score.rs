//! Which of the nodes that can take a pod is the best. Called by `scheduler` for its heap.
//!
//! Invariant: a total order that depends on the world and the seed alone; the least is the best.

use crate::world::Amounts;

/// Fewest pods of the group first, then the least allocated, then by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    count: u32,
    load: u32,
    tie: u64,
}

impl Score {
    /// `free` is before the pod with this `request` is placed.
    pub fn new(count: u32, allocatable: Amounts, free: Amounts, request: Amounts, tie: u64) -> Self {
        let cpu = share(allocatable.cpu_milli, free.cpu_milli, request.cpu_milli);
        let memory = share(allocatable.memory, free.memory, request.memory);
        Self {
            count,
            load: cpu.midpoint(memory),
            tie,
        }
    }
}

/// Millionths of `total` that are in use once `want` is taken from `free`.
fn share(total: u64, free: u64, want: u64) -> u32 {
    let used = u128::from(total.saturating_sub(free)) + u128::from(want);
    let millionths = used * 1_000_000 / u128::from(total.max(1));
    u32::try_from(millionths).unwrap_or(u32::MAX)
}
