//! Three coordinators on a real etcd cluster, in network namespaces: each fault of `docs/high-availability.md`, and after
//! each the same questions. `make test` builds the programs and the image first.

mod faults;
mod history;
mod majority;
mod serve;
mod store;

use std::time::Duration;

use harness::{
    cluster::controller,
    eventually,
    replicas::{Options, Part, Replicas},
};
use serde_json::Value;

/// Three coordinators that lead and follow, two nodes, a controller of three pods, all settled.
fn fleet() -> (Replicas, Vec<String>) {
    fleet_with(Options::default())
}

fn fleet_with(options: Options) -> (Replicas, Vec<String>) {
    let mut all = Replicas::start(options);
    all.join(&["n1", "n2"]);
    all.create(&controller("web", 3, &["serve"])).ok();
    all.settled(3);
    let ids = all.container_ids();
    (all, ids)
}

/// What holds after every fault: one leads, nothing that runs was touched, what was acknowledged is there, and the
/// fleet obeys.
fn holds(all: &mut Replicas, ids: &[String], acknowledged: &[String]) {
    let leading: Vec<usize> = (0..3)
        .filter(|m| all.runs(*m, Part::Coordinator) && harness::load::get(&all.http(*m), "/leader").is_ok())
        .collect();
    assert_eq!(leading.len(), 1, "one leads: {leading:?}");
    assert_eq!(all.container_ids(), ids, "no container was touched");
    let there: Vec<String> = all
        .items("namespaces")
        .iter()
        .filter_map(|n| n["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    for name in acknowledged {
        assert!(there.contains(name), "{name} was acknowledged and is lost: {there:?}");
    }
    for node in ["n1", "n2"] {
        all.node_ready(node);
    }
    let now = ids.len();
    let count = |n: usize| n.to_string();
    all.wharf(&["scale", "rc", "web", "--replicas", &count(now + 1)]).ok();
    all.settled(now + 1);
    all.wharf(&["scale", "rc", "web", "--replicas", &count(now)]).ok();
    all.settled(now);
}

/// One more namespace; its name once it is acknowledged.
fn write(all: &Replicas, name: &str) -> Option<String> {
    (all.wharf(&["create", "namespace", name]).code == 0).then(|| name.to_owned())
}

/// Waits until a write is acknowledged.
fn writable(all: &Replicas, name: &str) -> String {
    eventually("a write is acknowledged", || {
        let out = all.wharf(&["create", "namespace", name, "--request-timeout", "5s"]);
        match out.code {
            0 => Ok(name.to_owned()),
            // The first answer was lost, and the write was not.
            1 if out.stderr.contains("already exists") => Ok(name.to_owned()),
            _ => Err(out.stderr),
        }
    })
}

/// `wharf cluster status`, as data.
fn status(all: &Replicas) -> Value {
    let out = all.wharf(&["cluster", "status", "-o", "json"]);
    serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
}

/// The machine whose etcd member leads.
fn etcd_leader(all: &Replicas) -> usize {
    let leads = |m: &Value| m["isLeader"] == true;
    let member = eventually("an etcd member leads", || {
        let status = status(all);
        let members = status["store"]["members"].as_array().cloned().unwrap_or_default();
        let name = members
            .iter()
            .find(|m| leads(m))
            .and_then(|m| m["name"].as_str().map(str::to_owned));
        name.ok_or_else(|| status.to_string())
    });
    member
        .trim_start_matches("etcd")
        .parse::<usize>()
        .expect("a member's number")
        - 1
}

/// A process that died is missed so soon…
const CRASH: Duration = Duration::from_secs(2);
/// …and one that hangs, or that is cut off.
const HANG: Duration = Duration::from_secs(4);
