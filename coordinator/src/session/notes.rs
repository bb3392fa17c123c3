//! An agent's events, checked and made into notes. Called by `stream`.
//!
//! Invariant: an agent can speak only of its own node and of pods bound to it, in bounded words.

use std::time::Duration;

use proto::{
    model::{EventType, Kind, ObjectReference, Time},
    wire::{Events, PodEvent},
};

use tokio::time::Instant;

use super::facts::line;
use crate::{events::Note, world::World};

const REASON: usize = 64;
const MESSAGE: usize = 1024;

/// How many events an agent may send: a burst, and one more every `every`. Events share one queue, which no
/// single agent may fill.
#[derive(Debug)]
pub struct Budget {
    burst: u32,
    every: Duration,
    left: u32,
    /// What was due by then has been added.
    since: Instant,
}

impl Budget {
    pub fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self {
            burst,
            every,
            left: burst,
            since: now,
        }
    }

    /// Takes up to `wanted`; says how many there were.
    pub fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let period = self.every.as_millis().max(1);
        let passed = now.saturating_duration_since(self.since).as_millis() / period;
        let earned = u32::try_from(passed).unwrap_or(u32::MAX);
        self.since += self.every.saturating_mul(earned.min(1 << 20));
        self.left = self.left.saturating_add(earned).min(self.burst);
        let taken = u32::try_from(wanted).unwrap_or(u32::MAX).min(self.left);
        self.left -= taken;
        taken as usize
    }
}

/// The notes of the first `most` of `events`, and how many were dropped.
pub fn notes(
    world: &World,
    node: &str,
    events: &Events,
    most: usize,
    now_ms: u64,
    skew: Duration,
) -> (Vec<Note>, usize) {
    let notes: Vec<Note> = events
        .events
        .iter()
        .take(most)
        .filter_map(|e| note(world, node, e, now_ms, skew))
        .collect();
    let dropped = events.events.len() - notes.len();
    (notes, dropped)
}

fn note(world: &World, node: &str, event: &PodEvent, now_ms: u64, skew: Duration) -> Option<Note> {
    let involved = if event.pod_uid.is_empty() {
        reference(Kind::Node, "", node, &world.nodes.get(node)?.node.metadata.uid)
    } else {
        let (key, pod) = world.pod_by_uid(&event.pod_uid)?;
        if pod.record.node != node {
            return None;
        }
        reference(Kind::Pod, &key.0, &key.1, &pod.record.uid)
    };
    let camel = event.reason.starts_with(|c: char| c.is_ascii_uppercase())
        && event.reason.chars().all(|c| c.is_ascii_alphanumeric())
        && event.reason.len() <= REASON;
    let off = Duration::from_millis(now_ms.abs_diff(event.time_ms));
    camel.then(|| Note {
        involved,
        reason: event.reason.clone(),
        message: line(&event.message, MESSAGE),
        kind: if event.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        component: "agent",
        host: node.to_owned(),
        // A time that cannot be right would hide the event from those who sort by time.
        at: Time::from_millis(if off > skew { now_ms } else { event.time_ms }),
    })
}

pub fn reference(kind: Kind, namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        kind: kind.name().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_earned_again() {
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        let mut budget = Budget::new(3, Duration::from_millis(100), begin);
        assert_eq!(budget.take(2, begin), 2);
        assert_eq!(budget.take(2, after(99)), 1);
        assert_eq!(budget.take(2, after(150)), 1);
        assert_eq!(budget.take(2, after(199)), 0);
        assert_eq!(budget.take(2, after(200)), 1);
        assert_eq!(budget.take(9, after(60_000)), 3);
    }
}
