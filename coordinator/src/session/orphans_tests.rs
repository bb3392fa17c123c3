//! Agents of the history before a restore, over a real gRPC connection: in quarantine until an operator has spoken, and
//! then nothing is stopped that the restored state does not know.

use proto::wire::{self, Unexpected, assignments::Kind, down, goodbye::Reason, up};

use super::*;
use crate::{
    session::{
        hello::{lineage, strays},
        testing::{INCARNATION, Rig, hello, observed, report},
    },
    store::Rv,
    world::restored::{Accepted, Former, RestoredRecord},
};

const OLD: &str = "11111111-1111-4111-8111-111111111111";

fn restored(accepted: bool) -> RestoredRecord {
    RestoredRecord {
        at_ms: 2,
        taken_at_ms: 1,
        from: vec![Former {
            incarnation: OLD.into(),
            newest: Rv::new(40, 3),
        }],
        accepted: accepted.then(|| Accepted {
            by: "user/admin".into(),
            at_ms: 3,
        }),
    }
}

/// As an agent of the history before says Hello, that accepted a later version than the backup has.
fn of_old() -> Hello {
    Hello {
        fence: Some(wire::Fence {
            incarnation: OLD.into(),
            term: 7,
            nonce: "n".into(),
        }),
        revision: Rv::new(50, 0).0,
        digest: "of what it ran".into(),
        observed: vec![observed("a", true), observed("x", true)],
        ..hello()
    }
}

async fn rig(accepted: bool) -> Rig {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.pod("a", "n1").await;
    rig.base.put(keys::RESTORED.into(), encode(&restored(accepted))).await;
    rig
}

#[tokio::test]
async fn until_an_operator_has_spoken_agents_are_heard_and_told_nothing() {
    let rig = rig(false).await;
    let mut agent = rig.connect("n1", of_old()).await;
    let welcome = agent.welcome().await;
    assert_eq!(welcome.quarantine(), wire::Quarantine::Restored);
    assert!(welcome.quarantine_message.contains("wharf cluster accept-restore"));
    assert!(welcome.replaces.is_empty(), "nothing to take for its own yet");
    let found = rig.sessions.found();
    assert_eq!(found["n1"].len(), 2);
    // Neither its statuses nor a new pod make it be told something.
    agent
        .report(1, vec![report("a", 1, proto::model::Phase::Running, false)])
        .await;
    rig.base.pod("b", "n1").await;
    rig.base.stop("a", 1).await;
    let settings = encode(&std::collections::BTreeMap::from([("ready-after", "1s")]));
    rig.base.put(keys::SETTINGS.into(), settings).await;
    rig.base.put(keys::RESTORED.into(), encode(&restored(true))).await;
    let goodbye = loop {
        match agent.next().await.unwrap() {
            Some(down::Message::Ack(ack)) => assert_eq!(ack.seq, 0, "nothing is acknowledged"),
            Some(down::Message::Goodbye(goodbye)) => break goodbye,
            other => panic!("told something: {other:?}"),
        }
    };
    assert_eq!(goodbye.reason(), Reason::Resync);
    assert!(goodbye.message.contains("accepted"), "{}", goodbye.message);
    let (statuses, orphans, ready) = rig.base.hub.read(|w| {
        let pod = w.pod_by_uid("uid-a").and_then(|(_, p)| p.status.clone());
        (pod, w.orphans.len(), w.nodes["n1"].ready.clone())
    });
    assert_eq!((statuses, orphans, ready), (None, 0, None), "nothing was written");
}

#[tokio::test]
async fn what_the_restored_state_does_not_know_runs_on_until_an_operator_deletes_it() {
    let rig = rig(true).await;
    let mut agent = rig.connect("n1", of_old()).await;
    let welcome = agent.welcome().await;
    assert_eq!(welcome.quarantine(), wire::Quarantine::Unspecified);
    assert_eq!(welcome.replaces, [OLD]);
    // On record before it was welcomed.
    let orphan = rig.base.hub.read(|w| w.orphans["uid-x"].clone());
    assert_eq!(
        (
            orphan.value.node.as_str(),
            orphan.value.name.as_str(),
            orphan.value.delete
        ),
        ("n1", "x", false)
    );
    let first = agent.assignments().await;
    assert_eq!(first.kind(), Kind::Complete);
    assert!(first.stop.is_empty() && first.forget.is_empty(), "{first:?}");
    assert_eq!(first.run.len(), 1);
    assert_eq!(first.fence.as_ref().map(|f| f.incarnation.as_str()), Some(INCARNATION));
    // What it says of it is no reason to stop it, and is taken on record.
    let run = wire::Run {
        uid: "uid-x".into(),
        namespace: "default".into(),
        name: "x".into(),
        spec_json: b"{}".to_vec(),
        spec_hash: "h".into(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ..wire::Run::default()
    };
    let stranger = wire::Run {
        uid: "uid-stranger".into(),
        ..run.clone()
    };
    agent
        .say(up::Message::Unexpected(Unexpected {
            pods: vec![run, stranger],
        }))
        .await;
    agent
        .report(1, vec![report("x", 1, proto::model::Phase::Running, false)])
        .await;
    agent.ack(1).await;
    rig.base
        .until("its spec", |w| w.orphans["uid-x"].value.run.is_some())
        .await;
    assert_eq!(rig.base.hub.read(|w| w.orphans.len()), 1);

    // The next session is one of this history: what is unknown was deleted, but for orphans.
    let again = Hello {
        observed: vec![observed("a", true), observed("x", true), observed("y", true)],
        ..agent.ledger.hello()
    };
    let mut agent = rig.connect("n1", again).await;
    agent.welcome().await;
    assert_eq!(agent.assignments().await.kind(), Kind::Unchanged);
    let next = agent.assignments().await;
    let stopped: Vec<_> = next.stop.iter().map(|s| s.uid.as_str()).collect();
    assert_eq!(stopped, ["uid-y"]);

    // An operator's word.
    let unwanted = OrphanRecord {
        delete: true,
        ..(*rig.base.hub.read(|w| w.orphans["uid-x"].clone()).value).clone()
    };
    rig.base.put(keys::orphan("uid-x"), encode(&unwanted)).await;
    let next = agent.assignments().await;
    assert_eq!(next.stop.iter().map(|s| s.uid.as_str()).collect::<Vec<_>>(), ["uid-x"]);
    agent
        .report(2, vec![report("x", 2, proto::model::Phase::Succeeded, true)])
        .await;
    rig.base.until("it is over", |w| w.orphans.is_empty()).await;
    let next = loop {
        let next = agent.assignments().await;
        if !next.forget.is_empty() {
            break next;
        }
    };
    assert_eq!(next.forget, ["uid-x"]);
}

#[tokio::test]
async fn an_orphan_of_which_nothing_is_left_is_remembered_no_longer() {
    let rig = rig(true).await;
    rig.join("n1", of_old()).await;
    assert_eq!(rig.base.hub.read(|w| w.orphans.len()), 1);
    let blind = |docker_ready| {
        let mut facts = super::super::testing::facts();
        facts.docker_ready = docker_ready;
        Hello {
            facts: Some(facts),
            ..hello()
        }
    };
    rig.join("n1", blind(false)).await;
    assert_eq!(
        rig.base.hub.read(|w| w.orphans.len()),
        1,
        "without its engine an agent does not know"
    );
    rig.join("n1", blind(true)).await;
    assert_eq!(rig.base.hub.read(|w| w.orphans.len()), 0);
}

#[tokio::test]
async fn a_history_before_counts_as_ours_up_to_the_backup_and_only_by_an_operators_word() {
    let rig = rig(true).await;
    let old_term = serde_json::json!({"incarnation": OLD, "nonce": "n", "holder": "h"});
    // As the backup had it.
    let mut world = rig.base.hub.read(World::clone);
    let term = serde_json::from_value(old_term).unwrap();
    world.terms.insert(7, term);
    let at = |revision: Rv| Hello {
        revision: revision.0,
        ..of_old()
    };
    // The next term began at ours, which is above all of theirs only where a restore has seen to that; here it is not.
    let ours = *world.terms.keys().find(|t| **t != 7).unwrap();
    let moved = world.terms.remove(&ours).unwrap();
    world.terms.insert(1000, moved);
    assert_eq!(lineage(&world, &at(Rv::new(40, 3))), Lineage::Proven);
    assert_eq!(lineage(&world, &at(Rv::new(40, 4))), Lineage::Beyond);
    let unknown = Hello {
        fence: Some(wire::Fence {
            nonce: "another".into(),
            ..of_old().fence.unwrap()
        }),
        ..at(Rv::new(1, 0))
    };
    assert_eq!(lineage(&world, &unknown), Lineage::Beyond);
    assert_eq!(strays(&world, "n1", &of_old(), &Lineage::Beyond), Default::default());
    let mut pending = world.clone();
    pending.restored.as_mut().unwrap().value = std::sync::Arc::new(restored(false));
    assert!(matches!(lineage(&pending, &at(Rv::new(50, 0))), Lineage::Broken(_)));
}

#[tokio::test]
async fn planning_and_liveness_wait_for_the_word() {
    let rig = rig(false).await;
    let waiting = tokio::spawn({
        let hub = rig.base.hub.clone();
        async move { hub.accepted().await }
    });
    rig.base.pod("b", "n1").await;
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    rig.base.put(keys::RESTORED.into(), encode(&restored(true))).await;
    waiting.await.unwrap();
}
