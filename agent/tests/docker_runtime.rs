//! [`DockerRuntime`] on the machine's real engine. Each test has a cluster of its own and removes only that
//! cluster's containers. Without an engine these tests fail.

mod support;

use std::{process::Command, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use agent::runtime::{
    Hint, Owner, Runtime, RuntimeError, State,
    docker::{DockerRuntime, DockerSettings, SANDBOX_IMAGE},
};
use proto::{
    ids::{self, SANDBOX, label},
    model::ContainerPort,
};
use support::{Bed, IMAGE, free_port, until};
use tokio::time::timeout;

fn port(container_port: u16, host_port: u16) -> ContainerPort {
    ContainerPort {
        container_port,
        host_port,
        ..ContainerPort::default()
    }
}

#[tokio::test]
async fn the_engine_tells_its_facts() {
    let bed = Bed::new();
    let info = bed.docker.info().await.expect("info");
    assert_eq!(info.version, bed.cli(&["version", "-f", "{{.Server.Version}}"]));
    assert_eq!(info.root_dir, bed.cli(&["info", "-f", "{{.DockerRootDir}}"]));
}

#[tokio::test]
async fn a_repeated_create_gives_the_same_container() {
    let bed = Bed::new();
    let spec = bed.spec(&["sleep"]);
    let first = bed.docker.create(&spec).await.expect("create");
    assert_eq!(bed.docker.create(&spec).await, Ok(first.clone()));
    let seen = bed.get(&first).await;
    assert_eq!(
        (seen.owner, seen.state, seen.image.as_str()),
        (spec.owner, State::Created, IMAGE)
    );
    assert_eq!(bed.docker.list().await.expect("list").len(), 1);
}

#[tokio::test]
async fn another_clusters_containers_are_told_and_a_neighbours_are_not() {
    let (bed, other) = (Bed::new(), Bed::new());
    let spec = bed.spec(&["sleep"]);
    bed.docker.create(&spec).await.expect("create");
    let neighbour = bed.sibling("another-node", DockerSettings::default());
    for ours in [&bed.docker, &neighbour] {
        let seen = ours.unmanaged().await.expect("list");
        assert!(!seen.iter().any(|c| c.name == spec.name), "{seen:?}");
    }
    let seen = other.docker.unmanaged().await.expect("list");
    let found = seen.iter().find(|c| c.name == spec.name).expect("told");
    assert_eq!((found.image.as_str(), found.state.as_str()), (IMAGE, "created"));
}

#[tokio::test]
async fn many_creates_of_one_attempt_at_once_make_one_container() {
    let bed = Bed::new();
    let spec = bed.spec(&["sleep"]);
    let all = futures::future::join_all((0..8).map(|_| bed.docker.create(&spec))).await;
    let first = all[0].clone().expect("create");
    assert!(all.iter().all(|r| r.as_ref() == Ok(&first)), "{all:?}");
    assert_eq!(bed.docker.list().await.expect("list").len(), 1);
}

#[tokio::test]
async fn a_name_taken_by_others_is_told_with_both_sides() {
    let bed = Bed::new();
    let spec = bed.spec(&["sleep"]);
    // The cluster label alone, for the clean-up: not enough to be one of this node's.
    let mine = format!("{}={}", label::CLUSTER, bed.scope.cluster);
    let foreign = bed.cli(&["create", "--label", &mine, "--name", &spec.name, IMAGE]);
    let Err(RuntimeError::NameTaken(words)) = bed.docker.create(&spec).await else {
        panic!("the name was not taken");
    };
    assert!(words.contains(&spec.name) && words.contains(&foreign[..12]), "{words}");
    assert!(words.contains("not Wharfinger's"), "{words}");
    bed.cli(&["rm", &foreign]);

    // The same node's, but another pod's.
    let other = bed.spec(&["sleep"]);
    let id = bed
        .docker
        .create(&support_renamed(&other, &spec.name))
        .await
        .expect("create");
    let Err(RuntimeError::NameTaken(words)) = bed.docker.create(&spec).await else {
        panic!("the name was not taken");
    };
    assert!(words.contains(&id[..12]) && words.contains(&other.owner.uid), "{words}");

    // Another node's of the same cluster, even for the same pod.
    let elsewhere = bed.sibling("another-node", DockerSettings::default());
    let Err(RuntimeError::NameTaken(words)) = elsewhere.create(&support_renamed(&other, &spec.name)).await else {
        panic!("the name was not taken");
    };
    assert!(words.contains(&bed.scope.node), "{words}");
}

fn support_renamed(spec: &agent::runtime::CreateContainer, name: &str) -> agent::runtime::CreateContainer {
    agent::runtime::CreateContainer {
        name: name.to_owned(),
        ..spec.clone()
    }
}

#[tokio::test]
async fn what_a_container_is_created_with() {
    let bed = Bed::new();
    let mut spec = bed.spec(&["env"]);
    spec.env = vec![("GREETING".into(), "a=b c".into())];
    spec.labels.insert("team".into(), "t".into());
    // More CPUs than the host has: a limit, not a claim.
    (spec.cpu_limit_milli, spec.cpu_request_milli, spec.memory_limit) = (64_000, 500, 64 << 20);
    spec.hostname = "h".repeat(200);
    let id = bed.run_spec(&spec).await;
    assert_eq!(bed.exited(&id).await.code, 0);
    assert!(bed.cli(&["logs", &id]).contains("GREETING=a=b c"));

    let get = |template: &str| bed.cli(&["inspect", "-f", template, &id]);
    for (template, value) in [
        (
            "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.AutoRemove}} {{.HostConfig.Init}}",
            "no false true",
        ),
        (
            "{{json .HostConfig.LogConfig}}",
            r#"{"Type":"local","Config":{"max-file":"3","max-size":"10m"}}"#,
        ),
        (
            "{{.HostConfig.SecurityOpt}} {{.HostConfig.PidsLimit}}",
            "[no-new-privileges] 4096",
        ),
        ("{{.HostConfig.CpuQuota}} {{.HostConfig.CpuShares}}", "6400000 512"),
        ("{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}", "67108864 67108864"),
        ("{{.Config.Labels.team}} {{.Config.StopTimeout}}", "t 1"),
        ("{{len .HostConfig.Binds}} {{len .Config.Hostname}}", "0 63"),
    ] {
        assert_eq!(get(template), value, "{template}");
    }
    let labels = get("{{json .Config.Labels}}");
    for (key, value) in [
        (label::CLUSTER, bed.scope.cluster.as_str()),
        (label::NODE, bed.scope.node.as_str()),
        (label::INCARNATION, bed.scope.incarnation.as_str()),
        (label::NAMESPACE, "test"),
        (label::POD, "pod"),
        (label::UID, spec.owner.uid.as_str()),
        (label::CONTAINER, "app"),
        (label::ATTEMPT, "0"),
        (label::SPEC_HASH, "0123456789abcdef"),
    ] {
        assert!(labels.contains(&format!("\"{key}\":\"{value}\"")), "{key} in {labels}");
    }
}

#[tokio::test]
async fn a_whole_life() {
    let bed = Bed::new();
    let id = bed.run(&["sleep"]).await;
    let seen = bed.get(&id).await;
    assert!(
        matches!(seen.state, State::Running { started_at: Some(_) }),
        "{:?}",
        seen.state
    );
    assert!(!seen.ip.is_empty() && seen.image_id.starts_with("sha256:"), "{seen:?}");

    // Repeats are no errors.
    assert_eq!(bed.docker.start(&id).await, Ok(()));
    let Err(RuntimeError::Refused(words)) = bed.docker.remove(&id).await else {
        panic!("a running container was removed");
    };
    assert!(words.contains("running"), "{words}");

    assert_eq!(bed.docker.stop(&id, Duration::from_secs(10)).await, Ok(()));
    let State::Exited(exit) = bed.get(&id).await.state else {
        panic!("stop returned before the exit");
    };
    // By TERM, which the init passed on.
    assert_eq!((exit.code, exit.oom), (143, false));
    assert!(exit.started_at.is_some() && exit.finished_at >= exit.started_at);
    assert_eq!(bed.docker.stop(&id, Duration::ZERO).await, Ok(()));

    assert_eq!(bed.docker.remove(&id).await, Ok(()));
    assert_eq!(bed.docker.remove(&id).await, Ok(()));
    assert_eq!(bed.docker.stop(&id, Duration::ZERO).await, Ok(()));
    assert_eq!(bed.docker.inspect(&id).await, Ok(None));
    assert_eq!(
        bed.docker.start(&id).await,
        Err(RuntimeError::NoSuchContainer(id[..12].to_owned()))
    );
}

#[tokio::test]
async fn exit_codes() {
    let bed = Bed::new();
    for (args, code) in [(["exit", "0"], 0), (["exit", "3"], 3)] {
        let id = bed.run(&args).await;
        let exit = bed.exited(&id).await;
        assert_eq!((exit.code, exit.oom, exit.error.as_str()), (code, false, ""));
    }
}

#[tokio::test]
async fn grace_that_runs_out_ends_in_a_kill() {
    let bed = Bed::new();
    let id = bed.run(&["stubborn"]).await;
    until("it ignores TERM", async || {
        bed.cli(&["logs", &id]).contains("ignoring").then_some(())
    })
    .await;
    assert_eq!(bed.docker.stop(&id, Duration::from_millis(300)).await, Ok(()));
    let exit = bed.exited(&id).await;
    assert_eq!((exit.code, exit.oom), (137, false));
}

#[tokio::test]
async fn out_of_memory_is_the_flag_and_137() {
    let bed = Bed::new();
    let mut spec = bed.spec(&["eat", "256"]);
    spec.memory_limit = 32 << 20;
    let id = bed.run_spec(&spec).await;
    let exit = bed.exited(&id).await;
    assert_eq!((exit.code, exit.oom), (137, true));
}

#[tokio::test]
async fn a_bad_command_is_told_under_the_init() {
    let bed = Bed::new();
    let mut spec = bed.spec(&[]);
    spec.command = vec!["nosuchprogram".into()];
    let id = bed.run_spec(&spec).await;
    let exit = bed.exited(&id).await;
    assert_eq!(
        (exit.code, exit.error.as_str()),
        (127, "exec nosuchprogram failed: No such file or directory")
    );
    // The list says the same.
    let listed = bed.docker.list().await.expect("list");
    assert!(matches!(&listed[0].state, State::Exited(e) if *e == exit), "{listed:?}");
    // A program that itself ends with 127 is not accused.
    let id = bed.run(&["exit", "127"]).await;
    assert_eq!(bed.exited(&id).await.error, "");
}

#[tokio::test]
async fn a_bad_command_is_refused_without_the_init() {
    let settings = DockerSettings {
        init: false,
        ..DockerSettings::default()
    };
    let bed = Bed::on("", settings);
    let mut spec = bed.spec(&[]);
    spec.command = vec!["nosuchprogram".into()];
    let id = bed.docker.create(&spec).await.expect("create");
    assert_eq!(
        bed.docker.start(&id).await,
        Err(RuntimeError::Refused(
            "exec: \"nosuchprogram\": executable file not found in $PATH".into()
        ))
    );
    let listed = bed.docker.list().await.expect("list");
    assert_eq!(
        (listed[0].id.as_str(), &listed[0].state),
        (id.as_str(), &State::Created)
    );
    assert_eq!(bed.docker.remove(&id).await, Ok(()));
}

#[tokio::test]
async fn a_port_in_use_is_told_and_heals() {
    let bed = Bed::new();
    let host_port = free_port();
    let mut holder = bed.spec(&["serve"]);
    holder.ports = vec![port(8080, host_port)];
    let holder = bed.run_spec(&holder).await;
    let url = format!("127.0.0.1:{host_port}");
    until("the port answers", async || std::net::TcpStream::connect(&url).ok()).await;

    let mut second = bed.spec(&["serve"]);
    second.ports = vec![port(8080, host_port)];
    let id = bed.docker.create(&second).await.expect("create");
    let Err(RuntimeError::Refused(words)) = bed.docker.start(&id).await else {
        panic!("two containers on one port");
    };
    assert_eq!(
        words,
        format!("Bind for 0.0.0.0:{host_port} failed: port is already allocated")
    );
    assert_eq!(bed.get(&id).await.state, State::Created);

    bed.docker.stop(&holder, Duration::from_secs(5)).await.expect("stop");
    assert_eq!(bed.docker.start(&id).await, Ok(()));
}

#[tokio::test]
async fn a_memory_limit_that_is_too_small_is_told() {
    let bed = Bed::new();
    let mut spec = bed.spec(&["sleep"]);
    spec.memory_limit = 4 << 20;
    assert_eq!(
        bed.docker.create(&spec).await,
        Err(RuntimeError::Refused("Minimum memory limit allowed is 6MB".into()))
    );
}

#[tokio::test]
async fn absent_images() {
    let bed = Bed::new();
    let mut spec = bed.spec(&[]);
    spec.image = "wharf-agent-test/nosuch:1".into();
    assert_eq!(bed.docker.image(&spec.image).await, Ok(None));
    assert_eq!(
        bed.docker.create(&spec).await,
        Err(RuntimeError::NoSuchImage(spec.image))
    );
    let id = bed.docker.image(IMAGE).await.expect("image").expect("it is there");
    assert!(id.starts_with("sha256:"), "{id}");
}

#[tokio::test]
async fn a_pull_that_cannot_work_ends_with_docker_s_words() {
    let bed = Bed::new();
    // Nobody listens on this port of the engine's own host.
    let reference = format!("127.0.0.1:{}/nosuch", free_port());
    let pulls = (0..4).map(|_| bed.docker.pull(&reference));
    let outcomes = timeout(Duration::from_secs(30), futures::future::join_all(pulls))
        .await
        .expect("quickly");
    let Err(RuntimeError::Refused(words)) = &outcomes[0] else {
        panic!("{outcomes:?}");
    };
    assert!(
        words.contains("connection refused") && words.contains(&reference[..12]),
        "{words}"
    );
    assert!(outcomes.iter().all(|o| o == &outcomes[0]), "{outcomes:?}");
    assert!(matches!(bed.docker.pull("a b").await, Err(RuntimeError::Refused(w)) if w.contains("`a b`")));
}

#[tokio::test]
async fn a_registry_that_says_nothing_ends_the_pull_once_for_all_callers() {
    let settings = DockerSettings {
        pull_inactivity: Duration::from_millis(700),
        ..DockerSettings::default()
    };
    let bed = Bed::on("", settings);
    // Accepts and never answers. Docker itself would wait for half a minute and more.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let reference = format!("{}/app:1", silent.local_addr().expect("address"));
    let began = std::time::Instant::now();
    let pulls = (0..3).map(|_| bed.docker.pull(&reference));
    let outcomes = futures::future::join_all(pulls).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    for outcome in outcomes {
        assert!(
            matches!(&outcome, Err(RuntimeError::Refused(w)) if w.contains("stood still for 700ms") && w.contains(&reference)),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn hints_come_with_start_and_death() {
    let bed = Bed::new();
    let mut hints = Arc::clone(&bed.docker).hints();
    let mut next = async || {
        timeout(support::PATIENCE, hints.recv())
            .await
            .expect("in time")
            .expect("no end")
    };
    assert_eq!(next().await, Hint::All);

    let mut spec = bed.spec(&["exit", "0", "0.2"]);
    spec.owner.uid = uuid::Uuid::new_v4().to_string();
    // Another node's container in between makes no hint here.
    let elsewhere = bed.sibling("another-node", DockerSettings::default());
    let other = elsewhere.create(&bed.spec(&["exit", "0"])).await.expect("create");
    elsewhere.start(&other).await.expect("start");

    let id = bed.run_spec(&spec).await;
    let pod = Hint::Pod(spec.owner.uid.clone());
    // create, start, die.
    for _ in 0..3 {
        assert_eq!(next().await, pod);
    }
    assert_eq!(bed.exited(&id).await.code, 0);
    bed.docker.remove(&id).await.expect("remove");
    assert_eq!(next().await, pod);
}

#[tokio::test]
async fn other_nodes_and_strangers_do_not_exist() {
    let bed = Bed::new();
    let mine = bed.run(&["sleep"]).await;
    let elsewhere = bed.sibling("another-node", DockerSettings::default());
    let theirs = elsewhere.create(&bed.spec(&["sleep"])).await.expect("create");
    elsewhere.start(&theirs).await.expect("start");
    // This node's labels, but no pod's.
    let labels = support::labels(&bed.scope);
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("--label={k}={v}")).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let stray = bed.cli(&[&["run", "-d", "--init"], labels.as_slice(), &[IMAGE, "sleep"]].concat());

    let listed: Vec<String> = bed
        .docker
        .list()
        .await
        .expect("list")
        .into_iter()
        .map(|c| c.id)
        .collect();
    assert_eq!(listed, [mine]);
    for other in [&theirs, &stray] {
        assert_eq!(bed.docker.inspect(other).await, Ok(None));
        assert_eq!(bed.docker.stop(other, Duration::ZERO).await, Ok(()));
        assert_eq!(bed.docker.remove(other).await, Ok(()));
        assert!(matches!(
            bed.docker.start(other).await,
            Err(RuntimeError::NoSuchContainer(_))
        ));
        assert_eq!(bed.cli(&["inspect", "-f", "{{.State.Running}}", other]), "true");
    }
}

#[tokio::test]
async fn containers_share_their_sandbox_s_network() {
    let bed = Bed::new();
    let host_port = free_port();
    let mut sandbox = bed.spec(&[]);
    sandbox.owner.container = SANDBOX.into();
    sandbox.name = ids::container_name(SANDBOX, "pod", "test", &sandbox.owner.uid, 0);
    sandbox.image = SANDBOX_IMAGE.into();
    sandbox.ports = vec![port(8080, host_port)];
    let sandbox_id = bed.run_spec(&sandbox).await;
    let ip = bed.get(&sandbox_id).await.ip;
    assert!(!ip.is_empty());

    let member = |name: &str, args: &[&str]| {
        let mut spec = bed.spec(args);
        spec.owner = Owner {
            container: name.into(),
            ..sandbox.owner.clone()
        };
        spec.name = ids::container_name(name, "pod", "test", &spec.owner.uid, 0);
        spec.join_network_of = Some(sandbox_id.clone());
        // The sandbox publishes them; here they only say what the container listens on.
        spec.ports.clone_from(&sandbox.ports);
        spec
    };
    let server = bed.run_spec(&member("web", &["serve"])).await;
    until("the host port answers", async || {
        Command::new("curl")
            .args(["-sf", &format!("http://127.0.0.1:{host_port}/healthz")])
            .output()
            .is_ok_and(|o| o.stdout == b"ok\n")
            .then_some(())
    })
    .await;
    let client = bed.run_spec(&member("client", &["get", "127.0.0.1:8080"])).await;
    assert_eq!(bed.exited(&client).await.code, 0);
    let said = bed.cli(&["logs", &client]);
    assert!(said.contains("\"pod\":\"pod\""), "{said}");
    assert_eq!(bed.get(&server).await.ip, "");

    // With its sandbox gone a member does not start, and says why.
    bed.docker
        .stop(&sandbox_id, Duration::from_secs(5))
        .await
        .expect("stop");
    bed.docker.remove(&sandbox_id).await.expect("remove");
    let late = bed.docker.create(&member("late", &["sleep"])).await;
    let outcome = match late {
        Ok(id) => bed.docker.start(&id).await,
        Err(e) => Err(e),
    };
    assert!(
        matches!(&outcome, Err(RuntimeError::Refused(words)) if words.contains(&sandbox_id[..12])),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn the_sandbox_program_waits_and_stops_at_once() {
    let bed = Bed::new();
    let mut sandbox = bed.spec(&[]);
    sandbox.owner.container = SANDBOX.into();
    // No image: the sandbox's own.
    sandbox.image = String::new();
    let id = bed.run_spec(&sandbox).await;
    assert_eq!(bed.get(&id).await.image, SANDBOX_IMAGE);
    assert!(bed.docker.image(SANDBOX_IMAGE).await.expect("image").is_some());
    // It sleeps in the kernel rather than spinning.
    let top = bed.cli(&["top", &id, "-o", "pid,stat,time,args"]);
    assert!(top.contains("/pause") && top.contains("00:00:00"), "{top}");
    let began = std::time::Instant::now();
    bed.docker.stop(&id, Duration::from_secs(30)).await.expect("stop");
    assert!(began.elapsed() < Duration::from_secs(10), "TERM did not end it");
    assert_eq!(bed.exited(&id).await.code, 143);
}

/// Passes everything on to the shared engine, but inspections of containers: those are never answered.
async fn without_inspections(socket: std::path::PathBuf) {
    let listener = tokio::net::UnixListener::bind(socket).expect("socket");
    let mut tasks = tokio::task::JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        tasks.spawn(async move {
            let mut head = [0; 4096];
            let n = client.read(&mut head).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&head[..n]).into_owned();
            if text.starts_with("GET /containers/") && !text.starts_with("GET /containers/json") {
                return std::future::pending().await;
            }
            let mut engine = tokio::net::UnixStream::connect("/var/run/docker.sock")
                .await
                .expect("engine");
            engine.write_all(&head[..n]).await.expect("request");
            let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
        });
    }
}

#[tokio::test]
async fn a_call_that_takes_too_long_says_so() {
    let settings = DockerSettings {
        inspect_timeout: Duration::from_millis(200),
        ..DockerSettings::default()
    };
    let bed = Bed::new();
    let id = bed.run(&["sleep"]).await;
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("d.sock");
    let proxy = tokio::spawn(without_inspections(socket.clone()));
    until("the socket is there", async || socket.exists().then_some(())).await;
    let host = format!("unix://{}", socket.display());
    // A new connection for each call: one that was used for another call is not looked at again by the proxy.
    let hasty = DockerRuntime::connect(Some(&host), bed.scope.clone(), settings.clone()).expect("an address");
    let Err(RuntimeError::Unavailable(words)) = hasty.inspect(&id).await else {
        panic!("an answer that was never given");
    };
    assert!(
        words.contains("took longer than 200ms") && words.contains(&id[..12]),
        "{words}"
    );
    // A list goes on without the inspections.
    let hasty = DockerRuntime::connect(Some(&host), bed.scope.clone(), settings).expect("an address");
    let listed = hasty.list().await.expect("list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state, State::Running { started_at: None });
    proxy.abort();
}
