//! The Docker backend of [`Runtime`]: the one place that speaks to an engine (bollard). Called through the trait.
//!
//! | file | what it is |
//! |---|---|
//! | [`settings`] | scope and limits |
//! | [`engine`] | client, deadlines, looking at containers |
//! | [`create`] | what a container is created from; pure |
//! | [`observe`] | what the engine shows, in the trait's terms; pure |
//! | [`events`] | the event stream as hints |
//! | [`exec`] | commands in containers |
//! | [`pull`] | image pulls, shared between callers |
//! | [`progress`] | how far a pull is; pure |
//! | [`credentials`] | what a registry is shown, from Docker's own configuration |
//! | [`logs`] | a container's output |
//! | [`volumes`] | mounts, and volumes in memory |
//! | [`pause`] | the sandbox image, made here |
//! | [`errors`] | silence, refusals, and Docker's words made readable |
//!
//! Invariants: every call has a deadline; only containers with this cluster's and this node's labels are seen or
//! touched; no removal is forced; a stop counts as done only when the engine shows the exit.

mod create;
mod credentials;
mod engine;
mod errors;
mod events;
mod exec;
mod exits;
mod logs;
mod observe;
mod pause;
mod progress;
mod pull;
mod settings;
mod volumes;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    Docker,
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
        RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
    },
};
use futures::StreamExt;
use proto::ids::SANDBOX;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::TaskTracker;

use self::errors::Problem;
pub use self::pause::SANDBOX_IMAGE;
pub use self::settings::{DockerSettings, Scope};
use super::{
    ContainerInfo, CreateContainer, EngineInfo, Executed, Hint, LogQuery, LogStream, MemoryVolume, Runtime,
    RuntimeError, State, Unmanaged,
};

/// Where Docker listens unless told otherwise.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// bollard's own time limit, in whole seconds, covers headers only and would cut a long stop short; each call
/// here has its own.
const BOLLARD_TIMEOUT_S: u64 = 7 * 24 * 3600;
/// Inspections at once during a list.
const INSPECTIONS: usize = 8;
/// Tries of a create whose name is taken by something that cannot be seen yet or is going away.
const CREATE_TRIES: u32 = 5;
/// Pause between two looks at a state that is about to change.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Hints that wait for their reader; more become one `All`.
const HINTS: usize = 64;

/// See the module's head.
pub struct DockerRuntime {
    endpoint: String,
    scope: Scope,
    settings: DockerSettings,
    /// Made at the first call at which the socket exists: bollard refuses to be made before.
    docker: OnceLock<Docker>,
    pulls: pull::Pulls,
    facts: Mutex<Option<(Instant, Facts)>>,
    /// Containers of ours whose labels were complained about.
    warned: Mutex<HashSet<String>>,
    /// Container id → what its inspection does not tell of its exit.
    exits: Mutex<HashMap<String, exits::Learned>>,
    /// Commands that had not ended when they were last looked at.
    unended: Mutex<exec::Unended>,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct Facts {
    engine: EngineInfo,
    architecture: String,
}

/// The engine's address as a URL, from `unix:///PATH`, `/PATH` or `tcp://HOST:PORT`. Contacts nobody.
pub fn docker_endpoint(given: &str) -> Result<String, RuntimeError> {
    let endpoint = if given.starts_with('/') {
        format!("unix://{given}")
    } else {
        given.to_owned()
    };
    let ok = match endpoint.split_once("://") {
        Some(("unix", path)) => path.starts_with('/'),
        Some(("tcp" | "http", address)) => !address.trim_end_matches('/').is_empty(),
        _ => false,
    };
    ok.then_some(endpoint).ok_or_else(|| {
        RuntimeError::Refused(format!(
            "docker host `{given}` is neither unix:///PATH nor tcp://HOST:PORT"
        ))
    })
}

impl DockerRuntime {
    /// Takes `unix:///PATH`, `/PATH` or `tcp://HOST:PORT`; [`DEFAULT_HOST`] when none is given. Contacts nobody:
    /// an engine that is down now is found by the first call after it is up.
    pub fn connect(
        docker_host: Option<&str>,
        scope: Scope,
        settings: DockerSettings,
    ) -> Result<Arc<Self>, RuntimeError> {
        let endpoint = docker_endpoint(docker_host.unwrap_or(DEFAULT_HOST))?;
        if scope.cluster.is_empty() || scope.node.is_empty() {
            return Err(RuntimeError::Refused(
                "a Docker runtime needs a cluster and a node: without them it could not tell its containers".into(),
            ));
        }
        let tasks = TaskTracker::new();
        Ok(Arc::new(Self {
            endpoint,
            scope,
            docker: OnceLock::new(),
            pulls: pull::Pulls::new(settings.max_pulls),
            settings,
            facts: Mutex::default(),
            warned: Mutex::default(),
            exits: Mutex::default(),
            unended: Mutex::default(),
            tasks,
        }))
    }

    /// Asks an engine who it is, before there is a node whose containers could be told. The error names the engine.
    pub async fn ask(docker_host: Option<&str>) -> Result<EngineInfo, RuntimeError> {
        let scope = Scope {
            cluster: "none".into(),
            node: "none".into(),
            incarnation: String::new(),
        };
        Self::connect(docker_host, scope, DockerSettings::default())?
            .info()
            .await
    }

    /// Makes sure that [`SANDBOX_IMAGE`] is on the engine; builds it here, without a registry, when it is not.
    pub async fn ensure_sandbox_image(&self) -> Result<(), RuntimeError> {
        if self.image(SANDBOX_IMAGE).await?.is_some() {
            return Ok(());
        }
        let architecture = self.facts().await?.architecture;
        let body = pause::tar("pause", &pause::program(&architecture)?);
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(pause::REPOSITORY)
            .tag(pause::TAG)
            .changes(vec!["ENTRYPOINT [\"/pause\"]".to_owned()])
            .build();
        let docker = self.client()?;
        let import = async {
            let mut stream =
                std::pin::pin!(docker.create_image(Some(options), Some(bollard::body_full(body.into())), None));
            while let Some(progress) = stream.next().await {
                progress?;
            }
            Ok(())
        };
        self.call(self.settings.create_timeout, import)
            .await
            .map_err(|p| p.into_error(&self.endpoint, "import of the sandbox image"))
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    async fn info(&self) -> Result<EngineInfo, RuntimeError> {
        let docker = self.client()?;
        match self.call(self.settings.ping_timeout, docker.ping()).await {
            Ok(_) => self.facts().await.map(|f| f.engine),
            Err(problem) => {
                // It may be another engine when it answers again.
                *locked(&self.facts) = None;
                Err(match problem {
                    Problem::Said { words, .. } => RuntimeError::Unavailable(format!("{}: {words}", self.endpoint)),
                    problem => problem.into_error(&self.endpoint, "ping"),
                })
            }
        }
    }

    async fn list(&self) -> Result<Vec<ContainerInfo>, RuntimeError> {
        let docker = self.client()?;
        let limit = self.settings.list_timeout;
        let silent = |p: Problem| match p {
            Problem::Said { words, .. } => RuntimeError::Unavailable(format!("{}: {words}", self.endpoint)),
            p => p.into_error(&self.endpoint, "list"),
        };
        let whole = async {
            let filters = HashMap::from([("label", self.scope_labels())]);
            let options = ListContainersOptionsBuilder::default()
                .all(true)
                .filters(&filters)
                .build();
            let lines = docker.list_containers(Some(options)).await?;
            let ids: HashSet<String> = lines.iter().filter_map(|l| l.id.clone()).collect();
            let mut looks = Vec::with_capacity(lines.len());
            for line in lines {
                let Some(id) = line.id.clone() else { continue };
                let Some(owner) = self.owner_of(&id, line.labels.as_ref()) else {
                    continue;
                };
                looks.push(async move {
                    match self.own(&id).await {
                        Ok(info) => Ok(info),
                        // The connection itself is gone: half a list would be a lie.
                        Err(problem @ Problem::Silent(_)) => Err(problem),
                        // This one container is stuck or strange; the others are not.
                        Err(problem) => {
                            tracing::warn!(container = %id, ?problem, "cannot inspect; using the list's line");
                            Ok(Some(observe::from_summary(&id, owner, &line)))
                        }
                    }
                });
            }
            let looked: Vec<_> = futures::stream::iter(looks)
                .buffer_unordered(INSPECTIONS)
                .collect()
                .await;
            Ok((ids, looked))
        };
        let (ids, looked) = self.call(limit, whole).await.map_err(silent)?;
        locked(&self.warned).retain(|id| ids.contains(id));
        self.forget_exits(|id| ids.contains(id));
        self.forget_commands(|id| ids.contains(id));
        looked
            .into_iter()
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()
            .map_err(silent)
    }

    async fn unmanaged(&self) -> Result<Vec<Unmanaged>, RuntimeError> {
        let docker = self.client()?;
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let listed = self
            .call(self.settings.list_timeout, docker.list_containers(Some(options)))
            .await;
        let lines = listed.map_err(|p| p.into_error(&self.endpoint, "list of all containers"))?;
        Ok(observe::unmanaged(&lines, &self.scope))
    }

    async fn inspect(&self, id: &str) -> Result<Option<ContainerInfo>, RuntimeError> {
        self.own(id)
            .await
            .map_err(|p| p.into_error(&self.endpoint, &format!("inspect of {}", short(id))))
    }

    async fn image(&self, reference: &str) -> Result<Option<String>, RuntimeError> {
        let image = self.look_at_image(reference).await?;
        Ok(image.map(|i| i.id.unwrap_or_default()))
    }

    async fn image_user(&self, reference: &str) -> Result<String, RuntimeError> {
        let image = self.look_at_image(reference).await?;
        let image = image.ok_or_else(|| RuntimeError::NoSuchImage(reference.to_owned()))?;
        Ok(image.config.and_then(|c| c.user).unwrap_or_default())
    }

    async fn pull(&self, reference: &str) -> Result<(), RuntimeError> {
        pull::check(reference)?;
        let reference = pull::normalize(reference);
        if reference == SANDBOX_IMAGE {
            return self.ensure_sandbox_image().await;
        }
        let docker = self.client()?.clone();
        let begin = |far| {
            let (endpoint, reference, settings) = (self.endpoint.clone(), reference.clone(), self.settings.clone());
            async move {
                let found = credentials::find(settings.docker_config, &reference, settings.helper_timeout).await;
                let (credentials, lacked) = found.map_or_else(|why| (None, Some(why)), |found| (found, None));
                if let Some(why) = &lacked {
                    tracing::warn!(image = %reference, "pulling without registry credentials: {why}");
                }
                let inactivity = settings.pull_inactivity;
                let outcome = pull::fetch(docker, endpoint, reference, credentials, inactivity, far).await;
                credentials::explain(outcome, lacked)
            }
        };
        self.pulls.join(&reference, begin).await
    }

    fn pull_progress(&self, reference: &str) -> Option<String> {
        self.pulls.progress(&pull::normalize(reference))
    }

    async fn create(&self, spec: &CreateContainer) -> Result<String, RuntimeError> {
        let docker = self.client()?;
        let mut body = create::body(spec, &self.scope, &self.settings);
        let sandbox = spec.owner.container == SANDBOX && (spec.image.is_empty() || spec.image == SANDBOX_IMAGE);
        if sandbox {
            body.image = Some(SANDBOX_IMAGE.to_owned());
        }
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        for attempt in 0..CREATE_TRIES {
            let call = docker.create_container(Some(options.clone()), body.clone());
            match self.call(self.settings.create_timeout, call).await {
                Ok(created) => return Ok(created.id),
                Err(Problem::Said { status: 409, .. }) => {
                    if let Some(id) = self.adopt(spec).await? {
                        return Ok(id);
                    }
                    // Taken by a create under way, or by a container that is being removed.
                    tokio::time::sleep(LOOK_AGAIN * (attempt + 1)).await;
                }
                Err(Problem::Said { status: 404, words }) if words.starts_with("No such image") => {
                    if !sandbox {
                        return Err(RuntimeError::NoSuchImage(spec.image.clone()));
                    }
                    self.ensure_sandbox_image().await?;
                }
                Err(problem) => return Err(problem.into_error(&self.endpoint, &format!("create of {}", spec.name))),
            }
        }
        Err(RuntimeError::Unavailable(format!(
            "{}: the name {} is held by a container that cannot be seen",
            self.endpoint, spec.name
        )))
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let doing = || format!("start of {}", short(id));
        let own = self.own(id).await.map_err(|p| p.into_error(&self.endpoint, &doing()))?;
        if own.is_none() {
            return Err(RuntimeError::NoSuchContainer(short(id).to_owned()));
        }
        let call = self.client()?.start_container(id, None::<StartContainerOptions>);
        match self.call(self.settings.start_timeout, call).await {
            // 304, it runs already, counts as Ok in bollard.
            Ok(()) => Ok(()),
            // The words may also be about the sandbox whose network it should join.
            Err(Problem::Said { status: 404, words }) if words.contains(id) => {
                Err(RuntimeError::NoSuchContainer(short(id).to_owned()))
            }
            Err(problem) => Err(problem.into_error(&self.endpoint, &doing())),
        }
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let failed = |p: Problem| p.into_error(&self.endpoint, &format!("stop of {}", short(id)));
        match self.own(id).await.map_err(failed)? {
            Some(ContainerInfo {
                state: State::Running { .. },
                ..
            }) => {}
            _ => return Ok(()),
        }
        let seconds = create::whole_seconds(grace);
        let limit = Duration::from_secs(seconds).saturating_add(self.settings.stop_margin);
        let deadline = Instant::now() + limit.min(Duration::from_secs(BOLLARD_TIMEOUT_S));
        let options = StopContainerOptionsBuilder::default()
            .t(i32::try_from(seconds).unwrap_or(i32::MAX))
            .build();
        let said = match self.call(limit, self.client()?.stop_container(id, Some(options))).await {
            Ok(()) => None,
            // The engine's no may have come too late to matter: the state decides.
            Err(problem @ Problem::Said { .. }) => Some(problem),
            Err(problem) => return Err(failed(problem)),
        };
        let deadline = if said.is_some() { Instant::now() } else { deadline };
        if self.exited(id, deadline).await.map_err(failed)? {
            return Ok(());
        }
        Err(match said {
            Some(problem) => failed(problem),
            None => RuntimeError::Refused(format!("container {} still runs after its kill", short(id))),
        })
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let failed = |p: Problem| p.into_error(&self.endpoint, &format!("remove of {}", short(id)));
        if self.own(id).await.map_err(failed)?.is_none() {
            return Ok(());
        }
        // Its anonymous volumes go with it: nobody else can have them.
        let options = RemoveContainerOptionsBuilder::default().v(true).force(false).build();
        let deadline = Instant::now() + self.settings.remove_timeout;
        match self
            .call(
                self.settings.remove_timeout,
                self.client()?.remove_container(id, Some(options)),
            )
            .await
        {
            Ok(()) | Err(Problem::Said { status: 404, .. }) => Ok(()),
            Err(Problem::Said { status: 409, words }) if words.contains("already in progress") => {
                while self.look(id).await.map_err(failed)?.is_some() {
                    if Instant::now() >= deadline {
                        return Err(RuntimeError::Refused(words));
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(())
            }
            Err(problem) => Err(failed(problem)),
        }
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<Executed, RuntimeError> {
        let failed = |p: Problem| p.into_error(&self.endpoint, &format!("exec in {}", short(id)));
        match self.own(id).await.map_err(failed)? {
            Some(ContainerInfo {
                state: State::Running { .. },
                ..
            }) => self.execute(id, command, limit).await.map_err(failed),
            _ => Err(RuntimeError::NoSuchContainer(short(id).to_owned())),
        }
    }

    async fn log_tail(&self, id: &str, lines: u32) -> Result<String, RuntimeError> {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .tail(&lines.to_string())
            .build();
        let read = self.read_log(id, options).await;
        read.map_err(|p| p.into_error(&self.endpoint, &format!("log of {}", short(id))))
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, RuntimeError> {
        self.open_log(query).await
    }

    async fn memory_volumes(&self) -> Result<Vec<MemoryVolume>, RuntimeError> {
        self.list_volumes().await
    }

    async fn remove_memory_volume(&self, name: &str) -> Result<(), RuntimeError> {
        self.remove_volume(name).await
    }

    fn hints(self: Arc<Self>) -> mpsc::Receiver<Hint> {
        let (tx, rx) = mpsc::channel(HINTS);
        let runtime = Arc::clone(&self);
        // Ends when the receiver is dropped.
        self.tasks.spawn(async move { events::run(runtime, tx).await });
        rx
    }
}

/// As Docker shows ids.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// A panic while the lock was held cannot leave these maps half-written.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(host: Option<&str>) -> Result<Arc<DockerRuntime>, RuntimeError> {
        let scope = Scope {
            cluster: "c".into(),
            node: "n".into(),
            incarnation: "i".into(),
        };
        DockerRuntime::connect(host, scope, DockerSettings::default())
    }

    #[test]
    fn docker_hosts() {
        for (given, endpoint) in [
            (None, DEFAULT_HOST),
            (Some("/run/x.sock"), "unix:///run/x.sock"),
            (Some("unix:///run/x.sock"), "unix:///run/x.sock"),
            (Some("tcp://h:2375"), "tcp://h:2375"),
        ] {
            assert_eq!(connect(given).map(|d| d.endpoint.clone()), Ok(endpoint.to_owned()));
        }
        for bad in ["", "h:2375", "ssh://h", "unix://", "unix://x", "tcp://"] {
            let error = connect(Some(bad)).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
        assert!(DockerRuntime::connect(None, Scope::default(), DockerSettings::default()).is_err());
    }

    #[tokio::test]
    async fn an_absent_socket_is_an_engine_that_does_not_answer() {
        let docker = connect(Some("/nonexistent/docker.sock")).unwrap();
        let error = docker.list().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Docker does not answer: unix:///nonexistent/docker.sock: no such socket; is Docker running?"
        );
    }
}
