//! One session from Hello to its end. A task each, spawned by `service`.
//!
//! Invariant: what is sent is computed when there is room to send it, so a slow agent costs no memory and gets
//! the newest state; the chain of assignments has no gap; the end is always said and always on record.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{Stream, StreamExt as _, future::BoxFuture};
use proto::{
    model::{EventType, Kind},
    wire::{self, Ack, Assignments, Down, Goodbye, Hello, Stop, Up, Welcome, down, goodbye::Reason, up},
};
use tokio::{sync::mpsc, time::Instant};
use tonic::Status;

use super::{
    Sessions,
    assignments::{self, Delta, Desired, Wanted},
    facts,
    hello::{self, Lineage},
    ingest::{self, Docker, FlushError, Flushed, Pending},
    liveness::Signal,
    notes,
    registry::{Handle, Kick},
    service::Outgoing,
};
use crate::{
    events::Note,
    store::{CommitError, Fence, Rv},
};

/// Most pods that an agent may speak of at once.
const MAX_OBSERVED: usize = 4096;

/// How a session ends.
enum End {
    /// The agent is gone.
    Closed,
    Goodbye(Reason, String),
    Refused(Status),
}

impl End {
    fn protocol(what: impl Into<String>) -> Self {
        Self::Goodbye(Reason::Protocol, what.into())
    }
}

/// Serves one stream of the agent of `node`.
pub async fn serve<S>(shared: Arc<Sessions>, node: String, mut inbound: S, out: Outgoing)
where
    S: Stream<Item = Result<Up, Status>> + Send + Unpin,
{
    let Outgoing { messages, last } = out;
    let end = match greet(&shared, &node, &mut inbound, &messages).await {
        Ok(mut session) => {
            let end = session.run(&mut inbound).await;
            session.finish().await;
            end
        }
        Err(end) => end,
    };
    drop(messages);
    let (reason, said) = match end {
        End::Closed => {
            tracing::info!(node, "the agent closed its session");
            ("closed", None)
        }
        End::Goodbye(reason, message) => {
            tracing::info!(node, reason = reason.as_str_name(), message, "session ended");
            let goodbye = down::Message::Goodbye(Goodbye {
                reason: reason.into(),
                message,
            });
            (reason.as_str_name(), Some(Ok(say(goodbye))))
        }
        End::Refused(status) => {
            tracing::warn!(node, reason = status.message(), "session refused");
            ("refused", Some(Err(status)))
        }
    };
    shared.metrics.session_ended(reason);
    if let Some(said) = said {
        // Nobody reads when the agent is gone.
        let _ = last.send(said);
    }
}

fn say(message: down::Message) -> Down {
    Down { message: Some(message) }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn wire_fence(fence: &Fence) -> wire::Fence {
    wire::Fence {
        incarnation: fence.incarnation.to_string(),
        term: fence.term,
        nonce: fence.nonce.to_string(),
    }
}

/// From the first message to the first assignments.
async fn greet<S>(
    shared: &Arc<Sessions>,
    node: &str,
    inbound: &mut S,
    messages: &mpsc::Sender<Down>,
) -> Result<Session, End>
where
    S: Stream<Item = Result<Up, Status>> + Send + Unpin,
{
    let settings = &shared.settings;
    let first = tokio::select! {
        first = tokio::time::timeout(settings.hello_timeout, inbound.next()) => first,
        () = shared.stopping.cancelled() => {
            return Err(End::Goodbye(Reason::Shutdown, "the coordinator stops; come back".into()));
        }
    };
    let hello = match first {
        Err(_) => {
            let within = humantime::format_duration(settings.hello_timeout);
            return Err(End::Refused(Status::deadline_exceeded(format!(
                "no Hello within {within}"
            ))));
        }
        Ok(None | Some(Err(_))) => return Err(End::Closed),
        Ok(Some(Ok(Up {
            message: Some(up::Message::Hello(hello)),
        }))) => hello,
        Ok(Some(Ok(_))) => return Err(End::protocol("the first message is not a Hello")),
    };
    let refuse = |what| End::Refused(Status::failed_precondition(what));
    hello::check_version(proto::VERSION, &hello.version).map_err(refuse)?;
    hello::check_clock(now_ms(), hello.clock_ms, settings.max_skew).map_err(refuse)?;
    if hello.observed.len() > MAX_OBSERVED {
        return Err(End::protocol(format!("a Hello with more than {MAX_OBSERVED} pods")));
    }
    let given = hello
        .facts
        .as_ref()
        .ok_or_else(|| End::protocol("a Hello without facts"))?;
    let facts = facts::record(given, &hello.capabilities).map_err(End::protocol)?;
    let fence = shared
        .hub
        .fence()
        .ok_or_else(|| End::Refused(Status::unavailable("this coordinator does not lead; retry later")))?;

    let (uid, lineage, known, ended) = shared.hub.read(|w| {
        let uid = w.nodes.get(node).map(|n| n.node.metadata.uid.clone());
        let (known, ended) = hello::term_of(w, hello.fence.as_ref());
        (uid, hello::lineage(w, &hello), known, ended)
    });
    let Some(uid) = uid else {
        let gone = format!("node {node} was deleted; let it join again with a new token");
        return Err(End::Refused(Status::permission_denied(gone)));
    };
    let welcome = Welcome {
        role: wire::welcome::Role::Active.into(),
        leader: settings.coordinators.first().cloned().unwrap_or_default(),
        coordinators: settings.coordinators.clone(),
        fence: Some(wire_fence(&fence)),
        heartbeat_ms: millis(settings.heartbeat),
        your_term_ended_at: ended.0,
        your_term_known: known,
        node: node.to_owned(),
        max_silence_ms: millis(settings.max_silence),
    };
    let welcome = say(down::Message::Welcome(welcome));
    if let Lineage::Broken(why) = lineage {
        messages.send(welcome).await.map_err(|_| End::Closed)?;
        let message = format!(
            "the agent of node {node} belongs to another history: {why}; put back the newer store, or restore this one as a new incarnation"
        );
        shared.recorder.note(Note {
            involved: notes::reference(Kind::Node, "", node, &uid),
            reason: "HistoryRefused".into(),
            message: message.clone(),
            kind: EventType::Warning,
            component: "session",
            host: String::new(),
            at: proto::model::Time::now(),
        });
        return Err(refuse(message));
    }

    let (handle, old) = shared
        .registry
        .open(node)
        .map_err(|full| End::Refused(Status::resource_exhausted(full.to_string())))?;
    let guard = Guard {
        shared: shared.clone(),
        handle: handle.clone(),
    };
    if let Some(old) = old {
        // What the old session still writes must not come after what this one knows.
        let _ = tokio::time::timeout(settings.stall, old.ended()).await;
    }
    if shared.stopping.is_cancelled() {
        handle.kick(Reason::Shutdown, "the coordinator stops; come back");
    }
    messages.send(welcome).await.map_err(|_| End::Closed)?;
    shared.metrics.sessions_opened.inc();
    tracing::info!(node, version = hello.version, epoch = hello.epoch, "session opened");

    let mut session = Session {
        shared: shared.clone(),
        handle,
        _guard: guard,
        out: messages.clone(),
        fence,
        epoch: hello.epoch,
        capabilities: hello.capabilities.clone(),
        proven: lineage == Lineage::Proven,
        sent: Desired::new(),
        revision: Rv(0),
        strays: BTreeMap::new(),
        pending: Pending::default(),
        inflight: None,
        docker: None,
        acked: 0,
        dirty: false,
        ack_due: false,
        wants_since: None,
        last_sent: Instant::now(),
    };
    session.pending.set_facts(facts);
    session.first(&hello, &lineage).await?;
    Ok(session)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Puts a session's end on record, however its task ends.
struct Guard {
    shared: Arc<Sessions>,
    handle: Arc<Handle>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.registry.close(&self.handle);
        self.shared.signal(Signal::Closed(self.handle.clone()));
        self.handle.end();
    }
}

struct Session {
    shared: Arc<Sessions>,
    handle: Arc<Handle>,
    _guard: Guard,
    out: mpsc::Sender<Down>,
    fence: Arc<Fence>,
    epoch: u64,
    capabilities: Vec<String>,
    /// What the agent runs beside its assignments is of this history.
    proven: bool,
    /// What the agent has been told, and at which version.
    sent: Desired,
    revision: Rv,
    /// Pods to stop that are not this node's, until the agent has seen their end.
    strays: BTreeMap<String, Stop>,
    pending: Pending,
    inflight: Option<BoxFuture<'static, Result<Flushed, FlushError>>>,
    /// As liveness knows it; `None`: the first facts are not durable yet.
    docker: Option<Docker>,
    acked: u64,
    dirty: bool,
    ack_due: bool,
    wants_since: Option<Instant>,
    last_sent: Instant,
}

impl Session {
    /// Answers the digest in Hello, then what the agent observes beyond its assignments.
    async fn first(&mut self, hello: &Hello, lineage: &Lineage) -> Result<(), End> {
        let node = self.handle.node.clone();
        let (revision, (wanted, missing), strays) = self.shared.hub.read(|w| {
            (
                w.rv,
                assignments::desired(w, &node, &Desired::new()),
                hello::strays(w, &node, hello, lineage),
            )
        });
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

    async fn run<S>(&mut self, inbound: &mut S) -> End
    where
        S: Stream<Item = Result<Up, Status>> + Send + Unpin,
    {
        let handle = self.handle.clone();
        let out = self.out.clone();
        let (stall, quiet) = (self.shared.settings.stall, self.shared.settings.max_silence / 3);
        let kicked = handle.kicked();
        tokio::pin!(kicked);
        loop {
            self.start_flush();
            let wants = self.dirty || self.ack_due;
            self.wants_since = wants.then(|| self.wants_since.unwrap_or_else(Instant::now));
            let stalled = self.wants_since.unwrap_or_else(Instant::now) + stall;
            let result = tokio::select! {
                biased;
                Kick { reason, message } = &mut kicked => Err(End::Goodbye(reason, message)),
                flushed = done(&mut self.inflight), if self.inflight.is_some() => {
                    self.inflight = None;
                    self.flushed(flushed)
                }
                permit = out.reserve(), if wants => match permit {
                    Ok(permit) => self.next().map(|message| {
                        self.wants_since = None;
                        if let Some(message) = message {
                            self.last_sent = Instant::now();
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
                () = tokio::time::sleep_until(self.last_sent + quiet), if !wants => {
                    self.ack_due = true;
                    Ok(())
                }
                message = inbound.next() => match message {
                    Some(Ok(message)) => self.heard(message),
                    None => Err(End::Closed),
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
    async fn finish(mut self) {
        if let Some(write) = self.inflight.take()
            && let Ok(Err(e)) = tokio::time::timeout(self.shared.settings.stall, write).await
        {
            tracing::debug!(node = self.handle.node, error = %e, "the last write of a session failed");
        }
    }

    /// The most urgent message, computed now.
    fn next(&mut self) -> Result<Option<Down>, End> {
        if std::mem::take(&mut self.dirty)
            && let Some(change) = self.change()?
        {
            return Ok(Some(change));
        }
        Ok(std::mem::take(&mut self.ack_due).then(|| say(down::Message::Ack(Ack { seq: self.acked }))))
    }

    fn change(&mut self) -> Result<Option<Down>, End> {
        let node = &self.handle.node;
        let (revision, newer, (mut wanted, missing)) = self.shared.hub.read(|w| {
            let newer = w.terms.last_key_value().is_some_and(|(t, _)| *t > self.fence.term);
            (w.rv, newer, assignments::desired(w, node, &self.sent))
        });
        if newer {
            return Err(End::Goodbye(Reason::Demoted, "another coordinator leads".into()));
        }
        self.handle.incomplete.store(missing, Ordering::Relaxed);
        for (uid, stop) in &self.strays {
            wanted.entry(uid.clone()).or_insert_with(|| Wanted::Stop(stop.clone()));
        }
        let delta = assignments::delta(&self.sent, &wanted);
        if delta.is_empty() {
            return Ok(None);
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
        match message.message {
            Some(up::Message::Heartbeat(_)) => Ok(()),
            Some(up::Message::Statuses(statuses)) => self.statuses(statuses),
            Some(up::Message::Facts(given)) => {
                let facts = facts::record(&given, &self.capabilities).map_err(End::protocol)?;
                self.pending.set_facts(facts);
                Ok(())
            }
            Some(up::Message::Events(events)) => {
                let skew = self.shared.settings.max_skew;
                let (notes, dropped) = self
                    .shared
                    .hub
                    .read(|w| notes::notes(w, &self.handle.node, &events, now_ms(), skew));
                self.shared.metrics.events_dropped.inc_by(dropped as u64);
                for note in notes {
                    self.shared.recorder.note(note);
                }
                Ok(())
            }
            Some(up::Message::Hello(_)) => Err(End::protocol("a second Hello")),
            None => Err(End::protocol("a message of a kind that this release does not know")),
        }
    }

    fn statuses(&mut self, message: wire::Statuses) -> Result<(), End> {
        let (seq, reports) = ingest::read(message, self.epoch).map_err(End::protocol)?;
        let foreign = self
            .shared
            .hub
            .read(|w| self.pending.accept(w, &self.handle.node, seq, reports));
        self.shared.metrics.statuses_ignored.inc_by(foreign.len() as u64);
        for pod in foreign {
            let record = &pod.report.record;
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
            Ok(Flushed { seq, docker }) => {
                if let Some(seq) = seq {
                    self.acked = self.acked.max(seq);
                    self.ack_due = true;
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
            Err(FlushError::Commit(e @ CommitError::Fenced { .. })) => {
                self.shared.fail(e);
                Err(End::Goodbye(Reason::Demoted, "another coordinator leads".into()))
            }
            Err(FlushError::Commit(e)) => {
                self.shared.fail(e);
                Err(End::Refused(Status::unavailable("the coordinator's store failed")))
            }
            Err(FlushError::Read(e)) => {
                self.shared.fail(CommitError::Io(e.to_string()));
                Err(End::Refused(Status::unavailable("the coordinator's store failed")))
            }
        }
    }
}

async fn done(write: &mut Option<BoxFuture<'static, Result<Flushed, FlushError>>>) -> Result<Flushed, FlushError> {
    match write {
        Some(write) => write.await,
        None => std::future::pending().await,
    }
}
