//! `wharf cluster`: the coordinators, the members of etcd, and the cluster's state as a whole.
//!
//! | file | what it is |
//! |---|---|
//! | this | status, health, transfer |
//! | `backup`, `restore`, `orphan` | the state in a file, and what to do with one that was restored |
//! | `coordinators` | removal |
//! | `members` | the members of etcd, and changes of them |
//! | `show` | what is seen, as text and as objects: pure |
//!
//! Invariant: exit status 0 of status and health only if nothing is a problem; what is a problem the coordinator says.

mod backup;
mod coordinators;
mod members;
mod orphan;
mod restore;
mod show;

use proto::wire;

use crate::{
    args::{ClusterCommand, ClusterStatusArgs, DataFormat, MemberCommand, TransferArgs},
    error::Error,
    output::{self, clean},
    session::Session,
};

pub async fn run(command: &ClusterCommand, session: &mut Session<'_>) -> Result<(), Error> {
    match command {
        ClusterCommand::Status(args) => status(args, session).await,
        ClusterCommand::Health(_) => health(session).await,
        ClusterCommand::Members(args) | ClusterCommand::Member(MemberCommand::List(args)) => {
            members::list(args, session).await
        }
        ClusterCommand::Member(MemberCommand::Add(args)) => members::add(args, session).await,
        ClusterCommand::Member(MemberCommand::Update(args)) => members::update(args, session).await,
        ClusterCommand::Member(MemberCommand::Remove(args)) => members::remove(args, session).await,
        ClusterCommand::Defrag(args) => members::defrag(args, session).await,
        ClusterCommand::Transfer(args) => transfer(args, session).await,
        ClusterCommand::RemoveCoordinator(args) => coordinators::remove(args, session).await,
        ClusterCommand::Backup(args) => backup::run(args, session).await,
        ClusterCommand::AcceptRestore(args) => restore::run(args, session).await,
        ClusterCommand::Orphan(command) => orphan::run(command, session).await,
    }
}

async fn status(args: &ClusterStatusArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let reply = session.client.replicas_status().await?;
    let now = session.now();
    let text = match args.output {
        Some(DataFormat::Json) => output::json(&show::object(&reply)),
        Some(DataFormat::Yaml) => output::yaml(&show::object(&reply))?,
        None => show::status(&reply, now),
    };
    session.out(&text)?;
    if reply.leader.is_empty() {
        return Err(Error::Unreachable(format!(
            "no coordinator leads: {} answers, a standby, from its own view",
            clean(&reply.answered_by)
        )));
    }
    if reply.problems.is_empty() {
        Ok(())
    } else {
        Err(Error::NotWell)
    }
}

async fn health(session: &mut Session<'_>) -> Result<(), Error> {
    let reply = session.client.replicas_status().await?;
    let (text, healthy) = show::health(&reply);
    session.out(&text)?;
    if healthy { Ok(()) } else { Err(Error::NotWell) }
}

async fn transfer(args: &TransferArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let request = wire::TransferRequest {
        to: args.to.clone().unwrap_or_default(),
        dry_run: args.dry_run.on,
    };
    let reply = session.client.transfer(&request).await?;
    let name = clean(&reply.name);
    session.out(&if args.dry_run.on {
        format!("coordinator {name} leads (dry run)\n")
    } else {
        format!("coordinator {name} leads (term {})\n", reply.term)
    })
}
