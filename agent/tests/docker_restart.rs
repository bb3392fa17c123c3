//! [`DockerRuntime`] while its engine goes down and comes back: on an engine of the test's own, never the shared
//! one.

mod support;

use std::{sync::Arc, time::Duration};

use agent::runtime::{Hint, Runtime, RuntimeError, State, docker::DockerSettings};
use support::{Bed, own_dockerd::OwnDockerd, until};
use tokio::time::timeout;

fn quick() -> DockerSettings {
    DockerSettings {
        event_backoff_max: Duration::from_millis(300),
        ..DockerSettings::default()
    }
}

async fn next(hints: &mut tokio::sync::mpsc::Receiver<Hint>) -> Hint {
    timeout(support::PATIENCE, hints.recv())
        .await
        .expect("a hint in time")
        .expect("the stream never ends")
}

/// Reads until a hint of the pod arrives.
async fn until_pod(hints: &mut tokio::sync::mpsc::Receiver<Hint>, uid: &str) {
    while next(hints).await != Hint::Pod(uid.to_owned()) {}
}

#[tokio::test]
async fn an_engine_of_our_own_leaves_the_shared_one_s_network_alone() {
    let bridge = || std::fs::read_to_string("/sys/class/net/docker0/ifindex").ok();
    let before = bridge();
    assert!(before.is_some(), "the shared engine has lost its docker0 already");
    let engine = OwnDockerd::start();
    assert_eq!(bridge(), before);
    drop(engine);
    assert_eq!(bridge(), before);
}

#[tokio::test]
async fn hints_survive_the_engine_s_restart() {
    let mut engine = OwnDockerd::start();
    let bed = Bed::on(&engine.host(), quick());
    let mut hints = Arc::clone(&bed.docker).hints();
    assert_eq!(next(&mut hints).await, Hint::All);
    let spec = bed.spec(&["sleep"]);
    let id = bed.run_spec(&spec).await;
    until_pod(&mut hints, &spec.owner.uid).await;

    engine.stop();
    // The break is told at once, not only when the engine is back.
    while next(&mut hints).await != Hint::All {}
    for _ in 0..2 {
        assert!(matches!(bed.docker.list().await, Err(RuntimeError::Unavailable(_))));
    }
    assert!(matches!(bed.docker.info().await, Err(RuntimeError::Unavailable(_))));
    assert!(matches!(
        bed.docker.inspect(&id).await,
        Err(RuntimeError::Unavailable(_))
    ));
    assert!(matches!(
        bed.docker.create(&spec).await,
        Err(RuntimeError::Unavailable(_))
    ));
    assert!(matches!(bed.docker.start(&id).await, Err(RuntimeError::Unavailable(_))));
    assert!(matches!(
        bed.docker.stop(&id, Duration::ZERO).await,
        Err(RuntimeError::Unavailable(_))
    ));
    assert!(matches!(
        bed.docker.remove(&id).await,
        Err(RuntimeError::Unavailable(_))
    ));
    assert!(matches!(
        bed.docker.pull("x:1").await,
        Err(RuntimeError::Unavailable(_))
    ));
    assert!(matches!(
        bed.docker.image("x:1").await,
        Err(RuntimeError::Unavailable(_))
    ));

    engine.up();
    while next(&mut hints).await != Hint::All {}
    // Docker ended the container with itself; the agent, not Docker, restarts.
    let listed = bed.docker.list().await.expect("list");
    assert_eq!(listed.len(), 1);
    assert!(matches!(listed[0].state, State::Exited(_)), "{listed:?}");
    // The new stream works.
    bed.docker.remove(&id).await.expect("remove");
    until_pod(&mut hints, &spec.owner.uid).await;
}

#[tokio::test]
async fn an_engine_that_crashes_is_not_an_exit() {
    let mut engine = OwnDockerd::start();
    let bed = Bed::on(&engine.host(), quick());
    let mut hints = Arc::clone(&bed.docker).hints();
    assert_eq!(next(&mut hints).await, Hint::All);
    // A crashed engine, once it is up again, ends what still runs with the container's own grace: 1 s here.
    let spec = bed.spec(&["stubborn"]);
    let id = bed.run_spec(&spec).await;
    until("it ignores TERM", async || {
        bed.cli(&["logs", &id]).contains("ignoring").then_some(())
    })
    .await;

    // The engine dies in the middle of a stop: that is no success.
    let docker = Arc::clone(&bed.docker);
    let stopping = {
        let id = id.clone();
        async move { docker.stop(&id, Duration::from_secs(60)).await }
    };
    let crash = async {
        // The engine's own record of the signal says that the stop has reached it.
        let since = bed.cli(&["inspect", "-f", "{{.State.StartedAt}}", &id]);
        until("the signal is sent", async || {
            let until_now = bed.cli(&["info", "-f", "{{.SystemTime}}"]);
            bed.cli(&[
                "events",
                "--since",
                &since,
                "--until",
                &until_now,
                "--filter",
                "event=kill",
                "--format",
                "{{.Action}}",
            ])
            .contains("kill")
            .then_some(())
        })
        .await;
        engine.kill();
    };
    let (stopped, ()) = tokio::join!(stopping, crash);
    assert!(matches!(stopped, Err(RuntimeError::Unavailable(_))), "{stopped:?}");
    assert!(matches!(bed.docker.list().await, Err(RuntimeError::Unavailable(_))));

    engine.up();
    // Whatever became of it, it is the same container and there is one.
    let listed = until("the engine lists again", async || bed.docker.list().await.ok()).await;
    let ids: Vec<&str> = listed.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, [id.as_str()]);
    assert_eq!(bed.docker.create(&spec).await, Ok(id.clone()));
    bed.docker.stop(&id, Duration::from_secs(1)).await.expect("stop");
    assert!(matches!(bed.get(&id).await.state, State::Exited(_)));
}

#[tokio::test]
async fn an_engine_that_comes_up_later_is_found() {
    let mut engine = OwnDockerd::start();
    engine.stop();
    let _ = std::fs::remove_file(engine.host().trim_start_matches("unix://"));
    let scope = agent::runtime::docker::Scope {
        cluster: uuid::Uuid::new_v4().to_string(),
        node: "n".into(),
        incarnation: "i".into(),
    };
    let docker = agent::runtime::docker::DockerRuntime::connect(Some(&engine.host()), scope, quick())
        .expect("an engine that is down is no error yet");
    let mut hints = Arc::clone(&docker).hints();
    let error = docker.info().await.map(|_| ()).map_err(|e| e.to_string());
    assert!(error.is_err_and(|e| e.contains("no such socket")), "it is down");
    engine.up();
    assert_eq!(next(&mut hints).await, Hint::All);
    assert!(docker.info().await.is_ok());
}
