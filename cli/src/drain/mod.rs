//! `wharf drain`: empties a node, and shows how that goes.
//!
//! | file | what it is |
//! |---|---|
//! | this | asks the coordinator, and waits |
//! | `page` | a view as text and as an object: pure |
//! | `show` | progress on a terminal, and elsewhere line by line |
//!
//! Invariant: the drain is the coordinator's; nothing that becomes of this command changes it.

pub mod page;
mod show;
#[cfg(test)]
mod tests;

use std::time::Duration;

use proto::wire::{self, DrainView};

use self::show::Progress;
use crate::{
    args::{DataFormat, DrainArgs},
    error::Error,
    hold,
    output::{self, clean},
    session::Session,
    views::{self, Follow, OfNode},
};

pub async fn run(args: &DrainArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let node = hold::node_name(&args.node)?;
    if args.cancel {
        return cancel(&node, args, session).await;
    }
    let word = |given: Option<&'static str>| given.unwrap_or_default().to_owned();
    let request = wire::DrainRequest {
        name: node.clone(),
        reason: args.reason.clone().unwrap_or_default(),
        deadline_ms: args.deadline.map(millis).unwrap_or_default(),
        on_deadline: word(args.on_deadline.map(|w| w.word())),
        local_data: word(args.local_data.map(|w| w.word())),
        daemons: word(args.daemons.map(|w| w.word())),
        delete_unmanaged: args.delete_unmanaged,
        allow_downtime: args.allow_downtime,
        dry_run: args.dry_run.on,
        ..wire::DrainRequest::default()
    };
    let reply = session.client.drain(request).await?;
    let view = reply.view.unwrap_or_else(|| DrainView {
        node: node.clone(),
        ..DrainView::default()
    });
    if args.dry_run.on {
        return dry_run(args, &view, session);
    }
    let drained = view.phase == page::DRAINED;
    if drained || args.no_wait {
        let words = match (drained, reply.began) {
            (true, _) => "already drained",
            (false, true) => "draining",
            (false, false) => "already draining",
        };
        return end(args, &view, &format!("node/{node} {words}"), session);
    }
    let last = wait(args, &node, &view, session).await?;
    // By the coordinator's clock alone; of one that others began by whole seconds.
    let began = if reply.began { view.now_ms } else { view.since_ms };
    let ended = if reply.began { last.now_ms } else { last.ended_ms };
    let took = page::took(ended.saturating_sub(began));
    if last.phase == page::DRAINED {
        return end(args, &last, &format!("node/{node} drained in {took}"), session);
    }
    if args.output.is_some() {
        end(args, &last, "", session)?;
    }
    Err(Error::Refused(page::given_up(&last)))
}

/// Shows the drain until it has ended.
async fn wait(args: &DrainArgs, node: &str, first: &DrainView, session: &mut Session<'_>) -> Result<DrainView, Error> {
    let interrupt = session.env.interrupt.clone();
    let mut follow = Follow::new(session.client.clone(), OfNode(node.to_owned()), session.env.times);
    let mut progress = Progress::new(args.output.is_none(), session);
    progress.view(first, session);
    let watched = async {
        loop {
            tokio::select! {
                step = follow.next() => match step? {
                    views::Step::View(view) => {
                        progress.view(&view, session);
                        if view.ended_ms > 0 {
                            return Ok(*view);
                        }
                    }
                    views::Step::Broken(why) => {
                        progress.say(&format!("watch: {why}; the drain goes on, and so does this watch"), session);
                    }
                },
                () = progress.tick() => progress.again(session),
            }
        }
    };
    let ended = tokio::select! {
        ended = watched => Some(ended),
        () = interrupt => None,
    };
    progress.finish(session);
    match ended {
        Some(ended) => ended,
        None => {
            session.note(&format!(
                "the drain of {node} goes on; watch it again: wharf drain {node}; stop it: wharf drain {node} --cancel"
            ));
            Err(Error::GoesOn)
        }
    }
}

async fn cancel(node: &str, args: &DrainArgs, session: &mut Session<'_>) -> Result<(), Error> {
    if let Some(reason) = &args.reason {
        let client = session.client.clone().because(reason);
        session.client = client.map_err(|what| Error::Usage(format!("--reason: {what}")))?;
    }
    let request = wire::CancelDrainRequest {
        name: node.to_owned(),
        dry_run: args.dry_run.on,
        ..wire::CancelDrainRequest::default()
    };
    let reply = session.client.cancel_drain(request).await?;
    let (words, dry) = if reply.changed {
        ("drain cancelled", args.dry_run.suffix())
    } else {
        ("not draining", "")
    };
    let still = match reply.still_held_by.as_slice() {
        [] => String::new(),
        holds => format!(" (still SchedulingDisabled: {})", holds.join("; ")),
    };
    session.out(&(clean(&format!("node/{node} {words}{still}{dry}")) + "\n"))
}

/// What would happen; of a drain under way what happens.
fn dry_run(args: &DrainArgs, view: &DrainView, session: &mut Session<'_>) -> Result<(), Error> {
    let planned = view.phase == page::PLANNED;
    match args.output {
        Some(_) => end(args, view, "", session)?,
        None if planned => session.out(&page::plan(view))?,
        None => session.out(&page::standing(view, view.now_ms))?,
    }
    if planned && page::stays_behind(view) {
        return Err(Error::NotWell);
    }
    Ok(())
}

/// The last word: the object for programs, a line for people.
fn end(args: &DrainArgs, view: &DrainView, words: &str, session: &mut Session<'_>) -> Result<(), Error> {
    match args.output {
        Some(DataFormat::Json) => session.out(&output::json(&page::object(view))),
        Some(DataFormat::Yaml) => session.out(&output::yaml(&page::object(view))?),
        None => session.out(&(clean(words) + "\n")),
    }
}

fn millis(duration: Duration) -> u64 {
    // Any part of a millisecond is one: nothing is no deadline.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
