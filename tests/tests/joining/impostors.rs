//! Servers that are no coordinators of the cluster: not one byte of a token, a session or a renewal reaches them.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use agent::identity::{EnrolError, enrol, renew};
use proto::credentials::ChannelTimes;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{io::AsyncReadExt as _, net::TcpListener, task::JoinSet};

use crate::bed::{at, bed};

/// A server that is no coordinator of the token's cluster: takes connections with `config` and answers how many
/// bytes of application data each one sent.
async fn impostor(config: ServerConfig) -> (SocketAddr, JoinSet<Result<usize, std::io::Error>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await?;
        Ok(received.len())
    });
    (address, tasks)
}

/// Shows a chain without holding its key.
#[derive(Debug)]
struct Borrowed(Arc<CertifiedKey>);

impl ResolvesServerCert for Borrowed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn shows(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = provider.key_provider.load_private_key(key).expect("key");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Borrowed(Arc::new(CertifiedKey::new(chain, key)))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|c| c.expect("PEM"))
        .collect()
}

fn fresh_key() -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(rcgen::KeyPair::generate().expect("key").serialize_der()).into()
}

#[tokio::test]
async fn an_impostor_sees_not_one_byte() {
    let (bed, foreign) = (bed().await, bed().await);
    let token = bed.token(1).await;
    let root = certificates(bed.ca.root_pem());
    let foreign_chain = |dir: &Path| {
        let pem = std::fs::read_to_string(dir.join("ca/intermediate.crt")).expect("chain");
        certificates(&pem)
    };
    let joined = tempfile::tempdir().expect("directory");
    let spare = bed.token(1).await;
    let agent = enrol(&at(bed.enrol, &spare, joined.path(), "n9"))
        .await
        .expect("joins")
        .credentials();
    let agent_key = PrivateKeyDer::from_pem_slice(agent.key.as_bytes()).expect("key");
    // The real coordinator's chain, as anyone can see it who connects.
    let real = {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates({
                let mut roots = rustls::RootCertStore::empty();
                roots.add(root[0].clone()).expect("root");
                roots
            })
            .with_no_client_auth();
        let name = proto::identity::coordinator_dns_name(bed.ca.cluster());
        let stream = tokio::net::TcpStream::connect(bed.enrol).await.expect("connect");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name.try_into().expect("name"), stream)
            .await
            .expect("handshake");
        let chain = stream.get_ref().1.peer_certificates().expect("chain").to_vec();
        assert_eq!(chain.len(), 3, "leaf, intermediate and root");
        chain
    };

    let own_root = (*foreign.ca.enrol_tls().load_full()).clone();
    let with_real_root = [foreign_chain(foreign.dir.path()), root.clone()].concat();
    let impostors = [
        ("its own root", own_root),
        ("its own chain and the real root", shows(with_real_root, fresh_key())),
        ("the real chain without its key", shows(real, fresh_key())),
        (
            "a host of the cluster",
            shows([certificates(&agent.certificate), root.clone()].concat(), agent_key),
        ),
        ("the root alone", shows(root, fresh_key())),
    ];
    for (who, config) in impostors {
        let (address, mut served) = impostor(config).await;
        let host = tempfile::tempdir().expect("directory");
        let error = enrol(&at(address, &token, host.path(), "n1")).await.expect_err(who);
        assert!(
            matches!(error, EnrolError::WrongRoot { .. }) && !error.transient(),
            "{who}: {error}"
        );
        let seen = served.join_next().await.expect("a task").expect("no panic");
        assert!(matches!(seen, Err(_) | Ok(0)), "{who} received {seen:?}");
    }
    assert_eq!(bed.nodes().await, 1);
}

#[tokio::test]
async fn an_impostor_sees_not_one_byte_of_a_session_or_a_renewal() {
    let (bed, foreign) = (bed().await, bed().await);
    let token = bed.token(1).await;
    let host = tempfile::tempdir().expect("directory");
    let joined = enrol(&at(bed.enrol, &token, host.path(), "n1")).await.expect("joins");
    let channel = bed.channel(&joined.credentials()).await;
    let renewed = renew(&joined, host.path(), channel).await.expect("renews");
    let root = certificates(bed.ca.root_pem());
    let pem = std::fs::read_to_string(foreign.dir.path().join("ca/intermediate.crt")).expect("chain");
    for identity in [joined, renewed] {
        let agent = identity.credentials();
        let agent_key = PrivateKeyDer::from_pem_slice(agent.key.as_bytes()).expect("key");
        let impostors = [
            ("its own root", (*foreign.ca.enrol_tls().load_full()).clone()),
            (
                "its own chain and the real root",
                shows([certificates(&pem), root.clone()].concat(), fresh_key()),
            ),
            (
                "a host of the cluster",
                shows([certificates(&agent.certificate), root.clone()].concat(), agent_key),
            ),
            ("the root alone", shows(root.clone(), fresh_key())),
        ];
        for (who, config) in impostors {
            let (address, mut served) = impostor(config).await;
            let error = agent
                .connect(&address.to_string(), ChannelTimes::default())
                .await
                .expect_err(who);
            assert!(error.to_string().contains("invalid peer certificate"), "{who}: {error}");
            let seen = served.join_next().await.expect("a task").expect("no panic");
            assert!(matches!(seen, Err(_) | Ok(0)), "{who} received {seen:?}");
        }
    }
}

#[tokio::test]
async fn a_coordinator_from_another_time_is_told_from_an_impostor() {
    let bed = bed().await;
    let token = bed.token(1).await;
    let host = tempfile::tempdir().expect("directory");
    let joined = enrol(&at(bed.enrol, &token, host.path(), "n1")).await.expect("joins");
    // Its certificate is renewed an hour and more from now, by its own clock.
    bed.ahead.store(28 * 3600 * 1000, Ordering::SeqCst);
    assert!(bed.ca.renew_server_certificate().expect("renewal"));
    let connected = joined
        .credentials()
        .connect(&bed.session.to_string(), ChannelTimes::default())
        .await;
    let error = connected.expect_err("not valid yet").to_string();
    for words in ["not valid yet", "verification time", "set both by NTP"] {
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(error.lines().count(), 1, "{error}");
}
