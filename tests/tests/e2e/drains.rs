//! Drains on hosts that have engines and links of their own, while coordinators and agents are killed, hosts cut off and
//! images broken. What users of other systems suffer from when they empty a node, and what shows that it does not happen
//! here (`plan` is `coordinator/src/plan`, `api` `coordinator/src/api`):
//!
//! | pain | shown by |
//! |---|---|
//! | 1: a single replica is missed | here, `a_single_replica_under_load_…`; plan/drain/drain_tests.rs, `a_single_replica_is_started_elsewhere_…` |
//! | 2: a budget deadlocks it silently | here, `two_drains_at_once_…`; plan/disruption_tests.rs, `what_no_state_of_the_workload_could_ever_allow` |
//! | 3: a replica that crashes blocks it | plan/drain/drain_tests.rs, `a_pod_that_does_not_serve_goes_at_once` |
//! | 4: over before replacements are healthy | plan/drain/drain_tests.rs, `it_is_over_only_when_what_was_started_elsewhere_is_ready` |
//! | 5: over while containers run | here, `a_single_replica_under_load_…` (by `docker ps`); tests/fleet/drains.rs |
//! | 6: two drains together break availability | here, `two_drains_at_once_…`; plan/drain/properties.rs |
//! | 7: updates ignore budgets | plan/daemons_tests.rs, `as_many_at_once_as_the_set_allows`; plan/disruption_properties.rs |
//! | 8: a workload bounces onto the next node | plan/drain/drain_tests.rs, `the_node_of_a_replacement_can_be_drained_too`; here, `two_drains_at_once_…` |
//! | 10: nobody knows who did it, or why | here, `a_node_cut_in_mid_drain`; api/drains_tests.rs, `a_drain_and_its_hold_are_one_commit` |
//! | 11: it ends with its client | tests/fleet/drains.rs, `a_watch_is_taken_up_…`; here, `a_single_replica_under_load_…` |
//! | 12: one that failed leaves the cordon | plan/drain/drain_tests.rs, `deadlines_are_kept_as_asked`; api/drains_tests.rs, `a_cancelled_drain_…` |
//! | 17: local data are lost | plan/drain/drain_tests.rs, `pods_that_would_lose_data_stay_unless_that_is_accepted` |
//! | 18: a node that is not heard hangs it | here, `a_node_cut_in_mid_drain` |
//! | 20: `docker run` goes unseen | here, `an_agent_killed_in_mid_drain` |

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use harness::{
    Cluster, Hosts, Options,
    cluster::controller,
    docker::Container,
    drains::{Watching, in_mid_surge, service, stands},
    eventually,
    load::{self, Load, To},
};
use serde_json::{Value, json};

use crate::pod_spec;

fn hosts(test: &str, count: usize, agent: &str) -> Hosts {
    let options = Options {
        agent: agent.into(),
        ..Options::default()
    };
    Hosts::start(test, count, options)
}

/// The node of the only pod there is.
fn home(hosts: &Hosts) -> String {
    let running = hosts.running_anywhere();
    assert_eq!(running.len(), 1, "{running:?}");
    running[0].node.clone()
}

fn ids(containers: &[Container]) -> BTreeSet<String> {
    containers.iter().map(|c| c.id.clone()).collect()
}

/// All of this cluster that its engine still has, running or not.
fn left(hosts: &Hosts, node: &str) -> Vec<Container> {
    hosts.engine(node).engine.containers(&hosts.cluster.id)
}

/// Waits until nothing at all is left of what was drained.
#[track_caller]
fn gone(hosts: &Hosts, node: &str) {
    eventually(&format!("nothing is left on {node}"), || match left(hosts, node) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

fn web(hosts: &Hosts) -> To {
    To::Endpoints {
        http: hosts.cluster.http(),
        namespace: "default".into(),
        name: "web".into(),
    }
}

/// Waits until so many more requests were answered.
#[track_caller]
fn served(load: &Load, more: u64) {
    let before = load.so_far().ok;
    eventually("requests are answered", || match load.so_far() {
        now if now.ok >= before + more => Ok(()),
        now => Err(now.to_string()),
    });
}

#[test]
fn a_single_replica_under_load_is_drained_while_the_coordinator_is_killed() {
    let mut hosts = hosts("dr1", 3, "");
    hosts.cluster.create(&service("web", 1, 3)).ok();
    hosts.settled(1);
    let from = home(&hosts);
    let old = hosts.running(&from)[0].clone();
    let load = Load::start(load::Options::new(web(&hosts)));
    served(&load, 100);
    let watching = Watching::start(&hosts.cluster, &from, &["--reason", "RAM swap"]);
    let (new, to) = in_mid_surge(&hosts.cluster, &from);
    hosts.cluster.kill_coordinator();
    assert_eq!(
        ids(&hosts.running(&from)),
        BTreeSet::from([old.id.clone()]),
        "it serves on"
    );
    served(&load, 100);
    hosts.cluster.start_coordinator();
    // The command that began it is the one that sees its end: over the restart, with nothing left to stop.
    let took = watching.drained(|_| ());
    assert_eq!(hosts.running(&from), vec![], "drained in {took}");
    served(&load, 200);
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    assert_eq!(report.by_address.len(), 2, "both had their share: {report:?}");
    hosts.settled(1);
    gone(&hosts, &from);
    let now = hosts.running_anywhere();
    assert_eq!(
        (now[0].pod.clone(), now[0].node.clone()),
        (new, to),
        "the one that was under way"
    );
    let holds = hosts.cluster.wharf(&["hold", "list"]).ok();
    assert!(
        holds.contains(&from) && holds.contains("RAM swap"),
        "it stays held: {holds}"
    );
    println!("drained in {took}: {report}");
}

/// Counts the ready addresses of `web` until told to stop; returns the fewest, and all there ever were.
fn sampler(http: String, stop: Arc<AtomicBool>) -> thread::JoinHandle<(usize, BTreeSet<String>)> {
    thread::spawn(move || {
        let (mut least, mut all) = (usize::MAX, BTreeSet::new());
        while !stop.load(Ordering::Relaxed) {
            if let Ok(ready) = load::ready(&http, "default", "web") {
                least = least.min(ready.len());
                all.extend(ready);
            }
            thread::sleep(Duration::from_millis(20));
        }
        (least, all)
    })
}

#[test]
fn two_drains_at_once_keep_a_budget() {
    let hosts = hosts("dr2", 3, "");
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 4, "selector": {"matchLabels": {"app": "web"}}}});
    hosts.cluster.create(&budget).ok();
    hosts.cluster.create(&service("web", 4, 1)).ok();
    hosts.settled(4);
    let stay = ids(&hosts.running("n3"));
    assert!(stay.len() < 4, "pods were spread");
    let stop = Arc::new(AtomicBool::new(false));
    let sampled = sampler(hosts.cluster.http(), Arc::clone(&stop));
    let load = Load::start(load::Options::new(web(&hosts)));
    let both = ["n1", "n2"].map(|n| Watching::start(&hosts.cluster, n, &[]));
    for watching in both {
        watching.drained(|_| ());
    }
    hosts.settled(4);
    stop.store(true, Ordering::Relaxed);
    let (least, all) = sampled.join().expect("no panic");
    // As many as there are must be available: only a surge can give one free.
    assert_eq!(least, 4, "the budget asks for four; {all:?}");
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    for node in ["n1", "n2"] {
        gone(&hosts, node);
    }
    assert!(
        stay.is_subset(&ids(&hosts.running("n3"))),
        "what needed not move has not"
    );
    assert_eq!(hosts.running("n3").len(), 4);
}

/// `wharf apply -f` of a manifest.
#[track_caller]
fn apply(cluster: &Cluster, manifest: &Value) {
    let file = cluster.dir().join("applied.json");
    fs::write(&file, manifest.to_string()).expect("a manifest");
    cluster.wharf(&["apply", "-f", file.to_str().expect("UTF-8")]).ok();
}

#[test]
fn an_image_that_exits_as_the_replacement_keeps_the_originals() {
    pod_spec::make_image();
    let hosts = hosts("dr3", 2, "crash_initial_ms = 200\ncrash_max_ms = 500\n");
    for node in hosts.names() {
        hosts.engine(&node).load(pod_spec::IMAGE);
    }
    let mut web = service("web", 2, 1);
    apply(&hosts.cluster, &web);
    hosts.settled(2);
    let good = web["spec"]["template"]["spec"]["containers"][0].clone();
    let before = ids(&hosts.running("n1"));
    assert!(!before.is_empty(), "pods were spread");
    let bad = &mut web["spec"]["template"]["spec"]["containers"][0];
    bad["image"] = json!(pod_spec::IMAGE);
    bad["command"] = json!([
        "/bin/sh",
        "-c",
        "sleep 2; echo starting; echo cannot read /etc/app.conf; exit 1"
    ]);
    apply(&hosts.cluster, &web);
    assert!(
        before.is_subset(&ids(&hosts.running_anywhere())),
        "a template is for new pods"
    );

    hosts.cluster.wharf(&["drain", "n1", "--no-wait"]).ok();
    let view = stands(&hosts.cluster, "n1", "Blocked", |_| true);
    let pods = view["status"]["pods"].as_array().cloned().unwrap_or_default();
    assert_eq!(pods.len(), before.len(), "{view}");
    for pod in &pods {
        let why = pod["why"].as_str().unwrap_or_default();
        assert_eq!(pod["step"], "Blocked", "{view}");
        assert!(
            why.starts_with("replacement web-") && why.contains(" exited 1 three times: cannot read /etc/app.conf; "),
            "{why}"
        );
    }
    assert_eq!(
        ids(&hosts.running("n1")),
        before,
        "the originals run on, never restarted"
    );

    web["spec"]["template"]["spec"]["containers"][0] = good;
    apply(&hosts.cluster, &web);
    Watching::start(&hosts.cluster, "n1", &[]).drained(|_| ());
    hosts.settled(2);
    gone(&hosts, "n1");
}

#[test]
fn a_node_cut_in_mid_drain() {
    let mut hosts = hosts("dr4", 3, "");
    hosts.cluster.create(&service("web", 1, 3)).ok();
    hosts.settled(1);
    let from = home(&hosts);
    let old = ids(&hosts.running(&from));
    hosts
        .cluster
        .wharf(&["drain", &from, "--no-wait", "--reason", "RAM swap"])
        .ok();
    let (_, to) = in_mid_surge(&hosts.cluster, &from);
    hosts.cut(&from);
    hosts.condition(&from, "Unknown", "Unreachable");
    let asks = |node: &str| {
        let remedy = format!("or, if its host is off: wharf node confirm-off {node}");
        move |view: &Value| view["status"]["why"].to_string().contains(&remedy)
    };
    stands(&hosts.cluster, &from, "Blocked", asks(&from));
    eventually("the service goes on elsewhere", || {
        let ready = load::ready(&hosts.cluster.http(), "default", "web")?;
        let address = ready.first().ok_or("no address")?;
        assert!(address.starts_with(hosts.address(&to)), "{address}");
        load::get(address, "/").map(|_| ())
    });
    assert_eq!(ids(&hosts.running(&from)), old, "behind the cut it runs on");
    let history = hosts.cluster.wharf(&["audit"]).ok();
    assert!(history.contains("drain") && history.contains("RAM swap"), "{history}");
    hosts.heal(&from);
    Watching::start(&hosts.cluster, &from, &[]).drained(|_| ());
    hosts.settled(1);
    gone(&hosts, &from);

    // The other way out: its host has no power, and an operator says so.
    assert_eq!(home(&hosts), to);
    hosts.cluster.wharf(&["drain", &to, "--no-wait"]).ok();
    in_mid_surge(&hosts.cluster, &to);
    hosts.power_off(&to);
    hosts.condition(&to, "Unknown", "Unreachable");
    stands(&hosts.cluster, &to, "Blocked", asks(&to));
    hosts.cluster.wharf(&["node", "confirm-off", "--yes", &to, &to]).ok();
    stands(&hosts.cluster, &to, "Drained", |_| true);
    let ready = hosts.cluster.ready_pods();
    assert_eq!(ready.len(), 1, "{ready:?}");
    let third = ready[0]["spec"]["nodeName"].as_str().expect("a node").to_owned();
    assert!(third != from && third != to, "held nodes took nothing: {third}");
}

#[test]
fn an_agent_killed_in_mid_drain() {
    let mut hosts = hosts("dr5", 2, "facts_ms = 500\n");
    hosts.cluster.create(&controller("batch", 2, &["sleep"])).ok();
    hosts.cluster.create(&service("web", 1, 3)).ok();
    hosts.settled(3);
    let web = |hosts: &Hosts| {
        let all = hosts.running_anywhere();
        all.into_iter()
            .filter(|c| c.pod.starts_with("web-"))
            .collect::<Vec<_>>()
    };
    let old = web(&hosts)[0].clone();
    // Somebody's own, past Wharfinger.
    let engine = hosts.engine(&old.node).engine.clone();
    let own = ["run", "-d", "--name", "somebodys", harness::docker::IMAGE, "sleep"];
    let theirs = engine.docker(&own).ok();
    hosts.cluster.wharf(&["drain", &old.node, "--no-wait"]).ok();
    let spare = eventually("a replacement is under way", || {
        web(&hosts)
            .into_iter()
            .find(|c| c.node != old.node)
            .ok_or_else(String::new)
    });
    for node in [&old.node, &spare.node] {
        hosts.cluster.kill_agent(node);
    }
    let running = ids(&web(&hosts));
    assert_eq!(
        running,
        BTreeSet::from([old.id.clone(), spare.id.clone()]),
        "both run on"
    );
    for node in [&spare.node, &old.node] {
        hosts.cluster.spawn_agent(node, None);
    }
    let named = |view: &Value| view["status"]["unmanagedContainers"].to_string().contains("somebodys");
    stands(&hosts.cluster, &old.node, "Draining", named);
    Watching::start(&hosts.cluster, &old.node, &[]).drained(|_| ());
    hosts.settled(3);
    gone(&hosts, &old.node);
    assert_eq!(
        ids(&web(&hosts)),
        BTreeSet::from([spare.id]),
        "the replacement was not started anew"
    );
    let all = engine.docker(&["ps", "-q", "--no-trunc"]).ok();
    assert_eq!(all, theirs, "what is not ours runs on");
}
