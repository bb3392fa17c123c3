//! `wharf logs` on real containers: what they wrote, and readers that stall while nodes stay Ready.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use harness::{
    Cluster, eventually,
    program::{self, Background},
};
use serde_json::{Value, json};

use crate::pod_spec::{IMAGE, make_image};

/// A pod whose containers run these scripts.
fn pod(name: &str, policy: &str, scripts: &[(&str, &str)]) -> Value {
    let containers = scripts.iter().map(|(container, script)| {
        json!({"name": container, "image": IMAGE, "command": ["/bin/sh", "-c", script],
            "volumeMounts": [{"name": "d", "mountPath": "/d"}]})
    });
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "d", "emptyDir": {}}], "containers": containers.collect::<Vec<_>>()}})
}

/// Waits for exactly this output.
#[track_caller]
fn shows(cluster: &Cluster, args: &[&str], expected: &str) {
    eventually(&format!("{args:?} shows it"), || {
        let out = cluster.wharf(args);
        if (out.code, out.stdout.as_str()) == (0, expected) {
            Ok(())
        } else {
            Err(format!("{out:?}"))
        }
    });
}

#[test]
fn what_containers_wrote() {
    make_image();
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let long = "i=0; while [ $i -lt 5000 ]; do printf 0123456789abcdef; i=$((i+1)); done; echo";
    let two = [
        (
            "a",
            "echo one; sleep 0.2; echo oops >&2; sleep 0.2; echo three; exec sleep 1000",
        ),
        ("b", &format!("{long}; exec sleep 1000")),
    ];
    cluster.create(&pod("two", "Always", &two)).ok();
    let counts = "n=$(cat /d/n 2>/dev/null || echo 0); echo attempt $n; echo $((n+1)) >/d/n; \
        [ $n -ge 1 ] && exec sleep 1000; exit 1";
    cluster.create(&pod("crash", "Always", &[("c", counts)])).ok();
    let ends = "echo first; sleep 3; echo last";
    cluster.create(&pod("ends", "Never", &[("c", ends)])).ok();

    // While it runs, and to its end.
    eventually("it can be followed", || {
        let out = cluster.wharf(&["logs", "ends", "-f"]);
        if (out.code, out.stdout.as_str()) == (0, "first\nlast\n") {
            Ok(())
        } else {
            Err(format!("{out:?}"))
        }
    });
    shows(&cluster, &["logs", "two", "-c", "a"], "one\noops\nthree\n");
    shows(&cluster, &["logs", "two", "-c", "a", "--tail", "1"], "three\n");
    shows(
        &cluster,
        &["logs", "-l", "app=two", "-c", "a", "--tail=1", "--prefix"],
        "[pod/two/a] three\n",
    );
    let line = "0123456789abcdef".repeat(5000) + "\n";
    shows(&cluster, &["logs", "two", "-c", "b"], &line);
    let timed = cluster.wharf(&["logs", "two", "-c", "b", "--timestamps"]).ok();
    let (time, text) = timed.split_once(' ').expect("a time");
    assert!(
        time.starts_with("20") && time.ends_with('Z') && time.len() == 30,
        "{time}"
    );
    assert_eq!(text, line, "a time within a line");
    let defaulted = cluster.wharf(&["logs", "pod/two"]);
    assert!(defaulted.stderr.contains("container a of a, b"), "{defaulted:?}");
    shows(
        &cluster,
        &["logs", "two", "-c", "a", "--since", "1h"],
        "one\noops\nthree\n",
    );

    shows(&cluster, &["logs", "crash"], "attempt 1\n");
    shows(&cluster, &["logs", "crash", "--previous"], "attempt 0\n");

    for (args, words) in [
        (
            &["logs", "two", "-c", "x"][..],
            "container \"x\" is none of its containers: a, b",
        ),
        (&["logs", "none"], "pods \"none\" not found"),
        (
            &["logs", "two", "-c", "a", "-p"],
            "container \"a\" has not ended before",
        ),
    ] {
        let error = cluster.wharf(args).refused(1);
        assert!(error.contains(words), "{error}");
    }
    cluster.kill_agent("n1");
    eventually("a lost node is named", || {
        let out = cluster.wharf(&["logs", "two", "-c", "a"]);
        if out.code == 1 && out.stderr.contains("node \"n1\" is not connected") {
            Ok(())
        } else {
            Err(format!("{out:?}"))
        }
    });
}

/// A reader that never reads.
struct Stalled(Child);

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn stalled_readers_of_megabytes_leave_the_node_ready() {
    make_image();
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let gush = "yes 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde | head -c 4000000; exec sleep 1000";
    cluster.create(&pod("gush", "Always", &[("c", gush)])).ok();
    eventually("it has written all", || {
        let n = cluster.wharf(&["logs", "gush"]).stdout.len();
        if n == 4_000_000 {
            Ok(())
        } else {
            Err(format!("{n} bytes"))
        }
    });
    let since = |cluster: &Cluster| {
        let node = cluster.json(&["get", "node", "n1"]);
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == "Ready").expect("Ready")
    };
    let before = since(&cluster);
    assert_eq!(before["status"], "True");
    let stalled: Vec<Stalled> = (0..8)
        .map(|_| {
            let child = Command::new(program::path("wharf"))
                .args(["logs", "gush", "-f"])
                .env("WHARF_CONFIG", cluster.data_dir().join("admin.yaml"))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("wharf");
            Stalled(child)
        })
        .collect();
    // Silence of 900 ms would lose the node; the connections' keepalive would end after 20 s. A minute when asked for.
    let long = std::env::var_os("WHARF_TEST_LONG").is_some_and(|v| v == "1");
    let while_stalled = Duration::from_secs(if long { 60 } else { 25 });
    let start = Instant::now();
    while start.elapsed() < while_stalled {
        assert_eq!(since(&cluster), before, "the node was lost");
        assert_eq!(cluster.wharf(&["logs", "gush", "--tail", "1"]).ok().len(), 64);
    }
    for mut reader in stalled {
        assert!(
            reader.0.try_wait().expect("a child").is_none(),
            "a stalled reader ended"
        );
    }
}

#[test]
fn a_followed_log_goes_on_when_coordinator_and_agent_restart() {
    make_image();
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let count = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done";
    cluster.create(&pod("count", "Always", &[("c", count)])).ok();
    eventually("it counts", || {
        let out = cluster.wharf(&["logs", "count"]);
        if out.stdout.is_empty() {
            Err(format!("{out:?}"))
        } else {
            Ok(())
        }
    });
    let env = [(
        "WHARF_CONFIG".to_owned(),
        cluster.data_dir().join("admin.yaml").display().to_string(),
    )];
    let log = cluster.dir().join("followed");
    let _reader = Background::with_env("wharf", &["logs", "count", "-f"], &env, log.clone());
    let numbers = || -> Vec<u64> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    };
    let past = |n: u64| {
        eventually(&format!("it shows {n}"), || match numbers().last() {
            Some(last) if *last >= n => Ok(*last),
            other => Err(format!("{other:?}: {}", fs::read_to_string(&log).unwrap_or_default())),
        })
    };
    let shown = past(10);
    cluster.kill_coordinator();
    cluster.start_coordinator();
    let shown = past(shown + 20);
    cluster.kill_agent("n1");
    cluster.spawn_agent("n1", None);
    let shown = past(shown + 20);
    let expected: Vec<u64> = (0..=shown).collect();
    let all = numbers();
    assert_eq!(all[..expected.len().min(all.len())], expected[..], "lost or doubled");
    let text = fs::read_to_string(&log).expect("its output");
    assert!(text.contains("going on where it broke"), "{text}");
}
