//! Bad input about the store, and what etcd does to a coordinator.

use harness::{
    eventually, program,
    replicas::{Options, Part, Replicas},
};

use crate::{fleet, holds, writable};

/// `run` with one line of the configuration changed; what it says before it is ended or ends.
fn run_with(all: &Replicas, machine: usize, change: impl Fn(String) -> String) -> String {
    let path = all.config(machine);
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let other = all.dir().join("other.toml");
    std::fs::write(&other, change(text)).expect("a configuration");
    let log = all.dir().join("other.log");
    let _ = std::fs::remove_file(&log);
    let mut command = all.on(machine, &program::path("wharf-coordinator"));
    command
        .arg("run")
        .arg("--data-dir")
        .arg(all.data_dir(machine))
        .arg("--config")
        .arg(&other);
    let mut running = program::Background::of(&mut command, log);
    let said = eventually("it says why", || match running.ended() {
        Some(_) => Ok(running.log_text()),
        None if running.log_text().contains("etcd") => Ok(running.log_text()),
        None => Err(running.log_text()),
    });
    running.kill();
    said
}

#[test]
fn mistakes_about_etcd_are_told_by_name() {
    let (mut all, ids) = fleet();
    let standby = (all.leader() + 1) % 3;
    all.stop(standby, Part::Coordinator);
    let said = run_with(&all, standby, |text| text.replace(":2379", ":2399"));
    assert!(said.contains(":2399") && said.contains("refused"), "{said}");
    let said = run_with(&all, standby, |text| format!("{text}\netcd-prefix = \"/elsewhere/\"\n"));
    assert!(said.contains("/elsewhere/"), "{said}");
    let said = run_with(&all, standby, |text| text.replace("client.crt", "ca.crt"));
    assert!(
        said.contains("--etcd-cert and --etcd-key do not belong together"),
        "{said}"
    );
    all.up(standby, Part::Coordinator);
    all.all_follow();
    holds(&mut all, &ids, &[]);
}

#[test]
fn another_clusters_store_is_refused() {
    let (all, _) = fleet();
    let dir = all.dir().join("stranger");
    let mut command = all.on(1, &program::path("wharf-coordinator"));
    command
        .arg("init")
        .arg("--data-dir")
        .arg(&dir)
        .args(["--advertise", &all.address(1)]);
    program::run(&mut command).ok();
    let mut command = all.on(1, &program::path("wharf-coordinator"));
    command
        .arg("run")
        .arg("--data-dir")
        .arg(&dir)
        .arg("--config")
        .arg(all.config(1));
    command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let out = program::run(&mut command);
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.stderr.contains(&all.id), "both clusters are named: {}", out.stderr);
}

#[test]
fn a_full_etcd_refuses_writes_and_heals() {
    let options = Options {
        quota: Some(16 << 20),
        ..Options::default()
    };
    let (mut all, ids) = crate::fleet_with(options);
    let etcdctl = |args: &[&str]| all.etcdctl(0, &[0, 1, 2], args);
    let store = crate::status(&all)["store"].clone();
    assert_eq!(store["quota"], 16 << 20, "{store}");
    let of = |i: usize| store["certificates"][i]["of"].as_str();
    assert_eq!((of(0), of(1)), (Some("etcd CA"), Some("etcd client")), "{store}");
    // Something else fills it.
    let filler = "x".repeat(100 << 10);
    while etcdctl(&["put", "/filler", &filler]).code == 0 {}
    let said = eventually("writes are refused", || {
        let out = all.wharf(&["create", "namespace", "full"]);
        if out.code != 0 {
            Ok(out.stderr)
        } else {
            Err("acknowledged".into())
        }
    });
    assert!(said.contains("etcd") || said.contains("full"), "{said}");
    all.wharf(&["get", "pods"]).ok();
    assert_eq!(all.container_ids(), ids);
    etcdctl(&["del", "/filler"]).ok();
    let after = writable(&all, "after");
    holds(&mut all, &ids, &[after]);
}
