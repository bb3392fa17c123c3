//! `wharf create`.
//!
//! Invariant: nothing is sent unless every document of every file is good.

use proto::model::{Kind, Namespace, Object, ObjectMeta, validate};
use serde_json::Value;

use crate::{
    args::CreateArgs,
    error::{Error, Refusals},
    manifest::{self, Check, Document},
    output::{self, ObjectFormat},
    received::Received,
    session::Session,
    target,
};

pub async fn run(args: &CreateArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let documents = if args.filename.is_empty() {
        words(&args.words)?
    } else {
        manifest::read(&args.filename, Check::Whole, session)?
    };
    check_namespaces(&documents, session)?;
    let mut refusals = Refusals::default();
    let mut created = Vec::new();
    for document in documents {
        let namespace = if document.namespace.is_empty() {
            session.namespace_for(document.kind)
        } else {
            document.namespace.clone()
        };
        let result = session
            .client
            .create(document.kind, &namespace, &document.json, args.dry_run)
            .await;
        // Show what was created even when the next one fails for good.
        let object = match refusals.keep(result) {
            Ok(object) => object,
            Err(e) => {
                finish(args, session, &created)?;
                return Err(e);
            }
        };
        if let Some(object) = object {
            for warning in &object.warnings {
                session.warn(&format!("{}: {warning}", output::name(&object)));
            }
            if args.output.is_none() {
                let dry = if args.dry_run { " (dry run)" } else { "" };
                session.out(&format!("{} created{dry}\n", output::name(&object)))?;
            }
            created.push(object);
        }
    }
    finish(args, session, &created)?;
    refusals.finish()
}

/// `namespace NAME`.
fn words(words: &[String]) -> Result<Vec<Document>, Error> {
    let usage = || Error::Usage("write `wharf create namespace NAME`, or `wharf create -f FILE`".into());
    let [kind, name] = words else { return Err(usage()) };
    if target::kind(kind)? != Kind::Namespace {
        return Err(usage());
    }
    let object = Object::Namespace(Namespace {
        metadata: ObjectMeta {
            name: name.clone(),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    });
    validate::object(&object).map_err(|e| Error::Refused(e.to_string()))?;
    Ok(vec![Document {
        kind: Kind::Namespace,
        name: name.clone(),
        namespace: String::new(),
        json: object.to_json(),
        warning: None,
        place: String::new(),
    }])
}

/// An object that names another namespace than the command line is refused.
pub fn check_namespaces(documents: &[Document], session: &Session<'_>) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    for d in documents {
        if session.namespace_given && !d.namespace.is_empty() && d.namespace != session.namespace {
            let problem = format!(
                "{}: {} {:?}: metadata.namespace: it is {:?}, but --namespace is {:?}; leave one of them out",
                d.place,
                d.kind.singular(),
                d.name,
                d.namespace,
                session.namespace
            );
            refusals.keep::<()>(Err(Error::Refused(problem)))?;
        }
    }
    refusals.finish()
}

/// The objects, for `-o`.
fn finish(args: &CreateArgs, session: &mut Session<'_>, created: &[Received]) -> Result<(), Error> {
    let value: Value = match created {
        [] => return Ok(()),
        [one] => one.json.clone(),
        several => output::list(several, None),
    };
    match args.output {
        None => Ok(()),
        Some(ObjectFormat::Json) => session.out(&output::json(&value)),
        Some(ObjectFormat::Yaml) => session.out(&output::yaml(&value)?),
        Some(ObjectFormat::Name) => {
            let names: String = created.iter().map(|o| format!("{}\n", output::name(o))).collect();
            session.out(&names)
        }
    }
}
