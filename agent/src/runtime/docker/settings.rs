//! Whose containers a runtime sees, and the limits it keeps towards the engine. Set by the agent's configuration.

use std::{path::PathBuf, time::Duration};

/// Which containers exist for a runtime (`cluster`, `node`), and what its new ones are marked with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    pub cluster: String,
    pub node: String,
    pub incarnation: String,
}

/// Limits towards the engine, and what every container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerSettings {
    /// Ping and clock: an engine that takes longer is hung.
    pub ping_timeout: Duration,
    /// One inspection or image look-up.
    pub inspect_timeout: Duration,
    /// A whole list, with its inspections.
    pub list_timeout: Duration,
    pub create_timeout: Duration,
    pub start_timeout: Duration,
    /// What a stop may take beyond its grace, until the exit shows.
    pub stop_margin: Duration,
    pub remove_timeout: Duration,
    /// A pull that reports no progress for this long has failed; there is no limit on the whole pull.
    pub pull_inactivity: Duration,
    /// Pulls at once, each of another image.
    pub max_pulls: usize,
    /// Docker's `config.json` with credentials for registries; none when empty.
    pub docker_config: PathBuf,
    /// What a credential helper may take.
    pub helper_timeout: Duration,
    /// How long the engine's facts are kept before they are asked for again.
    pub facts_age: Duration,
    pub event_backoff_min: Duration,
    pub event_backoff_max: Duration,
    /// Processes and threads in a container that names no limit of its own.
    pub pids_limit: i64,
    /// Docker's init as PID 1: reaps orphans, and a program without a handler dies of TERM.
    pub init: bool,
    /// Log driver `local`: size of a file as Docker writes sizes, and number of files.
    pub log_max_size: String,
    pub log_max_files: u32,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            ping_timeout: Duration::from_secs(5),
            inspect_timeout: Duration::from_secs(5),
            list_timeout: Duration::from_secs(15),
            create_timeout: Duration::from_secs(60),
            start_timeout: Duration::from_secs(120),
            stop_margin: Duration::from_secs(30),
            remove_timeout: Duration::from_secs(60),
            pull_inactivity: Duration::from_secs(60),
            max_pulls: 4,
            docker_config: PathBuf::new(),
            helper_timeout: Duration::from_secs(10),
            facts_age: Duration::from_secs(60),
            event_backoff_min: Duration::from_millis(100),
            event_backoff_max: Duration::from_secs(5),
            pids_limit: 4096,
            init: true,
            log_max_size: "10m".into(),
            log_max_files: 3,
        }
    }
}
