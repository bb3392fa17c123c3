//! What an object must satisfy beyond its types. Called by the coordinator on every write, and by the command
//! before it sends one.
//!
//! Invariant: an object that passed [`object`] can be stored, planned and run without a further check of form.

mod budget;
mod containers;
mod daemons;
mod placement;
mod probes;
mod security;
mod volumes;

use std::collections::BTreeMap;

use super::{
    Kind, Object, ObjectMeta, PodSpec, PodTemplate, ReplicationController, RestartPolicy, UpdateStrategyType,
    labels::{check_dns_label, check_dns_subdomain, check_label_key, check_label_value},
    lifecycle::{ENDPOINT_DRAIN, STOP_FIRST, check_drain, check_stop_first},
    loss,
};

/// Fields of a pod that an environment variable may refer to.
pub const FIELD_REFS: [&str; 6] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "status.hostIP",
    "status.podIP",
];

/// Resources that a container may request; it may limit them and [`PIDS`].
pub const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Processes and threads of a container: a limit only, for nothing is set aside for it.
pub const PIDS: &str = "pids";

/// Largest object, as JSON; keeps every commit below the store's limit.
pub const MAX_OBJECT_BYTES: usize = 256 << 10;

/// One field and what is wrong with it; the message says what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// `spec.template.spec.containers[0].image`; empty: the object as a whole.
    pub path: String,
    pub message: String,
}

impl FieldError {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl std::error::Error for FieldError {}

/// An object and all that is wrong with it: `replicationcontroller "x" is invalid: spec.replicas: must not be negative`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {:?} is invalid: {}", kind.singular(), name, errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Invalid {
    pub kind: Kind,
    pub name: String,
    pub errors: Vec<FieldError>,
}

/// Fills in what Kubernetes would fill in: the selector from the template's labels and back, limits as
/// requests where only limits are given, host ports on the host's network.
pub fn default(object: &mut Object) {
    match object {
        Object::ReplicationController(rc) => {
            let labels = &rc.spec.template.metadata.labels;
            if rc.spec.selector.is_empty() {
                rc.spec.selector.clone_from(labels);
            }
            if rc.metadata.labels.is_empty() {
                rc.metadata.labels.clone_from(labels);
            }
            default_pod_spec(&mut rc.spec.template.spec);
        }
        Object::DaemonSet(set) => {
            if set.metadata.labels.is_empty() {
                set.metadata.labels.clone_from(&set.spec.template.metadata.labels);
            }
            let strategy = &mut set.spec.update_strategy;
            if strategy.kind == UpdateStrategyType::RollingUpdate {
                strategy.rolling_update.get_or_insert_default();
            }
            default_pod_spec(&mut set.spec.template.spec);
        }
        Object::Pod(pod) => default_pod_spec(&mut pod.spec),
        Object::Node(_)
        | Object::Namespace(_)
        | Object::PodDisruptionBudget(_)
        | Object::Endpoints(_)
        | Object::Event(_) => {}
    }
}

fn default_pod_spec(spec: &mut PodSpec) {
    for container in &mut spec.containers {
        let resources = &mut container.resources;
        // What cannot be requested is refused where it is written, not as a request as well.
        let requestable = |name: &&String| RESOURCES.contains(&name.as_str());
        for (name, limit) in resources.limits.iter().filter(|(name, _)| requestable(name)) {
            resources.requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
        if spec.host_network {
            for port in container.ports.iter_mut().filter(|p| p.host_port == 0) {
                port.host_port = port.container_port;
            }
        }
    }
}

/// Checks an object about to be created.
pub fn object(object: &Object) -> Result<(), Invalid> {
    let mut check = Check::default();
    check.meta(object.kind(), object.meta());
    match object {
        Object::ReplicationController(rc) => check.rc(rc),
        Object::DaemonSet(set) => check.daemon_set(set),
        Object::Pod(pod) => {
            check.host_port("metadata.annotations", &pod.metadata.annotations, &pod.spec);
            check.loss("metadata.annotations", &pod.metadata.annotations);
            check.pod_spec("spec", &pod.spec);
        }
        Object::Node(node) => check.node(&node.spec),
        Object::PodDisruptionBudget(budget) => check.budget(&budget.spec),
        Object::Namespace(_) | Object::Endpoints(_) | Object::Event(_) => {}
    }
    check.done(object.kind(), &object.meta().name)
}

#[derive(Default)]
struct Check(Vec<FieldError>);

impl Check {
    fn done(self, kind: Kind, name: &str) -> Result<(), Invalid> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Invalid {
                kind,
                name: name.to_owned(),
                errors: self.0,
            })
        }
    }

    fn fail(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError::new(path, message));
    }

    fn need(&mut self, path: impl Into<String>, result: Result<(), String>) {
        if let Err(message) = result {
            self.fail(path, message);
        }
    }

    fn meta(&mut self, kind: Kind, meta: &ObjectMeta) {
        // A controller's name begins its pods' names and container names: keep room for both.
        let longest = match kind {
            Kind::ReplicationController | Kind::DaemonSet => 200,
            _ => 253,
        };
        if meta.name.is_empty() && meta.generate_name.is_empty() {
            self.fail("metadata.name", "required");
        } else if meta.name.len() > longest {
            self.fail("metadata.name", format!("at most {longest} characters"));
        } else if !meta.name.is_empty() {
            let result = if kind == Kind::Namespace {
                check_dns_label(&meta.name)
            } else {
                check_dns_subdomain(&meta.name)
            };
            self.need("metadata.name", result);
        }
        if !meta.generate_name.is_empty() {
            // What it becomes must be a name: five characters follow.
            self.need(
                "metadata.generateName",
                check_dns_subdomain(&format!("{}xxxxx", meta.generate_name)),
            );
        }
        if kind.namespaced() {
            if !meta.namespace.is_empty() {
                self.need("metadata.namespace", check_dns_label(&meta.namespace));
            }
        } else if !meta.namespace.is_empty() {
            self.fail(
                "metadata.namespace",
                format!("a {} has no namespace; leave it out", kind.singular()),
            );
        }
        self.labels("metadata.labels", &meta.labels);
        self.annotations("metadata.annotations", &meta.annotations);
    }

    fn labels(&mut self, path: &str, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            self.need(path, check_label_key(key));
            self.need(format!("{path}.{key}"), check_label_value(value));
        }
    }

    fn annotations(&mut self, path: &str, annotations: &BTreeMap<String, String>) {
        let mut total = 0;
        for (key, value) in annotations {
            self.need(path, check_label_key(key));
            if key == ENDPOINT_DRAIN {
                self.need(format!("{path}.{key}"), check_drain(value).map(|_| ()));
            }
            if key == STOP_FIRST {
                self.need(format!("{path}.{key}"), check_stop_first(value));
            }
            total += key.len() + value.len();
        }
        if total > MAX_OBJECT_BYTES / 2 {
            self.fail(path, format!("{total} bytes; at most {}", MAX_OBJECT_BYTES / 2));
        }
    }

    /// What a pod says of the loss of its node.
    fn loss(&mut self, path: &str, annotations: &BTreeMap<String, String>) {
        for (key, message) in loss::check(annotations) {
            self.fail(format!("{path}.{key}"), message);
        }
    }

    fn rc(&mut self, rc: &ReplicationController) {
        let spec = &rc.spec;
        if spec.replicas < 0 {
            self.fail("spec.replicas", format!("must not be negative, is {}", spec.replicas));
        }
        if spec.min_ready_seconds < 0 {
            self.fail("spec.minReadySeconds", "must not be negative");
        }
        let template = &spec.template;
        self.labels("spec.selector", &spec.selector);
        for (key, value) in &spec.selector {
            match template.metadata.labels.get(key) {
                Some(v) if v == value => {}
                Some(v) => self.fail(
                    "spec.selector",
                    format!("{key}={value} does not match spec.template.metadata.labels, which has {key}={v}"),
                ),
                None => self.fail(
                    "spec.selector",
                    format!("{key}={value} does not match spec.template.metadata.labels, which has no {key}"),
                ),
            }
        }
        self.workload(&rc.metadata, template);
    }

    /// A controller's template, and what the controller itself must not say.
    fn workload(&mut self, meta: &ObjectMeta, template: &PodTemplate) {
        if template.metadata.labels.is_empty() {
            self.fail(
                "spec.template.metadata.labels",
                "required: the controller's pods are known by them",
            );
        }
        self.labels("spec.template.metadata.labels", &template.metadata.labels);
        self.annotations("spec.template.metadata.annotations", &template.metadata.annotations);
        self.loss("spec.template.metadata.annotations", &template.metadata.annotations);
        for key in loss::misplaced(&meta.annotations) {
            self.fail(
                format!("metadata.annotations.{key}"),
                "says something of pods: write it into spec.template.metadata.annotations",
            );
        }
        if template.spec.restart_policy != RestartPolicy::Always {
            self.fail(
                "spec.template.spec.restartPolicy",
                "must be Always in a controller's template",
            );
        }
        let annotations = &template.metadata.annotations;
        self.host_port("spec.template.metadata.annotations", annotations, &template.spec);
        self.pod_spec("spec.template.spec", &template.spec);
    }
}

#[cfg(test)]
mod tests;
