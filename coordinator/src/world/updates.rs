//! The records of rolling updates and of a controller's revisions, and what the world keeps of them. An update's record is
//! written by `api` (it begins, is paused, resumed, turned back, given another target) and by `control` (its steps and
//! its end); read by `plan::rollout` and by the api.
//!
//! Invariant: an update ends once. While it goes on, its two controllers are planned as one group, and their counts are
//! control's: `spec.replicas` of both is what the present step has come to.

use proto::model::{IntOrPercent, LAST_APPLIED, ReplicationController, Time};
use serde::{Deserialize, Serialize};

use super::{ControllerState, Key, PodState, Touched, Versioned, World, record::encode};
use crate::store::{MAX_BYTES, Rv};

/// Steps of an update that are kept.
pub const MAX_STEPS: usize = 64;

/// Revisions of a controller that are kept, if they fit.
pub const MAX_REVISIONS: usize = 10;

/// `update/<namespace>/<name of the old controller>`: its present or last update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateRecord {
    /// Of this update: random.
    pub id: String,
    /// Certificate identity of who began it.
    pub by: String,
    /// For the history.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    pub since: Time,
    /// Uid of the controller that is replaced.
    pub old: String,
    pub new: String,
    /// Name of the controller that replaces it, while the update goes on.
    pub new_name: String,
    /// In the end that takes the old one's name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renames: bool,
    /// Replicas of the old one when it began, and after it was turned back.
    pub from: u32,
    /// Replicas of the new one in the end.
    pub target: u32,
    pub limits: UpdateLimits,
    /// It was turned back: the new pods go and the old ones come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
    /// Why it was turned back by itself; empty: somebody asked for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub back_why: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// The pause that `pause_after` asks for is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tried: bool,
    /// The latest [`MAX_STEPS`], oldest first; the last one is under way unless it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRecord>,
    /// How many there were before those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub before: u32,
    /// When a count last changed. By control, and by api where an operator lets it go on.
    pub progressed: Time,
    /// Since when a freeze or the brake holds a step: that time does not count against it. By control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Time>,
    /// By control, or by api where the controllers are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<UpdateEnd>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives it by reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What both may do meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateLimits {
    /// Pods above what is wanted.
    pub max_surge: IntOrPercent,
    /// Pods of what is wanted that may be missed.
    pub max_unavailable: IntOrPercent,
    /// Seconds between two steps.
    #[serde(default)]
    pub period: u32,
    /// Seconds without any progress after which a step has failed.
    pub timeout: u32,
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Pause once so many of the new pods are available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_after: Option<IntOrPercent>,
}

impl Default for UpdateLimits {
    fn default() -> Self {
        Self {
            max_surge: IntOrPercent::Int(1),
            max_unavailable: IntOrPercent::Int(0),
            period: 0,
            timeout: 600,
            on_failure: OnFailure::Pause,
            pause_after: None,
        }
    }
}

/// What happens to an update whose new pods do not come to serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    #[default]
    Pause,
    Rollback,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    pub at: Time,
    /// Certificate identity; empty: the coordinator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// What came has come to nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What a step leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    #[serde(rename = "o")]
    pub old: u32,
    #[serde(rename = "n")]
    pub new: u32,
    #[serde(rename = "b", default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
    /// Since when it is over.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateEnd {
    pub at: Time,
    pub how: UpdateOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UpdateOutcome {
    /// The old controller is gone.
    Updated,
    /// The new one is.
    RolledBack,
    /// An operator deleted the old one meanwhile: the new one stays as it was.
    Abandoned,
}

impl UpdateOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Updated => "Updated",
            Self::RolledBack => "RolledBack",
            Self::Abandoned => "Abandoned",
        }
    }
}

impl UpdateRecord {
    /// The step under way.
    pub fn step(&self) -> Option<&StepRecord> {
        self.steps.last().filter(|s| s.done.is_none())
    }

    /// One more is begun; the oldest goes.
    pub fn begin(&mut self, step: StepRecord) {
        self.steps.push(step);
        if self.steps.len() > MAX_STEPS {
            self.steps.remove(0);
            self.before += 1;
        }
    }

    /// Steps that were begun.
    pub fn begun(&self) -> u32 {
        self.before
            .saturating_add(u32::try_from(self.steps.len()).unwrap_or(u32::MAX))
    }

    /// What the limits are shares of.
    fn whole(&self) -> i64 {
        i64::from(self.from.max(self.target))
    }

    /// Pods above what is wanted. Where nothing may be missed and nothing may be too many, nothing could ever go on: then
    /// one may be too many.
    pub fn surge(&self) -> i64 {
        let surge = self.limits.max_surge.of(self.whole()).max(0);
        if surge == 0 && self.missed() == 0 { 1 } else { surge }
    }

    /// Pods that may be missed: a share is rounded down here, as in Kubernetes' deployments.
    pub fn missed(&self) -> i64 {
        match self.limits.max_unavailable {
            IntOrPercent::Int(n) => i64::from(n.max(0)),
            IntOrPercent::Percent(share) => self.whole() * i64::from(share) / 100,
        }
    }

    /// As many must be available, but for what may be missed.
    pub fn floor(&self) -> i64 {
        i64::from(self.from.min(self.target))
    }

    /// Pods of both sides together, at most.
    pub fn ceiling(&self) -> i64 {
        self.whole() + self.surge()
    }
}

/// `revisions/<namespace>/<name>`: what a controller was, oldest first, the present one last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionsRecord {
    pub revisions: Vec<Revision>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// From 1.
    pub number: u32,
    pub at: Time,
    /// Certificate identity; empty: not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// Without status.
    pub controller: ReplicationController,
}

impl RevisionsRecord {
    /// The one before, made of the controller itself where nothing is on record.
    pub fn of(present: &ReplicationController) -> Self {
        let at = present.metadata.creation_timestamp.unwrap_or_default();
        Self {
            revisions: vec![Revision {
                number: 1,
                at,
                by: String::new(),
                cause: String::new(),
                controller: kept(present),
            }],
        }
    }

    /// The present one is this by now, of so many replicas.
    pub fn is_now(&mut self, present: &ReplicationController, replicas: u32) {
        if let Some(last) = self.revisions.last_mut() {
            last.controller = kept(present);
            last.controller.spec.replicas = i32::try_from(replicas).unwrap_or(i32::MAX);
        }
    }

    /// With one more; the oldest go, so that what is kept fits into a commit beside the controller itself.
    pub fn and(mut self, at: Time, by: &str, cause: &str, controller: &ReplicationController) -> Self {
        let number = self.revisions.last().map_or(0, |r| r.number) + 1;
        self.revisions.push(Revision {
            number,
            at,
            by: by.to_owned(),
            cause: cause.to_owned(),
            controller: kept(controller),
        });
        let surplus = self.revisions.len().saturating_sub(MAX_REVISIONS);
        self.revisions.drain(..surplus);
        while self.revisions.len() > 2 && encode(&self).len() > MAX_BYTES / 2 {
            self.revisions.remove(0);
        }
        self
    }
}

/// Without the command's own note of what was applied last: it is the controller once more.
fn kept(controller: &ReplicationController) -> ReplicationController {
    let mut kept = controller.clone();
    kept.metadata.annotations.remove(LAST_APPLIED);
    kept
}

/// An update that goes on, with its controllers.
#[derive(Clone, Copy, Debug)]
pub struct Updating<'w> {
    pub key: &'w Key,
    pub record: &'w Versioned<UpdateRecord>,
    pub old: (&'w Key, &'w ControllerState),
    pub new: (&'w Key, &'w ControllerState),
}

impl World {
    /// The update that this controller, by uid, is one side of, while it goes on and both are there.
    pub fn updating(&self, uid: &str) -> Option<Updating<'_>> {
        self.update_at(self.updating.get(uid)?)
    }

    /// The update of the controller of this name, likewise.
    pub fn update_at(&self, key: &Key) -> Option<Updating<'_>> {
        let (key, record) = self.updates.get_key_value(key)?;
        if record.value.ended.is_some() {
            return None;
        }
        Some(Updating {
            key,
            record,
            old: self.controller_by_uid(&record.value.old)?,
            new: self.controller_by_uid(&record.value.new)?,
        })
    }

    /// What this controller was, as far as is known; what another one of its name was is not its own.
    pub fn revisions_of(&self, key: &Key, rc: &ReplicationController) -> RevisionsRecord {
        let known = self.revisions.get(key).map(|r| &r.value);
        let own = known.filter(|r| {
            r.revisions
                .last()
                .is_some_and(|l| l.controller.metadata.uid == rc.metadata.uid)
        });
        own.map_or_else(|| RevisionsRecord::of(rc), |r| (**r).clone())
    }

    /// The other side of an update that goes on.
    pub fn partner(&self, uid: &str) -> Option<&str> {
        let record = &self.updates.get(self.updating.get(uid)?)?.value;
        Some(if record.old == uid { &record.new } else { &record.old })
    }

    /// Pods of a controller, and of the other side of an update that goes on.
    pub fn pods_of_both<'w>(&'w self, uid: &'w str) -> impl Iterator<Item = (&'w Key, &'w PodState)> {
        let partner = self.partner(uid);
        self.pods_of(uid)
            .chain(partner.into_iter().flat_map(|p| self.pods_of(p)))
    }

    pub(super) fn apply_update(&mut self, key: Key, record: Option<UpdateRecord>, rv: Rv, touched: &mut Vec<Touched>) {
        let before = self
            .updates
            .remove(&key)
            .map(|u| [u.value.old.clone(), u.value.new.clone()]);
        for uid in before.iter().flatten() {
            self.updating.remove(uid);
        }
        let now = record.as_ref().map(|r| [r.old.clone(), r.new.clone()]);
        if let Some(record) = record {
            if record.ended.is_none() {
                self.updating.insert(record.old.clone(), key.clone());
                self.updating.insert(record.new.clone(), key.clone());
            }
            self.updates.insert(key.clone(), super::versioned(record, rv));
        }
        // What one side's endpoints show of the other begins or ends with the update.
        for uid in before.iter().chain(&now).flatten() {
            self.touch_endpoints_of(uid, rv, touched);
        }
        touched.push(Touched::Update(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_fit_into_a_commit_beside_the_controller() {
        let mut rc = ReplicationController::default();
        rc.metadata.name = "web".into();
        let big = "x".repeat(200 << 10);
        rc.metadata.annotations.insert(LAST_APPLIED.into(), big.clone());
        let mut known = RevisionsRecord::of(&rc);
        for n in 0..5 {
            rc.metadata.annotations.insert("note".into(), big.clone());
            known = known.and(Time(n), "user/ann", "", &rc);
        }
        assert!(known.revisions.len() >= 2 && encode(&known).len() <= MAX_BYTES / 2);
        let last = known.revisions.last().expect("the present one");
        assert_eq!((last.number, last.controller.metadata.annotations.len()), (6, 1));
        // Small ones are kept as many as there may be.
        rc.metadata.annotations.clear();
        let many = (0..20).fold(RevisionsRecord::of(&rc), |known, n| known.and(Time(n), "", "", &rc));
        assert_eq!((many.revisions.len(), many.revisions[0].number), (MAX_REVISIONS, 12));
    }
}
