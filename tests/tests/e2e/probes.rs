//! Probes as users see them: `READY` in `get pods`, restarts, events, and a stop that waits for the drain.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use harness::{Cluster, eventually, program};
use serde_json::json;

const IMAGE: &str = "wharf-test-busybox:1";

fn make_image() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/dev/busybox-root.sh");
    let line = format!("docker image inspect {IMAGE} >/dev/null 2>&1 || {script} | docker import - {IMAGE}");
    program::run(Command::new("sh").args(["-c", &line])).ok();
}

/// Runs a script in the one container there is.
fn exec(cluster: &Cluster, script: &str) {
    let all = cluster.running();
    let id = &all.first().expect("it runs").id;
    let engine = &cluster.options.engine;
    engine.docker(&["exec", id, "/bin/sh", "-c", script]).ok();
}

#[track_caller]
fn shown(cluster: &Cluster, what: &str, words: &[&str]) {
    eventually(what, || {
        let table = cluster.wharf(&["get", "pods"]).ok();
        let row = table.lines().nth(1).unwrap_or_default();
        let columns: Vec<&str> = row.split_whitespace().skip(1).take(3).collect();
        if columns == words { Ok(()) } else { Err(table) }
    });
}

#[test]
fn readiness_gates_ready_and_liveness_restarts() {
    make_image();
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let serve = "touch /w/alive; exec busybox httpd -f -p 8080 -h /w";
    let probe =
        |path: &str| json!({"httpGet": {"port": "web", "path": path}, "periodSeconds": 1, "failureThreshold": 2});
    cluster
        .create(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "annotations": {"wharfinger.io/endpoint-drain": "2s"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": IMAGE,
                "command": ["/bin/sh", "-c", serve], "ports": [{"name": "web", "containerPort": 8080}],
                "readinessProbe": probe("/ready"), "livenessProbe": probe("/alive")}]},
        }))
        .ok();
    shown(&cluster, "it runs and is not ready", &["0/1", "Running", "0"]);
    eventually("people hear why", || {
        let text = cluster.wharf(&["describe", "pod", "web"]).ok();
        let missing: Vec<_> = [
            "Readiness:",
            "http-get http://:web/ready delay=0s timeout=1s period=1s #success=1 #failure=2",
            "ContainersNotReady",
            "Unhealthy",
            "readiness probe failed: HTTP status 404",
        ]
        .into_iter()
        .filter(|w| !text.contains(w))
        .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("without {missing:?}: {text}"))
        }
    });
    exec(&cluster, "touch /w/ready");
    shown(&cluster, "it is ready", &["1/1", "Running", "0"]);

    exec(&cluster, "rm /w/alive");
    // The new attempt has files of its own: alive, and not ready.
    shown(&cluster, "it was restarted", &["0/1", "Running", "1"]);
    cluster.says("its liveness probe failed");

    let began = Instant::now();
    cluster.wharf(&["delete", "pod", "web"]).ok();
    cluster.settled(0);
    assert!(began.elapsed() >= Duration::from_secs(2), "it serves on for its drain");

    let mut refused = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"},
        "spec": {"containers": [{"name": "c", "image": IMAGE, "readinessProbe": probe("/")}]}});
    let line = cluster.create(&refused).refused(1);
    let expected = "readinessProbe.httpGet.port: no port of the container has the name \"web\"";
    assert!(line.contains(expected), "{line}");
    refused["spec"]["containers"][0]["readinessProbe"] = json!({"grpc": {"port": 1}});
    let line = cluster.create(&refused).refused(1);
    assert!(
        line.contains("readinessProbe.grpc") && line.contains("not supported"),
        "{line}"
    );
}
