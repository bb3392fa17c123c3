//! How long the active coordinator may believe that it is: pure. Called by `elector` and `leadership`, and by the
//! model in `tests/`.
//!
//! Invariant: whoever begins a term acts only when every read lease under an older one is over ([`Former::clear_at`]).
//! A lease counts from when the beat was sent, and nobody can have seen that beat sooner; who waits counts from when
//! it saw the last beat there was. No two clocks are compared, only spans of the same length on both.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// How long a beat allows reads without asking the store. The same on all coordinators.
    pub read: Duration,
    /// Of that, what is left unused for clocks that do not run alike.
    pub margin: Duration,
    /// Without an acknowledged beat for so long, the active one stops acting.
    pub demote: Duration,
}

/// Of the one that acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    limits: Limits,
    /// When the last acknowledged beat was sent.
    sent: Duration,
    /// When the last look was sent that found the term to be ours, though no beat could be written.
    held: Duration,
}

impl Lease {
    /// The attempt that began the term was sent at `sent`. It counts as a beat: no one saw the term sooner.
    pub fn new(limits: Limits, sent: Duration) -> Self {
        Self {
            limits,
            sent,
            held: sent,
        }
    }

    /// A beat sent at `sent` was acknowledged; in any order.
    pub fn acknowledged(&mut self, sent: Duration) {
        self.sent = self.sent.max(sent);
    }

    /// The store took no beat for want of room, and a look that was sent at `sent` found the term to be ours: nobody can
    /// begin another one either. It allows no read: nobody has seen a beat of that moment.
    pub fn held(&mut self, sent: Duration) {
        self.held = self.held.max(sent);
    }

    /// What is read before this and confirmed before this misses no acknowledged write.
    pub fn readable_until(&self) -> Duration {
        self.sent + self.limits.read.saturating_sub(self.limits.margin)
    }

    /// From then on it does not act.
    pub fn ends_at(&self) -> Duration {
        self.sent.max(self.held) + self.limits.demote
    }
}

/// What a new term has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Former {
    /// Nothing: nobody led, or who led has stopped reading.
    Released,
    /// The last beat that we saw under the term that ends, and since when we saw it.
    Held { beat: u64, since: Duration },
}

impl Former {
    /// When the last read lease under older terms is over, for a term whose begin was answered at `answered`. `last`
    /// is the beat as looked up after that, when no older term can change it any more; `None`: not known.
    pub fn clear_at(self, limits: &Limits, answered: Duration, last: Option<u64>) -> Duration {
        match self {
            Self::Released => answered,
            Self::Held { beat, since } if last == Some(beat) => answered.max(since + limits.read),
            // A beat came in between: its lease may have begun as late as the term ended.
            Self::Held { .. } => answered + limits.read,
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
