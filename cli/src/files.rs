//! The files that `-f` names: a directory stands for the manifests in it. Called by every command with `-f`.
//!
//! Invariant: the order is that of the command line, within a directory that of the names.

use std::path::{Path, PathBuf};

use proto::model::Kind;

use crate::{
    error::{Error, Refusals},
    manifest::{self, Check, Document},
    session::Session,
    target::Reference,
};

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

impl Document {
    /// The object it is about: its own namespace, or else that of the command line.
    pub fn reference(&self, session: &Session<'_>) -> Reference {
        let own = self.kind.namespaced() && !self.namespace.is_empty();
        Reference {
            kind: self.kind,
            namespace: if own {
                self.namespace.clone()
            } else {
                session.namespace_for(self.kind)
            },
            name: self.name.clone(),
        }
    }
}

/// Reads every document of these files; none is returned unless all are good and fit `--namespace`.
pub fn load(paths: &[PathBuf], check: Check, session: &mut Session<'_>) -> Result<Vec<Document>, Error> {
    let files = expand(paths)?;
    let documents = manifest::read(&files, check, session)?;
    let mut refusals = Refusals::default();
    for d in &documents {
        if session.namespace_given && !d.namespace.is_empty() && d.namespace != session.namespace {
            refusals.push(Error::Refused(format!(
                "{}: {} {:?}: metadata.namespace: it is {:?}, but --namespace is {:?}; leave one of them out",
                d.place,
                d.kind.singular(),
                d.name,
                d.namespace,
                session.namespace
            )));
        }
    }
    refusals.finish().map(|()| documents)
}

/// As [`load`], for commands that change what is there by name: an object without a name is refused.
pub fn load_named(paths: &[PathBuf], session: &mut Session<'_>) -> Result<Vec<Document>, Error> {
    let documents = load(paths, Check::Whole, session)?;
    let mut refusals = Refusals::default();
    for d in documents.iter().filter(|d| d.name.is_empty()) {
        refusals.push(Error::Refused(format!(
            "{}: {}: metadata.name: required here; `wharf create` makes a name from generateName",
            d.place,
            d.kind.singular()
        )));
    }
    for d in &documents {
        let why = match d.kind {
            Kind::Event => "events are written by the cluster only",
            Kind::Endpoints => {
                "endpoints are derived from a controller's pods; leave them out, and change the controller"
            }
            _ => continue,
        };
        refusals.push(Error::Refused(format!(
            "{}: {} {:?}: {why}",
            d.place,
            d.kind.singular(),
            d.name
        )));
    }
    refusals.finish().map(|()| documents)
}

/// The objects that these files name; the rest of them is not looked at.
pub fn references(paths: &[PathBuf], session: &mut Session<'_>) -> Result<Vec<Reference>, Error> {
    let documents = load(paths, Check::Header, session)?;
    Ok(documents.iter().map(|d| d.reference(session)).collect())
}

fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let fail = |e: std::io::Error| Error::Refused(format!("{}: {e}", path.display()));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(fail)? {
            let file = entry.map_err(fail)?.path();
            if is_manifest(&file) && file.is_file() {
                found.push(file);
            }
        }
        if found.is_empty() {
            return Err(Error::Refused(format!(
                "{}: no *.yaml, *.yml or *.json file in this directory",
                path.display()
            )));
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

fn is_manifest(file: &Path) -> bool {
    file.extension()
        .is_some_and(|e| EXTENSIONS.iter().any(|known| e == *known))
}
