//! A standby's one stream to the active coordinator. It tells that one what this replica hears and how far it is, and
//! tells `leader` by its own state whether the active one seems to live. Run by `serve`.
//!
//! Invariant: what it reports is a sign, never a proof: nothing but the contest in the store decides who leads.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use proto::wire::{FollowDown, FollowHello, FollowProgress, FollowUp, follow_down, follow_up, peer_client::PeerClient};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{DialError, Dialer, Leader, Own, leader_changed, refused};
use crate::{
    leader::{detector::Link, elector::LinkReport, leadership::HandOver},
    session::Sessions,
    store::Rv,
    world::hub::Hub,
};

/// No message for so long: the other end hangs. It beats every quarter of a second.
const SILENCE: Duration = Duration::from_secs(1);
/// Between two attempts. A refused connection costs nothing, and how soon the next one is refused tells how soon
/// the other end is gone.
const AGAIN: Duration = Duration::from_millis(100);
/// How often progress is told, at least.
const PROGRESS: Duration = Duration::from_millis(500);

pub struct Follower {
    pub hub: Arc<Hub>,
    pub dial: Dialer,
    pub own: Own,
    pub sessions: Arc<Sessions>,
    pub link: watch::Sender<Option<LinkReport>>,
    pub hand_overs: mpsc::Sender<HandOver>,
}

impl Follower {
    /// Follows whoever leads, until `stopping`.
    pub async fn run(self, stopping: CancellationToken) {
        tokio::select! {
            () = self.follow() => {}
            () = stopping.cancelled() => {}
        }
    }

    async fn follow(&self) {
        loop {
            let leader = self.hub.read(|w| Leader::of(w, &self.own.name));
            let Some(to) = leader.as_ref().filter(|_| self.hub.fence().is_none()) else {
                self.link.send_replace(None);
                leader_changed(&self.hub, leader.as_ref(), &self.own.name).await;
                continue;
            };
            tokio::select! {
                () = self.keep_up(to) => {}
                () = leader_changed(&self.hub, Some(to), &self.own.name) => {}
            }
        }
    }

    /// Stream after stream to the same one.
    async fn keep_up(&self, to: &Leader) {
        loop {
            let (link, since) = self.once(to).await;
            tracing::debug!(leader = to.name, address = to.address, ?link, "not following");
            self.is(to, link, since);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Since when it is so stays as it was, if it was so before.
    fn is(&self, to: &Leader, link: Link, since: Instant) {
        self.link.send_if_modified(|now| {
            let other = now.is_none_or(|now| now.link != link || now.term != to.term);
            if other {
                *now = Some(LinkReport {
                    term: to.term,
                    link,
                    since,
                });
            }
            other
        });
    }

    /// One stream's whole life; how it ended, and when, or of a silent one when it was last heard.
    async fn once(&self, to: &Leader) -> (Link, Instant) {
        let began = Instant::now();
        let dialing = tokio::time::timeout(SILENCE, self.dial.dial(&to.address));
        let channel = match dialing.await {
            Ok(Ok(channel)) => channel,
            Ok(Err(DialError::Refused)) => return (Link::Refused, Instant::now()),
            Ok(Err(DialError::Other(why))) => {
                tracing::debug!(
                    leader = to.name,
                    address = to.address,
                    why,
                    "the active coordinator cannot be reached"
                );
                return (Link::Silent, began);
            }
            Err(_) => return (Link::Silent, began),
        };
        let (up, messages) = mpsc::channel(4);
        let hello = follow_up::Message::Hello(FollowHello {
            version: proto::VERSION.to_owned(),
            address: self.own.address.clone(),
            enrol_address: self.own.enrol.clone(),
            clock_ms: crate::ca::system_clock()(),
        });
        // The queue is empty and has room.
        let _ = up.try_send(FollowUp { message: Some(hello) });
        let opening = async { PeerClient::new(channel).follow(ReceiverStream::new(messages)).await };
        let mut down = match tokio::time::timeout(SILENCE, opening).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return (ended(to, &status), Instant::now()),
            Err(_) => return (Link::Silent, began),
        };
        let mut heard_at = Instant::now();
        let mut progress = tokio::time::interval(PROGRESS);
        loop {
            tokio::select! {
                message = down.next() => {
                    heard_at = Instant::now();
                    match message {
                        Some(Ok(FollowDown { message: Some(follow_down::Message::HandOver(told)) })) => {
                            let hand_over = HandOver {
                                to: told.to,
                                term: told.term,
                                last: Rv(told.resource_version),
                            };
                            // Full: one is on its way already.
                            let _ = self.hand_overs.try_send(hand_over);
                        }
                        Some(Ok(_)) => self.is(to, Link::Up, heard_at),
                        Some(Err(status)) => return (ended(to, &status), heard_at),
                        None => return (Link::Reset, heard_at),
                    }
                }
                _ = progress.tick() => {
                    let progress = follow_up::Message::Progress(FollowProgress {
                        resource_version: self.hub.rv().0,
                        heard: self.sessions.heard().into_iter().collect(),
                    });
                    if let Err(mpsc::error::TrySendError::Closed(_)) = up.try_send(FollowUp { message: Some(progress) }) {
                        return (Link::Reset, Instant::now());
                    }
                }
                () = tokio::time::sleep_until(heard_at + SILENCE) => return (Link::Silent, heard_at),
            }
        }
    }
}

/// What an error of the stream says about the other end.
fn ended(to: &Leader, status: &Status) -> Link {
    match status.code() {
        // It answers, so it lives.
        Code::FailedPrecondition | Code::PermissionDenied | Code::InvalidArgument | Code::Unauthenticated => {
            tracing::warn!(
                leader = to.name,
                address = to.address,
                why = status.message(),
                "following is refused"
            );
            Link::Up
        }
        _ if refused(status) => Link::Refused,
        _ => Link::Reset,
    }
}
