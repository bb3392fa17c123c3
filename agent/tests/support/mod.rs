//! What the tests on a real engine share: the image, a runtime with a scope of its own, and cleaning up by that
//! scope alone. Used by `docker_*.rs`.
//!
//! Invariant: nothing but containers and volumes with the test's own cluster label, and images that a test pulled,
//! is ever removed.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod busybox;
pub mod own_dockerd;
pub mod registry;
pub mod rig;

use std::{
    collections::HashMap,
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use agent::runtime::{
    ContainerInfo, CreateContainer, Exit, Owner, Runtime, State,
    docker::{DockerRuntime, DockerSettings, Scope},
};
use proto::ids;

/// Image of the demo program under these tests' own name.
pub const IMAGE: &str = "wharf-agent-test/app:1";
/// Longest wait for something that takes a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs docker against `host`, the shared engine when empty; panics with its words on failure.
pub fn docker(host: &str, args: &[&str]) -> String {
    let output = try_docker(host, args);
    assert!(
        output.status.success(),
        "docker {args:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn try_docker(host: &str, args: &[&str]) -> Output {
    let mut command = Command::new("docker");
    if !host.is_empty() {
        command.args(["-H", host]);
    }
    command.args(args).output().expect("docker client")
}

/// Puts the demo program's image on the engine.
pub fn make_image(host: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo-app/make-image.sh");
    let mut command = Command::new(script);
    command.arg(IMAGE);
    if !host.is_empty() {
        command.arg(host);
    }
    let output = command.output().expect("make-image.sh");
    assert!(
        output.status.success(),
        "cannot make {IMAGE}; do Docker and cargo answer? {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A runtime with a cluster of its own; its containers go when it is dropped.
pub struct Bed {
    pub docker: Arc<DockerRuntime>,
    pub scope: Scope,
    pub host: String,
}

impl Bed {
    /// On the shared engine.
    pub fn new() -> Self {
        Self::on("", DockerSettings::default())
    }

    pub fn on(host: &str, settings: DockerSettings) -> Self {
        make_image(host);
        let scope = Scope {
            cluster: uuid::Uuid::new_v4().to_string(),
            node: "node-of-test".into(),
            incarnation: "incarnation-of-test".into(),
        };
        let docker = DockerRuntime::connect(Some(host).filter(|h| !h.is_empty()), scope.clone(), settings)
            .expect("docker host is well-formed");
        Self {
            docker,
            scope,
            host: host.to_owned(),
        }
    }

    /// Another runtime on the same engine that sees the same containers or, as another node, none of them.
    pub fn sibling(&self, node: &str, settings: DockerSettings) -> Arc<DockerRuntime> {
        let scope = Scope {
            node: node.into(),
            ..self.scope.clone()
        };
        DockerRuntime::connect(Some(&*self.host).filter(|h| !h.is_empty()), scope, settings)
            .expect("docker host is well-formed")
    }

    /// A container of a pod of its own that runs the demo program with `args`.
    pub fn spec(&self, args: &[&str]) -> CreateContainer {
        let uid = uuid::Uuid::new_v4().to_string();
        CreateContainer {
            name: ids::container_name("app", "pod", "test", &uid, 0),
            owner: Owner {
                uid,
                namespace: "test".into(),
                pod: "pod".into(),
                container: "app".into(),
                attempt: 0,
                spec_hash: "0123456789abcdef".into(),
            },
            image: IMAGE.into(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            stop_grace: Duration::from_secs(1),
            hostname: "pod".into(),
            ..CreateContainer::default()
        }
    }

    /// Creates and starts.
    pub async fn run(&self, args: &[&str]) -> String {
        self.run_spec(&self.spec(args)).await
    }

    pub async fn run_spec(&self, spec: &CreateContainer) -> String {
        let id = self.docker.create(spec).await.expect("create");
        self.docker.start(&id).await.expect("start");
        id
    }

    pub async fn get(&self, id: &str) -> ContainerInfo {
        self.docker
            .inspect(id)
            .await
            .expect("inspect")
            .expect("the container is there")
    }

    pub async fn exited(&self, id: &str) -> Exit {
        until("the container exits", async || match self.get(id).await.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        })
        .await
    }

    pub fn cli(&self, args: &[&str]) -> String {
        docker(&self.host, args)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let label = format!("label={}={}", ids::label::CLUSTER, self.scope.cluster);
        let listed = try_docker(&self.host, &["ps", "-aq", "--no-trunc", "--filter", &label]);
        let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            try_docker(&self.host, &[&["rm", "-f", "-v"], ids.as_slice()].concat());
        }
        let listed = try_docker(&self.host, &["volume", "ls", "-q", "--filter", &label]);
        for volume in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            try_docker(&self.host, &["volume", "rm", volume]);
        }
    }
}

/// Asks again and again until there is an answer; panics after [`PATIENCE`].
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A port that was free a moment ago, below the ephemeral range.
pub fn free_port() -> u16 {
    let seed = u16::from_be_bytes([uuid::Uuid::new_v4().as_bytes()[0], uuid::Uuid::new_v4().as_bytes()[1]]);
    (0..2000)
        .map(|n| 22_000 + (seed.wrapping_add(n * 7)) % 8000)
        .find(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok())
        .expect("a free port")
}

/// Labels by which others find this scope's containers.
pub fn labels(scope: &Scope) -> HashMap<&'static str, String> {
    HashMap::from([
        (ids::label::CLUSTER, scope.cluster.clone()),
        (ids::label::NODE, scope.node.clone()),
    ])
}
