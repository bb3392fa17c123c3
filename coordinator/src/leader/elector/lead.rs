//! The active one: beats, its end, and the planned hand-over. Called by the elector.
//!
//! Invariant: the hub has the fence exactly while a value of [`Acting`] lives; it goes before anybody is told that
//! somebody else may lead.

use std::time::Duration;

use futures::{StreamExt as _, stream::FuturesUnordered};
use proto::model::Time;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Elector, Ended, Lead};
use crate::{
    leader::{
        leadership::{Contested, HandOver, Request, Role, TransferError, Transferred},
        lease::Lease,
    },
    store::{CommitError, Fence},
    world::hub::Hub,
};

/// Present while we act; takes the fence back when it goes, whatever ends the leadership.
struct Acting<'a> {
    hub: &'a Hub,
    shared: &'a Contested,
}

impl<'a> Acting<'a> {
    fn begin(hub: &'a Hub, shared: &'a Contested, fence: &Fence) -> Self {
        hub.set_fence(Some(fence.clone()));
        Self { hub, shared }
    }
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        self.hub.set_fence(None);
        self.shared.readable(Duration::ZERO);
    }
}

/// What became of a beat.
struct Beat {
    sent: Duration,
    /// The same moment, as the rest of the process knows it.
    at: Instant,
    result: Result<(), CommitError>,
    /// It was not written for want of room, and the term is ours all the same.
    held: bool,
}

impl Elector {
    pub(super) async fn lead(&mut self, lead: Lead, stopping: &CancellationToken) -> Ended {
        let Lead { fence, sent, takeover } = lead;
        let (hub, shared) = (self.parts.hub.clone(), self.shared.clone());
        let clock = self.parts.clock.clone();
        let mut lease = Lease::new(self.limits, sent);
        let acting = Acting::begin(&hub, &shared, &fence);
        shared.readable(lease.readable_until());
        self.standing.send_modify(|s| {
            s.role = Role::Active;
            s.since = Some(takeover.at);
            s.store_away = false;
            s.takeovers += 1;
            s.last = Some(takeover);
        });
        tracing::info!(
            term = fence.term,
            incarnation = %fence.incarnation,
            holder = self.parts.claim.holder,
            reason = takeover.reason.as_str(),
            took_ms = takeover.took.as_millis(),
            since = %takeover.at,
            "leading"
        );
        // Several may be under way: one that hangs must not hold up the next.
        let mut beats = FuturesUnordered::new();
        let mut tick = ticks(self.parts.settings.beat);
        loop {
            let left = lease.ends_at().saturating_sub(clock());
            if left.is_zero() {
                tracing::warn!(
                    term = fence.term,
                    "no beat was acknowledged for {} ms; this coordinator stops leading",
                    self.limits.demote.as_millis()
                );
                return Ended::GivenUp;
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Ended::Stop,
                Some(Beat { sent, at, result, held }) = beats.next() => match result {
                    Ok(()) => {
                        lease.acknowledged(sent);
                        (self.parts.led)(at);
                        shared.readable(lease.readable_until());
                        self.store_answers(true);
                    }
                    Err(CommitError::Fenced { .. }) => return Ended::Deposed,
                    // Who leads is who makes room.
                    Err(_) if held => lease.held(sent),
                    Err(e) => {
                        tracing::debug!(error = %e, "a beat failed");
                        self.store_answers(false);
                    }
                },
                _ = tick.tick() => beats.push(self.beat(&fence)),
                Some(Request { to, reply }) = self.requests.recv() => {
                    let name = match self.successor(to.as_deref()).await {
                        Ok(name) => name,
                        Err(why) => {
                            // Who asked may have gone.
                            let _ = reply.send(Err(TransferError::NoSuccessor(why)));
                            continue;
                        }
                    };
                    drop(acting);
                    let (ended, result) = self.hand_over(&fence, name, stopping).await;
                    let _ = reply.send(result);
                    return ended;
                }
                () = sleep(left) => {}
            }
        }
    }

    /// Who is to take over. No beat goes out meanwhile, so there is little time for it.
    async fn successor(&self, to: Option<&str>) -> Result<String, String> {
        let pick = self.parts.standbys.pick(to);
        timeout(self.parts.settings.beat, pick)
            .await
            .unwrap_or_else(|_| Err("the standbys that follow do not answer; ask again".into()))
    }

    fn store_answers(&self, answers: bool) {
        self.standing
            .send_if_modified(|s| std::mem::replace(&mut s.store_away, !answers) == answers);
    }

    /// One beat, on its way.
    fn beat(&self, fence: &Fence) -> impl Future<Output = Beat> + Send + use<> {
        let (contest, fence) = (self.parts.contest.clone(), fence.clone());
        // Whoever waits for longer has stopped leading.
        let patience = self.limits.demote;
        let (sent, at) = ((self.parts.clock)(), Instant::now());
        async move {
            let result = timeout(patience, contest.beat(&fence)).await;
            let result = result.unwrap_or_else(|_| Err(CommitError::Io("no answer in time".into())));
            let mut held = false;
            if let Err(CommitError::Full(_)) = &result
                && let Ok(Ok(look)) = timeout(patience, contest.look()).await
            {
                held = look
                    .term
                    .is_some_and(|(term, record)| term == fence.term && record.nonce == *fence.nonce);
            }
            Beat { sent, at, result, held }
        }
    }

    /// We act no more. Tells the successor, and holds the others off by beating on until it has begun its term. After
    /// this we act under a new term only: the successor may wait for no lease of this one.
    async fn hand_over(
        &mut self,
        fence: &Fence,
        to: String,
        stopping: &CancellationToken,
    ) -> (Ended, Result<Transferred, TransferError>) {
        let began = Instant::now();
        let within = self.parts.settings.hand_over;
        self.standing.send_modify(|s| {
            s.role = Role::HandingOver;
            s.since = Some(Time::now());
        });
        let hub = self.parts.hub.clone();
        let mut feed = hub.subscribe();
        // What is still under way after that is refused by the fence, and its caller asks again.
        if timeout(within, hub.quiet()).await.is_err() {
            tracing::warn!("commits are still under way at the hand-over");
        }
        let hand_over = HandOver {
            to: to.clone(),
            term: fence.term,
            last: hub.rv(),
        };
        tracing::info!(term = fence.term, to, "handing over");
        match timeout(within, self.parts.standbys.tell(hand_over)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return (Ended::GivenUp, Err(TransferError::NoSuccessor(why))),
            Err(_) => return (Ended::GivenUp, Err(TransferError::NotTaken { to, within })),
        }
        let mut beats = FuturesUnordered::new();
        let mut tick = ticks(self.parts.settings.beat);
        let mut patience = std::pin::pin!(sleep(within));
        let mut fenced = false;
        loop {
            // A refused beat says that somebody leads, and the world who.
            let newest = hub.read(|w| w.leader().map(|(term, record)| (term, record.coordinator.clone())));
            if let Some((term, leader)) = newest.filter(|(term, _)| *term > fence.term) {
                let took = began.elapsed();
                tracing::info!(term, leader, took_ms = took.as_millis(), "handed over");
                return (Ended::Deposed, Ok(Transferred { to: leader, term, took }));
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return (Ended::Stop, Err(TransferError::Ending)),
                batch = feed.recv() => if let Err(RecvError::Closed) = batch {
                    return (Ended::GivenUp, Err(TransferError::Ending));
                },
                Some(Beat { result, .. }) = beats.next() => fenced |= matches!(result, Err(CommitError::Fenced { .. })),
                _ = tick.tick(), if !fenced => beats.push(self.beat(fence)),
                () = &mut patience => {
                    tracing::warn!(term = fence.term, to, "the successor did not take over");
                    let ended = if fenced { Ended::Deposed } else { Ended::GivenUp };
                    return (ended, Err(TransferError::NotTaken { to, within }));
                }
            }
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    // Who stood still beats once, not once for each that it missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
