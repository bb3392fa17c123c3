//! The Kubernetes-shaped objects as serde types, with Kubernetes' field names. Used by every program: the
//! command parses manifests into them, the coordinator validates and serves them, the agent runs a
//! [`PodSpec`] and reports a [`PodStatus`].
//!
//! Invariant: pure data; an unknown field never passes silently ([`parse`]).

mod affinity;
mod budget;
mod daemon_set;
mod endpoints;
mod event;
pub mod fields;
pub mod hardware;
pub mod hold;
pub mod host_port;
mod int_or_percent;
pub mod json;
mod kind;
pub mod labels;
pub mod lifecycle;
pub mod loss;
mod meta;
mod node;
mod object;
pub mod parse;
mod pod;
pub mod probe;
mod quantity;
mod rc;
mod security;
mod selector;
pub mod taint;
mod time;
pub mod validate;
mod volume;

pub use affinity::{
    Affinity, NODE_NAME_FIELD, NodeAffinity, NodeOperator, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    NodeTaintsPolicy, PodOperator, PodSelector, PodSelectorRequirement, PreferredSchedulingTerm,
    TopologySpreadConstraint, WhenUnsatisfiable,
};
pub use budget::{PdbSpec, PdbStatus, PodDisruptionBudget};
pub use daemon_set::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet, UpdateStrategyType,
};
pub use endpoints::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
pub use event::{Event, EventSource, EventType, ObjectReference};
pub use hardware::Hardware;
pub use hold::{HoldKind, NodeHold};
pub use int_or_percent::IntOrPercent;
pub use kind::Kind;
pub use lifecycle::{Hook, Lifecycle, Sleep};
pub use meta::{LAST_APPLIED, ObjectMeta, OwnerReference, namespace_flag};
pub use node::{
    Namespace, NamespacePhase, NamespaceSpec, NamespaceStatus, Node, NodeAddress, NodeCondition, NodeInfo, NodeSpec,
    NodeStatus, Unmanaged, UnmanagedContainer,
};
pub use object::Object;
pub use pod::{
    ConditionStatus, Container, ContainerPort, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, EnvVar, EnvVarSource, ObjectFieldSelector, Phase, Pod, PodCondition,
    PodSpec, PodStatus, PodTemplate, Protocol, PullPolicy, ResourceList, ResourceRequirements, RestartPolicy,
    TerminationMessagePolicy,
};
pub use probe::{Exec, HttpGet, HttpHeader, PortRef, Probe, Scheme, TcpSocket};
pub use quantity::{Quantity, QuantityError};
pub use rc::{RcSpec, RcStatus, ReplicationController};
pub use security::{Capabilities, PodSecurityContext, SecurityContext};
pub use selector::{FieldSelector, LabelSelector, SelectorError};
pub use taint::{Stay, Taint, TaintEffect, Toleration, TolerationOperator};
pub use time::Time;
pub use validate::{FieldError, Invalid};
pub use volume::{EmptyDirVolume, HostPathType, HostPathVolume, StorageMedium, Volume, VolumeMount};
