//! `make demo-ha`: three machines, each with etcd, a coordinator, an engine and an agent, and a service in use while the
//! active coordinator is killed, another one hangs, and a third one dies with its member of etcd. Shows each step as an
//! operator sees it, and ends in one line that says how many requests failed. Started by `deploy/demo/ha.sh`.
//!
//! Invariant: ends with 0 only if another one led each time and no request failed; whatever way it ends, all that it made
//! is removed.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use harness::{
    demo::{self, answered, say},
    drains::service,
    load::{self, Load, To},
    replicas::{Options, Part, Replicas, name},
};

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
    demo::run("wharf-demo-ha", || show(&args))
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
