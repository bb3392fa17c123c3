//! What `/metrics` shows. Counters are raised where things happen; what the world says is counted when the page
//! is read.
//!
//! Invariant: no label's values grow with the fleet.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};
use proto::model::Phase;
use tokio::time::Instant;

use crate::{
    store::{Change, CommitError, Committed, Entry, Fence, ReadError, Rv, Snapshot, Span, Store, Watch},
    world::hub::Hub,
};

type Label = Vec<(&'static str, &'static str)>;

/// Counters and the page made of them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub sessions_opened: Counter,
    pub statuses_written: Counter,
    /// Statuses of pods that are not the reporting node's.
    pub statuses_ignored: Counter,
    pub events_dropped: Counter,
    sessions_ended: Family<Label, Counter>,
    assignments: Family<Label, Counter>,
    commits: Family<Label, Counter>,
    commit_seconds: Histogram,
    sessions: Gauge,
    nodes: Family<Label, Gauge>,
    quarantined: Gauge,
    pods: Family<Label, Gauge>,
    revision: Gauge,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut all = Registry::with_prefix("wharf");
        let new = Self {
            registry: Registry::default(),
            sessions_opened: Counter::default(),
            statuses_written: Counter::default(),
            statuses_ignored: Counter::default(),
            events_dropped: Counter::default(),
            sessions_ended: Family::default(),
            assignments: Family::default(),
            commits: Family::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            sessions: Gauge::default(),
            nodes: Family::default(),
            quarantined: Gauge::default(),
            pods: Family::default(),
            revision: Gauge::default(),
            leader: Gauge::default(),
        };
        let build = Info::new(vec![("version", proto::VERSION)]);
        all.register("build", "Release of the coordinator", build);
        all.register("sessions", "Agents connected now", new.sessions.clone());
        all.register("sessions_opened", "Sessions begun", new.sessions_opened.clone());
        all.register(
            "sessions_ended",
            "Sessions ended, by reason",
            new.sessions_ended.clone(),
        );
        all.register("assignments_sent", "Assignments sent, by kind", new.assignments.clone());
        all.register("statuses_written", "Pod statuses written", new.statuses_written.clone());
        all.register(
            "statuses_ignored",
            "Pod statuses from a node that the pod is not bound to",
            new.statuses_ignored.clone(),
        );
        all.register(
            "agent_events_dropped",
            "Agents' events dropped",
            new.events_dropped.clone(),
        );
        all.register("store_commits", "Commits, by result", new.commits.clone());
        all.register(
            "store_commit_seconds",
            "Time to make a commit durable",
            new.commit_seconds.clone(),
        );
        all.register(
            "store_revision",
            "Revision that the coordinator has seen",
            new.revision.clone(),
        );
        all.register("nodes", "Nodes, by Ready condition", new.nodes.clone());
        all.register(
            "nodes_quarantined",
            "Nodes of which two agents hold the identity",
            new.quarantined.clone(),
        );
        all.register("pods", "Pods, by phase", new.pods.clone());
        all.register("leader", "1 while this coordinator leads", new.leader.clone());
        Self { registry: all, ..new }
    }

    /// Counts the end of a session.
    pub fn session_ended(&self, reason: &'static str) {
        self.sessions_ended.get_or_create(&vec![("reason", reason)]).inc();
    }

    /// Counts a message of assignments.
    pub fn assignments_sent(&self, kind: &'static str) {
        self.assignments.get_or_create(&vec![("kind", kind)]).inc();
    }

    fn committed(&self, took: Duration, result: &Result<Committed, CommitError>) {
        let label = match result {
            Ok(_) => "ok",
            Err(CommitError::Conflict { .. }) => "conflict",
            Err(CommitError::Fenced { .. }) => "fenced",
            Err(CommitError::Full(_)) => "full",
            Err(CommitError::Unavailable(_)) => "unavailable",
            Err(CommitError::Unknown(_)) => "unknown",
            Err(_) => "failed",
        };
        self.commits.get_or_create(&vec![("result", label)]).inc();
        if result.is_ok() {
            self.commit_seconds.observe(took.as_secs_f64());
        }
    }

    /// The page, in OpenMetrics' text form.
    pub fn page(&self, hub: &Hub, sessions: usize) -> String {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let mut phases = [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed].map(|p| (p, 0_usize));
        let (ready, quarantined, total, rv) = hub.read(|w| {
            for pod in w.pods.values() {
                let phase = pod.phase();
                if let Some((_, n)) = phases.iter_mut().find(|(p, _)| *p == phase) {
                    *n += 1;
                }
            }
            let ready = w.nodes.values().filter(|n| n.is_ready()).count();
            let quarantined = w.nodes.values().filter(|n| n.rival().is_some()).count();
            (ready, quarantined, w.nodes.len(), w.rv)
        });
        for (phase, n) in phases {
            self.pods.get_or_create(&vec![("phase", phase.as_str())]).set(gauge(n));
        }
        for (label, n) in [("true", ready), ("false", total - ready)] {
            self.nodes.get_or_create(&vec![("ready", label)]).set(gauge(n));
        }
        self.quarantined.set(gauge(quarantined));
        self.sessions.set(gauge(sessions));
        self.revision.set(i64::try_from(rv.revision()).unwrap_or(i64::MAX));
        self.leader.set(i64::from(hub.fence().is_some()));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// A store whose commits are counted and timed.
pub struct Metered {
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
}

#[async_trait]
impl Store for Metered {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        self.store.load().await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.store.get(key).await
    }

    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        self.store.scan(span).await
    }

    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        self.store.watch(after).await
    }

    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        let begin = Instant::now();
        let result = self.store.commit(fence, changes).await;
        self.metrics.committed(begin.elapsed(), &result);
        result
    }

    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        self.store.take_term(incarnation, holder).await
    }

    fn newest(&self) -> Rv {
        self.store.newest()
    }
}
