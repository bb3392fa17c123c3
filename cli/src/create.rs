//! `wharf create`.
//!
//! Invariant: nothing is sent unless every document of every file is good.

use proto::model::{Kind, Namespace, Object, ObjectMeta, validate};

use crate::{
    args::CreateArgs,
    error::Error,
    files,
    manifest::{Check, Document},
    report::Report,
    session::Session,
    target,
};

pub async fn run(args: &CreateArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let documents = if args.filename.is_empty() {
        words(&args.words)?
    } else {
        files::load(&args.filename, Check::Whole, session)?
    };
    let mut report = Report::new(args.output, args.dry_run);
    for document in documents {
        let target = document.reference(session);
        let result = session.client.create(&target, &document.json, args.dry_run.on).await;
        if !report.take(result.map(|object| (object, "created")), session)? {
            break;
        }
    }
    report.finish(session)
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
