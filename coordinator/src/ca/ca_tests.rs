//! Joining, renewal and tokens against a store in memory.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use proto::{
    identity::{Role, serial_of_certificate},
    model::Node,
    token::JoinToken,
    wire,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tonic::Code;

use super::{
    audit::AuditRecord,
    certs::{DeniedKind, Standing, revoke_changes},
    enrol::{JoinError, REFUSED},
    test_store::TestStore,
    tokens::TokenSpec,
    *,
};
use crate::{
    init::{InitOptions, InitReport, admin_credentials, init},
    store::{Expect, keys},
};

#[path = "again_tests.rs"]
mod again;
#[path = "csr_tests.rs"]
mod csr;
#[path = "deleted_tests.rs"]
mod deleted;
#[path = "replicas_tests.rs"]
mod replicas;
#[path = "restored_tests.rs"]
mod restored;

const NOW: u64 = 1_800_000_000_000;
const HOUR: u64 = 3600 * 1000;

struct Bed {
    dir: tempfile::TempDir,
    store: Arc<TestStore>,
    clock: Arc<AtomicU64>,
    fence: Arc<Mutex<Option<Fence>>>,
    report: InitReport,
    ca: Authority,
}

fn parts(dir: &Path, store: &Arc<TestStore>, clock: &Arc<AtomicU64>, fence: &Arc<Mutex<Option<Fence>>>) -> Parts {
    let (clock, fence) = (clock.clone(), fence.clone());
    Parts {
        data_dir: dir.to_owned(),
        store: store.clone(),
        clock: Arc::new(move || clock.load(Ordering::SeqCst)),
        fence: Arc::new(move || fence.lock().expect("lock").clone()),
        settings: Settings {
            refusal_burst: 5,
            ..Settings::default()
        },
    }
}

async fn bed() -> Bed {
    let dir = tempfile::tempdir().expect("directory");
    let store = TestStore::new();
    let options = InitOptions {
        data_dir: dir.path().to_owned(),
        advertise: Some("coordinator.test:7443".into()),
        name: Some("c1".into()),
        now_ms: NOW,
    };
    let opened: Arc<dyn Store> = store.clone();
    let report = init(options, Vec::new(), async |_| Ok(opened)).await.expect("init");
    let clock = Arc::new(AtomicU64::new(NOW));
    let fence = store.take_term(&report.incarnation, "test").await.expect("term");
    let fence = Arc::new(Mutex::new(Some(fence)));
    let ca = Authority::open(parts(dir.path(), &store, &clock, &fence))
        .await
        .expect("open");
    Bed {
        dir,
        store,
        clock,
        fence,
        report,
        ca,
    }
}

fn spec(uses: u32) -> TokenSpec {
    TokenSpec {
        role: Role::Agent,
        uses,
        ttl_ms: HOUR,
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        node: String::new(),
    }
}

struct Host {
    name: String,
    key: KeyPair,
}

impl Host {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            key: KeyPair::generate().expect("key"),
        }
    }

    fn csr(&self) -> Vec<u8> {
        CertificateParams::default()
            .serialize_request(&self.key)
            .expect("request")
            .der()
            .to_vec()
    }

    fn request(&self, token: &str) -> wire::EnrolRequest {
        wire::EnrolRequest {
            token: token.into(),
            csr_der: self.csr(),
            node_name: self.name.clone(),
            clock_ms: NOW,
            version: proto::VERSION.into(),
            machine_id: format!("machine-{}", self.name),
            shared_host: false,
            architecture: "amd64".into(),
            operating_system: "linux".into(),
        }
    }
}

fn leaf(issued: &wire::Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.certificate_chain_pem.as_bytes()).expect("PEM")
}

fn serial(issued: &wire::Issued) -> String {
    serial_of_certificate(&leaf(issued)).expect("serial")
}

impl Bed {
    async fn token(&self, spec: &TokenSpec) -> (String, String) {
        let (id, _, text) = self.ca.create_token(spec, "user/admin", "").await.expect("token");
        (id, text)
    }

    async fn join(&self, host: &Host, token: &str) -> Result<wire::EnrolReply, JoinError> {
        self.ca.enrol(&host.request(token)).await
    }

    async fn joined(&self, host: &Host) -> wire::Issued {
        let (_, token) = self.token(&spec(1)).await;
        self.join(host, &token).await.expect("joins").issued.expect("issued")
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        let snapshot = self.store.load().await.expect("load");
        snapshot
            .entries
            .into_iter()
            .map(|e| e.key)
            .filter(|k| k.starts_with(prefix))
            .collect()
    }

    async fn used(&self, id: &str) -> u32 {
        let entry = self.store.get(&keys::token(id)).await.expect("get").expect("token");
        serde_json::from_slice::<tokens::TokenRecord>(&entry.value)
            .expect("record")
            .used
    }

    fn at(&self, ms: u64) {
        self.clock.store(ms, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_token_makes_a_node_with_its_labels_in_one_commit() {
    let bed = bed().await;
    let (id, token) = bed.token(&spec(1)).await;
    let before = bed.store.newest();
    let reply = bed.join(&Host::new("n1"), &token).await.expect("joins");
    assert_eq!(bed.store.newest().revision(), before.revision() + 1, "one commit");
    assert_eq!(reply.node_name, "n1");
    assert_eq!(reply.cluster_id, bed.report.cluster);
    assert_eq!(reply.coordinators, ["coordinator.test:7443"]);
    let entry = bed.store.get("obj/node/-/n1").await.expect("get").expect("node");
    let node: Node = serde_json::from_slice(&entry.value).expect("a node");
    assert_eq!(node.metadata.labels["zone"], "a");
    for (key, value) in [("hostname", "n1"), ("arch", "amd64"), ("os", "linux")] {
        assert_eq!(node.metadata.labels[&format!("kubernetes.io/{key}")], value);
    }
    assert_eq!(node.metadata.creation_timestamp.map(|t| t.0), Some(NOW as i64 / 1000));
    assert!(uuid::Uuid::parse_str(&node.metadata.uid).is_ok());
    assert_eq!(bed.used(&id).await, 1);
    // init, token create, join
    let audit = bed.keys("audit/").await;
    assert_eq!(audit.len(), 3);
    let issued = reply.issued.expect("issued");
    let caller = bed.ca.authenticate(&leaf(&issued)).await.expect("valid at once");
    assert_eq!(caller.to_string(), "agent/n1");
    assert_eq!(issued.not_after, (NOW + 72 * HOUR) / 1000);
    let tokens = bed.ca.view().tokens();
    assert_eq!(tokens[0].2.to_wire(&id).nodes, ["n1"]);
}

#[tokio::test]
async fn refused_tokens_get_one_text_and_change_nothing() {
    let bed = bed().await;
    let (id, good) = bed.token(&spec(1)).await;
    let token = JoinToken::parse(&good).expect("token");
    let mut wrong_secret = token.clone();
    wrong_secret.secret[0] ^= 1;
    let mut unknown = token.clone();
    unknown.id = "zzzzz".into();
    let mut claims_coordinator = token.clone();
    claims_coordinator.role = Role::Coordinator;
    let (coordinator_id, for_coordinators) = bed
        .token(&TokenSpec {
            role: Role::Coordinator,
            labels: Default::default(),
            ..spec(1)
        })
        .await;
    let revisions = bed.store.newest();
    let host = Host::new("n1");
    let mut texts = Vec::new();
    for bad in [
        wrong_secret.reveal(),
        unknown.reveal(),
        claims_coordinator.reveal(),
        for_coordinators,
    ] {
        let error = bed.join(&host, &bad).await.expect_err("refused");
        assert_eq!(error, JoinError::Refused);
        texts.push(tonic::Status::from(error));
    }
    bed.at(NOW + HOUR);
    let mut late = host.request(&good);
    late.clock_ms = NOW + HOUR;
    texts.push(bed.ca.enrol(&late).await.expect_err("expired").into());
    for status in texts {
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, REFUSED));
    }
    assert_eq!(bed.store.newest(), revisions, "nothing changed");
    assert_eq!((bed.used(&id).await, bed.used(&coordinator_id).await), (0, 0));
    assert_eq!(bed.keys("obj/").await, Vec::<String>::new());
}

#[tokio::test]
async fn spent_and_revoked() {
    let bed = bed().await;
    let (_, token) = bed.token(&spec(1)).await;
    bed.join(&Host::new("n1"), &token).await.expect("joins");
    assert_eq!(bed.join(&Host::new("n2"), &token).await, Err(JoinError::Refused));
    let (id, token) = bed.token(&spec(5)).await;
    let n3 = Host::new("n3");
    bed.join(&n3, &token).await.expect("joins");
    let record = bed.ca.revoke_token(&id, "user/admin", "").await.expect("revoked");
    assert!(record.revoked);
    bed.ca
        .revoke_token(&id, "user/admin", "")
        .await
        .expect("twice is no error");
    assert_eq!(bed.join(&Host::new("n4"), &token).await, Err(JoinError::Refused));
    assert_eq!(bed.join(&n3, &token).await, Err(JoinError::Refused));
    assert_eq!(bed.keys("obj/node/").await, ["obj/node/-/n1", "obj/node/-/n3"]);
    let missing = bed
        .ca
        .revoke_token("nope", "user/admin", "")
        .await
        .expect_err("unknown");
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test]
async fn malformed_requests_are_named() {
    let bed = bed().await;
    let (id, token) = bed.token(&spec(1)).await;
    let host = Host::new("n1");
    let ask = async |change: &dyn Fn(&mut wire::EnrolRequest)| {
        let mut request = host.request(&token);
        change(&mut request);
        tonic::Status::from(bed.ca.enrol(&request).await.expect_err("refused"))
    };
    let status = ask(&|r| r.token.truncate(30)).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().starts_with("token: the join token is damaged"),
        "{status}"
    );
    let status = ask(&|r| r.csr_der.push(0)).await;
    assert!(status.message().starts_with("csr_der: "), "{status}");
    for name in ["", "N1", "a/b", "../x", &"a".repeat(64)] {
        let status = ask(&|r| r.node_name = name.to_owned()).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{name}");
        assert!(status.message().starts_with("node_name: "), "{status}");
    }
    for skew in [-1, 1] {
        let status = ask(&|r| r.clock_ms = r.clock_ms.saturating_add_signed(skew * 301_000)).await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        let host = if skew < 0 {
            "2027-01-15T07:54:59Z"
        } else {
            "2027-01-15T08:05:01Z"
        };
        assert!(
            status.message().contains(host) && status.message().contains("2027-01-15T08:00:00Z"),
            "{status}"
        );
    }
    assert_eq!(bed.used(&id).await, 0);
    assert!(bed.keys("obj/").await.is_empty());
}

#[tokio::test]
async fn a_repeat_with_the_same_key_costs_nothing_and_both_answers_work() {
    let bed = bed().await;
    let (id, token) = bed.token(&spec(1)).await;
    let host = Host::new("n1");
    let first = bed.join(&host, &token).await.expect("joins").issued.expect("issued");
    // The token is spent by it; meanwhile it expires, too, and the host's name changed.
    bed.at(NOW + 2 * HOUR);
    let mut again = host.request(&token);
    again.clock_ms = NOW + 2 * HOUR;
    again.node_name = "other".into();
    let reply = bed.ca.enrol(&again).await.expect("the same node");
    assert_eq!(reply.node_name, "n1");
    let second = reply.issued.expect("issued");
    assert_eq!(bed.used(&id).await, 1);
    assert_eq!(bed.keys("obj/node/").await, ["obj/node/-/n1"]);
    assert_ne!(serial(&first), serial(&second));
    bed.ca
        .authenticate(&leaf(&first))
        .await
        .expect("valid until the second one is used");
    bed.ca.authenticate(&leaf(&second)).await.expect("valid");
    let denied = bed.ca.authenticate(&leaf(&first)).await.expect_err("superseded");
    assert_eq!(denied.kind, DeniedKind::Superseded);
}

#[tokio::test]
async fn after_a_renewal_the_enrolment_cannot_be_repeated() {
    let bed = bed().await;
    let (_, token) = bed.token(&spec(1)).await;
    let host = Host::new("n1");
    let issued = bed.join(&host, &token).await.expect("joins").issued.expect("issued");
    let caller = bed.ca.authenticate(&leaf(&issued)).await.expect("valid");
    bed.ca.renew(&caller, &Host::new("n1").csr()).await.expect("renews");
    assert_eq!(bed.join(&host, &token).await, Err(JoinError::Refused));
}

#[tokio::test]
async fn names_belong_to_keys() {
    let bed = bed().await;
    let (id, token) = bed.token(&spec(5)).await;
    let first = Host::new("n1");
    bed.join(&first, &token).await.expect("joins");
    let error = bed.join(&Host::new("n1"), &token).await.expect_err("taken");
    assert_eq!(error, JoinError::NameTaken("n1".into()));
    assert_eq!(tonic::Status::from(error).code(), Code::AlreadyExists);
    assert_eq!(bed.used(&id).await, 1);
    // The same key with another token: the first answer was lost for good.
    let (other_id, other) = bed.token(&spec(1)).await;
    assert_eq!(bed.join(&first, &other).await.expect("joins").node_name, "n1");
    assert_eq!(bed.used(&other_id).await, 1);
    // A token for one node name.
    let (_, only) = bed
        .token(&TokenSpec {
            node: "n7".into(),
            ..spec(1)
        })
        .await;
    let error = bed.join(&Host::new("n8"), &only).await.expect_err("another name");
    assert!(error.to_string().contains("--name n7"), "{error}");
    assert_eq!(tonic::Status::from(error).code(), Code::PermissionDenied);
    bed.join(&Host::new("n7"), &only).await.expect("joins");
}

#[tokio::test]
async fn a_revoked_node_is_shut_out_and_its_name_can_join_again() {
    let bed = bed().await;
    let old = bed.joined(&Host::new("n1")).await;
    let caller = bed.ca.authenticate(&leaf(&old)).await.expect("valid");
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let mut changes = revoke_changes(bed.ca.view(), "n1", "its key was stolen");
    changes.push(Change::delete("obj/node/-/n1", Expect::Any));
    bed.ca.commit(&fence, changes).await.expect("commit");
    let denied = bed.ca.still_valid(&caller).expect_err("revoked");
    assert_eq!(denied.kind, DeniedKind::Revoked);
    assert!(denied.message.contains("its key was stolen"), "{denied}");
    assert_eq!(bed.ca.authenticate(&leaf(&old)).await, Err(denied));
    assert!(bed.ca.renew(&caller, &Host::new("n1").csr()).await.is_err());
    let new = bed.joined(&Host::new("n1")).await;
    bed.ca.authenticate(&leaf(&new)).await.expect("valid");
    assert!(bed.ca.authenticate(&leaf(&old)).await.is_err());
}

#[tokio::test]
async fn fifty_at_once_and_the_fifty_first_refused() {
    let bed = bed().await;
    let (id, token) = bed.token(&spec(50)).await;
    let joins = (0..51).map(|i| {
        let host = Host::new(&format!("n{i}"));
        let (ca, token) = (bed.ca.clone(), token.clone());
        async move { ca.enrol(&host.request(&token)).await }
    });
    let results = futures::future::join_all(joins).await;
    let refused = results.iter().filter(|r| matches!(r, Err(JoinError::Refused))).count();
    assert_eq!((results.iter().filter(|r| r.is_ok()).count(), refused), (50, 1));
    assert_eq!(bed.keys("obj/node/").await.len(), 50);
    assert_eq!(bed.keys("cert/").await.len(), 50);
    assert_eq!(bed.used(&id).await, 50);
}

#[tokio::test]
async fn two_coordinators_at_once_never_spend_a_token_twice() {
    let bed = bed().await;
    let other = Authority::open(parts(bed.dir.path(), &bed.store, &bed.clock, &bed.fence))
        .await
        .expect("a second one on the same store");
    let (id, token) = bed.token(&spec(3)).await;
    let joins = (0..12).map(|i| {
        let host = Host::new(&format!("n{i}"));
        let ca = if i % 2 == 0 { bed.ca.clone() } else { other.clone() };
        let token = token.clone();
        async move { ca.enrol(&host.request(&token)).await }
    });
    let results = futures::future::join_all(joins).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 3, "{results:?}");
    assert_eq!(bed.keys("obj/node/").await.len(), 3);
    assert_eq!(bed.used(&id).await, 3);
}

#[tokio::test]
async fn the_same_host_twice_at_once_is_one_node() {
    let bed = bed().await;
    let (id, token) = bed.token(&spec(2)).await;
    let host = Host::new("n1");
    let request = host.request(&token);
    let (a, b) = tokio::join!(bed.ca.enrol(&request), bed.ca.enrol(&request));
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(bed.used(&id).await, 1);
}

#[tokio::test]
async fn without_a_fence_or_with_a_lost_one_nothing_is_written() {
    let bed = bed().await;
    let (id, token) = bed.token(&spec(1)).await;
    let host = Host::new("n1");
    let fence = bed.fence.lock().expect("lock").take();
    let status = tonic::Status::from(bed.join(&host, &token).await.expect_err("standby"));
    assert_eq!(status.code(), Code::Unavailable);
    *bed.fence.lock().expect("lock") = fence;
    bed.store.take_term("i", "another").await.expect("term");
    let status = tonic::Status::from(bed.join(&host, &token).await.expect_err("deposed"));
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(bed.used(&id).await, 0);
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_passes() {
    let bed = bed().await;
    let (_, token) = bed.token(&spec(1)).await;
    let host = Host::new("n1");
    bed.store.full.store(true, Ordering::SeqCst);
    let status = tonic::Status::from(bed.join(&host, &token).await.expect_err("full"));
    assert_eq!(status.code(), Code::Unavailable);
    bed.join(&host, &token).await.expect("there is room again");
}

#[tokio::test]
async fn too_many_refusals_are_limited_but_valid_tokens_pass() {
    let bed = bed().await;
    let (_, token) = bed.token(&spec(1)).await;
    let mut bad = JoinToken::parse(&token).expect("token");
    bad.secret[0] ^= 1;
    let host = Host::new("n1");
    for _ in 0..5 {
        assert_eq!(bed.join(&host, &bad.reveal()).await, Err(JoinError::Refused));
    }
    let status = tonic::Status::from(bed.join(&host, &bad.reveal()).await.expect_err("limited"));
    assert_eq!(status.code(), Code::ResourceExhausted);
    bed.join(&host, &token).await.expect("a valid token is not kept out");
    bed.at(NOW + 100);
    assert_eq!(bed.join(&host, &bad.reveal()).await, Err(JoinError::Refused));
}

#[tokio::test]
async fn renewal_keeps_the_old_serial_until_the_new_one_is_used() {
    let bed = bed().await;
    let first = bed.joined(&Host::new("n1")).await;
    let caller = bed.ca.authenticate(&leaf(&first)).await.expect("valid");
    // Two answers are lost, the third one arrives.
    let mut issued = first.clone();
    for _ in 0..3 {
        issued = bed.ca.renew(&caller, &Host::new("n1").csr()).await.expect("renews");
        assert_eq!(bed.ca.still_valid(&caller), Ok(Standing::Active));
    }
    assert_ne!(serial(&issued), caller.serial);
    let renewed = bed.ca.authenticate(&leaf(&issued)).await.expect("first use");
    assert_eq!(bed.ca.still_valid(&renewed), Ok(Standing::Active));
    assert_eq!(
        bed.ca.still_valid(&caller).expect_err("old").kind,
        DeniedKind::Superseded
    );
    assert!(
        bed.ca.renew(&caller, &Host::new("n1").csr()).await.is_err(),
        "the old one cannot renew"
    );
    // It is on record, not only in memory.
    let other = Authority::open(parts(bed.dir.path(), &bed.store, &bed.clock, &bed.fence))
        .await
        .expect("open");
    assert_eq!(other.still_valid(&renewed), Ok(Standing::Active));
    assert!(other.still_valid(&caller).is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_valid_where_it_cannot_be_put_on_record() {
    let bed = bed().await;
    let first = bed.joined(&Host::new("n1")).await;
    let caller = bed.ca.authenticate(&leaf(&first)).await.expect("valid");
    let issued = bed.ca.renew(&caller, &Host::new("n1").csr()).await.expect("renews");
    let fence = bed.fence.lock().expect("lock").take();
    bed.ca
        .authenticate(&leaf(&issued))
        .await
        .expect("a standby lets it pass");
    bed.ca.authenticate(&leaf(&first)).await.expect("and the old one");
    *bed.fence.lock().expect("lock") = fence;
    bed.ca.authenticate(&leaf(&issued)).await.expect("valid");
    assert!(bed.ca.authenticate(&leaf(&first)).await.is_err());
}

#[tokio::test]
async fn only_agents_renew_and_expired_ones_do_not_pass() {
    let bed = bed().await;
    let admin = admin_credentials(bed.dir.path(), NOW).expect("credentials");
    let der = CertificateDer::from_pem_slice(admin.certificate.as_bytes()).expect("PEM");
    let admin = bed.ca.authenticate(&der).await.expect("valid");
    let status = bed
        .ca
        .renew(&admin, &Host::new("admin").csr())
        .await
        .expect_err("a user");
    assert_eq!(status.code(), Code::PermissionDenied);
    let issued = bed.joined(&Host::new("n1")).await;
    let caller = bed.ca.authenticate(&leaf(&issued)).await.expect("valid");
    let status = bed.ca.renew(&caller, b"x").await.expect_err("garbage");
    assert_eq!(status.code(), Code::InvalidArgument);
    bed.at(NOW + 73 * HOUR);
    assert_eq!(
        bed.ca.still_valid(&caller).expect_err("expired").kind,
        DeniedKind::Unauthenticated
    );
}

#[tokio::test]
async fn a_node_of_another_coordinators_making_is_found_in_the_store() {
    let bed = bed().await;
    let other = Authority::open(parts(bed.dir.path(), &bed.store, &bed.clock, &bed.fence))
        .await
        .expect("open");
    let issued = bed.joined(&Host::new("n1")).await;
    other.authenticate(&leaf(&issued)).await.expect("read from the store");
    // The certificate's own record gone altogether.
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    bed.ca
        .commit(&fence, vec![Change::delete("cert/n1", Expect::Any)])
        .await
        .expect("commit");
    assert!(bed.ca.authenticate(&leaf(&issued)).await.is_err());
}

#[tokio::test]
async fn upkeep_takes_in_audit_and_forgets_old_tokens() {
    let bed = bed().await;
    let (old, _) = bed.token(&spec(1)).await;
    bed.at(NOW + 8 * 24 * HOUR);
    let (young, _) = bed.token(&spec(1)).await;
    admin_credentials(bed.dir.path(), NOW + 5).expect("credentials");
    bed.ca.upkeep().await;
    assert_eq!(bed.keys("token/").await, [keys::token(&young)]);
    assert!(bed.ca.view().tokens().iter().all(|(id, ..)| *id != old));
    let key = bed.keys(&format!("audit/{:013}-", NOW + 5)).await;
    let entry = bed.store.get(&key[0]).await.expect("get").expect("record");
    let record: AuditRecord = serde_json::from_slice(&entry.value).expect("record");
    assert_eq!(
        (record.caller.as_str(), record.object.as_str()),
        ("host", "users/admin")
    );
    assert_eq!(
        std::fs::read_dir(bed.dir.path().join("ca/audit"))
            .expect("list")
            .count(),
        0
    );
}

#[tokio::test]
async fn the_servers_certificate_is_swapped_in_time() {
    let bed = bed().await;
    let before = bed.ca.session_tls().load_full();
    assert!(!bed.ca.renew_server_certificate().expect("renewal"));
    assert!(Arc::ptr_eq(&before, &bed.ca.session_tls().load_full()));
    bed.at(NOW + 27 * HOUR);
    assert!(bed.ca.renew_server_certificate().expect("renewal"));
    assert!(!Arc::ptr_eq(&before, &bed.ca.session_tls().load_full()));
    assert!(!bed.ca.renew_server_certificate().expect("renewal"));
}

#[tokio::test]
async fn run_follows_the_store_until_shutdown() {
    let bed = bed().await;
    let reader = Authority::open(parts(bed.dir.path(), &bed.store, &bed.clock, &bed.fence))
        .await
        .expect("open");
    let stop = tokio_util::sync::CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let (running, stopped) = (reader.clone(), stop.clone());
    tasks.spawn(async move { running.run(stopped).await });
    bed.joined(&Host::new("n1")).await;
    while reader.view().cert("n1").is_none() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    tasks.join_next().await.expect("a task").expect("no panic");
}

#[tokio::test]
async fn files_of_another_cluster_are_refused_by_name() {
    let (one, two) = (bed().await, bed().await);
    let open = async |dir: &Path, store| Authority::open(parts(dir, store, &one.clock, &one.fence)).await;
    let error = open(two.dir.path(), &one.store).await.expect_err("another cluster");
    assert!(error.to_string().contains(&one.report.cluster), "{error}");
    let key = one.dir.path().join("cluster.key");
    std::fs::copy(two.dir.path().join("cluster.key"), &key).expect("copy");
    let error = open(one.dir.path(), &one.store).await.expect_err("another key");
    assert!(
        error
            .to_string()
            .starts_with(&format!("{}: does not belong to this cluster", key.display())),
        "{error}"
    );
    std::fs::write(&key, b"short").expect("write");
    assert!(open(one.dir.path(), &one.store).await.is_err());
    let nothing = TestStore::new();
    let error = open(two.dir.path(), &nothing).await.expect_err("empty store");
    assert!(matches!(error, AuthorityError::NoCluster));
    let empty = tempfile::tempdir().expect("directory");
    let error = open(empty.path(), &one.store).await.expect_err("no cluster");
    assert!(error.to_string().contains("wharf-coordinator init"), "{error}");
}

#[tokio::test]
async fn without_a_certificate_no_path_is_open() {
    let bed = bed().await;
    for path in ["/grpc.health.v1.Health/Check", "/wharfinger.v1.Cluster/Info", "/"] {
        let denied = bed
            .ca
            .admit(&http::Extensions::new(), &http::HeaderMap::new(), path)
            .await
            .expect_err("denied");
        assert_eq!(denied.kind, DeniedKind::Unauthenticated, "{path}");
    }
}
