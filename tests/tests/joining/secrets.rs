//! No token and no key in any log, at the finest level.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use agent::identity::{enrol, renew};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coordinator::join::join;
use proto::{
    token::JoinToken,
    wire::{self, tokens_client::TokensClient},
};

use crate::bed::{at, bed, join_options};

/// Collects everything that is logged.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_logged_or_shown_by_debug() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // All tasks of this test run on this thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let bed = bed().await;
    let host = tempfile::tempdir().expect("directory");
    let mut tokens = TokensClient::new(bed.channel(&bed.admin).await);
    let created = tokens
        .create_token(wire::CreateTokenRequest::default())
        .await
        .expect("created")
        .into_inner();
    let options = at(bed.enrol, &created.text, host.path(), "n1");
    let identity = enrol(&options).await.expect("joins");
    let renewed = renew(&identity, host.path(), bed.channel(&identity.credentials()).await)
        .await
        .expect("renews");
    let elsewhere = tempfile::tempdir().expect("directory");
    enrol(&at(bed.enrol, &created.text, elsewhere.path(), "n2"))
        .await
        .expect_err("spent");

    // Another coordinator: its token, the cluster's secret that it is given, and its intermediate's key.
    let replicas_token = bed.coordinators_token(1).await;
    let replica = tempfile::tempdir().expect("directory");
    let joining = join_options(&bed, &replicas_token, replica.path(), "c2", bed.enrol);
    join(&joining).await.expect("joins");
    let mut again = joining.clone();
    again.data_dir = elsewhere.path().join("c3");
    join(&again).await.expect_err("spent");
    let cluster_key = std::fs::read(replica.path().join("cluster.key")).expect("key");
    let intermediate = std::fs::read_to_string(replica.path().join("ca/intermediate.key")).expect("key");

    let token = JoinToken::parse(&created.text).expect("token");
    tracing::info!(?identity, ?options, ?token, ?joining, ca = ?bed.ca, admin = ?bed.admin, "debug");
    let log = String::from_utf8_lossy(&captured.0.lock().expect("lock")).into_owned();
    assert!(
        log.contains("node joined") && log.contains("certificate renewed") && log.contains("coordinator joined"),
        "the log is captured"
    );
    let secret_part = created.text.split('.').nth(3).expect("secret").to_owned();
    let body = |pem: &str| pem.lines().nth(1).expect("a line").to_owned();
    let keys = [
        &identity.credentials().key,
        &renewed.credentials().key,
        &bed.admin.key,
        &intermediate,
    ];
    let keys = keys.map(|k| body(k));
    let replicas_secret = replicas_token.split('.').nth(3).expect("secret").to_owned();
    let shapes = [
        format!("{cluster_key:?}"),
        proto::ids::hex(&cluster_key),
        STANDARD.encode(&cluster_key),
        replicas_secret,
    ];
    let bytes = format!("{:?}", token.secret);
    for secret in [&secret_part, &bytes, "PRIVATE KEY"]
        .into_iter()
        .map(ToString::to_string)
        .chain(keys)
        .chain(shapes)
    {
        assert!(!log.contains(&secret), "the log holds a secret: {secret}");
    }
}
