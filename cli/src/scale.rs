//! `wharf scale`.
//!
//! Invariant: a count that cannot be is refused before anything is sent.

use proto::{
    model::{FieldError, Invalid, Kind},
    wire,
};

use crate::{
    args::ScaleArgs,
    error::{Error, Refusals},
    select::{self, Chosen},
    session::Session,
    target::{Reference, Targets},
};

pub async fn run(args: &ScaleArgs, session: &mut Session<'_>) -> Result<(), Error> {
    if args.filename.is_empty() {
        scalable(Targets::parse(&args.targets)?.kinds())?;
    }
    let targets: Vec<Reference> = match select::choose(&args.targets, &args.filename, &args.which, session).await? {
        Chosen::Named(named) => named,
        Chosen::Found(found) => found.iter().map(crate::received::Received::reference).collect(),
    };
    scalable(targets.iter().map(|t| t.kind))?;
    let mut refusals = Refusals::default();
    for target in targets {
        let result = one(args, session, &target).await;
        if let Some(warnings) = refusals.keep(result)? {
            for warning in warnings {
                session.warn(&format!("{target}: {warning}"));
            }
            session.out(&format!("{target} scaled{}\n", args.dry_run.suffix()))?;
        }
    }
    refusals.finish()
}

fn scalable(kinds: impl IntoIterator<Item = Kind>) -> Result<(), Error> {
    match kinds.into_iter().find(|kind| *kind != Kind::ReplicationController) {
        Some(kind) => Err(Error::Usage(format!("{} cannot be scaled; rc can", kind.plural()))),
        None => Ok(()),
    }
}

/// What the coordinator warns of.
async fn one(args: &ScaleArgs, session: &mut Session<'_>, target: &Reference) -> Result<Vec<String>, Error> {
    let counts = [
        ("spec.replicas", Some(args.replicas)),
        ("--current-replicas", args.current_replicas),
    ];
    for (field, count) in counts {
        if let Some(count) = count.filter(|c| *c < 0) {
            let invalid = Invalid {
                kind: target.kind,
                name: target.name.clone(),
                errors: vec![FieldError::new(field, format!("must not be negative, is {count}"))],
            };
            return Err(Error::Refused(invalid.to_string()));
        }
    }
    let request = wire::ScaleRequest {
        kind: target.kind.name().to_owned(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        replicas: args.replicas,
        current_replicas: args.current_replicas,
        dry_run: args.dry_run.on,
        ..wire::ScaleRequest::default()
    };
    session.client.scale(request).await.map(|reply| reply.warnings)
}
