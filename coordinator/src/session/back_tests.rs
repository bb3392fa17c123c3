//! A node that was confirmed off and is heard again, over a real gRPC connection.

use proto::{
    model::{Kind, Object, Phase, Time},
    wire::{Assignments, Hello, assignments, goodbye::Reason},
};

use super::testing::{Rig, hello, observed, report};
use crate::{
    store::keys,
    world::record::{self, OffRecord},
};

async fn confirm_off(rig: &Rig, node: &str) {
    let off = OffRecord {
        by: "user/admin".into(),
        at: Time(1),
    };
    rig.base.put(keys::off(node), record::encode(&off)).await;
}

fn reason(rig: &Rig) -> String {
    let Some(Object::Node(node)) = rig.base.hub.read(|w| w.object(Kind::Node, "", "n1")) else {
        panic!("no node");
    };
    node.status.unwrap().conditions.remove(0).reason
}

fn stops(a: &Assignments) -> Vec<String> {
    a.stop.iter().map(|s| s.uid.clone()).collect()
}

#[tokio::test]
async fn what_ran_before_ends_before_the_node_takes_pods() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let names = ["told", "gone", "late"];
    for pod in names {
        rig.base.pod(pod, "n1").await;
    }
    let mut agent = rig.connect("n1", hello()).await;
    agent.welcome().await;
    let all = agent.assignments().await;
    agent.ledger.apply(&all);
    let back = Hello {
        // After a power cut a container is dead, and its agent would start it again.
        observed: names.map(|p| observed(p, p != "gone")).to_vec(),
        ..agent.ledger.hello()
    };
    drop(agent);
    rig.base.until_ready("n1", "AgentDown").await;
    confirm_off(&rig, "n1").await;
    // Control is at work: one pod is stopped, one is gone already, one it has not come to.
    rig.base.stop("told", 1).await;
    rig.base.remove("gone").await;

    let mut agent = rig.connect("n1", back).await;
    agent.welcome().await;
    let all = agent.assignments().await;
    assert_eq!(all.kind(), assignments::Kind::Complete);
    let both = ["uid-gone", "uid-told"].map(str::to_owned);
    assert_eq!((all.run.len(), stops(&all)), (0, both.to_vec()), "with the first word");
    rig.base.until_ready("n1", "AgentReady").await;
    assert_eq!(reason(&rig), "ConfirmedOff");
    // That their records go takes no stop back.
    rig.base.remove("told").await;
    rig.base.remove("late").await;
    agent.report(1, vec![report("late", 1, Phase::Running, false)]).await;
    let change = agent.assignments().await;
    assert_eq!((stops(&change), change.forget), (vec!["uid-late".to_owned()], vec![]));
    for (seq, pod) in [(2, "late"), (3, "told")] {
        agent.report(seq, vec![report(pod, seq, Phase::Failed, true)]).await;
        assert_eq!(agent.assignments().await.forget, [format!("uid-{pod}")]);
        assert!(!rig.base.hub.read(|w| w.nodes["n1"].is_ready()));
    }
    agent.report(4, vec![report("gone", 4, Phase::Failed, true)]).await;
    assert_eq!(agent.assignments().await.forget, ["uid-gone"]);
    rig.base
        .until("the node takes pods", |w| w.nodes["n1"].is_ready())
        .await;
    // And is a node like any other.
    rig.base.pod("new", "n1").await;
    assert_eq!(agent.assignments().await.run.len(), 1);
}

#[tokio::test]
async fn a_session_that_was_only_silent_begins_anew() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    rig.base.pod("runs", "n1").await;
    let mut agent = rig.join("n1", hello()).await;
    rig.base.until_ready("n1", "AgentReady").await;
    confirm_off(&rig, "n1").await;
    let goodbye = agent.goodbye().await;
    assert_eq!(goodbye.reason(), Reason::Resync);
    assert!(goodbye.message.contains("confirmed off"), "{}", goodbye.message);
}
