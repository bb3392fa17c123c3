//! What the agent remembers of a pod beyond what the engine shows: attempts, exits, backoffs. Part of the
//! ledger; changed only by [`super::step`] and [`super::record`].
//!
//! Invariant: `attempt` only rises, and only from [`Attempt::Ended`].

use std::collections::BTreeMap;

use proto::model::{Phase, Time};
use serde::{Deserialize, Serialize};

use super::{Health, PreStop};

/// Bookkeeping of one pod. What is skipped in serde is looked up again after a restart of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodBook {
    /// Highest phase shown so far.
    pub phase: Phase,
    pub ready: bool,
    /// When `ready` last changed.
    pub ready_since_ms: u64,
    /// By container name; the sandbox under [`proto::ids::SANDBOX`].
    pub containers: BTreeMap<String, ContainerBook>,
    /// Actions that may not be repeated yet.
    #[serde(skip)]
    pub holds: BTreeMap<HoldKey, Hold>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerBook {
    /// Number of the current attempt; also the restart count.
    pub attempt: u32,
    pub state: Attempt,
    /// How the attempt before the current one ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Ended>,
    /// Restarts in a row without a long run between them; chooses the backoff.
    pub level: u32,
    /// Set with [`Attempt::Ended`]: the delay before the next attempt and when it is over.
    pub delay_ms: u64,
    pub restart_at_ms: u64,
    /// The agent itself ended the attempt (its sandbox died, a probe failed), so it starts again even after exit
    /// code 0.
    pub must_restart: bool,
    /// What probes found of the current attempt, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<PreStop>,
    #[serde(skip)]
    pub image: Image,
    /// Failed pulls in a row.
    #[serde(skip)]
    pub pull_level: u32,
}

/// The current attempt, as last observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Attempt {
    /// No container of it is known.
    #[default]
    Absent,
    /// It exists; `running_since_ms` is empty until it was seen running.
    Known {
        id: String,
        #[serde(default)]
        running_since_ms: Option<u64>,
        #[serde(default, with = "seconds")]
        started_at: Option<Time>,
    },
    /// Its exit was observed, or that it is gone.
    Ended(Ended),
}

/// How an attempt ended, in Kubernetes' words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    pub id: String,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    #[serde(with = "seconds")]
    pub started_at: Option<Time>,
    #[serde(with = "seconds")]
    pub finished_at: Option<Time>,
    /// When the agent saw it.
    pub observed_ms: u64,
}

/// What is known of the current attempt's image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Image {
    #[default]
    Unknown,
    /// Looked for and not there; to be pulled.
    Missing,
    /// Engine's id, empty when it was just pulled.
    Ready(String),
    Failed {
        /// The engine's words.
        words: String,
        /// The pull policy forbids to fetch it.
        never: bool,
        at_ms: u64,
        delay_ms: u64,
        retry_at_ms: u64,
        /// When to look whether it appeared by other means.
        recheck_at_ms: u64,
    },
}

/// An action that was done and whose effect is awaited, or that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub until_ms: u64,
    /// Times in a row.
    pub level: u32,
    /// Why it failed, in the engine's words; `None` when it did not.
    pub words: Option<String>,
    /// It failed because the host lacks what the pod asks for, not because the engine refused it.
    pub config: bool,
}

/// Kind of the action and its target: a container's name (image, create) or engine id.
pub type HoldKey = (HoldKind, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldKind {
    Image,
    Create,
    Start,
    PreStop,
    Stop,
    Remove,
}

impl ContainerBook {
    pub fn ended(&self) -> Option<&Ended> {
        match &self.state {
            Attempt::Ended(e) => Some(e),
            Attempt::Absent | Attempt::Known { .. } => None,
        }
    }

    pub fn running(&self) -> bool {
        matches!(
            self.state,
            Attempt::Known {
                running_since_ms: Some(_),
                ..
            }
        )
    }

    /// Some attempt has run, or was refused at its start.
    pub fn was_started(&self) -> bool {
        self.attempt > 0 || self.running() || self.ended().is_some()
    }
}

impl PodBook {
    /// Something that must be durable before the next action or status, because it must not be unlearned: a
    /// phase or an attempt number that has risen, or an exit.
    pub fn must_persist_after(&self, saved: &Self) -> bool {
        self.phase > saved.phase
            || self.containers.iter().any(|(name, now)| {
                let before = saved.containers.get(name);
                now.attempt > before.map_or(0, |b| b.attempt)
                    || (now.ended().is_some() && before.is_none_or(|b| b.ended() != now.ended()))
            })
    }

    /// Whether what is kept on disk differs.
    pub fn differs_on_disk(&self, saved: &Self) -> bool {
        self.phase != saved.phase
            || self.ready != saved.ready
            || self.ready_since_ms != saved.ready_since_ms
            || self.containers.len() != saved.containers.len()
            || self.containers.iter().any(|(name, c)| {
                saved.containers.get(name).is_none_or(|s| {
                    (
                        &c.state,
                        c.attempt,
                        &c.last,
                        c.level,
                        c.restart_at_ms,
                        c.delay_ms,
                        c.must_restart,
                        &c.health,
                        &c.pre_stop,
                    ) != (
                        &s.state,
                        s.attempt,
                        &s.last,
                        s.level,
                        s.restart_at_ms,
                        s.delay_ms,
                        s.must_restart,
                        &s.health,
                        &s.pre_stop,
                    )
                })
            })
    }
}

/// A time as seconds, so that the ledger does not depend on the text form.
mod seconds {
    use proto::model::Time;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::ref_option, reason = "the signature is serde's")]
    pub fn serialize<S: Serializer>(time: &Option<Time>, s: S) -> Result<S::Ok, S::Error> {
        time.map(|t| t.0).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Time>, D::Error> {
        Ok(Option::<i64>::deserialize(d)?.map(Time))
    }
}
