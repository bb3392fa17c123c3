//! The two controllers of an update that begins, and what forbids it. Called by the service through `write`.
//!
//! Invariant: pure; the old controller's pods are touched by labels at most, and none of them leaves it by that.

use proto::{
    ids,
    model::{
        Kind, Object, PodTemplate, PullPolicy, ReplicationController, Time, labels::check_label_key, namespace_flag,
    },
    wire::{BeginUpdateRequest, CreateRequest},
};

use super::{
    Limits,
    made::{UNDO, make, of_container},
};
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

pub(super) const KIND: Kind = Kind::ReplicationController;

/// Label that carries the hash where a request names none.
pub(super) const LABEL_KEY: &str = "deployment";

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
    let (next, before) = prepared(world, state, wanted)?;
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
        Some(there) => {
            made.controller = reused(world, there, &made.controller)?;
            let at = keys::object(KIND, &new_key.0, &new_key.1);
            changes.push(Change::put(at, Expect::At(there.rv), encode(&made.controller)));
        }
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
        back_why: String::new(),
        paused: None,
        tried: false,
        steps: Vec::new(),
        before: 0,
        progressed: now,
        held: None,
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
    let (old, new, flag) = (&update.old.0.1, &update.new.0.1, namespace_flag(&key.0));
    if update.new.0 == key {
        let what = format!("it replaces {old} just now; wait for the end: wharf rollout status rc {old}{flag}");
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
        Wanted::Revision { number } => {
            let to = record.cause.strip_prefix(UNDO);
            to.is_some_and(|to| *number == 0 || to == number.to_string())
        }
    };
    if record.back || !meant {
        let containers = &update.new.1.rc.spec.template.spec.containers;
        let images: Vec<&str> = containers.iter().map(|c| c.image.as_str()).collect();
        let what = if record.back {
            format!("its update to {new} is being rolled back; wait for the end: wharf rollout status rc {old}{flag}")
        } else {
            format!(
                "another update of it is in progress, to {new} ({}); watch it: wharf rollout status rc {old}{flag}, or take it back: wharf rolling-update {old} --rollback{flag}",
                images.join(", ")
            )
        };
        return Err(ApiError::in_use(KIND, &key.1, what));
    }
    let next = UpdateRecord {
        limits: limits.over(&record.limits),
        tried: record.tried && !limits.pauses_anew(&record.limits),
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

/// The old controller as it goes into the update, and the changes that make it and its pods so: with the label in selector
/// and template, and with the template that its pods are of. It is written in any case: what was decided on is what begins.
fn prepared(
    world: &World,
    state: &ControllerState,
    wanted: &Wanted,
) -> Result<(ReplicationController, Vec<Change>), ApiError> {
    let mut next = (*state.rc).clone();
    if next.spec.selector.is_empty() {
        next.spec.selector.clone_from(&next.spec.template.metadata.labels);
    }
    if let Some(template) = running(world, &next) {
        next.spec.template = template;
    }
    let mut changes = Vec::new();
    if let Some(label) = lacking(state, wanted) {
        if let Err(what) = check_label_key(&label.0) {
            let name = &next.metadata.name;
            return Err(ApiError::BadRequest(format!(
                "rolling update of {name}: label_key: {what}"
            )));
        }
        changes = labels(world, state, &label);
        for labels in [&mut next.spec.selector, &mut next.spec.template.metadata.labels] {
            labels.insert(label.0.clone(), label.1.clone());
        }
    }
    if next.spec != state.rc.spec {
        next.metadata.generation = Some(next.metadata.generation.unwrap_or(1) + 1);
    }
    let at = keys::object(KIND, &next.metadata.namespace, &next.metadata.name);
    changes.push(Change::put(at, Expect::At(state.rv), encode(&next)));
    Ok((next, changes))
}

/// The template that all its pods are of, where the controller's own is another one by now: turned back, or undone, the
/// update leads to what ran before, and not to what never ran.
fn running(world: &World, rc: &ReplicationController) -> Option<PodTemplate> {
    let mut pods = world.pods_of(&rc.metadata.uid).filter(|(_, pod)| pod.live());
    let record = &pods.next()?.1.template.as_ref()?.record;
    if !pods.all(|(_, pod)| pod.template.as_ref().is_some_and(|t| t.record == *record)) {
        return None;
    }
    let mut template = rc.spec.template.clone();
    template.spec = record.spec.clone();
    template.metadata.labels.clone_from(&record.labels);
    template.metadata.annotations.clone_from(&record.annotations);
    // A label that running pods were given is theirs, and not in what they were made from.
    let selected = rc.spec.selector.clone();
    template.metadata.labels.extend(selected);
    (template != rc.spec.template).then_some(template)
}
