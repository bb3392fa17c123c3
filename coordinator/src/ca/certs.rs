//! The certificate registry: which serials of which node are valid, held in memory for a check at every call.
//! Fed by the store's entries and updates (and by the ca's own commits at once); read by [`super::layer`],
//! the sessions and the authorizer.
//!
//! A deleted node's certificates stay on record beside its tombstone: they open a quarantine session and nothing
//! else.
//!
//! Invariant: of two states of one key the later version wins, in whatever order they arrive; what is not on
//! record is refused.

use std::{
    collections::HashMap,
    fmt,
    sync::{PoisonError, RwLock},
};

use proto::identity::{Identity, Role, serial_of_certificate, validity_of_certificate};
use serde::{Deserialize, Serialize};

use super::{authorizer::Binding, tokens::TokenRecord};
use crate::{
    store::{Change, Entry, Expect, Rv, Snapshot, Update, keys, keys::Parsed},
    world::record::TombstoneRecord,
};

/// Value of `cert/<node>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertRecord {
    /// Serial in use, hex.
    pub active: String,
    /// Renewed (or issued again for a repeated enrolment) and not yet used; `active` is valid until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
    /// Why no certificate of this node is valid any more. With the node object gone this is its tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
    /// SHA-256 of the public key that enrolled, hex.
    pub enrol_key: String,
    /// The node has renewed: its enrolment cannot be repeated any more.
    #[serde(default)]
    pub renewed: bool,
    /// Expiry of the newest certificate, seconds since the Unix epoch.
    pub not_after: u64,
    /// How often the name was given to another host, or to the same one with a new key. Renewals do not count.
    #[serde(default)]
    pub generation: u64,
    /// What tells the machine that joined from others; empty: it did not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// Its agent bears others on the same machine.
    #[serde(default)]
    pub shared_host: bool,
}

impl CertRecord {
    pub fn change(&self, node: &str, expect: Expect) -> Change {
        // A struct of strings, flags and numbers always serializes.
        Change::put(keys::cert(node), expect, serde_json::to_vec(self).unwrap_or_default())
    }
}

/// Who calls: taken from the verified client certificate, never from a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub identity: Identity,
    /// Lower-case hex.
    pub serial: String,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
    /// Its node was deleted: it may report what still runs there, and nothing else.
    pub deleted: bool,
    /// [`CertRecord::generation`] of its certificate.
    pub generation: u64,
}

impl Caller {
    /// From the leaf of a chain that TLS has verified.
    pub fn of_certificate(der: &[u8]) -> Result<Self, Denied> {
        let bad = |e: proto::identity::IdentityError| Denied::unauthenticated(e.to_string());
        Ok(Self {
            identity: Identity::of_certificate(der).map_err(bad)?,
            serial: serial_of_certificate(der).map_err(bad)?,
            not_after: validity_of_certificate(der).map_err(bad)?.1,
            deleted: false,
            generation: 0,
        })
    }

    pub fn is_agent(&self) -> bool {
        self.identity.role == Role::Agent
    }
}

/// `user/admin`, `agent/n1`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedKind {
    /// No, an unknown or an expired certificate.
    Unauthenticated,
    /// Renewed, and the newer certificate is in use; the caller should use that one.
    Superseded,
    /// Revoked, or its node was deleted.
    Revoked,
    /// Known, and may not do this.
    Forbidden,
}

/// A refusal; the message is one line, safe to tell the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    pub kind: DeniedKind,
    pub message: String,
}

impl Denied {
    pub(super) fn new(kind: DeniedKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(super) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(DeniedKind::Unauthenticated, message)
    }
}

impl From<Denied> for tonic::Status {
    fn from(denied: Denied) -> Self {
        match denied.kind {
            DeniedKind::Forbidden => Self::permission_denied(denied.message),
            DeniedKind::Unauthenticated | DeniedKind::Superseded | DeniedKind::Revoked => {
                Self::unauthenticated(denied.message)
            }
        }
    }
}

/// A valid caller's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Active,
    /// The first use of a renewed certificate: it becomes the active one now.
    Pending,
    /// One of a deleted node.
    Deleted,
}

/// A key's newest known state; `None`: deleted or undecodable.
type Slot<T> = (Rv, Option<T>);

#[derive(Default)]
struct Tables {
    certs: HashMap<String, Slot<CertRecord>>,
    bindings: HashMap<String, Slot<Binding>>,
    tokens: HashMap<String, Slot<TokenRecord>>,
    tombstones: HashMap<String, Slot<TombstoneRecord>>,
}

/// See the module's head.
#[derive(Default)]
pub struct View(RwLock<Tables>);

fn put<T: for<'a> Deserialize<'a>>(
    map: &mut HashMap<String, Slot<T>>,
    name: &str,
    key: &str,
    rv: Rv,
    value: Option<&[u8]>,
) {
    if map.get(name).is_some_and(|(known, _)| *known >= rv) {
        return;
    }
    let value = value.and_then(|bytes| match serde_json::from_slice(bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(key, %error, "record does not decode; it is treated as absent, which denies");
            None
        }
    });
    map.insert(name.to_owned(), (rv, value));
}

impl Tables {
    fn apply(&mut self, key: &str, rv: Rv, value: Option<&[u8]>) {
        match keys::parse(key) {
            Parsed::Cert(node) => put(&mut self.certs, node, key, rv, value),
            Parsed::Binding(user) => put(&mut self.bindings, user, key, rv, value),
            Parsed::Token(id) => put(&mut self.tokens, id, key, rv, value),
            Parsed::Tombstone(node) => put(&mut self.tombstones, node, key, rv, value),
            _ => {}
        }
    }
}

impl View {
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces everything by what was true at the snapshot's version, except what is known to be later.
    pub fn load(&self, snapshot: &Snapshot) {
        let mut fresh = Tables::default();
        for Entry { rv, key, value } in &snapshot.entries {
            fresh.apply(key, *rv, Some(value));
        }
        fn keep_later<T>(fresh: &mut HashMap<String, Slot<T>>, old: &mut HashMap<String, Slot<T>>, at: Rv) {
            fresh.extend(old.drain().filter(|(_, (rv, _))| *rv > at));
        }
        let mut tables = self.write();
        keep_later(&mut fresh.certs, &mut tables.certs, snapshot.rv);
        keep_later(&mut fresh.bindings, &mut tables.bindings, snapshot.rv);
        keep_later(&mut fresh.tokens, &mut tables.tokens, snapshot.rv);
        keep_later(&mut fresh.tombstones, &mut tables.tombstones, snapshot.rv);
        *tables = fresh;
    }

    pub fn apply(&self, updates: &[Update]) {
        let mut tables = self.write();
        for Update { rv, key, value } in updates {
            tables.apply(key, *rv, value.as_deref());
        }
    }

    /// One key as the store has it now.
    pub(super) fn refresh(&self, entry: &Entry) {
        self.write().apply(&entry.key, entry.rv, Some(&entry.value));
    }

    pub fn cert(&self, node: &str) -> Option<(Rv, CertRecord)> {
        let tables = self.read();
        let (rv, record) = tables.certs.get(node)?;
        Some((*rv, record.clone()?))
    }

    pub fn binding(&self, user: &str) -> Option<Binding> {
        self.read().bindings.get(user)?.1.clone()
    }

    /// By creation time, then id.
    pub fn tokens(&self) -> Vec<(String, Rv, TokenRecord)> {
        let mut all: Vec<_> = self
            .read()
            .tokens
            .iter()
            .filter_map(|(id, (rv, record))| Some((id.clone(), *rv, record.clone()?)))
            .collect();
        all.sort_by(|(a, _, x), (b, _, y)| (x.created_at_ms, a).cmp(&(y.created_at_ms, b)));
        all
    }

    /// The first other node whose host is this machine, unless both agents bear that.
    pub fn clash_of_machine(&self, name: &str, machine: &str, shared: bool) -> Option<String> {
        if machine.is_empty() {
            return None;
        }
        let tables = self.read();
        let present = |node: &str, cert: &CertRecord| {
            let deleted = tables.tombstones.get(node).is_some_and(|(_, t)| t.is_some());
            cert.revoked.is_none() && !deleted
        };
        let mut others: Vec<&String> = tables
            .certs
            .iter()
            .filter_map(|(node, (_, cert))| Some((node, cert.as_ref()?)))
            .filter(|(node, cert)| *node != name && cert.machine == machine && present(node, cert))
            .filter(|(_, cert)| !(shared && cert.shared_host))
            .map(|(node, _)| node)
            .collect();
        others.sort_unstable();
        others.first().map(|node| (*node).clone())
    }

    /// Whether this certificate is valid now. Called at every heartbeat of a stream.
    pub fn standing(&self, cluster: &str, caller: &Caller, now_ms: u64) -> Result<Standing, Denied> {
        Ok(self.judge(cluster, caller, now_ms)?.0)
    }

    /// The same with the certificate's generation, both of one moment. Called at every RPC.
    pub fn judge(&self, cluster: &str, caller: &Caller, now_ms: u64) -> Result<(Standing, u64), Denied> {
        if caller.identity.cluster != cluster {
            return Err(Denied::unauthenticated(format!(
                "{caller}: the certificate is of another cluster"
            )));
        }
        if now_ms / 1000 > caller.not_after {
            return Err(Denied::unauthenticated(format!(
                "{caller}: the certificate has expired; join again with a new token"
            )));
        }
        if !caller.is_agent() {
            return Ok((Standing::Active, 0));
        }
        let node = &caller.identity.id;
        let tables = self.read();
        let record = tables.certs.get(node).and_then(|(_, record)| record.as_ref());
        let Some(record) = record else {
            return Err(Denied::unauthenticated(format!(
                "node {node:?} has no certificate on record; join again with a new token"
            )));
        };
        if let Some(reason) = &record.revoked {
            return Err(Denied::new(
                DeniedKind::Revoked,
                format!("node {node:?}: its certificate is revoked ({reason}); join again with a new token"),
            ));
        }
        let standing = if record.active == caller.serial {
            Standing::Active
        } else if record.pending.as_ref() == Some(&caller.serial) {
            Standing::Pending
        } else {
            return Err(Denied::new(
                DeniedKind::Superseded,
                format!(
                    "node {node:?}: a newer certificate is in use; use that one, or join again with a token for this node"
                ),
            ));
        };
        let deleted = tables.tombstones.get(node).is_some_and(|(_, t)| t.is_some());
        Ok((if deleted { Standing::Deleted } else { standing }, record.generation))
    }
}

/// The changes that make every certificate of a node invalid; put them beside the node's deletion. Empty when
/// the node has none. `expect` guards against a renewal at the same moment: on a conflict, read and try again.
pub fn revoke_changes(view: &View, node: &str, reason: &str) -> Vec<Change> {
    let Some((rv, mut record)) = view.cert(node) else {
        return Vec::new();
    };
    record.pending = None;
    record.revoked = Some(reason.to_owned());
    vec![record.change(node, Expect::At(rv))]
}
