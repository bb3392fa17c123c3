//! `wharf delete`: asks for the deletions, then waits until the objects are gone.
//!
//! Invariant: more than the named objects are deleted only with a selector that says something, or with `--all`;
//! a selected object is deleted by its uid, never its successor of the same name.

use proto::{
    model::{Kind, LabelSelector},
    wire::{self, delete_request},
};
use tokio::time::Instant;

use crate::{
    args::{Cascade, DeleteArgs},
    client::{Query, not_found},
    create,
    error::{Error, Refusals},
    get,
    manifest::{self, Check},
    session::Session,
    target::Targets,
};

/// One object to delete.
struct Victim {
    kind: Kind,
    namespace: String,
    name: String,
    /// Known where it was found by a selector: then it is no error when it is gone meanwhile.
    uid: Option<String>,
}

pub async fn run(args: &DeleteArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let victims = victims(args, session).await?;
    let mut refusals = Refusals::default();
    let mut going = Vec::new();
    for victim in victims {
        let result = ask(args, &victim, session).await;
        let Some(Some(uid)) = refusals.keep(result)? else {
            continue;
        };
        let dry = if args.dry_run { " (dry run)" } else { "" };
        session.out(&format!("{} {:?} deleted{dry}\n", victim.kind.singular(), victim.name))?;
        going.push(Victim {
            uid: Some(uid),
            ..victim
        });
    }
    if args.wait && !args.dry_run {
        let waited = wait(args, going, session).await;
        refusals.keep(waited)?;
    }
    refusals.finish()
}

async fn victims(args: &DeleteArgs, session: &mut Session<'_>) -> Result<Vec<Victim>, Error> {
    if !args.filename.is_empty() {
        let documents = manifest::load(&args.filename, &mut session.env.stdin, Check::Header)?;
        create::check_namespaces(&documents, session)?;
        let victims = documents.into_iter().map(|d| Victim {
            namespace: if d.namespace.is_empty() || !d.kind.namespaced() {
                session.namespace_for(d.kind)
            } else {
                d.namespace
            },
            kind: d.kind,
            name: d.name,
            uid: None,
        });
        return Ok(victims.collect());
    }
    match (Targets::parse(&args.targets)?, &args.selector, args.all) {
        (Targets::Named(named), None, false) => Ok(named
            .into_iter()
            .map(|(kind, name)| Victim {
                kind,
                namespace: session.namespace_for(kind),
                name,
                uid: None,
            })
            .collect()),
        (Targets::Named(_), ..) => Err(Error::Usage("a name and -l or --all cannot be given together".into())),
        (Targets::Kinds(kinds), Some(selector), _) => {
            let parsed = LabelSelector::parse(selector).map_err(|e| Error::Usage(e.to_string()))?;
            if parsed.is_empty() {
                return Err(Error::Usage(
                    "-l: the selector is empty; use --all to delete all".into(),
                ));
            }
            select(&kinds, selector, session).await
        }
        (Targets::Kinds(kinds), None, true) => select(&kinds, "", session).await,
        (Targets::Kinds(_), None, false) => Err(Error::Usage(
            "which objects? give names, -l SELECTOR, or --all for all of the kind".into(),
        )),
    }
}

async fn select(kinds: &[Kind], selector: &str, session: &mut Session<'_>) -> Result<Vec<Victim>, Error> {
    let mut victims = Vec::new();
    for kind in kinds {
        let query = Query {
            kind: *kind,
            namespace: session.namespace_for(*kind),
            labels: selector.to_owned(),
            fields: String::new(),
        };
        let (objects, _) = session.client.list(&query).await?;
        victims.extend(objects.into_iter().map(|o| Victim {
            kind: *kind,
            namespace: o.namespace,
            name: o.name,
            uid: Some(o.uid),
        }));
    }
    if victims.is_empty() {
        let note = get::nothing_found(kinds.iter().copied(), false, session);
        session.note(&note);
    }
    Ok(victims)
}

/// The uid of what is now being deleted; `None` when it was selected and is gone already.
async fn ask(args: &DeleteArgs, victim: &Victim, session: &mut Session<'_>) -> Result<Option<String>, Error> {
    let request = wire::DeleteRequest {
        namespace: victim.namespace.clone(),
        name: victim.name.clone(),
        uid: victim.uid.clone().unwrap_or_default(),
        cascade: match args.cascade {
            Cascade::Background => delete_request::Cascade::Background,
            Cascade::Orphan => delete_request::Cascade::Orphan,
        }
        .into(),
        grace_seconds: args.grace_period,
        dry_run: args.dry_run,
        ..wire::DeleteRequest::default()
    };
    match session.client.delete(victim.kind, request).await? {
        Some(object) => {
            for warning in &object.warnings {
                session.warn(&format!("{}/{}: {warning}", victim.kind.singular(), victim.name));
            }
            Ok(Some(object.uid))
        }
        None if victim.uid.is_some() => Ok(None),
        None => Err(not_found(victim.kind, &victim.name)),
    }
}

async fn wait(args: &DeleteArgs, mut going: Vec<Victim>, session: &mut Session<'_>) -> Result<(), Error> {
    going.reverse();
    let interrupt = session.env.interrupt.clone();
    let deadline = (!args.timeout.is_zero()).then(|| Instant::now() + args.timeout);
    let expired = async {
        match deadline {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = until_gone(&mut going, session) => return result,
        () = expired => Error::TimedOut,
        () = interrupt => Error::Interrupted,
    };
    let Some(next) = going.last() else { return Ok(()) };
    let more = match going.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    let what = format!("{} {:?}{more}", next.kind.singular(), next.name);
    let look = format!("see `wharf get {} {}`", next.kind.singular(), next.name);
    Err(result(format!(
        "no longer waiting for {what} to go; the deletion goes on: {look}"
    )))
}

/// Takes each object off the end of the list once it is gone.
async fn until_gone(going: &mut Vec<Victim>, session: &mut Session<'_>) -> Result<(), Error> {
    let (first, longest) = session.env.times.poll;
    while let Some(victim) = going.last() {
        let mut pause = first;
        loop {
            let found = session
                .client
                .find(victim.kind, &victim.namespace, &victim.name)
                .await?;
            if found.is_none_or(|o| victim.uid.as_ref().is_some_and(|uid| *uid != o.uid)) {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        going.pop();
    }
    Ok(())
}
