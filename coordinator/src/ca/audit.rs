//! The audit record: who did what to what, and why. Written by the ca, the api and the planners in the commit of the
//! change itself, under `audit/<time>-<id>`; read by `api::audit`.
//!
//! Invariant: a change that is audited and its record are one commit; a record stays within some KB; no secret is ever
//! part of one.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tonic::{Status, metadata::MetadataMap};

use crate::store::{Change, Expect, keys};

/// Caller of what the coordinator decided by itself.
pub const COORDINATOR: &str = "coordinator";

/// Longest `before` and `after`, bytes of JSON each; a longer one is cut.
pub const LONGEST: usize = 4096;

/// What stands where a value is not shown.
pub const HIDDEN: &str = "<hidden>";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Certificate identity, `user/admin`; `tokens/<id>` for a join; `host` for who acted on the machine;
    /// [`COORDINATOR`].
    pub caller: String,
    /// `create`, `revoke`, `join`, `renew`, …
    pub verb: String,
    /// `tokens/k7x2p9`, `nodes/n1`, `pods/default/web-x2k4p`, `settings`.
    pub object: String,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What changed, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What the change is about as it was; [`AuditRecord::about`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl AuditRecord {
    pub fn new(
        at_ms: u64,
        caller: impl Into<String>,
        verb: &str,
        object: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            at_ms,
            caller: caller.into(),
            verb: verb.into(),
            object: object.into(),
            detail: detail.into(),
            ..Self::default()
        }
    }

    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// With what the change is about, before and after it: of objects only what differs, without what may be secret,
    /// cut to their length.
    pub fn about(mut self, before: Option<Value>, after: Option<Value>) -> Self {
        let (before, after) = match (before, after) {
            (Some(before), Some(after)) => {
                let (before, after) = differing(before, after);
                (Some(before), Some(after))
            }
            one => one,
        };
        self.before = before.map(bounded);
        self.after = after.map(bounded);
        self
    }

    /// The change to put beside the one it records. Of two made in one millisecond the later one sorts behind.
    pub fn change(&self) -> Change {
        self.put(&uuid::Uuid::now_v7().simple().to_string(), Expect::Absent)
    }

    /// The same under a chosen id, so that a repeat writes the same key.
    pub fn change_with_id(&self, id: &str) -> Change {
        self.put(id, Expect::Any)
    }

    fn put(&self, id: &str, expect: Expect) -> Change {
        // Its maps have string keys, so it always serializes.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Change::put(keys::audit(self.at_ms, id), expect, json)
    }
}

/// Why a call asks for its change; empty where it does not say. Errors: INVALID_ARGUMENT.
pub fn reason(metadata: &MetadataMap) -> Result<String, Status> {
    let Some(value) = metadata.get(proto::reason::HEADER) else {
        return Ok(String::new());
    };
    value
        .to_str()
        .map_err(|_| "must be percent-encoded UTF-8".to_owned())
        .and_then(proto::reason::decode)
        .map_err(|what| Status::invalid_argument(format!("{} (--reason): {what}", proto::reason::HEADER)))
}

/// Both without the members of objects in which they are alike. Lists are kept whole: a part of one says little.
fn differing(before: Value, after: Value) -> (Value, Value) {
    let (Value::Object(mut before), Value::Object(mut after)) = (before.clone(), after.clone()) else {
        return (before, after);
    };
    let shared: Vec<String> = before.keys().filter(|key| after.contains_key(*key)).cloned().collect();
    for key in shared {
        if before[&key] == after[&key] {
            before.shift_remove(&key);
            after.shift_remove(&key);
        } else {
            let (was, is) = differing(before[&key].take(), after[&key].take());
            before[&key] = was;
            after[&key] = is;
        }
    }
    (before.into(), after.into())
}

fn bounded(mut value: Value) -> Value {
    hide(&mut value);
    let text = value.to_string();
    if text.len() <= LONGEST {
        return value;
    }
    // Room for the marks around it, and for what quoting adds where the text is JSON.
    let end = (0..=LONGEST / 2).rev().find(|i| text.is_char_boundary(*i));
    let beginning = &text[..end.unwrap_or(0)];
    serde_json::json!({"cut": format!("{beginning}…"), "bytes": text.len()})
}

/// Values of environment variables and HTTP headers may be passwords, and a copy of a manifest has them too.
fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, member) in members.iter_mut() {
                match (key.as_str(), member) {
                    ("env" | "httpHeaders", Value::Array(items)) => {
                        for item in items.iter_mut().filter_map(|i| i.get_mut("value")) {
                            *item = HIDDEN.into();
                        }
                    }
                    (key, copy @ Value::String(_)) if key.ends_with("/last-applied-configuration") => {
                        *copy = HIDDEN.into();
                    }
                    (_, member) => hide(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn about(before: Value, after: Value) -> (Value, Value) {
        let record = AuditRecord::default().about(Some(before), Some(after));
        (record.before.unwrap_or_default(), record.after.unwrap_or_default())
    }

    #[test]
    fn only_what_differs_is_kept() {
        let (before, after) = about(
            json!({"spec": {"replicas": 2, "image": "a"}, "labels": {"a": "1", "b": "2"}, "same": [1]}),
            json!({"spec": {"replicas": 9, "image": "a"}, "labels": {"a": "1", "c": "3"}, "same": [1]}),
        );
        assert_eq!(before, json!({"spec": {"replicas": 2}, "labels": {"b": "2"}}));
        assert_eq!(after, json!({"spec": {"replicas": 9}, "labels": {"c": "3"}}));
    }

    #[test]
    fn nothing_that_may_be_secret_is_kept() {
        let pod = |secret: &str| {
            json!({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": format!("env {secret}")},
                "spec": {"template": {"spec": {"containers": [{"name": "c",
                    "env": [{"name": "PASSWORD", "value": secret}],
                    "readinessProbe": {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": secret}]}}}]}}}})
        };
        let (before, after) = about(pod("hunter2"), pod("hunter3"));
        let text = format!("{before}{after}");
        assert!(!text.contains("hunter"), "{text}");
        // That it changed is seen all the same.
        assert_eq!(text.matches(HIDDEN).count(), 6, "{text}");
        let created = AuditRecord::default().about(None, Some(pod("hunter2")));
        assert!(!format!("{created:?}").contains("hunter"));
    }

    #[test]
    fn what_is_long_is_cut_with_a_mark() {
        let long = json!({"a": "ä\"".repeat(LONGEST)});
        let bytes = long.to_string().len();
        let record = AuditRecord::default().about(None, Some(long));
        let after = record.after.expect("kept");
        assert_eq!(after["bytes"], json!(bytes));
        assert!(after["cut"].as_str().is_some_and(|c| c.ends_with('…')), "{after}");
        let short = json!({"a": "b".repeat(LONGEST - 8)});
        assert_eq!(
            AuditRecord::default().about(None, Some(short.clone())).after,
            Some(short)
        );
    }

    proptest! {
        #[test]
        fn a_record_fits_whatever_it_is_about(text in "\\PC{0,200}", times in 1..200_usize) {
            let record = AuditRecord::default().about(None, Some(json!({ "a": text.repeat(times) })));
            let size = record.after.unwrap_or_default().to_string().len();
            prop_assert!(size <= LONGEST + 100, "{size}");
        }
    }
}
