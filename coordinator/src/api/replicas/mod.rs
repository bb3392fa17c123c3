//! Status and Transfer: how the coordinators and their store are, and who leads. Mounted by the listener; Status is
//! answered by a standby too.
//!
//! | file | what it is |
//! |---|---|
//! | this | the service, and [`Leading`], by which it asks who leads and follows |
//! | `judge` | what of all that is a problem, the worst first: pure |
//!
//! Invariant: a standby says of the others only what the store says; who leads and who follows is the active one's word.

mod judge;
#[cfg(test)]
mod judge_tests;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use proto::{
    model::{Time, labels::quoted, parse::hint},
    wire::{
        self, CertificateEnd, Replica, ReplicasStatusReply, ReplicasStatusRequest, TransferReply, TransferRequest,
        replica::Role,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Api,
    errors::ApiError,
    etcd::{
        self,
        admin::{StoreAdmin, StoreStatus},
    },
    write::now_ms,
};
use crate::{
    ca::{
        audit::{self, AuditRecord},
        authorizer::Attributes,
    },
    store::{Rv, keys::TermRecord},
    world::{World, hub::Hub},
};

/// What this process is among the coordinators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// This coordinator's name, and where it is reached: session and joining.
    pub name: String,
    pub address: String,
    pub enrol: String,
    /// It acts.
    pub leads: bool,
    /// Who leads by its knowledge; empty: nobody.
    pub leader: String,
    pub term: u64,
    /// Since when it has its role.
    pub since: Option<Time>,
    /// Why it took over, and how long that took: where it leads.
    pub because: String,
    pub took: Duration,
    /// Nodes that it hears.
    pub heard: usize,
    /// Who follows it, by name: where it leads.
    pub following: BTreeMap<String, Standby>,
}

/// A standby, as the active one hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    pub version: String,
    pub since: Time,
    /// What its view includes.
    pub rv: Rv,
    pub heard: usize,
    /// How far its clock was ahead of the active one's when it came.
    pub skew_ms: i64,
}

/// Who leads now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transferred {
    pub name: String,
    pub term: u64,
}

/// Why nobody else leads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Nothing was begun.
    #[error("{0}")]
    Refused(String),
    /// It was begun, and the other one did not take over.
    #[error("{0}")]
    NotTaken(String),
}

/// The contest for leadership, as seen from here.
#[async_trait]
pub trait Leading: Send + Sync + 'static {
    fn standing(&self) -> Standing;

    /// Hands over; `None`: to the one that is least behind. Returns once it leads.
    async fn transfer(&self, to: Option<&str>) -> Result<Transferred, TransferError>;
}

/// The one coordinator of a cluster, which leads as long as it runs.
pub struct Sole {
    hub: Arc<Hub>,
    address: String,
    enrol: String,
    since: Time,
    heard: Box<dyn Fn() -> usize + Send + Sync>,
}

/// Its name, else that of its host.
fn sole_name(term: Option<&TermRecord>) -> String {
    let host = |term: &TermRecord| term.holder.rsplit_once(':').map(|(host, _)| host.to_owned());
    term.and_then(|t| {
        Some(t.coordinator.clone())
            .filter(|n| !n.is_empty())
            .or_else(|| host(t))
    })
    .filter(|name| !name.is_empty())
    .unwrap_or_else(|| "coordinator".to_owned())
}

impl Sole {
    /// `heard`: how many nodes it hears.
    pub fn new(
        hub: Arc<Hub>,
        address: String,
        enrol: String,
        heard: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            hub,
            address,
            enrol,
            since: Time::now(),
            heard: Box::new(heard),
        })
    }
}

#[async_trait]
impl Leading for Sole {
    fn standing(&self) -> Standing {
        let name = self.hub.read(|w| sole_name(w.leader().map(|(_, term)| term)));
        let fence = self.hub.fence();
        Standing {
            leader: if fence.is_some() { name.clone() } else { String::new() },
            name,
            address: self.address.clone(),
            enrol: self.enrol.clone(),
            leads: fence.is_some(),
            term: fence.map_or(0, |f| f.term),
            since: Some(self.since),
            because: String::new(),
            took: Duration::ZERO,
            heard: (self.heard)(),
            following: BTreeMap::new(),
        }
    }

    async fn transfer(&self, _: Option<&str>) -> Result<Transferred, TransferError> {
        Err(TransferError::Refused(
            "this cluster has one coordinator; join another one first: wharf token create --role coordinator".into(),
        ))
    }
}

pub struct ReplicasService {
    pub(super) api: Arc<Api>,
    pub(super) cluster: String,
    pub(super) leading: Arc<dyn Leading>,
    pub(super) admin: Arc<dyn StoreAdmin>,
}

#[async_trait]
impl wire::replicas_server::Replicas for ReplicasService {
    async fn status(&self, request: Request<ReplicasStatusRequest>) -> Result<Response<ReplicasStatusReply>, Status> {
        // As of a standby too: who looks for the leader must not be told to ask it.
        self.api.access.caller(request.extensions())?;
        let what = Attributes {
            verb: "get",
            resource: "cluster",
            ..Attributes::default()
        };
        self.api.access.allow(request.extensions(), &what)?;
        let store = self.admin.status().await;
        Ok(Response::new(self.reply(&store, Time::now())))
    }

    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<TransferReply>, Status> {
        let message = request.get_ref();
        let what = Attributes {
            verb: "update",
            resource: "cluster",
            subresource: "leader",
            name: &message.to,
            ..Attributes::default()
        };
        let caller = self.api.admit(request.extensions(), &what)?;
        let reason = audit::reason(request.metadata())?;
        Ok(Response::new(self.hand_over(message, &caller, &reason).await?))
    }
}

impl ReplicasService {
    fn reply(&self, store: &StoreStatus, now: Time) -> ReplicasStatusReply {
        let standing = self.leading.standing();
        let (rv, replicas) = self.api.hub.read(|w| (w.rv, replicas(w, &standing)));
        let leader = standing.leader.clone();
        let (problems, warnings) = judge::judge(&judge::Seen {
            standing: &standing,
            replicas: &replicas,
            store,
            now,
        });
        ReplicasStatusReply {
            cluster_id: self.cluster.clone(),
            answered_by: standing.name.clone(),
            leader,
            term: standing.term,
            leads_since: standing.since.filter(|_| standing.leads).map_or(0, seconds),
            took_over_because: standing.because.clone(),
            took_over_ms: u64::try_from(standing.took.as_millis()).unwrap_or(u64::MAX),
            replicas,
            store: Some(store_to_wire(store)),
            resource_version: rv.0,
            problems,
            warnings,
        }
    }

    async fn hand_over(
        &self,
        message: &TransferRequest,
        caller: &str,
        reason: &str,
    ) -> Result<TransferReply, ApiError> {
        let standing = self.leading.standing();
        let known: Vec<String> = self.api.hub.read(|w| w.coordinators.keys().cloned().collect());
        let to = successor(&standing, &known, &message.to)?;
        if message.dry_run {
            return Ok(TransferReply { name: to, term: 0 });
        }
        let fence = self.api.active()?;
        // After it nothing can be written from here. One that fails leaves this record and one of its failure.
        let record = |verb: &str, detail: String| {
            AuditRecord::new(now_ms(), caller, verb, format!("coordinators/{to}"), detail).because(reason)
        };
        let before = record("transfer", format!("from {}, term {}", standing.name, standing.term));
        self.api.hub.commit_under(&fence, vec![before.change()]).await?;
        let named = (!message.to.is_empty()).then_some(message.to.as_str());
        match self.leading.transfer(named).await {
            Ok(done) => Ok(TransferReply {
                name: done.name,
                term: done.term,
            }),
            Err(e) => {
                let failed = record("transfer-failed", e.to_string());
                // Under whatever term it leads again; where it does not, the first record stands alone.
                if let Err(e) = self.api.hub.commit(vec![failed.change()]).await {
                    tracing::warn!("a transfer that failed is not on record as failed: {e}");
                }
                Err(match e {
                    TransferError::Refused(why) => {
                        ApiError::Precondition(format!("coordinators {}: {why}", quoted(&to)))
                    }
                    TransferError::NotTaken(why) => ApiError::NotInTime(format!("coordinators {}: {why}", quoted(&to))),
                })
            }
        }
    }
}

/// Who is to take over. `known`: names on record.
fn successor(standing: &Standing, known: &[String], to: &str) -> Result<String, ApiError> {
    let refused = |what: String| Err(ApiError::Precondition(what));
    if to.is_empty() {
        let best = standing.following.iter().max_by_key(|(_, s)| s.rv);
        return match best {
            Some((name, _)) => Ok(name.clone()),
            None if known.len() <= 1 => refused(
                "coordinators: this is the only one; join another one first: wharf token create --role coordinator"
                    .into(),
            ),
            None => refused("coordinators: no standby follows; wharf cluster status shows which are missing".into()),
        };
    }
    if to == standing.name {
        return refused(format!("coordinators {}: leads already", quoted(to)));
    }
    if standing.following.contains_key(to) {
        return Ok(to.to_owned());
    }
    if known.iter().any(|k| k == to) {
        return refused(format!(
            "coordinators {}: does not follow; start it, or choose one that does: wharf cluster status",
            quoted(to)
        ));
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    Err(ApiError::Gone(format!(
        "coordinators {} not found{}",
        quoted(to),
        hint(to, &known)
    )))
}

fn seconds(time: Time) -> u64 {
    u64::try_from(time.0).unwrap_or(0)
}

/// Those on record and this one, by name.
fn replicas(world: &World, standing: &Standing) -> Vec<Replica> {
    let mut all: BTreeMap<String, Replica> = world
        .coordinators
        .iter()
        .map(|(name, record)| {
            let replica = Replica {
                name: name.clone(),
                address: record.value.address.clone(),
                enrol_address: record.value.enrol.clone(),
                version: record.value.version.clone(),
                ..Replica::default()
            };
            (name.clone(), replica)
        })
        .collect();
    let own = all.entry(standing.name.clone()).or_insert_with(|| Replica {
        name: standing.name.clone(),
        ..Replica::default()
    });
    if own.address.is_empty() {
        own.address.clone_from(&standing.address);
        own.enrol_address.clone_from(&standing.enrol);
    }
    for (name, replica) in &mut all {
        let role = if *name == standing.name {
            proto::VERSION.clone_into(&mut replica.version);
            replica.resource_version = world.rv.0;
            replica.since = standing.since.map_or(0, seconds);
            replica.nodes_heard = count(standing.heard);
            if standing.leads { Role::Active } else { Role::Standby }
        } else if let Some(standby) = standing.following.get(name) {
            replica.version.clone_from(&standby.version);
            replica.resource_version = standby.rv.0;
            replica.skew_ms = standby.skew_ms;
            replica.since = seconds(standby.since);
            replica.nodes_heard = count(standby.heard);
            Role::Standby
        } else if standing.leads {
            Role::Missing
        } else if *name == standing.leader {
            Role::Active
        } else {
            Role::Unknown
        };
        replica.set_role(role);
    }
    all.into_values().collect()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn store_to_wire(store: &StoreStatus) -> wire::StoreStatus {
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let (p50, p99) = store.write.unwrap_or_default();
    wire::StoreStatus {
        kind: store.kind.as_str().to_owned(),
        members: store.members.iter().map(etcd::to_wire).collect(),
        write_p50_us: micros(p50),
        write_p99_us: micros(p99),
        last_backup: store.last_backup.map_or(0, seconds),
        backup_every_ms: store
            .backup_every
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        quota: store.quota.unwrap_or(0),
        certificates: store
            .certificates
            .iter()
            .map(|(of, ends)| CertificateEnd {
                of: of.clone(),
                expires: seconds(*ends),
            })
            .collect(),
    }
}
