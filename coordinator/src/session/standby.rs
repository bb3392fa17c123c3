//! A session while this coordinator does not lead: the agent is heard and told who leads, and nothing else. Called by
//! `turns`.
//!
//! Invariant: nothing is written to the store, nothing is assigned, and nothing that the agent reports is acknowledged:
//! it tells all of it to whoever leads.

use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use proto::wire::{self, Ack, Down, Hello, Quarantine, Up, Welcome, down, goodbye::Reason, up};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Status};

use super::{
    Sessions,
    greet::{End, Guard, claim, examine, millis, say, uid_of},
    holder::{self, Judged},
    registry::{Handle, Kick, Mode},
    router::{misplaced, retimed},
    service::Peer,
    told::Whereabouts,
};
use crate::world::{clone_words, record::HolderRecord};

/// A session that stands by, as far as it is kept between its turns.
pub struct Standing {
    pub guard: Guard,
    quarantine: Quarantine,
    quarantine_message: String,
}

/// What must hold before an agent is heard.
pub async fn open(shared: &Arc<Sessions>, peer: &Peer, hello: &Hello) -> Result<Standing, End> {
    let (facts, _) = examine(shared, hello)?;
    let uid = uid_of(shared, peer).await?;
    let node = peer.node.as_str();
    let (mode, quarantine, quarantine_message) = if peer.deleted {
        let words = format!("node {node} was deleted; the active coordinator says what is to be stopped here");
        (Mode::Standby(0), Quarantine::Deleted, words)
    } else {
        let claim = claim(peer, hello, &facts);
        let known = shared.hub.read(|w| w.nodes.get(node).and_then(|n| n.holder.clone()));
        let record: HolderRecord = known.as_ref().map(|k| (*k.value).clone()).unwrap_or_default();
        match holder::judge(known.as_ref().map(|k| &*k.value), &claim, proto::model::Time::now()) {
            Judged::Outdated => return Err(holder::outdated(node)),
            Judged::Holder | Judged::Next(_) => (Mode::Standby(0), Quarantine::Unspecified, String::new()),
            // It is for the active one to put it on record.
            Judged::Rival(_) => (Mode::Standby(2), Quarantine::Unspecified, String::new()),
            Judged::Quarantined => {
                let rival = record.rival.as_ref();
                let words = rival.map(|r| clone_words(node, &record.holder, r)).unwrap_or_default();
                let mode = Mode::Standby(holder::number(&record, &claim));
                (mode, Quarantine::Cloned, words)
            }
        }
    };
    let (handle, old) = shared
        .registry
        .open(node, &uid, mode)
        .map_err(|full| End::Refused(Status::resource_exhausted(full.to_string())))?;
    let guard = Guard::new(shared, handle.clone());
    let silence = shared.hub.read(|w| shared.settings.silence(&w.settings));
    handle.set_silence(silence);
    if let Some((reason, words)) = shared
        .hub
        .read(|w| misplaced(w, &handle).or_else(|| retimed(shared, w, &handle)))
    {
        handle.kick(reason, words);
    }
    if let Some(old) = old {
        let _ = tokio::time::timeout(shared.settings.stall, old.ended()).await;
    }
    if shared.stopping.is_cancelled() {
        handle.kick(Reason::Shutdown, "the coordinator stops; come back");
    }
    tracing::info!(
        node,
        version = hello.version,
        epoch = hello.epoch,
        "session opened, standing by"
    );
    Ok(Standing {
        guard,
        quarantine,
        quarantine_message,
    })
}

impl Standing {
    fn handle(&self) -> &Arc<Handle> {
        &self.guard.handle
    }

    fn welcome(&self, shared: &Sessions, (leader, coordinators): Whereabouts) -> Down {
        let heartbeat = shared.hub.read(|w| shared.settings.heartbeat(&w.settings));
        say(down::Message::Welcome(Welcome {
            role: wire::welcome::Role::Standby.into(),
            leader,
            coordinators,
            heartbeat_ms: millis(heartbeat),
            node: self.handle().node.clone(),
            max_silence_ms: millis(shared.settings.max_silence),
            quarantine: self.quarantine.into(),
            quarantine_message: self.quarantine_message.clone(),
            ..Welcome::default()
        }))
    }

    /// Hears the agent until this coordinator leads. `asked`: Hellos that were asked for and have not come.
    pub async fn wait<S>(
        &self,
        shared: &Sessions,
        inbound: &mut S,
        out: &mpsc::Sender<Down>,
        asked: &mut u32,
    ) -> Result<(), End>
    where
        S: Stream<Item = Result<Up, Status>> + Send + Unpin,
    {
        let (stall, quiet) = (shared.settings.stall, shared.settings.max_silence / 3);
        let mut fences = shared.hub.fences();
        let mut told: Option<Whereabouts> = None;
        let (mut news, mut ack_due) = (true, false);
        let (mut last, mut wants_since) = (Instant::now(), None);
        let kicked = self.handle().kicked();
        tokio::pin!(kicked);
        loop {
            if shared.leading().is_some() {
                return Ok(());
            }
            let wants = news || ack_due;
            wants_since = wants.then(|| wants_since.unwrap_or_else(Instant::now));
            let stalled = wants_since.unwrap_or_else(Instant::now) + stall;
            tokio::select! {
                biased;
                Kick { reason, message } = &mut kicked => return Err(End::Goodbye(reason, message)),
                // The sender lives in the hub.
                _ = fences.changed() => {}
                permit = out.reserve(), if wants => {
                    let Ok(permit) = permit else { return Err(End::Closed) };
                    wants_since = None;
                    let now = shared.hub.read(|w| shared.settings.told(w, false));
                    if std::mem::take(&mut news) && told.as_ref() != Some(&now) {
                        told = Some(now.clone());
                        permit.send(self.welcome(shared, now));
                        last = Instant::now();
                    } else if std::mem::take(&mut ack_due) {
                        // Nothing of what it heard is known to whoever leads, so it claims nothing.
                        permit.send(say(down::Message::Ack(Ack::default())));
                        last = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(stalled), if wants => {
                    return Err(End::Goodbye(Reason::Resync, "the agent does not read; start again".into()));
                }
                () = self.handle().retell.notified() => news = true,
                () = tokio::time::sleep_until(last + quiet), if !ack_due => ack_due = true,
                message = inbound.next() => {
                    if self.heard(message)?.is_some() {
                        *asked = asked.saturating_sub(1);
                    }
                }
            }
        }
    }

    /// Tells the agent that this coordinator leads, and hears until it has said Hello again; `None`: another one leads
    /// by now.
    pub async fn announce<S>(
        &self,
        shared: &Sessions,
        inbound: &mut S,
        out: &mpsc::Sender<Down>,
        asked: &mut u32,
    ) -> Result<Option<Hello>, End>
    where
        S: Stream<Item = Result<Up, Status>> + Send + Unpin,
    {
        let Some(fence) = shared.leading() else { return Ok(None) };
        let (whereabouts, heartbeat) = shared
            .hub
            .read(|w| (shared.settings.told(w, true), shared.settings.heartbeat(&w.settings)));
        let welcome = say(down::Message::Welcome(Welcome {
            role: wire::welcome::Role::Active.into(),
            leader: whereabouts.0,
            coordinators: whereabouts.1,
            fence: Some(super::greet::wire_fence(&fence)),
            heartbeat_ms: millis(heartbeat),
            node: self.handle().node.clone(),
            max_silence_ms: millis(shared.settings.max_silence),
            ..Welcome::default()
        }));
        let late = Instant::now() + shared.settings.hello_timeout;
        let slow = || End::Goodbye(Reason::Resync, "no Hello came after the take-over; start again".into());
        match tokio::time::timeout_at(late, out.send(welcome)).await {
            Ok(Ok(())) => *asked += 1,
            Ok(Err(_)) => return Err(End::Closed),
            Err(_) => return Err(slow()),
        }
        let mut fences = shared.hub.fences();
        let kicked = self.handle().kicked();
        tokio::pin!(kicked);
        loop {
            if shared.leading().is_none() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                Kick { reason, message } = &mut kicked => return Err(End::Goodbye(reason, message)),
                _ = fences.changed() => {}
                message = inbound.next() => {
                    let Some(hello) = self.heard(message)? else { continue };
                    *asked = asked.saturating_sub(1);
                    // One that an earlier take-over asked for may be older than what was assigned elsewhere since.
                    if *asked == 0 {
                        return Ok(Some(hello));
                    }
                }
                () = tokio::time::sleep_until(late) => return Err(slow()),
            }
        }
    }

    /// Takes in a message; a Hello is handed on.
    fn heard(&self, message: Option<Result<Up, Status>>) -> Result<Option<Hello>, End> {
        let message = match message {
            Some(Ok(up)) => up.message,
            None => return Err(End::Closed),
            Some(Err(status)) if status.code() == Code::Unauthenticated => return Err(End::Refused(status)),
            Some(Err(status)) => {
                let node = &self.handle().node;
                tracing::debug!(node, error = status.message(), "the session's stream failed");
                return Err(End::Closed);
            }
        };
        self.handle().hear(Instant::now());
        match message {
            Some(up::Message::Hello(hello)) => Ok(Some(hello)),
            Some(up::Message::Leaving(leaving)) => {
                if leaving.reason() == wire::leaving::Reason::Restart {
                    self.handle().set_leaving();
                }
                Ok(None)
            }
            Some(_) => Ok(None),
            None => Err(End::protocol("a message of a kind that this release does not know")),
        }
    }
}
