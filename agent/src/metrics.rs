//! Numbers for `/metrics`. Written by worker and session, read by [`crate::http`].

use std::sync::Mutex;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::step::{Action, Outcome};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action: &'static str,
    result: &'static str,
}

pub struct Metrics {
    registry: Mutex<Registry>,
    actions: Family<ActionLabels, Counter>,
    /// Pods in the ledger.
    pub pods: Gauge,
    pub engine_up: Gauge,
    /// 1 while a session with the active coordinator is open.
    pub connected: Gauge,
    /// 1 while the coordinators keep this agent in quarantine.
    pub quarantined: Gauge,
    pub sessions: Counter,
    pub refusals: Counter,
}

impl Metrics {
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("wharf_agent")),
            actions: Family::default(),
            pods: Gauge::default(),
            engine_up: Gauge::default(),
            connected: Gauge::default(),
            quarantined: Gauge::default(),
            sessions: Counter::default(),
            refusals: Counter::default(),
        };
        if let Ok(mut registry) = metrics.registry.lock() {
            registry.register("actions", "Actions on the engine", metrics.actions.clone());
            registry.register("pods", "Pods in the ledger", metrics.pods.clone());
            registry.register("engine_up", "Whether Docker answers", metrics.engine_up.clone());
            registry.register(
                "connected",
                "Whether a session with the active coordinator is open",
                metrics.connected.clone(),
            );
            registry.register(
                "quarantined",
                "Whether the coordinators keep this agent in quarantine",
                metrics.quarantined.clone(),
            );
            registry.register("sessions", "Sessions begun", metrics.sessions.clone());
            registry.register(
                "refusals",
                "Coordinators that were not believed",
                metrics.refusals.clone(),
            );
        }
        metrics
    }

    pub fn action(&self, action: &Action, outcome: &Outcome) {
        let result = if matches!(outcome, Outcome::Failed(_)) {
            "failed"
        } else {
            "done"
        };
        let labels = ActionLabels {
            action: action.verb(),
            result,
        };
        self.actions.get_or_create(&labels).inc();
    }

    /// The text format of Prometheus.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Ok(registry) = self.registry.lock() {
            // Writing to a String cannot fail.
            let _ = encode(&mut out, &registry);
        }
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
