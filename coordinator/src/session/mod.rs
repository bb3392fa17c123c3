//! The coordinator's half of `Agent.Session`: who is connected, what each node should run, what agents report,
//! and which nodes are there. Started by `run`; `service` is what the listener serves.
//!
//! | file | what it is |
//! |---|---|
//! | `service` | the gRPC service; who calls comes from [`service::Callers`], never from a message |
//! | `greet`, `stream` | one session: its beginning, and the rest |
//! | `hello` | PURE: what a Hello must fulfil, lineage, pods that nobody knows |
//! | `holder` | which of two copies of one identity is the node's agent; quarantine |
//! | `deleted` | what is left of a deleted node on its host |
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
mod ingest;
pub mod liveness;
mod notes;
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
mod stream;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

use std::{sync::Arc, time::Duration};

use proto::wire::goodbye::Reason;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    events::Recorder,
    http::metrics::Metrics,
    store::CommitError,
    world::{hub::Hub, settings},
};
pub use hello::check_version;
use liveness::Signal;
use pipes::Pipes;
use pulse::Timing;
use registry::Registry;

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
    /// Session addresses (HOST:PORT) that agents are told, this coordinator's first.
    pub coordinators: Vec<String>,
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
    liveness: mpsc::UnboundedSender<Signal>,
    /// Where a session says that the store has failed.
    failed: mpsc::Sender<CommitError>,
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
            streams: Arc::new(Semaphore::new(settings.max_sessions.saturating_mul(2).min(1 << 20))),
            settings,
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
    /// Routes changes to sessions and keeps the nodes' conditions. Run it once leadership is held. It ends
    /// only with an error, and the process should then end.
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
            signals,
        );
        tokio::select! {
            result = liveness => result,
            () = router::run(&sessions) => Err(CommitError::Closed),
            error = failed.recv() => Err(error.unwrap_or(CommitError::Closed)),
        }
    }
}
