//! The accept loop and its configurations with real TLS clients, silent ones included.

use std::{collections::VecDeque, net::SocketAddr};

use proto::identity::Role;
use rcgen::KeyPair;
use rustls::{
    ClientConfig,
    pki_types::{PrivatePkcs8KeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;

use super::*;
use crate::ca::{
    issue::{self, Issuer},
    system_clock,
};

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

struct Pki {
    issuer: Issuer,
}

impl Pki {
    fn new() -> Self {
        let now = system_clock()();
        let root = issue::new_root(CLUSTER, now).expect("root");
        let intermediate = issue::new_intermediate(&root, "c1", now).expect("intermediate");
        let chain = format!("{}{}", intermediate.pem, root.pem);
        Self {
            issuer: Issuer::new(CLUSTER, &chain, &intermediate.key.serialize_pem()).expect("issuer"),
        }
    }

    fn leaf(&self, role: Role) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("key");
        let leaf = self
            .issuer
            .issue_for(&key, role, "x1", 3_600_000, system_clock()())
            .expect("leaf");
        let chain = vec![leaf.der, self.issuer.intermediate.clone()];
        (chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    fn session(&self) -> ServerConfig {
        let (chain, key) = self.leaf(Role::Coordinator);
        session_config(chain, key, &self.issuer.root, &system_clock()).expect("config")
    }

    fn client(&self, certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.root.clone()).expect("root");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match certificate {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("client certificate"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

/// An open port whose connections echo one byte.
struct Echo {
    address: SocketAddr,
    tls: Arc<ArcSwap<ServerConfig>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

async fn echo(config: ServerConfig, limits: AcceptLimits) -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let tls = Arc::new(ArcSwap::from_pointee(config));
    let stop = CancellationToken::new();
    let (run, mut incoming) = accept(listener, tls.clone(), limits, stop.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(run);
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Some(conn) = incoming.next().await {
            let mut conn = conn.expect("connection");
            open.spawn(async move {
                let mut byte = [0];
                while conn.read_exact(&mut byte).await.is_ok() && conn.write_all(&byte).await.is_ok() {}
            });
        }
    });
    Echo {
        address,
        tls,
        stop,
        tasks,
    }
}

async fn talk(address: SocketAddr, config: ClientConfig) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(proto::identity::coordinator_dns_name(CLUSTER)).expect("name");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"x").await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
    assert_eq!(&byte, b"x");
    Ok(stream)
}

#[tokio::test]
async fn only_a_client_of_this_cluster_is_served() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let port = echo(ours.session(), AcceptLimits::default()).await;
    for role in [Role::Agent, Role::User, Role::Coordinator] {
        let stream = talk(port.address, ours.client(Some(ours.leaf(role))))
            .await
            .expect("served");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    }
    let error = talk(port.address, ours.client(None)).await.expect_err("no certificate");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    // It trusts our root, so that only its own certificate is at fault.
    let foreign = ours.client(Some(theirs.leaf(Role::Agent)));
    let error = talk(port.address, foreign).await.expect_err("foreign certificate");
    assert!(error.to_string().contains("alert"), "{error}");
    // A server of another cluster is refused by the client.
    let error = talk(port.address, theirs.client(Some(theirs.leaf(Role::Agent))))
        .await
        .expect_err("foreign server");
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn an_agents_certificate_serves_nobody() {
    let pki = Pki::new();
    let (chain, key) = pki.leaf(Role::Agent);
    let config = session_config(chain, key, &pki.issuer.root, &system_clock()).expect("config");
    let port = echo(config, AcceptLimits::default()).await;
    assert!(
        talk(port.address, pki.client(Some(pki.leaf(Role::Agent))))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn no_session_is_resumed() {
    let pki = Pki::new();
    let port = echo(pki.session(), AcceptLimits::default()).await;
    let config = pki.client(Some(pki.leaf(Role::Agent)));
    for _ in 0..3 {
        let stream = talk(port.address, config.clone()).await.expect("served");
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn the_older_protocol_and_its_session_ids_are_not_spoken() {
    let pki = Pki::new();
    let port = echo(pki.session(), AcceptLimits::default()).await;
    let mut roots = RootCertStore::empty();
    roots.add(pki.issuer.root.clone()).expect("root");
    let (chain, key) = pki.leaf(Role::Agent);
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("client certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let error = talk(port.address, config).await.expect_err("refused");
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn silent_and_slow_sockets_are_dropped_and_others_served() {
    let pki = Pki::new();
    let limits = AcceptLimits {
        handshake_timeout_ms: 1500,
        // Fewer than the silent ones: they must not hold the places of handshakes.
        max_handshakes: 4,
        ..AcceptLimits::default()
    };
    let port = echo(pki.session(), limits).await;
    let start = Instant::now();
    let mut silent = Vec::new();
    for i in 0..200 {
        let mut stream = TcpStream::connect(port.address).await.expect("connect");
        if i >= 198 {
            // The beginning of a handshake, and then no more.
            stream.write_all(&[0x16, 0x03]).await.expect("write");
        }
        silent.push(stream);
    }
    let config = pki.client(Some(pki.leaf(Role::Agent)));
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(talk(port.address, config.clone()).await.expect("served"));
    }
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "served while the silent ones wait"
    );
    for mut stream in silent {
        // End of file or reset, never a wait.
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 16]))
            .await
            .expect("dropped");
        assert!(matches!(read, Ok(0) | Err(_)));
    }
    assert!(start.elapsed() >= Duration::from_millis(1500), "not before the timeout");
    for mut stream in open {
        stream.write_all(b"y").await.expect("still open");
        assert_eq!(stream.read_u8().await.expect("echo"), b'y');
    }
}

#[tokio::test]
async fn connections_are_capped_and_a_closed_one_makes_room() {
    let pki = Pki::new();
    let limits = AcceptLimits {
        max_connections: 2,
        ..AcceptLimits::default()
    };
    let port = echo(pki.session(), limits).await;
    let config = pki.client(Some(pki.leaf(Role::Agent)));
    let first = talk(port.address, config.clone()).await.expect("served");
    let _second = talk(port.address, config.clone()).await.expect("served");
    let mut third = std::pin::pin!(talk(port.address, config));
    tokio::time::timeout(Duration::from_millis(200), third.as_mut())
        .await
        .expect_err("waits for a place");
    drop(first);
    third.await.expect("served");
}

#[tokio::test]
async fn a_swapped_certificate_is_shown_to_the_next_connection() {
    let (old, new) = (Pki::new(), Pki::new());
    let port = echo(old.session(), AcceptLimits::default()).await;
    let mut open = talk(port.address, old.client(Some(old.leaf(Role::Agent))))
        .await
        .expect("served");
    port.tls.store(Arc::new(new.session()));
    talk(port.address, new.client(Some(new.leaf(Role::Agent))))
        .await
        .expect("served");
    assert!(
        talk(port.address, old.client(Some(old.leaf(Role::Agent))))
            .await
            .is_err()
    );
    open.write_all(b"z").await.expect("the open one goes on");
    assert_eq!(open.read_u8().await.expect("echo"), b'z');
}

#[tokio::test]
async fn shutdown_ends_the_loop_and_the_stream() {
    let pki = Pki::new();
    let mut port = echo(pki.session(), AcceptLimits::default()).await;
    port.stop.cancel();
    while let Some(ended) = port.tasks.join_next().await {
        ended.expect("no panic");
    }
    assert!(TcpStream::connect(port.address).await.is_err());
}

/// Fails as accept does when the process has no files left, then waits for ever.
struct NoFiles {
    errors: VecDeque<io::Error>,
    calls: Arc<std::sync::Mutex<Vec<Instant>>>,
    done: CancellationToken,
}

impl Source for NoFiles {
    async fn next(&mut self) -> io::Result<TcpStream> {
        self.calls.lock().expect("lock").push(Instant::now());
        match self.errors.pop_front() {
            Some(error) => Err(error),
            None => {
                self.done.cancel();
                std::future::pending().await
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_files_the_loop_waits_ever_longer() {
    const EMFILE: i32 = 24;
    let pki = Pki::new();
    let (out, _incoming) = mpsc::channel(1);
    let port = Port {
        tls: Arc::new(ArcSwap::from_pointee(pki.session())),
        limits: AcceptLimits::default(),
        out,
    };
    let calls = Arc::<std::sync::Mutex<Vec<Instant>>>::default();
    let done = CancellationToken::new();
    let mut errors: VecDeque<io::Error> = (0..9).map(|_| io::Error::from_raw_os_error(EMFILE)).collect();
    // A peer that left before it was accepted costs no pause.
    errors.push_back(io::ErrorKind::ConnectionAborted.into());
    let source = NoFiles {
        errors,
        calls: calls.clone(),
        done: done.clone(),
    };
    tokio::select! {
        () = port.run(source) => {}
        () = done.cancelled() => {}
    }
    let calls = calls.lock().expect("lock").clone();
    let pauses: Vec<u128> = calls.windows(2).map(|w| (w[1] - w[0]).as_millis()).collect();
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 0]);
}
