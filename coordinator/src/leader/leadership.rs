//! What the rest of the coordinator sees of leadership: whether it may answer from its own view, who leads, and the way
//! to ask for a hand-over. Made by `elector`, which alone changes it; read by `api`, `http` and `session`.
//!
//! Invariant: what was read before [`Leadership::confirm`] returned `Ok` misses no write that anybody had acknowledged
//! when it was read. So the order is: read, confirm, answer. The other way round a pause between the two would go
//! unnoticed.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use proto::model::Time;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::{clock::Clock, detector::Reason};
use crate::{
    store::{Rv, contest::Contest},
    world::hub::Hub,
};

/// What this process is to the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// It follows the store and whom it leads.
    #[default]
    Standby,
    /// It has begun a term, or tries to, and does not act yet.
    TakingOver,
    Active,
    /// It has stopped acting, and waits for its successor.
    HandingOver,
}

impl Role {
    /// For people and as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::TakingOver => "taking-over",
            Self::Active => "active",
            Self::HandingOver => "handing-over",
        }
    }
}

/// How this process last began to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    pub term: u64,
    pub reason: Reason,
    pub at: Time,
    /// From the last change that the former holder was seen to make to the first act under the new term; none where
    /// nobody was seen to lead.
    pub unled: Option<Duration>,
    /// From the decision to the first act.
    pub took: Duration,
}

/// For `wharf cluster status` and the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    /// Since when this process has that role.
    pub since: Option<Time>,
    /// Newest term known here; 0: none.
    pub term: u64,
    /// Name of the coordinator that began it; empty: none did.
    pub leader: String,
    /// Of this process.
    pub last: Option<Takeover>,
    /// Terms that this process began to act under.
    pub takeovers: u64,
    /// The store did not answer the last question.
    pub store_away: bool,
}

/// Why an answer from the own view would not be sound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Deposed {
    #[error("this coordinator does not lead{}; ask the one that does", led_by(.leader))]
    NotLeading { leader: String },
    #[error("the store does not say whether this coordinator still leads: {0}; ask again")]
    Unsure(String),
}

fn led_by(leader: &str) -> String {
    if leader.is_empty() {
        String::new()
    } else {
        format!(" ({leader} does)")
    }
}

/// A term that its holder is ready to lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// Name of the coordinator that is to take over.
    pub to: String,
    /// The term that ends.
    pub term: u64,
    /// Last version that was written under it.
    pub last: Rv,
}

/// The standbys that follow this process. Implemented by whoever serves their streams.
#[async_trait]
pub trait Standbys: Send + Sync + 'static {
    /// Name of the one that is to take over: the one asked for, else the one that lies behind least. An error says why
    /// none can, and what to do.
    async fn pick(&self, to: Option<&str>) -> Result<String, String>;

    /// Tells the one that it names; an error: nobody was told, or it is not known.
    async fn tell(&self, hand_over: HandOver) -> Result<(), String>;
}

/// Where there is one coordinator.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStandbys;

#[async_trait]
impl Standbys for NoStandbys {
    async fn pick(&self, _: Option<&str>) -> Result<String, String> {
        Err("no standby follows this coordinator; start another one first".into())
    }

    async fn tell(&self, hand_over: HandOver) -> Result<(), String> {
        Err(format!("coordinator {} does not follow this one", hand_over.to))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Name of the coordinator that leads now.
    pub to: String,
    pub term: u64,
    /// From the last act of this process to the begin of the new term, as seen here.
    pub took: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this coordinator does not lead{}; ask the one that does", led_by(.leader))]
    NotLeading { leader: String },
    #[error("{0}")]
    NoSuccessor(String),
    #[error("coordinator {to} did not take over within {} ms; this one leads again as soon as it can", .within.as_millis())]
    NotTaken { to: String, within: Duration },
    #[error("this coordinator is ending; ask the others")]
    Ending,
}

pub(super) struct Request {
    pub to: Option<String>,
    pub reply: oneshot::Sender<Result<Transferred, TransferError>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Leadership {
    hub: Arc<Hub>,
    contested: Option<Arc<Contested>>,
    standing: watch::Receiver<Standing>,
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leadership {:?}", *self.standing.borrow())
    }
}

/// What the elector and the handles share.
pub(super) struct Contested {
    contest: Arc<dyn Contest>,
    clock: Clock,
    /// A look that takes longer counts as failed.
    patience: Duration,
    /// Until then the own view may be read without a question; nanoseconds of the clock.
    readable: AtomicU64,
    /// The last look that found the term to be ours: which one, and when it was asked.
    found: Mutex<Option<(u64, Duration)>>,
    requests: mpsc::Sender<Request>,
}

impl Contested {
    pub(super) fn readable(&self, until: Duration) {
        let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.readable.store(nanos, Ordering::Release);
    }

    fn within_lease(&self, now: Duration) -> bool {
        now.as_nanos() < u128::from(self.readable.load(Ordering::Acquire))
    }
}

impl Leadership {
    /// Of a store that has one coordinator: whoever holds the fence leads, until the process ends.
    pub fn sole(hub: Arc<Hub>, standing: Standing) -> Self {
        Self {
            hub,
            contested: None,
            standing: watch::Sender::new(standing).subscribe(),
        }
    }

    pub(super) fn contested(
        hub: Arc<Hub>,
        contest: Arc<dyn Contest>,
        clock: Clock,
        patience: Duration,
        requests: mpsc::Sender<Request>,
        standing: watch::Receiver<Standing>,
    ) -> (Self, Arc<Contested>) {
        let contested = Arc::new(Contested {
            contest,
            clock,
            patience,
            readable: AtomicU64::new(0),
            found: Mutex::default(),
            requests,
        });
        let all = Self {
            hub,
            contested: Some(contested.clone()),
            standing,
        };
        (all, contested)
    }

    /// That what was read from the own view until now misses no acknowledged write. Asks the store only where the last
    /// beat is too old; many that ask at once share a question.
    pub async fn confirm(&self) -> Result<(), Deposed> {
        let Some(contested) = &self.contested else {
            return self.acting().map(drop);
        };
        let came = (contested.clock)();
        if contested.within_lease(came) {
            return Ok(());
        }
        let mut found = contested.found.lock().await;
        let fence = self.acting()?;
        // Somebody asked after we came, and holds for us too.
        if found.is_some_and(|(term, asked)| term == fence.term && asked > came) {
            return Ok(());
        }
        let asked = (contested.clock)();
        let look = match tokio::time::timeout(contested.patience, contested.contest.look()).await {
            Ok(Ok(look)) => look,
            Ok(Err(e)) => return Err(Deposed::Unsure(e.to_string())),
            Err(_) => {
                let within = contested.patience.as_millis();
                return Err(Deposed::Unsure(format!("no answer within {within} ms")));
            }
        };
        match look.term {
            Some((term, record)) if term == fence.term && record.nonce == *fence.nonce => {
                *found = Some((term, asked));
                Ok(())
            }
            other => Err(Deposed::NotLeading {
                leader: other.map(|(_, record)| record.coordinator).unwrap_or_default(),
            }),
        }
    }

    fn acting(&self) -> Result<Arc<crate::store::Fence>, Deposed> {
        self.hub
            .fence()
            .ok_or_else(|| Deposed::NotLeading { leader: self.leader() })
    }

    fn leader(&self) -> String {
        let standing = self.standing.borrow();
        match standing.role {
            Role::Standby => standing.leader.clone(),
            // Ours, or one that ends.
            Role::TakingOver | Role::Active | Role::HandingOver => String::new(),
        }
    }

    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// The standing as it changes.
    pub fn standings(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Hands the leadership over, to the coordinator named or to the one that lies behind least. Returns when the other
    /// one has begun its term. Dropped in between, it goes on all the same.
    pub async fn transfer(&self, to: Option<String>) -> Result<Transferred, TransferError> {
        let Some(contested) = &self.contested else {
            return Err(TransferError::NoSuccessor(
                "this cluster has one coordinator; see docs/high-availability.md for more".into(),
            ));
        };
        let (reply, answer) = oneshot::channel();
        let asked = contested.requests.send(Request { to, reply }).await;
        asked.map_err(|_| TransferError::Ending)?;
        answer.await.unwrap_or(Err(TransferError::Ending))
    }
}
