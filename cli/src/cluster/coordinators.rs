//! `wharf cluster remove-coordinator`.

use crate::{
    args::RemoveCoordinatorArgs,
    error::{Error, Refusals},
    session::Session,
};

pub async fn remove(args: &RemoveCoordinatorArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    for name in &args.names {
        let result = session.client.remove_coordinator(name, args.dry_run.on).await;
        if refusals.keep(result)?.is_some() {
            session.out(&format!("coordinator/{name} removed{}\n", args.dry_run.suffix()))?;
        }
    }
    refusals.finish()
}
