//! Runs the pods of the ledger: one task a pod, which steps, acts, looks, and steps again. Started by
//! [`crate::run`]; reads the ledger, drives the runtime, fills reporter and notes.
//!
//! ```text
//! ledger ──wish──▶ pod task ──action──▶ runtime ──hint──▶ supervisor ──poke──▶ pod task
//!                     ▲                    └──list──▶ observer ──listing──┘
//! ```
//!
//! Invariants: the observer's full list is the truth, hints only make it come sooner. A pod acts only on what it
//! saw after its own last action. While the engine does not answer, nothing is done and nothing is counted.

mod act;
mod boot;
pub mod files;
mod gc;
mod host_path;
mod last_words;
mod observer;
mod pod;
mod security;
pub mod spec;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use observer::Listing;
use proto::wire;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    facts::Engine,
    ledger::{KeeperHandle, Ledger, PodEntry},
    metrics::Metrics,
    notes::Notes,
    reporter::Reporter,
    runtime::{Hint, Runtime},
    settings::{Settings, ms},
    worker::files::PodFiles,
};

/// What the tasks of the worker share.
pub struct Shared {
    pub runtime: Arc<dyn Runtime>,
    pub keeper: KeeperHandle,
    pub reporter: Arc<Reporter>,
    pub notes: Arc<Notes>,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    pub clock: Clock,
    /// Name of this node.
    pub node: String,
    /// Which boot of the host this is; empty: not known.
    pub boot: String,
    /// Address where the host's ports can be reached.
    pub host_ip: watch::Receiver<String>,
    pub files: PodFiles,
    /// Assignments were accepted since the agent's start.
    pub accepted: watch::Sender<bool>,
    /// Nothing is started while this is false; see [`boot`].
    may_start: watch::Sender<bool>,
    pub engine: watch::Sender<Engine>,
    /// A container without a readiness probe is ready when it has run this long.
    ready_after_ms: watch::Sender<u64>,
    listing: watch::Sender<Option<Arc<Listing>>>,
    /// The last list was answered.
    answers: watch::Sender<bool>,
    relist: Notify,
    /// Orders looks and actions.
    ticks: AtomicU64,
    starts: Semaphore,
    stops: Semaphore,
}

/// What [`Shared::new`] needs.
pub struct Parts {
    pub runtime: Arc<dyn Runtime>,
    pub keeper: KeeperHandle,
    pub reporter: Arc<Reporter>,
    pub notes: Arc<Notes>,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    pub clock: Clock,
    pub node: String,
    pub boot: String,
    pub host_ip: watch::Receiver<String>,
    pub files: PodFiles,
}

impl Shared {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            runtime,
            keeper,
            reporter,
            notes,
            metrics,
            settings,
            clock,
            node,
            boot,
            host_ip,
            files,
        } = parts;
        Arc::new(Self {
            ready_after_ms: watch::Sender::new(settings.ready_after_ms),
            starts: Semaphore::new(settings.starts()),
            stops: Semaphore::new(settings.max_stops.max(1)),
            runtime,
            keeper,
            reporter,
            notes,
            metrics,
            settings,
            clock,
            node,
            boot,
            host_ip,
            files,
            accepted: watch::Sender::new(false),
            may_start: watch::Sender::new(false),
            engine: watch::Sender::default(),
            listing: watch::Sender::default(),
            answers: watch::Sender::new(false),
            relist: Notify::new(),
            ticks: AtomicU64::new(0),
        })
    }

    /// The last list was answered.
    pub(crate) fn engine_answers(&self) -> bool {
        *self.answers.borrow()
    }

    /// A number higher than all before.
    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Does something with the pods' files where it holds up nobody.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&PodFiles) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let files = self.files.clone();
        let done = tokio::task::spawn_blocking(move || work(&files)).await;
        done.unwrap_or_else(|e| Err(std::io::Error::other(e)))
    }

    /// All that this agent runs or knows of, for Hello: pods of the ledger, and pods whose containers run here
    /// although the ledger does not name them.
    pub fn observed(&self) -> Vec<wire::Observed> {
        let ledger = self.keeper.current();
        let listing = self.listing.borrow().clone();
        let running = |uid: &str| listing.as_ref().is_some_and(|l| l.runs(uid));
        let mut all: BTreeMap<String, wire::Observed> = ledger
            .pods
            .values()
            .map(|p| {
                let observed = wire::Observed {
                    uid: p.uid.clone(),
                    namespace: p.namespace.clone(),
                    name: p.name.clone(),
                    running: running(&p.uid),
                };
                (p.uid.clone(), observed)
            })
            .collect();
        for (uid, containers) in listing.iter().flat_map(|l| &l.pods) {
            if let Some(first) = containers.first()
                && running(uid)
            {
                all.entry(uid.clone()).or_insert_with(|| wire::Observed {
                    uid: uid.clone(),
                    namespace: first.owner.namespace.clone(),
                    name: first.owner.pod.clone(),
                    running: true,
                });
            }
        }
        all.into_values().collect()
    }

    /// Waits until the engine was asked once: a full list, or that it does not answer.
    pub async fn first_look(&self) {
        // Neither sender can go while `self` is here.
        let _ = self.engine.subscribe().wait_for(|e| *e != Engine::Unknown).await;
    }
}

/// Runs the worker until `stop`. Containers are left as they are.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut helpers = JoinSet::new();
    let mut boot_wait = boot::Wait::begin(&shared).await;
    helpers.spawn(observer::run(shared.clone(), stop.clone()));
    helpers.spawn(gc::run(shared.clone(), stop.clone()));
    let mut supervisor = Supervisor {
        hints: shared.runtime.clone().hints(),
        ledger: shared.keeper.watch(),
        shared,
        pods: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    supervisor.run(&mut boot_wait, &stop).await;
    supervisor.tasks.shutdown().await;
    helpers.shutdown().await;
}

struct Supervisor {
    shared: Arc<Shared>,
    ledger: watch::Receiver<Arc<Ledger>>,
    hints: tokio::sync::mpsc::Receiver<Hint>,
    pods: BTreeMap<String, Pod>,
    /// Each returns the uid of its pod.
    tasks: JoinSet<String>,
}

struct Pod {
    wish: watch::Sender<Arc<PodEntry>>,
    poke: Arc<Notify>,
    task: tokio::task::AbortHandle,
}

impl Supervisor {
    async fn run(&mut self, boot_wait: &mut boot::Wait, stop: &CancellationToken) {
        let mut hints_end = false;
        self.reconcile();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                over = boot_wait.over() => {
                    // What a coordinator said is in the ledger: first every pod hears of its stop.
                    self.reconcile();
                    boot_wait.end(&self.shared, over).await;
                }
                changed = self.ledger.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.reconcile();
                }
                hint = self.hints.recv(), if !hints_end => match hint {
                    Some(Hint::Pod(uid)) => match self.pods.get(&uid) {
                        Some(pod) => pod.poke.notify_one(),
                        None => self.shared.relist.notify_one(),
                    },
                    Some(Hint::All) => self.shared.relist.notify_one(),
                    // The periodic list goes on without hints.
                    None => hints_end = true,
                },
                Some(ended) = self.tasks.join_next_with_id() => match ended {
                    Ok((_, uid)) => { self.pods.remove(&uid); }
                    Err(e) if e.is_cancelled() => {}
                    Err(e) => self.failed(&e),
                },
            }
        }
    }

    /// Makes the tasks those of the ledger.
    fn reconcile(&mut self) {
        let ledger = self.ledger.borrow_and_update().clone();
        let ready_after_ms = ledger
            .ready_after_ms
            .map_or(self.shared.settings.ready_after_ms, u64::from);
        self.shared.ready_after_ms.send_if_modified(|known| {
            let changed = *known != ready_after_ms;
            *known = ready_after_ms;
            changed
        });
        let gone: Vec<_> = self
            .pods
            .keys()
            .filter(|uid| !ledger.pods.contains_key(*uid))
            .cloned()
            .collect();
        for uid in gone {
            if let Some(pod) = self.pods.remove(&uid) {
                pod.task.abort();
            }
            self.shared.reporter.forget(&uid);
        }
        for (uid, entry) in &ledger.pods {
            match self.pods.get(uid) {
                Some(pod) => {
                    pod.wish.send_if_modified(|known| {
                        let changed = !known.same_wish(entry);
                        if changed {
                            *known = entry.clone();
                        }
                        changed
                    });
                }
                None => self.spawn(uid, entry.clone(), Duration::ZERO),
            }
        }
        self.shared
            .metrics
            .pods
            .set(i64::try_from(ledger.pods.len()).unwrap_or(i64::MAX));
    }

    fn spawn(&mut self, uid: &str, entry: Arc<PodEntry>, delay: Duration) {
        let (wish, receiver) = watch::channel(entry);
        let poke = Arc::new(Notify::new());
        let task = self
            .tasks
            .spawn(pod::run(self.shared.clone(), receiver, poke.clone(), delay));
        self.pods.insert(uid.to_owned(), Pod { wish, poke, task });
    }

    /// A pod's task panicked: that is its own affair; it starts again from the ledger after a while.
    fn failed(&mut self, error: &tokio::task::JoinError) {
        tracing::error!("a pod's task failed and is started again: {error}");
        let failed = self.pods.iter().find(|(_, pod)| pod.task.id() == error.id());
        let Some(uid) = failed.map(|(uid, _)| uid.clone()) else {
            return;
        };
        self.pods.remove(&uid);
        if let Some(entry) = self.shared.keeper.current().pods.get(&uid) {
            self.spawn(&uid, entry.clone(), ms(self.shared.settings.task_restart_ms));
        }
    }
}

#[cfg(test)]
#[path = "worker/pod_spec_tests.rs"]
mod pod_spec_tests;

#[cfg(test)]
#[path = "worker/probe_tests.rs"]
mod probe_tests;

#[cfg(test)]
#[path = "worker/worker_tests.rs"]
pub(crate) mod tests;
