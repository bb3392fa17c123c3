//! Which objects a List or a Watch is about: namespace, label selector and field selector together. Called by
//! `resources` and `watch`.
//!
//! Invariant: an entry of the world and the object made from it are judged the same.

use std::{borrow::Cow, collections::BTreeMap};

use proto::model::{Event, FieldSelector, Kind, LabelSelector, Object};

use super::errors::ApiError;
use crate::world::{Key, World};

/// Paths whose value an object keeps for life.
const FIXED: [&str; 6] = [
    "metadata.name",
    "metadata.namespace",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.uid",
];

fn paths(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Node
        | Kind::Namespace
        | Kind::ReplicationController
        | Kind::DaemonSet
        | Kind::PodDisruptionBudget
        | Kind::Endpoints => &["metadata.name", "metadata.namespace"],
        Kind::Pod => &["metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"],
        Kind::Event => &[
            "metadata.name",
            "metadata.namespace",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "reason",
            "type",
        ],
    }
}

#[derive(Clone, Debug)]
pub struct Filter {
    pub kind: Kind,
    /// Empty: all.
    pub namespace: String,
    labels: LabelSelector,
    /// Requirements on what never changes in an object's life.
    fixed: FieldSelector,
    moving: FieldSelector,
}

/// What selectors look at.
struct Lens<'a> {
    namespace: &'a str,
    name: &'a str,
    labels: Cow<'a, BTreeMap<String, String>>,
    node: &'a str,
    phase: &'a str,
    event: Option<&'a Event>,
}

impl Filter {
    pub fn parse(kind: Kind, namespace: &str, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let fields = FieldSelector::parse(fields, paths(kind))?;
        let (fixed, moving) = fields
            .0
            .into_iter()
            .partition(|(path, ..)| FIXED.contains(&path.as_str()));
        Ok(Self {
            kind,
            namespace: if kind.namespaced() { namespace } else { "" }.to_owned(),
            labels: LabelSelector::parse(labels)?,
            fixed: FieldSelector(fixed),
            moving: FieldSelector(moving),
        })
    }

    /// The object at `key`, if it is there and selected.
    pub fn select(&self, world: &World, key: &Key) -> Option<Object> {
        self.matches(&self.lens(world, key)?)
            .then(|| world.object(self.kind, &key.0, &key.1))
            .flatten()
    }

    /// Whether an object may once have been selected, as far as what never changes tells.
    pub fn may_have_matched(&self, object: &Object) -> bool {
        let lens = Lens::of(object);
        if self.labels.is_empty() && self.moving.0.is_empty() {
            return self.matches(&lens);
        }
        self.in_reach(&lens)
    }

    fn in_reach(&self, lens: &Lens<'_>) -> bool {
        (self.namespace.is_empty() || self.namespace == lens.namespace) && self.fixed.matches(|p| lens.field(p))
    }

    fn matches(&self, lens: &Lens<'_>) -> bool {
        self.in_reach(lens) && self.moving.matches(|p| lens.field(p)) && self.labels.matches(&lens.labels)
    }

    /// From the world's parts, so that what is not selected is never built.
    fn lens<'a>(&self, world: &'a World, key: &'a Key) -> Option<Lens<'a>> {
        let mut lens = Lens {
            namespace: &key.0,
            name: &key.1,
            labels: Cow::default(),
            node: "",
            phase: "",
            event: None,
        };
        match self.kind {
            Kind::Node => lens.labels = Cow::Borrowed(&world.nodes.get(&key.1)?.node.metadata.labels),
            Kind::Namespace => lens.labels = Cow::Borrowed(&world.namespaces.get(&key.1)?.value.metadata.labels),
            // Endpoints have their controller's labels.
            Kind::ReplicationController | Kind::Endpoints => {
                lens.labels = Cow::Borrowed(&world.controllers.get(key)?.rc.metadata.labels);
            }
            Kind::PodDisruptionBudget => {
                lens.labels = Cow::Borrowed(&world.budgets.get(key)?.budget.metadata.labels);
            }
            Kind::DaemonSet => lens.labels = Cow::Borrowed(&world.daemon_sets.get(key)?.set.metadata.labels),
            Kind::Pod => {
                let pod = world.pods.get(key)?;
                if !self.labels.is_empty() {
                    lens.labels = Cow::Owned(World::labels_of(pod));
                }
                lens.node = &pod.record.node;
                lens.phase = pod.phase().as_str();
            }
            Kind::Event => {
                let event = &world.events.get(key)?.value;
                lens.labels = Cow::Borrowed(&event.metadata.labels);
                lens.event = Some(event);
            }
        }
        Some(lens)
    }
}

impl<'a> Lens<'a> {
    fn of(object: &'a Object) -> Self {
        let meta = object.meta();
        let pod = match object {
            Object::Pod(pod) => Some(pod),
            _ => None,
        };
        Self {
            namespace: &meta.namespace,
            name: &meta.name,
            labels: Cow::Borrowed(&meta.labels),
            node: pod.map(|p| p.spec.node_name.as_str()).unwrap_or_default(),
            phase: pod
                .map(|p| p.status.as_ref().map(|s| s.phase).unwrap_or_default().as_str())
                .unwrap_or_default(),
            event: match object {
                Object::Event(event) => Some(event),
                _ => None,
            },
        }
    }

    fn field(&self, path: &str) -> &'a str {
        match (path, self.event) {
            ("metadata.name", _) => self.name,
            ("metadata.namespace", _) => self.namespace,
            ("spec.nodeName", _) => self.node,
            ("status.phase", _) => self.phase,
            ("involvedObject.kind", Some(e)) => &e.involved_object.kind,
            ("involvedObject.name", Some(e)) => &e.involved_object.name,
            ("involvedObject.namespace", Some(e)) => &e.involved_object.namespace,
            ("involvedObject.uid", Some(e)) => &e.involved_object.uid,
            ("reason", Some(e)) => &e.reason,
            ("type", Some(e)) => match e.kind {
                proto::model::EventType::Normal => "Normal",
                proto::model::EventType::Warning => "Warning",
            },
            // `parse` lets no other path through.
            _ => "",
        }
    }
}
