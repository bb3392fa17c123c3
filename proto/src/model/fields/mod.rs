//! What each field of Kubernetes' objects means here. [`parse`](super::parse) strips and refuses by it; merging
//! ([`merge_key`]) reads from it which lists are lists of named items.
//!
//! Invariant: the tables hold every field that Kubernetes 1.20 to 1.33 has at a place that we read, and the fields
//! of the model's types are exactly those that are acted on or [`Rule::Ours`].

mod merge;
mod strip;
mod table;
mod table_placement;
mod table_pod;

use serde_json::Value;

pub use merge::{MergeKey, merge_key};
pub use strip::{Stripped, strip, warning};

use super::Kind;

/// What a field in a write does.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The model has it, and it is acted on.
    Acted,
    /// The model has it for reading; only the coordinator sets it.
    Ours,
    /// Valid in Kubernetes; no value of it has an effect here.
    Idle,
    /// Without effect with the values that the function accepts: what Kubernetes' defaulting writes, or what says
    /// no more than leaving the field out. Not supported with others.
    IdleIf(fn(&Value) -> bool),
    /// Acted on, except with the values that the function accepts: those have no effect here.
    ActedUnless(fn(&Value) -> bool),
    /// Valid and meaningful in Kubernetes; refused here.
    Unsupported,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// A number, a string, a truth value.
    Scalar,
    /// Keys that the user chooses.
    Map,
    Object(Fields),
    /// Replaced as a whole by a merge.
    List,
    /// A list of objects that a merge tells apart by the values of some of their fields; by none of them if that
    /// list is empty.
    Items(Fields, &'static [&'static str]),
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    rule: Rule,
    shape: Shape,
}

/// All fields that there are at one place.
type Fields = &'static [Field];

impl Field {
    const fn new(name: &'static str, rule: Rule, shape: Shape) -> Self {
        Self { name, rule, shape }
    }

    const fn acted(name: &'static str) -> Self {
        Self::new(name, Rule::Acted, Shape::Scalar)
    }

    const fn map(name: &'static str) -> Self {
        Self::new(name, Rule::Acted, Shape::Map)
    }

    const fn list(name: &'static str) -> Self {
        Self::new(name, Rule::Acted, Shape::List)
    }

    const fn object(name: &'static str, fields: Fields) -> Self {
        Self::new(name, Rule::Acted, Shape::Object(fields))
    }

    const fn items(name: &'static str, fields: Fields, keys: &'static [&'static str]) -> Self {
        Self::new(name, Rule::Acted, Shape::Items(fields, keys))
    }

    const fn ours(name: &'static str) -> Self {
        Self::new(name, Rule::Ours, Shape::Scalar)
    }

    const fn idle(name: &'static str) -> Self {
        Self::new(name, Rule::Idle, Shape::Scalar)
    }

    const fn idle_if(name: &'static str, holds: fn(&Value) -> bool) -> Self {
        Self::new(name, Rule::IdleIf(holds), Shape::Scalar)
    }

    /// Refused unless it says nothing.
    const fn unsupported(name: &'static str) -> Self {
        Self::new(name, Rule::IdleIf(says_nothing), Shape::Scalar)
    }

    /// Refused even when empty, because being there is what it says.
    const fn refused(name: &'static str) -> Self {
        Self::new(name, Rule::Unsupported, Shape::Scalar)
    }

    /// As it is, and a list of items named by `keys`.
    const fn keyed(self, keys: &'static [&'static str]) -> Self {
        Self::new(self.name, self.rule, Shape::Items(&[], keys))
    }
}

/// `false`, `""`, `[]` and `{}`: as good as left out.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(_) => false,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// Fields of an object of `kind`.
fn of(kind: Kind) -> Fields {
    match kind {
        Kind::Node => table::NODE,
        Kind::Namespace => table::NAMESPACE,
        Kind::ReplicationController => table::CONTROLLER,
        Kind::DaemonSet => table::DAEMON_SET,
        Kind::Pod => table::POD,
        Kind::PodDisruptionBudget => table::BUDGET,
        Kind::Endpoints => table::ENDPOINTS,
        Kind::Event => table::EVENT,
    }
}

fn find(fields: Fields, name: &str) -> Option<&'static Field> {
    fields.iter().find(|f| f.name == name)
}

#[cfg(test)]
mod strip_properties;
#[cfg(test)]
mod tests;
