//! One session at work, from its Hello to its end or to that of this coordinator's turn to lead. Run by `turns`.
//!
//! Invariant: what is sent is computed when there is room to send it, so a slow agent costs no memory and gets
//! the newest state; the chain of assignments has no gap; the end is always said and always on record.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use futures::{Stream, StreamExt as _, future::BoxFuture};
use proto::wire::{self, Ack, AgentSettings, Assignments, Down, Hello, Stop, Up, down, goodbye::Reason, up};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Status};

use super::{
    Sessions,
    assignments::{self, Delta, Desired, Wanted},
    back::{self, Back},
    deleted, facts,
    greet::{End, Greeted, MAX_OBSERVED, millis, now_ms, say, wire_fence},
    hardware,
    hello::{self, Lineage},
    ingest::{self, Docker, FlushError, Flushed, Pending, Start},
    lease::Beats,
    liveness::Signal,
    notes::{self, Budget},
    orphans,
    registry::{Handle, Kick, Mode},
    settle,
    told::Whereabouts,
    turns::{demoted, store_failed},
};
use crate::{
    store::{Change, CommitError, Expect, Fence, ReadError, Rv, keys},
    world::World,
};

pub struct Session {
    shared: Arc<Sessions>,
    handle: Arc<Handle>,
    out: mpsc::Sender<Down>,
    fence: Arc<Fence>,
    start: Start,
    capabilities: Vec<String>,
    /// Nothing is told before it is known which pods the host still has.
    unsettled: bool,
    /// What the agent runs beside its assignments is of this history.
    proven: bool,
    /// What the agent has been told, and at which version.
    sent: Desired,
    revision: Rv,
    /// The settings that the agent has been told.
    told: AgentSettings,
    /// Likewise who leads, and where all coordinators are.
    whereabouts: Whereabouts,
    /// They may have changed.
    retell: bool,
    /// Pods to stop that are not this node's, until the agent has seen their end.
    strays: BTreeMap<String, Stop>,
    /// Orphans whose end was seen, and what the agent told of the others; to be put on record.
    ended: Vec<String>,
    described: Vec<wire::Run>,
    /// Of a deleted node.
    left: Option<deleted::Left>,
    /// Of a node that was confirmed off.
    back: Option<Back>,
    pending: Pending,
    inflight: Option<BoxFuture<'static, Result<Flushed, FlushError>>>,
    /// As liveness knows it; `None`: the first facts are not durable yet.
    docker: Option<Docker>,
    acked: u64,
    beats: Beats,
    /// Highest sequence of a heartbeat that the agent was told was heard.
    heard: u64,
    /// Events that the agent may still send.
    budget: Budget,
    dirty: bool,
    ack_due: bool,
    /// Pipes are to be asked for.
    asks: bool,
    wants_since: Option<Instant>,
    last_ack: Instant,
}

impl Session {
    pub fn new(shared: Arc<Sessions>, greeted: &Greeted, out: mpsc::Sender<Down>) -> Self {
        let mut pending = Pending::default();
        let mode = greeted.guard.handle.mode;
        if mode == Mode::Full {
            pending.set_facts(greeted.facts.clone(), greeted.hardware.clone());
        }
        Self {
            left: (mode == Mode::Deleted).then(|| deleted::Left::new(&greeted.hello, &greeted.facts)),
            back: greeted
                .guard
                .handle
                .returning
                .load(Ordering::Relaxed)
                .then(Back::default),
            budget: Budget::new(shared.settings.event_burst, shared.settings.event_every, Instant::now()),
            shared,
            handle: greeted.guard.handle.clone(),
            out,
            fence: greeted.fence.clone(),
            start: greeted.start,
            capabilities: greeted.hello.capabilities.clone(),
            unsettled: false,
            proven: greeted.lineage == Lineage::Proven,
            sent: Desired::new(),
            revision: Rv(0),
            told: greeted.settings,
            whereabouts: greeted.whereabouts.clone(),
            retell: false,
            strays: BTreeMap::new(),
            ended: Vec::new(),
            described: Vec::new(),
            pending,
            inflight: None,
            docker: None,
            acked: 0,
            beats: Beats::default(),
            heard: 0,
            dirty: false,
            ack_due: false,
            asks: false,
            wants_since: None,
            last_ack: Instant::now(),
        }
    }

    fn desired(&self, world: &World) -> (Desired, bool) {
        let (mut wanted, missing) = assignments::desired(world, &self.handle.node, &self.sent);
        for stop in orphans::stops(world, &self.handle.node) {
            wanted.entry(stop.uid.clone()).or_insert(Wanted::Stop(stop));
        }
        if self.left.is_some() || self.back.is_some() {
            wanted.retain(|_, entry| matches!(entry, Wanted::Stop(_)));
        }
        (wanted, missing)
    }

    /// Answers the digest in Hello, then what the agent observes beyond its assignments.
    pub async fn first(&mut self, hello: &Hello, lineage: &Lineage) -> Result<(), End> {
        // They may have changed before the router could find this session.
        self.retell = true;
        self.dirty |= self.shared.hub.read(assignments::agent_settings) != self.told;
        if self.handle.mode.is_mute() {
            return Ok(());
        }
        let node = self.handle.node.clone();
        if self.handle.mode == Mode::Full {
            self.unsettled = !settle::settle(&self.shared, &node, self.start, hello).await?;
            if self.unsettled {
                return Ok(());
            }
        }
        let (revision, newer, (mut wanted, missing), mut strays) = self.shared.hub.read(|w| {
            (
                w.rv,
                self.deposed(w),
                self.desired(w),
                hello::strays(w, &node, hello, lineage),
            )
        });
        if newer {
            return Err(self.demoted());
        }
        if self.back.is_some() {
            // Its ledger would start what was replaced: all of it is to stop with the first word, whether it runs or not.
            strays.stop_all(hello);
            for stop in &strays.stop {
                let entry = || Wanted::Stop(stop.clone());
                wanted.entry(stop.uid.clone()).or_insert_with(entry);
            }
        }
        let unchanged = hello.fence.is_some() && hello.digest == assignments::digest(&wanted);
        let (kind, applies_to, delta) = if unchanged {
            (wire::assignments::Kind::Unchanged, Rv(hello.revision), Delta::default())
        } else {
            (wire::assignments::Kind::Complete, Rv(0), assignments::complete(&wanted))
        };
        self.handle.incomplete.store(missing, Ordering::Relaxed);
        self.sent = wanted;
        self.revision = revision;
        let message = self.assignments(kind, applies_to, delta);
        self.out.send(message).await.map_err(|_| End::Closed)?;
        for uid in strays.forget {
            // Told and no longer wanted: the next change makes it forgotten.
            let entry = Wanted::Stop(hello::unknown(&uid, "", ""));
            self.sent.entry(uid).or_insert(entry);
            self.dirty = true;
        }
        for stop in strays.stop {
            self.strays.insert(stop.uid.clone(), stop);
            self.dirty = true;
        }
        Ok(())
    }

    fn assignments(&self, kind: wire::assignments::Kind, applies_to: Rv, delta: Delta) -> Down {
        self.shared.metrics.assignments_sent(kind.as_str_name());
        say(down::Message::Assignments(Assignments {
            kind: kind.into(),
            fence: Some(wire_fence(&self.fence)),
            applies_to: applies_to.0,
            results_in: self.revision.0,
            run: delta.run,
            stop: delta.stop,
            forget: delta.forget,
        }))
    }

    /// Whether this world has seen another leadership after this session's: nothing of it may be said under this
    /// fence, for an agent that accepted it would take every later leader's store for an older copy.
    fn deposed(&self, world: &World) -> bool {
        world.terms.last_key_value().is_some_and(|(t, _)| *t > self.fence.term)
    }

    /// How the session ends when another coordinator leads: where others stand by, this one does so from now on.
    fn demoted(&self) -> End {
        if self.shared.settings.contested {
            End::Turn
        } else {
            demoted()
        }
    }

    pub async fn run<S>(&mut self, inbound: &mut S) -> End
    where
        S: Stream<Item = Result<Up, Status>> + Send + Unpin,
    {
        let handle = self.handle.clone();
        let out = self.out.clone();
        let (stall, quiet) = (self.shared.settings.stall, self.shared.settings.max_silence / 3);
        let kicked = handle.kicked();
        tokio::pin!(kicked);
        let mut fences = self.shared.hub.fences();
        loop {
            if self.shared.settings.contested && self.shared.leading().is_none_or(|f| *f != *self.fence) {
                return End::Turn;
            }
            if let Some(end) = self.bury().await {
                return end;
            }
            if let Some(end) = self.take_back().await {
                return end;
            }
            if let Err(end) = self.note_orphans().await {
                return end;
            }
            self.start_flush();
            let wants = self.dirty || self.ack_due || self.asks || self.retell;
            self.wants_since = wants.then(|| self.wants_since.unwrap_or_else(Instant::now));
            let stalled = self.wants_since.unwrap_or_else(Instant::now) + stall;
            let result = tokio::select! {
                biased;
                Kick { reason, message } = &mut kicked => Err(End::Goodbye(reason, message)),
                // The sender lives in the hub.
                _ = fences.changed(), if self.shared.settings.contested => Ok(()),
                flushed = done(&mut self.inflight), if self.inflight.is_some() => {
                    self.inflight = None;
                    self.flushed(flushed)
                }
                permit = out.reserve(), if wants => match permit {
                    Ok(permit) => self.next().map(|message| {
                        self.wants_since = None;
                        if let Some(message) = message {
                            permit.send(message);
                        }
                    }),
                    Err(_) => Err(End::Closed),
                },
                () = tokio::time::sleep_until(stalled), if wants => {
                    Err(End::Goodbye(Reason::Resync, "the agent does not read; start again".into()))
                }
                () = handle.dirty.notified() => {
                    self.dirty = true;
                    Ok(())
                }
                () = handle.asked.notified() => {
                    self.asks = true;
                    Ok(())
                }
                () = handle.retell.notified() => {
                    self.retell = true;
                    Ok(())
                }
                () = tokio::time::sleep_until(self.last_ack + quiet), if !self.ack_due => {
                    self.ack_due = true;
                    Ok(())
                }
                message = inbound.next() => match message {
                    Some(Ok(message)) => self.heard(message),
                    None => Err(End::Closed),
                    // The certificate is no longer valid.
                    Some(Err(status)) if status.code() == Code::Unauthenticated => Err(End::Refused(status)),
                    Some(Err(status)) => {
                        tracing::debug!(node = handle.node, error = status.message(), "the session's stream failed");
                        Err(End::Closed)
                    }
                },
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    /// Lets the write under way come to its end: the node's next session waits for it.
    pub async fn finish(mut self) {
        if let Some(write) = self.inflight.take()
            && let Ok(Err(e)) = tokio::time::timeout(self.shared.settings.stall, write).await
        {
            tracing::debug!(node = self.handle.node, error = %e, "the last write of a session failed");
        }
    }

    /// Nothing is to be told or stored, and nothing was told whose end is not seen.
    fn at_rest(&self) -> bool {
        let told = !self.dirty && self.inflight.is_none() && self.pending.is_empty();
        told && self.sent.is_empty() && self.strays.is_empty()
    }

    /// Removes what is remembered of a deleted node once nothing of it is left.
    async fn bury(&mut self) -> Option<End> {
        if !(self.left.as_ref()?.is_nothing() && self.at_rest()) {
            return None;
        }
        let node = self.handle.node.clone();
        let tombstone = self.shared.hub.read(|w| {
            let empty = w.pods_on(&node).next().is_none();
            let found = w.tombstones.get(&node).filter(|t| t.value.uid == self.handle.uid);
            found.filter(|_| empty).map(|t| t.rv)
        })?;
        let changes = vec![
            Change::delete(keys::tombstone(&node), Expect::At(tombstone)),
            Change::delete(keys::cert(&node), Expect::Any),
        ];
        match self.shared.hub.commit(changes).await {
            Ok(_) => {
                let words = format!(
                    "node {node} was deleted and nothing of it is left here; remove this agent, or join again with a new token"
                );
                Some(End::Goodbye(Reason::Revoked, words))
            }
            // Its name was used again, or it was forgotten: the router ends this session.
            Err(CommitError::Conflict { .. }) => Some(End::Goodbye(Reason::Resync, "start again".into())),
            Err(e) if e.passes() => None,
            Err(e) => Some(store_failed(&self.shared, e)),
        }
    }

    /// Takes back that the node is off, once it has shown that nothing of before runs there.
    async fn take_back(&mut self) -> Option<End> {
        self.back.as_ref()?;
        if !(self.at_rest() && self.docker == Some(Ok(()))) {
            return None;
        }
        let node = self.handle.node.clone();
        let off = self.shared.hub.read(|w| back::nothing_awaited(w, &node))?;
        match self
            .shared
            .hub
            .commit(vec![Change::delete(keys::off(&node), Expect::At(off))])
            .await
        {
            Ok(_) => {
                tracing::info!(node, "the node was confirmed off and is back; it takes pods again");
                self.handle.returning.store(false, Ordering::Relaxed);
                self.back = None;
                // What stayed with its data runs on.
                self.dirty = true;
                None
            }
            Err(CommitError::Conflict { .. }) => Some(End::Goodbye(Reason::Resync, "start again".into())),
            Err(e) if e.passes() => None,
            Err(e) => Some(store_failed(&self.shared, e)),
        }
    }

    /// Puts on record what the agent said of orphans.
    async fn note_orphans(&mut self) -> Result<(), End> {
        let (ended, described) = (std::mem::take(&mut self.ended), std::mem::take(&mut self.described));
        if !ended.is_empty() {
            orphans::ended(&self.shared, &self.handle.node, &ended).await?;
        }
        if !described.is_empty() {
            orphans::describe(&self.shared, &self.handle.node, described).await?;
        }
        Ok(())
    }

    /// The most urgent message, computed now.
    fn next(&mut self) -> Result<Option<Down>, End> {
        if self.dirty
            && let Some(settings) = self.settings()
        {
            return Ok(Some(settings));
        }
        if std::mem::take(&mut self.dirty)
            && let Some(change) = self.change()?
        {
            return Ok(Some(change));
        }
        if std::mem::take(&mut self.retell)
            && let Some(welcome) = self.welcome()
        {
            return Ok(Some(welcome));
        }
        if self.asks {
            match self.handle.next_ask() {
                Some(open) => return Ok(Some(say(down::Message::OpenPipe(open)))),
                None => self.asks = false,
            }
        }
        Ok(std::mem::take(&mut self.ack_due).then(|| {
            self.last_ack = Instant::now();
            self.heard = self.known();
            let (seq, heard) = (self.acked, self.heard);
            say(down::Message::Ack(Ack { seq, heard }))
        }))
    }

    /// What the agent may be told was heard: no heartbeat that another coordinator, leading by then, does not know of,
    /// and none while the node is on record as lost, for by that record its pods are replaced.
    fn known(&mut self) -> u64 {
        let node = &self.handle.node;
        let lost = self
            .shared
            .hub
            .read(|w| w.nodes.get(node).is_some_and(|n| n.lost().is_some()));
        if lost {
            self.heard
        } else {
            self.beats.known(&self.shared.lease)
        }
    }

    /// What the agent has to be told of the coordinators, if anything: the fence stays what it was.
    fn welcome(&mut self) -> Option<Down> {
        let settings = &self.shared.settings;
        let now = self.shared.hub.read(|w| settings.told(w, true));
        let before = std::mem::replace(&mut self.whereabouts, now.clone());
        (before != now).then(|| {
            let (leader, coordinators) = now;
            say(down::Message::Welcome(wire::Welcome {
                role: wire::welcome::Role::Active.into(),
                leader,
                coordinators,
                fence: Some(wire_fence(&self.fence)),
                your_term_known: true,
                heartbeat_ms: millis(self.shared.hub.read(|w| settings.heartbeat(&w.settings))),
                node: self.handle.node.clone(),
                max_silence_ms: millis(settings.max_silence),
                settings: Some(self.told),
                ..wire::Welcome::default()
            }))
        })
    }

    /// What the agent has to be told of the cluster's settings, if anything.
    fn settings(&mut self) -> Option<Down> {
        if self.handle.mode == Mode::Restored {
            return None;
        }
        let now = self.shared.hub.read(assignments::agent_settings);
        let before = std::mem::replace(&mut self.told, now);
        (before != now).then(|| say(down::Message::Settings(now)))
    }

    fn change(&mut self) -> Result<Option<Down>, End> {
        let (revision, newer, (mut wanted, missing)) =
            self.shared.hub.read(|w| (w.rv, self.deposed(w), self.desired(w)));
        if newer {
            return Err(self.demoted());
        }
        if self.unsettled || self.handle.mode.is_mute() {
            return Ok(None);
        }
        self.handle.incomplete.store(missing, Ordering::Relaxed);
        if let Some(back) = &self.back {
            let unseen = back.unseen(&self.sent, &wanted);
            self.strays
                .extend(unseen.into_iter().map(|stop| (stop.uid.clone(), stop)));
        }
        for (uid, stop) in &self.strays {
            wanted.entry(uid.clone()).or_insert_with(|| Wanted::Stop(stop.clone()));
        }
        let delta = assignments::delta(&self.sent, &wanted);
        if delta.is_empty() {
            return Ok(None);
        }
        if let Some(left) = &mut self.left {
            left.forgot(&delta.forget);
        }
        let applies_to = std::mem::replace(&mut self.revision, revision);
        self.sent = wanted;
        Ok(Some(self.assignments(
            wire::assignments::Kind::Incremental,
            applies_to,
            delta,
        )))
    }

    fn heard(&mut self, message: Up) -> Result<(), End> {
        if self.handle.hear(Instant::now()) {
            self.shared.signal(Signal::Heard(self.handle.clone()));
        }
        let full = self.handle.mode == Mode::Full;
        match message.message {
            Some(up::Message::Heartbeat(beat)) => {
                self.beats.hear(beat.seq, Instant::now());
                // An agent that comes back wants to know early that it is not lost.
                self.ack_due |= full && self.heard == 0 && self.known() > 0;
                Ok(())
            }
            // Whose pods these are is not known while two claim them. Not acknowledged, they come again.
            Some(up::Message::Statuses(_)) if self.handle.mode.is_mute() => Ok(()),
            Some(up::Message::Facts(given)) if !full => {
                if let Some(left) = &mut self.left {
                    left.hear(&given);
                }
                Ok(())
            }
            Some(up::Message::Events(_) | up::Message::Unexpected(_)) if !full => Ok(()),
            Some(up::Message::Unexpected(unexpected)) => {
                if unexpected.pods.len() > MAX_OBSERVED {
                    return Err(End::protocol(format!("more than {MAX_OBSERVED} unexpected pods")));
                }
                self.described = unexpected.pods;
                Ok(())
            }
            Some(up::Message::Statuses(statuses)) => self.statuses(statuses),
            Some(up::Message::Facts(given)) if self.unsettled && given.docker_ready => Err(End::Goodbye(
                Reason::Resync,
                "Docker answers: start again, so that what this host still has is known".into(),
            )),
            Some(up::Message::Facts(given)) => {
                let facts = facts::record(&given, &self.capabilities).map_err(End::protocol)?;
                let hardware = hardware::record(given.inventory.as_ref()).map_err(End::protocol)?;
                self.pending.set_facts(facts, hardware);
                Ok(())
            }
            Some(up::Message::Events(events)) => {
                let most = self.budget.take(events.events.len(), Instant::now());
                let skew = self.shared.settings.max_skew;
                let (notes, dropped) = self
                    .shared
                    .hub
                    .read(|w| notes::notes(w, &self.handle.node, &events, most, now_ms(), skew));
                self.shared.metrics.events_dropped.inc_by(dropped as u64);
                for note in notes {
                    self.shared.recorder.note(note);
                }
                Ok(())
            }
            Some(up::Message::Leaving(leaving)) => {
                if leaving.reason() == wire::leaving::Reason::Restart {
                    self.handle.set_leaving();
                }
                Ok(())
            }
            Some(up::Message::Hello(_)) => Err(End::protocol("a second Hello")),
            None => Err(End::protocol("a message of a kind that this release does not know")),
        }
    }

    fn statuses(&mut self, message: wire::Statuses) -> Result<(), End> {
        let (seq, reports) = ingest::read(message, self.start).map_err(End::protocol)?;
        if let Some(back) = &mut self.back {
            for report in &reports {
                back.see(&report.record.uid, report.record.stopped);
            }
        }
        let foreign = self
            .shared
            .hub
            .read(|w| self.pending.accept(w, &self.handle.node, seq, reports));
        self.shared.metrics.statuses_ignored.inc_by(foreign.len() as u64);
        for pod in foreign {
            let record = &pod.report.record;
            let full = self.handle.mode == Mode::Full;
            if full && self.shared.hub.read(|w| w.is_orphan(&record.uid, &self.handle.node)) {
                if record.stopped {
                    self.ended.push(record.uid.clone());
                }
                continue;
            }
            if let Some(left) = &mut self.left {
                left.see(&record.uid, record.stopped);
            }
            if record.stopped {
                // Its end has been seen: the agent may forget it.
                self.dirty |= self.strays.remove(&record.uid).is_some();
            } else if self.proven && !pod.known && self.strays.len() < MAX_OBSERVED {
                let stop = hello::unknown(&record.uid, &pod.report.namespace, &pod.report.name);
                self.dirty |= self.strays.insert(record.uid.clone(), stop).is_none();
            }
        }
        Ok(())
    }

    fn start_flush(&mut self) {
        if self.inflight.is_none() && !self.pending.is_empty() {
            let (pending, shared, node) = (self.pending.take(), self.shared.clone(), self.handle.node.clone());
            self.inflight = Some(Box::pin(async move {
                ingest::flush(&shared.hub, &shared.metrics, &node, pending).await
            }));
        }
    }

    fn flushed(&mut self, flushed: Result<Flushed, FlushError>) -> Result<(), End> {
        match flushed {
            Ok(Flushed { seq, docker, hardware }) => {
                if let Some(seq) = seq {
                    self.acked = self.acked.max(seq);
                    self.ack_due = true;
                }
                if !hardware.is_empty() {
                    self.shared.recorder.note(hardware::note(&self.handle, &hardware));
                }
                if let Some(docker) = docker
                    && self.docker.as_ref() != Some(&docker)
                {
                    let handle = self.handle.clone();
                    let signal = match self.docker.replace(docker.clone()) {
                        None => Signal::Opened(handle, docker),
                        Some(_) => Signal::Docker(handle, docker),
                    };
                    self.shared.signal(signal);
                }
                Ok(())
            }
            Err(FlushError::Contended(what)) => Err(End::Goodbye(Reason::Resync, what)),
            Err(FlushError::Commit(e)) => Err(store_failed(&self.shared, e)),
            Err(FlushError::Read(ReadError::Unavailable(why))) => {
                Err(store_failed(&self.shared, CommitError::Unavailable(why)))
            }
            Err(FlushError::Read(e)) => Err(store_failed(&self.shared, CommitError::Io(e.to_string()))),
        }
    }
}

async fn done(write: &mut Option<BoxFuture<'static, Result<Flushed, FlushError>>>) -> Result<Flushed, FlushError> {
    match write {
        Some(write) => write.await,
        None => std::future::pending().await,
    }
}
