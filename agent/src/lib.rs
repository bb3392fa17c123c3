//! The agent: runs pods on one Docker host and reports what it sees. Used by the program `wharf-agent`, and
//! in-process by tests and the simulated fleet through [`run`].
//!
//! ```text
//!  session ─assignments─▶ ledger (disk) ─wish─▶ worker ─▶ step (pure) ─▶ runtime ─▶ Docker
//!     ▲                                            │
//!     └───────────── reporter, notes ◀─────────────┘
//! ```
//!
//! Invariants: only an explicit stop entry of an accepted term stops a pod, or its own stop-after-disconnect; ending
//! the agent, losing the coordinator, or refusing it stops nothing else.

pub mod clock;
pub mod config;
pub mod disconnect;
pub mod facts;
pub mod host;
pub mod http;
pub mod identity;
pub mod join;
pub mod leave;
pub mod ledger;
pub mod lock;
pub mod metrics;
pub mod notes;
pub mod preflight;
pub mod probe;
pub mod program;
pub mod reporter;
pub mod runtime;
pub mod session;
pub mod settings;
pub mod status;
pub mod step;
pub mod wiring;
pub mod worker;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use proto::wire::NodeFacts;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    disconnect::Watchman,
    facts::HostFacts,
    join::Join,
    ledger::{DataDir, Disk, Keeper, LedgerError},
    lock::{DataDirLock, LockError},
    metrics::Metrics,
    reporter::Reporter,
    runtime::Runtime,
    session::{Contact, Crew, Links},
    settings::{Settings, ms},
    worker::{Parts, Shared, files::PodFiles},
};

/// What [`run`] needs beside engine and host.
pub struct Config {
    pub data_dir: PathBuf,
    /// The lock of `data_dir`, when the caller took it already.
    pub lock: Option<DataDirLock>,
    /// Where the ledger is written; `None`: in `data_dir`, where it is read.
    pub disk: Option<Arc<dyn Disk>>,
    pub join: Join,
    pub settings: Settings,
    /// For `/healthz` and `/metrics`.
    pub metrics_listen: Option<SocketAddr>,
    /// Notified by an operator (SIGHUP): the host's facts and inventory are read anew.
    pub look_again: Arc<Notify>,
}

impl Config {
    /// With default settings and no HTTP.
    pub fn new(data_dir: impl Into<PathBuf>, join: Join) -> Self {
        Self {
            data_dir: data_dir.into(),
            lock: None,
            disk: None,
            join,
            settings: Settings::default(),
            metrics_listen: None,
            look_again: Arc::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A configuration that cannot work.
    #[error("{0}")]
    Usage(String),
    /// Joining, the engine's address or the host were refused, in their own words.
    #[error("{0}")]
    Refused(String),
    #[error("the agent's task {0} ended unexpectedly; containers keep running")]
    Task(&'static str),
}

/// Runs the agent until `shutdown`; containers are left running. An error means that it did not start, or that
/// one of its tasks failed.
pub async fn run(
    config: Config,
    runtime: Arc<dyn Runtime>,
    facts: Arc<dyn HostFacts>,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let Config {
        data_dir,
        lock,
        disk,
        join,
        settings,
        metrics_listen,
        look_again,
    } = config;
    settings.check().map_err(AgentError::Usage)?;
    let _lock = match lock {
        Some(lock) => lock,
        None => lock::lock(&data_dir)?,
    };
    let clock = Clock::new();
    let ledger = ledger::load(&data_dir)?;
    let pods = ledger.pods.len();
    let listener = match metrics_listen {
        Some(address) => Some(http::bind(address).await.map_err(AgentError::Usage)?),
        None => None,
    };
    let disk = disk.unwrap_or_else(|| {
        Arc::new(DataDir {
            path: data_dir.clone(),
            sync: settings.sync_writes,
        })
    });
    let (keeper, handle) = Keeper::open(disk, ledger, ms(settings.lazy_write_ms), clock).await?;
    let epoch = handle.current().epoch;
    tracing::info!(node = %join.node, version = proto::VERSION, epoch, pods, "agent starts");

    // A file of the kernel's: nothing to wait for.
    let boot = facts.boot();
    let (host_ip, host_ip_seen) = watch::channel(String::new());
    let (facts_out, facts_seen) = watch::channel(None);
    let shared = Shared::new(Parts {
        runtime,
        keeper: handle,
        reporter: Arc::new(Reporter::new(epoch)),
        notes: Arc::default(),
        metrics: Arc::new(Metrics::new()),
        settings: settings.clone(),
        clock,
        node: join.node,
        boot,
        host_ip: host_ip_seen,
        files: PodFiles::new(&data_dir)
            .map_err(|e| AgentError::Usage(format!("--data-dir: {} has no absolute path: {e}", data_dir.display())))?,
    });
    let stop = shutdown.child_token();
    // The keeper ends last: the others' last notes are still written.
    let keeper_stop = CancellationToken::new();
    let keeper_task = tokio::spawn(keeper.run(keeper_stop.clone()));
    let contact = Arc::new(watch::Sender::new(Contact::default()));
    let links = Links {
        worker: shared.clone(),
        instance: uuid::Uuid::new_v4().to_string(),
        facts: facts_seen.clone(),
        connector: join.connector,
        crew: Crew::new(contact.clone(), join.channel, shared.metrics.clone()),
        contact,
        stop: stop.clone(),
    };

    // Before the worker begins: what is over by now is not started again.
    let watchman = Watchman::begin(shared.clone(), data_dir.clone(), links.contact.subscribe()).await;

    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let named = |name: &'static str, task: futures::future::BoxFuture<'static, ()>| async move {
        task.await;
        name
    };
    let (engine, period, others) = (shared.engine.subscribe(), settings.clone(), shared.runtime.clone());
    tasks.spawn(named(
        "facts",
        Box::pin(facts::keep(
            facts,
            others,
            engine,
            facts_out,
            period,
            look_again,
            stop.clone(),
        )),
    ));
    tasks.spawn(named(
        "host-ip",
        Box::pin(follow_address(facts_seen, host_ip, stop.clone())),
    ));
    tasks.spawn(named("worker", Box::pin(worker::run(shared.clone(), stop.clone()))));
    tasks.spawn(named("disconnect", Box::pin(watchman.run(stop.clone()))));
    let contact = links.contact.subscribe();
    let status = status::keep(data_dir, shared.clone(), contact.clone(), stop.clone());
    tasks.spawn(named("status-file", Box::pin(status)));
    tasks.spawn(named("session", Box::pin(talk(links, join.coordinators))));
    if let Some(listener) = listener {
        tasks.spawn(named(
            "http",
            Box::pin(http::serve(listener, shared, contact, stop.clone())),
        ));
    }

    // The first task to end by itself takes the agent with it: half an agent is worse than none.
    let mut ended = None;
    while let Some(task) = tasks.join_next().await {
        if !stop.is_cancelled() {
            match &task {
                Ok(name) => tracing::error!("the agent's task {name} ended"),
                Err(e) => tracing::error!("one of the agent's tasks failed: {e}"),
            }
            ended.get_or_insert(task.unwrap_or("(panicked)"));
            stop.cancel();
        }
    }
    keeper_stop.cancel();
    if keeper_task.await.is_err() {
        ended.get_or_insert("ledger");
    }
    tracing::info!("agent ends; containers keep running");
    ended.map_or(Ok(()), |name| Err(AgentError::Task(name)))
}

/// Speaks to coordinators once there is something to say: the first look at the engine, and the host's facts.
async fn talk(mut links: Links, coordinators: Vec<String>) {
    let stop = links.stop.clone();
    let ready = async {
        links.worker.first_look().await;
        links.facts.wait_for(Option::is_some).await.is_ok()
    };
    tokio::select! {
        () = stop.cancelled() => return,
        ok = ready => if !ok { return },
    }
    session::reconnect::run(links, coordinators).await;
}

/// The host's first address, for `status.hostIP`.
async fn follow_address(
    mut facts: watch::Receiver<Option<NodeFacts>>,
    address: watch::Sender<String>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = facts.changed() => if changed.is_err() { return },
        }
        let first = facts
            .borrow_and_update()
            .as_ref()
            .and_then(|f| f.addresses.first().cloned());
        if let Some(first) = first {
            address.send_if_modified(|known| {
                let changed = *known != first;
                *known = first;
                changed
            });
        }
    }
}
