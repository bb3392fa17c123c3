//! Which lists are lists of named items, and by which field. Used by the coordinator, which refuses a merge patch
//! that would replace such a list, and by `apply`, which merges it item by item.
//!
//! Invariant: as Kubernetes merges the same list.

use serde_json::Value;

use super::{Fields, Shape, find, of};
use crate::model::Kind;

/// The fields whose values together name an item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeKey(pub &'static [&'static str]);

impl MergeKey {
    /// An item's values of the key; none if it lacks one, and so has no name.
    pub fn of(&self, item: &Value) -> Option<Vec<Value>> {
        self.0
            .iter()
            .map(|field| match item.get(field) {
                // A port without a protocol is a TCP port.
                None | Some(Value::Null) if *field == "protocol" => Some(Value::from("TCP")),
                None | Some(Value::Null) => None,
                Some(value) => Some(value.clone()),
            })
            .collect()
    }
}

impl std::fmt::Display for MergeKey {
    /// `containerPort and protocol`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(" and "))
    }
}

/// Key of the list at `path`, e.g. `spec.template.spec.containers[0].env`; an index in the path, also that of the
/// list itself, may be left out. None: the path is no list of named items, and a merge replaces it as a whole.
pub fn merge_key(kind: Kind, path: &str) -> Option<MergeKey> {
    let mut fields: Fields = of(kind);
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let name = part.split('[').next().unwrap_or_default();
        match (find(fields, name)?.shape, parts.peek()) {
            (Shape::Object(inner) | Shape::Items(inner, _), Some(_)) => fields = inner,
            (Shape::Items(_, keys), None) => return (!keys.is_empty()).then_some(MergeKey(keys)),
            (Shape::Object(_) | Shape::Scalar | Shape::Map | Shape::List, _) => return None,
        }
    }
    None
}
