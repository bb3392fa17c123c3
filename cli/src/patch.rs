//! `wharf patch`.
//!
//! Invariant: the patch goes to the coordinator as it is written, nulls included, since they remove fields.

use std::{io::Read, path::Path};

use serde_json::Value;

use crate::{
    args::{PatchArgs, PatchType},
    error::Error,
    report::Report,
    select,
    session::Session,
    target::{Reference, Targets},
    yaml,
};

pub async fn run(args: &PatchArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let other = match args.patch_type {
        PatchType::Merge => None,
        PatchType::Strategic => Some("strategic"),
        PatchType::Json => Some("json"),
    };
    if let Some(other) = other {
        return Err(Error::Usage(format!(
            "--type {other}: only merge patches (RFC 7386) are known; to change one item of a list use `wharf apply -f`"
        )));
    }
    let Targets::Named(named) = Targets::parse(&args.targets)? else {
        return Err(Error::Usage("which object? e.g. wharf patch node n1 -p PATCH".into()));
    };
    let patch = read(args, session)?;
    let mut report = Report::new(args.output, args.dry_run);
    for target in select::references(named, session) {
        let result = one(&target, &patch, args.dry_run.on, session).await;
        if !report.take(result, session)? {
            break;
        }
    }
    report.finish(session)
}

async fn one(
    target: &Reference,
    patch: &Value,
    dry_run: bool,
    session: &mut Session<'_>,
) -> Result<(crate::received::Received, &'static str), Error> {
    let before = session.client.get(target).await?;
    let after = session.client.patch(target, patch, dry_run).await?;
    let word = if after.same_as(&before) {
        "patched (no change)"
    } else {
        "patched"
    };
    Ok((after, word))
}

fn read(args: &PatchArgs, session: &mut Session<'_>) -> Result<Value, Error> {
    let (source, text) = match (&args.patch, &args.patch_file) {
        (Some(text), _) => ("--patch".to_owned(), text.clone()),
        (None, Some(file)) => {
            let source = file.display().to_string();
            let mut text = String::new();
            let read = if file == Path::new("-") {
                session.env.stdin.read_to_string(&mut text).map(|_| text)
            } else {
                std::fs::read_to_string(file)
            };
            (
                source.clone(),
                read.map_err(|e| Error::Refused(format!("{source}: {e}")))?,
            )
        }
        // Refused by clap.
        (None, None) => return Err(Error::Usage("give -p PATCH or --patch-file FILE".into())),
    };
    let documents: Result<Vec<_>, _> = yaml::documents(&text).into_iter().collect();
    let documents = documents.map_err(|(place, problem)| {
        let place = place.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
        Error::Refused(format!("{source}{place}: {problem}"))
    })?;
    match documents.as_slice() {
        [one] if matches!(one.tree, yaml::Tree::Map(_)) => Ok(one.to_json()),
        _ => Err(Error::Refused(format!(
            "{source}: must be one map of fields, e.g. '{{\"spec\":{{\"replicas\":3}}}}'"
        ))),
    }
}
