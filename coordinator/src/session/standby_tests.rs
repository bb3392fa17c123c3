//! Sessions of a coordinator that stands by, takes over, and is taken over from, against agents that follow a script.

use std::{collections::BTreeSet, time::Duration};

use proto::{
    model::Phase,
    wire::{Heartbeat, Hello, Quarantine, Welcome, assignments::Kind, down, goodbye::Reason, up, welcome::Role},
};

use super::{
    Settings,
    testing::{Agent, Base, Gated, INCARNATION, Rig, hello, reason_of, report},
};
use crate::store::{Store as _, keys};

fn contested() -> Settings {
    Settings {
        max_silence: Duration::from_secs(3600),
        contested: true,
        coordinators: vec!["us:7443".into()],
        ..Settings::default()
    }
}

/// A coordinator that leads a world with node n1 and pod a on it, and one that stands by on the same store.
async fn pair() -> (Rig, Rig) {
    let store = Gated::new();
    let leader = Rig::on(Base::on(store.clone()).await, contested()).await;
    leader.base.node("n1").await;
    leader.base.pod("a", "n1").await;
    let standby = Rig::on(Base::beside(store).await, contested()).await;
    let rv = leader.base.hub.rv();
    standby.base.hub.wait_for(rv).await;
    (leader, standby)
}

async fn welcome(agent: &mut Agent) -> Welcome {
    let next = async {
        loop {
            match agent.next().await.unwrap() {
                Some(down::Message::Welcome(welcome)) => return welcome,
                Some(down::Message::Ack(_)) => {}
                other => panic!("no Welcome but {other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next)
        .await
        .expect("a Welcome")
}

/// What the agent would say now.
fn hello_of(agent: &Agent) -> Hello {
    Hello {
        fence: agent.ledger.fence.clone(),
        revision: agent.ledger.revision,
        digest: agent.ledger.digest(),
        ..hello()
    }
}

#[tokio::test]
async fn a_standby_hears_says_who_leads_and_writes_nothing() {
    let (leader, standby) = pair().await;
    let record = serde_json::json!({"address": "c1:7443", "enrol": "", "joined": "2026-01-01T00:00:00Z"});
    leader
        .base
        .put("coordinator/c1".into(), record.to_string().into_bytes())
        .await;
    standby.base.hub.wait_for(leader.base.hub.rv()).await;
    let before = standby.base.store.inner_keys().await;
    let rv = standby.base.hub.rv();
    let mut agent = standby.connect("n1", hello()).await;
    let told = welcome(&mut agent).await;
    assert_eq!(
        (told.role(), told.node.as_str(), told.heartbeat_ms),
        (Role::Standby, "n1", 2_000)
    );
    assert_eq!((told.fence, told.coordinators), (None, vec!["c1:7443".to_owned()]));
    assert_eq!(standby.sessions.heard(), BTreeSet::from(["n1".to_owned()]));
    assert!(
        standby.sessions.registry().get("n1").is_none(),
        "nothing is asked of it here"
    );
    agent.heartbeat().await;
    agent.report(3, vec![report("a", 3, Phase::Running, false)]).await;
    agent.say(up::Message::Facts(super::testing::facts())).await;
    let silent = tokio::time::timeout(Duration::from_millis(100), agent.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    assert_eq!(
        (standby.base.hub.rv(), standby.base.store.inner_keys().await),
        (rv, before)
    );
    drop(agent);
    let mut changes = standby.sessions.heard_changes();
    let gone = async {
        while !standby.sessions.heard().is_empty() {
            changes.changed().await.unwrap()
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("heard no more");
}

#[tokio::test]
async fn a_take_over_is_announced_and_an_agent_that_knows_all_is_told_nothing_anew() {
    let (leader, standby) = pair().await;
    let mut with_leader = leader.join("n1", hello()).await;
    leader.base.until_ready("n1", "AgentReady").await;
    let mut agent = standby.connect("n1", hello()).await;
    assert_eq!(welcome(&mut agent).await.role(), Role::Standby);

    let fence = standby.base.lead("other").await;
    let told = welcome(&mut agent).await;
    assert_eq!(
        (told.role(), told.fence.map(|f| f.term)),
        (Role::Active, Some(fence.term))
    );
    // What is said before the new Hello counts for nothing.
    agent.report(3, vec![report("a", 3, Phase::Running, false)]).await;
    agent.say(up::Message::Hello(hello_of(&with_leader))).await;
    let told = welcome(&mut agent).await;
    assert!(told.your_term_known && told.your_term_ended_at > with_leader.ledger.revision);
    let all = agent.assignments().await;
    assert_eq!(
        (all.kind(), all.fence.map(|f| f.term)),
        (Kind::Unchanged, Some(fence.term))
    );
    assert_eq!(standby.base.hub.read(|w| reason_of(w, "n1")), "AgentReady");
    assert!(standby.sessions.registry().get("n1").is_some());
    // Now its statuses are taken.
    agent.report(9, vec![report("a", 9, Phase::Running, false)]).await;
    agent.ack(9).await;

    // The one that led finds out by itself, ends nothing, and says who leads.
    leader
        .base
        .until("the other's term", |w| w.leader().is_some_and(|(t, _)| t == fence.term))
        .await;
    leader.base.hub.set_fence(None);
    assert_eq!(welcome(&mut with_leader).await.role(), Role::Standby);
    assert!(leader.sessions.registry().get("n1").is_none());
    assert_eq!(leader.sessions.heard().len(), 1);
}

#[tokio::test]
async fn the_node_of_an_agent_that_is_slow_to_say_hello_is_not_lost() {
    let store = Gated::new();
    let settings = || Settings {
        heartbeat: Duration::from_millis(100),
        ..contested()
    };
    let leader = Rig::on(Base::on(store.clone()).await, settings()).await;
    leader.base.node("n1").await;
    let _agent = leader.join("n1", hello()).await;
    leader.base.until_ready("n1", "AgentReady").await;
    let standby = Rig::on(Base::beside(store).await, settings()).await;
    let mut agent = standby.connect("n1", hello()).await;
    welcome(&mut agent).await;
    standby.base.lead("other").await;
    welcome(&mut agent).await;
    // Three times as long as silence may last.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        agent.heartbeat().await;
        assert_eq!(standby.base.hub.read(|w| reason_of(w, "n1")), "AgentReady");
    }
    standby.base.until_ready("n1", "Unreachable").await;
}

#[tokio::test]
async fn a_hello_that_an_earlier_take_over_asked_for_is_not_taken() {
    let (leader, standby) = pair().await;
    let mut agent = standby.connect("n1", hello()).await;
    welcome(&mut agent).await;
    standby.base.lead("other").await;
    assert_eq!(welcome(&mut agent).await.role(), Role::Active);
    // Before the agent has answered another one leads, and then this one again.
    standby.base.hub.set_fence(None);
    assert_eq!(welcome(&mut agent).await.role(), Role::Standby);
    leader.base.lead("test").await;
    leader.base.pod("b", "n1").await;
    let again = standby.base.lead("other").await;
    let told = welcome(&mut agent).await;
    assert_eq!(
        (told.role(), told.fence.map(|f| f.term)),
        (Role::Active, Some(again.term))
    );
    let stale = Hello {
        digest: "of before".into(),
        ..hello()
    };
    agent.say(up::Message::Hello(stale)).await;
    let silent = tokio::time::timeout(Duration::from_millis(100), agent.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    agent.say(up::Message::Hello(hello())).await;
    assert_eq!(welcome(&mut agent).await.role(), Role::Active);
    assert_eq!(agent.assignments().await.run.len(), 2);
}

#[tokio::test]
async fn a_term_that_the_store_says_is_over_turns_the_session_and_ends_no_process() {
    let (leader, standby) = pair().await;
    let mut agent = leader.join("n1", hello()).await;
    leader.base.until_ready("n1", "AgentReady").await;
    // It does not hear of it: the write is what tells.
    leader.base.feed.abort();
    standby.base.lead("other").await;
    agent.report(3, vec![report("a", 3, Phase::Running, false)]).await;
    assert_eq!(welcome(&mut agent).await.role(), Role::Standby);
    // As long as it does not know that its term is over, it does not lead by it again.
    let silent = tokio::time::timeout(Duration::from_millis(100), agent.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    assert!(!leader.driver.is_finished());
    leader.base.hub.set_fence(None);
    let later = leader.base.store.take_term(INCARNATION, "test").await.unwrap();
    leader.base.hub.set_fence(Some(later));
    assert_eq!(welcome(&mut agent).await.role(), Role::Active);
}

#[tokio::test]
async fn agents_are_told_of_other_coordinators_whether_this_one_leads_or_not() {
    let (leader, standby) = pair().await;
    let mut at_leader = leader.join("n1", hello()).await;
    let mut at_standby = standby.connect("n1", hello()).await;
    assert_eq!(welcome(&mut at_standby).await.coordinators, ["us:7443"]);
    for name in ["c1", "c2"] {
        let record =
            serde_json::json!({"address": format!("{name}:7443"), "enrol": "", "joined": "2026-01-01T00:00:00Z"});
        leader
            .base
            .put(format!("coordinator/{name}"), record.to_string().into_bytes())
            .await;
        for (agent, role) in [(&mut at_leader, Role::Active), (&mut at_standby, Role::Standby)] {
            let told = welcome(agent).await;
            assert_eq!(told.role(), role);
            assert_eq!(told.coordinators.last(), Some(&format!("{name}:7443")));
        }
    }
    // And nothing else changed: the chain of assignments goes on.
    leader.base.pod("b", "n1").await;
    assert_eq!(at_leader.assignments().await.kind(), Kind::Incremental);
}

#[tokio::test]
async fn what_is_said_to_be_heard_came_while_this_coordinator_is_proven_to_lead() {
    let store = Gated::new();
    let settings = Settings {
        max_silence: Duration::from_millis(30),
        ..contested()
    };
    let rig = Rig::on(Base::on(store).await, settings).await;
    rig.base.node("n1").await;
    let mut agent = rig.join("n1", hello()).await;
    agent.say(up::Message::Heartbeat(Heartbeat { epoch: 1, seq: 7 })).await;
    let heard = async |agent: &mut Agent| loop {
        if let Some(down::Message::Ack(ack)) = agent.next().await.unwrap() {
            break ack.heard;
        }
    };
    // Twice, so that the second is of after the heartbeat was read.
    for _ in 0..5 {
        assert_eq!(heard(&mut agent).await, 0);
    }
    rig.sessions.led_at(tokio::time::Instant::now());
    while heard(&mut agent).await != 7 {}
    agent.say(up::Message::Heartbeat(Heartbeat { epoch: 1, seq: 8 })).await;
    for _ in 0..5 {
        assert_eq!(heard(&mut agent).await, 7, "the proof is older than the heartbeat");
    }
}

#[tokio::test]
async fn what_a_standby_may_not_hear_it_refuses_and_what_is_known_of_a_quarantine_it_says() {
    let (leader, standby) = pair().await;
    let start = |epoch, instance: &str| Hello {
        epoch,
        instance: instance.into(),
        ..hello()
    };
    leader.join("n1", start(6, "two")).await;
    leader.connect("n1", start(5, "one")).await.welcome().await;
    standby
        .base
        .until("the quarantine", |w| w.nodes["n1"].rival().is_some())
        .await;
    let mut all = Vec::new();
    for (epoch, instance) in [(6, "two"), (5, "one"), (9, "nine")] {
        let mut agent = standby.connect("n1", start(epoch, instance)).await;
        let told = welcome(&mut agent).await;
        assert_eq!((told.role(), told.quarantine()), (Role::Standby, Quarantine::Cloned));
        assert!(
            told.quarantine_message.contains("wharf node readmit n1"),
            "{}",
            told.quarantine_message
        );
        all.push(agent);
    }
    assert_eq!(standby.sessions.registry().all_of("n1").len(), 3);
    assert!(standby.sessions.heard().is_empty(), "nobody knows whose word counts");
    let skewed = Hello { clock_ms: 1, ..hello() };
    assert!(
        standby
            .connect("n1", skewed)
            .await
            .refused()
            .await
            .message()
            .contains("NTP")
    );
    let stranger = standby.connect("n9", hello()).await.refused().await;
    assert!(stranger.message().contains("was deleted"), "{stranger}");
    leader
        .base
        .delete(&[keys::object(proto::model::Kind::Node, "", "n1")])
        .await;
    assert_eq!(all[0].goodbye().await.reason(), Reason::Revoked);
}

#[tokio::test]
async fn many_agents_are_taken_over_although_one_does_not_answer() {
    let store = Gated::new();
    let settings = || Settings {
        takeovers: 1,
        takeover_hold: Duration::from_millis(20),
        ..contested()
    };
    let leader = Rig::on(Base::on(store.clone()).await, settings()).await;
    let names: Vec<String> = (0..8).map(|i| format!("n{i}")).collect();
    for name in &names {
        leader.base.node(name).await;
    }
    let standby = Rig::on(Base::beside(store).await, settings()).await;
    let mut agents = Vec::new();
    for name in &names {
        let mut agent = standby.connect(name, hello()).await;
        welcome(&mut agent).await;
        agents.push(agent);
    }
    standby.base.lead("other").await;
    let mute = agents.remove(0);
    for agent in &mut agents {
        assert_eq!(welcome(agent).await.role(), Role::Active);
        agent.say(up::Message::Hello(hello())).await;
        welcome(agent).await;
        agent.assignments().await;
    }
    drop(mute);
}
