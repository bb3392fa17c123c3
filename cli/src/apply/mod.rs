//! `wharf apply`, and for `wharf diff` what it would make of an object.
//!
//! What was applied is kept in the object's annotation, in kubectl's own form, so that either command takes up where
//! the other left off.
//!
//! Invariant: a change is made of the version that was read, or not at all; nothing is sent unless every document of
//! every file is good.

mod merge;

use proto::model::{Kind, LAST_APPLIED};
use serde_json::{Map, Value, json};

use crate::{
    amend::ATTEMPTS, args::ApplyArgs, error::Error, files, manifest::Document, received::Received, report::Report,
    session::Session, set_image, status::Reason, target::Reference,
};

pub async fn run(args: &ApplyArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let documents = files::load_named(&args.filename, session)?;
    let mut report = Report::new(args.output, args.dry_run);
    for document in documents {
        let result = one(&document, args.dry_run.on, session).await.map(|applied| {
            let word = applied.word();
            let mut after = applied.after;
            after.warnings.extend(applied.notes);
            (after, word)
        });
        if !report.take(result, session)? {
            break;
        }
    }
    report.finish(session)
}

/// An object before and after.
pub struct Applied {
    /// None: it was not there.
    pub before: Option<Received>,
    pub after: Received,
    /// What the user should know.
    notes: Vec<String>,
}

impl Applied {
    fn word(&self) -> &'static str {
        match &self.before {
            None => "created",
            Some(before) if self.after.same_as(before) => "unchanged",
            Some(_) => "configured",
        }
    }
}

/// Applies one document. With `dry_run` the coordinator answers as if, and stores nothing.
pub async fn one(document: &Document, dry_run: bool, session: &mut Session<'_>) -> Result<Applied, Error> {
    let target = document.reference(session);
    let wanted = Wanted::new(document, &target);
    for _ in 0..ATTEMPTS {
        let Some(live) = session.client.find(&target).await? else {
            wanted.check_version(&target, None)?;
            match session.client.create(&target, &wanted.json, dry_run).await {
                // Someone else was faster: it is there to be changed now.
                Err(Error::Answered {
                    reason: Reason::AlreadyExists,
                    ..
                }) => continue,
                result => {
                    return result.map(|after| Applied {
                        before: None,
                        after,
                        notes: Vec::new(),
                    });
                }
            }
        };
        wanted.check_version(&target, Some(&live))?;
        let (merged, mut notes) = wanted.merge(&live);
        let after = match merged {
            None => live.clone(),
            Some(merged) => match session.client.replace(&target, &merged, dry_run).await {
                Err(e) if e.is_conflict() => continue,
                result => result?,
            },
        };
        notes.extend(stays(&live, &after));
        return Ok(Applied {
            before: Some(live),
            after,
            notes,
        });
    }
    Err(Error::Answered {
        reason: Reason::Conflict,
        message: format!(
            "{} {:?}: others keep changing it; apply again",
            target.kind.singular(),
            target.name
        ),
    })
}

/// Of a controller whose template is another one now: its running pods stay as they are.
fn stays(before: &Received, after: &Received) -> Option<String> {
    let template = |object: &Received| object.json.pointer("/spec/template").cloned();
    (before.kind == Kind::ReplicationController && template(before) != template(after)).then(|| set_image::hint(after))
}

/// What a document asks for.
struct Wanted {
    /// The document without what the cluster writes, with the annotation.
    json: Value,
    /// The version and uid that the document insists on.
    version: Option<Value>,
    uid: Option<Value>,
}

impl Wanted {
    fn new(document: &Document, target: &Reference) -> Self {
        let source = &document.json;
        let meta = |field: &str| {
            source
                .pointer(&format!("/metadata/{field}"))
                .filter(|v| !v.is_null())
                .cloned()
        };
        let mut config = json!({"apiVersion": target.kind.api_version(), "kind": target.kind.name()});
        if let (Value::Object(config), Value::Object(source)) = (&mut config, configuration(source.clone())) {
            config.extend(source);
        }
        config["metadata"]["name"] = json!(target.name);
        if target.kind.namespaced() {
            config["metadata"]["namespace"] = json!(target.namespace);
        }
        if config["metadata"]["annotations"].is_null() {
            config["metadata"]["annotations"] = json!({});
        }
        // kubectl's form: keys in order, a line end.
        let text = format!("{}\n", sorted(&config));
        config["metadata"]["annotations"][LAST_APPLIED] = json!(text);
        Self {
            json: config,
            version: meta("resourceVersion"),
            uid: meta("uid"),
        }
    }

    /// A file that was exported carries the version it was exported at.
    fn check_version(&self, target: &Reference, live: Option<&Received>) -> Result<(), Error> {
        for (field, asked, found) in [
            ("resourceVersion", &self.version, live.map(|l| &l.resource_version)),
            ("uid", &self.uid, live.map(|l| &l.uid)),
        ] {
            let Some(asked) = asked else { continue };
            if found.is_some_and(|found| asked == found) {
                continue;
            }
            let found = found.map_or_else(
                || "there is no such object".to_owned(),
                |f| format!("the object has {f:?}"),
            );
            return Err(Error::Answered {
                reason: Reason::Conflict,
                message: format!(
                    "{} {:?}: metadata.{field}: the file has {asked}, {found}; take the field out of the file to apply \
                     it to whatever is there",
                    target.kind.singular(),
                    target.name
                ),
            });
        }
        Ok(())
    }

    /// The object to put in the place of `live`, none where it is right already; and what the user should know.
    fn merge(&self, live: &Received) -> (Option<Value>, Vec<String>) {
        let mut notes = Vec::new();
        if !live.json["metadata"]["deletionTimestamp"].is_null() {
            notes.push("it is being deleted; apply again once it is gone".to_owned());
        }
        let applied = live
            .json
            .pointer("/metadata/annotations")
            .and_then(|a| a.get(LAST_APPLIED));
        let last = match applied.and_then(Value::as_str).map(serde_json::from_str) {
            Some(Ok(last)) => configuration(last),
            Some(Err(_)) => {
                notes.push(format!(
                    "annotation {LAST_APPLIED} cannot be read and is written anew; what the file no longer sets stays"
                ));
                Value::Null
            }
            None => {
                notes.push(format!(
                    "it was not made by apply (no annotation {LAST_APPLIED}, which is added now); what the file does \
                     not set stays"
                ));
                Value::Null
            }
        };
        let mut present = live.json.clone();
        without_owned(&mut present);
        let mut merged = merge::three_way(live.kind, &last, &self.json, &present);
        if merged == present {
            return (None, notes);
        }
        if let (Some(count), None) = (present.pointer("/spec/replicas"), merged.pointer("/spec/replicas"))
            && *count != json!(1)
        {
            notes.push(format!(
                "spec.replicas was applied before and the file sets it no more: it falls from {count} to 1, the default"
            ));
        }
        merged["metadata"]["resourceVersion"] = json!(live.resource_version);
        (Some(merged), notes)
    }
}

/// An object as a file would have it: without nulls, what only the cluster writes, and what names one version of it.
fn configuration(mut object: Value) -> Value {
    without_nulls(&mut object);
    without_owned(&mut object);
    if let Some(Value::Object(meta)) = object.get_mut("metadata") {
        meta.shift_remove("uid");
        if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
            annotations.shift_remove(LAST_APPLIED);
        }
    }
    object
}

/// Removes what only the cluster writes: a write that has it is warned of.
fn without_owned(object: &mut Value) {
    if let Value::Object(map) = object {
        map.shift_remove("status");
    }
    if let Some(Value::Object(meta)) = object.get_mut("metadata") {
        for field in [
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "managedFields",
            "resourceVersion",
            "selfLink",
        ] {
            meta.shift_remove(field);
        }
    }
}

/// A field that is null is a field left out.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries = entries.into_iter().map(|(k, v)| (k.clone(), sorted(v)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}
