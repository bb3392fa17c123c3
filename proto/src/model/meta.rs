//! Metadata that every object carries.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Time;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObjectMeta {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Prefix of a name that the coordinator completes with five random characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    /// Empty for Node and Namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Set by the coordinator; never used twice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Decimal; compare for equality only, except within one incarnation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Rises with each change of `spec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
    /// When the object is gone for good at the latest (now + grace), as in Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerReference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

/// Annotation with what `wharf apply` last sent; kubectl's, so that its users' objects are known.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// ` -n NS` for a command about an object of this namespace; empty for that which commands take by themselves.
pub fn namespace_flag(namespace: &str) -> String {
    match namespace {
        "" | "default" => String::new(),
        other => format!(" -n {other}"),
    }
}
