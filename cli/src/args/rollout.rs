//! The arguments of rolling updates.
//!
//! Invariant: as of [`super`].

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::{DataFormat, DryRun, duration};

/// Replace the pods of a controller by those of another one, step by step
///
/// Either by a file with the new controller, or by another image: then the controller keeps its name. The coordinator does
/// the work: it goes on when this command ends or the coordinator restarts. Called again, the command watches the update
/// that goes on, and limits that are given become that one's.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf rolling-update web -f web-v2.yaml --max-surge 2\n  wharf rolling-update web --image=web:2.0 --on-failure rollback"
)]
pub struct RollingUpdateArgs {
    /// The controller that is replaced
    #[arg(value_name = "OLD")]
    pub old: String,
    /// With --image: name of the new controller, which it keeps
    #[arg(value_name = "NEW", conflicts_with = "filename", requires = "image")]
    pub new: Option<String>,
    /// File with the new controller, `-` for stdin
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "image", required_unless_present_any = ["image", "rollback"])]
    pub filename: Option<PathBuf>,
    /// Image of the new pods
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// With --image: the container, where the pods have several
    #[arg(long, value_name = "NAME", requires = "image")]
    pub container: Option<String>,
    /// With --image: when it is pulled; needed to roll the same image once more
    #[arg(long, value_name = "POLICY", value_enum, requires = "image")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Take back the update that is in progress
    #[arg(long)]
    pub rollback: bool,
    #[command(flatten)]
    pub limits: UpdateLimitArgs,
    /// Take the count of replicas of the file, and not that of the old controller
    #[arg(long, requires = "filename")]
    pub use_file_replicas: bool,
    /// With --image: key of the label that tells old and new pods apart
    #[arg(long, value_name = "KEY", default_value = "deployment")]
    pub deployment_label_key: String,
    /// At least so often this command looks how it goes
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "3s")]
    pub poll_interval: Duration,
    /// Begin it and return
    #[arg(long)]
    pub no_wait: bool,
    /// Show both controllers as they would be, change nothing
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// How an update goes.
#[derive(Clone, Debug, Default, Args)]
pub struct UpdateLimitArgs {
    /// Pods above what is wanted: a number, or a share of it such as 25% [default: 1]
    #[arg(long, value_name = "N")]
    pub max_surge: Option<String>,
    /// Pods that may be missed, likewise [default: 0]
    #[arg(long, value_name = "N")]
    pub max_unavailable: Option<String>,
    /// Between two steps [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub update_period: Option<Duration>,
    /// A step that gets no further for so long has failed [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// What happens when the new pods do not come to serve [default: pause]
    #[arg(long, value_name = "WHAT", value_enum)]
    pub on_failure: Option<OnFailure>,
    /// Pause once so many new pods are Ready: a number or a share
    #[arg(long, value_name = "N")]
    pub pause_after: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// It stays as it is, and says why
    Pause,
    /// The old pods come back
    Rollback,
}

impl OnFailure {
    pub fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Rollback => "rollback",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImagePullPolicy {
    #[value(name = "Always")]
    Always,
    #[value(name = "IfNotPresent")]
    IfNotPresent,
    #[value(name = "Never")]
    Never,
}

impl ImagePullPolicy {
    pub fn word(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Rolling updates of a controller: how one goes, what there was, and back to it
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  wharf rollout status rc web\n  wharf rollout undo rc web --to-revision 1")]
pub enum RolloutCommand {
    Status(RolloutStatusArgs),
    History(RolloutHistoryArgs),
    Undo(RolloutUndoArgs),
    Pause(RolloutPauseArgs),
    Resume(RolloutResumeArgs),
}

/// How the controller's update goes, until it is over
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf rollout status rc web\n  wharf rollout status rc/web --watch=false -o json")]
pub struct RolloutStatusArgs {
    /// rc NAME, or rc/NAME
    #[arg(value_name = "KIND", required = true, num_args = 1..=2)]
    pub target: Vec<String>,
    /// Wait for its end
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub watch: bool,
    /// Output format of the update as it stands last; a line for people when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<DataFormat>,
}

/// Revisions of a controller, the present one last
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf rollout history rc web\n  wharf rollout history rc web --revision 2 -o yaml"
)]
pub struct RolloutHistoryArgs {
    /// rc NAME, or rc/NAME
    #[arg(value_name = "KIND", required = true, num_args = 1..=2)]
    pub target: Vec<String>,
    /// Show the controller as it was under this one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub revision: Option<u32>,
    /// Output format; a table when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<DataFormat>,
}

/// Update a controller to an earlier revision
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf rollout undo rc web\n  wharf rollout undo rc web --to-revision 1 --max-surge 50%"
)]
pub struct RolloutUndoArgs {
    /// rc NAME, or rc/NAME
    #[arg(value_name = "KIND", required = true, num_args = 1..=2)]
    pub target: Vec<String>,
    /// Which one, of `wharf rollout history` [default: the one before]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub to_revision: Option<u32>,
    #[command(flatten)]
    pub limits: UpdateLimitArgs,
    /// Begin it and return
    #[arg(long)]
    pub no_wait: bool,
    /// Show both controllers as they would be, change nothing
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Hold a controller's update where it is
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf rollout pause rc web\n  wharf rollout pause rc/web --reason 'the new ones are slow'"
)]
pub struct RolloutPauseArgs {
    /// rc NAME, or rc/NAME
    #[arg(value_name = "KIND", required = true, num_args = 1..=2)]
    pub target: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Let a controller's update go on
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf rollout resume rc web\n  wharf rollout resume rc/web --dry-run")]
pub struct RolloutResumeArgs {
    /// rc NAME, or rc/NAME
    #[arg(value_name = "KIND", required = true, num_args = 1..=2)]
    pub target: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Set fields of an object
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  wharf set image rc web c=web:2.0\n  wharf set image rc/web c=web:2.0 --dry-run")]
pub enum SetCommand {
    Image(SetImageArgs),
}

/// Set the image of a controller's containers; its running pods stay as they are
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf set image rc web c=web:2.0\n  wharf set image rc/web c=web:2.0 --dry-run")]
pub struct SetImageArgs {
    /// rc NAME or rc/NAME, then CONTAINER=IMAGE...
    #[arg(value_name = "KIND", required = true, num_args = 2..)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}
