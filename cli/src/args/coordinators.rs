//! The arguments of `wharf cluster` that are about the coordinators and the members of etcd; those about the cluster's
//! state are in `cluster`.
//!
//! Invariant: as of [`super`].

use clap::{Args, Subcommand};

use super::{AcceptRestoreArgs, BackupArgs, DataFormat, DryRun, OrphanCommand, RemoveCoordinatorArgs};
use crate::output::Format;

/// See and change the coordinators, the etcd cluster that they share, and the state in it
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  wharf cluster status\n  wharf cluster transfer --to c2 --reason 'kernel update of c1'"
)]
pub enum ClusterCommand {
    Status(ClusterStatusArgs),
    Health(ClusterHealthArgs),
    Members(MembersArgs),
    #[command(subcommand)]
    Member(MemberCommand),
    Defrag(DefragArgs),
    Transfer(TransferArgs),
    RemoveCoordinator(RemoveCoordinatorArgs),
    Backup(BackupArgs),
    AcceptRestore(AcceptRestoreArgs),
    #[command(subcommand)]
    Orphan(OrphanCommand),
}

/// Show the coordinators and the members of etcd, and what of them needs you
///
/// Exit status: 0 when all is well, 1 when a coordinator or member is missing or anything else is a problem, 4 when no
/// coordinator answers or none leads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf cluster status\n  wharf cluster status -o json")]
pub struct ClusterStatusArgs {
    /// Everything as one object; tables when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<DataFormat>,
}

/// Say in a line each whether the cluster, its members and its coordinators are healthy
///
/// The cluster is degraded while something is lost and everything goes on, and unhealthy when nothing can be changed.
/// Exit status: 0 when it is healthy, else 1; 4 when no coordinator answers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf cluster health\n  wharf cluster health --request-timeout 5s")]
pub struct ClusterHealthArgs {}

/// List the members of etcd
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf cluster members\n  wharf cluster members -o wide")]
pub struct MembersArgs {
    /// Output format; a line a member when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<Format>,
}

/// List, add, change and remove members of etcd, while it runs
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  wharf cluster member list\n  wharf cluster member add etcd4 --peer-url https://10.0.0.4:2380"
)]
pub enum MemberCommand {
    #[command(after_help = "Examples:\n  wharf cluster member list\n  wharf cluster member list -o json")]
    List(MembersArgs),
    Add(MemberAddArgs),
    Update(MemberUpdateArgs),
    Remove(MemberRemoveArgs),
}

/// Take a new member in, and print its environment file
///
/// Where etcd has learners (3.4 and later), the newcomer is one until it has caught up, so that it costs nothing while it
/// starts. Refused while another member does not answer: remove that one first. Certificates for its host come from
/// `wharf-coordinator etcd-config`. Run again before the newcomer has started, it prints the file once more.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf cluster member add etcd4 --peer-url https://10.0.0.4:2380\n  wharf cluster member add etcd4 --peer-url https://10.0.0.4:2380 --dry-run"
)]
pub struct MemberAddArgs {
    /// Name of the newcomer
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where the other members reach it; may be repeated
    #[arg(long = "peer-url", value_name = "URL", required = true)]
    pub peer_urls: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Tell the others where they reach a member from now on
///
/// Its certificates and its own file must name the new address, too: docs/cluster.md has the steps. Refused where those
/// that answer meanwhile were no majority.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf cluster member update etcd2 --peer-url https://10.0.1.2:2380\n  wharf cluster member update ce2a822cea30bfc2 --peer-url https://10.0.1.2:2380 --dry-run"
)]
pub struct MemberUpdateArgs {
    /// Its name or id, as `wharf cluster members` shows them
    #[arg(value_name = "MEMBER")]
    pub member: String,
    /// Where the other members reach it; may be repeated
    #[arg(long = "peer-url", value_name = "URL", required = true)]
    pub peer_urls: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Take a member out for good
///
/// Its data are of no use any more: stop etcd on its host and empty its data directory. Refused where those that are left
/// and answer were no majority.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf cluster member remove etcd3 --dry-run\n  wharf cluster member remove etcd3 --yes etcd3"
)]
pub struct MemberRemoveArgs {
    /// Its name or id, as `wharf cluster members` shows them
    #[arg(value_name = "MEMBER")]
    pub member: String,
    /// The same again, instead of a question: for scripts
    #[arg(long, value_name = "MEMBER")]
    pub yes: Option<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Give room back to the disks of the members, one after another, the leader last
///
/// A member answers nothing while it is at it, some seconds for each GiB. Refused where those that answer meanwhile were
/// no majority, but for one or two members, where that cannot be helped.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf cluster defrag\n  wharf cluster defrag etcd2 etcd3 --dry-run")]
pub struct DefragArgs {
    /// Names or ids of members; all when left out
    #[arg(value_name = "MEMBER")]
    pub members: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Let another coordinator lead, in good order
///
/// Calls wait for it; none is refused. Returns once the other one leads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf cluster transfer\n  wharf cluster transfer --to c2 --dry-run")]
pub struct TransferArgs {
    /// Name of the coordinator; the one that is least behind when left out
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}
