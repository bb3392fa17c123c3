//! The arguments of what is about the cluster as a whole: status, cluster, settings, freeze, audit.
//!
//! Invariant: as of [`super`].

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{DryRun, duration};
use crate::output::Format;

/// Formats for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataFormat {
    Json,
    Yaml,
}

/// Show on one screen what needs you, the worst first, each with its remedy
///
/// Exit status: 0 when all is well, 1 when something is listed, 4 when no coordinator answers or none leads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf status\n  wharf status -o json")]
pub struct StatusArgs {
    /// Everything as one object; a table when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<DataFormat>,
}

/// Accept a state that was restored from a backup, so that agents and planning act on it
///
/// Until then every agent is in quarantine: nothing is started or stopped. Shows first what is on record and what the
/// agents that are heard run. Wait until all that still exist are heard.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf cluster accept-restore --dry-run\n  wharf cluster accept-restore --yes")]
pub struct AcceptRestoreArgs {
    /// Without a question
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Decide about pods that agents run and that a restored state did not know
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  wharf cluster orphan list\n  wharf cluster orphan delete default/web-x2k4p")]
pub enum OrphanCommand {
    List(OrphanListArgs),
    /// Take orphans into the state as pods without controller; their containers run on
    ///
    /// A controller whose selector fits takes them over as its own, and may then have one too many.
    #[command(
        after_help = "Examples:\n  wharf cluster orphan adopt default/web-x2k4p\n  wharf cluster orphan adopt --all --dry-run"
    )]
    Adopt(OrphanArgs),
    /// Have orphans stopped by their agents
    #[command(
        after_help = "Examples:\n  wharf cluster orphan delete default/web-x2k4p\n  wharf cluster orphan delete --all --dry-run"
    )]
    Delete(OrphanArgs),
}

/// Show the orphans
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf cluster orphan list\n  wharf cluster orphan list -o json")]
pub struct OrphanListArgs {
    /// All as one object; a table when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<DataFormat>,
}

#[derive(Debug, Args)]
pub struct OrphanArgs {
    /// UID, or NAMESPACE/NAME
    #[arg(value_name = "POD", conflicts_with = "all")]
    pub pods: Vec<String>,
    /// All there are
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Write all of the cluster's state into one file, while it runs
///
/// The file is checked as it arrives, and is there whole or not at all, readable by its owner only.
/// `wharf-coordinator restore` makes a cluster from it. It holds what pods are given as environment variables: keep it as
/// safe as the coordinators' disks.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf cluster backup fleet.backup\n  wharf cluster backup fleet.backup --with-keys --passphrase-file pass.txt --force"
)]
pub struct BackupArgs {
    /// Where to write it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Put the cluster's secret into it, sealed under a passphrase, so that it can be restored without any coordinator's
    /// data directory
    #[arg(long, requires = "passphrase_file")]
    pub with_keys: bool,
    /// File whose first line is the passphrase, at least 12 characters
    #[arg(long, value_name = "FILE", requires = "with_keys")]
    pub passphrase_file: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long)]
    pub force: bool,
}

/// Remove a coordinator for good: its certificate is valid no more, and its name is free
///
/// Credentials that were made on its host end with it; agents keep theirs. Stop it first if its host still runs, and take
/// its access to the store away. The active one is not removed. docs/coordinators.md says what a removed coordinator
/// can still do.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf cluster remove-coordinator c2 --reason 'its host burnt'\n  wharf cluster remove-coordinator c2 c3 --dry-run"
)]
pub struct RemoveCoordinatorArgs {
    /// Names of coordinators
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Show and change the cluster's settings, while it runs
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  wharf settings show\n  wharf settings set event-keep=24h")]
pub enum SettingsCommand {
    Show(SettingsShowArgs),
    Set(SettingsSetArgs),
    Unset(SettingsUnsetArgs),
}

/// Show what holds, and what would without being set
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf settings show\n  wharf settings show event-keep -o json")]
pub struct SettingsShowArgs {
    /// One setting; all when left out
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Output format; `wide` says what each is for
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<Format>,
}

/// Set one or more, all or none
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf settings set event-keep=24h\n  wharf settings set brake-share=20% brake-period=2m --reason 'rack move'"
)]
pub struct SettingsSetArgs {
    /// E.g. `event-keep=24h`
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = assignment)]
    pub values: Vec<(String, String)>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE, e.g. event-keep=24h".to_owned()),
    }
}

/// Give one or more back to their defaults, all or none
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf settings unset event-keep\n  wharf settings unset brake-share brake-period")]
pub struct SettingsUnsetArgs {
    /// As `wharf settings show` names them
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Hold back every replacement, eviction, drain step and update step
///
/// Restarts on the same node and what you ask for go on. Frozen already: reason and end are replaced.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf freeze --reason 'power work in hall 2' --for 2h\n  wharf freeze --reason 'looking into lost nodes'"
)]
pub struct FreezeArgs {
    /// Why; whoever finds the fleet frozen reads it
    #[arg(long, required = true, value_name = "TEXT")]
    pub reason: String,
    /// It ends by itself after this time; until `wharf unfreeze` when left out
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// End a freeze
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf unfreeze\n  wharf unfreeze --reason 'power is back'")]
pub struct UnfreezeArgs {
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Show who changed what, when and why; the newest stands last
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf audit --since 24h --object node/n1\n  wharf audit --user admin --limit 20 -o wide"
)]
pub struct AuditArgs {
    /// Not older than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// Only changes of this, KIND/NAME or `settings`, `freeze`
    #[arg(long, value_name = "KIND/NAME")]
    pub object: Option<String>,
    /// Only changes by this user, or by `coordinator` or `host`
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// So many at most, the newest of them
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Output format; `wide` has what changed, `json` and `yaml` have it before and after too
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<AuditFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditFormat {
    Wide,
    Json,
    Yaml,
}
