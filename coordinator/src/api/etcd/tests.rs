//! The service over members in memory: who may, what is on record, and what is done when.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use proto::wire::{
    AddMemberReply, AddMemberRequest, DefragReply, DefragRequest, MemberReply, RemoveMemberRequest,
    UpdateMemberRequest, etcd_server::Etcd,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{
    EtcdService, Members,
    admin::{AdminError, Alone, Member, StoreAdmin, StoreStatus},
    decide_tests::{down, etcd, member},
    promote,
};
use crate::{
    api::{
        Access, Settings,
        testing::{Bench, DenyAll, refused},
    },
    store::CommitError,
};

/// Members that do as they are told.
pub struct Fake {
    pub status: Mutex<StoreStatus>,
    pub calls: Mutex<Vec<String>>,
    /// How the next change ends.
    pub fault: Mutex<Option<AdminError>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fake {
    pub fn new(members: Vec<Member>) -> Arc<Self> {
        Arc::new(Self {
            status: Mutex::new(etcd(members)),
            calls: Mutex::default(),
            fault: Mutex::default(),
        })
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.calls))
    }

    fn begin(&self, call: String) -> Result<(), AdminError> {
        lock(&self.calls).push(call);
        lock(&self.fault).take().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl StoreAdmin for Fake {
    async fn status(&self) -> StoreStatus {
        lock(&self.status).clone()
    }

    async fn add_member(&self, peer_urls: &[String], learner: bool) -> Result<u64, AdminError> {
        self.begin(format!("add {} {learner}", peer_urls.join(",")))?;
        let id = 0xabc;
        lock(&self.status).members.push(Member {
            id,
            name: String::new(),
            peer_urls: peer_urls.to_vec(),
            client_urls: Vec::new(),
            learner,
            ..down(9)
        });
        Ok(id)
    }

    async fn promote_member(&self, id: u64) -> Result<(), AdminError> {
        self.begin(format!("promote {id:x}"))?;
        let mut status = lock(&self.status);
        status
            .members
            .iter_mut()
            .filter(|m| m.id == id)
            .for_each(|m| m.learner = false);
        Ok(())
    }

    async fn update_member(&self, id: u64, peer_urls: &[String]) -> Result<(), AdminError> {
        self.begin(format!("update {id:x} {}", peer_urls.join(",")))
    }

    async fn remove_member(&self, id: u64) -> Result<(), AdminError> {
        self.begin(format!("remove {id:x}"))?;
        lock(&self.status).members.retain(|m| m.id != id);
        Ok(())
    }

    async fn defrag(&self, id: u64) -> Result<(), AdminError> {
        self.begin(format!("defrag {id:x}"))?;
        let mut status = lock(&self.status);
        for member in status.members.iter_mut().filter(|m| m.id == id) {
            if let Ok(answer) = &mut member.answer {
                answer.size = answer.in_use;
            }
        }
        Ok(())
    }
}

struct Rig {
    bench: Bench,
    members: Arc<Members>,
    service: EtcdService,
}

async fn rig(admin: Arc<dyn StoreAdmin>) -> Rig {
    rig_with(admin, Arc::new(crate::api::testing::AllowAll)).await
}

async fn rig_with(admin: Arc<dyn StoreAdmin>, access: Arc<dyn Access>) -> Rig {
    let bench = Bench::with(access, Settings::default()).await;
    let members = Members::new(bench.api.clone(), admin);
    let service = EtcdService {
        members: members.clone(),
    };
    Rig {
        bench,
        members,
        service,
    }
}

fn three() -> Vec<Member> {
    vec![member(1), member(2), member(3)]
}

impl Rig {
    async fn add(&self, name: &str, dry_run: bool) -> Result<AddMemberReply, Status> {
        let mut request = Request::new(AddMemberRequest {
            name: name.into(),
            peer_urls: vec!["https://10.0.0.4:2380".into()],
            dry_run,
        });
        let reason = proto::reason::encode("new host").parse().expect("ASCII");
        request.metadata_mut().insert(proto::reason::HEADER, reason);
        self.service.add_member(request).await.map(Response::into_inner)
    }

    async fn update(&self, member: &str, url: &str) -> Result<MemberReply, Status> {
        let request = UpdateMemberRequest {
            member: member.into(),
            peer_urls: vec![url.into()],
            dry_run: false,
        };
        self.service
            .update_member(Request::new(request))
            .await
            .map(Response::into_inner)
    }

    async fn remove(&self, member: &str, dry_run: bool) -> Result<MemberReply, Status> {
        let request = RemoveMemberRequest {
            member: member.into(),
            dry_run,
        };
        self.service
            .remove_member(Request::new(request))
            .await
            .map(Response::into_inner)
    }

    async fn defrag(&self, dry_run: bool) -> Result<DefragReply, Status> {
        let request = DefragRequest {
            members: Vec::new(),
            dry_run,
        };
        self.service
            .defrag(Request::new(request))
            .await
            .map(Response::into_inner)
    }

    /// Verb, object, detail and reason of each record.
    fn records(&self) -> Vec<String> {
        let text = |r: &serde_json::Value, field: &str| r[field].as_str().unwrap_or_default().to_owned();
        let records = self.bench.store.values("audit/");
        let line = |r: &serde_json::Value| {
            let [verb, object, detail, reason] = ["verb", "object", "detail", "reason"].map(|f| text(r, f));
            format!("{verb} {object} {detail} {reason}").trim_end().to_owned()
        };
        records.iter().map(line).collect()
    }
}

#[tokio::test]
async fn a_member_is_added_once_with_its_record_before_it() {
    let fake = Fake::new(three());
    let rig = rig(fake.clone()).await;
    let dry = rig.add("etcd4", true).await.expect("may");
    assert!(
        dry.changed && dry.environment.starts_with("ETCD_NAME=etcd4\n"),
        "{dry:?}"
    );
    assert_eq!((fake.calls(), rig.records()), (vec![], vec![]));
    let added = rig.add("etcd4", false).await.expect("added");
    let member = added.member.expect("told");
    assert_eq!((member.id.as_str(), member.learner, added.changed), ("abc", true, true));
    assert_eq!(fake.calls(), ["add https://10.0.0.4:2380 true"]);
    let record = "add members/etcd4 at https://10.0.0.4:2380, as a learner new host";
    assert_eq!(rig.records(), [record]);
    // A lost answer: the same again changes nothing, and tells the same.
    let again = rig.add("etcd4", false).await.expect("told");
    assert_eq!((again.changed, again.environment), (false, added.environment));
    assert_eq!((fake.calls(), rig.records().len()), (vec![], 1));
}

#[tokio::test]
async fn update_and_remove_do_what_was_asked_and_say_so() {
    let fake = Fake::new(three());
    let rig = rig(fake.clone()).await;
    let same = rig.update("etcd2", "https://10.0.0.2:2380").await.expect("told");
    assert!(!same.changed && fake.calls().is_empty());
    let moved = rig.update("etcd2", "https://10.0.0.9:2380").await.expect("moved");
    assert_eq!(moved.member.expect("told").peer_urls, ["https://10.0.0.9:2380"]);
    assert_eq!(fake.calls(), ["update ce2a822cea30bfc2 https://10.0.0.9:2380"]);
    rig.remove("etcd3", true).await.expect("may");
    assert_eq!(fake.calls(), Vec::<String>::new());
    let removed = rig.remove("ce2a822cea30bfc3", false).await.expect("removed");
    assert_eq!(removed.warnings.len(), 1, "{removed:?}");
    assert_eq!(
        rig.records(),
        [
            "update members/etcd2 from https://10.0.0.2:2380 to https://10.0.0.9:2380",
            "remove members/etcd3 ce2a822cea30bfc3, at https://10.0.0.3:2380"
        ]
    );
    assert_eq!(refused(rig.remove("etcd3", false).await).0, Code::NotFound);
}

#[tokio::test]
async fn what_would_cost_the_majority_reaches_neither_etcd_nor_the_record() {
    let fake = Fake::new(vec![member(1), member(2), down(3)]);
    let rig = rig(fake.clone()).await;
    for refusal in [
        refused(rig.remove("etcd2", false).await),
        refused(rig.add("etcd4", false).await),
        refused(rig.update("etcd2", "https://10.0.0.9:2380").await),
        refused(rig.defrag(false).await),
    ] {
        assert_eq!(refusal.0, Code::FailedPrecondition, "{refusal:?}");
    }
    assert_eq!((fake.calls(), rig.records()), (vec![], vec![]));
}

#[tokio::test]
async fn a_change_that_fails_is_on_record_as_failed() {
    let fake = Fake::new(three());
    let rig = rig(fake.clone()).await;
    for (fault, code, words) in [
        (
            AdminError::Refused("unhealthy cluster".into()),
            Code::FailedPrecondition,
            "members/etcd3: etcd refused: unhealthy cluster",
        ),
        (
            AdminError::Unknown("no answer within 5s".into()),
            // Never UNAVAILABLE: on that the command tries again by itself.
            Code::DeadlineExceeded,
            "members/etcd3: no answer within 5s; whether it was done is unknown: look with wharf cluster members before \
             you repeat it",
        ),
    ] {
        *lock(&fake.fault) = Some(fault);
        assert_eq!(refused(rig.remove("etcd3", false).await), (code, words.to_owned()));
    }
    let failed: Vec<String> = rig
        .records()
        .into_iter()
        .filter(|r| r.starts_with("remove-failed"))
        .collect();
    assert_eq!(
        failed,
        [
            "remove-failed members/etcd3 unhealthy cluster",
            "remove-failed members/etcd3 no answer within 5s"
        ]
    );
}

#[tokio::test]
async fn without_the_fence_nothing_is_changed() {
    let fake = Fake::new(three());
    let rig = rig(fake.clone()).await;
    // Deposed between the look and the record: the commit finds out.
    rig.bench.store.fail(CommitError::Fenced { ours: 1, current: 2 });
    assert_eq!(refused(rig.remove("etcd3", false).await).0, Code::Unavailable);
    rig.bench.hub.set_fence(None);
    assert_eq!(refused(rig.remove("etcd3", false).await).0, Code::Unavailable);
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_full_store_can_be_defragmented_and_the_record_follows() {
    let fake = Fake::new(three());
    lock(&fake.status).members[0].alarms.push("NOSPACE".into());
    let rig = rig(fake.clone()).await;
    rig.bench.store.fail(CommitError::Full("quota".into()));
    let reply = rig.defrag(false).await.expect("done");
    assert_eq!(
        fake.calls(),
        [
            "defrag ce2a822cea30bfc2",
            "defrag ce2a822cea30bfc3",
            "defrag ce2a822cea30bfc1"
        ]
    );
    let sizes: Vec<_> = reply
        .members
        .iter()
        .map(|d| (d.name.as_str(), d.before, d.after))
        .collect();
    assert_eq!(sizes, [("etcd2", 100, 60), ("etcd3", 100, 60), ("etcd1", 100, 60)]);
    let mut records = rig.records();
    records.sort();
    assert_eq!(
        records,
        ["defrag members/etcd1", "defrag members/etcd2", "defrag members/etcd3"]
    );
}

#[tokio::test]
async fn after_one_defragmentation_that_failed_none_is_begun() {
    let fake = Fake::new(three());
    let rig = rig(fake.clone()).await;
    let dry = rig.defrag(true).await.expect("told");
    let names: Vec<&str> = dry.members.iter().map(|d| d.name.as_str()).collect();
    assert_eq!((names, fake.calls()), (vec!["etcd2", "etcd3", "etcd1"], vec![]));
    *lock(&fake.fault) = Some(AdminError::Unknown("no answer".into()));
    let reply = rig.defrag(false).await.expect("told");
    assert_eq!(fake.calls(), ["defrag ce2a822cea30bfc2"]);
    let problems: Vec<&str> = reply.members.iter().map(|d| d.problem.as_str()).collect();
    assert!(problems[0].starts_with("members/etcd2: no answer"), "{problems:?}");
    assert_eq!(problems[1..], ["not begun, since etcd2 failed"; 2]);
}

#[tokio::test]
async fn nobody_is_told_of_members_before_he_is_authorized() {
    let rig = rig_with(Fake::new(three()), Arc::new(DenyAll)).await;
    let asked = [
        refused(rig.add("etcd4", false).await).1,
        refused(rig.update("etcd2", "x").await).1,
        refused(rig.remove("etcd2", true).await).1,
        refused(rig.defrag(true).await).1,
    ];
    assert_eq!(
        asked,
        [
            "create cluster/members /etcd4",
            "update cluster/members /etcd2",
            "delete cluster/members /etcd2",
            "update cluster/defrag /"
        ]
    );
}

#[tokio::test]
async fn sqlite_has_no_members_and_says_so() {
    let rig = rig(Alone::sqlite()).await;
    for refusal in [
        refused(rig.add("etcd4", false).await),
        refused(rig.update("etcd2", "https://h:1").await),
        refused(rig.remove("etcd2", false).await),
        refused(rig.defrag(false).await),
    ] {
        assert_eq!(refusal, (Code::FailedPrecondition, super::admin::NO_MEMBERS.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_learner_gets_its_vote_once_etcd_finds_it_has_caught_up() {
    let mut members = three();
    members.push(Member {
        learner: true,
        ..member(4)
    });
    members.push(Member {
        learner: true,
        ..down(5)
    });
    let fake = Fake::new(members);
    let rig = rig(fake.clone()).await;
    *lock(&fake.fault) = Some(AdminError::Refused("not in sync with leader".into()));
    let stopping = CancellationToken::new();
    let running = tokio::spawn(promote::run(rig.members.clone(), promote::PERIOD, stopping.clone()));
    tokio::time::sleep(promote::PERIOD * 3 + promote::PERIOD / 2).await;
    // Refused once, then given; who does not answer is not asked about.
    assert_eq!(fake.calls(), ["promote ce2a822cea30bfc4"; 2]);
    assert_eq!(rig.records(), ["promote members/etcd4 has caught up"]);
    rig.bench.hub.set_fence(None);
    lock(&fake.status).members[3].learner = true;
    tokio::time::sleep(promote::PERIOD * 2).await;
    assert_eq!(fake.calls(), Vec::<String>::new(), "a standby gives no votes");
    stopping.cancel();
    running.await.expect("ends");
}
