//! A host that joined again, over a real gRPC connection: `n1#2` is the second generation of n1's identity.

use proto::{
    model::Phase,
    wire::{Hello, NodeFacts, goodbye::Reason, up},
};
use tonic::Code;

use super::*;
use crate::session::testing::{Rig, facts, hello, observed, report};

/// As enrolment leaves it.
async fn joined_again(rig: &Rig, generation: u64) {
    let vacant = encode(&HolderRecord::vacant(generation, true));
    rig.base.put(keys::holder("n1"), vacant).await;
}

fn start(epoch: u64, instance: &str) -> Hello {
    Hello {
        epoch,
        instance: instance.into(),
        ..hello()
    }
}

fn vanished_pods(rig: &Rig) -> Vec<String> {
    let all = |w: &World| {
        let gone = w.pods.iter().filter(|(_, p)| p.vanished());
        gone.map(|((_, name), _)| name.clone()).collect()
    };
    rig.base.hub.read(all)
}

#[tokio::test]
async fn what_the_new_disk_does_not_have_is_over_and_what_it_has_goes_on() {
    let mut rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.node("n2").await;
    for pod in ["gone", "kept", "never-heard-of"] {
        rig.base.pod(pod, "n1").await;
    }
    rig.base.pod("elsewhere", "n2").await;
    let mut old = rig.join("n1", start(57, "old")).await;
    let before = ["gone", "kept"].map(|p| proto::wire::PodStatus {
        epoch: 57,
        ..report(p, 9, Phase::Running, false)
    });
    old.report(1, before.to_vec()).await;
    old.ack(1).await;

    joined_again(&rig, 2).await;
    // The old agent's session ends, and whatever has its identity is nobody from then on.
    assert_eq!(old.goodbye().await.reason(), Reason::Revoked);
    let refused = rig.connect("n1", start(58, "copy")).await.refused().await;
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(vanished_pods(&rig).is_empty(), "nobody has looked yet");

    // The new one begins to count anew, and still it is believed.
    let first = Hello {
        observed: vec![observed("kept", true)],
        ..start(1, "new")
    };
    let mut new = rig.connect("n1#2", first).await;
    assert_eq!(new.welcome().await.quarantine_message, "");
    let all = new.assignments().await;
    let uids: Vec<_> = all.run.iter().map(|r| r.uid.as_str()).collect();
    assert_eq!((uids, all.stop.len()), (vec!["uid-kept"], 0));
    assert_eq!(vanished_pods(&rig), ["gone", "never-heard-of"]);
    new.report(1, vec![report("kept", 1, Phase::Succeeded, false)]).await;
    new.ack(1).await;
    let key = ("default".to_owned(), "kept".to_owned());
    let status = rig.base.hub.read(|w| w.pods[&key].status.clone().unwrap());
    assert_eq!(
        (status.value.status.phase, status.value.generation, status.value.epoch),
        (Phase::Succeeded, 2, 1),
        "its first word is later than the fifty-seventh start's last one"
    );
    let notes: Vec<_> = std::iter::from_fn(|| rig.notes.try_recv().ok()).collect();
    let told = notes.iter().find(|n| n.reason == "HostReplaced").expect("an event");
    assert!(told.message.contains("2 pods"), "{}", told.message);

    // Settled once: what is bound to it while its agent restarts is not over.
    rig.base.pod("later", "n1").await;
    let mut again = rig.connect("n1#2", start(2, "newer")).await;
    again.welcome().await;
    let uids: Vec<_> = again.assignments().await.run.into_iter().map(|r| r.uid).collect();
    assert_eq!(uids, ["uid-kept", "uid-later"]);
    assert_eq!(vanished_pods(&rig), ["gone", "never-heard-of"]);
}

#[tokio::test]
async fn while_docker_is_silent_nobody_knows_and_nothing_is_assigned() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.pod("a", "n1").await;
    joined_again(&rig, 1).await;
    let silent = NodeFacts {
        docker_ready: false,
        docker_reason: "no such socket".into(),
        ..facts()
    };
    let blind = Hello {
        facts: Some(silent.clone()),
        ..start(1, "new")
    };
    let mut agent = rig.connect("n1#1", blind).await;
    agent.welcome().await;
    rig.base.until_ready("n1", "DockerUnavailable").await;
    rig.base.pod("b", "n1").await;
    agent.heartbeat().await;
    agent.say(up::Message::Facts(silent)).await;
    agent.say(up::Message::Facts(facts())).await;
    // Not one assignment comes before it has to begin anew.
    let goodbye = loop {
        match agent.next().await.unwrap().expect("a message") {
            proto::wire::down::Message::Assignments(a) => panic!("{a:?}"),
            proto::wire::down::Message::Goodbye(goodbye) => break goodbye,
            _ => {}
        }
    };
    assert_eq!(goodbye.reason(), Reason::Resync);
    assert!(vanished_pods(&rig).is_empty());
    let mut agent = rig.connect("n1#1", start(1, "new")).await;
    agent.welcome().await;
    assert!(agent.assignments().await.run.is_empty());
    assert_eq!(vanished_pods(&rig), ["a", "b"]);
}

#[tokio::test]
async fn more_pods_than_one_commit_takes_are_over_too() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let names: Vec<_> = (0..MAX_CHANGES * 2).map(|i| format!("p{i}")).collect();
    for name in &names {
        rig.base.pod(name, "n1").await;
    }
    joined_again(&rig, 1).await;
    let mut agent = rig.connect("n1#1", start(1, "new")).await;
    agent.welcome().await;
    assert!(agent.assignments().await.run.is_empty());
    assert_eq!(vanished_pods(&rig).len(), names.len());
    assert!(
        rig.base
            .hub
            .read(|w| !w.nodes["n1"].holder.as_ref().unwrap().value.unsettled)
    );
}

#[tokio::test]
async fn a_readmitted_node_keeps_its_generation() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    joined_again(&rig, 3).await;
    for (hello, node) in [(start(2, "a"), "n1#3"), (start(1, "b"), "n1#3")] {
        let mut agent = rig.connect(node, hello).await;
        agent.welcome().await;
    }
    rig.base
        .until("a quarantine", |w| w.nodes["n1"].rival().is_some())
        .await;
    let known = rig
        .base
        .hub
        .read(|w| (*w.nodes["n1"].holder.clone().unwrap().value).clone());
    let vacant = HolderRecord::vacant(known.holder.generation, known.unsettled);
    assert_eq!(vacant.holder.generation, 3);
    rig.base.put(keys::holder("n1"), encode(&vacant)).await;
    let refused = rig.connect("n1#2", start(99, "former")).await.refused().await;
    assert_eq!(refused.code(), Code::Unauthenticated);
}
