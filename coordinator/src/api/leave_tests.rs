//! A host that leaves takes its own node with it, and nothing else.

use tonic::Code;

use super::*;
use crate::{
    api::testing::{Bench, refused},
    store::{Change, Expect, keys},
};

fn agent_of(node: &str) -> Peer {
    Peer {
        node: node.into(),
        ..Peer::default()
    }
}

#[tokio::test]
async fn an_empty_node_leaves_with_a_record_and_a_repeat_is_answered_alike() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench.node("n2", true).await;
    bench.api.leave(&agent_of("n1")).await.expect("leaves");
    bench.hub.read(|w| {
        assert_eq!(w.nodes.keys().collect::<Vec<_>>(), ["n2"]);
        assert!(w.tombstones.contains_key("n1"));
    });
    let audit = bench.store.values("audit/");
    let said = |field: &str| audit[0][field].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (audit.len(), said("caller"), said("verb"), said("object")),
        (1, "agent/n1".into(), "leave".into(), "nodes/n1".into())
    );
    // By its certificate it is known as deleted; to a view that does not know that yet there is no such node.
    let deleted = Peer {
        deleted: true,
        ..agent_of("n1")
    };
    for peer in [deleted, agent_of("n1")] {
        bench.api.leave(&peer).await.expect("has left");
    }
    assert_eq!(bench.store.values("audit/").len(), 1);
}

#[tokio::test]
async fn a_node_with_pods_or_with_two_holders_stays() {
    let bench = Bench::new().await;
    bench.node("n1", false).await;
    bench.pod("web", "n1", None).await;
    let (code, words) = refused(bench.api.leave(&agent_of("n1")).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        words.contains("nodes \"n1\": 1 pod is still bound to it") && words.contains("wharf get pods -A --node n1"),
        "{words}"
    );
    bench.node("n2", false).await;
    let two = r#"{"holder":{"epoch":5},"rival":{"claim":{"epoch":4},"since":"2026-01-01T00:00:00Z"}}"#;
    bench.put(vec![Change::put(keys::holder("n2"), Expect::Any, two)]).await;
    let (code, words) = refused(bench.api.leave(&agent_of("n2")).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(words.contains("wharf node readmit n2"), "{words}");
    assert_eq!(bench.hub.read(|w| w.nodes.len()), 2);
}
