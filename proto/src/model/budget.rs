//! PodDisruptionBudget: how many of the pods that a selector chooses must stay available when pods are stopped on
//! purpose. Read by the coordinator's ledger of disruptions.
//!
//! Invariant: pure; shares of a hundred are rounded up, as in Kubernetes.

use serde::{Deserialize, Serialize};

use super::{IntOrPercent, ObjectMeta, PodCondition, PodSelector};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodDisruptionBudget {
    pub metadata: ObjectMeta,
    pub spec: PdbSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<PdbStatus>,
}

/// One of the two amounts is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PdbSpec {
    /// As many must be available after a stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_available: Option<IntOrPercent>,
    /// As many of those that are to be there may be missing after a stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrPercent>,
    /// Which pods of the namespace; an empty one selects all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<PodSelector>,
}

impl PdbSpec {
    /// How many must be available where so many are to be there.
    pub fn floor(&self, expected: i64) -> i64 {
        match (self.min_available, self.max_unavailable) {
            (Some(min), _) => min.of(expected),
            (None, Some(max)) => (expected - max.of(expected)).max(0),
            // Validation lets no such budget through.
            (None, None) => 0,
        }
    }
}

/// Derived from the pods whenever it is read; never stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PdbStatus {
    /// Selected pods that are available.
    pub current_healthy: i64,
    /// How many of them must be.
    pub desired_healthy: i64,
    /// Pods that are to be there: what their controllers desire, and those without a controller.
    pub expected_pods: i64,
    /// Pods that may be stopped now.
    pub disruptions_allowed: i64,
    pub observed_generation: i64,
    /// `DisruptionAllowed`, as in Kubernetes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PodCondition>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Both amounts round up, so that a share of the missing ones is generous and one of the present ones strict.
    #[test]
    fn the_floor_under_what_is_expected() {
        let floor = |spec: Value, expected: i64| {
            let spec: PdbSpec = serde_json::from_value(spec).expect("a spec");
            spec.floor(expected)
        };
        for (spec, floors) in [
            (json!({"minAvailable": 2}), [2, 2, 2, 2]),
            (json!({"minAvailable": "50%"}), [0, 1, 2, 4]),
            (json!({"minAvailable": "0%"}), [0, 0, 0, 0]),
            (json!({"minAvailable": "1%"}), [0, 1, 1, 1]),
            (json!({"minAvailable": "100%"}), [0, 1, 3, 7]),
            (json!({"maxUnavailable": 0}), [0, 1, 3, 7]),
            (json!({"maxUnavailable": 2}), [0, 0, 1, 5]),
            (json!({"maxUnavailable": "30%"}), [0, 0, 2, 4]),
            (json!({"maxUnavailable": "100%"}), [0, 0, 0, 0]),
            (json!({}), [0, 0, 0, 0]),
        ] {
            assert_eq!([0, 1, 3, 7].map(|n| floor(spec.clone(), n)), floors, "{spec}");
        }
    }
}
