//! From the decision to the first act: the compare-and-swap, and what a new term waits for. Called by the elector.
//!
//! Invariant: what comes out is a term that may act: the world includes it, so it was decided on nothing older; the mark
//! names it; and nobody reads under an older one any more.

use std::time::Duration;

use proto::model::Time;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Elector, ElectorError, Lead, Taken};
use crate::{
    leader::{
        detector::Reason,
        guard::GuardError,
        included,
        leadership::Takeover,
        lease::{Former, Lease},
    },
    store::{CommitError, Fence},
};

impl Elector {
    pub(super) async fn take_over(
        &mut self,
        over: Option<u64>,
        reason: Reason,
        former: Former,
        stopping: &CancellationToken,
    ) -> Result<Taken, ElectorError> {
        let sent = (self.parts.clock)();
        let attempt = self.parts.contest.take_over(over, &self.parts.claim);
        let fence = match timeout(self.parts.settings.attempt, attempt).await {
            Ok(Ok(fence)) => fence,
            Ok(Err(CommitError::Fenced { current, .. })) => {
                tracing::info!(term = current, "another coordinator was first");
                self.detector.lost();
                return Ok(Taken::Not);
            }
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "whether a term of ours has begun is unknown");
                self.detector.unresolved();
                return Ok(Taken::Not);
            }
            Err(_) => {
                tracing::warn!("whether a term of ours has begun is unknown: the store does not answer");
                self.detector.unresolved();
                return Ok(Taken::Not);
            }
        };
        self.detector.won();
        let claim = &self.parts.claim;
        self.standing.send_modify(|s| {
            s.term = fence.term;
            s.leader.clone_from(&claim.coordinator);
        });
        tracing::info!(term = fence.term, reason = reason.as_str(), "a term has begun");
        // Who is not ready by then would have to stop at once: let others try.
        let left = Lease::new(self.limits, sent)
            .ends_at()
            .saturating_sub((self.parts.clock)());
        let ready = tokio::select! {
            () = stopping.cancelled() => return Ok(Taken::Stop),
            ready = timeout(left, self.ready(&fence, former)) => ready,
        };
        match ready {
            Ok(Ok(())) => {}
            Ok(Err(e @ GuardError::Write { .. })) => {
                tracing::error!(error = %e, "this coordinator cannot lead");
                self.detector.given_up(&fence.nonce, false);
                return Ok(Taken::Not);
            }
            Ok(Err(e)) => return Err(e.into()),
            Err(_) => {
                tracing::warn!(
                    term = fence.term,
                    "this coordinator was not ready in time; others may lead"
                );
                self.detector.given_up(&fence.nonce, false);
                return Ok(Taken::Not);
            }
        }
        let now = (self.parts.clock)();
        let unled = match former {
            Former::Held { since, .. } => Some(now.saturating_sub(since)),
            Former::Released => None,
        };
        let takeover = Takeover {
            term: fence.term,
            reason,
            at: Time::now(),
            unled,
            took: now.saturating_sub(sent),
        };
        Ok(Taken::Lead(Lead { fence, sent, takeover }))
    }

    /// Returns once the term may act.
    async fn ready(&self, fence: &Fence, former: Former) -> Result<(), GuardError> {
        let parts = &self.parts;
        let answered = (parts.clock)();
        let world = async {
            included(&parts.hub, fence).await;
            parts.hub.read(|w| parts.marks.check(&fence.incarnation, w))?;
            parts.marks.record(fence, parts.hub.rv().revision()).await
        };
        let leases = async {
            let last = match former {
                Former::Released => None,
                // No older term can beat any more, so this is the last there was.
                Former::Held { .. } => match timeout(self.limits.read, parts.contest.look()).await {
                    Ok(Ok(look)) => Some(look.beat),
                    Ok(Err(_)) | Err(_) => None,
                },
            };
            let clear = former.clear_at(&self.limits, answered, last);
            wait_until(&parts.clock, clear).await;
        };
        let (served, ()) = tokio::join!(world, leases);
        served
    }
}

/// By this clock, which may go on where the timer stood still, never the other way round.
async fn wait_until(clock: &crate::leader::clock::Clock, moment: Duration) {
    loop {
        let left = moment.saturating_sub(clock());
        if left.is_zero() {
            return;
        }
        sleep(left).await;
    }
}
