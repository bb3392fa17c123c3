//! What an operator says of an update that goes on, and what a scale, another spec and a delete of either side mean
//! meanwhile. Called by the service, `controllers`, `revise` and `delete`.
//!
//! Invariant: pure; what is turned back is never turned forward again; counts of both sides are the update's, what a user
//! sets is its target.

use proto::model::{Kind, Object, ReplicationController, Time, namespace_flag};
use serde_json::{Value, json};

use super::{Limits, none};
use crate::{
    api::{errors::ApiError, write::Decision},
    plan::rollout::turn_back,
    store::{Change, Expect, keys},
    world::{
        Key, World,
        record::encode,
        updates::{Paused, UpdateEnd, UpdateOutcome, UpdateRecord, Updating},
    },
};

const KIND: Kind = Kind::ReplicationController;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Pause,
    Resume,
    Rollback,
}

impl Action {
    /// Errors: INVALID_ARGUMENT.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "pause" => Ok(Self::Pause),
            "resume" => Ok(Self::Resume),
            "rollback" => Ok(Self::Rollback),
            other => Err(ApiError::BadRequest(format!(
                "rolling update: action: must be pause, resume or rollback, is {other:?}"
            ))),
        }
    }

    /// Of the audit record.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Pause => "pause-update",
            Self::Resume => "resume-update",
            Self::Rollback => "rollback-update",
        }
    }
}

pub(super) fn steer(
    world: &World,
    key: &Key,
    action: Action,
    limits: &Limits,
    caller: &str,
    now: Time,
) -> Result<Decision, ApiError> {
    let state = world.controllers.get(key);
    let update = state.and_then(|c| world.updating(&c.rc.metadata.uid));
    let update = match (update, state) {
        (Some(update), _) => update,
        (None, Some(_)) => return Err(none(&key.1)),
        // By the name that the new controller had is asked of what is known.
        (None, None) if world.updates.contains_key(key) => return Err(none(&key.1)),
        (None, None) => return Err(ApiError::not_found(KIND, &key.1)),
    };
    let mut record = (*update.record.value).clone();
    match action {
        Action::Pause if record.paused.is_none() => {
            record.paused = Some(Paused {
                at: now,
                by: caller.to_owned(),
                failed: false,
                why: String::new(),
            });
        }
        Action::Resume if record.paused.is_some() => go_on(&mut record, now),
        Action::Rollback if !record.back => turn_back(&mut record, now, String::new()),
        Action::Rollback if record.paused.is_some() => go_on(&mut record, now),
        Action::Pause | Action::Resume | Action::Rollback => {}
    }
    if action == Action::Rollback {
        record.limits = limits.over(&record.limits);
    }
    Ok(decided(world, &update, &record, ""))
}

/// Its time begins anew.
fn go_on(record: &mut UpdateRecord, now: Time) {
    (record.paused, record.held, record.progressed) = (None, None, now);
}

/// The write of the record, if it is another one.
fn decided(world: &World, update: &Updating<'_>, next: &UpdateRecord, detail: &str) -> Decision {
    let (before, object) = (
        &update.record.value,
        Object::ReplicationController((*update.old.1.rc).clone()),
    );
    let object = world.object(KIND, &update.key.0, &update.key.1).unwrap_or(object);
    Decision {
        detail: detail.to_owned(),
        before: Some(shown(before)),
        after: Some(shown(next)),
        ..Decision::new(write(update, next).into_iter().collect(), object)
    }
}

fn write(update: &Updating<'_>, next: &UpdateRecord) -> Option<Change> {
    let at = keys::update(&update.key.0, &update.key.1);
    (*next != *update.record.value).then(|| Change::put(at, Expect::At(update.record.rv), encode(next)))
}

/// What an audit record shows.
fn shown(record: &UpdateRecord) -> Value {
    json!({"update": record})
}

/// The update with another target, for whichever side it was set.
fn retargeted(update: &Updating<'_>, replicas: i32, now: Time) -> UpdateRecord {
    let mut record = (*update.record.value).clone();
    let count = u32::try_from(replicas).unwrap_or(0);
    if (record.from, record.target) == (count, count) {
        return record;
    }
    (record.from, record.target) = (count, count);
    record.progressed = now;
    // The next step is reckoned with it.
    if let Some(step) = record.steps.last_mut().filter(|s| s.done.is_none()) {
        step.done = Some(now);
    }
    record
}

/// A scale of either side. The result is the target before.
pub fn scale(world: &World, update: &Updating<'_>, replicas: i32, now: Time) -> Decision {
    let next = retargeted(update, replicas, now);
    let before = update.record.value.target;
    let detail = format!("replicas {before} -> {replicas}, of the update of {}", update.key.1);
    let (from, to) = (&update.old.0.1, &update.new.0.1);
    let mut words = format!("{from} is being replaced by {to}: the update ends with {replicas} replicas");
    if next.paused.is_some() {
        let flag = namespace_flag(&update.key.0);
        words = format!("{words}; it is paused, and nothing comes of it until: wharf rollout resume rc {from}{flag}");
    }
    Decision {
        result: before.to_string(),
        warnings: vec![words],
        ..decided(world, update, &next, &detail)
    }
}

/// What a revision of either side's spec means: its count is the target, its pods do not become others. Errors:
/// FAILED_PRECONDITION.
pub fn revised(
    update: &Updating<'_>,
    old: &ReplicationController,
    new: &mut ReplicationController,
    now: Time,
) -> Result<Option<Change>, ApiError> {
    let (a, b) = (&old.spec, &new.spec);
    if a.template != b.template || a.selector != b.selector || a.min_ready_seconds != b.min_ready_seconds {
        let (from, to, flag) = (&update.old.0.1, &update.new.0.1, namespace_flag(&update.key.0));
        let what = format!(
            "{from} is being replaced by {to}: template and selector of both stay as they are until that is over; watch it: wharf rollout status rc {from}{flag}, or take it back: wharf rolling-update {from} --rollback{flag}"
        );
        return Err(ApiError::in_use(KIND, &old.metadata.name, what));
    }
    if a.replicas == b.replicas {
        return Ok(None);
    }
    let next = retargeted(update, b.replicas, now);
    // The count itself follows step by step.
    new.spec.replicas = old.spec.replicas;
    Ok(write(update, &next))
}

/// A delete of either side: of the new one it turns the update back; of the old one it is refused, or, with force, ends the
/// update where it is. The change, and whether the controller itself stays. Errors: FAILED_PRECONDITION.
pub fn deleted(update: &Updating<'_>, key: &Key, force: bool, now: Time) -> Result<(Option<Change>, bool), ApiError> {
    let mut next = (*update.record.value).clone();
    if key == update.new.0 {
        if !next.back {
            turn_back(&mut next, now, format!("{} was deleted", key.1));
        }
        return Ok((write(update, &next), true));
    }
    if !force {
        let (from, to, flag) = (&update.old.0.1, &update.new.0.1, namespace_flag(&update.key.0));
        let what = format!(
            "it is being replaced by {to}, and its pods would go with it; wait: wharf rollout status rc {from}{flag}, take it back: wharf rolling-update {from} --rollback{flag}, or delete it all the same: --force"
        );
        return Err(ApiError::in_use(KIND, from, what));
    }
    next.ended = Some(UpdateEnd {
        at: now,
        how: UpdateOutcome::Abandoned,
    });
    Ok((write(update, &next), false))
}
