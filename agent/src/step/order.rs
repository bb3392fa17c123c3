//! Stops a container in order: its `preStop` hook, the rest of the pod's drain, then the stop signal with what is
//! left of the grace. Part of [`super::decide`].
//!
//! ```text
//! accepted ──── endpoint drain ────┬──────────── grace ────────────▶ kill
//! preStop ─────────────────────────┴───▶ stop signal ──────────────▶ kill
//! ```
//!
//! Invariant: drain and hook are counted from what the ledger holds, so that a restart of the agent neither shortens
//! nor repeats them; a hook whose end was not seen is done again, within the same time.

use serde::{Deserialize, Serialize};

use super::{Action, Why, decide::Planner, view::pod_ip};
use crate::runtime::ContainerInfo;

/// What a hook leaves at least between stop signal and kill, as in Kubernetes.
const LAST_GRACE_MS: u64 = 2_000;

/// The `preStop` hook of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreStop {
    /// Engine id of the attempt.
    pub id: String,
    pub begun_ms: u64,
    /// It ended, or is waited for no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_ms: Option<u64>,
}

impl Planner<'_> {
    /// `grace_from_ms`: when the pod's drain is over.
    pub(super) fn stop_in_order(&mut self, info: &ContainerInfo, grace_ms: u64, grace_from_ms: u64, why: Why) {
        let Ok(used_ms) = self.hook(info, grace_ms, grace_from_ms) else {
            return;
        };
        if self.now_ms < grace_from_ms {
            self.wake.at(grace_from_ms);
            return;
        }
        let left_ms = grace_ms.saturating_sub(used_ms).max(LAST_GRACE_MS.min(grace_ms));
        self.stop_container(info, left_ms, why);
    }

    /// What the hook took of the grace; an error while it is to run.
    fn hook(&mut self, info: &ContainerInfo, grace_ms: u64, grace_from_ms: u64) -> Result<u64, Runs> {
        let name = &info.owner.container;
        let mut containers = self.desired.spec.containers.iter();
        let hooked = containers.any(|c| c.name == *name && c.lifecycle.pre_stop.is_some());
        let Some(entry) = self.book.containers.get_mut(name) else {
            return Ok(0);
        };
        if !hooked || grace_ms == 0 {
            return Ok(0);
        }
        let known = entry.pre_stop.take().filter(|h| h.id == info.id);
        let mut hook = known.unwrap_or_else(|| PreStop {
            id: info.id.clone(),
            begun_ms: self.now_ms,
            over_ms: None,
        });
        let from_ms = grace_from_ms.max(hook.begun_ms);
        let until_ms = from_ms.saturating_add(grace_ms);
        if hook.over_ms.is_none() && self.now_ms >= until_ms {
            // The agent was away meanwhile.
            hook.over_ms = Some(until_ms);
        }
        let over_ms = hook.over_ms;
        entry.pre_stop = Some(hook);
        if let Some(over_ms) = over_ms {
            return Ok(over_ms.saturating_sub(from_ms));
        }
        self.wake.at(until_ms);
        self.push(Action::PreStop {
            container: name.clone(),
            id: info.id.clone(),
            ip: pod_ip(self.desired, self.observed),
            limit_ms: until_ms - self.now_ms,
        });
        Err(Runs)
    }
}

/// The hook is to run, or runs.
struct Runs;
