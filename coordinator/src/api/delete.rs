//! What a Delete changes in a given world: a pod gets its stop entry, a namespace its phase, the rest is
//! removed. Called by `resources` through `write`.
//!
//! Invariant: nothing here stops a container; a placed pod's record stays until its agent has reported the
//! end. A stop entry is only ever made more urgent.

use proto::{
    model::{Kind, NamespacePhase, Object, Time},
    wire::{DeleteRequest, delete_request::Cascade},
};

use super::{
    convert::DEFAULT_NAMESPACE,
    errors::ApiError,
    updates,
    write::{Decision, audited, preconditions},
};
use crate::{
    store::{Change, Expect, keys},
    world::{
        Key, PodState, World,
        record::{PodRecord, StopRecord, TombstoneRecord, encode},
    },
};

/// Finalizer under which `control` releases a controller's pods before it removes the controller.
pub const ORPHAN: &str = "orphan";

/// Longest grace, seconds; as for a pod's own.
const MAX_GRACE: u32 = 86_400;

/// A Delete, read and checked as far as it can be without the world.
pub struct Delete {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    uid: String,
    resource_version: String,
    orphan: bool,
    force: bool,
    grace: Option<u32>,
    pub caller: String,
}

impl Delete {
    pub fn new(kind: Kind, namespace: &str, caller: &str, message: &DeleteRequest) -> Result<Self, ApiError> {
        if kind == Kind::Endpoints {
            return Err(ApiError::Derived(message.name.clone()));
        }
        let cascade = Cascade::try_from(message.cascade)
            .map_err(|_| ApiError::BadRequest(format!("cascade: {} is not BACKGROUND or ORPHAN", message.cascade)))?;
        let orphan = cascade == Cascade::Orphan;
        if orphan && kind == Kind::Namespace {
            return Err(ApiError::BadRequest(
                "cascade: what is in a namespace goes with it; only the pods of a replicationcontroller or daemonset can be orphaned"
                    .into(),
            ));
        }
        if let Some(grace) = message.grace_seconds.filter(|g| *g > MAX_GRACE) {
            return Err(ApiError::BadRequest(format!(
                "grace_seconds: must be 0 to {MAX_GRACE}, is {grace}"
            )));
        }
        Ok(Self {
            kind,
            namespace: namespace.to_owned(),
            name: message.name.clone(),
            uid: message.uid.clone(),
            resource_version: message.resource_version.clone(),
            orphan,
            force: message.force,
            grace: message.grace_seconds,
            caller: caller.to_owned(),
        })
    }

    pub fn decide(&self, world: &World, now: Time) -> Result<Decision, ApiError> {
        let object = world
            .object(self.kind, &self.namespace, &self.name)
            .ok_or_else(|| ApiError::not_found(self.kind, &self.name))?;
        preconditions(&object, &self.uid, &self.resource_version)?;
        let key = (self.namespace.clone(), self.name.clone());
        let before = Some(audited(&object));
        let decision = match self.kind {
            Kind::Pod => world.pods.get(&key).map(|pod| self.pod(world, &key, pod, object, now)),
            Kind::ReplicationController => self.controller(world, &key, object, now)?,
            Kind::DaemonSet => self.daemon_set(world, &key, object, now),
            Kind::Namespace => Some(self.namespace(world, object, now)?),
            Kind::Node => Some(self.node(world, object, now)?),
            Kind::PodDisruptionBudget => world.budgets.get(&key).map(|budget| {
                let at = keys::object(self.kind, &key.0, &key.1);
                Decision::new(vec![Change::delete(at, Expect::At(budget.rv))], object)
            }),
            // Refused when it was read.
            Kind::Endpoints => None,
            Kind::Event => world.events.get(&key).map(|event| {
                let remove = Change::delete(keys::event(&key.0, &key.1), Expect::At(event.rv));
                Decision::new(vec![remove], object)
            }),
        };
        let decision = decision.ok_or_else(|| ApiError::not_found(self.kind, &self.name))?;
        Ok(Decision { before, ..decision })
    }

    fn pod(&self, world: &World, key: &Key, pod: &PodState, object: Object, now: Time) -> Decision {
        let at = keys::object(Kind::Pod, &key.0, &key.1);
        let record = &pod.record;
        if record.node.is_empty() {
            // Never placed: no container of it can exist.
            let remove = vec![
                Change::delete(at, Expect::At(pod.rv)),
                Change::delete(keys::pod_status(&key.0, &key.1), Expect::Any),
            ];
            return Decision::new(remove, object);
        }
        let stop = match &record.stop {
            None => StopRecord {
                at: now,
                grace: self.grace.unwrap_or_else(|| own_grace(pod)),
                reason: format!("deleted by {}", self.caller),
                lost: false,
                drain: None,
            },
            Some(stop) => match self.grace.filter(|g| *g < stop.grace) {
                Some(grace) => StopRecord { grace, ..stop.clone() },
                None => return Decision::new(Vec::new(), object),
            },
        };
        let detail = format!("grace {} s", stop.grace);
        let changed = PodRecord {
            stop: Some(stop),
            ..(**record).clone()
        };
        let change = Change::put(at, Expect::At(pod.rv), encode(&changed));
        let after = PodState {
            record: changed.into(),
            ..pod.clone()
        };
        Decision {
            detail,
            ..Decision::new(vec![change], Object::Pod(world.pod(key, &after)))
        }
    }

    /// None: there is none.
    fn controller(&self, world: &World, key: &Key, object: Object, now: Time) -> Result<Option<Decision>, ApiError> {
        let update = world
            .controllers
            .get(key)
            .and_then(|c| world.updating(&c.rc.metadata.uid));
        let (first, stays) = match &update {
            Some(update) => updates::steer::deleted(update, key, self.force, now)?,
            None => (None, false),
        };
        if stays {
            return Ok(Some(Decision {
                detail: "its rolling update is rolled back, which removes it".to_owned(),
                warnings: vec![format!("{} goes once its rolling update is rolled back", key.1)],
                ..Decision::new(first.into_iter().collect(), object)
            }));
        }
        let decision = self.lone(world, key, object, now);
        Ok(decision.map(|mut decision| {
            decision.changes.splice(0..0, first);
            decision
        }))
    }

    fn lone(&self, world: &World, key: &Key, object: Object, now: Time) -> Option<Decision> {
        let state = world.controllers.get(key)?;
        let at = keys::object(self.kind, &key.0, &key.1);
        if state.rc.metadata.deletion_timestamp.is_some() {
            // Its pods were promised to stay; that is not taken back.
            return Some(Decision::new(Vec::new(), object));
        }
        if !self.orphan {
            return Some(Decision::new(vec![Change::delete(at, Expect::At(state.rv))], object));
        }
        let mut rc = (*state.rc).clone();
        rc.metadata.deletion_timestamp = Some(now);
        rc.metadata.finalizers = vec![ORPHAN.to_owned()];
        let change = Change::put(at, Expect::At(state.rv), encode(&rc));
        rc.metadata.resource_version.clone_from(&object.meta().resource_version);
        rc.status = Some(world.controller_status(state, now));
        Some(Decision {
            detail: "its pods stay".to_owned(),
            ..Decision::new(vec![change], Object::ReplicationController(rc))
        })
    }

    fn daemon_set(&self, world: &World, key: &Key, object: Object, now: Time) -> Option<Decision> {
        let state = world.daemon_sets.get(key)?;
        let at = keys::object(self.kind, &key.0, &key.1);
        if state.set.metadata.deletion_timestamp.is_some() {
            // Its pods were promised to stay; that is not taken back.
            return Some(Decision::new(Vec::new(), object));
        }
        if !self.orphan {
            let changes = vec![
                Change::delete(at, Expect::At(state.rv)),
                Change::delete(keys::unplaced(&key.0, &key.1), Expect::Any),
            ];
            return Some(Decision::new(changes, object));
        }
        let mut set = (*state.set).clone();
        set.metadata.deletion_timestamp = Some(now);
        set.metadata.finalizers = vec![ORPHAN.to_owned()];
        let change = Change::put(at, Expect::At(state.rv), encode(&set));
        set.metadata
            .resource_version
            .clone_from(&object.meta().resource_version);
        set.status = Some(world.daemon_set_status(state, now));
        Some(Decision {
            detail: "its pods stay".to_owned(),
            ..Decision::new(vec![change], Object::DaemonSet(set))
        })
    }

    fn namespace(&self, world: &World, object: Object, now: Time) -> Result<Decision, ApiError> {
        if self.name == DEFAULT_NAMESPACE {
            return Err(ApiError::in_use(
                self.kind,
                &self.name,
                "it cannot be deleted; delete what is in it",
            ));
        }
        let Some(state) = world.namespaces.get(&self.name) else {
            return Err(ApiError::not_found(self.kind, &self.name));
        };
        let mut namespace = (*state.value).clone();
        let status = namespace.status.get_or_insert_default();
        if status.phase == NamespacePhase::Terminating {
            return Ok(Decision::new(Vec::new(), object));
        }
        status.phase = NamespacePhase::Terminating;
        namespace.metadata.deletion_timestamp = Some(now);
        let at = keys::object(self.kind, "", &self.name);
        let change = Change::put(at, Expect::At(state.rv), encode(&namespace));
        namespace.metadata.resource_version = state.rv.to_string();
        Ok(Decision::new(vec![change], Object::Namespace(namespace)))
    }

    fn node(&self, world: &World, object: Object, now: Time) -> Result<Decision, ApiError> {
        let name = &self.name;
        let Some(state) = world.nodes.get(name) else {
            return Err(ApiError::not_found(self.kind, name));
        };
        // Daemons go with their node.
        let bound = world.pods_on(name).filter(|(_, p)| !p.is_daemon()).count();
        let pods = if bound == 1 {
            "1 pod is".to_owned()
        } else {
            format!("{bound} pods are")
        };
        let off = state.off.is_some();
        if bound > 0 && !off {
            let confirm = match state.lost() {
                Some(_) => format!("; if its host is off: wharf node confirm-off {name}"),
                None => String::new(),
            };
            return Err(ApiError::in_use(
                self.kind,
                name,
                format!(
                    "{pods} still bound to it; see `wharf get pods -A --node {name}`; move them first: wharf drain {name}{confirm}"
                ),
            ));
        }
        // Its certificates stay beside the tombstone: by them its agent may report what still runs, and hear what
        // to stop, and nothing else.
        let tombstone = TombstoneRecord {
            uid: state.node.metadata.uid.clone(),
            at: now,
            // What an operator said of the host holds for what was bound to it.
            forgotten: off,
        };
        let changes = vec![
            Change::delete(keys::object(self.kind, "", name), Expect::At(state.rv)),
            Change::delete(keys::node_facts(name), Expect::Any),
            Change::delete(keys::node_inventory(name), Expect::Any),
            Change::delete(keys::node_ready(name), Expect::Any),
            Change::delete(keys::holder(name), Expect::Any),
            Change::delete(keys::holds(name), Expect::Any),
            Change::delete(keys::drain(name), Expect::Any),
            Change::delete(keys::off(name), Expect::Any),
            Change::put(keys::tombstone(name), Expect::Any, encode(&tombstone)),
        ];
        let mut decision = Decision::new(changes, object);
        let daemons = world.pods_on(name).filter(|(_, p)| p.is_daemon()).count();
        if daemons > 0 {
            decision.detail = format!("{daemons} daemons end with it");
        }
        if bound > 0 {
            decision.detail = format!("{pods} given up");
            decision.warnings.push(format!(
                "{pods} given up, with the data they have there: replaced elsewhere, and stopped should {name} come back"
            ));
        }
        Ok(decision)
    }
}

fn own_grace(pod: &PodState) -> u32 {
    let seconds = pod
        .template
        .as_ref()
        .map_or(proto::model::PodSpec::DEFAULT_GRACE_SECONDS, |t| {
            t.record.spec.grace_seconds()
        });
    u32::try_from(seconds).unwrap_or(0).min(MAX_GRACE)
}

#[cfg(test)]
#[path = "delete_tests.rs"]
mod tests;
