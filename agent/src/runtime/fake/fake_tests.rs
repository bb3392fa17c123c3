//! Tests of the engine in memory: it must notice the sins it is there to notice.

use super::*;
use crate::runtime::Owner;

fn spec(container: &str, attempt: u32) -> CreateContainer {
    CreateContainer {
        name: format!("{container}-{attempt}"),
        owner: Owner {
            uid: "u".into(),
            container: container.into(),
            attempt,
            ..Owner::default()
        },
        image: "app:1".into(),
        ..CreateContainer::default()
    }
}

#[tokio::test(start_paused = true)]
async fn notices_two_live_containers() {
    let engine = FakeEngine::new();
    for attempt in 0..2 {
        let id = engine.create(&spec("c", attempt)).await.expect("created");
        engine.start(&id).await.expect("started");
    }
    assert_eq!(
        engine.violations(),
        ["attempt 1 of c of pod u started while attempt 0 runs"]
    );
}

#[tokio::test(start_paused = true)]
async fn notices_an_attempt_before_the_exit_was_observed() {
    let engine = FakeEngine::new();
    let first = engine.create(&spec("c", 0)).await.expect("created");
    engine.start(&first).await.expect("started");
    assert!(engine.kill_behind_back(&first));
    let second = engine.create(&spec("c", 1)).await.expect("created");
    engine.start(&second).await.expect("started");
    assert_eq!(
        engine.violations(),
        ["attempt 1 of c of pod u started before the exit of attempt 0 was observed"]
    );
    // Observed in time, it is none.
    assert!(engine.remove_behind_back(&second));
    assert_eq!(engine.list().await.map(|l| l.len()), Ok(1));
    let third = engine.create(&spec("c", 2)).await.expect("created");
    engine.start(&third).await.expect("started");
    assert_eq!(engine.violations().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_create_returns_the_same_container() {
    let engine = FakeEngine::new();
    engine.fail_next(Op::Create, Failure::lost_reply());
    assert!(engine.create(&spec("c", 0)).await.is_err());
    let id = engine.create(&spec("c", 0)).await.expect("created");
    assert_eq!(engine.containers().len(), 1);
    assert_eq!(engine.create(&spec("c", 0)).await, Ok(id));
    let mut foreign = spec("c", 0);
    foreign.owner.uid = "other".into();
    assert!(matches!(engine.create(&foreign).await, Err(RuntimeError::NameTaken(_))));
}

#[tokio::test(start_paused = true)]
async fn follows_its_script() {
    let engine = FakeEngine::new();
    engine.script("app:1", ImageScript::exits(3, Duration::from_secs(5)));
    let id = engine.create(&spec("c", 0)).await.expect("created");
    engine.start(&id).await.expect("started");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let running = |info: Option<ContainerInfo>| info.is_some_and(|i| matches!(i.state, State::Running { .. }));
    assert!(running(engine.inspect(&id).await.expect("answers")));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let info = engine.inspect(&id).await.expect("answers").expect("is there");
    assert!(matches!(info.state, State::Exited(Exit { code: 3, .. })));
    engine.set_unavailable(Some("down"));
    assert_eq!(engine.list().await, Err(RuntimeError::Unavailable("down".into())));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_no_longer_than_its_grace() {
    let engine = FakeEngine::new();
    let stubborn = ImageScript {
        stop_takes: Duration::from_secs(60),
        ..ImageScript::default()
    };
    engine.script("app:1", stubborn);
    let id = engine.create(&spec("c", 0)).await.expect("created");
    engine.start(&id).await.expect("started");
    assert!(engine.remove(&id).await.is_err(), "a running container is not removed");
    let before = tokio::time::Instant::now();
    engine.stop(&id, Duration::from_secs(7)).await.expect("stopped");
    assert_eq!(before.elapsed().as_secs(), 7);
    let info = engine.inspect(&id).await.expect("answers").expect("is there");
    assert!(matches!(info.state, State::Exited(Exit { code: 137, .. })));
}

#[tokio::test(start_paused = true)]
async fn notices_a_stop_without_leave() {
    let engine = FakeEngine::new();
    let id = engine.create(&spec("c", 0)).await.expect("created");
    engine.guard_stops(|uid| uid == "other");
    assert_eq!(engine.stop(&id, Duration::ZERO).await, Ok(()), "it does not run");
    assert_eq!(engine.violations(), Vec::<String>::new());
    engine.start(&id).await.expect("started");
    engine.stop(&id, Duration::ZERO).await.expect("stopped");
    assert_eq!(
        engine.violations(),
        ["attempt 0 of c of pod u was stopped without leave"]
    );
    // A container whose sandbox is gone has no network: it may go without leave.
    let sandbox = engine.create(&spec("POD", 0)).await.expect("created");
    engine.start(&sandbox).await.expect("started");
    let mut joined = spec("c", 1);
    joined.join_network_of = Some(sandbox.clone());
    let joined = engine.create(&joined).await.expect("created");
    engine.start(&joined).await.expect("started");
    assert!(engine.kill_behind_back(&sandbox));
    engine.stop(&joined, Duration::ZERO).await.expect("stopped");
    assert_eq!(engine.violations().len(), 1);
}
