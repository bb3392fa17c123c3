//! All loops of the leader's control, in one list, and what the end of each means. Run by `control::run`.
//!
//! Invariant: a loop that runs is named here; none ends unnoticed.

/// What it means when a loop ends while the process is not shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// The process ends, so that it starts again from what is stored.
    EndProcess,
}

/// What makes a loop run once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Updates of the world; the period guarantees what an update missed.
    WatchAndPeriod,
    Period,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    pub name: &'static str,
    pub trigger: Trigger,
    /// The field of `Settings` with its period.
    pub period: &'static str,
    pub on_end: OnEnd,
}

/// Plans and commits: `driver`.
pub const PLAN: Loop = Loop {
    name: "plan",
    trigger: Trigger::WatchAndPeriod,
    period: "full_pass_ms",
    on_end: OnEnd::EndProcess,
};

/// Removes old audit records: `audit`.
pub const AUDIT: Loop = Loop {
    name: "audit",
    trigger: Trigger::Period,
    period: "audit_expiry_ms",
    on_end: OnEnd::EndProcess,
};

/// Stores events: `events`.
pub const EVENTS: Loop = Loop {
    name: "events",
    trigger: Trigger::Period,
    period: "events_flush_ms",
    on_end: OnEnd::EndProcess,
};
