//! What the measurements stand on: an engine of the run's own, a cluster of one node on it, and the observer of an
//! engine's starts and ends. Made once a run by [`super::measure`]; [`super::drain`] watches engines of its own.
//!
//! Invariant: every contender is timed by the engine's own clock: from just before its first call or command to
//! the time that the engine wrote on its event `start` of the last container, which is on this machine's clock.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
};
use futures::{StreamExt as _, stream};
use tokio::runtime::Runtime;

use super::{pause, until};
use crate::{
    Cluster, Options,
    docker::{Engine, OwnEngine},
};

/// The one node of the measured cluster.
pub const NODE: &str = "n1";
/// Of one call of ours to the engine.
const CALL_LIMIT_S: u64 = 120;
/// Between the end of one measurement and the start of the next.
const SETTLE: Duration = Duration::from_secs(2);

/// See the module's head. The cluster goes first: its agent would put back what the engine's end removes.
pub struct Bed<'a> {
    pub cluster: Cluster,
    pub watched: Watched<'a>,
    pub engine: OwnEngine,
}

/// An engine whose containers' starts and ends are noted. What is on it is the bench's.
pub struct Watched<'a> {
    pub docker: Docker,
    pub starts: Moments,
    pub ends: Moments,
    pub runtime: &'a Runtime,
}

impl<'a> Bed<'a> {
    pub fn start(runtime: &'a Runtime) -> Self {
        // As on a real host: with the packet filter's rules and the default bridge.
        let engine = OwnEngine::with("bench", &["--iptables=true", "--ip-masq=true"]);
        let watched = Watched::new(runtime, &engine.engine);
        let cluster = cluster(&engine.engine);
        Self {
            cluster,
            watched,
            engine,
        }
    }

    /// Version, storage driver and cgroups of the engine.
    pub fn engine_line(&self) -> String {
        let Watched { runtime, docker, .. } = &self.watched;
        let info = runtime.block_on(docker.info()).expect("the engine's facts");
        let backing = info.driver_status.into_iter().flatten();
        let backing = backing
            .filter(|pair| pair.first().is_some_and(|key| key == "Backing Filesystem"))
            .filter_map(|pair| pair.get(1).cloned())
            .next();
        format!(
            "Docker {} ({} on {}, cgroups {})",
            info.server_version.unwrap_or_default(),
            info.driver.unwrap_or_default(),
            backing.unwrap_or_else(|| "?".to_owned()),
            info.cgroup_version.map_or_else(|| "?".to_owned(), |v| v.to_string()),
        )
    }
}

impl<'a> Watched<'a> {
    pub fn new(runtime: &'a Runtime, engine: &Engine) -> Self {
        let docker = {
            let _guard = runtime.enter();
            Docker::connect_with_unix(&engine.host, CALL_LIMIT_S, API_DEFAULT_VERSION).expect("the engine")
        };
        Self {
            starts: Moments::follow(runtime, docker.clone(), "start"),
            ends: Moments::follow(runtime, docker.clone(), "die"),
            docker,
            runtime,
        }
    }

    /// Ids of all containers, or of those that run.
    pub fn containers(&self, all: bool) -> Vec<String> {
        let options = ListContainersOptionsBuilder::default().all(all).build();
        let listed = self
            .runtime
            .block_on(self.docker.list_containers(Some(options)))
            .expect("the engine's list");
        listed.into_iter().filter_map(|c| c.id).collect()
    }

    /// Removes all containers at once, running or not.
    pub fn remove_all(&self) {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let removals = stream::iter(self.containers(true)).for_each_concurrent(8, |id| {
            let options = options.clone();
            async move {
                // One that is going away already is as good.
                let _ = self.docker.remove_container(&id, Some(options)).await;
            }
        });
        self.runtime.block_on(removals);
    }

    /// Waits until no container is left, and a moment longer.
    pub fn quiet(&self, whose: &str) {
        until(&format!("the engine without containers of {whose}"), || {
            self.containers(true).is_empty()
        });
        pause(SETTLE);
    }

    /// Seconds from the call of `begin` until the engine started `n` containers. All of them must run then.
    pub fn time(&self, whose: &str, n: u32, begin: impl FnOnce()) -> f64 {
        let mark = self.starts.count();
        let from = now_ns();
        begin();
        let n = n as usize;
        until(&format!("{n} starts of {whose}"), || self.starts.count() >= mark + n);
        let last = self.starts.at(mark + n - 1);
        let running = self.containers(false).len();
        let starts = self.starts.count() - mark;
        assert!(
            running == n && starts == n,
            "{whose}: {running} containers run after {starts} starts, not {n}"
        );
        seconds(last - from)
    }
}

/// A cluster as shipped, with one node on an engine.
pub fn cluster(engine: &Engine) -> Cluster {
    let mut cluster = Cluster::with(Options {
        engine: engine.clone(),
        quick: false,
        ..Options::default()
    });
    cluster.join(&[NODE]);
    cluster
}

/// Nanoseconds since 1970.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

pub fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

/// The engine's times of one kind of event of its containers, in order, for as long as the runtime lives.
#[derive(Clone)]
pub struct Moments(Arc<Mutex<Vec<(i64, String)>>>);

impl Moments {
    fn follow(runtime: &Runtime, docker: Docker, event: &'static str) -> Self {
        let moments = Self(Arc::default());
        let seen = moments.clone();
        let filters = HashMap::from([("type", vec!["container"]), ("event", vec![event])]);
        // Nothing is asked before the first poll: what happens until then is replayed.
        let since = (now_ns() / 1_000_000_000).to_string();
        let options = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
        runtime.spawn(async move {
            let mut events = docker.events(Some(options));
            // It ends with the engine; a measurement under way then fails for want of events.
            while let Some(Ok(event)) = events.next().await {
                let name = event.actor.and_then(|a| a.attributes?.remove("name"));
                if let Some(at) = event.time_nano {
                    seen.all().push((at, name.unwrap_or_default()));
                }
            }
        });
        moments
    }

    fn all(&self) -> MutexGuard<'_, Vec<(i64, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// Time of the event of this number, counted from 0; nanoseconds since 1970.
    pub fn at(&self, number: usize) -> i64 {
        self.all()[number].0
    }

    /// The first event of a container whose name contains this; nanoseconds since 1970.
    pub fn time_of(&self, part: &str) -> Option<i64> {
        let all = self.all();
        all.iter().find(|(_, name)| name.contains(part)).map(|(at, _)| *at)
    }
}
