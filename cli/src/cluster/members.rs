//! The members of etcd: list, add, update, remove, defrag. Called by [`super::run`].
//!
//! Invariant: whether a change may be, the coordinator decides; a removal has the name said twice.

use proto::wire;

use super::show;
use crate::{
    args::{DefragArgs, MemberAddArgs, MemberRemoveArgs, MemberUpdateArgs, MembersArgs},
    confirm::{Twice, twice},
    error::{Error, Refusals},
    output::{self, Format, bytes, clean},
    session::Session,
};

pub async fn list(args: &MembersArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let store = session.client.replicas_status().await?.store.unwrap_or_default();
    let members = &store.members;
    let text = match args.output {
        Some(Format::Json) => output::json(&show::list(members)),
        Some(Format::Yaml) => output::yaml(&show::list(members))?,
        Some(Format::Name) => members.iter().map(|m| format!("member/{}\n", show::label(m))).collect(),
        _ if members.is_empty() => {
            session.note(&format!(
                "No members found: the store is {}",
                show::store_name(&store.kind)
            ));
            return Ok(());
        }
        Some(Format::Wide) => show::members_wide(members),
        None => show::members(members),
    };
    session.out(&text)
}

fn warn(warnings: &[String], session: &mut Session<'_>) {
    for warning in warnings {
        session.warn(warning);
    }
}

pub async fn add(args: &MemberAddArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let request = wire::AddMemberRequest {
        name: args.name.clone(),
        peer_urls: args.peer_urls.clone(),
        dry_run: args.dry_run.on,
    };
    let reply = session.client.add_member(&request).await?;
    let member = reply.member.unwrap_or_default();
    let said = match (reply.changed, args.dry_run.on) {
        (true, true) => "added (dry run)".to_owned(),
        (true, false) => format!("added, id {}", clean(&member.id)),
        (false, _) => format!("added before, id {}", clean(&member.id)),
    };
    // A file whose first line is a comment, so that it can be sent to where it belongs as it is.
    let environment: String = reply.environment.lines().map(|l| format!("{}\n", clean(l))).collect();
    session.out(&format!("# member/{} {said}\n{environment}", args.name))?;
    warn(&reply.warnings, session);
    let vote = if member.learner {
        "; it gets its vote once it has caught up"
    } else {
        ""
    };
    session.note(&format!(
        "this is its environment file; its certificates come from wharf-coordinator etcd-config: put both on its host and \
         start etcd there{vote}"
    ));
    Ok(())
}

pub async fn update(args: &MemberUpdateArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let request = wire::UpdateMemberRequest {
        member: args.member.clone(),
        peer_urls: args.peer_urls.clone(),
        dry_run: args.dry_run.on,
    };
    let reply = session.client.update_member(&request).await?;
    let label = show::label(&reply.member.unwrap_or_default());
    let (words, dry) = if reply.changed {
        ("updated", args.dry_run.suffix())
    } else {
        ("unchanged", "")
    };
    session.out(&format!("member/{label} {words}{dry}\n"))?;
    warn(&reply.warnings, session);
    Ok(())
}

pub async fn remove(args: &MemberRemoveArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let name = &args.member;
    if !args.dry_run.on {
        let ask = Twice {
            kind: "member",
            name,
            yes: args.yes.as_deref(),
            question: format!("What {name} stores is of no use once it is removed."),
            condition: format!("{name} is to go for good"),
            done: "removed",
        };
        twice(&ask, session)?;
    }
    let request = wire::RemoveMemberRequest {
        member: name.clone(),
        dry_run: args.dry_run.on,
    };
    let reply = session.client.remove_member(&request).await?;
    let label = show::label(&reply.member.unwrap_or_default());
    session.out(&format!("member/{label} removed{}\n", args.dry_run.suffix()))?;
    warn(&reply.warnings, session);
    Ok(())
}

pub async fn defrag(args: &DefragArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let request = wire::DefragRequest {
        members: args.members.clone(),
        dry_run: args.dry_run.on,
    };
    let reply = session.client.defrag(&request).await?;
    let mut refusals = Refusals::default();
    for done in &reply.members {
        let name = clean(&done.name);
        if !done.problem.is_empty() {
            refusals.push(Error::Refused(format!("member {name:?}: {}", clean(&done.problem))));
        } else if args.dry_run.on {
            session.out(&format!("member/{name} defragmented{}\n", args.dry_run.suffix()))?;
        } else {
            session.out(&format!(
                "member/{name} defragmented: {}, was {}\n",
                bytes(done.after),
                bytes(done.before)
            ))?;
        }
    }
    refusals.finish()
}
