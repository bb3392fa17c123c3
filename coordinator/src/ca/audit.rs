//! The audit record: who did what to what. Written by the ca and the api in the commit of the change itself,
//! under `audit/<time>-<id>`.
//!
//! Invariant: a change that is audited and its record are one commit; no secret is ever part of a record.

use serde::{Deserialize, Serialize};

use crate::store::{Change, Expect, keys};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Certificate identity, `user/admin`; `token/<id>` for a join; `host` for who acted on the machine.
    pub caller: String,
    /// `create`, `revoke`, `join`, `renew`, …
    pub verb: String,
    /// `token/k7x2p9`, `node/n1`, `pods/default/web-x2k4p`.
    pub object: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
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
        }
    }

    /// The change to put beside the one it records.
    pub fn change(&self) -> Change {
        self.put(&uuid::Uuid::new_v4().simple().to_string(), Expect::Absent)
    }

    /// The same under a chosen id, so that a repeat writes the same key.
    pub fn change_with_id(&self, id: &str) -> Change {
        self.put(id, Expect::Any)
    }

    fn put(&self, id: &str, expect: Expect) -> Change {
        // Strings and a number always serialize.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Change::put(keys::audit(self.at_ms, id), expect, json)
    }
}
