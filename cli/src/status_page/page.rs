//! From what was seen to the problems, the worst first. Called by `run`; shown by `show`.
//!
//! Invariant: pure; work in proportion to what was seen; every problem names a command that helps.

use std::collections::{BTreeMap, HashMap};

use proto::{
    model::{ConditionStatus, HoldKind, Node, NodeCondition, NodeHold, Phase, Pod, ReplicationController, Time},
    wire,
};

use super::reasons::{self, Why};
use crate::{age, printers::pod_status};

/// All that the page is made from.
#[derive(Debug, Default)]
pub struct Seen {
    pub now: Time,
    /// The namespace in force: commands leave it out.
    pub home: String,
    pub info: wire::InfoReply,
    pub settings: wire::ShowSettingsReply,
    pub nodes: Vec<Node>,
    pub controllers: Vec<ReplicationController>,
    pub pods: Vec<Pod>,
}

/// What a problem is about, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    Freeze,
    Brake,
    NotReady,
    Quarantine,
    Held,
    Controller,
    Unknown,
    Pod,
}

impl Area {
    pub const ALL: [Self; 8] = [
        Self::Freeze,
        Self::Brake,
        Self::NotReady,
        Self::Quarantine,
        Self::Held,
        Self::Controller,
        Self::Unknown,
        Self::Pod,
    ];

    /// As the object names it, what is not listed line by line, and the command that lists all.
    pub fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Freeze => ("freeze", "freezes", "wharf unfreeze"),
            Self::Brake => ("brake", "brakes", "wharf status -o json"),
            Self::NotReady => ("nodeNotReady", "nodes not Ready", "wharf get nodes"),
            Self::Quarantine => ("nodeQuarantined", "nodes in quarantine", "wharf get nodes"),
            Self::Held => ("nodeHeld", "nodes held", "wharf get nodes"),
            Self::Controller => ("controllerNotReady", "controllers not Ready", "wharf get rc -A"),
            Self::Unknown => ("podsUnknown", "nodes with pods Unknown", "wharf get pods -A"),
            Self::Pod => ("podFailed", "pods", "wharf get pods -A"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub area: Area,
    /// `node/n2`, `rc/web`, `freeze`.
    pub object: String,
    /// Of a namespace other than the one in force.
    pub namespace: String,
    pub what: String,
    pub since: Option<Time>,
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub all: usize,
    pub ready: usize,
}

impl Count {
    fn of(ready: impl Iterator<Item = bool>) -> Self {
        ready.fold(Self::default(), |count, ready| Self {
            all: count.all + 1,
            ready: count.ready + usize::from(ready),
        })
    }
}

#[derive(Debug, Default)]
pub struct Page {
    /// In order of [`Area`], then of names.
    pub problems: Vec<Problem>,
    pub nodes: Count,
    pub controllers: Count,
    pub pods: Count,
}

impl Page {
    pub fn of(seen: &Seen) -> Self {
        let mut by_owner: HashMap<&str, Vec<&Pod>> = HashMap::new();
        let mut on_node: HashMap<&str, usize> = HashMap::new();
        for pod in &seen.pods {
            if let Some(owner) = pod
                .metadata
                .owner_references
                .iter()
                .find(|o| o.controller == Some(true))
            {
                by_owner.entry(owner.uid.as_str()).or_default().push(pod);
            }
            *on_node.entry(pod.spec.node_name.as_str()).or_default() += 1;
        }
        let mut problems = Vec::new();
        problems.extend(frozen(seen));
        problems.extend(braked(seen));
        for node in &seen.nodes {
            let pods = on_node.get(node.metadata.name.as_str()).copied().unwrap_or(0);
            problems.extend(not_ready(seen, node, pods));
            problems.extend(held(seen, node));
        }
        for rc in &seen.controllers {
            let pods = by_owner.get(rc.metadata.uid.as_str()).map_or(&[][..], Vec::as_slice);
            problems.extend(controller(seen, rc, pods));
        }
        problems.extend(pods(seen));
        problems.sort_by(|a, b| (a.area, &a.namespace, &a.object).cmp(&(b.area, &b.namespace, &b.object)));
        Self {
            problems,
            nodes: Count::of(seen.nodes.iter().map(|n| ready_condition(n).is_some_and(is_true))),
            controllers: Count::of(seen.controllers.iter().map(complete)),
            pods: Count::of(
                seen.pods
                    .iter()
                    .map(|p| p.status.as_ref().is_some_and(proto::model::PodStatus::ready)),
            ),
        }
    }
}

fn is_true(condition: &NodeCondition) -> bool {
    condition.status == ConditionStatus::True
}

fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.condition("Ready")
}

fn time(ms: u64) -> Option<Time> {
    (ms > 0).then(|| Time::from_millis(ms))
}

/// `user/admin` is `admin`.
fn who(by: &str) -> &str {
    by.strip_prefix("user/").unwrap_or(by)
}

fn frozen(seen: &Seen) -> Option<Problem> {
    let freeze = seen.settings.freeze.as_ref()?;
    let end = time(freeze.until_ms).map_or_else(String::new, |until| {
        format!("; ends in {}", age::duration(until.since(seen.now)))
    });
    Some(Problem {
        area: Area::Freeze,
        object: "freeze".into(),
        namespace: String::new(),
        what: format!(
            "frozen by {}: {}; nothing is replaced, evicted, drained or updated{end}",
            who(&freeze.by),
            freeze.reason
        ),
        since: time(freeze.since_ms),
        remedy: "wharf unfreeze".into(),
    })
}

fn braked(seen: &Seen) -> Option<Problem> {
    let brake = &seen.settings.brake;
    (!brake.is_empty()).then(|| Problem {
        area: Area::Brake,
        object: "brake".into(),
        namespace: String::new(),
        what: brake.clone(),
        since: None,
        remedy: "wharf get nodes".into(),
    })
}

fn not_ready(seen: &Seen, node: &Node, pods: usize) -> Option<Problem> {
    let name = &node.metadata.name;
    let ready = ready_condition(node);
    if ready.is_some_and(is_true) {
        return None;
    }
    let (reason, message) = ready.map_or(("", ""), |c| (c.reason.as_str(), c.message.as_str()));
    let quarantined = reason == "Quarantined";
    let mut what = if quarantined { "in quarantine" } else { "NotReady" }.to_owned();
    if !reason.is_empty() && !quarantined {
        what = format!("{what} ({reason})");
    }
    if !message.is_empty() {
        what = format!("{what}: {message}");
    }
    let since = ready.and_then(|c| c.last_transition_time);
    if let Some(next) = next(seen, reason, since).filter(|_| pods > 0) {
        what = format!("{what}; {next}");
    }
    Some(Problem {
        area: if quarantined { Area::Quarantine } else { Area::NotReady },
        object: format!("node/{name}"),
        namespace: String::new(),
        what,
        since,
        remedy: if quarantined {
            format!("wharf node readmit {name}")
        } else {
            format!("wharf describe node {name}")
        },
    })
}

/// What becomes of the pods of a node that is not heard.
fn next(seen: &Seen, reason: &str, since: Option<Time>) -> Option<String> {
    let setting = match reason {
        "Unreachable" => "replace-unreachable-after",
        "AgentDown" => "replace-agent-down-after",
        _ => return None,
    };
    if seen.settings.freeze.is_some() {
        return Some("its pods are not started elsewhere while all is frozen".into());
    }
    if !seen.settings.brake.is_empty() {
        return Some("its pods wait for the brake".into());
    }
    let setting = seen.settings.settings.iter().find(|s| s.name == setting)?;
    let after = humantime::parse_duration(&setting.value).ok()?;
    let due = Time(
        since?
            .0
            .saturating_add(i64::try_from(after.as_secs()).unwrap_or(i64::MAX)),
    );
    Some(match due.since(seen.now) {
        0 => "its pods are started elsewhere, but for those that tolerate it for longer".into(),
        left => format!("its pods are started elsewhere in {}", age::duration(left)),
    })
}

fn held(seen: &Seen, node: &Node) -> Option<Problem> {
    let name = &node.metadata.name;
    let holds = node.status.as_ref().map_or(&[][..], |s| &s.holds);
    let what = match holds {
        [] if node.spec.unschedulable => "held: cordoned".to_owned(),
        [] => return None,
        holds => format!(
            "held: {}",
            holds.iter().map(|h| hold(h, seen.now)).collect::<Vec<_>>().join("; ")
        ),
    };
    let remedy = match holds {
        [one] if one.kind == HoldKind::Cordon && one.owner == seen.info.caller => format!("wharf uncordon {name}"),
        [] => format!("wharf uncordon {name}"),
        [one] if one.kind == HoldKind::Cordon => format!("wharf uncordon {name} --all-owners"),
        _ => format!("wharf describe node {name}"),
    };
    Some(Problem {
        area: Area::Held,
        object: format!("node/{name}"),
        namespace: String::new(),
        what,
        since: holds.iter().map(|h| h.since).min(),
        remedy,
    })
}

fn hold(hold: &NodeHold, now: Time) -> String {
    match hold.expires {
        Some(at) => format!("{hold} (ends in {})", age::duration(at.since(now))),
        None => hold.to_string(),
    }
}

fn complete(rc: &ReplicationController) -> bool {
    let status = rc.status.clone().unwrap_or_default();
    (status.replicas, status.ready_replicas) == (rc.spec.replicas, rc.spec.replicas)
}

fn controller(seen: &Seen, rc: &ReplicationController, pods: &[&Pod]) -> Option<Problem> {
    if complete(rc) || rc.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = rc.status.clone().unwrap_or_default();
    let why = Why::of(pods.iter().copied());
    let missing = usize::try_from(rc.spec.replicas.saturating_sub(status.replicas)).unwrap_or(0);
    let mut what = format!("{} of {} ready", status.ready_replicas, rc.spec.replicas);
    let words = why.words(missing);
    if !words.is_empty() {
        what = format!("{what}: {words}");
    }
    Some(Problem {
        since: why.since.or(rc.metadata.creation_timestamp),
        ..about(
            seen,
            Area::Controller,
            "rc",
            &rc.metadata.namespace,
            &rc.metadata.name,
            what,
        )
    })
}

/// Pods of which nobody knows, one problem a node; then those that failed, and those without a controller that do not
/// run: no controller says so of them.
fn pods(seen: &Seen) -> Vec<Problem> {
    let mut unknown: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut problems = Vec::new();
    for pod in &seen.pods {
        let word = pod_status(pod);
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        if word == "Unknown" {
            unknown.entry(&pod.spec.node_name).or_default().push(name);
            continue;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let failed = pod.status.as_ref().is_some_and(|s| s.phase == Phase::Failed);
        let alone = pod.metadata.owner_references.is_empty();
        let shown = failed || (alone && reasons::stuck(pod, &word));
        if !shown {
            continue;
        }
        let message = reasons::message(pod);
        let what = match message {
            "" => word,
            message => format!("{word}: {}", reasons::short(message)),
        };
        problems.push(Problem {
            since: reasons::since(pod).or(pod.metadata.creation_timestamp),
            ..about(seen, Area::Pod, "pod", namespace, name, what)
        });
    }
    problems.extend(unknown.into_iter().map(|(node, pods)| Problem {
        area: Area::Unknown,
        object: format!("node/{node}"),
        namespace: String::new(),
        what: format!(
            "{} Unknown: {}",
            reasons::number(pods.len(), "pod"),
            reasons::some(&pods)
        ),
        since: None,
        remedy: format!("wharf get pods -A --node {node}"),
    }));
    problems
}

fn about(seen: &Seen, area: Area, kind: &str, namespace: &str, name: &str, what: String) -> Problem {
    let elsewhere = if namespace == seen.home { "" } else { namespace };
    let flag = match elsewhere {
        "" => String::new(),
        namespace => format!(" -n {namespace}"),
    };
    Problem {
        area,
        object: format!("{kind}/{name}"),
        namespace: elsewhere.to_owned(),
        what,
        since: None,
        remedy: format!("wharf describe {kind} {name}{flag}"),
    }
}
