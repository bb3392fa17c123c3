//! What pods ask for beyond a plain container, by an agent without its session on the machine's real engine. The
//! containers tell what they see by their last words.

mod support;

use std::{fs, path::Path};

use serde_json::{Value, json};
use support::{
    busybox::{self, BUSYBOX},
    rig::{HOST_IP, Rig},
    until,
};

/// A container that runs a script; what the script prints are its last words.
fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "command": ["/bin/sh", "-c"],
        "args": [format!("{{ {script}\n}} >/dev/termination-log 2>&1")]})
}

/// A pod of one container that runs once.
fn once(script: &str) -> Value {
    json!({"restartPolicy": "Never", "containers": [shell("c", script)]})
}

/// Merges fields into the pod's first container.
fn with(mut pod: Value, fields: &Value) -> Value {
    let container = pod["containers"][0].as_object_mut().expect("an object");
    container.extend(fields.as_object().expect("an object").clone());
    pod
}

async fn rig() -> Rig {
    busybox::import(BUSYBOX, &[]);
    Rig::start().await
}

#[tokio::test]
async fn whom_a_container_runs_as_and_where() {
    let rig = rig().await;
    let mut pod = with(
        once("pwd; id -u; id -g; id -G; echo $IP"),
        &json!({"workingDir": "/w", "securityContext": {"runAsUser": 1234},
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]}),
    );
    pod["securityContext"] = json!({"runAsUser": 7, "runAsGroup": 5678, "supplementalGroups": [41, 42]});
    assert_eq!(
        rig.says(&pod, "c").await,
        format!("/w\n1234\n5678\n5678 41 42\n{HOST_IP}")
    );
}

#[tokio::test]
async fn what_a_container_may() {
    let rig = rig().await;
    let look = "grep -E 'NoNewPrivs|CapBnd' /proc/self/status; touch /x && echo written || true; touch /tmp/y";
    let words = rig.says(&once(look), "c").await;
    assert!(
        words.contains("NoNewPrivs:\t1") && words.ends_with("written"),
        "{words}"
    );

    // No new rights, no root to write to; the last words and a volume can be written all the same.
    let mut strict = with(
        once("grep CapBnd /proc/self/status; touch /x && echo written || true; echo ok >/v/x; cat /v/x"),
        &json!({"securityContext": {"readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
            "resources": {"limits": {"pids": "50"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
    );
    strict["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    let words = rig.says(&strict, "c").await;
    assert!(words.contains("CapBnd:\t0000000000000400"), "{words}");
    assert!(
        words.contains("Read-only file system") && !words.contains("written") && words.ends_with("ok"),
        "{words}"
    );

    let loose = with(
        once(look),
        &json!({"securityContext": {"allowPrivilegeEscalation": true}}),
    );
    let words = rig.says(&loose, "c").await;
    assert!(words.contains("NoNewPrivs:\t0"), "{words}");

    let mut sleeper = with(
        once("exec sleep 1000"),
        &json!({"resources": {"limits": {"pids": "50"}}}),
    );
    sleeper["containers"][0]["name"] = json!("limited");
    let uid = rig.run(&sleeper).await;
    rig.ready(&uid).await;
    let limit = rig.bed.cli(&[
        "inspect",
        "-f",
        "{{.HostConfig.PidsLimit}}",
        &rig.docker_id(&uid, "limited"),
    ]);
    assert_eq!(limit, "50");
}

#[tokio::test]
async fn nothing_runs_as_root_that_must_not() {
    let rig = rig().await;
    let (numbered, named) = ("wharf-agent-test/busybox-7:1", "wharf-agent-test/busybox-web:1");
    busybox::import(numbered, &["USER 7:8"]);
    busybox::import(named, &["USER web"]);
    let pod = |image: &str, context: Value| {
        with(
            once("id -u; id -g"),
            &json!({"image": image, "securityContext": context}),
        )
    };
    for (image, words) in [(BUSYBOX, "runs as root"), (named, "runs as user \"web\"")] {
        let uid = rig.run(&pod(image, json!({"runAsNonRoot": true}))).await;
        let told = until("it waits", async || {
            Some(rig.waiting(&uid, "c")).filter(|(reason, _)| reason == "CreateContainerConfigError")
        })
        .await;
        assert!(told.1.contains(words) && told.1.contains("runAsUser"), "{}", told.1);
        assert_eq!(rig.docker_ids(&uid), Vec::<String>::new());
    }
    for (image, context, words) in [
        (numbered, json!({"runAsNonRoot": true}), "7\n8"),
        (BUSYBOX, json!({"runAsNonRoot": true, "runAsUser": 9}), "9\n0"),
        // A group alone joins the image's own user.
        (numbered, json!({"runAsGroup": 55}), "7\n55"),
        (BUSYBOX, json!({"runAsGroup": 55}), "0\n55"),
    ] {
        assert_eq!(
            rig.says(&pod(image, context.clone()), "c").await,
            words,
            "{image} {context}"
        );
    }
}

#[tokio::test]
async fn in_the_host_s_network() {
    let rig = rig().await;
    let look = "readlink /proc/self/ns/net; hostname; echo $IP";
    let ip = json!({"env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"containerPort": 80}]});
    let mut pod = with(once(look), &ip);
    pod["hostNetwork"] = json!(true);
    pod["containers"]
        .as_array_mut()
        .expect("a list")
        .push(shell("d", "exec sleep 1000"));
    let uid = rig.run(&pod).await;
    let end = rig.ended(&uid, "c").await;
    let namespace = fs::read_link("/proc/self/ns/net").expect("a link");
    let host = nix::unistd::gethostname().expect("a name");
    let expected = format!("{}\n{}\n{HOST_IP}", namespace.display(), host.display());
    assert_eq!(end.message, expected);
    // Nothing says which of the two comes first; the address is that of what runs.
    let address = until("the other one runs", async || {
        rig.status(&uid).map(|s| s.pod_ip).filter(|ip| !ip.is_empty())
    })
    .await;
    assert_eq!(address, HOST_IP);
    // Two containers and nothing else: no sandbox is needed for a network that is there.
    assert_eq!(rig.docker_ids(&uid).len(), 2);
    rig.stop(&uid).await;

    // Without it each pod has a network of its own.
    let words = rig.says(&once("readlink /proc/self/ns/net"), "c").await;
    assert_ne!(Path::new(&words), namespace);
}

#[tokio::test]
async fn paths_of_the_host() {
    let rig = rig().await;
    let host = tempfile::tempdir().expect("a directory");
    fs::write(host.path().join("given"), "from the host").expect("written");
    let mut pod = with(
        once("cat /ro/given; echo; touch /ro/x; echo from the pod >/rw/told; cat /file"),
        &json!({"volumeMounts": [
            {"name": "all", "mountPath": "/ro", "readOnly": true},
            {"name": "made", "mountPath": "/rw"},
            {"name": "file", "mountPath": "/file"}]}),
    );
    pod["containers"][0]["command"] = json!(["/bin/sh", "-c"]);
    pod["volumes"] = json!([
        {"name": "all", "hostPath": {"path": host.path(), "type": "Directory"}},
        {"name": "made", "hostPath": {"path": host.path().join("a/b"), "type": "DirectoryOrCreate"}},
        {"name": "file", "hostPath": {"path": host.path().join("given"), "type": "File"}},
    ]);
    let words = rig.says(&pod, "c").await;
    assert!(
        words.starts_with("from the host\n") && words.ends_with("\nfrom the host"),
        "{words}"
    );
    assert!(words.contains("Read-only file system"), "{words}");
    // The pod is gone, and what it wrote on the host is not.
    let told = fs::read_to_string(host.path().join("a/b/told")).expect("read");
    assert_eq!(told, "from the pod\n");

    // What is missing is said, and made by nobody.
    let missing = host.path().join("missing");
    pod["volumes"][1]["hostPath"] = json!({"path": missing});
    let uid = rig.run(&pod).await;
    let told = until("it waits", async || {
        Some(rig.waiting(&uid, "c")).filter(|(reason, _)| reason == "CreateContainerConfigError")
    })
    .await;
    assert!(
        told.1.contains("volume made") && told.1.contains("does not exist"),
        "{}",
        told.1
    );
    assert!(!missing.exists());
    fs::create_dir(&missing).expect("made");
    assert_eq!(rig.ended(&uid, "c").await.exit_code, 0);
}

/// Two containers with a volume on disk and one in memory; the second one can be killed by `kill 1`.
fn sharing() -> Value {
    let mounts = json!([{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}]);
    let container = |name: &str| {
        let mut c = shell(name, "exec sleep 1000");
        c["volumeMounts"] = mounts.clone();
        c
    };
    json!({"containers": [container("a"), container("b")], "volumes": [
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]})
}

#[tokio::test]
async fn volumes_are_shared_outlast_restarts_and_go_with_the_pod() {
    let mut rig = rig().await;
    let uid = rig.run(&sharing()).await;
    rig.ready(&uid).await;
    let place = rig.dir.path().join("volumes").join(&uid);
    rig.exec(&uid, "a", "echo disk >/disk/x; echo memory >/memory/x");
    assert_eq!(rig.exec(&uid, "b", "cat /disk/x /memory/x"), "disk\nmemory");
    assert_eq!(fs::read_to_string(place.join("disk/x")).expect("read"), "disk\n");
    // In memory, of the size that was asked for, for any user.
    let mounted = rig.exec(&uid, "a", "grep ' /memory ' /proc/mounts; ls -ld /memory /disk");
    assert!(
        mounted.starts_with("tmpfs /memory tmpfs rw") && mounted.contains("size=1024k"),
        "{mounted}"
    );
    assert!(
        mounted.contains("drwxrwxrwt") && mounted.contains("drwxrwxrwx"),
        "{mounted}"
    );
    let full = rig.exec(
        &uid,
        "a",
        "dd if=/dev/zero of=/memory/big bs=64k count=32 2>&1 || true; rm /memory/big",
    );
    assert!(full.contains("No space left on device"), "{full}");
    assert_eq!(rig.volumes(&uid).len(), 1);

    // Both containers are killed: the sandbox keeps the memory.
    for name in ["a", "b"] {
        rig.bed.cli(&["kill", &rig.docker_id(&uid, name)]);
    }
    let again = |rig: &Rig| ["a", "b"].iter().all(|c| rig.container(&uid, c).restart_count == 1);
    until("both run again", async || {
        (again(&rig) && rig.status(&uid).is_some_and(|s| s.ready())).then_some(())
    })
    .await;
    assert_eq!(rig.exec(&uid, "b", "cat /disk/x /memory/x"), "disk\nmemory");

    // The agent dies and comes back; meanwhile another pod's leftovers appear.
    let leftover = rig.dir.path().join("volumes/vanished/data");
    fs::create_dir_all(&leftover).expect("made");
    let own = |label: &str, value: &str| format!("--label={label}={value}");
    let (cluster, node) = (
        own("io.wharfinger.cluster", &rig.bed.scope.cluster),
        own("io.wharfinger.node", &rig.bed.scope.node),
    );
    let named = |what: &str| format!("wharf-test-{what}-{}", &uid[..8]);
    rig.bed.cli(&[
        "volume",
        "create",
        &cluster,
        &node,
        "--label=io.wharfinger.uid=vanished",
        &named("gone"),
    ]);
    // Another node's, and a stranger's.
    rig.bed.cli(&[
        "volume",
        "create",
        &cluster,
        "--label=io.wharfinger.uid=vanished",
        &named("other"),
    ]);
    rig.restart().await;
    rig.ready(&uid).await;
    assert_eq!(rig.exec(&uid, "a", "cat /disk/x /memory/x"), "disk\nmemory");
    assert!(leftover.exists(), "nothing before assignments were accepted");
    rig.assign(vec![], vec![]).await;
    until("leftovers are collected", async || (!leftover.exists()).then_some(())).await;
    until("on the engine too", async || {
        let names = rig
            .bed
            .cli(&["volume", "ls", "-q", "--filter", "label=io.wharfinger.uid=vanished"]);
        (!names.contains(&named("gone"))).then(|| assert!(names.contains(&named("other"))))
    })
    .await;
    assert_eq!(rig.exec(&uid, "a", "cat /disk/x /memory/x"), "disk\nmemory");

    rig.stop(&uid).await;
    until("the directory is gone", async || (!place.exists()).then_some(())).await;
    assert!(!rig.dir.path().join("messages").join(&uid).exists());
}

#[tokio::test]
async fn last_words() {
    let rig = rig().await;
    // By any user, at any place, even where the root cannot be written.
    let said = with(
        once("true"),
        &json!({"args": ["echo bye >/some/where; exit 3"], "terminationMessagePath": "/some/where",
            "securityContext": {"runAsUser": 99, "readOnlyRootFilesystem": true}}),
    );
    let uid = rig.run(&said).await;
    let end = rig.ended(&uid, "c").await;
    assert_eq!((end.exit_code, end.message.as_str()), (3, "bye"));

    let silent = |script: &str, policy: &str| {
        let fields = json!({"args": [script], "terminationMessagePolicy": policy});
        with(once("true"), &fields)
    };
    let many = "n=0; while test $n -lt 200; do echo line $n; n=$((n+1)); done; exit 1";
    let uid = rig.run(&silent(many, "FallbackToLogsOnError")).await;
    let words = rig.ended(&uid, "c").await.message;
    assert!(
        words.starts_with("line 120\n") && words.ends_with("line 199"),
        "{words}"
    );
    let uid = rig.run(&silent("echo oops >&2; exit 1", "FallbackToLogsOnError")).await;
    assert_eq!(rig.ended(&uid, "c").await.message, "oops");
    let uid = rig.run(&silent(many, "File")).await;
    assert_eq!(rig.ended(&uid, "c").await.message, "");

    // Much is cut, and what is no text is no trouble.
    let uid = rig
        .run(&once("dd if=/dev/urandom bs=1k count=64; echo; echo the end"))
        .await;
    let words = rig.ended(&uid, "c").await.message;
    assert!(words.len() <= 4096 && words.contains("the end"), "{}", words.len());
}

#[tokio::test]
async fn restart_counts_outlast_the_agent() {
    let mut rig = rig().await;
    let script = "echo >> /v/starts; test -f /v/stay && touch /v/settled && exec sleep 1000; echo crashed; exit 1";
    let mut pod = once(script);
    pod["restartPolicy"] = json!("Always");
    pod = with(pod, &json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    pod["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    let uid = rig.run(&pod).await;
    until("it crashed thrice", async || {
        (rig.container(&uid, "c").restart_count >= 3).then_some(())
    })
    .await;
    let count = rig.container(&uid, "c").restart_count;
    rig.restart().await;
    until("it is told again", async || rig.status(&uid).map(|_| ())).await;
    assert!(rig.container(&uid, "c").restart_count >= count);
    let volume = rig.dir.path().join("volumes").join(&uid).join("v");
    fs::write(volume.join("stay"), "").expect("written");
    // An attempt before it may be seen as ready on its way to its crash: this is about the one that stays.
    until("an attempt stays", async || {
        volume.join("settled").exists().then_some(())
    })
    .await;
    let starts = fs::read_to_string(volume.join("starts")).expect("read").lines().count();
    until("its status is told", async || {
        (rig.container(&uid, "c").restart_count as usize + 1 == starts).then_some(())
    })
    .await;
    rig.ready(&uid).await;
    let settled = rig.container(&uid, "c");
    assert!(settled.restart_count >= count, "{settled:?}");
    // Running now, a new agent counts nothing.
    rig.restart().await;
    rig.ready(&uid).await;
    let after = rig.container(&uid, "c");
    assert_eq!(after.restart_count, settled.restart_count);
    let last = serde_json::to_value(after.last_state).expect("JSON");
    assert_eq!(last["terminated"]["message"], "crashed");
}
