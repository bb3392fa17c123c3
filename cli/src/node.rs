//! `wharf node`: what only an operator can know of a host.

use clap::{Args, Subcommand};
use proto::wire;

use crate::{
    args::DryRun,
    confirm::{Twice, twice},
    error::{Error, Refusals},
    session::Session,
};

/// Say what only you can know of a host: which copy is the right one, which is off, and which will not come back
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  wharf node readmit n1\n  wharf node confirm-off n7 --yes n7")]
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
    /// Confirm that the host of a lost node is off, so that nothing runs there
    ///
    /// Its pods count as ended: they are replaced at once, singletons too, whatever the brake on replacements says.
    /// Pods that write to a path of the host stay, for their data are there. If the host runs after all, what was
    /// replaced runs twice: look at the machine, or cut its power, first. Refused while the node is heard. When its
    /// agent is back, what it still runs of before is stopped, and then the node takes pods again.
    #[command(after_help = "Examples:\n  wharf node confirm-off n7 --dry-run\n  wharf node confirm-off n7 --yes n7")]
    ConfirmOff(ConfirmOffArgs),
}

#[derive(Debug, Args)]
pub struct ConfirmOffArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Its name again, instead of a question: for fencing scripts
    #[arg(long, value_name = "NODE")]
    pub yes: Option<String>,
    #[command(flatten)]
    pub dry_run: DryRun,
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
    let (nodes, dry_run, done, already) = match command {
        NodeCommand::Readmit(args) => (&args.nodes[..], &args.dry_run, "readmitted", "is not in quarantine"),
        NodeCommand::Forget(args) => (&args.nodes[..], &args.dry_run, "forgotten", "is forgotten already"),
        NodeCommand::ConfirmOff(args) => {
            certain(args, session)?;
            let one = std::slice::from_ref(&args.node);
            (one, &args.dry_run, "confirmed off", "is confirmed off already")
        }
    };
    let mut refusals = Refusals::default();
    for name in nodes {
        let request = wire::NodeRequest {
            name: name.clone(),
            dry_run: dry_run.on,
            ..wire::NodeRequest::default()
        };
        let result = match command {
            NodeCommand::Readmit(_) => session.client.readmit(request).await,
            NodeCommand::Forget(_) => session.client.forget(request).await,
            NodeCommand::ConfirmOff(_) => session.client.confirm_off(request).await,
        };
        if let Some(reply) = refusals.keep(result)? {
            let words = if reply.changed { done } else { already };
            let dry = if reply.changed { dry_run.suffix() } else { "" };
            session.out(&format!("node/{name} {words}{dry}\n"))?;
        }
    }
    refusals.finish()
}

/// Has the name said twice; a dry run confirms nothing.
fn certain(args: &ConfirmOffArgs, session: &mut Session<'_>) -> Result<(), Error> {
    if args.dry_run.on {
        return Ok(());
    }
    let node = &args.node;
    let ask = Twice {
        kind: "node",
        name: node,
        yes: args.yes.as_deref(),
        question: format!("What runs on {node} will run twice unless its host is off."),
        condition: format!("the host of {node} is off"),
        done: "confirmed",
    };
    twice(&ask, session)
}
