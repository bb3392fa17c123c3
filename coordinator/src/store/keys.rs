//! The names of keys: the one place that knows how an object's identity becomes a key.
//!
//! | key | writer | value |
//! |---|---|---|
//! | `term` | `Store::take_term`, `Contest::take_over` | JSON [`TermRecord`]: who leads |
//! | `terms/<term, 16 hex digits>` | as `term` | the same, kept: the history of leaderships |
//! | `coordinator/<name>` | ca when it joins; leader when its addresses change; api when it is removed | a replica of the coordinator |
//! | `issuer/<name>` | ca when it joins; as `coordinator/<name>` otherwise | the intermediate of that replica |
//! | `meta/cluster` | init, restore | cluster facts, sealed root key |
//! | `meta/backup` | backup | the last backup that was made |
//! | `meta/restored` | restore; api once it is accepted | which histories this one goes on from |
//! | `meta/successor` | migrate | to where this store was moved: it is not served any more |
//! | `orphan/<uid>` | session when it finds it, and when its end was seen; api | a pod that an agent runs and that is not on record |
//! | `obj/<kind>/<namespace>/<name>` | api; control for pods, and for the counts and the end of controllers under update | the object without what others write |
//! | `status/pod/<namespace>/<name>` | ingest | what the agent observed |
//! | `facts/node/<name>` | ingest | what the agent knows of its host |
//! | `inventory/node/<name>` | ingest | what the host is made of |
//! | `ready/node/<name>` | liveness | the Ready condition |
//! | `holds/<node>` | api and control, each its own entries; empty once all are released, so that its version shows it | why the node takes no new pods |
//! | `off/<node>` | api; session once the node is back and nothing of it is left, api at its deletion | an operator said that its host is off |
//! | `loss/<node>` | control | since when the pods of a lost node may be replaced |
//! | `drain/<node>` | api at its begin and when it is taken back, control in between | the node's present or last drain |
//! | `update/<namespace>/<name>` | api at its begin and where it is steered, control in between | the controller's present or last rolling update |
//! | `revisions/<namespace>/<name>` | control when an update is over, and when its controller is gone | what the controller was |
//! | `unplaced/<namespace>/<name>` | control; api where it deletes the set | why nodes have no daemon of a daemon set |
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

/// The last backup that was made.
pub const BACKUP: &str = "meta/backup";

/// Which histories this one goes on from.
pub const RESTORED: &str = "meta/restored";

/// To where this store was moved.
pub const SUCCESSOR: &str = "meta/successor";

/// A pod that an agent runs and that is not on record.
pub fn orphan(uid: &str) -> String {
    format!("orphan/{uid}")
}

/// Value of [`TERM`] and of `terms/…`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TermRecord {
    pub incarnation: String,
    pub nonce: String,
    /// Who leads, for people: `host:pid`.
    pub holder: String,
    /// Name of the coordinator; empty where there is one only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub coordinator: String,
    /// Its session address, HOST:PORT; empty where there is one only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
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

pub fn unplaced(namespace: &str, name: &str) -> String {
    format!("unplaced/{namespace}/{name}")
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

pub fn drain(node: &str) -> String {
    format!("drain/{node}")
}

pub fn update(namespace: &str, name: &str) -> String {
    format!("update/{namespace}/{name}")
}

pub fn revisions(namespace: &str, name: &str) -> String {
    format!("revisions/{namespace}/{name}")
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

/// A replica of the coordinator.
pub fn coordinator(name: &str) -> String {
    format!("coordinator/{name}")
}

/// What the keys of replicas begin with, and a key that they all come before.
pub const COORDINATORS: (&str, &str) = ("coordinator/", "coordinator0");

/// The intermediate of a replica.
pub fn issuer(coordinator: &str) -> String {
    format!("issuer/{coordinator}")
}

/// As [`COORDINATORS`].
pub const ISSUERS: (&str, &str) = ("issuer/", "issuer0");

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
    Drain(&'a str),
    /// Why nodes have no daemon of a daemon set.
    Unplaced {
        namespace: &'a str,
        name: &'a str,
    },
    /// A rolling update, by the controller that is replaced.
    Update {
        namespace: &'a str,
        name: &'a str,
    },
    Revisions {
        namespace: &'a str,
        name: &'a str,
    },
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
    Coordinator(&'a str),
    Issuer(&'a str),
    Restored,
    /// By uid.
    Orphan(&'a str),
    Successor,
    /// The rest of `meta/…` and what a newer release may have written.
    Other,
}

type Make = for<'a> fn(&'a str) -> Parsed<'a>;

pub fn parse(key: &str) -> Parsed<'_> {
    let two = |rest: &'static str| -> Option<(&str, &str)> { key.strip_prefix(rest)?.split_once('/') };
    match key {
        TERM => return Parsed::Term,
        SETTINGS => return Parsed::Settings,
        FREEZE => return Parsed::Freeze,
        RESTORED => return Parsed::Restored,
        SUCCESSOR => return Parsed::Successor,
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
    if let Some((namespace, name)) = two("unplaced/") {
        return Parsed::Unplaced { namespace, name };
    }
    if let Some((namespace, name)) = two("update/") {
        return Parsed::Update { namespace, name };
    }
    if let Some((namespace, name)) = two("revisions/") {
        return Parsed::Revisions { namespace, name };
    }
    if let Some((namespace, name)) = two("event/") {
        return Parsed::Event { namespace, name };
    }
    if let Some(term) = key.strip_prefix("terms/").and_then(|t| u64::from_str_radix(t, 16).ok()) {
        return Parsed::TermHistory(term);
    }
    let one: [(&str, Make); 18] = [
        ("facts/node/", |r| Parsed::NodeFacts(r)),
        ("inventory/node/", |r| Parsed::NodeInventory(r)),
        ("ready/node/", |r| Parsed::NodeReady(r)),
        ("holds/", |r| Parsed::Holds(r)),
        ("off/", |r| Parsed::Off(r)),
        ("loss/", |r| Parsed::Loss(r)),
        ("drain/", |r| Parsed::Drain(r)),
        ("holder/", |r| Parsed::Holder(r)),
        ("tombstone/", |r| Parsed::Tombstone(r)),
        ("template/", |r| Parsed::Template(r)),
        ("token/", |r| Parsed::Token(r)),
        ("cert/", |r| Parsed::Cert(r)),
        ("binding/", |r| Parsed::Binding(r)),
        ("op/", |r| Parsed::Op(r)),
        ("audit/", |r| Parsed::Audit(r)),
        ("coordinator/", |r| Parsed::Coordinator(r)),
        ("issuer/", |r| Parsed::Issuer(r)),
        ("orphan/", |r| Parsed::Orphan(r)),
    ];
    one.into_iter()
        .find_map(|(prefix, make)| key.strip_prefix(prefix).map(make))
        .unwrap_or(Parsed::Other)
}
