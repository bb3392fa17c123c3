//! The program's options: flag, then `WHARF_*` variable, then configuration file, then default. Read by
//! [`crate::program`].
//!
//! Invariant: a token file is read only when a token is needed; an unknown key or a value that does not parse is
//! refused by name.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use crate::{AgentError, settings::Settings};

/// Where the agent keeps its identity and ledger.
pub const DATA_DIR: &str = "/var/lib/wharf-agent";
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 7447);

/// Runs pods on this Docker host for a Wharfinger cluster.
#[derive(Debug, Parser)]
#[command(name = "wharf-agent", version = proto::VERSION, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// A test parses them.
const EXAMPLES: &str = "Examples:
  wharf-agent run --token-file /root/token --coordinators c1.example:7443
  wharf-agent status";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Joins the cluster if needed, then runs until SIGTERM; containers are left running.
    // The line that `wharf token create` prints is made to be appended to: the last one of an option counts.
    #[command(
        args_override_self = true,
        after_help = "Every option can be set as WHARF_<OPTION> or in the configuration file; flag > \
                            variable > file.\n\nExamples:
  wharf-agent run --token-file /root/token --coordinators c1.example:7443
  wharf-agent run --data-dir /var/lib/n2 --name n2 --shared-host --capacity cpu=2,memory=2Gi"
    )]
    Run(Box<RunArgs>),
    /// Shows node, pods and last contact; needs no coordinator.
    #[command(after_help = "Examples:\n  wharf-agent status\n  wharf-agent status --data-dir /var/lib/n2")]
    Status(StatusArgs),
    /// Takes this host out of the cluster: its node is deleted, its identity removed. Stop the agent first
    #[command(
        after_help = "Refused while pods are bound to the node.\n\nExamples:\n  wharf-agent leave\n  wharf-agent leave --data-dir /var/lib/n2 --force"
    )]
    Leave(LeaveArgs),
}

#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Identity and ledger of this node [default: /var/lib/wharf-agent]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Join token; others on this host can see it here, --token-file is better
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File that holds the join token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// First contact; the cluster then tells the current list
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub coordinators: Vec<String>,
    /// Where to join, if not on the port after each coordinator's
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub enrol: Vec<String>,
    /// Name of the node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What pods may use, as cpu=2,memory=2Gi [default: the host, less a reserve]
    #[arg(long, value_name = "LIST")]
    pub capacity: Option<String>,
    /// Another agent runs on this host too; needs --capacity
    #[arg(long)]
    pub shared_host: bool,
    /// Docker's address [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "URL")]
    pub docker_host: Option<String>,
    /// Docker's configuration with credentials for registries
    /// [default: $DOCKER_CONFIG/config.json, else /root/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    pub docker_config: Option<PathBuf>,
    /// Address of /healthz and /metrics, or `none` [default: 127.0.0.1:7447, none with --shared-host]
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_listen: Option<String>,
    /// Configuration file, TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct StatusArgs {
    /// The agent's data directory [default: /var/lib/wharf-agent]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct LeaveArgs {
    /// The agent's data directory [default: /var/lib/wharf-agent]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Remove the identity here even where the cluster refuses or cannot be reached; containers keep running
    #[arg(long)]
    pub force: bool,
}

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileOptions {
    data_dir: Option<PathBuf>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    coordinators: Vec<String>,
    enrol: Vec<String>,
    name: Option<String>,
    capacity: Option<String>,
    shared_host: bool,
    docker_host: Option<String>,
    docker_config: Option<PathBuf>,
    metrics_listen: Option<String>,
    settings: Settings,
}

/// What is in force.
#[derive(Clone)]
pub struct Options {
    pub data_dir: PathBuf,
    token: Token,
    pub coordinators: Vec<String>,
    /// Enrolment addresses; empty: the port after each coordinator's.
    pub enrol: Vec<String>,
    pub name: Option<String>,
    pub capacity: Option<String>,
    pub shared_host: bool,
    pub docker_host: Option<String>,
    /// Docker's `config.json`.
    pub docker_config: PathBuf,
    pub metrics_listen: Option<SocketAddr>,
    pub settings: Settings,
}

#[derive(Clone)]
enum Token {
    None,
    Text(String),
    File(PathBuf),
}

fn usage(words: impl Into<String>) -> AgentError {
    AgentError::Usage(words.into())
}

impl Options {
    /// Puts flags, variables and file together. `env` looks a variable up.
    pub fn load(args: RunArgs, env: impl Fn(&str) -> Option<String>) -> Result<Self, AgentError> {
        let var = |name: &str| env(&format!("WHARF_{name}")).filter(|v| !v.is_empty());
        let config = args.config.or_else(|| var("AGENT_CONFIG").map(PathBuf::from));
        let file = match &config {
            Some(path) => read_file(path)?,
            None => FileOptions::default(),
        };
        let list = |flag: Vec<String>, name: &str, file: Vec<String>| {
            let from_env = || var(name).map(|v| v.split(',').map(|s| s.trim().to_owned()).collect());
            if flag.is_empty() {
                from_env().unwrap_or(file)
            } else {
                flag
            }
        };
        // A whole level at a time: a flag's file beats a variable's text.
        let token = first_token(args.token, args.token_file)
            .or_else(|| first_token(var("TOKEN"), var("TOKEN_FILE").map(PathBuf::from)))
            .or_else(|| first_token(file.token, file.token_file))
            .unwrap_or(Token::None);
        let shared_host = match var("SHARED_HOST") {
            _ if args.shared_host => true,
            Some(text) => parse_bool("WHARF_SHARED_HOST", &text)?,
            None => file.shared_host,
        };
        let options = Self {
            data_dir: data_dir(args.data_dir, &env, file.data_dir),
            token,
            coordinators: list(args.coordinators, "COORDINATORS", file.coordinators),
            enrol: list(args.enrol, "ENROL", file.enrol),
            name: args.name.or_else(|| var("NAME")).or(file.name),
            capacity: args.capacity.or_else(|| var("CAPACITY")).or(file.capacity),
            shared_host,
            docker_host: args.docker_host.or_else(|| var("DOCKER_HOST")).or(file.docker_host),
            docker_config: args
                .docker_config
                .or_else(|| var("DOCKER_CONFIG").map(PathBuf::from))
                .or(file.docker_config)
                .unwrap_or_else(|| docker_config(&env)),
            metrics_listen: metrics_listen(
                args.metrics_listen
                    .or_else(|| var("METRICS_LISTEN"))
                    .or(file.metrics_listen),
                shared_host,
            )?,
            settings: settings(file.settings, var)?,
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), AgentError> {
        for (flag, addresses) in [("--coordinators", &self.coordinators), ("--enrol", &self.enrol)] {
            for address in addresses {
                let ok = address
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
                if !ok {
                    return Err(usage(format!(
                        "{flag}: {address:?} is not HOST:PORT, as in c1.example:7443"
                    )));
                }
            }
        }
        if self.shared_host && self.capacity.is_none() {
            return Err(usage(
                "--shared-host needs --capacity, as in cpu=2,memory=2Gi: the host's agents must not all offer the whole of it",
            ));
        }
        self.settings.check().map_err(AgentError::Usage)
    }

    /// The join token, reading its file now; called only by an agent that has no identity yet.
    pub fn read_token(&self) -> Result<Option<String>, AgentError> {
        match &self.token {
            Token::None => Ok(None),
            Token::Text(text) => Ok(Some(text.trim().to_owned())),
            Token::File(path) => fs::read_to_string(path)
                .map(|text| Some(text.trim().to_owned()))
                .map_err(|e| usage(format!("--token-file {}: {e}", path.display()))),
        }
    }
}

/// The data directory by the same precedence; also for `status` and `leave`.
pub fn data_dir(flag: Option<PathBuf>, env: impl Fn(&str) -> Option<String>, file: Option<PathBuf>) -> PathBuf {
    flag.or_else(|| env("WHARF_DATA_DIR").filter(|v| !v.is_empty()).map(PathBuf::from))
        .or(file)
        .unwrap_or_else(|| DATA_DIR.into())
}

/// Where Docker's own command keeps its configuration.
fn docker_config(env: impl Fn(&str) -> Option<String>) -> PathBuf {
    let dir = env("DOCKER_CONFIG").filter(|v| !v.is_empty());
    Path::new(dir.as_deref().unwrap_or("/root/.docker")).join("config.json")
}

fn first_token(text: Option<String>, file: Option<PathBuf>) -> Option<Token> {
    file.map(Token::File).or(text.map(Token::Text))
}

fn read_file(path: &Path) -> Result<FileOptions, AgentError> {
    let text = fs::read_to_string(path).map_err(|e| usage(format!("--config {}: {e}", path.display())))?;
    toml::from_str(&text).map_err(|e: toml::de::Error| {
        let line = e
            .span()
            .map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        usage(format!("{}:{line}: {}", path.display(), e.message()))
    })
}

fn parse_bool(name: &str, text: &str) -> Result<bool, AgentError> {
    match text {
        "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        other => Err(usage(format!("{name}: {other:?} is neither true nor false"))),
    }
}

fn metrics_listen(given: Option<String>, shared_host: bool) -> Result<Option<SocketAddr>, AgentError> {
    match given.as_deref() {
        Some("none") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            usage(format!(
                "--metrics-listen: {text:?} is not IP:PORT, as in 127.0.0.1:7447"
            ))
        }),
        None if shared_host => Ok(None),
        None => Ok(Some(METRICS.into())),
    }
}

/// Every setting by its name: `relist_ms` is `WHARF_RELIST_MS`.
fn settings(file: Settings, var: impl Fn(&str) -> Option<String>) -> Result<Settings, AgentError> {
    let mut table = toml::Table::try_from(&file).map_err(|e| usage(format!("settings: {e}")))?;
    for (name, value) in &mut table {
        let upper = name.to_uppercase();
        let Some(text) = var(&upper) else { continue };
        *value = match value {
            toml::Value::Boolean(_) => parse_bool(&format!("WHARF_{upper}"), &text)?.into(),
            _ => text
                .parse::<i64>()
                .ok()
                .filter(|n| *n >= 0)
                .ok_or_else(|| usage(format!("WHARF_{upper}: {text:?} is not a whole number")))?
                .into(),
        };
    }
    table
        .try_into()
        .map_err(|e: toml::de::Error| usage(format!("settings: {}", e.message())))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
