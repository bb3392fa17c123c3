//! The coordinator's half of `Agent.Session`: who is connected, what each node should run, what agents report,
//! and which nodes are there. Started by `run`; `service` is what the listener serves.
//!
//! | file | what it is |
//! |---|---|
//! | `service` | the gRPC service; who calls comes from [`service::Callers`], never from a message |
//! | `turns` | one stream of an agent: standing by, leading, standing by again |
//! | `greet`, `stream` | one session at work: its beginning, and the rest |
//! | `standby` | one session while another coordinator leads |
//! | `told` | PURE: what agents are told of the coordinators |
//! | `lease` | what an agent may be told was heard |
//! | `hello` | PURE: what a Hello must fulfil, lineage, pods that nobody knows |
//! | `holder` | which of two copies of one identity is the node's agent; quarantine |
//! | `deleted` | what is left of a deleted node on its host |
//! | `orphans` | pods that the restored state does not know |
//! | `settle` | which pods are over when a host joined again without its data |
//! | `back` | a node that was confirmed off and is heard again |
//! | `assignments` | PURE: what a node should run, and the change between two states |
//! | `ingest`, `facts`, `notes` | what agents report, checked, on its way to the store |
//! | `registry` | node → live session |
//! | `pipes` | streams of bytes beside the sessions |
//! | `router` | which session a change concerns |
//! | `liveness`, `pulse` | the nodes' Ready condition |
//!
//! Invariant: nothing reaches an agent that is not committed; nothing but a stop entry stops a pod; heartbeats
//! are not stored.

pub mod assignments;
mod back;
#[cfg(test)]
mod back_tests;
mod deleted;
mod facts;
mod greet;
mod hardware;
mod hello;
mod holder;
#[cfg(test)]
mod host_tests;
mod ingest;
mod lease;
pub mod liveness;
mod notes;
mod orphans;
#[cfg(test)]
mod period_tests;
pub mod pipes;
mod pulse;
#[cfg(test)]
mod quarantine_tests;
pub mod registry;
mod router;
pub mod service;
#[cfg(test)]
mod settings_tests;
mod settle;
mod standby;
#[cfg(test)]
mod standby_tests;
mod stream;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
mod told;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proto::wire::{Observed, goodbye::Reason};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    events::Recorder,
    http::metrics::Metrics,
    store::{CommitError, Fence},
    world::{hub::Hub, settings},
};
pub use hello::{check_version, release};
use lease::Lease;
use liveness::Signal;
use pipes::Pipes;
use pulse::Timing;
use registry::{Handle, Registry};

/// What of the configuration concerns sessions. Where the cluster's settings say otherwise, they hold.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Period of agents' heartbeats.
    pub heartbeat: Duration,
    /// So many missed heartbeats make a node unreachable.
    pub missed: u32,
    /// So long after its connection closed an agent is down.
    pub agent_down: Duration,
    /// A stream without Hello ends after this.
    pub hello_timeout: Duration,
    /// An agent that takes nothing for so long is made to start again.
    pub stall: Duration,
    /// Longest silence towards an agent.
    pub max_silence: Duration,
    /// How far an agent's clock may be off.
    pub max_skew: Duration,
    /// Most nodes connected at a time.
    pub max_sessions: usize,
    /// Events that an agent may send at once, and how long until it may send one more.
    pub event_burst: u32,
    pub event_every: Duration,
    /// Pipes open at a time, in all and of one node.
    pub max_pipes: usize,
    pub max_node_pipes: usize,
    /// An agent opens a pipe within this.
    pub pipe_open: Duration,
    /// Session addresses (HOST:PORT) that agents are told, this coordinator's first; where coordinators are on record,
    /// those are told instead.
    pub coordinators: Vec<String>,
    /// Other coordinators may take over: a term that was lost ends no session, and what agents are told was heard rests
    /// on [`Sessions::led_at`].
    pub contested: bool,
    /// Agents that are told of a take-over at once, and for how long each may keep another one waiting.
    pub takeovers: usize,
    pub takeover_hold: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            missed: 3,
            agent_down: Duration::from_secs(2),
            hello_timeout: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            max_silence: Duration::from_secs(15),
            max_skew: Duration::from_secs(300),
            max_sessions: 12_000,
            event_burst: 256,
            event_every: Duration::from_millis(100),
            max_pipes: 1024,
            max_node_pipes: 32,
            pipe_open: Duration::from_secs(10),
            coordinators: Vec::new(),
            contested: false,
            takeovers: 128,
            takeover_hold: Duration::from_millis(100),
        }
    }
}

impl Settings {
    /// The period of heartbeats that holds.
    pub fn heartbeat(&self, set: &settings::Settings) -> Duration {
        given(set, &settings::HEARTBEAT).unwrap_or(self.heartbeat)
    }

    /// Likewise the longest silence of a node that is there.
    pub fn silence(&self, set: &settings::Settings) -> Duration {
        self.heartbeat(set) * self.missed
    }

    fn timing(&self, set: &settings::Settings) -> Timing {
        Timing {
            silence: self.silence(set),
            agent_down: given(set, &settings::AGENT_DOWN_AFTER).unwrap_or(self.agent_down),
            restart: set.time(&settings::AGENT_RESTART),
        }
    }
}

fn given(set: &settings::Settings, setting: &settings::Setting) -> Option<Duration> {
    set.given(setting).map(Duration::from_millis)
}

/// All sessions of this process, and what they share.
pub struct Sessions {
    hub: Arc<Hub>,
    registry: Registry,
    pipes: Arc<Pipes>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    settings: Settings,
    /// What agents said that they run, while a restore awaits an operator's word; by node.
    found: Mutex<BTreeMap<String, Vec<Observed>>>,
    liveness: mpsc::UnboundedSender<Signal>,
    /// Where a session says that the store has failed.
    failed: mpsc::Sender<CommitError>,
    lease: Lease,
    /// Highest term that this process held and that the store said is over.
    lost: AtomicU64,
    /// Places among the agents that are told of a take-over at once.
    takeovers: Arc<Semaphore>,
    /// Changes with the nodes that are heard here.
    heard: watch::Sender<u64>,
    /// Streams, with and without Hello; more than sessions, since a node's new one overlaps its old one.
    streams: Arc<Semaphore>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// What [`Driver::run`] needs; made by [`Sessions::new`].
pub struct Driver {
    sessions: Arc<Sessions>,
    signals: mpsc::UnboundedReceiver<Signal>,
    failed: mpsc::Receiver<CommitError>,
}

impl Sessions {
    /// Sessions are served from now on; they are kept up to date while the driver runs.
    pub fn new(hub: Arc<Hub>, recorder: Recorder, metrics: Arc<Metrics>, settings: Settings) -> (Arc<Self>, Driver) {
        let (liveness, signals) = mpsc::unbounded_channel();
        let (failed_tx, failed) = mpsc::channel(1);
        let sessions = Arc::new(Self {
            hub,
            registry: Registry::new(settings.max_sessions),
            pipes: Pipes::new(settings.max_pipes, settings.max_node_pipes, settings.pipe_open),
            recorder,
            metrics,
            lease: Lease::new(settings.contested),
            lost: AtomicU64::new(0),
            takeovers: Arc::new(Semaphore::new(settings.takeovers.max(1))),
            heard: watch::Sender::new(0),
            streams: Arc::new(Semaphore::new(settings.max_sessions.saturating_mul(2).min(1 << 20))),
            settings,
            found: Mutex::default(),
            liveness,
            failed: failed_tx,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        let driver = Driver {
            sessions: sessions.clone(),
            signals,
            failed,
        };
        (sessions, driver)
    }

    /// The live sessions.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What agents said that they run, while a restore awaits an operator's word; by node.
    pub fn found(&self) -> BTreeMap<String, Vec<Observed>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Streams of bytes beside the sessions.
    pub fn pipes(&self) -> &Arc<Pipes> {
        &self.pipes
    }

    /// Ends the session of `node`, if there is one: its certificate was revoked or its node deleted.
    pub fn revoke(&self, node: &str, message: &str) {
        if let Some(handle) = self.registry.get(node) {
            handle.kick(Reason::Revoked, message);
        }
    }

    /// Says goodbye to every agent and waits until the sessions have ended, at most `within`. End the driver
    /// first: agents that are sent away are not down.
    pub async fn shutdown(&self, within: Duration) {
        self.stopping.cancel();
        for handle in self.registry.all() {
            handle.kick(Reason::Shutdown, "the coordinator stops; come back");
        }
        self.tasks.close();
        if tokio::time::timeout(within, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.registry.len(), "some sessions did not end in time");
        }
    }

    /// The fence under which this coordinator leads; `None`: it stands by, whether it knows why or not.
    fn leading(&self) -> Option<Arc<Fence>> {
        let fence = self.hub.fence()?;
        if !self.settings.contested {
            return Some(fence);
        }
        let newer = self.hub.read(|w| w.leader().is_some_and(|(term, _)| term > fence.term));
        (!newer && fence.term > self.lost.load(Ordering::Relaxed)).then_some(fence)
    }

    /// The store said that this term of ours is over.
    fn lost_term(&self, term: u64) {
        self.lost.fetch_max(term, Ordering::Relaxed);
    }

    /// This coordinator led at `at`: said by whoever keeps the leadership of a contested store, after each write under the
    /// fence that the store took, with the moment at which it began.
    pub fn led_at(&self, at: Instant) {
        self.lease.led_at(at);
    }

    /// Names of the nodes that are heard here, whether this coordinator leads or not.
    pub fn heard(&self) -> BTreeSet<String> {
        let now = Instant::now();
        let silence = self.hub.read(|w| self.settings.silence(&w.settings));
        let recent = |h: &Handle| now.saturating_duration_since(h.last_heard()) <= silence.max(h.silence());
        self.registry.nodes(recent)
    }

    /// Changes when [`Sessions::heard`] may have changed but by silence.
    pub fn heard_changes(&self) -> watch::Receiver<u64> {
        self.heard.subscribe()
    }

    fn heard_changed(&self) {
        self.heard.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Which nodes the coordinator `peer` hears, all of them; `None`: it is gone. A node that any coordinator hears is not
    /// lost.
    pub fn heard_elsewhere(&self, peer: &str, names: Option<BTreeSet<String>>) {
        self.signal(Signal::Elsewhere(peer.to_owned(), names));
    }

    /// Tells liveness; while the coordinator stops there is nobody to tell.
    fn signal(&self, signal: Signal) {
        let _ = self.liveness.send(signal);
    }

    /// Says that the store has failed; the first word counts.
    fn fail(&self, error: CommitError) {
        let _ = self.failed.try_send(error);
    }
}

impl Driver {
    /// Routes changes to sessions, and keeps the nodes' conditions while this coordinator leads. It ends only with an error,
    /// and the process should then end.
    pub async fn run(self) -> Result<(), CommitError> {
        let Self {
            sessions,
            signals,
            mut failed,
        } = self;
        let liveness = liveness::run(
            sessions.hub.clone(),
            sessions.recorder.clone(),
            sessions.settings.clone(),
            |node: &str| sessions.registry.last_heard(node),
            signals,
        );
        tokio::select! {
            result = liveness => result,
            () = router::run(&sessions) => Err(CommitError::Closed),
            error = failed.recv() => Err(error.unwrap_or(CommitError::Closed)),
        }
    }
}
