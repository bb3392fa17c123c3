//! A whole agent that the coordinator keeps in quarantine: everything runs on, and people are told.

use proto::wire::assignments::Kind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{testing::*, *};
use crate::{
    Config,
    facts::FixedFacts,
    join::Join,
    runtime::State,
    runtime::fake::FakeEngine,
    worker::tests::{fence, pod},
};

fn quarantine(hello: &wire::Hello, kind: wire::Quarantine, words: &str) -> down::Message {
    down::Message::Welcome(wire::Welcome {
        quarantine: kind.into(),
        quarantine_message: words.into(),
        ..active(hello)
    })
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("read");
    text
}

#[tokio::test]
async fn in_quarantine_all_runs_on_nothing_is_renewed_and_it_is_said() {
    let probe = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = probe.local_addr().expect("bound");
    drop(probe);
    let coordinator = Coordinator::start().await;
    let (dir, engine) = (tempfile::tempdir().expect("a directory"), FakeEngine::new());
    let (join, _renew) = Join::with("n1", vec![coordinator.address.clone()], Arc::new(Plain));
    let renewals = join.channel.subscribe();
    let config = Config {
        settings: quick(),
        metrics_listen: Some(address),
        ..Config::new(dir.path(), join)
    };
    let stop = CancellationToken::new();
    let facts = Arc::new(FixedFacts::new("host1", "10.0.0.1", 4, 8 << 30));
    let task = tokio::spawn(crate::run(config, engine.clone(), facts, stop.clone()));

    let mut line = coordinator.session().await;
    let first = line.welcome().await;
    assert!(!first.instance.is_empty());
    line.send(assign(Kind::Complete, 0, 5, vec![pod("u1", &["app:1"])], vec![]))
        .await;
    let running = || {
        let all = engine.containers();
        all.into_iter()
            .filter(|c| matches!(c.state, State::Running { .. }))
            .map(|c| c.id)
            .collect::<Vec<_>>()
    };
    let until_running = async {
        while running().len() != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, until_running).await.expect("a container runs");
    let before = running();
    assert!(renewals.borrow().is_some());

    // The next session is one of quarantine.
    line.send(down::Message::Goodbye(wire::Goodbye::default())).await;
    line.ended().await;
    let mut line = coordinator.session().await;
    let hello = line.hello().await;
    assert_eq!(hello.instance, first.instance, "the same start");
    line.send(quarantine(
        &hello,
        wire::Quarantine::Cloned,
        "two agents; stop the copy",
    ))
    .await;
    line.find(|m| matches!(m, up::Message::Heartbeat(_)).then_some(()))
        .await;
    assert!(renewals.borrow().is_none(), "no certificate is asked for");
    let health = get(address, "/healthz").await;
    assert!(
        health.starts_with("HTTP/1.1 200") && health.ends_with("in quarantine: two agents; stop the copy\n"),
        "{health}"
    );
    assert!(get(address, "/metrics").await.contains("wharf_agent_quarantined 1"));
    let shown = async {
        while !crate::status::text(dir.path()).is_ok_and(|t| t.contains("Quarantine:    two agents; stop the copy")) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, shown).await.expect("wharf-agent status says it");
    assert_eq!(running(), before);

    // And out of it again.
    line.send(down::Message::Goodbye(wire::Goodbye::default())).await;
    line.ended().await;
    let mut line = coordinator.session().await;
    line.welcome().await;
    line.find(|m| matches!(m, up::Message::Heartbeat(_)).then_some(()))
        .await;
    assert!(renewals.borrow().is_some());
    assert!(get(address, "/healthz").await.ends_with("ok\n"));
    assert!(get(address, "/metrics").await.contains("wharf_agent_quarantined 0"));
    assert_eq!(running(), before);
    stop.cancel();
    timeout(PATIENCE, task)
        .await
        .expect("ends")
        .expect("no panic")
        .expect("ends well");
    assert_eq!(engine.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn of_a_restored_state_nothing_is_taken_before_an_operator_has_accepted_it() {
    let coordinator = Coordinator::start().await;
    let agent = TestAgent::start(&[&coordinator]);
    let mut line = coordinator.session().await;
    line.welcome().await;
    let both = vec![pod("u1", &["app:1"]), pod("u2", &["app:1"])];
    line.send(assign(Kind::Complete, 0, 5, both, vec![])).await;
    let running = || {
        let all = agent.engine.containers();
        let up = all.into_iter().filter(|c| matches!(c.state, State::Running { .. }));
        up.map(|c| c.id).collect::<Vec<_>>()
    };
    let until = async {
        while running().len() != 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, until).await.expect("both run");
    let before = running();
    line.send(down::Message::Goodbye(wire::Goodbye::default())).await;
    line.ended().await;

    // The same cluster as another incarnation.
    let restored = wire::Fence {
        incarnation: "restored".into(),
        ..fence()
    };
    let theirs = |hello: &wire::Hello| wire::Welcome {
        fence: Some(restored.clone()),
        your_term_known: false,
        ..active(hello)
    };
    let mut line = coordinator.session().await;
    let hello = line.hello().await;
    let ours = hello.fence.clone().expect("a fence");
    line.send(down::Message::Welcome(wire::Welcome {
        quarantine: wire::Quarantine::Restored.into(),
        quarantine_message: "restored from a backup".into(),
        ..theirs(&hello)
    }))
    .await;
    // It stays, longer than it would with a standby, and says nothing but that it is there.
    for _ in 0..30 {
        match line.next().await {
            up::Message::Heartbeat(_) => {}
            other => panic!("said {other:?}"),
        }
    }
    assert_eq!(running(), before);
    line.send(down::Message::Goodbye(wire::Goodbye::default())).await;
    line.ended().await;

    // Without an operator's word it is another history.
    let mut line = coordinator.session().await;
    let hello = line.hello().await;
    assert_eq!(hello.fence.as_ref(), Some(&ours), "nothing was taken");
    line.send(down::Message::Welcome(theirs(&hello))).await;
    line.ended().await;
    assert_eq!(running(), before);

    // With it, what the restored state does not know runs on and is told.
    let mut line = coordinator.session().await;
    let hello = line.hello().await;
    line.send(down::Message::Welcome(wire::Welcome {
        replaces: vec![ours.incarnation.clone()],
        ..theirs(&hello)
    }))
    .await;
    let known = |kind: Kind, applies_to, results_in, run| {
        down::Message::Assignments(wire::Assignments {
            kind: kind.into(),
            fence: Some(restored.clone()),
            applies_to,
            results_in,
            run,
            ..wire::Assignments::default()
        })
    };
    line.send(known(Kind::Complete, 0, 1 << 50, vec![pod("u1", &["app:1"])]))
        .await;
    let told = line
        .find(|m| match m {
            up::Message::Unexpected(u) => Some(u.pods),
            _ => None,
        })
        .await;
    assert_eq!(told.iter().map(|r| r.uid.as_str()).collect::<Vec<_>>(), ["u2"]);
    assert_eq!(told[0].spec_json, pod("u2", &["app:1"]).spec_json);
    let all = line.statuses().await;
    line.send(down::Message::Ack(wire::Ack { seq: all.seq, heard: 0 }))
        .await;
    // Taken in, its status is told again: the coordinator had kept nothing of it.
    line.send(known(Kind::Incremental, 1 << 50, (1 << 50) + 1, told)).await;
    let again = line
        .find(|m| match m {
            up::Message::Statuses(s) if s.seq > all.seq => Some(s),
            _ => None,
        })
        .await;
    assert!(again.pods.iter().any(|p| p.uid == "u2"), "{again:?}");
    assert_eq!(running(), before, "no container noticed anything");
    agent.stop.cancel();
    timeout(PATIENCE, agent.task)
        .await
        .expect("ends")
        .expect("no panic")
        .expect("ends well");
    assert_eq!(agent.engine.violations(), Vec::<String>::new());
}
