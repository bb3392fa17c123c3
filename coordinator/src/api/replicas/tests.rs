//! The service: what it says as the active one, alone and as a standby; and how it hands over.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use proto::{
    model::Time,
    wire::{
        ReplicasStatusReply, ReplicasStatusRequest, TransferReply, TransferRequest, replica::Role,
        replicas_server::Replicas,
    },
};
use tonic::{Code, Request, Response, Status};

use super::{Leading, ReplicasService, Sole, Standby, Standing, TransferError, Transferred};
use crate::{
    api::{
        Access, Settings,
        etcd::admin::{Alone, StoreAdmin, StoreStatus},
        testing::{AllowAll, Bench, DenyAll, Stranger, refused},
    },
    store::{Change, CommitError, Expect, Rv, keys},
    world::{record::encode, replicas::CoordinatorRecord},
};

struct Fake {
    standing: Standing,
    calls: Mutex<Vec<String>>,
    answer: Result<Transferred, TransferError>,
}

#[async_trait]
impl Leading for Fake {
    fn standing(&self) -> Standing {
        self.standing.clone()
    }

    async fn transfer(&self, to: Option<&str>) -> Result<Transferred, TransferError> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(to.unwrap_or("-").to_owned());
        self.answer.clone()
    }
}

fn standby(rv: u64) -> Standby {
    Standby {
        version: "1.2.3".into(),
        since: Time(500),
        rv: Rv(rv),
        heard: 2,
        skew_ms: -3,
    }
}

fn leads() -> Standing {
    Standing {
        name: "c1".into(),
        address: "10.0.0.1:7443".into(),
        enrol: "10.0.0.1:7444".into(),
        leads: true,
        leader: "c1".into(),
        term: 41,
        since: Some(Time(1000)),
        because: "its stream was reset".into(),
        took: Duration::from_millis(212),
        heard: 3,
        following: BTreeMap::from([("c2".into(), standby(70_000)), ("c4".into(), standby(9))]),
    }
}

struct Rig {
    bench: Bench,
    leading: Arc<Fake>,
    service: ReplicasService,
}

async fn rig(standing: Standing, answer: Result<Transferred, TransferError>, access: Arc<dyn Access>) -> Rig {
    let bench = Bench::with(access, Settings::default()).await;
    for name in ["c1", "c2", "c3"] {
        let record = CoordinatorRecord {
            address: format!("{name}.example:7443"),
            enrol: format!("{name}.example:7444"),
            joined: Time(1),
            version: "1.0.0".into(),
        };
        let key = keys::coordinator(name);
        bench.put(vec![Change::put(key, Expect::Any, encode(&record))]).await;
    }
    let leading = Arc::new(Fake {
        standing,
        calls: Mutex::default(),
        answer,
    });
    let service = ReplicasService {
        api: bench.api.clone(),
        cluster: "0f8f".into(),
        leading: leading.clone(),
        admin: Alone::sqlite(),
    };
    Rig {
        bench,
        leading,
        service,
    }
}

fn led_by(name: &str) -> Result<Transferred, TransferError> {
    Ok(Transferred {
        name: name.into(),
        term: 42,
    })
}

impl Rig {
    async fn status(&self) -> Result<ReplicasStatusReply, Status> {
        let reply = self.service.status(Request::new(ReplicasStatusRequest {})).await;
        reply.map(Response::into_inner)
    }

    async fn transfer(&self, to: &str, dry_run: bool) -> Result<TransferReply, Status> {
        let request = TransferRequest { to: to.into(), dry_run };
        self.service
            .transfer(Request::new(request))
            .await
            .map(Response::into_inner)
    }

    fn calls(&self) -> Vec<String> {
        self.leading
            .calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn records(&self) -> Vec<String> {
        let records = self.bench.store.values("audit/");
        let line = |r: &serde_json::Value| {
            let text = |field: &str| r[field].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("verb"), text("object"), text("detail"))
        };
        records.iter().map(line).collect()
    }
}

#[tokio::test]
async fn the_active_one_tells_of_all_on_record() {
    let rig = rig(leads(), led_by("c2"), Arc::new(AllowAll)).await;
    let told = rig.status().await.expect("told");
    assert_eq!(
        (
            told.cluster_id.as_str(),
            told.answered_by.as_str(),
            told.leader.as_str(),
            told.term
        ),
        ("0f8f", "c1", "c1", 41)
    );
    assert_eq!(
        (told.leads_since, told.took_over_because.as_str(), told.took_over_ms),
        (1000, "its stream was reset", 212)
    );
    let rows: Vec<_> = told
        .replicas
        .iter()
        .map(|r| {
            (
                r.name.as_str(),
                r.address.as_str(),
                r.role(),
                r.version.as_str(),
                r.since,
                r.nodes_heard,
            )
        })
        .collect();
    // One that follows and is no longer on record is none of ours.
    assert_eq!(
        rows,
        [
            ("c1", "c1.example:7443", Role::Active, proto::VERSION, 1000, 3),
            ("c2", "c2.example:7443", Role::Standby, "1.2.3", 500, 2),
            ("c3", "c3.example:7443", Role::Missing, "1.0.0", 0, 0),
        ]
    );
    assert_eq!(
        (told.replicas[1].resource_version, told.replicas[1].skew_ms),
        (70_000, -3)
    );
    assert_eq!(told.replicas[0].resource_version, told.resource_version);
    assert_eq!(told.problems.len(), 1, "{:?}", told.problems);
    assert_eq!(told.problems[0].object, "coordinator/c3");
}

#[tokio::test]
async fn a_standby_answers_and_says_no_more_than_it_knows() {
    let standing = Standing {
        name: "c2".into(),
        leader: "c1".into(),
        term: 41,
        ..Standing::default()
    };
    let rig = rig(standing, led_by("c1"), Arc::new(AllowAll)).await;
    rig.bench.hub.set_fence(None);
    let told = rig.status().await.expect("told");
    let roles: Vec<Role> = told.replicas.iter().map(proto::wire::Replica::role).collect();
    assert_eq!(roles, [Role::Active, Role::Standby, Role::Unknown]);
    assert_eq!((told.leads_since, told.problems.len()), (0, 0), "{:?}", told.problems);
    // But it hands nothing over.
    assert_eq!(refused(rig.transfer("", false).await).0, Code::Unavailable);
}

#[tokio::test]
async fn one_coordinator_alone_is_told_as_such() {
    let bench = Bench::new().await;
    let sole = Sole::new(bench.hub.clone(), "10.0.0.1:7443".into(), "10.0.0.1:7444".into(), || 5);
    let status = StoreStatus {
        write: Some((Duration::from_micros(800), Duration::from_millis(3))),
        last_backup: Some(Time(77)),
        ..StoreStatus::default()
    };
    let admin: Arc<dyn StoreAdmin> = Arc::new(Alone(status));
    let service = ReplicasService {
        api: bench.api.clone(),
        cluster: "0f8f".into(),
        leading: sole,
        admin,
    };
    let told = service
        .status(Request::new(ReplicasStatusRequest {}))
        .await
        .expect("told")
        .into_inner();
    let one = &told.replicas[0];
    assert_eq!(
        (told.replicas.len(), one.role(), one.address.as_str(), one.nodes_heard),
        (1, Role::Active, "10.0.0.1:7443", 5)
    );
    assert!(
        told.leads_since > 0 && told.problems.is_empty() && told.warnings.is_empty(),
        "{told:?}"
    );
    let store = told.store.expect("told");
    assert_eq!(
        (
            store.kind.as_str(),
            store.write_p50_us,
            store.write_p99_us,
            store.last_backup
        ),
        ("sqlite", 800, 3000, 77)
    );
    let refusal = refused(service.transfer(Request::new(TransferRequest::default())).await);
    assert_eq!(refusal.0, Code::FailedPrecondition);
    assert!(refusal.1.contains("this is the only one"), "{refusal:?}");
    bench.hub.set_fence(None);
    let told = service
        .status(Request::new(ReplicasStatusRequest {}))
        .await
        .expect("told")
        .into_inner();
    assert_eq!((told.leader.as_str(), told.replicas[0].role()), ("", Role::Standby));
}

#[tokio::test]
async fn a_hand_over_is_on_record_before_it_begins() {
    let rig = rig(leads(), led_by("c2"), Arc::new(AllowAll)).await;
    let dry = rig.transfer("", true).await.expect("told");
    assert_eq!(
        (dry.name.as_str(), dry.term, rig.calls(), rig.records()),
        ("c2", 0, vec![], vec![])
    );
    let done = rig.transfer("", false).await.expect("done");
    assert_eq!((done.name.as_str(), done.term), ("c2", 42));
    rig.transfer("c2", false).await.expect("done");
    assert_eq!(rig.calls(), ["-", "c2"]);
    assert_eq!(rig.records(), ["transfer coordinators/c2 from c1, term 41"; 2]);
    // No record, no hand-over.
    rig.bench.store.fail(CommitError::Fenced { ours: 1, current: 2 });
    assert_eq!(refused(rig.transfer("c2", false).await).0, Code::Unavailable);
    assert_eq!(rig.calls().len(), 2);
}

#[tokio::test]
async fn who_cannot_take_over_is_refused_in_words() {
    let rig = rig(leads(), led_by("c2"), Arc::new(AllowAll)).await;
    for (to, code, words) in [
        ("c1", Code::FailedPrecondition, "coordinators \"c1\": leads already"),
        (
            "c3",
            Code::FailedPrecondition,
            "coordinators \"c3\": does not follow; start it, or choose one that does: wharf cluster status",
        ),
        (
            "c9",
            Code::NotFound,
            "coordinators \"c9\" not found; did you mean `c1`?",
        ),
    ] {
        assert_eq!(refused(rig.transfer(to, false).await), (code, words.to_owned()));
    }
    assert_eq!((rig.calls(), rig.records()), (vec![], vec![]));
    let none = Standing {
        following: BTreeMap::new(),
        ..leads()
    };
    let rig = self::rig(none, led_by("c2"), Arc::new(AllowAll)).await;
    assert!(refused(rig.transfer("", false).await).1.contains("no standby follows"));
}

#[tokio::test]
async fn a_hand_over_that_failed_is_on_record_and_not_tried_again_by_clients() {
    for (error, code) in [
        (TransferError::Refused("it is ending".into()), Code::FailedPrecondition),
        (
            TransferError::NotTaken("it did not take over within 1 s".into()),
            Code::DeadlineExceeded,
        ),
    ] {
        let words = error.to_string();
        let rig = rig(leads(), Err(error), Arc::new(AllowAll)).await;
        assert_eq!(
            refused(rig.transfer("c2", false).await),
            (code, format!("coordinators \"c2\": {words}"))
        );
        assert_eq!(
            rig.records(),
            [
                "transfer coordinators/c2 from c1, term 41".to_owned(),
                format!("transfer-failed coordinators/c2 {words}")
            ]
        );
    }
}

#[tokio::test]
async fn nothing_is_said_before_the_caller_is_authorized() {
    let rig = rig(leads(), led_by("c2"), Arc::new(DenyAll)).await;
    assert_eq!(refused(rig.status().await).1, "get cluster/ /");
    assert_eq!(refused(rig.transfer("c2", true).await).1, "update cluster/leader /c2");
    let rig = self::rig(leads(), led_by("c2"), Arc::new(Stranger)).await;
    assert_eq!(refused(rig.status().await).0, Code::Unauthenticated);
}
