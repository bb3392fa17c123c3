//! What to do next for one pod. Called by the worker, again and again, with what it just saw.
//!
//! PURE: no tokio, clock, randomness or logging; `now` comes in. The same input gives the same answer, and
//! calling [`step`] again with the book that it returned changes nothing.
//!
//! ```text
//! (desired, book, containers, now) ── observe ──▶ book' ── decide ──▶ actions, wake-up
//!                                                   └──── view ────▶ status
//! (book', action, outcome, now)    ── record  ──▶ book''
//! ```
//!
//! Invariants: attempt n+1 is created only after the exit of attempt n was observed. Nothing but a stop entry,
//! its own stop-after-disconnect, a failed probe, a dead sandbox or a newer attempt stops a container. An action that failed, or that had no visible effect,
//! is not repeated before its backoff has passed.

mod book;
mod decide;
mod health;
mod observe;
mod order;
mod outcome;
mod view;

use std::{collections::BTreeMap, sync::Arc};

pub use book::{Attempt, ContainerBook, Ended, Hold, HoldKey, HoldKind, Image, PodBook};
pub use health::{Failed, Health, Target};
pub use order::PreStop;
pub use outcome::{Outcome, announce, record};
use proto::model::{PodSpec, PodStatus, Volume};

use crate::runtime::ContainerInfo;

/// What the ledger wants of a pod.
#[derive(Clone, Debug)]
pub struct PodDesired {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub spec: Arc<PodSpec>,
    /// Why the spec cannot be used by this agent.
    pub invalid: Option<String>,
    pub mode: Mode,
    /// When the pod was accepted.
    pub accepted_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Run,
    /// A stop entry was accepted.
    Stop {
        grace_ms: u64,
        /// The pod has left its Endpoints and serves on until then.
        drain_until_ms: u64,
        reason: String,
    },
    /// This agent stops it: no coordinator has heard it for too long. No stop entry came, so that it is kept until one
    /// does.
    Disconnected {
        grace_ms: u64,
        reason: String,
    },
    /// Its end is on record: clean up what is dead, leave what runs.
    Forget,
}

/// What the worker sees of a pod.
#[derive(Clone, Copy, Debug)]
pub struct PodObserved<'a> {
    pub book: &'a PodBook,
    /// All of the pod's containers on the engine.
    pub containers: &'a [ContainerInfo],
    /// Address where the host's ports can be reached.
    pub host_ip: &'a str,
    /// How far pulls under way are, by container name.
    pub pulling: &'a BTreeMap<String, String>,
    /// What probes found, by container name.
    pub health: &'a BTreeMap<String, Health>,
    /// An action is under way that may still make a container exist or run.
    pub in_flight: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    CheckImage {
        container: String,
        image: String,
    },
    Pull {
        container: String,
        image: String,
    },
    /// Create attempt `attempt`; in the network of `join`, an engine id, if given.
    Create {
        container: String,
        attempt: u32,
        join: Option<String>,
        /// Address of the pod, for `status.podIP`; empty without a sandbox.
        pod_ip: String,
    },
    Start {
        container: String,
        id: String,
    },
    /// Run the container's `preStop` hook, no longer than `limit_ms`. `ip` is the pod's.
    PreStop {
        container: String,
        id: String,
        ip: String,
        limit_ms: u64,
    },
    Stop {
        container: String,
        id: String,
        grace_ms: u64,
        why: Why,
    },
    Remove {
        container: String,
        id: String,
    },
}

/// Why a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A stop entry, with its reason.
    Asked(String),
    /// Its liveness or startup probe failed.
    Unhealthy(String),
    /// The container that held the pod's network is gone.
    SandboxGone,
    /// A later attempt of the same container exists.
    OlderAttempt,
    /// All containers of the pod have ended; only its sandbox is left.
    PodEnded,
}

impl Action {
    /// The container that it is about; at most one action a container is under way.
    pub fn container(&self) -> &str {
        match self {
            Self::CheckImage { container, .. }
            | Self::Pull { container, .. }
            | Self::Create { container, .. }
            | Self::Start { container, .. }
            | Self::PreStop { container, .. }
            | Self::Stop { container, .. }
            | Self::Remove { container, .. } => container,
        }
    }

    /// A word for logs and metrics.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::CheckImage { .. } => "check-image",
            Self::Pull { .. } => "pull",
            Self::Create { .. } => "create",
            Self::Start { .. } => "start",
            Self::PreStop { .. } => "pre-stop",
            Self::Stop { .. } => "stop",
            Self::Remove { .. } => "remove",
        }
    }

    fn hold_key(&self) -> HoldKey {
        match self {
            Self::CheckImage { container, .. } | Self::Pull { container, .. } => (HoldKind::Image, container.clone()),
            Self::Create { container, .. } => (HoldKind::Create, container.clone()),
            Self::Start { id, .. } => (HoldKind::Start, id.clone()),
            Self::PreStop { id, .. } => (HoldKind::PreStop, id.clone()),
            Self::Stop { id, .. } => (HoldKind::Stop, id.clone()),
            Self::Remove { id, .. } => (HoldKind::Remove, id.clone()),
        }
    }
}

/// A delay that doubles from `initial_ms` up to `max_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub initial_ms: u64,
    pub max_ms: u64,
}

impl Backoff {
    /// Delay after the `level`th failure in a row; 0 for none.
    pub fn delay_ms(&self, level: u32) -> u64 {
        match level {
            0 => 0,
            n => self
                .initial_ms
                .saturating_mul(1_u64.checked_shl(n - 1).unwrap_or(u64::MAX))
                .min(self.max_ms),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// A container without a readiness probe is ready when it has run this long.
    pub ready_after_ms: u64,
    /// Delay of restarts after the first, and of creates that failed.
    pub crash: Backoff,
    /// A run this long makes the next restart immediate again.
    pub crash_reset_ms: u64,
    pub image: Backoff,
    /// How often to look whether an image that could not be pulled appeared by other means.
    pub image_recheck_ms: u64,
    /// Delay after a call whose effect is unknown, or a stop or remove that failed.
    pub retry: Backoff,
    /// How long a failure shows its own reason (`ErrImagePull`) before that of its backoff.
    pub fresh_error_ms: u64,
}

impl Default for StepSettings {
    fn default() -> Self {
        let minutes = |n: u64| n * 60_000;
        let backoff = Backoff {
            initial_ms: 10_000,
            max_ms: minutes(5),
        };
        Self {
            ready_after_ms: 5_000,
            crash: backoff,
            crash_reset_ms: minutes(10),
            image: backoff,
            image_recheck_ms: 10_000,
            retry: Backoff {
                initial_ms: 1_000,
                max_ms: 30_000,
            },
            fresh_error_ms: 2_000,
        }
    }
}

/// Something worth telling people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// CamelCase, e.g. `Pulled`.
    pub reason: &'static str,
    pub message: String,
    pub warning: bool,
}

impl Note {
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            warning: false,
        }
    }

    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            warning: true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The book from now on.
    pub book: PodBook,
    /// At most one a container is to be under way at a time; earlier ones first.
    pub actions: Vec<Action>,
    /// When to call again at the latest, if nothing happens before.
    pub wake_at_ms: Option<u64>,
    pub view: View,
    /// What is to be probed.
    pub targets: Vec<Target>,
    pub notes: Vec<Note>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub status: PodStatus,
    /// After a stop entry: no container runs and none can come to run.
    pub stopped: bool,
    /// Nothing of the pod is left on the engine, and nothing will be made.
    pub gone: bool,
}

/// See the module's head.
pub fn step(desired: &PodDesired, observed: PodObserved<'_>, now_ms: u64, settings: &StepSettings) -> Step {
    let mut book = observed.book.clone();
    let mut notes = Vec::new();
    observe::observe(&mut book, desired, observed.containers, now_ms, settings, &mut notes);
    health::take(&mut book, desired, observed);
    let mut decision = decide::decide(&mut book, desired, observed, now_ms);
    let view = view::view(&mut book, desired, observed, now_ms, settings, &mut decision.wake);
    let targets = health::targets(&book, desired, observed);
    Step {
        book,
        targets,
        actions: decision.actions,
        wake_at_ms: decision.wake.at_ms,
        view,
        notes,
    }
}

/// Whether the pod has a sandbox: several containers share its network, or one needs the pod's address in its
/// environment before it exists, or it keeps the pod's volumes in memory while containers restart.
pub fn needs_sandbox(spec: &PodSpec) -> bool {
    spec.volumes.iter().any(Volume::in_memory) || (!spec.host_network && needs_network(spec))
}

fn needs_network(spec: &PodSpec) -> bool {
    spec.containers.len() > 1
        || spec.containers.iter().flat_map(|c| &c.env).any(|var| {
            var.value_from
                .as_ref()
                .is_some_and(|from| from.field_ref.field_path == "status.podIP")
        })
}

/// Earliest of several moments, all later than now.
#[derive(Clone, Copy, Debug)]
struct Wake {
    now_ms: u64,
    at_ms: Option<u64>,
}

impl Wake {
    fn at(&mut self, at_ms: u64) {
        if at_ms > self.now_ms {
            self.at_ms = Some(self.at_ms.map_or(at_ms, |known| known.min(at_ms)));
        }
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "step/health_tests.rs"]
mod health_tests;

#[cfg(test)]
#[path = "step/order_tests.rs"]
mod order_tests;

#[cfg(test)]
#[path = "step/step_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "step/pod_tests.rs"]
mod pod_tests;

#[cfg(test)]
#[path = "step/pod_spec_tests.rs"]
mod pod_spec_tests;

#[cfg(test)]
#[path = "step/step_properties.rs"]
mod properties;
