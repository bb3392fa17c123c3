//! `make bench`: what Wharfinger adds on top of one Docker engine, measured beside the engine itself and beside
//! Swarm. Run by the program `wharf-bench`, which lies beside the programs that it measures.
//!
//! | file | what it measures |
//! |---|---|
//! | [`machine`] | the machine, its disk's fdatasync, memory and CPU time of a process |
//! | [`scale`] | +N containers on one engine: raw Docker, wharf and Swarm in turn |
//! | [`pods`] | one pod: create accepted → Docker create called, through a recording proxy |
//! | [`arrival`] | a host: agent started → node Ready → first pod's container started |
//! | [`idle`] | resident memory and idle CPU of agent, coordinator and engine |
//! | [`engine`] | the run's own engine, and the one observer of starts and ends |
//! | [`drain`] | a node of N pods drained to two others: raw Docker, wharf and Swarm in turn |
//! | [`update`] | N pods replaced by those of another image, five at once: raw Docker, wharf and Swarm in turn |
//! | [`loss`] | a host that loses power, on engines of its own: NotReady, out of Endpoints, replaced |
//! | [`served`] | many agents whose coordinator is killed: until all are served by the next one |
//! | [`ha`] | three coordinators on etcd: how long nothing can be written after each fault of the active one |
//! | [`managers`] | Swarm with three managers: the same, of its leader killed |
//! | [`writer`] | who writes all the while to what [`ha`] and [`managers`] break |
//! | [`report`] | the table and the JSON beside it |
//!
//! Invariants: the engine is the run's own, so that nothing here can touch another container or make another
//! engine a member of a swarm. All contenders start the same containers and are seen by the same observer. A slow
//! result is printed, never a failure; a run whose containers did not come to run is one.

mod arrival;
mod drain;
mod engine;
mod ha;
mod idle;
mod loss;
mod machine;
mod managers;
mod pods;
mod report;
mod scale;
mod served;
mod stats;
mod update;
mod writer;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};

use self::{
    engine::Bed,
    ha::Ha,
    machine::{Fsync, Machine},
    report::Report,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Scale,
    Pod,
    Join,
    Drain,
    Update,
    Loss,
    Agents,
    Idle,
    Ha,
}

/// Measures Wharfinger beside raw Docker and Docker Swarm, on an engine of its own.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "wharf-bench",
    after_help = "Examples:
  make bench
  make bench PROFILE=bench-dev BENCH=\"--only scale --repeats 3 --no-swarm\""
)]
struct Args {
    /// Containers to add by one scaling, pods of the node that is drained, and of the controller that is updated.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    containers: u32,
    /// Rounds of each contender.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Creates and starts of raw Docker at once; the best of these is the raw contender.
    #[arg(long, value_delimiter = ',', default_value = "2,4,6,8", value_parser = clap::value_parser!(u16).range(1..))]
    parallel: Vec<u16>,
    /// Pods of the single-pod measurement.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pods: u32,
    /// Hosts of the measurement of joining.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    hosts: u32,
    /// Hosts that lose power, one after the other.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    losses: u32,
    /// Agents whose coordinator is killed.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    agents: u16,
    /// Active coordinators to kill; of each other fault of theirs, and of Swarm's leader, `--faults`.
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// See --kills.
    #[arg(long, default_value_t = 20)]
    faults: u32,
    /// Seconds over which idle CPU is measured.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    idle: u64,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Leave Docker Swarm out.
    #[arg(long)]
    no_swarm: bool,
}

impl Args {
    fn does(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Set by SIGINT and SIGTERM.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs the whole benchmark; panics, and so cleans up and fails, when a run fails or is interrupted.
pub fn main() {
    let args = Args::parse();
    proto::program::install_tls_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.spawn(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("SIGTERM");
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = term.recv() => {}
        }
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    let report = measure(&args, &runtime);
    print!("{}", report.table());
    let file = output_dir().join(format!("{}.json", report.taken_s));
    std::fs::create_dir_all(output_dir()).expect("a directory for the results");
    std::fs::write(&file, format!("{:#}\n", report.json())).expect("the results' file");
    println!("\nas JSON: {}", file.display());
    println!("again:   make bench{}", report::repeat_hint(&profile()));
}

fn measure(args: &Args, runtime: &tokio::runtime::Runtime) -> Report {
    say("starting an engine and a cluster");
    let mut bed = Bed::start(runtime);
    let machine = Machine::look(&bed);
    let before = Fsync::measure(bed.cluster.dir());
    let mut report = Report::new(machine, before, profile());
    let idle = Duration::from_secs(args.idle);
    if args.does(Part::Idle) {
        say(&format!("idle with no container, {idle:?}"));
        report.idle.push((0, idle::measure(&mut bed, idle)));
    }
    if args.does(Part::Pod) {
        say(&format!("one pod, {} times", args.pods));
        report.pods = Some(pods::measure(&bed, args.pods));
    }
    if args.does(Part::Join) {
        say(&format!("a host joins, {} times", args.hosts));
        report.arrival = Some(arrival::measure(&bed, args.hosts));
    }
    if args.does(Part::Scale) {
        report.scale = Some(scale::measure(&bed, args));
    }
    if args.does(Part::Drain) {
        say(&format!("a node with {} pods is drained", args.containers));
        report.drain = Some(drain::measure(runtime, args));
    }
    if args.does(Part::Update) {
        say(&format!("{} pods are updated", args.containers));
        report.update = Some(update::measure(&bed, args));
    }
    if args.does(Part::Idle) {
        say(&format!("idle with {} containers, {idle:?}", args.containers));
        scale::up(&bed, args.containers);
        report.idle.push((args.containers, idle::measure(&mut bed, idle)));
    }
    if args.does(Part::Loss) {
        report.loss = Some(loss::measure(args.losses));
    }
    if args.does(Part::Agents) {
        report.served = served::measure(runtime, usize::from(args.agents), args.losses);
    }
    if args.does(Part::Ha) {
        report.ha = Some(Ha {
            faults: ha::measure(args.kills, args.faults),
            swarm: (!args.no_swarm && args.faults > 0).then(|| managers::measure(runtime, args.faults)),
        });
    }
    report.fsync_after = Some(Fsync::measure(bed.cluster.dir()));
    say("removing what was made");
    report
}

/// `release` or `bench-dev`, by the directory that the program lies in.
fn profile() -> String {
    let dir = target_dir();
    dir.file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the program's own path");
    exe.parent().expect("a directory").to_owned()
}

fn output_dir() -> PathBuf {
    target_dir().parent().expect("the target directory").join("bench")
}

/// Between getting ready and a measurement.
const SETTLE: Duration = Duration::from_secs(2);

/// Progress, on standard error.
fn say(what: &str) {
    eprintln!("bench: {what}");
}

/// Waits for a condition, looking every few milliseconds; panics after two minutes, or when interrupted.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "{what}: not within two minutes"
        );
        pause(Duration::from_millis(20));
    }
}

/// Lets time pass: between rounds, so that none is measured in the wake of another, and for what is idle.
#[track_caller]
fn pause(time: Duration) {
    let end = Instant::now() + time;
    loop {
        assert!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}
