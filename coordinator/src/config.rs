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

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde::Deserialize;

mod store;

pub use store::{Backend, EtcdArgs, StoreArgs, StoreConfig};

use crate::{ca, error::Error, etcd_config::EtcdConfigArgs, leader, session, store::etcd::EtcdOptions};

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
  wharf-coordinator init --data-dir D --store etcd --etcd-endpoints http://127.0.0.1:2379")]
    Init(Box<InitArgs>),
    /// Make this host another coordinator of a cluster; its store must be one that coordinators share.
    #[command(after_help = "Examples:
  wharf-coordinator join --data-dir /var/lib/wharf --peers c1.example:7444 --token-file token
  wharf-coordinator join --data-dir D --peers 10.0.0.1:7444,10.0.0.2:7444 --name c3 --token-file T")]
    Join(JoinArgs),
    /// Print new admin credentials; on this host only, and on record.
    #[command(after_help = "Examples:
  wharf-coordinator admin-credentials --data-dir /var/lib/wharf > admin.yaml
  wharf-coordinator admin-credentials --data-dir D")]
    AdminCredentials(DirArgs),
    /// Make a cluster's state from a backup, as a new incarnation; with no coordinator of it running.
    ///
    /// Into an empty store: that of a coordinator's data directory whose store is lost, or of a new one, made from the
    /// keys of a backup that was made --with-keys. Agents take nothing from it before `wharf cluster accept-restore`.
    #[command(after_help = "Examples:
  wharf-coordinator restore fleet.backup --data-dir /var/lib/wharf
  wharf-coordinator restore fleet.backup --data-dir D --config /etc/wharf/coordinator.toml")]
    Restore(Box<RestoreArgs>),
    /// Move the state of a cluster from one kind of store to the other; with no coordinator of it running.
    ///
    /// Versions and history go along, so that agents and containers run on and notice a new term only. The store that was
    /// left is never served again. Interrupted, the same command begins anew or goes on.
    #[command(after_help = "Examples:
  wharf-coordinator migrate --data-dir D --from sqlite --to etcd --etcd-endpoints http://etcd1:2379
  wharf-coordinator migrate --data-dir D --from etcd --to sqlite --config coordinator.toml")]
    Migrate(Box<MigrateArgs>),
    /// Make the files of an etcd cluster's hosts: environment files, an authority of its own, certificates.
    #[command(after_help = "Examples:
  wharf-coordinator etcd-config --member etcd1=10.0.0.1 --member etcd2=10.0.0.2 --member etcd3=10.0.0.3 --out etcd
  wharf-coordinator etcd-config --member etcd4=10.0.0.4 --gone etcd2 --out etcd")]
    EtcdConfig(EtcdConfigArgs),
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
    /// The configuration file of `run`: where the state is kept, and --advertise, where they are not given here.
    #[arg(long, env = "WHARF_COORDINATOR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Args)]
pub struct JoinArgs {
    #[command(flatten)]
    pub dir: DirArgs,
    /// Join token of role coordinator; others on this host can see it here, --token-file is better.
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File that holds the join token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Where to join: the joining port of one or several coordinators.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', required = true)]
    pub peers: Vec<String>,
    /// Name of this coordinator, no other one's [default: the host's, up to the first dot].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// HOST:PORT under which agents, the command and peers reach this coordinator [default: this host's address:7443].
    #[arg(long, env = "WHARF_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// HOST:PORT under which hosts join this coordinator [default: that of --advertise, the port one higher].
    #[arg(long, value_name = "HOST:PORT")]
    pub enrol: Option<String>,
}

impl std::fmt::Debug for JoinArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinArgs")
            .field("dir", &self.dir)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A file that `wharf cluster backup`, or a coordinator's schedule, made.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub dir: DirArgs,
    /// File whose first line is the passphrase of the backup's keys; needed for a new data directory.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// HOST:PORT under which agents and the command reach this coordinator [default: as in the backup].
    #[arg(long, env = "WHARF_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Name of this coordinator, for a new data directory [default: the host's].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The configuration file of `run`: where the state is kept, and --advertise, where they are not given here.
    #[arg(long, env = "WHARF_COORDINATOR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub dir: DirArgs,
    /// Where the state is.
    #[arg(long, value_enum, value_name = "STORE")]
    pub from: Backend,
    /// Where it is to be kept.
    #[arg(long, value_enum, value_name = "STORE")]
    pub to: Backend,
    /// The configuration file of `run`: for what is not given here of etcd.
    #[arg(long, env = "WHARF_COORDINATOR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub etcd: EtcdArgs,
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

impl InitArgs {
    /// Fills in what the configuration file has.
    pub fn with_file(mut self) -> Result<Self, Error> {
        (self.advertise, self.store) = from_file(self.config.as_deref(), self.advertise, self.store)?;
        Ok(self)
    }
}

impl RestoreArgs {
    /// Fills in what the configuration file has.
    pub fn with_file(mut self) -> Result<Self, Error> {
        (self.advertise, self.store) = from_file(self.config.as_deref(), self.advertise, self.store)?;
        Ok(self)
    }
}

/// The advertised address and the store as given, and what they leave out from the configuration file.
fn from_file(
    config: Option<&Path>,
    advertise: Option<String>,
    store: StoreArgs,
) -> Result<(Option<String>, StoreArgs), Error> {
    let Some(path) = config else {
        return Ok((advertise, store));
    };
    let file = read(path)?;
    Ok((advertise.or(file.advertise.clone()), store.or(file)))
}

impl MigrateArgs {
    /// The etcd that the state comes from or goes to, with what the configuration file has of it.
    pub fn load(&self) -> Result<EtcdOptions, Error> {
        if self.from == self.to {
            let kind = self.to.as_str();
            return Err(bad(
                "to",
                &format!("is {kind}, as from is: a move is from sqlite to etcd or from etcd to sqlite"),
            ));
        }
        let file = match &self.config {
            Some(path) => read(path)?,
            None => Options::default(),
        };
        let store = StoreArgs {
            store: Some(Backend::Etcd),
            etcd: self.etcd.clone(),
        };
        match store.or(file).load()? {
            StoreConfig::Etcd(etcd) => Ok(*etcd),
            StoreConfig::Sqlite => Err(bad("store", "is sqlite: name etcd's --etcd-endpoints")),
        }
    }
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
    /// URLs of etcd's members, with commas between them.
    #[arg(long, env = "WHARF_ETCD_ENDPOINTS", value_name = "URL,URL,…")]
    #[serde(deserialize_with = "one_or_many")]
    etcd_endpoints: String,
    /// CA certificates, PEM, of etcd's members; with https only.
    #[arg(long, env = "WHARF_ETCD_CA", value_name = "FILE")]
    etcd_ca: PathBuf,
    /// Our certificate towards etcd, PEM.
    #[arg(long, env = "WHARF_ETCD_CERT", value_name = "FILE")]
    etcd_cert: PathBuf,
    /// Key of --etcd-cert, PEM.
    #[arg(long, env = "WHARF_ETCD_KEY", value_name = "FILE")]
    etcd_key: PathBuf,
    /// What all keys in etcd begin with [default: /wharfinger/].
    #[arg(long, env = "WHARF_ETCD_PREFIX", value_name = "PREFIX")]
    etcd_prefix: String,
    /// How often etcd's history is compacted, milliseconds; as much of it stays [default: 300000].
    #[arg(long, env = "WHARF_ETCD_COMPACT_MS", value_name = "MS", hide_short_help = true)]
    etcd_compact_ms: u64,
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
    /// The active coordinator beats in a shared store so often, milliseconds [default: 100].
    #[arg(long, env = "WHARF_LEAD_BEAT_MS", value_name = "MS", hide_short_help = true)]
    lead_beat_ms: u64,
    /// A standby looks at the store so often, milliseconds [default: 100].
    #[arg(long, env = "WHARF_LEAD_POLL_MS", value_name = "MS", hide_short_help = true)]
    lead_poll_ms: u64,
    /// The same once there is a sign of trouble, milliseconds [default: 25].
    #[arg(long, env = "WHARF_LEAD_POLL_QUICK_MS", value_name = "MS", hide_short_help = true)]
    lead_poll_quick_ms: u64,
    /// Without a beat for so long, a coordinator whose stream broke is gone, milliseconds [default: 200].
    #[arg(long, env = "WHARF_LEAD_GONE_MS", value_name = "MS", hide_short_help = true)]
    lead_gone_ms: u64,
    /// Without a word and a beat for so long, a silent coordinator is gone, milliseconds [default: 1000].
    #[arg(long, env = "WHARF_LEAD_SILENT_MS", value_name = "MS", hide_short_help = true)]
    lead_silent_ms: u64,
    /// If the store answered for so long of it, milliseconds [default: 600].
    #[arg(long, env = "WHARF_LEAD_SILENT_ANSWERED_MS", value_name = "MS", hide_short_help = true)]
    lead_silent_answered_ms: u64,
    /// Without a beat for so long, a coordinator is gone, whatever its stream says, milliseconds [default: 1500].
    #[arg(long, env = "WHARF_LEAD_STALE_MS", value_name = "MS", hide_short_help = true)]
    lead_stale_ms: u64,
    /// Most that is added to these on one standby, so that not all try at once, milliseconds [default: 20].
    #[arg(long, env = "WHARF_LEAD_STAGGER_MS", value_name = "MS", hide_short_help = true)]
    lead_stagger_ms: u64,
    /// Without an acknowledged beat for so long, the active coordinator stops acting, milliseconds [default: 1000].
    #[arg(long, env = "WHARF_LEAD_DEMOTE_MS", value_name = "MS", hide_short_help = true)]
    lead_demote_ms: u64,
    /// A beat allows reads without asking the store for so long; the same on all coordinators, milliseconds [default: 200].
    #[arg(long, env = "WHARF_LEAD_READ_LEASE_MS", value_name = "MS", hide_short_help = true)]
    lead_read_lease_ms: u64,
    /// Of that, what is left unused for clocks that do not run alike, milliseconds [default: 20].
    #[arg(long, env = "WHARF_LEAD_READ_MARGIN_MS", value_name = "MS", hide_short_help = true)]
    lead_read_margin_ms: u64,
    /// A look at the store that takes longer counts as failed, milliseconds [default: 500].
    #[arg(long, env = "WHARF_LEAD_LOOK_MS", value_name = "MS", hide_short_help = true)]
    lead_look_ms: u64,
    /// An attempt to begin a term that takes longer counts as failed, milliseconds [default: 1000].
    #[arg(long, env = "WHARF_LEAD_ATTEMPT_MS", value_name = "MS", hide_short_help = true)]
    lead_attempt_ms: u64,
    /// Longest wait for a successor in a planned hand-over, milliseconds [default: 1000].
    #[arg(long, env = "WHARF_LEAD_HAND_OVER_MS", value_name = "MS", hide_short_help = true)]
    lead_hand_over_ms: u64,
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
    pub store: StoreConfig,
    pub sessions: session::Settings,
    pub ca: ca::Settings,
    /// Of the contest for leadership, where several coordinators share a store.
    pub leader: leader::settings::Settings,
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
            ..d
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
            store: options.store.unwrap_or_default().as_str().to_owned(),
            max_skew_ms: u64::try_from(sessions.max_skew.as_millis()).unwrap_or(defaults.max_skew_ms),
            ..defaults
        };
        let l = leader::settings::Settings::default();
        let leader = leader::settings::Settings {
            beat: time("lead-beat-ms", options.lead_beat_ms, l.beat)?,
            poll: time("lead-poll-ms", options.lead_poll_ms, l.poll)?,
            poll_quick: time("lead-poll-quick-ms", options.lead_poll_quick_ms, l.poll_quick)?,
            gone: time("lead-gone-ms", options.lead_gone_ms, l.gone)?,
            silent: time("lead-silent-ms", options.lead_silent_ms, l.silent)?,
            silent_answered: time(
                "lead-silent-answered-ms",
                options.lead_silent_answered_ms,
                l.silent_answered,
            )?,
            stale: time("lead-stale-ms", options.lead_stale_ms, l.stale)?,
            stagger: time("lead-stagger-ms", options.lead_stagger_ms, l.stagger)?,
            demote: time("lead-demote-ms", options.lead_demote_ms, l.demote)?,
            read_lease: time("lead-read-lease-ms", options.lead_read_lease_ms, l.read_lease)?,
            read_margin: time("lead-read-margin-ms", options.lead_read_margin_ms, l.read_margin)?,
            look: time("lead-look-ms", options.lead_look_ms, l.look)?,
            attempt: time("lead-attempt-ms", options.lead_attempt_ms, l.attempt)?,
            hand_over: time("lead-hand-over-ms", options.lead_hand_over_ms, l.hand_over)?,
        };
        leader.check().map_err(|what| Error::Config(format!("lead-{what}")))?;
        let compact = options.etcd_compact_ms;
        let mut store = StoreArgs {
            store: options.store,
            etcd: EtcdArgs {
                etcd_endpoints: options.etcd_endpoints,
                etcd_ca: options.etcd_ca,
                etcd_cert: options.etcd_cert,
                etcd_key: options.etcd_key,
                etcd_prefix: options.etcd_prefix,
            },
        }
        .load()?;
        if let StoreConfig::Etcd(etcd) = &mut store {
            etcd.compact_every = time("etcd-compact-ms", compact, etcd.compact_every)?;
        }
        Ok(Self {
            data_dir,
            listen,
            enrol,
            http,
            advertise: options.advertise,
            store,
            sessions,
            ca,
            leader,
            served_mark: time("served-mark-ms", options.served_mark_ms, Duration::from_secs(3))?,
            shutdown: time("shutdown-ms", options.shutdown_ms, Duration::from_secs(5))?,
        })
    }
}

/// A text, or a list of texts put together with commas.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a URL, or a list of URLs")]
    enum Text {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match Text::deserialize(deserializer)? {
        Text::One(one) => one,
        Text::Many(many) => many.join(","),
    }))
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
