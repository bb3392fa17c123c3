//! What a plan may do for a drain. Part of `check`.
//!
//! Invariant: counts anew from the world; knows nothing of how `drain` and `disruption` decide. A pod that serves is
//! stopped only where enough others serve, or where it is on record that it may be missed.

use std::collections::{BTreeMap, HashSet};

use proto::model::{ConditionStatus, HoldKind, PdbSpec, ReplicationController, Time, lifecycle, loss::LossPolicy};

use super::{Change, Checked, Staged, at, ensure};
use crate::{
    plan::change::Before,
    store::Rv,
    world::{
        Key, NodeState, PodState,
        drains::{DrainOutcome, DrainRecord, OnDeadline},
        record::{FailureRecord, HoldsRecord, OwnerRecord, ReplacesRecord},
    },
};

/// Pods of it stop before those that follow them start.
pub(super) fn one_at_a_time(rc: &ReplicationController) -> bool {
    let annotations = &rc.spec.template.metadata.annotations;
    let asked = |annotations: &BTreeMap<String, String>| lifecycle::stop_first(annotations);
    let singleton = LossPolicy::of(|k| annotations.get(k).map(String::as_str)).singleton;
    singleton || asked(annotations) || asked(&rc.metadata.annotations)
}

impl Staged<'_> {
    /// The drain with this id that goes on on the pod's node.
    fn drain_of(&self, pod: &PodState, id: &str) -> Result<(&NodeState, &DrainRecord), String> {
        let name = &pod.record.node;
        let node = self.node_of(pod).ok_or_else(|| format!("there is no node {name}"))?;
        let drain = node.draining().filter(|d| d.id == id);
        let drain = drain.ok_or_else(|| format!("node {name} is not drained by {id}"))?;
        Ok((node, drain))
    }

    /// It serves: it is Ready for as long as its controller asks for, on a node that is heard.
    fn serves(&self, key: &Key, pod: &PodState) -> bool {
        let stopped = self.stopped.contains(key) || self.admitted.stopped.contains(key);
        !stopped && self.is_up(pod)
    }

    /// As the world has it, whatever this pass stops.
    pub(super) fn is_up(&self, pod: &PodState) -> bool {
        let owner = pod.record.owner.as_ref();
        let controller = owner.and_then(|o| self.world.controller_by_uid(&o.uid));
        let needed = controller.map_or(0, |(_, c)| u64::try_from(c.rc.spec.min_ready_seconds).unwrap_or(0));
        let status = pod.status.as_ref().map(|s| &s.value.status);
        let ready = status.and_then(|s| s.conditions.iter().find(|c| c.kind == "Ready"));
        let long_enough = ready.is_some_and(|c| {
            let since = c.last_transition_time;
            c.status == ConditionStatus::True
                && (needed == 0 || since.is_some_and(|s| self.admitted.now.since(s) >= needed))
        });
        long_enough && pod.live() && self.node_of(pod).is_some_and(NodeState::is_ready)
    }

    /// A stop for a drain.
    pub(super) fn drained(&self, pod: &Before, id: &str, now: Time) -> Checked {
        let state = self.current(pod)?;
        let key = &pod.key;
        ensure(!state.stopping(), || format!("{key:?} is being stopped already"))?;
        let (node, drain) = self.drain_of(state, id)?;
        ensure(node.lost().is_none(), || format!("the node of {key:?} is not heard"))?;
        ensure(!self.frozen(now), || "the cluster is frozen".into())?;
        ensure(!state.is_daemon() || drain.options.stop_daemons, || {
            format!("{key:?} is a daemon")
        })?;
        ensure(state.record.owner.is_some() || drain.options.delete_unmanaged, || {
            format!("nothing replaces {key:?}")
        })?;
        let volumes = &state.template_record().spec.volumes;
        let discards = drain.options.discard_local_data || state.loss_policy().discards_data;
        ensure(discards || !volumes.iter().any(|v| v.empty_dir.is_some()), || {
            format!("{key:?} has data in an emptyDir volume")
        })?;
        ensure(discards || state.bound_by_data().is_none(), || {
            format!("{key:?} has data in a hostPath volume")
        })?;
        if drain.forced.is_some() || state.is_daemon() || !self.serves(key, state) {
            return Ok(());
        }
        self.budgets(key, state)?;
        self.floor(key, state, drain)
    }

    /// As many of those that its budget selects serve as that asks for; a pod has one budget.
    pub(super) fn budgets(&self, key: &Key, pod: &PodState) -> Checked {
        let selects =
            |spec: &PdbSpec, pod: &PodState| spec.selector.as_ref().is_some_and(|s| s.matches(|k| pod.label(k)));
        let of_it = self.world.budgets.iter();
        let mut of_it = of_it.filter(|(at, b)| at.0 == key.0 && selects(&b.budget.spec, pod));
        let Some((at, state)) = of_it.next() else {
            return Ok(());
        };
        ensure(of_it.next().is_none(), || format!("{key:?} has two budgets"))?;
        let spec = &state.budget.spec;
        let (mut expected, mut serve, mut owners) = (0_i64, 0_i64, HashSet::new());
        for (k, p) in self.world.pods.iter().filter(|(k, p)| k.0 == key.0 && selects(spec, p)) {
            let owner = p
                .record
                .owner
                .as_ref()
                .and_then(|o| self.world.controller_by_uid(&o.uid));
            match owner {
                Some((_, c)) if owners.insert(c.rc.metadata.uid.clone()) => expected += i64::from(c.rc.spec.replicas),
                Some(_) => {}
                None => expected += i64::from(!p.ended()),
            }
            serve += i64::from(k != key && self.serves(k, p));
        }
        let floor = spec.floor(expected);
        ensure(serve >= floor, || {
            format!("{key:?} serves, and {serve} would be left where budget {at:?} asks for {floor}")
        })
    }

    /// Enough others serve, its replacement does, or its absence is accepted.
    fn floor(&self, key: &Key, pod: &PodState, drain: &DrainRecord) -> Checked {
        let Some((_, controller)) = pod
            .record
            .owner
            .as_ref()
            .and_then(|o| self.world.controller_by_uid(&o.uid))
        else {
            return Ok(());
        };
        let rc = &controller.rc;
        // Both sides of an update count as one.
        let update = self.world.updating(&rc.metadata.uid);
        let others = self.world.pods_of_both(&rc.metadata.uid);
        let others = others.filter(|(k, p)| *k != key && self.serves(k, p)).count();
        let replaced = self
            .world
            .pods_of(&rc.metadata.uid)
            .any(|(k, p)| p.record.replaces.as_ref().is_some_and(|r| r.uid == pod.record.uid) && self.serves(k, p));
        let asked = |annotation| pod.annotation(annotation) == Some("true");
        let accepted = drain.options.allow_downtime
            || lifecycle::stop_first(&rc.metadata.annotations)
            || asked(lifecycle::STOP_FIRST)
            || pod.loss_policy().singleton;
        let desired = match update {
            Some(update) => usize::try_from(update.record.value.floor()).unwrap_or(0),
            None => usize::try_from(rc.spec.replicas).unwrap_or(0),
        };
        let enough = others >= desired || (accepted && others + 1 >= desired);
        ensure(replaced || enough, || {
            format!("{key:?} serves, and {others} of {desired} would be left")
        })
    }

    /// A new pod in another's place: at most one for each, and only for what a drain moves.
    pub(super) fn replaces(&self, owner: &OwnerRecord, replaces: &ReplacesRecord, commit: &[Change]) -> Checked {
        let what = || format!("pod {} on {}", replaces.name, replaces.node);
        let rival = self.world.replacement_of(&replaces.uid);
        let given_up = rival.is_none_or(|(key, _)| {
            let stops = |c: &Change| matches!(c, Change::Stop { pod, lost: true, .. } if pod.key == *key);
            commit.iter().any(stops)
        });
        ensure(given_up, || format!("{} has a replacement already", what()))?;
        let Some((_, old)) = self.world.pod_by_uid(&replaces.uid).filter(|(_, p)| p.live()) else {
            return Ok(());
        };
        let same = old.record.owner.as_ref().is_some_and(|o| o.uid == owner.uid);
        ensure(same, || format!("{} is another controller's", what()))?;
        // One whose own node is lost hands its task on.
        ensure(rival.is_some() || self.drain_of(old, &replaces.drain).is_ok(), || {
            format!("{} is not drained", what())
        })
    }

    pub(super) fn failed(&self, pod: &Before, failure: &FailureRecord, commit: &[Change]) -> Checked {
        let state = self.current(pod)?;
        self.drain_of(state, &failure.drain)?;
        let stops = |c: &Change| match c {
            Change::Stop { pod, .. } => {
                let replaces = pod.record.replaces.as_ref();
                replaces.is_some_and(|r| r.uid == state.record.uid)
            }
            _ => false,
        };
        ensure(commit.iter().any(stops), || {
            format!("no replacement of {:?} is given up", pod.key)
        })
    }

    /// Control ends a drain or overrides its budgets, and nothing else of it.
    pub(super) fn set_drain(
        &self,
        name: &str,
        rv: Rv,
        record: &DrainRecord,
        holds: Option<&(Rv, HoldsRecord)>,
    ) -> Checked {
        let node = self.world.nodes.get(name).ok_or("the node is gone")?;
        let before = node.drain.as_ref().ok_or("the node has no drain")?;
        at(before.rv, rv)?;
        let same = DrainRecord {
            forced: before.value.forced,
            ended: before.value.ended.clone(),
            ..record.clone()
        };
        ensure(before.value.ended.is_none() && same == *before.value, || {
            format!("the drain of node {name} is over, or is made another")
        })?;
        let options = &record.options;
        let late = self.admitted.now >= options.deadline;
        ensure(
            record.forced == before.value.forced || (late && options.on_deadline == OnDeadline::Force),
            || format!("the drain of node {name} is not to be forced"),
        )?;
        let drains_go = holds.is_some_and(|(rv, left)| {
            let mut wanted = node.holds.as_ref().map(|h| (*h.value).clone()).unwrap_or_default();
            wanted.retain(|_, hold| hold.kind != HoldKind::Drain);
            node.holds.as_ref().is_some_and(|h| h.rv == *rv) && wanted == *left
        });
        match record.ended.as_ref().map(|e| e.how) {
            None => ensure(holds.is_none(), || "the drain goes on".into()),
            Some(DrainOutcome::Drained) => {
                ensure(holds.is_none(), || format!("node {name} stays held"))?;
                self.empty(name, record)
            }
            Some(DrainOutcome::Aborted) => ensure(
                late && options.on_deadline == OnDeadline::Abort && (drains_go || node.holds.is_none()),
                || format!("the drain of node {name} is not to be aborted, or keeps its hold"),
            ),
            Some(DrainOutcome::Cancelled) => Err("only an operator takes a drain back".into()),
        }
    }

    /// Nothing that was to leave is there, and what was started elsewhere serves.
    fn empty(&self, name: &str, drain: &DrainRecord) -> Checked {
        let there = self.world.pods_on(name);
        let mut there = there.filter(|(_, p)| (!p.is_daemon() || drain.options.stop_daemons) && !p.is_over());
        let found = there.next();
        ensure(found.is_none(), || {
            format!("{:?} is still on node {name}", found.map(|f| f.0))
        })?;
        let unready = self.world.pods.iter().find(|(_, pod)| {
            let of_it = pod.record.replaces.as_ref().is_some_and(|r| r.drain == drain.id);
            of_it && pod.live() && !self.is_up(pod)
        });
        ensure(unready.is_none(), || {
            format!("{:?} does not serve yet", unready.map(|u| u.0))
        })
    }
}

#[cfg(test)]
#[path = "check_drain_tests.rs"]
mod tests;
