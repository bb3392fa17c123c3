//! The next step of one pod that is to leave a node being drained. Called by `replicas` for a controller's pods and by
//! `gc` for those without one, each for its own group.
//!
//! A pod that serves gets a replacement beside it, and stops when that one serves. One that does not serve takes nothing
//! away when it goes: it stops at once, and its controller starts another one. One of which there may be only one, or
//! that finds no room where an operator allows it, stops first.
//!
//! Invariant: pure; whatever keeps a pod here is put into its record, with what an operator can do about it; every stop
//! of a pod that serves is taken from the ledger first.

use std::collections::HashMap;

use proto::model::{
    EventType, ReplicationController, Time, lifecycle,
    loss::{self, LossPolicy},
};

use super::failure;
use crate::{
    plan::{
        Draft, before,
        change::Change,
        disruption::{self, How, Ledger},
        gc,
        health::{self, Pause},
        pod_note,
    },
    world::{Key, NodeState, PodState, World, drains::DrainRecord, record::ReplacesRecord, settings},
};

/// What the plans of one pass do on nodes being drained, so that together they do not do too much.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moves {
    pub ledger: Ledger,
    /// Pods under way, by the node that they leave.
    under_way: HashMap<String, usize>,
    /// Whether everything waits: asked once.
    pause: Option<Option<Pause>>,
}

/// What is to be done next about a pod of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing, or it is done already.
    Nothing,
    /// A replacement is started beside it.
    Surge,
    /// It serves nobody: another one is started and it is stopped, together.
    Replace,
    /// It is stopped if there is a place for the one that will follow it.
    StopFirst,
}

/// The drain that takes pods from the pod's node. A node that is not heard is left to `health`: nobody would see a stop.
/// One that its deadline aborts takes none any more, though the end may not be on record yet.
fn drain_of<'w>(world: &'w World, pod: &PodState, now: Time) -> Option<&'w DrainRecord> {
    let node = world.nodes.get(&pod.record.node).filter(|n| n.lost().is_none())?;
    node.draining().filter(|drain| !drain.gives_up(now))
}

/// The volume of whose data it would find nothing elsewhere.
pub fn kept_by_data<'p>(pod: &'p PodState, drain: &DrainRecord) -> Option<&'p str> {
    if drain.options.discard_local_data || pod.loss_policy().discards_data {
        return None;
    }
    let spec = &pod.template.as_ref()?.record.spec;
    let emptied = spec.volumes.iter().find(|v| v.empty_dir.is_some());
    emptied.map(|v| v.name.as_str()).or_else(|| loss::local_data(spec))
}

/// Its owner wants the old one stopped before the new one starts.
pub fn stops_first(world: &World, pod: &PodState) -> bool {
    let owner = pod.record.owner.as_ref();
    let controller = owner.and_then(|o| world.controller_by_uid(&o.uid));
    let annotated = controller.is_some_and(|(_, c)| lifecycle::stop_first(&c.rc.metadata.annotations));
    annotated || pod.annotation(lifecycle::STOP_FIRST) == Some("true") || pod.loss_policy().singleton
}

/// Whether a pod of this controller must have ended before the next one starts.
pub fn one_at_a_time(rc: &ReplicationController) -> bool {
    let annotations = &rc.spec.template.metadata.annotations;
    let singleton = LossPolicy::of(|k| annotations.get(k).map(String::as_str)).singleton;
    singleton || lifecycle::stop_first(annotations) || lifecycle::stop_first(&rc.metadata.annotations)
}

/// From when on it is available by the passing of time alone; none: it is not Ready.
pub fn available_from(world: &World, pod: &PodState) -> Option<Time> {
    let owner = pod.record.owner.as_ref().and_then(|o| world.controller_by_uid(&o.uid));
    let seconds = owner.map_or(0, |(_, c)| c.rc.spec.min_ready_seconds);
    pod.ready_at(seconds)
}

/// What becomes of a pod that was started beside the one that it is to replace.
pub(crate) enum Spare {
    Stays,
    /// Nothing is to leave there any more: it is a pod as any other, and one of them is too many.
    Free,
    Goes(String),
}

/// Decides it; `pod` lives, and so does the other one.
pub(crate) fn spare(world: &World, pod: &PodState, replaces: &ReplacesRecord, out: &mut Draft) -> Spare {
    if !world.drains(&replaces.node, &replaces.drain) {
        return Spare::Free;
    }
    // Its own node is emptied too: another one is started where it can stay.
    let leaves = drain_of(world, pod, out.now).is_some() && !disruption::available(world, pod, out.now);
    if leaves && !paused(world, out) {
        return Spare::Goes(format!("node {} is drained too", pod.record.node));
    }
    Spare::Stays
}

/// What a new pod says of the old one in whose place it is started.
pub(crate) fn replaces(world: &World, key: &Key, pod: &PodState, now: Time) -> Option<ReplacesRecord> {
    drain_of(world, pod, now).map(|drain| in_place_of(key, pod, drain))
}

/// A pod that the drain of its node stopped while it served and while nothing took its place yet.
pub(crate) fn vacated(world: &World, key: &Key, pod: &PodState) -> Option<ReplacesRecord> {
    let by = pod.record.stop.as_ref()?.drain.as_ref()?;
    let drain = world.nodes.get(&pod.record.node)?.draining().filter(|d| d.id == *by)?;
    let replaced = world.replacement_of(&pod.record.uid).is_some();
    (!replaced).then(|| in_place_of(key, pod, drain))
}

fn in_place_of(key: &Key, pod: &PodState, drain: &DrainRecord) -> ReplacesRecord {
    ReplacesRecord {
        name: key.1.clone(),
        uid: pod.record.uid.clone(),
        node: pod.record.node.clone(),
        drain: drain.id.clone(),
    }
}

/// Whether everything waits, for the freeze or the brake; where a time ends it, the plan wakes then.
pub(crate) fn paused(world: &World, out: &mut Draft) -> bool {
    let now = out.now;
    let pause = out.moves.pause.get_or_insert_with(|| health::pause(world, now)).clone();
    if let Some(at) = pause.as_ref().and_then(|p| p.until) {
        out.wake_at(at);
    }
    pause.is_some()
}

/// How many pods of the node are under way.
fn under_way<'m>(world: &World, node: &str, moves: &'m mut Moves) -> &'m mut usize {
    moves.under_way.entry(node.to_owned()).or_insert_with(|| {
        let on_it = world.pods_on(node).filter(|(_, pod)| !pod.is_daemon());
        on_it
            .filter(|(_, pod)| pod.stopping() || world.replacement_of(&pod.record.uid).is_some())
            .count()
    })
}

/// Takes one of the places for pods under way, if one is free.
fn turn(world: &World, node: &str, out: &mut Draft) -> bool {
    let most = usize::try_from(world.settings.get(&settings::DRAIN_PARALLEL)).unwrap_or(usize::MAX);
    let under_way = under_way(world, node, &mut out.moves);
    let free = *under_way < most;
    *under_way += usize::from(free);
    free
}

/// Gives the place back: nothing came of it.
fn turn_over(world: &World, node: &str, out: &mut Draft) {
    let under_way = under_way(world, node, &mut out.moves);
    *under_way = under_way.saturating_sub(1);
}

/// Decides about a live pod of a controller; `spare`: what was started in its place.
pub(crate) fn next(
    world: &World,
    key: &Key,
    pod: &PodState,
    spare: Option<(&Key, &PodState)>,
    out: &mut Draft,
) -> Next {
    let Some(drain) = drain_of(world, pod, out.now) else {
        return Next::Nothing;
    };
    if paused(world, out) {
        unblocked(key, pod, out);
        return Next::Nothing;
    }
    if let Some(spare) = spare {
        swap(world, (key, pod), spare, drain, out);
        return Next::Nothing;
    }
    if let Some(volume) = kept_by_data(pod, drain) {
        blocked_by_data(key, pod, volume, out);
        return Next::Nothing;
    }
    let failure = pod.record.failure.as_ref().filter(|f| f.drain == drain.id);
    if let Some(failure) = failure.filter(|_| drain.forced.is_none()) {
        if out.now < failure.retry {
            let remedy = "see its events and logs, mend the template; the pod stays until a replacement is Ready";
            blocked(key, pod, &failure.what, remedy, out);
            out.wake_at(failure.retry);
            return Next::Nothing;
        }
    } else if failure.is_some() {
        stop(world, key, pod, drain, How::Downtime, out);
        return Next::Nothing;
    }
    // What no replacement could ever change is not waited for with one.
    if let Some(refusal) = disruption::never(world, key, pod).filter(|_| drain.forced.is_none() && pod.ready()) {
        blocked(key, pod, &refusal.rule, &refusal.remedy, out);
        return Next::Nothing;
    }
    if !turn(world, &pod.record.node, out) {
        unblocked(key, pod, out);
        return Next::Nothing;
    }
    let reached = pod.ready() && world.nodes.get(&pod.record.node).is_some_and(NodeState::is_ready);
    if !reached {
        Next::Replace
    } else if stops_first(world, pod) {
        Next::StopFirst
    } else {
        Next::Surge
    }
}

/// A pod and what was started in its place.
fn swap(world: &World, (key, pod): (&Key, &PodState), spare: (&Key, &PodState), drain: &DrainRecord, out: &mut Draft) {
    let (spare_key, spare) = spare;
    if disruption::available(world, spare, out.now) {
        stop(world, key, pod, drain, How::Swap, out);
        return;
    }
    // What becomes of one whose own node is lost or off is for `health` to say.
    let node = world.nodes.get(&spare.record.node);
    if node.is_some_and(|n| n.lost().is_some() || n.off.is_some()) {
        return;
    }
    if let Some(what) = failure::failed(world, spare_key, spare, out.now) {
        let failure = failure::noted(pod, &drain.id, what, out.now);
        let message = format!("{}; it stays, the next one is tried at {}", failure.what, failure.retry);
        let reason = "it did not become Ready in the place of the pod that it was started for";
        let stop = gc::stop_of(spare_key, spare, reason, false, out.now);
        let fail = Change::Fail {
            pod: before(key, pod),
            failure,
        };
        out.push_together(vec![stop, fail]);
        note(key, pod, "ReplacementFailed", message, EventType::Warning, out);
        return;
    }
    unblocked(key, pod, out);
    out.wake_at(failure::given_until(world, spare).max(Time(out.now.0 + 1)));
    if let Some(at) = available_from(world, spare).filter(|at| *at > out.now) {
        out.wake_at(at);
    }
}

/// Stops a pod that serves, if the ledger lets it go.
pub(crate) fn stop(world: &World, key: &Key, pod: &PodState, drain: &DrainRecord, how: How, out: &mut Draft) -> bool {
    let (now, forced) = (out.now, drain.forced.is_some());
    if let Err(refusal) = out.moves.ledger.take(world, now, key, pod, how, forced) {
        blocked(key, pod, &refusal.rule, &refusal.remedy, out);
        return false;
    }
    let reason = reason(&pod.record.node, drain);
    let mut change = gc::stop_of(key, pod, &reason, false, now);
    if let Change::Stop { drain: by, .. } = &mut change {
        *by = Some(drain.id.clone());
    }
    out.push(change);
    true
}

/// Why a pod of the node is stopped.
pub(crate) fn reason(node: &str, drain: &DrainRecord) -> String {
    let by = drain.by.strip_prefix("user/").unwrap_or(&drain.by);
    let why = if drain.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", drain.reason)
    };
    format!("node {node} is drained by {by}{why}")
}

/// A pod that stops first: `fits` says why there is no place for the one to follow it, if there is none.
pub(crate) fn stop_first(world: &World, key: &Key, pod: &PodState, no_place: Option<&str>, out: &mut Draft) {
    let Some(drain) = drain_of(world, pod, out.now) else {
        return;
    };
    let allowed = drain.options.allow_downtime || drain.forced.is_some();
    let gone = match no_place.filter(|_| !allowed) {
        Some(why) => {
            blocked_by_room(key, pod, why, out);
            false
        }
        None => stop(world, key, pod, drain, How::Downtime, out),
    };
    if !gone {
        turn_over(world, &pod.record.node, out);
    }
}

/// There is no place for a replacement beside it.
pub(crate) fn no_room(world: &World, key: &Key, pod: &PodState, why: &str, out: &mut Draft) {
    stop_first(world, key, pod, Some(why), out);
}

/// The end of a pod that serves nobody, with the birth of the one that takes its place.
pub(crate) fn give_way(world: &World, key: &Key, pod: &PodState, create: Change, out: &mut Draft) {
    let Some(drain) = drain_of(world, pod, out.now) else {
        return;
    };
    let reason = reason(&pod.record.node, drain);
    let stop = gc::stop_of(key, pod, &reason, false, out.now);
    out.push_together(vec![stop, create]);
}

/// Says that a pod is started in another's place.
pub(crate) fn beside((old, pod): (&Key, &PodState), new: &Key, uid: &str, out: &mut Draft) {
    unblocked(old, pod, out);
    let mut note = pod_note(
        new,
        uid,
        "Replacing",
        format!(
            "started in the place of {}, which runs on until this one is Ready",
            old.1
        ),
        EventType::Normal,
        out.now,
    );
    note.component = "drain";
    out.note(note);
}

/// A live pod that nothing replaces.
pub(crate) fn alone(world: &World, key: &Key, pod: &PodState, out: &mut Draft) {
    let Some(drain) = drain_of(world, pod, out.now) else {
        return;
    };
    if paused(world, out) {
        unblocked(key, pod, out);
        return;
    }
    if !drain.options.delete_unmanaged {
        let rule = "no controller would start it elsewhere";
        blocked(key, pod, rule, "delete it, or drain with --delete-unmanaged", out);
    } else if let Some(volume) = kept_by_data(pod, drain) {
        blocked_by_data(key, pod, volume, out);
    } else if !turn(world, &pod.record.node, out) {
        unblocked(key, pod, out);
    } else if !stop(world, key, pod, drain, How::Plain, out) {
        turn_over(world, &pod.record.node, out);
    }
}

fn blocked_by_data(key: &Key, pod: &PodState, volume: &str, out: &mut Draft) {
    let rule = format!("its data in volume {volume} would stay on {}", pod.record.node);
    let remedy = "move them and delete the pod, or give them up: drain with --local-data discard, or annotate the pod wharfinger.io/local-data=discard";
    blocked(key, pod, &rule, remedy, out);
}

fn blocked_by_room(key: &Key, pod: &PodState, why: &str, out: &mut Draft) {
    let rule = format!("no node has a place for its replacement: {why}");
    blocked(
        key,
        pod,
        &rule,
        "make room, or accept that it is missed: drain with --allow-downtime",
        out,
    );
}

/// Puts into its record why it stays, unless it is there.
fn blocked(key: &Key, pod: &PodState, rule: &str, remedy: &str, out: &mut Draft) {
    let words = if remedy.is_empty() {
        rule.to_owned()
    } else {
        format!("{rule}; {remedy}")
    };
    if pod.record.waiting != words {
        out.push(Change::Explain {
            pod: before(key, pod),
            waiting: words.clone(),
        });
        note(key, pod, "NotMoved", words, EventType::Warning, out);
    }
}

fn unblocked(key: &Key, pod: &PodState, out: &mut Draft) {
    if !pod.record.waiting.is_empty() {
        out.push(Change::Explain {
            pod: before(key, pod),
            waiting: String::new(),
        });
    }
}

fn note(key: &Key, pod: &PodState, reason: &str, message: String, kind: EventType, out: &mut Draft) {
    let mut note = pod_note(key, &pod.record.uid, reason, message, kind, out.now);
    note.component = "drain";
    out.note(note);
}
