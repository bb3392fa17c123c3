//! Swarm with three managers, its leader killed: the peer of [`super::ha`], with the same writer. Called by
//! [`super::measure`].
//!
//! Each manager is an engine of the run's own in a network namespace, linked to the others by a bridge. A write makes a
//! config of a few bytes: one entry of the managers' log, as a change of one object is one of etcd's. Swarm's times are
//! as shipped; it has no setting for its election.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::{ConfigSpec, Reachability},
    query_parameters::ListNodesOptions,
};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use super::{
    pause, say,
    stats::Sample,
    until,
    writer::{Place, Writer},
};
use crate::{docker::OwnEngine, hosts::Network};

const MANAGERS: usize = 3;
/// Of managers.
const PORT: u16 = 2377;
/// Lets what a fault left settle before the next one.
const BETWEEN: Duration = Duration::from_secs(2);

/// Milliseconds from the leader's SIGKILL to the first accepted write, `rounds` times.
pub fn measure(runtime: &Runtime, rounds: u32) -> Sample {
    let mut swarm = Swarm::start();
    let dockers = swarm.dockers(runtime);
    let writer = Writer::start(dockers.iter().cloned().map(Manager).collect());
    until("Swarm accepts a write", || writer.last().is_some());
    let mut values = Vec::new();
    for round in 0..rounds {
        if round % 10 == 0 {
            say(&format!("Swarm's leader is killed, {} of {rounds}", round + 1));
        }
        swarm.all_there(runtime, &dockers);
        pause(BETWEEN);
        let leader = swarm.leader(runtime, &dockers).expect("a leader, just seen");
        let start = Instant::now();
        swarm.engines[leader].down(Signal::SIGKILL);
        until("Swarm accepts a write", || writer.first_begun_after(start).is_some());
        let took = writer
            .first_begun_after(start)
            .expect("just seen")
            .duration_since(start);
        values.push(took.as_secs_f64() * 1000.0);
        swarm.engines[leader].up();
    }
    Sample::new(values).expect("at least one round")
}

/// Fields are dropped in this order.
struct Swarm {
    engines: Vec<OwnEngine>,
    network: Network,
}

impl Swarm {
    fn start() -> Self {
        let mut network = Network::new();
        network.connect_hosts();
        let starts: Vec<_> = (1..=MANAGERS)
            .map(|i| thread::spawn(move || OwnEngine::start(&format!("manager{i}"))))
            .collect();
        // All of them are waited for first: none may come up after the others were removed.
        let engines: Vec<_> = starts.into_iter().map(thread::JoinHandle::join).collect();
        let engines: Vec<OwnEngine> = engines.into_iter().map(|e| e.expect("an engine")).collect();
        for (i, engine) in engines.iter().enumerate() {
            network.connect(i + 1, engine.namespace());
        }
        let swarm = Self { engines, network };
        swarm.join();
        swarm
    }

    fn address(&self, manager: usize) -> String {
        format!("{}:{PORT}", self.network.address(manager + 1))
    }

    fn join(&self) {
        let mut token = String::new();
        for (i, engine) in self.engines.iter().enumerate() {
            let (own, first) = (self.address(i), self.address(0));
            let at = ["--advertise-addr", &own, "--listen-addr", &own];
            let docker = |args: &[&str]| engine.engine.docker(args).ok();
            if i == 0 {
                docker(&[&["swarm", "init"][..], &at].concat());
                let asked = docker(&["swarm", "join-token", "-q", "manager"]);
                asked.trim().clone_into(&mut token);
            } else {
                docker(&[&["swarm", "join", "--token", &token][..], &at, &[&first]].concat());
            }
        }
    }

    fn dockers(&self, runtime: &Runtime) -> Vec<Docker> {
        let _context = runtime.enter();
        let connect = |engine: &OwnEngine| Docker::connect_with_unix(&engine.engine.host, 10, API_DEFAULT_VERSION);
        self.engines.iter().map(|e| connect(e).expect("an engine")).collect()
    }

    /// Waits until every manager is reachable and one leads.
    fn all_there(&self, runtime: &Runtime, dockers: &[Docker]) {
        until("all of Swarm's managers are reachable", || {
            let seen = managers(runtime, &dockers[0]);
            seen.len() == MANAGERS && seen.values().all(|m| m.reachable) && seen.values().any(|m| m.leads)
        });
    }

    fn leader(&self, runtime: &Runtime, dockers: &[Docker]) -> Option<usize> {
        let seen = managers(runtime, &dockers[0]);
        (0..MANAGERS).find(|i| seen.get(&self.address(*i)).is_some_and(|m| m.leads))
    }
}

struct Seen {
    reachable: bool,
    leads: bool,
}

/// What one manager says of all, by address; empty while it does not answer.
fn managers(runtime: &Runtime, docker: &Docker) -> HashMap<String, Seen> {
    let asked = docker.list_nodes(None::<ListNodesOptions>);
    let nodes = runtime.block_on(asked).unwrap_or_default();
    let status = nodes.into_iter().filter_map(|n| n.manager_status);
    let seen = status.filter_map(|status| {
        let reachable = status.reachability.is_some_and(|r| r == Reachability::REACHABLE);
        let leads = status.leader == Some(true);
        Some((status.addr?, Seen { reachable, leads }))
    });
    seen.collect()
}

struct Manager(Docker);

impl Place for Manager {
    async fn write(&mut self, number: u64) -> Result<(), ()> {
        let config = ConfigSpec {
            name: Some(format!("bench-{number}")),
            // "x", in base64.
            data: Some("eA==".to_owned()),
            ..ConfigSpec::default()
        };
        self.0.create_config(config).await.map(drop).map_err(|_| ())
    }
}
