//! The names of keys: the one place that knows how an object's identity becomes a key.
//!
//! | key | writer | value |
//! |---|---|---|
//! | `term` | `Store::take_term` | JSON [`TermRecord`]: who leads |
//! | `terms/<term, 16 hex digits>` | `Store::take_term` | the same, kept: the history of leaderships |
//! | `meta/<name>` | init | cluster facts, sealed root key |
//! | `obj/<kind>/<namespace>/<name>` | api; control for pods | the object without what others write |
//! | `status/pod/<namespace>/<name>` | ingest | what the agent observed |
//! | `facts/node/<name>` | ingest | what the agent knows of its host |
//! | `inventory/node/<name>` | ingest | what the host is made of |
//! | `ready/node/<name>` | liveness | the Ready condition |
//! | `holds/<node>` | api and control, each its own entries; empty once all are released, so that its version shows it | why the node takes no new pods |
//! | `off/<node>` | api; session once the node is back and nothing of it is left, api at its deletion | an operator said that its host is off |
//! | `loss/<node>` | control | since when the pods of a lost node may be replaced |
//! | `settings` | api | what the cluster's settings are set to |
//! | `freeze` | api; control when it has expired | that nothing is to be replaced or moved |
//! | `holder/<node>` | session; api when it is readmitted or deleted, ca when the name gets a new identity | which agent process holds the node's identity |
//! | `tombstone/<node>` | api at deletion, session when nothing is left, ca when the name is used again, control when it is old | a deleted node |
//! | `template/<hash>` | api, control | an immutable pod spec with labels and annotations |
//! | `token/<id>`, `cert/<node>`, `binding/<user>` | ca; `cert` goes with its tombstone | see `ca/` |
//! | `event/<namespace>/<name>` | the event recorder | lossy |
//! | `op/<request id>` | api | result of a write, so that a repeat is safe |
//! | `audit/<time>-<id>` | api, ca, control; control when it is old | in the commit of the change it records |
//!
//! A cluster-scoped object's namespace is written `-`.

use proto::model::Kind;
use serde::{Deserialize, Serialize};

pub const TERM: &str = "term";

pub const SETTINGS: &str = "settings";

pub const FREEZE: &str = "freeze";

/// Value of [`TERM`] and of `terms/…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TermRecord {
    pub incarnation: String,
    pub nonce: String,
    /// Who leads, for people: `host:pid`.
    pub holder: String,
}

pub fn term_history(term: u64) -> String {
    format!("terms/{term:016x}")
}

pub fn object(kind: Kind, namespace: &str, name: &str) -> String {
    let namespace = if namespace.is_empty() { "-" } else { namespace };
    format!("obj/{}/{namespace}/{name}", kind.singular())
}

pub fn pod_status(namespace: &str, name: &str) -> String {
    format!("status/pod/{namespace}/{name}")
}

pub fn node_facts(name: &str) -> String {
    format!("facts/node/{name}")
}

pub fn node_inventory(name: &str) -> String {
    format!("inventory/node/{name}")
}

pub fn node_ready(name: &str) -> String {
    format!("ready/node/{name}")
}

pub fn holds(node: &str) -> String {
    format!("holds/{node}")
}

pub fn off(node: &str) -> String {
    format!("off/{node}")
}

pub fn loss(node: &str) -> String {
    format!("loss/{node}")
}

pub fn holder(node: &str) -> String {
    format!("holder/{node}")
}

pub fn tombstone(node: &str) -> String {
    format!("tombstone/{node}")
}

pub fn template(hash: &str) -> String {
    format!("template/{hash}")
}

pub fn event(namespace: &str, name: &str) -> String {
    format!("event/{namespace}/{name}")
}

pub fn token(id: &str) -> String {
    format!("token/{id}")
}

/// The certificates of a node: which serials are valid.
pub fn cert(node: &str) -> String {
    format!("cert/{node}")
}

pub fn binding(user: &str) -> String {
    format!("binding/{user}")
}

pub fn op(request_id: &str) -> String {
    format!("op/{request_id}")
}

/// What the keys of audit records begin with; what follows sorts by time.
pub const AUDIT: &str = "audit/";

/// All of them come before this key.
pub const AUDIT_END: &str = "audit0";

/// Sorted by time; `ms` since the Unix epoch.
pub fn audit(ms: u64, id: &str) -> String {
    format!("audit/{ms:013}-{id}")
}

/// A key taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    Term,
    TermHistory(u64),
    Object {
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
    },
    PodStatus {
        namespace: &'a str,
        name: &'a str,
    },
    NodeFacts(&'a str),
    NodeInventory(&'a str),
    NodeReady(&'a str),
    Holds(&'a str),
    Off(&'a str),
    Loss(&'a str),
    Settings,
    Freeze,
    Holder(&'a str),
    Tombstone(&'a str),
    Template(&'a str),
    Event {
        namespace: &'a str,
        name: &'a str,
    },
    Token(&'a str),
    Cert(&'a str),
    Binding(&'a str),
    Op(&'a str),
    Audit(&'a str),
    /// `meta/…` and what a newer release may have written.
    Other,
}

type Make = for<'a> fn(&'a str) -> Parsed<'a>;

pub fn parse(key: &str) -> Parsed<'_> {
    let two = |rest: &'static str| -> Option<(&str, &str)> { key.strip_prefix(rest)?.split_once('/') };
    match key {
        TERM => return Parsed::Term,
        SETTINGS => return Parsed::Settings,
        FREEZE => return Parsed::Freeze,
        _ => {}
    }
    if let Some((kind, rest)) = key.strip_prefix("obj/").and_then(|r| r.split_once('/'))
        && let (Some(kind), Some((namespace, name))) = (Kind::parse(kind), rest.split_once('/'))
    {
        let namespace = if namespace == "-" { "" } else { namespace };
        return Parsed::Object { kind, namespace, name };
    }
    if let Some((namespace, name)) = two("status/pod/") {
        return Parsed::PodStatus { namespace, name };
    }
    if let Some((namespace, name)) = two("event/") {
        return Parsed::Event { namespace, name };
    }
    if let Some(term) = key.strip_prefix("terms/").and_then(|t| u64::from_str_radix(t, 16).ok()) {
        return Parsed::TermHistory(term);
    }
    let one: [(&str, Make); 14] = [
        ("facts/node/", |r| Parsed::NodeFacts(r)),
        ("inventory/node/", |r| Parsed::NodeInventory(r)),
        ("ready/node/", |r| Parsed::NodeReady(r)),
        ("holds/", |r| Parsed::Holds(r)),
        ("off/", |r| Parsed::Off(r)),
        ("loss/", |r| Parsed::Loss(r)),
        ("holder/", |r| Parsed::Holder(r)),
        ("tombstone/", |r| Parsed::Tombstone(r)),
        ("template/", |r| Parsed::Template(r)),
        ("token/", |r| Parsed::Token(r)),
        ("cert/", |r| Parsed::Cert(r)),
        ("binding/", |r| Parsed::Binding(r)),
        ("op/", |r| Parsed::Op(r)),
        ("audit/", |r| Parsed::Audit(r)),
    ];
    one.into_iter()
        .find_map(|(prefix, make)| key.strip_prefix(prefix).map(make))
        .unwrap_or(Parsed::Other)
}
