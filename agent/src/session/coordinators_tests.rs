//! Whole agents against several scripted coordinators: a session to each, one of which is the active one's.

use std::{net::SocketAddr, time::Duration};

use proto::wire::assignments::Kind;

use super::{testing::*, *};
use crate::{
    runtime::fake::{FakeEngine, Op},
    worker::tests::{fence, pod, stop_of},
};

/// The fence of a later leadership.
fn later(term: u64) -> wire::Fence {
    wire::Fence {
        term,
        nonce: format!("n{term}"),
        ..fence()
    }
}

fn under(fence: wire::Fence, welcome: wire::Welcome) -> down::Message {
    down::Message::Welcome(wire::Welcome {
        fence: Some(fence),
        ..welcome
    })
}

fn standby(all: &[&Coordinator], leader: &str) -> down::Message {
    down::Message::Welcome(wire::Welcome {
        role: welcome::Role::Standby.into(),
        leader: leader.into(),
        coordinators: all.iter().map(|c| c.address.clone()).collect(),
        heartbeat_ms: 20,
        node: "n1".into(),
        ..wire::Welcome::default()
    })
}

fn assigned(fence: wire::Fence, message: down::Message) -> down::Message {
    match message {
        down::Message::Assignments(a) => down::Message::Assignments(wire::Assignments {
            fence: Some(fence),
            ..a
        }),
        other => other,
    }
}

async fn heartbeat_of(line: &mut Line) {
    line.find(|m| matches!(m, up::Message::Heartbeat(_)).then_some(()))
        .await;
}

async fn hello_again(line: &mut Line) -> wire::Hello {
    line.find(|m| match m {
        up::Message::Hello(hello) => Some(hello),
        up::Message::Heartbeat(_) => None,
        other => panic!("a standby was told {other:?}"),
    })
    .await
}

fn kept(agent: &TestAgent) -> Option<u64> {
    std::fs::read_to_string(agent.dir.path().join("contact"))
        .ok()?
        .parse()
        .ok()
}

/// Two coordinators with a session each, the first one active under the term of [`fence`], and a pod that runs.
async fn pair() -> (Coordinator, Coordinator, TestAgent, Line, Line) {
    let (a, b) = (Coordinator::start().await, Coordinator::start().await);
    let agent = TestAgent::start(&[&a]);
    let mut active = a.session().await;
    let hello = active.hello().await;
    active
        .send(down::Message::Welcome(wire::Welcome {
            coordinators: vec![a.address.clone(), b.address.clone()],
            ..super::testing::active(&hello)
        }))
        .await;
    active
        .send(assign(Kind::Complete, 0, 5, vec![pod("u1", &["app:1"])], vec![]))
        .await;
    let mut other = b.session().await;
    other.hello().await;
    other.send(standby(&[&a, &b], &a.address)).await;
    heartbeat_of(&mut other).await;
    agent.until("a container runs", |a| a.running().len() == 1).await;
    agent
        .until("its assignments are kept", |a| a.ledger().revision == 5)
        .await;
    (a, b, agent, active, other)
}

#[tokio::test]
async fn an_agent_that_knows_one_address_learns_the_others_and_uses_them_after_a_restart() {
    let (a, b, agent, line, mut other) = pair().await;
    assert_eq!(agent.ledger().coordinators, [a.address.clone(), b.address.clone()]);
    // Both hear, and only the active one is told anything else.
    for _ in 0..3 {
        assert!(matches!(other.next().await, up::Message::Heartbeat(_)));
    }
    let shown = || crate::status::text(agent.dir.path()).unwrap_or_default();
    let both = |_: &TestAgent| {
        let text = shown();
        text.contains(&format!("{}  active", a.address)) && text.contains(&format!("{}  standby", b.address))
    };
    agent.until("wharf-agent status shows both", both).await;
    let (dir, engine) = agent.end().await;
    drop((line, other));
    a.kill().await;
    // The address that it was given leads nowhere any more.
    let agent = TestAgent::again(dir, engine, &[&a], quick());
    let mut line = b.session().await;
    let hello = line.hello().await;
    assert_eq!(hello.revision, 5);
    line.send(under(later(2), active(&hello))).await;
    line.send(assigned(later(2), assign(Kind::Unchanged, 5, 7, vec![], vec![])))
        .await;
    agent.until("accepted", |a| a.ledger().revision == 7).await;
    agent.end().await;
}

#[tokio::test]
async fn an_agent_goes_to_the_leader_that_a_standby_names_and_stays_with_both() {
    let (first, leader) = (Coordinator::start().await, Coordinator::start().await);
    let agent = TestAgent::start(&[&first]);
    let mut at_first = first.session().await;
    at_first.hello().await;
    at_first.send(standby(&[&first], &leader.address)).await;
    let mut line = leader.session().await;
    line.welcome().await;
    heartbeat_of(&mut at_first).await;
    agent
        .until("both are kept", |a| a.ledger().coordinators.len() == 2)
        .await;
    agent.end().await;
}

#[tokio::test]
async fn a_take_over_is_answered_by_a_new_hello_and_touches_no_container() {
    let (a, b, agent, line, mut other) = pair().await;
    let before = agent.running();
    line.send(assign(Kind::Incremental, 5, 6, vec![pod("u2", &["app:1"])], vec![]))
        .await;
    agent.until("both run", |a| a.running().len() == 2).await;
    agent.until("kept", |a| a.ledger().revision == 6).await;
    // The announcement says nothing of the agent's history: no answer to a Hello could.
    other
        .send(under(
            later(2),
            wire::Welcome {
                role: welcome::Role::Active.into(),
                ..wire::Welcome::default()
            },
        ))
        .await;
    let hello = hello_again(&mut other).await;
    assert_eq!(
        (hello.revision, hello.fence.clone(), hello.observed.len()),
        (6, Some(fence()), 2)
    );
    assert_eq!(hello.digest, agent.ledger().digest());
    // Until it has answered, the one before is still believed.
    line.send(assign(Kind::Incremental, 6, 6, vec![], vec![])).await;
    other.send(under(later(2), active(&hello))).await;
    other
        .send(assigned(later(2), assign(Kind::Unchanged, 6, 8, vec![], vec![])))
        .await;
    agent.until("accepted", |a| a.ledger().revision == 8).await;
    // What was not acknowledged comes here now.
    other.statuses().await;
    assert_eq!(agent.running()[..1], before[..]);
    assert_eq!((agent.engine.calls(Op::Create), agent.engine.calls(Op::Stop)), (2, 0));
    // The one that was deposed has not noticed: nothing that it says counts, and its session goes on.
    line.send(assign(Kind::Incremental, 6, 9, vec![], vec![stop_of("u1", 0)]))
        .await;
    line.send(down::Message::Settings(wire::AgentSettings {
        ready_after_ms: Some(7),
    }))
    .await;
    line.send(standby(&[], &b.address)).await;
    let told = format!("{}  standby", a.address);
    let text = |agent: &TestAgent| crate::status::text(agent.dir.path()).unwrap_or_default();
    agent.until("it stands by", |agent| text(agent).contains(&told)).await;
    assert_eq!((agent.engine.calls(Op::Stop), agent.ledger().revision), (0, 8));
    assert_eq!(agent.ledger().ready_after_ms, None);
    agent.end().await;
}

#[tokio::test]
async fn of_two_that_both_take_themselves_for_active_the_lower_term_is_refused_and_sent_off() {
    let (_a, _b, agent, mut line, mut other) = pair().await;
    let hello = {
        other
            .send(under(
                later(3),
                wire::Welcome {
                    role: welcome::Role::Active.into(),
                    ..wire::Welcome::default()
                },
            ))
            .await;
        hello_again(&mut other).await
    };
    other.send(under(later(3), active(&hello))).await;
    agent
        .until("accepted", |a| a.ledger().fence.is_some_and(|f| f.term == 3))
        .await;
    // The first one stops, comes back, and still takes itself for the leader of before; or leads by a term between.
    for term in [fence(), later(2)] {
        line.send(under(
            term,
            wire::Welcome {
                role: welcome::Role::Active.into(),
                ..wire::Welcome::default()
            },
        ))
        .await;
        line.send(assign(Kind::Incremental, 5, 9, vec![], vec![stop_of("u1", 0)]))
            .await;
    }
    line.ended().await;
    assert_eq!((agent.running().len(), agent.engine.calls(Op::Stop)), (1, 0));
    assert_eq!(agent.ledger().fence.map(|f| f.term), Some(3));
    // The other session is not disturbed.
    heartbeat_of(&mut other).await;
    agent.end().await;
}

#[tokio::test]
async fn another_history_that_announces_itself_is_refused_and_the_leader_stays() {
    let (_a, _b, agent, line, mut other) = pair().await;
    other
        .send(under(
            later(9),
            wire::Welcome {
                role: welcome::Role::Active.into(),
                ..wire::Welcome::default()
            },
        ))
        .await;
    let hello = hello_again(&mut other).await;
    // An older copy of the store: it does not hold what was accepted.
    let copy = wire::Welcome {
        your_term_ended_at: 4,
        ..active(&hello)
    };
    other.send(under(later(9), copy)).await;
    other.ended().await;
    line.send(assign(Kind::Incremental, 5, 6, vec![pod("u2", &["app:1"])], vec![]))
        .await;
    agent
        .until("the leader is still believed", |a| a.running().len() == 2)
        .await;
    agent.end().await;
}

#[tokio::test]
async fn an_answer_to_a_hello_from_before_another_ones_word_is_not_believed() {
    let (_a, b, agent, line, mut other) = pair().await;
    other
        .send(under(
            later(2),
            wire::Welcome {
                role: welcome::Role::Active.into(),
                ..wire::Welcome::default()
            },
        ))
        .await;
    let hello = hello_again(&mut other).await;
    line.send(assign(Kind::Incremental, 5, 6, vec![pod("u2", &["app:1"])], vec![]))
        .await;
    agent.until("accepted", |a| a.ledger().revision == 6).await;
    other.send(under(later(2), active(&hello))).await;
    other.ended().await;
    // At once it says Hello anew.
    let mut other = b.session().await;
    let hello = other.hello().await;
    assert_eq!(hello.revision, 6);
    other.send(under(later(2), active(&hello))).await;
    agent
        .until("accepted", |a| a.ledger().fence.is_some_and(|f| f.term == 2))
        .await;
    agent.end().await;
}

#[tokio::test]
async fn statuses_of_the_leaderless_time_are_kept_for_who_leads_next() {
    let (a, _b, agent, line, mut other) = pair().await;
    drop(line);
    a.kill().await;
    let first = agent.running();
    assert!(agent.engine.kill_behind_back(&first[0]));
    agent
        .until("restarted from the ledger", |a| {
            a.running().len() == 1 && a.running() != first
        })
        .await;
    other
        .send(under(
            later(2),
            wire::Welcome {
                role: welcome::Role::Active.into(),
                ..wire::Welcome::default()
            },
        ))
        .await;
    let hello = hello_again(&mut other).await;
    other.send(under(later(2), active(&hello))).await;
    other
        .send(assigned(later(2), assign(Kind::Unchanged, 5, 8, vec![], vec![])))
        .await;
    let restarted = |m| match m {
        up::Message::Statuses(s) => String::from_utf8_lossy(&s.pods[0].status_json)
            .contains("\"restartCount\":1")
            .then_some(()),
        _ => None,
    };
    other.find(restarted).await;
    agent.end().await;
}

#[tokio::test]
async fn a_demotion_ends_no_session_and_all_are_told_when_the_agent_leaves() {
    let (a, b, agent, mut line, mut other) = pair().await;
    line.send(standby(&[&a, &b], "")).await;
    heartbeat_of(&mut line).await;
    let shown = |_: &TestAgent| {
        let text = crate::status::text(agent.dir.path()).unwrap_or_default();
        !text.contains("active") && text.matches("standby").count() == 2
    };
    agent.until("no coordinator leads", shown).await;
    assert_eq!(agent.running().len(), 1);
    // The same one leads again.
    line.send(under(
        later(2),
        wire::Welcome {
            role: welcome::Role::Active.into(),
            ..wire::Welcome::default()
        },
    ))
    .await;
    let hello = line
        .find(|m| match m {
            up::Message::Hello(hello) => Some(hello),
            _ => None,
        })
        .await;
    line.send(under(later(2), active(&hello))).await;
    line.statuses().await;
    agent.stop.cancel();
    for line in [&mut line, &mut other] {
        line.find(|m| matches!(m, up::Message::Leaving(_)).then_some(())).await;
    }
    drop((line, other));
    agent.end().await;
}

#[tokio::test]
async fn what_a_standby_has_heard_does_not_count() {
    let (_a, _b, agent, mut line, mut other) = pair().await;
    let mut bound = pod("u2", &["app:1"]);
    let key = proto::model::loss::STOP_AFTER_DISCONNECT.to_owned();
    bound.annotations.insert(key, "1h".into());
    line.send(assign(Kind::Incremental, 5, 6, vec![bound], vec![])).await;
    agent.until("kept", |a| kept(a).is_some()).await;
    let before = kept(&agent);
    let beat = |m: up::Message| match m {
        up::Message::Heartbeat(beat) => Some(beat.seq),
        _ => None,
    };
    for _ in 0..3 {
        let seq = other.find(beat).await;
        other.send(down::Message::Ack(wire::Ack { seq: 0, heard: seq })).await;
    }
    heartbeat_of(&mut other).await;
    assert_eq!(kept(&agent), before, "a standby has nobody told");
    let seq = line.find(beat).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    line.send(down::Message::Ack(wire::Ack { seq: 0, heard: seq })).await;
    agent.until("kept anew", |a| kept(a) > before).await;
    agent.end().await;
}

#[tokio::test]
async fn configured_addresses_are_tried_again_when_no_told_one_can_be_reached() {
    let coordinator = Coordinator::start().await;
    let agent = TestAgent::start(&[&coordinator]);
    let mut line = coordinator.session().await;
    let hello = line.hello().await;
    // Where nobody listens.
    let nowhere: SocketAddr = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("bound")
    };
    line.send(down::Message::Welcome(wire::Welcome {
        coordinators: vec![nowhere.to_string()],
        ..active(&hello)
    }))
    .await;
    agent.until("kept", |a| a.ledger().coordinators.len() == 1).await;
    // The session goes on, for nothing else is there; and when it ends, the same address serves again.
    heartbeat_of(&mut line).await;
    line.send(down::Message::Goodbye(wire::Goodbye::default())).await;
    line.ended().await;
    let mut line = coordinator.session().await;
    line.welcome().await;
    let (dir, engine) = agent.end().await;
    drop(line);
    let agent = TestAgent::again(dir, engine, &[&coordinator], quick());
    let mut line = coordinator.session().await;
    line.welcome().await;
    agent.end().await;
}

#[tokio::test]
async fn the_first_one_that_answers_is_enough() {
    let (up, down) = (Coordinator::start().await, Coordinator::start().await);
    down.kill().await;
    let dir = tempfile::tempdir().expect("a directory");
    let agent = TestAgent::again(dir, FakeEngine::new(), &[&down, &up], quick());
    let mut line = up.session().await;
    line.welcome().await;
    line.send(assign(Kind::Complete, 0, 5, vec![pod("u1", &["app:1"])], vec![]))
        .await;
    agent.until("a container runs", |a| a.running().len() == 1).await;
    agent.end().await;
}
