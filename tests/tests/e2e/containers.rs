//! Containers that cannot run: a clear state and an event, backoff and no busy loop; others are unaffected.

use harness::{Cluster, cluster::controller, docker::IMAGE, eventually};
use serde_json::{Value, json};

/// First container's waiting reason and message of each pod of a controller.
fn waiting(cluster: &Cluster, rc: &str) -> Vec<(String, String)> {
    let pods = cluster.items("pods");
    pods.iter()
        .filter(|p| p["metadata"]["labels"]["app"] == rc)
        .map(|p| {
            let state = &p["status"]["containerStatuses"][0]["state"]["waiting"];
            let text = |f: &str| state[f].as_str().unwrap_or_default().to_owned();
            (text("reason"), text("message"))
        })
        .collect()
}

#[track_caller]
fn waits_with(cluster: &Cluster, rc: &str, reasons: &[&str], words: &[&str]) {
    eventually(&format!("{rc} waits with {reasons:?} {words:?}"), || {
        let all = waiting(cluster, rc);
        let fits = |(reason, message): &(String, String)| {
            reasons.contains(&reason.as_str()) && words.iter().any(|w| message.to_lowercase().contains(w))
        };
        if all.iter().any(fits) {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
}

#[track_caller]
fn has_warning(cluster: &Cluster, pod_prefix: &str, words: &str) {
    eventually(&format!("an event about {pod_prefix}: {words}"), || {
        let events = cluster.items("events");
        let found = events.iter().any(|e| {
            e["type"] == "Warning"
                && e["involvedObject"]["name"]
                    .as_str()
                    .is_some_and(|n| n.starts_with(pod_prefix))
                && e["message"].as_str().is_some_and(|m| m.to_lowercase().contains(words))
        });
        if found { Ok(()) } else { Err(format!("{events:#?}")) }
    });
}

fn first_container(rc: &mut Value) -> &mut Value {
    &mut rc["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn an_absent_image_heals_when_it_appears() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let image = format!("wharf-test-absent-{}:1", &cluster.id[..8]);
    let mut absent = controller("absent", 1, &["serve"]);
    first_container(&mut absent)["image"] = json!(image);
    cluster.create(&absent).ok();
    cluster.create(&controller("good", 2, &["serve"])).ok();
    waits_with(
        &cluster,
        "absent",
        &["ErrImagePull", "ImagePullBackOff"],
        // Docker's own, whatever is in the way of the registry.
        &["registry", "lookup", "dial", "connect", "denied"],
    );
    has_warning(&cluster, "absent-", "failed to pull image");
    eventually("the other controller runs", || {
        let n = cluster.ready_pods().len();
        if n == 2 { Ok(()) } else { Err(format!("{n} ready")) }
    });
    let engine = cluster.options.engine.clone();
    engine.docker(&["tag", IMAGE, &image]).ok();
    eventually("it runs once the image is there", || {
        let n = cluster.ready_pods().len();
        if n == 3 {
            Ok(())
        } else {
            Err(format!("{n} ready: {:?}", waiting(&cluster, "absent")))
        }
    });
    cluster.wharf(&["delete", "rc", "absent"]).ok();
    cluster.settled(2);
    engine.docker(&["rmi", &image]).ok();
}

#[test]
fn bad_command_taken_port_and_small_memory_are_clear() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);

    let mut command = controller("command", 1, &[]);
    first_container(&mut command)["command"] = json!(["/does-not-exist"]);
    cluster.create(&command).ok();

    // Taken by somebody outside of Wharfinger, so that only Docker can notice.
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let mut port = controller("port", 1, &["serve"]);
    first_container(&mut port)["ports"] =
        json!([{"containerPort": 8080, "hostPort": taken.local_addr().expect("address").port()}]);
    cluster.create(&port).ok();

    let mut memory = controller("memory", 1, &["serve"]);
    first_container(&mut memory)["resources"] = json!({"limits": {"memory": "1Mi"}});
    cluster.create(&memory).ok();

    let not_started = ["RunContainerError", "CreateContainerError", "CrashLoopBackOff"];
    waits_with(
        &cluster,
        "command",
        &not_started,
        &["does-not-exist", "no such file", "not found"],
    );
    waits_with(
        &cluster,
        "port",
        &not_started,
        &["port", "address already in use", "already allocated"],
    );
    waits_with(&cluster, "memory", &not_started, &["memory"]);
    has_warning(&cluster, "command-", "does-not-exist");
    has_warning(&cluster, "port-", "port");
    has_warning(&cluster, "memory-", "memory");

    // No busy loop: after the first quick retry the backoff is 10 s and more, and dead attempts are cleaned up.
    let watched = std::time::Instant::now();
    eventually("some seconds pass", || {
        if watched.elapsed().as_secs() >= 5 {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    for rc in ["command", "port", "memory"] {
        let dead: Vec<_> = cluster
            .containers()
            .into_iter()
            .filter(|c| c.pod.starts_with(&format!("{rc}-")))
            .collect();
        assert!(dead.len() <= 2, "{rc}: {dead:?}");
        let attempts = dead
            .iter()
            .filter_map(|c| c.name.rsplit('_').next()?.parse::<u32>().ok())
            .max()
            .unwrap_or(0);
        assert!(attempts <= 3, "{rc} was tried {attempts} times");
    }
    drop(taken);
    cluster.wharf(&["delete", "rc", "command", "port", "memory"]).ok();
    cluster.settled(0);
}

#[test]
fn exit_codes_and_oom_are_reported() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let pod = |name: &str, args: &[&str], limit: Option<&str>| {
        let resources = limit.map_or(json!({}), |l| json!({"limits": {"memory": l}}));
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": IMAGE,
                "imagePullPolicy": "Never", "args": args, "resources": resources}]}})
    };
    cluster.create(&pod("done", &["exit", "0"], None)).ok();
    cluster.create(&pod("failed", &["exit", "3"], None)).ok();
    cluster.create(&pod("hungry", &["eat", "256"], Some("32Mi"))).ok();
    for (name, phase, code, reason) in [
        ("done", "Succeeded", 0, "Completed"),
        ("failed", "Failed", 3, "Error"),
        ("hungry", "Failed", 137, "OOMKilled"),
    ] {
        eventually(&format!("{name} is {phase}"), || {
            let pod = cluster.json(&["get", "pod", name]);
            let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
            if pod["status"]["phase"] == phase && ended["exitCode"] == code && ended["reason"] == reason {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        });
    }
}

#[test]
fn a_pod_of_two_containers_shares_its_network() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1"]);
    let mut rc = controller("pair", 1, &["serve"]);
    let mut second = first_container(&mut rc).clone();
    second["name"] = json!("second");
    second["env"] = json!([{"name": "PORT", "value": "8081"},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    rc["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .expect("containers")
        .push(second);
    cluster.create(&rc).ok();
    eventually("both run beside their sandbox", || {
        let running = cluster.running();
        let ready = cluster.ready_pods().len();
        if running.len() == 3 && ready == 1 {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
    let pod_ip = cluster.ready_pods()[0]["status"]["podIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    for port in [8080, 8081] {
        eventually(&format!("port {port} of the pod's one address answers"), || {
            std::net::TcpStream::connect(format!("{pod_ip}:{port}"))
                .map(|_| ())
                .map_err(|e| format!("{pod_ip}: {e}"))
        });
    }
    // The sandbox's death takes the pod's network with it: all are put back under a new one.
    let sandbox = cluster
        .running()
        .into_iter()
        .find(|c| c.name.starts_with("wharf_POD_"))
        .expect("a sandbox");
    cluster.options.engine.docker(&["kill", &sandbox.id]).ok();
    eventually("a new sandbox and both containers run", || {
        let running = cluster.running();
        let renewed = running
            .iter()
            .any(|c| c.name.starts_with("wharf_POD_") && c.id != sandbox.id);
        if running.len() == 3 && renewed && cluster.ready_pods().len() == 1 {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
    cluster.wharf(&["delete", "rc", "pair"]).ok();
    cluster.settled(0);
}
