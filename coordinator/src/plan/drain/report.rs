//! How a drain stands, for people and programs: what is on the node, what each pod waits for, what would happen. Called
//! by the api for its views.
//!
//! Invariant: pure; says what `drain` would decide, for it asks the same questions.

use proto::model::Time;

use super::{failure, leaves, left, pending};
use crate::{
    plan::health,
    world::{
        Key, NodeState, PodState, World,
        drains::{DrainOutcome, DrainRecord, OnDeadline},
    },
};

/// A drain as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub state: State,
    /// Why it does not go on as a whole, each with its remedy.
    pub why: Vec<String>,
    /// By key: what is on the node, and what has gone while its replacement is not Ready.
    pub lines: Vec<Line>,
    /// Pods that are still to leave.
    pub left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Of a simulation.
    Planned,
    Draining,
    /// Something waits for an operator.
    Blocked,
    /// By a freeze or the brake.
    Paused,
    Drained,
    Aborted,
    Cancelled,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub key: Key,
    pub uid: String,
    /// Its replacement with that one's node.
    pub new: Option<(Key, String)>,
    pub step: Step,
    pub since: Option<Time>,
    /// What it waits for; of one that is blocked the rule and the remedy.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its turn comes.
    Waiting,
    /// Its replacement is being started.
    Starting,
    Blocked,
    Stopping,
    /// It has gone; its replacement is not Ready.
    Stopped,
    /// A daemon.
    Stays,
}

/// How the node's present or last drain stands. None: there is none.
pub fn report(world: &World, name: &str, now: Time) -> Option<Report> {
    let node = world.nodes.get(name)?;
    let drain = &*node.drain.as_ref()?.value;
    let mut why = Vec::new();
    let over = drain.ended.as_ref();
    // What runs there after its end is not its matter.
    let on_it = world.pods_on(name).filter(|_| over.is_none());
    let mut lines: Vec<Line> = on_it
        .map(|(key, pod)| on_the_node(world, node, drain, key, pod))
        .collect();
    if over.is_none() {
        lines.extend(pending(world, name, drain, now).filter_map(|(key, pod)| gone(world, key, pod)));
    }
    lines.sort_by(|a, b| a.key.cmp(&b.key));
    let left = left(world, name, drain).filter(|_| over.is_none()).count();
    if over.is_none() {
        why.extend(health::pause(world, now).map(|pause| pause.words));
        why.extend(silence(name, node));
        why.extend(late(drain, now));
    }
    let state = match over.map(|e| e.how) {
        Some(DrainOutcome::Drained) => State::Drained,
        Some(DrainOutcome::Aborted) => State::Aborted,
        Some(DrainOutcome::Cancelled) => State::Cancelled,
        None if health::pause(world, now).is_some() => State::Paused,
        None if node.lost().is_some() || stuck(&lines) => State::Blocked,
        None => State::Draining,
    };
    Some(Report {
        state,
        why,
        lines,
        left,
    })
}

/// Something waits for an operator, and nothing else goes on.
fn stuck(lines: &[Line]) -> bool {
    let at = |step: Step| lines.iter().any(|line| line.step == step);
    at(Step::Blocked) && ![Step::Waiting, Step::Starting, Step::Stopping].into_iter().any(at)
}

/// A pod that is on the node.
fn on_the_node(world: &World, node: &NodeState, drain: &DrainRecord, key: &Key, pod: &PodState) -> Line {
    let new = world.replacement_of(&pod.record.uid);
    let (step, since, why) = if let Some(stop) = &pod.record.stop {
        let why = match node.lost() {
            Some(lost) => format!("its end is not seen while {} is {}", pod.record.node, lost.why.as_str()),
            None => String::new(),
        };
        (Step::Stopping, Some(stop.at), why)
    } else if !leaves(drain, pod) {
        (Step::Stays, None, "a daemon".to_owned())
    } else if let Some((_, new)) = new.filter(|_| pod.record.waiting.is_empty()) {
        (Step::Starting, Some(new.record.created), waits_for(new))
    } else if pod.record.waiting.is_empty() {
        (Step::Waiting, None, String::new())
    } else {
        (Step::Blocked, None, pod.record.waiting.clone())
    };
    Line {
        key: key.clone(),
        uid: pod.record.uid.clone(),
        new: new.map(|(key, pod)| (key.clone(), pod.record.node.clone())),
        step,
        since,
        why,
    }
}

/// A pod that has gone, whose replacement is not Ready.
fn gone(world: &World, key: &Key, new: &PodState) -> Option<Line> {
    let replaces = new.record.replaces.as_ref()?;
    if world.pod_by_uid(&replaces.uid).is_some() {
        return None;
    }
    let why = match new.record.waiting.as_str() {
        "" => waits_for(new),
        waiting => waiting.to_owned(),
    };
    Some(Line {
        key: (key.0.clone(), replaces.name.clone()),
        uid: replaces.uid.clone(),
        new: Some((key.clone(), new.record.node.clone())),
        step: Step::Stopped,
        since: Some(new.record.created),
        why,
    })
}

/// Why a new pod is not Ready, as far as its agent says.
fn waits_for(new: &PodState) -> String {
    let statuses = new.status.iter().flat_map(|s| &s.value.status.container_statuses);
    let words = statuses.filter_map(failure::waits_for).next();
    let words = words.map(|w| w.trim_start_matches(": ").to_owned());
    match words {
        Some(words) => words,
        None if new.ready() => "Ready; soon available".to_owned(),
        None => String::new(),
    }
}

pub(super) fn silence(name: &str, node: &NodeState) -> Option<String> {
    let lost = node.lost()?;
    Some(format!(
        "node {name} is {} since {}: nobody sees its pods end; bring it back, or, if its host is off: wharf node confirm-off {name}",
        lost.why.as_str(),
        lost.since
    ))
}

fn late(drain: &DrainRecord, now: Time) -> Option<String> {
    let deadline = drain.options.deadline;
    let words = match drain.options.on_deadline {
        OnDeadline::Block => {
            format!(
                "its deadline passed at {deadline}: it goes on; take it back with --cancel, or begin it anew with more allowed"
            )
        }
        OnDeadline::Force => format!("its deadline passed at {deadline}: budgets are overridden"),
        OnDeadline::Abort => format!("its deadline passed at {deadline}: it is being aborted"),
    };
    (now >= deadline).then_some(words)
}
