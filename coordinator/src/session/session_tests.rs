//! Sessions over a real gRPC connection, with a scripted agent.

use std::{sync::atomic::Ordering, time::Duration};

use proto::{
    model::{ConditionStatus, Kind, Phase},
    wire::{Hello, NodeFacts, RenewRequest, assignments, down, goodbye::Reason, up, welcome},
};
use tonic::Code;

use super::{
    Settings, assignments as plan,
    testing::{Agent, Base, Gate, Rig, client, facts, hello, inventory, now_ms, observed, report, request},
};
use crate::store::{Rv, keys};

fn key(name: &str) -> (String, String) {
    ("default".into(), name.into())
}

#[tokio::test]
async fn an_agent_is_welcomed_and_follows_every_change() {
    let rig = Rig::with(Settings {
        coordinators: vec!["c1:7443".into()],
        ..Settings::default()
    })
    .await;
    rig.base.node("n1").await;
    rig.base.pod("a", "n1").await;
    rig.base.pod("elsewhere", "n2").await;
    let mut agent = rig.connect("n1", hello()).await;

    let welcome = agent.welcome().await;
    assert_eq!(welcome.role(), welcome::Role::Active);
    assert_eq!((welcome.node.as_str(), welcome.leader.as_str()), ("n1", "c1:7443"));
    assert_eq!((welcome.heartbeat_ms, welcome.max_silence_ms), (2000, 15_000));
    assert_eq!(welcome.fence.unwrap().term, rig.base.hub.fence().unwrap().term);
    let first = agent.assignments().await;
    assert_eq!(first.kind(), assignments::Kind::Complete);
    assert_eq!(first.run.len(), 1);
    let run = &first.run[0];
    assert_eq!((run.uid.as_str(), run.name.as_str()), ("uid-a", "a"));
    assert_eq!(run.labels.get("app").map(String::as_str), Some("web"));
    assert!(String::from_utf8_lossy(&run.spec_json).contains("\"nodeName\":\"n1\""));
    assert_eq!(run.spec_hash, proto::ids::content_hash(&run.spec_json));

    rig.base.until_ready("n1", "AgentReady").await;
    rig.base.hub.read(|w| {
        let node = &w.nodes["n1"];
        assert!(node.is_ready());
        assert_eq!(node.facts.as_ref().unwrap().value.hostname, "host7");
    });

    rig.base.pod("b", "n1").await;
    let added = agent.assignments().await;
    assert_eq!(added.kind(), assignments::Kind::Incremental);
    assert_eq!((added.run.len(), added.stop.len(), added.forget.len()), (1, 0, 0));
    rig.base.stop("a", 7).await;
    let stopped = agent.assignments().await;
    assert_eq!((stopped.run.len(), stopped.stop[0].grace_seconds), (0, 7));
    assert_eq!(stopped.stop[0].reason, "scaled down");
    rig.base.stop("a", 1).await;
    assert_eq!(agent.assignments().await.stop[0].grace_seconds, 1);
    rig.base.remove("a").await;
    assert_eq!(agent.assignments().await.forget, ["uid-a"]);

    let (wanted, _) = rig.base.hub.read(|w| plan::desired(w, "n1", &plan::Desired::new()));
    assert_eq!(agent.ledger.digest(), plan::digest(&wanted));
    let (mut agent, ledger) = {
        let ledger = agent.ledger.clone();
        (rig.connect("n1", ledger.hello()).await, ledger)
    };
    let welcome = agent.welcome().await;
    assert!(welcome.your_term_known && welcome.your_term_ended_at == 0);
    agent.ledger = ledger;
    assert_eq!(agent.assignments().await.kind(), assignments::Kind::Unchanged);
    rig.base.pod("c", "n1").await;
    assert_eq!(agent.assignments().await.run[0].name, "c");
}

#[tokio::test]
async fn a_pod_waits_for_its_template() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let (hash, template) = super::testing::template();
    let pod = crate::world::record::encode(&super::testing::pod_record("a", "n1"));
    rig.base.put(keys::object(Kind::Pod, "default", "a"), pod).await;
    let mut agent = rig.join("n1", hello()).await;
    assert!(agent.ledger.pods.is_empty());
    rig.base.put(keys::template(&hash), template).await;
    assert_eq!(agent.assignments().await.run.len(), 1);
}

#[tokio::test]
async fn statuses_are_acknowledged_once_durable_and_coalesced_meanwhile() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.pod("a", "n1").await;
    let mut agent = rig.join("n1", hello()).await;
    rig.base.store.gate.send_replace(Gate::Closed);
    agent.report(1, vec![report("a", 1, Phase::Pending, false)]).await;
    let mut arrived = rig.base.store.arrived.subscribe();
    arrived.wait_for(|n| *n == 1).await.unwrap();
    for seq in 2..=4 {
        let phase = if seq == 4 { Phase::Running } else { Phase::Pending };
        agent.report(seq, vec![report("a", seq, phase, false)]).await;
    }
    // What comes after the reports is answered; they are not.
    agent.say(up::Message::Events(proto::wire::Events::default())).await;
    rig.base.pod("b", "n1").await;
    assert!(matches!(agent.next().await, Ok(Some(down::Message::Assignments(_)))));
    rig.base.store.gate.send_replace(Gate::Open);
    agent.ack(4).await;
    let (phase, seq) = rig.base.hub.read(|w| {
        let status = w.pods[&key("a")].status.clone().unwrap();
        (status.value.status.phase, status.value.seq)
    });
    assert_eq!((phase, seq), (Phase::Running, 4));
    assert_eq!(rig.base.store.commits.load(Ordering::SeqCst), 2);

    // The same again is acknowledged and not written; a regression, too.
    agent.report(5, vec![report("a", 5, Phase::Running, false)]).await;
    agent.report(6, vec![report("a", 6, Phase::Pending, false)]).await;
    agent.ack(6).await;
    assert_eq!(rig.base.store.commits.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn only_the_pods_own_node_is_believed_and_no_end_without_a_stop() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.pod("mine", "n1").await;
    rig.base.pod("other", "n2").await;
    let mut agent = rig.join("n1", hello()).await;
    let both = |seq| {
        vec![
            report("mine", seq, Phase::Running, true),
            report("other", seq, Phase::Failed, true),
        ]
    };
    agent.report(1, both(1)).await;
    agent.ack(1).await;
    rig.base.hub.read(|w| {
        assert!(w.pods[&key("other")].status.is_none());
        let mine = w.pods[&key("mine")].status.clone().unwrap();
        assert!(!mine.value.stopped);
    });
    assert_eq!(rig.metrics.statuses_ignored.get(), 1);
    rig.base.stop("mine", 5).await;
    agent.report(2, both(2)).await;
    agent.ack(2).await;
    assert!(
        rig.base
            .hub
            .read(|w| w.pods[&key("mine")].status.clone().unwrap().value.stopped)
    );
}

#[tokio::test]
async fn what_the_protocol_forbids_ends_the_session() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let bad_json = {
        let mut bad = report("a", 1, Phase::Running, false);
        bad.status_json = b"{\"phase\":\"Dancing\"}".to_vec();
        up::Message::Statuses(proto::wire::Statuses {
            seq: 1,
            pods: vec![bad],
        })
    };
    let future_epoch = {
        let mut bad = report("a", 1, Phase::Running, false);
        bad.epoch = 2;
        up::Message::Statuses(proto::wire::Statuses {
            seq: 1,
            pods: vec![bad],
        })
    };
    for (message, word) in [
        (bad_json, "default/a"),
        (future_epoch, "epoch 2"),
        (up::Message::Hello(hello()), "second Hello"),
        (up::Message::Facts(NodeFacts::default()), "capacity"),
    ] {
        let mut agent = rig.join("n1", hello()).await;
        agent.say(message).await;
        let goodbye = agent.goodbye().await;
        assert_eq!(goodbye.reason(), Reason::Protocol);
        assert!(goodbye.message.contains(word), "{}", goodbye.message);
        assert_eq!(agent.next().await.unwrap(), None);
    }
    let heartbeat = up::Message::Heartbeat(proto::wire::Heartbeat::default());
    let mut agent = Agent::begin(rig.address, "n1", heartbeat).await;
    assert_eq!(agent.goodbye().await.reason(), Reason::Protocol);
}

#[tokio::test]
async fn a_certificate_that_ends_ends_the_open_session_at_the_next_heartbeat() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let mut agent = rig.join("n1", hello()).await;
    agent.heartbeat().await;
    rig.base.until_ready("n1", "AgentReady").await;
    rig.expired.store(true, Ordering::Relaxed);
    agent.heartbeat().await;
    let status = agent.refused().await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, "the certificate has expired")
    );
}

#[tokio::test]
async fn hellos_that_do_not_fit_are_refused() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let old = proto::wire::Hello {
        version: "99.0.0".into(),
        ..hello()
    };
    const HOUR: u64 = 3_600_000;
    let at = |clock_ms| proto::wire::Hello { clock_ms, ..hello() };
    let (late, early) = (now_ms() - HOUR, now_ms() + HOUR);
    // To the minute: the other clock goes on meanwhile.
    let minute = |ms| proto::model::Time::from_millis(ms).to_string()[..16].to_owned();
    let (late_words, early_words, ours) = (minute(late), minute(early), minute(now_ms())[..13].to_owned());
    for (node, hello, code, words) in [
        ("n1", old, Code::FailedPrecondition, vec!["99.0.0", proto::VERSION]),
        (
            "n1",
            at(late),
            Code::FailedPrecondition,
            vec!["clock", "NTP", &late_words, &ours],
        ),
        (
            "n1",
            at(early),
            Code::FailedPrecondition,
            vec!["clock", "NTP", &early_words, &ours],
        ),
        ("gone", hello(), Code::PermissionDenied, vec!["node gone was deleted"]),
    ] {
        let status = rig.connect(node, hello).await.refused().await;
        assert_eq!(status.code(), code);
        for word in words {
            assert!(status.message().contains(word), "{}", status.message());
        }
    }
    let facts = proto::wire::Hello { facts: None, ..hello() };
    assert_eq!(
        rig.connect("n1", facts).await.goodbye().await.reason(),
        Reason::Protocol
    );
    // Nobody without a certificate gets as far as Hello.
    let (_up, rx) = tokio::sync::mpsc::channel::<proto::wire::Up>(1);
    let bare = client(rig.address)
        .await
        .session(tokio_stream::wrappers::ReceiverStream::new(rx))
        .await;
    assert_eq!(bare.unwrap_err().code(), Code::Unauthenticated);
    assert!(rig.sessions.registry().is_empty());
}

#[tokio::test]
async fn a_stream_that_never_says_hello_ends() {
    let rig = Rig::with(Settings {
        hello_timeout: Duration::from_millis(30),
        ..Settings::default()
    })
    .await;
    let (_up, rx) = tokio::sync::mpsc::channel::<proto::wire::Up>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(rx);
    let mut down = client(rig.address)
        .await
        .session(request("n1", stream))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(down.message().await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_newer_session_wins_and_the_cap_holds() {
    let rig = Rig::with(Settings {
        max_sessions: 1,
        ..Settings::default()
    })
    .await;
    rig.base.node("n1").await;
    rig.base.node("n2").await;
    let mut first = rig.join("n1", hello()).await;
    let mut second = rig.join("n1", hello()).await;
    assert_eq!(first.goodbye().await.reason(), Reason::Superseded);
    rig.base.pod("a", "n1").await;
    assert_eq!(second.assignments().await.run.len(), 1);
    let status = rig.connect("n2", hello()).await.refused().await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("max-sessions"));
    rig.base.until_ready("n1", "AgentReady").await;
}

#[tokio::test]
async fn the_last_write_of_a_session_comes_before_the_next_one() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.pod("a", "n1").await;
    let first = rig.join("n1", hello()).await;
    rig.base.store.gate.send_replace(Gate::Closed);
    first.report(1, vec![report("a", 1, Phase::Pending, false)]).await;
    rig.base.store.arrived.subscribe().wait_for(|n| *n == 1).await.unwrap();
    let mut second = rig.connect("n1", hello()).await;
    let early = tokio::time::timeout(Duration::from_millis(100), second.welcome()).await;
    assert!(early.is_err(), "welcomed while the old session still writes");
    rig.base.store.gate.send_replace(Gate::Open);
    second.welcome().await;
    assert!(rig.base.hub.read(|w| w.pods[&key("a")].status.is_some()));
}

#[tokio::test]
async fn another_history_is_welcomed_and_then_refused() {
    let mut rig = Rig::new().await;
    rig.base.node("n1").await;
    let mut agent = rig.join("n1", hello()).await;
    rig.base.pod("a", "n1").await;
    agent.assignments().await;
    let good = agent.ledger.hello();
    let mut other_nonce = good.clone();
    other_nonce.fence.as_mut().unwrap().nonce = "another".into();
    let ahead = proto::wire::Hello {
        revision: Rv(rig.base.hub.rv().0 + (1 << 16)).0,
        ..good.clone()
    };
    for (hello, known) in [(other_nonce, false), (ahead, true)] {
        let mut agent = rig
            .connect(
                "n1",
                proto::wire::Hello {
                    observed: vec![observed("unknown", true)],
                    ..hello
                },
            )
            .await;
        assert_eq!(agent.welcome().await.your_term_known, known);
        let next = agent.next().await.unwrap_err();
        assert_eq!(next.code(), Code::FailedPrecondition);
        assert!(next.message().contains("another history"), "{}", next.message());
        let mut reasons = std::iter::from_fn(|| rig.notes.try_recv().ok()).map(|n| n.reason);
        assert!(reasons.any(|r| r == "HistoryRefused"));
    }
    let mut back = rig.connect("n1", good).await;
    assert!(back.welcome().await.your_term_known);
}

#[tokio::test]
async fn a_term_that_ended_is_known_with_its_end() {
    let base = Base::new().await;
    let rig = Rig::on(base, Settings::default()).await;
    rig.base.node("n1").await;
    let agent = rig.join("n1", hello()).await;
    let hello = agent.ledger.hello();
    let store = rig.base.store.clone();
    drop((agent, rig));
    // The coordinator is started again on the same store.
    let rig = Rig::on(Base::on(store).await, Settings::default()).await;
    let term = rig.base.hub.fence().unwrap().term;
    let mut agent = rig.connect("n1", hello.clone()).await;
    let welcome = agent.welcome().await;
    assert!(welcome.your_term_known);
    assert_eq!(welcome.your_term_ended_at, Rv::new(term, 0).0);
    assert_eq!(agent.assignments().await.kind(), assignments::Kind::Unchanged);
    // Under the old term nothing of the new one can have been accepted.
    let forged = proto::wire::Hello {
        revision: rig.base.hub.rv().0,
        ..hello
    };
    let mut agent = rig.connect("n1", forged).await;
    assert_eq!(agent.refused().await.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn pods_that_nobody_knows_are_stopped_only_in_a_proven_history() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.pod("moved", "n2").await;
    let seen = vec![observed("runs", true), observed("dead", false), observed("moved", true)];
    let fresh = proto::wire::Hello {
        observed: seen.clone(),
        ..hello()
    };
    // A fresh agent proves nothing; only the pod that the store knows to be elsewhere is stopped.
    let mut agent = rig.join("n1", fresh).await;
    let change = agent.assignments().await;
    let uids = |a: &proto::wire::Assignments| a.stop.iter().map(|s| s.uid.clone()).collect::<Vec<_>>();
    assert_eq!((uids(&change), change.forget.len()), (vec!["uid-moved".to_owned()], 0));
    let ledger = agent.ledger.clone();

    let proven = proto::wire::Hello {
        observed: seen,
        ..ledger.hello()
    };
    let mut agent = rig.join("n1", proven).await;
    let change = agent.assignments().await;
    assert_eq!(uids(&change), ["uid-moved", "uid-runs"]);
    assert_eq!(change.forget, ["uid-dead"]);
    // Once their end is seen, they may be forgotten.
    agent.report(1, vec![report("runs", 1, Phase::Failed, true)]).await;
    assert_eq!(agent.assignments().await.forget, ["uid-runs"]);
    agent.report(2, vec![report("moved", 2, Phase::Failed, true)]).await;
    assert_eq!(agent.assignments().await.forget, ["uid-moved"]);
    // One that shows up later is answered as well.
    agent.report(3, vec![report("late", 3, Phase::Running, false)]).await;
    assert_eq!(uids(&agent.assignments().await), ["uid-late"]);
    assert!(rig.base.hub.read(|w| w.pods.len() == 1));
}

#[tokio::test]
async fn goodbyes_say_why() {
    let rig = Rig::new().await;
    for node in ["n1", "n2", "n3"] {
        rig.base.node(node).await;
    }
    let mut deleted = rig.join("n1", hello()).await;
    let mut revoked = rig.join("n2", hello()).await;
    let mut left = rig.join("n3", hello()).await;
    rig.base.node("n4").await;
    let mut replaced = rig.join("n4", hello()).await;
    rig.base.until_ready("n3", "AgentReady").await;
    rig.base.delete(&[keys::object(Kind::Node, "", "n1")]).await;
    assert_eq!(deleted.goodbye().await.reason(), Reason::Revoked);
    let other = b"{\"metadata\":{\"name\":\"n4\",\"uid\":\"another\"},\"spec\":{}}";
    rig.base.put(keys::object(Kind::Node, "", "n4"), other.to_vec()).await;
    assert_eq!(replaced.goodbye().await.reason(), Reason::Revoked);
    rig.sessions.revoke("n2", "its certificate was revoked");
    assert_eq!(revoked.goodbye().await.message, "its certificate was revoked");
    rig.driver.abort();
    rig.sessions.shutdown(Duration::from_secs(10)).await;
    assert_eq!(left.goodbye().await.reason(), Reason::Shutdown);
    assert!(rig.sessions.registry().is_empty());
    // Whom the coordinator sends away is not down.
    assert_eq!(rig.base.hub.read(|w| super::testing::reason_of(w, "n3")), "AgentReady");
    let late = client(rig.address)
        .await
        .session(request("n3", tokio_stream::iter([])))
        .await;
    assert_eq!(late.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_newer_term_in_the_world_ends_the_session() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let mut agent = rig.join("n1", hello()).await;
    let old = rig.base.hub.fence().unwrap();
    let newer = crate::leader::take(&rig.base.hub, super::testing::INCARNATION, "other")
        .await
        .unwrap();
    rig.base.hub.set_fence(Some(newer));
    rig.base.pod("a", "n1").await;
    assert_eq!(agent.goodbye().await.reason(), Reason::Demoted);
    assert_ne!(rig.base.hub.fence().unwrap().term, old.term);
}

#[tokio::test]
async fn a_deposed_coordinator_assigns_nothing_to_who_comes_now() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.join("n1", hello()).await;
    rig.base.pod("a", "n1").await;
    // The world shows the other's term before this process has noticed what that means.
    crate::leader::take(&rig.base.hub, super::testing::INCARNATION, "other")
        .await
        .unwrap();
    let mut agent = rig.connect("n1", hello()).await;
    agent.welcome().await;
    match agent.next().await.unwrap() {
        Some(down::Message::Goodbye(goodbye)) => assert_eq!(goodbye.reason(), Reason::Demoted),
        other => panic!("a revision of the other's term under the old fence: {other:?}"),
    }
    // A start that is not on record cannot be put there, and is not even welcomed.
    let later = proto::wire::Hello { epoch: 2, ..hello() };
    assert_eq!(rig.connect("n1", later).await.goodbye().await.reason(), Reason::Demoted);
}

#[tokio::test]
async fn docker_words_reach_the_node_and_go_again() {
    let mut rig = Rig::new().await;
    rig.base.node("n1").await;
    let agent = rig.join("n1", hello()).await;
    rig.base.until_ready("n1", "AgentReady").await;
    let broken = NodeFacts {
        docker_ready: false,
        docker_reason: "cannot connect to\nthe daemon".into(),
        ..facts()
    };
    agent.say(up::Message::Facts(broken)).await;
    rig.base.until_ready("n1", "DockerUnavailable").await;
    rig.base.hub.read(|w| {
        let ready = &w.nodes["n1"].ready.as_ref().unwrap().value;
        assert_eq!(ready.status, ConditionStatus::False);
        assert_eq!(ready.message, "cannot connect to the daemon");
    });
    agent.say(up::Message::Facts(facts())).await;
    rig.base.until_ready("n1", "AgentReady").await;
    let mut reasons = Vec::new();
    while reasons.len() < 3 {
        reasons.push(rig.notes.recv().await.unwrap().reason);
    }
    assert_eq!(reasons, ["NodeReady", "NodeNotReady", "NodeReady"]);
}

#[tokio::test]
async fn other_hardware_is_stored_and_told_once() {
    let mut rig = Rig::new().await;
    rig.base.node("n1").await;
    let with = |inventory| NodeFacts {
        inventory: Some(inventory),
        ..facts()
    };
    let first = Hello {
        facts: Some(with(inventory())),
        ..hello()
    };
    let agent = rig.join("n1", first).await;
    let modules = |w: &crate::world::World| w.nodes["n1"].hardware.as_ref().map(|h| h.value.memory.modules.len());
    rig.base
        .until("the inventory is stored", |w| modules(w) == Some(2))
        .await;

    let mut less = inventory();
    less.memory.as_mut().unwrap().modules.pop();
    less.disks[0].serial = "K2".into();
    for _ in 0..2 {
        agent.say(up::Message::Facts(with(less.clone()))).await;
    }
    rig.base.until("the module is gone", |w| modules(w) == Some(1)).await;
    // An agent that says nothing of it leaves it as it is.
    let silent = NodeFacts {
        hostname: "renamed".into(),
        ..facts()
    };
    agent.say(up::Message::Facts(silent)).await;
    rig.base
        .until("the facts are stored", |w| {
            w.nodes["n1"]
                .facts
                .as_ref()
                .is_some_and(|f| f.value.hostname == "renamed")
        })
        .await;
    assert_eq!(rig.base.hub.read(modules), Some(1));

    agent
        .say(up::Message::Facts(NodeFacts {
            docker_ready: false,
            ..facts()
        }))
        .await;
    let mut told = Vec::new();
    loop {
        let note = rig.notes.recv().await.unwrap();
        match note.reason.as_str() {
            "HardwareChanged" => told.push(note),
            "NodeNotReady" => break,
            _ => {}
        }
    }
    let [note] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(
        (note.involved.kind.as_str(), note.involved.name.as_str()),
        ("Node", "n1")
    );
    assert_eq!(
        note.message,
        "memory module A2 (16Gi, serial D2) is gone; disk sda (ST4000, serial K1) is gone; disk sda (ST4000, serial K2) is new"
    );
}

#[tokio::test]
async fn an_inventory_out_of_bounds_ends_the_session() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let mut agent = rig.join("n1", hello()).await;
    let mut wrong = inventory();
    wrong.disks[0].model = "x\ny".into();
    let facts = NodeFacts {
        inventory: Some(wrong),
        ..facts()
    };
    agent.say(up::Message::Facts(facts)).await;
    let goodbye = agent.goodbye().await;
    assert_eq!(goodbye.reason(), Reason::Protocol);
    assert!(goodbye.message.contains("inventory.disks.model"), "{}", goodbye.message);
}

#[tokio::test]
async fn events_are_the_agents_own() {
    let mut rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.pod("mine", "n1").await;
    rig.base.pod("other", "n2").await;
    let agent = rig.join("n1", hello()).await;
    let event = |pod: &str, reason: &str| proto::wire::PodEvent {
        pod_uid: format!("uid-{pod}"),
        reason: reason.into(),
        message: "x".repeat(5000),
        warning: true,
        time_ms: 5,
        ..proto::wire::PodEvent::default()
    };
    let events = vec![
        event("other", "Pulled"),
        event("mine", "not camel"),
        event("mine", "Pulled"),
    ];
    agent.say(up::Message::Events(proto::wire::Events { events })).await;
    let note = loop {
        let note = rig.notes.recv().await.unwrap();
        if note.component == "agent" {
            break note;
        }
    };
    assert_eq!(
        (note.involved.name.as_str(), note.reason.as_str(), note.host.as_str()),
        ("mine", "Pulled", "n1")
    );
    assert_eq!(note.message.len(), 1024);
    assert!(note.at.0 > 1_000_000, "a time that cannot be right counts as now");
    assert_eq!(rig.metrics.events_dropped.get(), 2);
}

#[tokio::test]
async fn silence_is_broken_and_a_full_disk_waited_for() {
    let rig = Rig::with(Settings {
        max_silence: Duration::from_millis(30),
        ..Settings::default()
    })
    .await;
    rig.base.node("n1").await;
    rig.base.pod("a", "n1").await;
    let mut agent = rig.join("n1", hello()).await;
    agent.ack(0).await;
    rig.base.store.gate.send_replace(Gate::Full);
    agent.report(1, vec![report("a", 1, Phase::Running, false)]).await;
    rig.base.store.arrived.subscribe().wait_for(|n| *n == 1).await.unwrap();
    agent.ack(0).await;
    rig.base.store.gate.send_replace(Gate::Open);
    agent.ack(1).await;
}

#[tokio::test]
async fn an_agent_that_does_not_read_is_sent_away() {
    use super::{service::Outgoing, turns};
    let rig = Rig::with(Settings {
        stall: Duration::from_millis(30),
        ..Settings::default()
    })
    .await;
    rig.base.node("n1").await;
    let (messages, mut rx) = tokio::sync::mpsc::channel(2);
    let (last, end) = tokio::sync::oneshot::channel();
    let (_up, inbound) = tokio::sync::mpsc::channel(1);
    _up.send(Ok(proto::wire::Up {
        message: Some(up::Message::Hello(hello())),
    }))
    .await
    .unwrap();
    let inbound = tokio_stream::wrappers::ReceiverStream::new(inbound);
    let mut tasks = tokio::task::JoinSet::new();
    let out = Outgoing { messages, last };
    let peer = super::service::Peer {
        node: "n1".into(),
        ..Default::default()
    };
    tasks.spawn(turns::serve(rig.sessions.clone(), peer, inbound, out));
    rig.base.until_ready("n1", "AgentReady").await;
    rig.base.pod("a", "n1").await;
    let end = end.await.unwrap().unwrap();
    let Some(down::Message::Goodbye(goodbye)) = end.message else {
        panic!("{end:?}")
    };
    assert_eq!(goodbye.reason(), Reason::Resync);
    tasks.join_next().await;
    assert!(rig.sessions.registry().is_empty());
    let mut left = 0;
    while rx.recv().await.is_some() {
        left += 1;
    }
    assert_eq!(left, 2, "Welcome and the first assignments");
}

#[tokio::test]
async fn renewal_is_the_renewers() {
    let rig = Rig::new().await;
    let asked = request("n1", RenewRequest { csr_der: vec![0; 3] });
    let issued = client(rig.address).await.renew(asked).await.unwrap().into_inner();
    assert_eq!(issued.certificate_chain_pem, "n1 3");
}
