//! Whole agents against a scripted coordinator. Time is real here (connections do not know the paused clock), so
//! every period is short and every wait is for a condition.

use std::{net::SocketAddr, time::Duration};

use proto::wire::assignments::Kind;
use tokio::net::TcpListener;

use super::{testing::*, *};
use crate::{
    AgentError, Config,
    facts::FixedFacts,
    join::Join,
    runtime::fake::{FakeEngine, Op},
    settings::Settings,
    worker::tests::{fence, pod, stop_of},
};

#[tokio::test]
async fn says_hello_runs_what_it_is_told_and_reports() {
    let coordinator = Coordinator::start().await;
    let agent = TestAgent::start(&[&coordinator]);
    let mut line = coordinator.session().await;
    let hello = line.hello().await;
    assert_eq!((hello.epoch, hello.revision, hello.fence.clone()), (1, 0, None));
    assert_eq!(hello.capabilities, proto::capability::ALL);
    let facts = hello.facts.clone().expect("facts");
    assert_eq!((facts.hostname.as_str(), facts.docker_ready), ("host1", true));
    assert_eq!(facts.docker_version, "fake");
    assert!(hello.clock_ms.abs_diff(crate::clock::wall_ms()) < 60_000);
    let both = vec![coordinator.address.clone(), "c9:7443".to_owned()];
    line.send(down::Message::Welcome(wire::Welcome {
        coordinators: both.clone(),
        ..active(&hello)
    }))
    .await;
    line.send(assign(Kind::Complete, 0, 5, vec![pod("u1", &["app:1"])], vec![]))
        .await;
    let (mut ready, mut started) = (None, None);
    while ready.is_none() || started.is_none() {
        match line.next().await {
            up::Message::Statuses(s) if String::from_utf8_lossy(&s.pods[0].status_json).contains("\"ready\":true") => {
                ready = Some(s);
            }
            up::Message::Events(e) if e.events.iter().any(|e| e.reason == "Started") => started = Some(e),
            _ => {}
        }
    }
    let told = ready.expect("seen");
    assert_eq!((told.pods[0].uid.as_str(), told.pods[0].epoch), ("u1", 1));
    assert_eq!(started.expect("seen").events[0].pod_uid, "u1");
    let beat = |m| matches!(m, up::Message::Heartbeat(wire::Heartbeat { epoch: 1, .. })).then_some(());
    line.find(beat).await;
    line.find(beat).await;
    let ledger = agent.ledger();
    assert_eq!((ledger.revision, ledger.coordinators), (5, both));
    // A stop, and its end.
    line.send(assign(Kind::Incremental, 5, 6, vec![], vec![stop_of("u1", 1)]))
        .await;
    line.find(|m| match m {
        up::Message::Statuses(s) if s.pods.iter().any(|p| p.stopped) => Some(()),
        _ => None,
    })
    .await;
    agent.until("gone", |a| a.engine.containers().is_empty()).await;
    agent.end().await;
}

#[tokio::test]
async fn an_agent_that_stops_says_so_with_its_last_word_and_waits_for_nobody() {
    let (_coordinator, agent, mut line) = running_agent().await;
    let before = agent.running();
    agent.stop.cancel();
    let mut last = None;
    let read = async {
        while let Ok(Some(up)) = line.ups.message().await {
            last = up.message;
        }
    };
    timeout(PATIENCE, read).await.expect("the agent closes its side");
    let Some(up::Message::Leaving(leaving)) = last else {
        panic!("its last word is {last:?}");
    };
    assert_eq!(leaving.reason(), wire::leaving::Reason::Restart);
    // The coordinator does not close its side; the agent ends all the same, and its containers go on.
    let begun = Instant::now();
    let (_dir, engine) = agent.end().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let running = |c: &crate::runtime::ContainerInfo| matches!(c.state, crate::runtime::State::Running { .. });
    let after: Vec<_> = engine.containers().into_iter().filter(running).map(|c| c.id).collect();
    assert_eq!(after, before);
}

#[tokio::test]
async fn the_end_of_the_agent_leaves_containers_and_its_restart_adopts_them() {
    let (coordinator, agent, line) = running_agent().await;
    let before = agent.running();
    let (dir, engine) = agent.end().await;
    drop(line);
    let agent = TestAgent::again(dir, engine, &[&coordinator], quick());
    let mut line = coordinator.session().await;
    let hello = line.welcome().await;
    assert_eq!((hello.epoch, hello.revision), (2, 5));
    assert_eq!(hello.fence, Some(fence()));
    assert_eq!(hello.digest, agent.ledger().digest());
    assert_eq!(hello.observed.len(), 1);
    assert!(hello.observed[0].running);
    line.send(assign(Kind::Unchanged, 5, 5, vec![], vec![])).await;
    let told = line.statuses().await;
    assert_eq!(told.pods[0].epoch, 2);
    assert_eq!(agent.running(), before);
    assert_eq!(agent.engine.calls(Op::Create), 1);
    agent.end().await;
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_on_the_next_session() {
    let (coordinator, agent, mut line) = running_agent().await;
    // Acknowledge until nothing more comes but heartbeats.
    let mut last = line.statuses().await;
    line.send(down::Message::Ack(wire::Ack {
        seq: last.seq,
        heard: 0,
    }))
    .await;
    loop {
        match line.next().await {
            up::Message::Statuses(s) => {
                let ready = String::from_utf8_lossy(&s.pods[0].status_json).contains("\"ready\":true");
                last = s;
                if ready {
                    break;
                }
                line.send(down::Message::Ack(wire::Ack {
                    seq: last.seq,
                    heard: 0,
                }))
                .await;
            }
            _ => continue,
        }
    }
    // The last one is not acknowledged; the session breaks.
    line.send(down::Message::Goodbye(wire::Goodbye {
        reason: goodbye::Reason::Resync.into(),
        message: "test".into(),
    }))
    .await;
    line.ended().await;
    let mut line = coordinator.session().await;
    line.welcome().await;
    let again = line.statuses().await;
    assert_eq!(again.pods, last.pods, "with their old stamps");
    assert!(again.seq > last.seq);
    line.send(down::Message::Ack(wire::Ack {
        seq: again.seq,
        heard: 0,
    }))
    .await;
    // Now it is durable: the next session says nothing of it …
    line.send(down::Message::Goodbye(wire::Goodbye::default())).await;
    line.ended().await;
    let mut line = coordinator.session().await;
    line.welcome().await;
    for _ in 0..3 {
        assert!(matches!(
            line.next().await,
            up::Message::Heartbeat(_) | up::Message::Events(_)
        ));
    }
    // … unless the coordinator's picture was made anew.
    line.send(assign(Kind::Complete, 0, 9, vec![pod("u1", &["app:1"])], vec![]))
        .await;
    assert_eq!(line.statuses().await.pods, last.pods);
    agent.end().await;
}

#[tokio::test]
async fn a_pod_does_not_wait_for_statuses_that_are_being_gathered() {
    let coordinator = Coordinator::start().await;
    let settings = Settings {
        gather_ms: 10 * 60_000,
        ..quick()
    };
    let dir = tempfile::tempdir().expect("a directory");
    let agent = TestAgent::again(dir, FakeEngine::new(), &[&coordinator], settings);
    let mut line = coordinator.session().await;
    line.welcome().await;
    for n in 1..=3 {
        let kind = if n == 1 { Kind::Complete } else { Kind::Incremental };
        let run = vec![pod(&format!("u{n}"), &["app:1"])];
        line.send(assign(kind, n - 1, n, run, vec![])).await;
        // Its status is due from before it runs.
        let n = usize::try_from(n).expect("small");
        agent.until("one more runs", |a| a.running().len() == n).await;
    }
    agent.end().await;
}

#[tokio::test]
async fn a_lost_coordinator_stops_nothing_and_crashes_are_still_handled() {
    let (coordinator, agent, line) = running_agent().await;
    let port: SocketAddr = coordinator.address.parse().expect("an address");
    drop(line);
    coordinator.kill().await;
    let first = agent.running();
    assert!(agent.engine.kill_behind_back(&first[0]));
    agent
        .until("restarted from the ledger", |a| {
            a.running().len() == 1 && a.running() != first
        })
        .await;
    let listener = TcpListener::bind(port).await.expect("the same port");
    let coordinator = Coordinator::on(listener);
    let mut line = coordinator.session().await;
    line.welcome().await;
    line.find(|m| match m {
        up::Message::Statuses(s) => String::from_utf8_lossy(&s.pods[0].status_json)
            .contains("\"restartCount\":1")
            .then_some(()),
        _ => None,
    })
    .await;
    agent.end().await;
}

#[tokio::test]
async fn a_coordinator_of_another_history_is_refused_and_nothing_stops() {
    let (coordinator, agent, mut line) = running_agent().await;
    line.send(down::Message::Goodbye(wire::Goodbye::default())).await;
    line.ended().await;
    let before = agent.ledger();
    let other = |incarnation: &str, term, nonce: &str| wire::Fence {
        incarnation: incarnation.into(),
        term,
        nonce: nonce.into(),
    };
    type Twist = fn(wire::Welcome) -> wire::Welcome;
    let twists: [Twist; 3] = [
        |w| wire::Welcome {
            your_term_known: false,
            ..w
        },
        |w| wire::Welcome {
            your_term_ended_at: 5,
            ..w
        },
        |w| wire::Welcome { node: "n2".into(), ..w },
    ];
    for twist in twists {
        let mut line = coordinator.session().await;
        let hello = line.hello().await;
        line.send(down::Message::Welcome(twist(active(&hello)))).await;
        line.ended().await;
    }
    for fence in [other("j", 9, "n"), other("i", 0, "n"), other("i", 1, "m")] {
        let mut line = coordinator.session().await;
        let hello = line.hello().await;
        line.send(down::Message::Welcome(wire::Welcome {
            fence: Some(fence),
            ..active(&hello)
        }))
        .await;
        // An emptied store would go on to say that nothing should run.
        let _ = line
            .downs
            .send(Ok(wire::Down {
                message: Some(assign(Kind::Complete, 0, 99, vec![], vec![stop_of("u1", 0)])),
            }))
            .await;
        line.ended().await;
    }
    let after = agent.ledger();
    assert_eq!((after.fence, after.revision), (before.fence, before.revision));
    assert_eq!((agent.running().len(), agent.engine.calls(Op::Stop)), (1, 0));
    agent.end().await;
}

#[tokio::test]
async fn a_gap_or_a_broken_rule_ends_the_session_and_the_next_one_resumes() {
    let (coordinator, agent, mut line) = running_agent().await;
    line.send(assign(Kind::Incremental, 6, 7, vec![], vec![stop_of("u1", 0)]))
        .await;
    line.ended().await;
    let mut line = coordinator.session().await;
    assert_eq!(line.welcome().await.revision, 5);
    let changed = wire::Run {
        spec_hash: "other".into(),
        ..pod("u1", &["app:2"])
    };
    line.send(assign(Kind::Incremental, 5, 6, vec![changed], vec![])).await;
    line.ended().await;
    let mut line = coordinator.session().await;
    assert_eq!(line.welcome().await.revision, 5);
    line.send(assign(Kind::Incremental, 5, 6, vec![pod("u2", &["app:1"])], vec![]))
        .await;
    agent.until("both run", |a| a.running().len() == 2).await;
    assert_eq!(agent.engine.calls(Op::Stop), 0);
    agent.end().await;
}

#[tokio::test]
async fn silence_beyond_the_promise_ends_the_session() {
    let coordinator = Coordinator::start().await;
    let agent = TestAgent::start(&[&coordinator]);
    let promise = |hello: &wire::Hello| {
        down::Message::Welcome(wire::Welcome {
            max_silence_ms: 1000,
            ..active(hello)
        })
    };
    let mut line = coordinator.session().await;
    let hello = line.hello().await;
    line.send(promise(&hello)).await;
    line.ended().await;
    // Any message at all keeps the promise.
    let mut line = coordinator.session().await;
    let hello = line.hello().await;
    line.send(promise(&hello)).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        line.send(down::Message::Ack(wire::Ack { seq: 0, heard: 0 })).await;
    }
    assert!(matches!(line.next().await, up::Message::Heartbeat(_)));
    agent.end().await;
}

#[tokio::test]
async fn no_welcome_ends_the_session() {
    let coordinator = Coordinator::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings {
        welcome_timeout_ms: 50,
        ..quick()
    };
    let agent = TestAgent::again(dir, FakeEngine::new(), &[&coordinator], settings);
    let mut first = coordinator.session().await;
    first.hello().await;
    let mut second = coordinator.session().await;
    second.hello().await;
    first.ended().await;
    agent.end().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_a_new_session_and_touches_nothing() {
    let (coordinator, agent, mut line) = running_agent().await;
    let before = agent.running();
    agent.renew.send(Arc::new(Plain)).expect("the agent listens");
    line.ended().await;
    let mut line = coordinator.session().await;
    line.welcome().await;
    assert_eq!(agent.running(), before);
    assert_eq!(agent.engine.calls(Op::Stop), 0);
    agent.end().await;
}

#[tokio::test]
async fn docker_away_is_told_and_back_by_itself() {
    let (_coordinator, agent, mut line) = running_agent().await;
    agent.engine.set_unavailable(Some("connection refused"));
    let facts = |ready: bool| {
        move |m| match m {
            up::Message::Facts(f) if f.docker_ready == ready => Some(f),
            _ => None,
        }
    };
    let away = line.find(facts(false)).await;
    assert_eq!(away.docker_reason, "Docker does not answer: connection refused");
    agent.engine.set_unavailable(None);
    let back = line.find(facts(true)).await;
    assert_eq!(back.docker_reason, "");
    agent.end().await;
}

#[tokio::test]
async fn a_refused_agent_tries_on() {
    let coordinator = Coordinator::start().await;
    let agent = TestAgent::start(&[&coordinator]);
    for reason in [
        goodbye::Reason::Revoked,
        goodbye::Reason::Superseded,
        goodbye::Reason::Protocol,
    ] {
        let mut line = coordinator.session().await;
        line.hello().await;
        line.send(down::Message::Goodbye(wire::Goodbye {
            reason: reason.into(),
            message: "no".into(),
        }))
        .await;
        line.ended().await;
    }
    let mut line = coordinator.session().await;
    line.hello().await;
    line.downs
        .send(Err(Status::permission_denied("the node was deleted")))
        .await
        .expect("listens");
    line.ended().await;
    let mut line = coordinator.session().await;
    line.welcome().await;
    let file = agent.dir.path().to_owned();
    let shown = || crate::status::text(&file).unwrap_or_default();
    agent
        .until("the status file tells of the session", |_| shown().contains("(active)"))
        .await;
    assert!(shown().contains("Node:          n1"));
    agent.end().await;
}

#[tokio::test]
async fn only_one_agent_a_data_directory_and_no_start_on_a_damaged_ledger() {
    let coordinator = Coordinator::start().await;
    let agent = TestAgent::start(&[&coordinator]);
    agent
        .until("it started", |a| a.dir.path().join("ledger.json").exists())
        .await;
    let second = |dir: &std::path::Path| {
        let (join, _renew) = Join::with("n1", vec![], Arc::new(Plain));
        let facts = Arc::new(FixedFacts::new("host1", "10.0.0.1", 4, 8 << 30));
        crate::run(
            Config::new(dir, join),
            FakeEngine::new(),
            facts,
            CancellationToken::new(),
        )
    };
    let error = second(agent.dir.path()).await.expect_err("held");
    assert!(matches!(error, AgentError::Lock(_)), "{error}");
    let (dir, _engine) = agent.end().await;
    std::fs::write(dir.path().join("ledger.json"), b"{").expect("written");
    let error = second(dir.path()).await.expect_err("damaged");
    assert!(matches!(error, AgentError::Ledger(_)), "{error}");
    assert_eq!(std::fs::read(dir.path().join("ledger.json")).expect("there"), b"{");
}

#[tokio::test]
async fn http_tells_health_and_numbers() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let coordinator = Coordinator::start().await;
    let probe = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = probe.local_addr().expect("bound");
    drop(probe);
    let dir = tempfile::tempdir().expect("a directory");
    let (join, _renew) = Join::with("n1", vec![coordinator.address.clone()], Arc::new(Plain));
    let config = Config {
        settings: quick(),
        metrics_listen: Some(address),
        ..Config::new(dir.path(), join)
    };
    let stop = CancellationToken::new();
    let facts = Arc::new(FixedFacts::new("host1", "10.0.0.1", 4, 8 << 30));
    let task = tokio::spawn(crate::run(config, FakeEngine::new(), facts, stop.clone()));
    let mut line = coordinator.session().await;
    line.welcome().await;
    let get = |path: &'static str| async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("read");
        text
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    assert!(
        metrics.contains("wharf_agent_engine_up 1") && metrics.contains("wharf_agent_sessions_total 1"),
        "{metrics}"
    );
    stop.cancel();
    timeout(PATIENCE, task)
        .await
        .expect("ends")
        .expect("no panic")
        .expect("ends well");
}

#[tokio::test]
async fn what_counts_is_what_the_coordinator_heard() {
    let coordinator = Coordinator::start().await;
    let agent = TestAgent::start(&[&coordinator]);
    let mut line = coordinator.session().await;
    let hello = line.hello().await;
    let welcome = wire::Welcome {
        heartbeat_ms: 10,
        ..active(&hello)
    };
    line.send(down::Message::Welcome(welcome)).await;
    let mut bound = pod("u1", &["app:1"]);
    let key = proto::model::loss::STOP_AFTER_DISCONNECT.to_owned();
    bound.annotations.insert(key, "1h".into());
    line.send(assign(Kind::Complete, 0, 5, vec![bound], vec![])).await;
    let kept =
        |a: &TestAgent| -> Option<u64> { std::fs::read_to_string(a.dir.path().join("contact")).ok()?.parse().ok() };
    agent.until("kept", |a| kept(a).is_some()).await;
    let by_hello = kept(&agent);
    // That a coordinator speaks says nothing of what it hears.
    for _ in 0..5 {
        line.send(down::Message::Ack(wire::Ack { seq: 0, heard: 0 })).await;
        line.find(|m| matches!(m, up::Message::Heartbeat(_)).then_some(()))
            .await;
    }
    assert_eq!(kept(&agent), by_hello);
    let beat = |m: up::Message| match m {
        up::Message::Heartbeat(beat) => Some(beat.seq),
        _ => None,
    };
    let seq = line.find(beat).await;
    let (sent_by, ack) = (crate::clock::wall_ms(), wire::Ack { seq: 0, heard: seq });
    tokio::time::sleep(Duration::from_millis(300)).await;
    line.send(down::Message::Ack(ack)).await;
    agent.until("kept anew", |a| kept(a) > by_hello).await;
    assert!(kept(&agent) <= Some(sent_by + 100), "the way there counts too");
    agent.end().await;
}
