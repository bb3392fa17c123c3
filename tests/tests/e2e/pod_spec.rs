//! A pod that asks for nearly everything at once, created by `wharf create -f` and looked at from inside; it outlives
//! its agent, and leaves nothing.

use std::{fs, process::Command};

use harness::{Cluster, eventually, program};
use serde_json::{Value, json};

pub const IMAGE: &str = "wharf-test-busybox:1";

/// An image with a shell, made without a registry.
pub fn make_image() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/dev/busybox-root.sh");
    let line = format!("docker image inspect {IMAGE} >/dev/null 2>&1 || {script} | docker import - {IMAGE}");
    program::run(Command::new("sh").args(["-c", &line])).ok();
}

fn pod(cluster: &Cluster, name: &str) -> Value {
    let items = cluster.items("pods");
    let found = items.into_iter().find(|p| p["metadata"]["name"] == name);
    found.unwrap_or_default()
}

/// Runs a script in a container of the pod.
#[track_caller]
fn exec(cluster: &Cluster, name: &str, container: &str, script: &str) -> String {
    let prefix = format!("wharf_{container}_{name}_");
    let all = cluster.running();
    let found = all.iter().find(|c| c.name.starts_with(&prefix)).expect("it runs");
    let out = cluster
        .options
        .engine
        .docker(&["exec", &found.id, "/bin/sh", "-c", script]);
    out.ok().trim().to_owned()
}

#[track_caller]
fn ready(cluster: &Cluster, name: &str) {
    eventually(&format!("{name} is ready"), || {
        let ready = cluster.ready_pods().iter().any(|p| p["metadata"]["name"] == name);
        ready
            .then_some(())
            .ok_or_else(|| format!("{}", pod(cluster, name)["status"]))
    });
}

#[test]
fn a_pod_with_everything() {
    make_image();
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let host = cluster.dir().join("of-the-host");
    fs::create_dir(&host).expect("made");
    fs::write(host.join("given"), "from the host").expect("written");

    let mounts = json!([
        {"name": "host", "mountPath": "/host", "readOnly": true},
        {"name": "disk", "mountPath": "/disk"},
        {"name": "memory", "mountPath": "/memory"},
    ]);
    let strict = json!({"readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}});
    let crash = "test -f /memory/again && exec sleep 1000; touch /memory/again; echo first words >/words; exit 4";
    cluster
        .create(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "all"},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsUser": 1234, "runAsGroup": 2345, "runAsNonRoot": true, "supplementalGroups": [41]},
                "containers": [
                    {"name": "main", "image": IMAGE, "command": ["sleep", "1000"], "workingDir": "/disk",
                        "volumeMounts": mounts, "securityContext": strict,
                        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                        "resources": {"limits": {"cpu": "500m", "memory": "64Mi", "pids": "50"}}},
                    {"name": "side", "image": IMAGE, "command": ["sh", "-c", crash], "volumeMounts": mounts,
                        "terminationMessagePath": "/words", "securityContext": {"runAsUser": 77}},
                ],
                "volumes": [
                    {"name": "host", "hostPath": {"path": host, "type": "Directory"}},
                    {"name": "disk", "emptyDir": {}},
                    {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}},
                ],
            },
        }))
        .ok();
    // For a moment it is Ready before its second container ends for the first time.
    eventually("the second container was started again", || {
        let count = pod(&cluster, "all")["status"]["containerStatuses"][1]["restartCount"].clone();
        (count == json!(1)).then_some(()).ok_or_else(|| count.to_string())
    });
    ready(&cluster, "all");

    assert_eq!(
        exec(&cluster, "all", "main", "pwd; id -u; id -g; id -G"),
        "/disk\n1234\n2345\n2345 41"
    );
    assert_eq!(exec(&cluster, "all", "side", "id -u"), "77");
    let main = cluster
        .running()
        .into_iter()
        .find(|c| c.name.starts_with("wharf_main_all_"));
    let engine = &cluster.options.engine;
    let format = "{{.HostConfig.PidsLimit}} {{.HostConfig.Memory}}";
    let limits = engine.docker(&["inspect", "-f", format, &main.expect("it runs").id]);
    assert_eq!(limits.ok().trim(), "50 67108864");
    let status = exec(&cluster, "all", "main", "grep -E 'NoNewPrivs|CapBnd' /proc/self/status");
    assert!(
        status.contains("NoNewPrivs:\t1") && status.contains("CapBnd:\t0000000000002000"),
        "{status}"
    );
    let written = exec(
        &cluster,
        "all",
        "main",
        "touch /x 2>&1; touch /host/x 2>&1; cat /host/given",
    );
    assert_eq!(written.matches("Read-only file system").count(), 2, "{written}");
    assert!(written.ends_with("from the host"), "{written}");
    // One network: what one container opens, the other one reaches; and its address is the pod's.
    let net = "readlink /proc/self/ns/net";
    assert_eq!(exec(&cluster, "all", "main", net), exec(&cluster, "all", "side", net));
    let seen = pod(&cluster, "all");
    assert_eq!(
        exec(&cluster, "all", "main", "echo $IP"),
        seen["status"]["podIP"].as_str().expect("an address")
    );
    // The memory outlasted the restart, which tells why it was.
    let side = &seen["status"]["containerStatuses"][1];
    assert_eq!((&side["name"], &side["restartCount"]), (&json!("side"), &json!(1)));
    let last = &side["lastState"]["terminated"];
    assert_eq!(
        (&last["exitCode"], &last["message"]),
        (&json!(4), &json!("first words"))
    );
    let shown = cluster.wharf(&["describe", "pod", "all"]).ok();
    assert!(shown.contains("first words"), "{shown}");

    exec(&cluster, "all", "main", "echo disk >/disk/x; echo memory >/memory/x");
    let containers = cluster.containers();
    cluster.kill_agent("n1");
    cluster.spawn_agent("n1", None);
    cluster.node_ready("n1");
    ready(&cluster, "all");
    assert_eq!(cluster.containers(), containers, "the same containers");
    assert_eq!(exec(&cluster, "all", "side", "cat /disk/x /memory/x"), "disk\nmemory");
    assert_eq!(
        pod(&cluster, "all")["status"]["containerStatuses"][1]["restartCount"],
        1
    );

    cluster.wharf(&["delete", "pod", "all"]).ok();
    cluster.settled(0);
    let label = format!("label=io.wharfinger.cluster={}", cluster.id);
    eventually("its volumes are gone", || {
        let volumes = cluster
            .options
            .engine
            .docker(&["volume", "ls", "-q", "--filter", &label])
            .ok();
        let kept: Vec<_> = ["volumes", "messages"]
            .iter()
            .flat_map(|d| fs::read_dir(cluster.agent_dir("n1").join(d)).into_iter().flatten())
            .collect();
        if volumes.is_empty() && kept.is_empty() {
            Ok(())
        } else {
            Err(format!("{volumes} {kept:?}"))
        }
    });
    assert!(host.join("given").exists());
}

#[test]
fn a_pod_in_the_host_s_network() {
    make_image();
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    cluster
        .create(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "net"},
            "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000"]}]},
        }))
        .ok();
    ready(&cluster, "net");
    let namespace = fs::read_link("/proc/self/ns/net").expect("a link");
    assert_eq!(
        exec(&cluster, "net", "c", "readlink /proc/self/ns/net"),
        namespace.to_string_lossy()
    );
    let status = pod(&cluster, "net")["status"].clone();
    assert!(
        !status["podIP"].is_null() && status["podIP"] == status["hostIP"],
        "{status}"
    );

    // A missing path is said where people look.
    cluster
        .create(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lost"},
            "spec": {"containers": [{"name": "c", "image": IMAGE,
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                "volumes": [{"name": "v", "hostPath": {"path": cluster.dir().join("missing"), "type": "Directory"}}]},
        }))
        .ok();
    eventually("it says what is missing", || {
        let table = cluster.wharf(&["get", "pods"]).ok();
        let text = cluster.wharf(&["describe", "pod", "lost"]).ok();
        if table.contains("CreateContainerConfigError") && text.contains("volume v: host path") {
            Ok(())
        } else {
            Err(format!("{table}\n{text}"))
        }
    });
}
