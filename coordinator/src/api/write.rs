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
use tokio::sync::RwLockWriteGuard;
use tonic::Extensions;

use super::{Api, errors::ApiError};
use crate::{
    ca::{audit::AuditRecord, authorizer::Attributes},
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
            op,
        })
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

/// What a request changes in the world that it was decided on.
pub struct Decision {
    /// Empty: it is already as asked.
    pub changes: Vec<Change>,
    /// The object after the change, or before its removal.
    pub object: Object,
    /// For the audit record.
    pub detail: String,
    /// For a repeat's answer ([`OpRecord::result`]).
    pub result: String,
    pub warnings: Vec<String>,
}

impl Decision {
    pub fn new(changes: Vec<Change>, object: Object) -> Self {
        Self {
            changes,
            object,
            detail: String::new(),
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

pub struct Repeat {
    pub rv: Rv,
    pub record: OpRecord,
}

pub enum Outcome {
    /// Committed and visible.
    Done(Decision),
    /// A dry run, or nothing to change.
    Unchanged(Decision),
    Repeat(Repeat),
}

impl Api {
    /// Authorizes, then checks that this coordinator answers; returns the caller.
    pub(super) fn admit(&self, extensions: &Extensions, action: &Attributes<'_>) -> Result<String, tonic::Status> {
        let caller = self.access.caller(extensions)?;
        self.access.allow(extensions, action)?;
        self.active()?;
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

    /// See the module's head. `decide` runs under the world's lock, once an attempt.
    pub(super) async fn write(
        &self,
        ticket: &Ticket,
        mut decide: impl FnMut(&World) -> Result<Decision, ApiError>,
    ) -> Result<Outcome, ApiError> {
        let fence = self.active()?;
        let mut contended = None;
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
                false => contended = Some((decision.object.kind(), decision.object.meta().name.clone())),
            }
        }
        let (kind, name) = contended.unwrap_or((Kind::Event, String::new()));
        Err(ApiError::Contended { kind, name })
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
    fn sealed(&self, decision: &mut Decision) -> Vec<Change> {
        let (kind, meta) = (decision.object.kind(), decision.object.meta());
        let mut changes = std::mem::take(&mut decision.changes);
        let ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        let at = Time::from_millis(ms);
        if let Some((id, request)) = &self.op {
            let record = OpRecord {
                at,
                caller: self.caller.clone(),
                request: request.clone(),
                kind: kind.name().to_owned(),
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                result: decision.result.clone(),
            };
            changes.push(Change::put(keys::op(id), Expect::Absent, encode(&record)));
        }
        let object = if kind.namespaced() {
            format!("{}/{}/{}", kind.plural(), meta.namespace, meta.name)
        } else {
            format!("{}/{}", kind.plural(), meta.name)
        };
        let audit = AuditRecord::new(ms, &self.caller, self.verb, object, &decision.detail);
        changes.push(audit.change());
        changes
    }
}
