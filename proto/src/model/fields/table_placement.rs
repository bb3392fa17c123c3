//! The fields that place pods: affinity, spread, tolerations, and the taints of nodes. Used by [`super::table`] and
//! [`super::table_pod`].
//! Source: Kubernetes' API reference, core/v1, 1.20 to 1.33.

use serde_json::Value;

use super::{Field, Fields, says_nothing};
use crate::model::taint::is_kubernetes;

pub(super) const TAINT: Fields = &[
    Field::acted("key"),
    Field::acted("value"),
    Field::acted("effect"),
    Field::ours("timeAdded"),
];

/// Whether all taints are Kubernetes' own, which say in another way what the node's conditions and
/// `unschedulable` say.
pub(super) fn set_by_kubernetes(taints: &Value) -> bool {
    let own = |taint: &Value| taint["key"].as_str().is_some_and(is_kubernetes);
    says_nothing(taints) || taints.as_array().is_some_and(|all| all.iter().all(own))
}

pub(super) const TOLERATION: Fields = &[
    Field::acted("key"),
    Field::acted("operator"),
    Field::acted("value"),
    Field::acted("effect"),
    Field::acted("tolerationSeconds"),
];

pub(super) const AFFINITY: Fields = &[
    Field::object(
        "nodeAffinity",
        &[
            Field::object(
                "requiredDuringSchedulingIgnoredDuringExecution",
                &[Field::items("nodeSelectorTerms", NODE_TERM, &[])],
            ),
            Field::items(
                "preferredDuringSchedulingIgnoredDuringExecution",
                &[Field::acted("weight"), Field::object("preference", NODE_TERM)],
                &[],
            ),
        ],
    ),
    Field::unsupported("podAffinity"),
    Field::unsupported("podAntiAffinity"),
];

const NODE_TERM: Fields = &[
    Field::items("matchExpressions", REQUIREMENT, &[]),
    Field::items("matchFields", REQUIREMENT, &[]),
];

const REQUIREMENT: Fields = &[Field::acted("key"), Field::acted("operator"), Field::list("values")];

/// A label selector within an object.
pub(super) const SELECTOR: Fields = &[
    Field::map("matchLabels"),
    Field::items("matchExpressions", REQUIREMENT, &[]),
];

pub(super) const SPREAD: Fields = &[
    Field::acted("maxSkew"),
    Field::acted("topologyKey"),
    Field::acted("whenUnsatisfiable"),
    Field::object("labelSelector", SELECTOR),
    Field::acted("minDomains"),
    Field::acted("nodeTaintsPolicy"),
    Field::idle_if("nodeAffinityPolicy", |v| v == "Honor"),
    Field::unsupported("matchLabelKeys"),
];
