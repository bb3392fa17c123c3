//! `wharf freeze` and `wharf unfreeze`.

use proto::wire;

use crate::{
    args::{FreezeArgs, UnfreezeArgs},
    error::Error,
    session::Session,
};

pub async fn freeze(args: &FreezeArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let for_ms = match args.duration {
        None => 0,
        Some(time) if time.is_zero() => return Err(Error::Usage("--for: more than 0; leave it out for no end".into())),
        Some(time) => u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
    };
    let request = wire::FreezeRequest {
        reason: args.reason.clone(),
        for_ms,
        dry_run: args.dry_run.on,
        ..wire::FreezeRequest::default()
    };
    let reply = session.client.freeze(request).await?;
    say(
        reply.changed,
        ["frozen", "already frozen"],
        args.dry_run.suffix(),
        session,
    )
}

pub async fn unfreeze(args: &UnfreezeArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let reply = session.client.unfreeze(args.dry_run.on).await?;
    say(
        reply.changed,
        ["unfrozen", "is not frozen"],
        args.dry_run.suffix(),
        session,
    )
}

fn say(changed: bool, [done, already]: [&str; 2], dry: &str, session: &mut Session<'_>) -> Result<(), Error> {
    let (words, dry) = if changed { (done, dry) } else { (already, "") };
    session.out(&format!("cluster {words}{dry}\n"))
}
