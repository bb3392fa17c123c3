//! `wharf diff`.
//!
//! Invariant: nothing is stored; the diff is between what is there and what the coordinator says `apply` would make.

use proto::model::LAST_APPLIED;
use serde_json::Value;
use similar::TextDiff;

use crate::{
    apply,
    args::DiffArgs,
    error::{Error, Refusals},
    files, output,
    received::Received,
    session::Session,
};

/// Errors: [`Error::Differences`] where there are any.
pub async fn run(args: &DiffArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    let mut differ = false;
    for document in files::load_named(&args.filename, session)? {
        let result = apply::one(&document, true, session).await;
        let Some(applied) = refusals.keep(result)? else {
            continue;
        };
        let target = document.reference(session);
        let before = applied.before.as_ref().map_or_else(|| Ok(String::new()), text)?;
        let after = text(&applied.after)?;
        let diff = TextDiff::from_lines(&before, &after);
        let place = match target.namespace.as_str() {
            "" => target.to_string(),
            namespace => format!("{target} in {namespace}"),
        };
        let text = diff
            .unified_diff()
            .header(&format!("live: {place}"), &format!("file: {}", document.place))
            .to_string();
        differ |= !text.is_empty();
        session.out(&text)?;
    }
    refusals.finish()?;
    if differ { Err(Error::Differences) } else { Ok(()) }
}

/// What a user would write of it.
fn text(object: &Received) -> Result<String, Error> {
    let mut json = object.written();
    if let Some(Value::Object(meta)) = json.get_mut("metadata") {
        meta.shift_remove("uid");
        meta.shift_remove("creationTimestamp");
        if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
            annotations.shift_remove(LAST_APPLIED);
            if annotations.is_empty() {
                meta.shift_remove("annotations");
            }
        }
    }
    output::yaml(&json)
}
