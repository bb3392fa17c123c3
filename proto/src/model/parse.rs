//! Reads an object from JSON, strictly: an unknown field is refused with its path and the nearest right name.
//! Called by the coordinator for every write and by the command, which adds file, line and column.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{FieldError, Kind, Object};

/// Reads an object of `kind`. `apiVersion` and `kind` may be left out; if there, they must match.
pub fn object(kind: Kind, json: &[u8]) -> Result<Object, FieldError> {
    let value: Value = serde_json::from_slice(json).map_err(|e| FieldError::new("", format!("not JSON: {e}")))?;
    object_value(kind, value)
}

/// As [`object`], from a parsed value.
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
        Kind::Pod => Object::Pod(typed(value)?),
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
        if UNSUPPORTED.contains(&unknown) {
            return FieldError::new(path, UNSUPPORTED_WORDS);
        }
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

/// Fields of Kubernetes' pods, controllers and their metadata that the model does not have: they are no typing
/// mistakes, and their author must know that they would do nothing.
const UNSUPPORTED: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "allocateLoadBalancerNodePorts",
    "automountServiceAccountToken",
    "configMapKeyRef",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "envFrom",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "lifecycle",
    "livenessProbe",
    "managedFields",
    "minReadySeconds",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "readinessProbe",
    "resourceClaims",
    "resourceFieldRef",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "secretKeyRef",
    "securityContext",
    "selfLink",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "subdomain",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tolerations",
    "topologySpreadConstraints",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "volumes",
    "workingDir",
];

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
        "a sequence" => "a list",
        "a map" => "a map of keys and values",
        other if other.starts_with("struct ") => "a map of keys and values",
        other => other,
    };
    format!("{before}expected {plain}")
}

/// `; did you mean X?` for the nearest of `known`, or nothing.
pub fn hint(found: &str, known: &[&str]) -> String {
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
        object_value(kind, value).map_or_else(|e| e.to_string(), |o| format!("accepted: {o:?}"))
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
                "spec.replicas: invalid type: string \"2\", expected a whole number",
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
                json!({"spec": {"template": {"spec": {"volumes": []}}}}),
                "spec.template.spec.volumes: not supported by Wharfinger yet; leave it out",
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
