//! The agent's clock: milliseconds since the Unix epoch that never go back. Read by the worker, the session and
//! the fake engine; pure code gets its `now` from here as an argument.
//!
//! Invariant: within one process time is monotonic; the wall clock is read once, so a stepped wall clock
//! neither shortens nor lengthens a backoff.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base_ms: u64,
    start: Instant,
}

impl Clock {
    pub fn new() -> Self {
        Self {
            base_ms: wall_ms(),
            start: Instant::now(),
        }
    }

    /// Milliseconds since the Unix epoch, as of the process's start plus the time since then.
    pub fn now_ms(&self) -> u64 {
        self.base_ms + u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0)
    }

    /// The instant at which [`Self::now_ms`] reaches `at_ms`.
    pub fn instant(&self, at_ms: u64) -> Instant {
        self.start + Duration::from_millis(at_ms.saturating_sub(self.base_ms))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The wall clock, milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
