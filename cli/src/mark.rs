//! `wharf label` and `wharf annotate`.
//!
//! Every object is looked at before the first is changed; then one patch an object, made for the version that was
//! looked at, and made anew where others changed it meanwhile.
//!
//! Invariant: all keys of one object change together or none does; a value is overwritten only where the user says so.

use std::collections::BTreeMap;

use proto::model::labels::{check_label_key, check_label_value};
use serde_json::{Map, Value, json};

use crate::{
    amend::amend,
    args::MarkArgs,
    error::{Error, Refusals},
    output::clean,
    received::Received,
    report::Report,
    select::{self, Chosen},
    session::Session,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Labels,
    Annotations,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }

    fn singular(self) -> &'static str {
        match self {
            Self::Labels => "label",
            Self::Annotations => "annotation",
        }
    }

    /// What became of an object to which this patch was made.
    fn word(self, patch: &Map<String, Value>) -> &'static str {
        let sets = patch.values().any(|v| !v.is_null());
        match (self, patch.is_empty(), sets) {
            (Self::Labels, true, _) => "not labeled",
            (Self::Labels, _, true) => "labeled",
            (Self::Labels, _, false) => "unlabeled",
            (Self::Annotations, true, _) => "not annotated",
            (Self::Annotations, _, true) => "annotated",
            (Self::Annotations, _, false) => "unannotated",
        }
    }
}

pub async fn run(field: Field, args: &MarkArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let is_change = |w: &String| w.contains('=') || w.ends_with('-');
    let (targets, changes) = args
        .words
        .split_at(args.words.iter().position(is_change).unwrap_or(args.words.len()));
    let changes = Changes::parse(field, changes, args.overwrite)?;
    match (changes.values.is_empty(), args.list) {
        (true, false) => {
            return Err(Error::Usage(format!(
                "nothing to change: give KEY=VALUE to set a {0}, KEY- to remove one, or --list",
                field.singular()
            )));
        }
        (false, true) => return Err(Error::Usage("--list and changes cannot be given together".into())),
        _ => {}
    }
    let mut refusals = Refusals::default();
    let objects = match select::choose(targets, &[], &args.which, session).await? {
        Chosen::Found(found) => found,
        Chosen::Named(named) => {
            let mut objects = Vec::new();
            for target in named {
                let object = session.client.get(&target).await;
                objects.extend(refusals.keep(object)?);
            }
            objects
        }
    };
    if args.list {
        let text = list(field, &objects);
        session.out(&text)?;
        return refusals.finish();
    }
    for object in &objects {
        refusals.keep(changes.patch(field, object))?;
    }
    // Nothing was changed yet.
    refusals.finish()?;
    let mut report = Report::new(args.output, args.dry_run);
    for object in objects {
        let result = one(field, args.dry_run.on, &changes, object, session).await;
        if !report.take(result, session)? {
            break;
        }
    }
    report.finish(session)
}

async fn one(
    field: Field,
    dry_run: bool,
    changes: &Changes,
    object: Received,
    session: &mut Session<'_>,
) -> Result<(Received, &'static str), Error> {
    let target = object.reference();
    let change = |object: &Received| {
        let patch = changes.patch(field, object)?;
        Ok((!patch.is_empty()).then(|| json!({"metadata": {(field.name()): patch}})))
    };
    let (before, after) = amend(object, dry_run, session, change).await?;
    for key in changes.missing(field, &before) {
        session.note(&format!("{target}: {} {key:?} not found", field.singular()));
    }
    Ok((after, field.word(&changes.patch(field, &before)?)))
}

#[derive(Debug)]
struct Changes {
    /// Key → the value to set, or none to remove it.
    values: BTreeMap<String, Option<String>>,
    overwrite: bool,
}

impl Changes {
    fn parse(field: Field, words: &[String], overwrite: bool) -> Result<Self, Error> {
        let mut values = BTreeMap::new();
        for word in words {
            let (key, value) = match (word.split_once('='), word.strip_suffix('-')) {
                (Some((key, value)), _) => (key, Some(value)),
                (None, Some(key)) => (key, None),
                (None, None) => {
                    return Err(Error::Usage(format!(
                        "{word:?} is no KEY=VALUE and no KEY-; write the objects before the changes"
                    )));
                }
            };
            let bad = |problem: String| Error::Usage(format!("{word:?}: {problem}"));
            check_label_key(key).map_err(bad)?;
            if let (Field::Labels, Some(value)) = (field, value) {
                check_label_value(value).map_err(bad)?;
            }
            if values.insert(key.to_owned(), value.map(str::to_owned)).is_some() {
                return Err(Error::Usage(format!("{key:?} is changed twice; say it once")));
            }
        }
        Ok(Self { values, overwrite })
    }

    /// What to patch; empty where all is so already. Errors: values that would be overwritten.
    fn patch(&self, field: Field, object: &Received) -> Result<Map<String, Value>, Error> {
        let present = present(field, object);
        let (mut patch, mut others) = (Map::new(), Vec::new());
        for (key, value) in &self.values {
            match (value, present.get(key.as_str())) {
                (Some(new), Some(old)) if new == old => {}
                (Some(new), Some(old)) if !self.overwrite => {
                    others.push(format!("metadata.{}.{key}: it is {old:?}, not {new:?}", field.name()));
                }
                (Some(new), _) => {
                    patch.insert(key.clone(), json!(new));
                }
                (None, Some(_)) => {
                    patch.insert(key.clone(), Value::Null);
                }
                (None, None) => {}
            }
        }
        if others.is_empty() {
            return Ok(patch);
        }
        Err(Error::Refused(format!(
            "{} {:?}: {}; give --overwrite to change it",
            object.kind.singular(),
            object.name,
            others.join("; ")
        )))
    }

    /// Keys to remove that are not there.
    fn missing(&self, field: Field, object: &Received) -> Vec<&str> {
        let present = present(field, object);
        let removed = self.values.iter().filter(|(_, value)| value.is_none());
        removed
            .map(|(key, _)| key.as_str())
            .filter(|key| !present.contains_key(key))
            .collect()
    }
}

fn present(field: Field, object: &Received) -> BTreeMap<&str, &str> {
    let map = object.json["metadata"][field.name()].as_object();
    let pairs = map.into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect()
}

/// `KEY=VALUE` a line; under the object's name where there are several.
fn list(field: Field, objects: &[Received]) -> String {
    let mut text = String::new();
    for object in objects {
        let indent = if objects.len() > 1 {
            text.push_str(&format!("{}:\n", object.reference()));
            "  "
        } else {
            ""
        };
        for (key, value) in present(field, object) {
            text.push_str(&format!("{indent}{key}={}\n", clean(value)));
        }
    }
    text
}
