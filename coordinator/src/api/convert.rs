//! Between the wire and the model: wire types stop here. Called by the services of `api`.
//!
//! Invariant: total: whatever bytes a caller sends, the result is a model value or a refusal.

use proto::{
    model::{Kind, NodeHold, Object, Time},
    wire,
};
use serde::Deserialize;

use super::errors::ApiError;
use crate::store::Fence;

/// Namespace of an object when neither it nor the request names one.
pub const DEFAULT_NAMESPACE: &str = "default";

pub fn kind(text: &str) -> Result<Kind, ApiError> {
    Kind::parse(text).ok_or_else(|| ApiError::UnknownKind(text.to_owned()))
}

/// Namespace that a request for one object means: none for kinds without, `default` when left out.
pub fn namespace(kind: Kind, given: &str) -> &str {
    match (kind.namespaced(), given) {
        (false, _) => "",
        (true, "") => DEFAULT_NAMESPACE,
        (true, given) => given,
    }
}

pub fn object(object: &Object) -> wire::Object {
    let (kind, meta) = (object.kind(), object.meta());
    wire::Object {
        kind: kind.name().to_owned(),
        api_version: kind.api_version().to_owned(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        json: json(&object.to_json()),
        warnings: Vec::new(),
    }
}

/// What is still known of an object that is gone: its names.
pub fn gone(kind: Kind, namespace: &str, name: &str, uid: &str) -> wire::Object {
    let mut metadata = serde_json::json!({"name": name, "uid": uid});
    if kind.namespaced() {
        metadata["namespace"] = namespace.into();
    }
    let value = serde_json::json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata});
    wire::Object {
        kind: kind.name().to_owned(),
        api_version: kind.api_version().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        resource_version: String::new(),
        json: json(&value),
        warnings: Vec::new(),
    }
}

/// Milliseconds since the Unix epoch. No time of ours lies before that.
pub fn ms(at: Time) -> u64 {
    u64::try_from(at.0).unwrap_or_default().saturating_mul(1000)
}

pub fn hold(hold: &NodeHold) -> wire::NodeHold {
    wire::NodeHold {
        id: hold.id(),
        kind: hold.kind.as_str().to_owned(),
        owner: hold.owner.clone(),
        reason: hold.reason.clone(),
        since_ms: ms(hold.since),
        expires_ms: hold.expires.map(ms).unwrap_or_default(),
    }
}

pub fn fence(fence: &Fence) -> wire::Fence {
    wire::Fence {
        incarnation: fence.incarnation.to_string(),
        term: fence.term,
        nonce: fence.nonce.to_string(),
    }
}

/// The names in a manifest, read leniently: what authorization and error messages need before the strict
/// reading. Empty where they cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Names {
    pub name: String,
    #[serde(rename = "generateName")]
    pub generate_name: String,
    pub namespace: String,
}

impl Names {
    /// The name in messages.
    pub fn shown(&self) -> &str {
        if self.name.is_empty() {
            &self.generate_name
        } else {
            &self.name
        }
    }
}

pub fn names(json: &[u8]) -> Names {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Manifest {
        metadata: Names,
    }
    serde_json::from_slice::<Manifest>(json).unwrap_or_default().metadata
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    // A Value has string keys only, so this cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_that_a_request_means() {
        for (kind, given, expected) in [
            (Kind::Pod, "", "default"),
            (Kind::Pod, "a", "a"),
            (Kind::Node, "a", ""),
            (Kind::Namespace, "", ""),
        ] {
            assert_eq!(namespace(kind, given), expected);
        }
    }

    #[test]
    fn names_are_read_leniently() {
        let read = names(br#"{"kind": 7, "metadata": {"name": "x", "namespace": "n", "labels": 3}, "spec": []}"#);
        assert_eq!((read.name.as_str(), read.namespace.as_str()), ("x", "n"));
        for unreadable in [&b"{"[..], b"[]", b"\xff", br#"{"metadata": {"name": 7}}"#] {
            assert_eq!(names(unreadable), Names::default());
        }
    }
}
