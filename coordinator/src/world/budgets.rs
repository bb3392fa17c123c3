//! Budgets (PodDisruptionBudgets): which ones select a pod, and what is counted of the pods that one selects. Kept by
//! `World::apply`; asked by `plan::disruption`, by the views and by the api.
//!
//! Invariant: nothing counted is stored; a budget is touched by whatever may change its counts, but for time that
//! passes.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use proto::model::{ConditionStatus, PdbSpec, PdbStatus, PodCondition, PodDisruptionBudget, PodSelector, Time};

use super::{ControllerState, Key, NodeState, PodState, Touched, World};
use crate::store::Rv;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetState {
    pub rv: Rv,
    pub budget: Arc<PodDisruptionBudget>,
    /// Newest version of it, and of whatever its counts depend on.
    pub touched: Rv,
}

/// Names of budgets by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index(BTreeMap<String, Names>);

/// Those of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    /// Label key → value → budgets whose pods all have that.
    pinned: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    /// The others.
    wide: BTreeSet<String>,
}

impl Index {
    fn set(&mut self, key: &Key, budget: &PodDisruptionBudget, add: bool) {
        let names = self.0.entry(key.0.clone()).or_default();
        let mark = |set: &mut BTreeSet<String>| {
            if add {
                set.insert(key.1.clone());
            } else {
                set.remove(&key.1);
            }
        };
        match budget.spec.selector.as_ref().and_then(PodSelector::pinned) {
            None => mark(&mut names.wide),
            Some((label, values)) => {
                let known = names.pinned.entry(label.to_owned()).or_default();
                for value in values {
                    mark(known.entry(value.to_owned()).or_default());
                }
                known.retain(|_, set| !set.is_empty());
                names.pinned.retain(|_, values| !values.is_empty());
            }
        }
        if names.pinned.is_empty() && names.wide.is_empty() {
            self.0.remove(&key.0);
        }
    }
}

/// What is counted of a budget's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Selected pods that are available.
    pub available: i64,
    /// What the controllers of selected pods desire, and selected pods without a controller.
    pub expected: i64,
    /// How many must be available after a stop.
    pub floor: i64,
    /// The first selected pod by name that runs and is not available.
    pub late: Option<String>,
}

impl World {
    /// Whether the pod serves: live, Ready for its controller's minReadySeconds, on a node that is Ready.
    pub fn available(&self, pod: &PodState, now: Time) -> bool {
        let seconds = self.owner_of(pod).map_or(0, |c| c.rc.spec.min_ready_seconds);
        let node = self.nodes.get(&pod.record.node);
        pod.live() && node.is_some_and(NodeState::is_ready) && pod.ready_for(seconds, now)
    }

    /// The controller that owns the pod, if it is there.
    pub fn owner_of(&self, pod: &PodState) -> Option<&ControllerState> {
        let owner = pod.record.owner.as_ref()?;
        self.controller_by_uid(&owner.uid).map(|(_, controller)| controller)
    }

    /// The budgets of the namespace that select a pod with these labels, by name.
    pub fn budgets_for<'a>(
        &self,
        namespace: &str,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> Vec<(&Key, &BudgetState)> {
        let Some(names) = self.budget_index.0.get(namespace) else {
            return Vec::new();
        };
        let pinned = names.pinned.iter().filter_map(|(key, values)| values.get(label(key)?));
        let found: BTreeSet<&String> = pinned.flatten().chain(&names.wide).collect();
        let found = found.into_iter().filter_map(|name| {
            let at = (namespace.to_owned(), name.clone());
            self.budgets.get_key_value(&at)
        });
        found
            .filter(|(_, state)| state.budget.spec.selector.as_ref().is_some_and(|s| s.matches(&label)))
            .collect()
    }

    /// The budgets that select this pod, by name.
    pub fn budgets_of(&self, namespace: &str, pod: &PodState) -> Vec<(&Key, &BudgetState)> {
        if labelled(pod) {
            self.budgets_for(namespace, |key| pod.label(key))
        } else {
            Vec::new()
        }
    }

    /// Counts the pods that a budget selects; those that are `gone` are not available.
    pub fn tally(&self, namespace: &str, spec: &PdbSpec, now: Time, gone: impl Fn(&PodState) -> bool) -> Tally {
        let mut tally = Tally::default();
        let Some(selector) = &spec.selector else {
            return tally;
        };
        let mut owners = HashSet::new();
        for pod in self.selected(namespace, selector) {
            match self.owner_of(pod) {
                Some(owner) if owners.insert(&owner.rc.metadata.uid) => {
                    tally.expected += i64::from(owner.rc.spec.replicas.max(0));
                }
                Some(_) => {}
                // Nothing takes its place: it is missed until its end was seen.
                None => tally.expected += i64::from(!pod.ended()),
            }
            if gone(pod) {
                continue;
            }
            if self.available(pod, now) {
                tally.available += 1;
            } else if pod.live()
                && let Some((key, _)) = self.pod_by_uid(&pod.record.uid)
                && tally.late.as_ref().is_none_or(|late| key.1 < *late)
            {
                tally.late = Some(key.1.clone());
            }
        }
        tally.floor = spec.floor(tally.expected);
        tally
    }

    /// A budget as the api shows it.
    pub(super) fn budget(&self, state: &BudgetState, now: Time) -> PodDisruptionBudget {
        let mut budget = (*state.budget).clone();
        budget.metadata.resource_version = state.rv.to_string();
        budget.status = Some(self.budget_status(&budget, now));
        budget
    }

    /// What its pods are like now.
    pub fn budget_status(&self, budget: &PodDisruptionBudget, now: Time) -> PdbStatus {
        let tally = self.tally(&budget.metadata.namespace, &budget.spec, now, |_| false);
        let allowed = if tally.expected > 0 {
            (tally.available - tally.floor).max(0)
        } else {
            0
        };
        let (status, reason) = if allowed > 0 {
            (ConditionStatus::True, "SufficientPods")
        } else {
            (ConditionStatus::False, "InsufficientPods")
        };
        let Tally {
            available,
            expected,
            floor,
            ..
        } = tally;
        PdbStatus {
            current_healthy: available,
            desired_healthy: floor,
            expected_pods: expected,
            disruptions_allowed: allowed,
            observed_generation: budget.metadata.generation.unwrap_or(1),
            conditions: vec![PodCondition {
                kind: "DisruptionAllowed".into(),
                status,
                reason: reason.into(),
                message: format!("{floor} of {expected} must be available, {available} are"),
                last_transition_time: None,
            }],
        }
    }

    /// When its counts last changed, as far as is known.
    pub(super) fn budget_version(&self, state: &BudgetState) -> Rv {
        state.touched.max(self.loaded)
    }

    pub(super) fn apply_budget(&mut self, key: Key, budget: Option<PodDisruptionBudget>, rv: Rv) {
        if let Some(old) = self.budgets.remove(&key) {
            self.budget_index.set(&key, &old.budget, false);
        }
        if let Some(budget) = budget {
            self.budget_index.set(&key, &budget, true);
            let state = BudgetState {
                rv,
                budget: Arc::new(budget),
                touched: rv,
            };
            self.budgets.insert(key, state);
        }
    }

    /// Touches the budgets of a pod that changed from `old` to `new`, if any counts it otherwise now.
    pub(super) fn touch_budgets(
        &mut self,
        namespace: &str,
        old: Option<&PodState>,
        new: Option<&PodState>,
        touched: &mut Vec<Touched>,
    ) {
        if self.budgets.is_empty() || old.map(face) == new.map(face) {
            return;
        }
        let pods = old.into_iter().chain(new);
        let keys = pods.flat_map(|pod| self.budgets_of(namespace, pod));
        let keys: BTreeSet<Key> = keys.map(|(key, _)| key.clone()).collect();
        self.touch_each(keys, touched);
    }

    /// Touches the budgets of the node's pods.
    pub(super) fn touch_budgets_on(&mut self, node: &str, touched: &mut Vec<Touched>) {
        if !self.budgets.is_empty() {
            let keys = self.pods_on(node).flat_map(|(key, pod)| self.budgets_of(&key.0, pod));
            let keys: BTreeSet<Key> = keys.map(|(key, _)| key.clone()).collect();
            self.touch_each(keys, touched);
        }
    }

    /// Touches the budgets of the pods of an owner.
    pub(super) fn touch_budgets_under(&mut self, owner: &str, touched: &mut Vec<Touched>) {
        if !self.budgets.is_empty() {
            let keys = self.pods_of(owner).flat_map(|(key, pod)| self.budgets_of(&key.0, pod));
            let keys: BTreeSet<Key> = keys.map(|(key, _)| key.clone()).collect();
            self.touch_each(keys, touched);
        }
    }

    fn touch_each(&mut self, keys: BTreeSet<Key>, touched: &mut Vec<Touched>) {
        for key in keys {
            if let Some(state) = self.budgets.get_mut(&key) {
                state.touched = state.touched.max(self.rv);
                touched.push(Touched::Budget(key));
            }
        }
    }
}

/// A pod whose labels are not known yet, because its template has not come, is in no selection.
fn labelled(pod: &PodState) -> bool {
    pod.template.is_some() || !pod.record.labels.is_empty()
}

/// All of a pod that a budget counts, but for its node's state and its controller.
fn face(pod: &PodState) -> impl PartialEq {
    let record = &pod.record;
    let status = pod.status.as_ref().map(|s| &s.value.status);
    let ready = status.and_then(|s| s.condition("Ready"));
    (
        (record.uid.clone(), record.owner.as_ref().map(|o| o.uid.clone())),
        (record.template.clone(), labelled(pod), record.labels.clone()),
        (record.node.clone(), pod.live(), pod.ended()),
        ready.map(|r| (r.status, r.last_transition_time)),
    )
}

#[cfg(test)]
#[path = "budgets_tests.rs"]
mod tests;
