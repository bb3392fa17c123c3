//! Readmit, Forget and ConfirmOff.

use proto::wire::nodes_server::Nodes as _;
use tonic::Code;

use super::*;
use crate::api::{
    Settings,
    testing::{Bench, DenyAll, deleting, refused},
};

fn named(name: &str) -> NodeRequest {
    NodeRequest {
        name: name.into(),
        ..NodeRequest::default()
    }
}

async fn call(bench: &Bench, verb: &str, request: NodeRequest) -> Result<bool, Status> {
    let service = NodeService(Arc::clone(&bench.api));
    let reply = match verb {
        "readmit" => service.readmit(Request::new(request)).await,
        "confirm-off" => service.confirm_off(Request::new(request)).await,
        _ => service.forget(Request::new(request)).await,
    };
    reply.map(|r| r.into_inner().changed)
}

const TWO: &str =
    r#"{"holder":{"epoch":5,"instance":"a"},"rival":{"claim":{"epoch":4},"since":"2026-01-01T00:00:00Z"}}"#;

#[tokio::test]
async fn readmit_ends_a_quarantine_once() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    assert!(!call(&bench, "readmit", named("n1")).await.expect("nothing to do"));
    bench
        .put(vec![Change::put(keys::holder("n1"), Expect::Absent, TWO)])
        .await;
    let rival = |b: &Bench| b.hub.read(|w| w.nodes["n1"].rival().is_some());
    assert!(rival(&bench));
    let dry = NodeRequest {
        dry_run: true,
        ..named("n1")
    };
    assert!(call(&bench, "readmit", dry).await.expect("would"));
    assert!(rival(&bench));
    let once = NodeRequest {
        request_id: "r1".into(),
        ..named("n1")
    };
    for _ in 0..2 {
        // A repeat of the same request gets the same answer.
        assert!(call(&bench, "readmit", once.clone()).await.expect("readmitted"));
    }
    assert!(!rival(&bench));
    let audit = bench.store.values("audit/");
    assert_eq!(audit.len(), 1);
    assert_eq!(
        (&audit[0]["verb"], &audit[0]["object"]),
        (&"readmit".into(), &"nodes/n1".into())
    );
    // The holder of a node that is not in quarantine is not forgotten.
    let one = r#"{"holder":{"epoch":5,"instance":"a"}}"#;
    bench.put(vec![Change::put(keys::holder("n1"), Expect::Any, one)]).await;
    assert!(!call(&bench, "readmit", named("n1")).await.expect("nothing to do"));
    assert!(bench.hub.read(|w| w.nodes["n1"].holder.is_some()));
    let refusal = refused(call(&bench, "readmit", named("n9")).await);
    assert_eq!(refusal, (Code::NotFound, "nodes \"n9\" not found".to_owned()));
}

#[tokio::test]
async fn forget_is_for_deleted_nodes() {
    let bench = Bench::new().await;
    bench.node("n1", false).await;
    let (code, words) = refused(call(&bench, "forget", named("n1")).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(words.contains("wharf delete node n1"), "{words}");
    bench.delete(deleting("node", "n1")).await.expect("deleted");
    assert!(call(&bench, "forget", named("n1")).await.expect("forgotten"));
    assert!(bench.hub.read(|w| w.tombstones["n1"].value.forgotten));
    assert!(!call(&bench, "forget", named("n1")).await.expect("so already"));
    let (code, words) = refused(call(&bench, "forget", named("n9")).await);
    assert_eq!(code, Code::NotFound);
    assert!(words.contains("no deleted node \"n9\""), "{words}");
}

#[tokio::test]
async fn only_a_node_that_is_not_heard_is_confirmed_off() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let (code, words) = refused(call(&bench, "confirm-off", named("n1")).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        words.starts_with("nodes \"n1\": it is heard (Ready); only a node that is Unreachable"),
        "{words}"
    );
    let node = serde_json::json!({"metadata": {"name": "never", "uid": "u"}});
    let node = Change::put(keys::object(Kind::Node, "", "never"), Expect::Absent, node.to_string());
    bench.put(vec![node]).await;
    let (_, words) = refused(call(&bench, "confirm-off", named("never")).await);
    assert!(
        words.contains("it was never heard, so that nothing runs there"),
        "{words}"
    );
    let refusal = refused(call(&bench, "confirm-off", named("n9")).await);
    assert_eq!(refusal, (Code::NotFound, "nodes \"n9\" not found".to_owned()));

    bench.node("n1", false).await;
    bench.pod("p", "n1", None).await;
    let off = |b: &Bench| b.hub.read(|w| w.nodes["n1"].off.as_ref().map(|o| o.value.by.clone()));
    let dry = NodeRequest {
        dry_run: true,
        ..named("n1")
    };
    assert!(call(&bench, "confirm-off", dry).await.expect("would"));
    assert_eq!(off(&bench), None);
    assert!(call(&bench, "confirm-off", named("n1")).await.expect("confirmed"));
    assert_eq!(off(&bench).as_deref(), Some("user/admin"));
    assert!(!call(&bench, "confirm-off", named("n1")).await.expect("so already"));
    let audit = bench.store.values("audit/");
    assert_eq!(audit.len(), 1);
    assert_eq!(
        (&audit[0]["verb"], &audit[0]["detail"]),
        (
            &"confirm-off".into(),
            &"1 pods count as ended, 0 stay with their data".into()
        )
    );
    let shown = bench.hub.read(|w| w.nodes["n1"].condition());
    assert_eq!(shown.reason, "ConfirmedOff");
    assert!(
        shown.message.starts_with("user/admin confirmed at "),
        "{}",
        shown.message
    );
    assert!(!bench.hub.read(|w| w.nodes["n1"].is_ready()));
}

#[tokio::test]
async fn all_ask_the_authorizer_first() {
    let bench = Bench::with(Arc::new(DenyAll), Settings::default()).await;
    for (verb, asked) in [
        ("readmit", "update certificates/readmit /n9"),
        ("forget", "delete nodes/forget /n9"),
        ("confirm-off", "delete nodes/confirm-off /n9"),
    ] {
        let refusal = refused(call(&bench, verb, named("n9")).await);
        assert_eq!(refusal, (Code::PermissionDenied, asked.to_owned()));
    }
}
