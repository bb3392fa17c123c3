//! A whole coordinator on its ports and whole agents over engines in memory, all in this process: what every test of
//! hosts that come, come back and go needs.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use agent::{
    facts::FixedFacts,
    host,
    identity::{EnrolError, EnrolOptions, Identity, enrol},
    join::Join,
    runtime::{State, fake::FakeEngine},
    settings::Settings,
};
use coordinator::{
    config::{Config, Options},
    init::{InitOptions, init},
    serve::serve,
    store::{
        Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use harness::fleet::{Wanted, controller};
use proto::{
    credentials::{ChannelTimes, Credentials},
    model::Time,
    wire::{
        self, controllers_client::ControllersClient, resources_client::ResourcesClient, tokens_client::TokensClient,
    },
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

use crate::bed::times;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster's coordinator; it ends when it is dropped.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub session: SocketAddr,
    enrol: SocketAddr,
    admin: Channel,
    serving: JoinHandle<()>,
}

impl Home {
    pub async fn start() -> Self {
        proto::program::install_tls_provider();
        let dir = tempfile::tempdir().expect("a directory");
        let mut ports = Vec::new();
        let mut held = Vec::new();
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            ports.push(listener.local_addr().expect("bound"));
            held.push(listener);
        }
        drop(held);
        let [session, enrol, http] = ports[..] else {
            panic!("three ports")
        };
        let data_dir = dir.path().join("coordinator");
        let now_ms = coordinator::ca::system_clock()();
        let options = InitOptions {
            data_dir: data_dir.clone(),
            advertise: Some(session.to_string()),
            name: Some("c1".into()),
            now_ms,
        };
        let open = async |dir: PathBuf| {
            let store = SqliteStore::open(&dir, SqliteOptions::default())?;
            Ok(Arc::new(store) as Arc<dyn Store>)
        };
        let first = vec![coordinator::api::default_namespace(Time::now())];
        init(options, first, open).await.expect("init");
        let config = Config::new(Options {
            data_dir: Some(data_dir.clone()),
            listen: Some(session),
            enrol: Some(enrol),
            http: Some(http),
            heartbeat_ms: Some(200),
            agent_down_ms: Some(300),
            ..Options::default()
        })
        .expect("a configuration");
        let serving = tokio::spawn(async move {
            serve(config).await.expect("serves");
        });
        let credentials = coordinator::init::admin_credentials(&data_dir, now_ms).expect("admin");
        let admin = connected(&credentials, session).await;
        Self {
            dir,
            session,
            enrol,
            admin,
            serving,
        }
    }

    /// Ends it as a lost machine would: nobody answers any more.
    pub fn lose(&self) {
        self.serving.abort();
    }

    /// A token's text; `node` empty: for any name.
    pub async fn token(&self, uses: u32, node: &str) -> String {
        let request = wire::CreateTokenRequest {
            uses,
            node: node.into(),
            ..Default::default()
        };
        let made = TokensClient::new(self.admin.clone()).create_token(request).await;
        made.expect("a token").into_inner().text
    }

    pub async fn create(&self, name: &str, replicas: i32) {
        self.create_for(name, replicas, Value::Null).await;
    }

    /// With a nodeSelector.
    pub async fn create_for(&self, name: &str, replicas: i32, selector: Value) {
        let wanted = Wanted {
            name: name.into(),
            replicas,
            images: vec!["a:1".into()],
            annotations: Vec::new(),
        };
        let mut json = controller(&wanted);
        if !selector.is_null() {
            json["spec"]["template"]["spec"]["nodeSelector"] = selector;
        }
        let request = wire::CreateRequest {
            kind: "ReplicationController".into(),
            namespace: "default".into(),
            json: json.to_string().into_bytes(),
            ..Default::default()
        };
        let made = ResourcesClient::new(self.admin.clone()).create(request).await;
        made.expect("created");
    }

    pub async fn scale(&self, name: &str, replicas: i32) {
        let request = wire::ScaleRequest {
            kind: "ReplicationController".into(),
            namespace: "default".into(),
            name: name.into(),
            replicas,
            ..Default::default()
        };
        let scaled = ControllersClient::new(self.admin.clone()).scale(request).await;
        scaled.expect("scaled");
    }

    pub async fn patch(&self, kind: &str, name: &str, patch: Value) {
        let request = wire::PatchRequest {
            kind: kind.into(),
            name: name.into(),
            patch: patch.to_string().into_bytes(),
            ..Default::default()
        };
        let patched = ResourcesClient::new(self.admin.clone()).patch(request).await;
        patched.expect("patched");
    }

    pub async fn delete(&self, kind: &str, name: &str) -> Result<(), Status> {
        let request = wire::DeleteRequest {
            kind: kind.into(),
            namespace: if kind == "Node" { "" } else { "default" }.into(),
            name: name.into(),
            ..Default::default()
        };
        let deleted = ResourcesClient::new(self.admin.clone()).delete(request).await;
        deleted.map(|_| ())
    }

    /// All objects of a kind, in their Kubernetes form.
    pub async fn items(&self, kind: &str) -> Vec<Value> {
        let request = wire::ListRequest {
            kind: kind.into(),
            ..Default::default()
        };
        let listed = ResourcesClient::new(self.admin.clone()).list(request).await;
        let items = listed.expect("listed").into_inner().items;
        let json = |o: wire::Object| serde_json::from_slice(&o.json).expect("JSON");
        items.into_iter().map(json).collect()
    }

    pub async fn node(&self, name: &str) -> Value {
        let all = self.items("Node").await;
        let found = all.into_iter().find(|n| n["metadata"]["name"] == name);
        found.unwrap_or_default()
    }

    /// Names of the pods that run, with their nodes.
    pub async fn running(&self) -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let all = self.items("Pod").await;
        let running = all.iter().filter(|p| p["status"]["phase"] == "Running");
        running
            .map(|p| (text(&p["metadata"]["name"]), text(&p["spec"]["nodeName"])))
            .collect()
    }

    /// Waits until `holds` says Ok.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> Result<(), String>) {
        let begun = Instant::now();
        while let Err(why) = holds(self).await {
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}: {why}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_ready(&self, names: &[&str]) {
        self.until("nodes Ready", async |home| {
            let all = home.items("Node").await;
            for name in names {
                let node = all.iter().find(|n| n["metadata"]["name"] == *name);
                if !node.is_some_and(is_ready) {
                    return Err(format!("{name}: {:?}", node.map(|n| &n["status"]["conditions"])));
                }
            }
            Ok(())
        })
        .await;
    }

    /// So many pods run, and there are no others.
    pub async fn until_running(&self, n: usize) {
        self.until("pods run", async |home| {
            let (all, running) = (home.items("Pod").await.len(), home.running().await.len());
            if (all, running) == (n, n) {
                Ok(())
            } else {
                Err(format!("{running} of {all} run"))
            }
        })
        .await;
    }

    /// Joins by the token and starts the agent.
    pub async fn guest(&self, name: &str, token: &str, dir: &Path) -> Result<Guest, EnrolError> {
        self.guest_of(name, token, dir, host::architecture()).await
    }

    /// As [`Home::guest`], for a host that states this architecture.
    pub async fn guest_of(&self, name: &str, token: &str, dir: &Path, arch: &str) -> Result<Guest, EnrolError> {
        let options = EnrolOptions {
            data_dir: dir.to_owned(),
            coordinators: vec![self.session.to_string()],
            enrol: vec![self.enrol.to_string()],
            token: token.to_owned(),
            name: name.to_owned(),
            machine_id: format!("machine-of-{}", dir.display()),
            shared_host: false,
            architecture: arch.to_owned(),
            operating_system: host::OPERATING_SYSTEM.to_owned(),
            times: times(),
        };
        let identity = enrol(&options).await?;
        Ok(Guest::start(&identity, dir, FakeEngine::new()))
    }

    /// A guest with a token of its own; its data lies beside the coordinator's.
    pub async fn joined(&self, name: &str) -> Guest {
        let token = self.token(1, "").await;
        let dir = self.dir.path().join(name);
        self.guest(name, &token, &dir).await.expect("joins")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// Tries until the coordinator serves.
async fn connected(credentials: &Credentials, address: SocketAddr) -> Channel {
    let begun = Instant::now();
    loop {
        match credentials.connect(&address.to_string(), ChannelTimes::default()).await {
            Ok(channel) => return channel,
            Err(e) => assert!(begun.elapsed() < PATIENCE, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A host with its agent; both end when it is dropped.
pub struct Guest {
    pub engine: Arc<FakeEngine>,
    pub dir: PathBuf,
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
}

impl Guest {
    pub fn start(identity: &Identity, dir: &Path, engine: Arc<FakeEngine>) -> Self {
        let settings = Settings {
            ready_after_ms: 10,
            relist_ms: 500,
            gather_ms: 5,
            sync_writes: false,
            reconnect_initial_ms: 20,
            reconnect_max_ms: 200,
            refused_retry_ms: 200,
            gc_grace_ms: 200,
            ..Settings::default()
        };
        let (join, renewals) = Join::renewing(&identity.node, identity.credentials(), &settings);
        let config = agent::Config {
            settings,
            ..agent::Config::new(dir, join)
        };
        let facts = Arc::new(FixedFacts::new(&identity.node, "10.0.0.1", 16, 64 << 30));
        let stop = CancellationToken::new();
        let (stopping, runs_on) = (stop.clone(), engine.clone());
        let running = tokio::spawn(async move {
            agent::run(config, runs_on, facts, stopping).await.expect("ends well");
            drop(renewals);
        });
        Self {
            engine,
            dir: dir.to_owned(),
            stop,
            running: Some(running),
        }
    }

    /// In good order; containers go on.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            tokio::time::timeout(PATIENCE, running)
                .await
                .expect("ends in time")
                .expect("no panic");
        }
    }

    /// Starts the agent again on what is on its disk.
    pub async fn again(mut self) -> Self {
        self.stop().await;
        let identity = Identity::load(&self.dir).expect("loads").expect("an identity");
        Self::start(&identity, &self.dir, self.engine.clone())
    }

    /// Names of the pods of which a container runs here.
    pub fn pods(&self) -> Vec<String> {
        let all = self.engine.containers();
        let running = all.into_iter().filter(|c| matches!(c.state, State::Running { .. }));
        let mut pods: Vec<_> = running.map(|c| c.owner.pod).collect();
        pods.sort();
        pods.dedup();
        pods
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}
