//! What is in an audit record, and how it is read.

use proto::wire::{
    ScaleRequest, audit_server::Audit as _, controllers_server::Controllers as _, resources_server::Resources as _,
};
use serde_json::json;
use tonic::{Code, metadata::MetadataValue};

use super::*;
use crate::{
    api::{
        Settings,
        controllers::ControllerService,
        testing::{As, Bench, DenyAll, bare, creating, deleting, patching, rc, refused, replacing},
    },
    store::{Change, Expect},
};

async fn list(bench: &Bench, request: ListAuditRequest) -> Result<ListAuditReply, Status> {
    let service = AuditService(Arc::clone(&bench.api));
    service.list(Request::new(request)).await.map(Response::into_inner)
}

async fn entries(bench: &Bench) -> Vec<AuditEntry> {
    list(bench, ListAuditRequest::default()).await.expect("listed").entries
}

fn because<T>(message: T, reason: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = reason.parse().expect("ASCII");
    request.metadata_mut().insert(proto::reason::HEADER, value);
    request
}

fn scaling(replicas: i32) -> ScaleRequest {
    ScaleRequest {
        kind: "rc".into(),
        name: "web".into(),
        replicas,
        ..ScaleRequest::default()
    }
}

#[tokio::test]
async fn every_write_says_who_what_why_before_and_after() {
    let bench = Bench::new().await;
    let controllers = ControllerService(Arc::clone(&bench.api));
    bench
        .resources
        .create(because(creating("rc", &rc("web")), "new"))
        .await
        .expect("created");
    controllers
        .scale(because(scaling(9), "caf%C3%A9 opens"))
        .await
        .expect("scaled");
    let patch = json!({"spec": {"replicas": 3}, "metadata": {"labels": {"tier": "front"}}});
    bench
        .resources
        .patch(because(patching("rc", "web", &patch), "quiet"))
        .await
        .expect("patched");
    let mut wanted = rc("web");
    wanted["metadata"]["labels"] = json!({"tier": "back"});
    wanted["spec"]["replicas"] = json!(3);
    bench
        .resources
        .replace(because(replacing("rc", &wanted), "moved"))
        .await
        .expect("replaced");
    let mut delete = because(deleting("rc", "web"), "done");
    delete.extensions_mut().insert(As("user/ann"));
    bench.resources.delete(delete).await.expect("deleted");

    let found = entries(&bench).await;
    let shown: Vec<[&str; 6]> = found
        .iter()
        .map(|e| [&*e.caller, &e.verb, &e.object, &e.reason, &e.before, &e.after])
        .collect();
    let object = "replicationcontrollers/default/web";
    let (deleted, created) = (shown[0], shown[4]);
    assert_eq!(deleted[..4], ["user/ann", "delete", object, "done"]);
    assert!(
        deleted[4].contains(r#""replicas":3"#) && deleted[5].is_empty(),
        "{deleted:?}"
    );
    assert_eq!(
        shown[1..4],
        [
            [
                "user/admin",
                "replace",
                object,
                "moved",
                r#"{"labels":{"app":"web","tier":"front"}}"#,
                r#"{"labels":{"tier":"back"}}"#
            ],
            [
                "user/admin",
                "patch",
                object,
                "quiet",
                r#"{"labels":{},"spec":{"replicas":9}}"#,
                r#"{"labels":{"tier":"front"},"spec":{"replicas":3}}"#
            ],
            [
                "user/admin",
                "scale",
                object,
                "café opens",
                r#"{"replicas":2}"#,
                r#"{"replicas":9}"#
            ],
        ]
    );
    assert_eq!(created[..5], ["user/admin", "create", object, "new", ""]);
    assert!(created[5].contains(r#""replicas":2"#), "{created:?}");
}

#[tokio::test]
async fn a_secret_of_a_pod_is_in_no_record() {
    let bench = Bench::new().await;
    let mut pod = bare("p");
    pod["spec"]["containers"][0]["env"] = json!([{"name": "PASSWORD", "value": "hunter2"}]);
    bench.make("pod", &pod).await;
    bench.delete(deleting("pod", "p")).await.expect("deleted");
    let records = format!("{:?}", bench.store.values("audit/"));
    assert!(
        records.contains("PASSWORD") && !records.contains("hunter2"),
        "{records}"
    );
}

#[tokio::test]
async fn a_reason_that_is_none_changes_nothing() {
    let bench = Bench::new().await;
    for (reason, words) in [
        ("a%0Ab", "one line"),
        ("%FF", "UTF-8"),
        (&*"x".repeat(1001), "at most 1000 bytes"),
    ] {
        let refusal = refused(
            bench
                .resources
                .create(because(creating("rc", &rc("web")), reason))
                .await,
        );
        assert_eq!(refusal.0, Code::InvalidArgument);
        assert!(
            refusal.1.contains("--reason") && refusal.1.contains(words),
            "{}",
            refusal.1
        );
    }
    assert!(bench.store.values("audit/").is_empty());
    assert!(bench.get("rc", "default", "web").await.is_err());
}

/// Records `at` 1000, 1001, … of alternating objects and callers.
async fn many(bench: &Bench, count: u64) {
    let record = |i: u64| {
        let (object, caller) = if i.is_multiple_of(2) {
            ("nodes/n1", "user/a")
        } else {
            ("nodes/n2", "user/b")
        };
        AuditRecord::new(1000 + i, caller, "cordon", object, "").change()
    };
    let all: Vec<Change> = (0..count).map(record).collect();
    for batch in all.chunks(crate::store::MAX_CHANGES) {
        bench.put(batch.to_vec()).await;
    }
}

fn times(reply: &ListAuditReply) -> Vec<u64> {
    reply.entries.iter().map(|e| e.at_ms).collect()
}

#[tokio::test]
async fn newest_first_in_bounded_pages_that_go_on() {
    let bench = Bench::new().await;
    many(&bench, 600).await;
    let mut request = ListAuditRequest {
        limit: 3,
        ..ListAuditRequest::default()
    };
    let scans = bench.store.scans();
    let first = list(&bench, request.clone()).await.expect("listed");
    assert_eq!((times(&first), first.more), (vec![1599, 1598, 1597], true));
    assert_eq!(bench.store.scans() - scans, 1, "what is not asked for is not read");
    request.from = first.next;
    assert_eq!(
        times(&list(&bench, request.clone()).await.expect("listed")),
        [1596, 1595, 1594]
    );

    request = ListAuditRequest {
        limit: 5000,
        object: "nodes/n2".into(),
        since_ms: 1590,
        ..ListAuditRequest::default()
    };
    let some = list(&bench, request.clone()).await.expect("listed");
    assert_eq!((times(&some), some.more), (vec![1599, 1597, 1595, 1593, 1591], false));
    request.caller = "user/a".into();
    assert!(list(&bench, request.clone()).await.expect("listed").entries.is_empty());
    request = ListAuditRequest {
        limit: 1000,
        caller: "user/a".into(),
        ..ListAuditRequest::default()
    };
    let all = list(&bench, request.clone()).await.expect("listed");
    assert_eq!((all.entries.len(), all.more), (300, false));
}

#[tokio::test]
async fn a_reply_is_bounded_in_bytes_and_nothing_is_lost_between() {
    let bench = Bench::new().await;
    for i in 0..1000_u64 {
        let mut record = AuditRecord::new(1000 + i, "user/a", "patch", "pods/default/p", "");
        record.before = Some(json!("x".repeat(crate::ca::audit::LONGEST - 2)));
        bench.put(vec![record.change()]).await;
    }
    let (mut seen, mut replies, mut from) = (Vec::new(), 0, String::new());
    loop {
        let request = ListAuditRequest {
            limit: 5000,
            from: from.clone(),
            ..ListAuditRequest::default()
        };
        let reply = list(&bench, request).await.expect("listed");
        assert!(reply.encoded_len() < 4 << 20, "what a client takes by default");
        seen.extend(times(&reply));
        replies += 1;
        if !reply.more {
            break;
        }
        from = reply.next;
    }
    assert_eq!(seen, (1000..2000).rev().collect::<Vec<u64>>());
    assert_eq!(replies, 2);
}

#[tokio::test]
async fn what_cannot_be_read_is_shown_as_that() {
    let bench = Bench::new().await;
    let broken = Change::put(keys::audit(7, "x"), Expect::Absent, "{");
    bench.put(vec![broken]).await;
    let found = entries(&bench).await;
    assert_eq!((found.len(), found[0].at_ms), (1, 7));
    assert!(found[0].detail.contains("cannot be read"), "{}", found[0].detail);
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let bench = Bench::new().await;
    let long = "x".repeat(601);
    for (request, field) in [
        (
            ListAuditRequest {
                limit: 5001,
                ..ListAuditRequest::default()
            },
            "limit",
        ),
        (
            ListAuditRequest {
                object: long.clone(),
                ..ListAuditRequest::default()
            },
            "object",
        ),
        (
            ListAuditRequest {
                from: long,
                ..ListAuditRequest::default()
            },
            "from",
        ),
    ] {
        let (code, words) = refused(list(&bench, request).await);
        assert_eq!(code, Code::InvalidArgument);
        assert!(words.starts_with(&format!("audit: {field}: ")), "{words}");
    }
    let denied = Bench::with(Arc::new(DenyAll), Settings::default()).await;
    let refusal = refused(list(&denied, ListAuditRequest::default()).await);
    assert_eq!(refusal, (Code::PermissionDenied, "list audit/ /".to_owned()));
}
