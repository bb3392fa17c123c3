//! Joining end to end in one process: `init`, the coordinator's two TLS ports, an agent's enrolment, its calls
//! with what it got, and those who try without.

mod bed;
mod hosts;
mod impostors;
mod replicas;
mod secrets;
#[path = "../../../coordinator/src/ca/test_store.rs"]
mod test_store;
mod whole;

use std::sync::atomic::Ordering;

use agent::identity::{EnrolError, Identity, enrol, join, renew};
use coordinator::{
    ca::{enrol::REFUSED, tokens::TokenSpec},
    store::{self, Store},
};
use proto::{
    identity::Role,
    token::JoinToken,
    wire::{self, tokens_client::TokensClient},
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::bed::{at, bed, mode, spec};

#[tokio::test]
async fn a_host_joins_opens_its_session_and_renews() {
    let bed = bed().await;
    let host = tempfile::tempdir().expect("directory");
    let token = bed.token(1).await;
    let mut identity = enrol(&at(bed.enrol, &token, host.path(), "n1")).await.expect("joins");
    assert_eq!(
        (identity.node.as_str(), identity.cluster.as_str()),
        ("n1", bed.ca.cluster())
    );
    assert_eq!(identity.coordinators, [bed.session.to_string()]);
    let dir = host.path().join("identity");
    assert_eq!((mode(&dir), mode(&dir.join("identity.json"))), (0o700, 0o600));
    assert_eq!(
        std::fs::read_dir(&dir).expect("list").count(),
        1,
        "the enrolment's key is gone"
    );
    assert_eq!(bed.seen_as(&identity).await.expect("session"), "n1");

    // With an identity on disk the token is not read, nor is any coordinator asked.
    let again = enrol(&at(
        "127.0.0.1:1".parse().expect("address"),
        "rubbish",
        host.path(),
        "other",
    ))
    .await;
    assert_eq!(again.expect("from disk"), identity);

    assert!(!identity.renewal_due(identity.renew_after * 1000 - 1));
    assert!(identity.renewal_due(identity.renew_after * 1000));
    let old = identity.clone();
    let channel = bed.channel(&identity.credentials()).await;
    // The first answer is lost; the second renewal is the one that counts.
    let elsewhere = tempfile::tempdir().expect("directory");
    renew(&identity, elsewhere.path(), channel.clone())
        .await
        .expect("renews");
    identity = renew(&identity, host.path(), channel.clone()).await.expect("renews");
    assert_eq!(Identity::load(host.path()).expect("loads"), Some(identity.clone()));
    assert_ne!(old.credentials().key, identity.credentials().key);
    assert_eq!(bed.seen_as(&old).await.expect("valid until the new one is used"), "n1");
    assert_eq!(bed.seen_as(&identity).await.expect("session"), "n1");
    let status = bed.seen_as(&old).await.expect_err("superseded");
    assert_eq!(status.code(), Code::Unauthenticated);
    // Not on the connection that was open before, either.
    let error = renew(&old, elsewhere.path(), channel).await.expect_err("superseded");
    assert!(!error.transient(), "{error}");

    identity
        .set_coordinators(host.path(), &["a:1".into(), "b:2".into()])
        .expect("persists");
    identity.set_coordinators(host.path(), &[]).expect("keeps");
    let loaded = Identity::load(host.path()).expect("loads").expect("an identity");
    assert_eq!(loaded.coordinators, ["a:1", "b:2"]);
}

#[tokio::test]
async fn an_agent_may_not_act_as_a_user_nor_a_user_as_an_agent() {
    let bed = bed().await;
    let host = tempfile::tempdir().expect("directory");
    let token = bed.token(1).await;
    let identity = enrol(&at(bed.enrol, &token, host.path(), "n1")).await.expect("joins");
    let mut tokens = TokensClient::new(bed.channel(&identity.credentials()).await);
    let denied = tokens.create_token(wire::CreateTokenRequest::default()).await;
    let status = denied.map(|_| ()).expect_err("denied");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().starts_with("agent/n1 may not create tokens: "),
        "{status}"
    );

    let channel = bed.channel(&bed.admin).await;
    let mut agent = wire::agent_client::AgentClient::new(channel.clone());
    let status = agent.session(tokio_stream::empty()).await.expect_err("denied");
    assert_eq!(status.code(), Code::PermissionDenied);
    let mut enrolment = wire::enrol_client::EnrolClient::new(channel.clone());
    let status = enrolment
        .enrol(wire::EnrolRequest::default())
        .await
        .expect_err("denied");
    assert_eq!(status.code(), Code::PermissionDenied);

    let mut tokens = TokensClient::new(channel);
    let request = wire::CreateTokenRequest {
        uses: 2,
        labels: [("zone".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    };
    let before = tokens
        .list_tokens(wire::ListTokensRequest {})
        .await
        .expect("list")
        .into_inner();
    let dry = wire::CreateTokenRequest {
        dry_run: true,
        ..request.clone()
    };
    let reply = tokens.create_token(dry.clone()).await.expect("valid").into_inner();
    let shown = reply.token.expect("as it would be");
    assert_eq!((reply.text.as_str(), shown.id.as_str(), shown.max_uses), ("", "", 2));
    let bad = wire::CreateTokenRequest { uses: 1_000_000, ..dry };
    assert_eq!(
        tokens.create_token(bad).await.map(|_| ()).expect_err("refused").code(),
        Code::InvalidArgument
    );
    let after = tokens
        .list_tokens(wire::ListTokensRequest {})
        .await
        .expect("list")
        .into_inner();
    assert_eq!(after, before, "a dry run stored a token");
    let created = tokens.create_token(request).await.expect("created").into_inner();
    assert_eq!(created.coordinators, [bed.session.to_string()]);
    let record = created.token.expect("token");
    assert_eq!((record.max_uses, record.creator.as_str()), (2, "user/admin"));
    assert!(!format!("{record:?}").contains(&created.text));
    let other = tempfile::tempdir().expect("directory");
    enrol(&at(bed.enrol, &created.text, other.path(), "n2"))
        .await
        .expect("joins");
    let listed = tokens
        .list_tokens(wire::ListTokensRequest {})
        .await
        .expect("list")
        .into_inner();
    let listed = listed.tokens.iter().find(|t| t.id == record.id).expect("listed");
    assert_eq!((listed.used, &listed.nodes[..]), (1, &["n2".to_owned()][..]));
    let revoke = |id: &str, dry_run| wire::RevokeTokenRequest { id: id.into(), dry_run };
    let shown = tokens
        .revoke_token(revoke(&record.id, true))
        .await
        .expect("valid")
        .into_inner();
    assert!(shown.revoked);
    let missing = tokens.revoke_token(revoke("nope", true)).await.expect_err("unknown");
    assert_eq!(missing.code(), Code::NotFound);
    let listed = tokens
        .list_tokens(wire::ListTokensRequest {})
        .await
        .expect("list")
        .into_inner();
    assert!(!listed.tokens.iter().any(|t| t.revoked), "a dry run revoked a token");
    let revoke = revoke(&record.id, false);
    assert!(tokens.revoke_token(revoke).await.expect("revoked").into_inner().revoked);
}

#[tokio::test]
async fn a_removed_right_ends_with_the_next_call() {
    let bed = bed().await;
    let mut tokens = TokensClient::new(bed.channel(&bed.admin).await);
    tokens.list_tokens(wire::ListTokensRequest {}).await.expect("allowed");
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let change = store::Change::delete("binding/admin", store::Expect::Any);
    let committed = bed.store.commit(&fence, vec![change]).await.expect("commit");
    bed.ca.view().apply(&[store::Update {
        rv: committed.last(),
        key: "binding/admin".into(),
        value: None,
    }]);
    let status = tokens
        .list_tokens(wire::ListTokensRequest {})
        .await
        .expect_err("denied");
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_expired_certificate_makes_no_call_on_an_open_connection() {
    let bed = bed().await;
    let mut tokens = TokensClient::new(bed.channel(&bed.admin).await);
    tokens.list_tokens(wire::ListTokensRequest {}).await.expect("allowed");
    bed.ahead.store(366 * 24 * 3600 * 1000, Ordering::SeqCst);
    let status = tokens
        .list_tokens(wire::ListTokensRequest {})
        .await
        .expect_err("expired");
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn bad_tokens_end_the_agent_with_one_line_and_change_nothing() {
    let bed = bed().await;
    let host = tempfile::tempdir().expect("directory");
    let good = bed.token(1).await;
    let refused = async |token: &str| {
        let error = join(&at(bed.enrol, token, host.path(), "n1"), |e, _| {
            panic!("tried again: {e}")
        })
        .await
        .expect_err("refused");
        assert!(!error.transient(), "{error}");
        let text = error.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains(token), "{text}");
        text
    };
    let dead = "127.0.0.1:1".parse().expect("address");
    // Refused before anything is sent anywhere: nobody listens there.
    let local = enrol(&at(dead, &good[..good.len() - 1], host.path(), "n1"))
        .await
        .expect_err("damaged");
    assert!(matches!(local, EnrolError::Token(_)), "{local}");
    assert!(refused("hello").await.contains("not a join token"));
    let mut token = JoinToken::parse(&good).expect("token");
    token.role = Role::Coordinator;
    assert!(refused(&token.reveal()).await.contains("role `coordinator`"));
    assert!(
        !host.path().join("identity").exists(),
        "no key is made for a token that cannot be used"
    );

    let mut token = JoinToken::parse(&good).expect("token");
    token.secret[5] ^= 1;
    assert!(refused(&token.reveal()).await.ends_with(REFUSED));
    let mut token = JoinToken::parse(&good).expect("token");
    token.root_spki[0] ^= 1;
    assert!(refused(&token.reveal()).await.contains("nothing was sent to it"));
    let (id, _, revoked) = bed.ca.create_token(&spec(1), "user/admin", "").await.expect("token");
    bed.ca.revoke_token(&id, "user/admin", "").await.expect("revoked");
    assert!(refused(&revoked).await.ends_with(REFUSED));
    let short = TokenSpec { ttl_ms: 1, ..spec(1) };
    let (_, _, expired) = bed.ca.create_token(&short, "user/admin", "").await.expect("token");
    bed.ahead.store(2, Ordering::SeqCst);
    assert!(refused(&expired).await.ends_with(REFUSED));
    let only = TokenSpec {
        node: "n9".into(),
        ..spec(1)
    };
    let (_, _, only) = bed.ca.create_token(&only, "user/admin", "").await.expect("token");
    assert!(refused(&only).await.contains("--name n9"));
    let elsewhere = tempfile::tempdir().expect("directory");
    enrol(&at(bed.enrol, &good, elsewhere.path(), "n0"))
        .await
        .expect("joins");
    assert!(refused(&good).await.ends_with(REFUSED), "spent");
    let taken = bed.token(1).await;
    let error = enrol(&at(bed.enrol, &taken, host.path(), "n0"))
        .await
        .expect_err("taken");
    assert!(
        !error.transient() && error.to_string().contains("node \"n0\" already exists"),
        "{error}"
    );
    assert_eq!(bed.nodes().await, 1);
    assert_eq!(Identity::load(host.path()).expect("loads"), None);
}

#[tokio::test]
async fn clocks_apart_are_named_and_end_the_attempt() {
    let bed = bed().await;
    let host = tempfile::tempdir().expect("directory");
    let token = bed.token(1).await;
    bed.ahead.store(10 * 60 * 1000, Ordering::SeqCst);
    let error = enrol(&at(bed.enrol, &token, host.path(), "n1"))
        .await
        .expect_err("skew");
    assert!(
        !error.transient() && error.to_string().contains("clocks are too far apart"),
        "{error}"
    );
    // A certificate from an hour ahead is not valid here yet.
    bed.ahead.store(28 * 3600 * 1000, Ordering::SeqCst);
    assert!(bed.ca.renew_server_certificate().expect("renewal"));
    let error = enrol(&at(bed.enrol, &token, host.path(), "n1"))
        .await
        .expect_err("skew");
    assert!(
        matches!(error, EnrolError::Clock { .. }) && !error.transient(),
        "{error}"
    );
    bed.ahead.store(0, Ordering::SeqCst);
    assert_eq!(bed.nodes().await, 0);
}

#[tokio::test]
async fn a_lost_answer_costs_nothing() {
    let bed = bed().await;
    let host = tempfile::tempdir().expect("directory");
    let token = bed.token(1).await;
    let options = at(bed.enrol, &token, host.path(), "n1");
    // The coordinator commits, and the agent dies before it writes: its key is on disk, its identity is not.
    let first = enrol(&options).await.expect("joins");
    let dir = host.path().join("identity");
    std::fs::remove_file(dir.join("identity.json")).expect("remove");
    proto::files::write_private(&dir.join("enrol-key.pem"), first.credentials().key.as_bytes()).expect("write");
    let second = enrol(&options).await.expect("joins again");
    assert_eq!((second.node.as_str(), bed.nodes().await), ("n1", 1));
    assert_eq!(second.credentials().key, first.credentials().key);
    assert_eq!(bed.seen_as(&second).await.expect("session"), "n1");
    // Without its key it is another host.
    std::fs::remove_dir_all(&dir).expect("remove");
    let error = enrol(&options).await.expect_err("spent");
    assert!(error.to_string().ends_with(REFUSED), "{error}");
}

#[tokio::test]
async fn the_key_is_on_disk_before_the_request_and_survives_an_unreachable_coordinator() {
    let bed = bed().await;
    let host = tempfile::tempdir().expect("directory");
    let token = bed.token(1).await;
    let dead = "127.0.0.1:1".parse().expect("address");
    let error = enrol(&at(dead, &token, host.path(), "n1"))
        .await
        .expect_err("unreachable");
    assert!(error.transient(), "{error}");
    let file = host.path().join("identity/enrol-key.pem");
    let key = std::fs::read_to_string(&file).expect("key");
    assert_eq!(mode(&file), 0o600);
    // One of several addresses suffices.
    let mut options = at(dead, &token, host.path(), "n1");
    options.enrol.push(bed.enrol.to_string());
    let identity = enrol(&options).await.expect("joins");
    assert_eq!(identity.credentials().key, key);
}

#[tokio::test]
async fn a_standby_is_tried_again_until_it_is_active() {
    let bed = bed().await;
    let host = tempfile::tempdir().expect("directory");
    let token = bed.token(1).await;
    let fence = bed.fence.lock().expect("lock").take();
    let mut waits = 0;
    let identity = join(&at(bed.enrol, &token, host.path(), "n1"), |error, _| {
        assert!(error.to_string().contains("not the active one"), "{error}");
        waits += 1;
        if waits == 3 {
            bed.fence.lock().expect("lock").clone_from(&fence);
        }
    })
    .await
    .expect("joins");
    assert_eq!((identity.node.as_str(), waits), ("n1", 3));
}

#[tokio::test]
async fn fifty_hosts_with_one_token_and_a_fifty_first() {
    let bed = bed().await;
    let token = bed.token(50).await;
    let hosts = tempfile::tempdir().expect("directory");
    let mut joins = JoinSet::new();
    for i in 0..51 {
        let options = at(bed.enrol, &token, &hosts.path().join(i.to_string()), &format!("n{i}"));
        joins.spawn(async move { enrol(&options).await });
    }
    let results = joins.join_all().await;
    let refused: Vec<_> = results
        .iter()
        .filter_map(|r| r.as_ref().err())
        .map(ToString::to_string)
        .collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].ends_with(REFUSED), "{refused:?}");
    assert_eq!(bed.nodes().await, 50);
}
