//! DaemonSet: keep one pod of a template on each node that it is for.

use serde::{Deserialize, Serialize};

use super::{IntOrPercent, ObjectMeta, PodCondition, PodSelector, PodTemplate};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DaemonSet {
    pub metadata: ObjectMeta,
    pub spec: DaemonSetSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<DaemonSetStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DaemonSetSpec {
    /// Which ownerless pods to adopt. Ownership itself is by uid.
    pub selector: PodSelector,
    pub template: PodTemplate,
    /// Seconds that a pod must be Ready to count as available.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_ready_seconds: i32,
    #[serde(default)]
    pub update_strategy: DaemonSetUpdateStrategy,
}

impl DaemonSetSpec {
    /// How many of `desired` daemons an update may make unavailable. None: no pod is updated but by its deletion.
    pub fn max_unavailable(&self, desired: usize) -> Option<usize> {
        let strategy = &self.update_strategy;
        match strategy.kind {
            UpdateStrategyType::OnDelete => None,
            UpdateStrategyType::RollingUpdate => {
                let rolling = strategy.rolling_update.unwrap_or_default();
                let most = rolling.max_unavailable.of(i64::try_from(desired).unwrap_or(i64::MAX));
                Some(usize::try_from(most).unwrap_or_default().max(1))
            }
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DaemonSetUpdateStrategy {
    #[serde(rename = "type")]
    pub kind: UpdateStrategyType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdateDaemonSet>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateStrategyType {
    #[default]
    RollingUpdate,
    OnDelete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RollingUpdateDaemonSet {
    /// Of the nodes that the set is for.
    pub max_unavailable: IntOrPercent,
}

impl Default for RollingUpdateDaemonSet {
    fn default() -> Self {
        Self {
            max_unavailable: IntOrPercent::Int(1),
        }
    }
}

/// Derived from nodes and pods whenever it is read; never stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DaemonSetStatus {
    /// Nodes that the set is for.
    pub desired_number_scheduled: i32,
    /// Of these, the ones that have a daemon.
    pub current_number_scheduled: i32,
    /// Other nodes that have one.
    pub number_misscheduled: i32,
    pub number_ready: i32,
    /// Daemons of the present template.
    pub updated_number_scheduled: i32,
    pub number_available: i32,
    /// Nodes that the set is for and that have no available daemon.
    pub number_unavailable: i32,
    /// Generation that the planner has acted on.
    pub observed_generation: i64,
    /// `Ready`: each node that the set is for has a ready daemon, of the present template unless that waits for
    /// deletions. `Placed`: no node lacks something for its daemon, be it room or a host port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PodCondition>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_many_an_update_may_make_unavailable() {
        for (strategy, expected) in [
            (json!({}), Some(1)),
            (json!({"type": "RollingUpdate"}), Some(1)),
            (json!({"rollingUpdate": {}}), Some(1)),
            (json!({"rollingUpdate": {"maxUnavailable": 3}}), Some(3)),
            (json!({"rollingUpdate": {"maxUnavailable": "25%"}}), Some(3)),
            (json!({"type": "OnDelete"}), None),
        ] {
            let spec: DaemonSetSpec =
                serde_json::from_value(json!({"selector": {}, "template": {}, "updateStrategy": strategy}))
                    .expect("it reads");
            assert_eq!(spec.max_unavailable(10), expected, "{strategy}");
        }
    }
}
