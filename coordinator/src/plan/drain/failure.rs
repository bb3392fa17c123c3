//! Whether a pod that was started in another's place has come to nothing, and when to try again. Called by `moves`; what
//! a container's ends say, by `rollout` too.
//!
//! Invariant: pure; a replacement that may still become Ready within its time has not failed.

use std::time::Duration;

use proto::model::{ContainerState, ContainerStateTerminated, ContainerStatus, Time};

use crate::world::{Key, PodState, World, record::FailureRecord, settings};

/// Ends of a container that say that it will not run.
const MOST_ENDS: u32 = 3;
/// Before the second attempt; doubles to [`LONGEST_PAUSE`].
const FIRST_PAUSE: i64 = 10;
const LONGEST_PAUSE: i64 = 300;
/// Most characters of the last words of a container.
const MOST_WORDS: usize = 160;

/// Why it failed; none: it has not.
pub(super) fn failed(world: &World, key: &Key, pod: &PodState, now: Time) -> Option<String> {
    let name = &key.1;
    if let Some(exits) = exits(pod) {
        return Some(format!("replacement {name} {exits}"));
    }
    if pod.ready() || now < given_until(world, pod) {
        return None;
    }
    let waited = settings::DRAIN_REPLACEMENT_TIMEOUT.show(world.settings.get(&settings::DRAIN_REPLACEMENT_TIMEOUT));
    Some(format!("replacement {name} is not Ready after {waited}{}", waits(pod)))
}

/// `exited 1 three times: no such file`, of a container that will not run.
pub(in crate::plan) fn exits(pod: &PodState) -> Option<String> {
    statuses(pod).find_map(|container| {
        let (ends, last) = ends(container);
        let last = last.filter(|_| ends >= MOST_ENDS)?;
        let times = if ends == 3 {
            "three times".to_owned()
        } else {
            format!("{ends} times")
        };
        Some(format!("exited {} {times}{}", last.exit_code, last_line(&last.message)))
    })
}

/// `: ImagePullBackOff: no such image`, of the first container that waits; or nothing.
pub(in crate::plan) fn waits(pod: &PodState) -> String {
    statuses(pod).filter_map(waits_for).next().unwrap_or_default()
}

fn statuses(pod: &PodState) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|s| &s.value.status.container_statuses)
}

/// Until when it may become Ready.
pub(super) fn given_until(world: &World, pod: &PodState) -> Time {
    let timeout: Duration = world.settings.time(&settings::DRAIN_REPLACEMENT_TIMEOUT);
    let seconds = timeout.as_millis().div_ceil(1000);
    let at = pod.record.created.0;
    Time(at.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX)))
}

/// The record of one more failure.
pub(super) fn noted(old: &PodState, drain: &str, what: String, now: Time) -> FailureRecord {
    let before = old.record.failure.as_ref().filter(|f| f.drain == drain);
    let count = before.map_or(0, |f| f.count).saturating_add(1);
    let doubled = FIRST_PAUSE.checked_shl(count - 1).unwrap_or(LONGEST_PAUSE);
    let pause = if (1..LONGEST_PAUSE).contains(&doubled) {
        doubled
    } else {
        LONGEST_PAUSE
    };
    FailureRecord {
        drain: drain.to_owned(),
        count,
        what,
        retry: Time(now.0.saturating_add(pause)),
    }
}

/// How often the container has ended, and how it did the last time.
fn ends(container: &ContainerStatus) -> (u32, Option<&ContainerStateTerminated>) {
    let ended = |state: &ContainerState| matches!(state, ContainerState::Terminated(_));
    let backing_off = matches!(&container.state, ContainerState::Waiting(w) if w.reason == "CrashLoopBackOff");
    let states = std::iter::once(&container.state).chain(&container.last_state);
    let last = states
        .filter_map(|state| match state {
            ContainerState::Terminated(end) => Some(end),
            _ => None,
        })
        .next();
    let more = u32::from(ended(&container.state) || backing_off);
    (container.restart_count.saturating_add(more), last)
}

/// `: ImagePullBackOff: no such image`.
pub(super) fn waits_for(container: &ContainerStatus) -> Option<String> {
    match &container.state {
        ContainerState::Waiting(w) if !w.reason.is_empty() => Some(match last_line(&w.message) {
            words if words.is_empty() => format!(": {}", w.reason),
            words => format!(": {}{words}", w.reason),
        }),
        _ => None,
    }
}

/// `: ` and the last line that says something, or nothing.
fn last_line(text: &str) -> String {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(String::new, |line| {
        format!(": {}", line.chars().take(MOST_WORDS).collect::<String>())
    })
}
