//! The hardware of this machine, from the agent's reading to what an operator sees.

use harness::{Cluster, eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn a_node_shows_its_hardware_and_reads_it_again_at_sighup() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let node = cluster.json(&["get", "node", "n1"]);
    let hardware = &node["status"]["hardware"];
    let online = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    assert!(hardware["cpu"]["threads"].as_u64() >= Some(online), "{node:#}");
    assert!(hardware["memory"]["total"].as_u64() > Some(0), "{node:#}");
    let text = cluster.wharf(&["describe", "node", "n1"]).ok();
    assert!(text.contains("\nHardware:\n") && text.contains(" thread"), "{text}");

    let pid = Pid::from_raw(cluster.agent("n1").pid());
    kill(pid, Signal::SIGHUP).expect("SIGHUP");
    eventually("the agent looks again", || {
        let log = cluster.agent_log("n1");
        if log.contains("looks at this host's hardware again") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert_eq!(cluster.agent("n1").ended(), None, "it is no reason to end");
    cluster.node_ready("n1");
}
