//! How a drain stands, on the wire, and the watch that sends it again and again. Called by `drains`.
//!
//! Invariant: the clock alone is no news; a watch ends with the drain that it began with.

use std::collections::BTreeSet;

use proto::{
    model::{Kind, Time},
    wire::{DrainPod, DrainView},
};

use super::{
    Api, convert,
    errors::ApiError,
    view_watch::{ViewStream, Viewed},
    write::now_ms,
};
use crate::{
    plan::drain::report::{Line, Report, State, Step, report},
    world::{
        Key, NodeState, Touched, World,
        hub::{Batch, Hub},
    },
};

/// How the node's present or last drain stands; none: there is none.
pub(super) fn view(world: &World, name: &str, now_ms: u64) -> Option<DrainView> {
    let node = world.nodes.get(name)?;
    let drain = &node.drain.as_ref()?.value;
    let report = report(world, name, Time::from_millis(now_ms))?;
    let mut view = DrainView {
        node: name.to_owned(),
        id: drain.id.clone(),
        by: drain.by.clone(),
        reason: drain.reason.clone(),
        since_ms: convert::ms(drain.since),
        deadline_ms: convert::ms(drain.options.deadline),
        on_deadline: drain.options.on_deadline.as_str().to_owned(),
        ended_ms: drain.ended.as_ref().map_or(0, |end| convert::ms(end.at)),
        forced_ms: drain.forced.map_or(0, convert::ms),
        total: drain.total,
        unmanaged: unmanaged(node),
        now_ms,
        ..DrainView::default()
    };
    fill(&mut view, &report);
    if report.state == State::Draining {
        view.eta_ms = eta(&view);
    }
    Some(view)
}

/// Containers on its host that are not ours.
pub(super) fn unmanaged(node: &NodeState) -> Vec<String> {
    let facts = node.facts.as_ref();
    let found = facts.and_then(|f| f.value.unmanaged.as_ref());
    let containers = found.into_iter().flat_map(|u| &u.containers);
    containers.map(|c| c.name.clone()).collect()
}

/// What the report says.
pub(super) fn fill(view: &mut DrainView, report: &Report) {
    let state = match report.state {
        State::Planned => "Planned",
        State::Draining => "Draining",
        State::Blocked => "Blocked",
        State::Paused => "Paused",
        State::Drained => "Drained",
        State::Aborted => "Aborted",
        State::Cancelled => "Cancelled",
    };
    state.clone_into(&mut view.phase);
    view.left = u32::try_from(report.left).unwrap_or(u32::MAX);
    view.why.clone_from(&report.why);
    view.pods = report.lines.iter().map(pod).collect();
}

fn pod(line: &Line) -> DrainPod {
    let step = match line.step {
        Step::Waiting => "Waiting",
        Step::Starting => "Starting",
        Step::Blocked => "Blocked",
        Step::Stopping => "Stopping",
        Step::Stopped => "Stopped",
        Step::Stays => "Stays",
    };
    let (new_name, new_node) = match &line.new {
        Some((key, node)) => (key.1.clone(), node.clone()),
        None => Default::default(),
    };
    DrainPod {
        namespace: line.key.0.clone(),
        name: line.key.1.clone(),
        uid: line.uid.clone(),
        new_name,
        new_node,
        step: step.to_owned(),
        since_ms: line.since.map_or(0, convert::ms),
        why: line.why.clone(),
    }
}

/// When the last pod will have left, at the pace until now; 0 while none has.
fn eta(view: &DrainView) -> u64 {
    let gone = u64::from(view.total.saturating_sub(view.left));
    let took = view.now_ms.saturating_sub(view.since_ms);
    match took.checked_div(gone) {
        Some(each) => view.now_ms.saturating_add(each.saturating_mul(u64::from(view.left))),
        None => 0,
    }
}

impl Api {
    /// Errors: as of `Drains.Watch`.
    pub(super) fn watch_drain(&self, name: &str) -> Result<ViewStream<DrainView>, ApiError> {
        self.watch_view(|world| {
            let node = world.nodes.get(name);
            let node = node.ok_or_else(|| ApiError::not_found(Kind::Node, name))?;
            let drain = node.drain.as_ref().ok_or_else(|| none(name))?;
            Ok(Watched {
                node: name.to_owned(),
                id: drain.value.id.clone(),
                seen: Seen::default(),
            })
        })
    }
}

/// What was in the last view.
#[derive(Default)]
struct Seen {
    pods: BTreeSet<Key>,
    nodes: BTreeSet<String>,
}

struct Watched {
    node: String,
    /// Of the drain that is watched.
    id: String,
    seen: Seen,
}

impl Viewed for Watched {
    type View = DrainView;

    fn look(&mut self, world: &World) -> Result<DrainView, ApiError> {
        let view = view(world, &self.node, now_ms()).ok_or_else(|| none(&self.node))?;
        if view.id != self.id {
            let what = format!(
                "nodes {:?}: the drain that was watched has ended, and another has begun; watch again",
                self.node
            );
            return Err(ApiError::Gone(what));
        }
        let pods = view.pods.iter();
        self.seen.pods = pods
            .clone()
            .flat_map(|p| {
                let key = |name: &String| (p.namespace.clone(), name.clone());
                [key(&p.name), key(&p.new_name)]
            })
            .collect();
        self.seen.nodes = pods.map(|p| p.new_node.clone()).chain([self.node.clone()]).collect();
        Ok(view)
    }

    fn ended(view: &DrainView) -> bool {
        view.ended_ms > 0
    }

    fn news(before: &DrainView, now: &DrainView) -> bool {
        news(before, now)
    }

    fn concerns(&self, hub: &Hub, batch: &Batch) -> bool {
        let mut others = Vec::new();
        for touched in &batch.touched {
            match touched {
                Touched::Drain(name) | Touched::Node(name) | Touched::Reach(name) if self.seen.nodes.contains(name) => {
                    return true;
                }
                Touched::Pod(key) if self.seen.pods.contains(key) => return true,
                Touched::Pod(key) => others.push(key),
                _ => {}
            }
        }
        // Those that are new: on the node, or for one of it.
        !others.is_empty()
            && hub.read(|world| {
                others.into_iter().filter_map(|key| world.pods.get(key)).any(|pod| {
                    let of = pod.record.replaces.as_ref();
                    pod.record.node == self.node || of.is_some_and(|r| r.node == self.node)
                })
            })
    }
}

/// Whether a view says anything that the one before did not: the clock is no news, nor what follows from it alone.
fn news(before: &DrainView, now: &DrainView) -> bool {
    let timeless = |view: &DrainView| DrainView {
        now_ms: 0,
        eta_ms: 0,
        ..view.clone()
    };
    timeless(before) != timeless(now)
}

fn none(name: &str) -> ApiError {
    ApiError::Gone(format!(
        "nodes {name:?}: it has no drain; begin one: wharf drain {name}"
    ))
}

#[cfg(test)]
#[path = "drain_watch_tests.rs"]
mod tests;
