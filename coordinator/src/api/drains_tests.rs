//! Beginning and taking back. What a watch sends is tested beside it, what leaves when in `plan::drain`.

use serde_json::Value;
use tonic::Code;

use super::*;
use crate::{
    api::{Settings, testing::*},
    store::Change,
    world::record::OwnerRecord,
};

const ANN: &str = "user/ann";
const BOB: &str = "user/bob";

fn as_<T>(caller: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(As(caller));
    request
}

fn asking() -> DrainRequest {
    DrainRequest {
        name: "n1".into(),
        ..DrainRequest::default()
    }
}

async fn drain(bench: &Bench, by: &'static str, request: DrainRequest) -> Result<DrainReply, Status> {
    let service = DrainService(Arc::clone(&bench.api));
    service.drain(as_(by, request)).await.map(Response::into_inner)
}

async fn cancel(bench: &Bench, by: &'static str, dry_run: bool) -> CancelDrainReply {
    let request = CancelDrainRequest {
        name: "n1".into(),
        dry_run,
        ..CancelDrainRequest::default()
    };
    let service = DrainService(Arc::clone(&bench.api));
    let reply = service.cancel(as_(by, request)).await;
    reply.expect("allowed").into_inner()
}

fn record(bench: &Bench) -> DrainRecord {
    bench.hub.read(|w| {
        let drain = w.nodes["n1"].drain.as_ref().expect("a drain");
        (*drain.value).clone()
    })
}

fn holds(bench: &Bench) -> Vec<String> {
    bench.hub.read(|w| w.nodes["n1"].holds().map(NodeHold::id).collect())
}

/// As control would end it.
async fn ended(bench: &Bench, how: DrainOutcome) {
    let drain = DrainRecord {
        ended: Some(DrainEnd { at: Time::now(), how }),
        ..record(bench)
    };
    let change = Change::put(keys::drain("n1"), Expect::Any, encode(&drain));
    bench.put(vec![change]).await;
}

fn owned(kind: crate::world::record::OwnerKind) -> Option<OwnerRecord> {
    Some(OwnerRecord {
        kind,
        name: "web".into(),
        uid: "u".into(),
    })
}

async fn bench() -> Bench {
    use crate::world::record::OwnerKind::{DaemonSet, ReplicationController};
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench.node("n2", true).await;
    bench.pod("web-1", "n1", owned(ReplicationController)).await;
    bench.pod("web-2", "n2", owned(ReplicationController)).await;
    bench.pod("log-1", "n1", owned(DaemonSet)).await;
    bench.pod("old-1", "n1", None).await;
    bench.status("old-1", proto::model::Phase::Succeeded, false).await;
    bench
}

#[tokio::test]
async fn a_drain_and_its_hold_are_one_commit() {
    let bench = bench().await;
    let before = Time::now();
    let request = DrainRequest {
        reason: " RAM swap ".into(),
        deadline_ms: 90_500,
        on_deadline: "abort".into(),
        local_data: "discard".into(),
        ..asking()
    };
    let reply = drain(&bench, ANN, request).await.expect("began");
    assert!(reply.began);
    let made = record(&bench);
    assert_eq!(
        (made.by.as_str(), made.reason.as_str(), made.total),
        (ANN, "RAM swap", 2)
    );
    assert_eq!(made.options.deadline.0, made.since.0 + 91, "never too early");
    assert_eq!(made.options.on_deadline, OnDeadline::Abort);
    assert!(made.options.discard_local_data && !made.options.stop_daemons && made.since >= before);
    assert_eq!(holds(&bench), ["drain/user/ann"]);
    let (drain_at, hold_at) = bench.hub.read(|w| {
        let node = &w.nodes["n1"];
        (node.drain.as_ref().unwrap().rv, node.holds.as_ref().unwrap().rv)
    });
    assert_eq!(drain_at.0 >> 16, hold_at.0 >> 16, "one revision");
    let audit = bench.store.values("audit/");
    assert_eq!(audit.len(), 1);
    assert_eq!(
        (&audit[0]["verb"], &audit[0]["reason"]),
        (&"drain".into(), &"RAM swap".into())
    );
    let detail = audit[0]["detail"].as_str().unwrap_or_default();
    assert!(
        detail.starts_with("2 pods to leave by ") && detail.ends_with(", then abort, local data discarded"),
        "{detail}"
    );
    assert_eq!(audit[0]["after"]["drain"]["id"], made.id, "{}", audit[0]);
    assert_eq!(audit[0]["after"]["holds"][0]["reason"], "RAM swap");
    assert_eq!(audit[0]["before"], json!({}), "no hold and no drain");
}

#[tokio::test]
async fn what_was_not_given_is_as_set() {
    let bench = bench().await;
    let set = json!({"drain-deadline": "5m"}).to_string();
    bench.put(vec![Change::put(keys::SETTINGS, Expect::Any, set)]).await;
    let request = DrainRequest {
        daemons: "stop".into(),
        ..asking()
    };
    drain(&bench, ANN, request).await.expect("began");
    let made = record(&bench);
    assert_eq!(made.options.deadline.0, made.since.0 + 300);
    assert_eq!((made.options.on_deadline, made.total), (OnDeadline::Block, 3));
}

#[tokio::test]
async fn one_under_way_is_the_answer_to_whoever_asks_for_it() {
    let bench = bench().await;
    let first = DrainRequest {
        deadline_ms: 60_000,
        daemons: "stop".into(),
        delete_unmanaged: true,
        ..asking()
    };
    assert!(drain(&bench, ANN, first.clone()).await.expect("began").began);
    let newest = bench.hub.rv();
    for same in [first.clone(), asking()] {
        assert!(!drain(&bench, BOB, same).await.expect("there").began);
    }
    assert_eq!(bench.hub.rv(), newest, "nothing written");
    type Change = fn(&mut DrainRequest);
    let others: [(Change, &str); 6] = [
        (|r| r.deadline_ms = 120_000, "its deadline at "),
        (|r| r.on_deadline = "force".into(), "--on-deadline block"),
        (|r| r.local_data = "discard".into(), "--local-data block"),
        (|r| r.daemons = "keep".into(), "--daemons stop"),
        (|r| r.allow_downtime = true, "no --allow-downtime"),
        (
            |r| {
                r.on_deadline = "abort".into();
                r.allow_downtime = true;
            },
            "--on-deadline block and no --allow-downtime",
        ),
    ];
    for (change, says) in others {
        let mut request = first.clone();
        change(&mut request);
        let (code, words) = refused(drain(&bench, BOB, request.clone()).await);
        assert_eq!(code, Code::FailedPrecondition, "{words}");
        let begins = format!("nodes \"n1\": it is being drained by user/ann with {says}");
        assert!(
            words.starts_with(&begins) && words.ends_with("wharf drain n1 --cancel"),
            "{words}"
        );
        request.dry_run = true;
        assert_eq!(
            refused(drain(&bench, BOB, request).await),
            (code, words),
            "a dry run too"
        );
    }
    assert_eq!(record(&bench).by, ANN);
}

#[tokio::test]
async fn a_drained_node_stays_until_it_is_taken_back() {
    let bench = bench().await;
    drain(&bench, ANN, asking()).await.expect("began");
    ended(&bench, DrainOutcome::Drained).await;
    let drained = record(&bench);
    let again = DrainRequest {
        on_deadline: "force".into(),
        ..asking()
    };
    assert!(
        !drain(&bench, BOB, again).await.expect("drained").began,
        "nothing is left to do"
    );
    assert_eq!(record(&bench), drained);
    // Its daemons are.
    let more = DrainRequest {
        daemons: "stop".into(),
        ..asking()
    };
    assert!(drain(&bench, BOB, more).await.expect("began").began);
    assert_ne!(record(&bench).id, drained.id);
    assert_eq!(holds(&bench), ["drain/user/bob"], "a node has one drain");
    ended(&bench, DrainOutcome::Drained).await;
    let reply = cancel(&bench, ANN, false).await;
    assert!(reply.changed && reply.still_held_by.is_empty());
    assert_eq!(holds(&bench), Vec::<String>::new());
    let end = record(&bench).ended.expect("ended");
    assert_eq!(end.how, DrainOutcome::Drained, "it ends once");
    assert!(!cancel(&bench, ANN, false).await.changed);
    assert!(drain(&bench, ANN, asking()).await.expect("began").began, "a new one");
}

#[tokio::test]
async fn a_node_that_is_drained_can_be_deleted_with_all_that_is_said_of_it() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench.pod("web-1", "n1", None).await;
    drain(&bench, ANN, asking()).await.expect("began");
    let (code, words) = refused(bench.delete(deleting("node", "n1")).await);
    assert!(
        code == Code::FailedPrecondition && words.ends_with("move them first: wharf drain n1"),
        "{words}"
    );
    let gone = keys::object(Kind::Pod, "default", "web-1");
    bench.put(vec![Change::delete(gone, Expect::Any)]).await;
    ended(&bench, DrainOutcome::Drained).await;
    bench.delete(deleting("node", "n1")).await.expect("deleted");
    let left = bench.store.keys();
    assert!(
        !left.iter().any(|k| k.starts_with("drain/") || k.starts_with("holds/")),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_cancelled_drain_lets_go_of_its_own_hold() {
    let bench = bench().await;
    assert!(!cancel(&bench, ANN, false).await.changed, "none there");
    let cordon = json!({"cordon/user/bob": {"kind": "cordon", "owner": BOB, "reason": "disk", "since": Time(7)}});
    let change = Change::put(keys::holds("n1"), Expect::Any, cordon.to_string());
    bench.put(vec![change]).await;
    drain(&bench, ANN, asking()).await.expect("began");
    let rv = bench.hub.rv();
    let told = vec!["cordon by bob: disk".to_owned()];
    let reply = cancel(&bench, BOB, true).await;
    assert_eq!((reply.changed, &reply.still_held_by), (true, &told));
    assert_eq!(bench.hub.rv(), rv, "a dry run");
    let reply = cancel(&bench, BOB, false).await;
    assert_eq!((reply.changed, &reply.still_held_by), (true, &told));
    assert_eq!(holds(&bench), ["cordon/user/bob"]);
    let end = record(&bench).ended.expect("ended");
    assert_eq!(end.how, DrainOutcome::Cancelled);
    let audit = bench.store.values("audit/");
    let of = |verb: &str| audit.iter().find(|a| a["verb"] == verb).cloned().unwrap_or(Value::Null);
    let last = of("cancel-drain");
    assert!(
        last["detail"]
            .as_str()
            .unwrap_or_default()
            .starts_with("the drain that user/ann began at ")
    );
    assert_eq!(last["after"]["drain"]["ended"]["how"], "cancelled");
    assert_eq!(cancel(&bench, BOB, false).await.still_held_by, told);
}

#[tokio::test]
async fn bad_requests_name_the_field_and_what_would_be_right() {
    let bench = bench().await;
    type Spoil = fn(&mut DrainRequest);
    let cases: [(Spoil, &str); 7] = [
        (|r| r.reason = "two\nlines".into(), "drain: reason: must be one line"),
        (
            |r| r.reason = "x".repeat(257),
            "drain: reason: must have at most 256 characters",
        ),
        (
            |r| r.deadline_ms = u64::MAX,
            "drain: deadline_ms: must be at most 400 days",
        ),
        (
            |r| r.on_deadline = "wait".into(),
            "drain: on_deadline: must be block, abort or force, is \"wait\"",
        ),
        (
            |r| r.local_data = "keep".into(),
            "drain: local_data: must be block or discard, is \"keep\"",
        ),
        (
            |r| r.daemons = "block".into(),
            "drain: daemons: must be keep or stop, is \"block\"",
        ),
        (|r| r.request_id = "a b".into(), "request_id: "),
    ];
    for (spoil, says) in cases {
        let mut request = asking();
        spoil(&mut request);
        let (code, words) = refused(drain(&bench, ANN, request).await);
        assert!(code == Code::InvalidArgument && words.starts_with(says), "{words}");
    }
    for dry_run in [false, true] {
        let unknown = DrainRequest {
            name: "n9".into(),
            dry_run,
            ..DrainRequest::default()
        };
        let told = refused(drain(&bench, ANN, unknown).await);
        assert_eq!(told, (Code::NotFound, "nodes \"n9\" not found".into()));
    }
    assert_eq!(bench.store.values("drain/").len(), 0);
}

#[tokio::test]
async fn a_repeated_request_is_done_once_and_a_rival_is_met() {
    let bench = bench().await;
    let request = DrainRequest {
        request_id: "r-1".into(),
        ..asking()
    };
    // Somebody cordons the node just before.
    let cordon = json!({"cordon/user/bob": {"kind": "cordon", "owner": BOB, "since": Time(7)}});
    bench
        .store
        .rival(vec![Change::put(keys::holds("n1"), Expect::Any, cordon.to_string())]);
    assert!(drain(&bench, ANN, request.clone()).await.expect("began").began);
    assert_eq!(holds(&bench), ["cordon/user/bob", "drain/user/ann"]);
    let made = record(&bench);
    assert!(drain(&bench, ANN, request).await.expect("the same").began);
    assert_eq!(record(&bench), made);
    // A node that goes meanwhile does not come back by its drain.
    let gone = [keys::object(Kind::Node, "", "n2"), keys::node_ready("n2")].map(|k| Change::delete(k, Expect::Any));
    bench.store.rival(gone.into());
    let other = DrainRequest {
        name: "n2".into(),
        ..DrainRequest::default()
    };
    assert_eq!(refused(drain(&bench, ANN, other).await).0, Code::NotFound);
    assert_eq!(bench.store.values("drain/").len(), 1);
}

#[tokio::test]
async fn no_pod_that_is_being_placed_comes_after_the_hold() {
    let bench = bench().await;
    let placing = bench.hub.place().await;
    let mut begins = std::pin::pin!(drain(&bench, ANN, asking()));
    assert!(futures::poll!(&mut begins).is_pending());
    assert!(bench.store.values("drain/").is_empty(), "it waits for who places pods");
    drop(placing);
    assert!(begins.await.expect("began").began);
}

#[tokio::test]
async fn who_may() {
    let bench = Bench::with(Arc::new(DenyAll), Settings::default()).await;
    let service = DrainService(Arc::clone(&bench.api));
    let denied = refused(service.drain(Request::new(asking())).await);
    assert_eq!(denied, (Code::PermissionDenied, "update nodes/drain /n1".into()));
    let cancel = CancelDrainRequest {
        name: "n1".into(),
        ..CancelDrainRequest::default()
    };
    let denied = refused(service.cancel(Request::new(cancel)).await);
    assert_eq!(denied, (Code::PermissionDenied, "update nodes/drain /n1".into()));
    let watch = WatchDrainRequest { name: "n1".into() };
    let denied = service
        .watch(Request::new(watch))
        .await
        .map(|_| ())
        .expect_err("refused");
    assert_eq!(denied.message(), "get nodes/drain /n1");
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_says_where_all_would_go() {
    let bench = bench().await;
    let rv = bench.hub.rv();
    let request = DrainRequest {
        dry_run: true,
        reason: "RAM".into(),
        request_id: "r".into(),
        ..asking()
    };
    let reply = drain(&bench, ANN, request).await.expect("planned");
    let view = reply.view.expect("a view");
    assert!(reply.began);
    assert_eq!(
        (view.phase.as_str(), view.total, view.since_ms, view.reason.as_str()),
        ("Planned", 2, 0, "RAM")
    );
    let steps: Vec<_> = view.pods.iter().map(|p| (p.name.as_str(), p.step.as_str())).collect();
    // The controller of web-1 is not there.
    assert_eq!(steps, [("log-1", "Stays"), ("old-1", "Waiting"), ("web-1", "Blocked")]);
    assert_eq!(bench.hub.rv(), rv);
}
