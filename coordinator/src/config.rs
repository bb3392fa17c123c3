//! What the coordinator can be told, on the command line, by `WHARF_*` variables and in a TOML file. Read once
//! by `main`.
//!
//! Invariant: a flag beats a variable beats the file beats the default; an unknown or impossible value is
//! refused by name, never ignored.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use crate::{ca, error::Error, session};

#[derive(Debug, Parser)]
#[command(
    name = "wharf-coordinator",
    version,
    about = "Keeps the fleet's state, places pods and talks to agents",
    after_help = "Examples:
  wharf-coordinator run --data-dir /var/lib/wharf --advertise coordinator.example:7443
  wharf-coordinator run --config /etc/wharf/coordinator.toml --check-config"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the cluster of a data directory.
    #[command(after_help = "Examples:
  wharf-coordinator run --data-dir /var/lib/wharf
  WHARF_HEARTBEAT_MS=500 wharf-coordinator run --data-dir D --listen 127.0.0.1:0")]
    Run(Box<RunArgs>),
    /// Make a cluster: its CA, its store, and the admin's credentials at DIR/admin.yaml.
    #[command(after_help = "Examples:
  wharf-coordinator init --data-dir /var/lib/wharf --advertise coordinator.example:7443
  wharf-coordinator init --data-dir D")]
    Init(InitArgs),
    /// Print new admin credentials; on this host only, and on record.
    #[command(after_help = "Examples:
  wharf-coordinator admin-credentials --data-dir /var/lib/wharf > admin.yaml
  wharf-coordinator admin-credentials --data-dir D")]
    AdminCredentials(DirArgs),
}

#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    pub dir: DirArgs,
    /// HOST:PORT under which agents and the command reach this coordinator [default: this host's address:7443].
    #[arg(long, env = "WHARF_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Name of this coordinator [default: the host's].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct DirArgs {
    /// Directory with the cluster's keys and its store.
    #[arg(long, env = "WHARF_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// TOML file with any of the settings below, named as here without the dashes in front.
    #[arg(long, env = "WHARF_COORDINATOR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration and stop.
    #[arg(long)]
    pub check_config: bool,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// One file in the data directory; one coordinator.
    #[default]
    Sqlite,
}

/// Declares [`Options`] and how two of them are put together.
macro_rules! options {
    ($($(#[$attr:meta])* $field:ident: $type:ty,)*) => {
        /// All settings, as given; `None`: not given here.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct Options {
            $($(#[$attr])* pub $field: Option<$type>,)*
        }

        impl Options {
            /// These, and what they leave out from `other`.
            pub fn or(self, other: Self) -> Self {
                Self { $($field: self.$field.or(other.$field),)* }
            }
        }
    };
}

options! {
    /// Directory with the cluster's keys and its store.
    #[arg(long, env = "WHARF_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Address for agents and the command [default: 0.0.0.0:7443].
    #[arg(long, env = "WHARF_LISTEN", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Address for joining [default: that of --listen, the port one higher].
    #[arg(long, env = "WHARF_ENROL", value_name = "ADDR:PORT")]
    enrol: SocketAddr,
    /// Address of /healthz, /readyz, /leader and /metrics [default: 127.0.0.1:7445].
    #[arg(long, env = "WHARF_HTTP", value_name = "ADDR:PORT")]
    http: SocketAddr,
    /// HOST:PORT under which others reach --listen [default: as told to init].
    #[arg(long, env = "WHARF_ADVERTISE", value_name = "HOST:PORT")]
    advertise: String,
    /// Where the state is kept [default: sqlite].
    #[arg(long, env = "WHARF_STORE", value_enum, value_name = "STORE")]
    store: Backend,
    /// Period of agents' heartbeats, milliseconds [default: 2000].
    #[arg(long, env = "WHARF_HEARTBEAT_MS", value_name = "MS", hide_short_help = true)]
    heartbeat_ms: u64,
    /// Missed heartbeats until a node is unreachable [default: 3].
    #[arg(long, env = "WHARF_MISSED_HEARTBEATS", value_name = "N", hide_short_help = true)]
    missed_heartbeats: u32,
    /// Time until an agent whose connection closed is down, milliseconds [default: 2000].
    #[arg(long, env = "WHARF_AGENT_DOWN_MS", value_name = "MS", hide_short_help = true)]
    agent_down_ms: u64,
    /// Time for an agent to introduce itself, milliseconds [default: 10000].
    #[arg(long, env = "WHARF_HELLO_TIMEOUT_MS", value_name = "MS", hide_short_help = true)]
    hello_timeout_ms: u64,
    /// Time until an agent that does not read is sent away, milliseconds [default: 10000].
    #[arg(long, env = "WHARF_STALL_MS", value_name = "MS", hide_short_help = true)]
    stall_ms: u64,
    /// Longest silence towards an agent, milliseconds [default: 15000].
    #[arg(long, env = "WHARF_MAX_SILENCE_MS", value_name = "MS", hide_short_help = true)]
    max_silence_ms: u64,
    /// How far an agent's clock may be off, milliseconds [default: 300000].
    #[arg(long, env = "WHARF_MAX_CLOCK_SKEW_MS", value_name = "MS", hide_short_help = true)]
    max_clock_skew_ms: u64,
    /// Most agents connected at a time [default: 12000].
    #[arg(long, env = "WHARF_MAX_SESSIONS", value_name = "N", hide_short_help = true)]
    max_sessions: usize,
    /// Logs read at a time, of all nodes together [default: 1024].
    #[arg(long, env = "WHARF_MAX_PIPES", value_name = "N", hide_short_help = true)]
    max_pipes: usize,
    /// Logs read at a time, of one node [default: 32].
    #[arg(long, env = "WHARF_MAX_NODE_PIPES", value_name = "N", hide_short_help = true)]
    max_node_pipes: usize,
    /// Time for an agent to begin sending a log that was asked for, milliseconds [default: 10000].
    #[arg(long, env = "WHARF_PIPE_OPEN_MS", value_name = "MS", hide_short_help = true)]
    pipe_open_ms: u64,
    /// Events that an agent may send at once [default: 256].
    #[arg(long, env = "WHARF_EVENT_BURST", value_name = "N", hide_short_help = true)]
    event_burst: u32,
    /// Time until an agent may send one event more, milliseconds [default: 100].
    #[arg(long, env = "WHARF_EVENT_EVERY_MS", value_name = "MS", hide_short_help = true)]
    event_every_ms: u64,
    /// How often the mark of what was served is renewed, milliseconds [default: 3000].
    #[arg(long, env = "WHARF_SERVED_MARK_MS", value_name = "MS", hide_short_help = true)]
    served_mark_ms: u64,
    /// Life of an agent's certificate, renewed at a third of it, milliseconds [default: 259200000].
    #[arg(long, env = "WHARF_AGENT_CERTIFICATE_MS", value_name = "MS", hide_short_help = true)]
    agent_certificate_ms: u64,
    /// Time for an orderly end, milliseconds [default: 5000].
    #[arg(long, env = "WHARF_SHUTDOWN_MS", value_name = "MS", hide_short_help = true)]
    shutdown_ms: u64,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub enrol: SocketAddr,
    pub http: SocketAddr,
    /// `None`: as told to `init`.
    pub advertise: Option<String>,
    pub store: Backend,
    pub sessions: session::Settings,
    pub ca: ca::Settings,
    pub served_mark: Duration,
    pub shutdown: Duration,
}

impl RunArgs {
    /// Puts flags, variables and the file together.
    pub fn load(self) -> Result<Config, Error> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None => Options::default(),
        };
        Config::new(self.options.or(file))
    }
}

impl Config {
    /// Fills in the defaults and checks every value.
    pub fn new(options: Options) -> Result<Self, Error> {
        let data_dir = options
            .data_dir
            .ok_or_else(|| bad("data-dir", "is not set: name the coordinator's data directory"))?;
        let listen = options.listen.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 7443)));
        let enrol = match options.enrol {
            Some(enrol) => enrol,
            // Port 0 is any free port, for both.
            None if listen.port() == 0 => listen,
            None => {
                let port = listen
                    .port()
                    .checked_add(1)
                    .ok_or_else(|| bad("listen", "has no port after it for joining: set enrol, too"))?;
                SocketAddr::new(listen.ip(), port)
            }
        };
        let http = options.http.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7445)));
        for (name, address, other, theirs) in [
            ("enrol", enrol, "listen", listen),
            ("http", http, "listen", listen),
            ("http", http, "enrol", enrol),
        ] {
            if address.port() != 0 && address.port() == theirs.port() && address.ip() == theirs.ip() {
                return Err(bad(
                    name,
                    &format!("and {other} are both {address}: choose another port"),
                ));
            }
        }
        if let Some(advertise) = &options.advertise {
            let port = advertise
                .rsplit_once(':')
                .filter(|(host, _)| !host.is_empty())
                .map(|(_, p)| p);
            if !port.is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p != 0)) {
                return Err(bad(
                    "advertise",
                    &format!("is {advertise:?}, not HOST:PORT as in coordinator.example:7443"),
                ));
            }
        }
        let d = session::Settings::default();
        let most = 24 * 3600 * 1000;
        let time = |name, given: Option<u64>, default: Duration| match given {
            None => Ok(default),
            Some(ms) if (1..=most).contains(&ms) => Ok(Duration::from_millis(ms)),
            Some(ms) => Err(bad(name, &format!("is {ms}: between 1 and {most} milliseconds"))),
        };
        let count = |name, n: usize, most: usize| {
            let fits = (1..=most).contains(&n);
            fits.then_some(n)
                .ok_or_else(|| bad(name, &format!("is {n}: between 1 and {most}")))
        };
        let missed = options.missed_heartbeats.unwrap_or(d.missed);
        count("missed-heartbeats", missed as usize, 1000)?;
        let sessions = session::Settings {
            heartbeat: time("heartbeat-ms", options.heartbeat_ms, d.heartbeat)?,
            missed,
            agent_down: time("agent-down-ms", options.agent_down_ms, d.agent_down)?,
            hello_timeout: time("hello-timeout-ms", options.hello_timeout_ms, d.hello_timeout)?,
            stall: time("stall-ms", options.stall_ms, d.stall)?,
            max_silence: time("max-silence-ms", options.max_silence_ms, d.max_silence)?,
            max_skew: time("max-clock-skew-ms", options.max_clock_skew_ms, d.max_skew)?,
            max_sessions: count("max-sessions", options.max_sessions.unwrap_or(d.max_sessions), 100_000)?,
            max_pipes: count("max-pipes", options.max_pipes.unwrap_or(d.max_pipes), 100_000)?,
            // As many as fit on the agent's connection beside its session, and as many as it opens.
            max_node_pipes: count("max-node-pipes", options.max_node_pipes.unwrap_or(d.max_node_pipes), 64)?,
            pipe_open: time("pipe-open-ms", options.pipe_open_ms, d.pipe_open)?,
            event_burst: options.event_burst.unwrap_or(d.event_burst),
            event_every: time("event-every-ms", options.event_every_ms, d.event_every)?,
            coordinators: options.advertise.iter().cloned().collect(),
        };
        let defaults = ca::Settings::default();
        let ca = ca::Settings {
            agent_life_ms: match options.agent_certificate_ms {
                None => defaults.agent_life_ms,
                Some(ms) if (1000..=365 * most).contains(&ms) => ms,
                Some(ms) => {
                    let limit = 365 * most;
                    return Err(bad(
                        "agent-certificate-ms",
                        &format!("is {ms}: between 1000 and {limit} milliseconds"),
                    ));
                }
            },
            coordinators: sessions.coordinators.clone(),
            joining_port: options.enrol.map_or(0, |e| e.port()),
            max_skew_ms: u64::try_from(sessions.max_skew.as_millis()).unwrap_or(defaults.max_skew_ms),
            ..defaults
        };
        Ok(Self {
            data_dir,
            listen,
            enrol,
            http,
            advertise: options.advertise,
            store: options.store.unwrap_or_default(),
            sessions,
            ca,
            served_mark: time("served-mark-ms", options.served_mark_ms, Duration::from_secs(3))?,
            shutdown: time("shutdown-ms", options.shutdown_ms, Duration::from_secs(5))?,
        })
    }
}

fn bad(name: &str, what: &str) -> Error {
    Error::Config(format!("{name} {what}"))
}

fn read(path: &Path) -> Result<Options, Error> {
    let fail = |what: String| Error::Config(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    parse(&text).map_err(fail)
}

/// Reads a file's text. The error has the line and names an unknown key's nearest one.
fn parse(text: &str) -> Result<Options, String> {
    let place = |e: &toml::de::Error| {
        let line = e
            .span()
            .map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        format!("line {line}: {}", e.message().replace('\n', " "))
    };
    let table: toml::Table = text.parse().map_err(|e| place(&e))?;
    let known = known();
    for key in table.keys() {
        if !known.contains(key) {
            let nearest = known
                .iter()
                .map(|k| (strsim::normalized_damerau_levenshtein(key, k), k))
                .filter(|(like, _)| *like > 0.5)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = nearest.map_or_else(
                || format!("known are {}", known.join(", ")),
                |(_, k)| format!("did you mean {k}?"),
            );
            return Err(format!("unknown key {key:?}; {hint}"));
        }
    }
    toml::from_str(text).map_err(|e| {
        // Only one key's value can be wrong by now: its name says more than its line alone.
        let wrong = table.into_iter().find(|(key, value)| {
            let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
            alone.try_into::<Options>().is_err()
        });
        let key = wrong.map_or_else(String::new, |(key, _)| format!("{key}: "));
        let words = proto::model::parse::plain_types(&place(&e));
        words.replacen(": ", &format!(": {key}"), 1)
    })
}

/// Every key of the file: the flags' names.
fn known() -> Vec<String> {
    let cli = Cli::command();
    let run = cli
        .find_subcommand("run")
        .map(|c| c.get_arguments().collect::<Vec<_>>());
    let names = run.unwrap_or_default().into_iter().filter_map(clap::Arg::get_long);
    names
        .filter(|n| !["config", "check-config", "help", "version"].contains(n))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
