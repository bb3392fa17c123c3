//! An agent's events, checked and made into notes. Called by `stream`.
//!
//! Invariant: an agent can speak only of its own node and of pods bound to it, in bounded words.

use std::time::Duration;

use proto::{
    model::{EventType, Kind, ObjectReference, Time},
    wire::{Events, PodEvent},
};

use super::facts::line;
use crate::{events::Note, world::World};

/// Events are lossy; of one message no more than this counts.
const MOST: usize = 64;
const REASON: usize = 64;
const MESSAGE: usize = 1024;

/// The notes of `events`, and how many were dropped.
pub fn notes(world: &World, node: &str, events: &Events, now_ms: u64, skew: Duration) -> (Vec<Note>, usize) {
    let notes: Vec<Note> = events
        .events
        .iter()
        .take(MOST)
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
