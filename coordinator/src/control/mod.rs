//! Control: runs the planners over the world and stores events, while this process leads. Started once by
//! the coordinator's wiring; does nothing until the hub has a fence.
//!
//! Invariant: nothing is committed under another fence than the one the decision was made under; a fault of
//! one group of objects stops that group alone.

mod audit;
mod driver;
mod events;
mod loops;
#[cfg(test)]
mod tests;
mod work;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    events::{Note, Recorder},
    plan::Keep,
    store::CommitError,
    world::{
        World,
        hub::Hub,
        settings::{self, AUDIT_KEEP, EVENT_KEEP},
    },
};
pub use loops::{Loop, OnEnd, Trigger};

/// Every time in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// How often every group is planned, whether it was touched or not.
    pub full_pass_ms: u64,
    /// How often what has expired is removed.
    pub expiry_ms: u64,
    /// How often events are written.
    pub events_flush_ms: u64,
    /// How often old audit records are removed.
    pub audit_expiry_ms: u64,
    /// How long an audit record is kept, unless the cluster's settings say.
    pub audit_keep_ms: u64,
    /// How long an event is kept after its last occurrence, unless the cluster's settings say.
    pub event_keep_ms: u64,
    pub events_per_object: usize,
    /// How long the result of a write is kept for a repeat of it.
    pub op_keep_ms: u64,
    /// How long an empty namespace waits for creates that were accepted just before its deletion.
    pub namespace_settle_ms: u64,
    /// How long a deleted node is remembered whose agent has not shown that nothing of it is left.
    pub tombstone_keep_ms: u64,
    /// Commits under way at once.
    pub in_flight: usize,
    /// Groups planned before their commits are sent.
    pub groups_per_pass: usize,
    /// Pause of a group after a commit that met another writer's change.
    pub conflict_retry_ms: u64,
    /// Pause of a group after the store had no room.
    pub full_retry_ms: u64,
    /// How long after this process took the lead nothing is decided on what was not heard; longer where the cluster's
    /// heartbeat is.
    pub silence_ms: u64,
    /// First and longest pause of a group whose planner failed; doubled each time.
    pub park_ms: u64,
    pub park_most_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let hour = 3_600_000;
        Self {
            full_pass_ms: 60_000,
            expiry_ms: 60_000,
            events_flush_ms: 500,
            audit_expiry_ms: 60_000,
            audit_keep_ms: AUDIT_KEEP.default,
            event_keep_ms: EVENT_KEEP.default,
            events_per_object: 100,
            op_keep_ms: 24 * hour,
            namespace_settle_ms: 1000,
            tombstone_keep_ms: 30 * 24 * hour,
            in_flight: 32,
            groups_per_pass: 512,
            conflict_retry_ms: 10,
            full_retry_ms: 1000,
            silence_ms: 6000,
            park_ms: 1000,
            park_most_ms: 300_000,
        }
    }
}

impl Settings {
    /// How long every node gets to show itself to a new leader.
    fn silence(&self, world: &World) -> Duration {
        // As long as three of the heartbeats that are set; agents of a lower period are heard sooner.
        let set = world
            .settings
            .given(&settings::HEARTBEAT)
            .unwrap_or(0)
            .saturating_mul(3);
        Duration::from_millis(set.max(self.silence_ms))
    }

    /// What holds for the cluster's settings that are not set, by name.
    pub fn started(&self) -> BTreeMap<&'static str, u64> {
        [
            (AUDIT_KEEP.name, self.audit_keep_ms),
            (EVENT_KEEP.name, self.event_keep_ms),
        ]
        .into()
    }

    /// Stored times have whole seconds; a part of one counts as one. What is set for the cluster goes before what this
    /// process was started with.
    fn keep(&self, set: &settings::Settings) -> Keep {
        let seconds = |ms: u64| ms.div_ceil(1000);
        Keep {
            event_seconds: seconds(set.given(&EVENT_KEEP).unwrap_or(self.event_keep_ms)),
            events_per_object: self.events_per_object,
            op_seconds: seconds(self.op_keep_ms),
            namespace_settle_seconds: seconds(self.namespace_settle_ms),
            tombstone_seconds: seconds(self.tombstone_keep_ms),
        }
    }
}

/// Why control ended; the process should end too and start again.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{0}")]
    Store(CommitError),
    #[error("the {name} loop ended: {why}")]
    Ended { name: &'static str, why: String },
}

/// Runs all loops until `shutdown`, or until one of them cannot go on. `recorder` and `queue` are the two
/// ends of one queue ([`Recorder::new`]).
pub async fn run(
    hub: Arc<Hub>,
    recorder: Recorder,
    queue: mpsc::Receiver<Note>,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), ControlError> {
    let mut tasks = JoinSet::new();
    let driver = driver::Driver::new(hub.clone(), recorder, settings.clone());
    tasks.spawn(named(loops::PLAN, driver.run()));
    let flush = Duration::from_millis(settings.events_flush_ms.max(1));
    tasks.spawn(named(loops::EVENTS, events::run(hub.clone(), queue, flush)));
    tasks.spawn(named(loops::AUDIT, audit::run(hub, settings)));
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        ended = tasks.join_next() => Err(match ended {
            Some(Ok((spec, result))) => result.err().unwrap_or_else(|| ControlError::Ended {
                name: spec.name,
                why: "without an error".to_owned(),
            }),
            Some(Err(join)) => ControlError::Ended { name: "control", why: join.to_string() },
            None => ControlError::Ended { name: "control", why: "nothing runs".to_owned() },
        }),
    }
    // The set is dropped here: the other loops end at their next await.
}

async fn named(spec: Loop, task: impl Future<Output = Result<(), ControlError>>) -> (Loop, Result<(), ControlError>) {
    (spec, task.await)
}
