//! Which objects a command acts on: by name, by file, by selector, or all of a kind. Called by delete, scale, label,
//! annotate and wait.
//!
//! Invariant: more than the named objects are chosen only by a selector that says something, or by `--all`.

use std::path::PathBuf;

use proto::model::{Kind, LabelSelector};

use crate::{
    args::Which,
    client::Query,
    error::Error,
    files, get,
    received::Received,
    session::Session,
    target::{Reference, Targets},
};

pub enum Chosen {
    /// Named by the user: one that is not there is an error.
    Named(Vec<Reference>),
    /// Found just now: one that is gone meanwhile is none.
    Found(Vec<Received>),
}

/// Chooses by files if there are any, else by words and `which`. Says so when nothing is found.
pub async fn choose(
    words: &[String],
    paths: &[PathBuf],
    which: &Which,
    session: &mut Session<'_>,
) -> Result<Chosen, Error> {
    if !paths.is_empty() {
        return files::references(paths, session).map(Chosen::Named);
    }
    match (Targets::parse(words)?, &which.selector, which.all) {
        (Targets::Named(named), None, false) => Ok(Chosen::Named(references(named, session))),
        (Targets::Named(_), ..) => Err(Error::Usage("a name and -l or --all cannot be given together".into())),
        (Targets::Kinds(kinds), Some(selector), _) => {
            let parsed = LabelSelector::parse(selector).map_err(|e| Error::Usage(e.to_string()))?;
            if parsed.is_empty() {
                return Err(Error::Usage("-l: the selector is empty; use --all for all".into()));
            }
            find(&kinds, selector, session).await
        }
        (Targets::Kinds(kinds), None, true) => find(&kinds, "", session).await,
        (Targets::Kinds(_), None, false) => Err(Error::Usage(
            "which objects? give names, -l SELECTOR, or --all for all of the kind".into(),
        )),
    }
}

/// Names of the command line, in its namespace.
pub fn references(named: Vec<(Kind, String)>, session: &Session<'_>) -> Vec<Reference> {
    named
        .into_iter()
        .map(|(kind, name)| Reference {
            kind,
            namespace: session.namespace_for(kind),
            name,
        })
        .collect()
}

async fn find(kinds: &[Kind], selector: &str, session: &mut Session<'_>) -> Result<Chosen, Error> {
    let mut found = Vec::new();
    for kind in kinds {
        let query = Query {
            kind: *kind,
            namespace: session.namespace_for(*kind),
            labels: selector.to_owned(),
            fields: String::new(),
        };
        found.extend(session.client.list(&query).await?.0);
    }
    if found.is_empty() {
        let note = get::nothing_found(kinds.iter().copied(), false, session);
        session.note(&note);
    }
    Ok(Chosen::Found(found))
}
