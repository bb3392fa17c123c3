//! From what was seen to the problems, the worst first. Called by `run`; shown by `show`.
//!
//! Invariant: pure; work in proportion to what was seen; every problem names a command that helps.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::{
    model::{
        ConditionStatus, DaemonSet, HoldKind, Node, NodeCondition, NodeHold, Phase, Pod, ReplicationController, Time,
    },
    wire,
};

use super::{
    area::Area,
    reasons::{self, Why},
};
use crate::{age, drain::page, printers::pod_status, rollout};

/// All that the page is made from.
#[derive(Debug, Default)]
pub struct Seen {
    pub now: Time,
    /// The namespace in force: commands leave it out.
    pub home: String,
    pub info: wire::InfoReply,
    pub settings: wire::ShowSettingsReply,
    /// The coordinators and their store; none where the coordinator is too old to tell.
    pub replicas: Option<wire::ReplicasStatusReply>,
    pub nodes: Vec<Node>,
    pub controllers: Vec<ReplicationController>,
    pub daemon_sets: Vec<DaemonSet>,
    pub pods: Vec<Pod>,
    pub restore: wire::ShowRestoreReply,
    pub orphans: Vec<wire::Orphan>,
    /// Of nodes that a drain holds, by name.
    pub drains: BTreeMap<String, wire::DrainView>,
    /// Updates that go on.
    pub updates: Vec<wire::UpdateView>,
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
        problems.extend(coordinators(seen));
        problems.extend(restored(seen));
        problems.extend(orphans(seen));
        problems.extend(frozen(seen));
        problems.extend(braked(seen));
        for node in &seen.nodes {
            let pods = on_node.get(node.metadata.name.as_str()).copied().unwrap_or(0);
            problems.extend(not_ready(seen, node, pods));
            problems.extend(drain(seen, node));
            problems.extend(held(seen, node));
        }
        for rc in &seen.controllers {
            let pods = by_owner.get(rc.metadata.uid.as_str()).map_or(&[][..], Vec::as_slice);
            problems.extend(controller(seen, rc, pods));
        }
        for set in &seen.daemon_sets {
            let pods = by_owner.get(set.metadata.uid.as_str()).map_or(&[][..], Vec::as_slice);
            problems.extend(daemon_set(seen, set, pods));
        }
        problems.extend(seen.updates.iter().filter_map(|view| update(seen, view)));
        problems.extend(pods(seen));
        problems.sort_by(|a, b| (a.area, &a.namespace, &a.object).cmp(&(b.area, &b.namespace, &b.object)));
        Self {
            problems,
            nodes: Count::of(seen.nodes.iter().map(|n| ready_condition(n).is_some_and(is_true))),
            controllers: {
                let controllers = seen.controllers.iter().map(complete);
                Count::of(controllers.chain(seen.daemon_sets.iter().map(has_all)))
            },
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

/// What the active coordinator finds wrong with the others and their store. It gives the order among them, which is the
/// page's, too.
fn coordinators(seen: &Seen) -> Vec<Problem> {
    use wire::cluster_problem::Area as Told;
    let told = seen.replicas.iter().flat_map(|r| &r.problems);
    told.map(|problem| Problem {
        area: match problem.area() {
            Told::Alarm => Area::Alarm,
            Told::Member => Area::Member,
            // What a newer one may tell is listed with them.
            Told::Replica | Told::Leader | Told::Unspecified => Area::Replica,
            Told::Space => Area::Space,
            Told::Clock => Area::Clock,
            Told::Certificate => Area::Certificate,
            Told::Backup => Area::Backup,
        },
        object: problem.object.clone(),
        namespace: String::new(),
        what: problem.what.clone(),
        since: None,
        remedy: problem.remedy.clone(),
    })
    .collect()
}

fn restored(seen: &Seen) -> Option<Problem> {
    let restore = &seen.restore;
    restore.pending.then(|| Problem {
        area: Area::Restore,
        object: "cluster".into(),
        namespace: String::new(),
        what: format!(
            "restored from a backup of {}; nothing is started, stopped or planned until that is accepted",
            Time::from_millis(restore.taken_at_ms)
        ),
        since: time(restore.restored_at_ms),
        remedy: "wharf cluster accept-restore".into(),
    })
}

fn orphans(seen: &Seen) -> Option<Problem> {
    let first = seen.orphans.iter().map(|o| o.found_ms).min()?;
    let nodes: BTreeSet<&str> = seen.orphans.iter().map(|o| o.node.as_str()).collect();
    Some(Problem {
        area: Area::Orphans,
        object: "orphans".into(),
        namespace: String::new(),
        what: format!(
            "{} on {} that the restored state did not know",
            reasons::number(seen.orphans.len(), "pod"),
            reasons::number(nodes.len(), "node")
        ),
        since: time(first),
        remedy: "wharf cluster orphan list".into(),
    })
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
    // A drain's own is told with the drain.
    let told = seen.drains.contains_key(name);
    let holds = holds.iter().filter(|h| !(told && h.kind == HoldKind::Drain));
    let holds: Vec<&NodeHold> = holds.collect();
    let what = match holds.as_slice() {
        [] if node.spec.unschedulable => "held: cordoned".to_owned(),
        [] => return None,
        holds => format!(
            "held: {}",
            holds.iter().map(|h| hold(h, seen.now)).collect::<Vec<_>>().join("; ")
        ),
    };
    let remedy = match holds.as_slice() {
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

fn drain(seen: &Seen, node: &Node) -> Option<Problem> {
    let name = &node.metadata.name;
    let view = seen.drains.get(name)?;
    let by = match view.reason.as_str() {
        "" => format!("by {}", who(&view.by)),
        reason => format!("by {}: {reason}", who(&view.by)),
    };
    let ended = view.ended_ms > 0;
    let what = match page::trouble(view).filter(|_| !ended) {
        Some(why) => format!("drain {}; {why}", page::state(view, view.now_ms)),
        None if ended => format!(
            "{} ({by}); it takes no pods until its drain is taken back",
            view.phase.to_lowercase()
        ),
        None => format!("{} ({by})", page::state(view, view.now_ms)),
    };
    Some(Problem {
        area: Area::Drain,
        object: format!("node/{name}"),
        namespace: String::new(),
        what,
        since: time(if ended { view.ended_ms } else { view.since_ms }),
        remedy: if ended {
            format!("wharf drain {name} --cancel")
        } else {
            format!("wharf drain {name}")
        },
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
    if complete(rc) || rc.metadata.deletion_timestamp.is_some() || served_by_both(seen, rc) {
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

/// Whether it is one side of an update and both together are as many as are wanted: pods that come are no trouble then.
fn served_by_both(seen: &Seen, rc: &ReplicationController) -> bool {
    let name = &rc.metadata.name;
    let mut updates = seen.updates.iter();
    let update = updates.find(|u| u.namespace == rc.metadata.namespace && (u.old == *name || u.new == *name));
    update.is_some_and(|u| {
        let sides = [u.old_side, u.new_side].into_iter().flatten();
        sides.map(|side| side.available).sum::<u32>() >= u.target
    })
}

/// One that waits for somebody; the remedies are in its words.
fn update(seen: &Seen, view: &wire::UpdateView) -> Option<Problem> {
    // That all is frozen is told once.
    if view.why.is_empty() || (seen.settings.freeze.is_some() && !view.paused) {
        return None;
    }
    let named = about(
        seen,
        Area::Update,
        "rc",
        &view.namespace,
        &view.old,
        rollout::line(view),
    );
    let flag = match named.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" -n {namespace}"),
    };
    let name = &view.old;
    Some(Problem {
        since: time(view.since_ms),
        remedy: if view.failed && !view.back {
            format!("wharf rolling-update {name} --rollback{flag}")
        } else if view.paused {
            format!("wharf rollout resume rc {name}{flag}")
        } else {
            format!("wharf rollout status rc {name}{flag}")
        },
        ..named
    })
}

/// Whether each node that the set is for has a ready daemon; an update that goes on is no trouble.
fn has_all(set: &DaemonSet) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.number_ready == status.desired_number_scheduled
}

fn daemon_set(seen: &Seen, set: &DaemonSet, pods: &[&Pod]) -> Option<Problem> {
    let status = set.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.iter();
    // Also where a former daemon is ready, for the present one finds no room.
    let unplaced = conditions.find(|c| c.kind == "Placed" && c.status == ConditionStatus::False);
    if (has_all(set) && unplaced.is_none()) || set.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut parts = vec![format!(
        "{} of {} ready",
        status.number_ready, status.desired_number_scheduled
    )];
    let why = Why::of(pods.iter().copied());
    let missing = status.desired_number_scheduled - status.current_number_scheduled;
    parts.extend(Some(why.words(usize::try_from(missing).unwrap_or(0))).filter(|w| !w.is_empty()));
    let mut what = parts.join(": ");
    if let Some(unplaced) = unplaced {
        what = format!("{what}; {}", reasons::short(&unplaced.message));
    }
    Some(Problem {
        since: why.since.or(set.metadata.creation_timestamp),
        ..about(
            seen,
            Area::Controller,
            "ds",
            &set.metadata.namespace,
            &set.metadata.name,
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
