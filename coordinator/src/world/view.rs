//! The world's objects as the API shows them: records and observed state put together. Called by `api` for
//! every read and by `session` for assignments.
//!
//! Invariant: a view is a function of the world, and of the time where a controller has `minReadySeconds`; nothing of it
//! is stored.

use proto::model::{
    ConditionStatus, Kind, NodeStatus, Object, ObjectMeta, OwnerReference, Pod, PodCondition, PodStatus, RcStatus, Time,
};

use super::{AGENT_DOWN, ControllerState, Key, NodeState, PodState, UNREACHABLE, World};
use crate::store::Rv;

impl World {
    /// One object, or `None`.
    pub fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<Object> {
        let key = (namespace.to_owned(), name.to_owned());
        match kind {
            Kind::Node => self.nodes.get(name).map(|n| Object::Node(node(n))),
            Kind::Namespace => self.namespaces.get(name).map(|n| {
                let mut value = (*n.value).clone();
                value.metadata.resource_version = n.rv.to_string();
                value.status.get_or_insert_default();
                Object::Namespace(value)
            }),
            Kind::ReplicationController => self
                .controllers
                .get(&key)
                .map(|c| Object::ReplicationController(self.controller(c))),
            Kind::DaemonSet => self
                .daemon_sets
                .get(&key)
                .map(|s| Object::DaemonSet(self.daemon_set(s, Time::now()))),
            Kind::Pod => self.pods.get(&key).map(|p| Object::Pod(self.pod(&key, p))),
            Kind::PodDisruptionBudget => self
                .budgets
                .get(&key)
                .map(|b| Object::PodDisruptionBudget(self.budget(b, Time::now()))),
            Kind::Endpoints => self
                .controllers
                .get(&key)
                .map(|c| Object::Endpoints(self.endpoints(&key, c))),
            Kind::Event => self.events.get(&key).map(|e| {
                let mut value = (*e.value).clone();
                value.metadata.resource_version = e.rv.to_string();
                Object::Event(value)
            }),
        }
    }

    /// Keys of a kind with the version of their last change, in order; `namespace` empty: all.
    pub fn keys(&self, kind: Kind, namespace: &str) -> Vec<(Key, Rv)> {
        let all = |k: &Key| namespace.is_empty() || k.0 == namespace;
        match kind {
            Kind::Node => self
                .nodes
                .iter()
                .map(|(n, s)| ((String::new(), n.clone()), s.latest()))
                .collect(),
            Kind::Namespace => self
                .namespaces
                .iter()
                .map(|(n, s)| ((String::new(), n.clone()), s.rv))
                .collect(),
            Kind::ReplicationController => self
                .controllers
                .iter()
                .filter(|(k, _)| all(k))
                .map(|(k, s)| (k.clone(), s.touched))
                .collect(),
            Kind::PodDisruptionBudget => self
                .budgets
                .iter()
                .filter(|(k, _)| all(k))
                .map(|(k, s)| (k.clone(), self.budget_version(s)))
                .collect(),
            Kind::DaemonSet => self
                .daemon_sets
                .iter()
                .filter(|(k, _)| all(k))
                .map(|(k, s)| (k.clone(), self.daemon_set_version(s)))
                .collect(),
            Kind::Endpoints => self
                .controllers
                .iter()
                .filter(|(k, _)| all(k))
                .map(|(k, s)| (k.clone(), self.endpoints_version(s)))
                .collect(),
            Kind::Pod => self
                .pods
                .iter()
                .filter(|(k, _)| all(k))
                .map(|(k, s)| (k.clone(), s.latest()))
                .collect(),
            Kind::Event => self
                .events
                .iter()
                .filter(|(k, _)| all(k))
                .map(|(k, s)| (k.clone(), s.rv))
                .collect(),
        }
    }

    /// A pod as Kubernetes would show it.
    pub fn pod(&self, key: &Key, pod: &PodState) -> Pod {
        let record = &pod.record;
        let owner = record.owner.as_ref().map(|o| OwnerReference {
            api_version: o.kind.kind().api_version().into(),
            kind: o.kind.kind().name().into(),
            // One that replaced another has that one's name by now.
            name: self
                .controller_by_uid(&o.uid)
                .map_or(&o.name, |(key, _)| &key.1)
                .clone(),
            uid: o.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        });
        let stop = record.stop.as_ref();
        let metadata = ObjectMeta {
            name: key.1.clone(),
            namespace: key.0.clone(),
            uid: record.uid.clone(),
            resource_version: pod.latest().to_string(),
            creation_timestamp: Some(record.created),
            deletion_timestamp: stop.map(|s| Time(s.at.0 + i64::from(s.grace))),
            deletion_grace_period_seconds: stop.map(|s| i64::from(s.grace)),
            labels: Self::labels_of(pod),
            annotations: Self::annotations_of(pod),
            owner_references: owner.into_iter().collect(),
            ..ObjectMeta::default()
        };
        Pod {
            metadata,
            spec: pod.spec(),
            status: Some(self.pod_status(pod)),
        }
    }

    fn pod_status(&self, pod: &PodState) -> PodStatus {
        let mut status = pod.status.as_ref().map(|s| s.value.status.clone()).unwrap_or_default();
        let scheduled = if pod.record.node.is_empty() {
            PodCondition {
                kind: "PodScheduled".into(),
                status: ConditionStatus::False,
                reason: "Unschedulable".into(),
                message: pod.record.waiting.clone(),
                last_transition_time: Some(pod.record.created),
            }
        } else {
            PodCondition {
                kind: "PodScheduled".into(),
                status: ConditionStatus::True,
                reason: String::new(),
                message: String::new(),
                last_transition_time: Some(pod.record.created),
            }
        };
        status.conditions.retain(|c| c.kind != scheduled.kind);
        status.conditions.insert(0, scheduled);
        // The agent's last word is not the present while its node is not heard.
        let lost = self.lost(&pod.record.node).filter(|_| !status.phase.is_final());
        if let Some(why) = lost {
            for condition in status.conditions.iter_mut().filter(|c| c.kind == "Ready") {
                condition.status = ConditionStatus::Unknown;
                condition.reason = "NodeLost".into();
                condition.message = format!("node {} is {why}", pod.record.node);
                if !pod.record.waiting.is_empty() {
                    condition.message = format!("{}; {}", condition.message, pod.record.waiting);
                }
            }
            // As in Kubernetes: what is deleted there may run or not.
            if pod.stopping() {
                status.reason = "NodeLost".into();
                status.message = format!("node {} is {why}: nobody knows whether it runs", pod.record.node);
            }
        }
        status
    }

    /// Why nothing that was heard of this node is the present any more.
    fn lost(&self, name: &str) -> Option<String> {
        let Some(node) = self.nodes.get(name) else {
            return self.tombstones.contains_key(name).then(|| "deleted".into());
        };
        let ready = node.condition();
        let unheard = [UNREACHABLE, AGENT_DOWN, "Quarantined", "ConfirmedOff"].contains(&ready.reason.as_str());
        (ready.status != ConditionStatus::True && unheard).then_some(ready.reason)
    }

    fn controller(&self, state: &ControllerState) -> proto::model::ReplicationController {
        let mut rc = (*state.rc).clone();
        rc.metadata.resource_version = state.rv.to_string();
        rc.status = Some(self.controller_status(state, Time::now()));
        rc
    }

    /// Counts of a controller's pods; those being stopped are not among them, as in Kubernetes.
    pub fn controller_status(&self, state: &ControllerState, now: Time) -> RcStatus {
        let mut status = RcStatus {
            observed_generation: state.rc.metadata.generation.unwrap_or(1),
            ..RcStatus::default()
        };
        let now_ready =
            |pod: &PodState| pod.ready() && self.nodes.get(&pod.record.node).is_some_and(NodeState::is_ready);
        for (_, pod) in self.pods_of(&state.rc.metadata.uid) {
            if pod.stopping() || pod.phase().is_final() {
                continue;
            }
            status.replicas += 1;
            let labels = Self::labels_of(pod);
            let wanted = &state.rc.spec.template.metadata.labels;
            status.fully_labeled_replicas += i32::from(wanted.iter().all(|(k, v)| labels.get(k) == Some(v)));
            if now_ready(pod) {
                status.ready_replicas += 1;
                status.available_replicas += i32::from(pod.ready_for(state.rc.spec.min_ready_seconds, now));
            }
        }
        status.conditions = vec![complete(state.rc.spec.replicas, &status)];
        status
    }
}

/// Whether a controller has what is desired of it.
fn complete(desired: i32, status: &RcStatus) -> PodCondition {
    let (have, ready) = (status.replicas, status.ready_replicas);
    let (status, reason, message) = if (have, ready) == (desired, desired) {
        (ConditionStatus::True, "AllReady", String::new())
    } else {
        let message = format!("{have} of {desired} pods are there, {ready} ready");
        (ConditionStatus::False, "NotAllReady", message)
    };
    PodCondition {
        kind: "Ready".into(),
        status,
        reason: reason.into(),
        message,
        last_transition_time: None,
    }
}

fn node(state: &NodeState) -> proto::model::Node {
    let mut node = (*state.node).clone();
    node.metadata.resource_version = state.latest().to_string();
    let mut status: NodeStatus = state.facts.as_ref().map(|f| f.value.status.clone()).unwrap_or_default();
    status.conditions = vec![state.condition()];
    status.holds = state.holds().cloned().collect();
    node.spec.unschedulable = state.cordoned();
    status.unmanaged = state.facts.as_ref().and_then(|f| f.value.unmanaged.clone());
    status.hardware = state.hardware.as_ref().map(|h| Box::new((*h.value).clone()));
    node.status = Some(status);
    node
}
