//! Who should not be in: many hosts with one token and a coordinator that dies meanwhile, methods of others, and
//! streams whose right ends while they are open. Needs no engine: the agents are scripts with real identities.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agent::identity::{EnrolError, EnrolOptions, EnrolTimes, Identity, enrol, join, renew};
use harness::{Cluster, Options, eventually};
use prost::Message as _;
use proto::{
    credentials::ChannelTimes,
    wire::{self, agent_client::AgentClient, down, goodbye, up},
};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

fn runtime() -> Runtime {
    proto::program::install_tls_provider();
    Runtime::new().expect("a runtime")
}

fn joining(cluster: &Cluster, name: &str, token: &str) -> EnrolOptions {
    EnrolOptions {
        data_dir: cluster.dir().join(name),
        coordinators: vec![cluster.address()],
        enrol: Vec::new(),
        token: token.to_owned(),
        name: name.to_owned(),
        machine_id: String::new(),
        shared_host: true,
        architecture: String::new(),
        operating_system: String::new(),
        times: EnrolTimes {
            backoff: Duration::from_millis(20),
            max_backoff: Duration::from_millis(100),
            ..EnrolTimes::default()
        },
    }
}

fn joined(cluster: &Cluster, runtime: &Runtime, name: &str) -> Identity {
    let options = joining(cluster, name, &cluster.token(&[]));
    runtime.block_on(enrol(&options)).expect("joins")
}

async fn channel(cluster: &Cluster, identity: &Identity) -> Channel {
    identity
        .credentials()
        .connect(&cluster.address(), ChannelTimes::default())
        .await
        .expect("connects")
}

/// Used by the token, as `wharf token list` tells.
fn uses(cluster: &Cluster, token: &str) -> (u64, usize) {
    let id = token.split('.').nth(2).expect("an id");
    let all = cluster.json(&["token", "list"]);
    let list = all["items"].as_array().expect("a list");
    let found = list.iter().find(|t| t["metadata"]["name"] == id).expect("listed");
    let nodes = found["status"]["nodes"].as_array().map_or(0, Vec::len);
    (found["status"]["used"].as_u64().expect("a number"), nodes)
}

/// Waits until the store's log of writes has grown: a commit is under way, or was a moment ago.
fn wait_for_a_write(wal: &Path, before: Option<SystemTime>) {
    let begun = Instant::now();
    while fs::metadata(wal).and_then(|m| m.modified()).ok() == before && begun.elapsed() < Duration::from_secs(5) {
        std::hint::spin_loop();
    }
}

#[test]
fn fifty_joins_of_a_one_use_token_make_one_node_wherever_the_coordinator_dies() {
    let mut cluster = Cluster::start();
    let runtime = runtime();
    let wal = cluster.data_dir().join("store.db-wal");
    // Killed at the first write of the storm, and at moments around it.
    for round in 0..8_u64 {
        let token = cluster.token(&["--uses", "1"]);
        let before = fs::metadata(&wal).and_then(|m| m.modified()).ok();
        let mut joins = JoinSet::new();
        for host in 0..50 {
            let name = format!("r{round}-n{host}");
            let options = joining(&cluster, &name, &token);
            // A lost answer, a lost connection and a starting coordinator are waited out, as the agent does.
            joins.spawn_on(async move { join(&options, |_, _| {}).await }, runtime.handle());
        }
        if round % 2 == 0 {
            wait_for_a_write(&wal, before);
        } else {
            std::thread::sleep(Duration::from_millis(3 * round * round));
        }
        cluster.kill_coordinator();
        cluster.start_coordinator();
        let results = runtime.block_on(joins.join_all());
        let winners: Vec<&Identity> = results.iter().filter_map(|r| r.as_ref().ok()).collect();
        let names: Vec<&str> = winners.iter().map(|i| i.node.as_str()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {names:?}");
        for error in results.iter().filter_map(|r| r.as_ref().err()) {
            assert!(matches!(error, EnrolError::Refused { .. }), "round {round}: {error}");
        }
        assert_eq!(uses(&cluster, &token), (1, 1), "round {round}");
        let of_round: Vec<_> = cluster
            .items("nodes")
            .iter()
            .filter_map(|n| n["metadata"]["name"].as_str().map(str::to_owned))
            .filter(|n| n.starts_with(&format!("r{round}-")))
            .collect();
        assert_eq!(of_round, names, "round {round}");
        // Its certificate is accepted; a repeat with its key is the same node and costs nothing.
        let winner = winners[0];
        let told = runtime.block_on(async {
            let channel = channel(&cluster, winner).await;
            wire::cluster_client::ClusterClient::new(channel)
                .info(wire::InfoRequest {})
                .await
        });
        let caller = told.expect("accepted").into_inner().caller;
        assert_eq!(caller, format!("agent/{}", winner.node));
        let dir = cluster.dir().join(&winner.node).join("identity");
        fs::remove_file(dir.join("identity.json")).expect("the answer was lost after all");
        proto::files::write_private(&dir.join("enrol-key.pem"), winner.credentials().key.as_bytes()).expect("key");
        let again = runtime.block_on(enrol(&joining(&cluster, &winner.node, &token)));
        assert_eq!(again.expect("its own node").node, winner.node, "round {round}");
        assert_eq!(uses(&cluster, &token), (1, 1), "round {round}: a repeat costs no use");
    }
}

/// Path, and whether the answer is a stream.
fn methods() -> Vec<(String, bool)> {
    let set = prost_types::FileDescriptorSet::decode(wire::DESCRIPTORS).expect("descriptors");
    let mut all = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                all.push((path, method.server_streaming()));
            }
        }
    }
    assert!(all.len() > 10, "{all:?}");
    all
}

/// An empty request, for every message of ours has only optional fields.
async fn call(channel: &Channel, path: &str, streaming: bool) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|e| Status::internal(e.to_string()))?;
    let path = path.parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    if streaming {
        let mut stream = grpc.server_streaming(Request::new(()), path, codec).await?.into_inner();
        tokio::time::timeout(Duration::from_secs(20), stream.message())
            .await
            .map_err(|_| Status::deadline_exceeded("it goes on"))?
            .map(|_| ())
    } else {
        grpc.unary(Request::new(()), path, codec).await.map(|_| ())
    }
}

#[test]
fn over_the_wire_an_agent_and_a_stranger_reach_no_method_but_their_own() {
    let cluster = Cluster::start();
    let runtime = runtime();
    let identity = joined(&cluster, &runtime, "n1");
    runtime.block_on(async {
        let agent = channel(&cluster, &identity).await;
        let extra = ["/wharfinger.v1.Nodes/Nothing", "/wharfinger.v1.Nothing/Get", "/"];
        let all = methods().into_iter().chain(extra.map(|p| (p.to_owned(), false)));
        let leave = "/wharfinger.v1.Agent/Leave";
        for (path, streaming) in all.filter(|(path, _)| path != leave) {
            let result = call(&agent, &path, streaming).await;
            let code = result.as_ref().err().map(Status::code);
            match path.as_str() {
                "/wharfinger.v1.Cluster/Info" => assert_eq!(code, None, "{path}: {result:?}"),
                // Its own: reached, and then wrong in itself.
                "/wharfinger.v1.Agent/Renew" | "/wharfinger.v1.Agent/Pipe" => {
                    assert_eq!(code, Some(Code::InvalidArgument), "{path}: {result:?}");
                }
                "/wharfinger.v1.Agent/Session" => {
                    assert!(
                        !matches!(code, Some(Code::PermissionDenied | Code::Unauthenticated)),
                        "{result:?}"
                    );
                }
                _ => assert_eq!(code, Some(Code::PermissionDenied), "{path}: {result:?}"),
            }
        }
        // The last of its own: nobody but itself can say it.
        let left = call(&agent, leave, false).await;
        assert!(left.is_ok(), "{left:?}");

        // The stranger's port has the stranger's method and no other one.
        let port = cluster.port + 1;
        let root = tonic::transport::Certificate::from_pem(identity.credentials().ca);
        let tls = tonic::transport::ClientTlsConfig::new()
            .ca_certificate(root)
            .domain_name(proto::identity::coordinator_dns_name(&cluster.id));
        let endpoint = |port: u16| {
            tonic::transport::Endpoint::from_shared(format!("https://127.0.0.1:{port}"))
                .expect("an address")
                .tls_config(tls.clone())
                .expect("TLS")
        };
        let stranger = endpoint(port).connect().await.expect("connects");
        for (path, streaming) in methods() {
            let code = call(&stranger, &path, streaming).await.err().map(|s| s.code());
            let expected = if path.starts_with("/wharfinger.v1.Enrol/") {
                Code::InvalidArgument
            } else {
                Code::Unimplemented
            };
            assert_eq!(code, Some(expected), "{path}");
        }
        // On the other port it does not even get as far as a method.
        if let Ok(channel) = endpoint(cluster.port).connect().await {
            for (path, streaming) in methods() {
                assert!(call(&channel, &path, streaming).await.is_err(), "{path}");
            }
        }
    });
}

/// One session of a scripted agent.
struct Line {
    up: mpsc::Sender<wire::Up>,
    down: Streaming<wire::Down>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("in range")
}

fn hello() -> wire::Hello {
    let amounts = wire::ResourceAmounts {
        cpu_milli: 1000,
        memory: 1 << 30,
        ephemeral_storage: 1 << 30,
        pods: 10,
    };
    wire::Hello {
        version: proto::VERSION.into(),
        facts: Some(wire::NodeFacts {
            capacity: Some(amounts),
            allocatable: Some(amounts),
            docker_ready: true,
            ..wire::NodeFacts::default()
        }),
        epoch: 1,
        clock_ms: now_ms(),
        instance: "script".into(),
        ..wire::Hello::default()
    }
}

impl Line {
    async fn open(channel: Channel) -> Result<Self, Status> {
        let (up, outbox) = mpsc::channel(8);
        let first = wire::Up {
            message: Some(up::Message::Hello(hello())),
        };
        up.send(first).await.expect("room");
        let down = AgentClient::new(channel)
            .session(ReceiverStream::new(outbox))
            .await?
            .into_inner();
        Ok(Self { up, down })
    }

    async fn welcome(&mut self) -> wire::Welcome {
        let first = self.down.message().await.expect("no error").expect("a message");
        match first.message {
            Some(down::Message::Welcome(welcome)) => welcome,
            other => panic!("{other:?}"),
        }
    }

    /// Beats until the coordinator ends it: by an error, or by a Goodbye.
    async fn beat_to_the_end(mut self) -> Result<wire::Goodbye, Status> {
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        let limit = tokio::time::sleep(Duration::from_secs(30));
        tokio::pin!(limit);
        loop {
            tokio::select! {
                () = &mut limit => panic!("the stream stays open"),
                _ = beat.tick() => {
                    let message = Some(up::Message::Heartbeat(wire::Heartbeat::default()));
                    let _ = self.up.send(wire::Up { message }).await;
                }
                message = self.down.message() => match message? {
                    Some(wire::Down { message: Some(down::Message::Goodbye(goodbye)) }) => return Ok(goodbye),
                    Some(_) => {}
                    None => panic!("closed without a word"),
                },
            }
        }
    }
}

#[test]
fn an_open_stream_ends_with_its_certificate() {
    let cluster = Cluster::with(Options {
        coordinator: "agent-certificate-ms = 3000\n".to_owned(),
        ..Options::default()
    });
    let runtime = runtime();
    let identity = joined(&cluster, &runtime, "n1");
    let status = runtime.block_on(async {
        let mut line = Line::open(channel(&cluster, &identity).await).await.expect("opens");
        assert_eq!(line.welcome().await.node, "n1");
        line.beat_to_the_end().await.expect_err("an error")
    });
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("expired"), "{status}");
    // Whole seconds are counted, and a heartbeat.
    let late = now_ms().saturating_sub(identity.not_after * 1000);
    assert!((1..=3_000).contains(&late), "it ended {late} ms after its certificate");
    // Nor does that certificate open another one.
    let again = runtime.block_on(async {
        let credentials = identity.credentials();
        let channel = credentials.connect(&cluster.address(), ChannelTimes::default()).await;
        match channel {
            Ok(channel) => Line::open(channel).await.map(|_| ()).map_err(|s| s.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    assert!(again.is_err());
}

#[test]
fn an_open_stream_ends_when_its_certificate_is_replaced() {
    let cluster = Cluster::start();
    let runtime = runtime();
    let old = joined(&cluster, &runtime, "n1");
    let status = runtime.block_on(async {
        let connection = channel(&cluster, &old).await;
        let mut line = Line::open(connection.clone()).await.expect("opens");
        line.welcome().await;
        let new = renew(&old, &cluster.dir().join("n1"), connection)
            .await
            .expect("renews");
        let ended = tokio::spawn(line.beat_to_the_end());
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!ended.is_finished(), "both are valid until the new one is used");
        let used = channel(&cluster, &new).await;
        wire::cluster_client::ClusterClient::new(used)
            .info(wire::InfoRequest {})
            .await
            .expect("the first use");
        ended.await.expect("no panic").expect_err("an error")
    });
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("a newer certificate is in use"), "{status}");
}

#[test]
fn a_deleted_nodes_stream_ends_and_by_its_certificate_there_is_only_quarantine() {
    let cluster = Cluster::start();
    let runtime = runtime();
    let identity = joined(&cluster, &runtime, "n1");
    let connection = runtime.block_on(channel(&cluster, &identity));
    let mut line = runtime.block_on(Line::open(connection.clone())).expect("opens");
    runtime.block_on(line.welcome());
    let ended = runtime.spawn(line.beat_to_the_end());
    // Not Ready until its facts are known; a node without pods goes either way.
    cluster.wharf(&["delete", "node", "n1"]).ok();
    match runtime.block_on(ended).expect("no panic") {
        Ok(goodbye) => assert_eq!(goodbye.reason(), goodbye::Reason::Revoked, "{goodbye:?}"),
        Err(status) => assert_eq!(status.code(), Code::Unauthenticated, "{status}"),
    }
    runtime.block_on(async {
        // Neither the open connection nor a new one carries anything else.
        for connection in [connection, channel(&cluster, &identity).await] {
            let info = call(&connection, "/wharfinger.v1.Cluster/Info", false).await;
            assert_eq!(info.map_err(|s| s.code()), Err(Code::PermissionDenied));
        }
        let error = renew(&identity, &cluster.dir().join("x"), channel(&cluster, &identity).await).await;
        assert!(!error.expect_err("refused").transient());
        let mut line = Line::open(channel(&cluster, &identity).await).await.expect("opens");
        assert_eq!(line.welcome().await.quarantine(), wire::Quarantine::Deleted);
        // Nothing runs there: said, and then there is nothing to come back for.
        let goodbye = line.beat_to_the_end().await.expect("a goodbye");
        assert!(goodbye.message.contains("nothing of it is left"), "{goodbye:?}");
        let refused = match Line::open(channel(&cluster, &identity).await).await {
            Err(status) => status,
            Ok(line) => line.beat_to_the_end().await.expect_err("refused"),
        };
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    });
    // The name is free; the old certificate is nothing to the new node.
    let again = joining(&cluster, "again", &cluster.token(&[]));
    let again = EnrolOptions {
        name: "n1".into(),
        ..again
    };
    let new = runtime.block_on(enrol(&again)).expect("joins");
    runtime.block_on(async {
        let mut line = Line::open(channel(&cluster, &new).await).await.expect("opens");
        assert_eq!(line.welcome().await.quarantine(), wire::Quarantine::Unspecified);
        let refused = match Line::open(channel(&cluster, &identity).await).await {
            Err(status) => status,
            Ok(line) => line.beat_to_the_end().await.expect_err("refused"),
        };
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    });
    eventually("the node is there", || {
        let n = cluster.items("nodes").len();
        if n == 1 { Ok(()) } else { Err(format!("{n} nodes")) }
    });
}
