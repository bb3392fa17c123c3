//! What probes found, in the book: which attempts are to be probed, and what is kept of the findings. Part of
//! [`super::step`]; the probing itself is [`crate::probe`]'s.
//!
//! Invariants: findings count only for the attempt that they are about. A restart of the agent changes nothing of
//! them: an attempt that was ready stays ready until a probe says otherwise.

use proto::model::Container;
use serde::{Deserialize, Serialize};

use super::{Attempt, ContainerBook, Mode, PodBook, PodDesired, PodObserved, view::pod_ip};

/// What the probes of one attempt have found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Engine id of the attempt.
    pub id: String,
    /// Its startup probe has succeeded, or it has none.
    pub started: bool,
    /// The last word of its readiness probe.
    pub ready: bool,
    /// Its end is due: startup or liveness probe failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
}

/// Why an attempt is to end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failed {
    /// `liveness` or `startup`.
    pub probe: String,
    /// Of the probe; the pod's when it has none.
    pub grace_seconds: Option<i64>,
}

/// An attempt that is to be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub container: String,
    pub id: String,
    /// Address of the pod; empty while it is not known.
    pub ip: String,
    pub running_since_ms: u64,
    /// What is known of it already.
    pub known: Option<Health>,
}

/// Takes what the probes say of the attempts that run.
pub(super) fn take(book: &mut PodBook, desired: &PodDesired, observed: PodObserved<'_>) {
    for container in &desired.spec.containers {
        let Some(entry) = book.containers.get_mut(&container.name) else {
            continue;
        };
        let Some((id, _)) = running(entry).filter(|_| container.has_probes()) else {
            entry.health = None;
            continue;
        };
        match observed.health.get(&container.name).filter(|h| h.id == id) {
            Some(found) => entry.health = Some(found.clone()),
            None => entry.health = entry.health.take().filter(|h| h.id == id),
        }
    }
}

/// What is to be probed now: nothing of a pod that is being stopped.
pub(super) fn targets(book: &PodBook, desired: &PodDesired, observed: PodObserved<'_>) -> Vec<Target> {
    if desired.mode != Mode::Run {
        return Vec::new();
    }
    let target = |container: &Container| {
        let entry = book.containers.get(&container.name)?;
        let (id, running_since_ms) = running(entry)?;
        Some(Target {
            container: container.name.clone(),
            id,
            ip: pod_ip(desired, observed),
            running_since_ms,
            known: entry.health.clone(),
        })
    };
    let probed = desired.spec.containers.iter().filter(|c| c.has_probes());
    probed.filter_map(target).collect()
}

/// Whether the probes let this attempt be ready: the container's time without an exit is judged elsewhere.
pub(super) fn may_serve(container: &Container, health: Option<&Health>) -> bool {
    let started = container.startup_probe.is_none() || health.is_some_and(|h| h.started);
    let ready = container.readiness_probe.is_none() || health.is_some_and(|h| h.ready);
    started && ready && health.is_none_or(|h| h.failed.is_none())
}

fn running(entry: &ContainerBook) -> Option<(String, u64)> {
    match &entry.state {
        Attempt::Known {
            id,
            running_since_ms: Some(since),
            ..
        } => Some((id.clone(), *since)),
        Attempt::Known { .. } | Attempt::Absent | Attempt::Ended(_) => None,
    }
}
