//! What a Create stores: the manifest read strictly, defaulted, validated, stamped, and turned into records.
//! Called by `resources` through `write`; the reading and the checks by `replace` and `revise` too.
//!
//! Invariant: what is committed can be read back by the world; no field that the coordinator owns comes from
//! the caller.

use std::collections::BTreeMap;

use proto::{
    ids::IdGen,
    model::{
        DaemonSet, FieldError, Kind, LabelSelector, NamespacePhase, Object, ObjectMeta, Pod, ReplicationController,
        Time, fields, host_port, labels::quoted, parse, validate,
    },
    wire::CreateRequest,
};

use super::{
    budgets,
    controllers::check_replicas,
    convert::{self, DEFAULT_NAMESPACE, Names},
    errors::ApiError,
    write::{Decision, audited},
};
use crate::{
    store::{Change, Expect, Rv, Update, keys},
    world::{
        World,
        daemons::DaemonSetState,
        record::{PodRecord, TemplateRecord, encode},
    },
};

/// How many generated names are tried for one that is free.
const NAME_TRIES: usize = 16;

/// Namespace and name that a manifest is about, for authorization: read leniently, before anything else.
/// `namespace` is the request's.
pub fn subject(kind: Kind, namespace: &str, json: &[u8]) -> Names {
    let mut names = convert::names(json);
    // An object that names another namespace than the request is refused later: the request's is what counts.
    let given = if namespace.is_empty() {
        &names.namespace
    } else {
        namespace
    };
    names.namespace = convert::namespace(kind, given).to_owned();
    names
}

/// The manifest, ready but for what the world decides.
pub struct Create {
    object: Object,
    /// What of the manifest has no effect.
    without_effect: Option<String>,
}

impl Create {
    pub fn new(kind: Kind, names: &Names, message: &CreateRequest, now: Time) -> Result<Self, ApiError> {
        check_size(kind, names.shown(), message.json.len())?;
        match kind {
            Kind::Node => {
                return Err(ApiError::BadRequest(
                    "nodes are not created; nodes join by token: wharf token create".into(),
                ));
            }
            Kind::Endpoints => return Err(ApiError::Derived(names.shown().to_owned())),
            Kind::Event => {
                return Err(ApiError::BadRequest(
                    "events are written by the coordinator and the agents; they cannot be created".into(),
                ));
            }
            Kind::Namespace | Kind::ReplicationController | Kind::DaemonSet | Kind::Pod | Kind::PodDisruptionBudget => {
            }
        }
        let (mut object, without_effect) = read(kind, names, &message.json)?;
        validate::default(&mut object);
        let mut errors = problems(&object);
        errors.extend(owned(object.meta()));
        ApiError::unless_valid(kind, names.shown(), errors)?;
        stamp(&mut object, now);
        Ok(Self { object, without_effect })
    }

    /// The object, stamped as new, and what is to be said of fields without effect.
    pub fn into_object(self) -> (Object, Option<String>) {
        (self.object, self.without_effect)
    }

    pub fn decide(&self, world: &World) -> Result<Decision, ApiError> {
        let mut object = self.object.clone();
        let kind = object.kind();
        check_namespace(world, &object)?;
        if object.meta().name.is_empty() {
            object.meta_mut().name = free_name(world, kind, object.meta());
            // The prefix was checked with five letters behind it; the length of the whole is checked here.
            validate::object(&object)?;
        }
        let meta = object.meta();
        if world.object(kind, &meta.namespace, &meta.name).is_some() {
            return Err(ApiError::AlreadyExists {
                kind,
                name: meta.name.clone(),
            });
        }
        if let Object::PodDisruptionBudget(budget) = &object {
            budgets::alone(world, budget)?;
        }
        let mut warnings = warnings(world, &object);
        warnings.extend(self.without_effect.clone());
        let changes = records(&object);
        let object = as_shown(&changes, &object)?;
        Ok(Decision {
            after: Some(audited(&object)),
            warnings,
            ..Decision::new(changes, object)
        })
    }
}

pub fn check_size(kind: Kind, name: &str, bytes: usize) -> Result<(), ApiError> {
    if bytes <= validate::MAX_OBJECT_BYTES {
        return Ok(());
    }
    let what = format!("it has {bytes} bytes; at most {} fit", validate::MAX_OBJECT_BYTES);
    Err(ApiError::invalid(kind, name, "", what))
}

/// A manifest, read strictly and put into its namespace, and what is to be said of fields without effect.
pub fn read(kind: Kind, names: &Names, json: &[u8]) -> Result<(Object, Option<String>), ApiError> {
    let refuse = |errors| ApiError::all_invalid(kind, names.shown(), errors);
    let written = parse::object(kind, json).map_err(refuse)?;
    let mut object = written.object;
    placed(kind, object.meta_mut(), names).map_err(|e| refuse(vec![e]))?;
    Ok((object, fields::warning(&written.without_effect)))
}

/// The strict reading must say what the lenient one was authorized for.
fn placed(kind: Kind, meta: &mut ObjectMeta, names: &Names) -> Result<(), FieldError> {
    if meta.name != names.name {
        return Err(FieldError::new("metadata.name", "stands twice; leave one"));
    }
    if kind.namespaced() {
        if !meta.namespace.is_empty() && meta.namespace != names.namespace {
            return Err(FieldError::new(
                "metadata.namespace",
                format!(
                    "is {}, but the request is for {:?}; make them equal or leave one out",
                    quoted(&meta.namespace),
                    names.namespace
                ),
            ));
        }
        meta.namespace.clone_from(&names.namespace);
    }
    Ok(())
}

/// Fields that the coordinator owns and that no new object can have.
fn owned(meta: &ObjectMeta) -> Vec<FieldError> {
    let fields = [
        (!meta.owner_references.is_empty(), "ownerReferences"),
        (!meta.finalizers.is_empty(), "finalizers"),
        (meta.deletion_timestamp.is_some(), "deletionTimestamp"),
    ];
    let set = fields.into_iter().filter(|(set, _)| *set);
    set.map(|(_, field)| refuse_owned(field)).collect()
}

/// The refusal of a field of the metadata that the coordinator writes.
pub fn refuse_owned(field: &str) -> FieldError {
    let why = match field {
        "ownerReferences" => "set by the coordinator; leave it out, a controller adopts pods that match its selector",
        "finalizers" => parse::UNSUPPORTED_WORDS,
        _ => "set by the coordinator; leave it out",
    };
    FieldError::new(format!("metadata.{field}"), why)
}

/// All that is wrong with what its author writes, beyond its types.
pub fn problems(object: &Object) -> Vec<FieldError> {
    let mut errors = validate::object(object).err().map(|e| e.errors).unwrap_or_default();
    if let Object::ReplicationController(rc) = object
        && rc.spec.replicas >= 0
        && let Err(what) = check_replicas(rc.spec.replicas)
    {
        errors.push(FieldError::new("spec.replicas", what));
    }
    errors
}

/// Replaces what an export carries by what this object is: new.
fn stamp(object: &mut Object, now: Time) {
    let meta = object.meta_mut();
    meta.uid = uuid::Uuid::new_v4().to_string();
    meta.creation_timestamp = Some(now);
    meta.generation = Some(1);
    meta.resource_version.clear();
    meta.deletion_grace_period_seconds = None;
    match object {
        Object::Namespace(o) => o.status = None,
        Object::ReplicationController(o) => o.status = None,
        Object::DaemonSet(o) => o.status = None,
        Object::Pod(o) => o.status = None,
        Object::PodDisruptionBudget(o) => o.status = None,
        Object::Node(_) | Object::Endpoints(_) | Object::Event(_) => {}
    }
}

pub fn check_namespace(world: &World, object: &Object) -> Result<(), ApiError> {
    if !object.kind().namespaced() {
        return Ok(());
    }
    let name = &object.meta().namespace;
    let Some(found) = world.namespaces.get(name) else {
        return Err(ApiError::not_found(Kind::Namespace, name));
    };
    let phase = found.value.status.as_ref().map(|s| s.phase).unwrap_or_default();
    if phase == NamespacePhase::Terminating {
        return Err(ApiError::in_use(
            Kind::Namespace,
            name,
            "it is being deleted; nothing new can be created in it",
        ));
    }
    Ok(())
}

fn free_name(world: &World, kind: Kind, meta: &ObjectMeta) -> String {
    let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
    let mut ids = IdGen::new(seed);
    let mut name = String::new();
    for _ in 0..NAME_TRIES {
        name = format!("{}{}", meta.generate_name, ids.suffix());
        if world.object(kind, &meta.namespace, &name).is_none() {
            break;
        }
    }
    name
}

/// What is legal in this world and likely not meant.
pub fn warnings(world: &World, object: &Object) -> Vec<String> {
    let (spec, meta, at) = match object {
        Object::ReplicationController(rc) => (&rc.spec.template.spec, &rc.spec.template.metadata, "spec.template."),
        Object::DaemonSet(set) => (&set.spec.template.spec, &set.spec.template.metadata, "spec.template."),
        Object::Pod(pod) => (&pod.spec, &pod.metadata, ""),
        Object::PodDisruptionBudget(budget) => return budgets::unmet(world, budget).into_iter().collect(),
        Object::Namespace(_) | Object::Node(_) | Object::Endpoints(_) | Object::Event(_) => return Vec::new(),
    };
    let mut warnings = Vec::new();
    if !spec.node_name.is_empty() && !world.nodes.contains_key(&spec.node_name) {
        warnings.push(format!(
            "{at}spec.nodeName: nodes {:?} not found; pods wait until it joins",
            spec.node_name
        ));
    }
    let annotations = &meta.annotations;
    if annotations.contains_key(host_port::HOST_PORT) && host_port::asking(annotations, spec).is_empty() {
        warnings.push(format!(
            "{at}metadata.annotations.{}: without effect, for no container has a containerPort without hostPort",
            host_port::HOST_PORT
        ));
    }
    warnings.extend(budgets::doubled(world, &object.meta().namespace, meta, at));
    match object {
        Object::ReplicationController(rc) => warnings.extend(overlapping(world, rc)),
        Object::DaemonSet(set) => {
            warnings.extend(overlapping(world, set));
            warnings.extend(for_no_node(world, set));
        }
        _ => {}
    }
    warnings
}

/// A set that is for no node there is.
fn for_no_node(world: &World, set: &DaemonSet) -> Option<String> {
    let state = DaemonSetState::new(Rv::default(), set.clone());
    let mut nodes = world.nodes.values();
    let any = nodes.any(|node| world.wants_daemon(&state, node));
    (!any && !world.nodes.is_empty()).then(|| {
        format!(
            "spec.template.spec: none of {} nodes is one that the set is for, by its nodeSelector, affinity and tolerations",
            world.nodes.len()
        )
    })
}

/// What makes pods and adopts others.
trait Maker {
    const KIND: Kind;
    fn meta(&self) -> &ObjectMeta;
    /// Whether it would adopt a pod with these labels.
    fn takes(&self, labels: &BTreeMap<String, String>) -> bool;
    /// Of the pods that it makes.
    fn labels(&self) -> &BTreeMap<String, String>;
}

impl Maker for ReplicationController {
    const KIND: Kind = Kind::ReplicationController;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        LabelSelector::of_map(&self.spec.selector).matches(labels)
    }
    fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.template.metadata.labels
    }
}

impl Maker for DaemonSet {
    const KIND: Kind = Kind::DaemonSet;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        self.spec.selector.matches(|key| labels.get(key).map(String::as_str))
    }
    fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.template.metadata.labels
    }
}

/// What is said of those whose selector takes in the pods that this one makes, or the other way round.
fn overlapping(world: &World, ours: &impl Maker) -> Vec<String> {
    let namespace = &ours.meta().namespace;
    let controllers = budgets::in_namespace(&world.controllers, namespace).map(|(_, state)| &*state.rc);
    let sets = budgets::in_namespace(&world.daemon_sets, namespace).map(|(_, state)| &*state.set);
    let found = controllers.filter_map(|rc| overlap(ours, rc));
    found.chain(sets.filter_map(|set| overlap(ours, set))).collect()
}

fn overlap<A: Maker, B: Maker>(ours: &A, other: &B) -> Option<String> {
    let name = &other.meta().name;
    let itself = A::KIND == B::KIND && ours.meta().name == *name;
    let both = ours.takes(other.labels()) || other.takes(ours.labels());
    (both && !itself).then(|| {
        format!(
            "spec.selector: overlaps with that of {} {name:?}; each keeps its own pods, but a pod without an owner may be adopted by either",
            B::KIND.plural()
        )
    })
}

/// The changes that make the object.
fn records(object: &Object) -> Vec<Change> {
    let meta = object.meta();
    let at = keys::object(object.kind(), &meta.namespace, &meta.name);
    match object {
        Object::Pod(pod) => pod_records(at, pod),
        Object::ReplicationController(rc) => vec![Change::put(at, Expect::Absent, encode(rc))],
        Object::DaemonSet(set) => vec![Change::put(at, Expect::Absent, encode(set))],
        Object::Namespace(namespace) => vec![Change::put(at, Expect::Absent, encode(namespace))],
        Object::PodDisruptionBudget(budget) => vec![Change::put(at, Expect::Absent, encode(budget))],
        // Refused before.
        Object::Node(_) | Object::Endpoints(_) | Object::Event(_) => Vec::new(),
    }
}

/// The template comes with the record even where it exists already: a collector that found it unused
/// conflicts then, and the pod never lacks its spec. A node that the user chose stays in the template, for the
/// scheduler to honour.
fn pod_records(at: String, pod: &Pod) -> Vec<Change> {
    let (hash, template) = TemplateRecord::of(&pod.metadata, &pod.spec).encode();
    let record = PodRecord {
        uid: pod.metadata.uid.clone(),
        template: hash.clone(),
        created: pod.metadata.creation_timestamp.unwrap_or_default(),
        ..PodRecord::default()
    };
    vec![
        Change::put(keys::template(&hash), Expect::Any, template),
        Change::put(at, Expect::Absent, encode(&record)),
    ]
}

/// Reads the changes as the world will: what it cannot read must never be stored.
pub fn read_back(changes: &[Change]) -> Result<World, ApiError> {
    let mut scratch = World::default();
    for change in changes {
        let update = Update {
            rv: Rv(0),
            key: change.key.clone(),
            value: change.value.clone(),
        };
        scratch
            .apply(&update)
            .map_err(|e| ApiError::Internal(format!("the object does not read back: {e}")))?;
    }
    Ok(scratch)
}

fn as_shown(changes: &[Change], object: &Object) -> Result<Object, ApiError> {
    let scratch = read_back(changes)?;
    let meta = object.meta();
    let mut shown = scratch
        .object(object.kind(), &meta.namespace, &meta.name)
        .ok_or_else(|| ApiError::Internal("the object does not read back".into()))?;
    shown.meta_mut().resource_version.clear();
    Ok(shown)
}

/// `default` exists from `init` on; a coordinator that finds none makes it with this.
pub fn default_namespace(now: Time) -> Change {
    let namespace = proto::model::Namespace {
        metadata: ObjectMeta {
            name: DEFAULT_NAMESPACE.to_owned(),
            uid: uuid::Uuid::new_v4().to_string(),
            creation_timestamp: Some(now),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        ..proto::model::Namespace::default()
    };
    let at = keys::object(Kind::Namespace, "", DEFAULT_NAMESPACE);
    Change::put(at, Expect::Absent, encode(&namespace))
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
