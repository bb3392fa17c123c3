//! How an update stands, in words. Called by the api for its views.
//!
//! Invariant: pure; says what the planner would do, and never more than it knows.

use proto::model::{Time, namespace_flag};

use super::{Side, Work, in_force, step, step::Counts};
use crate::{
    plan::{Draft, Group, disruption, health},
    world::{Key, World, updates::UpdateOutcome},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Updating,
    RollingBack,
    Paused,
    /// It waits for something that an operator can change.
    Blocked,
    Over(UpdateOutcome),
}

/// One controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub replicas: u32,
    pub available: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub state: State,
    pub old: Standing,
    pub new: Standing,
    /// Steps from the beginning to the end, as far as known.
    pub steps: u32,
    /// Why it goes no further, each with its remedy.
    pub why: Vec<String>,
}

/// How the controller's present or last update stands; none: there is none.
pub fn report(world: &World, key: &Key, now: Time) -> Option<Report> {
    let record = &world.updates.get(key)?.value;
    let begun = record.begun();
    if let Some(end) = record.ended {
        let standing = |uid: &str| {
            let found = world.controller_by_uid(uid);
            found.map_or_else(Standing::default, |found| standing(&Side::of(world, found, now)))
        };
        return Some(Report {
            state: State::Over(end.how),
            old: standing(&record.old),
            new: standing(&record.new),
            steps: begun,
            why: Vec::new(),
        });
    }
    let update = world.update_at(key)?;
    let (old, new) = (Side::of(world, update.old, now), Side::of(world, update.new, now));
    let at = record
        .step()
        .map_or_else(|| counts(record.back, &old, &new), Counts::of);
    let mut report = Report {
        state: if record.back {
            State::RollingBack
        } else {
            State::Updating
        },
        old: standing(&old),
        new: standing(&new),
        steps: begun.saturating_add(step::left(&in_force(&update), at)),
        why: Vec::new(),
    };
    if let Some(paused) = &record.paused {
        report.state = State::Paused;
        let by = match paused.by.strip_prefix("user/").unwrap_or(&paused.by) {
            "" => String::new(),
            by => format!(" by {by}"),
        };
        let why = if paused.why.is_empty() {
            String::new()
        } else {
            format!(": {}", paused.why)
        };
        let (name, flag) = (&key.1, namespace_flag(&key.0));
        let undo = if record.back {
            String::new()
        } else {
            format!("; undo: wharf rolling-update {name} --rollback{flag}")
        };
        report.why.push(format!(
            "paused{by}{why}; go on: wharf rollout resume rc {name}{flag}{undo}"
        ));
    } else if let Some(pause) = health::pause(world, now) {
        report.state = State::Paused;
        report.why.push(pause.words);
    } else {
        let why = waits(world, key, now);
        if !why.is_empty() {
            report.state = State::Blocked;
            report.why = why;
        }
    }
    Some(report)
}

fn counts(back: bool, old: &Side<'_>, new: &Side<'_>) -> Counts {
    let (comes, goes) = if back { (old, new) } else { (new, old) };
    Counts {
        comes: comes.count,
        goes: goes.count,
    }
}

fn standing(side: &Side<'_>) -> Standing {
    Standing {
        replicas: side.count,
        available: side.available,
    }
}

/// What keeps the present step from going on, and what an operator can do about it.
fn waits(world: &World, key: &Key, now: Time) -> Vec<String> {
    let Some(update) = world.update_at(key) else {
        return Vec::new();
    };
    let mut why = Vec::new();
    let mut work = Work::new(world, &update, now);
    let no_place = work
        .comes
        .live
        .iter()
        .find(|(_, pod)| pod.record.node.is_empty() && !pod.record.waiting.is_empty());
    if let Some((pod, state)) = no_place {
        let (name, flag) = (&key.1, namespace_flag(&key.0));
        let remedy = if work.record.missed() == 0 && work.record.back {
            format!(
                "; make room, or let one be missed meanwhile: wharf rolling-update {name} --rollback --max-unavailable 1{flag}"
            )
        } else if work.record.missed() == 0 {
            format!(
                "; make room, or let one be missed meanwhile: run the same command again with --max-unavailable 1, or wharf rolling-update {name} --rollback{flag}"
            )
        } else {
            "; make room".to_owned()
        };
        why.push(format!("{} has no place: {}{remedy}", pod.1, state.record.waiting));
    }
    // The next look, of which nothing is written.
    let mut draft = Draft::new(world, Group::Update(key.clone()), now);
    work.decide(&mut draft);
    // As long as new pods are on their way, those are what is waited for.
    let there = u32::try_from(work.comes.live.len()).unwrap_or(u32::MAX) >= work.comes.count
        && work
            .comes
            .live
            .iter()
            .all(|(_, pod)| disruption::available(world, pod, now));
    if let Some(refusal) = &work.refused
        && why.is_empty()
        && there
    {
        why.push(format!("{}; {}", refusal.rule, refusal.remedy));
    }
    why
}
