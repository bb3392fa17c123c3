//! One change of an object that others may change at the same time. Called by `mark` and `taint`.
//!
//! Invariant: what is sent was made for the version that it names.

use serde_json::{Value, json};

use crate::{error::Error, received::Received, session::Session};

/// How often an object that others change at the same time is looked at again.
pub const ATTEMPTS: usize = 5;

/// Sends the patch that `change` makes of the object as it stands, and makes it anew where others were faster. None:
/// nothing is to change, and nothing is sent. Returns the object that the change was made for, and the one after it.
pub async fn amend(
    mut object: Received,
    dry_run: bool,
    session: &mut Session<'_>,
    change: impl Fn(&Received) -> Result<Option<Value>, Error>,
) -> Result<(Received, Received), Error> {
    let target = object.reference();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let Some(mut patch) = change(&object)? else {
            return Ok((object.clone(), object));
        };
        patch["metadata"]["resourceVersion"] = json!(object.resource_version);
        match session.client.patch(&target, &patch, dry_run).await {
            Err(e) if e.is_conflict() && attempt < ATTEMPTS => object = session.client.get(&target).await?,
            Err(e) => return Err(e),
            Ok(after) => return Ok((object, after)),
        }
    }
}
