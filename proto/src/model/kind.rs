//! The kinds, and every way to name one on a command line.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Node,
    Namespace,
    ReplicationController,
    DaemonSet,
    Pod,
    PodDisruptionBudget,
    Endpoints,
    Event,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Node,
        Self::Namespace,
        Self::ReplicationController,
        Self::DaemonSet,
        Self::Pod,
        Self::PodDisruptionBudget,
        Self::Endpoints,
        Self::Event,
    ];

    /// As in a manifest, e.g. `ReplicationController`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::ReplicationController => "ReplicationController",
            Self::DaemonSet => "DaemonSet",
            Self::Pod => "Pod",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::Endpoints => "Endpoints",
            Self::Event => "Event",
        }
    }

    /// As in messages, e.g. `replicationcontroller "x"`.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Namespace => "namespace",
            Self::ReplicationController => "replicationcontroller",
            Self::DaemonSet => "daemonset",
            Self::Pod => "pod",
            Self::PodDisruptionBudget => "poddisruptionbudget",
            // Kubernetes has no other word for one of them.
            Self::Endpoints => "endpoints",
            Self::Event => "event",
        }
    }

    /// As in errors, e.g. `replicationcontrollers "x" not found`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Namespace => "namespaces",
            Self::ReplicationController => "replicationcontrollers",
            Self::DaemonSet => "daemonsets",
            Self::Pod => "pods",
            Self::PodDisruptionBudget => "poddisruptionbudgets",
            Self::Endpoints => "endpoints",
            Self::Event => "events",
        }
    }

    pub fn short(self) -> &'static str {
        match self {
            Self::Node => "no",
            Self::Namespace => "ns",
            Self::ReplicationController => "rc",
            Self::DaemonSet => "ds",
            Self::Pod => "po",
            Self::PodDisruptionBudget => "pdb",
            Self::Endpoints => "ep",
            Self::Event => "ev",
        }
    }

    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Node | Self::Namespace)
    }

    /// `apiVersion` of the kind.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::PodDisruptionBudget => "policy/v1",
            Self::DaemonSet => "apps/v1",
            Self::Node | Self::Namespace | Self::ReplicationController | Self::Pod | Self::Endpoints | Self::Event => {
                "v1"
            }
        }
    }

    /// Kind, singular, plural or short name, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|k| [k.singular(), k.plural(), k.short()].contains(&text.as_str()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
