//! `make demo-drain`: a service of one replica is in use while its node is drained and the coordinator killed. Shows each
//! step as an operator sees it, and ends in one line that says how many requests failed. Started by `deploy/demo/drain.sh`.
//!
//! Invariant: ends with 0 only if the node was drained and no request failed; whatever way it ends, all that it made is
//! removed.

use std::process::ExitCode;

use clap::Parser;
use harness::{
    Hosts, Options,
    demo::{self, answered, say, thousands},
    drains::{Watching, in_mid_surge, service},
    load::{self, Load, To},
};

/// Drains a node under load on this machine, with the coordinator killed in the middle.
///
/// It makes three hosts, each with a network namespace and a Docker engine of its own, and removes them at its end,
/// also after Ctrl-C. It needs root.
#[derive(Parser)]
#[command(after_help = "Examples:\n  wharf-demo-drain\n  wharf-demo-drain --rate 500 --hosts 4")]
struct Args {
    /// Requests a second, each on a connection of its own
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// Hosts; one of them is drained
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    hosts: u8,
}

fn main() -> ExitCode {
    let args = Args::parse();
    demo::run("wharf-demo-drain", || show(&args))
}

/// All of it; returns how many requests failed.
fn show(args: &Args) -> u64 {
    let count = usize::from(args.hosts);
    say(format!(
        "{count} hosts, each with a Docker engine and a link of its own"
    ));
    let options = Options {
        quick: false,
        host: "node",
        ..Options::default()
    };
    let mut hosts = Hosts::start("demo-drain", count, options);
    wharf(&hosts, &["get", "nodes"]);

    let rate = args.rate;
    say(format!(
        "A service of one replica, and {rate} requests a second to it: one a connection, none tried twice"
    ));
    hosts.cluster.create(&service("web", 1, 3)).ok();
    hosts.settled(1);
    wharf(&hosts, &["get", "pods", "-o", "wide"]);
    let to = To::Endpoints {
        http: hosts.cluster.http(),
        namespace: "default".into(),
        name: "web".into(),
    };
    let load = Load::start(load::Options {
        rate,
        ..load::Options::new(to)
    });
    answered(&load, rate * 5);
    println!("{}", load.so_far());

    let node = hosts.running_anywhere()[0].node.clone();
    say(format!("{node} is drained"));
    println!("$ wharf drain {node} --reason 'RAM swap'");
    let watching = Watching::start(&hosts.cluster, &node, &["--reason", "RAM swap"]);
    let (new, on) = in_mid_surge(&hosts.cluster, &node);
    let mut told = 0;
    tell(&watching.said(), &mut told);

    say(format!(
        "The coordinator is killed with -9 while {new} is being started on {on}"
    ));
    hosts.cluster.kill_coordinator();
    answered(&load, rate * 2);
    println!("without it: {}", load.so_far());
    tell(&watching.said(), &mut told);

    say("It is started again; the drain goes on, and so does the command that waits for it");
    hosts.cluster.start_coordinator();
    let took = watching.drained(|said| tell(said, &mut told));
    answered(&load, rate * 3);

    say(format!("{node} is empty and held; the service is on {on}"));
    println!("$ docker ps    # on {node}");
    print!("{}", hosts.engine(&node).engine.docker(&["ps"]).ok());
    wharf(&hosts, &["get", "nodes"]);
    wharf(&hosts, &["get", "pods", "-o", "wide"]);
    let left = hosts.running(&node).len();
    assert_eq!(left, 0, "{node} is drained, and {left} containers run on it");
    let report = load.stop();
    drop(hosts);
    if report.failures() > 0 {
        println!("\n{report}");
    }
    println!(
        "\ndrained {node} in {took} · coordinator killed once · {} requests, {} failed",
        thousands(report.sent),
        thousands(report.failures())
    );
    report.failures()
}

/// Runs it and shows both.
fn wharf(hosts: &Hosts, args: &[&str]) {
    println!("$ wharf {}", args.join(" "));
    print!("{}", hosts.cluster.wharf(args).ok());
}

/// Prints the whole lines that were not told yet.
fn tell(said: &str, told: &mut usize) {
    let new = said.get(*told..).unwrap_or_default();
    let whole = new.rfind('\n').map_or(0, |end| end + 1);
    print!("{}", new.get(..whole).unwrap_or_default());
    *told += whole;
}
