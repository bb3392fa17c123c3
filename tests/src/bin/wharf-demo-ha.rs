//! `make demo-ha`: three machines, each with etcd, a coordinator, an engine and an agent, and a service in use while the
//! active coordinator is killed, another one hangs, and a third one dies with its member of etcd. Shows each step as an
//! operator sees it, and ends in one line that says how many requests failed. Started by `deploy/demo/ha.sh`.
//!
//! Invariant: ends with 0 only if another one led each time and no request failed; whatever way it ends, all that it made
//! is removed.

use std::{
    fmt::Display,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Parser;
use harness::{
    drains::service,
    eventually_within,
    load::{self, Load, To},
    replicas::{Options, Part, Replicas, name},
    wait,
};
use tokio::signal::unix::{SignalKind, signal};

/// Kills the active one of three coordinators under load, on this machine.
///
/// It makes three machines, each a network namespace with etcd, a coordinator, a Docker engine and an agent, and removes
/// them at its end, also after Ctrl-C. It needs root.
#[derive(Parser)]
#[command(after_help = "Examples:\n  wharf-demo-ha\n  wharf-demo-ha --rate 500")]
struct Args {
    /// Requests a second, each on a connection of its own
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("error: wharf-demo-ha: user: must be root, to make network namespaces and engines; use sudo");
        return ExitCode::FAILURE;
    }
    end_on_signals();
    panic::set_hook(Box::new(|what| {
        if !wait::interrupted() {
            let text = what.payload_as_str().unwrap_or("it panicked");
            eprintln!("error: {text}");
        }
    }));
    match panic::catch_unwind(AssertUnwindSafe(|| show(&args))) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(_) if wait::interrupted() => {
            eprintln!("interrupted; all of it is removed");
            ExitCode::from(130)
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Ctrl-C and its like end the wait of the moment, and by that all of it.
fn end_on_signals() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let [mut a, mut b, mut c] = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .map(|kind| signal(kind).expect("a signal's handler"));
            tokio::select! {
                _ = a.recv() => {}
                _ = b.recv() => {}
                _ = c.recv() => {}
            }
        });
        wait::interrupt();
    });
}

/// All of it; returns how many requests failed.
fn show(args: &Args) -> u64 {
    say("Three machines, each with etcd, a coordinator, a Docker engine and an agent");
    let mut all = Replicas::start(Options {
        coordinator: String::new(),
        agent: String::new(),
        hosts: Some("demo-ha"),
        ..Options::default()
    });
    all.join(&["node1", "node2", "node3"]);
    wharf(&all, &["cluster", "status"]);
    wharf(&all, &["get", "nodes"]);

    say(format!(
        "A service of three replicas, and {} requests a second to it: one a connection, none tried twice",
        args.rate
    ));
    all.create(&service("web", 3, 1)).ok();
    all.settled(3);
    wharf(&all, &["get", "pods", "-o", "wide"]);
    let ids = all.container_ids();
    let http: Vec<String> = (0..3).map(|m| all.http(m)).collect();
    let to = To::Endpoints {
        http: http.join(","),
        namespace: "default".into(),
        name: "web".into(),
    };
    let load = Load::start(load::Options {
        rate: args.rate,
        ..load::Options::new(to)
    });
    answered(&load, args.rate * 2);
    println!("{}", load.so_far());

    let first = all.leader();
    say(format!("{} leads, and is killed with -9", name(first)));
    all.kill(first, Part::Coordinator);
    let (second, took) = all.taken_over(first, Duration::from_secs(10));
    println!("{} leads, {} ms after", name(second), took.as_millis());
    write(&all, "after-the-kill");
    wharf_whatever(&all, &["cluster", "status"]);
    answered(&load, args.rate * 2);
    println!("{}", load.so_far());

    say(format!(
        "{} is started again and follows; {} hangs (SIGSTOP)",
        name(first),
        name(second)
    ));
    all.up(first, Part::Coordinator);
    all.all_follow();
    all.freeze(second, Part::Coordinator);
    let (third, took) = all.taken_over(second, Duration::from_secs(10));
    println!("{} leads, {} ms after", name(third), took.as_millis());
    write(&all, "after-the-hang");
    all.thaw(second, Part::Coordinator);
    all.all_follow();
    println!(
        "{} woke up, found that {} leads, and follows",
        name(second),
        name(third)
    );

    say(format!(
        "{} and the etcd member on its machine are killed together",
        name(third)
    ));
    all.kill(third, Part::Etcd);
    all.kill(third, Part::Coordinator);
    let (fourth, took) = all.taken_over(third, Duration::from_secs(15));
    println!("{} leads, {} ms after", name(fourth), took.as_millis());
    write(&all, "after-both");
    all.up(third, Part::Etcd);
    all.up(third, Part::Coordinator);
    all.all_follow();
    answered(&load, args.rate * 2);

    let report = load.stop();
    wharf(&all, &["cluster", "status"]);
    wharf(&all, &["get", "pods", "-o", "wide"]);
    let kept = all.container_ids();
    assert_eq!(kept, ids, "containers were touched");
    drop(all);
    if report.failures() > 0 {
        println!("\n{report}");
    }
    println!(
        "\nthree coordinators lost, one after another · no container touched · {} requests, {} failed",
        report.sent,
        report.failures()
    );
    report.failures()
}

fn say(what: impl Display) {
    println!("\n{what}");
}

/// Runs it and shows both.
fn wharf(all: &Replicas, args: &[&str]) {
    println!("$ wharf {}", args.join(" "));
    print!("{}", all.wharf(args).ok());
}

/// As [`wharf`], where it is expected to complain.
fn wharf_whatever(all: &Replicas, args: &[&str]) {
    println!("$ wharf {}", args.join(" "));
    let out = all.wharf(args);
    print!("{}{}", out.stdout, out.stderr);
}

fn write(all: &Replicas, namespace: &str) {
    wharf(all, &["create", "namespace", namespace]);
}

/// Waits until so many more requests were answered, well or not.
fn answered(load: &Load, more: u32) {
    let before = load.so_far().sent;
    let limit = Duration::from_secs(120);
    eventually_within(limit, "the service answers", || match load.so_far() {
        now if now.sent >= before + u64::from(more) => Ok(()),
        now => Err(now.to_string()),
    });
}
