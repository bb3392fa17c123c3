//! `wharf replace`.
//!
//! Invariant: as of `create`; a file that has a resource version replaces that version only.

use crate::{args::ReplaceArgs, error::Error, files, report::Report, session::Session};

pub async fn run(args: &ReplaceArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let documents = files::load_named(&args.filename, session)?;
    let mut report = Report::new(args.output, args.dry_run);
    for document in documents {
        let target = document.reference(session);
        let result = session.client.replace(&target, &document.json, args.dry_run.on).await;
        if !report.take(result.map(|object| (object, "replaced")), session)? {
            break;
        }
    }
    report.finish(session)
}
