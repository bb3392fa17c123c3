//! +N containers on one engine, from the command until all run: raw Docker at its best parallelism, wharf and
//! Swarm, in turn, on the same engine. Called by [`super::measure`].
//!
//! Invariant: all contenders make the same container. Raw Docker's is copied from the one that wharf made, option
//! by option; Swarm's is made by the options of its command that cost time (init, log driver, limits), and it
//! joins the same bridge. Removing containers between rounds is not timed.

use std::path::Path;

use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{InspectContainerOptions, StartContainerOptions},
};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{
    Args,
    engine::{Bed, Watched},
    say,
    stats::Contenders,
};
use crate::{cluster::controller, docker::IMAGE};

/// Controller and service.
const NAME: &str = "bench";
/// At most this many times raw Docker.
pub const TARGET: f64 = 1.15;
/// What is aimed at.
pub const GOAL: f64 = 1.05;

#[derive(Clone, Debug)]
pub struct Scale {
    pub containers: u32,
    /// Best parallelism of raw Docker, and the seconds by parallelism that chose it.
    pub parallel: u16,
    pub search: Vec<(u16, f64)>,
    /// Seconds of each contender; raw first.
    pub contenders: Contenders,
}

impl Scale {
    pub fn json(&self) -> Value {
        json!({"containers": self.containers, "parallel": self.parallel, "search": self.search, "target": TARGET,
               "goal": GOAL, "contenders": self.contenders.json()})
    }
}

/// The rounds; see the module's head.
pub fn measure(bed: &Bed, args: &Args) -> Scale {
    let n = args.containers;
    say("warming up");
    up(bed, 1);
    let body = made_by_wharf(&bed.watched, bed.cluster.dir());
    down(bed);
    if !args.no_swarm {
        swarm_begin(bed);
        swarm(bed, 1);
    }
    let raw = |parallel| {
        let seconds = bed.watched.time("raw Docker", n, || {
            bed.watched
                .runtime
                .block_on(start_raw(&bed.watched.docker, &body, n, parallel));
        });
        bed.watched.remove_all();
        bed.watched.quiet("raw Docker");
        seconds
    };
    // The better of two rounds each: one disturbed round must not choose a slow parallelism for the raw contender,
    // which would flatter the others.
    let mut search: Vec<(u16, f64)> = args.parallel.iter().map(|&p| (p, f64::INFINITY)).collect();
    for _ in 0..2 {
        for (parallel, best) in &mut search {
            let seconds = raw(*parallel);
            say(&format!("raw Docker, {parallel} at once: {seconds:.2} s"));
            *best = best.min(seconds);
        }
    }
    let best = search.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let parallel = best.map_or(1, |(parallel, _)| *parallel);

    let mut contenders: Vec<Contender> = vec![
        ("raw", Box::new(|| raw(parallel)), Vec::new()),
        ("wharf", Box::new(|| wharf(bed, n)), Vec::new()),
    ];
    if !args.no_swarm {
        contenders.push(("swarm", Box::new(|| swarm(bed, n)), Vec::new()));
    }
    for round in 1..=args.repeats {
        for (name, run, seconds) in &mut contenders {
            let took = run();
            say(&format!("round {round} of {}: {name} {took:.2} s", args.repeats));
            seconds.push(took);
        }
    }
    if !args.no_swarm {
        docker(bed, &["swarm", "leave", "--force"]);
        bed.watched.quiet("Swarm");
    }
    let measured = contenders.iter().map(|(name, _, seconds)| (*name, seconds.clone()));
    Scale {
        containers: n,
        parallel,
        search,
        contenders: Contenders::new(measured),
    }
}

/// Its name, one round of it with the cleaning up after it, and the seconds of its rounds.
type Contender<'a> = (&'static str, Box<dyn Fn() -> f64 + 'a>, Vec<f64>);

/// Scales the controller to `n`, made where it is missing, and waits until they run.
pub fn up(bed: &Bed, n: u32) {
    if bed.cluster.wharf(&["get", "rc", NAME]).code != 0 {
        bed.cluster.create(&controller(NAME, 0, &["sleep"])).ok();
    }
    bed.watched.time("wharf", n, || scale(bed, n));
}

fn scale(bed: &Bed, n: u32) {
    let replicas = format!("--replicas={n}");
    bed.cluster.wharf(&["scale", "rc", NAME, &replicas]).ok();
}

fn down(bed: &Bed) {
    scale(bed, 0);
    super::until("no pod", || {
        let pods = bed.cluster.wharf(&["get", "pods", "-o", "name"]);
        pods.code == 0 && pods.stdout.trim().is_empty()
    });
    bed.watched.quiet("wharf");
}

fn wharf(bed: &Bed, n: u32) -> f64 {
    let seconds = bed.watched.time("wharf", n, || scale(bed, n));
    down(bed);
    seconds
}

/// What the containers on the engine, which wharf made, were created from. What one mounts of the host ends with its pod,
/// so that the copies mount a file of the bench's, in `dir`.
pub fn made_by_wharf(watched: &Watched, dir: &Path) -> ContainerCreateBody {
    let id = watched.containers(false).pop().expect("a running container");
    let seen = watched
        .runtime
        .block_on(watched.docker.inspect_container(&id, None::<InspectContainerOptions>))
        .expect("an inspection");
    let mut body = serde_json::to_value(seen.config).expect("JSON");
    body["HostConfig"] = serde_json::to_value(seen.host_config).expect("JSON");
    let mut body: ContainerCreateBody = serde_json::from_value(body).expect("a create body");
    let mounts = body.host_config.as_mut().and_then(|h| h.mounts.as_mut());
    for mount in mounts.into_iter().flatten() {
        let file = dir.join("mounted");
        std::fs::write(&file, "").expect("a file to mount");
        mount.source = Some(file.to_str().expect("a path of text").to_owned());
    }
    body
}

/// Creates and starts `n` containers, `parallel` at once.
async fn start_raw(docker: &Docker, body: &ContainerCreateBody, n: u32, parallel: u16) {
    stream::iter(0..n)
        .for_each_concurrent(usize::from(parallel), |_| async {
            start_one(docker, body).await;
        })
        .await;
}

/// Creates and starts a container; its id.
pub async fn start_one(docker: &Docker, body: &ContainerCreateBody) -> String {
    let made = docker.create_container(None, body.clone()).await.expect("create");
    docker
        .start_container(&made.id, None::<StartContainerOptions>)
        .await
        .expect("start");
    made.id
}

fn docker(bed: &Bed, args: &[&str]) -> String {
    bed.engine.engine.docker(args).ok()
}

fn swarm_begin(bed: &Bed) {
    // The engine's network namespace has no way out: the manager is alone.
    docker(
        bed,
        &[
            "swarm",
            "init",
            "--advertise-addr",
            "127.0.0.1",
            "--listen-addr",
            "127.0.0.1:2377",
            "--task-history-limit",
            "0",
        ],
    );
    let service = "service create --detach --no-resolve-image --replicas 0 --network bridge --init --log-driver local \
         --log-opt max-size=10m --log-opt max-file=3 --limit-pids 4096 --reserve-cpu 0.01 --reserve-memory 8M \
         --stop-grace-period 1s --restart-condition none --name";
    let mut args: Vec<&str> = service.split_whitespace().collect();
    args.extend([NAME, IMAGE, "sleep"]);
    docker(bed, &args);
}

fn swarm(bed: &Bed, n: u32) -> f64 {
    let seconds = bed.watched.time("Swarm", n, || swarm_scale(bed, n));
    swarm_scale(bed, 0);
    bed.watched.quiet("Swarm");
    seconds
}

fn swarm_scale(bed: &Bed, n: u32) {
    let service = format!("{NAME}={n}");
    docker(bed, &["service", "scale", "--detach", &service]);
}
