//! Any object, by kind.

use serde::Serialize;

use super::{
    DaemonSet, Endpoints, Event, Kind, Namespace, Node, ObjectMeta, Pod, PodDisruptionBudget, ReplicationController,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Node(Node),
    Namespace(Namespace),
    ReplicationController(ReplicationController),
    DaemonSet(DaemonSet),
    Pod(Pod),
    PodDisruptionBudget(PodDisruptionBudget),
    Endpoints(Endpoints),
    Event(Event),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Namespace(_) => Kind::Namespace,
            Self::ReplicationController(_) => Kind::ReplicationController,
            Self::DaemonSet(_) => Kind::DaemonSet,
            Self::Pod(_) => Kind::Pod,
            Self::PodDisruptionBudget(_) => Kind::PodDisruptionBudget,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Event(_) => Kind::Event,
        }
    }

    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Node(o) => &o.metadata,
            Self::Namespace(o) => &o.metadata,
            Self::ReplicationController(o) => &o.metadata,
            Self::DaemonSet(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
            Self::PodDisruptionBudget(o) => &o.metadata,
            Self::Endpoints(o) => &o.metadata,
            Self::Event(o) => &o.metadata,
        }
    }

    pub fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Node(o) => &mut o.metadata,
            Self::Namespace(o) => &mut o.metadata,
            Self::ReplicationController(o) => &mut o.metadata,
            Self::DaemonSet(o) => &mut o.metadata,
            Self::Pod(o) => &mut o.metadata,
            Self::PodDisruptionBudget(o) => &mut o.metadata,
            Self::Endpoints(o) => &mut o.metadata,
            Self::Event(o) => &mut o.metadata,
        }
    }

    /// Canonical Kubernetes JSON: `apiVersion` and `kind` first.
    pub fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed<'a, T> {
            api_version: &'static str,
            kind: &'static str,
            #[serde(flatten)]
            object: &'a T,
        }
        fn value<T: Serialize>(kind: Kind, object: &T) -> serde_json::Value {
            let typed = Typed {
                api_version: kind.api_version(),
                kind: kind.name(),
                object,
            };
            // The model's types have string keys and no failing serializers, so this cannot fail.
            serde_json::to_value(typed).unwrap_or_default()
        }
        let kind = self.kind();
        match self {
            Self::Node(o) => value(kind, o),
            Self::Namespace(o) => value(kind, o),
            Self::ReplicationController(o) => value(kind, o),
            Self::DaemonSet(o) => value(kind, o),
            Self::Pod(o) => value(kind, o),
            Self::PodDisruptionBudget(o) => value(kind, o),
            Self::Endpoints(o) => value(kind, o),
            Self::Event(o) => value(kind, o),
        }
    }
}
