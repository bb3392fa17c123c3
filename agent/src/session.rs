//! One connection's whole life: Hello, Welcome, heartbeats, assignments in, statuses out. Called by
//! [`reconnect`], which keeps one to each coordinator and waits between sessions.
//!
//! A coordinator that stands by hears heartbeats and nothing else. When it takes over it says so, and is told Hello
//! anew: what this agent knows by then, another coordinator has told it.
//!
//! Invariants: any error ends the whole session, and ending a session touches no container. Nothing is handed to
//! the worker before the ledger has it on disk. A coordinator that is not believed gets no status.

mod crew;
mod lines;
mod pipes;
pub mod reconnect;

use std::sync::Arc;

use proto::{
    VERSION, capability,
    wire::{self, agent_client::AgentClient, down, goodbye, up, welcome},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};

use self::{crew::Seat, pipes::Pipes};
pub use crew::{Contact, Crew, Role, Standing};

use crate::{
    clock::wall_ms,
    disconnect::Beats,
    join::Connector,
    ledger::{Refusal, Said, Saved},
    settings::ms,
    worker::Shared,
};

/// Assignments carry whole specs; a node's worth must fit.
const MAX_MESSAGE: usize = 64 << 20;
/// Statuses in one message, and events.
const BATCH: usize = 200;
/// Messages on their way out.
const OUTBOX: usize = 32;
/// When a coordinator names no period.
const DEFAULT_HEARTBEAT_MS: u32 = 2_000;

/// What a session needs; the same for all of them.
#[derive(Clone)]
pub struct Links {
    pub worker: Arc<Shared>,
    /// Random for this start: tells two agents on copies of one data directory apart.
    pub instance: String,
    pub facts: watch::Receiver<Option<wire::NodeFacts>>,
    pub connector: watch::Receiver<Arc<dyn Connector>>,
    pub contact: Arc<watch::Sender<Contact>>,
    pub crew: Arc<Crew>,
    pub stop: CancellationToken,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Goodbye {
        reason: goodbye::Reason,
        message: String,
    },
    /// The coordinator was not believed, or the ledger could not be written.
    NotAccepted(Saved),
    /// The coordinator refused this agent.
    Denied(String),
    /// Connection or coordinator failed.
    Lost(String),
    /// No connection came about.
    Unreached(String),
    /// The certificate was renewed.
    Renewed,
    /// It is no coordinator of this cluster any more.
    Gone,
    Stopping,
}

/// Runs one session to its end.
async fn run(links: &mut Links, seat: &Seat, channel: Channel) -> End {
    let ended = match Session::open(links, seat, channel).await {
        Ok(session) => session.run().await,
        Err(end) => Err(end),
    };
    match ended {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// A session never ends well.
type Never = std::convert::Infallible;

fn failed(status: &Status) -> End {
    // A status with a source was made on this side: the connection failed.
    if let Some(source) = std::error::Error::source(status) {
        return End::Lost(proto::credentials::root_cause(source));
    }
    let words = status.message().to_owned();
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => End::Denied(words),
        code => End::Lost(format!("{code}: {words}")),
    }
}

/// What the coordinator is to this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It was told Hello and has not answered.
    Greeting {
        until: Instant,
    },
    Standby,
    Active,
    /// It takes itself for the active one, and a later term was accepted elsewhere.
    Deposed,
}

struct Session<'a> {
    links: &'a mut Links,
    seat: &'a Seat,
    channel: Channel,
    pipes: Pipes,
    out: mpsc::Sender<wire::Up>,
    down: Streaming<wire::Down>,
    stage: Stage,
    /// Of the last Hello.
    said: Said,
    /// Under which the coordinator was last believed.
    fence: Option<wire::Fence>,
    /// What runs here beside the assignments was told.
    told_unexpected: bool,
    heartbeat_ms: u32,
    max_silence_ms: u32,
    heard: Instant,
    beats: Beats,
}

impl<'a> Session<'a> {
    /// Says Hello and opens the stream.
    async fn open(links: &'a mut Links, seat: &'a Seat, channel: Channel) -> Result<Session<'a>, End> {
        let (out, outbox) = mpsc::channel(OUTBOX);
        let (hello, said) = hello(links);
        // The channel is new and empty.
        let _ = out.try_send(wire::Up {
            message: Some(up::Message::Hello(hello)),
        });
        let mut client = AgentClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let wait = ms(links.worker.settings.welcome_timeout_ms);
        let opened = tokio::select! {
            () = links.stop.cancelled() => return Err(End::Stopping),
            opened = timeout(wait, client.session(ReceiverStream::new(outbox))) => opened,
        };
        let down = match opened {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(failed(&status)),
            Err(_) => return Err(End::Lost("the coordinator does not answer".into())),
        };
        links.worker.metrics.sessions.inc();
        let pipes = Pipes::new(links.worker.clone(), channel.clone());
        Ok(Session {
            links,
            seat,
            pipes,
            channel,
            out,
            down,
            stage: Stage::Greeting {
                until: Instant::now() + wait,
            },
            said,
            fence: None,
            told_unexpected: false,
            heartbeat_ms: DEFAULT_HEARTBEAT_MS,
            max_silence_ms: 0,
            heard: Instant::now(),
            beats: Beats::default(),
        })
    }

    async fn run(mut self) -> Result<Never, End> {
        let wait = ms(self.links.worker.settings.welcome_timeout_ms);
        let stop = self.links.stop.clone();
        let first = tokio::select! {
            () = stop.cancelled() => return Err(End::Stopping),
            first = timeout(wait, self.down.message()) => first,
        };
        match first {
            Err(_) => return Err(End::Lost("no Welcome came".into())),
            Ok(message) => match self.heard(message)? {
                down::Message::Welcome(welcome) => self.welcome(welcome).await?,
                down::Message::Goodbye(g) => return Err(goodbye(g)),
                _ => return Err(End::Lost("the coordinator did not begin with Welcome".into())),
            },
        }
        self.talk().await
    }

    fn active(&self) -> bool {
        self.stage == Stage::Active && self.seat.active()
    }

    async fn talk(&mut self) -> Result<Never, End> {
        let settings = self.links.worker.settings.clone();
        let worker = self.links.worker.clone();
        let stop = self.links.stop.clone();
        let lost = self.seat.lost();
        let mut period = self.heartbeat_ms;
        let mut beat = heartbeat(period);
        // When the statuses that are being gathered go out. Assignments are taken meanwhile: a pod does not wait
        // for what is told of another one.
        let mut gathered: Option<Instant> = None;
        loop {
            if period != self.heartbeat_ms {
                period = self.heartbeat_ms;
                beat = heartbeat(period);
            }
            if self.stage == Stage::Active && !self.seat.active() {
                self.let_go(Stage::Deposed);
            }
            let active = self.stage == Stage::Active;
            let greeting = match self.stage {
                Stage::Greeting { until } => Some(until),
                _ => None,
            };
            let silence = self.silence_deadline();
            tokio::select! {
                () = stop.cancelled() => {
                    // A coordinator that does not take it hears nothing more, as when the agent is killed.
                    let _ = timeout(ms(settings.farewell_ms), self.farewell()).await;
                    return Err(End::Stopping);
                }
                // Looked at above.
                () = lost.notified() => {}
                message = self.down.message() => {
                    let message = self.heard(message)?;
                    self.take(message).await?;
                }
                _ = beat.tick() => self.beat().await?,
                () = worker.reporter.changed(), if active && gathered.is_none() => {
                    gathered = Some(Instant::now() + ms(settings.gather_ms));
                }
                () = until(gathered) => {
                    gathered = None;
                    self.send_statuses().await?;
                }
                () = worker.notes.changed(), if active => self.send_events().await?,
                Ok(()) = self.links.facts.changed(), if active => {
                    let now = self.links.facts.borrow_and_update().clone();
                    if let Some(now) = now {
                        self.send(up::Message::Facts(now)).await?;
                    }
                }
                changed = self.links.connector.changed() => {
                    return Err(if changed.is_ok() { End::Renewed } else { End::Stopping });
                }
                () = until(silence) => {
                    return Err(End::Lost(format!("the coordinator was silent for {} ms", self.max_silence_ms)));
                }
                () = until(greeting) => return Err(End::Lost("no Welcome came".into())),
            }
        }
    }

    async fn beat(&mut self) -> Result<(), End> {
        let worker = &self.links.worker;
        let (epoch, seq) = worker.reporter.next_seq();
        self.beats.sent(seq, worker.clock.now_ms());
        self.send(up::Message::Heartbeat(wire::Heartbeat { epoch, seq })).await
    }

    /// This session is the active coordinator's no more: what it did not acknowledge is for the next one.
    fn let_go(&mut self, stage: Stage) {
        if self.stage == Stage::Active {
            tracing::info!(coordinator = self.seat.address, "the coordinator leads no more");
            self.links.worker.reporter.resend_unacknowledged();
            self.links.worker.notes.nudge();
        }
        self.stage = stage;
    }

    /// What was sent at `at_ms` is known to have arrived.
    fn was_heard(&self, at_ms: u64) {
        self.links.contact.send_modify(|c| c.heard_ms = c.heard_ms.max(at_ms));
    }

    fn silence_deadline(&self) -> Option<Instant> {
        // One heartbeat for the way.
        (self.max_silence_ms > 0)
            .then(|| self.heard + ms(u64::from(self.max_silence_ms) + u64::from(self.heartbeat_ms)))
    }

    /// Unwraps what came, and notes that something did.
    fn heard(&mut self, message: Result<Option<wire::Down>, Status>) -> Result<down::Message, End> {
        let message = match message {
            Ok(Some(down)) => down,
            Ok(None) => return Err(End::Lost("the coordinator closed the session".into())),
            Err(status) => return Err(failed(&status)),
        };
        self.heard = Instant::now();
        self.seat.spoke();
        message
            .message
            .ok_or_else(|| End::Lost("the coordinator sent an empty message".into()))
    }

    async fn take(&mut self, message: down::Message) -> Result<(), End> {
        if self.stage == Stage::Active && !self.seat.active() {
            self.let_go(Stage::Deposed);
        }
        match message {
            down::Message::Welcome(welcome) => self.welcome(welcome).await,
            down::Message::Goodbye(g) => Err(goodbye(g)),
            down::Message::OpenPipe(asked) => {
                self.pipes.open(asked);
                Ok(())
            }
            // Nothing of what it says counts but that it gives up.
            _ if self.stage == Stage::Deposed => Ok(()),
            down::Message::Ack(ack) if self.active() => {
                self.links.worker.reporter.ack(ack.seq);
                if let Some(at) = self.beats.heard(ack.heard) {
                    self.was_heard(at);
                }
                self.send_statuses().await
            }
            // What a standby heard is known to nobody else.
            down::Message::Ack(_) => Ok(()),
            down::Message::Assignments(assignments) if self.active() => self.assignments(assignments).await,
            down::Message::Assignments(_) => Err(End::Lost("a standby sent assignments".into())),
            down::Message::Settings(settings) if self.active() => {
                let keeper = &self.links.worker.keeper;
                keeper.settings(settings).await.map_err(End::NotAccepted)
            }
            down::Message::Settings(_) => Err(End::Lost("a standby sent settings".into())),
        }
    }

    async fn welcome(&mut self, welcome: wire::Welcome) -> Result<(), End> {
        let ours = &self.links.worker.node;
        if !welcome.node.is_empty() && welcome.node != *ours {
            return Err(End::Denied(format!(
                "the coordinator knows this agent as node {:?}, not {ours:?}",
                welcome.node
            )));
        }
        if welcome.heartbeat_ms > 0 {
            self.heartbeat_ms = welcome.heartbeat_ms;
        }
        self.max_silence_ms = welcome.max_silence_ms;
        match (welcome.role(), self.stage) {
            (welcome::Role::Active, Stage::Greeting { .. }) => self.accept(welcome).await,
            (welcome::Role::Active, Stage::Active) if welcome.fence == self.fence => {
                self.learn(welcome.coordinators, String::new()).await
            }
            (welcome::Role::Active, Stage::Deposed) if welcome.fence == self.fence => Ok(()),
            (welcome::Role::Active, _) => self.taken_over(&welcome).await,
            (welcome::Role::Standby, _) => {
                self.let_go(Stage::Standby);
                self.seat.stand_by(&self.channel);
                // The active one knows better.
                if self.links.contact.borrow().active {
                    return Ok(());
                }
                self.learn(welcome.coordinators, welcome.leader).await
            }
            (welcome::Role::Unspecified, _) => Err(End::Lost("a Welcome without a role".into())),
        }
    }

    /// Believes the active coordinator, if the ledger does.
    async fn accept(&mut self, welcome: wire::Welcome) -> Result<(), End> {
        let worker = self.links.worker.clone();
        let term = welcome.fence.as_ref().map_or(0, |f| f.term);
        if welcome.quarantine() == wire::Quarantine::Restored {
            // Nothing is taken from it before an operator has accepted its state; then the session begins anew.
            self.quarantine(&welcome);
            self.stage = Stage::Standby;
            self.seat.stand_by(&self.channel);
            return Ok(());
        }
        worker
            .keeper
            .welcome(welcome.clone(), self.said.clone())
            .await
            .map_err(End::NotAccepted)?;
        self.fence.clone_from(&welcome.fence);
        self.quarantine(&welcome);
        if !self.seat.claim(term, &self.channel) {
            self.stage = Stage::Deposed;
            return Ok(());
        }
        self.stage = Stage::Active;
        tracing::info!(
            coordinator = self.seat.address,
            term,
            "session with the active coordinator"
        );
        worker.reporter.resend_unacknowledged();
        // So that it says early what it has heard.
        self.beat().await?;
        self.send_statuses().await?;
        self.send_events().await
    }

    /// The coordinator says that it leads from now on. It is told Hello again, for what is true now; whether it is
    /// believed is decided on its answer.
    async fn taken_over(&mut self, welcome: &wire::Welcome) -> Result<(), End> {
        let ledger = self.links.worker.keeper.current();
        if let (Some(ours), Some(theirs)) = (&ledger.fence, &welcome.fence)
            && theirs.incarnation == ours.incarnation
            && theirs.term < ours.term
        {
            return Err(End::NotAccepted(Saved::Refused(Refusal::OldTerm {
                ours: ours.term,
                theirs: theirs.term,
            })));
        }
        let (hello, said) = hello(self.links);
        self.said = said;
        self.let_go(Stage::Greeting {
            until: Instant::now() + ms(self.links.worker.settings.welcome_timeout_ms),
        });
        self.send(up::Message::Hello(hello)).await
    }

    /// Keeps where the coordinators are, if that is new.
    async fn learn(&self, mut coordinators: Vec<String>, leader: String) -> Result<(), End> {
        let keeper = &self.links.worker.keeper;
        let known = keeper.current();
        if coordinators.is_empty() {
            coordinators.clone_from(&known.coordinators);
        }
        if !leader.is_empty() && !coordinators.contains(&leader) {
            coordinators.push(leader);
        }
        if coordinators == known.coordinators {
            return Ok(());
        }
        keeper.coordinators(coordinators).await.map_err(End::NotAccepted)
    }

    /// Takes notice of a quarantine, or of its end.
    fn quarantine(&self, welcome: &wire::Welcome) {
        let words = match welcome.quarantine() {
            wire::Quarantine::Unspecified => String::new(),
            kind if welcome.quarantine_message.is_empty() => kind.as_str_name().to_owned(),
            _ => welcome.quarantine_message.clone(),
        };
        let before = self.links.contact.borrow().quarantine.clone();
        if words != before {
            if words.is_empty() {
                tracing::info!("this agent is out of quarantine");
            } else {
                tracing::error!("this agent is in quarantine, its containers keep running: {words}");
            }
        }
        self.links.worker.metrics.quarantined.set(i64::from(!words.is_empty()));
        self.links.contact.send_modify(|c| c.quarantine = words);
    }

    async fn assignments(&mut self, assignments: wire::Assignments) -> Result<(), End> {
        let anew = assignments.kind() == wire::assignments::Kind::Complete;
        let worker = self.links.worker.clone();
        let taken_in: Vec<String> = {
            let ledger = worker.keeper.current();
            let unexpected = |uid: &String| ledger.pods.get(uid).is_some_and(|p| p.unexpected);
            assignments
                .run
                .iter()
                .map(|r| r.uid.clone())
                .filter(unexpected)
                .collect()
        };
        match worker.keeper.assignments(assignments).await {
            Ok(()) => {}
            // A later term was accepted at this moment; another session is about to say so.
            Err(Saved::Refused(Refusal::OldTerm { .. })) => {
                self.let_go(Stage::Deposed);
                return Ok(());
            }
            Err(e) => return Err(End::NotAccepted(e)),
        }
        worker.accepted.send_replace(true);
        if !std::mem::replace(&mut self.told_unexpected, true) {
            let pods = worker.keeper.current().unexpected();
            if !pods.is_empty() {
                self.send(up::Message::Unexpected(wire::Unexpected { pods })).await?;
            }
        }
        if anew {
            // Its picture of this node may be anything: tell all again.
            worker.reporter.resend_all();
        } else if !taken_in.is_empty() {
            worker.reporter.resend_of(&taken_in);
        }
        Ok(())
    }

    async fn send_statuses(&mut self) -> Result<(), End> {
        while self.active() {
            let Some(statuses) = self.links.worker.reporter.batch(BATCH) else {
                return Ok(());
            };
            self.send(up::Message::Statuses(statuses)).await?;
        }
        // Whoever became the active one's meanwhile may have missed what was taken here.
        if self.stage == Stage::Active {
            self.let_go(Stage::Deposed);
        }
        Ok(())
    }

    async fn send_events(&mut self) -> Result<(), End> {
        loop {
            if !self.active() {
                self.links.worker.notes.nudge();
                return Ok(());
            }
            let events = self.links.worker.notes.take(BATCH);
            if events.is_empty() {
                return Ok(());
            }
            self.send(up::Message::Events(wire::Events { events })).await?;
        }
    }

    async fn send(&mut self, message: up::Message) -> Result<(), End> {
        let up = wire::Up { message: Some(message) };
        let wait = ms(self.links.worker.settings.send_timeout_ms);
        match timeout(wait, self.out.send(up)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.last_word().await),
            Err(_) => Err(End::Lost("the coordinator takes no messages".into())),
        }
    }

    /// Says that this agent stops and means to be back, after what is still to be told; then closes and waits until
    /// the coordinator has read it.
    async fn farewell(&mut self) -> Result<(), End> {
        self.send_statuses().await?;
        let reason = wire::leaving::Reason::Restart.into();
        self.send(up::Message::Leaving(wire::Leaving { reason })).await?;
        let (closed, _) = mpsc::channel(1);
        self.out = closed;
        while let Ok(Some(_)) = self.down.message().await {}
        Ok(())
    }

    /// How the coordinator ended the session: what it said lies unread when a message of ours finds the stream
    /// closed.
    async fn last_word(&mut self) -> End {
        let wait = ms(self.links.worker.settings.send_timeout_ms);
        let read = async {
            loop {
                match self.down.message().await {
                    Ok(Some(wire::Down {
                        message: Some(down::Message::Goodbye(g)),
                    })) => return goodbye(g),
                    Ok(Some(_)) => {}
                    Ok(None) => return End::Lost("the connection ended".into()),
                    Err(status) => return failed(&status),
                }
            }
        };
        timeout(wait, read)
            .await
            .unwrap_or_else(|_| End::Lost("the connection ended".into()))
    }
}

/// Never, without a moment.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn heartbeat(period_ms: u32) -> tokio::time::Interval {
    let period = ms(u64::from(period_ms.max(1)));
    let mut beat = interval_at(Instant::now() + period, period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

fn goodbye(goodbye: wire::Goodbye) -> End {
    End::Goodbye {
        reason: goodbye.reason(),
        message: goodbye.message,
    }
}

fn hello(links: &mut Links) -> (wire::Hello, Said) {
    let ledger = links.worker.keeper.current();
    let hello = wire::Hello {
        version: VERSION.into(),
        capabilities: capability::ALL.map(str::to_owned).to_vec(),
        fence: ledger.fence.as_ref().map(Into::into),
        revision: ledger.revision,
        digest: ledger.digest(),
        facts: links.facts.borrow_and_update().clone(),
        observed: links.worker.observed(),
        epoch: ledger.epoch,
        clock_ms: wall_ms(),
        instance: links.instance.clone(),
    };
    (hello, Said::of(&ledger))
}

#[cfg(test)]
mod coordinators_tests;
#[cfg(test)]
mod quarantine_tests;
#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "session/session_tests.rs"]
mod tests;
