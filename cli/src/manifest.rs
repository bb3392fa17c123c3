//! Files of objects: YAML or JSON, several documents, `kind: List`. Used by `create -f` and `delete -f`.
//!
//! Invariant: a document returned by [`load`] with [`Check::Whole`] passes all that the coordinator checks of
//! form; every error says file, line and column, the object and the field.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use proto::model::{FieldError, Kind, Object, parse, validate};
use serde_json::Value;

use crate::{
    error::Error,
    yaml::{self, Node, Place, Tree},
};

/// One object of a file.
#[derive(Debug)]
pub struct Document {
    pub kind: Kind,
    /// As in its metadata; empty where the file leaves it out.
    pub name: String,
    pub namespace: String,
    /// What to send: the file's own fields, nulls left out.
    pub json: Value,
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

/// Reads all files, `-` being `stdin`. All that is wrong is reported, one error each.
pub fn load(files: &[PathBuf], stdin: &mut dyn Read, check: Check) -> Result<Vec<Document>, Error> {
    if files.iter().filter(|f| *f == Path::new("-")).count() > 1 {
        return Err(Error::Usage("-f -: stdin can be read only once".into()));
    }
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        let (source, bytes) = if file == Path::new("-") {
            let mut bytes = Vec::new();
            ("stdin".to_owned(), stdin.read_to_end(&mut bytes).map(|_| bytes))
        } else {
            (file.display().to_string(), std::fs::read(file))
        };
        let text = match bytes.map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                problems.push(format!("{source}: not UTF-8 text"));
                continue;
            }
            Err(e) => {
                problems.push(format!("{source}: {e}"));
                continue;
            }
        };
        match parse(&source, &text, check) {
            Ok(found) => documents.extend(found),
            Err(found) => problems.extend(found),
        }
    }
    let mut problems: Vec<Error> = problems.into_iter().map(Error::Refused).collect();
    match problems.len() {
        0 => Ok(documents),
        1 => Err(problems.remove(0)),
        _ => Err(Error::Several(problems)),
    }
}

/// Reads the text of one file; `source` is what errors call it.
pub fn parse(source: &str, text: &str, check: Check) -> Result<Vec<Document>, Vec<String>> {
    let nodes = yaml::documents(text).map_err(|(place, problem)| vec![at(source, place, &problem)])?;
    if nodes.is_empty() {
        return Err(vec![format!(
            "{source}: no object in it; expected YAML or JSON with `kind` and `metadata.name`"
        )]);
    }
    let mut reader = Reader {
        source,
        check,
        documents: Vec::new(),
        problems: Vec::new(),
    };
    for node in nodes {
        reader.document(node);
    }
    if reader.problems.is_empty() {
        Ok(reader.documents)
    } else {
        Err(reader.problems)
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

    fn document(&mut self, node: Node) {
        if let Some(Tree::String(kind)) = node.get("kind").map(|k| &k.tree)
            && kind == "List"
        {
            self.list(node);
            return;
        }
        if !matches!(node.tree, Tree::Map(_)) {
            self.fail(node.at, "must be an object with `kind` and `metadata`");
            return;
        }
        match parse::kind_of(&node.to_json()) {
            Err(e) => self.fail(node.locate("kind", false), &e.to_string()),
            Ok(kind) if self.check == Check::Header => self.header(kind, &node),
            Ok(kind) => self.whole(kind, node),
        }
    }

    fn list(&mut self, node: Node) {
        if node.get("items").is_none() {
            self.fail(node.at, "items: required in a List");
        }
        let list_at = node.at;
        let Tree::Map(entries) = node.tree else { return };
        let known = ["apiVersion", "kind", "metadata", "items"];
        for entry in entries {
            match (entry.key.as_str(), entry.value.tree) {
                ("items", Tree::List(items)) if items.is_empty() => self.fail(list_at, "items: the list is empty"),
                ("items", Tree::List(items)) => items.into_iter().for_each(|n| self.document(n)),
                ("items", _) => self.fail(entry.value.at, "items: must be a list of objects"),
                (key, _) if known.contains(&key) => {}
                (key, _) => {
                    let problem = format!("{key}: unknown field{}", parse::hint(key, &known));
                    self.fail(entry.key_at, &problem);
                }
            }
        }
    }

    fn header(&mut self, kind: Kind, node: &Node) {
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
        if !self.problems.is_empty() {
            return;
        }
        if name.is_empty() {
            let problem = format!("{}: metadata.name: it is empty", kind.singular());
            self.fail(node.locate("metadata.name", false), &problem);
            return;
        }
        self.push(kind, name, namespace, node);
    }

    fn whole(&mut self, kind: Kind, mut node: Node) {
        let name = match node.get("metadata").and_then(|m| m.get("name")).map(|n| &n.tree) {
            Some(Tree::String(name)) => format!(" {name:?}"),
            _ => String::new(),
        };
        let object = loop {
            match parse::object_value(kind, node.to_json()) {
                Ok(object) => break Ok(object),
                // As in Kubernetes, a field that is null is a field left out.
                Err(e) if e.message.starts_with("invalid type: null") && node.remove(&e.path) => {}
                Err(e) => break Err(vec![e]),
            }
        };
        let object = object.and_then(|mut object: Object| {
            validate::default(&mut object);
            match validate::object(&object) {
                Ok(()) => Ok(object),
                Err(invalid) => Err(invalid.errors),
            }
        });
        match object {
            Ok(object) => {
                let meta = object.meta();
                self.push(kind, meta.name.clone(), meta.namespace.clone(), &node);
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

    fn push(&mut self, kind: Kind, name: String, namespace: String, node: &Node) {
        let (line, column) = node.locate(if namespace.is_empty() { "" } else { "metadata.namespace" }, false);
        self.documents.push(Document {
            kind,
            name,
            namespace,
            json: node.to_json(),
            place: format!("{}:{line}:{column}", self.source),
        });
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
