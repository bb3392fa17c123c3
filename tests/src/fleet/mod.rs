//! The simulated fleet: a coordinator and any number of agents in this process, the real ones, over engines, a
//! store and connections in memory. Used by `tests/fleet` and by benchmarks.
//!
//! | file | what it is |
//! |---|---|
//! | `net` | connections that can be cut and silenced |
//! | `crash`, `brittle` | a coordinator that ends at one of its commits, an agent that ends at one of its steps |
//! | `replicas` | several coordinators over one store, and agents with a session to each, on any clock |
//! | `seat`, `host` | the coordinator; one host with its agent: killed and started again |
//! | `logs` | a reader of a log, as slow as a test wants it |
//! | `admin` | create, scale, patch, cordon, delete through the API, repeated until they are acknowledged |
//! | `check` | whether the fleet is what was asked for, and whether its history was lawful |
//!
//! Invariant: store, engines and data directories outlive every kill; a killed part runs no instruction more.

mod admin;
mod brittle;
mod check;
mod crash;
mod host;
mod logs;
mod net;
mod replicas;
mod seat;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use agent::settings::Settings;
use coordinator::{
    config::Options,
    control,
    store::{Change, Rv, Store as _, memory::MemoryStore},
    world::World,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use self::{
    admin::{Admin, Wanted, controller},
    check::Asked,
    crash::Side,
    host::Host,
    logs::LogReader,
    net::{Link, Net, Who},
    replicas::{Replicas, address},
};
use self::{
    crash::Crash,
    seat::{Making, Seat, Stops, new_store},
};

/// How a fleet is made. All times are short.
#[derive(Clone)]
pub struct Builder {
    pub agents: usize,
    pub settings: Settings,
    pub coordinator: Options,
    pub control: control::Settings,
    /// What `wharf settings set` would have set.
    pub cluster: Vec<(&'static str, &'static str)>,
}

impl Builder {
    /// So many hosts, named `n0`, `n1`, ….
    pub fn new(agents: usize) -> Self {
        Self {
            agents,
            settings: quick(),
            coordinator: Options {
                heartbeat_ms: Some(50),
                missed_heartbeats: Some(20),
                agent_down_ms: Some(200),
                max_silence_ms: Some(1_000),
                served_mark_ms: Some(100),
                ..Options::default()
            },
            control: control::Settings {
                full_pass_ms: 500,
                expiry_ms: 500,
                events_flush_ms: 100,
                park_ms: 50,
                ..control::Settings::default()
            },
            cluster: Vec::new(),
        }
    }

    /// Starts the coordinator and all agents.
    pub async fn start(self) -> Fleet {
        let names: Vec<_> = (0..self.agents).map(|i| format!("n{i}")).collect();
        let dir = tempfile::tempdir().expect("a directory");
        let net = Net::new();
        let stops = Stops::default();
        let ended = Arc::default();
        let store = new_store(&names, &self.cluster).await;
        let hosts = names.iter().map(|name| {
            let link = net.link(Who::Node(name.clone()));
            let host = Host::new(
                name.clone(),
                dir.path().join(name),
                link,
                self.settings.clone(),
                Arc::clone(&ended),
            );
            let allowed = stops.clone();
            host.engine
                .guard_stops(move |uid| allowed.lock().unwrap_or_else(PoisonError::into_inner).contains(uid));
            host
        });
        let mut fleet = Fleet {
            hosts: hosts.collect(),
            store,
            seat: None,
            deposed: Vec::new(),
            seats: 0,
            net,
            stops,
            full: Arc::default(),
            crash: Arc::default(),
            ended,
            settings: self.settings,
            coordinator: self.coordinator,
            control: self.control,
            dir,
        };
        fleet.start_coordinator().await;
        for host in &mut fleet.hosts {
            host.start();
        }
        fleet
    }
}

/// An agent's settings with short times.
fn quick() -> Settings {
    Settings {
        ready_after_ms: 10,
        crash_initial_ms: 10,
        crash_max_ms: 100,
        crash_reset_ms: 1_000,
        image_initial_ms: 10,
        image_max_ms: 100,
        image_recheck_ms: 50,
        retry_initial_ms: 10,
        retry_max_ms: 100,
        fresh_error_ms: 20,
        relist_ms: 200,
        engine_retry_ms: 20,
        engine_down_after: 2,
        gc_grace_ms: 200,
        task_restart_ms: 20,
        lazy_write_ms: 10,
        sync_writes: false,
        facts_ms: 500,
        connect_timeout_ms: 1_000,
        keepalive_interval_ms: 1_000,
        keepalive_timeout_ms: 1_000,
        welcome_timeout_ms: 2_000,
        send_timeout_ms: 2_000,
        reconnect_initial_ms: 10,
        reconnect_max_ms: 100,
        refused_retry_ms: 100,
        stable_after_ms: 200,
        gather_ms: 2,
        ..Settings::default()
    }
}

/// See the module's head. Dropping it ends all of it.
pub struct Fleet {
    pub hosts: Vec<Host>,
    store: Arc<MemoryStore>,
    seat: Option<Seat>,
    /// Lost the term and do not know it yet.
    deposed: Vec<Seat>,
    /// Data directories of coordinators.
    seats: usize,
    net: Net,
    stops: Stops,
    full: Arc<AtomicBool>,
    crash: Arc<Crash>,
    ended: Arc<Mutex<Vec<String>>>,
    settings: Settings,
    coordinator: Options,
    control: control::Settings,
    dir: TempDir,
}

impl Fleet {
    /// A fleet of so many hosts, to be started.
    pub fn of(agents: usize) -> Builder {
        Builder::new(agents)
    }

    /// Starts a coordinator if there is none: the same data directory, the store as it was left.
    pub async fn start_coordinator(&mut self) {
        if self.seat.is_some() {
            return;
        }
        let dir = self.dir.path().join(format!("coordinator{}", self.seats));
        std::fs::create_dir_all(&dir).expect("a directory");
        let making = Making {
            dir: &dir,
            options: self.coordinator.clone(),
            control: self.control.clone(),
            store: self.store.clone(),
            stops: self.stops.clone(),
            full: self.full.clone(),
            crash: self.crash.clone(),
            net: &self.net,
            ended: self.ended.clone(),
        };
        self.seat = Some(Seat::start(making).await);
    }

    /// Ends the coordinator as SIGKILL would.
    pub async fn kill_coordinator(&mut self) {
        if let Some(seat) = self.seat.take() {
            // The listener goes with the process, not before it.
            seat.kill().await;
            self.net.close();
            self.kill_deposed().await;
            self.crash.disarm();
            self.store = Arc::new(self.store.reopen());
        }
    }

    /// Another coordinator, with a data directory of its own, takes the term while the present one lives on with
    /// the connections that it has.
    pub async fn depose_coordinator(&mut self) {
        if let Some(seat) = self.seat.take() {
            seat.depose();
            self.deposed.push(seat);
            self.seats += 1;
            self.start_coordinator().await;
        }
    }

    /// Ends the coordinators that were deposed, as SIGKILL would.
    pub async fn kill_deposed(&mut self) {
        for seat in self.deposed.drain(..) {
            seat.kill().await;
        }
    }

    /// The coordinator ends at its `commit`th commit from now, counted from one; to be killed once [`Fleet::fell`].
    pub fn crash_at(&self, commit: u32, side: Side) {
        self.crash.arm(commit, side);
    }

    /// Whether the coordinator has ended by [`Fleet::crash_at`].
    pub fn fell(&self) -> bool {
        self.crash.fell().is_some()
    }

    /// Whether the store has room for commits.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// Whether a coordinator runs.
    pub fn coordinated(&self) -> bool {
        self.seat.is_some()
    }

    /// A client of the API, over a link of its own; it serves coordinators yet to come, too.
    pub fn admin(&self) -> Admin {
        Admin::new(self.net.link(Who::User("admin".into())), self.settings.clone())
    }

    /// Looks at the world of the coordinator of the moment; panics when there is none.
    #[track_caller]
    pub fn world<R>(&self, look: impl FnOnce(&World) -> R) -> R {
        self.seat.as_ref().expect("a coordinator").hub.read(look)
    }

    /// Writes beside the API, as the coordinator of the moment; panics when there is none.
    pub async fn commit(&self, changes: Vec<Change>) {
        let hub = self.seat.as_ref().expect("a coordinator").hub.clone();
        hub.commit(changes).await.expect("committed");
    }

    /// One sample of the coordinator's metrics page, by its name and labels as they stand there; 0 without.
    #[track_caller]
    pub fn metric(&self, sample: &str) -> u64 {
        let seat = self.seat.as_ref().expect("a coordinator");
        let page = seat.metrics.page(&seat.hub, 0);
        let value = page.lines().find_map(|l| l.strip_prefix(sample)?.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// Version of the newest commit.
    pub fn newest(&self) -> Rv {
        self.store.newest()
    }

    /// Every fault but those of images ends: all parts run, are connected, and their engines answer.
    pub async fn heal(&mut self) {
        self.set_full(false);
        self.kill_deposed().await;
        self.start_coordinator().await;
        for host in &mut self.hosts {
            host.link.restore();
            host.engine.set_unavailable(None);
            host.start();
        }
    }

    /// Looks again and again until `holds` says Ok; panics with its last reason after `limit`.
    pub async fn until(&self, what: &str, limit: Duration, holds: impl Fn(&Self) -> Result<(), String>) {
        let start = Instant::now();
        while let Err(reason) = holds(self) {
            assert!(start.elapsed() < limit, "{what}: not within {limit:?}: {reason}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.abandon();
        }
        for seat in self.deposed.drain(..).chain(self.seat.take()) {
            seat.abandon();
        }
    }
}

/// Ends all tasks of a runtime, wherever they are, and waits for it.
async fn end(runtime: Runtime) {
    let ending = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(30)));
    ending.await.expect("no panic");
}
