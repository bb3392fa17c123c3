//! What a plan may do for a rolling update. Part of `check`.
//!
//! Invariant: counts anew from the world; knows nothing of how `rollout` and `disruption` decide. Both sides together are
//! never more than the surge allows, and a pod that serves goes only where enough others of both serve.

use std::collections::HashMap;

use proto::model::ReplicationController;

use super::{Change, Checked, Group, Plan, Staged, at, ensure};
use crate::{
    store::Rv,
    world::{
        Key, PodState,
        updates::{UpdateOutcome, UpdateRecord, Updating},
    },
};

impl Staged<'_> {
    fn under(&self, key: &Key) -> Result<Updating<'_>, String> {
        let update = self
            .world
            .update_at(key)
            .ok_or_else(|| format!("{key:?} is not updated"))?;
        ensure(*self.group == Group::Update(key.clone()), || {
            format!("the update of {key:?} is another group's")
        })?;
        Ok(update)
    }

    /// The counts and the stops of a plan of an update.
    pub(super) fn update(&self, plan: &Plan) -> Checked {
        let Group::Update(key) = self.group else { return Ok(()) };
        let Some(update) = self.world.update_at(key) else {
            return ensure(plan.commits.is_empty(), || format!("{key:?} is not updated"));
        };
        let record = &update.record.value;
        for commit in &plan.commits {
            let (mut counts, mut steps) = (
                [update.old, update.new].map(|(_, c)| i64::from(c.rc.spec.replicas)),
                false,
            );
            let before: i64 = counts.iter().sum();
            for change in &commit.changes {
                if let Change::SetReplicas { key, replicas, .. } = change {
                    steps = true;
                    counts[usize::from(*key == *update.new.0)] = i64::from(*replicas);
                }
            }
            let after: i64 = counts.iter().sum();
            // One that was scaled down meanwhile has more for a while, but never gets more.
            ensure(after <= record.ceiling().max(before), || {
                format!(
                    "the update of {key:?} would have {after} pods, more than {}",
                    record.ceiling()
                )
            })?;
            if steps {
                self.spares_enough(&update, commit)?;
            }
        }
        Ok(())
    }

    /// What a step stops and serves leaves enough others that serve.
    fn spares_enough(&self, update: &Updating<'_>, commit: &crate::plan::Commit) -> Checked {
        let record = &update.record.value;
        let old = &record.old;
        let stopped = commit.changes.iter().filter_map(|c| match c {
            Change::Stop { pod, .. } => self.world.pods.get_key_value(&pod.key),
            _ => None,
        });
        let stopped: HashMap<&Key, &PodState> = stopped.collect();
        let serving = stopped.values().filter(|pod| self.is_up(pod)).count();
        if serving == 0 {
            return Ok(());
        }
        // What a taint drives out in the same pass is no business of the update's.
        let both = self.world.pods_of_both(old);
        let left = both.filter(|(k, p)| !stopped.contains_key(k) && self.is_up(p)).count();
        let one = usize::from(
            [update.old.1, update.new.1]
                .iter()
                .any(|c| super::drain::one_at_a_time(&c.rc)),
        );
        let missed = usize::try_from(record.missed()).unwrap_or(0).max(one);
        let floor = usize::try_from(record.floor()).unwrap_or(0).saturating_sub(missed);
        ensure(left >= floor, || {
            format!("the update stops {serving} that serve, and {left} would be left where {floor} must")
        })
    }

    pub(super) fn set_update(&self, key: &Key, rv: Rv, record: &UpdateRecord, commit: &[Change]) -> Checked {
        let update = self.under(key)?;
        let before = update.record;
        at(before.rv, rv)?;
        let same = UpdateRecord {
            back: before.value.back,
            back_why: before.value.back_why.clone(),
            held: before.value.held,
            paused: before.value.paused.clone(),
            tried: before.value.tried,
            steps: before.value.steps.clone(),
            before: before.value.before,
            progressed: before.value.progressed,
            ended: before.value.ended,
            ..record.clone()
        };
        ensure(same == *before.value, || {
            format!("the update of {key:?} is made another")
        })?;
        ensure(record.back || !before.value.back, || {
            format!("the update of {key:?} was turned back, for good")
        })?;
        ensure(record.begun() >= before.value.begun(), || {
            format!("steps of the update of {key:?} are forgotten")
        })?;
        let Some(end) = record.ended else { return Ok(()) };
        let gone = match end.how {
            UpdateOutcome::Updated => update.old,
            UpdateOutcome::RolledBack => update.new,
            UpdateOutcome::Abandoned => return Err("only an operator gives an update up".into()),
        };
        ensure(record.back == (end.how == UpdateOutcome::RolledBack), || {
            format!("the update of {key:?} ends the wrong way")
        })?;
        let live = self.world.pods_of(&gone.1.rc.metadata.uid).any(|(_, p)| !p.stopping());
        ensure(gone.1.rc.spec.replicas == 0 && !live, || {
            format!("{:?} has pods still", gone.0)
        })?;
        let goes = commit.iter().any(|c| match c {
            Change::RemoveController { key, .. } => key == gone.0,
            Change::Rename { to, .. } => to == gone.0,
            _ => false,
        });
        ensure(goes, || format!("{:?} stays after its update", gone.0))
    }

    /// A controller goes with the end of its update.
    pub(super) fn is_replaced(&self, key: &Key, commit: &[Change]) -> bool {
        let uid = self.world.controllers.get(key).map(|c| c.rc.metadata.uid.clone());
        commit.iter().any(|change| match change {
            Change::SetUpdate { record, .. } => {
                let gone = if record.back { &record.new } else { &record.old };
                record.ended.is_some() && uid.as_ref() == Some(gone)
            }
            _ => false,
        })
    }

    pub(super) fn set_replicas(&self, key: &Key, rv: Rv, replicas: i32) -> Checked {
        let Group::Update(of) = self.group else {
            return Err(format!("the count of {key:?} is its owner's"));
        };
        let update = self.under(of)?;
        let side = [update.old, update.new].into_iter().find(|(k, _)| *k == key);
        let (_, state) = side.ok_or_else(|| format!("{key:?} is no side of the update of {of:?}"))?;
        at(state.rv, rv)?;
        ensure(replicas >= 0 && replicas != state.rc.spec.replicas, || {
            format!("{key:?} has {replicas} already")
        })
    }

    pub(super) fn rename(
        &self,
        (from, from_rv): (&Key, Rv),
        (to, to_rv): (&Key, Rv),
        controller: &ReplicationController,
        commit: &[Change],
    ) -> Checked {
        let update = self.under(to)?;
        ensure(update.new.0 == from && update.old.0 == to, || {
            format!("{from:?} does not replace {to:?}")
        })?;
        at(update.new.1.rv, from_rv)?;
        at(update.old.1.rv, to_rv)?;
        let mut same = controller.clone();
        same.metadata.name.clone_from(&from.1);
        ensure(same == *update.new.1.rc && controller.metadata.name == to.1, || {
            format!("{from:?} becomes another with its name")
        })?;
        ensure(update.record.value.renames && self.is_replaced(to, commit), || {
            format!("{from:?} keeps its name")
        })
    }
}

#[cfg(test)]
#[path = "check_update_tests.rs"]
mod tests;
