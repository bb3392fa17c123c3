//! A scripted coordinator in this process, over real connections without TLS, and a whole agent to go with it.

use std::{net::SocketAddr, sync::Mutex, time::Duration};

use async_trait::async_trait;
use proto::wire::{
    agent_server::{Agent, AgentServer},
    assignments::Kind,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Request, Response, transport::Endpoint};

use super::*;
use crate::{
    AgentError, Config,
    facts::FixedFacts,
    join::Join,
    ledger::{Ledger, load},
    runtime::{State, fake::FakeEngine},
    settings::Settings,
    worker::tests::{fence, pod},
};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A coordinator that does what the test says.
pub(super) struct Coordinator {
    pub address: String,
    sessions: tokio::sync::Mutex<mpsc::Receiver<Line>>,
    pipes: tokio::sync::Mutex<mpsc::Receiver<Pipe>>,
    server: Mutex<Option<JoinHandle<()>>>,
}

/// The coordinator's end of one session.
pub(super) struct Line {
    pub ups: Streaming<wire::Up>,
    pub downs: mpsc::Sender<Result<wire::Down, Status>>,
}

/// The coordinator's end of one pipe; dropping it ends it.
pub(super) struct Pipe {
    pub chunks: Streaming<wire::Chunk>,
    _down: mpsc::Sender<Result<wire::Chunk, Status>>,
}

pub(super) struct Service {
    sessions: mpsc::Sender<Line>,
    pipes: mpsc::Sender<Pipe>,
}

#[async_trait]
impl Agent for Service {
    type SessionStream = ReceiverStream<Result<wire::Down, Status>>;

    async fn session(&self, request: Request<Streaming<wire::Up>>) -> Result<Response<Self::SessionStream>, Status> {
        let (downs, stream) = mpsc::channel(32);
        let line = Line {
            ups: request.into_inner(),
            downs,
        };
        self.sessions
            .send(line)
            .await
            .map_err(|_| Status::unavailable("shutting down"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type PipeStream = ReceiverStream<Result<wire::Chunk, Status>>;

    async fn pipe(&self, request: Request<Streaming<wire::Chunk>>) -> Result<Response<Self::PipeStream>, Status> {
        let (down, stream) = mpsc::channel(1);
        let pipe = Pipe {
            chunks: request.into_inner(),
            _down: down,
        };
        self.pipes
            .send(pipe)
            .await
            .map_err(|_| Status::unavailable("shutting down"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn renew(&self, _: Request<wire::RenewRequest>) -> Result<Response<wire::Issued>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn leave(&self, _: Request<wire::LeaveRequest>) -> Result<Response<wire::LeaveReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

impl Coordinator {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::on(listener)
    }

    pub(super) fn on(listener: TcpListener) -> Self {
        let address: SocketAddr = listener.local_addr().expect("bound");
        let (sender, sessions) = mpsc::channel(8);
        let (piper, pipes) = mpsc::channel(8);
        let service = Service {
            sessions: sender,
            pipes: piper,
        };
        // As of a real coordinator: one pipe that nobody reads must not fill the connection.
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(proto::flow::STREAM_WINDOW)
            .initial_connection_window_size(proto::flow::CONNECTION_WINDOW)
            .add_service(AgentServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move {
            let _ = server.await;
        });
        Self {
            address: address.to_string(),
            sessions: tokio::sync::Mutex::new(sessions),
            pipes: tokio::sync::Mutex::new(pipes),
            server: Mutex::new(Some(server)),
        }
    }

    /// The next session that an agent opens.
    pub(super) async fn session(&self) -> Line {
        let mut sessions = self.sessions.lock().await;
        timeout(PATIENCE, sessions.recv())
            .await
            .expect("an agent comes")
            .expect("serving")
    }

    /// The next pipe that an agent opens.
    pub(super) async fn pipe(&self) -> Pipe {
        let mut pipes = self.pipes.lock().await;
        timeout(PATIENCE, pipes.recv())
            .await
            .expect("a pipe comes")
            .expect("serving")
    }

    /// As SIGKILL: connections break.
    pub(super) async fn kill(&self) {
        let server = self.server.lock().expect("not poisoned").take().expect("running");
        server.abort();
        let _ = server.await;
    }
}

impl Pipe {
    /// The next message; `None` when the call has ended or broken.
    pub(super) async fn next(&mut self) -> Option<wire::chunk::Message> {
        let next = timeout(PATIENCE, self.chunks.message()).await;
        let chunk = next.expect("a message or the end comes").ok().flatten();
        chunk.map(|c| c.message.expect("not empty"))
    }

    /// All the bytes to its end, which is returned.
    pub(super) async fn read(&mut self) -> (String, wire::PipeEnd) {
        let mut text = Vec::new();
        loop {
            match self.next().await.expect("an end") {
                wire::chunk::Message::Data(data) => text.extend(data.data),
                wire::chunk::Message::End(end) => return (String::from_utf8_lossy(&text).into_owned(), end),
                wire::chunk::Message::Open(id) => panic!("a second opening of {id}"),
            }
        }
    }
}

impl Line {
    pub(super) async fn send(&self, message: down::Message) {
        self.downs
            .send(Ok(wire::Down { message: Some(message) }))
            .await
            .expect("the agent listens");
    }

    pub(super) async fn hello(&mut self) -> wire::Hello {
        match self.next().await {
            up::Message::Hello(hello) => hello,
            other => panic!("not Hello first: {other:?}"),
        }
    }

    pub(super) async fn next(&mut self) -> up::Message {
        let up = timeout(PATIENCE, self.ups.message()).await.expect("a message comes");
        up.expect("no error").expect("not the end").message.expect("not empty")
    }

    /// The next message that `pick` takes; others are skipped.
    pub(super) async fn find<T>(&mut self, pick: impl Fn(up::Message) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = pick(self.next().await) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, search).await.expect("what is looked for comes")
    }

    pub(super) async fn statuses(&mut self) -> wire::Statuses {
        self.find(|m| match m {
            up::Message::Statuses(s) => Some(s),
            _ => None,
        })
        .await
    }

    /// Waits until the agent has ended this session.
    pub(super) async fn ended(&mut self) {
        let end = async { while let Some(Ok(_)) = self.ups.next().await {} };
        timeout(PATIENCE, end).await.expect("the session ends");
    }

    pub(super) async fn welcome(&mut self) -> wire::Hello {
        let hello = self.hello().await;
        self.send(down::Message::Welcome(active(&hello))).await;
        hello
    }
}

/// What an honest active coordinator answers.
pub(super) fn active(hello: &wire::Hello) -> wire::Welcome {
    wire::Welcome {
        role: welcome::Role::Active.into(),
        fence: Some(fence()),
        heartbeat_ms: 20,
        your_term_known: hello.fence.is_some(),
        node: "n1".into(),
        ..wire::Welcome::default()
    }
}

pub(super) fn assign(
    kind: Kind,
    applies_to: u64,
    results_in: u64,
    run: Vec<wire::Run>,
    stop: Vec<wire::Stop>,
) -> down::Message {
    down::Message::Assignments(wire::Assignments {
        kind: kind.into(),
        fence: Some(fence()),
        applies_to,
        results_in,
        run,
        stop,
        forget: vec![],
    })
}

pub(super) struct Plain;

#[async_trait]
impl Connector for Plain {
    async fn connect(&self, address: &str) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
        endpoint.connect().await.map_err(|e| proto::credentials::root_cause(&e))
    }
}

pub(super) fn quick() -> Settings {
    Settings {
        ready_after_ms: 10,
        relist_ms: 200,
        engine_retry_ms: 20,
        engine_down_after: 2,
        gather_ms: 1,
        lazy_write_ms: 10,
        sync_writes: false,
        reconnect_initial_ms: 10,
        reconnect_max_ms: 50,
        refused_retry_ms: 50,
        status_file_ms: 20,
        farewell_ms: 200,
        ..Settings::default()
    }
}

pub(super) struct TestAgent {
    pub dir: TempDir,
    pub engine: Arc<FakeEngine>,
    pub stop: CancellationToken,
    pub task: JoinHandle<Result<(), AgentError>>,
    pub renew: watch::Sender<Arc<dyn Connector>>,
}

impl TestAgent {
    pub(super) fn start(coordinators: &[&Coordinator]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self::again(dir, FakeEngine::new(), coordinators, quick())
    }

    pub(super) fn again(
        dir: TempDir,
        engine: Arc<FakeEngine>,
        coordinators: &[&Coordinator],
        settings: Settings,
    ) -> Self {
        let addresses = coordinators.iter().map(|c| c.address.clone()).collect();
        let (join, renew) = Join::with("n1", addresses, Arc::new(Plain));
        let config = Config {
            settings,
            ..Config::new(dir.path(), join)
        };
        let stop = CancellationToken::new();
        let facts = Arc::new(FixedFacts::new("host1", "10.0.0.1", 4, 8 << 30));
        let task = tokio::spawn(crate::run(config, engine.clone(), facts, stop.clone()));
        Self {
            dir,
            engine,
            stop,
            task,
            renew,
        }
    }

    pub(super) fn ledger(&self) -> Ledger {
        load(self.dir.path()).expect("a ledger")
    }

    pub(super) fn running(&self) -> Vec<String> {
        let all = self.engine.containers();
        all.into_iter()
            .filter(|c| matches!(c.state, State::Running { .. }))
            .map(|c| c.id)
            .collect()
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{what}: {:?}", self.engine.containers()));
    }

    pub(super) async fn end(self) -> (TempDir, Arc<FakeEngine>) {
        self.stop.cancel();
        timeout(PATIENCE, self.task)
            .await
            .expect("ends")
            .expect("no panic")
            .expect("ends well");
        assert_eq!(self.engine.violations(), Vec::<String>::new());
        (self.dir, self.engine)
    }
}

/// An agent with one running pod, its coordinator, and their session.
pub(super) async fn running_agent() -> (Coordinator, TestAgent, Line) {
    let coordinator = Coordinator::start().await;
    let agent = TestAgent::start(&[&coordinator]);
    let mut line = coordinator.session().await;
    line.welcome().await;
    line.send(assign(Kind::Complete, 0, 5, vec![pod("u1", &["app:1"])], vec![]))
        .await;
    agent.until("a container runs", |a| a.running().len() == 1).await;
    (coordinator, agent, line)
}
