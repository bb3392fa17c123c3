//! What the api says of budgets: which pod two of them would select, and what holds a workload for good. Called by
//! `create`, `revise` and `controllers`.
//!
//! Invariant: pure; a budget is refused for what its own selector takes in. What others do later (labels, a new
//! controller) is warned of here and refused by the ledger.

use std::collections::BTreeMap;

use proto::model::{Kind, ObjectMeta, PodDisruptionBudget, PodSelector, Time, labels::quoted};

use super::errors::ApiError;
use crate::world::{BudgetState, Key, World};

const KIND: Kind = Kind::PodDisruptionBudget;

/// Refuses a selector that takes in what another budget of the namespace selects: a pod has one budget. Errors:
/// FAILED_PRECONDITION (names both and an example).
pub fn alone(world: &World, budget: &PodDisruptionBudget) -> Result<(), ApiError> {
    let meta = &budget.metadata;
    let Some(selector) = &budget.spec.selector else {
        return Ok(());
    };
    let other = |found: Vec<(&Key, &BudgetState)>| {
        let mut names = found.into_iter().map(|(key, _)| key.1.clone());
        names.find(|name| *name != meta.name)
    };
    let controllers = in_namespace(&world.controllers, &meta.namespace)
        .map(|(key, state)| (Kind::ReplicationController, key, &state.rc.spec.template));
    let sets = in_namespace(&world.daemon_sets, &meta.namespace)
        .map(|(key, state)| (Kind::DaemonSet, key, &state.set.spec.template));
    let templates = controllers.chain(sets).filter_map(|(kind, key, template)| {
        let label = |key: &str| template.metadata.labels.get(key).map(String::as_str);
        let both = selector
            .matches(label)
            .then(|| world.budgets_for(&meta.namespace, label))?;
        Some((kind, &key.1, other(both)?))
    });
    let pods = world.selected(&meta.namespace, selector).filter(|pod| pod.live());
    let pods = pods.filter_map(|pod| {
        let name = other(world.budgets_of(&meta.namespace, pod))?;
        let (key, _) = world.pod_by_uid(&pod.record.uid)?;
        Some((Kind::Pod, &key.1, name))
    });
    // A controller says more than one of its pods. Pods come in no order, and what is said must not change by itself.
    let found = templates.min().or_else(|| pods.min_by_key(|(_, pod, _)| *pod));
    let Some((kind, example, name)) = found else {
        return Ok(());
    };
    let takes = if kind == Kind::Pod { "" } else { "pods of " };
    let what = format!(
        "spec.selector: takes in {takes}{} {}, as poddisruptionbudget {} does; a pod has one budget: change one of the \
         two selectors",
        kind.singular(),
        quoted(example),
        quoted(&name)
    );
    Err(ApiError::in_use(KIND, &meta.name, what))
}

/// What is said to who writes a budget that cannot be met.
pub fn unmet(world: &World, budget: &PodDisruptionBudget) -> Option<String> {
    let tally = world.tally(&budget.metadata.namespace, &budget.spec, Time::default(), |_| true);
    (tally.expected > 0 && tally.floor > tally.expected).then(|| {
        format!(
            "spec.minAvailable: {} pods must be available and {} are to be there; none of them can be drained",
            tally.floor, tally.expected
        )
    })
}

/// What is said to who writes pods with these labels, or a template of them, that two budgets select.
pub fn doubled(world: &World, namespace: &str, meta: &ObjectMeta, at: &str) -> Option<String> {
    let found = world.budgets_for(namespace, |key| meta.labels.get(key).map(String::as_str));
    let [(a, _), (b, _), ..] = found.as_slice() else {
        return None;
    };
    Some(format!(
        "{at}metadata.labels: poddisruptionbudgets {} and {} both select such pods; none of them can be drained until \
         one of the selectors is changed",
        quoted(&a.1),
        quoted(&b.1)
    ))
}

/// What is said to who scales a controller down to `wanted`: budgets hold back no scaling.
pub fn undercut(world: &World, key: &Key, wanted: i32, now: Time) -> Vec<String> {
    let Some(state) = world.controllers.get(key) else {
        return Vec::new();
    };
    let wanted = i64::from(wanted.max(0));
    let fewer = i64::from(state.rc.spec.replicas.max(0)) - wanted;
    if fewer <= 0 {
        return Vec::new();
    }
    // With how many of its pods that serve are in each.
    let mut budgets: BTreeMap<&Key, (&BudgetState, i64)> = BTreeMap::new();
    for (at, pod) in world.pods_of(&state.rc.metadata.uid) {
        for (budget, state) in world.budgets_of(&at.0, pod) {
            budgets.entry(budget).or_insert((state, 0)).1 += i64::from(world.available(pod, now));
        }
    }
    let warnings = budgets.into_iter().filter_map(|(at, (state, serving))| {
        let spec = &state.budget.spec;
        let tally = world.tally(&at.0, spec, now, |_| false);
        let expected = tally.expected - fewer;
        let floor = spec.floor(expected);
        let left = tally.available - (serving - wanted).max(0);
        (left < floor && (left < tally.available || expected < floor)).then(|| {
            format!(
                "spec.replicas: poddisruptionbudget {} asks for {floor} available pods, and {left} are left; scaling is \
                 not held back by it, draining is",
                quoted(&at.1)
            )
        })
    });
    warnings.collect()
}

/// Whether two budgets choose their pods otherwise.
pub fn reselected(old: &PodDisruptionBudget, new: &PodDisruptionBudget) -> bool {
    let of = |budget: &PodDisruptionBudget| -> Option<PodSelector> { budget.spec.selector.clone() };
    of(old) != of(new)
}

pub(super) fn in_namespace<'a, V>(
    map: &'a BTreeMap<Key, V>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a Key, &'a V)> {
    map.range((namespace.to_owned(), String::new())..)
        .take_while(move |(key, _)| key.0 == namespace)
}

#[cfg(test)]
#[path = "budgets_tests.rs"]
mod tests;
