//! Files of objects: YAML or JSON, several documents, lists of objects. Used by every command that takes `-f`.
//!
//! Invariant: a document returned by [`load`] with [`Check::Whole`] passes all that the coordinator checks of
//! form, which has nothing to warn of either; every error and warning says file, line and column, the object and the
//! field.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use proto::model::{FieldError, Kind, fields, parse, validate};
use serde_json::Value;

use crate::{
    error::Error,
    session::Session,
    yaml::{self, Node, Place, Tree},
};

/// Largest file; the coordinator's limit for one object is far lower.
const MAX_BYTES: u64 = 16 << 20;

/// One object of a file.
#[derive(Debug)]
pub struct Document {
    pub kind: Kind,
    /// As in its metadata; empty where the file leaves it out.
    pub name: String,
    pub namespace: String,
    /// What to send: the file's own fields, without nulls and what has no effect.
    pub json: Value,
    /// What was left out because it has no effect, with its place; for stderr.
    pub warning: Option<String>,
    /// `web.yaml:3:12`: where its namespace, or else the document, stands.
    pub place: String,
}

/// How much of a document must be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Every field.
    Whole,
    /// Kind, name and namespace: enough to delete by.
    Header,
}

/// As [`load`], from the session's stdin, warning of what has no effect.
pub fn read(files: &[PathBuf], check: Check, session: &mut Session<'_>) -> Result<Vec<Document>, Error> {
    let documents = load(files, &mut session.env.stdin, check)?;
    for warning in documents.iter().filter_map(|d| d.warning.as_ref()) {
        session.warn(warning);
    }
    Ok(documents)
}

/// Reads all files, `-` being `stdin`. All that is wrong is reported, one error each.
pub fn load(files: &[PathBuf], stdin: &mut dyn Read, check: Check) -> Result<Vec<Document>, Error> {
    if files.iter().filter(|f| *f == Path::new("-")).count() > 1 {
        return Err(Error::Usage("-f -: stdin can be read only once".into()));
    }
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        let (source, text) = if file == Path::new("-") {
            ("stdin".to_owned(), text(stdin))
        } else {
            let opened = std::fs::File::open(file).map_err(|e| format!(": {e}"));
            (file.display().to_string(), opened.and_then(|mut f| text(&mut f)))
        };
        match text {
            Ok(text) => match parse(&source, &text, check) {
                Ok(found) => documents.extend(found),
                Err(found) => problems.extend(found),
            },
            Err(problem) => problems.push(format!("{source}{problem}")),
        }
    }
    let mut problems: Vec<Error> = problems.into_iter().map(Error::Refused).collect();
    match problems.len() {
        0 => Ok(documents),
        1 => Err(problems.remove(0)),
        _ => Err(Error::Several(problems)),
    }
}

/// All of `from`, or the end of a line that begins with the file's name.
fn text(from: &mut dyn Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    // An endless file ends here too.
    from.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!(": {e}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!(": larger than {} MiB; split it", MAX_BYTES >> 20));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|b| **b == b'\n').count();
        let start = good.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let column = 1 + String::from_utf8_lossy(&good[start..]).chars().count();
        format!(":{line}:{column}: not UTF-8 text; save the file as UTF-8")
    })
}

/// Reads the text of one file; `source` is what errors call it.
pub fn parse(source: &str, text: &str, check: Check) -> Result<Vec<Document>, Vec<String>> {
    let mut reader = Reader {
        source,
        check,
        documents: Vec::new(),
        problems: Vec::new(),
    };
    for document in yaml::documents(text) {
        match document {
            Ok(node) => reader.document(node, None),
            Err((place, problem)) => reader.problems.push(at(source, place, &problem)),
        }
    }
    if !reader.problems.is_empty() {
        Err(reader.problems)
    } else if reader.documents.is_empty() {
        Err(vec![format!(
            "{source}: no object in it; expected YAML or JSON with `kind` and `metadata.name`"
        )])
    } else {
        Ok(reader.documents)
    }
}

fn at(source: &str, place: Option<Place>, problem: &str) -> String {
    match place {
        Some((line, column)) => format!("{source}:{line}:{column}: {problem}"),
        None => format!("{source}: {problem}"),
    }
}

struct Reader<'a> {
    source: &'a str,
    check: Check,
    documents: Vec<Document>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn fail(&mut self, place: Place, problem: &str) {
        self.problems.push(at(self.source, Some(place), problem));
    }

    /// `listed` is the kind that a list of one kind has for items that do not name theirs.
    fn document(&mut self, node: Node, listed: Option<Kind>) {
        if let Some(Tree::String(kind)) = node.get("kind").map(|k| &k.tree)
            && let Some(items) = list_of(kind)
        {
            self.list(node, items);
            return;
        }
        if !matches!(node.tree, Tree::Map(_)) {
            self.fail(node.at, "must be an object with `kind` and `metadata`");
            return;
        }
        let kind = match listed {
            Some(kind) if node.get("kind").is_none() => Ok(kind),
            _ => parse::kind_of(&node.to_json()),
        };
        match kind {
            Err(e) => self.fail(node.locate("kind", false), &e.to_string()),
            Ok(kind) if self.check == Check::Header => self.header(kind, &node),
            Ok(kind) => self.whole(kind, &node),
        }
    }

    fn list(&mut self, node: Node, kind: Option<Kind>) {
        if node.get("items").is_none() {
            self.fail(node.at, "items: required in a list");
        }
        let Tree::Map(entries) = node.tree else { return };
        let known = ["apiVersion", "kind", "metadata", "items"];
        // Of a list of one kind; `List` itself is of v1.
        let version = kind.map_or("v1", Kind::api_version);
        for entry in entries {
            match (entry.key.as_str(), entry.value.tree) {
                ("items", Tree::List(items)) if items.is_empty() => self.fail(node.at, "items: the list is empty"),
                ("items", Tree::List(items)) => items.into_iter().for_each(|n| self.document(n, kind)),
                ("items", _) => self.fail(entry.value.at, "items: must be a list of objects"),
                ("apiVersion", Tree::String(found)) if found != version => {
                    self.fail(entry.value.at, &format!("apiVersion: must be {version}, not {found:?}"));
                }
                (key, _) if known.contains(&key) => {}
                (key, _) => {
                    let problem = format!("{key}: unknown field{}", parse::hint(key, &known));
                    self.fail(entry.key_at, &problem);
                }
            }
        }
    }

    fn header(&mut self, kind: Kind, node: &Node) {
        let problems = self.problems.len();
        let mut text = |field: &str| {
            let path = format!("metadata.{field}");
            match node.get("metadata").and_then(|m| m.get(field)).map(|n| &n.tree) {
                Some(Tree::String(s)) => s.clone(),
                // A namespace that was misread must not become the default one.
                Some(Tree::Null) | None if field == "namespace" => String::new(),
                found => {
                    let problem = if found.is_some() {
                        "must be a string"
                    } else {
                        "required"
                    };
                    let problem = format!("{}: {path}: {problem}", kind.singular());
                    self.fail(node.locate(&path, false), &problem);
                    String::new()
                }
            }
        };
        let (name, namespace) = (text("name"), text("namespace"));
        if self.problems.len() > problems {
            return;
        }
        if name.is_empty() {
            let problem = format!("{}: metadata.name: it is empty", kind.singular());
            self.fail(node.locate("metadata.name", false), &problem);
            return;
        }
        self.documents.push(Document {
            kind,
            name,
            place: self.place(&namespace, node),
            namespace,
            json: node.to_json(),
            warning: None,
        });
    }

    fn whole(&mut self, kind: Kind, node: &Node) {
        let name = match node.get("metadata").and_then(|m| m.get("name")).map(|n| &n.tree) {
            Some(Tree::String(name)) => format!(" {name:?}"),
            _ => String::new(),
        };
        let read = parse::written(kind, node.to_json()).and_then(|mut written| {
            validate::default(&mut written.object);
            match validate::object(&written.object) {
                Ok(()) => Ok(written),
                Err(invalid) => Err(invalid.errors),
            }
        });
        match read {
            Ok(written) => {
                let meta = written.object.meta();
                let warning = fields::warning(&written.without_effect).map(|warning| {
                    let first = written.without_effect.first().map_or("", String::as_str);
                    let text = format!("{}{name}: {warning}", kind.singular());
                    at(self.source, Some(node.locate(first, true)), &text)
                });
                self.documents.push(Document {
                    kind,
                    name: meta.name.clone(),
                    namespace: meta.namespace.clone(),
                    place: self.place(&meta.namespace, node),
                    json: written.json,
                    warning,
                });
            }
            Err(errors) => {
                for FieldError { path, message } in errors {
                    let place = node.locate(&path, parse::is_unknown(&message));
                    let field = if path.is_empty() {
                        String::new()
                    } else {
                        format!("{path}: ")
                    };
                    let problem = format!("{}{name}: {field}{message}", kind.singular());
                    self.fail(place, &problem);
                }
            }
        }
    }

    fn place(&self, namespace: &str, node: &Node) -> String {
        let (line, column) = node.locate(if namespace.is_empty() { "" } else { "metadata.namespace" }, false);
        format!("{}:{line}:{column}", self.source)
    }
}

/// Kind of the items of a list of kind `name`: none in a `List`, whose items name theirs.
fn list_of(name: &str) -> Option<Option<Kind>> {
    let items = name.strip_suffix("List")?;
    if items.is_empty() {
        return Some(None);
    }
    Kind::ALL.into_iter().find(|k| k.name() == items).map(Some)
}

#[cfg(test)]
#[path = "manifest_file_tests.rs"]
mod file_tests;
#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
