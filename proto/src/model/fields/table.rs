//! The fields of the kinds and of their metadata; [`super::table_pod`] has those of a pod's spec. Used by the
//! module above only.
//! Source: Kubernetes' API reference, core/v1, policy/v1 and meta/v1, 1.20 to 1.33.

use super::{
    Field, Fields, Rule, Shape,
    table_placement::{SELECTOR, TAINT, set_by_kubernetes},
    table_pod,
};

/// Where `apiVersion` and `kind` stand beside what a kind has.
const API_VERSION: Field = Field::acted("apiVersion");
const KIND: Field = Field::acted("kind");
const METADATA: Field = Field::object("metadata", META);

const META: Fields = &[
    Field::acted("name"),
    Field::acted("generateName"),
    Field::acted("namespace"),
    Field::acted("uid"),
    Field::acted("resourceVersion"),
    Field::ours("generation"),
    Field::ours("creationTimestamp"),
    Field::acted("deletionTimestamp"),
    Field::ours("deletionGracePeriodSeconds"),
    Field::map("labels"),
    Field::map("annotations"),
    Field::items("ownerReferences", OWNER, &["uid"]),
    Field::list("finalizers"),
    Field::idle("managedFields"),
    Field::idle("selfLink"),
    Field::unsupported("clusterName"),
];

const OWNER: Fields = &[
    Field::acted("apiVersion"),
    Field::acted("kind"),
    Field::acted("name"),
    Field::acted("uid"),
    Field::acted("controller"),
    Field::acted("blockOwnerDeletion"),
];

/// A template's metadata: its pods have names, owners and times of their own.
const TEMPLATE_META: Fields = &[
    Field::ours("name"),
    Field::ours("generateName"),
    Field::ours("namespace"),
    Field::ours("uid"),
    Field::ours("resourceVersion"),
    Field::ours("generation"),
    Field::ours("creationTimestamp"),
    Field::ours("deletionTimestamp"),
    Field::ours("deletionGracePeriodSeconds"),
    Field::map("labels"),
    Field::map("annotations"),
    Field::ours("ownerReferences").keyed(&["uid"]),
    Field::ours("finalizers"),
    Field::idle("managedFields"),
    Field::idle("selfLink"),
    Field::unsupported("clusterName"),
];

pub(super) const POD: Fields = &[
    API_VERSION,
    KIND,
    METADATA,
    Field::object("spec", table_pod::SPEC),
    Field::new("status", Rule::Ours, Shape::Object(POD_STATUS)),
];

/// For merging only: a status in a write has no effect.
const POD_STATUS: Fields = &[
    Field::ours("conditions").keyed(&["type"]),
    Field::ours("hostIPs").keyed(&["ip"]),
    Field::ours("podIPs").keyed(&["ip"]),
];

const TEMPLATE: Field = Field::object(
    "template",
    &[
        Field::object("metadata", TEMPLATE_META),
        Field::object("spec", table_pod::SPEC),
    ],
);

pub(super) const CONTROLLER: Fields = &[
    API_VERSION,
    KIND,
    METADATA,
    Field::object(
        "spec",
        &[
            Field::acted("replicas"),
            Field::acted("minReadySeconds"),
            Field::map("selector"),
            TEMPLATE,
        ],
    ),
    Field::new(
        "status",
        Rule::Ours,
        Shape::Object(&[Field::ours("conditions").keyed(&["type"])]),
    ),
];

/// Source: apps/v1, 1.20 to 1.33.
pub(super) const DAEMON_SET: Fields = &[
    API_VERSION,
    KIND,
    METADATA,
    Field::object(
        "spec",
        &[
            Field::object("selector", SELECTOR),
            TEMPLATE,
            Field::acted("minReadySeconds"),
            Field::object(
                "updateStrategy",
                &[
                    Field::acted("type"),
                    Field::object(
                        "rollingUpdate",
                        &[
                            Field::acted("maxUnavailable"),
                            Field::idle_if("maxSurge", |v| *v == 0 || *v == "0%"),
                        ],
                    ),
                ],
            ),
            // No history of templates is kept.
            Field::idle("revisionHistoryLimit"),
        ],
    ),
    Field::new(
        "status",
        Rule::Ours,
        Shape::Object(&[Field::ours("conditions").keyed(&["type"])]),
    ),
];

pub(super) const BUDGET: Fields = &[
    API_VERSION,
    KIND,
    METADATA,
    Field::object(
        "spec",
        &[
            Field::acted("minAvailable"),
            Field::acted("maxUnavailable"),
            Field::object("selector", SELECTOR),
            // A pod that is not available costs its budget nothing, here always.
            Field::idle_if("unhealthyPodEvictionPolicy", |v| v == "AlwaysAllow"),
        ],
    ),
    Field::new(
        "status",
        Rule::Ours,
        Shape::Object(&[Field::ours("conditions").keyed(&["type"])]),
    ),
];

pub(super) const NODE: Fields = &[
    API_VERSION,
    KIND,
    METADATA,
    Field::object(
        "spec",
        &[
            Field::acted("unschedulable"),
            Field::idle("podCIDR"),
            Field::idle("podCIDRs"),
            Field::idle("providerID"),
            Field::idle("externalID"),
            Field::new("taints", Rule::ActedUnless(set_by_kubernetes), Shape::Items(TAINT, &[])),
            Field::unsupported("configSource"),
        ],
    ),
    Field::new(
        "status",
        Rule::Ours,
        Shape::Object(&[
            Field::ours("conditions").keyed(&["type"]),
            Field::ours("addresses").keyed(&["type"]),
        ]),
    ),
];

pub(super) const NAMESPACE: Fields = &[API_VERSION, KIND, METADATA, Field::ours("spec"), Field::ours("status")];

/// Derived: what a write says of the addresses has no effect, and the coordinator refuses the write.
pub(super) const ENDPOINTS: Fields = &[API_VERSION, KIND, METADATA, Field::ours("subsets")];

pub(super) const EVENT: Fields = &[
    API_VERSION,
    KIND,
    METADATA,
    Field::object(
        "involvedObject",
        &[
            Field::acted("kind"),
            Field::acted("namespace"),
            Field::acted("name"),
            Field::acted("uid"),
            Field::idle("apiVersion"),
            Field::idle("resourceVersion"),
            Field::idle("fieldPath"),
        ],
    ),
    Field::acted("reason"),
    Field::acted("message"),
    Field::acted("type"),
    Field::acted("count"),
    Field::acted("firstTimestamp"),
    Field::acted("lastTimestamp"),
    Field::object("source", &[Field::acted("component"), Field::acted("host")]),
    Field::idle("eventTime"),
    Field::idle("series"),
    Field::idle("action"),
    Field::idle("related"),
    Field::idle("reportingComponent"),
    Field::idle("reportingInstance"),
];
