//! The clock that a leadership goes by. Brought by whoever starts the elector: the machine's, or a test's.
//!
//! Invariant: it never goes back, and time counts in which the process or the machine stood still, so that who wakes up
//! knows that it is late.

use std::{sync::Arc, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// Time since a moment that stays the same while the process lives.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Where the clock cannot be read nothing is believed any more: every lease is over by then.
const BEYOND: Duration = Duration::from_secs(u32::MAX as u64);

/// Since the boot of the machine, with the time that it was suspended.
pub fn boottime() -> Clock {
    Arc::new(|| clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(BEYOND, Duration::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let clock = boottime();
        let first = clock();
        assert!(first > Duration::ZERO && first < BEYOND);
        while clock() == first {}
        assert!(clock() > first);
    }
}
