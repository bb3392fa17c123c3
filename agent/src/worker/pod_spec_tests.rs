//! What pods ask for beyond a plain container, against the engine in memory and a real directory: volumes, last
//! words, whom they run as, and how far a pull is.

use std::{fs, path::PathBuf, time::Duration};

use proto::{
    ids,
    model::{ContainerState, ContainerStateTerminated, ContainerStateWaiting},
    wire,
};
use tempfile::TempDir;

use super::{
    tests::{Rig, rig, stop_of},
    *,
};
use crate::runtime::{
    CreateContainer, Owner, Source,
    fake::{FakeEngine, ImageScript, Op},
};

fn pod_of(uid: &str, spec: &serde_json::Value) -> wire::Run {
    let text = spec.to_string();
    wire::Run {
        uid: uid.into(),
        namespace: "default".into(),
        name: format!("pod-{uid}"),
        spec_hash: ids::content_hash(text.as_bytes()),
        spec_json: text.into_bytes(),
        ..wire::Run::default()
    }
}

fn waiting(rig: &Rig, uid: &str) -> ContainerStateWaiting {
    match rig.status(uid).map(|s| s.container_statuses[0].state.clone()) {
        Some(ContainerState::Waiting(w)) => w,
        _ => ContainerStateWaiting::default(),
    }
}

/// How the container ended that is running or waiting again, or ended for good.
fn ended(rig: &Rig, uid: &str) -> Option<ContainerStateTerminated> {
    let status = rig.status(uid)?.container_statuses[0].clone();
    match (status.state, status.last_state) {
        (ContainerState::Terminated(t), _) | (_, Some(ContainerState::Terminated(t))) => Some(t),
        _ => None,
    }
}

/// Where the running container of a pod finds what it mounts at `target`.
fn source(rig: &Rig, uid: &str, target: &str) -> Source {
    let all = rig.engine.containers();
    let of_pod = all
        .iter()
        .filter(|c| c.owner.uid == uid && c.owner.container != ids::SANDBOX);
    let newest = of_pod.max_by_key(|c| c.owner.attempt).expect("a container");
    let spec = rig.engine.spec(&newest.id).expect("there");
    let mount = spec.mounts.into_iter().find(|m| m.target == target);
    mount.expect("mounted").source
}

fn path(source: Source) -> PathBuf {
    match source {
        Source::Directory(path) | Source::File(path) => path,
        other => panic!("not on disk: {other:?}"),
    }
}

fn with_volumes() -> serde_json::Value {
    serde_json::json!({
        "containers": [{"name": "c", "image": "app:1", "volumeMounts": [
            {"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}]}],
        "volumes": [
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
    })
}

#[tokio::test(start_paused = true)]
async fn volumes_last_as_long_as_their_pod() {
    let (dir, engine, rig) = rig().await;
    rig.assign(vec![pod_of("u1", &with_volumes())], vec![], &[]).await;
    rig.until_ready("u1").await;
    let disk = path(source(&rig, "u1", "/disk"));
    assert_eq!(disk, dir.path().join("volumes/u1/disk"));
    fs::write(disk.join("kept"), "x").expect("written");
    let memory = Source::Memory {
        name: "wharf_u1_memory".into(),
        size: Some(1 << 20),
    };
    assert_eq!(source(&rig, "u1", "/memory"), memory);
    // The sandbox has it too, and so it outlasts the container.
    let all = engine.containers();
    let sandbox = all
        .iter()
        .find(|c| c.owner.container == ids::SANDBOX)
        .expect("a sandbox");
    assert!(
        engine
            .spec(&sandbox.id)
            .expect("there")
            .mounts
            .iter()
            .any(|m| m.source == memory)
    );

    // A restart of the container, then of the agent.
    let container = all.iter().find(|c| c.owner.container == "c").expect("there");
    assert!(engine.kill_behind_back(&container.id));
    rig.until("attempt 1 runs", |r| {
        r.running().len() == 2 && r.engine.containers().iter().any(|c| c.owner.attempt == 1)
    })
    .await;
    rig.end().await;
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    rig.until_ready("u1").await;
    rig.assign(vec![], vec![], &[]).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(path(source(&rig, "u1", "/disk")), disk);
    assert!(disk.join("kept").exists());
    assert_eq!(engine.volumes().len(), 1);

    rig.assign(vec![], vec![stop_of("u1", 0)], &[]).await;
    rig.until("nothing is left", |r| {
        r.engine.containers().is_empty() && r.engine.volumes().is_empty() && !disk.exists()
    })
    .await;
    assert!(!dir.path().join("volumes/u1").exists() && !dir.path().join("messages/u1").exists());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_cannot_be_removed_yet_is_tried_again_and_the_pod_kept_until_then() {
    let (_dir, engine, rig) = rig().await;
    rig.assign(vec![pod_of("u1", &with_volumes())], vec![], &[]).await;
    rig.until_ready("u1").await;
    // A stranger's container has the pod's memory.
    let squatter = CreateContainer {
        name: "squatter".into(),
        owner: Owner {
            uid: "u1x".into(),
            ..Owner::default()
        },
        mounts: vec![crate::runtime::Mount {
            target: "/m".into(),
            read_only: false,
            source: source(&rig, "u1", "/memory"),
        }],
        ..CreateContainer::default()
    };
    let squatter = engine.plant(&squatter, true);
    rig.assign(vec![], vec![stop_of("u1", 0)], &["u1"]).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(rig.shared.keeper.current().pods.contains_key("u1"));
    let tries = engine.calls(Op::RemoveVolume);
    assert!((5..=20).contains(&tries), "{tries} tries in five minutes");
    assert!(engine.remove_behind_back(&squatter));
    rig.until("forgotten", |r| {
        r.shared.keeper.current().pods.is_empty() && r.engine.volumes().is_empty()
    })
    .await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_vanished_pods_left_is_collected_after_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = FakeEngine::new();
    let outside = dir.path().join("outside");
    for place in [
        "volumes/gone/data",
        "messages/gone",
        "volumes/dead/data",
        "volumes/alive/data",
        "outside",
    ] {
        fs::create_dir_all(dir.path().join(place)).expect("made");
    }
    fs::write(outside.join("precious"), "x").expect("made");
    std::os::unix::fs::symlink(&outside, dir.path().join("volumes/link")).expect("made");
    std::os::unix::fs::symlink(&outside, dir.path().join("volumes/gone/data/link")).expect("made");
    engine.plant_volume("wharf_gone_m", "gone");
    engine.plant_volume("wharf_alive_m", "alive");
    // The ledger knows neither; one of them still runs.
    let plant = |uid: &str, running| {
        let spec = CreateContainer {
            name: uid.into(),
            owner: Owner {
                uid: uid.into(),
                container: "c".into(),
                ..Owner::default()
            },
            ..CreateContainer::default()
        };
        engine.plant(&spec, running)
    };
    plant("alive", true);
    plant("dead", false);
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    rig.shared.files.pods().expect("listed");
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(
        dir.path().join("volumes/gone").exists(),
        "nothing before assignments were accepted"
    );
    rig.assign(vec![pod_of("u1", &with_volumes())], vec![], &[]).await;
    rig.until("collected", |r| {
        let left = r.shared.files.pods().expect("listed");
        left.into_iter().eq(["alive", "u1"].map(str::to_owned))
    })
    .await;
    rig.until("memory too", |r| {
        r.engine
            .volumes()
            .into_keys()
            .eq(["wharf_alive_m", "wharf_u1_memory"].map(str::to_owned))
    })
    .await;
    assert!(outside.join("precious").exists());
    // A quiet node asks no more.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = engine.calls(Op::Volumes);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(engine.calls(Op::Volumes), asked);
    // The one that ran is stopped by an entry; of its spec nothing was ever known.
    rig.assign(vec![], vec![stop_of("alive", 0)], &[]).await;
    rig.until("its memory is gone", |r| {
        r.engine.volumes().into_keys().eq(["wharf_u1_memory".to_owned()]) && !dir.path().join("volumes/alive").exists()
    })
    .await;
    rig.end().await;
}

/// A pod that runs once, and whose container's last words are written by the test; no policy is none at all.
fn once(policy: &str) -> serde_json::Value {
    let mut container = serde_json::json!({"name": "c", "image": "app:1"});
    if !policy.is_empty() {
        container["terminationMessagePolicy"] = policy.into();
    }
    serde_json::json!({"restartPolicy": "Never", "containers": [container]})
}

#[tokio::test(start_paused = true)]
async fn last_words_are_the_file_s_then_those_of_the_log() {
    let (dir, engine, rig) = rig().await;
    let script = ImageScript {
        log: "line\nthe end\n".into(),
        ..ImageScript::exits(3, Duration::from_secs(5))
    };
    engine.script("app:1", script.clone());
    for (uid, policy, said, heard) in [
        ("u1", "File", "bye\n", "bye"),
        ("u2", "File", "", ""),
        ("u3", "FallbackToLogsOnError", "", "line\nthe end"),
        ("u4", "FallbackToLogsOnError", "bye", "bye"),
        ("u6", "", "", "line\nthe end"),
        ("u7", "", "bye", "bye"),
    ] {
        rig.assign(vec![pod_of(uid, &once(policy))], vec![], &[]).await;
        rig.until("it runs", |r| !r.running().is_empty()).await;
        let file = path(source(&rig, uid, "/dev/termination-log"));
        assert_eq!(file, dir.path().join(format!("messages/{uid}/c.0")));
        fs::write(file, said).expect("written");
        rig.until("its end is known", |r| ended(r, uid).is_some()).await;
        let end = ended(&rig, uid).expect("ended");
        assert_eq!((end.exit_code, end.message.as_str()), (3, heard), "{uid}");
    }
    // The log explains failures only.
    engine.script(
        "app:1",
        ImageScript {
            run: crate::runtime::fake::Run::Exit {
                code: 0,
                after: Duration::from_secs(5),
            },
            ..script
        },
    );
    rig.assign(vec![pod_of("u5", &once("FallbackToLogsOnError"))], vec![], &[])
        .await;
    rig.until("its end is known", |r| ended(r, "u5").is_some()).await;
    assert_eq!(ended(&rig, "u5").expect("ended").message, "");
    assert_eq!(
        engine.calls(Op::Log),
        2,
        "only where the file was empty and the container failed"
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn last_words_survive_the_agent_and_go_with_their_attempt() {
    let (dir, engine, rig) = rig().await;
    engine.script("app:1", ImageScript::exits(1, Duration::from_secs(30)));
    let spec = serde_json::json!({"containers": [{"name": "c", "image": "app:1", "terminationMessagePath": "/w"}]});
    rig.assign(vec![pod_of("u1", &spec)], vec![], &[]).await;
    rig.until("it runs", |r| !r.running().is_empty()).await;
    fs::write(path(source(&rig, "u1", "/w")), "a\nlast line").expect("written");
    // It ends while the agent is away.
    for task in &rig.tasks {
        task.abort();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    rig.until("its end is known", |r| ended(r, "u1").is_some()).await;
    assert_eq!(ended(&rig, "u1").expect("ended").message, "a\nlast line");
    rig.until("attempt 1 ended as well", |r| {
        waiting(r, "u1").reason == "CrashLoopBackOff"
    })
    .await;
    let words = waiting(&rig, "u1").message;
    assert!(!words.contains('\n'), "{words}");
    let files = || fs::read_dir(dir.path().join("messages/u1")).expect("there").count();
    rig.until("one dead container is left", |r| r.engine.containers().len() == 1)
        .await;
    rig.until("and its words", |_| files() == 1).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_of_an_older_agent_ends_without_words() {
    let (_dir, engine, rig) = rig().await;
    let run = pod_of("u1", &once("File"));
    let spec = CreateContainer {
        name: "wharf_c_pod-u1_default_u1_0".into(),
        owner: Owner {
            uid: "u1".into(),
            namespace: "default".into(),
            pod: "pod-u1".into(),
            container: "c".into(),
            attempt: 0,
            spec_hash: run.spec_hash.clone(),
        },
        image: "app:1".into(),
        ..CreateContainer::default()
    };
    let id = engine.plant(&spec, true);
    rig.assign(vec![run], vec![], &[]).await;
    rig.until_ready("u1").await;
    assert!(engine.kill_behind_back(&id));
    rig.until("its end is known", |r| ended(r, "u1").is_some()).await;
    assert_eq!(ended(&rig, "u1").expect("ended").message, "");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_host_path_waits_with_its_reason_and_heals() {
    let (dir, engine, rig) = rig().await;
    let place = dir.path().join("wanted");
    let spec = serde_json::json!({
        "containers": [{"name": "c", "image": "app:1", "volumeMounts": [{"name": "h", "mountPath": "/h", "readOnly": true}]}],
        "volumes": [{"name": "h", "hostPath": {"path": place, "type": "Directory"}}],
    });
    rig.assign(vec![pod_of("u1", &spec)], vec![], &[]).await;
    rig.until("it waits", |r| waiting(r, "u1").reason == "CreateContainerConfigError")
        .await;
    let words = waiting(&rig, "u1").message;
    assert!(
        words.starts_with("volume h: host path ") && words.contains("does not exist"),
        "{words}"
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        (waiting(&rig, "u1").reason.as_str(), engine.calls(Op::Create)),
        ("CreateContainerConfigError", 0)
    );
    fs::create_dir(&place).expect("made");
    rig.until_ready("u1").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_image_is_asked_whom_it_runs_as_only_where_that_matters() {
    let (_dir, engine, rig) = rig().await;
    let numbered = ImageScript {
        user: "1000".into(),
        ..ImageScript::default()
    };
    engine.script("numbered:1", numbered);
    let pod = |image: &str, context: serde_json::Value| serde_json::json!({"containers": [{"name": "c", "image": image, "securityContext": context}]});
    let non_root = || serde_json::json!({"runAsNonRoot": true});
    rig.assign(vec![pod_of("u1", &pod("app:1", non_root()))], vec![], &[])
        .await;
    rig.until("it waits", |r| waiting(r, "u1").reason == "CreateContainerConfigError")
        .await;
    let words = waiting(&rig, "u1").message;
    assert!(
        words.contains("image app:1 runs as root") && words.contains("runAsUser"),
        "{words}"
    );
    assert_eq!(engine.calls(Op::Create), 0);

    rig.assign(vec![pod_of("u2", &pod("numbered:1", non_root()))], vec![], &[])
        .await;
    rig.until_ready("u2").await;
    let group = serde_json::json!({"runAsGroup": 7});
    rig.assign(vec![pod_of("u3", &pod("numbered:1", group))], vec![], &[])
        .await;
    rig.until_ready("u3").await;
    let user = |uid: &str| {
        let all = engine.containers();
        let id = &all.iter().find(|c| c.owner.uid == uid).expect("there").id;
        engine.spec(id).expect("there").user
    };
    assert_eq!((user("u2").as_str(), user("u3").as_str()), ("", "1000:7"));

    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_one_container_costs_no_more_calls_than_it_must() {
    let (_dir, engine, rig) = rig().await;
    let one = |fields: serde_json::Value| {
        let mut container = serde_json::json!({"name": "c", "image": "app:1"});
        let more = fields.as_object().expect("an object").clone();
        container.as_object_mut().expect("an object").extend(more);
        serde_json::json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]})
    };
    for (uid, fields) in [
        ("u1", serde_json::json!({})),
        (
            "u2",
            serde_json::json!({"securityContext": {"runAsUser": 5, "runAsNonRoot": true},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
        ),
    ] {
        let ops = [
            Op::Image,
            Op::Create,
            Op::Start,
            Op::Inspect,
            Op::Pull,
            Op::Log,
            Op::Volumes,
        ];
        let before = ops.map(|op| engine.calls(op));
        rig.assign(vec![pod_of(uid, &one(fields))], vec![], &[]).await;
        rig.until_ready(uid).await;
        let calls: Vec<_> = ops.iter().zip(before).map(|(op, n)| engine.calls(*op) - n).collect();
        // Looks at the container: after the create, after the start, and at the engine's word of the start.
        assert!((2..=3).contains(&calls[3]), "{uid}: {calls:?}");
        assert_eq!([&calls[..3], &calls[4..]].concat(), [1, 1, 1, 0, 0, 0], "{uid}");
    }
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_tells_how_far_it_is_in_its_own_time() {
    let (_dir, engine, rig) = rig().await;
    let script = |words: &str| ImageScript {
        progress: Some(words.into()),
        ..ImageScript::slow_pull(Duration::from_secs(60))
    };
    engine.script("slow:1", script("pulling slow:1: 0 of 80 MB"));
    let pod = |image: &str| serde_json::json!({"containers": [{"name": "c", "image": image}]});
    rig.assign(vec![pod_of("u1", &pod("slow:1"))], vec![], &[]).await;
    rig.until("it tells", |r| waiting(r, "u1").message == "pulling slow:1: 0 of 80 MB")
        .await;
    assert_eq!(waiting(&rig, "u1").reason, "ContainerCreating");
    // The engine knows more every ten milliseconds, and other things happen; the coordinator hears little of it.
    let mut told = std::collections::BTreeSet::new();
    for n in 0..1_000 {
        engine.script("slow:1", script(&format!("pulling slow:1: {n} of 1000 MB")));
        tokio::time::sleep(Duration::from_millis(10)).await;
        told.insert(waiting(&rig, "u1").message);
        rig.shared.relist.notify_one();
    }
    assert!((4..=7).contains(&told.len()), "{} statuses in ten seconds", told.len());
    rig.until_ready("u1").await;
    rig.end().await;
}

#[test]
fn all_that_a_pod_says_fits_its_status() {
    // The coordinator takes 64 KiB of a pod's status; each container may show its last two ends.
    let dir: TempDir = tempfile::tempdir().expect("a directory");
    let files = files::PodFiles::new(dir.path()).expect("absolute");
    let file = files.message("u", "c", 0).expect("plain");
    fs::create_dir_all(file.parent().expect("one")).expect("made");
    fs::write(&file, "\"\n".repeat(10_000)).expect("written");
    for containers in [1, 2, 3, 8, 30] {
        let words = files.last_words(&file, last_words::limit(containers));
        let json = serde_json::to_string(&words).expect("text");
        assert!(
            2 * containers * json.len() < 50 << 10,
            "{containers} containers: {}",
            json.len()
        );
    }
}
