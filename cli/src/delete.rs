//! `wharf delete`: asks for the deletions, then waits until the objects are gone.
//!
//! Invariant: a selected object is deleted by its uid, never its successor of the same name.

use proto::wire::{self, delete_request};

use crate::{
    args::{Cascade, DeleteArgs},
    client::not_found,
    error::{Error, Refusals},
    select::{self, Chosen},
    session::Session,
    target::Reference,
    wait::{End, Goal, Wait, Waiting},
};

pub async fn run(args: &DeleteArgs, session: &mut Session<'_>) -> Result<(), Error> {
    // A uid is known where an object was found by a selector: then it is no error when it is gone meanwhile.
    let victims: Vec<(Reference, Option<String>)> =
        match select::choose(&args.targets, &args.filename, &args.which, session).await? {
            Chosen::Named(named) => named.into_iter().map(|target| (target, None)).collect(),
            Chosen::Found(found) => found.into_iter().map(|o| (o.reference(), Some(o.uid))).collect(),
        };
    let mut refusals = Refusals::default();
    let mut going = Vec::new();
    for (target, uid) in victims {
        let result = ask(args, &target, uid, session).await;
        let Some(Some(uid)) = refusals.keep(result)? else {
            continue;
        };
        let kind = target.kind.singular();
        session.out(&format!("{kind} {:?} deleted{}\n", target.name, args.dry_run.suffix()))?;
        going.push(Waiting::new(target, Some(uid)));
    }
    if args.wait && !args.dry_run.on {
        wait(args, going, &mut refusals, session).await?;
    }
    refusals.finish()
}

/// The uid of what is now being deleted; `None` when it is gone already and that is no error.
async fn ask(
    args: &DeleteArgs,
    target: &Reference,
    uid: Option<String>,
    session: &mut Session<'_>,
) -> Result<Option<String>, Error> {
    let selected = uid.is_some();
    let request = wire::DeleteRequest {
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        uid: uid.unwrap_or_default(),
        cascade: match args.cascade {
            Cascade::Background => delete_request::Cascade::Background,
            Cascade::Orphan => delete_request::Cascade::Orphan,
        }
        .into(),
        grace_seconds: args.grace_period,
        force: args.force,
        dry_run: args.dry_run.on,
        ..wire::DeleteRequest::default()
    };
    match session.client.delete(target.kind, request).await? {
        Some(object) => {
            for warning in &object.warnings {
                session.warn(&format!("{target}: {warning}"));
            }
            Ok(Some(object.uid))
        }
        None if selected || args.ignore_not_found => Ok(None),
        None => Err(not_found(target.kind, &target.name)),
    }
}

async fn wait(
    args: &DeleteArgs,
    mut going: Vec<Waiting>,
    refusals: &mut Refusals,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let wait = Wait {
        goal: &Goal::Gone,
        timeout: (!args.timeout.is_zero()).then_some(args.timeout),
        known: true,
        announce: false,
    };
    let end: fn(String) -> Error = match wait.run(&mut going, refusals, session).await? {
        End::Done => return Ok(()),
        End::TimedOut => Error::TimedOut,
        End::Interrupted => Error::Interrupted,
    };
    let Some(next) = going.first() else { return Ok(()) };
    let more = match going.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    let (kind, name) = (next.target.kind.singular(), &next.target.name);
    refusals.push(end(format!(
        "no longer waiting for {kind} {name:?}{more} to go; the deletion goes on: see `wharf get {kind} {name}`"
    )));
    Ok(())
}
