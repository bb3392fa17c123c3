//! ReplicationController: keep N pods of one template.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ObjectMeta, PodCondition, PodTemplate};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReplicationController {
    pub metadata: ObjectMeta,
    pub spec: RcSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<RcStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RcSpec {
    /// Desired count; 1 when left out.
    #[serde(default = "one")]
    pub replicas: i32,
    /// Seconds that a pod must be Ready to count as available.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_ready_seconds: i32,
    /// Which ownerless pods to adopt; the template's labels when left out. Ownership itself is by uid.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    pub template: PodTemplate,
}

impl Default for RcSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            min_ready_seconds: 0,
            selector: BTreeMap::new(),
            template: PodTemplate::default(),
        }
    }
}

/// Derived from the pods whenever it is read; never stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RcStatus {
    /// Pods that belong to the controller and are not being deleted.
    pub replicas: i32,
    pub ready_replicas: i32,
    pub available_replicas: i32,
    pub fully_labeled_replicas: i32,
    /// Generation that the planner has acted on.
    pub observed_generation: i64,
    /// `Ready`: as many pods as desired, and all of them ready. Ours: Kubernetes' controllers have only their
    /// counts, and nothing that one could wait for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PodCondition>,
}

fn one() -> i32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}
