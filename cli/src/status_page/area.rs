//! What a problem can be about. Used by `page`, which finds problems, and by `show`.
//!
//! Invariant: in order of what is worse; the names are those that programs read (docs/operate.md).

/// What a problem is about, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    Restore,
    /// The store refuses writes.
    Alarm,
    Member,
    Replica,
    Freeze,
    Brake,
    NotReady,
    Quarantine,
    Drain,
    Held,
    Orphans,
    Controller,
    Update,
    Unknown,
    Pod,
    /// The store is nearly full.
    Space,
    Clock,
    Certificate,
    Backup,
}

impl Area {
    pub const ALL: [Self; 19] = [
        Self::Restore,
        Self::Alarm,
        Self::Member,
        Self::Replica,
        Self::Freeze,
        Self::Brake,
        Self::NotReady,
        Self::Quarantine,
        Self::Drain,
        Self::Held,
        Self::Orphans,
        Self::Controller,
        Self::Update,
        Self::Unknown,
        Self::Pod,
        Self::Space,
        Self::Clock,
        Self::Certificate,
        Self::Backup,
    ];

    /// As the object names it, what is not listed line by line, and the command that lists all.
    pub fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Restore => ("restore", "restores", "wharf cluster accept-restore"),
            Self::Freeze => ("freeze", "freezes", "wharf unfreeze"),
            Self::Brake => ("brake", "brakes", "wharf status -o json"),
            Self::NotReady => ("nodeNotReady", "nodes not Ready", "wharf get nodes"),
            Self::Quarantine => ("nodeQuarantined", "nodes in quarantine", "wharf get nodes"),
            Self::Drain => ("nodeDrain", "nodes drained or being drained", "wharf get nodes"),
            Self::Held => ("nodeHeld", "nodes held", "wharf get nodes"),
            Self::Orphans => ("orphans", "orphans", "wharf cluster orphan list"),
            Self::Controller => ("controllerNotReady", "controllers not Ready", "wharf get rc,ds -A"),
            Self::Update => ("updateStopped", "updates that stand still", "wharf get rc -A"),
            Self::Unknown => ("podsUnknown", "nodes with pods Unknown", "wharf get pods -A"),
            Self::Pod => ("podFailed", "pods", "wharf get pods -A"),
            Self::Alarm => ("storeAlarm", "alarms of the store", "wharf cluster status"),
            Self::Member => ("memberUnreachable", "members of the store", "wharf cluster status"),
            Self::Replica => ("coordinatorMissing", "coordinators", "wharf cluster status"),
            Self::Space => ("storeNearlyFull", "members nearly full", "wharf cluster status"),
            Self::Clock => ("clocksApart", "clocks", "wharf cluster status"),
            Self::Certificate => ("certificateEnds", "certificates", "wharf cluster status"),
            Self::Backup => ("backupLate", "backups", "wharf cluster status"),
        }
    }
}
