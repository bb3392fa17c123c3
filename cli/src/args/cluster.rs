//! The arguments of what is about the cluster as a whole: status, settings, freeze, audit.
//!
//! Invariant: as of [`super`].

use std::time::Duration;

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
