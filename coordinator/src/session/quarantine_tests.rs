//! Two agents with one identity, and agents of deleted nodes, over a real gRPC connection.

use std::time::Duration;

use proto::{
    model::{ConditionStatus, Kind, Object, Phase},
    wire::{Hello, NodeFacts, Quarantine, assignments, down, goodbye::Reason, up},
};
use tonic::Code;

use super::{
    Settings,
    testing::{Agent, Base, Rig, facts, hello, observed, report},
};
use crate::{
    events::Note,
    store::{Change, Expect, keys},
    world::record::{self, HolderRecord, TombstoneRecord},
};

fn start(epoch: u64, instance: &str) -> Hello {
    Hello {
        epoch,
        instance: instance.into(),
        ..hello()
    }
}

fn key(name: &str) -> (String, String) {
    ("default".into(), name.into())
}

fn ready_of(rig: &Rig, node: &str) -> (ConditionStatus, String, String) {
    let Some(Object::Node(node)) = rig.base.hub.read(|w| w.object(Kind::Node, "", node)) else {
        panic!("no node");
    };
    let ready = node.status.unwrap().conditions.remove(0);
    (ready.status, ready.reason, ready.message)
}

fn clones(rig: &mut Rig) -> Vec<Note> {
    let notes = std::iter::from_fn(|| rig.notes.try_recv().ok());
    notes.filter(|n| n.reason == "CloneDetected").collect()
}

/// Connects; the Welcome must be one of quarantine for this reason.
async fn quarantined(rig: &Rig, node: &str, hello: Hello, why: Quarantine) -> (Agent, String) {
    let mut agent = rig.connect(node, hello).await;
    let welcome = agent.welcome().await;
    assert_eq!(welcome.quarantine(), why, "{}", welcome.quarantine_message);
    (agent, welcome.quarantine_message)
}

/// What the api does for `wharf node readmit`.
async fn readmit(rig: &Rig, node: &str) {
    let vacant = record::encode(&HolderRecord::vacant(0, false));
    rig.base.put(keys::holder(node), vacant).await;
}

#[tokio::test]
async fn restarts_and_reconnects_are_no_copies() {
    let mut rig = Rig::new().await;
    rig.base.node("n1").await;
    for (epoch, instance) in [(1, "a"), (1, "a"), (2, "b"), (2, "b"), (7, "c")] {
        rig.join("n1", start(epoch, instance)).await;
        let known = rig.base.hub.read(|w| w.nodes["n1"].holder.clone().unwrap());
        assert_eq!(
            (known.value.holder.epoch, known.value.holder.instance.as_str()),
            (epoch, instance)
        );
        assert_eq!(known.value.holder.address, "192.0.2.7");
    }
    // A new connection costs no write; nor does another leadership.
    let before = rig.base.hub.read(|w| w.nodes["n1"].holder.clone().unwrap().rv);
    let store = rig.base.store.clone();
    assert!(clones(&mut rig).is_empty());
    drop(rig);
    let rig = Rig::on(Base::on(store).await, Settings::default()).await;
    rig.join("n1", start(7, "c")).await;
    assert_eq!(rig.base.hub.read(|w| w.nodes["n1"].holder.clone().unwrap().rv), before);
}

#[tokio::test]
async fn of_two_holders_neither_works_until_one_is_readmitted() {
    let mut rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.pod("a", "n1").await;
    rig.base.pod("b", "n1").await;
    let mut first = rig.join("n1", start(5, "one")).await;
    // The copy has counted one start more; nothing tells it from a restart yet.
    let mut copy = rig.join("n1", start(6, "two")).await;
    assert_eq!(first.goodbye().await.reason(), Reason::Superseded);
    rig.base.until_ready("n1", "AgentReady").await;
    assert!(clones(&mut rig).is_empty());

    // The first one comes back: now it shows.
    let (mut first, words) = quarantined(&rig, "n1", start(5, "one"), Quarantine::Cloned).await;
    for word in [
        "instance two (start 6) on host host7 at 192.0.2.7",
        "instance one (start 5)",
        "wharf node readmit n1",
    ] {
        assert!(words.contains(word), "{words}");
    }
    // The one at work is sent away and comes back to the same.
    assert_eq!(copy.goodbye().await.reason(), Reason::Resync);
    let (mut copy, again) = quarantined(&rig, "n1", start(6, "two"), Quarantine::Cloned).await;
    assert_eq!(again, words);
    assert_eq!(
        ready_of(&rig, "n1"),
        (ConditionStatus::False, "Quarantined".into(), words.clone())
    );
    assert!(!rig.base.hub.read(|w| w.nodes["n1"].is_ready()), "no new pods");
    // A restart of either helps neither.
    let (mut restarted, _) = quarantined(&rig, "n1", start(9, "nine"), Quarantine::Cloned).await;
    assert_eq!(rig.sessions.registry().all_of("n1").len(), 3, "all are heard at once");

    // Nothing is told to them: no pod, no stop; and what they say is not believed.
    rig.base.stop("b", 1).await;
    rig.base.pod("c", "n1").await;
    for agent in [&mut first, &mut copy, &mut restarted] {
        agent.report(1, vec![report("a", 1, Phase::Failed, false)]).await;
        agent
            .say(up::Message::Facts(NodeFacts {
                hostname: "evil".into(),
                ..facts()
            }))
            .await;
        agent.heartbeat().await;
        let silent = tokio::time::timeout(Duration::from_millis(100), agent.next()).await;
        assert!(silent.is_err(), "something was said: {silent:?}");
    }
    rig.base.hub.read(|w| {
        assert!(w.pods[&key("a")].status.is_none(), "a status of who knows whom");
        assert_eq!(w.nodes["n1"].facts.as_ref().unwrap().value.hostname, "host7");
    });
    assert_eq!(clones(&mut rig).len(), 1, "said once");

    // Readmitted, whoever comes first is the node's agent; the other shows itself again.
    readmit(&rig, "n1").await;
    for agent in [&mut first, &mut copy, &mut restarted] {
        let goodbye = agent.goodbye().await;
        assert_eq!(
            (goodbye.reason(), goodbye.message.contains("readmitted")),
            (Reason::Resync, true)
        );
    }
    let mut copy = rig.connect("n1", start(6, "two")).await;
    assert_eq!(copy.welcome().await.quarantine(), Quarantine::Unspecified);
    let all = copy.assignments().await;
    assert_eq!((all.run.len(), all.stop.len()), (2, 1));
    copy.report(1, vec![report("a", 1, Phase::Running, false)]).await;
    copy.ack(1).await;
    quarantined(&rig, "n1", start(5, "one"), Quarantine::Cloned).await;
    assert_eq!(clones(&mut rig).len(), 1, "a new case, a new event");
}

#[tokio::test]
async fn an_old_copy_of_the_directory_and_a_quarantine_outlive_the_coordinator() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.join("n1", start(5, "one")).await;
    let store = rig.base.store.clone();
    drop(rig);
    // What was welcomed is on record: the next coordinator knows an earlier start for what it is.
    let mut rig = Rig::on(Base::on(store.clone()).await, Settings::default()).await;
    quarantined(&rig, "n1", start(2, "backup"), Quarantine::Cloned).await;
    assert_eq!(clones(&mut rig).len(), 1);
    drop(rig);
    let mut rig = Rig::on(Base::on(store).await, Settings::default()).await;
    assert_eq!(ready_of(&rig, "n1").1, "Quarantined");
    quarantined(&rig, "n1", start(5, "one"), Quarantine::Cloned).await;
    assert!(clones(&mut rig).is_empty(), "not said again");
}

#[tokio::test]
async fn a_session_that_was_judged_before_its_rival_does_not_stay() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let mut open = rig.join("n1", start(5, "one")).await;
    // Another coordinator put the rival on record.
    let record = r#"{"holder":{"epoch":5,"instance":"one"},"rival":{"claim":{"epoch":5,"instance":"x"},"since":"2026-01-01T00:00:00Z"}}"#;
    rig.base.put(keys::holder("n1"), record.into()).await;
    assert_eq!(open.goodbye().await.reason(), Reason::Resync);
}

#[tokio::test]
async fn an_instance_that_is_no_word_ends_the_session() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let mut agent = rig.connect("n1", start(1, "a\nb")).await;
    assert_eq!(agent.goodbye().await.reason(), Reason::Protocol);
    assert!(rig.base.hub.read(|w| w.nodes["n1"].holder.is_none()));
}

/// What the api does for `wharf delete node`.
async fn delete_node(rig: &Rig, node: &str) {
    let tombstone = TombstoneRecord {
        uid: format!("uid-{node}"),
        at: proto::model::Time(1),
        forgotten: false,
    };
    let changes = vec![
        Change::delete(keys::object(Kind::Node, "", node), Expect::Any),
        Change::delete(keys::node_facts(node), Expect::Any),
        Change::delete(keys::node_ready(node), Expect::Any),
        Change::delete(keys::holder(node), Expect::Any),
        Change::put(keys::tombstone(node), Expect::Any, record::encode(&tombstone)),
    ];
    rig.base.hub.commit(changes).await.unwrap();
}

#[tokio::test]
async fn a_deleted_nodes_agent_hears_what_to_stop_and_nothing_else() {
    let rig = Rig::new().await;
    for node in ["n1", "n2"] {
        rig.base.node(node).await;
    }
    rig.base.put(keys::cert("n1"), b"{}".to_vec()).await;
    for pod in ["keeps", "stops", "gone"] {
        rig.base.pod(pod, "n1").await;
    }
    rig.base.pod("moved", "n2").await;
    let mut agent = rig.join("n1", hello()).await;
    delete_node(&rig, "n1").await;
    rig.base.stop("stops", 3).await;
    rig.base.remove("gone").await;
    assert_eq!(agent.goodbye().await.reason(), Reason::Revoked);

    let back = Hello {
        observed: ["keeps", "stops", "gone", "moved"].map(|p| observed(p, true)).to_vec(),
        ..agent.ledger.hello()
    };
    let (mut agent, words) = quarantined(&rig, "deleted:n1", back, Quarantine::Deleted).await;
    assert!(words.contains("node n1 was deleted"), "{words}");
    let all = agent.assignments().await;
    assert_eq!(all.kind(), assignments::Kind::Complete);
    let uids = |a: &proto::wire::Assignments| a.stop.iter().map(|s| s.uid.clone()).collect::<Vec<_>>();
    assert_eq!((all.run.len(), uids(&all)), (0, vec!["uid-stops".to_owned()]));
    let strays = agent.assignments().await;
    assert_eq!(
        (strays.run.len(), uids(&strays)),
        (0, vec!["uid-gone".to_owned(), "uid-moved".to_owned()])
    );
    // Its facts make no node, and its end is no outage of one.
    agent.say(up::Message::Facts(facts())).await;
    // The ends that it has seen are on record.
    agent
        .report(
            1,
            vec![
                report("stops", 1, Phase::Failed, true),
                report("keeps", 2, Phase::Running, false),
            ],
        )
        .await;
    agent.ack(1).await;
    rig.base
        .hub
        .read(|w| assert!(w.pods[&key("stops")].status.as_ref().unwrap().value.stopped));
    rig.base.remove("stops").await;
    assert_eq!(agent.assignments().await.forget, ["uid-stops"]);
    agent.report(2, vec![report("gone", 3, Phase::Failed, true)]).await;
    assert_eq!(agent.assignments().await.forget, ["uid-gone"]);
    agent.report(3, vec![report("moved", 4, Phase::Failed, true)]).await;
    assert_eq!(agent.assignments().await.forget, ["uid-moved"]);
    // Control stops what is bound to it; until all of it has ended the node is remembered.
    rig.base.stop("keeps", 1).await;
    assert_eq!(uids(&agent.assignments().await), ["uid-keeps"]);
    assert!(rig.base.hub.read(|w| w.tombstones.contains_key("n1")));
    agent.report(4, vec![report("keeps", 5, Phase::Failed, true)]).await;
    agent.ack(4).await;
    rig.base.remove("keeps").await;
    let goodbye = agent.goodbye().await;
    assert_eq!(goodbye.reason(), Reason::Revoked);
    assert!(goodbye.message.contains("nothing of it is left"), "{}", goodbye.message);
    let left = rig.base.store.inner_keys().await;
    let left: Vec<_> = left.iter().filter(|k| k.ends_with("/n1")).collect();
    assert!(left.is_empty(), "{left:?}");
    // Now its certificate is nobody's; should it come all the same, it is refused.
    let status = rig.connect("deleted:n1", hello()).await.refused().await;
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn what_cannot_be_known_to_be_gone_keeps_the_tombstone() {
    let rig = Rig::new().await;
    delete_node(&rig, "n1").await;
    // A fresh agent proves no history: what it runs and nobody knows is not stopped, and not gone.
    let fresh = Hello {
        observed: vec![observed("runs", true)],
        ..hello()
    };
    let blind = Hello {
        facts: Some(NodeFacts {
            docker_ready: false,
            ..facts()
        }),
        ..hello()
    };
    for hello in [fresh, blind] {
        let (mut agent, _) = quarantined(&rig, "deleted:n1", hello, Quarantine::Deleted).await;
        let all = agent.assignments().await;
        assert!(all.run.is_empty() && all.stop.is_empty());
        agent.heartbeat().await;
        let silent = tokio::time::timeout(Duration::from_millis(100), agent.next()).await;
        assert!(silent.is_err(), "{silent:?}");
        assert!(rig.base.hub.read(|w| w.tombstones.contains_key("n1")));
    }
    let (mut agent, _) = quarantined(&rig, "deleted:n1", hello(), Quarantine::Deleted).await;
    assert_eq!(agent.goodbye().await.reason(), Reason::Revoked);
    assert!(rig.base.hub.read(|w| w.tombstones.is_empty()));
}

#[tokio::test]
async fn a_name_used_again_ends_the_old_hosts_session_and_is_another_node() {
    let rig = Rig::new().await;
    delete_node(&rig, "n1").await;
    let old = Hello {
        observed: vec![observed("runs", true)],
        ..start(9, "old")
    };
    let (mut old, _) = quarantined(&rig, "deleted:n1", old, Quarantine::Deleted).await;
    old.assignments().await;
    // As enrolment does, in one commit.
    let node = format!(
        "{{\"metadata\":{{\"name\":\"n1\",\"uid\":\"{}\"}},\"spec\":{{}}}}",
        "another"
    );
    let changes = vec![
        Change::put(keys::object(Kind::Node, "", "n1"), Expect::Absent, node.into_bytes()),
        Change::delete(keys::tombstone("n1"), Expect::Any),
    ];
    rig.base.hub.commit(changes).await.unwrap();
    assert_eq!(old.goodbye().await.reason(), Reason::Revoked);
    // The new host begins to count anew, and is no copy of anything.
    let mut new = rig.connect("n1", start(1, "new")).await;
    assert_eq!(new.welcome().await.quarantine(), Quarantine::Unspecified);
    assert!(matches!(new.next().await, Ok(Some(down::Message::Assignments(_)))));
}
