//! The arguments of cordon, uncordon and hold.
//!
//! Invariant: as of [`super`].

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{DryRun, duration};
use crate::output::Format;

/// Nodes by their names, or all that a selector finds.
#[derive(Clone, Debug, Args)]
pub struct NodesArgs {
    /// Names of nodes
    #[arg(value_name = "NODE", required_unless_present = "selector")]
    pub nodes: Vec<String>,
    /// All nodes with these labels, e.g. `rack=b7`
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "nodes")]
    pub selector: Option<String>,
}

/// Let no new pods come to nodes; what runs there goes on
///
/// The cordon is yours alone: others may hold the node too, and it takes pods again once all have let go. To cordon once
/// more with another reason or end replaces yours.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf cordon n1 --reason 'RAM swap'\n  wharf cordon -l rack=b7 --reason 'switch update' --expires 2h"
)]
pub struct CordonArgs {
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// Why, for others; shown with each pod that waits for the node
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// It ends by itself after so long, e.g. 2h; never when left out
    #[arg(long, value_name = "DURATION", value_parser = life)]
    pub expires: Option<Duration>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Take your cordon from nodes
///
/// Says who holds the node still, if anyone does: a node takes pods when nobody does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf uncordon n1\n  wharf uncordon n1 n2 --all-owners")]
pub struct UncordonArgs {
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// Everyone's cordons; a maintenance's, a drain's and automation's holds stay
    #[arg(long)]
    pub all_owners: bool,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Hold nodes on behalf of programs, and see and release whatever holds them
///
/// A hold is why a node takes no new pods: a person's cordon, a drain, a maintenance, or a program's. Each is its
/// owner's own.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  wharf hold add n1 --reason 'disk errors'\n  wharf hold list")]
pub enum HoldCommand {
    Add(HoldAddArgs),
    Release(HoldReleaseArgs),
    List(HoldListArgs),
}

/// Hold nodes, beside and apart from your cordon
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf hold add n1 --reason 'disk errors'\n  wharf hold add n1 n2 --reason 'kernel rollout' --expires 30m"
)]
pub struct HoldAddArgs {
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// Why, for others
    #[arg(long, value_name = "REASON", required = true)]
    pub reason: String,
    /// It ends by itself after so long, e.g. 30m; never when left out
    #[arg(long, value_name = "DURATION", value_parser = life)]
    pub expires: Option<Duration>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Release one hold of a node
///
/// A maintenance's and a drain's hold goes with what made it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf hold release n1\n  wharf hold release n2 automation/user/robot --any-owner")]
pub struct HoldReleaseArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    pub node: String,
    /// As `wharf hold list` shows it; what you added yourself when left out
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Also another owner's
    #[arg(long)]
    pub any_owner: bool,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// List the holds of nodes
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf hold list\n  wharf hold list n1 n2 -o yaml")]
pub struct HoldListArgs {
    /// Names of nodes; all when left out
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Only nodes with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "nodes")]
    pub selector: Option<String>,
    /// Output format; a table when left out; `name`: a node and an id a line, as release takes them
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<Format>,
}

/// How long a hold lives.
fn life(text: &str) -> Result<Duration, String> {
    let life = duration(text)?;
    if life.is_zero() {
        return Err("expected more than 0s; leave it out for a hold that does not end by itself".to_owned());
    }
    Ok(life)
}
