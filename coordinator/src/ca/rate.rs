//! A token bucket for refused joins. Called by [`super::enrol`].
//!
//! Invariant: only refusals are counted, so that a flood of bad attempts never keeps a valid token out.

use std::sync::{Mutex, PoisonError};

pub struct Bucket {
    burst: u64,
    /// One unit comes back after this many milliseconds.
    refill_ms: u64,
    /// (units left, last refill)
    state: Mutex<(u64, u64)>,
}

impl Bucket {
    pub fn new(burst: u32, refill_ms: u64) -> Self {
        Self {
            burst: u64::from(burst),
            refill_ms: refill_ms.max(1),
            state: Mutex::new((u64::from(burst), 0)),
        }
    }

    /// Takes one unit; false when none is left.
    pub fn take(&self, now_ms: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = *state;
        let back = now_ms.saturating_sub(since) / self.refill_ms;
        let left = left.saturating_add(back).min(self.burst);
        let since = if left == self.burst {
            now_ms
        } else {
            since + back * self.refill_ms
        };
        *state = (left.saturating_sub(1), since);
        left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let bucket = Bucket::new(3, 100);
        let taken = |now| bucket.take(now);
        assert_eq!(
            [taken(1000), taken(1000), taken(1000), taken(1000)],
            [true, true, true, false]
        );
        assert!(!taken(1099));
        assert!(taken(1100));
        assert!(!taken(1199));
        assert!(taken(9_999_999) && taken(9_999_999) && taken(9_999_999));
        assert!(!taken(9_999_999));
        assert!(!taken(5), "a clock that goes back gives nothing");
    }
}
