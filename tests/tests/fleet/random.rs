//! Random choices from a seed: the same seed, the same choices.

use std::time::Duration;

use proto::ids::IdGen;

pub struct Random(IdGen);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(IdGen::new(seed))
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.0.next_u64() % n.max(1) as u64).expect("small")
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Shorter than `n` milliseconds.
    pub fn millis(&mut self, n: usize) -> Duration {
        Duration::from_millis(self.below(n) as u64)
    }
}
