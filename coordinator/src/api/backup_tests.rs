//! A backup by the API: in pieces, one at a time, on record.

use std::sync::Arc;

use futures::StreamExt as _;
use proto::{
    backup::decode,
    wire::{BackupRequest, cluster_server::Cluster as _},
};
use tonic::{Code, Request};

use super::{
    cluster::{ClusterFacts, ClusterService},
    testing::{Bench, DenyAll},
    *,
};
use crate::{
    backup::tests as bed,
    ca::META_CLUSTER,
    store::{Change, Expect},
    world::record::encode,
};

async fn bench() -> (Bench, ClusterService) {
    let bench = Bench::new().await;
    let meta = encode(&bed::meta());
    // More than one piece.
    let large = vec![7_u8; 200 << 10];
    bench
        .put(vec![
            Change::put(META_CLUSTER, Expect::Any, meta),
            Change::put("meta/large", Expect::Any, large),
        ])
        .await;
    let service = service(&bench);
    (bench, service)
}

fn service(bench: &Bench) -> ClusterService {
    let facts = ClusterFacts {
        ranks: None,
        cluster_id: bed::CLUSTER.into(),
        coordinators: Vec::new(),
        secret: Arc::new(|| Err("cluster.key: not here".into())),
        found: std::sync::Arc::new(Default::default),
    };
    ClusterService::new(Arc::clone(&bench.api), facts)
}

fn asking(passphrase: &str) -> Request<BackupRequest> {
    Request::new(BackupRequest {
        passphrase: passphrase.into(),
    })
}

#[tokio::test]
async fn it_comes_in_pieces_and_is_on_record() {
    let (bench, service) = bench().await;
    let mut pieces = service.backup(asking("")).await.expect("begun").into_inner();
    let refused = service.backup(asking("")).await.map(drop).expect_err("one at a time");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("another backup"), "{}", refused.message());
    let (mut bytes, mut count) = (Vec::new(), 0);
    while let Some(piece) = pieces.next().await {
        bytes.extend(piece.expect("a piece").data);
        count += 1;
    }
    assert!(count > 3, "{count}");
    let read = decode(&bytes).expect("whole");
    assert_eq!(read.header.cluster, bed::CLUSTER);
    assert!(read.entries.iter().any(|e| e.key == "meta/large"));
    let records = bench.store.values("meta/backup");
    assert_eq!(records[0]["by"], "user/admin");
    assert_eq!(records[0]["bytes"], bytes.len());
    let audit = bench.store.values("audit/");
    assert_eq!(
        (&audit[0]["verb"], &audit[0]["caller"]),
        (&"backup".into(), &"user/admin".into())
    );
    drop(pieces);
    service
        .backup(asking(""))
        .await
        .map(drop)
        .expect("the seat is free again");
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_and_not_on_record() {
    let (bench, service) = bench().await;
    let refused = service
        .backup(asking("long enough it is"))
        .await
        .map(drop)
        .expect_err("no secret");
    assert!(
        refused.message().contains("cluster.key: not here"),
        "{}",
        refused.message()
    );
    assert!(bench.store.values("meta/backup").is_empty());
    bench.hub.set_fence(None);
    let refused = service.backup(asking("")).await.map(drop).expect_err("a standby");
    assert_eq!(refused.code(), Code::Unavailable);
    let bench = Bench::with(Arc::new(DenyAll), Settings::default()).await;
    let refused = super::backup_tests::service(&bench)
        .backup(asking(""))
        .await
        .map(drop)
        .expect_err("denied");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, "get backups/ /")
    );
}
