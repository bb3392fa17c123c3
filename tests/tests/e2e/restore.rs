//! A coordinator's state lost while containers run, and restored from a backup: no new token, every container the same.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use harness::{Cluster, Options, cluster::controller, eventually, program};

/// Ids by container name.
fn containers(cluster: &Cluster) -> BTreeMap<String, String> {
    cluster.running().into_iter().map(|c| (c.name, c.id)).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

fn passphrase(cluster: &Cluster) -> PathBuf {
    let path = cluster.dir().join("pass.txt");
    fs::write(&path, "correct horse battery\n").expect("written");
    path
}

fn restore(file: &Path, to: &Path, more: &[&str]) -> program::Output {
    program::run(
        Command::new(program::path("wharf-coordinator"))
            .arg("restore")
            .arg(file)
            .arg("--data-dir")
            .arg(to)
            .args(more),
    )
}

#[track_caller]
fn quarantined(cluster: &Cluster, node: &str) {
    eventually(&format!("{node} waits for an operator's word"), || {
        let log = cluster.agent_log(node);
        if log.contains("restored from a backup") {
            Ok(())
        } else {
            Err(log)
        }
    });
}

fn options() -> Options {
    Options {
        agent: "refused_retry_ms = 300\n".to_owned(),
        ..Options::default()
    }
}

#[test]
fn a_lost_data_directory_is_restored_and_no_container_notices() {
    let mut cluster = Cluster::with(Options {
        // Renewed at a third: agents' certificates are younger than the backup by the time that it is restored.
        coordinator: "agent-certificate-ms = 60000\n".to_owned(),
        ..options()
    });
    cluster.join(&["n1", "n2"]);
    cluster.create(&controller("web", 3, &["serve"])).ok();
    cluster.create(&controller("old", 1, &["serve"])).ok();
    cluster.settled(4);
    let (file, pass) = (cluster.dir().join("fleet.backup"), passphrase(&cluster));
    let said = cluster
        .wharf(&[
            "cluster",
            "backup",
            text(&file),
            "--with-keys",
            "--passphrase-file",
            text(&pass),
        ])
        .ok();
    assert!(said.contains(&cluster.id) && said.contains("with keys"), "{said}");
    // What the backup does not know: a new controller's pods, and that another one is gone.
    cluster.create(&controller("late", 2, &["serve"])).ok();
    cluster.wharf(&["delete", "rc", "old"]).ok();
    cluster.settled(5);
    let log = cluster.coordinator_log().len();
    eventually("the agents have certificates from after the backup", || {
        let since = cluster.coordinator_log().split_off(log);
        let renewed = |node: &str| {
            since
                .lines()
                .any(|l| l.contains("certificate renewed") && l.contains(node))
        };
        if renewed("n1") && renewed("n2") {
            Ok(())
        } else {
            Err(since)
        }
    });
    let before = containers(&cluster);
    cluster.kill_coordinator();
    let data = cluster.data_dir();
    fs::remove_dir_all(&data).expect("lost");
    let said = restore(
        &file,
        &data,
        &["--passphrase-file", text(&pass), "--advertise", &cluster.address()],
    )
    .ok();
    assert!(said.contains("accept-restore"), "{said}");

    cluster.start_coordinator();
    quarantined(&cluster, "n1");
    quarantined(&cluster, "n2");
    // Nothing is done before the word, whatever is asked: neither is `old` started nor `late` stopped.
    cluster.wharf(&["scale", "rc", "web", "--replicas=4"]).ok();
    eventually("both nodes are heard", || {
        let page = cluster.wharf(&["cluster", "accept-restore", "--dry-run"]).ok();
        if page.matches(" yes ").count() == 2 {
            Ok(())
        } else {
            Err(page)
        }
    });
    let page = cluster.wharf(&["cluster", "accept-restore", "--dry-run"]).ok();
    assert_eq!(page.matches("default/late-").count(), 2, "{page}");
    assert_eq!(page.matches("default/old-").count(), 1, "{page}");
    assert_eq!(containers(&cluster), before, "nothing was started or stopped");
    assert_eq!(
        cluster
            .wharf(&["cluster", "orphan", "list", "-o", "json"])
            .ok()
            .matches("\"uid\"")
            .count(),
        0
    );
    let nobody = cluster.wharf(&["cluster", "accept-restore"]);
    assert_eq!(nobody.code, 2, "{nobody:?}");

    cluster.wharf(&["cluster", "accept-restore", "--yes"]).ok();
    cluster.node_ready("n1");
    cluster.node_ready("n2");
    // 4 of web, 1 of old, and 2 that nobody has on record.
    eventually("all is as the restored state wants it, beside the orphans", || {
        let (pods, running) = (cluster.ready_pods().len(), cluster.running().len());
        if (pods, running) == (5, 7) {
            Ok(())
        } else {
            Err(format!("{pods} pods, {running} containers"))
        }
    });
    let after = containers(&cluster);
    for (name, id) in &before {
        assert_eq!(after.get(name), Some(id), "{name}");
    }
    let orphans = || cluster.wharf(&["cluster", "orphan", "list"]).ok();
    eventually("the agents have told what the orphans are", || {
        let table = orphans();
        if table.matches("Orphaned").count() == 2 && !table.contains("<unknown>") {
            Ok(())
        } else {
            Err(table)
        }
    });
    // They outlast sessions, and a coordinator.
    cluster.kill_coordinator();
    cluster.start_coordinator();
    cluster.node_ready("n1");
    cluster.node_ready("n2");
    assert_eq!(containers(&cluster), after);

    // One is taken in, one is not wanted.
    let list: serde_json::Value =
        serde_json::from_str(&cluster.wharf(&["cluster", "orphan", "list", "-o", "json"]).ok()).expect("JSON");
    let uid = |n: usize| list["items"][n]["uid"].as_str().expect("a uid").to_owned();
    let name = |n: usize| list["items"][n]["name"].as_str().expect("a name").to_owned();
    cluster.wharf(&["cluster", "orphan", "adopt", &uid(0)]).ok();
    cluster.wharf(&["cluster", "orphan", "delete", &uid(1)]).ok();
    eventually("one is a pod and one is gone", || {
        let (pods, running) = (cluster.ready_pods().len(), cluster.running().len());
        let left = cluster.wharf(&["cluster", "orphan", "list"]);
        if (pods, running) == (6, 6) && left.stderr.contains("no orphans") {
            Ok(())
        } else {
            Err(format!("{pods} pods, {running} containers, {left:?}"))
        }
    });
    let last = containers(&cluster);
    let (kept, gone) = (name(0), name(1));
    let of = |containers: &BTreeMap<String, String>, pod: &str| -> BTreeMap<String, String> {
        let found = containers.iter().filter(|(name, _)| name.contains(pod));
        found.map(|(name, id)| (name.clone(), id.clone())).collect()
    };
    assert_eq!(of(&last, &kept), of(&after, &kept), "adopted, not started again");
    assert_eq!(of(&last, &kept).len(), 1);
    assert_eq!(of(&last, &gone).len(), 0);
}

#[test]
fn a_restore_elsewhere_is_followed_by_agents_that_are_told_where() {
    let mut cluster = Cluster::with(options());
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let (file, pass) = (cluster.dir().join("fleet.backup"), passphrase(&cluster));
    let backup = [
        "cluster",
        "backup",
        text(&file),
        "--with-keys",
        "--passphrase-file",
        text(&pass),
    ];
    cluster.wharf(&backup).ok();
    let line = cluster.wharf(&backup).refused(1);
    assert!(line.contains("already exists") && line.contains("--force"), "{line}");
    let before = containers(&cluster);
    cluster.kill_coordinator();
    fs::remove_dir_all(cluster.data_dir()).expect("lost");

    // Bad input first.
    let elsewhere = cluster.dir().join("elsewhere");
    for (file, more, words) in [
        (&file, &[][..], "give --passphrase-file"),
        (&pass, &[][..], "no Wharfinger backup"),
        (&file, &["--passphrase-file", text(&file)][..], "UTF-8"),
    ] {
        let line = restore(file, &elsewhere, more).refused(1);
        assert!(line.contains(words), "{line}");
        assert!(!elsewhere.exists());
    }
    // Another address, on the machine that there is.
    cluster.options.listen = "127.0.0.2".to_owned();
    let address = cluster.address();
    restore(
        &file,
        &elsewhere,
        &["--passphrase-file", text(&pass), "--advertise", &address],
    )
    .ok();
    fs::rename(&elsewhere, cluster.data_dir()).expect("moved to where the harness looks");
    cluster.start_coordinator();
    cluster.kill_agent("n1");
    cluster.spawn_agent("n1", None);
    quarantined(&cluster, "n1");
    cluster.wharf(&["cluster", "accept-restore", "--yes"]).ok();
    cluster.node_ready("n1");
    cluster.settled(2);
    assert_eq!(containers(&cluster), before);
    // Restored over what is there now: refused.
    let line = restore(&file, &cluster.data_dir(), &["--passphrase-file", text(&pass)]).refused(1);
    assert!(line.contains("holds a store"), "{line}");
    assert_eq!(
        cluster
            .wharf(&["cluster", "accept-restore", "--yes"])
            .ok()
            .lines()
            .count(),
        1
    );
}

#[test]
fn a_schedule_keeps_backups_in_the_data_directory() {
    let cluster = Cluster::start();
    cluster
        .wharf(&["settings", "set", "backup-every=1s", "backup-keep=2"])
        .ok();
    let names = || {
        let dir = cluster.data_dir().join("backups");
        let mut names: Vec<String> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    };
    let first = eventually("a first backup", || {
        names().first().cloned().ok_or_else(|| "none".to_owned())
    });
    eventually("two others have taken its place", || {
        let names = names();
        if names.len() == 2 && !names.contains(&first) {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    });
    let newest = names().pop().expect("a backup");
    let bytes = fs::read(cluster.data_dir().join("backups").join(newest)).expect("read");
    let backup = proto::backup::decode(&bytes).expect("whole");
    assert_eq!(backup.header.cluster, cluster.id);
    assert!(!backup.header.keys);
}

#[test]
fn a_store_that_was_lost_comes_back_beside_its_keys() {
    let mut cluster = Cluster::start();
    let (file, pass) = (cluster.dir().join("fleet.backup"), passphrase(&cluster));
    cluster
        .wharf(&[
            "cluster",
            "backup",
            text(&file),
            "--with-keys",
            "--passphrase-file",
            text(&pass),
        ])
        .ok();
    cluster.kill_coordinator();
    let data = cluster.data_dir();
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        let _ = fs::remove_file(data.join(name));
    }
    // Its own keys are there: no passphrase is needed, and the mark of what was served does not stand in the way.
    restore(&file, &data, &[]).ok();
    cluster.start_coordinator();
    let page = cluster.wharf(&["cluster", "accept-restore", "--yes"]).ok();
    assert!(page.contains("restore accepted"), "{page}");
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 1, &["serve"])).ok();
    cluster.settled(1);
    // And it goes on from there, in the usual way.
    cluster.kill_coordinator();
    cluster.start_coordinator();
    cluster.node_ready("n1");
}
