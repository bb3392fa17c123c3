//! Reads an object from JSON, strictly: what [`fields`](super::fields) does not know or support is refused with its
//! path and the nearest right name. Called by the coordinator for every write and by the command, which adds file,
//! line and column.
//!
//! Invariant: total; what [`written`] returns as JSON reads again, with nothing left out.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{FieldError, Kind, Object, fields, json};

/// What a write holds.
#[derive(Clone, Debug)]
pub struct Written {
    pub object: Object,
    /// What was written, without what has no effect.
    pub json: Value,
    /// Paths of what was left out, in the order written; [`fields::warning`] says it to people.
    pub without_effect: Vec<String>,
}

/// Most errors that are named of one object.
const MAX_ERRORS: usize = 20;

/// Reads an object of `kind` that somebody writes. `apiVersion` and `kind` may be left out; if there, they must match.
/// All that does not belong to it by name or type is named at once.
pub fn object(kind: Kind, json: &[u8]) -> Result<Written, Vec<FieldError>> {
    written(kind, json::read(json).map_err(|e| vec![e])?)
}

/// As [`object`], from a parsed value.
pub fn written(kind: Kind, mut value: Value) -> Result<Written, Vec<FieldError>> {
    let stripped = fields::strip(kind, &mut value);
    let mut errors = stripped.errors;
    // serde stops at the first error: take out what it names, and look for the next one.
    let mut rest = value.clone();
    while errors.len() < MAX_ERRORS {
        match object_value(kind, rest.clone()) {
            Ok(object) if errors.is_empty() => {
                return Ok(Written {
                    object,
                    json: value,
                    without_effect: stripped.without_effect,
                });
            }
            Ok(_) => break,
            // It may be missing because it is misspelt or was taken out.
            Err(e) if e.message.starts_with("missing field") && !errors.is_empty() => break,
            Err(e) => {
                let more = json::remove(&mut rest, &e.path);
                errors.push(e);
                if !more {
                    break;
                }
            }
        }
    }
    errors.truncate(MAX_ERRORS);
    Err(errors)
}

/// Reads an object that a coordinator made: with all that it sets, and nothing that the model does not have.
pub fn object_value(kind: Kind, mut value: Value) -> Result<Object, FieldError> {
    let Some(map) = value.as_object_mut() else {
        return Err(FieldError::new("", "must be an object"));
    };
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.name())] {
        match map.shift_remove(field) {
            None => {}
            Some(Value::String(found)) if found == expected => {}
            Some(found) => {
                return Err(FieldError::new(field, format!("must be {expected}, not {found}")));
            }
        }
    }
    Ok(match kind {
        Kind::Node => Object::Node(typed(value)?),
        Kind::Namespace => Object::Namespace(typed(value)?),
        Kind::ReplicationController => Object::ReplicationController(typed(value)?),
        Kind::DaemonSet => Object::DaemonSet(typed(value)?),
        Kind::Pod => Object::Pod(typed(value)?),
        Kind::PodDisruptionBudget => Object::PodDisruptionBudget(typed(value)?),
        Kind::Endpoints => Object::Endpoints(typed(value)?),
        Kind::Event => Object::Event(typed(value)?),
    })
}

/// Kind of a manifest, from its `kind` field.
pub fn kind_of(value: &Value) -> Result<Kind, FieldError> {
    match value.get("kind") {
        Some(Value::String(name)) => Kind::ALL.into_iter().find(|k| k.name() == name).ok_or_else(|| {
            let known: Vec<_> = Kind::ALL.into_iter().map(Kind::name).collect();
            FieldError::new("kind", format!("`{name}` is not known{}", hint(name, &known)))
        }),
        Some(_) => Err(FieldError::new("kind", "must be a string")),
        None => Err(FieldError::new("kind", "required, e.g. `kind: ReplicationController`")),
    }
}

/// Reads a typed part of the model.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let path = if path == "." { String::new() } else { path };
        explain(&path, &e.into_inner().to_string())
    })
}

/// Turns serde's words into ours: names the unknown field in the path and suggests the nearest one.
pub fn explain(path: &str, message: &str) -> FieldError {
    let mut ticked = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let unknown = ticked.next().unwrap_or_default();
        let known: Vec<&str> = ticked.collect();
        // serde_path_to_error ends the path with the unknown key for maps, not for structs.
        let path = match path {
            "" => unknown.to_owned(),
            p if p == unknown || p.ends_with(&format!(".{unknown}")) => p.to_owned(),
            p => format!("{p}.{unknown}"),
        };
        return FieldError::new(path, format!("unknown field{}", hint(unknown, &known)));
    }
    if message.starts_with("unknown variant") {
        let unknown = ticked.next().unwrap_or_default();
        let known: Vec<&str> = ticked.collect();
        return FieldError::new(path, format!("`{unknown}` is not one of {}", known.join(", ")));
    }
    FieldError::new(path, plain_types(message))
}

/// Whether a message of [`explain`] is about a field that the model does not have; its path ends in that field.
pub fn is_unknown(message: &str) -> bool {
    message.starts_with("unknown field") || message == UNSUPPORTED_WORDS
}

/// What a field that Kubernetes has and we do not is refused with.
pub const UNSUPPORTED_WORDS: &str = "not supported by Wharfinger yet; leave it out";

/// serde's message with what a number may be in place of the program's type names.
pub fn plain_types(message: &str) -> String {
    let Some((before, expected)) = message.rsplit_once("expected ") else {
        return message.to_owned();
    };
    let plain = match expected {
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, not negative",
        "i32" | "i64" => "a whole number",
        "a string" => "a string; put it in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a map of keys and values",
        other if other.starts_with("struct ") => "a map of keys and values",
        other => other,
    };
    // What is right but for its quotes.
    let quoted = before
        .split_once("string \"")
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or_default();
    let bare = match plain {
        "true or false" => matches!(quoted, "true" | "false"),
        _ => plain.contains("whole number") && quoted.parse::<i64>().is_ok(),
    };
    let remedy = if bare { "; leave out the quotes" } else { "" };
    format!("{before}expected {plain}{remedy}")
}

/// Longest text that a hint is looked for: longer than any field's name.
const MAX_HINTED: usize = 80;

/// `; did you mean X?` for the nearest of `known`, or nothing.
pub fn hint(found: &str, known: &[&str]) -> String {
    if found.len() > MAX_HINTED {
        return String::new();
    }
    let lower = found.to_ascii_lowercase();
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_ascii_lowercase()), k))
        .filter(|(distance, k)| *distance <= k.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| format!("; did you mean `{k}`?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(kind: Kind, value: Value) -> String {
        match written(kind, value) {
            Ok(written) => format!("accepted: {:?}", written.object),
            Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        }
    }

    #[test]
    fn names_field_and_remedy() {
        for (value, expected) in [
            (
                json!({"spec": {"replica": 2, "template": {}}}),
                "spec.replica: unknown field; did you mean `replicas`?",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"imge": "x"}]}}}}),
                "spec.template.spec.containers[0].imge: unknown field; did you mean `image`?",
            ),
            (
                json!({"spec": {"template": {"spec": {"restartPolicy": "Sometimes"}}}}),
                "spec.template.spec.restartPolicy: `Sometimes` is not one of Always, OnFailure, Never",
            ),
            (
                json!({"spec": {"replicas": "2", "template": {}}}),
                "spec.replicas: invalid type: string \"2\", expected a whole number; leave out the quotes",
            ),
            (
                json!({"spec": {"template": {"metadata": {"labels": {"a": 1}}}}}),
                "spec.template.metadata.labels.a: invalid type: integer `1`, expected a string; put it in quotes",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"ports": [{"containerPort": 99999}]}]}}}}),
                "spec.template.spec.containers[0].ports[0].containerPort: invalid value: integer `99999`, \
                 expected a whole number from 0 to 65535",
            ),
            (
                json!({"spec": {"template": {"spec": {"hostNetwork": "true", "containers": [{"image": 7}]}}}}),
                "spec.template.spec.hostNetwork: invalid type: string \"true\", expected true or false; leave out the \
                 quotes; spec.template.spec.containers[0].image: invalid type: integer `7`, expected a string; put it in \
                 quotes",
            ),
            (
                json!({"spec": {"template": {"spec": {"initContainers": [{}], "affinty": {}, "hostPID": true}}}}),
                "spec.template.spec.initContainers: not supported by Wharfinger yet; leave it out; \
                 spec.template.spec.affinty: unknown field; did you mean `affinity`?; \
                 spec.template.spec.hostPID: not supported by Wharfinger yet; leave it out",
            ),
            (
                json!({"kind": "Pod", "apiVersion": "v2", "spec": {"replicas": [], "tmplate": {}}}),
                "spec.tmplate: unknown field; did you mean `template`?; apiVersion: must be v1, not \"v2\"; kind: must be \
                 ReplicationController, not \"Pod\"; spec.replicas: invalid type: sequence, expected a whole number",
            ),
            (json!({"spec": {}}), "spec: missing field `template`"),
            (
                json!({"kind": "Pod"}),
                "kind: must be ReplicationController, not \"Pod\"",
            ),
            (json!([]), "must be an object"),
        ] {
            assert_eq!(message(Kind::ReplicationController, value.clone()), expected, "{value}");
        }
    }

    #[test]
    fn null_is_a_field_left_out() {
        let written = written(
            Kind::Pod,
            json!({"metadata": {"name": "x", "labels": {"a": null, "b": "c"}, "creationTimestamp": null}, "status": null,
                "spec": {"hostNetwork": null, "initContainers": null, "containers": [{"name": "c", "ports": null}]}}),
        )
        .expect("reads");
        assert_eq!(written.without_effect, Vec::<String>::new());
        assert_eq!(
            written.json,
            json!({"metadata": {"name": "x", "labels": {"b": "c"}}, "spec": {"containers": [{"name": "c"}]}})
        );
        assert_eq!(
            message(Kind::Pod, json!({"spec": {"containers": [null], "affinty": null}})),
            "spec.affinty: unknown field; did you mean `affinity`?; spec.containers[0]: invalid type: null, expected a map \
             of keys and values"
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        let value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "x", "namespace": "default", "creationTimestamp": "2026-01-31T12:00:00Z"},
            "spec": {"containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                     "resources": {"limits": {"cpu": "500m"}}}], "restartPolicy": "Always"},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {"startedAt": "2026-01-31T12:00:00Z"}},
                     "ready": true, "restartCount": 0, "image": "i:1"}]}
        });
        let object = object_value(Kind::Pod, value.clone()).expect("reads");
        assert_eq!(object.to_json(), value);
    }
}
