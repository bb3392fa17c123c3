//! Probes and stops in order, by an agent without its session on the machine's real engine.

mod support;

use std::{fs, time::Duration};

use proto::wire;
use serde_json::{Value, json};
use support::{
    busybox::{self, BUSYBOX},
    rig::Rig,
    until,
};

/// A pod of container `c` that runs a script, with these fields too.
fn pod(script: &str, fields: Value) -> Value {
    let mut container = json!({"name": "c", "image": BUSYBOX, "command": ["/bin/sh", "-c"], "args": [script]});
    let all = container.as_object_mut().expect("an object");
    all.extend(fields.as_object().expect("an object").clone());
    json!({"containers": [container]})
}

async fn rig() -> Rig {
    busybox::import(BUSYBOX, &[]);
    Rig::start().await
}

async fn readiness(rig: &Rig, uid: &str, ready: bool) {
    until(&format!("ready: {ready}"), async || {
        let now = rig.status(uid).is_some_and(|s| s.ready());
        (now == ready).then_some(())
    })
    .await;
}

async fn restarted(rig: &Rig, uid: &str, times: u32) {
    until("restarted", async || {
        (rig.container(uid, "c").restart_count == times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn over_http_and_tcp_to_the_container_s_own_address() {
    let rig = rig().await;
    let serve = "busybox httpd -f -p 8080 -h /w & echo $! >/pid; exec sleep 1000";
    let fields = json!({
        "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"port": "web", "path": "/ok"}, "periodSeconds": 1, "failureThreshold": 1},
        "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 2,
            "initialDelaySeconds": 1, "terminationGracePeriodSeconds": 1},
    });
    let uid = rig.run(&pod(serve, fields)).await;
    until("it runs", async || {
        (!rig.docker_ids(&uid).is_empty() && !rig.docker_id(&uid, "c").is_empty()).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!rig.status(&uid).expect("told").ready(), "404 is not ready");
    assert_eq!(rig.container(&uid, "c").restart_count, 0, "it is alive all the time");
    rig.exec(&uid, "c", "touch /w/ok");
    readiness(&rig, &uid, true).await;
    rig.exec(&uid, "c", "rm /w/ok");
    readiness(&rig, &uid, false).await;
    // Nobody listens any more.
    rig.exec(&uid, "c", "kill $(cat /pid)");
    restarted(&rig, &uid, 1).await;
    rig.stop(&uid).await;
}

#[tokio::test]
async fn by_a_command_which_hangs_only_once() {
    let rig = rig().await;
    let ask = "while test -e /hang; do sleep 0.2; done; test -e /ok || { echo not yet; exit 3; }";
    let fields = json!({
        "readinessProbe": {"exec": {"command": ["/bin/sh", "-c", ask]}, "periodSeconds": 1, "failureThreshold": 1},
    });
    let uid = rig.run(&pod("exec sleep 1000", fields)).await;
    let told = until("it says why", async || {
        let all = rig.notes();
        all.into_iter().find(|n| n.reason == "Unhealthy")
    })
    .await;
    assert_eq!(
        told.message,
        "Container c: readiness probe failed: the command ended with code 3: not yet"
    );
    rig.exec(&uid, "c", "touch /ok");
    readiness(&rig, &uid, true).await;
    rig.exec(&uid, "c", "touch /hang");
    readiness(&rig, &uid, false).await;
    until("an earlier run is waited for", async || {
        let all = rig.notes();
        all.into_iter()
            .find(|n| n.message.ends_with("an earlier run of the command has not ended"))
    })
    .await;
    let hanging = rig.exec(&uid, "c", "busybox ps | grep -c '[w]hile test'");
    assert_eq!(hanging, "1", "it was begun once");
    // Once it is over all is well again.
    rig.exec(&uid, "c", "rm /hang");
    readiness(&rig, &uid, true).await;
    rig.stop(&uid).await;
}

#[tokio::test]
async fn a_stop_runs_the_hook_beside_the_drain_and_signals_after_both() {
    let rig = rig().await;
    let out = rig.dir.path().join("out");
    fs::create_dir(&out).expect("made");
    let note = |what: &str| format!("read up rest </proc/uptime; echo {what} $up >>/out/log;");
    let script = format!("trap '{} exit 0' TERM; while :; do sleep 0.05; done", note("term"));
    let hook = format!("{} sleep 1; {}", note("hook"), note("hooked"));
    for (drain_ms, least) in [(3_000, 3.0), (0, 1.0)] {
        let mut spec = pod(
            &script,
            json!({"volumeMounts": [{"name": "out", "mountPath": "/out"}],
                "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", hook]}}}}),
        );
        spec["volumes"] = json!([{"name": "out", "hostPath": {"path": out}}]);
        let uid = rig.run(&spec).await;
        rig.ready(&uid).await;
        let stop = wire::Stop {
            uid: uid.clone(),
            reason: "test".into(),
            grace_seconds: 20,
            namespace: "test".into(),
            name: format!("pod-{}", &uid[..8]),
            endpoint_drain_ms: drain_ms,
        };
        rig.assign(vec![], vec![stop]).await;
        until("it is gone", async || rig.docker_ids(&uid).is_empty().then_some(())).await;
        let log = fs::read_to_string(out.join("log")).expect("written");
        fs::remove_file(out.join("log")).expect("removed");
        let lines: Vec<(&str, f64)> = log
            .lines()
            .filter_map(|l| l.split_once(' '))
            .map(|(what, at)| (what, at.parse().expect("a time")))
            .collect();
        let names: Vec<&str> = lines.iter().map(|(what, _)| *what).collect();
        assert_eq!(names, ["hook", "hooked", "term"], "{log}");
        // The drain begins before the engine has begun the hook.
        let (begun, signalled) = (lines[0].1, lines[2].1);
        assert!(signalled - begun > least - 1.0, "{log}");
        assert!(lines[1].1 <= signalled, "{log}");
    }
}
