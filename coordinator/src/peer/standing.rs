//! How this coordinator, the others and their etcd are, for `wharf cluster`. Made by `serve` and [`super::wiring`], asked
//! by `api`.
//!
//! Invariant: what a member did not answer is never taken for a good answer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use proto::model::Time;

use super::{Own, service::Peers};
use crate::{
    api::{
        etcd::admin::{AdminError, Answer, Member, StoreAdmin, StoreKind, StoreStatus},
        replicas::{Leading, Standby, Standing, TransferError, Transferred},
    },
    backup::BackupRecord,
    leader::leadership::{self, Leadership, Role},
    session::Sessions,
    store::{
        ReadError,
        etcd::{EtcdStore, status::EtcdStatus},
    },
    world::{hub::Hub, settings},
};

/// One of several coordinators.
pub struct Contestant {
    pub own: Own,
    pub leadership: Arc<Leadership>,
    pub peers: Arc<Peers>,
    pub sessions: Arc<Sessions>,
}

#[async_trait]
impl Leading for Contestant {
    fn standing(&self) -> Standing {
        let now = self.leadership.standing();
        let leads = now.role == Role::Active;
        let last = now.last.filter(|_| leads);
        let following = if leads {
            self.peers.following()
        } else {
            Default::default()
        };
        Standing {
            name: self.own.name.clone(),
            address: self.own.address.clone(),
            enrol: self.own.enrol.clone(),
            leads,
            leader: if leads { self.own.name.clone() } else { now.leader },
            term: now.term,
            since: now.since,
            because: last.as_ref().map(|l| l.reason.as_str().to_owned()).unwrap_or_default(),
            took: last.map(|l| l.took).unwrap_or_default(),
            heard: self.sessions.heard().len(),
            following: following
                .into_iter()
                .map(|(name, f)| {
                    let standby = Standby {
                        version: f.version,
                        since: f.since,
                        rv: f.rv,
                        heard: f.heard,
                        skew_ms: f.skew_ms,
                    };
                    (name, standby)
                })
                .collect(),
        }
    }

    async fn transfer(&self, to: Option<&str>) -> Result<Transferred, TransferError> {
        let transferred = self.leadership.transfer(to.map(str::to_owned)).await;
        transferred
            .map(|t| Transferred {
                name: t.to,
                term: t.term,
            })
            .map_err(|e| match e {
                leadership::TransferError::NotTaken { .. } => TransferError::NotTaken(e.to_string()),
                _ => TransferError::Refused(e.to_string()),
            })
    }
}

/// How long small durable writes took, once measured: p50 and p99.
#[derive(Clone, Debug, Default)]
pub struct Writes(Arc<Mutex<Option<(Duration, Duration)>>>);

impl Writes {
    pub fn get(&self) -> Option<(Duration, Duration)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of so many of them, in any order.
    pub fn set(&self, mut took: Vec<Duration>) {
        took.sort_unstable();
        let at = |percent: usize| took.get((took.len().saturating_sub(1)) * percent / 100).copied();
        if let (Some(p50), Some(p99)) = (at(50), at(99)) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((p50, p99));
        }
    }
}

/// The etcd cluster.
pub struct EtcdAdmin {
    pub store: Arc<EtcdStore>,
    pub writes: Writes,
}

#[async_trait]
impl StoreAdmin for EtcdAdmin {
    async fn status(&self) -> StoreStatus {
        let status = self.store.status().await;
        StoreStatus {
            kind: StoreKind::Etcd,
            members: members(&status),
            quota: status.endpoints.iter().filter_map(|e| e.quota).min(),
            certificates: status.certificates,
            warnings: status.warnings,
            write: self.writes.get(),
            ..StoreStatus::default()
        }
    }

    async fn add_member(&self, peer_urls: &[String], learner: bool) -> Result<u64, AdminError> {
        let added = self.store.member_add(peer_urls.to_vec(), learner).await;
        added.map(|member| member.id).map_err(refused)
    }

    async fn promote_member(&self, id: u64) -> Result<(), AdminError> {
        self.store.member_promote(id).await.map_err(refused)
    }

    async fn update_member(&self, id: u64, peer_urls: &[String]) -> Result<(), AdminError> {
        self.store.member_update(id, peer_urls.to_vec()).await.map_err(refused)
    }

    async fn remove_member(&self, id: u64) -> Result<(), AdminError> {
        self.store.member_remove(id).await.map_err(refused)
    }

    async fn defrag(&self, id: u64) -> Result<(), AdminError> {
        let status = self.store.status().await;
        let Some(at) = status.endpoints.iter().find(|e| e.fault.is_none() && e.member_id == id) else {
            return Err(AdminError::Refused(format!("member {id:x} does not answer")));
        };
        self.store.defrag(&at.endpoint).await.map_err(refused)
    }
}

fn refused(error: ReadError) -> AdminError {
    match error {
        ReadError::Unavailable(why) => AdminError::Unknown(why),
        other => AdminError::Refused(other.to_string()),
    }
}

/// Etcd's own list with what each of them answered; where nobody has the list, the endpoints that we were told.
fn members(status: &EtcdStatus) -> Vec<Member> {
    let answer = |e: &crate::store::etcd::status::MemberStatus| match &e.fault {
        Some(fault) => Err(fault.clone()),
        None => Ok(Answer {
            version: e.version.clone(),
            leader: e.leader,
            size: e.db_size,
            in_use: e.db_size_in_use,
        }),
    };
    let alarms = |id: u64| {
        let of_it = status.alarms.iter().filter(|(of, _)| *of == id);
        of_it.map(|(_, alarm)| alarm.clone()).collect::<Vec<_>>()
    };
    if status.members.is_empty() {
        let told = status.endpoints.iter().map(|e| Member {
            id: e.member_id,
            name: String::new(),
            peer_urls: Vec::new(),
            client_urls: vec![e.endpoint.clone()],
            learner: e.learner,
            alarms: alarms(e.member_id),
            answer: answer(e),
        });
        return told.collect();
    }
    let of_list = status.members.iter().map(|m| {
        let by_id = status
            .endpoints
            .iter()
            .find(|e| e.fault.is_none() && e.member_id == m.id);
        let by_url = || status.endpoints.iter().find(|e| m.client_urls.contains(&e.endpoint));
        Member {
            id: m.id,
            name: m.name.clone(),
            peer_urls: m.peer_urls.clone(),
            client_urls: m.client_urls.clone(),
            learner: m.learner,
            alarms: alarms(m.id),
            answer: by_id.or_else(by_url).map_or_else(
                || Err("the coordinators were not told of it: add it to --etcd-endpoints".to_owned()),
                answer,
            ),
        }
    });
    of_list.collect()
}

/// What is true of any store beside its members: its backups.
pub struct Backed {
    pub inner: Arc<dyn StoreAdmin>,
    pub hub: Arc<Hub>,
}

#[async_trait]
impl StoreAdmin for Backed {
    async fn status(&self) -> StoreStatus {
        let last = BackupRecord::last(&**self.hub.store()).await.ok().flatten();
        let every = self.hub.read(|w| w.settings.get(&settings::BACKUP_EVERY));
        StoreStatus {
            last_backup: last.map(|b| Time::from_millis(b.at_ms)),
            backup_every: (every > 0).then(|| Duration::from_millis(every)),
            ..self.inner.status().await
        }
    }

    async fn add_member(&self, peer_urls: &[String], learner: bool) -> Result<u64, AdminError> {
        self.inner.add_member(peer_urls, learner).await
    }

    async fn promote_member(&self, id: u64) -> Result<(), AdminError> {
        self.inner.promote_member(id).await
    }

    async fn update_member(&self, id: u64, peer_urls: &[String]) -> Result<(), AdminError> {
        self.inner.update_member(id, peer_urls).await
    }

    async fn remove_member(&self, id: u64) -> Result<(), AdminError> {
        self.inner.remove_member(id).await
    }

    async fn defrag(&self, id: u64) -> Result<(), AdminError> {
        self.inner.defrag(id).await
    }
}
