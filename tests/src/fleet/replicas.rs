//! Several coordinators over one store, and agents that have a session to each, all of them the real ones, in one
//! runtime: on a paused clock a test's time is simulated, however many agents there are. Used by `tests/fleet`.
//!
//! Who leads is said by hand in [`Replicas::lead`]; what coordinators tell each other of who is heard, a task here carries.
//!
//! Invariant: store, engines and data directories outlive every kill; a killed coordinator writes nothing more.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use agent::{
    Config,
    facts::FixedFacts,
    join::{Connector, Join},
    runtime::{State, fake::FakeEngine},
    settings::Settings,
};
use coordinator::{
    events::Recorder,
    http::metrics::Metrics,
    leader,
    session::{
        self, Sessions,
        service::{AgentService, Helpers},
    },
    store::{Change, Entry, Expect, Rv, Store as _, keys, memory::MemoryStore},
    tls,
    world::{
        World,
        hub::Hub,
        record::{PodRecord, StatusRecord, TemplateRecord, encode},
    },
};
use proto::model::{Container, Kind, PodSpec, Time};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    crash::Crash,
    net::{Link, LinkConnector, Listener, Net, Who},
    quick,
    seat::{Gate, INCARNATION, Noting, Stops, new_store},
};

/// How often coordinators tell each other, and prove that they lead.
const PERIOD: Duration = Duration::from_millis(100);

/// See the module's head. Dropping it ends all of it.
pub struct Replicas {
    pub agents: Vec<Agent>,
    replicas: BTreeMap<usize, Replica>,
    store: Arc<MemoryStore>,
    net: Net,
    stops: Stops,
    _dir: TempDir,
}

/// One coordinator.
struct Replica {
    name: String,
    hub: Arc<Hub>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    /// Feeds its view of the store.
    feeding: JoinHandle<()>,
    frozen: bool,
    _listener: Listener,
    _tasks: JoinSet<()>,
}

/// One host.
pub struct Agent {
    pub name: String,
    pub engine: Arc<FakeEngine>,
    pub link: Arc<Link>,
    pub settings: Settings,
    dir: PathBuf,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
    _renewals: watch::Sender<Arc<dyn Connector>>,
}

pub fn address(replica: usize) -> String {
    format!("c{replica}:7443")
}

impl Replicas {
    /// So many coordinators, `c1`, `c2`, …, none of which leads, and hosts, `n0`, `n1`, …, whose agents know the first one
    /// and do not run.
    pub async fn new(coordinators: usize, agents: usize) -> Self {
        let names: Vec<_> = (0..agents).map(|i| format!("n{i}")).collect();
        let dir = tempfile::tempdir().expect("a directory");
        let (net, stops) = (Net::new(), Stops::default());
        let agents = names.iter().map(|name| {
            let engine = FakeEngine::new();
            let allowed = stops.clone();
            engine.guard_stops(move |uid| allowed.lock().unwrap_or_else(PoisonError::into_inner).contains(uid));
            Agent {
                engine,
                link: net.link(Who::Node(name.clone())),
                settings: quick(),
                dir: dir.path().join(name),
                running: None,
                name: name.clone(),
            }
        });
        let mut all = Self {
            agents: agents.collect(),
            replicas: BTreeMap::new(),
            store: new_store(&names, &[]).await,
            net,
            stops,
            _dir: dir,
        };
        let fence = all.store.take_term(INCARNATION, "records").await.expect("a term");
        for n in 1..=coordinators {
            let record = format!(
                "{{\"address\":\"{}\",\"enrol\":\"\",\"joined\":\"2026-01-01T00:00:00Z\"}}",
                address(n)
            );
            let change = Change::put(format!("coordinator/c{n}"), Expect::Absent, record);
            all.store.commit(&fence, vec![change]).await.expect("committed");
        }
        for n in 1..=coordinators {
            all.start(n).await;
        }
        all
    }

    /// As [`Replicas::new`], where the first one leads and all agents run and are there.
    pub async fn started(coordinators: usize, agents: usize) -> Self {
        let mut all = Self::new(coordinators, agents).await;
        all.lead(1).await;
        for agent in &mut all.agents {
            agent.start();
        }
        all.until("all nodes are ready and every coordinator hears them", |f| {
            f.all_heard(1)
        })
        .await;
        all
    }

    /// Starts a coordinator that stands by, if it does not run.
    pub async fn start(&mut self, n: usize) {
        if self.replicas.contains_key(&n) {
            return;
        }
        let store = Arc::new(Noting {
            inner: self.store.clone(),
            stops: self.stops.clone(),
            full: Arc::new(AtomicBool::new(false)),
            crash: Arc::new(Crash::default()),
        });
        let hub = Hub::load(store).await.expect("loaded");
        let feed = hub.clone().run();
        let feeding = tokio::spawn(async move {
            let _ = feed.await;
        });
        let (recorder, mut notes) = Recorder::new();
        let metrics = Arc::new(Metrics::new());
        let settings = session::Settings {
            coordinators: vec![address(n)],
            contested: true,
            ..session::Settings::default()
        };
        let (sessions, driver) = Sessions::new(hub.clone(), recorder, metrics.clone(), settings);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { while notes.recv().await.is_some() {} });
        tasks.spawn(async move {
            let ended = driver.run().await;
            panic!("the sessions' driver ended: {ended:?}");
        });
        let (listener, incoming) = self.net.listen_at(&address(n));
        let gate = Arc::new(Gate);
        let helpers = Helpers {
            callers: gate.clone(),
            renewer: gate.clone(),
            leaver: gate,
        };
        let service = AgentService::server(sessions.clone(), helpers);
        tasks.spawn(async move {
            let serving = tls::session_server().add_service(service);
            let _ = serving.serve_with_incoming(ReceiverStream::new(incoming)).await;
        });
        let (proven, leads, own) = (sessions.clone(), hub.clone(), self.store.clone());
        tasks.spawn(async move {
            loop {
                let at = Instant::now();
                // As a beat: the store takes it under the fence of the newest term only.
                if let Some(fence) = leads.fence()
                    && newest_term(&own).await == fence.term
                {
                    proven.led_at(at);
                }
                sleep(PERIOD).await;
            }
        });
        let replica = Replica {
            name: format!("c{n}"),
            hub,
            sessions,
            metrics,
            feeding,
            frozen: false,
            _listener: listener,
            _tasks: tasks,
        };
        self.replicas.insert(n, replica);
    }

    /// Lets a coordinator take the term, as its elector would. Whoever led finds out by its own view of the store, and its
    /// elector, which is not here, takes its fence away.
    pub async fn lead(&mut self, n: usize) {
        let hub = self.hub(n);
        let fence = leader::take(&hub, INCARNATION, &format!("c{n}")).await.expect("a term");
        for (other, replica) in &self.replicas {
            // One whose view stands still does not know.
            if *other != n && !replica.frozen {
                replica.hub.set_fence(None);
            }
        }
        hub.set_fence(Some(fence));
    }

    /// Ends a coordinator: its connections break, and it writes nothing more.
    pub async fn kill(&mut self, n: usize) {
        if let Some(replica) = self.replicas.remove(&n) {
            self.net.break_at(&address(n));
            replica.hub.set_fence(None);
            replica.feeding.abort();
            drop(replica);
        }
    }

    /// The coordinator's view of the store stands still: it takes itself for what it was.
    pub fn freeze(&mut self, n: usize) {
        if let Some(replica) = self.replicas.get_mut(&n) {
            replica.frozen = true;
            replica.feeding.abort();
        }
    }

    /// One round of what coordinators tell each other: the one that leads hears whom the others hear.
    pub fn exchange(&self, leader: usize, apart: &[usize]) {
        for (n, replica) in &self.replicas {
            if *n != leader {
                let heard = (!apart.contains(n)).then(|| replica.sessions.heard());
                self.replicas[&leader].sessions.heard_elsewhere(&replica.name, heard);
            }
        }
    }

    fn hub(&self, n: usize) -> Arc<Hub> {
        self.replicas.get(&n).expect("it runs").hub.clone()
    }

    pub fn world<R>(&self, n: usize, look: impl FnOnce(&World) -> R) -> R {
        self.replicas.get(&n).expect("it runs").hub.read(look)
    }

    /// One sample of a coordinator's metrics page; 0 without.
    pub fn metric(&self, n: usize, sample: &str) -> u64 {
        let replica = self.replicas.get(&n).expect("it runs");
        let page = replica.metrics.page(&replica.hub, 0);
        let value = page.lines().find_map(|l| l.strip_prefix(sample)?.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// Sessions that ended, for whatever reason.
    pub fn sessions_ended(&self, n: usize) -> u64 {
        let replica = self.replicas.get(&n).expect("it runs");
        let page = replica.metrics.page(&replica.hub, 0);
        let lines = page.lines().filter(|l| l.starts_with("wharf_sessions_ended_total{"));
        lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    pub fn sent(&self, n: usize, kind: &str) -> u64 {
        self.metric(n, &format!("wharf_assignments_sent_total{{kind=\"{kind}\"}}"))
    }

    /// Whether the leader has every node ready, and every coordinator hears all of them.
    pub fn all_heard(&self, leader: usize) -> Result<(), String> {
        self.world(leader, |w| match w.nodes.iter().find(|(_, n)| !n.is_ready()) {
            Some((name, _)) => Err(format!("{name} is not ready")),
            None => Ok(()),
        })?;
        for replica in self.replicas.values() {
            let heard = replica.sessions.heard().len();
            if heard != self.agents.len() {
                return Err(format!("{} hears {heard}", replica.name));
            }
        }
        Ok(())
    }

    /// A pod `default/<name>` on a node, committed by the coordinator that leads.
    pub async fn run_pod(&self, leader: usize, name: &str, node: &str, annotations: BTreeMap<String, String>) {
        let (hash, template) = TemplateRecord {
            labels: BTreeMap::new(),
            annotations,
            spec: PodSpec {
                containers: vec![Container {
                    name: "app".into(),
                    image: "web:1".into(),
                    ..Container::default()
                }],
                ..PodSpec::default()
            },
        }
        .encode();
        let pod = PodRecord {
            uid: format!("uid-{name}"),
            template: hash.clone(),
            created: Time::now(),
            node: node.to_owned(),
            ..PodRecord::default()
        };
        let hub = self.hub(leader);
        if hub.read(|w| !w.templates.contains_key(&hash)) {
            let change = Change::put(keys::template(&hash), Expect::Absent, template);
            hub.commit(vec![change]).await.expect("committed");
        }
        let key = keys::object(Kind::Pod, "default", name);
        hub.commit(vec![Change::put(key, Expect::Absent, encode(&pod))])
            .await
            .expect("committed");
    }

    pub fn pods_ready(&self, at: usize) -> Result<(), String> {
        self.world(at, |w| match w.pods.iter().find(|(_, p)| !p.ready()) {
            Some((key, _)) => Err(format!("{} is not ready", key.1)),
            None => Ok(()),
        })
    }

    /// What is on record of a pod.
    pub async fn status(&self, name: &str) -> Option<StatusRecord> {
        let entry: Option<Entry> = self.store.get(&keys::pod_status("default", name)).await.expect("read");
        entry.map(|e| serde_json::from_slice(&e.value).expect("a status"))
    }

    /// Keys that were written after `from`, and that `which` says of.
    pub async fn written_since(&self, from: Rv, which: impl Fn(&str) -> bool) -> Vec<String> {
        let mut updates = self.store.watch(from).await.expect("the whole history is kept");
        let (newest, mut seen, mut keys) = (self.store.newest(), from, Vec::new());
        while seen < newest {
            for update in updates.recv().await.expect("the watch goes on to its end") {
                seen = seen.max(update.rv);
                if which(&update.key) {
                    keys.push(update.key);
                }
            }
        }
        keys
    }

    pub fn newest(&self) -> Rv {
        self.store.newest()
    }

    /// Names and ids of all containers that run, by host.
    pub fn containers(&self) -> BTreeMap<String, Vec<String>> {
        self.agents.iter().map(|a| (a.name.clone(), a.containers())).collect()
    }

    /// Broken promises that engines noticed.
    pub fn violations(&self) -> Vec<String> {
        self.agents.iter().flat_map(|a| a.engine.violations()).collect()
    }

    /// Looks again and again until `holds` says Ok; panics with its last reason after a minute of the clock.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> Result<(), String>) {
        let start = Instant::now();
        while let Err(reason) = holds(self) {
            assert!(start.elapsed() < Duration::from_secs(60), "{what}: {reason}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn newest_term(store: &MemoryStore) -> u64 {
    let term = store.get("term").await.expect("read");
    term.map_or(0, |e| e.rv.revision())
}

impl Agent {
    /// Starts the agent if it does not run. It is told the address of the first coordinator.
    pub fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        let connector = LinkConnector {
            link: self.link.clone(),
            settings: self.settings.clone(),
        };
        let (join, renewals) = Join::with(&self.name, vec![address(1)], Arc::new(connector));
        let config = Config {
            settings: self.settings.clone(),
            ..Config::new(&self.dir, join)
        };
        let stop = CancellationToken::new();
        let facts = Arc::new(FixedFacts::new(&self.name, "10.0.0.1", 64, 256 << 30));
        let agent = agent::run(config, self.engine.clone(), facts, stop.clone());
        let task = tokio::spawn(async move {
            agent.await.expect("the agent ends well");
        });
        self.running = Some(Running {
            stop,
            task,
            _renewals: renewals,
        });
    }

    /// Ends the agent in good order; containers keep running.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            running.task.await.expect("no panic");
        }
    }

    /// Ids of the containers that run.
    pub fn containers(&self) -> Vec<String> {
        let all = self.engine.containers().into_iter();
        let running = all.filter(|c| matches!(c.state, State::Running { .. }));
        running.map(|c| c.id).collect()
    }

    /// The whole of its `status.json`.
    pub fn status_text(&self) -> String {
        agent::status::text(&self.dir).unwrap_or_default()
    }
}
