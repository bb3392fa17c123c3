//! Hosts that are cut off, frozen, killed and lose power: three engines with networks of their own.

use std::collections::BTreeSet;

use harness::{Hosts, Options, cluster::controller, docker::Container, eventually};

fn ids(containers: &[Container]) -> BTreeSet<String> {
    containers.iter().map(|c| c.id.clone()).collect()
}

#[test]
fn how_a_host_is_lost_shows_in_its_condition() {
    let mut hosts = Hosts::start("seen", 3, Options::default());
    hosts.cluster.create(&controller("web", 6, &["serve"])).ok();
    hosts.settled(6);
    let before = ids(&hosts.running_anywhere());

    hosts.cut("n1");
    hosts.condition("n1", "Unknown", "Unreachable");
    hosts.freeze("n2");
    hosts.condition("n2", "Unknown", "Unreachable");
    hosts.cluster.kill_agent("n3");
    hosts.condition("n3", "Unknown", "AgentDown");
    assert_eq!(ids(&hosts.running_anywhere()), before, "no container was touched");

    hosts.heal("n1");
    hosts.thaw("n2");
    hosts.cluster.spawn_agent("n3", None);
    for name in hosts.names() {
        hosts.cluster.node_ready(&name);
    }
    hosts.settled(6);
    assert_eq!(ids(&hosts.running_anywhere()), before, "nothing was restarted");

    hosts.power_off("n1");
    hosts.condition("n1", "Unknown", "Unreachable");
    let others =
        |hosts: &Hosts| -> BTreeSet<String> { ["n2", "n3"].iter().flat_map(|n| ids(&hosts.running(n))).collect() };
    let untouched = others(&hosts);
    hosts.boot("n1");
    hosts.cluster.node_ready("n1");
    eventually("its pods run again", || {
        let running = hosts.running("n1");
        if running.is_empty() {
            Err(format!("{running:?}"))
        } else {
            Ok(())
        }
    });
    hosts.settled(6);
    assert_eq!(others(&hosts), untouched, "the other hosts did not notice");
}
