//! The arguments of drain.
//!
//! Invariant: as of [`super`].

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{DataFormat, DryRun, duration};

/// Empty a node so that nobody notices
///
/// What runs there is started on other nodes first, and stopped once that serves. The node takes no new pods from then
/// on, until `wharf drain NODE --cancel`. The coordinator does the work: it goes on when this command ends or the
/// coordinator restarts. Called again, the command watches the drain that goes on.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf drain n1 --dry-run\n  wharf drain n1 --reason 'RAM swap' --deadline 30m --on-deadline abort"
)]
pub struct DrainArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Why, for others; shown with each pod that waits for the node, and kept in the audit record
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// How long it may take, e.g. 30m [default: the setting drain-deadline]
    #[arg(long, value_name = "DURATION", value_parser = span, conflicts_with = "cancel")]
    pub deadline: Option<Duration>,
    /// What happens when it is not over by then [default: block]
    #[arg(long, value_name = "WHAT", value_enum, conflicts_with = "cancel")]
    pub on_deadline: Option<OnDeadline>,
    /// Pods whose data on this host would be left behind [default: block]
    #[arg(long, value_name = "WHAT", value_enum, conflicts_with = "cancel")]
    pub local_data: Option<LocalData>,
    /// Pods of DaemonSets [default: keep]
    #[arg(long, value_name = "WHAT", value_enum, conflicts_with = "cancel")]
    pub daemons: Option<Daemons>,
    /// Stop pods that no controller replaces, too
    #[arg(long, conflicts_with = "cancel")]
    pub delete_unmanaged: bool,
    /// Stop a pod before its replacement starts where both cannot run at once
    #[arg(long, conflicts_with = "cancel")]
    pub allow_downtime: bool,
    /// Begin it and return
    #[arg(long, conflicts_with = "cancel")]
    pub no_wait: bool,
    /// End the drain, or give a drained node back: it takes pods again. What has moved stays where it is
    #[arg(long)]
    pub cancel: bool,
    /// Output format of the drain as it stands last; progress for people when left out
    #[arg(short, long, value_name = "FORMAT", value_enum, conflicts_with = "cancel")]
    pub output: Option<DataFormat>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnDeadline {
    /// It goes on, and says so
    Block,
    /// It ends and the node takes pods again; what has moved stays where it is
    Abort,
    /// It goes on over budgets; grace periods and local data stay respected
    Force,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LocalData {
    /// They stay, and the drain says so
    Block,
    /// They go; the data are not taken along
    Discard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Daemons {
    /// They run on
    Keep,
    /// They are stopped when all others have left
    Stop,
}

impl OnDeadline {
    pub fn word(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Abort => "abort",
            Self::Force => "force",
        }
    }
}

impl LocalData {
    pub fn word(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Discard => "discard",
        }
    }
}

impl Daemons {
    pub fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Stop => "stop",
        }
    }
}

/// How long a drain may take.
fn span(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span.is_zero() {
        return Err("expected more than 0s; leave it out for the setting drain-deadline".to_owned());
    }
    Ok(span)
}
