//! From an object as it is to the one that a user wants: the one decision of Replace and Patch. Called by `replace`
//! and `patch`.
//!
//! Invariant: pure; only what users write changes: labels, annotations, a controller's spec, a node's taints and
//! the caller's cordon of it. What others write stays, and what would change it is refused with its path.

use std::sync::Arc;

use proto::model::{
    Container, DaemonSet, FieldError, HoldKind, Kind, Node, Object, ObjectMeta, Pod, PodSpec, Taint, Time, hold,
    host_port, loss::STOP_AFTER_DISCONNECT,
};
use serde_json::Value;

use super::{
    budgets, create,
    errors::ApiError,
    held::{self, Asked},
    updates,
    write::{Decision, audited, preconditions},
};
use crate::{
    ca::labels,
    store::{Change, Expect, keys},
    world::{
        ControllerState, Key, PodState, World,
        daemons::DaemonSetState,
        record::{HoldsRecord, PodRecord, differences, encode},
    },
};

/// Fields of the metadata that no user changes, of those that the reading of a write leaves in. `uid` and
/// `resourceVersion` are preconditions.
const FIXED: [&str; 6] = [
    "name",
    "namespace",
    "generateName",
    "deletionTimestamp",
    "ownerReferences",
    "finalizers",
];

/// Most paths in an audit record or a refusal.
const MOST_PATHS: usize = 16;

/// What it means that `new` lacks a field that others write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A manifest need not have it.
    Kept,
    /// A patch removed it.
    Removed,
}

/// Who revises, and how what he sends is meant.
#[derive(Clone, Copy, Debug)]
pub struct Revision<'a> {
    pub caller: &'a str,
    pub now: Time,
    pub missing: Missing,
    /// Whether the caller's cordon shall be on a node; `None`: he says nothing of it.
    pub cordon: Option<bool>,
}

/// Refuses kinds that no user changes.
pub fn changeable(kind: Kind, name: &str) -> Result<(), ApiError> {
    match kind {
        Kind::Event => Err(ApiError::BadRequest(
            "events are written by the coordinator and the agents; they cannot be changed".into(),
        )),
        Kind::Endpoints => Err(ApiError::Derived(name.to_owned())),
        Kind::Node
        | Kind::Namespace
        | Kind::ReplicationController
        | Kind::DaemonSet
        | Kind::Pod
        | Kind::PodDisruptionBudget => Ok(()),
    }
}

/// `old` is the object of this world as it is shown, `new` has its defaults filled in. Errors: ABORTED (uid or
/// version), INVALID_ARGUMENT (names every field), FAILED_PRECONDITION (being deleted).
pub fn revise(world: &World, old: &Object, mut new: Object, revision: Revision<'_>) -> Result<Decision, ApiError> {
    let missing = revision.missing;
    let (kind, meta) = (old.kind(), old.meta());
    preconditions(old, &new.meta().uid, &new.meta().resource_version)?;
    let mut errors = fixed(meta, new.meta(), missing);
    if let (Object::Node(old), Object::Node(new)) = (old, &mut new) {
        errors.extend(reserved(old, new, missing));
        Taint::stamp(&mut new.spec.taints, &old.spec.taints, revision.now);
    }
    let key = (meta.namespace.clone(), meta.name.clone());
    if let (Object::Pod(old), Object::Pod(new)) = (old, &new) {
        let state = world.pods.get(&key);
        errors.extend(same_spec(state, old, new, missing));
        errors.extend(same_ports(state, new));
        errors.extend(same_limit(&old.metadata, &new.metadata));
    }
    if let (Object::DaemonSet(old), Object::DaemonSet(new)) = (old, &new) {
        errors.extend(same_selector(old, new));
    }
    errors.extend(create::problems(&new));
    ApiError::unless_valid(kind, &meta.name, errors)?;

    let mut retarget = None;
    if let (Object::ReplicationController(old), Object::ReplicationController(new)) = (old, &mut new)
        && let Some(update) = world.updating(&old.metadata.uid)
    {
        retarget = updates::steer::revised(&update, old, new, revision.now)?;
    }
    let mut next = old.clone();
    let respecified = take(&mut next, &new);
    let holds = match &mut next {
        Object::Node(node) => Some(cordon(world, node, revision)?),
        _ => None,
    };
    if next == *old && retarget.is_none() {
        return Ok(Decision {
            warnings: still_held(&next, revision).into_iter().collect(),
            ..Decision::new(Vec::new(), next)
        });
    }
    let detail = changed_paths(&old.to_json(), &next.to_json(), "");
    if respecified {
        if meta.deletion_timestamp.is_some() {
            let what = "it is being deleted; only its labels and annotations can change";
            return Err(ApiError::in_use(kind, &meta.name, what));
        }
        let generation = &mut next.meta_mut().generation;
        *generation = Some(generation.unwrap_or(1) + 1);
    }
    let mut warnings = if respecified {
        create::warnings(world, &next)
    } else {
        Vec::new()
    };
    match (old, &next) {
        (Object::PodDisruptionBudget(old), Object::PodDisruptionBudget(next)) if budgets::reselected(old, next) => {
            budgets::alone(world, next)?;
        }
        (_, Object::ReplicationController(rc)) => {
            warnings.extend(budgets::undercut(world, &key, rc.spec.replicas, revision.now));
        }
        _ => {}
    }
    if missing == Missing::Kept {
        warnings.extend(removed_labels(old, &next));
    }
    warnings.extend(still_held(&next, revision));
    let changes = match (&next, holds) {
        (Object::Node(node), Some(holds)) => node_changes(world, node, &holds),
        _ => record(world, &key, &mut next).map(|change| vec![change]),
    };
    let mut changes = changes.ok_or_else(|| ApiError::not_found(kind, &meta.name))?;
    changes.extend(retarget);
    create::read_back(&changes)?;
    Ok(Decision {
        detail,
        before: Some(audited(old)),
        after: Some(audited(&next)),
        warnings,
        ..Decision::new(changes, next)
    })
}

/// What of [`FIXED`] would change.
fn fixed(old: &ObjectMeta, new: &ObjectMeta, missing: Missing) -> Vec<FieldError> {
    // Metadata has string keys only, so this cannot fail.
    let value = |meta: &ObjectMeta| serde_json::to_value(meta).unwrap_or_default();
    let (old, new) = (value(old), value(new));
    let differs = |field: &&str| match new.get(field) {
        None if missing == Missing::Kept => false,
        given => given != old.get(field),
    };
    FIXED
        .into_iter()
        .filter(differs)
        .map(|field| match field {
            "name" | "namespace" => FieldError::new(
                format!("metadata.{field}"),
                "does not change; create another object and delete this one",
            ),
            _ => create::refuse_owned(field),
        })
        .collect()
}

/// The coordinator's own labels stay on a node, and nobody else gives it one.
fn reserved(old: &Node, new: &mut Node, missing: Missing) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in labels::OWN {
        let set = old.metadata.labels.get(key);
        let labels = &mut new.metadata.labels;
        if let (Some(set), Missing::Kept) = (set, missing) {
            labels.entry(key.to_owned()).or_insert_with(|| set.clone());
        }
        if labels.get(key) != set {
            let remedy = match set {
                Some(set) => format!("set by the coordinator to {set}; leave it so"),
                None => "only the coordinator sets it, as the host joins; leave it out".to_owned(),
            };
            errors.push(FieldError::new(format!("metadata.labels.{key}"), remedy));
        }
    }
    errors
}

/// While a node is cut off its agent goes by what it knew: what is concluded from the time would be wrong if that had
/// been another one.
fn same_limit(old: &ObjectMeta, new: &ObjectMeta) -> Option<FieldError> {
    let limit = |meta: &ObjectMeta| meta.annotations.get(STOP_AFTER_DISCONNECT).cloned();
    (limit(old) != limit(new)).then(|| {
        FieldError::new(
            format!("metadata.annotations.{STOP_AFTER_DISCONNECT}"),
            "a pod keeps it for life; change its controller's template, and delete the pod",
        )
    })
}

/// A pod's spec is for life. The node is the scheduler's: a manifest may name it, the one its author chose, or none.
fn same_spec(state: Option<&PodState>, old: &Pod, new: &Pod, missing: Missing) -> Option<FieldError> {
    let (old, mut new) = (effective(&old.spec), effective(&new.spec));
    let chosen = state.is_some_and(|pod| pod.template_record().spec.node_name == new.node_name);
    let left_out = new.node_name.is_empty();
    let unchanged = if left_out { missing == Missing::Kept } else { chosen };
    if unchanged {
        new.node_name.clone_from(&old.node_name);
    }
    // Likewise the ports that were given to it.
    if let Some(state) = state.filter(|pod| !pod.record.ports.is_empty()) {
        host_port::give(&mut new, &state.record.ports);
    }
    if old == new {
        return None;
    }
    // Specs have string keys only, so this cannot fail.
    let value = |spec: &PodSpec| serde_json::to_value(spec).unwrap_or_default();
    Some(FieldError::new(
        changed_paths(&value(&old), &value(&new), "spec"),
        "a pod's spec does not change; delete it and create it anew, or change its controller's template",
    ))
}

/// Whether placement chooses its host ports was decided when the pod was made.
fn same_ports(state: Option<&PodState>, new: &Pod) -> Option<FieldError> {
    let made = state?.template_record().annotations.get(host_port::HOST_PORT);
    (new.metadata.annotations.get(host_port::HOST_PORT) != made).then(|| {
        FieldError::new(
            format!("metadata.annotations.{}", host_port::HOST_PORT),
            "is for a pod's life; delete it and create it anew, or change its controller's template",
        )
    })
}

/// Whom a set adopts and what it lets go of is for its life.
fn same_selector(old: &DaemonSet, new: &DaemonSet) -> Option<FieldError> {
    (old.spec.selector != new.spec.selector).then(|| {
        FieldError::new(
            "spec.selector",
            format!(
                "does not change (it is {}); create another daemonset and delete this one",
                old.spec.selector
            ),
        )
    })
}

/// With what is in force where something is left out.
fn effective(spec: &PodSpec) -> PodSpec {
    let mut spec = spec.clone();
    spec.termination_grace_period_seconds = Some(spec.grace_seconds());
    for container in &mut spec.containers {
        container.image_pull_policy = Some(container.pull_policy());
        container
            .security_context
            .allow_privilege_escalation
            .get_or_insert(false);
        if container.termination_message_path.is_empty() {
            Container::TERMINATION_LOG.clone_into(&mut container.termination_message_path);
        }
    }
    spec
}

/// Takes over what users write; says whether the spec is another one.
fn take(next: &mut Object, new: &Object) -> bool {
    let meta = next.meta_mut();
    meta.labels.clone_from(&new.meta().labels);
    meta.annotations.clone_from(&new.meta().annotations);
    match (next, new) {
        (Object::ReplicationController(next), Object::ReplicationController(new)) if next.spec != new.spec => {
            next.spec.clone_from(&new.spec);
            true
        }
        (Object::PodDisruptionBudget(next), Object::PodDisruptionBudget(new)) if next.spec != new.spec => {
            next.spec.clone_from(&new.spec);
            true
        }
        (Object::DaemonSet(next), Object::DaemonSet(new)) if next.spec != new.spec => {
            next.spec.clone_from(&new.spec);
            true
        }
        // Whether it takes pods is said by its holds.
        (Object::Node(next), Object::Node(new)) => {
            let mut spec = new.spec.clone();
            spec.unschedulable = next.spec.unschedulable;
            let respecified = spec != next.spec;
            next.spec = spec;
            respecified
        }
        // A namespace's spec is without effect, a pod's was found to be the same.
        _ => false,
    }
}

/// The change that stores `next`, whose derived status it brings up to date. `None`: the object is gone.
fn record(world: &World, key: &Key, next: &mut Object) -> Option<Change> {
    let at = keys::object(next.kind(), &key.0, &key.1);
    Some(match next {
        Object::Pod(pod) => {
            let state = world.pods.get(key)?;
            let template = state.template_record();
            let changed = PodRecord {
                labels: differences(&template.labels, &pod.metadata.labels),
                annotations: differences(&template.annotations, &pod.metadata.annotations),
                ..(*state.record).clone()
            };
            Change::put(at, Expect::At(state.rv), encode(&changed))
        }
        Object::ReplicationController(rc) => {
            let state = world.controllers.get(key)?;
            let mut stored = (*state.rc).clone();
            edit(&mut stored.metadata, &rc.metadata);
            stored.spec.clone_from(&rc.spec);
            let change = Change::put(at, Expect::At(state.rv), encode(&stored));
            let after = ControllerState {
                rc: Arc::new(stored),
                ..state.clone()
            };
            rc.status = Some(world.controller_status(&after, proto::model::Time::now()));
            change
        }
        Object::PodDisruptionBudget(budget) => {
            let state = world.budgets.get(key)?;
            let mut stored = (*state.budget).clone();
            edit(&mut stored.metadata, &budget.metadata);
            stored.spec.clone_from(&budget.spec);
            let change = Change::put(at, Expect::At(state.rv), encode(&stored));
            budget.status = Some(world.budget_status(&stored, Time::now()));
            change
        }
        Object::DaemonSet(set) => {
            let state = world.daemon_sets.get(key)?;
            let mut stored = (*state.set).clone();
            edit(&mut stored.metadata, &set.metadata);
            stored.spec.clone_from(&set.spec);
            let change = Change::put(at, Expect::At(state.rv), encode(&stored));
            let mut after = DaemonSetState::new(state.rv, stored);
            after.unplaced.clone_from(&state.unplaced);
            set.status = Some(world.daemon_set_status(&after, Time::now()));
            change
        }
        Object::Namespace(namespace) => {
            let state = world.namespaces.get(&key.1)?;
            let mut stored = (*state.value).clone();
            edit(&mut stored.metadata, &namespace.metadata);
            Change::put(at, Expect::At(state.rv), encode(&stored))
        }
        // See `node_changes`; not changeable.
        Object::Node(_) | Object::Endpoints(_) | Object::Event(_) => return None,
    })
}

/// Does to the node what is asked of the caller's cordon; the holds that it then has.
fn cordon(world: &World, node: &mut Node, revision: Revision<'_>) -> Result<HoldsRecord, ApiError> {
    let name = &node.metadata.name;
    let state = world
        .nodes
        .get(name)
        .ok_or_else(|| ApiError::not_found(Kind::Node, name))?;
    let asked = match revision.cordon {
        Some(true) => Asked::Cordoned,
        Some(false) => Asked::Uncordoned { all_owners: false },
        None => return Ok(held::present(state)),
    };
    let holds = asked.decide(state, revision.caller, revision.now)?;
    node.spec.unschedulable = holds.values().any(|h| h.kind == HoldKind::Cordon);
    node.status.get_or_insert_default().holds = holds.values().cloned().collect();
    Ok(holds)
}

/// The changes that store the node and its holds. `None`: it is gone.
fn node_changes(world: &World, node: &Node, holds: &HoldsRecord) -> Option<Vec<Change>> {
    let state = world.nodes.get(&node.metadata.name)?;
    let mut stored = (*state.node).clone();
    edit(&mut stored.metadata, &node.metadata);
    stored.spec.clone_from(&node.spec);
    Some(held::changes(state, stored, holds))
}

/// The stored metadata with what changed.
fn edit(stored: &mut ObjectMeta, next: &ObjectMeta) {
    stored.labels.clone_from(&next.labels);
    stored.annotations.clone_from(&next.annotations);
    stored.generation = next.generation;
}

/// A node's labels say where pods may go: who replaces it with a file of his must hear which ones that took.
fn removed_labels(old: &Object, next: &Object) -> Option<String> {
    let (Object::Node(old), Object::Node(next)) = (old, next) else {
        return None;
    };
    let (before, after) = (&old.metadata.labels, &next.metadata.labels);
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let gone: Vec<&str> = gone.map(String::as_str).collect();
    (!gone.is_empty()).then(|| {
        format!(
            "metadata.labels: {} removed; the manifest has no such label",
            gone.join(", ")
        )
    })
}

/// Who asks for new pods on a node must hear that others hold it still.
fn still_held(next: &Object, revision: Revision<'_>) -> Option<String> {
    let (Object::Node(node), Some(false)) = (next, revision.cordon) else {
        return None;
    };
    let holds = &node.status.as_ref()?.holds;
    (!holds.is_empty()).then(|| {
        format!(
            "spec.unschedulable: the node still takes no new pods: {}",
            hold::words(holds)
        )
    })
}

/// Where two values at `at` differ, for people.
fn changed_paths(old: &Value, new: &Value, at: &str) -> String {
    let mut paths = Vec::new();
    differing(old, new, at.to_owned(), &mut paths);
    let more = paths.len().saturating_sub(MOST_PATHS);
    paths.truncate(MOST_PATHS);
    let paths = paths.join(", ");
    if more > 0 {
        format!("{paths}, {more} more")
    } else {
        paths
    }
}

/// Paths at which two values differ, as deep as both have the same shape.
fn differing(old: &Value, new: &Value, at: String, out: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                let path = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                differing(&old[key], &new[key], path, out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differing(a, b, format!("{at}[{i}]"), out);
            }
        }
        _ if old == new => {}
        _ => out.push(at),
    }
}

#[cfg(test)]
#[path = "revise_tests.rs"]
mod tests;
