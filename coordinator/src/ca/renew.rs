//! Renewal of an agent's certificate, and the moment at which a renewed one replaces the old. Called by the
//! agents' service (`Agent.Renew`) and by [`super::layer`] at the first use.
//!
//! Invariant: the old serial is valid until the new one is first used, and from then on never again.

use proto::{identity::Role, model::Kind, wire};
use tonic::Status;

use super::{
    Authority,
    certs::{Caller, Denied, DeniedKind, Standing},
    enrol::{decode, not_active},
    issue::parse_csr,
};
use crate::{
    store::{CommitError, Expect, ReadError, keys},
    world::record::HolderRecord,
};

impl Authority {
    /// The whole of `Agent.Renew`; `caller` is who the layer put into the request's extensions.
    ///
    /// Errors: as documented at the RPC, and UNAVAILABLE where this coordinator cannot commit.
    pub async fn renew(&self, caller: &Caller, csr_der: &[u8]) -> Result<wire::Issued, Status> {
        if !caller.is_agent() {
            return Err(Status::permission_denied(format!(
                "{caller} may not renew: only agents renew"
            )));
        }
        let key = parse_csr(csr_der).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let node = caller.identity.id.as_str();
        for _ in 0..self.0.settings.commit_attempts {
            let fence = (self.0.fence)().ok_or_else(|| Status::unavailable(not_active()))?;
            let Some((rv, mut record)) = self.cert_record(node).await.map_err(unreadable)? else {
                return Err(Status::permission_denied(format!(
                    "node {node:?} was deleted; join again with a new token"
                )));
            };
            if self.check_serial(caller, rv, &record)? == Standing::Deleted {
                return Err(Status::permission_denied(format!(
                    "node {node:?} was deleted; join again with a new token"
                )));
            }
            if self.in_quarantine(node).await.map_err(unreadable)? {
                return Err(Status::permission_denied(format!(
                    "two agents hold the identity of node {node:?}, and neither gets a new certificate; stop the copy, then: wharf node readmit {node}"
                )));
            }
            let object = keys::object(Kind::Node, "", node);
            if self.0.store.get(&object).await.map_err(unreadable)?.is_none() {
                return Err(Status::permission_denied(format!(
                    "node {node:?} was deleted; join again with a new token"
                )));
            }
            let life_ms = self.0.settings.agent_life_ms;
            let leaf = self
                .0
                .issuer
                .issue(&key, Role::Agent, node, life_ms, self.now_ms())
                .map_err(|e| Status::unavailable(e.to_string()))?;
            // The caller proves by this call that it uses its serial: of the two on record the other one goes.
            record.active.clone_from(&caller.serial);
            record.active_key.clone_from(&caller.key);
            record.pending = Some(leaf.serial.clone());
            record.pending_key.clone_from(&key.hash);
            record.renewed = true;
            record.not_after = leaf.not_after;
            match self.commit(&fence, vec![record.change(node, Expect::At(rv))]).await {
                Ok(()) => {
                    tracing::info!(node, serial = leaf.serial, "certificate renewed");
                    return Ok(self.0.issuer.issued(&leaf));
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(Status::unavailable(error.to_string())),
            }
        }
        Err(Status::unavailable("too many renewals of one node at once; try again"))
    }

    /// Whether two agents hold the node's identity.
    async fn in_quarantine(&self, node: &str) -> Result<bool, ReadError> {
        let key = keys::holder(node);
        match self.0.store.get(&key).await? {
            None => Ok(false),
            Some(entry) => decode::<HolderRecord>(&entry)
                .map(|record| record.rival.is_some())
                .ok_or_else(|| ReadError::Io(format!("{key} does not decode"))),
        }
    }

    /// The same decision as the layer's, on the record just read.
    fn check_serial(
        &self,
        caller: &Caller,
        rv: crate::store::Rv,
        record: &super::certs::CertRecord,
    ) -> Result<Standing, Denied> {
        let node = caller.identity.id.as_str();
        let value = record.change(node, Expect::Any).value.unwrap_or_default();
        self.0.view.refresh(&crate::store::Entry {
            rv,
            key: keys::cert(node),
            value,
        });
        self.0.view.standing(self.cluster(), caller, self.now_ms())
    }

    /// The caller of a verified certificate, if that certificate is valid by the registry too. The first use of
    /// a renewed certificate makes it the active one.
    pub async fn authenticate(&self, leaf_der: &[u8]) -> Result<Caller, Denied> {
        let mut caller = Caller::of_certificate(leaf_der)?;
        if !caller.is_agent() {
            caller.issuer = self.0.view.issuer_of(leaf_der);
            // Its coordinator may have joined just now.
            if caller.issuer.is_empty() && caller.identity.cluster == self.cluster() {
                self.refresh(&caller).await;
                caller.issuer = self.0.view.issuer_of(leaf_der);
            }
        }
        self.establish(caller).await
    }

    /// The same for a caller whose certificate another coordinator verified.
    pub(super) async fn establish(&self, mut caller: Caller) -> Result<Caller, Denied> {
        let mut standing = self.judge(&caller);
        if let Err(denied) = &standing
            && match caller.is_agent() {
                true => denied.kind != DeniedKind::Revoked,
                false => !caller.issuer.is_empty(),
            }
        {
            // What another coordinator committed may not have reached this view yet.
            self.refresh(&caller).await;
            standing = self.judge(&caller);
        }
        let (standing, generation) = standing?;
        caller.generation = generation;
        match standing {
            Standing::Active => {}
            Standing::Pending | Standing::Unrecorded => self.activate(&caller).await,
            Standing::Deleted => caller.deleted = true,
        }
        Ok(caller)
    }

    /// Reads again what a caller is judged by. What cannot be read stays as it is known.
    async fn refresh(&self, caller: &Caller) {
        let entries = if caller.is_agent() {
            let entry = self.0.store.get(&keys::cert(&caller.identity.id)).await;
            entry.map(|entry| entry.into_iter().collect())
        } else {
            self.replicas_on_record().await
        };
        for entry in entries.unwrap_or_default() {
            self.0.view.refresh(&entry);
        }
    }

    fn judge(&self, caller: &Caller) -> Result<(Standing, u64), Denied> {
        self.0.view.judge(self.cluster(), caller, self.now_ms())
    }

    /// The check for open streams, at each heartbeat: the certificate has not expired, was not revoked and was
    /// not replaced meanwhile, and its node was not deleted since the stream was opened.
    pub fn still_valid(&self, caller: &Caller) -> Result<Standing, Denied> {
        let standing = self.0.view.standing(self.cluster(), caller, self.now_ms())?;
        if (standing == Standing::Deleted) != caller.deleted {
            let node = &caller.identity.id;
            let message = format!("node {node:?} was deleted; only what it still runs is of interest now");
            return Err(Denied::new(DeniedKind::Revoked, message));
        }
        Ok(standing)
    }

    /// Makes the caller's serial the only valid one. Where that cannot be committed now, both stay valid and
    /// the next call tries again.
    async fn activate(&self, caller: &Caller) {
        let node = caller.identity.id.as_str();
        for _ in 0..self.0.settings.commit_attempts {
            let Some(fence) = (self.0.fence)() else { return };
            let Ok(Some((rv, mut record))) = self.cert_record(node).await else {
                return;
            };
            match self.check_serial(caller, rv, &record) {
                Ok(Standing::Pending) => {}
                Ok(Standing::Unrecorded) => {
                    tracing::warn!(
                        node,
                        serial = caller.serial,
                        "a certificate from after the backup is taken on record"
                    );
                    record.not_after = record.not_after.max(caller.not_after);
                }
                _ => return,
            }
            record.active.clone_from(&caller.serial);
            record.active_key.clone_from(&caller.key);
            record.pending = None;
            record.pending_key.clear();
            match self.commit(&fence, vec![record.change(node, Expect::At(rv))]).await {
                Err(CommitError::Conflict { .. }) => {}
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(node, %error, "the renewed certificate is in use but not on record yet");
                    return;
                }
            }
        }
    }
}

fn unreadable(error: ReadError) -> Status {
    Status::unavailable(error.to_string())
}
