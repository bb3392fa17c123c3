//! The life of one coordinator in the contest for leadership: it stands by, begins a term, acts, is deposed, and
//! stands by again. Started by `serve`; decides by `detector` and `lease`; everything else learns of it from the hub's
//! fence and from `leadership`.
//!
//! Invariant: the hub has the fence only while we act: not before the world includes the term, the mark names it and
//! every older read lease is over; and it loses the fence first when we stop, however we stop.

mod lead;
mod take;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use proto::model::Time;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, error::Elapsed, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    clock::Clock,
    detector::{Detector, Heard, Link, Reason, Verdict},
    guard::GuardError,
    leadership::{Contested, HandOver, Leadership, Request, Role, Standbys, Standing, Takeover, TransferError},
    lease::{Former, Limits},
    marks::Marks,
    settings::Settings,
};
use crate::{
    store::{
        Fence, ReadError,
        contest::{Claim, Contest, Look},
    },
    world::hub::Hub,
};

/// What the stream to the holder of a term is like, as whoever follows it says.
#[derive(Clone, Copy, Debug)]
pub struct LinkReport {
    pub term: u64,
    pub link: Link,
    /// Since when; of a silent one: when it was last heard.
    pub since: Instant,
}

/// What the elector works with.
pub struct Parts {
    /// [`Hub::run`] must be running.
    pub hub: Arc<Hub>,
    pub contest: Arc<dyn Contest>,
    pub claim: Claim,
    pub settings: Settings,
    pub clock: Clock,
    pub marks: Arc<Marks>,
    pub link: watch::Receiver<Option<LinkReport>>,
    /// What the active one says on the stream; for other coordinators too.
    pub hand_overs: mpsc::Receiver<HandOver>,
    pub standbys: Arc<dyn Standbys>,
    /// Told of each beat that was acknowledged, with when it was sent: this process led then.
    pub led: Arc<dyn Fn(Instant) + Send + Sync>,
}

/// Why a coordinator cannot take part any more; the process ends.
#[derive(Debug, thiserror::Error)]
pub enum ElectorError {
    #[error("{0}")]
    Guard(#[from] GuardError),
    #[error(
        "another process ({holder}) of coordinator {name} has taken term {term}: stop one of the two, or join one of them under a name of its own"
    )]
    Twin { name: String, holder: String, term: u64 },
}

pub struct Elector {
    parts: Parts,
    limits: Limits,
    detector: Detector,
    shared: Arc<Contested>,
    requests: mpsc::Receiver<Request>,
    standing: watch::Sender<Standing>,
}

/// What a standby goes on to.
enum Next {
    TakeOver {
        over: Option<u64>,
        reason: Reason,
        former: Former,
    },
    Stop,
}

/// A term that is ours.
struct Lead {
    fence: Fence,
    /// When the attempt that began it was sent.
    sent: Duration,
    takeover: Takeover,
}

/// How an attempt ended.
enum Taken {
    Lead(Lead),
    /// Back to standby.
    Not,
    Stop,
}

/// How a leadership ended.
enum Ended {
    Deposed,
    /// The term is still ours as far as we know.
    GivenUp,
    Stop,
}

impl Elector {
    pub fn new(parts: Parts) -> (Self, Leadership) {
        let (ask, requests) = mpsc::channel(1);
        let standing = watch::Sender::new(Standing {
            since: Some(Time::now()),
            ..Standing::default()
        });
        let (leadership, shared) = Leadership::contested(
            parts.hub.clone(),
            parts.contest.clone(),
            parts.clock.clone(),
            parts.settings.look,
            ask,
            standing.subscribe(),
        );
        let elector = Self {
            limits: parts.settings.limits(),
            detector: Detector::new(&parts.claim.coordinator, parts.settings.rules(&parts.claim.coordinator)),
            parts,
            shared,
            requests,
            standing,
        };
        (elector, leadership)
    }

    /// Takes part until `stopping`, or until this process may not any more. Dropped at any point, it leaves no fence.
    pub async fn run(mut self, stopping: CancellationToken) -> Result<(), ElectorError> {
        let incarnation = self.parts.claim.incarnation.clone();
        self.parts.hub.read(|w| self.parts.marks.check(&incarnation, w))?;
        loop {
            self.role(Role::Standby);
            let Next::TakeOver { over, reason, former } = self.stand_by(&stopping).await? else {
                return Ok(());
            };
            self.role(Role::TakingOver);
            let lead = match self.take_over(over, reason, former, &stopping).await? {
                Taken::Lead(lead) => lead,
                Taken::Not => continue,
                Taken::Stop => return Ok(()),
            };
            let (term, nonce) = (lead.fence.term, lead.fence.nonce.clone());
            let ended = self.lead(lead, &stopping).await;
            match ended {
                Ended::Deposed => {
                    tracing::warn!(term, "another coordinator has begun a term; standing by");
                    self.detector.lost();
                }
                Ended::GivenUp => self.detector.given_up(&nonce, true),
                Ended::Stop => return Ok(()),
            }
        }
    }

    fn role(&self, role: Role) {
        let (term, leader) = (self.detector.number(), self.detector.holder());
        self.standing.send_if_modified(|s| {
            let before = (s.role, s.term, s.leader.len());
            if s.role != role {
                s.since = Some(Time::now());
            }
            s.role = role;
            if let Some(term) = term.filter(|term| *term >= s.term) {
                s.term = term;
                leader.unwrap_or_default().clone_into(&mut s.leader);
            }
            before != (s.role, s.term, s.leader.len())
        });
    }

    /// Looks at the store until a term is to be begun.
    async fn stand_by(&mut self, stopping: &CancellationToken) -> Result<Next, ElectorError> {
        let clock = self.parts.clock.clone();
        let patience = self.parts.settings.look;
        // At most one at a time.
        let mut looks = FuturesUnordered::new();
        let mut next = Instant::now();
        let (mut link_open, mut hand_overs_open) = (true, true);
        self.hear();
        loop {
            match self.detector.verdict(clock()) {
                Verdict::Wait => {}
                Verdict::TakeOver { over, reason, former } => return Ok(Next::TakeOver { over, reason, former }),
                Verdict::Twin { term, holder } => {
                    let name = self.parts.claim.coordinator.clone();
                    return Err(ElectorError::Twin { name, holder, term });
                }
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Ok(Next::Stop),
                told = self.parts.hand_overs.recv(), if hand_overs_open => match told {
                    Some(told) if told.to == self.parts.claim.coordinator => {
                        tracing::info!(term = told.term, "the active coordinator hands over to this one");
                        self.detector.handed_over(told.term);
                    }
                    Some(_) => {}
                    None => hand_overs_open = false,
                },
                changed = self.parts.link.changed(), if link_open => {
                    link_open = changed.is_ok();
                    self.hear();
                    next = Instant::now();
                }
                Some((asked, looked)) = looks.next() => {
                    self.looked(asked, clock(), looked);
                    let settings = &self.parts.settings;
                    let pace = self.detector.pace(settings.poll, settings.poll_quick);
                    next = Instant::now() + (asked + pace).saturating_sub(clock());
                }
                () = sleep_until(next), if looks.is_empty() => {
                    let (asked, contest) = (clock(), self.parts.contest.clone());
                    looks.push(async move { (asked, timeout(patience, contest.look()).await) });
                }
                Some(request) = self.requests.recv() => {
                    let leader = self.detector.holder().unwrap_or_default().to_owned();
                    // Who asked may have gone.
                    let _ = request.reply.send(Err(TransferError::NotLeading { leader }));
                }
            }
        }
    }

    /// Passes on what is known of the stream to the active one.
    fn hear(&mut self) {
        let heard = self.parts.link.borrow_and_update().map(|report| Heard {
            term: report.term,
            link: report.link,
            since: (self.parts.clock)().saturating_sub(report.since.elapsed()),
        });
        self.detector.heard(heard.unwrap_or_default());
    }

    fn looked(&mut self, asked: Duration, answered: Duration, looked: Result<Result<Look, ReadError>, Elapsed>) {
        let problem = match looked {
            Ok(Ok(look)) => {
                self.detector.looked(asked, answered, look);
                None
            }
            Ok(Err(e)) => Some(e.to_string()),
            Err(_) => Some(format!(
                "the store did not answer within {} ms",
                self.parts.settings.look.as_millis()
            )),
        };
        let away = problem.is_some();
        if let Some(problem) = problem {
            self.detector.failed();
            if !self.standing.borrow().store_away {
                tracing::warn!(problem, "the store is away; nobody is deposed meanwhile");
            }
        }
        self.standing
            .send_if_modified(|s| std::mem::replace(&mut s.store_away, away) != away);
        self.role(Role::Standby);
    }
}

#[cfg(test)]
#[path = "../elector_tests.rs"]
mod tests;
