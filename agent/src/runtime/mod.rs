//! What the agent needs of a container engine. Called by the worker (acts), the relist (observes) and host
//! facts (version). Backends: [`docker`] (bollard), [`fake`] (tests and the simulated fleet).
//!
//! Invariant: a runtime sees and touches only containers that carry this cluster's and this node's labels;
//! everything else on the engine does not exist for it, but for the names that [`Runtime::unmanaged`] tells.

pub mod docker;
pub mod fake;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use proto::model::{HostPathType, Time};

/// A container as the engine shows it. Identity comes from its labels alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerInfo {
    /// The engine's id.
    pub id: String,
    pub owner: Owner,
    pub state: State,
    /// Image as asked for, and its id.
    pub image: String,
    pub image_id: String,
    /// Address in the container's own network, empty without one.
    pub ip: String,
}

/// Which container of which pod this is (`io.wharfinger.*` labels).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    pub uid: String,
    pub namespace: String,
    pub pod: String,
    /// Container name, or [`proto::ids::SANDBOX`].
    pub container: String,
    pub attempt: u32,
    pub spec_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Never ran, or failed to start (then `start` told why).
    Created,
    Running {
        started_at: Option<Time>,
    },
    Exited(Exit),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    /// The engine's out-of-memory flag; counts as OOM only together with code 137.
    pub oom: bool,
    /// The engine's words, e.g. why it could not start.
    pub error: String,
    /// What the container said of its end; filled in by the worker.
    pub message: String,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
}

/// All that a container is created from; environment references are already resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateContainer {
    /// [`proto::ids::container_name`].
    pub name: String,
    pub owner: Owner,
    pub image: String,
    /// Replaces ENTRYPOINT; empty: the image's.
    pub command: Vec<String>,
    /// Replaces CMD; empty: the image's (or none when `command` is given).
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub ports: Vec<proto::model::ContainerPort>,
    /// Thousandths of a CPU; 0: no limit.
    pub cpu_limit_milli: u64,
    /// Thousandths of a CPU, as weight; 0: default.
    pub cpu_request_milli: u64,
    /// Bytes; 0: no limit.
    pub memory_limit: u64,
    /// Processes and threads; 0: the runtime's own limit.
    pub pids_limit: u64,
    /// Replaces WORKDIR; empty: the image's.
    pub working_dir: String,
    /// Replaces USER, as `uid`, `uid:gid` or `name:gid`; empty: the image's.
    pub user: String,
    /// More groups of its processes.
    pub groups: Vec<i64>,
    pub read_only_root: bool,
    /// A process may gain more rights than its parent.
    pub may_escalate: bool,
    /// Linux capabilities.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub mounts: Vec<Mount>,
    /// In the host's network: no ports are published, the host name is the host's.
    pub host_network: bool,
    /// Engine id of the sandbox whose network this container joins.
    pub join_network_of: Option<String>,
    pub stop_grace: Duration,
    pub hostname: String,
    /// More labels, e.g. the incarnation.
    pub labels: BTreeMap<String, String>,
}

/// Something of the host that the container sees at a path of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path of the host that belongs to others. `volume` names it in errors.
    Host {
        volume: String,
        path: String,
        kind: HostPathType,
    },
    /// A directory of the agent's, made when it is not there.
    Directory(PathBuf),
    /// A file of the agent's, made empty when it is not there.
    File(PathBuf),
    /// Memory that several containers of the pod share; the engine makes it with the first of them. It lasts while
    /// one of them runs. `size` in bytes; `None`: the engine's own limit.
    Memory { name: String, size: Option<u64> },
}

/// Memory shared by containers of a pod, as the engine shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryVolume {
    pub name: String,
    /// Of the pod.
    pub uid: String,
}

/// A container that no agent of this cluster made, in the engine's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unmanaged {
    pub name: String,
    pub image: String,
    pub state: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// E.g. `20.10.24`.
    pub version: String,
    /// Where images and containers lie, e.g. `/var/lib/docker`.
    pub root_dir: String,
}

/// Something happened to a container of ours; only a hint, the relist is the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Look at this pod (uid).
    Pod(String),
    /// The event stream broke or began: look at everything.
    All,
}

/// Which output of which container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// The engine's id; refused unless it is this container's of this pod.
    pub id: String,
    pub uid: String,
    pub container: String,
    /// Go on until the container ends.
    pub follow: bool,
    /// The last so many lines; `None`: all.
    pub tail: Option<u32>,
    /// Nothing that was written before.
    pub since: Option<jiff::Timestamp>,
}

/// A line that a container wrote, with its line end, or a part of one too long for the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub at: jiff::Timestamp,
    pub stderr: bool,
    pub text: Vec<u8>,
}

/// Read from the engine as it is polled; dropping it ends the reading.
pub type LogStream = BoxStream<'static, Result<LogEntry, RuntimeError>>;

/// What became of a command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Executed {
    Exited {
        code: i64,
        /// The beginning of what it wrote.
        output: String,
    },
    /// It still ran after this time.
    Unended(Duration),
    /// It was not begun: an earlier run of it has not ended.
    Earlier,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The engine does not answer (socket, timeout). Nothing is known of the call's effect.
    #[error("Docker does not answer: {0}")]
    Unavailable(String),
    #[error("no such container: {0}")]
    NoSuchContainer(String),
    #[error("no such image: {0}")]
    NoSuchImage(String),
    /// The name is taken by a container that is not ours or not this attempt's.
    #[error("{0}")]
    NameTaken(String),
    /// What the pod asks for cannot be had on this host as it is: a missing path, an image that would run as root.
    #[error("{0}")]
    Config(String),
    /// The engine said no, in its own words: bad command, port in use, limit too small.
    #[error("{0}")]
    Refused(String),
}

/// See the module's head. Every method has a deadline of its own and never waits for ever; a log's stream may, for a
/// container that writes nothing.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Asks the engine for a sign of life and its facts.
    async fn info(&self) -> Result<EngineInfo, RuntimeError>;

    /// All of this node's containers, running or not.
    async fn list(&self) -> Result<Vec<ContainerInfo>, RuntimeError>;

    /// What else the engine has: containers without this cluster's label, by their lines in its list. For people
    /// alone; nothing is ever done to them.
    async fn unmanaged(&self) -> Result<Vec<Unmanaged>, RuntimeError>;

    /// One container; `None` when it is gone.
    async fn inspect(&self, id: &str) -> Result<Option<ContainerInfo>, RuntimeError>;

    /// Whether the image is on the host: its id.
    async fn image(&self, reference: &str) -> Result<Option<String>, RuntimeError>;

    /// The user that an image runs as unless told otherwise, as its maker wrote it; empty: root.
    async fn image_user(&self, reference: &str) -> Result<String, RuntimeError>;

    /// Fetches an image. Callers of the same reference share one pull. Ends with the engine's words on failure.
    async fn pull(&self, reference: &str) -> Result<(), RuntimeError>;

    /// How far the pull of this image is, in words such as `pulling app:1: 34 of 80 MB`; `None` when there is none
    /// under way or nothing to tell. Asks nobody.
    fn pull_progress(&self, reference: &str) -> Option<String>;

    /// Creates a container and returns its id. When the name exists and the container is this attempt of this
    /// container of this pod, that one's id is returned: a repeated create never makes a second container.
    async fn create(&self, spec: &CreateContainer) -> Result<String, RuntimeError>;

    /// Starts it; one that runs already is no error.
    async fn start(&self, id: &str) -> Result<(), RuntimeError>;

    /// Signals, waits at most `grace`, kills; returns once the engine reports the exit. One that has exited or
    /// is gone already is no error.
    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;

    /// Removes a container that does not run; one that is gone already is no error. Never forces.
    async fn remove(&self, id: &str) -> Result<(), RuntimeError>;

    /// Runs a command in a running container and waits at most `limit` for its end; the engine cannot end it. While a
    /// command is not over, the same one is not begun again in that container.
    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<Executed, RuntimeError>;

    /// The end of a container's output, at most this many lines.
    async fn log_tail(&self, id: &str, lines: u32) -> Result<String, RuntimeError>;

    /// What a container wrote, oldest first. The stream ends with it, or, when following, with the container.
    async fn logs(&self, query: &LogQuery) -> Result<LogStream, RuntimeError>;

    /// All of this node's volumes in memory.
    async fn memory_volumes(&self) -> Result<Vec<MemoryVolume>, RuntimeError>;

    /// Removes a volume in memory that no container has; one that is gone already, or is not this node's, is no
    /// error.
    async fn remove_memory_volume(&self, name: &str) -> Result<(), RuntimeError>;

    /// Hints from now on. The stream goes on over the engine's restarts (sending [`Hint::All`] after each) and
    /// ends only when the receiver is dropped.
    fn hints(self: Arc<Self>) -> tokio::sync::mpsc::Receiver<Hint>;
}
