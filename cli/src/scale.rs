//! `wharf scale`.

use proto::{
    model::{FieldError, Invalid, Kind},
    wire,
};

use crate::{
    args::ScaleArgs,
    error::{Error, Refusals},
    session::Session,
    target::Targets,
};

pub async fn run(args: &ScaleArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let Targets::Named(named) = Targets::parse(&args.targets)? else {
        return Err(Error::Usage(
            "which controller? e.g. wharf scale rc web --replicas=3".into(),
        ));
    };
    if let Some((kind, _)) = named.iter().find(|(kind, _)| *kind != Kind::ReplicationController) {
        return Err(Error::Usage(format!("{} cannot be scaled; rc can", kind.plural())));
    }
    let mut refusals = Refusals::default();
    for (kind, name) in named {
        let result = one(args, session, kind, &name).await;
        if refusals.keep(result)?.is_some() {
            let dry = if args.dry_run { " (dry run)" } else { "" };
            session.out(&format!("{}/{name} scaled{dry}\n", kind.singular()))?;
        }
    }
    refusals.finish()
}

async fn one(args: &ScaleArgs, session: &mut Session<'_>, kind: Kind, name: &str) -> Result<(), Error> {
    let counts = [
        ("spec.replicas", Some(args.replicas)),
        ("--current-replicas", args.current_replicas),
    ];
    for (field, count) in counts {
        if let Some(count) = count.filter(|c| *c < 0) {
            let invalid = Invalid {
                kind,
                name: name.to_owned(),
                errors: vec![FieldError::new(field, format!("must not be negative, is {count}"))],
            };
            return Err(Error::Refused(invalid.to_string()));
        }
    }
    let request = wire::ScaleRequest {
        kind: kind.name().to_owned(),
        namespace: session.namespace_for(kind),
        name: name.to_owned(),
        replicas: args.replicas,
        current_replicas: args.current_replicas,
        dry_run: args.dry_run,
        ..wire::ScaleRequest::default()
    };
    session.client.scale(request).await.map(|_| ())
}
