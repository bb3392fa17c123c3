//! The fleet's coordinator: the real one in a runtime of its own, over a store in memory that outlives it. Used
//! by [`super::Fleet`].
//!
//! Invariant: killing it ends every task it ever spawned before the next one starts, as SIGKILL would; what it
//! acknowledged is in the store.

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use coordinator::{
    api::{Access, cluster::ClusterFacts, default_namespace},
    ca::authorizer::Attributes,
    config::{Config, Options},
    control,
    http::metrics::Metrics,
    run::Coordinator,
    serve::start_services,
    session::service::{Callers, Leaver, Peer, Renewer},
    store::{
        Change, CommitError, Committed, Entry, Expect, Fence, ReadError, Rv, Snapshot, Span, Store, Watch,
        keys::{self, Parsed},
        memory::{MemoryOptions, MemoryStore},
    },
    tls,
    world::{
        hub::Hub,
        record::{PodRecord, SettingsRecord, encode},
    },
};
use proto::{
    model::{Kind, Time},
    wire,
};
use tokio::{runtime::Runtime, sync::oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Status};

use super::{
    crash::Crash,
    net::{Listener, Net, Who},
};

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
pub const INCARNATION: &str = "5d0a1c1e-0000-4000-8000-000000000001";
/// Updates kept: all of a run, for the look back at its end.
const HISTORY: usize = 4_000_000;

/// Pods (uid) whose stop was ever to be written.
pub type Stops = Arc<Mutex<HashSet<String>>>;

/// A store that notes each stop record on its way in, before anybody can see it, may have no room, and may end its
/// coordinator.
pub struct Noting {
    pub inner: Arc<MemoryStore>,
    pub stops: Stops,
    pub full: Arc<AtomicBool>,
    pub crash: Arc<Crash>,
}

#[async_trait]
impl Store for Noting {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        self.inner.load().await
    }
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.inner.get(key).await
    }
    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        self.inner.scan(span).await
    }
    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        self.inner.watch(after).await
    }
    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(CommitError::Full("the fleet's disk".into()));
        }
        let stopped = changes.iter().filter_map(|c| {
            let Parsed::Object { kind: Kind::Pod, .. } = keys::parse(&c.key) else {
                return None;
            };
            let pod: PodRecord = serde_json::from_slice(c.value.as_ref()?).expect("a pod's record");
            pod.stop.is_some().then_some(pod.uid)
        });
        let stopped: Vec<_> = stopped.collect();
        if !stopped.is_empty() {
            let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
            stops.extend(stopped);
        }
        self.crash.step("commit", self.inner.commit(fence, changes)).await
    }
    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        self.inner.take_term(incarnation, holder).await
    }
    fn newest(&self) -> Rv {
        self.inner.newest()
    }
}

/// A store with a cluster and its nodes, as `init` and joining leave it.
pub async fn new_store(nodes: &[String], settings: &[(&str, &str)]) -> Arc<MemoryStore> {
    let options = MemoryOptions {
        history: HISTORY,
        ..MemoryOptions::default()
    };
    let store = Arc::new(MemoryStore::new(options));
    let fence = store.take_term(INCARNATION, "init").await.expect("a term");
    let meta = format!("{{\"cluster\":\"{CLUSTER}\",\"incarnation\":\"{INCARNATION}\",\"addresses\":[\"c1:7443\"]}}");
    let settings: SettingsRecord = settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let first = vec![
        Change::put("meta/cluster", Expect::Absent, meta),
        Change::put(keys::SETTINGS, Expect::Absent, encode(&settings)),
        default_namespace(Time::now()),
    ];
    store.commit(&fence, first).await.expect("committed");
    for name in nodes {
        let node = format!("{{\"metadata\":{{\"name\":\"{name}\",\"uid\":\"uid-{name}\"}},\"spec\":{{}}}}");
        let change = Change::put(keys::object(Kind::Node, "", name), Expect::Absent, node);
        store.commit(&fence, vec![change]).await.expect("committed");
    }
    store
}

/// The names that connections carry are the truth here.
pub struct Gate;

impl Access for Gate {
    fn caller(&self, extensions: &Extensions) -> Result<String, Status> {
        match extensions.get::<Who>() {
            Some(Who::User(name)) => Ok(format!("user/{name}")),
            Some(Who::Node(name)) => Ok(format!("agent/{name}")),
            None => Err(Status::unauthenticated("a connection without a name")),
        }
    }

    fn allow(&self, extensions: &Extensions, _: &Attributes<'_>) -> Result<(), Status> {
        match extensions.get::<Who>() {
            Some(Who::User(_)) => Ok(()),
            _ => Err(Status::permission_denied("only users administer")),
        }
    }
}

impl Callers for Gate {
    fn peer(&self, extensions: &Extensions) -> Result<Peer, Status> {
        match extensions.get::<Who>() {
            Some(Who::Node(name)) => Ok(Peer {
                node: name.clone(),
                ..Peer::default()
            }),
            _ => Err(Status::permission_denied("only agents open sessions")),
        }
    }

    fn still_valid(&self, _: &Extensions) -> Result<(), Status> {
        // A connection keeps its name for life.
        Ok(())
    }
}

#[async_trait]
impl Renewer for Gate {
    async fn renew(&self, _: &Extensions, _: &[u8]) -> Result<wire::Issued, Status> {
        Err(Status::unimplemented("this fleet has no certificates"))
    }
}

#[async_trait]
impl Leaver for Gate {
    async fn leave(&self, _: &Peer) -> Result<(), Status> {
        Err(Status::unimplemented("this fleet is left by nobody"))
    }
}

/// A coordinator that leads.
pub struct Seat {
    runtime: Runtime,
    /// It listens as long as it lives, even when connections go to another one.
    _listener: Listener,
    deposed: Arc<AtomicBool>,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
}

/// What a coordinator is made of.
pub struct Making<'a> {
    pub dir: &'a Path,
    pub options: Options,
    pub control: control::Settings,
    pub store: Arc<MemoryStore>,
    pub stops: Stops,
    /// The store has no room while this holds.
    pub full: Arc<AtomicBool>,
    /// At which commit it ends.
    pub crash: Arc<Crash>,
    pub net: &'a Net,
    /// Where it says why it ended, if it ends by itself.
    pub ended: Arc<Mutex<Vec<String>>>,
}

impl Seat {
    /// Starts, takes the term, and listens.
    pub async fn start(making: Making<'_>) -> Self {
        let Making {
            dir,
            options,
            control,
            store,
            stops,
            full,
            crash,
            net,
            ended,
        } = making;
        let config = Config::new(Options {
            data_dir: Some(dir.to_owned()),
            http: Some(([127, 0, 0, 1], 0).into()),
            ..options
        })
        .expect("a configuration");
        let (listener, incoming) = net.listen();
        let deposed = Arc::new(AtomicBool::new(false));
        let may_end = deposed.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("coordinator")
            .enable_all()
            .build()
            .expect("a runtime");
        let (tell, told) = oneshot::channel();
        runtime.spawn(async move {
            let store = Arc::new(Noting {
                inner: store,
                stops,
                full,
                crash,
            });
            let mut coordinator = Coordinator::start(config, store).await.expect("starts");
            let sessions = coordinator.sessions().clone();
            let facts = ClusterFacts {
                ranks: None,
                cluster_id: CLUSTER.into(),
                coordinators: vec!["c1:7443".into()],
                secret: Arc::new(|| Err("the simulated fleet has none".into())),
                found: Arc::new(move || sessions.found()),
            };
            let routes = start_services(&mut coordinator, Arc::new(Gate), facts, control).expect("services");
            let stopping = coordinator.stopping();
            coordinator.spawn("serving sessions", async move {
                tls::session_server()
                    .add_routes(routes)
                    .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopping.cancelled_owned())
                    .await
                    .map_err(|e| e.to_string())
            });
            let _ = tell.send((coordinator.hub().clone(), coordinator.metrics().clone()));
            let result = coordinator.run(std::future::pending()).await;
            if !may_end.load(Ordering::SeqCst) {
                let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                ended.push(format!("the coordinator: {result:?}"));
            }
        });
        let (hub, metrics) = told.await.expect("the coordinator starts");
        Self {
            runtime,
            _listener: listener,
            deposed,
            hub,
            metrics,
        }
    }

    /// Another one takes the term; this one may end by itself when it meets the new fence.
    pub fn depose(&self) {
        self.deposed.store(true, Ordering::SeqCst);
    }

    /// As SIGKILL: returns once nothing of it runs any more.
    pub async fn kill(self) {
        // What is cut off in the middle may still say so before it is gone.
        self.deposed.store(true, Ordering::SeqCst);
        super::end(self.runtime).await;
    }

    /// Ends it without waiting for it.
    pub fn abandon(self) {
        self.runtime.shutdown_background();
    }
}
