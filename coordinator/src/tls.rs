//! The TLS ports' accept loop and their rustls configurations. Called by the coordinator's wiring (one loop a
//! port) and by `ca::server_cert`. tonic's own acceptor has no handshake timeout, no caps, spins when files
//! run out and cannot change its certificate.
//!
//! Invariant: no peer, silent, slow or many, keeps another one from being served: handshakes and connections
//! are counted and timed, and an accept that fails for want of files waits before the next.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use proto::flow;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    time_provider::TimeProvider,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{
    Server,
    server::{Connected, TcpConnectInfo, TlsConnectInfo},
};

use crate::ca::Clock;

/// Caps and times of one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AcceptLimits {
    /// From the accept to the end of the handshake.
    pub handshake_timeout_ms: u64,
    /// Handshakes in progress at once; a peer counts from its first byte on.
    pub max_handshakes: usize,
    /// Connections at once, silent ones included; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// First pause after an accept that failed for want of files or memory; doubles up to the longest.
    pub backoff_ms: u64,
    pub max_backoff_ms: u64,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self {
            handshake_timeout_ms: 5000,
            max_handshakes: 256,
            max_connections: 20_000,
            backoff_ms: 10,
            max_backoff_ms: 1000,
        }
    }
}

impl AcceptLimits {
    /// For the enrolment port, where strangers connect.
    pub fn enrol() -> Self {
        Self {
            max_connections: 2000,
            ..Self::default()
        }
    }
}

/// A connection whose handshake is done. Holds its place among `max_connections` until it is dropped.
pub struct Conn {
    stream: TlsStream<TcpStream>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Conn {
    type ConnectInfo = TlsConnectInfo<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// What `Server::serve_with_incoming` takes.
pub type Incoming = ReceiverStream<io::Result<Conn>>;

/// The loop of one port, to be spawned by the caller, and the connections it yields. The loop ends at
/// `shutdown` or when the stream is dropped; handshakes in progress end with it.
pub fn accept(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    limits: AcceptLimits,
    shutdown: CancellationToken,
) -> (impl Future<Output = ()> + Send, Incoming) {
    // Few wait here: tonic takes them as they come.
    let (out, incoming) = mpsc::channel(64);
    let port = Port { tls, limits, out };
    let run = async move {
        let end = port.out.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = end.closed() => {}
            () = port.run(listener) => {}
        }
    };
    (run, ReceiverStream::new(incoming))
}

/// Where connections come from: a listener, or a test.
trait Source: Send {
    fn next(&mut self) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

impl Source for TcpListener {
    async fn next(&mut self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

struct Port {
    tls: Arc<ArcSwap<ServerConfig>>,
    limits: AcceptLimits,
    out: mpsc::Sender<io::Result<Conn>>,
}

impl Port {
    async fn run(self, mut source: impl Source) {
        let places = Arc::new(Semaphore::new(self.limits.max_connections));
        let handshakes = Arc::new(Semaphore::new(self.limits.max_handshakes));
        let first = Duration::from_millis(self.limits.backoff_ms.max(1));
        let longest = Duration::from_millis(self.limits.max_backoff_ms.max(1));
        let mut pause = first;
        // Handshakes: each ends by its own timeout at the latest, and all with this loop.
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match source.next().await {
                Ok(stream) => {
                    pause = first;
                    let tls = TlsAcceptor::from(self.tls.load_full());
                    let limit = Duration::from_millis(self.limits.handshake_timeout_ms);
                    let (handshakes, out) = (handshakes.clone(), self.out.clone());
                    tasks.spawn(async move {
                        match tokio::time::timeout(limit, handshake(stream, tls, handshakes)).await {
                            Ok(Ok(stream)) => {
                                let conn = Conn { stream, _place: place };
                                // Fails only when the server is gone.
                                let _ = out.send(Ok(conn)).await;
                            }
                            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                            Err(_) => tracing::debug!("TLS handshake timed out"),
                        }
                    });
                }
                // The peer was gone before it was accepted.
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections; trying again");
                    drop(place);
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(longest);
                }
            }
        }
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

async fn handshake(
    stream: TcpStream,
    tls: TlsAcceptor,
    handshakes: Arc<Semaphore>,
) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    // A peer that says nothing holds none of the handshake places.
    if stream.peek(&mut [0]).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let _turn = handshakes.acquire().await.map_err(io::Error::other)?;
    tls.accept(stream).await
}

/// rustls reads the same clock as all else here.
struct RustlsClock(Clock);

impl std::fmt::Debug for RustlsClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RustlsClock")
    }
}

impl TimeProvider for RustlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis((self.0)())))
    }
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_root: Option<&CertificateDer<'static>>,
    clock: &Clock,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(RustlsClock(clock.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match client_root {
        Some(root) => {
            let mut roots = RootCertStore::empty();
            roots.add(root.clone())?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would not be verified again: a revoked or expired certificate would pass.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Session port: a client certificate of this cluster is required.
pub fn session_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    root: &CertificateDer<'static>,
    clock: &Clock,
) -> Result<ServerConfig, rustls::Error> {
    config(chain, key, Some(root), clock)
}

/// Enrolment port: no client certificate is asked for.
pub fn enrol_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clock: &Clock,
) -> Result<ServerConfig, rustls::Error> {
    config(chain, key, None, clock)
}

/// HTTP/2 of the session port. tonic's defaults are no keepalive, streams without limit, and a window for the
/// connection that one stream can fill.
pub fn session_server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(flow::STREAMS)
        .initial_stream_window_size(flow::STREAM_WINDOW)
        .initial_connection_window_size(flow::CONNECTION_WINDOW)
}

/// HTTP/2 of the enrolment port: one short call a connection, and no connection for long.
pub fn enrol_server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .max_concurrent_streams(4)
        .timeout(Duration::from_secs(20))
        .max_connection_age(Duration::from_secs(30))
        .max_connection_age_grace(Duration::from_secs(10))
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
