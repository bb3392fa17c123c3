//! A whole agent that the coordinator keeps in quarantine: everything runs on, and people are told.

use proto::wire::assignments::Kind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{testing::*, *};
use crate::{Config, facts::FixedFacts, join::Join, runtime::State, runtime::fake::FakeEngine, worker::tests::pod};

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
