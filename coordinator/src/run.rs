//! The coordinator as a whole: what is started, in which order, and how it ends. Called by `main` and by tests
//! (which bring a store in memory).
//!
//! Invariant: nothing is served before the world is loaded and the store is proven to be no older than what was
//! served, nothing is decided before the term is held; a task that everything depends on takes the process with it.

use std::{future::Future, net::SocketAddr, sync::Arc};

use proto::model::Time;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    backup::migrate::Successor,
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
        clock::boottime,
        elector::{Elector, LinkReport, Parts},
        leadership::{HandOver, Leadership, Role, Standbys, Standing},
        marks::Marks,
    },
    session::{
        Sessions,
        service::{AgentService, Helpers},
    },
    store::{
        Entry, Store,
        contest::{Claim, Contest},
    },
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

/// A coordinator with its world loaded.
pub struct Coordinator {
    config: Config,
    hub: Arc<Hub>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    notes: Option<mpsc::Receiver<Note>>,
    marks: Arc<Marks>,
    incarnation: String,
    /// Until they are served.
    http: Option<TcpListener>,
    http_address: SocketAddr,
    /// Once it takes part.
    leadership: Option<Arc<Leadership>>,
    stopping: CancellationToken,
    /// End by themselves once `stopping` is cancelled.
    tasks: JoinSet<Outcome>,
    /// What the others stand on; ended last.
    base: JoinSet<Outcome>,
}

/// What one of several coordinators brings to the contest for leadership.
pub struct Contested {
    pub contest: Arc<dyn Contest>,
    /// Its name and session address.
    pub name: String,
    pub address: String,
    pub settings: leader::settings::Settings,
    pub link: watch::Receiver<Option<LinkReport>>,
    pub hand_overs: mpsc::Receiver<HandOver>,
    pub standbys: Arc<dyn Standbys>,
}

impl Coordinator {
    /// Loads the store and leads: for a store that has one coordinator. Agents are served once the caller puts
    /// [`Coordinator::routes`] behind a listener.
    pub async fn start(config: Config, store: Arc<dyn Store>) -> Result<Self, Error> {
        let mut all = Self::load(config, store).await?;
        all.lead().await?;
        Ok(all)
    }

    /// Loads the store and follows it; decides nothing and serves nobody yet.
    pub async fn load(mut config: Config, store: Arc<dyn Store>) -> Result<Self, Error> {
        let metrics = Arc::new(Metrics::new());
        let store = Arc::new(Metered {
            store,
            metrics: metrics.clone(),
        });
        let guard = Marks::open(&config.data_dir).await?;
        let hub = Hub::load(store).await?;
        let Some(history) = History::read(&**hub.store()).await? else {
            // An emptied store is not to be made anew over a cluster that was served.
            hub.read(|w| guard.check("", "", w))?;
            return Err(Error::NoCluster(config.data_dir.display().to_string()));
        };
        if let Some(moved) = Successor::read(&**hub.store()).await.map_err(HubError::Read)? {
            return Err(Error::Moved(moved.words()));
        }
        hub.read(|w| guard.check(&history.cluster, &history.incarnation, w))?;
        if config.sessions.coordinators.is_empty() {
            config.sessions.coordinators.clone_from(&history.addresses);
        }
        // Bound before the term is taken: a port in use must not end another process's leadership.
        let http = listen("http", config.http).await?;
        let http_address = http.local_addr().map_err(|e| listen_error("http", config.http, &e))?;

        let mut base = JoinSet::new();
        let feeding = hub.clone().run();
        base.spawn(async move { ("the store's watch", feeding.await.map_err(|e| e.to_string())) });
        let (recorder, notes) = Recorder::new();
        let (sessions, driver) = Sessions::new(hub.clone(), recorder.clone(), metrics.clone(), config.sessions.clone());
        let mut all = Self {
            config,
            hub,
            sessions,
            metrics,
            recorder,
            notes: Some(notes),
            marks: Marks::new(guard, &history.cluster),
            incarnation: history.incarnation,
            http: Some(http),
            http_address,
            leadership: None,
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
        Ok(all)
    }

    /// Takes the term, whoever holds it: nobody else is to lead this store.
    async fn lead(&mut self) -> Result<(), Error> {
        let fence = leader::take(&self.hub, &self.incarnation, &leader::holder())
            .await
            .map_err(Error::Term)?;
        self.marks.record(&fence, self.hub.rv().revision()).await?;
        let standing = Standing {
            role: Role::Active,
            since: Some(Time::now()),
            term: fence.term,
            ..Standing::default()
        };
        self.hub.set_fence(Some(fence));
        let leadership = Leadership::sole(self.hub.clone(), standing);
        self.stand(leadership);
        Ok(())
    }

    /// Takes part in the contest for leadership.
    pub fn take_part(&mut self, contested: Contested) {
        let sessions = self.sessions.clone();
        let parts = Parts {
            led: Arc::new(move |at| sessions.led_at(at)),
            hub: self.hub.clone(),
            contest: contested.contest,
            claim: Claim {
                incarnation: self.incarnation.clone(),
                holder: leader::holder(),
                coordinator: contested.name,
                address: contested.address,
            },
            settings: contested.settings,
            clock: boottime(),
            marks: self.marks.clone(),
            link: contested.link,
            hand_overs: contested.hand_overs,
            standbys: contested.standbys,
        };
        let (elector, leadership) = Elector::new(parts);
        let stopping = self.stopping.clone();
        self.spawn("the contest for leadership", async move {
            elector.run(stopping).await.map_err(|e| e.to_string())
        });
        self.stand(leadership);
    }

    fn stand(&mut self, leadership: Leadership) {
        let leadership = Arc::new(leadership);
        self.leadership = Some(leadership.clone());
        let marks = self
            .marks
            .clone()
            .keep(self.hub.clone(), self.config.served_mark, self.stopping.clone());
        self.spawn("the mark of what was served", async move {
            marks.await;
            Ok(())
        });
        self.spawn_http(leadership);
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

    /// Who leads, as this process sees it; none before it takes part.
    pub fn leadership(&self) -> Option<&Arc<Leadership>> {
        self.leadership.as_ref()
    }

    /// The queue of notes, for the one that stores events; once.
    pub fn take_notes(&mut self) -> Option<mpsc::Receiver<Note>> {
        self.notes.take()
    }

    /// Address of the HTTP pages.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
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
        // Whoever calls meanwhile is answered by the one that leads next.
        if result.is_ok()
            && let Some(leadership) = self.leadership.as_ref().filter(|_| self.hub.fence().is_some())
        {
            match tokio::time::timeout(self.config.shutdown, leadership.transfer(None)).await {
                Ok(Ok(to)) => tracing::info!(to = to.to, term = to.term, "handed over"),
                Ok(Err(e)) => tracing::debug!(error = %e, "nobody to hand over to"),
                Err(_) => tracing::warn!("the hand-over took too long"),
            }
        }
        self.stopping.cancel();
        self.sessions.shutdown(self.config.shutdown).await;
        let tasks = &mut self.tasks;
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.config.shutdown, all).await.is_err() {
            tracing::warn!("some tasks did not end in time");
            self.tasks.shutdown().await;
        }
        // The elector has given the fence back by now; alone, nobody else does.
        if let Some(fence) = self.hub.fence()
            && let Err(e) = self.marks.record(&fence, self.hub.rv().revision()).await
        {
            tracing::warn!(error = %e, "the mark of what was served could not be renewed");
        }
        self.hub.set_fence(None);
        self.base.shutdown().await;
        result
    }

    fn spawn_http(&mut self, leadership: Arc<Leadership>) {
        let Some(listener) = self.http.take() else { return };
        let router = http::router(http::Sources {
            hub: self.hub.clone(),
            metrics: self.metrics.clone(),
            sessions: self.sessions.clone(),
            leadership,
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
