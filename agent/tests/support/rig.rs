//! An agent without its session on the machine's real engine: pods are assigned by hand.

use std::{sync::Arc, time::Duration};

use agent::{
    clock::Clock,
    ledger::{DataDir, Keeper, load},
    reporter::Reporter,
    runtime::docker::DockerSettings,
    settings::{Settings, ms},
    worker::{self, Parts, Shared, files::PodFiles},
};
use proto::{
    ids,
    model::{ContainerState, ContainerStateTerminated, ContainerStatus, PodStatus},
    wire::{self, assignments::Kind},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Bed, until};

pub const HOST_IP: &str = "192.0.2.1";

pub struct Rig {
    pub bed: Bed,
    pub dir: TempDir,
    settings: Settings,
    run: Option<Running>,
}

struct Running {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// Timings that tests would otherwise wait for.
pub fn quick() -> Settings {
    Settings {
        ready_after_ms: 0,
        crash_initial_ms: 200,
        crash_max_ms: 400,
        image_initial_ms: 500,
        gc_grace_ms: 0,
        relist_ms: 500,
        pull_progress_ms: 100,
        ..Settings::default()
    }
}

impl Rig {
    pub async fn start() -> Self {
        Self::with(DockerSettings::default()).await
    }

    pub async fn with(docker: DockerSettings) -> Self {
        let mut rig = Self {
            bed: Bed::on("", docker),
            dir: tempfile::tempdir().expect("a directory"),
            settings: quick(),
            run: None,
        };
        rig.begin().await;
        rig.assign(vec![], vec![]).await;
        rig
    }

    async fn begin(&mut self) {
        let clock = Clock::new();
        let ledger = load(self.dir.path()).expect("a ledger");
        let disk = DataDir {
            path: self.dir.path().into(),
            sync: true,
        };
        let opened = Keeper::open(Arc::new(disk), ledger, ms(self.settings.lazy_write_ms), clock).await;
        let (keeper, handle) = opened.expect("opened");
        let shared = Shared::new(Parts {
            runtime: self.bed.docker.clone(),
            reporter: Arc::new(Reporter::new(handle.current().epoch)),
            keeper: handle,
            notes: Arc::default(),
            metrics: Arc::default(),
            settings: self.settings.clone(),
            clock,
            node: self.bed.scope.node.clone(),
            boot: String::new(),
            host_ip: watch::channel(HOST_IP.to_owned()).1,
            files: PodFiles::new(self.dir.path()).expect("absolute"),
        });
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(keeper.run(stop.clone())),
            tokio::spawn(worker::run(shared.clone(), stop.clone())),
        ];
        self.run = Some(Running { shared, stop, tasks });
    }

    /// As SIGKILL, and a new agent on the same data directory.
    pub async fn restart(&mut self) {
        let run = self.run.take().expect("running");
        for task in &run.tasks {
            task.abort();
        }
        for task in run.tasks {
            let _ = task.await;
        }
        self.begin().await;
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.run.as_ref().expect("running").shared
    }

    pub async fn assign(&self, run: Vec<wire::Run>, stop: Vec<wire::Stop>) {
        let shared = self.shared();
        let at = shared.keeper.current().revision;
        let message = wire::Assignments {
            kind: Kind::Incremental.into(),
            fence: Some(wire::Fence {
                incarnation: "i".into(),
                term: 1,
                nonce: "n".into(),
            }),
            applies_to: at,
            results_in: at + 1,
            run,
            stop,
            forget: vec![],
        };
        shared.keeper.assignments(message).await.expect("accepted");
        shared.accepted.send_replace(true);
    }

    /// Assigns a pod; its uid.
    pub async fn run(&self, spec: &Value) -> String {
        let uid = uuid::Uuid::new_v4().to_string();
        let text = spec.to_string();
        let run = wire::Run {
            uid: uid.clone(),
            namespace: "test".into(),
            name: format!("pod-{}", &uid[..8]),
            spec_hash: ids::content_hash(text.as_bytes()),
            spec_json: text.into_bytes(),
            ..wire::Run::default()
        };
        self.assign(vec![run], vec![]).await;
        uid
    }

    /// Stops a pod, and waits until nothing of it is on the engine.
    pub async fn stop(&self, uid: &str) {
        let stop = wire::Stop {
            uid: uid.into(),
            reason: "test".into(),
            grace_seconds: 0,
            namespace: "test".into(),
            name: format!("pod-{}", &uid[..8]),
            endpoint_drain_ms: 0,
        };
        self.assign(vec![], vec![stop]).await;
        until("the pod is gone", async || {
            (self.docker_ids(uid).is_empty() && self.volumes(uid).is_empty()).then_some(())
        })
        .await;
    }

    pub fn status(&self, uid: &str) -> Option<PodStatus> {
        let name = format!("pod-{}", &uid[..8]);
        let all = self.shared().reporter.all();
        all.into_iter().find(|(_, n, _)| *n == name).map(|s| s.2)
    }

    /// What was told to people since the last time.
    pub fn notes(&self) -> Vec<wire::PodEvent> {
        self.shared().notes.take(usize::MAX)
    }

    pub fn container(&self, uid: &str, name: &str) -> ContainerStatus {
        let all = self.status(uid).map(|s| s.container_statuses).unwrap_or_default();
        all.into_iter().find(|c| c.name == name).unwrap_or_default()
    }

    pub async fn ready(&self, uid: &str) {
        until("the pod is ready", async || {
            self.status(uid).filter(PodStatus::ready).map(|_| ())
        })
        .await;
    }

    /// Why a container waits: reason and message.
    pub fn waiting(&self, uid: &str, name: &str) -> (String, String) {
        match self.container(uid, name).state {
            ContainerState::Waiting(w) => (w.reason, w.message),
            other => (format!("{other:?}"), String::new()),
        }
    }

    /// How a container ended for good.
    pub async fn ended(&self, uid: &str, name: &str) -> ContainerStateTerminated {
        until("the container ended", async || match self.container(uid, name).state {
            ContainerState::Terminated(t) => Some(t),
            _ => None,
        })
        .await
    }

    /// What a container of a pod that runs once says at its end, having ended well.
    pub async fn says(&self, spec: &Value, name: &str) -> String {
        let uid = self.run(spec).await;
        let end = self.ended(&uid, name).await;
        assert_eq!(end.exit_code, 0, "{end:?}");
        self.stop(&uid).await;
        end.message
    }

    pub fn docker_ids(&self, uid: &str) -> Vec<String> {
        let label = format!("label={}={uid}", ids::label::UID);
        let ids = self.bed.cli(&["ps", "-aq", "--no-trunc", "--filter", &label]);
        ids.split_whitespace().map(str::to_owned).collect()
    }

    /// Engine id of a running container.
    pub fn docker_id(&self, uid: &str, name: &str) -> String {
        let id = self.container(uid, name).container_id;
        id.trim_start_matches("docker://").to_owned()
    }

    pub fn volumes(&self, uid: &str) -> Vec<String> {
        let label = format!("label={}={uid}", ids::label::UID);
        let names = self.bed.cli(&["volume", "ls", "-q", "--filter", &label]);
        names.split_whitespace().map(str::to_owned).collect()
    }

    pub fn exec(&self, uid: &str, name: &str, script: &str) -> String {
        self.bed
            .cli(&["exec", &self.docker_id(uid, name), "/bin/sh", "-c", script])
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            run.stop.cancel();
            for task in run.tasks {
                task.abort();
            }
        }
        // An agent that acts no more: then its containers go, with the bed.
        std::thread::sleep(Duration::from_millis(50));
    }
}
