//! What tests of sessions stand on: a store that can be held up, a world with nodes and pods, a server on a
//! free port, and an agent that follows a script.

pub use super::host_tests::{facts, inventory};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use proto::{
    digest,
    model::{self, Container, Kind, ObjectMeta, Phase, Time},
    wire::{
        self, Assignments, Down, Goodbye, Heartbeat, Hello, Issued, Observed, Statuses, Up, Welcome,
        agent_client::AgentClient, assignments, down, up,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Extensions, Request, Status, Streaming, service::interceptor::InterceptedService, transport::Server};

use super::{
    Sessions, Settings,
    service::{AgentService, Callers, Helpers, Leaver, Peer, Renewer},
};
use crate::{
    events::{Note, Recorder},
    http::metrics::Metrics,
    leader,
    store::{
        Change, CommitError, Committed, Entry, Expect, Fence, ReadError, Rv, Snapshot, Span, Store, Watch, keys,
        memory::{MemoryOptions, MemoryStore},
    },
    world::{
        World,
        hub::Hub,
        record::{self, PodRecord, StopRecord, TemplateRecord},
    },
};

pub const INCARNATION: &str = "5d0a1c1e-0000-4000-8000-000000000001";
const PATIENCE: Duration = Duration::from_secs(20);

/// What a held-up commit gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    Closed,
    Full,
}

/// A store in memory whose commits of statuses can be held up or refused.
pub struct Gated {
    pub inner: MemoryStore,
    pub gate: watch::Sender<Gate>,
    /// Commits of statuses that came to the gate.
    pub arrived: watch::Sender<usize>,
    pub commits: AtomicUsize,
}

impl Gated {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(MemoryOptions::default()),
            gate: watch::Sender::new(Gate::Open),
            arrived: watch::Sender::new(0),
            commits: AtomicUsize::new(0),
        })
    }

    pub async fn inner_keys(&self) -> Vec<String> {
        let snapshot = self.inner.load().await.unwrap();
        snapshot.entries.into_iter().map(|e| e.key).collect()
    }
}

#[async_trait]
impl Store for Gated {
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
        if changes.iter().any(|c| c.key.starts_with("status/")) {
            self.arrived.send_modify(|n| *n += 1);
            let gate = *self
                .gate
                .subscribe()
                .wait_for(|g| *g != Gate::Closed)
                .await
                .map_err(|_| CommitError::Closed)?;
            if gate == Gate::Full {
                return Err(CommitError::Full("test".into()));
            }
            self.commits.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.commit(fence, changes).await
    }
    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        self.inner.take_term(incarnation, holder).await
    }
    fn newest(&self) -> Rv {
        self.inner.newest()
    }
}

/// A hub that leads, with what feeds it.
pub struct Base {
    pub store: Arc<Gated>,
    pub hub: Arc<Hub>,
    /// What feeds the hub.
    pub feed: tokio::task::AbortHandle,
    pub tasks: JoinSet<()>,
}

impl Base {
    pub async fn new() -> Self {
        Self::on(Gated::new()).await
    }

    pub async fn on(store: Arc<Gated>) -> Self {
        let base = Self::beside(store).await;
        base.lead("test").await;
        base
    }

    /// Takes the term, and leads under it.
    pub async fn lead(&self, holder: &str) -> Fence {
        let fence = leader::take(&self.hub, INCARNATION, holder).await.unwrap();
        self.hub.set_fence(Some(fence.clone()));
        fence
    }

    /// A hub that does not lead.
    pub async fn beside(store: Arc<Gated>) -> Self {
        let hub = Hub::load(store.clone()).await.unwrap();
        let mut tasks = JoinSet::new();
        let run = hub.clone().run();
        let feed = tasks.spawn(async move {
            let _ = run.await;
        });
        Self {
            store,
            hub,
            feed,
            tasks,
        }
    }

    pub async fn put(&self, key: String, value: Vec<u8>) -> Rv {
        let change = Change::put(key, Expect::Any, value);
        self.hub.commit(vec![change]).await.unwrap().last()
    }

    pub async fn delete(&self, keys: &[String]) {
        let changes = keys.iter().map(|k| Change::delete(k.clone(), Expect::Any)).collect();
        self.hub.commit(changes).await.unwrap();
    }

    pub async fn node(&self, name: &str) {
        let node = model::Node {
            metadata: ObjectMeta {
                name: name.into(),
                uid: format!("uid-{name}"),
                ..ObjectMeta::default()
            },
            ..model::Node::default()
        };
        self.put(keys::object(Kind::Node, "", name), record::encode(&node))
            .await;
    }

    /// A pod `default/<name>` with uid `uid-<name>`.
    pub async fn pod(&self, name: &str, node: &str) {
        self.put_pod(name, pod_record(name, node)).await;
    }

    pub async fn put_pod(&self, name: &str, pod: PodRecord) {
        let (hash, template) = template();
        if self.hub.read(|w| !w.templates.contains_key(&hash)) {
            self.put(keys::template(&hash), template).await;
        }
        self.put(keys::object(Kind::Pod, "default", name), record::encode(&pod))
            .await;
    }

    pub async fn stop(&self, name: &str, grace: u32) {
        let key = ("default".to_owned(), name.to_owned());
        let mut pod = self.hub.read(|w| (*w.pods[&key].record).clone());
        pod.stop = Some(StopRecord {
            at: Time(1),
            grace,
            reason: "scaled down".into(),
            lost: false,
            drain: None,
        });
        self.put_pod(name, pod).await;
    }

    pub async fn remove(&self, name: &str) {
        self.delete(&[
            keys::object(Kind::Pod, "default", name),
            keys::pod_status("default", name),
        ])
        .await;
    }

    /// Waits until the world is as `holds` says.
    pub async fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let mut feed = self.hub.subscribe();
        let wait = async {
            while !self.hub.read(&holds) {
                let _ = feed.recv().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("not seen: {what}"));
    }

    /// Waits for a reason of a node's Ready condition.
    pub async fn until_ready(&self, node: &str, reason: &str) {
        self.until(reason, |w| reason_of(w, node) == reason).await;
    }
}

pub fn reason_of(world: &World, node: &str) -> String {
    let ready = world.nodes.get(node).and_then(|n| n.ready.as_ref());
    ready.map(|r| r.value.reason.clone()).unwrap_or_default()
}

pub fn template() -> (String, Vec<u8>) {
    let spec = model::PodSpec {
        containers: vec![Container {
            name: "app".into(),
            image: "demo:1".into(),
            ..Container::default()
        }],
        ..model::PodSpec::default()
    };
    TemplateRecord {
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        annotations: BTreeMap::new(),
        spec,
    }
    .encode()
}

pub fn pod_record(name: &str, node: &str) -> PodRecord {
    PodRecord {
        uid: format!("uid-{name}"),
        template: template().0,
        created: Time(1),
        node: node.into(),
        ..PodRecord::default()
    }
}

pub fn status(phase: Phase) -> model::PodStatus {
    model::PodStatus {
        phase,
        ..model::PodStatus::default()
    }
}

/// A base with sessions that are served on a free port.
pub struct Rig {
    pub base: Base,
    pub sessions: Arc<Sessions>,
    pub metrics: Arc<Metrics>,
    pub notes: mpsc::Receiver<Note>,
    pub address: SocketAddr,
    pub driver: tokio::task::AbortHandle,
    /// Set: certificates are no longer valid.
    pub expired: Arc<AtomicBool>,
}

/// Takes the node's name where a real coordinator takes the certificate.
#[derive(Clone, Default)]
pub struct ByHeader {
    /// Every certificate has expired.
    pub expired: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Named(String);

impl Callers for ByHeader {
    fn peer(&self, extensions: &Extensions) -> Result<Peer, Status> {
        let Named(name) = extensions
            .get::<Named>()
            .ok_or_else(|| Status::unauthenticated("no certificate"))?;
        // As the certificate of a deleted node is known by its tombstone, and a generation by the registry.
        let bare = name.strip_prefix("deleted:");
        let (node, deleted) = (bare.unwrap_or(name), bare.is_some());
        let (node, generation) = node.split_once('#').unwrap_or((node, "0"));
        Ok(Peer {
            node: node.to_owned(),
            deleted,
            generation: generation.parse().expect("a generation"),
            address: "192.0.2.7".into(),
        })
    }

    fn still_valid(&self, _: &Extensions) -> Result<(), Status> {
        if self.expired.load(Ordering::Relaxed) {
            return Err(Status::unauthenticated("the certificate has expired"));
        }
        Ok(())
    }
}

#[async_trait]
impl Renewer for ByHeader {
    async fn renew(&self, extensions: &Extensions, csr_der: &[u8]) -> Result<Issued, Status> {
        Ok(Issued {
            certificate_chain_pem: format!("{} {}", self.peer(extensions)?.node, csr_der.len()),
            ..Issued::default()
        })
    }
}

#[async_trait]
impl Leaver for ByHeader {
    async fn leave(&self, peer: &Peer) -> Result<(), Status> {
        Err(Status::failed_precondition(format!("{} stays", peer.node)))
    }
}

pub fn helpers(all: ByHeader) -> Helpers {
    let all = Arc::new(all);
    Helpers {
        callers: all.clone(),
        renewer: all.clone(),
        leaver: all,
    }
}

pub fn named(mut request: Request<()>) -> Result<Request<()>, Status> {
    let node = request
        .metadata()
        .get("node")
        .and_then(|n| n.to_str().ok())
        .map(str::to_owned);
    if let Some(node) = node {
        request.extensions_mut().insert(Named(node));
    }
    Ok(request)
}

impl Rig {
    /// Says nothing on its own: what comes is an answer.
    pub async fn new() -> Self {
        Self::with(Settings {
            max_silence: Duration::from_secs(3600),
            ..Settings::default()
        })
        .await
    }

    pub async fn with(settings: Settings) -> Self {
        Self::on(Base::new().await, settings).await
    }

    pub async fn on(mut base: Base, settings: Settings) -> Self {
        let (recorder, notes) = Recorder::new();
        let metrics = Arc::new(Metrics::new());
        let (sessions, driver) = Sessions::new(base.hub.clone(), recorder, metrics.clone(), settings);
        let driver = base.tasks.spawn(async move {
            let _ = driver.run().await;
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let callers = ByHeader::default();
        let expired = callers.expired.clone();
        let server = AgentService::server(sessions.clone(), helpers(callers));
        let service = InterceptedService::new(server, named);
        base.tasks.spawn(async move {
            let _ = Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await;
        });
        Self {
            base,
            sessions,
            metrics,
            notes,
            address,
            driver,
            expired,
        }
    }

    pub async fn connect(&self, node: &str, hello: Hello) -> Agent {
        Agent::connect(self.address, node, hello).await
    }

    /// Connects and takes Welcome and the first assignments.
    pub async fn join(&self, node: &str, hello: Hello) -> Agent {
        let mut agent = self.connect(node, hello).await;
        agent.welcome().await;
        agent.assignments().await;
        agent
    }
}

/// Fails when nothing else but keeping alive goes on.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it did not come")
}

/// An agent that does what the test says; it keeps the ledger as a real one would.
pub struct Agent {
    pub up: mpsc::Sender<Up>,
    down: Streaming<Down>,
    pub ledger: Ledger,
}

pub async fn client(address: SocketAddr) -> AgentClient<tonic::transport::Channel> {
    AgentClient::connect(format!("http://{address}")).await.unwrap()
}

pub fn request<T>(node: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("node", node.parse().unwrap());
    request
}

impl Agent {
    pub async fn connect(address: SocketAddr, node: &str, hello: Hello) -> Self {
        Self::begin(address, node, up::Message::Hello(hello)).await
    }

    pub async fn begin(address: SocketAddr, node: &str, first: up::Message) -> Self {
        let (up, rx) = mpsc::channel(64);
        up.send(Up { message: Some(first) }).await.unwrap();
        let mut client = client(address).await;
        let down = client
            .session(request(node, ReceiverStream::new(rx)))
            .await
            .unwrap()
            .into_inner();
        Self {
            up,
            down,
            ledger: Ledger::default(),
        }
    }

    pub async fn say(&self, message: up::Message) {
        self.up.send(Up { message: Some(message) }).await.unwrap();
    }

    pub async fn heartbeat(&self) {
        self.say(up::Message::Heartbeat(Heartbeat { epoch: 1, seq: 1 })).await;
    }

    /// The next message, or how the stream ended.
    pub async fn next(&mut self) -> Result<Option<down::Message>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.down.message())
            .await
            .expect("no message");
        Ok(next?.and_then(|d| d.message))
    }

    pub async fn welcome(&mut self) -> Welcome {
        match self.next().await.unwrap() {
            Some(down::Message::Welcome(welcome)) => welcome,
            other => panic!("no Welcome but {other:?}"),
        }
    }

    /// The next assignments, after any acknowledgements; applied to the ledger.
    pub async fn assignments(&mut self) -> Assignments {
        within(async {
            loop {
                match self.next().await.unwrap() {
                    Some(down::Message::Ack(_)) => {}
                    Some(down::Message::Assignments(a)) => {
                        self.ledger.apply(&a);
                        return a;
                    }
                    other => panic!("no Assignments but {other:?}"),
                }
            }
        })
        .await
    }

    pub async fn ack(&mut self, seq: u64) {
        within(async {
            loop {
                match self.next().await.unwrap() {
                    Some(down::Message::Ack(a)) if a.seq == seq => return,
                    Some(down::Message::Ack(a)) if a.seq < seq => {}
                    Some(down::Message::Assignments(a)) => self.ledger.apply(&a),
                    other => panic!("no Ack{{{seq}}} but {other:?}"),
                }
            }
        })
        .await
    }

    pub async fn goodbye(&mut self) -> Goodbye {
        within(async {
            loop {
                match self.next().await.unwrap() {
                    Some(down::Message::Goodbye(goodbye)) => return goodbye,
                    None => panic!("the session ended without Goodbye"),
                    Some(_) => {}
                }
            }
        })
        .await
    }

    /// The error that ends the session.
    pub async fn refused(&mut self) -> Status {
        within(async {
            loop {
                match self.next().await {
                    Err(status) => return status,
                    Ok(None) => panic!("the session ended without an error"),
                    Ok(Some(_)) => {}
                }
            }
        })
        .await
    }

    pub async fn report(&self, seq: u64, pods: Vec<wire::PodStatus>) {
        self.say(up::Message::Statuses(Statuses { seq, pods })).await;
    }
}

pub fn report(name: &str, seq: u64, phase: Phase, stopped: bool) -> wire::PodStatus {
    wire::PodStatus {
        uid: format!("uid-{name}"),
        namespace: "default".into(),
        name: name.into(),
        epoch: 1,
        seq,
        status_json: record::encode(&status(phase)),
        stopped,
    }
}

/// A ledger as the protocol describes it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub fence: Option<wire::Fence>,
    pub revision: u64,
    /// Spec hash, marks and grace of the stop entry.
    pub pods: BTreeMap<String, (String, String, Option<u32>)>,
}

impl Ledger {
    pub fn apply(&mut self, a: &Assignments) {
        match a.kind() {
            assignments::Kind::Incremental => assert_eq!(a.applies_to, self.revision, "a gap"),
            assignments::Kind::Unchanged => assert!(a.run.is_empty() && a.stop.is_empty() && a.forget.is_empty()),
            assignments::Kind::Complete => {
                // Absent pods leave the ledger; nothing is stopped by that.
                let named = |uid: &String| a.run.iter().any(|r| r.uid == *uid) || a.stop.iter().any(|s| s.uid == *uid);
                self.pods.retain(|uid, _| named(uid));
            }
            assignments::Kind::Unspecified => panic!("no kind"),
        }
        for run in &a.run {
            let entry = self.pods.entry(run.uid.clone()).or_default();
            entry.0.clone_from(&run.spec_hash);
            entry.1 = digest::marks(&run.labels, &run.annotations);
        }
        for stop in &a.stop {
            self.pods.entry(stop.uid.clone()).or_default().2 = Some(stop.grace_seconds);
        }
        for uid in &a.forget {
            self.pods.remove(uid);
        }
        self.revision = a.results_in;
        self.fence.clone_from(&a.fence);
    }

    pub fn digest(&self) -> String {
        digest::assignments(self.pods.iter().map(|(uid, (hash, marks, stop))| digest::Item {
            uid,
            spec_hash: hash,
            marks: marks.clone(),
            stop: *stop,
        }))
    }

    /// A Hello from this ledger.
    pub fn hello(&self) -> Hello {
        Hello {
            fence: self.fence.clone(),
            revision: self.revision,
            digest: self.digest(),
            ..hello()
        }
    }
}

pub fn now_ms() -> u64 {
    u64::try_from(Time::now().0).unwrap() * 1000
}

/// Of a fresh agent.
pub fn hello() -> Hello {
    Hello {
        version: proto::VERSION.into(),
        facts: Some(facts()),
        epoch: 1,
        clock_ms: now_ms(),
        ..Hello::default()
    }
}

pub fn observed(name: &str, running: bool) -> Observed {
    Observed {
        uid: format!("uid-{name}"),
        namespace: "default".into(),
        name: name.into(),
        running,
    }
}
