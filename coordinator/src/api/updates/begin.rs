//! The two controllers of an update that begins, and what forbids it. Called by the service through `write`.
//!
//! Invariant: pure; the old controller's pods are touched by labels at most, and none of them leaves it by that.

use proto::{
    ids,
    model::{Kind, Object, PullPolicy, ReplicationController, Time, labels::check_label_key},
    wire::{BeginUpdateRequest, CreateRequest},
};

use super::{Limits, revisions};
use crate::{
    api::{
        create::{self, Create},
        errors::ApiError,
        write::{Decision, Subject, audited},
    },
    store::{Change, Expect, keys},
    world::{
        ControllerState, Key, PodState, World,
        record::{PodRecord, encode},
        updates::{UpdateLimits, UpdateRecord, Updating},
    },
};

const KIND: Kind = Kind::ReplicationController;

/// Label that carries the hash where a request names none.
const LABEL_KEY: &str = "deployment";

/// Pods that one commit labels.
const AT_ONCE: usize = 32;

/// Result of a request that found its update under way.
pub(super) const GOES_ON: &str = "goes on";

/// What an update is to lead to.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Given {
        controller: Box<ReplicationController>,
        /// Its own count is the one in the end.
        own_replicas: bool,
        cause: String,
        warning: Option<String>,
    },
    Image {
        image: String,
        container: String,
        pull_policy: Option<PullPolicy>,
        /// Empty: it takes the old one's name.
        new_name: String,
        label_key: String,
        cause: String,
    },
    /// 0: the one before the present one.
    Revision { number: u32 },
}

impl Wanted {
    /// Errors: INVALID_ARGUMENT.
    pub fn new(r: &BeginUpdateRequest, key: &Key) -> Result<Self, ApiError> {
        let bad = |what: &str| ApiError::BadRequest(format!("rolling update of {}: {what}", key.1));
        match (r.controller.is_empty(), r.image.is_empty()) {
            (true, true) => Err(bad("give the new controller or an image")),
            (false, false) => Err(bad("give the new controller or an image, not both")),
            (false, true) => Self::given(r, key),
            (true, false) => {
                let pull_policy = match r.image_pull_policy.as_str() {
                    "" => None,
                    "Always" => Some(PullPolicy::Always),
                    "IfNotPresent" => Some(PullPolicy::IfNotPresent),
                    "Never" => Some(PullPolicy::Never),
                    other => {
                        let what = format!("image_pull_policy: must be Always, IfNotPresent or Never, is {other:?}");
                        return Err(bad(&what));
                    }
                };
                if r.new_name == key.1 {
                    return Err(bad("the new controller needs a name of its own"));
                }
                let or = |given: &str, other: String| if given.is_empty() { other } else { given.to_owned() };
                Ok(Self::Image {
                    image: r.image.clone(),
                    container: r.container.clone(),
                    pull_policy,
                    new_name: r.new_name.clone(),
                    label_key: or(&r.label_key, LABEL_KEY.to_owned()),
                    cause: or(&r.cause, format!("rolling-update {} --image={}", key.1, r.image)),
                })
            }
        }
    }

    fn given(r: &BeginUpdateRequest, key: &Key) -> Result<Self, ApiError> {
        let names = create::subject(KIND, &key.0, &r.controller);
        let request = CreateRequest {
            json: r.controller.clone(),
            ..CreateRequest::default()
        };
        let (object, warning) = Create::new(KIND, &names, &request, Time::now())?.into_object();
        let Object::ReplicationController(controller) = object else {
            return Err(ApiError::Internal("a controller is read as another kind".into()));
        };
        if controller.metadata.name.is_empty() {
            let what = "an update needs the new controller's name; generateName is not taken";
            return Err(ApiError::invalid(KIND, &names.generate_name, "metadata.name", what));
        }
        if controller.metadata.name == key.1 {
            let what = "is the name of the controller that is replaced; the new one needs a name of its own";
            return Err(ApiError::invalid(KIND, &key.1, "metadata.name", what));
        }
        let cause = if r.cause.is_empty() {
            format!("rolling-update {} to {}", key.1, controller.metadata.name)
        } else {
            r.cause.clone()
        };
        Ok(Self::Given {
            controller: Box::new(controller),
            own_replicas: r.own_replicas,
            cause,
            warning,
        })
    }

    /// The label by which old and new pods are told apart, where the request gives none.
    fn label_key(&self) -> Option<&str> {
        match self {
            Self::Given { .. } => None,
            Self::Image { label_key, .. } => Some(label_key),
            Self::Revision { .. } => Some(LABEL_KEY),
        }
    }
}

/// The old controller and the new one.
pub(super) struct Pair {
    pub pair: (ReplicationController, ReplicationController),
}

impl Subject for Pair {
    fn names(&self) -> [&str; 4] {
        let meta = &self.pair.0.metadata;
        [KIND.name(), &meta.namespace, &meta.name, &meta.uid]
    }

    fn path(&self) -> String {
        let meta = &self.pair.0.metadata;
        format!("{}/{}/{}", KIND.plural(), meta.namespace, meta.name)
    }
}

/// Both sides of the update under way. Errors: there is none.
pub(super) fn pair(world: &World, key: &Key) -> Result<(ReplicationController, ReplicationController), ApiError> {
    let update = world.update_at(key).ok_or_else(|| super::none(&key.1))?;
    Ok(((*update.old.1.rc).clone(), (*update.new.1.rc).clone()))
}

fn old<'w>(world: &'w World, key: &Key) -> Result<&'w ControllerState, ApiError> {
    let state = world.controllers.get(key);
    let state = state.ok_or_else(|| ApiError::not_found(KIND, &key.1))?;
    if state.rc.metadata.deletion_timestamp.is_some() {
        let what = "it is being deleted; create it anew once it is gone";
        return Err(ApiError::in_use(KIND, &key.1, what));
    }
    Ok(state)
}

/// The new controller and how it comes about.
struct Made {
    controller: ReplicationController,
    renames: bool,
    target: u32,
    cause: String,
    warnings: Vec<String>,
}

pub(super) fn begin(
    world: &World,
    key: &Key,
    wanted: &Wanted,
    limits: &Limits,
    caller: &str,
    now: Time,
) -> Result<Decision<Pair>, ApiError> {
    let state = old(world, key)?;
    if let Some(update) = world.updating(&state.rc.metadata.uid) {
        return again(key, &update, wanted, limits);
    }
    create::check_namespace(world, &Object::ReplicationController((*state.rc).clone()))?;
    let mut made = make(world, key, &state.rc, wanted, now)?;
    let (next, before) = relabelled(world, state, wanted)?;
    if next.spec.selector == made.controller.spec.selector {
        let shown: Vec<String> = next.spec.selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let what = format!(
            "is that of {} ({}); at least one label must be another one, or be added",
            key.1,
            shown.join(",")
        );
        return Err(ApiError::invalid(
            KIND,
            &made.controller.metadata.name,
            "spec.selector",
            what,
        ));
    }
    let object = Object::ReplicationController(made.controller.clone());
    ApiError::unless_valid(KIND, &made.controller.metadata.name, create::problems(&object))?;
    let mut changes = Vec::new();
    made.controller.spec.replicas = 0;
    let new_key = (key.0.clone(), made.controller.metadata.name.clone());
    match world.controllers.get(&new_key) {
        Some(there) => made.controller = reused(world, there, &made.controller)?,
        None => {
            // That the two select alike is what an update is about: each keeps its own.
            let with_old = format!("spec.selector: overlaps with that of {} {:?};", KIND.plural(), key.1);
            let warnings = create::warnings(world, &object).into_iter();
            made.warnings.extend(warnings.filter(|w| !w.starts_with(&with_old)));
            let at = keys::object(KIND, &new_key.0, &new_key.1);
            changes.push(Change::put(at, Expect::Absent, encode(&made.controller)));
        }
    }
    let from = u32::try_from(state.rc.spec.replicas).unwrap_or(0);
    let record = UpdateRecord {
        id: uuid::Uuid::new_v4().to_string(),
        by: caller.to_owned(),
        cause: made.cause,
        since: now,
        old: state.rc.metadata.uid.clone(),
        new: made.controller.metadata.uid.clone(),
        new_name: new_key.1.clone(),
        renames: made.renames,
        from,
        target: made.target,
        limits: limits.over(&UpdateLimits::default()),
        back: false,
        paused: None,
        tried: false,
        steps: Vec::new(),
        before: 0,
        progressed: now,
        ended: None,
    };
    changes.extend(before);
    let known = world.updates.get(key).map_or(Expect::Absent, |u| Expect::At(u.rv));
    changes.push(Change::put(keys::update(&key.0, &key.1), known, encode(&record)));
    create::read_back(&changes)?;
    let shown = |rc: &ReplicationController| audited(&Object::ReplicationController(rc.clone()));
    Ok(Decision {
        detail: format!("{} is replaced by {}: {}", key.1, new_key.1, record.cause),
        before: Some(shown(&state.rc)),
        after: Some(shown(&made.controller)),
        warnings: made.warnings,
        ..Decision::new(
            changes,
            Pair {
                pair: (next, made.controller),
            },
        )
    })
}

/// A controller that is there already: the new one, where it is as asked.
fn reused(
    world: &World,
    there: &ControllerState,
    wanted: &ReplicationController,
) -> Result<ReplicationController, ApiError> {
    let name = &wanted.metadata.name;
    if there.rc.metadata.deletion_timestamp.is_some() || world.updating(&there.rc.metadata.uid).is_some() {
        let what = "it is being deleted or updated itself; choose another name for the new controller";
        return Err(ApiError::in_use(KIND, name, what));
    }
    if !same(&there.rc, wanted) {
        let what = "it exists already with another spec; delete it, or choose another name for the new controller";
        return Err(ApiError::in_use(KIND, name, what));
    }
    Ok((*there.rc).clone())
}

/// The same pods of the same selector, whatever their count.
fn same(a: &ReplicationController, b: &ReplicationController) -> bool {
    let selector = |rc: &ReplicationController| {
        if rc.spec.selector.is_empty() {
            rc.spec.template.metadata.labels.clone()
        } else {
            rc.spec.selector.clone()
        }
    };
    a.spec.template == b.spec.template
        && selector(a) == selector(b)
        && a.spec.min_ready_seconds == b.spec.min_ready_seconds
}

/// The same request while its update goes on: no change but of its limits.
fn again(key: &Key, update: &Updating<'_>, wanted: &Wanted, limits: &Limits) -> Result<Decision<Pair>, ApiError> {
    let record = &update.record.value;
    let (old, new) = (&update.old.0.1, &update.new.0.1);
    if update.new.0 == key {
        let what = format!("it replaces {old} just now; wait for the end: wharf rollout status rc {old}");
        return Err(ApiError::in_use(KIND, &key.1, what));
    }
    let meant = match wanted {
        Wanted::Given { controller, .. } => controller.metadata.name == *new && same(controller, &update.new.1.rc),
        Wanted::Image {
            image,
            container,
            new_name,
            ..
        } => {
            let there = of_container(&update.new.1.rc, container);
            let named = if new_name.is_empty() {
                record.renames
            } else {
                new_name == new
            };
            named && there.is_ok_and(|i| update.new.1.rc.spec.template.spec.containers[i].image == *image)
        }
        Wanted::Revision { .. } => false,
    };
    if record.back || !meant {
        let containers = &update.new.1.rc.spec.template.spec.containers;
        let images: Vec<&str> = containers.iter().map(|c| c.image.as_str()).collect();
        let what = if record.back {
            format!("its update to {new} is being rolled back; wait for the end: wharf rollout status rc {old}")
        } else {
            format!(
                "another update of it is in progress, to {new} ({}); watch it: wharf rollout status rc {old}, or take it back: wharf rolling-update {old} --rollback",
                images.join(", ")
            )
        };
        return Err(ApiError::in_use(KIND, &key.1, what));
    }
    let next = UpdateRecord {
        limits: limits.over(&record.limits),
        ..(**record).clone()
    };
    let mut changes = Vec::new();
    if next != **record {
        let expect = Expect::At(update.record.rv);
        changes.push(Change::put(keys::update(&key.0, &key.1), expect, encode(&next)));
    }
    let pair = ((*update.old.1.rc).clone(), (*update.new.1.rc).clone());
    Ok(Decision {
        detail: "its limits change".to_owned(),
        before: Some(serde_json::json!({"limits": record.limits})),
        after: Some(serde_json::json!({"limits": next.limits})),
        result: GOES_ON.to_owned(),
        ..Decision::new(changes, Pair { pair })
    })
}

/// Number of the container of this name, or of the only one. Errors: INVALID_ARGUMENT.
fn of_container(rc: &ReplicationController, name: &str) -> Result<usize, ApiError> {
    let containers = &rc.spec.template.spec.containers;
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    let found = match (name, names.len()) {
        ("", 1) => Some(0),
        ("", _) => {
            let what = format!(
                "its pods have several containers; name one: --container={}",
                names.join(" or ")
            );
            return Err(ApiError::invalid(
                KIND,
                &rc.metadata.name,
                "spec.template.spec.containers",
                what,
            ));
        }
        (name, _) => names.iter().position(|n| *n == name),
    };
    found.ok_or_else(|| {
        let what = format!("there is no container {name:?}; there is {}", names.join(", "));
        ApiError::invalid(KIND, &rc.metadata.name, "spec.template.spec.containers", what)
    })
}

fn make(world: &World, key: &Key, old: &ReplicationController, wanted: &Wanted, now: Time) -> Result<Made, ApiError> {
    let from = u32::try_from(old.spec.replicas).unwrap_or(0);
    match wanted {
        Wanted::Given {
            controller,
            own_replicas,
            cause,
            warning,
        } => {
            let given = controller.spec.replicas;
            let mut warnings: Vec<String> = warning.iter().cloned().collect();
            if !own_replicas && given != old.spec.replicas {
                warnings.push(format!(
                    "spec.replicas: {given} in the file is not taken, {} has {}; to take it: --use-file-replicas",
                    key.1, old.spec.replicas
                ));
            }
            Ok(Made {
                controller: (**controller).clone(),
                renames: false,
                target: if *own_replicas {
                    u32::try_from(given).unwrap_or(0)
                } else {
                    from
                },
                cause: cause.clone(),
                warnings,
            })
        }
        Wanted::Image {
            image,
            container,
            pull_policy,
            new_name,
            label_key,
            cause,
        } => {
            let at = of_container(old, container)?;
            let mut controller = stamped(old, now);
            let there = &mut controller.spec.template.spec.containers[at];
            if there.image == *image && pull_policy.is_none() {
                let path = format!("spec.template.spec.containers[{at}].image");
                let what = format!(
                    "container {} has image {image} already; to start its pods anew all the same: --image-pull-policy",
                    there.name
                );
                return Err(ApiError::invalid(KIND, &key.1, &path, what));
            }
            there.image.clone_from(image);
            if pull_policy.is_some() {
                there.image_pull_policy = *pull_policy;
            }
            let hash = told_apart(&mut controller, label_key);
            let renames = new_name.is_empty();
            controller.metadata.name = if renames {
                format!("{}-{hash}", key.1)
            } else {
                new_name.clone()
            };
            Ok(Made {
                controller,
                renames,
                target: from,
                cause: cause.clone(),
                warnings: Vec::new(),
            })
        }
        Wanted::Revision { number } => undone(world, key, *number, from, now),
    }
}

fn undone(world: &World, key: &Key, number: u32, from: u32, now: Time) -> Result<Made, ApiError> {
    let known = revisions(world, key)?.revisions;
    let (present, earlier) = known
        .split_last()
        .ok_or_else(|| ApiError::Internal("a controller without a revision".into()))?;
    let refuse = |what: String| ApiError::in_use(KIND, &key.1, what);
    let found = match number {
        0 => earlier
            .last()
            .ok_or_else(|| refuse("it has no earlier revision to go back to".to_owned()))?,
        n if n == present.number => {
            return Err(refuse(format!(
                "revision {n} is the present one; see: wharf rollout history rc {}",
                key.1
            )));
        }
        n => earlier.iter().find(|r| r.number == n).ok_or_else(|| {
            refuse(format!(
                "there is no revision {n} of it; see: wharf rollout history rc {}",
                key.1
            ))
        })?,
    };
    let mut controller = stamped(&found.controller, now);
    let renames = controller.metadata.name == key.1;
    if renames {
        let hash = told_apart(&mut controller, LABEL_KEY);
        controller.metadata.name = format!("{}-{hash}", key.1);
    }
    Ok(Made {
        controller,
        renames,
        target: from,
        cause: format!("undo to revision {}", found.number),
        warnings: Vec::new(),
    })
}

/// A new controller of the same spec.
fn stamped(of: &ReplicationController, now: Time) -> ReplicationController {
    let mut controller = of.clone();
    let meta = &mut controller.metadata;
    meta.uid = uuid::Uuid::new_v4().to_string();
    meta.creation_timestamp = Some(now);
    meta.generation = Some(1);
    meta.resource_version.clear();
    controller.status = None;
    controller
}

/// Gives it a label of its own in selector and template; the label's value.
fn told_apart(controller: &mut ReplicationController, key: &str) -> String {
    // With its uid, so that even the same spec once more is another one.
    let mut bytes = encode(&controller.spec);
    bytes.extend_from_slice(controller.metadata.uid.as_bytes());
    let hash = ids::long_hash(&bytes);
    let spec = &mut controller.spec;
    if spec.selector.is_empty() {
        spec.selector.clone_from(&spec.template.metadata.labels);
    }
    for labels in [&mut spec.selector, &mut spec.template.metadata.labels] {
        labels.insert(key.to_owned(), hash.clone());
    }
    hash
}

/// The label that the old controller and its pods lack.
fn lacking(state: &ControllerState, wanted: &Wanted) -> Option<(String, String)> {
    let key = wanted.label_key()?;
    if state.rc.spec.selector.contains_key(key) {
        return None;
    }
    Some((key.to_owned(), ids::long_hash(&encode(&state.rc.spec))))
}

fn unlabelled_pods<'w>(
    world: &'w World,
    state: &'w ControllerState,
    (label, value): &'w (String, String),
) -> impl Iterator<Item = (&'w Key, &'w PodState)> {
    let pods = world.pods_of(&state.rc.metadata.uid);
    pods.filter(move |(_, pod)| pod.live() && pod.label(label) != Some(value))
}

/// Whether more of the old controller's pods need their label than go into one commit with the rest.
pub(super) fn unlabelled(world: &World, key: &Key, wanted: &Wanted) -> bool {
    let Ok(state) = old(world, key) else { return false };
    let under = world.updating(&state.rc.metadata.uid).is_some();
    let label = lacking(state, wanted).filter(|_| !under);
    label.is_some_and(|label| unlabelled_pods(world, state, &label).count() > AT_ONCE)
}

/// Labels some of the old controller's pods.
pub(super) fn label(world: &World, key: &Key, wanted: &Wanted) -> Result<Decision<Pair>, ApiError> {
    let state = old(world, key)?;
    let changes = lacking(state, wanted).map_or_else(Vec::new, |label| labels(world, state, &label));
    let pair = ((*state.rc).clone(), (*state.rc).clone());
    Ok(Decision {
        detail: format!("{} of its pods are labelled for an update", changes.len()),
        ..Decision::new(changes, Pair { pair })
    })
}

fn labels(world: &World, state: &ControllerState, label: &(String, String)) -> Vec<Change> {
    let pods = unlabelled_pods(world, state, label).take(AT_ONCE);
    let changed = pods.map(|(key, pod)| {
        let mut record: PodRecord = (*pod.record).clone();
        record.labels.insert(label.0.clone(), Some(label.1.clone()));
        let at = keys::object(Kind::Pod, &key.0, &key.1);
        Change::put(at, Expect::At(pod.rv), encode(&record))
    });
    changed.collect()
}

/// The old controller with the label in selector and template, and the changes that make it and its pods so.
fn relabelled(
    world: &World,
    state: &ControllerState,
    wanted: &Wanted,
) -> Result<(ReplicationController, Vec<Change>), ApiError> {
    let mut next = (*state.rc).clone();
    if next.spec.selector.is_empty() {
        next.spec.selector.clone_from(&next.spec.template.metadata.labels);
    }
    let Some(label) = lacking(state, wanted) else {
        return Ok((next, Vec::new()));
    };
    if let Err(what) = check_label_key(&label.0) {
        let name = &next.metadata.name;
        return Err(ApiError::BadRequest(format!(
            "rolling update of {name}: label_key: {what}"
        )));
    }
    let mut changes = labels(world, state, &label);
    for labels in [&mut next.spec.selector, &mut next.spec.template.metadata.labels] {
        labels.insert(label.0.clone(), label.1.clone());
    }
    next.metadata.generation = Some(next.metadata.generation.unwrap_or(1) + 1);
    let at = keys::object(KIND, &next.metadata.namespace, &next.metadata.name);
    changes.push(Change::put(at, Expect::At(state.rv), encode(&next)));
    Ok((next, changes))
}
