//! One write of the API: decide on the present world, commit with audit record and request id, decide anew if
//! somebody was faster. Called by `resources` and `controllers`.
//!
//! Invariant: a request id is honoured at most once: its record and the change are one commit, so that a
//! repeat, even a concurrent one, finds the record or conflicts with it.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::{
    ids,
    model::{Kind, Object, Time, labels::quoted},
};
use serde_json::{Value, json};
use tokio::sync::{MutexGuard, RwLockWriteGuard};
use tonic::{Extensions, Status, metadata::MetadataMap};

use super::{Api, errors::ApiError};
use crate::{
    ca::{
        audit::{self, AuditRecord},
        authorizer::Attributes,
    },
    store::{Change, CommitError, Expect, Fence, Rv, keys},
    world::{
        World,
        record::{OpRecord, encode},
    },
};

/// Longest request id.
const MAX_REQUEST_ID: usize = 128;

/// Who writes, and how a repeat is known.
pub struct Ticket {
    pub caller: String,
    pub verb: &'static str,
    pub dry_run: bool,
    /// Why, for the audit record.
    reason: String,
    /// Request id and the hash of the request.
    op: Option<(String, String)>,
}

impl Ticket {
    /// `message` is the request as its caller encoded it. A dry run changes nothing, so that its request id
    /// means nothing.
    pub fn new(
        caller: String,
        verb: &'static str,
        dry_run: bool,
        request_id: &str,
        message: &impl prost::Message,
    ) -> Result<Self, ApiError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if request_id.len() > MAX_REQUEST_ID || !request_id.chars().all(plain) {
            return Err(ApiError::BadRequest(format!(
                "request_id: at most {MAX_REQUEST_ID} of letters, digits, '-', '_', '.' and ':', e.g. a UUID"
            )));
        }
        let op = (!request_id.is_empty() && !dry_run).then(|| {
            let mut bytes = verb.as_bytes().to_vec();
            bytes.push(0);
            bytes.extend(message.encode_to_vec());
            (request_id.to_owned(), ids::content_hash(&bytes))
        });
        Ok(Self {
            caller,
            verb,
            dry_run,
            reason: String::new(),
            op,
        })
    }

    /// With the reason that the call carries ([`proto::reason::HEADER`]). Errors: INVALID_ARGUMENT.
    pub fn because(self, metadata: &MetadataMap) -> Result<Self, Status> {
        let reason = audit::reason(metadata)?;
        Ok(Self { reason, ..self })
    }

    /// With a reason of the request itself, which goes before the call's.
    pub fn with_reason(self, reason: &str) -> Self {
        if reason.is_empty() {
            return self;
        }
        let reason = reason.to_owned();
        Self { reason, ..self }
    }

    /// The record of the same request made before.
    fn repeat(&self, world: &World) -> Result<Option<Repeat>, ApiError> {
        let Some((id, hash)) = &self.op else { return Ok(None) };
        let Some(found) = world.ops.get(id) else {
            return Ok(None);
        };
        if found.value.caller != self.caller || found.value.request != *hash {
            return Err(ApiError::BadRequest(format!(
                "request_id {id} belongs to another request; choose a new one for each request"
            )));
        }
        Ok(Some(Repeat {
            rv: found.rv,
            record: (*found.value).clone(),
        }))
    }
}

/// What a request is about, as its records name it.
pub trait Subject {
    /// Kind, namespace, name and uid; empty where it has none.
    fn names(&self) -> [&str; 4];

    /// As in an audit record: `pods/default/web-x2k4p`.
    fn path(&self) -> String;

    /// As in a refusal: `pods "web-x2k4p"`.
    fn words(&self) -> String {
        self.path()
    }
}

impl Subject for Object {
    fn names(&self) -> [&str; 4] {
        let meta = self.meta();
        [self.kind().name(), &meta.namespace, &meta.name, &meta.uid]
    }

    fn path(&self) -> String {
        let (kind, meta) = (self.kind(), self.meta());
        if kind.namespaced() {
            format!("{}/{}/{}", kind.plural(), meta.namespace, meta.name)
        } else {
            format!("{}/{}", kind.plural(), meta.name)
        }
    }

    fn words(&self) -> String {
        format!("{} {}", self.kind().plural(), quoted(&self.meta().name))
    }
}

/// What of an object an audit record shows: what users write, and why a node takes no pods.
pub fn audited(object: &Object) -> Value {
    let mut whole = object.to_json();
    let mut shown = json!({});
    for part in ["labels", "annotations"] {
        let found = whole["metadata"][part].take();
        if !found.is_null() {
            shown[part] = found;
        }
    }
    for (part, found) in [
        ("spec", whole["spec"].take()),
        ("holds", whole["status"]["holds"].take()),
    ] {
        if !found.is_null() {
            shown[part] = found;
        }
    }
    shown
}

/// What a request changes in the world that it was decided on.
pub struct Decision<T = Object> {
    /// Empty: it is already as asked.
    pub changes: Vec<Change>,
    /// The object after the change, or before its removal.
    pub object: T,
    /// For the audit record.
    pub detail: String,
    /// For the audit record: what the change is about, before and after it; see [`audited`].
    pub before: Option<Value>,
    pub after: Option<Value>,
    /// For a repeat's answer ([`OpRecord::result`]).
    pub result: String,
    pub warnings: Vec<String>,
}

impl<T> Decision<T> {
    pub fn new(changes: Vec<Change>, object: T) -> Self {
        Self {
            changes,
            object,
            detail: String::new(),
            before: None,
            after: None,
            result: String::new(),
            warnings: Vec::new(),
        }
    }

    fn nothing_to_do(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Refuses where the object is not the one that the caller saw; empty: any.
pub fn preconditions(object: &Object, uid: &str, resource_version: &str) -> Result<(), ApiError> {
    let meta = object.meta();
    for (field, is, wanted) in [
        ("uid", &meta.uid, uid),
        ("resource version", &meta.resource_version, resource_version),
    ] {
        if !wanted.is_empty() && wanted != is {
            let what = format!("its {field} is {is:?}, not {} as asked", quoted(wanted));
            return Err(ApiError::mismatch(object.kind(), &meta.name, what));
        }
    }
    Ok(())
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub struct Repeat {
    pub rv: Rv,
    pub record: OpRecord,
}

pub enum Outcome<T = Object> {
    /// Committed and visible.
    Done(Decision<T>),
    /// A dry run, or nothing to change.
    Unchanged(Decision<T>),
    Repeat(Repeat),
}

impl Api {
    /// Authorizes, then checks that this coordinator answers; returns the caller. Where several share the store, who
    /// only looks is answered by a standby too: what is passed on and what is not, `peer::forward` has decided.
    pub(super) fn admit(&self, extensions: &Extensions, action: &Attributes<'_>) -> Result<String, tonic::Status> {
        let caller = self.access.caller(extensions)?;
        self.access.allow(extensions, action)?;
        if !["get", "list", "watch"].contains(&action.verb) {
            self.active()?;
        }
        Ok(caller)
    }

    /// As [`Api::admit`], for a verb on a kind as a whole or one object of it.
    pub(super) fn admit_to(
        &self,
        extensions: &Extensions,
        verb: &str,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<String, tonic::Status> {
        let action = Attributes {
            verb,
            resource: kind.plural(),
            subresource: "",
            namespace,
            name,
        };
        self.admit(extensions, &action)
    }

    /// Holds back placements for a write that makes a hold; see [`Hub::hold_placements`].
    ///
    /// [`Hub::hold_placements`]: crate::world::hub::Hub::hold_placements
    pub(super) async fn held_back(&self, needed: bool) -> Option<RwLockWriteGuard<'_, ()>> {
        if needed {
            Some(self.hub.hold_placements().await)
        } else {
            None
        }
    }

    /// Lets one write of a budget follow the other. Another process that wrote some before us has lost its fence.
    pub(super) async fn one_by_one(&self, kind: Kind) -> Option<MutexGuard<'_, ()>> {
        if kind == Kind::PodDisruptionBudget {
            Some(self.budgets.lock().await)
        } else {
            None
        }
    }

    /// See the module's head. `decide` runs under the world's lock, once an attempt.
    pub(super) async fn write<T: Subject>(
        &self,
        ticket: &Ticket,
        mut decide: impl FnMut(&World) -> Result<Decision<T>, ApiError>,
    ) -> Result<Outcome<T>, ApiError> {
        let fence = self.active()?;
        let mut contended = String::new();
        for _ in 0..self.settings.attempts.max(1) {
            let (seen, step) = self.hub.read(|world| {
                let step = match ticket.repeat(world) {
                    Ok(Some(repeat)) => Ok(Err(repeat)),
                    Ok(None) => decide(world).map(Ok),
                    Err(e) => Err(e),
                };
                (world.rv, step)
            });
            let mut decision = match step? {
                Ok(decision) => decision,
                Err(repeat) => return Ok(Outcome::Repeat(repeat)),
            };
            if ticket.dry_run || decision.nothing_to_do() {
                return Ok(Outcome::Unchanged(decision));
            }
            let changes = ticket.sealed(&mut decision);
            match self.commit(&fence, changes, seen).await? {
                true => return Ok(Outcome::Done(decision)),
                false => contended = decision.object.words(),
            }
        }
        Err(ApiError::Contended(contended))
    }

    /// False: somebody was faster, and the world now shows what he did.
    async fn commit(&self, fence: &Fence, changes: Vec<Change>, seen: Rv) -> Result<bool, ApiError> {
        match self.hub.commit_under(fence, changes).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict { actual, .. }) => {
                // A key that is gone has no version: its removal is newer than what was decided on.
                self.hub.wait_for(actual.unwrap_or(Rv(seen.0 + 1))).await;
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }
}

impl Ticket {
    /// The decision's changes with the request's record and, last, the audit record: the last change must be
    /// one that surely becomes an update, because the commit is waited for by its version.
    fn sealed<T: Subject>(&self, decision: &mut Decision<T>) -> Vec<Change> {
        let mut changes = std::mem::take(&mut decision.changes);
        let ms = now_ms();
        let at = Time::from_millis(ms);
        if let Some((id, request)) = &self.op {
            let [kind, namespace, name, uid] = decision.object.names().map(str::to_owned);
            let record = OpRecord {
                at,
                caller: self.caller.clone(),
                request: request.clone(),
                kind,
                namespace,
                name,
                uid,
                result: decision.result.clone(),
            };
            changes.push(Change::put(keys::op(id), Expect::Absent, encode(&record)));
        }
        let object = decision.object.path();
        let audit = AuditRecord::new(ms, &self.caller, self.verb, object, &decision.detail)
            .because(&self.reason)
            .about(decision.before.take(), decision.after.take());
        changes.push(audit.change());
        changes
    }
}
