//! The certificate registry: which serials of which node are valid, held in memory for a check at every call.
//! Fed by the store's entries and updates (and by the ca's own commits at once); read by [`super::layer`],
//! the sessions and the authorizer.
//!
//! An agent's certificate is on record itself, its key too: nobody else can make another of its serial. Those of users
//! and coordinators are not; they are valid while the intermediate that signed them is on record, a coordinator's own
//! only where that is its own.
//!
//! A deleted node's certificates stay on record beside its tombstone: they open a quarantine session and nothing
//! else.
//!
//! Invariant: of two states of one key the later version wins, in whatever order they arrive; what is not on
//! record is refused.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{PoisonError, RwLock},
};

use proto::{
    identity::{Identity, Role, serial_of_certificate, spki_sha256, validity_of_certificate},
    ids::hex,
};
use serde::{Deserialize, Serialize};

use super::{
    authorizer::Binding,
    issuers::{IssuerRecord, Signers},
    tokens::TokenRecord,
};
use crate::{
    store::{Change, Entry, Expect, Rv, Snapshot, Update, keys, keys::Parsed},
    world::{record::TombstoneRecord, replicas::CoordinatorRecord, restored::RestoredRecord},
};

/// Value of `cert/<node>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertRecord {
    /// Serial in use, hex.
    pub active: String,
    /// SHA-256 of its public key, hex; empty where an earlier release issued it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub active_key: String,
    /// Renewed (or issued again for a repeated enrolment) and not yet used; `active` is valid until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
    /// As `active_key`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pending_key: String,
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
    /// SHA-256 of its public key, hex.
    pub key: String,
    /// [`IssuerRecord::key`] of the intermediate that signed it; empty: of none on record, or an agent's.
    pub issuer: String,
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
            key: hex(&spki_sha256(der).map_err(bad)?),
            issuer: String::new(),
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
    /// Issued after the backup was taken from which the registry was restored, so that it is not on record: it
    /// becomes the active one now.
    Unrecorded,
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
    coordinators: HashMap<String, Slot<CoordinatorRecord>>,
    issuers: HashMap<String, Slot<IssuerRecord>>,
    /// By one name, the empty one.
    restored: HashMap<String, Slot<RestoredRecord>>,
}

/// See the module's head.
#[derive(Default)]
pub struct View {
    tables: RwLock<Tables>,
    signers: Signers,
}

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
            Parsed::Coordinator(name) => put(&mut self.coordinators, name, key, rv, value),
            Parsed::Issuer(name) => put(&mut self.issuers, name, key, rv, value),
            Parsed::Restored => put(&mut self.restored, "", key, rv, value),
            _ => {}
        }
    }

    fn coordinator(&self, name: &str) -> Option<&CoordinatorRecord> {
        self.coordinators.get(name)?.1.as_ref()
    }

    fn issuer(&self, coordinator: &str) -> Option<&IssuerRecord> {
        self.issuers.get(coordinator)?.1.as_ref()
    }

    /// The coordinator whose intermediate this is, if both are on record.
    fn coordinator_of_issuer(&self, key: &str) -> Option<&str> {
        let mut names = self.issuers.keys().map(String::as_str);
        names.find(|name| self.issuer(name).is_some_and(|i| i.key == key) && self.coordinator(name).is_some())
    }
}

/// Whether a certificate is the one on record: its serial, and its key where that is known.
fn is_on_record(serial: &str, key: &str, caller: &Caller) -> bool {
    serial == caller.serial && (key.is_empty() || key == caller.key)
}

impl Tables {
    /// Whether a certificate may be missing only because the registry was restored from a backup: the record is as the
    /// backup had it, and the certificate was issued later than any that it names.
    fn lacks(&self, rv: Rv, record: &CertRecord, caller: &Caller) -> bool {
        let restored = self.restored.get("").and_then(|(_, restored)| restored.as_ref());
        let untouched = restored.and_then(|r| r.from.last()).is_some_and(|f| rv <= f.newest);
        untouched && caller.not_after > record.not_after
    }
}

impl View {
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
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
        keep_later(&mut fresh.coordinators, &mut tables.coordinators, snapshot.rv);
        keep_later(&mut fresh.issuers, &mut tables.issuers, snapshot.rv);
        keep_later(&mut fresh.restored, &mut tables.restored, snapshot.rv);
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

    /// All replicas, by name.
    pub fn coordinators(&self) -> BTreeMap<String, CoordinatorRecord> {
        let tables = self.read();
        let all = tables.coordinators.iter();
        all.filter_map(|(name, (_, record))| Some((name.clone(), record.clone()?)))
            .collect()
    }

    /// The intermediate of a replica.
    pub fn issuer(&self, coordinator: &str) -> Option<IssuerRecord> {
        self.read().issuer(coordinator).cloned()
    }

    /// [`Caller::issuer`] of a certificate.
    pub fn issuer_of(&self, leaf: &[u8]) -> String {
        let tables = self.read();
        let issuers = tables.issuers.values().filter_map(|(_, record)| record.as_ref());
        self.signers.find(leaf, issuers)
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
        // Taken once: a thread that takes it a second time waits for a writer that waits for that thread.
        let tables = self.read();
        match caller.identity.role {
            Role::Agent => judge_agent(&tables, caller),
            Role::User => judge_user(&tables, caller).map(|()| (Standing::Active, 0)),
            Role::Coordinator => judge_coordinator(&tables, caller).map(|()| (Standing::Active, 0)),
        }
    }
}

/// An agent's certificate is valid while it is its node's, in use or about to be.
fn judge_agent(tables: &Tables, caller: &Caller) -> Result<(Standing, u64), Denied> {
    let node = &caller.identity.id;
    let record = tables
        .certs
        .get(node)
        .and_then(|(rv, record)| Some((*rv, record.as_ref()?)));
    let Some((rv, record)) = record else {
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
    let pending = record.pending.as_deref();
    let standing = if is_on_record(&record.active, &record.active_key, caller) {
        Standing::Active
    } else if pending.is_some_and(|serial| is_on_record(serial, &record.pending_key, caller)) {
        Standing::Pending
    } else if tables.lacks(rv, record, caller) {
        Standing::Unrecorded
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

/// A user's certificate is valid while the coordinator that issued it is one of the cluster's.
fn judge_user(tables: &Tables, caller: &Caller) -> Result<(), Denied> {
    if tables.coordinator_of_issuer(&caller.issuer).is_some() {
        return Ok(());
    }
    Err(Denied::new(
        DeniedKind::Revoked,
        format!(
            "{caller}: the coordinator that issued this certificate is not one of the cluster's any more; get another one: wharf-coordinator admin-credentials, on a coordinator's host"
        ),
    ))
}

/// A coordinator's certificate is valid while it is on record, and issued by its own intermediate.
fn judge_coordinator(tables: &Tables, caller: &Caller) -> Result<(), Denied> {
    let name = &caller.identity.id;
    if tables.coordinator(name).is_none() {
        return Err(Denied::new(
            DeniedKind::Revoked,
            format!(
                "coordinator {name:?} is not one of this cluster's: it was removed; join again from an empty data directory, with a new token"
            ),
        ));
    }
    if tables.issuer(name).is_none_or(|issuer| issuer.key != caller.issuer) {
        return Err(Denied::new(
            DeniedKind::Revoked,
            format!(
                "coordinator {name:?}: its name belongs to another host now; join again from an empty data directory, under another name"
            ),
        ));
    }
    Ok(())
}

/// The changes that make every certificate of a node invalid; put them beside the node's deletion. Empty when
/// the node has none. `expect` guards against a renewal at the same moment: on a conflict, read and try again.
pub fn revoke_changes(view: &View, node: &str, reason: &str) -> Vec<Change> {
    let Some((rv, mut record)) = view.cert(node) else {
        return Vec::new();
    };
    record.pending = None;
    record.pending_key.clear();
    record.revoked = Some(reason.to_owned());
    vec![record.change(node, Expect::At(rv))]
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        thread,
        time::Duration,
    };

    use super::*;

    /// A reader that took the tables twice would sooner or later do so around a waiting writer, and neither would go on.
    #[test]
    fn callers_are_judged_while_records_change() {
        const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
        for role in [Role::Agent, Role::User, Role::Coordinator] {
            let caller = Caller {
                identity: Identity {
                    cluster: CLUSTER.to_owned(),
                    role,
                    id: "n1".to_owned(),
                },
                serial: String::new(),
                not_after: u64::MAX,
                deleted: false,
                generation: 0,
                key: String::new(),
                issuer: String::new(),
            };
            // No scope: it would wait for threads that hang.
            let (view, over) = (Arc::new(View::default()), Arc::new(AtomicBool::new(false)));
            let (shared, ended) = (view.clone(), over.clone());
            let (judged, all_judged) = mpsc::channel();
            thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    shared.apply(&[]);
                }
            });
            thread::spawn(move || {
                for _ in 0..100_000 {
                    let _ = view.judge(CLUSTER, &caller, 0);
                }
                judged.send(())
            });
            let end = all_judged.recv_timeout(Duration::from_secs(60));
            over.store(true, Ordering::Relaxed);
            assert!(end.is_ok(), "{role:?}: judging and changing wait for each other");
        }
    }
}
