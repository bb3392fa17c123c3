//! A coordinator whose data directory is not what it was: it refuses to start, or its agents refuse it. No
//! container is stopped.

use std::{fs, path::Path, process::Command};

use harness::{Cluster, Options, cluster::controller, eventually, program};

fn copy(from: &Path, to: &Path) {
    program::run(Command::new("cp").arg("-a").arg(from).arg(to)).ok();
}

fn running_ids(cluster: &Cluster) -> Vec<String> {
    cluster.running().into_iter().map(|c| c.id).collect()
}

#[test]
fn an_emptied_directory_is_refused() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let before = running_ids(&cluster);
    cluster.stop_coordinator();
    let data = cluster.data_dir();
    // The store alone is gone: the mark beside it says that it served.
    let kept = cluster.dir().join("kept");
    copy(&data, &kept);
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        let _ = fs::remove_file(data.join(name));
    }
    let line =
        program::run(Command::new(program::path("wharf-coordinator")).args(cluster.coordinator_args())).refused(1);
    assert!(line.contains("store.db") && line.contains("served"), "{line}");
    // All of it is gone.
    fs::remove_dir_all(&data).expect("removed");
    let line =
        program::run(Command::new(program::path("wharf-coordinator")).args(cluster.coordinator_args())).refused(1);
    assert!(line.contains("wharf-coordinator init"), "{line}");
    assert_eq!(running_ids(&cluster), before, "containers are untouched");
    // Put back, all goes on.
    let _ = fs::remove_dir_all(&data);
    fs::rename(&kept, &data).expect("put back");
    cluster.start_coordinator();
    cluster.node_ready("n1");
    cluster.settled(2);
    assert_eq!(running_ids(&cluster), before);
}

#[test]
fn an_older_store_beside_its_mark_is_refused() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 1, &["serve"])).ok();
    cluster.settled(1);
    cluster.stop_coordinator();
    let data = cluster.data_dir();
    let old = cluster.dir().join("old.db");
    copy(&data.join("store.db"), &old);
    cluster.start_coordinator();
    cluster.node_ready("n1");
    cluster.wharf(&["scale", "rc", "web", "--replicas=3"]).ok();
    cluster.settled(3);
    let before = running_ids(&cluster);
    cluster.stop_coordinator();
    // A clean stop leaves all in the one file; the older one takes its place, the mark stays.
    let new = cluster.dir().join("new.db");
    fs::rename(data.join("store.db"), &new).expect("moved");
    for name in ["store.db-wal", "store.db-shm"] {
        assert!(!data.join(name).exists(), "{name} is left after a clean stop");
    }
    copy(&old, &data.join("store.db"));
    let line =
        program::run(Command::new(program::path("wharf-coordinator")).args(cluster.coordinator_args())).refused(1);
    assert!(
        line.contains("is older than what this coordinator has already served"),
        "{line}"
    );
    assert_eq!(running_ids(&cluster), before, "containers are untouched");
    fs::rename(&new, data.join("store.db")).expect("put back");
    cluster.start_coordinator();
    cluster.node_ready("n1");
    cluster.settled(3);
    assert_eq!(running_ids(&cluster), before);
}

#[test]
fn an_older_copy_is_refused_by_the_agents() {
    let mut cluster = Cluster::with(Options {
        agent: "refused_retry_ms = 300\n".to_owned(),
        ..Options::default()
    });
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 1, &["serve"])).ok();
    cluster.settled(1);
    cluster.stop_coordinator();
    let data = cluster.data_dir();
    let old = cluster.dir().join("old");
    copy(&data, &old);
    cluster.start_coordinator();
    cluster.node_ready("n1");
    cluster.wharf(&["scale", "rc", "web", "--replicas=4"]).ok();
    cluster.settled(4);
    let before = running_ids(&cluster);
    cluster.kill_coordinator();
    // The whole directory, mark included, as it was at one pod.
    let new = cluster.dir().join("new");
    fs::rename(&data, &new).expect("moved");
    copy(&old, &data);
    cluster.start_coordinator();
    eventually("the agent refuses the older history", || {
        let log = cluster.agent_log("n1");
        if log.contains("replaced by a copy") || log.contains("another history") {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });
    eventually("a node that refuses takes no pods", || {
        match cluster.node_condition("n1") {
            (status, _) if status != "True" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // It stops what it knows, but nothing of it reaches the node: the agent has come back and refused since.
    cluster.wharf(&["scale", "rc", "web", "--replicas=0"]).ok();
    eventually("the older coordinator wants its pod stopped", || {
        let pods = cluster.items("pods");
        let stopping = |p: &serde_json::Value| !p["metadata"]["deletionTimestamp"].is_null();
        if pods.len() == 1 && pods.iter().all(stopping) {
            Ok(())
        } else {
            Err(format!("{pods:#?}"))
        }
    });
    let refusals = |cluster: &Cluster| cluster.agent_log("n1").matches("all containers keep running").count();
    let so_far = refusals(&cluster);
    eventually("the agent refuses twice more", || match refusals(&cluster) {
        n if n >= so_far + 2 => Ok(()),
        n => Err(format!("{n} refusals, {so_far} before")),
    });
    assert_eq!(running_ids(&cluster), before, "no container was stopped");
    // The newer directory put back, the agent follows again.
    cluster.kill_coordinator();
    fs::remove_dir_all(&data).expect("removed");
    fs::rename(&new, &data).expect("put back");
    cluster.start_coordinator();
    cluster.node_ready("n1");
    cluster.settled(4);
    assert_eq!(running_ids(&cluster), before);
}

#[test]
fn another_cluster_at_the_same_address_is_refused() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let before = running_ids(&cluster);
    cluster.stop_coordinator();
    let data = cluster.data_dir();
    fs::rename(&data, cluster.dir().join("first")).expect("moved");
    program::run(
        Command::new(program::path("wharf-coordinator"))
            .args(["init", "--data-dir"])
            .arg(&data)
            .args(["--advertise", &cluster.address()]),
    )
    .ok();
    cluster.start_coordinator();
    eventually("the agent says that the CA is another one", || {
        let log = cluster.agent_log("n1").to_lowercase();
        if log.contains("unknownissuer") || log.contains("certificate") {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });
    assert_eq!(running_ids(&cluster), before);
}
