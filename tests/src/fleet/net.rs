//! The fleet's network: connections in memory that tests cut and silence. Agents and clients connect through a
//! [`Link`]; whoever listens at the address takes the other ends.
//!
//! Invariant: a cut link has no connection, neither old nor new; a silent one loses nothing and delivers it when
//! it speaks again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use agent::{
    join::Connector,
    settings::{Settings, ms},
};
use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use proto::flow;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, copy_bidirectional, duplex},
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Channel, Endpoint, server::Connected};

/// Bytes that a connection holds in each direction.
const BUFFER: usize = 64 << 10;

/// Who is at the other end of a connection; the coordinator takes it for its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    Node(String),
    User(String),
}

/// The coordinator's end of a connection.
pub struct Incoming {
    io: DuplexStream,
    who: Who,
}

impl Connected for Incoming {
    type ConnectInfo = Who;

    fn connect_info(&self) -> Who {
        self.who.clone()
    }
}

impl AsyncRead for Incoming {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Where a coordinator takes connections from.
pub type Listener = mpsc::Sender<io::Result<Incoming>>;

/// Where a fleet's one coordinator listens.
pub const ADDRESS: &str = "c1:7443";

/// Where connections go: to the coordinator that listens at the address, if there is one.
#[derive(Clone)]
pub struct Net {
    listeners: Arc<Mutex<BTreeMap<String, (Listener, CancellationToken)>>>,
    carriers: TaskTracker,
    /// Where the carriers run: not in what a test kills.
    runtime: tokio::runtime::Handle,
}

impl Net {
    /// Carries connections in the runtime that this is called in.
    pub fn new() -> Self {
        Self {
            listeners: Arc::default(),
            carriers: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Connections of others from now on; whoever listened before gets no more. The stream ends once the sender
    /// is dropped and another one listens.
    pub fn listen(&self) -> (Listener, mpsc::Receiver<io::Result<Incoming>>) {
        self.listen_at(ADDRESS)
    }

    /// As [`Net::listen`], at an address of its own.
    pub fn listen_at(&self, address: &str) -> (Listener, mpsc::Receiver<io::Result<Incoming>>) {
        let (sender, receiver) = mpsc::channel(4096);
        let listening = (sender.clone(), CancellationToken::new());
        self.lock().insert(address.to_owned(), listening);
        (sender, receiver)
    }

    /// Nobody listens: connecting is refused.
    pub fn close(&self) {
        self.lock().remove(ADDRESS);
    }

    /// As the end of the process that listens there: nobody listens, and all its connections break.
    pub fn break_at(&self, address: &str) {
        if let Some((_, gone)) = self.lock().remove(address) {
            gone.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Listener, CancellationToken)>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn link(&self, who: Who) -> Arc<Link> {
        Arc::new(Link {
            net: self.clone(),
            who,
            state: watch::Sender::default(),
        })
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    cut: bool,
    /// Cut from these addresses only.
    apart: BTreeSet<String>,
    silent: bool,
    /// Connections made before the last break are gone.
    breaks: u64,
}

/// One party's way to the coordinator.
pub struct Link {
    net: Net,
    who: Who,
    state: watch::Sender<State>,
}

impl Link {
    /// Breaks all connections and makes new ones impossible until [`Link::restore`].
    pub fn cut(&self) {
        self.state.send_modify(|s| {
            s.cut = true;
            s.breaks += 1;
        });
    }

    /// Breaks all connections; new ones are possible at once.
    pub fn blip(&self) {
        self.state.send_modify(|s| s.breaks += 1);
    }

    /// Nothing gets through, nothing breaks, until [`Link::restore`].
    pub fn silence(&self) {
        self.state.send_modify(|s| s.silent = true);
    }

    pub fn restore(&self) {
        self.state.send_modify(|s| {
            s.cut = false;
            s.silent = false;
            s.apart.clear();
        });
    }

    /// As [`Link::cut`], towards one address.
    pub fn cut_from(&self, address: &str) {
        self.state.send_modify(|s| {
            s.apart.insert(address.to_owned());
        });
    }

    /// A new connection to the one coordinator.
    pub async fn channel(&self, settings: &Settings) -> Result<Channel, String> {
        self.channel_to(ADDRESS, settings).await
    }

    /// A new connection.
    pub async fn channel_to(&self, address: &str, settings: &Settings) -> Result<Channel, String> {
        let mut state = self.state.subscribe();
        let now = state
            .wait_for(|s| !s.silent || s.cut)
            .await
            .map_err(|_| "the link is gone".to_owned())?
            .clone();
        if now.cut || now.apart.contains(address) {
            return Err(format!("{address}: the link is cut"));
        }
        let refused = || format!("{address}: connection refused");
        let (listener, gone) = self.net.lock().get(address).cloned().ok_or_else(refused)?;
        let (ours, mut near) = duplex(BUFFER);
        let (mut far, io) = duplex(BUFFER);
        let incoming = Incoming {
            io,
            who: self.who.clone(),
        };
        listener.send(Ok(incoming)).await.map_err(|_| refused())?;
        let address = address.to_owned();
        let carry = async move {
            tokio::select! {
                () = gone.cancelled() => {}
                () = carry(&mut near, &mut far, state, now.breaks, &address) => {}
            }
        };
        self.net.carriers.spawn_on(carry, &self.net.runtime);
        let mut ours = Some(ours);
        let connect = tower::service_fn(move |_| {
            let io = ours.take().ok_or_else(|| io::Error::other("a connection is used once"));
            async move { io.map(TokioIo::new) }
        });
        Endpoint::from_static("http://fleet")
            .http2_keep_alive_interval(ms(settings.keepalive_interval_ms))
            .keep_alive_timeout(ms(settings.keepalive_timeout_ms))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(flow::STREAM_WINDOW)
            .initial_connection_window_size(flow::CONNECTION_WINDOW)
            .connect_with_connector(connect)
            .await
            .map_err(|e| e.to_string())
    }
}

/// Moves bytes both ways while the link is up.
async fn carry(
    near: &mut DuplexStream,
    far: &mut DuplexStream,
    mut state: watch::Receiver<State>,
    breaks: u64,
    address: &str,
) {
    let copy = copy_bidirectional(near, far);
    tokio::pin!(copy);
    loop {
        let (broken, silent) = {
            let now = state.borrow_and_update();
            (now.breaks != breaks || now.apart.contains(address), now.silent)
        };
        if broken {
            return;
        }
        tokio::select! {
            _ = &mut copy, if !silent => return,
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

/// How an agent uses its link.
pub struct LinkConnector {
    pub link: Arc<Link>,
    pub settings: Settings,
}

#[async_trait]
impl Connector for LinkConnector {
    async fn connect(&self, address: &str) -> Result<Channel, String> {
        self.link.channel_to(address, &self.settings).await
    }
}
