//! The state of a cluster moved into another kind of store, and a backup restored into etcd: agents and containers run on.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use harness::{
    Cluster, Options,
    cluster::controller,
    etcd::Etcd,
    eventually,
    program::{self, Output},
};

/// Ids by container name.
fn containers(cluster: &Cluster) -> BTreeMap<String, String> {
    cluster.running().into_iter().map(|c| (c.name, c.id)).collect()
}

fn command(verb: &str, data: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program::path("wharf-coordinator"));
    program::run(command.args([verb, "--data-dir"]).arg(data).args(args))
}

fn migrate(cluster: &Cluster, from: &str, to: &str, etcd: &Etcd) -> Output {
    let endpoints = etcd.endpoints().join(",");
    let args = ["--from", from, "--to", to, "--etcd-endpoints", &endpoints];
    command("migrate", &cluster.data_dir(), &args)
}

/// Lines of the coordinator's configuration.
fn on(etcd: &Etcd) -> String {
    format!(
        "store = \"etcd\"\netcd-endpoints = \"{}\"\n",
        etcd.endpoints().join(",")
    )
}

/// Run by hand with the configuration of the moment, it ends at once. It may have warned of etcd before.
fn refused(cluster: &Cluster) -> String {
    let mut command = Command::new(program::path("wharf-coordinator"));
    let out = program::run(command.args(cluster.coordinator_args()));
    assert_eq!(out.code, 1, "{out:?}");
    out.stderr
}

fn settings() -> Options {
    Options {
        agent: "refused_retry_ms = 300\n".to_owned(),
        ..Options::default()
    }
}

#[test]
fn a_move_there_and_back_is_noticed_by_no_agent_and_no_container() {
    let etcd = Etcd::start(1);
    let mut cluster = Cluster::with(settings());
    cluster.join(&["n1", "n2"]);
    cluster.create(&controller("web", 3, &["serve"])).ok();
    cluster.settled(3);
    let before = containers(&cluster);
    let agents = ["n1", "n2"].map(|name| cluster.agent_pid(name));

    // Not while it is used.
    let line = migrate(&cluster, "sqlite", "etcd", &etcd).refused(1);
    assert!(line.contains("uses this data directory"), "{line}");
    cluster.stop_coordinator();
    let said = migrate(&cluster, "sqlite", "etcd", &etcd).ok();
    assert!(said.contains(&cluster.id) && said.contains("--store etcd"), "{said}");
    let line = migrate(&cluster, "sqlite", "etcd", &etcd).refused(1);
    assert!(line.contains("was moved to etcd"), "{line}");
    let line = refused(&cluster);
    assert!(line.contains("was moved to etcd"), "{line}");

    cluster.options.coordinator = on(&etcd);
    cluster.start_coordinator();
    cluster.node_ready("n1");
    cluster.node_ready("n2");
    assert_eq!(containers(&cluster), before);
    cluster.wharf(&["scale", "rc", "web", "--replicas=4"]).ok();
    cluster.settled(4);
    // Nor while it is led there.
    let line = migrate(&cluster, "etcd", "sqlite", &etcd).refused(1);
    assert!(
        line.contains("is led by coordinator") && line.contains("stop all"),
        "{line}"
    );
    cluster.wharf(&["scale", "rc", "web", "--replicas=5"]).ok();
    cluster.settled(5);
    let more = containers(&cluster);
    for (name, id) in &before {
        assert_eq!(more.get(name), Some(id), "{name}");
    }

    // Back, after a crash.
    cluster.kill_coordinator();
    let said = migrate(&cluster, "etcd", "sqlite", &etcd).ok();
    assert!(said.contains("store.db.moved-"), "{said}");
    let line = refused(&cluster);
    assert!(line.contains("was moved to sqlite"), "{line}");
    cluster.options.coordinator = String::new();
    cluster.start_coordinator();
    cluster.node_ready("n1");
    cluster.node_ready("n2");
    assert_eq!(containers(&cluster), more);
    cluster.wharf(&["scale", "rc", "web", "--replicas=3"]).ok();
    cluster.settled(3);
    for (name, id) in containers(&cluster) {
        assert_eq!(more.get(&name), Some(&id), "{name}");
    }
    // The same processes all the time, with the identities that they had.
    assert_eq!(["n1", "n2"].map(|name| cluster.agent_pid(name)), agents);
    for (name, log) in ["n1", "n2"].map(|name| (name, cluster.agent_log(name))) {
        assert!(!log.contains("restored from a backup"), "{name}: {log}");
    }
}

#[test]
fn a_backup_is_restored_into_etcd_and_no_container_notices() {
    let etcd = Etcd::start(1);
    let mut cluster = Cluster::with(settings());
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let (file, pass) = (cluster.dir().join("fleet.backup"), cluster.dir().join("pass.txt"));
    fs::write(&pass, "correct horse battery\n").expect("written");
    let (file, pass) = (file.to_str().expect("UTF-8"), pass.to_str().expect("UTF-8"));
    let with_keys = ["cluster", "backup", file, "--with-keys", "--passphrase-file", pass];
    cluster.wharf(&with_keys).ok();
    let before = containers(&cluster);
    cluster.kill_coordinator();
    let data = cluster.data_dir();
    fs::remove_dir_all(&data).expect("lost");

    let endpoints = etcd.endpoints().join(",");
    let address = cluster.address();
    let args = [
        file,
        "--passphrase-file",
        pass,
        "--advertise",
        &address,
        "--store",
        "etcd",
        "--etcd-endpoints",
        &endpoints,
    ];
    let said = command("restore", &data, &args).ok();
    assert!(
        said.contains("--store etcd") && said.contains("accept-restore"),
        "{said}"
    );
    // Not over what is there, whatever directory asks.
    let other = cluster.dir().join("other");
    let line = command("restore", &other, &args).refused(1);
    assert!(
        line.contains("is not empty") && line.contains("--etcd-prefix"),
        "{line}"
    );
    assert!(!other.exists());

    cluster.options.coordinator = on(&etcd);
    cluster.start_coordinator();
    eventually("the agent waits for an operator's word", || {
        let log = cluster.agent_log("n1");
        log.contains("restored from a backup").then_some(()).ok_or(log)
    });
    cluster.wharf(&["cluster", "accept-restore", "--yes"]).ok();
    cluster.node_ready("n1");
    cluster.settled(2);
    assert_eq!(containers(&cluster), before);
    // It leads as any other one does, and again.
    cluster.kill_coordinator();
    cluster.start_coordinator();
    cluster.node_ready("n1");
    assert_eq!(containers(&cluster), before);
}

#[test]
fn a_move_that_cannot_be_is_refused_on_one_line() {
    let (etcd, place) = (Etcd::start(1), tempfile::tempdir().expect("a directory"));
    let endpoints = etcd.endpoints().join(",");
    let data = place.path().join("d");
    let init = |name: &str, args: &[&str]| {
        let mut all = vec!["--advertise", "127.0.0.1:7443"];
        all.extend(args);
        command("init", &place.path().join(name), &all).ok()
    };
    init("d", &[]);
    init(
        "theirs",
        &[
            "--store",
            "etcd",
            "--etcd-endpoints",
            &endpoints,
            "--etcd-prefix",
            "/theirs/",
        ],
    );
    let both = |from, to| vec!["--from", from, "--to", to, "--etcd-endpoints", endpoints.as_str()];
    let theirs = |from, to| [both(from, to), vec!["--etcd-prefix", "/theirs/"]].concat();
    for (code, args, words) in [
        (2, both("sqlite", "sqlite"), "to is sqlite, as from is"),
        (2, both("etcd", "etcd"), "to is etcd, as from is"),
        (2, vec!["--from", "sqlite", "--to", "etcd"], "etcd-endpoints is not set"),
        (1, both("etcd", "sqlite"), "holds no cluster"),
        (1, theirs("etcd", "sqlite"), "belongs to cluster"),
        (1, theirs("sqlite", "etcd"), "is not empty"),
    ] {
        let line = command("migrate", &data, &args).refused(code);
        assert!(line.contains(words), "{line}");
    }
    let line = command("migrate", &place.path().join("nothing"), &both("sqlite", "etcd")).refused(1);
    assert!(line.contains("is not a coordinator's"), "{line}");
    let line = command("migrate", &place.path().join("theirs"), &both("sqlite", "etcd")).refused(1);
    assert!(line.contains("store.db is missing"), "{line}");
    assert!(!place.path().join("theirs/store.db").exists());
    // None of it hindered the one that is right.
    let said = command("migrate", &data, &both("sqlite", "etcd")).ok();
    assert!(said.contains("moved from sqlite"), "{said}");
}
