//! An object as a coordinator sent it, and the model's view of it.
//!
//! Invariant: a field that this build does not know never makes an object unreadable: the coordinator may be
//! one release newer.

use proto::{
    model::{Kind, Object, json, parse},
    wire,
};
use serde_json::Value;

use crate::{error::Error, target::Reference};

#[derive(Clone, Debug)]
pub struct Received {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    /// The whole object.
    pub json: Value,
    pub warnings: Vec<String>,
}

impl Received {
    /// Takes an object of `kind` from the wire.
    pub fn new(kind: Kind, object: wire::Object) -> Result<Self, Error> {
        let json: Value = serde_json::from_slice(&object.json).map_err(|e| {
            Error::Refused(format!(
                "{} {:?}: the coordinator sent it damaged: {e}",
                kind.plural(),
                object.name
            ))
        })?;
        Ok(Self {
            kind,
            namespace: object.namespace,
            name: object.name,
            uid: object.uid,
            resource_version: object.resource_version,
            json,
            warnings: object.warnings,
        })
    }

    pub fn reference(&self) -> Reference {
        Reference {
            kind: self.kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// Whether nothing that users write differs, as after a write without effect. They write a node's holds in
    /// `spec.unschedulable`, which one more need not change.
    pub fn same_as(&self, before: &Self) -> bool {
        let holds = |object: &Self| object.json.pointer("/status/holds").cloned();
        self.written() == before.written() && holds(self) == holds(before)
    }

    /// The object without what the cluster writes as it goes: status, version, generation.
    pub fn written(&self) -> Value {
        let mut json = self.json.clone();
        if let Value::Object(map) = &mut json {
            map.shift_remove("status");
        }
        if let Some(Value::Object(meta)) = json.get_mut("metadata") {
            meta.shift_remove("resourceVersion");
            meta.shift_remove("generation");
        }
        json
    }

    /// The typed view, without what this build does not know.
    pub fn object(&self) -> Result<Object, Error> {
        let mut json = self.json.clone();
        // Bounded: each round removes one field.
        loop {
            match parse::object_value(self.kind, json.clone()) {
                Ok(object) => return Ok(object),
                Err(e) if parse::is_unknown(&e.message) && json::remove(&mut json, &e.path) => {}
                Err(e) => {
                    return Err(Error::Refused(format!(
                        "{} {:?}: this version of wharf cannot read it ({e}); use that of the coordinator",
                        self.kind.plural(),
                        self.name
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn received(json: &Value) -> Received {
        let object = wire::Object {
            name: "p".into(),
            json: json.to_string().into_bytes(),
            ..wire::Object::default()
        };
        Received::new(Kind::Pod, object).expect("JSON")
    }

    #[test]
    fn what_a_newer_coordinator_adds_is_left_out() {
        let object = received(&json!({
            "kind": "Pod", "new": 1,
            "metadata": {"name": "p", "managedFields": []},
            "spec": {"containers": [{"name": "c", "image": "i", "probe": {"x": 1}}], "priority": 3},
            "status": {"qosClass": "Burstable"}
        }))
        .object()
        .expect("readable");
        assert_eq!(object.meta().name, "p");
    }

    #[test]
    fn what_cannot_be_read_says_what_to_do() {
        let error = received(&json!({"status": {"phase": "Sleeping"}}))
            .object()
            .expect_err("unknown phase");
        assert!(
            error
                .to_string()
                .contains("pods \"p\": this version of wharf cannot read it"),
            "{error}"
        );
        let damaged = Received::new(Kind::Pod, wire::Object::default());
        assert!(damaged.is_err());
    }
}
