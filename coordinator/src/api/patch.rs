//! A Patch: a JSON merge patch (RFC 7386) on the object as it is shown, then the decision of a Replace. Called by
//! `resources` through `write`.
//!
//! Invariant: the patch is merged into the present object at each attempt, so that two patches of different fields
//! both hold; no list of named items loses one that the patch does not name.

use proto::model::{
    FieldError, Kind, Object, Time,
    fields::{self, MergeKey, merge_key},
    json, parse, validate,
};
use serde_json::{Map, Value};

use super::{
    create,
    errors::ApiError,
    revise::{Missing, Revision, changeable, revise},
    write::Decision,
};
use crate::world::World;

pub struct Patch {
    kind: Kind,
    namespace: String,
    name: String,
    patch: Map<String, Value>,
    /// What of it has no effect.
    without_effect: Option<String>,
}

impl Patch {
    pub fn new(kind: Kind, namespace: &str, name: &str, json: &[u8]) -> Result<Self, ApiError> {
        changeable(kind, name)?;
        create::check_size(kind, name, json.len())?;
        let bad = |what: String| ApiError::BadRequest(format!("patch: {what}"));
        let mut value = json::read(json).map_err(|e| bad(e.to_string()))?;
        let Some(patch) = value.as_object().cloned() else {
            return Err(bad(
                r#"must be a JSON object, e.g. {"metadata": {"labels": {"a": "b"}}}"#.into(),
            ));
        };
        if patch.contains_key("status") {
            let what = "written by the coordinator and the agents; leave it out";
            return Err(ApiError::invalid(kind, name, "status", what));
        }
        // Only to say what it cannot mean: a null is left out there, and here it removes.
        let stripped = fields::strip(kind, &mut value);
        ApiError::unless_valid(kind, name, stripped.errors)?;
        Ok(Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            patch,
            without_effect: fields::warning(&stripped.without_effect),
        })
    }

    /// Whether it may make a hold.
    pub fn holds(&self) -> bool {
        self.kind == Kind::Node && self.names_unschedulable()
    }

    /// It sets or removes the field, or all of the spec.
    fn names_unschedulable(&self) -> bool {
        match self.patch.get("spec") {
            Some(Value::Object(spec)) => spec.contains_key("unschedulable"),
            Some(_) => true,
            None => false,
        }
    }

    pub fn decide(&self, world: &World, caller: &str, now: Time) -> Result<Decision, ApiError> {
        let (kind, name) = (self.kind, &self.name);
        let old = world
            .object(kind, &self.namespace, name)
            .ok_or_else(|| ApiError::not_found(kind, name))?;
        let mut before = old.to_json();
        if let Some(object) = before.as_object_mut() {
            object.shift_remove("status");
        }
        let mut after = before.clone();
        merge_object(&mut after, &self.patch);
        // A Value has string keys only, so this cannot fail.
        create::check_size(kind, name, serde_json::to_vec(&after).unwrap_or_default().len())?;
        let written = parse::written(kind, after).map_err(|errors| ApiError::all_invalid(kind, name, errors))?;
        let mut new = written.object;
        validate::default(&mut new);
        // All of a pod's spec is refused, with better words.
        if kind != Kind::Pod {
            let mut lost = Vec::new();
            replaced_lists(kind, "", &self.patch, &before, &new.to_json(), &mut lost);
            ApiError::unless_valid(kind, name, lost)?;
        }
        let revision = Revision {
            caller,
            now,
            missing: Missing::Removed,
            cordon: match &new {
                Object::Node(node) if self.names_unschedulable() => Some(node.spec.unschedulable),
                _ => None,
            },
        };
        let mut decision = revise(world, &old, new, revision)?;
        decision.warnings.extend(self.without_effect.clone());
        Ok(decision)
    }
}

/// RFC 7386: null removes a key, an object is merged, anything else takes the place of what is there.
fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) => merge_object(target, patch),
        other => *target = other.clone(),
    }
}

fn merge_object(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            object.shift_remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The lists of named items that the patch would replace by other ones.
fn replaced_lists(
    kind: Kind,
    at: &str,
    patch: &Map<String, Value>,
    before: &Value,
    after: &Value,
    out: &mut Vec<FieldError>,
) {
    for (field, value) in patch {
        let path = if at.is_empty() {
            field.clone()
        } else {
            format!("{at}.{field}")
        };
        match value {
            Value::Object(inner) => replaced_lists(kind, &path, inner, &before[field], &after[field], out),
            Value::Array(_) if before[field] != after[field] => {
                if let (Some(by), Some(items)) = (merge_key(kind, &path), before[field].as_array())
                    && !items.is_empty()
                {
                    out.push(FieldError::new(path, refusal(by, items, &after[field])));
                }
            }
            _ => {}
        }
    }
}

fn refusal(by: MergeKey, before: &[Value], after: &Value) -> String {
    let kept: Vec<_> = after
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| by.of(item))
        .collect();
    let lost = before
        .iter()
        .filter_map(|item| by.of(item))
        .filter(|name| !kept.contains(name));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let lost: Vec<String> = lost
        .map(|name| name.iter().map(text).collect::<Vec<_>>().join("/"))
        .collect();
    let what = if lost.is_empty() {
        "what its items leave out".to_owned()
    } else {
        lost.join(", ")
    };
    format!(
        "the patch would replace the whole list and lose {what}; use wharf apply -f or wharf replace -f with the whole object"
    )
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;
