//! What an operator's word about a restored state and an orphan changes, and what is refused.

use proto::wire::{AcceptRestoreRequest, OrphanRequest, ShowRestoreRequest, cluster_server::Cluster as _};
use tonic::{Code, Request, Status};

use super::*;
use crate::{
    api::{
        cluster::{ClusterFacts, ClusterService},
        testing::Bench,
    },
    store::Rv,
    world::restored::{Former, OrphanRun},
};

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn observed(name: &str) -> Observed {
    Observed {
        uid: format!("uid-{name}"),
        namespace: "default".into(),
        name: name.into(),
        running: true,
    }
}

async fn bench(found: BTreeMap<String, Vec<Observed>>) -> (Bench, ClusterService) {
    let bench = Bench::new().await;
    let facts = ClusterFacts {
        ranks: None,
        cluster_id: CLUSTER.into(),
        coordinators: Vec::new(),
        secret: Arc::new(|| Err("none".into())),
        found: Arc::new(move || found.clone()),
    };
    let service = ClusterService::new(Arc::clone(&bench.api), facts);
    (bench, service)
}

fn restored() -> RestoredRecord {
    RestoredRecord {
        at_ms: 20,
        taken_at_ms: 10,
        from: vec![Former {
            incarnation: "before".into(),
            newest: Rv(5),
        }],
        accepted: None,
    }
}

async fn accept(service: &ClusterService, cluster: &str) -> Result<bool, Status> {
    let request = AcceptRestoreRequest {
        cluster: cluster.into(),
        ..AcceptRestoreRequest::default()
    };
    Ok(service
        .accept_restore(Request::new(request))
        .await?
        .into_inner()
        .changed)
}

#[tokio::test]
async fn a_restored_state_is_compared_and_accepted_once() {
    let found = BTreeMap::from([("n1".to_owned(), vec![observed("a"), observed("x")])]);
    let (bench, service) = bench(found).await;
    let nothing = accept(&service, CLUSTER).await.expect_err("nothing was restored");
    assert_eq!(nothing.code(), Code::FailedPrecondition);
    bench.node("n1", true).await;
    bench.node("n2", true).await;
    for name in ["a", "b"] {
        bench.pod(name, "n1", None).await;
    }
    bench.change_pod("a", |p| p.uid = "uid-a".into()).await;
    bench
        .put(vec![Change::put(keys::RESTORED, Expect::Absent, encode(&restored()))])
        .await;

    let shown = service
        .show_restore(Request::new(ShowRestoreRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert!(shown.pending && shown.cluster_id == CLUSTER && shown.taken_at_ms == 10);
    let names = |pods: &[PodName]| pods.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    let [one, two] = shown.nodes.as_slice() else {
        panic!("{shown:?}")
    };
    assert_eq!(
        (one.heard, one.known, names(&one.missing), names(&one.unknown)),
        (true, 1, vec!["b".to_owned()], vec!["x".to_owned()])
    );
    assert_eq!((two.heard, two.known), (false, 0));

    let other = accept(&service, "another").await.expect_err("another cluster");
    assert_eq!(other.code(), Code::InvalidArgument);
    assert!(other.message().contains("nothing was accepted"), "{}", other.message());
    assert!(bench.hub.read(World::restore_pending));
    assert_eq!(bench.hub.read(World::replaces), Vec::<String>::new());
    assert!(accept(&service, CLUSTER).await.unwrap());
    assert!(!bench.hub.read(World::restore_pending));
    assert_eq!(bench.hub.read(World::replaces), ["before"]);
    assert!(!accept(&service, CLUSTER).await.unwrap(), "done already");
    let audit = bench.store.values("audit/");
    assert!(audit.iter().any(|a| a["verb"] == "accept-restore"), "{audit:?}");
    let shown = service
        .show_restore(Request::new(ShowRestoreRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (shown.pending, shown.accepted_by.as_str(), shown.nodes.len()),
        (false, "user/admin", 0)
    );
}

/// As an agent tells of a pod that it was once told to run.
fn orphan(name: &str) -> (String, OrphanRecord) {
    let spec = serde_json::json!({"containers": [{"name": "c", "image": "i:1"}]});
    let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
    let bytes = encode(&spec.placed_on("n1"));
    let record = OrphanRecord {
        node: "n1".into(),
        namespace: "default".into(),
        name: name.into(),
        run: Some(OrphanRun {
            spec_hash: ids::content_hash(&bytes),
            spec: String::from_utf8(bytes).expect("text"),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..OrphanRun::default()
        }),
        ..OrphanRecord::default()
    };
    (format!("uid-{name}"), record)
}

fn about(uid: &str) -> Request<OrphanRequest> {
    Request::new(OrphanRequest {
        uid: uid.into(),
        ..OrphanRequest::default()
    })
}

#[tokio::test]
async fn an_adopted_orphan_is_what_its_agent_runs() {
    let (bench, service) = bench(BTreeMap::new()).await;
    bench.node("n1", true).await;
    let (uid, record) = orphan("x");
    let run = record.run.clone().unwrap();
    bench
        .put(vec![Change::put(keys::orphan(&uid), Expect::Absent, encode(&record))])
        .await;
    let listed = bench.hub.read(orphans);
    assert_eq!(
        (listed[0].containers.as_slice(), listed[0].deleting),
        (&["c".to_owned()][..], false)
    );
    assert!(
        service
            .adopt_orphan(about(&uid))
            .await
            .expect("adopted")
            .into_inner()
            .changed
    );
    let (hash, labels, node, left) = bench.hub.read(|w| {
        let (_, pod) = w.pod_by_uid(&uid).expect("a pod");
        let spec = encode(&pod.spec().placed_on("n1"));
        (
            ids::content_hash(&spec),
            World::labels_of(pod),
            pod.record.node.clone(),
            w.orphans.len(),
        )
    });
    assert_eq!(
        (hash, labels, node.as_str(), left),
        (run.spec_hash, run.labels, "n1", 0)
    );
    let gone = service.adopt_orphan(about(&uid)).await.map(drop).expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn what_cannot_be_adopted_can_be_deleted() {
    let (bench, service) = bench(BTreeMap::new()).await;
    bench.node("n1", true).await;
    bench.pod("taken", "n1", None).await;
    let (_, good) = orphan("good");
    let with = |change: fn(&mut OrphanRecord)| {
        let mut record = good.clone();
        change(&mut record);
        record
    };
    let cases = [
        ("untold", with(|o| o.run = None), "has not told"),
        (
            "other-release",
            with(|o| {
                if let Some(r) = &mut o.run {
                    r.spec_hash = "h".into()
                }
            }),
            "another release",
        ),
        (
            "unreadable",
            with(|o| {
                if let Some(r) = &mut o.run {
                    r.spec = "{".into()
                }
            }),
            "cannot be read",
        ),
        ("taken", with(|o| o.name = "taken".into()), "another pod has its name"),
        (
            "homeless",
            with(|o| o.namespace = "gone".into()),
            "namespace \"gone\" is not there",
        ),
        ("nodeless", with(|o| o.node = "n9".into()), "node \"n9\" is not there"),
        ("unwanted", with(|o| o.delete = true), "being deleted"),
    ];
    for (uid, record, words) in cases {
        bench
            .put(vec![Change::put(keys::orphan(uid), Expect::Absent, encode(&record))])
            .await;
        let refused = service.adopt_orphan(about(uid)).await.map(drop).expect_err(uid);
        assert_eq!(refused.code(), Code::FailedPrecondition, "{uid}");
        assert!(refused.message().contains(words), "{uid}: {}", refused.message());
        let changed = service
            .delete_orphan(about(uid))
            .await
            .expect("deleted")
            .into_inner()
            .changed;
        assert_eq!(changed, !record.delete, "{uid}");
        assert!(
            bench.hub.read(|w| w.orphans[uid].value.delete),
            "it goes when its end was seen"
        );
    }
}
