//! The coordinator as a whole: what is started, in which order, and how it ends. Called by `main` and by tests
//! (which bring a store in memory).
//!
//! Invariant: nothing is served or decided before the world is loaded, the store is proven to be no older than
//! what was served, and the term is held; a task that everything depends on takes the process with it.

use std::{
    future::Future,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    ca::META_CLUSTER,
    config::Config,
    error::Error,
    events::{Note, Recorder},
    http::{
        self,
        metrics::{Metered, Metrics},
    },
    leader::{
        self,
        guard::{Guard, GuardError, Mark},
    },
    session::{
        Sessions,
        service::{AgentService, Helpers},
    },
    store::{Entry, Fence, Store},
    world::{
        Unreadable,
        hub::{Hub, HubError},
    },
};

/// Which history a store holds: what of its `meta/cluster` concerns this module.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
struct History {
    /// UUID of the cluster.
    cluster: String,
    /// UUID of the state history.
    incarnation: String,
    /// Session addresses as told to `init`.
    #[serde(default)]
    addresses: Vec<String>,
}

impl History {
    async fn read(store: &dyn Store) -> Result<Option<Self>, Error> {
        let entry = store.get(META_CLUSTER).await.map_err(HubError::Read)?;
        let read = |entry: Entry| {
            serde_json::from_slice(&entry.value).map_err(|e| {
                HubError::Unreadable(Unreadable {
                    key: entry.key,
                    rv: entry.rv,
                    problem: e.to_string(),
                })
            })
        };
        Ok(entry.map(read).transpose()?)
    }
}

type Outcome = (&'static str, Result<(), String>);

/// A coordinator that leads.
pub struct Coordinator {
    config: Config,
    hub: Arc<Hub>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    notes: Option<mpsc::Receiver<Note>>,
    marks: Arc<Marks>,
    http: SocketAddr,
    stopping: CancellationToken,
    /// End by themselves once `stopping` is cancelled.
    tasks: JoinSet<Outcome>,
    /// What the others stand on; ended last.
    base: JoinSet<Outcome>,
}

impl Coordinator {
    /// Loads the store, takes the term, and starts what keeps sessions and serves HTTP. Agents are served once
    /// the caller puts [`Coordinator::routes`] behind a listener.
    pub async fn start(mut config: Config, store: Arc<dyn Store>) -> Result<Self, Error> {
        let metrics = Arc::new(Metrics::new());
        let store = Arc::new(Metered {
            store,
            metrics: metrics.clone(),
        });
        let guard = open_guard(&config.data_dir).await?;
        let hub = Hub::load(store).await?;
        let Some(history) = History::read(&**hub.store()).await? else {
            // An emptied store is not to be made anew over a cluster that was served.
            hub.read(|w| guard.check("", "", w))?;
            return Err(Error::NoCluster(config.data_dir.display().to_string()));
        };
        hub.read(|w| guard.check(&history.cluster, &history.incarnation, w))?;
        if config.sessions.coordinators.is_empty() {
            config.sessions.coordinators.clone_from(&history.addresses);
        }
        // Bound before the term is taken: a port in use must not end another process's leadership.
        let listener = listen("http", config.http).await?;
        let http = listener
            .local_addr()
            .map_err(|e| listen_error("http", config.http, &e))?;

        let mut base = JoinSet::new();
        let feeding = hub.clone().run();
        base.spawn(async move { ("the store's watch", feeding.await.map_err(|e| e.to_string())) });
        let fence = leader::take(&hub, &history.incarnation, &leader::holder())
            .await
            .map_err(Error::Term)?;
        let marks = Arc::new(Marks {
            guard: Mutex::new(guard),
            cluster: history.cluster,
            fence: fence.clone(),
        });
        marks.clone().record(hub.rv().revision()).await?;
        hub.set_fence(Some(fence));

        let (recorder, notes) = Recorder::new();
        let (sessions, driver) = Sessions::new(hub.clone(), recorder.clone(), metrics.clone(), config.sessions.clone());
        let mut all = Self {
            config,
            hub,
            sessions,
            metrics,
            recorder,
            notes: Some(notes),
            marks,
            http,
            stopping: CancellationToken::new(),
            tasks: JoinSet::new(),
            base,
        };
        let stopping = all.stopping.clone();
        all.spawn("sessions", async move {
            tokio::select! {
                result = driver.run() => result.map_err(|e| e.to_string()),
                () = stopping.cancelled() => Ok(()),
            }
        });
        all.spawn_marks();
        all.spawn_http(listener);
        Ok(all)
    }

    /// Adds a task that the coordinator cannot be without: if it ends, all ends. It must end by itself soon
    /// after [`Coordinator::stopping`] is cancelled; after the time for an orderly end it is aborted.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<(), String>> + Send + 'static) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// The services of the session port that are this module's: agents' sessions, health and reflection. The
    /// caller adds the others.
    pub fn routes(&self, helpers: Helpers) -> Result<Routes, Error> {
        routes(AgentService::server(self.sessions.clone(), helpers))
    }

    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The queue of notes, for the one that stores events; once.
    pub fn take_notes(&mut self) -> Option<mpsc::Receiver<Note>> {
        self.notes.take()
    }

    /// Address of the HTTP pages.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Cancelled when the orderly end begins. Listeners then take no new connections and wait for the present
    /// ones; sessions are said goodbye to meanwhile.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Serves until `shutdown` resolves or a task ends; then ends in order.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let ended = tokio::select! {
            () = shutdown => None,
            Some(ended) = self.tasks.join_next() => Some(ended),
            Some(ended) = self.base.join_next() => Some(ended),
        };
        let result = match ended {
            None => {
                tracing::info!("stopping");
                Ok(())
            }
            Some(ended) => Err(task_error(ended)),
        };
        self.stopping.cancel();
        self.sessions.shutdown(self.config.shutdown).await;
        let tasks = &mut self.tasks;
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.config.shutdown, all).await.is_err() {
            tracing::warn!("some tasks did not end in time");
            self.tasks.shutdown().await;
        }
        if let Err(e) = self.marks.clone().record(self.hub.rv().revision()).await {
            tracing::warn!(error = %e, "the mark of what was served could not be renewed");
        }
        self.hub.set_fence(None);
        self.base.shutdown().await;
        result
    }

    fn spawn_marks(&mut self) {
        let (marks, hub, stopping) = (self.marks.clone(), self.hub.clone(), self.stopping.clone());
        let every = self.config.served_mark;
        self.spawn("the mark of what was served", async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => {}
                    () = stopping.cancelled() => return Ok(()),
                }
                if let Err(e) = marks.clone().record(hub.rv().revision()).await {
                    // Agents refuse an older history by themselves; this is the second line.
                    tracing::warn!(error = %e, "the mark of what was served could not be renewed");
                }
            }
        });
    }

    fn spawn_http(&mut self, listener: TcpListener) {
        let router = http::router(http::Sources {
            hub: self.hub.clone(),
            metrics: self.metrics.clone(),
            sessions: self.sessions.clone(),
        });
        let stopping = self.stopping.clone();
        self.spawn("http", async move {
            // A connection kept open must not hold up the end.
            tokio::select! {
                result = async { axum::serve(listener, router).await } => result.map_err(|e| e.to_string()),
                () = stopping.cancelled() => Ok(()),
            }
        });
    }
}

/// What a listener of the session port serves, to be wrapped in the layer that authenticates.
pub fn routes(agent: proto::wire::agent_server::AgentServer<AgentService>) -> Result<Routes, Error> {
    let (_, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::wire::DESCRIPTORS)
        .build_v1()
        .map_err(|e| Error::Task {
            task: "reflection",
            problem: e.to_string(),
        })?;
    Ok(Routes::new(agent).add_service(health).add_service(reflection))
}

/// Resolves when the process is asked to end.
pub async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(e) => {
            tracing::warn!(error = %e, "a signal cannot be listened for");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

/// The mark, with what it says of this leadership.
struct Marks {
    guard: Mutex<Guard>,
    cluster: String,
    fence: Fence,
}

impl Marks {
    async fn record(self: Arc<Self>, revision: u64) -> Result<(), GuardError> {
        let mark = Mark {
            cluster: self.cluster.clone(),
            incarnation: self.fence.incarnation.to_string(),
            term: self.fence.term,
            revision,
        };
        blocking(move || self.guard.lock().unwrap_or_else(PoisonError::into_inner).record(mark)).await
    }
}

async fn open_guard(dir: &Path) -> Result<Guard, GuardError> {
    let dir = dir.to_owned();
    blocking(move || Guard::open(&dir)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GuardError> + Send + 'static,
) -> Result<T, GuardError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(GuardError::Write {
            path: "served.json".into(),
            what: e.to_string(),
        })
    })
}

/// Connections that wait in the kernel to be accepted. The usual 128 overflows when a fleet comes back at once, and
/// each connection that finds the queue full waits a second before it tries again. The kernel caps it
/// (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Binds a port, or says which one and what to do.
pub async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // As with any listener: a restart must not wait for the last one's connections to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|e| listen_error(what, address, &e))
}

fn listen_error(what: &'static str, address: SocketAddr, error: &std::io::Error) -> Error {
    Error::Listen {
        what,
        address,
        problem: error.to_string(),
    }
}

fn task_error(ended: Result<Outcome, tokio::task::JoinError>) -> Error {
    match ended {
        Ok((task, result)) => Error::Task {
            task,
            problem: result.err().unwrap_or_else(|| "it should not have".into()),
        },
        Err(e) => Error::Task {
            task: "a task",
            problem: e.to_string(),
        },
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
