//! No token and no key in any log, at the finest level.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use agent::identity::{enrol, renew};
use proto::{
    token::JoinToken,
    wire::{self, tokens_client::TokensClient},
};

use crate::bed::{at, bed};

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

    let token = JoinToken::parse(&created.text).expect("token");
    tracing::info!(?identity, ?options, ?token, ca = ?bed.ca, admin = ?bed.admin, "debug");
    let log = String::from_utf8_lossy(&captured.0.lock().expect("lock")).into_owned();
    assert!(
        log.contains("node joined") && log.contains("certificate renewed"),
        "the log is captured"
    );
    let secret_part = created.text.split('.').nth(3).expect("secret").to_owned();
    let body = |pem: &str| pem.lines().nth(1).expect("a line").to_owned();
    let keys = [&identity.credentials().key, &renewed.credentials().key, &bed.admin.key].map(|k| body(k));
    let bytes = format!("{:?}", token.secret);
    for secret in [&secret_part, &bytes, "PRIVATE KEY"]
        .into_iter()
        .map(ToString::to_string)
        .chain(keys)
    {
        assert!(!log.contains(&secret), "the log holds a secret: {secret}");
    }
}
