//! `wharf node`: what only an operator can know of a host.

use clap::{Args, Subcommand};
use proto::wire;

use crate::{
    args::DryRun,
    error::{Error, Refusals},
    session::Session,
};

/// Say what only you can know of a host: which copy is the right one, and which will not come back
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  wharf node readmit n1\n  wharf node forget n7")]
pub enum NodeCommand {
    /// End the quarantine of nodes whose identity two agents held
    ///
    /// A node is in quarantine (condition Ready: False, reason Quarantined) when its data directory was copied to
    /// a second agent, or put back from a backup. What runs goes on, nothing new is started. Stop the copy and
    /// remove its data directory first: the next agent that connects is the node's from then on.
    #[command(after_help = "Examples:\n  wharf node readmit n1\n  wharf node readmit n1 n2 --dry-run")]
    Readmit(NodeArgs),
    /// Forget deleted nodes whose hosts will not come back
    ///
    /// The records of their pods wait for the end of each to be seen, which a dead host cannot show. Should an agent
    /// come back all the same, what it runs is stopped.
    #[command(after_help = "Examples:\n  wharf node forget n7\n  wharf node forget n7 n8 --dry-run")]
    Forget(NodeArgs),
}

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Names of nodes
    #[arg(required = true, value_name = "NODE")]
    pub nodes: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
}

pub async fn run(command: &NodeCommand, session: &mut Session<'_>) -> Result<(), Error> {
    let (args, done, already) = match command {
        NodeCommand::Readmit(args) => (args, "readmitted", "is not in quarantine"),
        NodeCommand::Forget(args) => (args, "forgotten", "is forgotten already"),
    };
    let mut refusals = Refusals::default();
    for name in &args.nodes {
        let request = wire::NodeRequest {
            name: name.clone(),
            dry_run: args.dry_run.on,
            ..wire::NodeRequest::default()
        };
        let result = match command {
            NodeCommand::Readmit(_) => session.client.readmit(request).await,
            NodeCommand::Forget(_) => session.client.forget(request).await,
        };
        if let Some(reply) = refusals.keep(result)? {
            let words = if reply.changed { done } else { already };
            let dry = if reply.changed { args.dry_run.suffix() } else { "" };
            session.out(&format!("node/{name} {words}{dry}\n"))?;
        }
    }
    refusals.finish()
}
