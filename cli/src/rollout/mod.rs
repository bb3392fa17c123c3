//! `wharf rolling-update` and `wharf rollout`: the pods of one controller give way to those of another.
//!
//! | file | what it is |
//! |---|---|
//! | this | asks the coordinator, and waits |
//! | `lines` | what an update prints, step by step: pure |
//! | `page` | an update on a line and as an object, a history as a table: pure |
//!
//! Invariant: the update is the coordinator's; nothing that becomes of this command changes it.

mod lines;
mod page;

use std::time::Duration;

use proto::{
    model::{Kind, namespace_flag},
    wire::{self, BeginUpdateReply, UpdateView},
};
use serde_json::Value;
use tokio::time::sleep;

use self::lines::Lines;
pub use self::page::line;
use crate::{
    args::{
        DataFormat, DryRun, RollingUpdateArgs, RolloutCommand, RolloutHistoryArgs, RolloutStatusArgs, RolloutUndoArgs,
        UpdateLimitArgs,
    },
    error::Error,
    files,
    manifest::Check,
    output, select,
    session::Session,
    target::{Reference, Targets},
    views::{self, Follow, OfController},
};

const KIND: Kind = Kind::ReplicationController;

/// At least so often an update is looked at, where nobody says otherwise.
const POLL: Duration = Duration::from_secs(3);

pub async fn rolling_update(args: &RollingUpdateArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let target = one(std::slice::from_ref(&args.old), session)?;
    if args.rollback {
        return roll_back(args, &target, session).await;
    }
    let mut request = wire::BeginUpdateRequest {
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        image: args.image.clone().unwrap_or_default(),
        container: args.container.clone().unwrap_or_default(),
        image_pull_policy: args.image_pull_policy.map(|p| p.word().to_owned()).unwrap_or_default(),
        new_name: args.new.clone().unwrap_or_default(),
        label_key: args.deployment_label_key.clone(),
        own_replicas: args.use_file_replicas,
        limits: Some(limits(&args.limits)),
        dry_run: args.dry_run.on,
        ..wire::BeginUpdateRequest::default()
    };
    if let Some(file) = &args.filename {
        let (json, cause) = manifest(file, &target, session)?;
        request.controller = json;
        request.cause = cause;
    }
    let reply = session.client.begin_update(request).await?;
    follow(reply, &target, args.no_wait, args.dry_run, args.poll_interval, session).await
}

/// The one controller of the file, and how the history names it.
fn manifest(file: &std::path::Path, target: &Reference, session: &mut Session<'_>) -> Result<(Vec<u8>, String), Error> {
    let documents = files::load(&[file.to_owned()], Check::Whole, session)?;
    let [document] = documents.as_slice() else {
        return Err(Error::Refused(format!(
            "{}: it has {} objects; an update takes one replicationcontroller",
            file.display(),
            documents.len()
        )));
    };
    if document.kind != KIND {
        return Err(Error::Refused(format!(
            "{}: {} {:?} is no replicationcontroller; an update takes one",
            document.place,
            document.kind.singular(),
            document.name
        )));
    }
    let namespace = document.reference(session).namespace;
    if namespace != target.namespace {
        return Err(Error::Refused(format!(
            "{}: metadata.namespace: it is {namespace:?}, but {} is in {:?}: the new controller must be in the old one's",
            document.place, target.name, target.namespace
        )));
    }
    if let Some(warning) = &document.warning {
        session.warn(warning);
    }
    let shown = if file.as_os_str() == "-" {
        "-".into()
    } else {
        file.to_string_lossy()
    };
    let cause = format!("rolling-update {} -f {shown}", target.name);
    Ok((document.json.to_string().into_bytes(), cause))
}

fn limits(args: &UpdateLimitArgs) -> wire::UpdateLimits {
    let text = |given: &Option<String>| given.clone().unwrap_or_default();
    let ms = |given: Option<Duration>| given.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    wire::UpdateLimits {
        max_surge: text(&args.max_surge),
        max_unavailable: text(&args.max_unavailable),
        period_ms: ms(args.update_period),
        timeout_ms: ms(args.timeout),
        on_failure: args.on_failure.map(|w| w.word().to_owned()).unwrap_or_default(),
        pause_after: text(&args.pause_after),
    }
}

/// Shows an update that was begun, or was there.
async fn follow(
    reply: BeginUpdateReply,
    target: &Reference,
    no_wait: bool,
    dry_run: DryRun,
    poll: Duration,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    for warning in &reply.warnings {
        session.warn(warning);
    }
    if dry_run.on {
        for (number, json) in [&reply.old, &reply.new].into_iter().enumerate() {
            if number > 0 {
                session.out("---\n")?;
            }
            let object: Value = serde_json::from_slice(json)
                .map_err(|e| Error::Refused(format!("the coordinator sent a controller damaged: {e}")))?;
            let text = output::yaml(&object)?;
            session.out(&text)?;
        }
        return Ok(());
    }
    let Some(view) = reply.view else {
        return Err(Error::Refused(format!("the update of {} is over already", target.name)));
    };
    let (lines, said) = if reply.began {
        Lines::created(&view)
    } else {
        Lines::resumed(&view, false)
    };
    print(&said, session)?;
    if no_wait {
        session.note(&goes_on(&view));
        return Ok(());
    }
    wait(target, lines, Wanted::Forward, poll, session).await
}

/// Where an update is to end for this command to succeed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Forward,
    Back,
}

async fn roll_back(args: &RollingUpdateArgs, target: &Reference, session: &mut Session<'_>) -> Result<(), Error> {
    let limits = Some(limits(&args.limits));
    let reply = session
        .client
        .steer_update(target, "rollback", limits, args.dry_run.on)
        .await?;
    let Some(view) = reply.view else {
        return Err(Error::Refused(format!("no update of {} in progress", target.name)));
    };
    if args.dry_run.on {
        return session.out(&format!(
            "{target} update to {} would be rolled back (dry run)\n",
            view.new
        ));
    }
    let (lines, said) = Lines::resumed(&view, true);
    print(&said, session)?;
    if args.no_wait {
        session.note(&goes_on(&view));
        return Ok(());
    }
    wait(target, lines, Wanted::Back, args.poll_interval, session).await
}

/// Prints what happens until the update is over, or stands still until somebody decides.
async fn wait(
    target: &Reference,
    mut lines: Lines,
    wanted: Wanted,
    poll: Duration,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let interrupt = session.env.interrupt.clone();
    let mut last: Option<UpdateView> = None;
    let ended = {
        let watched = watch(target, poll, session, |view, session| {
            print(&lines.to(view), session)?;
            for note in lines.notes(view) {
                session.note(&note);
            }
            last = Some(view.clone());
            Ok(view.ended_ms > 0 || view.paused)
        });
        tokio::select! {
            ended = watched => Some(ended),
            () = interrupt => None,
        }
    };
    if let Some(ended) = ended {
        ended?;
    } else {
        let words = last
            .as_ref()
            .map_or_else(|| format!("update of {} goes on", target.name), goes_on);
        session.note(&words);
        return Err(Error::GoesOn);
    }
    match last {
        Some(view) if view.failed => Err(Error::Refused(format!("the update of {} failed", view.old))),
        Some(view) if view.phase == lines::ABANDONED => Err(Error::Refused(format!(
            "the update of {} was given up: {} was deleted meanwhile; {} stays as it is",
            view.old, view.old, view.new
        ))),
        Some(view) if view.phase == lines::ROLLED_BACK && wanted == Wanted::Forward => {
            let why = match view.back_why.as_str() {
                "" => "somebody asked for it",
                why => why,
            };
            Err(Error::Refused(format!(
                "the update of {} was rolled back: {why}",
                view.old
            )))
        }
        // Whoever paused it knows.
        Some(view) if view.ended_ms == 0 => Err(Error::GoesOn),
        _ => Ok(()),
    }
}

/// Calls `each` with every view, through breaks, until it says that this is enough.
async fn watch(
    target: &Reference,
    poll: Duration,
    session: &mut Session<'_>,
    mut each: impl FnMut(&UpdateView, &mut Session<'_>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut follow = Follow::new(session.client.clone(), OfController(target.clone()), session.env.times);
    let poll = if poll.is_zero() { POLL } else { poll };
    loop {
        // One that is not open yet has times of its own.
        let late = follow.open();
        let renew = tokio::select! {
            step = follow.next() => match step? {
                views::Step::View(view) => {
                    if each(&view, session)? {
                        return Ok(());
                    }
                    false
                }
                views::Step::Broken(why) => {
                    session.note(&format!("watch: {why}; the update goes on, and so does this watch"));
                    false
                }
            },
            // Views come by themselves; one that is late is asked for.
            () = sleep(poll), if late => true,
        };
        if renew {
            follow.renew();
        }
    }
}

/// For who does not wait for the end.
fn goes_on(view: &UpdateView) -> String {
    let at = view.steps_before + u32::try_from(view.steps.len()).unwrap_or(u32::MAX);
    let (name, flag) = (&view.old, namespace_flag(&view.namespace));
    format!(
        "update of {name} goes on (step {} of {}). stop: wharf rollout pause rc {name}{flag} · undo: wharf rolling-update {name} --rollback{flag}",
        at.max(1),
        view.steps_in_all.max(at.max(1))
    )
}

fn print(lines: &[String], session: &mut Session<'_>) -> Result<(), Error> {
    for line in lines {
        session.out(&(output::clean(line) + "\n"))?;
    }
    Ok(())
}

pub async fn run(command: &RolloutCommand, session: &mut Session<'_>) -> Result<(), Error> {
    match command {
        RolloutCommand::Status(args) => status(args, session).await,
        RolloutCommand::History(args) => history(args, session).await,
        RolloutCommand::Undo(args) => undo(args, session).await,
        RolloutCommand::Pause(args) => steer(&args.target, "pause", "paused", args.dry_run, session).await,
        RolloutCommand::Resume(args) => steer(&args.target, "resume", "resumed", args.dry_run, session).await,
    }
}

/// The controller that the words name: `rc NAME`, `rc/NAME`, or its name alone.
fn one(words: &[String], session: &Session<'_>) -> Result<Reference, Error> {
    let named = match words {
        [name] if !name.contains('/') => vec![(KIND, name.clone())],
        words => match Targets::parse(words)? {
            Targets::Named(named) => named,
            Targets::Kinds(_) => Vec::new(),
        },
    };
    match select::references(named, session).as_slice() {
        [one] if one.kind == KIND => Ok(one.clone()),
        [other] => Err(Error::Usage(format!(
            "{} cannot be updated like this; rc can",
            other.kind.plural()
        ))),
        _ => Err(Error::Usage("which controller? e.g. rc web".into())),
    }
}

async fn steer(
    words: &[String],
    action: &str,
    done: &str,
    dry_run: DryRun,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let target = one(words, session)?;
    let reply = session.client.steer_update(&target, action, None, dry_run.on).await?;
    let already = if reply.changed { "" } else { "already " };
    let done = match (action, reply.changed) {
        ("resume", false) => "in progress",
        _ => done,
    };
    session.out(&format!("{target} {already}{done}{}\n", dry_run.suffix()))
}

async fn status(args: &RolloutStatusArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let target = one(&args.target, session)?;
    let mut last: Option<UpdateView> = None;
    let mut told: Option<String> = None;
    let (wanted, once) = (args.output.is_none(), !args.watch);
    let interrupt = session.env.interrupt.clone();
    let ended = {
        let watched = watch(&target, POLL, session, |view, session| {
            let line = page::line(view);
            if wanted && told.as_ref() != Some(&line) {
                if view.ended_ms == 0 {
                    session.note(&line);
                }
                told = Some(line);
            }
            last = Some(view.clone());
            Ok(once || view.ended_ms > 0 || view.paused)
        });
        tokio::select! {
            ended = watched => Some(ended),
            () = interrupt => None,
        }
    };
    let Some(ended) = ended else { return Err(Error::GoesOn) };
    ended?;
    let Some(view) = last else { return Ok(()) };
    match args.output {
        Some(DataFormat::Json) => session.out(&output::json(&page::object(&view)))?,
        Some(DataFormat::Yaml) => {
            let text = output::yaml(&page::object(&view))?;
            session.out(&text)?;
        }
        None if view.ended_ms > 0 => session.out(&(page::line(&view) + "\n"))?,
        None => {}
    }
    if view.failed {
        return Err(Error::NotWell);
    }
    if view.ended_ms == 0 && args.watch {
        return Err(Error::GoesOn);
    }
    Ok(())
}

async fn history(args: &RolloutHistoryArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let target = one(&args.target, session)?;
    let revisions = session.client.update_history(&target).await?;
    let Some(number) = args.revision else {
        return match args.output {
            Some(DataFormat::Json) => session.out(&output::json(&page::revisions(&revisions))),
            Some(DataFormat::Yaml) => {
                let text = output::yaml(&page::revisions(&revisions))?;
                session.out(&text)
            }
            None => {
                let now = session.now();
                session.out(&page::history(&revisions, now))
            }
        };
    };
    let found = revisions.iter().find(|r| r.number == number).ok_or_else(|| {
        Error::Refused(format!(
            "replicationcontrollers {:?}: there is no revision {number} of it; see: wharf rollout history rc {}",
            target.name, target.name
        ))
    })?;
    let object: Value = serde_json::from_slice(&found.controller)
        .map_err(|e| Error::Refused(format!("the coordinator sent a controller damaged: {e}")))?;
    match args.output {
        Some(DataFormat::Json) => session.out(&output::json(&object)),
        Some(DataFormat::Yaml) | None => {
            let text = output::yaml(&object)?;
            session.out(&text)
        }
    }
}

async fn undo(args: &RolloutUndoArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let target = one(&args.target, session)?;
    let request = wire::UndoUpdateRequest {
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        to_revision: args.to_revision.unwrap_or_default(),
        limits: Some(limits(&args.limits)),
        dry_run: args.dry_run.on,
        ..wire::UndoUpdateRequest::default()
    };
    let reply = session.client.undo_update(request).await?;
    follow(reply, &target, args.no_wait, args.dry_run, POLL, session).await
}
