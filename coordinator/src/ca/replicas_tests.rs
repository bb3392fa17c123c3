//! Coordinators that join and go, against a store in memory: who gets in, at what cost, and whose certificates are valid
//! afterwards.

use proto::identity::{Identity, spki_sha256};
use rcgen::SanType;

use super::*;
use crate::{
    ca::{issuers::IssuerRecord, replicas::STORE_OF_ONE},
    world::replicas::CoordinatorRecord,
};

/// A coordinator that wants to join.
struct Joining {
    name: &'static str,
    key: KeyPair,
}

impl Joining {
    fn new(name: &'static str) -> Self {
        let key = KeyPair::generate().expect("key");
        Self { name, key }
    }

    fn request(&self, token: &str) -> wire::JoinCoordinatorRequest {
        let csr = CertificateParams::default()
            .serialize_request(&self.key)
            .expect("request");
        wire::JoinCoordinatorRequest {
            token: token.into(),
            csr_der: csr.der().to_vec(),
            name: self.name.into(),
            address: format!("{}.test:7443", self.name),
            enrol_address: format!("{}.test:7444", self.name),
            clock_ms: NOW,
            version: proto::VERSION.into(),
        }
    }

    fn issuer(&self, bed: &Bed, reply: &wire::JoinCoordinatorReply) -> Issuer {
        Issuer::new(bed.ca.cluster(), &reply.chain_pem, &self.key.serialize_pem()).expect("belongs together")
    }
}

fn any_leaf(issuer: &Issuer, role: Role, id: &str) -> CertificateDer<'static> {
    let key = KeyPair::generate().expect("key");
    issuer.issue_for(&key, role, id, HOUR, NOW).expect("leaf").der
}

async fn coordinators_token(bed: &Bed, uses: u32) -> (String, String) {
    let spec = TokenSpec {
        role: Role::Coordinator,
        labels: Default::default(),
        ..spec(uses)
    };
    let (id, _, text) = bed.ca.create_token(&spec, "user/admin", "").await.expect("token");
    (id, text)
}

async fn used(bed: &Bed, id: &str) -> u32 {
    let tokens = bed.ca.view().tokens();
    tokens.iter().find(|(known, ..)| known == id).expect("listed").2.used
}

async fn joined(bed: &Bed, name: &'static str) -> (Joining, Issuer) {
    let (_, token) = coordinators_token(bed, 1).await;
    let host = Joining::new(name);
    let reply = bed.ca.join_coordinator(&host.request(&token)).await.expect("joins");
    let issuer = host.issuer(bed, &reply);
    (host, issuer)
}

async fn admin(bed: &Bed) -> certs::Caller {
    let credentials = admin_credentials(bed.dir.path(), NOW).expect("credentials");
    let der = CertificateDer::from_pem_slice(credentials.certificate.as_bytes()).expect("PEM");
    bed.ca.authenticate(&der).await.expect("valid")
}

async fn denied(bed: &Bed, der: &[u8]) -> certs::Denied {
    bed.ca.authenticate(der).await.expect_err("denied")
}

#[tokio::test]
async fn one_that_joined_issues_what_is_valid_everywhere() {
    let bed = bed().await;
    let (id, token) = coordinators_token(&bed, 1).await;
    let host = Joining::new("c2");
    let reply = bed.ca.join_coordinator(&host.request(&token)).await.expect("joins");
    assert_eq!(reply.cluster_id, bed.ca.cluster());
    assert_eq!(reply.incarnation, bed.report.incarnation);
    assert_eq!(reply.coordinators, ["coordinator.test:7443", "c2.test:7443"]);
    assert_eq!(
        reply.cluster_key,
        std::fs::read(bed.dir.path().join("cluster.key")).expect("key")
    );
    assert_eq!(reply.revision, bed.store.newest().revision());
    assert_eq!(used(&bed, &id).await, 1);
    let get = async |key: String| bed.store.get(&key).await.expect("reads").expect("on record").value;
    let record: CoordinatorRecord = serde_json::from_slice(&get(keys::coordinator("c2")).await).expect("JSON");
    assert_eq!(
        (record.address.as_str(), record.enrol.as_str()),
        ("c2.test:7443", "c2.test:7444")
    );
    assert_eq!(
        (record.version.as_str(), record.joined.0),
        (proto::VERSION, 1_800_000_000)
    );
    let snapshot = bed.store.load().await.expect("load");
    let audit = snapshot
        .entries
        .iter()
        .rfind(|e| e.key.starts_with(keys::AUDIT))
        .expect("audit");
    let audit: AuditRecord = serde_json::from_slice(&audit.value).expect("JSON");
    assert_eq!((audit.caller, audit.verb.as_str()), (format!("tokens/{id}"), "join"));
    assert_eq!(audit.object, "coordinators/c2");

    let issuer = host.issuer(&bed, &reply);
    let own = bed
        .ca
        .authenticate(&any_leaf(&issuer, Role::Coordinator, "c2"))
        .await
        .expect("valid");
    assert_eq!(own.to_string(), "coordinator/c2");
    let user = bed
        .ca
        .authenticate(&any_leaf(&issuer, Role::User, "admin"))
        .await
        .expect("valid");
    assert!(!user.issuer.is_empty());
    // Its intermediate speaks for it alone, and makes no agent.
    let other = denied(&bed, &any_leaf(&issuer, Role::Coordinator, "c1")).await;
    assert!(
        other.message.contains("\"c1\": its name belongs to another host"),
        "{other}"
    );
    let stranger = denied(&bed, &any_leaf(&issuer, Role::Coordinator, "c3")).await;
    assert!(
        stranger.message.contains("\"c3\" is not one of this cluster's"),
        "{stranger}"
    );
    denied(&bed, &any_leaf(&issuer, Role::Agent, "n1")).await;
}

#[tokio::test]
async fn a_repeat_with_the_same_key_costs_nothing() {
    let bed = bed().await;
    let (id, token) = coordinators_token(&bed, 1).await;
    let host = Joining::new("c2");
    let first = bed.ca.join_coordinator(&host.request(&token)).await.expect("joins");
    let again = bed.ca.join_coordinator(&host.request(&token)).await.expect("repeats");
    assert_eq!(
        (&again.chain_pem, &again.cluster_key),
        (&first.chain_pem, &first.cluster_key)
    );
    assert_eq!(again.revision, first.revision, "nothing was written");
    // Its address changed meanwhile.
    let mut moved = host.request(&token);
    moved.address = "elsewhere.test:7443".into();
    let reply = bed.ca.join_coordinator(&moved).await.expect("repeats");
    assert_eq!(reply.coordinators, ["coordinator.test:7443", "elsewhere.test:7443"]);
    assert_eq!((reply.chain_pem, used(&bed, &id).await), (first.chain_pem.clone(), 1));
    // The first token was lost; another one pays for the answer.
    let (other, text) = coordinators_token(&bed, 2).await;
    let reply = bed.ca.join_coordinator(&host.request(&text)).await.expect("repeats");
    assert_eq!(
        (reply.chain_pem, used(&bed, &other).await),
        (first.chain_pem.clone(), 1)
    );
    bed.ca.join_coordinator(&host.request(&text)).await.expect("repeats");
    assert_eq!(used(&bed, &other).await, 1);
    // An expired token still answers who paid with it, and nobody else.
    bed.clock.fetch_add(HOUR, Ordering::SeqCst);
    let mut late = host.request(&text);
    late.clock_ms = NOW + HOUR;
    bed.ca.join_coordinator(&late).await.expect("repeats");
    let mut stranger = Joining::new("c3").request(&text);
    stranger.clock_ms = NOW + HOUR;
    assert_eq!(
        bed.ca.join_coordinator(&stranger).await.map(|_| ()),
        Err(JoinError::Refused)
    );
    bed.ca.revoke_token(&other, "user/admin", "").await.expect("revoked");
    assert_eq!(
        bed.ca.join_coordinator(&late).await.map(|_| ()),
        Err(JoinError::Refused)
    );
}

#[tokio::test]
async fn every_refusal_is_one_line_and_changes_nothing() {
    let bed = bed().await;
    let (_, token) = coordinators_token(&bed, 9).await;
    let (_, _, agents) = bed.ca.create_token(&spec(1), "user/admin", "").await.expect("token");
    let (_, spent) = coordinators_token(&bed, 1).await;
    let first = Joining::new("c2").request(&spent);
    bed.ca.join_coordinator(&first).await.expect("joins");
    let mut forged = JoinToken::parse(&token).expect("token");
    forged.secret[3] ^= 1;
    // A token of hosts whose text says otherwise.
    let mut disguised = JoinToken::parse(&agents).expect("token");
    disguised.role = Role::Coordinator;
    let before = bed.store.newest();

    type Change<'a> = Box<dyn Fn(&mut wire::JoinCoordinatorRequest) + 'a>;
    let cases: [(&str, Code, Change<'_>); 14] = [
        (
            "token: this is not a join token",
            Code::InvalidArgument,
            Box::new(|r| r.token = "x".into()),
        ),
        (
            REFUSED,
            Code::Unauthenticated,
            Box::new(|r| r.token.clone_from(&agents)),
        ),
        (
            REFUSED,
            Code::Unauthenticated,
            Box::new(|r| r.token = disguised.reveal()),
        ),
        (REFUSED, Code::Unauthenticated, Box::new(|r| r.token = forged.reveal())),
        (REFUSED, Code::Unauthenticated, Box::new(|r| r.token.clone_from(&spent))),
        ("csr_der: ", Code::InvalidArgument, Box::new(|r| r.csr_der.truncate(9))),
        (
            "name: \"C3\"",
            Code::InvalidArgument,
            Box::new(|r| r.name = "C3".into()),
        ),
        (
            "name: \"c3.x\"",
            Code::InvalidArgument,
            Box::new(|r| r.name = "c3.x".into()),
        ),
        (
            "address: \"h\"",
            Code::InvalidArgument,
            Box::new(|r| r.address = "h".into()),
        ),
        (
            "enrol_address: \"\"",
            Code::InvalidArgument,
            Box::new(|r| r.enrol_address.clear()),
        ),
        (
            "wharf cluster remove-coordinator c2",
            Code::AlreadyExists,
            Box::new(|r| r.name = "c2".into()),
        ),
        (
            "coordinator.test:7443 is coordinator \"c1\"'s already",
            Code::AlreadyExists,
            Box::new(|r| r.address = "coordinator.test:7443".into()),
        ),
        (
            "this host says 2027-01-15T09:00:00Z, the coordinator 2027-01-15T08:00:00Z",
            Code::FailedPrecondition,
            Box::new(|r| r.clock_ms = NOW + HOUR),
        ),
        (
            "is release \"9.9.9\"",
            Code::FailedPrecondition,
            Box::new(|r| r.version = "9.9.9".into()),
        ),
    ];
    for (words, code, change) in cases {
        let mut request = Joining::new("c3").request(&token);
        change(&mut request);
        let error = bed.ca.join_coordinator(&request).await.map(|_| ()).expect_err(words);
        let status = tonic::Status::from(error);
        assert!(status.message().contains(words), "{words}: {status}");
        assert_eq!((status.code(), status.message().lines().count()), (code, 1), "{words}");
        assert!(
            !status.message().contains(&request.token) || request.token == "x",
            "{status}"
        );
    }
    let fence = bed.fence.lock().expect("lock").take();
    let error = bed
        .ca
        .join_coordinator(&Joining::new("c3").request(&token))
        .await
        .map(|_| ());
    assert!(matches!(error, Err(JoinError::Unavailable(_))), "{error:?}");
    *bed.fence.lock().expect("lock") = fence;
    let mut parts = parts(bed.dir.path(), &bed.store, &bed.clock, &bed.fence);
    parts.settings.store = STORE_OF_ONE.into();
    let alone = Authority::open(parts).await.expect("open");
    let error = alone
        .join_coordinator(&Joining::new("c3").request(&token))
        .await
        .map(|_| ());
    let error = error.expect_err("cannot be shared").to_string();
    assert!(
        error.contains("keeps its state in sqlite") && error.contains("migrate"),
        "{error}"
    );
    assert_eq!(bed.store.newest(), before, "a refusal wrote something");
}

#[tokio::test]
async fn of_two_that_want_one_name_one_gets_it() {
    let bed = bed().await;
    let (id, token) = coordinators_token(&bed, 2).await;
    let (a, b) = (Joining::new("c2"), Joining::new("c2"));
    let (first, second) = (a.request(&token), b.request(&token));
    let results = tokio::join!(bed.ca.join_coordinator(&first), bed.ca.join_coordinator(&second));
    let results = [results.0.map(|_| ()), results.1.map(|_| ())];
    assert!(results.contains(&Ok(())), "{results:?}");
    assert!(
        results.contains(&Err(JoinError::CoordinatorTaken("c2".into()))),
        "{results:?}"
    );
    assert_eq!(used(&bed, &id).await, 1);
}

#[tokio::test]
async fn a_removed_one_has_nothing_that_is_valid_and_its_name_is_free() {
    let bed = bed().await;
    let (_, issuer) = joined(&bed, "c2").await;
    let own = any_leaf(&issuer, Role::Coordinator, "c2");
    let user = any_leaf(&issuer, Role::User, "admin");
    bed.ca.authenticate(&own).await.expect("valid");
    let by_c2 = bed.ca.authenticate(&user).await.expect("valid");
    let admin = admin(&bed).await;
    let remove = async |name: &str, caller, dry| bed.ca.remove_coordinator(name, caller, "it burnt", dry).await;

    let before = bed.store.newest();
    let refused = remove("c1", &admin, false).await.expect_err("the active one");
    assert!(refused.message().contains("wharf cluster transfer"), "{refused}");
    assert_eq!(
        remove("c9", &admin, false).await.expect_err("unknown").code(),
        Code::NotFound
    );
    let refused = remove("c2", &by_c2, false).await.expect_err("its own branch");
    assert!(refused.message().contains("admin-credentials"), "{refused}");
    remove("c2", &admin, true).await.expect("a dry run");
    assert_eq!(bed.store.newest(), before);

    remove("c2", &admin, false).await.expect("removed");
    assert_eq!(bed.ca.coordinators(), ["coordinator.test:7443"]);
    let refused = denied(&bed, &own).await;
    assert_eq!(refused.kind, DeniedKind::Revoked);
    assert!(
        refused
            .message
            .contains("\"c2\" is not one of this cluster's: it was removed"),
        "{refused}"
    );
    assert!(bed.ca.still_valid(&by_c2).is_err(), "on an open connection");
    let refused = denied(&bed, &user).await;
    assert!(refused.message.contains("admin-credentials"), "{refused}");
    assert_eq!(
        remove("c2", &admin, false).await.expect_err("gone").code(),
        Code::NotFound
    );
    let snapshot = bed.store.load().await.expect("load");
    let audit = snapshot
        .entries
        .iter()
        .rfind(|e| e.key.starts_with(keys::AUDIT))
        .expect("audit");
    let audit: AuditRecord = serde_json::from_slice(&audit.value).expect("JSON");
    assert_eq!((audit.caller.as_str(), audit.verb.as_str()), ("user/admin", "delete"));
    assert_eq!(
        (audit.object.as_str(), audit.reason.as_str()),
        ("coordinators/c2", "it burnt")
    );

    // Another host takes the name; what the old one holds does not come back with it.
    let (_, new) = joined(&bed, "c2").await;
    bed.ca
        .authenticate(&any_leaf(&new, Role::Coordinator, "c2"))
        .await
        .expect("valid");
    assert!(denied(&bed, &own).await.message.contains("belongs to another host"));
    denied(&bed, &user).await;
    // Whoever holds the root key makes intermediates that are not on record.
    let key = ClusterKey::from_bytes(&std::fs::read(bed.dir.path().join("cluster.key")).expect("key")).expect("key");
    let root = key
        .open(bed.ca.cluster(), &bed.ca.meta().sealed_root_key)
        .expect("opens");
    let root = issue::AuthorityCert {
        pem: bed.ca.root_pem().to_owned(),
        key: KeyPair::try_from(root.as_slice()).expect("key"),
    };
    let forged = issue::new_intermediate(&root, "c2", NOW).expect("intermediate");
    let chain = format!("{}{}", forged.pem, root.pem);
    let forged = Issuer::new(bed.ca.cluster(), &chain, &forged.key.serialize_pem()).expect("issuer");
    denied(&bed, &any_leaf(&forged, Role::Coordinator, "c2")).await;
    denied(&bed, &any_leaf(&forged, Role::User, "admin")).await;
}

/// A leaf as a coordinator gone bad could make it: everything chosen, signed by its intermediate.
fn forged_leaf(bed: &Bed, host: &Joining, issuer: &Issuer, agent: &str, serial: &str) -> CertificateDer<'static> {
    let uri = Identity {
        cluster: bed.ca.cluster().into(),
        role: Role::Agent,
        id: agent.into(),
    }
    .uri();
    let bytes: Vec<u8> = (0..serial.len() / 2)
        .map(|i| u8::from_str_radix(&serial[2 * i..2 * i + 2], 16).expect("hex"))
        .collect();
    let mut params = CertificateParams::default();
    params.serial_number = Some(bytes.into());
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
    let signer = rcgen::Issuer::from_ca_cert_der(&issuer.intermediate, &host.key).expect("issuer");
    let key = KeyPair::generate().expect("key");
    params.signed_by(&key, &signer).expect("leaf").der().clone()
}

#[tokio::test]
async fn no_intermediate_makes_a_second_certificate_of_an_agents_serial() {
    let bed = bed().await;
    let (host, issuer) = joined(&bed, "c2").await;
    let (_, _, token) = bed.ca.create_token(&spec(1), "user/admin", "").await.expect("token");
    let agent = Host::new("n1");
    let reply = bed.ca.enrol(&agent.request(&token)).await.expect("joins");
    let real = leaf(&reply.issued.expect("issued"));
    let serial = serial_of_certificate(&real).expect("serial");
    let forged = forged_leaf(&bed, &host, &issuer, "n1", &serial);
    assert_eq!(serial_of_certificate(&forged).expect("serial"), serial);
    denied(&bed, &forged).await;
    let caller = bed.ca.authenticate(&real).await.expect("valid");
    // Nor of one that was renewed and not used yet.
    let next = bed.ca.renew(&caller, &Host::new("n1").csr()).await.expect("renewed");
    let pending = serial_of_certificate(&leaf(&next)).expect("serial");
    denied(&bed, &forged_leaf(&bed, &host, &issuer, "n1", &pending)).await;
    bed.ca.authenticate(&real).await.expect("still valid");
    bed.ca.authenticate(&leaf(&next)).await.expect("valid");
    denied(&bed, &forged_leaf(&bed, &host, &issuer, "n1", &pending)).await;
    // An agent's certificate is its own: it stays valid when the coordinator that issued it is removed.
    bed.ca
        .remove_coordinator("c2", &admin(&bed).await, "", false)
        .await
        .expect("removed");
    bed.ca.authenticate(&leaf(&next)).await.expect("valid");
}

#[tokio::test]
async fn a_record_of_an_earlier_release_has_no_key_and_gets_one() {
    let bed = bed().await;
    let (_, _, token) = bed.ca.create_token(&spec(1), "user/admin", "").await.expect("token");
    let reply = bed.ca.enrol(&Host::new("n1").request(&token)).await.expect("joins");
    let der = leaf(&reply.issued.expect("issued"));
    let (rv, mut record) = bed.ca.view().cert("n1").expect("on record");
    assert!(!record.active_key.is_empty());
    record.active_key.clear();
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let change = record.change("n1", Expect::At(rv));
    assert!(!String::from_utf8_lossy(change.value.as_ref().expect("value")).contains("activeKey"));
    bed.ca.commit(&fence, vec![change]).await.expect("commit");
    let caller = bed.ca.authenticate(&der).await.expect("valid");
    bed.ca.renew(&caller, &Host::new("n1").csr()).await.expect("renewed");
    let (_, record) = bed.ca.view().cert("n1").expect("on record");
    assert_eq!(record.active_key, caller.key);
    assert!(!record.pending_key.is_empty());
}

#[tokio::test]
async fn a_coordinator_sees_to_its_own_record() {
    let bed = bed().await;
    let before = bed.store.newest();
    let (address, enrol) = bed.ca.own_addresses();
    assert_eq!(
        (address.as_str(), enrol.as_str()),
        ("coordinator.test:7443", "coordinator.test:7444")
    );
    bed.ca
        .ensure_own_record(&address, &enrol)
        .await
        .expect("as init wrote it");
    assert_eq!(bed.store.newest(), before, "nothing was written");
    bed.ca.ensure_own_record("h:1", "h:9").await.expect("written");
    assert_eq!(
        (bed.ca.coordinators(), bed.ca.joining()),
        (vec!["h:1".to_owned()], vec!["h:9".to_owned()])
    );

    // A cluster of an earlier release has neither record, and nobody's certificate is valid until it leads.
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let gone = [keys::coordinator("c1"), keys::issuer("c1")].map(|key| Change::delete(key, Expect::Any));
    bed.ca.commit(&fence, gone.to_vec()).await.expect("commit");
    let credentials = admin_credentials(bed.dir.path(), NOW).expect("credentials");
    let der = CertificateDer::from_pem_slice(credentials.certificate.as_bytes()).expect("PEM");
    denied(&bed, &der).await;
    let (address, enrol) = bed.ca.own_addresses();
    assert_eq!(address, "coordinator.test:7443", "as told to init");
    bed.ca.ensure_own_record(&address, &enrol).await.expect("written");
    bed.ca.authenticate(&der).await.expect("valid");

    let (_, issuer) = joined(&bed, "c2").await;
    bed.ca
        .authenticate(&any_leaf(&issuer, Role::Coordinator, "c2"))
        .await
        .expect("valid");
    let issuer = bed.ca.view().issuer("c2").expect("on record");
    let stolen = IssuerRecord { ..issuer }.change("c1", Expect::Any);
    bed.ca.commit(&fence, vec![stolen]).await.expect("commit");
    let error = bed.ca.ensure_own_record(&address, &enrol).await.expect_err("replaced");
    assert!(matches!(error, AuthorityError::Replaced(_)), "{error}");
    let gone = [keys::coordinator("c1"), keys::issuer("c1")].map(|key| Change::delete(key, Expect::Any));
    bed.ca.commit(&fence, gone.to_vec()).await.expect("commit");
    let error = bed.ca.ensure_own_record(&address, &enrol).await.expect_err("removed");
    assert!(matches!(error, AuthorityError::Removed(_)), "{error}");
}

#[tokio::test]
async fn one_that_joined_elsewhere_is_found_in_the_store() {
    let bed = bed().await;
    // Its view follows nothing.
    let standby = Authority::open(parts(bed.dir.path(), &bed.store, &bed.clock, &Arc::default()))
        .await
        .expect("open");
    let (_, issuer) = joined(&bed, "c2").await;
    let caller = standby.authenticate(&any_leaf(&issuer, Role::Coordinator, "c2")).await;
    assert_eq!(caller.expect("read from the store").to_string(), "coordinator/c2");
    standby
        .authenticate(&any_leaf(&issuer, Role::User, "admin"))
        .await
        .expect("valid");
}

#[tokio::test]
async fn what_is_shown_to_peers_is_renewed_with_the_rest() {
    let bed = bed().await;
    let shown = || bed.ca.0.tls.peer.load_full();
    let first = shown();
    assert!(!bed.ca.renew_server_certificate().expect("renewal"));
    assert!(Arc::ptr_eq(&first, &shown()));
    bed.clock.fetch_add(30 * HOUR, Ordering::SeqCst);
    assert!(bed.ca.renew_server_certificate().expect("renewal"));
    let second = shown();
    assert!(first.chain_pem != second.chain_pem && first.key_pem != second.key_pem);
    let der = CertificateDer::from_pem_slice(second.chain_pem.as_bytes()).expect("PEM");
    assert_eq!(
        bed.ca.authenticate(&der).await.expect("valid").to_string(),
        "coordinator/c1"
    );
    assert!(spki_sha256(&der).is_ok());
}
