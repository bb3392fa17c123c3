//! The pod table. The STATUS word follows kubectl's rules: the reason of the container that is worst off, before
//! the phase.

use proto::model::{ConditionStatus, ContainerState, Pod, PodStatus, Time};

use super::Context;
use crate::{age, output::or_none};

pub const COLUMNS: (&[&str], &[&str]) = (&["NAME", "READY", "STATUS", "RESTARTS", "AGE"], &["IP", "NODE"]);

/// Its node is not heard: what the containers did last is not what they do now.
fn lost(status: &PodStatus) -> bool {
    let mut ready = status.conditions.iter().filter(|c| c.kind == "Ready");
    !status.phase.is_final() && ready.any(|c| c.status == ConditionStatus::Unknown)
}

/// The one word for what the pod is doing.
pub fn status(pod: &Pod) -> String {
    let none = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&none);
    let deleted = pod.metadata.deletion_timestamp.is_some();
    if deleted && status.reason == "NodeLost" {
        return "Unknown".to_owned();
    }
    if deleted && !status.phase.is_final() {
        return "Terminating".to_owned();
    }
    if lost(status) {
        return "Unknown".to_owned();
    }
    let mut word = if status.reason.is_empty() {
        status.phase.as_str().to_owned()
    } else {
        status.reason.clone()
    };
    let mut running = false;
    // The first container in the spec has the last word.
    for container in status.container_statuses.iter().rev() {
        match &container.state {
            ContainerState::Waiting(w) if !w.reason.is_empty() => word.clone_from(&w.reason),
            ContainerState::Terminated(t) if !t.reason.is_empty() => word.clone_from(&t.reason),
            ContainerState::Terminated(t) => {
                word = match t.signal {
                    Some(signal) => format!("Signal:{signal}"),
                    None => format!("ExitCode:{}", t.exit_code),
                }
            }
            ContainerState::Running(_) if container.ready => running = true,
            ContainerState::Waiting(_) | ContainerState::Running(_) => {}
        }
    }
    if word == "Completed" && running {
        word = if status.ready() { "Running" } else { "NotReady" }.to_owned();
    }
    word
}

/// `3 (5m ago)`: all containers' restarts, and when the last one ended that was restarted.
pub fn restarts(pod: &Pod, now: Time) -> String {
    let statuses = pod.status.as_ref().map_or(&[][..], |s| &s.container_statuses);
    let count: u32 = statuses.iter().fold(0, |sum, c| sum.saturating_add(c.restart_count));
    let last = statuses.iter().filter_map(|c| match &c.last_state {
        Some(ContainerState::Terminated(t)) => t.finished_at,
        _ => None,
    });
    match last.max() {
        Some(at) if count > 0 => format!("{count} ({} ago)", age::duration(now.since(at))),
        _ => count.to_string(),
    }
}

pub fn cells(pod: &Pod, context: &Context) -> Vec<String> {
    let statuses = pod.status.as_ref().map_or(&[][..], |s| &s.container_statuses);
    let known = !pod.status.as_ref().is_some_and(lost);
    let ready = statuses
        .iter()
        .filter(|c| known && c.ready && matches!(c.state, ContainerState::Running(_)))
        .count();
    vec![
        pod.metadata.name.clone(),
        format!("{ready}/{}", pod.spec.containers.len()),
        status(pod),
        restarts(pod, context.now),
        age::since(pod.metadata.creation_timestamp, context.now),
        or_none(pod.status.as_ref().map(|s| s.pod_ip.clone()).unwrap_or_default()),
        or_none(pod.spec.node_name.clone()),
    ]
}
