//! Hosts join, come back and leave as an operator sees it: real programs, one real engine.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use harness::{Cluster, cluster::controller, eventually, program};

fn leave(cluster: &Cluster, name: &str, more: &[&str]) -> program::Output {
    let dir = cluster.agent_dir(name);
    let mut command = Command::new(program::path("wharf-agent"));
    program::run(command.args(["leave", "--data-dir"]).arg(dir).args(more))
}

#[test]
fn a_host_takes_the_pods_that_wait_for_it_without_another_command() {
    let mut cluster = Cluster::start();
    cluster.create(&controller("web", 2, &["serve"])).ok();
    let token = cluster.token(&[]);
    let begun = Instant::now();
    cluster.spawn_agent("n1", Some(&token));
    cluster.node_ready("n1");
    let ready = begun.elapsed();
    cluster.settled(2);
    println!(
        "agent start → Ready {ready:?}, → both pods Running and Ready {:?}",
        begun.elapsed()
    );
    // `make bench` measures it; here a wait of some seconds anywhere on the way is a fault, even on a busy machine.
    assert!(ready < Duration::from_secs(8), "{ready:?}");
}

#[test]
fn a_host_that_cannot_hold_pods_is_refused_before_its_token_is_used() {
    let cluster = Cluster::start();
    let token = cluster.token(&[]);
    let unused = cluster.json(&["token", "list"]);
    let join = |variable: (&str, &str), more: &[&str]| {
        let mut command = Command::new(program::path("wharf-agent"));
        // The last one of an option counts.
        command.args(cluster.agent_args("n1", Some(&token))).args(more);
        program::run(command.env(variable.0, variable.1)).refused(1)
    };
    let nowhere = format!("unix://{}/no-such.sock", cluster.dir().display());
    let line = join(("WHARF_JOIN_ENGINE_MS", "600"), &["--docker-host", &nowhere]);
    assert!(
        line.contains("no-such.sock") && line.contains("start Docker, or give --docker-host"),
        "{line}"
    );
    let line = join(("WHARF_JOIN_FREE_MIB", "999999999"), &[]);
    assert!(
        line.contains("--data-dir") && line.contains("joining needs 999999999 MiB"),
        "{line}"
    );
    assert_eq!(cluster.json(&["token", "list"]), unused, "no use was counted");
    assert!(cluster.items("nodes").is_empty());
}

#[test]
fn a_second_agent_of_a_machine_needs_both_to_share_it() {
    let ids = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
    if !ids
        .iter()
        .any(|f| std::fs::read_to_string(f).is_ok_and(|id| !id.trim().is_empty()))
    {
        println!("this machine has no id of its own: not shown here");
        return;
    }
    let mut cluster = Cluster::start();
    let token = cluster.token(&["--uses", "3"]);
    cluster.spawn_agent("n1", Some(&token));
    cluster.node_ready("n1");
    let mut alone = cluster.agent_args("n2", Some(&token));
    alone.retain(|a| a != "--shared-host");
    let line = program::run(
        Command::new(program::path("wharf-agent"))
            .args(alone)
            .env("WHARF_METRICS_LISTEN", "none"),
    );
    let line = line.refused(1);
    assert!(
        line.contains("this machine is node \"n1\" already") && line.contains("--shared-host"),
        "{line}"
    );
    cluster.spawn_agent("n2", Some(&token));
    cluster.node_ready("n2");
}

#[test]
fn a_host_whose_data_directory_was_lost_comes_back_and_keeps_what_its_engine_has() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.wharf(&["label", "node", "n1", "rack=r7"]).ok();
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let before = cluster.running();
    let uid = cluster.items("nodes")[0]["metadata"]["uid"].clone();
    cluster.kill_agent("n1");
    // The directory is moved away, as if its disk were gone; Docker's is another one.
    std::fs::rename(cluster.agent_dir("n1"), cluster.dir().join("lost")).expect("moved");
    let line = cluster.run_agent("n1", &cluster.token(&[])).refused(1);
    assert!(line.contains("wharf token create --node n1"), "{line}");
    let token = cluster.token(&["--node", "n1"]);
    cluster.spawn_agent("n1", Some(&token));
    // What is reported anew is believed although this agent's starts are counted from one.
    eventually("a pod is restarted by its new agent", || {
        let log = cluster.agent_log("n1");
        if log.contains("session with the active coordinator") {
            Ok(())
        } else {
            Err(log)
        }
    });
    cluster.node_ready("n1");
    cluster.settled(2);
    assert_eq!(cluster.running(), before, "what the engine has goes on");
    let node = &cluster.items("nodes")[0];
    assert_eq!(
        (&node["metadata"]["uid"], &node["metadata"]["labels"]["rack"]),
        (&uid, &"r7".into())
    );
    cluster.wharf(&["scale", "rc", "web", "--replicas=3"]).ok();
    cluster.settled(3);
    // The directory that turns up again is nobody's, and harms nothing.
    cluster.kill_agent("n1");
    std::fs::rename(cluster.agent_dir("n1"), cluster.dir().join("new")).expect("moved");
    std::fs::rename(cluster.dir().join("lost"), cluster.agent_dir("n1")).expect("moved");
    cluster.spawn_agent("n1", None);
    eventually("the old identity is refused", || {
        let log = cluster.agent_log("n1");
        if log.contains("a newer certificate is in use") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert_eq!(cluster.running().len(), 3);
}

#[test]
fn leaving_is_refused_while_pods_are_bound_and_then_frees_the_name() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 1, &["serve"])).ok();
    cluster.settled(1);
    let line = leave(&cluster, "n1", &[]).refused(1);
    assert!(line.contains("stop it first"), "{line}");
    cluster.kill_agent("n1");
    let line = leave(&cluster, "n1", &[]).refused(1);
    assert!(line.contains("1 pod is still bound to it"), "{line}");
    assert_eq!(cluster.running().len(), 1, "nothing is stopped by asking");
    cluster.spawn_agent("n1", None);
    cluster.node_ready("n1");
    cluster.wharf(&["delete", "rc", "web"]).ok();
    cluster.settled(0);
    cluster.kill_agent("n1");
    let said = leave(&cluster, "n1", &[]).ok();
    assert!(said.starts_with("node n1 has left the cluster"), "{said}");
    assert!(cluster.items("nodes").is_empty());
    let again = leave(&cluster, "n1", &[]).refused(1);
    assert!(again.contains("has not joined, or has left"), "{again}");
    // Without identity it must join anew, and may.
    let token = cluster.token(&[]);
    cluster.spawn_agent("n1", Some(&token));
    cluster.node_ready("n1");
}
