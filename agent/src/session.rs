//! One connection's whole life: Hello, Welcome, heartbeats, assignments in, statuses out. Called by
//! [`reconnect`], which chooses the coordinator and waits between sessions.
//!
//! Invariants: any error ends the whole session, and ending a session touches no container. Nothing is handed to
//! the worker before the ledger has it on disk. A coordinator that is not believed gets no status.

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

use self::pipes::Pipes;

use crate::{clock::wall_ms, disconnect::Beats, join::Connector, ledger::Saved, settings::ms, worker::Shared};

/// Assignments carry whole specs; a node's worth must fit.
const MAX_MESSAGE: usize = 64 << 20;
/// Statuses in one message, and events.
const BATCH: usize = 200;
/// Messages on their way out.
const OUTBOX: usize = 32;
/// When a coordinator names no period.
const DEFAULT_HEARTBEAT_MS: u32 = 2_000;

/// Where the agent stands with the coordinators; for `status`, `/metrics` and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// Address of the open session, if any.
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
}

/// What a session needs; the same for all of them.
#[derive(Clone)]
pub struct Links {
    pub worker: Arc<Shared>,
    /// Random for this start: tells two agents on copies of one data directory apart.
    pub instance: String,
    pub facts: watch::Receiver<Option<wire::NodeFacts>>,
    pub connector: watch::Receiver<Arc<dyn Connector>>,
    pub contact: Arc<watch::Sender<Contact>>,
    /// Open while the session is the active coordinator's.
    pub channel: Arc<watch::Sender<Option<Channel>>>,
    pub stop: CancellationToken,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A standby; the active one is elsewhere, perhaps there.
    Standby {
        leader: String,
    },
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
    Stopping,
}

/// Runs one session to its end.
pub async fn run(links: &mut Links, address: &str, channel: Channel) -> End {
    let ended = match Session::open(links, address, channel).await {
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

struct Session<'a> {
    links: &'a mut Links,
    address: &'a str,
    channel: Channel,
    pipes: Pipes,
    out: mpsc::Sender<wire::Up>,
    down: Streaming<wire::Down>,
    active: bool,
    /// It was a standby's session at first.
    was_standby: bool,
    heartbeat_ms: u32,
    max_silence_ms: u32,
    heard: Instant,
    /// When Hello was sent.
    hello_ms: u64,
    beats: Beats,
}

impl<'a> Session<'a> {
    /// Says Hello and opens the stream.
    async fn open(links: &'a mut Links, address: &'a str, channel: Channel) -> Result<Session<'a>, End> {
        let (out, outbox) = mpsc::channel(OUTBOX);
        let hello_ms = links.worker.clock.now_ms();
        let hello = hello(links);
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
        links.worker.reporter.resend_unacknowledged();
        let pipes = Pipes::new(links.worker.clone(), channel.clone());
        Ok(Session {
            links,
            address,
            pipes,
            channel,
            out,
            down,
            active: false,
            was_standby: false,
            heartbeat_ms: DEFAULT_HEARTBEAT_MS,
            max_silence_ms: 0,
            heard: Instant::now(),
            hello_ms,
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
        let result = self.talk().await;
        self.links.worker.metrics.connected.set(0);
        self.links.channel.send_replace(None);
        result
    }

    async fn talk(&mut self) -> Result<Never, End> {
        let settings = self.links.worker.settings.clone();
        let worker = self.links.worker.clone();
        let stop = self.links.stop.clone();
        let mut facts = self.links.facts.clone();
        let standby_until = Instant::now() + ms(settings.standby_wait_ms);
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
            let silence = self.silence_deadline();
            tokio::select! {
                () = stop.cancelled() => {
                    // A coordinator that does not take it hears nothing more, as when the agent is killed.
                    let _ = timeout(ms(settings.farewell_ms), self.farewell()).await;
                    return Err(End::Stopping);
                }
                message = self.down.message() => {
                    let message = self.heard(message)?;
                    self.take(message).await?;
                }
                _ = beat.tick() => {
                    let (epoch, seq) = worker.reporter.next_seq();
                    self.beats.sent(seq, worker.clock.now_ms());
                    self.send(up::Message::Heartbeat(wire::Heartbeat { epoch, seq })).await?;
                }
                () = worker.reporter.changed(), if self.active && gathered.is_none() => {
                    gathered = Some(Instant::now() + ms(settings.gather_ms));
                }
                () = until(gathered) => {
                    gathered = None;
                    self.send_statuses().await?;
                }
                () = worker.notes.changed(), if self.active => self.send_events().await?,
                Ok(()) = facts.changed() => {
                    let now = facts.borrow_and_update().clone();
                    if let Some(now) = now.filter(|_| self.active) {
                        self.send(up::Message::Facts(now)).await?;
                    }
                }
                changed = self.links.connector.changed() => {
                    return Err(if changed.is_ok() { End::Renewed } else { End::Stopping });
                }
                () = until(silence) => {
                    return Err(End::Lost(format!("the coordinator was silent for {} ms", self.max_silence_ms)));
                }
                () = sleep_until(standby_until), if !self.active => {
                    return Err(End::Standby { leader: String::new() });
                }
            }
        }
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
        self.links.contact.send_modify(|c| c.last_ms = wall_ms());
        message
            .message
            .ok_or_else(|| End::Lost("the coordinator sent an empty message".into()))
    }

    async fn take(&mut self, message: down::Message) -> Result<(), End> {
        match message {
            // A standby that takes over announces itself.
            down::Message::Welcome(welcome) => self.welcome(welcome).await,
            down::Message::Assignments(assignments) if self.active => self.assignments(assignments).await,
            down::Message::Assignments(_) => Err(End::Lost("a standby sent assignments".into())),
            down::Message::Ack(ack) => {
                self.links.worker.reporter.ack(ack.seq);
                if let Some(at) = self.beats.heard(ack.heard).filter(|_| self.active) {
                    self.was_heard(at);
                }
                self.send_statuses().await
            }
            down::Message::Goodbye(g) => Err(goodbye(g)),
            down::Message::OpenPipe(asked) => {
                self.pipes.open(asked);
                Ok(())
            }
            down::Message::Settings(settings) if self.active => {
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
        let keeper = &self.links.worker.keeper;
        match welcome.role() {
            welcome::Role::Active => {
                let term = welcome.fence.as_ref().map_or(0, |f| f.term);
                self.quarantine(&welcome);
                keeper.welcome(welcome).await.map_err(End::NotAccepted)?;
                if !self.active {
                    tracing::info!(coordinator = self.address, term, "session with the active coordinator");
                }
                self.active = true;
                if !self.was_standby {
                    self.was_heard(self.hello_ms);
                }
                self.links.worker.metrics.connected.set(1);
                // In quarantine no certificate is renewed.
                let renews = self.links.contact.borrow().quarantine.is_empty();
                let channel = renews.then(|| self.channel.clone());
                self.links.channel.send_replace(channel);
            }
            welcome::Role::Standby => {
                if !welcome.coordinators.is_empty() && welcome.coordinators != keeper.current().coordinators {
                    keeper
                        .coordinators(welcome.coordinators)
                        .await
                        .map_err(End::NotAccepted)?;
                }
                self.active = false;
                self.was_standby = true;
                self.links.channel.send_replace(None);
                self.links.worker.metrics.connected.set(0);
                if !welcome.leader.is_empty() && welcome.leader != self.address {
                    return Err(End::Standby { leader: welcome.leader });
                }
            }
            welcome::Role::Unspecified => return Err(End::Lost("a Welcome without a role".into())),
        }
        let (address, active) = (Some(self.address.to_owned()), self.active);
        self.links.contact.send_modify(|c| {
            c.address = address;
            c.active = active;
        });
        if self.active {
            if std::mem::take(&mut self.was_standby) {
                // Changes since Hello were not sent to the standby.
                let facts = self.links.facts.borrow().clone();
                if let Some(facts) = facts {
                    self.send(up::Message::Facts(facts)).await?;
                }
            }
            self.send_statuses().await?;
            self.send_events().await?;
        }
        Ok(())
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
        worker.keeper.assignments(assignments).await.map_err(End::NotAccepted)?;
        worker.accepted.send_replace(true);
        if anew {
            // Its picture of this node may be anything: tell all again.
            worker.reporter.resend_all();
        }
        Ok(())
    }

    async fn send_statuses(&mut self) -> Result<(), End> {
        while self.active {
            let Some(statuses) = self.links.worker.reporter.batch(BATCH) else {
                break;
            };
            self.send(up::Message::Statuses(statuses)).await?;
        }
        Ok(())
    }

    async fn send_events(&mut self) -> Result<(), End> {
        loop {
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

fn hello(links: &mut Links) -> wire::Hello {
    let ledger = links.worker.keeper.current();
    wire::Hello {
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
    }
}

#[cfg(test)]
mod quarantine_tests;
#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "session/session_tests.rs"]
mod tests;
