//! Coordinators that join over the real ports, speak to each other, hand calls on, and are removed.

use std::path::Path;

use agent::identity::enrol;
use coordinator::{
    ca::{audit::AuditRecord, certs::Caller},
    init::admin_credentials,
    join::{JoinError, join},
    leader::guard::Guard,
    store::{Store, keys},
};
use proto::{
    identity::{Identity, Role},
    wire::{
        self, agent_client::AgentClient, coordinators_client::CoordinatorsClient, enrol_client::EnrolClient,
        peer_client::PeerClient, tokens_client::TokensClient,
    },
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tonic::{Code, Request, Status, metadata::MetadataMap};

use crate::bed::{Bed, Replica, at, bed, join_options, mode};

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir)
        .expect("list")
        .map(|e| e.expect("entry").file_name());
    let mut names: Vec<_> = entries.map(|n| n.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The caller of a certificate, as the coordinator `of` knows it.
async fn caller_of(of: &Replica, pem: &str) -> Caller {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    of.ca.authenticate(&der).await.expect("valid")
}

/// A call that a coordinator hands on for somebody.
fn forwarded<T>(caller: &Caller, message: T) -> Request<T> {
    let mut headers = http_headers();
    caller.to_headers(&mut headers).expect("fits");
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request
}

fn http_headers() -> tonic::codegen::http::HeaderMap {
    tonic::codegen::http::HeaderMap::new()
}

#[track_caller]
fn refused<T>(result: Result<T, Status>, code: Code, words: &str) {
    let status = result.map(|_| ()).expect_err(words);
    assert!(status.message().contains(words), "{words}: {status}");
    assert_eq!((status.code(), status.message().lines().count()), (code, 1), "{status}");
}

async fn audit(bed: &Bed) -> Vec<AuditRecord> {
    let snapshot = bed.store.load().await.expect("load");
    let entries = snapshot.entries.iter().filter(|e| e.key.starts_with(keys::AUDIT));
    entries
        .map(|e| serde_json::from_slice(&e.value).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn a_coordinator_joins_and_its_directory_is_as_init_makes_it() {
    let bed = bed().await;
    let token = bed.coordinators_token(1).await;
    let parent = tempfile::tempdir().expect("directory");
    let dir = parent.path().join("new/data");
    let options = join_options(&bed, &token, &dir, "c2", "127.0.0.1:7443".parse().expect("address"));
    let report = join(&options).await.expect("joins");
    assert_eq!(
        (report.name.as_str(), report.cluster.as_str()),
        ("c2", bed.ca.cluster())
    );
    assert_eq!(
        report.coordinators,
        [bed.session.to_string(), "127.0.0.1:7443".to_owned()]
    );
    assert_eq!(names(&dir), ["ca", "cluster.json", "cluster.key", "served.json"]);
    assert_eq!(names(&dir.join("ca")), ["intermediate.crt", "intermediate.key"]);
    for file in [
        "cluster.json",
        "cluster.key",
        "ca/intermediate.key",
        "ca/intermediate.crt",
    ] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&dir), 0o700);
    let read = |dir: &Path| std::fs::read(dir.join("cluster.key")).expect("key");
    assert_eq!(read(&dir), read(bed.dir.path()));
    // A store that is older than the one it joined is not this cluster's.
    let guard = Guard::open(&dir).expect("mark");
    let mark = guard.last().expect("a mark");
    assert_eq!(
        (mark.cluster.as_str(), mark.revision),
        (bed.ca.cluster(), bed.store.newest().revision())
    );
    // Its administrator is the cluster's.
    let admin = admin_credentials(&dir, options.now_ms).expect("credentials");
    let mut tokens = TokensClient::new(bed.channel(&admin).await);
    let listed = tokens
        .list_tokens(wire::ListTokensRequest {})
        .await
        .expect("allowed")
        .into_inner();
    assert_eq!(
        (listed.tokens[0].role.as_str(), &listed.tokens[0].nodes[..]),
        ("coordinator", &["c2".to_owned()][..])
    );

    let error = join(&options).await.expect_err("in use");
    assert!(
        matches!(error, JoinError::Directory(_)) && error.to_string().contains("cluster.json"),
        "{error}"
    );
    let other = parent.path().join("other");
    let again = join_options(&bed, &token, &other, "c3", "127.0.0.1:7543".parse().expect("address"));
    let error = join(&again).await.expect_err("spent");
    assert!(
        matches!(error, JoinError::Refused { .. }) && error.to_string().lines().count() == 1,
        "{error}"
    );
    assert!(!other.exists(), "a refusal leaves nothing behind");
}

#[tokio::test]
async fn a_lost_answer_costs_no_second_use() {
    let bed = bed().await;
    let token = bed.coordinators_token(1).await;
    let parent = tempfile::tempdir().expect("directory");
    let dir = parent.path().join("data");
    let mut options = join_options(&bed, &token, &dir, "c2", "127.0.0.1:7443".parse().expect("address"));
    let peers = std::mem::replace(&mut options.peers, vec!["127.0.0.1:1".into()]);
    let error = join(&options).await.expect_err("unreachable");
    assert!(matches!(error, JoinError::Unavailable { .. }), "{error}");
    let key = std::fs::read_to_string(dir.join(".join/ca/intermediate.key")).expect("kept");
    // The coordinator commits, and the answer never arrives.
    let pair = rcgen::KeyPair::from_pem(&key).expect("key");
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&pair)
        .expect("request");
    let request = wire::JoinCoordinatorRequest {
        token: token.clone(),
        csr_der: csr.der().to_vec(),
        name: "c2".into(),
        address: "127.0.0.1:7443".into(),
        enrol_address: "127.0.0.1:7444".into(),
        clock_ms: options.now_ms,
        version: proto::VERSION.into(),
    };
    let lost = bed.ca.join_coordinator(&request).await.expect("joins");
    // One reachable peer among several suffices.
    options.peers.extend(peers);
    join(&options).await.expect("joins");
    let chain = std::fs::read_to_string(dir.join("ca/intermediate.crt")).expect("chain");
    assert_eq!(chain, lost.chain_pem);
    assert_eq!(
        std::fs::read_to_string(dir.join("ca/intermediate.key")).expect("key"),
        key
    );
    assert_eq!(bed.ca.view().tokens()[0].2.used, 1);
}

#[tokio::test]
async fn an_impostor_gets_no_token_and_a_standby_is_asked_again() {
    let (bed, foreign) = (bed().await, bed().await);
    let token = bed.coordinators_token(1).await;
    let dir = tempfile::tempdir().expect("directory");
    let mut options = join_options(
        &bed,
        &token,
        dir.path(),
        "c2",
        "127.0.0.1:7443".parse().expect("address"),
    );
    let peers = std::mem::replace(&mut options.peers, vec![foreign.enrol.to_string()]);
    let error = join(&options).await.expect_err("another cluster");
    assert!(matches!(error, JoinError::WrongRoot { .. }), "{error}");
    assert!(
        error.to_string().contains("nothing was sent to it: check --peers"),
        "{error}"
    );
    assert_eq!(names(dir.path()), Vec::<String>::new());
    options.peers.extend(peers);
    let fence = bed.fence.lock().expect("lock").take();
    let error = join(&options).await.expect_err("not active");
    assert!(error.to_string().contains("not the active one"), "{error}");
    bed.fence.lock().expect("lock").clone_from(&fence);
    join(&options).await.expect("joins");
}

#[tokio::test]
async fn coordinators_speak_to_each_other_and_to_nobody_else() {
    let bed = bed().await;
    let (c2, c3) = (
        bed.replica("c2").await.expect("joins"),
        bed.replica("c3").await.expect("joins"),
    );
    let channel = c2.to(bed.session).await.expect("connects");
    // What it hands on from its own enrolment port, and what is between coordinators, passes the layer.
    let enrolment = EnrolClient::new(channel.clone())
        .enrol(wire::EnrolRequest::default())
        .await;
    refused(enrolment, Code::InvalidArgument, "token: ");
    let follow = PeerClient::new(channel.clone()).follow(tokio_stream::empty()).await;
    assert_eq!(
        follow.map(|_| ()).expect_err("not served here").code(),
        Code::Unimplemented
    );
    let mut tokens = TokensClient::new(channel.clone());
    let listed = tokens.list_tokens(wire::ListTokensRequest {}).await;
    refused(
        listed,
        Code::PermissionDenied,
        "coordinator/c2 may not list tokens: a coordinator is not a user",
    );
    let session = AgentClient::new(channel).session(tokio_stream::empty()).await;
    refused(session, Code::PermissionDenied, "coordinator/c2 may not session");

    // c3 joined after c2 read the store, and c2 follows nothing here.
    let error = c2.to(c3.session).await.expect_err("not known yet");
    assert!(error.contains("certificate"), "{error}");
    c2.ca.view().load(&bed.store.load().await.expect("load"));
    c2.to(c3.session).await.expect("connects");
    let removed = c3.ca.name().to_owned();
    let admin = caller_of(&c2, &bed.admin.certificate).await;
    bed.ca
        .remove_coordinator(&removed, &admin, "", false)
        .await
        .expect("removed");
    c2.ca.view().load(&bed.store.load().await.expect("load"));
    let error = c2.to(c3.session).await.expect_err("removed");
    assert!(error.contains("certificate"), "{error}");
    let foreign = crate::bed::bed().await;
    c2.to(foreign.session).await.expect_err("another cluster");
}

#[tokio::test]
async fn a_call_handed_on_is_judged_as_its_callers() {
    let bed = bed().await;
    let c2 = bed.replica("c2").await.expect("joins");
    let token = bed.token(1).await;
    let host = tempfile::tempdir().expect("directory");
    let agent = enrol(&at(bed.enrol, &token, host.path(), "n1"))
        .await
        .expect("joins")
        .credentials();
    let admin = caller_of(&c2, &bed.admin.certificate).await;
    let channel = c2.to(bed.session).await.expect("connects");
    let mut tokens = TokensClient::new(channel.clone());

    let create = wire::CreateTokenRequest::default();
    let created = tokens
        .create_token(forwarded(&admin, create.clone()))
        .await
        .expect("allowed")
        .into_inner();
    assert_eq!(created.token.expect("token").creator, "user/admin");
    let last = audit(&bed).await.pop().expect("a record");
    assert_eq!((last.caller.as_str(), last.verb.as_str()), ("user/admin", "create"));

    // Whoever has no right here has none by way of another coordinator.
    let with = |change: fn(&mut Caller)| {
        let mut caller = admin.clone();
        change(&mut caller);
        caller
    };
    for (caller, code, words) in [
        (
            with(|c| c.identity.id = "nobody".into()),
            Code::PermissionDenied,
            "user/nobody may not create tokens",
        ),
        (
            with(|c| c.not_after = 1),
            Code::Unauthenticated,
            "the certificate has expired",
        ),
        (
            with(|c| c.issuer = "a".repeat(64)),
            Code::Unauthenticated,
            "issued this certificate is not one",
        ),
        (
            with(|c| c.issuer.clear()),
            Code::Unauthenticated,
            "issued this certificate is not one",
        ),
        (
            with(|c| c.identity.cluster = uuid().into()),
            Code::Unauthenticated,
            "the certificate is of another cluster",
        ),
        (
            with(|c| (c.identity.role, c.identity.id) = (Role::Coordinator, "c1".into())),
            Code::PermissionDenied,
            "coordinator/c2 may not speak for coordinator/c1",
        ),
        (
            with(|c| (c.identity.role, c.identity.id) = (Role::Agent, "n1".into())),
            Code::PermissionDenied,
            "only renewal and leaving are handed on",
        ),
    ] {
        refused(
            tokens.create_token(forwarded(&caller, create.clone())).await,
            code,
            words,
        );
    }
    let enrolment = EnrolClient::new(channel.clone());
    let handed = enrolment
        .clone()
        .enrol(forwarded(&admin, wire::EnrolRequest::default()))
        .await;
    refused(handed, Code::PermissionDenied, "no such method on this port");
    let mut twice = forwarded(&admin, create.clone());
    let value = twice
        .metadata()
        .get("wharf-forwarded-caller")
        .expect("a header")
        .clone();
    twice.metadata_mut().append("wharf-forwarded-caller", value);
    refused(tokens.create_token(twice).await, Code::Unauthenticated, "stands twice");

    // An agent's renewal and leaving; its session stays where it is.
    let n1 = caller_of(&c2, &agent.certificate).await;
    let mut agents = AgentClient::new(channel);
    refused(
        agents.session(forwarded(&n1, tokio_stream::empty())).await,
        Code::PermissionDenied,
        "only renewal and leaving",
    );
    let pair = rcgen::KeyPair::generate().expect("key");
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&pair)
        .expect("request");
    let renew = wire::RenewRequest {
        csr_der: csr.der().to_vec(),
    };
    let stolen = Caller {
        key: "b".repeat(64),
        ..n1.clone()
    };
    refused(
        agents.renew(forwarded(&stolen, renew.clone())).await,
        Code::Unauthenticated,
        "n1",
    );
    let issued = agents
        .renew(forwarded(&n1, renew.clone()))
        .await
        .expect("renewed")
        .into_inner();
    let der = CertificateDer::from_pem_slice(issued.certificate_chain_pem.as_bytes()).expect("PEM");
    assert_eq!(
        Identity::of_certificate(&der).expect("identity").to_string(),
        "agent/n1"
    );
    let next = caller_of(&c2, &issued.certificate_chain_pem).await;
    agents
        .renew(forwarded(&next, renew.clone()))
        .await
        .expect("the new one is in use now");
    refused(
        agents.renew(forwarded(&n1, renew)).await,
        Code::Unauthenticated,
        "a newer certificate is in use",
    );
    let left = agents.leave(forwarded(&next, wire::LeaveRequest::default())).await;
    refused(left, Code::Unavailable, "has no nodes");
}

fn uuid() -> &'static str {
    "0f8fad5b-d9cb-469f-a165-70867728950e"
}

#[tokio::test]
async fn nobody_but_a_coordinator_names_another_caller() {
    let bed = bed().await;
    let c2 = bed.replica("c2").await.expect("joins");
    let token = bed.token(1).await;
    let host = tempfile::tempdir().expect("directory");
    let agent = enrol(&at(bed.enrol, &token, host.path(), "n1"))
        .await
        .expect("joins")
        .credentials();
    let admin = caller_of(&c2, &bed.admin.certificate).await;
    let n1 = caller_of(&c2, &agent.certificate).await;

    // Not even itself, and not in a form that nobody reads.
    let mut tokens = TokensClient::new(bed.channel(&bed.admin).await);
    let words = "user/admin may not speak for others";
    for caller in [&admin, &n1] {
        let listed = tokens.list_tokens(forwarded(caller, wire::ListTokensRequest {})).await;
        refused(listed, Code::PermissionDenied, words);
    }
    let mut odd = Request::new(wire::ListTokensRequest {});
    odd.metadata_mut()
        .insert("wharf-forwarded-caller", "x".parse().expect("a value"));
    refused(tokens.list_tokens(odd).await, Code::PermissionDenied, words);
    tokens
        .list_tokens(wire::ListTokensRequest {})
        .await
        .expect("allowed by itself");
    let mut tokens = TokensClient::new(bed.channel(&agent).await);
    let listed = tokens.list_tokens(forwarded(&admin, wire::ListTokensRequest {})).await;
    refused(listed, Code::PermissionDenied, "agent/n1 may not speak for others");
}

#[tokio::test]
async fn a_removed_coordinator_has_no_say_and_its_agents_stay() {
    let bed = bed().await;
    let c2 = bed.replica("c2").await.expect("joins");
    // c2 leads for a while: a host joins there, and an operator gets credentials on its host.
    let fence = bed.fence.lock().expect("lock").take();
    c2.fence.lock().expect("lock").clone_from(&fence);
    let token = c2
        .ca
        .create_token(&crate::bed::spec(1), "user/admin", "")
        .await
        .expect("token")
        .2;
    let pair = rcgen::KeyPair::generate().expect("key");
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&pair)
        .expect("request");
    let request = wire::EnrolRequest {
        token,
        csr_der: csr.der().to_vec(),
        node_name: "n1".into(),
        clock_ms: coordinator::ca::system_clock()(),
        version: proto::VERSION.into(),
        ..Default::default()
    };
    let issued = c2.ca.enrol(&request).await.expect("joins").issued.expect("issued");
    c2.fence.lock().expect("lock").take();
    *bed.fence.lock().expect("lock") = fence;
    let agent = proto::credentials::Credentials {
        certificate: issued.certificate_chain_pem,
        key: pair.serialize_pem(),
        ..bed.admin.clone()
    };
    let theirs = admin_credentials(c2.dir.path(), coordinator::ca::system_clock()()).expect("credentials");
    let admin = caller_of(&c2, &bed.admin.certificate).await;
    let channel = c2.to(bed.session).await.expect("connects");
    let mut handing_on = TokensClient::new(channel.clone());
    let list = || forwarded(&admin, wire::ListTokensRequest {});
    handing_on.list_tokens(list()).await.expect("allowed");
    let mut with_theirs = TokensClient::new(bed.channel(&theirs).await);
    with_theirs
        .list_tokens(wire::ListTokensRequest {})
        .await
        .expect("allowed");

    let remove = |name: &str| wire::RemoveCoordinatorRequest {
        name: name.into(),
        dry_run: false,
    };
    let mut coordinators = CoordinatorsClient::new(bed.channel(&theirs).await);
    let own_branch = coordinators.remove(remove("c2")).await;
    refused(
        own_branch,
        Code::FailedPrecondition,
        "admin-credentials, on another coordinator's host",
    );
    let mut coordinators = CoordinatorsClient::new(bed.channel(&bed.admin).await);
    refused(
        coordinators.remove(remove("c1")).await,
        Code::FailedPrecondition,
        "the active one",
    );
    refused(coordinators.remove(remove("")).await, Code::NotFound, "not found");
    coordinators.remove(remove("c2")).await.expect("removed");

    // On connections that were open, and on new ones.
    refused(
        handing_on.list_tokens(list()).await,
        Code::Unauthenticated,
        "\"c2\" is not one of this cluster's",
    );
    let follow = PeerClient::new(channel.clone()).follow(tokio_stream::empty()).await;
    refused(follow, Code::Unauthenticated, "it was removed");
    let enrolment = EnrolClient::new(channel).enrol(wire::EnrolRequest::default()).await;
    refused(enrolment, Code::Unauthenticated, "it was removed");
    let listed = with_theirs.list_tokens(wire::ListTokensRequest {}).await;
    refused(listed, Code::Unauthenticated, "admin-credentials");
    let fresh = admin_credentials(c2.dir.path(), coordinator::ca::system_clock()()).expect("made there");
    let listed = TokensClient::new(bed.channel(&fresh).await)
        .list_tokens(wire::ListTokensRequest {})
        .await;
    refused(listed, Code::Unauthenticated, "admin-credentials");
    // What it issued to a host while it led is the host's.
    let session = AgentClient::new(bed.channel(&agent).await)
        .session(tokio_stream::empty())
        .await;
    session.expect("a session");
    // And it does not lead again.
    let again = c2
        .ca
        .ensure_own_record("127.0.0.1:1", "127.0.0.1:2")
        .await
        .expect_err("removed");
    assert!(again.to_string().contains("was removed from the cluster"), "{again}");
}
