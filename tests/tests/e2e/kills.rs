//! Processes that die at bad moments: nothing acknowledged is lost, no container is restarted or doubled.

use std::{collections::BTreeMap, time::Duration};

use harness::{
    Cluster, Options,
    cluster::controller,
    docker::{Container, OwnEngine},
    eventually, eventually_within,
};
use nix::sys::signal::Signal;

fn ids(containers: &[Container]) -> BTreeMap<String, String> {
    containers.iter().map(|c| (c.name.clone(), c.id.clone())).collect()
}

fn restarts(cluster: &Cluster) -> u64 {
    let pods = cluster.items("pods");
    let statuses = pods
        .iter()
        .filter_map(|p| p["status"]["containerStatuses"].as_array())
        .flatten();
    statuses.map(|s| s["restartCount"].as_u64().unwrap_or(0)).sum()
}

#[test]
fn coordinator_killed_while_scaling_to_60() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1", "n2", "n3"]);
    cluster.create(&controller("web", 0, &["serve"])).ok();
    cluster.wharf(&["scale", "rc", "web", "--replicas=60"]).ok();
    // Killed at once after that answer, then three times on the way up, with some containers running and more on
    // their way, each time at once after another acknowledged write.
    let mut seen = BTreeMap::new();
    let mut acknowledged = Vec::new();
    for running in [0, 5, 20, 40] {
        eventually(&format!("{running} containers run"), || {
            let n = cluster.running().len();
            if n >= running {
                Ok(())
            } else {
                Err(format!("{n} running"))
            }
        });
        seen.extend(ids(&cluster.running()));
        if running > 0 {
            let name = format!("at-{running}");
            cluster.wharf(&["create", "namespace", &name]).ok();
            acknowledged.push(name);
        }
        cluster.kill_coordinator();
        cluster.start_coordinator();
        let rc = &cluster.items("rc")[0];
        assert_eq!(rc["spec"]["replicas"], 60, "the acknowledged scale is kept");
        for name in &acknowledged {
            cluster.wharf(&["get", "namespace", name]).ok();
        }
    }
    cluster.settled(60);
    let end = ids(&cluster.running());
    for (name, id) in &seen {
        assert_eq!(end.get(name), Some(id), "{name} was restarted");
    }
    assert_eq!(restarts(&cluster), 0);
}

#[test]
fn agent_killed_with_running_pods() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 4, &["serve"])).ok();
    cluster.settled(4);
    let before = ids(&cluster.running());
    cluster.kill_agent("n1");
    eventually("the node is seen to be down", || match cluster.node_condition("n1") {
        (status, reason) if status != "True" && reason == "AgentDown" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(ids(&cluster.running()), before, "containers go on without the agent");
    cluster.spawn_agent("n1", None);
    cluster.node_ready("n1");
    cluster.settled(4);
    assert_eq!(ids(&cluster.running()), before);
    assert_eq!(restarts(&cluster), 0);
}

#[test]
fn coordinator_away_for_many_heartbeats() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1", "n2"]);
    cluster.create(&controller("web", 4, &["serve"])).ok();
    cluster.settled(4);
    let before = cluster.running();
    cluster.kill_coordinator();
    let away = std::time::Instant::now();
    // One container crashes while nobody leads: the agent puts it back from its ledger.
    let victim = &before[0];
    cluster.options.engine.docker(&["kill", &victim.id]).ok();
    eventually("the agent restarts it by itself", || {
        let running = cluster.running();
        let back = running.iter().any(|c| c.pod == victim.pod && c.id != victim.id);
        if running.len() == 4 && back {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
    // Another one crashes while its agent is away too: what is to run is on the agent's disk.
    let second = before
        .iter()
        .find(|c| c.node != victim.node)
        .expect("a pod on the other node");
    cluster.kill_agent(&second.node);
    cluster.options.engine.docker(&["kill", &second.id]).ok();
    cluster.spawn_agent(&second.node, None);
    eventually("the restarted agent restarts it from its ledger", || {
        let running = cluster.running();
        let back = running.iter().any(|c| c.pod == second.pod && c.id != second.id);
        if running.len() == 4 && back {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
    // At 300 ms a heartbeat this is more than ten.
    eventually("ten heartbeats pass", || {
        if away.elapsed() > Duration::from_millis(3300) {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    let others = |all: &[Container]| -> Vec<Container> {
        let crashed = [&victim.pod, &second.pod];
        all.iter().filter(|c| !crashed.contains(&&c.pod)).cloned().collect()
    };
    assert_eq!(others(&cluster.running()), others(&before), "the others run on");
    cluster.start_coordinator();
    eventually("both restarts are reported afterwards", || match restarts(&cluster) {
        2 => Ok(()),
        n => Err(format!("{n} restarts")),
    });
    cluster.node_ready("n1");
    cluster.node_ready("n2");
    assert_eq!(others(&cluster.running()), others(&before));
}

#[test]
fn docker_restarted_under_the_agent() {
    let mut own = OwnEngine::start("restart");
    let mut cluster = Cluster::with(Options {
        engine: own.engine.clone(),
        ..Options::default()
    });
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 3, &["serve"])).ok();
    cluster.settled(3);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        own.down(signal);
        eventually("the node says that Docker is away", || {
            match cluster.node_condition("n1") {
                (status, reason) if status == "False" && reason == "DockerUnavailable" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        own.up();
        cluster.node_ready("n1");
        eventually_within(Duration::from_secs(90), "three containers run, none doubled", || {
            let running = cluster.running();
            let pods: std::collections::BTreeSet<_> = running.iter().map(|c| &c.pod).collect();
            assert!(running.len() <= 3, "doubled: {running:?}");
            if pods.len() == 3 && cluster.ready_pods().len() == 3 {
                Ok(())
            } else {
                Err(format!("{running:?}"))
            }
        });
    }
    drop(cluster);
}

#[test]
fn docker_restarted_beside_its_containers() {
    let mut own = OwnEngine::with("beside", &["--live-restore"]);
    let mut cluster = Cluster::with(Options {
        engine: own.engine.clone(),
        ..Options::default()
    });
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 3, &["serve"])).ok();
    cluster.settled(3);
    let before = ids(&cluster.running());
    own.down(Signal::SIGTERM);
    eventually("the node says that Docker is away", || {
        match cluster.node_condition("n1") {
            (status, reason) if status == "False" && reason == "DockerUnavailable" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    own.up();
    cluster.node_ready("n1");
    cluster.settled(3);
    assert_eq!(ids(&cluster.running()), before, "all are adopted");
    assert_eq!(restarts(&cluster), 0);
    drop(cluster);
}

#[test]
fn containers_removed_and_killed_behind_our_back() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 3, &["serve"])).ok();
    cluster.settled(3);
    let before = cluster.running();
    cluster.options.engine.docker(&["rm", "-f", &before[0].id]).ok();
    cluster.options.engine.docker(&["kill", &before[1].id]).ok();
    // The third one while the agent is away: it finds nothing but the gap.
    cluster.kill_agent("n1");
    cluster.options.engine.docker(&["rm", "-f", &before[2].id]).ok();
    cluster.spawn_agent("n1", None);
    eventually("all are put back", || {
        let running = cluster.running();
        // In the same pods: their controller has nothing to replace.
        let new = running
            .iter()
            .filter(|c| before.iter().any(|b| b.pod == c.pod) && before.iter().all(|b| b.id != c.id))
            .count();
        if running.len() == 3 && new == 3 && cluster.ready_pods().len() == 3 {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
    eventually("events say so", || {
        let events = cluster.items("events");
        let says = |pod: &str, words: &str| {
            events.iter().any(|e| {
                e["involvedObject"]["name"] == pod
                    && format!("{} {}", e["reason"], e["message"])
                        .to_lowercase()
                        .contains(words)
            })
        };
        // `rm -f` kills first: which of the two is seen depends on who is faster.
        let removed = says(&before[0].pod, "removed behind") || says(&before[0].pod, "signal 9");
        if removed && says(&before[1].pod, "signal 9") && says(&before[2].pod, "removed behind") {
            Ok(())
        } else {
            Err(format!("{events:#?}"))
        }
    });
}
