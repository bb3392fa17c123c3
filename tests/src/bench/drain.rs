//! A node is drained to two others: raw Docker that starts as many containers and stops as many, wharf, and Swarm, in
//! turn. Called by [`super::measure`].
//!
//! Raw Docker and wharf's three nodes share one engine, so that both have the same work on the same machine. Swarm has
//! one node an engine: three, linked by a network of their own. Its drain stops all tasks at once and starts them
//! elsewhere then; wharf and raw Docker keep each container until the one in its place runs.
//!
//! Nothing waits on purpose: a container is Ready when it runs, nothing drains Endpoints, and its first process ends on
//! the stop signal at once. The same drain with the settings that are shipped is mostly such waiting; it is told beside
//! it, once, and held against nothing.
//!
//! Invariant: raw Docker's container is copied from the one that wharf made, but for the labels by which agents know
//! theirs. wharf is timed to the answer that the node is drained, raw Docker to that to its last call, and Swarm, which
//! says nothing, to the engine's time of the last start or end. Raw Docker's removals are not timed; those of wharf,
//! which removes while it drains, are not told apart.

use std::time::{Duration, Instant};

use bollard::{models::ContainerCreateBody, query_parameters::StopContainerOptionsBuilder};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{
    Args,
    engine::{Watched, now_ns, seconds},
    pause, say,
    scale::{made_by_wharf, start_one},
    stats::{Contenders, Sample},
    until,
};
use crate::{
    Hosts, Options,
    cluster::controller,
    docker::{Engine, IMAGE},
    program::Background,
};

/// Controller and service.
const NAME: &str = "bench";
/// Pods under way at a time: as the setting `drain-parallel` is shipped.
const PARALLEL: u16 = 8;
/// At most this many times raw Docker.
pub const GOAL: f64 = 1.25;
/// wharf's nodes; the first one is drained. Also the hosts, of which wharf uses the first.
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// What makes nothing wait.
const AT_ONCE: [&str; 2] = ["ready-after=0s", "endpoint-drain=0s"];
/// Between getting ready and the measurement.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Drain {
    pub pods: u32,
    /// Seconds of each contender; raw first.
    pub contenders: Contenders,
    /// Seconds of wharf to the end of its last container, by the engine's clock.
    pub ended: Sample,
    /// Seconds of wharf as shipped.
    pub shipped: f64,
}

impl Drain {
    /// Pods under way at a time.
    pub fn parallel() -> u16 {
        PARALLEL
    }

    pub fn json(&self) -> Value {
        json!({"pods": self.pods, "parallel": PARALLEL, "goal": GOAL,
               "contenders": self.contenders.json(),
               "lastContainerEndedSeconds": self.ended.json(), "asShippedSeconds": self.shipped})
    }
}

/// The rounds; see the module's head.
pub fn measure(runtime: &tokio::runtime::Runtime, args: &Args) -> Drain {
    let n = args.containers;
    let options = Options {
        quick: false,
        ..Options::default()
    };
    let hosts = if args.no_swarm { 1 } else { NODES.len() };
    let mut hosts = Hosts::without_agents("drainbench", hosts, options);
    hosts.join_on(NODES[0], &NODES);
    if !args.no_swarm {
        hosts.reach_each_other();
    }
    let watched: Vec<Watched> = hosts
        .names()
        .iter()
        .map(|name| Watched::new(runtime, &hosts.engine(name).engine))
        .collect();
    let nodes = Nodes {
        hosts: &hosts,
        watched: &watched[0],
        n,
    };
    wharf(&hosts, &[&["settings", "set"][..], &AT_ONCE].concat());
    nodes.create(NAME, &controller(NAME, 0, &["sleep"]));
    let swarm = (!args.no_swarm).then(|| Swarm::begin(&hosts, &watched, n));
    say("warming up");
    nodes.fill(NAME);
    let body = unlabelled(made_by_wharf(&watched[0], hosts.cluster.dir()));
    nodes.empty(NAME);
    let (mut raws, mut wharfs, mut ended, mut swarms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.repeats {
        let about = format!("drain round {round} of {}", args.repeats);
        raws.push(raw(&watched[0], &body, n));
        say(&format!("{about}: raw Docker {:.2} s", raws.last().unwrap_or(&0.0)));
        let took = nodes.drain(NAME);
        say(&format!(
            "{about}: wharf {:.2} s, last end {:.2} s",
            took.said, took.ended
        ));
        wharfs.push(took.said);
        ended.push(took.ended);
        if let Some(swarm) = &swarm {
            swarms.push(swarm.drain());
            say(&format!("{about}: Swarm {:.2} s", swarms.last().unwrap_or(&0.0)));
        }
    }
    say("the drain as shipped");
    let shipped = nodes.as_shipped();
    let contenders = [("raw", raws), ("wharf", wharfs), ("swarm", swarms)];
    Drain {
        pods: n,
        contenders: Contenders::new(contenders),
        ended: Sample::new(ended).expect("at least one round"),
        shipped,
    }
}

/// Starts `n`; then, so many at once, starts one and stops one of those. Seconds of the latter.
fn raw(watched: &Watched, body: &ContainerCreateBody, n: u32) -> f64 {
    let lanes = usize::from(PARALLEL);
    let begun = stream::iter(0..n).map(|_| start_one(&watched.docker, body));
    let old: Vec<String> = watched.runtime.block_on(begun.buffer_unordered(lanes).collect());
    pause(SETTLE);
    let grace = StopContainerOptionsBuilder::default().t(1).build();
    let from = Instant::now();
    watched
        .runtime
        .block_on(stream::iter(old).for_each_concurrent(lanes, |old| async {
            start_one(&watched.docker, body).await;
            let stopped = watched.docker.stop_container(&old, Some(grace.clone())).await;
            stopped.expect("stop");
            drop(old);
        }));
    let took = from.elapsed().as_secs_f64();
    let running = watched.containers(false).len();
    assert!(running == n as usize, "raw Docker: {running} containers run, not {n}");
    watched.remove_all();
    watched.quiet("raw Docker");
    took
}

/// As many labels, none of which an agent knows as its own.
fn unlabelled(mut body: ContainerCreateBody) -> ContainerCreateBody {
    let labels = body.labels.take().unwrap_or_default();
    let renamed = labels
        .into_iter()
        .map(|(name, value)| (name.replace("io.wharfinger.", "io.bench."), value));
    body.labels = Some(renamed.collect());
    body
}

/// `wharf …`, which must succeed.
fn wharf(hosts: &Hosts, args: &[&str]) -> String {
    hosts.cluster.wharf(args).ok()
}

/// Seconds from the command.
struct Took {
    /// To its answer that the node is drained.
    said: f64,
    /// To the end of the last container, by the engine's clock.
    ended: f64,
}

/// wharf's nodes on one engine.
struct Nodes<'a> {
    hosts: &'a Hosts,
    watched: &'a Watched<'a>,
    n: u32,
}

impl Nodes<'_> {
    fn create(&self, name: &str, manifest: &Value) {
        self.hosts.cluster.create(manifest).ok();
        let fresh = wharf(self.hosts, &["get", "rc", name, "-o", "name"]);
        assert!(fresh.contains(name), "{fresh}");
    }

    fn scale(&self, name: &str, n: u32) {
        wharf(self.hosts, &["scale", "rc", name, &format!("--replicas={n}")]);
    }

    /// All pods run on the first node; the others take pods from then on.
    fn fill(&self, name: &str) {
        for node in &NODES[1..] {
            wharf(self.hosts, &["cordon", node]);
        }
        self.scale(name, self.n);
        until("every pod is Ready", || {
            self.hosts.cluster.ready_pods().len() == self.n as usize
        });
        for node in &NODES[1..] {
            wharf(self.hosts, &["uncordon", node]);
        }
        pause(SETTLE);
    }

    /// No pod, and no container.
    fn empty(&self, name: &str) {
        self.scale(name, 0);
        until("no pod", || {
            let pods = self.hosts.cluster.wharf(&["get", "pods", "-o", "name"]);
            pods.code == 0 && pods.stdout.trim().is_empty()
        });
        self.watched.quiet("wharf");
    }

    /// One round with what comes before and after it.
    fn drain(&self, name: &str) -> Took {
        self.fill(name);
        let mark = self.watched.ends.count();
        let data = self.hosts.cluster.data_dir().join("admin.yaml");
        let env = [("WHARF_CONFIG".to_owned(), data.to_string_lossy().into_owned())];
        let log = self.hosts.cluster.dir().join("drain.log");
        let (from, begun) = (now_ns(), Instant::now());
        let mut command = Background::with_env("wharf", &["drain", NODES[0]], &env, log);
        let mut end = None;
        until("wharf drain ends", || {
            end = command.ended();
            end.is_some()
        });
        let said = begun.elapsed().as_secs_f64();
        let text = command.log_text();
        assert!(end.is_some_and(|end| end.success()), "wharf drain: {text}");
        let pods = self.hosts.cluster.ready_pods();
        let left = pods.iter().filter(|p| p["spec"]["nodeName"] == NODES[0]).count();
        let n = self.n as usize;
        assert!(
            pods.len() == n && left == 0,
            "{} pods are Ready, {left} of them on the drained node",
            pods.len()
        );
        until("the ends of the drained pods", || self.watched.ends.count() >= mark + n);
        let ended = seconds(self.watched.ends.at(mark + n - 1) - from);
        self.empty(name);
        wharf(self.hosts, &["drain", NODES[0], "--cancel"]);
        Took { said, ended }
    }

    /// Seconds of a drain with the settings that are shipped, of pods with a port.
    fn as_shipped(&self) -> f64 {
        let unset = AT_ONCE.map(|set| set.split('=').next().unwrap_or_default());
        for setting in unset {
            wharf(self.hosts, &["settings", "unset", setting]);
        }
        let name = "shipped";
        let mut manifest = controller(name, 0, &["sleep"]);
        manifest["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080}]);
        self.create(name, &manifest);
        let took = self.drain(name).said;
        say(&format!("as shipped: {took:.2} s"));
        took
    }
}

/// Swarm with a node an engine; the first one is drained.
struct Swarm<'a> {
    engines: Vec<(&'a Engine, &'a Watched<'a>)>,
    /// Ids of its nodes.
    ids: Vec<String>,
    n: u32,
}

impl<'a> Swarm<'a> {
    fn begin(hosts: &'a Hosts, watched: &'a [Watched<'a>], n: u32) -> Self {
        let names = hosts.names();
        let engines = names.iter().zip(watched);
        let engines: Vec<_> = engines
            .map(|(name, watched)| (&hosts.engine(name).engine, watched))
            .collect();
        let mut token = String::new();
        let mut ids = Vec::new();
        for (name, (engine, _)) in names.iter().zip(&engines) {
            let address = hosts.address(name);
            let listen = format!("{address}:2377");
            let at = ["--advertise-addr", address, "--listen-addr", &listen];
            if token.is_empty() {
                let init = ["swarm", "init", "--task-history-limit", "0"];
                engine.docker(&[&init[..], &at].concat()).ok();
                let asked = engine.docker(&["swarm", "join-token", "-q", "worker"]).ok();
                asked.trim().clone_into(&mut token);
            } else {
                let first = format!("{}:2377", hosts.address(&names[0]));
                let join = ["swarm", "join", "--token", &token, &first];
                engine.docker(&[&join[..2], &at, &join[2..]].concat()).ok();
            }
            let id = engine.docker(&["info", "--format", "{{.Swarm.NodeID}}"]).ok();
            ids.push(id.trim().to_owned());
        }
        let swarm = Self { engines, ids, n };
        let service = "service create --detach --no-resolve-image --replicas 0 --network bridge --init --log-driver \
             local --log-opt max-size=10m --log-opt max-file=3 --limit-pids 4096 --reserve-cpu 0.01 --reserve-memory 8M \
             --stop-grace-period 1s --restart-delay 0s --name";
        let mut words: Vec<&str> = service.split_whitespace().collect();
        words.extend([NAME, IMAGE, "sleep"]);
        swarm.manager(&words);
        swarm
    }

    fn manager(&self, args: &[&str]) {
        self.engines[0].0.docker(args).ok();
    }

    fn availability(&self, nodes: &[String], how: &str) {
        for id in nodes {
            self.manager(&["node", "update", "--availability", how, id]);
        }
    }

    fn scale(&self, n: u32) {
        self.manager(&["service", "scale", "--detach", &format!("{NAME}={n}")]);
    }

    /// One round with what comes before and after it; seconds.
    fn drain(&self) -> f64 {
        let n = self.n as usize;
        let (first, others) = (self.engines[0].1, &self.engines[1..]);
        self.availability(&self.ids[1..], "pause");
        self.scale(self.n);
        until("every task runs", || first.containers(false).len() == n);
        // Tasks stay where they are.
        self.availability(&self.ids[1..], "active");
        pause(SETTLE);
        let mark = first.ends.count();
        let marks: Vec<usize> = others.iter().map(|(_, w)| w.starts.count()).collect();
        let from = now_ns();
        self.availability(&self.ids[..1], "drain");
        let started = || {
            others
                .iter()
                .zip(&marks)
                .map(|((_, w), mark)| w.starts.count() - mark)
                .sum::<usize>()
        };
        until("Swarm's drain", || first.ends.count() >= mark + n && started() >= n);
        let starts = others
            .iter()
            .map(|(_, w)| w.starts.at(w.starts.count().saturating_sub(1)));
        let last = starts.chain([first.ends.at(mark + n - 1)]).max().unwrap_or(from);
        let running: usize = others.iter().map(|(_, w)| w.containers(false).len()).sum();
        assert!(
            running == n && started() == n,
            "Swarm: {running} containers run after {} starts, not {n}",
            started()
        );
        self.scale(0);
        for (_, watched) in &self.engines {
            watched.quiet("Swarm");
        }
        self.availability(&self.ids[..1], "active");
        seconds(last - from)
    }
}
