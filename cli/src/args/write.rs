//! The arguments of the commands that change objects. Tokens are in [`super::token`].
//!
//! Invariant: as of [`super`]; every command here takes `--dry-run`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum, ValueHint};

use super::{DryRun, KindOrName, Which, duration};
use crate::output::ObjectFormat;

/// Make objects be as files say: create them, or change what the files change
///
/// Three-way: a field that a file sets is set; one that it set when it was applied before, and sets no more, is
/// removed; what others set stays, e.g. the count of a controller whose file has no `replicas`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf apply -f web.yaml\n  wharf apply -f web.yaml --dry-run -o yaml")]
pub struct ApplyArgs {
    /// YAML or JSON file, `-` for stdin, or a directory of them; may be repeated
    #[arg(short, long, required = true, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub filename: Vec<PathBuf>,
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Show the objects as they then are
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<ObjectFormat>,
}

/// Create the objects of a file, or a namespace
///
/// Every document is checked before anything is sent: if one is bad, nothing is created.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf create -f new.yaml --dry-run\n  wharf create namespace prod")]
pub struct CreateArgs {
    /// YAML or JSON file, `-` for stdin, or a directory of them; several documents and lists are fine; may be repeated
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub filename: Vec<PathBuf>,
    /// `namespace NAME`
    #[arg(value_name = "KIND", conflicts_with = "filename")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Show the created objects
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<ObjectFormat>,
}

/// Put whole objects in the place of those of the same names
///
/// What the file leaves out is removed. A file with `metadata.resourceVersion` is refused when the object has changed
/// since.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf replace -f n1.yaml\n  wharf replace -f web.yaml --dry-run")]
pub struct ReplaceArgs {
    /// YAML or JSON file, `-` for stdin, or a directory of them; may be repeated
    #[arg(short, long, required = true, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub filename: Vec<PathBuf>,
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Show the objects as they then are
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<ObjectFormat>,
}

/// Change some fields of objects by a JSON merge patch (RFC 7386)
///
/// A field that the patch names is set, one that is null is removed, the rest stays. A list is replaced as a whole; a
/// patch that would so drop containers, variables or volumes is refused: use `wharf apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf patch node n1 -p '{\"spec\":{\"unschedulable\":true}}'\n  wharf patch rc web -p 'spec: {replicas: 3}'"
)]
pub struct PatchArgs {
    /// KIND NAME..., or KIND/NAME...
    #[arg(required = true, value_name = "KIND", value_parser = KindOrName, hide_possible_values = true)]
    pub targets: Vec<String>,
    /// The patch, JSON or YAML
    #[arg(short, long, value_name = "PATCH", required_unless_present = "patch_file")]
    pub patch: Option<String>,
    /// File with the patch, `-` for stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "patch")]
    pub patch_file: Option<PathBuf>,
    /// Only `merge` is known
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value = "merge")]
    pub patch_type: PatchType,
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Show the objects as they then are
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<ObjectFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PatchType {
    Merge,
    #[value(hide = true)]
    Strategic,
    #[value(hide = true)]
    Json,
}

/// Delete objects, and wait until they are gone
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf delete rc web\n  wharf delete pods -l app=web --grace-period 5")]
pub struct DeleteArgs {
    /// KIND NAME..., KIND/NAME..., or KIND with -l or --all
    #[arg(value_name = "KIND", required_unless_present = "filename", value_parser = KindOrName, hide_possible_values = true)]
    pub targets: Vec<String>,
    /// Delete the objects of this file, `-` for stdin, or of a directory; may be repeated
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::AnyPath, conflicts_with_all = ["targets", "selector", "all"])]
    pub filename: Vec<PathBuf>,
    #[command(flatten)]
    pub which: Which,
    /// A name that is not there is no failure
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Seconds from the stop signal to the kill; the pod's own when left out
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// What becomes of dependents, e.g. a controller's pods
    #[arg(long, value_name = "HOW", value_enum, default_value = "background")]
    pub cascade: Cascade,
    /// A controller that a rolling update replaces, too: the update ends where it is
    #[arg(long)]
    pub force: bool,
    /// Wait until the objects are gone
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = ArgAction::Set
    )]
    pub wait: bool,
    /// How long to wait; 0: for ever
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    pub timeout: Duration,
    #[command(flatten)]
    pub dry_run: DryRun,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cascade {
    /// Dependents are deleted after the object
    Background,
    /// Dependents stay and lose their owner
    Orphan,
}

/// Set how many pods a controller keeps
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf scale rc web --replicas=9\n  wharf scale rc/web --current-replicas=9 --replicas=3"
)]
pub struct ScaleArgs {
    /// rc NAME..., rc/NAME..., or rc with -l or --all
    #[arg(value_name = "KIND", required_unless_present = "filename", value_parser = KindOrName, hide_possible_values = true)]
    pub targets: Vec<String>,
    /// Scale the controllers of this file, `-` for stdin, or of a directory; may be repeated
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::AnyPath, conflicts_with_all = ["targets", "selector", "all"])]
    pub filename: Vec<PathBuf>,
    #[command(flatten)]
    pub which: Which,
    /// The new count
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub replicas: i32,
    /// Only if the count is this now
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub current_replicas: Option<i32>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Set or remove labels
///
/// All keys of one object change together or none does.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf label node n1 zone=north\n  wharf label pods -l app=web tier=front old- --overwrite"
)]
pub struct LabelArgs {
    #[command(flatten)]
    pub marks: MarkArgs,
}

/// Set or remove annotations
///
/// All keys of one object change together or none does.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf annotate node n1 rack=b7 'note=new disk'\n  wharf annotate rc/web owner=ops --overwrite"
)]
pub struct AnnotateArgs {
    #[command(flatten)]
    pub marks: MarkArgs,
}

/// Set or remove taints of nodes
///
/// A node's taint keeps pods away that do not tolerate it: NoSchedule takes no new ones, PreferNoSchedule only where no
/// other node does, NoExecute also sends away those that run there. All taints of one node change together or none does.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf taint node n1 dedicated=db:NoSchedule\n  wharf taint nodes --all dedicated:NoSchedule- flaky-"
)]
pub struct TaintArgs {
    /// node NAME... or node/NAME..., or nodes with -l or --all; then KEY=VALUE:EFFECT to set, KEY:EFFECT- or KEY- to
    /// remove
    #[arg(required = true, value_name = "KIND", value_parser = KindOrName, hide_possible_values = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub which: Which,
    /// Also where the taint has another value
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Show the nodes as they then are
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<ObjectFormat>,
}

/// What label and annotate share.
#[derive(Debug, Args)]
pub struct MarkArgs {
    /// KIND NAME... or KIND/NAME..., or KIND with -l or --all; then KEY=VALUE to set, KEY- to remove
    #[arg(required = true, value_name = "KIND", value_parser = KindOrName, hide_possible_values = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub which: Which,
    /// Also where the key has another value
    #[arg(long)]
    pub overwrite: bool,
    /// Show those that are set
    #[arg(long)]
    pub list: bool,
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Show the objects as they then are
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<ObjectFormat>,
}
