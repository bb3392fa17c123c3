//! Until when this coordinator is known to have led, and what it may therefore tell agents of what it heard. Kept by
//! `Sessions`; asked by `stream` before each Ack.
//!
//! An agent stops pods by itself when nobody hears it (`stop-after-disconnect`), and whoever leads replaces them when so
//! much time has passed since it last knew of the agent. So what an agent is told was heard must be known to whoever
//! leads: what a coordinator hears after another one took over, because it was frozen or cut off and does not know yet,
//! is known to nobody.
//!
//! Invariant: pure but for an atomic; what is said to be heard arrived before a moment at which this coordinator led.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Heartbeats remembered of one session that are not known to have come in time.
const REMEMBERED: usize = 64;

/// See the module's head.
#[derive(Debug)]
pub struct Lease {
    /// Others may take over.
    contested: bool,
    begun: Instant,
    /// Microseconds after `begun`; 0: never.
    led: AtomicU64,
}

impl Lease {
    pub fn new(contested: bool) -> Self {
        Self {
            contested,
            begun: Instant::now(),
            led: AtomicU64::new(0),
        }
    }

    /// This coordinator led at `at`: the store took, under its fence, a write that began then.
    pub fn led_at(&self, at: Instant) {
        let after = at.saturating_duration_since(self.begun).as_micros();
        self.led
            .fetch_max(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether what came at `at` came while this coordinator led, for all that is known.
    pub fn covers(&self, at: Instant) -> bool {
        !self.contested || at <= self.begun + Duration::from_micros(self.led.load(Ordering::Relaxed))
    }
}

/// Heartbeats of one session.
#[derive(Debug, Default)]
pub struct Beats {
    /// By sequence, with when each came.
    waiting: VecDeque<(u64, Instant)>,
    known: u64,
}

impl Beats {
    pub fn hear(&mut self, seq: u64, now: Instant) {
        if self.waiting.len() == REMEMBERED {
            self.waiting.pop_front();
        }
        self.waiting.push_back((seq, now));
    }

    /// Highest sequence of those that the lease covers; 0: none.
    pub fn known(&mut self, lease: &Lease) -> u64 {
        while let Some((seq, _)) = self.waiting.pop_front_if(|(_, at)| lease.covers(*at)) {
            self.known = self.known.max(seq);
        }
        self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_came_after_the_last_proof_of_leadership_is_not_said_to_be_heard() {
        let lease = Lease::new(true);
        let start = Instant::now();
        let mut beats = Beats::default();
        for seq in 1..=5 {
            beats.hear(seq, start + SECOND * u32::try_from(seq).unwrap());
        }
        assert_eq!(beats.known(&lease), 0, "it was never proven to lead");
        lease.led_at(start + 3 * SECOND);
        assert_eq!(beats.known(&lease), 3);
        // Proofs may come out of order; the newest counts.
        lease.led_at(start + 2 * SECOND);
        assert_eq!(beats.known(&lease), 3);
        lease.led_at(start + 9 * SECOND);
        assert_eq!(beats.known(&lease), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leads_alone_needs_no_proof_and_memory_is_bounded() {
        let lease = Lease::new(false);
        let mut beats = Beats::default();
        for seq in 1..=1000 {
            beats.hear(seq, Instant::now());
        }
        assert_eq!(beats.waiting.len(), REMEMBERED);
        assert_eq!(beats.known(&lease), 1000);
        assert!(beats.waiting.is_empty());
    }
}
