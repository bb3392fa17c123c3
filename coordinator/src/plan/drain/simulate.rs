//! What a drain would do: for each pod of the node where its replacement would go, or why it cannot leave. Called by
//! the api for `wharf drain --dry-run`.
//!
//! Invariant: pure; nothing is changed; the node takes no pod in it, and no room is given twice. It is of now: what
//! others start or stop meanwhile, and what a budget allows at its turn, is not known.

use std::collections::BTreeMap;

use proto::model::Time;

use super::{
    leaves, moves,
    report::{Line, Report, State, Step, silence},
};
use crate::{
    plan::{
        disruption, health, replicas,
        scheduler::{Batch, Counts, Placed, Pods},
    },
    store::Rv,
    world::{
        ControllerState, Key, NodeState, PodState, Template, World,
        drains::{DrainOptions, DrainRecord},
    },
};

/// What is said of the node itself where a pod finds no room.
const EMPTIED: &str = "to be drained";

/// The drain of this node with these options, as if it began now. `seed` chooses among equal nodes.
pub fn simulate(world: &World, node: &str, options: &DrainOptions, now: Time, seed: u64) -> Report {
    let drain = DrainRecord {
        id: String::new(),
        by: String::new(),
        reason: String::new(),
        since: now,
        options: options.clone(),
        total: 0,
        forced: None,
        ended: None,
    };
    let mut lines: BTreeMap<&Key, Line> = BTreeMap::new();
    let mut moving: BTreeMap<&Key, Vec<(&Key, &PodState)>> = BTreeMap::new();
    for (key, pod) in world.pods_on(node) {
        match judge(world, key, pod, &drain) {
            Verdict::Is(step, why) => {
                lines.insert(key, line(key, pod, step, None, why));
            }
            Verdict::Moves(controller) => moving.entry(controller).or_default().push((key, pod)),
        }
    }
    let mut placed = Placed::without(node, EMPTIED);
    for (controller, pods) in moving {
        if let Some(controller) = world.controllers.get(controller) {
            place(world, controller, &pods, options, seed, &mut placed, &mut lines);
        }
    }
    Report {
        state: State::Planned,
        why: halts(world, node, now),
        left: lines.values().filter(|l| l.step != Step::Stays).count(),
        lines: lines.into_values().collect(),
    }
}

/// Why the drain as a whole would not go on.
fn halts(world: &World, name: &str, now: Time) -> Vec<String> {
    let pause = health::pause(world, now).map(|pause| pause.words);
    let silence = world.nodes.get(name).and_then(|node| silence(name, node));
    pause.into_iter().chain(silence).collect()
}

/// What becomes of a pod.
enum Verdict<'w> {
    /// It needs no place elsewhere, or must not have one.
    Is(Step, String),
    /// Its controller, of this key, has another one started elsewhere.
    Moves(&'w Key),
}

fn judge<'w>(world: &'w World, key: &Key, pod: &PodState, drain: &DrainRecord) -> Verdict<'w> {
    if !leaves(drain, pod) {
        return Verdict::Is(Step::Stays, "a daemon".into());
    }
    if pod.stopping() {
        return Verdict::Is(Step::Stopping, "it is being stopped already".into());
    }
    if pod.ended() {
        return Verdict::Is(Step::Waiting, "it has ended".into());
    }
    if pod.is_daemon() {
        return Verdict::Is(Step::Waiting, "a daemon: stopped when all others have left".into());
    }
    let owner = pod.record.owner.as_ref();
    let controller = owner.and_then(|o| world.controller_by_uid(&o.uid));
    if controller.is_none() && !drain.options.delete_unmanaged {
        let why = "no controller would start it elsewhere; delete it, or drain with --delete-unmanaged";
        return Verdict::Is(Step::Blocked, why.into());
    }
    if let Some(volume) = moves::kept_by_data(pod, drain) {
        let why = format!(
            "its data in volume {volume} would stay on {}; move them and delete the pod, or drain with --local-data discard",
            pod.record.node
        );
        return Verdict::Is(Step::Blocked, why);
    }
    if serves(world, pod)
        && let Some(refusal) = disruption::never(world, key, pod)
    {
        return Verdict::Is(Step::Blocked, format!("{}; {}", refusal.rule, refusal.remedy));
    }
    match controller {
        Some((controller, _)) => Verdict::Moves(controller),
        None => Verdict::Is(
            Step::Waiting,
            "stopped for good: no controller starts it elsewhere".into(),
        ),
    }
}

/// Whether somebody would miss it.
fn serves(world: &World, pod: &PodState) -> bool {
    pod.ready() && world.nodes.get(&pod.record.node).is_some_and(NodeState::is_ready)
}

/// Places the replacements of one controller's pods, one after the other.
fn place<'w>(
    world: &'w World,
    controller: &ControllerState,
    pods: &[(&'w Key, &'w PodState)],
    options: &DrainOptions,
    seed: u64,
    placed: &mut Placed,
    lines: &mut BTreeMap<&'w Key, Line>,
) {
    let rc = &*controller.rc;
    let template = Template::new(Rv::default(), replicas::template_of(rc));
    let class = Pods::new(&rc.metadata.namespace, &template);
    let mut counts = Counts::new();
    for (_, pod) in world.pods_of(&rc.metadata.uid).filter(|(_, pod)| pod.live()) {
        *counts.entry(&pod.record.node).or_default() += 1;
    }
    let mut beside = Batch::new(world, class.clone(), &counts, placed, seed);
    // With the host ports of the node's own pods free.
    let mut after = None;
    for (key, pod) in pods {
        let serves = serves(world, pod);
        let found = if let Some(place) = beside.place(placed) {
            let why = if !serves {
                "it is not Ready: stopped at once"
            } else if moves::stops_first(world, pod) {
                "stopped first: it is missed until another one is Ready"
            } else {
                ""
            };
            line(key, pod, Step::Waiting, Some(place.node), why.into())
        } else if serves && !options.allow_downtime {
            let why = format!(
                "no node has a place for its replacement: {}; make room, or accept that it is missed: drain with --allow-downtime",
                beside.explain()
            );
            line(key, pod, Step::Blocked, None, why)
        } else {
            placed.vacated(true);
            let after = after.get_or_insert_with(|| Batch::new(world, class.clone(), &counts, placed, seed));
            let place = after.place(placed);
            placed.vacated(false);
            let why = match place {
                Some(_) => "stopped first: it is missed until another one is Ready".to_owned(),
                None => format!("stopped, and missed until there is a place: {}", after.explain()),
            };
            line(key, pod, Step::Waiting, place.map(|p| p.node), why)
        };
        lines.insert(key, found);
    }
}

fn line(key: &Key, pod: &PodState, step: Step, node: Option<&str>, why: String) -> Line {
    Line {
        key: key.clone(),
        uid: pod.record.uid.clone(),
        // It has no name yet.
        new: node.map(|node| ((key.0.clone(), String::new()), node.to_owned())),
        step,
        since: None,
        why,
    }
}

#[cfg(test)]
#[path = "simulate_tests.rs"]
mod tests;
