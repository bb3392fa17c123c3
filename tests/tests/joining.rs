//! Joining end to end in one process: `init`, the coordinator's two TLS ports, an agent's enrolment, its calls
//! with what it got, and those who try without.

#[path = "../../coordinator/src/ca/test_store.rs"]
mod test_store;

use std::{
    io::Write,
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

use agent::identity::{EnrolError, EnrolOptions, EnrolTimes, Identity, enrol, join, renew};
use coordinator::{
    ca::{
        Authority, Parts, Settings,
        enrol::REFUSED,
        layer::AuthLayer,
        service::{EnrolService, TokensService, caller},
        tokens::TokenSpec,
    },
    init::{InitOptions, init},
    store::{self, Fence, Store},
    tls::{self, AcceptLimits},
};
use proto::{
    credentials::{ChannelTimes, Credentials},
    identity::Role,
    token::JoinToken,
    wire::{
        self,
        agent_server::{Agent, AgentServer},
        tokens_client::TokensClient,
        tokens_server::TokensServer,
    },
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use test_store::TestStore;
use tokio::{io::AsyncReadExt as _, net::TcpListener, task::JoinSet};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

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

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::Issued>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.0.renew(&caller, &request.get_ref().csr_der).await?))
    }
}

/// A coordinator with its two ports; everything ends when it is dropped.
struct Bed {
    dir: tempfile::TempDir,
    store: Arc<TestStore>,
    ca: Authority,
    fence: Arc<Mutex<Option<Fence>>>,
    /// Added to the coordinator's clock, ms.
    ahead: Arc<AtomicU64>,
    session: SocketAddr,
    enrol: SocketAddr,
    admin: Credentials,
    _tasks: JoinSet<()>,
}

async fn bed() -> Bed {
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
    let (accept, incoming) = tls::accept(session, ca.session_tls(), AcceptLimits::default(), stop.clone());
    tasks.spawn(accept);
    let server = tls::session_server()
        .layer(AuthLayer(ca.clone()))
        .add_service(TokensServer::new(TokensService(ca.clone())))
        .add_service(AgentServer::new(AgentService(ca.clone())));
    tasks.spawn(async move { server.serve_with_incoming(incoming).await.expect("serves") });
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

fn spec(uses: u32) -> TokenSpec {
    TokenSpec {
        role: Role::Agent,
        uses,
        ttl_ms: 0,
        labels: Default::default(),
        node: String::new(),
    }
}

fn times() -> EnrolTimes {
    EnrolTimes {
        backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(20),
        ..EnrolTimes::default()
    }
}

fn at(enrol: SocketAddr, token: &str, data_dir: &Path, name: &str) -> EnrolOptions {
    EnrolOptions {
        data_dir: data_dir.to_owned(),
        coordinators: vec!["127.0.0.1:1".into()],
        enrol: vec![enrol.to_string()],
        token: token.to_owned(),
        name: name.to_owned(),
        times: times(),
    }
}

impl Bed {
    async fn token(&self, uses: u32) -> String {
        self.ca.create_token(&spec(uses), "user/admin").await.expect("token").2
    }

    async fn nodes(&self) -> usize {
        let snapshot = self.store.load().await.expect("load");
        snapshot
            .entries
            .iter()
            .filter(|e| e.key.starts_with("obj/node/"))
            .count()
    }

    async fn channel(&self, credentials: &Credentials) -> tonic::transport::Channel {
        credentials
            .connect(&self.session.to_string(), ChannelTimes::default())
            .await
            .expect("connects")
    }

    /// A session's first message, which names the node that the coordinator sees.
    async fn seen_as(&self, identity: &Identity) -> Result<String, Status> {
        let channel = self.channel(&identity.credentials()).await;
        let mut client = wire::agent_client::AgentClient::new(channel);
        let mut down = client.session(tokio_stream::empty()).await?.into_inner();
        match down.message().await?.and_then(|d| d.message) {
            Some(wire::down::Message::Welcome(welcome)) => Ok(welcome.node),
            other => Err(Status::internal(format!("{other:?}"))),
        }
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

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
    let revoke = wire::RevokeTokenRequest { id: record.id };
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
    let (id, _, revoked) = bed.ca.create_token(&spec(1), "user/admin").await.expect("token");
    bed.ca.revoke_token(&id, "user/admin").await.expect("revoked");
    assert!(refused(&revoked).await.ends_with(REFUSED));
    let short = TokenSpec { ttl_ms: 1, ..spec(1) };
    let (_, _, expired) = bed.ca.create_token(&short, "user/admin").await.expect("token");
    bed.ahead.store(2, Ordering::SeqCst);
    assert!(refused(&expired).await.ends_with(REFUSED));
    let only = TokenSpec {
        node: "n9".into(),
        ..spec(1)
    };
    let (_, _, only) = bed.ca.create_token(&only, "user/admin").await.expect("token");
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
