//! A coordinator with its two TLS ports in this process, and what every test of joining needs.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agent::identity::{EnrolOptions, EnrolTimes, Identity};
use coordinator::{
    ca::{
        Authority, Parts, Settings,
        layer::AuthLayer,
        service::{CoordinatorsService, EnrolService, TokensService, caller},
        tokens::TokenSpec,
    },
    init::{InitOptions, init},
    join::{JoinError, JoinOptions, JoinTimes, join},
    store::{Fence, Store},
    tls::{self, AcceptLimits},
};
use proto::{
    credentials::{ChannelTimes, Credentials},
    identity::Role,
    wire::{
        self,
        agent_server::{Agent, AgentServer},
        coordinators_server::CoordinatorsServer,
        tokens_server::TokensServer,
    },
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::test_store::TestStore;

/// The agents' service, as far as the ca has a part in it.
struct AgentService(Authority);

#[tonic::async_trait]
impl Agent for AgentService {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::Down, Status>> + Send>>;

    async fn session(&self, request: Request<Streaming<wire::Up>>) -> Result<Response<Self::SessionStream>, Status> {
        let node = caller(&request)?.identity.id;
        let welcome = wire::Welcome {
            node,
            ..Default::default()
        };
        let down = wire::Down {
            message: Some(wire::down::Message::Welcome(welcome)),
        };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(down)))))
    }

    type PipeStream = Pin<Box<dyn Stream<Item = Result<wire::Chunk, Status>> + Send>>;

    async fn pipe(&self, _: Request<Streaming<wire::Chunk>>) -> Result<Response<Self::PipeStream>, Status> {
        Err(Status::not_found("nobody waits for a pipe of this node"))
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::Issued>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.0.renew(&caller, &request.get_ref().csr_der).await?))
    }

    async fn leave(&self, _: Request<wire::LeaveRequest>) -> Result<Response<wire::LeaveReply>, Status> {
        Err(Status::unavailable("this coordinator has no nodes"))
    }
}

/// A coordinator with its two ports; everything ends when it is dropped.
pub struct Bed {
    pub dir: tempfile::TempDir,
    pub store: Arc<TestStore>,
    pub ca: Authority,
    pub fence: Arc<Mutex<Option<Fence>>>,
    /// Added to the coordinator's clock, ms.
    pub ahead: Arc<AtomicU64>,
    pub session: SocketAddr,
    pub enrol: SocketAddr,
    pub admin: Credentials,
    _tasks: JoinSet<()>,
}

pub async fn bed() -> Bed {
    proto::program::install_tls_provider();
    let dir = tempfile::tempdir().expect("directory");
    let listeners = [
        TcpListener::bind("127.0.0.1:0").await,
        TcpListener::bind("127.0.0.1:0").await,
    ];
    let [session, enrol] = listeners.map(|l| l.expect("bind"));
    let addresses = [&session, &enrol].map(|l| l.local_addr().expect("address"));
    let store = TestStore::new();
    let clock = coordinator::ca::system_clock();
    let options = InitOptions {
        data_dir: dir.path().to_owned(),
        advertise: Some(addresses[0].to_string()),
        name: Some("c1".into()),
        now_ms: clock(),
    };
    let opened: Arc<dyn Store> = store.clone();
    let report = init(options, Vec::new(), async |_| Ok(opened)).await.expect("init");
    let fence = store.take_term(&report.incarnation, "test").await.expect("term");
    let fence = Arc::new(Mutex::new(Some(fence)));
    let ahead = Arc::new(AtomicU64::new(0));
    let (fenced, added) = (fence.clone(), ahead.clone());
    let ca = Authority::open(Parts {
        data_dir: dir.path().to_owned(),
        store: store.clone(),
        clock: Arc::new(move || clock() + added.load(Ordering::SeqCst)),
        fence: Arc::new(move || fenced.lock().expect("lock").clone()),
        settings: Settings::default(),
    })
    .await
    .expect("open");

    let mut tasks = JoinSet::new();
    let stop = CancellationToken::new();
    serve_sessions(&ca, session, &mut tasks);
    let (accept, incoming) = tls::accept(enrol, ca.enrol_tls(), AcceptLimits::enrol(), stop);
    tasks.spawn(accept);
    let server = tls::enrol_server().add_service(EnrolService(ca.clone()).into_server());
    tasks.spawn(async move { server.serve_with_incoming(incoming).await.expect("serves") });
    let admin = coordinator::init::admin_credentials(dir.path(), coordinator::ca::system_clock()()).expect("admin");
    Bed {
        dir,
        store,
        ca,
        fence,
        ahead,
        session: addresses[0],
        enrol: addresses[1],
        admin,
        _tasks: tasks,
    }
}

/// Puts the services, as far as the ca has a part in them, behind a session port.
fn serve_sessions(ca: &Authority, listener: TcpListener, tasks: &mut JoinSet<()>) {
    let stop = CancellationToken::new();
    let (accept, incoming) = tls::accept(listener, ca.session_tls(), AcceptLimits::default(), stop);
    tasks.spawn(accept);
    let server = tls::session_server()
        .layer(AuthLayer(ca.clone()))
        .add_service(TokensServer::new(TokensService(ca.clone())))
        .add_service(CoordinatorsServer::new(CoordinatorsService(ca.clone())))
        .add_service(EnrolService(ca.clone()).into_server())
        .add_service(AgentServer::new(AgentService(ca.clone())));
    tasks.spawn(async move { server.serve_with_incoming(incoming).await.expect("serves") });
}

/// Another coordinator of a bed's cluster, on the same store; a standby until it is given the fence.
pub struct Replica {
    pub dir: tempfile::TempDir,
    pub ca: Authority,
    pub fence: Arc<Mutex<Option<Fence>>>,
    pub session: SocketAddr,
    _tasks: JoinSet<()>,
}

/// What a joining coordinator is told to do.
pub fn join_options(bed: &Bed, token: &str, dir: &Path, name: &str, session: SocketAddr) -> JoinOptions {
    JoinOptions {
        data_dir: dir.to_owned(),
        token: token.to_owned(),
        peers: vec![bed.enrol.to_string()],
        name: Some(name.to_owned()),
        advertise: Some(session.to_string()),
        enrol: None,
        now_ms: coordinator::ca::system_clock()(),
        times: JoinTimes {
            rounds: 2,
            pause: Duration::from_millis(10),
            ..JoinTimes::default()
        },
    }
}

impl Bed {
    pub async fn coordinators_token(&self, uses: u32) -> String {
        let spec = TokenSpec {
            role: Role::Coordinator,
            ..spec(uses)
        };
        self.ca.create_token(&spec, "user/admin", "").await.expect("token").2
    }

    /// A coordinator that joined and serves.
    pub async fn replica(&self, name: &str) -> Result<Replica, JoinError> {
        let token = self.coordinators_token(1).await;
        let dir = tempfile::tempdir().expect("directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let session = listener.local_addr().expect("address");
        join(&join_options(self, &token, dir.path(), name, session)).await?;
        let fence: Arc<Mutex<Option<Fence>>> = Arc::default();
        let fenced = fence.clone();
        let ca = Authority::open(Parts {
            data_dir: dir.path().to_owned(),
            store: self.store.clone(),
            clock: coordinator::ca::system_clock(),
            fence: Arc::new(move || fenced.lock().expect("lock").clone()),
            settings: Settings::default(),
        })
        .await
        .expect("open");
        let mut tasks = JoinSet::new();
        serve_sessions(&ca, listener, &mut tasks);
        Ok(Replica {
            dir,
            ca,
            fence,
            session,
            _tasks: tasks,
        })
    }
}

impl Replica {
    /// As a coordinator speaks to its peers.
    pub async fn to(&self, peer: SocketAddr) -> Result<tonic::transport::Channel, String> {
        let endpoint = self.ca.peer_client(&peer.to_string(), ChannelTimes::default());
        let endpoint = endpoint.map_err(|e| e.to_string())?;
        endpoint.connect().await.map_err(|e| proto::credentials::root_cause(&e))
    }
}

pub fn spec(uses: u32) -> TokenSpec {
    TokenSpec {
        role: Role::Agent,
        uses,
        ttl_ms: 0,
        labels: Default::default(),
        node: String::new(),
    }
}

pub fn times() -> EnrolTimes {
    EnrolTimes {
        backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(20),
        ..EnrolTimes::default()
    }
}

pub fn at(enrol: SocketAddr, token: &str, data_dir: &Path, name: &str) -> EnrolOptions {
    EnrolOptions {
        data_dir: data_dir.to_owned(),
        coordinators: vec!["127.0.0.1:1".into()],
        enrol: vec![enrol.to_string()],
        token: token.to_owned(),
        name: name.to_owned(),
        machine_id: format!("machine-{name}"),
        shared_host: false,
        architecture: String::new(),
        operating_system: String::new(),
        times: times(),
    }
}

impl Bed {
    pub async fn token(&self, uses: u32) -> String {
        self.ca
            .create_token(&spec(uses), "user/admin", "")
            .await
            .expect("token")
            .2
    }

    pub async fn nodes(&self) -> usize {
        let snapshot = self.store.load().await.expect("load");
        snapshot
            .entries
            .iter()
            .filter(|e| e.key.starts_with("obj/node/"))
            .count()
    }

    pub async fn channel(&self, credentials: &Credentials) -> tonic::transport::Channel {
        credentials
            .connect(&self.session.to_string(), ChannelTimes::default())
            .await
            .expect("connects")
    }

    /// A session's first message, which names the node that the coordinator sees.
    pub async fn seen_as(&self, identity: &Identity) -> Result<String, Status> {
        let channel = self.channel(&identity.credentials()).await;
        let mut client = wire::agent_client::AgentClient::new(channel);
        let mut down = client.session(tokio_stream::empty()).await?.into_inner();
        match down.message().await?.and_then(|d| d.message) {
            Some(wire::down::Message::Welcome(welcome)) => Ok(welcome.node),
            other => Err(Status::internal(format!("{other:?}"))),
        }
    }
}

pub fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}
