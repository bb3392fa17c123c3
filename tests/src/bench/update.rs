//! Pods of a controller are replaced by those of another image, five at once, on one engine: raw Docker that starts five
//! and stops five again and again, wharf, and Swarm, in turn. Called by [`super::measure`].
//!
//! Nothing waits on purpose: a container is Ready when it runs, nothing drains Endpoints, and its first process ends on
//! the stop signal at once. The same with the settings that are shipped is told beside it, once, and held against nothing.
//!
//! Invariant: all contenders start the same containers and stop as many, five under way at a time; all are timed from
//! their command to the engine's time of the last start or end. The images are one under two names.

use std::time::Instant;

use bollard::{models::ContainerCreateBody, query_parameters::StopContainerOptionsBuilder};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{
    Args,
    engine::{Bed, Moments, now_ns, seconds},
    pause, say,
    scale::{made_by_wharf, start_one},
    stats::{Contenders, Sample},
    until,
};
use crate::{cluster::controller, docker::IMAGE};

/// Controller and service.
const NAME: &str = "rolled";
/// Containers started, and stopped, at once.
const SURGE: usize = 5;
/// At most this many times raw Docker.
pub const GOAL: f64 = 1.25;
/// The image under another name.
const NEXT: &str = "wharf-test-app:2";
/// What makes nothing wait.
const AT_ONCE: [&str; 2] = ["ready-after=0s", "endpoint-drain=0s"];

#[derive(Clone, Debug)]
pub struct Update {
    pub pods: u32,
    /// Seconds of each contender; raw first.
    pub contenders: Contenders,
    /// Seconds of wharf to the command's own end.
    pub said: Sample,
    /// Seconds of wharf as shipped.
    pub shipped: f64,
}

impl Update {
    /// Containers started, and stopped, at once.
    pub fn surge() -> usize {
        SURGE
    }

    pub fn json(&self) -> Value {
        json!({"pods": self.pods, "surge": SURGE, "goal": GOAL,
               "contenders": self.contenders.json(),
               "commandSeconds": self.said.json(), "asShippedSeconds": self.shipped})
    }
}

/// The rounds; see the module's head.
pub fn measure(bed: &Bed, args: &Args) -> Update {
    let n = args.containers;
    bed.engine.engine.docker(&["tag", IMAGE, NEXT]).ok();
    bed.cluster.wharf(&[&["settings", "set"][..], &AT_ONCE].concat()).ok();
    bed.cluster.create(&controller(NAME, 0, &["sleep"])).ok();
    say("warming up");
    let rolled = Rolled { bed, n };
    rolled.fill();
    let body = made_by_wharf(&bed.watched, bed.cluster.dir());
    rolled.empty();
    if !args.no_swarm {
        swarm_begin(bed);
    }
    let (mut raws, mut wharfs, mut said, mut swarms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.repeats {
        let about = format!("update round {round} of {}", args.repeats);
        raws.push(raw(bed, &body, n));
        say(&format!("{about}: raw Docker {:.2} s", raws.last().unwrap_or(&0.0)));
        let image = if round % 2 == 1 { NEXT } else { IMAGE };
        let (ended, command) = rolled.update(image);
        say(&format!("{about}: wharf {ended:.2} s, its command {command:.2} s"));
        wharfs.push(ended);
        said.push(command);
        if !args.no_swarm {
            swarms.push(swarm(bed, n, image));
            say(&format!("{about}: Swarm {:.2} s", swarms.last().unwrap_or(&0.0)));
        }
    }
    if !args.no_swarm {
        bed.engine.engine.docker(&["swarm", "leave", "--force"]).ok();
        bed.watched.quiet("Swarm");
    }
    say("the update as shipped");
    for set in AT_ONCE {
        let setting = set.split('=').next().unwrap_or_default();
        bed.cluster.wharf(&["settings", "unset", setting]).ok();
    }
    let image = if args.repeats.is_multiple_of(2) { NEXT } else { IMAGE };
    let (_, shipped) = rolled.update(image);
    say(&format!("as shipped: {shipped:.2} s"));
    bed.cluster.wharf(&["delete", "rc", NAME]).ok();
    bed.watched.quiet("wharf");
    let contenders = [("raw", raws), ("wharf", wharfs), ("swarm", swarms)];
    Update {
        pods: n,
        contenders: Contenders::new(contenders),
        said: Sample::new(said).expect("at least one round"),
        shipped,
    }
}

/// Starts `n`; then five are started and five of those stopped, again and again. Seconds of the latter.
fn raw(bed: &Bed, body: &ContainerCreateBody, n: u32) -> f64 {
    let watched = &bed.watched;
    let begun = stream::iter(0..n).map(|_| start_one(&watched.docker, body));
    let old: Vec<String> = watched.runtime.block_on(begun.buffer_unordered(SURGE).collect());
    pause(super::SETTLE);
    let grace = StopContainerOptionsBuilder::default().t(1).build();
    let from = Instant::now();
    for batch in old.chunks(SURGE) {
        watched.runtime.block_on(async {
            stream::iter(batch)
                .for_each_concurrent(SURGE, |_| async {
                    start_one(&watched.docker, body).await;
                })
                .await;
            stream::iter(batch)
                .for_each_concurrent(SURGE, |old| async {
                    let stopped = watched.docker.stop_container(old, Some(grace.clone())).await;
                    stopped.expect("stop");
                })
                .await;
        });
    }
    let took = from.elapsed().as_secs_f64();
    let running = watched.containers(false).len();
    assert!(running == n as usize, "raw Docker: {running} containers run, not {n}");
    watched.remove_all();
    watched.quiet("raw Docker");
    took
}

/// wharf's controller.
struct Rolled<'a> {
    bed: &'a Bed<'a>,
    n: u32,
}

impl Rolled<'_> {
    fn scale(&self, n: u32) {
        self.bed
            .cluster
            .wharf(&["scale", "rc", NAME, &format!("--replicas={n}")])
            .ok();
    }

    fn fill(&self) {
        self.scale(self.n);
        until("every pod is Ready", || {
            self.bed.cluster.ready_pods().len() == self.n as usize
        });
        pause(super::SETTLE);
    }

    fn empty(&self) {
        self.scale(0);
        until("no pod", || {
            let pods = self.bed.cluster.wharf(&["get", "pods", "-o", "name"]);
            pods.code == 0 && pods.stdout.trim().is_empty()
        });
        self.bed.watched.quiet("wharf");
    }

    /// One round with what comes before and after it: seconds to the last end, and to the command's own.
    fn update(&self, image: &str) -> (f64, f64) {
        self.fill();
        let n = self.n as usize;
        let watched = &self.bed.watched;
        let (starts, ends) = (watched.starts.count(), watched.ends.count());
        let (from, begun) = (now_ns(), Instant::now());
        let image = format!("--image={image}");
        let surge = format!("--max-surge={SURGE}");
        // The command may wait longer than others may.
        let words = ["rolling-update", NAME, &image, &surge];
        let said = self.bed.cluster.wharf(&words).ok();
        let command = begun.elapsed().as_secs_f64();
        assert!(said.ends_with(&format!("\n{NAME}\n")), "{said}");
        until("every container was replaced", || {
            watched.starts.count() >= starts + n && watched.ends.count() >= ends + n
        });
        let running = watched.containers(false).len();
        assert!(running == n, "wharf: {running} containers run, not {n}");
        let last = watched.starts.at(starts + n - 1).max(watched.ends.at(ends + n - 1));
        self.empty();
        (seconds(last - from), command)
    }
}

fn docker(bed: &Bed, args: &[&str]) {
    bed.engine.engine.docker(args).ok();
}

fn swarm_begin(bed: &Bed) {
    let init = "swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1:2377 --task-history-limit 0";
    docker(bed, &init.split_whitespace().collect::<Vec<_>>());
    let service = "service create --detach --no-resolve-image --replicas 0 --network bridge --init --log-driver local \
         --log-opt max-size=10m --log-opt max-file=3 --limit-pids 4096 --reserve-cpu 0.01 --reserve-memory 8M \
         --stop-grace-period 1s --restart-delay 0s --update-parallelism 5 --update-order start-first \
         --update-delay 0s --update-monitor 0s --name";
    let mut words: Vec<&str> = service.split_whitespace().collect();
    words.extend([NAME, IMAGE, "sleep"]);
    docker(bed, &words);
}

/// One round; the service had the other image before.
fn swarm(bed: &Bed, n: u32, image: &str) -> f64 {
    let watched = &bed.watched;
    let count = n as usize;
    docker(bed, &["service", "scale", "--detach", &format!("{NAME}={n}")]);
    until("every task runs", || watched.containers(false).len() == count);
    pause(super::SETTLE);
    let (starts, ends) = (watched.starts.count(), watched.ends.count());
    let from = now_ns();
    docker(
        bed,
        &[
            "service",
            "update",
            "--detach",
            "--no-resolve-image",
            "--image",
            image,
            NAME,
        ],
    );
    // It may start one more than it needs, and ends that again.
    until("Swarm's update", || {
        let (started, ended) = (watched.starts.count() - starts, watched.ends.count() - ends);
        started >= count && started == ended && watched.containers(false).len() == count
    });
    let at = |moments: &Moments| moments.at(moments.count() - 1);
    let last = at(&watched.starts).max(at(&watched.ends));
    docker(bed, &["service", "scale", "--detach", &format!("{NAME}=0")]);
    watched.quiet("Swarm");
    seconds(last - from)
}
