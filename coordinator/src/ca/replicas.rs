//! Coordinators come and go: one joins with a token, gets its intermediate signed and the cluster's secret; the one that
//! leads sees to its own record; an operator removes one that is gone. Called by [`super::service`] and by the
//! coordinator's wiring.
//!
//! A coordinator is on record twice: where it is reached (`coordinator/<name>`), and which intermediate is its own
//! (`issuer/<name>`). Both come and go in one commit.
//!
//! Invariant: record, intermediate, use count and audit record are one commit; the same key gets the same answer and
//! never costs two uses of one token; a refusal costs none. The root key is in memory for one signature only, and the
//! cluster's secret goes to nobody but who presents a token made for that.

use std::collections::BTreeMap;

use proto::{
    files::file_error,
    identity::Role,
    model::{Time, labels::check_dns_label},
    token::JoinToken,
    wire,
};
use rcgen::KeyPair;
use tonic::Status;
use zeroize::Zeroize as _;

use super::{
    Authority, AuthorityError,
    audit::AuditRecord,
    certs::Caller,
    enrol::{JoinError, Presented, decode, not_active},
    issue::{self, PublicKey, parse_csr},
    issuers::IssuerRecord,
    read,
    secret::ClusterKey,
};
use crate::{
    init::check_address,
    session::release,
    store::{Change, CommitError, Entry, Expect, Order, ReadError, Rv, Span, keys},
    world::{record::encode, replicas::CoordinatorRecord},
};

/// Where a cluster's state lies if one coordinator has it for itself; as `run --store` names it.
pub const STORE_OF_ONE: &str = "sqlite";

/// More coordinators than this are not read; a cluster has three or five.
const MOST: usize = 100;

/// What a coordinator says of itself, checked.
struct Replica<'a> {
    key: PublicKey,
    name: &'a str,
    address: String,
    enrol: String,
    version: &'a str,
}

/// What will be committed (nothing, where all is so already), and the joining one's intermediate, PEM.
struct Plan {
    changes: Vec<Change>,
    intermediate: String,
}

/// A record with its version.
type Known<T> = (Rv, T);

/// What is on record of all coordinators.
#[derive(Default)]
struct OnRecord {
    coordinators: BTreeMap<String, Known<CoordinatorRecord>>,
    issuers: BTreeMap<String, Known<IssuerRecord>>,
}

impl OnRecord {
    fn read(entries: &[Entry]) -> Result<Self, ReadError> {
        let mut all = Self::default();
        for entry in entries {
            let unreadable = || ReadError::Io(format!("{} does not decode", entry.key));
            match keys::parse(&entry.key) {
                keys::Parsed::Coordinator(name) => {
                    let record = decode(entry).ok_or_else(unreadable)?;
                    all.coordinators.insert(name.to_owned(), (entry.rv, record));
                }
                keys::Parsed::Issuer(name) => {
                    let record = decode(entry).ok_or_else(unreadable)?;
                    all.issuers.insert(name.to_owned(), (entry.rv, record));
                }
                _ => {}
            }
        }
        Ok(all)
    }

    fn expect<T>(known: Option<&Known<T>>) -> Expect {
        known.map_or(Expect::Absent, |(rv, _)| Expect::At(*rv))
    }

    fn put(&self, name: &str, record: &CoordinatorRecord) -> Change {
        let expect = Self::expect(self.coordinators.get(name));
        Change::put(keys::coordinator(name), expect, encode(record))
    }

    fn put_issuer(&self, name: &str, record: &IssuerRecord) -> Change {
        record.change(name, Self::expect(self.issuers.get(name)))
    }
}

/// What the active coordinator finds of itself on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// All is as it should be.
    Current,
    /// Its record, or that and its intermediate's, are to be written.
    Outdated { issuer: bool },
    /// Others are on record and it is not.
    Removed,
    /// Its name is another host's.
    Replaced,
}

/// Pure. `wanted` is the record as it should be, `key` the coordinator's own intermediate's.
fn own(all: &OnRecord, name: &str, key: &str, wanted: &CoordinatorRecord) -> Own {
    let issuer = all.issuers.get(name).map(|(_, record)| record.key.as_str());
    match all.coordinators.get(name) {
        // Made by a release that kept no record: it was the only one, and its name was nobody else's.
        None if all.coordinators.is_empty() => Own::Outdated {
            issuer: issuer != Some(key),
        },
        None => Own::Removed,
        Some(_) if issuer.is_some_and(|issuer| issuer != key) => Own::Replaced,
        Some(_) if issuer.is_none() => Own::Outdated { issuer: true },
        Some((_, present)) => {
            let same =
                present.address == wanted.address && present.enrol == wanted.enrol && present.version == wanted.version;
            if same {
                Own::Current
            } else {
                Own::Outdated { issuer: false }
            }
        }
    }
}

/// Two coordinators beside each other are of one release or of neighbouring ones.
fn check_release(ours: &str, theirs: &str) -> Result<(), String> {
    let fits = match (release(ours), release(theirs)) {
        (Some((our_major, ours)), Some((major, theirs))) => major == our_major && ours.abs_diff(theirs) <= 1,
        _ => false,
    };
    fits.then_some(()).ok_or_else(|| {
        format!(
            "the coordinator that joins is release {theirs:?} and the active one {ours}; install release {ours} there"
        )
    })
}

impl Authority {
    /// The whole of `Enrol.JoinCoordinator`.
    pub async fn join_coordinator(
        &self,
        request: &wire::JoinCoordinatorRequest,
    ) -> Result<wire::JoinCoordinatorReply, JoinError> {
        let malformed = |field: &str, what: String| JoinError::Malformed(format!("{field}: {what}"));
        let token = JoinToken::parse(&request.token).map_err(|e| malformed("token", e.to_string()))?;
        // Before anything costly, as of a host.
        self.present(&token, Role::Coordinator).await?;
        self.check_clock(request.clock_ms)?;
        let address = |field, address: &str| {
            check_address(address).map_err(|_| malformed(field, format!("{address:?} is not HOST:PORT")))
        };
        let replica = Replica {
            key: parse_csr(&request.csr_der).map_err(|e| JoinError::Malformed(e.to_string()))?,
            name: &request.name,
            address: address("address", &request.address)?,
            enrol: address("enrol_address", &request.enrol_address)?,
            version: &request.version,
        };
        check_dns_label(replica.name).map_err(|e| malformed("name", e))?;
        check_release(proto::VERSION, replica.version).map_err(JoinError::Version)?;
        if self.0.settings.store == STORE_OF_ONE {
            return Err(JoinError::StoreOfOne(self.0.settings.store.clone()));
        }

        // One after the other, with the hosts that join.
        let _turn = self
            .0
            .turn
            .acquire()
            .await
            .map_err(|_| JoinError::Unavailable(not_active()))?;
        for _ in 0..self.0.settings.commit_attempts {
            let fence = (self.0.fence)().ok_or_else(|| JoinError::Unavailable(not_active()))?;
            let presented = self.present(&token, Role::Coordinator).await?;
            let plan = self.plan_replica(presented, &replica).await?;
            if !plan.changes.is_empty() {
                match self.commit(&fence, plan.changes).await {
                    Ok(()) => {}
                    Err(CommitError::Conflict { key, .. }) => {
                        tracing::debug!(key, "join conflicts; reading again");
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            tracing::info!(coordinator = replica.name, token = token.id, "coordinator joined");
            return Ok(wire::JoinCoordinatorReply {
                chain_pem: format!("{}{}", plan.intermediate, self.root_pem()),
                cluster_id: self.cluster().to_owned(),
                incarnation: fence.incarnation.to_string(),
                cluster_key: self.secret().map_err(unavailable)?.reveal(),
                coordinators: self.coordinators(),
                store: self.0.settings.store.clone(),
                term: fence.term,
                revision: self.0.store.newest().revision(),
            });
        }
        Err(JoinError::Unavailable("too many joins at once; try again".into()))
    }

    async fn plan_replica(&self, presented: Presented, replica: &Replica<'_>) -> Result<Plan, JoinError> {
        let all = self.on_record().await?;
        let (name, key) = (replica.name, &replica.key);
        let present = all.coordinators.get(name).map(|(_, record)| record);
        let known = all.issuers.get(name).map(|(_, record)| record);
        // It joined before and never got, or lost, the answer.
        let again = match (present, known) {
            (Some(_), Some(issuer)) if issuer.key == key.hash => Some(issuer.certificate.clone()),
            (Some(_), _) => return Err(JoinError::CoordinatorTaken(name.to_owned())),
            (None, _) => None,
        };
        let joined = &presented.record.joined;
        let paid = again.is_some() && joined.iter().any(|j| j.node == name && j.key == key.hash);
        let now_ms = self.now_ms();
        if !paid && let Err(refusal) = presented.record.admits_one_more(now_ms) {
            return Err(self.refuse(&presented.token.id, refusal));
        }
        let mut others = all.coordinators.iter().filter(|(other, _)| *other != name);
        if let Some((other, _)) = others.find(|(_, (_, record))| record.address == replica.address) {
            return Err(JoinError::AddressTaken {
                address: replica.address.clone(),
                other: other.clone(),
            });
        }

        let record = CoordinatorRecord {
            address: replica.address.clone(),
            enrol: replica.enrol.clone(),
            joined: present.map_or(Time::from_millis(now_ms), |record| record.joined),
            version: replica.version.to_owned(),
        };
        let mut changes = Vec::with_capacity(4);
        if present != Some(&record) {
            changes.push(all.put(name, &record));
        }
        let intermediate = match &again {
            Some(certificate) => certificate.clone(),
            None => {
                let certificate = self.sign_intermediate(key, name, now_ms).map_err(unavailable)?;
                let issuer = IssuerRecord {
                    key: key.hash.clone(),
                    certificate: certificate.clone(),
                };
                changes.push(all.put_issuer(name, &issuer));
                certificate
            }
        };
        if !paid {
            let by = format!("tokens/{}", presented.token.id);
            let audit = AuditRecord::new(now_ms, by, "join", format!("coordinators/{name}"), &replica.address);
            changes.push(presented.used_by(name, key));
            changes.push(audit.change());
        }
        Ok(Plan { changes, intermediate })
    }

    /// Takes the root key out of its seal for one signature.
    fn sign_intermediate(&self, key: &PublicKey, name: &str, now_ms: u64) -> Result<String, AuthorityError> {
        let path = self.0.layout.cluster_key();
        let meta = &self.0.meta;
        let plain = self
            .secret()?
            .open(&meta.cluster, &meta.sealed_root_key)
            .map_err(|e| file_error(&path, e))?;
        let mut root = KeyPair::try_from(plain.as_slice()).map_err(issue::IssueError::from)?;
        let signed = issue::sign_intermediate(&meta.root_pem, &root, key, name, now_ms);
        root.zeroize();
        Ok(signed?)
    }

    /// The cluster's secret, from this coordinator's directory: it is not kept in memory.
    fn secret(&self) -> Result<ClusterKey, AuthorityError> {
        let path = self.0.layout.cluster_key();
        ClusterKey::from_bytes(&read(&path)?).map_err(|e| file_error(&path, e).into())
    }

    /// The entries of all coordinators and their intermediates.
    pub(super) async fn replicas_on_record(&self) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        for (from, until) in [keys::COORDINATORS, keys::ISSUERS] {
            let span = Span {
                from: from.to_owned(),
                until: until.to_owned(),
                order: Order::Ascending,
                limit: MOST,
            };
            entries.extend(self.0.store.scan(span).await?);
        }
        Ok(entries)
    }

    async fn on_record(&self) -> Result<OnRecord, ReadError> {
        OnRecord::read(&self.replicas_on_record().await?)
    }

    /// This coordinator's session and enrolment address, as it is configured or on record.
    pub fn own_addresses(&self) -> (String, String) {
        self.addresses().into_iter().next().unwrap_or_default()
    }

    /// Sees to it that this coordinator is on record, under these addresses. For the one that leads, before anybody is
    /// served: certificates are valid by that record. Writes nothing where all is so already.
    ///
    /// Errors: it was removed, or its name was given to another host, and it must not lead; or nothing could be written.
    pub async fn ensure_own_record(&self, address: &str, enrol: &str) -> Result<(), AuthorityError> {
        let name = self.name();
        let path = self.0.layout.intermediate_cert();
        let issuer = IssuerRecord::of(&self.0.issuer).map_err(|e| file_error(&path, e))?;
        for _ in 0..self.0.settings.commit_attempts {
            let all = self.on_record().await?;
            let joined = all.coordinators.get(name).map(|(_, record)| record.joined);
            let wanted = CoordinatorRecord {
                address: address.to_owned(),
                enrol: enrol.to_owned(),
                joined: joined.unwrap_or(Time::from_millis(self.now_ms())),
                version: proto::VERSION.to_owned(),
            };
            let write_issuer = match own(&all, name, &issuer.key, &wanted) {
                Own::Current => return Ok(()),
                Own::Outdated { issuer } => issuer,
                Own::Removed => return Err(AuthorityError::Removed(name.to_owned())),
                Own::Replaced => return Err(AuthorityError::Replaced(name.to_owned())),
            };
            let mut changes = vec![all.put(name, &wanted)];
            if write_issuer {
                changes.push(all.put_issuer(name, &issuer));
            }
            let fence = (self.0.fence)().ok_or(AuthorityError::NotActive)?;
            match self.commit(&fence, changes).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AuthorityError::NotActive)
    }

    /// The whole of `Coordinators.Remove`: the coordinator's certificate is valid no more, nor is any that its
    /// intermediate issued to a user; its name is free.
    pub async fn remove_coordinator(
        &self,
        name: &str,
        caller: &Caller,
        reason: &str,
        dry_run: bool,
    ) -> Result<(), Status> {
        for _ in 0..self.0.settings.commit_attempts {
            let fence = (self.0.fence)().ok_or_else(|| Status::unavailable(not_active()))?;
            let all = self.on_record().await.map_err(|e| Status::unavailable(e.to_string()))?;
            let Some((at, record)) = all.coordinators.get(name) else {
                let name = proto::model::labels::quoted(name);
                return Err(Status::not_found(format!("coordinators {name} not found")));
            };
            // The last one is the active one, too.
            if name == self.name() {
                return Err(Status::failed_precondition(format!(
                    "coordinator {name:?} is the active one; let another one lead first: wharf cluster transfer"
                )));
            }
            let issuer = all.issuers.get(name);
            if issuer.is_some_and(|(_, issuer)| issuer.key == caller.issuer) {
                return Err(Status::failed_precondition(format!(
                    "coordinator {name:?} issued your own certificate, which would end with it; get another one first: wharf-coordinator admin-credentials, on another coordinator's host"
                )));
            }
            if dry_run {
                return Ok(());
            }
            let object = format!("coordinators/{name}");
            let audit = AuditRecord::new(self.now_ms(), caller.to_string(), "delete", object, &record.address);
            let mut changes = vec![
                Change::delete(keys::coordinator(name), Expect::At(*at)),
                audit.because(reason).change(),
            ];
            changes.extend(issuer.map(|(at, _)| Change::delete(keys::issuer(name), Expect::At(*at))));
            match self.commit(&fence, changes).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(Status::unavailable(error.to_string())),
            }
        }
        Err(Status::unavailable(
            "the coordinators change too fast just now; try again",
        ))
    }
}

/// A coordinator that cannot read its own files says so in its log; whoever joins tries again.
fn unavailable(error: AuthorityError) -> JoinError {
    tracing::error!(%error, "a coordinator cannot be joined");
    JoinError::Unavailable("the active coordinator cannot sign just now; its log says why".into())
}

#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
