//! Pipes of a whole agent with a scripted coordinator.

use proto::wire::{down, up};

use super::*;
use crate::{
    runtime::fake::FakeEngine,
    session::testing::{Coordinator, Line, PATIENCE, Pipe, TestAgent, quick, running_agent},
    settings::Settings,
};

/// The log of the one container that runs.
fn log_of(agent: &TestAgent) -> ReadLog {
    ReadLog {
        pod_uid: "u1".into(),
        container: agent.engine.containers()[0].owner.container.clone(),
        container_id: agent.running()[0].clone(),
        ..ReadLog::default()
    }
}

/// Asks for a log; the pipe, after its opening.
async fn open(coordinator: &Coordinator, line: &Line, id: &str, log: ReadLog) -> Pipe {
    let asked = OpenPipe {
        id: id.into(),
        kind: Some(Kind::Log(log)),
    };
    line.send(down::Message::OpenPipe(asked)).await;
    let mut pipe = coordinator.pipe().await;
    assert_eq!(pipe.next().await, Some(Message::Open(id.into())));
    pipe
}

async fn until(engine: &FakeEngine, readers: usize) {
    let wait = async {
        while engine.log_readers() != readers {
            tokio::time::sleep(ms(5)).await;
        }
    };
    let waited = timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "{} logs are read, not {readers}", engine.log_readers());
}

fn data(message: Option<Message>) -> (bool, String) {
    match message {
        Some(Message::Data(d)) => (d.stderr, String::from_utf8_lossy(&d.data).into_owned()),
        other => panic!("no data but {other:?}"),
    }
}

#[tokio::test]
async fn a_log_comes_as_it_was_asked_for() {
    let (coordinator, agent, line) = running_agent().await;
    let log = log_of(&agent);
    agent.engine.write(&log.container_id, false, b"one\ntwo\nthree\n");
    let done = end(Reason::Done, String::new());
    let mut pipe = open(&coordinator, &line, "a", log.clone()).await;
    assert_eq!(pipe.read().await, ("one\ntwo\nthree\n".into(), done.clone()));
    let last = ReadLog {
        tail_lines: Some(1),
        timestamps: true,
        ..log.clone()
    };
    let (text, ended) = open(&coordinator, &line, "b", last).await.read().await;
    assert_eq!(ended, done);
    let (time, line_text) = text.split_once(' ').expect("a time");
    assert_eq!(
        (time.len(), line_text),
        ("2026-01-31T12:00:00.000000000Z".len(), "three\n")
    );
    // Nothing was written since tomorrow.
    let later = ReadLog {
        since_ms: crate::clock::wall_ms() + 86_400_000,
        ..log.clone()
    };
    assert_eq!(
        open(&coordinator, &line, "c", later).await.read().await,
        (String::new(), done)
    );

    // What is not this container's of this pod is not there, whoever's it is.
    for other in [
        ReadLog {
            container_id: "f00".into(),
            ..log.clone()
        },
        ReadLog {
            pod_uid: "u2".into(),
            ..log.clone()
        },
        ReadLog {
            container: "other".into(),
            ..log.clone()
        },
    ] {
        let (text, ended) = open(&coordinator, &line, "d", other).await.read().await;
        assert_eq!((text.as_str(), ended.reason()), ("", Reason::Refused));
        assert!(ended.message.contains("is gone"), "{}", ended.message);
    }
    agent.engine.set_unavailable(Some("stopped"));
    let (_, ended) = open(&coordinator, &line, "e", log).await.read().await;
    assert_eq!(
        (ended.reason(), ended.message.as_str()),
        (Reason::Failed, "Docker does not answer: stopped")
    );
    agent.engine.set_unavailable(None);
    // What a newer coordinator may ask for.
    line.send(down::Message::OpenPipe(OpenPipe {
        id: "f".into(),
        kind: None,
    }))
    .await;
    let mut pipe = coordinator.pipe().await;
    assert_eq!(pipe.next().await, Some(Message::Open("f".into())));
    assert_eq!(pipe.read().await.1.reason(), Reason::Refused);
    until(&agent.engine, 0).await;
    agent.end().await;
}

/// As Docker's connection hands lines over: one, and the next when that was taken.
#[tokio::test]
async fn lines_that_come_one_by_one_go_together_and_none_waits_for_others() {
    let entry = |text: String| LogEntry {
        at: Timestamp::UNIX_EPOCH,
        stderr: false,
        text: text.into_bytes(),
    };
    let (give, mut taken) = mpsc::channel(1);
    let feed = tokio::spawn(async move {
        for n in 0..1000 {
            give.send(Ok(entry(format!("{n}\n")))).await.expect("taken");
        }
        give
    });
    let mut entries = futures::stream::poll_fn(move |cx| taken.poll_recv(cx));
    let mut lines = Lines::new(false);
    let (mut text, mut messages) = (Vec::new(), 0);
    while text.len() < 3890 {
        let first = entries.next().await.expect("a line");
        gather(first, &mut entries, &mut lines).await.expect("no problem");
        for (_, data) in lines.take(flow::CHUNK) {
            messages += 1;
            text.extend(data);
        }
    }
    let all: String = (0..1000).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&text), all);
    assert!(messages < 20, "{messages} messages for 1000 lines");
    // The last of them did not wait for another, and what has come before a problem is not lost with it.
    let give = feed.await.expect("no panic");
    tokio::spawn(async move {
        give.send(Ok(entry("last\n".into()))).await.expect("taken");
        give.send(Err(RuntimeError::Unavailable("gone".into())))
            .await
            .expect("taken");
    });
    let first = entries.next().await.expect("a line");
    gather(first, &mut entries, &mut lines).await.expect_err("a problem");
    assert_eq!(lines.take(flow::CHUNK), [(false, b"last\n".to_vec())]);
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container() {
    let (coordinator, agent, line) = running_agent().await;
    let log = ReadLog {
        follow: true,
        ..log_of(&agent)
    };
    let id = log.container_id.clone();
    let mut pipe = open(&coordinator, &line, "a", log).await;
    for (stderr, text) in [(false, "out\n"), (true, "err\n"), (false, "more\n")] {
        agent.engine.write(&id, stderr, text.as_bytes());
        assert_eq!(data(pipe.next().await), (stderr, text.to_owned()));
    }
    assert!(agent.engine.kill_behind_back(&id));
    assert_eq!(pipe.read().await, (String::new(), end(Reason::Done, String::new())));
    until(&agent.engine, 0).await;
    agent.end().await;
}

#[tokio::test]
async fn a_pipe_ends_with_its_reader_and_with_its_session() {
    let (coordinator, agent, line) = running_agent().await;
    let follow = ReadLog {
        follow: true,
        ..log_of(&agent)
    };
    let gone = open(&coordinator, &line, "a", follow.clone()).await;
    let mut stays = open(&coordinator, &line, "b", follow).await;
    until(&agent.engine, 2).await;
    drop(gone);
    until(&agent.engine, 1).await;
    drop(line);
    assert_eq!(stays.next().await, None, "it goes on after the session");
    until(&agent.engine, 0).await;
    agent.end().await;
}

#[tokio::test]
async fn no_more_than_so_many_and_the_session_goes_on() {
    let (coordinator, agent, line) = running_agent().await;
    drop(line);
    let (dir, engine) = agent.end().await;
    let settings = Settings {
        max_pipes: 1,
        ..quick()
    };
    let agent = TestAgent::again(dir, engine, &[&coordinator], settings);
    let mut line = coordinator.session().await;
    line.welcome().await;
    let follow = ReadLog {
        follow: true,
        ..log_of(&agent)
    };
    // Nobody reads this one, however much there is.
    let first = open(&coordinator, &line, "a", follow.clone()).await;
    for _ in 0..64 {
        agent.engine.write(
            &follow.container_id,
            false,
            &[b"x".repeat(1 << 20), b"\n".to_vec()].concat(),
        );
    }
    let (_, ended) = open(&coordinator, &line, "b", follow.clone()).await.read().await;
    assert_eq!(ended.reason(), Reason::Busy);
    assert!(ended.message.contains("node n1"), "{}", ended.message);
    for _ in 0..20 {
        line.find(|m| matches!(m, up::Message::Heartbeat(_)).then_some(()))
            .await;
    }
    assert!(
        agent.engine.log_taken() < 16 << 20,
        "{} were read ahead",
        agent.engine.log_taken()
    );
    // Its place is free again afterwards.
    drop(first);
    until(&agent.engine, 0).await;
    let mut next = open(
        &coordinator,
        &line,
        "c",
        ReadLog {
            follow: false,
            tail_lines: Some(1),
            ..follow
        },
    )
    .await;
    let mut bytes = 0;
    while let Some(Message::Data(data)) = next.next().await {
        assert!(data.data.len() <= flow::CHUNK);
        bytes += data.data.len();
    }
    assert_eq!(bytes, (1 << 20) + 1);
    agent.end().await;
}
