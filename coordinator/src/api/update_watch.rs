//! How a rolling update stands, on the wire, and the watch of it. Called by `updates`.
//!
//! Invariant: the clock alone is no news; a watch ends with the update that it began with, by whatever names its
//! controllers have by then.

use proto::{
    model::Time,
    wire::{UpdateSide, UpdateStep, UpdateView},
};

use super::{
    Api, convert,
    errors::ApiError,
    updates::{found, none},
    view_watch::{ViewStream, Viewed},
    write::now_ms,
};
use crate::{
    plan::rollout::report::{Standing, State, report},
    world::{
        Key, Touched, World,
        hub::{Batch, Hub},
    },
};

/// How the present or last update under this key stands; none: there is none.
pub(super) fn view(world: &World, key: &Key, now_ms: u64) -> Option<UpdateView> {
    let record = &world.updates.get(key)?.value;
    let report = report(world, key, Time::from_millis(now_ms))?;
    let phase = match report.state {
        State::Updating => "Updating",
        State::RollingBack => "RollingBack",
        State::Paused => "Paused",
        State::Blocked => "Blocked",
        State::Over(how) => how.as_str(),
    };
    let steps = record.steps.iter().map(|step| UpdateStep {
        old: step.old,
        new: step.new,
        back: step.back,
        done: step.done.is_some(),
    });
    Some(UpdateView {
        namespace: key.0.clone(),
        old: key.1.clone(),
        new: record.new_name.clone(),
        id: record.id.clone(),
        phase: phase.to_owned(),
        by: record.by.clone(),
        cause: record.cause.clone(),
        since_ms: convert::ms(record.since),
        ended_ms: record.ended.map_or(0, |end| convert::ms(end.at)),
        renames: record.renames,
        target: if record.back { record.from } else { record.target },
        steps: steps.collect(),
        steps_before: record.before,
        steps_in_all: report.steps,
        old_side: Some(side(report.old)),
        new_side: Some(side(report.new)),
        why: report.why,
        now_ms,
        paused: record.ended.is_none() && record.paused.is_some(),
        back: record.back,
        back_why: record.back_why.clone(),
        failed: record.ended.is_none() && record.paused.as_ref().is_some_and(|p| p.failed),
    })
}

fn side(standing: Standing) -> UpdateSide {
    UpdateSide {
        replicas: standing.replicas,
        available: standing.available,
    }
}

impl Api {
    /// Errors: as of `Updates.Watch`.
    pub(super) fn watch_update(&self, key: &Key) -> Result<ViewStream<UpdateView>, ApiError> {
        self.watch_view(|world| {
            let key = found(world, key)?;
            let id = world.updates.get(&key).map(|u| u.value.id.clone());
            Ok(Watched {
                id: id.ok_or_else(|| none(&key.1))?,
                key,
            })
        })
    }
}

struct Watched {
    key: Key,
    /// Of the update that is watched.
    id: String,
}

impl Viewed for Watched {
    type View = UpdateView;

    fn look(&mut self, world: &World) -> Result<UpdateView, ApiError> {
        let view = view(world, &self.key, now_ms()).ok_or_else(|| none(&self.key.1))?;
        if view.id != self.id {
            let what = format!(
                "replicationcontrollers {:?}: the update that was watched has ended, and another has begun; watch again",
                self.key.1
            );
            return Err(ApiError::Gone(what));
        }
        Ok(view)
    }

    fn ended(view: &UpdateView) -> bool {
        view.ended_ms > 0
    }

    fn news(before: &UpdateView, now: &UpdateView) -> bool {
        let timeless = |view: &UpdateView| UpdateView {
            now_ms: 0,
            ..view.clone()
        };
        timeless(before) != timeless(now)
    }

    fn concerns(&self, hub: &Hub, batch: &Batch) -> bool {
        batch.touched.iter().any(|touched| match touched {
            Touched::Update(key) => *key == self.key,
            Touched::Settings => true,
            // Of either side, or a pod of either.
            Touched::Controller(key) => hub.read(|world| {
                let update = world.update_at(&self.key);
                *key == self.key || update.is_some_and(|u| u.new.0 == key)
            }),
            _ => false,
        })
    }
}
