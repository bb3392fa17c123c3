//! All sessions of this agent: which of them is the active coordinator's, and where the agent stands with each
//! coordinator. Asked by every session; seen from outside as [`Contact`].
//!
//! Invariant: at most one session is the active coordinator's, the one with the highest term that was accepted; who was
//! it before is woken and told nothing more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

use crate::{clock::wall_ms, metrics::Metrics};

/// What a coordinator is to this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Decides, and is believed.
    Active,
    /// Only hears.
    Standby,
}

/// Where the agent stands with one coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of its open session, if there is one.
    pub role: Option<Role>,
    /// When it last said something; 0: never in this run.
    pub last_ms: u64,
    /// Why the last session, or the last attempt, ended.
    pub last_error: String,
    /// Attempts that failed since a session was last open.
    pub failures: u32,
}

/// Where the agent stands with the coordinators; for `status`, `/metrics` and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// Address of the active coordinator's open session, or of another open one, if any.
    pub address: Option<String>,
    /// It is the active coordinator's, and it is believed.
    pub active: bool,
    /// When a coordinator last said something; 0: never in this run.
    pub last_ms: u64,
    /// When this agent last sent something that the active coordinator is known to have heard, by this agent's
    /// clock; 0: never in this run.
    pub heard_ms: u64,
    /// Why the last session ended.
    pub last_error: String,
    /// Why the coordinators keep this agent in quarantine, in their words; empty: they do not.
    pub quarantine: String,
    /// By address.
    pub coordinators: BTreeMap<String, Standing>,
}

impl Contact {
    /// Whether any session is open.
    pub fn open(&self) -> bool {
        self.coordinators.values().any(|c| c.role.is_some())
    }

    pub fn active_at(&self, address: &str) -> bool {
        self.active && self.address.as_deref() == Some(address)
    }

    /// Whether each of these was tried in vain, and no session is open.
    pub fn in_vain(&self, addresses: &[String]) -> bool {
        let failed = |a: &String| self.coordinators.get(a).is_some_and(|c| c.failures > 0);
        !self.open() && addresses.iter().all(failed)
    }
}

/// See the module's head.
pub struct Crew {
    inner: Mutex<Inner>,
    contact: Arc<watch::Sender<Contact>>,
    /// Where certificates are renewed: at the active coordinator, or at one that hands it on.
    channel: Arc<watch::Sender<Option<Channel>>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    sessions: BTreeMap<u64, Member>,
    /// Session and term.
    active: Option<(u64, u64)>,
}

struct Member {
    address: String,
    channel: Option<Channel>,
    welcomed: bool,
    lost: Arc<Notify>,
}

impl Crew {
    pub fn new(
        contact: Arc<watch::Sender<Contact>>,
        channel: Arc<watch::Sender<Option<Channel>>>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            contact,
            channel,
            metrics,
        })
    }

    pub fn contact(&self) -> watch::Receiver<Contact> {
        self.contact.subscribe()
    }

    /// A session about to be opened.
    pub(super) fn enter(self: &Arc<Self>, address: &str) -> Seat {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let lost = Arc::new(Notify::new());
        let member = Member {
            address: address.to_owned(),
            channel: None,
            welcomed: false,
            lost: lost.clone(),
        };
        inner.sessions.insert(id, member);
        Seat {
            crew: self.clone(),
            id,
            lost,
            address: address.to_owned(),
        }
    }

    /// What became of a session, or of an attempt at one.
    pub(super) fn ended(&self, address: &str, words: &str) {
        self.contact.send_modify(|c| {
            words.clone_into(&mut c.last_error);
            let standing = c.coordinators.entry(address.to_owned()).or_default();
            words.clone_into(&mut standing.last_error);
            standing.failures = standing.failures.saturating_add(1);
        });
    }

    /// Coordinators that are no more are not spoken of any more, unless a session is open.
    pub(super) fn only(&self, addresses: &[String]) {
        self.contact.send_if_modified(|c| {
            let before = c.coordinators.len();
            c.coordinators
                .retain(|address, standing| standing.role.is_some() || addresses.contains(address));
            before != c.coordinators.len()
        });
    }

    fn publish(&self, inner: &Inner) {
        let active = inner.active.and_then(|(id, _)| inner.sessions.get(&id));
        let any = active.or_else(|| inner.sessions.values().find(|m| m.welcomed));
        let (address, is_active) = (any.map(|m| m.address.clone()), active.is_some());
        let mut roles: BTreeMap<&str, Role> = BTreeMap::new();
        for member in inner.sessions.values().filter(|m| m.welcomed) {
            roles.entry(&member.address).or_insert(Role::Standby);
        }
        if let Some(active) = active {
            roles.insert(&active.address, Role::Active);
        }
        self.metrics.connected.set(i64::from(is_active));
        let mut renews = true;
        self.contact.send_modify(|c| {
            for (address, standing) in &mut c.coordinators {
                standing.role = roles.get(address.as_str()).copied();
            }
            for (address, role) in roles {
                let standing = c.coordinators.entry(address.to_owned()).or_default();
                standing.role = Some(role);
                standing.failures = 0;
            }
            c.address = address;
            c.active = is_active;
            // In quarantine no certificate is renewed.
            renews = c.quarantine.is_empty();
        });
        let channel = any.filter(|_| renews).and_then(|m| m.channel.clone());
        self.channel.send_replace(channel);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one session; it is given up by dropping it.
pub(super) struct Seat {
    crew: Arc<Crew>,
    id: u64,
    lost: Arc<Notify>,
    pub address: String,
}

impl Seat {
    /// The coordinator does not lead.
    pub fn stand_by(&self, channel: &Channel) {
        let mut inner = self.crew.lock();
        if inner.active.is_some_and(|(id, _)| id == self.id) {
            inner.active = None;
        }
        self.welcomed(&mut inner, channel);
    }

    /// The coordinator leads under `term`, which the ledger accepted. False: another one, of a later term, was accepted
    /// since.
    pub fn claim(&self, term: u64, channel: &Channel) -> bool {
        let mut inner = self.crew.lock();
        if inner.active.is_some_and(|(id, other)| id != self.id && other > term) {
            self.welcomed(&mut inner, channel);
            return false;
        }
        if let Some((before, _)) = inner.active.replace((self.id, term))
            && before != self.id
            && let Some(member) = inner.sessions.get(&before)
        {
            member.lost.notify_one();
        }
        self.welcomed(&mut inner, channel);
        true
    }

    fn welcomed(&self, inner: &mut Inner, channel: &Channel) {
        if let Some(member) = inner.sessions.get_mut(&self.id) {
            member.welcomed = true;
            member.channel = Some(channel.clone());
        }
        self.crew.publish(inner);
    }

    /// Whether this session is the active coordinator's.
    pub fn active(&self) -> bool {
        self.crew.lock().active.is_some_and(|(id, _)| id == self.id)
    }

    /// Whether the coordinator ever answered.
    pub fn was_welcomed(&self) -> bool {
        self.crew.lock().sessions.get(&self.id).is_some_and(|m| m.welcomed)
    }

    /// Resolves when another session has become the active coordinator's.
    pub fn lost(&self) -> Arc<Notify> {
        self.lost.clone()
    }

    /// The coordinator said something.
    pub fn spoke(&self) {
        let now = wall_ms();
        self.crew.contact.send_modify(|c| {
            c.last_ms = now;
            c.coordinators.entry(self.address.clone()).or_default().last_ms = now;
        });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.crew.lock();
        inner.sessions.remove(&self.id);
        if inner.active.is_some_and(|(id, _)| id == self.id) {
            inner.active = None;
        }
        self.crew.publish(&inner);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tonic::transport::Endpoint;

    use super::*;

    fn crew() -> (Arc<Crew>, watch::Receiver<Contact>, watch::Receiver<Option<Channel>>) {
        let (contact, channel) = (Arc::new(watch::Sender::default()), Arc::new(watch::Sender::default()));
        let (seen, renewals) = (contact.subscribe(), channel.subscribe());
        (Crew::new(contact, channel, Arc::new(Metrics::new())), seen, renewals)
    }

    fn channel() -> Channel {
        Endpoint::from_static("http://localhost").connect_lazy()
    }

    fn roles(contact: &Contact) -> Vec<(&str, Option<Role>)> {
        contact.coordinators.iter().map(|(a, s)| (a.as_str(), s.role)).collect()
    }

    #[tokio::test]
    async fn one_session_is_the_active_ones_and_the_later_term_is_it() {
        let (crew, seen, renewals) = crew();
        let (a, b) = (crew.enter("a:1"), crew.enter("b:1"));
        assert!(!seen.borrow().open() && renewals.borrow().is_none());
        assert!(a.claim(5, &channel()));
        b.stand_by(&channel());
        assert!(a.active() && !b.active() && seen.borrow().active_at("a:1"));
        assert!(b.claim(6, &channel()));
        assert!(!a.active() && b.active());
        assert!(a.lost().notified().now_or_never().is_some(), "it is woken");
        assert!(!a.claim(5, &channel()), "an earlier term does not come back");
        assert_eq!(
            roles(&seen.borrow()),
            [("a:1", Some(Role::Standby)), ("b:1", Some(Role::Active))]
        );
        drop(b);
        assert_eq!(roles(&seen.borrow()), [("a:1", Some(Role::Standby)), ("b:1", None)]);
        assert_eq!(seen.borrow().address.as_deref(), Some("a:1"));
        assert!(renewals.borrow().is_some(), "a standby hands a renewal on");
        drop(a);
        assert!(!seen.borrow().open() && renewals.borrow().is_none());
    }

    #[tokio::test]
    async fn in_vain_is_when_all_were_tried_and_none_is_open() {
        let (crew, seen, _) = crew();
        let all = vec!["a:1".to_owned(), "b:1".to_owned()];
        crew.ended("a:1", "refused");
        assert!(!seen.borrow().in_vain(&all));
        crew.ended("b:1", "refused");
        assert!(seen.borrow().in_vain(&all));
        let a = crew.enter("a:1");
        a.stand_by(&channel());
        assert!(!seen.borrow().in_vain(&all));
        drop(a);
        assert!(!seen.borrow().in_vain(&all), "it was there a moment ago");
        crew.ended("a:1", "lost");
        assert!(seen.borrow().in_vain(&all));
        crew.only(&["b:1".to_owned()]);
        assert_eq!(roles(&seen.borrow()), [("b:1", None)]);
    }
}
