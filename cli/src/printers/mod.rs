//! Tables of objects: one file a kind says which columns it has and what stands in them. Used by `get`, and by
//! `describe` for the STATUS words.
//!
//! Invariant: pure; the columns are those fixed in the design, `wide` adds to their right.

mod budget;
mod daemon_set;
mod endpoints;
mod event;
mod namespace;
mod node;
mod pod;
mod rc;

use std::collections::BTreeMap;

use proto::model::{Kind, Object, Pod, Time};

pub use budget::{amount as budget_amount, selector as budget_selector};
pub use event::{last_seen as event_last_seen, order as event_order, type_name as event_type};
pub use node::status as node_status;
pub use pod::status as pod_status;

use crate::output::pairs;

/// What a table shows beside the objects.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub wide: bool,
    /// A NAMESPACE column.
    pub namespace: bool,
    /// `pod/x` in place of `x`.
    pub prefix: bool,
    pub label_columns: Vec<String>,
    pub show_labels: bool,
}

/// What a row needs to know beside its object.
#[derive(Clone, Debug, Default)]
pub struct Context {
    pub now: Time,
    /// Pods that take room on each node; `None`: not known.
    pub pods_on: Option<BTreeMap<String, usize>>,
}

/// Counts the pods that take room, by node.
pub fn count_pods<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for pod in pods {
        if takes_room(pod) {
            *counts.entry(pod.spec.node_name.clone()).or_default() += 1;
        }
    }
    counts
}

/// On a node and not ended.
pub fn takes_room(pod: &Pod) -> bool {
    !pod.spec.node_name.is_empty() && !pod.status.as_ref().is_some_and(|s| s.phase.is_final())
}

/// (plain columns, columns that `wide` adds).
fn columns(kind: Kind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        Kind::Node => node::COLUMNS,
        Kind::Namespace => namespace::COLUMNS,
        Kind::ReplicationController => rc::COLUMNS,
        Kind::DaemonSet => daemon_set::COLUMNS,
        Kind::Pod => pod::COLUMNS,
        Kind::PodDisruptionBudget => budget::COLUMNS,
        Kind::Endpoints => endpoints::COLUMNS,
        Kind::Event => event::COLUMNS,
    }
}

/// The header of a table.
pub fn header(kind: Kind, options: &Options) -> Vec<String> {
    let (plain, wide) = columns(kind);
    let wide = if options.wide { wide } else { &[] };
    let mut header: Vec<String> = plain.iter().chain(wide).map(|c| (*c).to_owned()).collect();
    if options.namespace && kind.namespaced() {
        header.insert(0, "NAMESPACE".to_owned());
    }
    for key in &options.label_columns {
        header.push(key.rsplit('/').next().unwrap_or(key).to_uppercase());
    }
    if options.show_labels {
        header.push("LABELS".to_owned());
    }
    header
}

/// The row of an object, under [`header`].
pub fn row(object: &Object, options: &Options, context: &Context) -> Vec<String> {
    let kind = object.kind();
    let mut row = match object {
        Object::Node(o) => node::cells(o, context),
        Object::Namespace(o) => namespace::cells(o, context),
        Object::ReplicationController(o) => rc::cells(o, context),
        Object::DaemonSet(o) => daemon_set::cells(o, context),
        Object::Pod(o) => pod::cells(o, context),
        Object::PodDisruptionBudget(o) => budget::cells(o, context),
        Object::Endpoints(o) => endpoints::cells(o, context),
        Object::Event(o) => event::cells(o, context),
    };
    let (plain, _) = columns(kind);
    if !options.wide {
        row.truncate(plain.len());
    }
    // Events have no NAME column.
    if options.prefix
        && kind != Kind::Event
        && let Some(name) = row.first_mut()
    {
        *name = format!("{}/{name}", kind.singular());
    }
    let meta = object.meta();
    if options.namespace && kind.namespaced() {
        row.insert(0, meta.namespace.clone());
    }
    for key in &options.label_columns {
        row.push(meta.labels.get(key).cloned().unwrap_or_default());
    }
    if options.show_labels {
        row.push(pairs(&meta.labels));
    }
    row
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
