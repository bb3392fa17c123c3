//! Stores what happened: drains the recorders' queue, counts what is the same, and writes batches. Spawned
//! by `control::run`.
//!
//! Invariant: lossy and never in the way: what cannot be written is dropped. An event's name is a function
//! of what it says, so that a repeat, also after a restart, counts up the event that is there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use proto::{
    ids::{self, IdGen},
    model::{Event, EventSource, ObjectMeta, ObjectReference, Time},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use super::ControlError;
use crate::{
    events::Note,
    store::{Change, CommitError, Expect, MAX_CHANGES, keys},
    world::{Key, World, hub::Hub, record::encode},
};

/// Most different events between two flushes; more are dropped.
const MAX_PENDING: usize = 10_000;
/// Batches under way at once.
const IN_FLIGHT: usize = 8;
/// Longer messages are cut, so that a commit of 64 events fits the store's limit.
const MAX_MESSAGE: usize = 4096;

/// Notes counted since the last flush, by the key of their event.
#[derive(Debug, Default)]
struct Pending {
    events: BTreeMap<Key, Counted>,
    /// Notes that came so far.
    came: u64,
}

#[derive(Debug)]
struct Counted {
    note: Note,
    count: u32,
    first: Time,
    last: Time,
    /// Which note of this flush was the last one.
    order: u64,
}

/// Runs until every recorder is gone, or the store fails.
pub async fn run(hub: Arc<Hub>, mut queue: mpsc::Receiver<Note>, flush: Duration) -> Result<(), ControlError> {
    let mut pending = Pending::default();
    let mut full = false;
    let mut ticks = tokio::time::interval_at(Instant::now() + flush, flush);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut notes = Vec::new();
    loop {
        tokio::select! {
            n = queue.recv_many(&mut notes, 256) => {
                if n == 0 {
                    return write(&hub, pending, &mut full).await;
                }
                for note in notes.drain(..) {
                    pending.add(note);
                }
            }
            _ = ticks.tick(), if !pending.events.is_empty() => {
                write(&hub, std::mem::take(&mut pending), &mut full).await?;
            }
        }
    }
}

impl Pending {
    fn add(&mut self, note: Note) {
        let key = key_of(&note);
        let at = note.at;
        self.came += 1;
        if let Some(counted) = self.events.get_mut(&key) {
            counted.order = self.came;
            counted.count = counted.count.saturating_add(1);
            counted.first = counted.first.min(at);
            counted.last = counted.last.max(at);
        } else if self.events.len() < MAX_PENDING {
            let counted = Counted {
                note,
                count: 1,
                first: at,
                last: at,
                order: self.came,
            };
            self.events.insert(key, counted);
        }
    }

    /// The events as they are with what the world has of them, in the order in which they came: their resource
    /// versions then tell apart what happened within one second.
    fn changes(self, world: &World) -> Vec<Change> {
        let change = |(key, counted): (Key, Counted)| {
            let event = event(world, &key, counted);
            Change::put(keys::event(&key.0, &key.1), Expect::Any, encode(&event))
        };
        let mut events: Vec<(Key, Counted)> = self.events.into_iter().collect();
        events.sort_by_key(|(_, counted)| counted.order);
        events.into_iter().map(change).collect()
    }
}

async fn write(hub: &Hub, pending: Pending, full: &mut bool) -> Result<(), ControlError> {
    let Some(fence) = hub.fence() else {
        return Ok(());
    };
    let changes = hub.read(|world| pending.changes(world));
    let batches: Vec<Vec<Change>> = changes.chunks(MAX_CHANGES).map(<[Change]>::to_vec).collect();
    let mut results = stream::iter(batches)
        .map(|batch| hub.commit_under(&fence, batch))
        .buffer_unordered(IN_FLIGHT);
    while let Some(result) = results.next().await {
        match result {
            Ok(_) => *full = false,
            Err(error @ (CommitError::Io(_) | CommitError::Closed)) => return Err(ControlError::Store(error)),
            Err(error) if error.passes() => {
                if !*full {
                    tracing::warn!("events are dropped: {error}");
                }
                *full = true;
                return Ok(());
            }
            Err(CommitError::Fenced { .. }) => return Ok(()),
            Err(error) => tracing::warn!("events are dropped: {error}"),
        }
    }
    Ok(())
}

fn key_of(note: &Note) -> Key {
    let ObjectReference { namespace, name, .. } = &note.involved;
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    let name = if name.is_empty() { "coordinator" } else { name };
    (namespace.to_owned(), format!("{name}.{}", identity(note)))
}

/// Same object, reason, message and source: same event.
fn identity(note: &Note) -> String {
    let involved = &note.involved;
    let parts: [&str; 8] = [
        &involved.kind,
        &involved.namespace,
        &involved.name,
        &involved.uid,
        &note.reason,
        &note.message,
        note.component,
        &note.host,
    ];
    ids::content_hash(parts.join("\0").as_bytes())
}

fn event(world: &World, key: &Key, counted: Counted) -> Event {
    let Counted {
        note,
        count,
        first,
        last,
        order: _,
    } = counted;
    let known = world.events.get(key).map(|e| &*e.value);
    let seed = u64::from_str_radix(&identity(&note), 16).unwrap_or_default();
    let uid = known.map_or_else(|| IdGen::new(seed).uid(), |e| e.metadata.uid.clone());
    let begun = known.and_then(|e| e.first_timestamp).unwrap_or(first);
    Event {
        metadata: ObjectMeta {
            name: key.1.clone(),
            namespace: key.0.clone(),
            uid,
            creation_timestamp: Some(begun),
            ..ObjectMeta::default()
        },
        involved_object: note.involved,
        reason: note.reason,
        message: cut(note.message),
        kind: note.kind,
        count: known.map_or(0, |e| e.count).saturating_add(count),
        first_timestamp: Some(begun),
        last_timestamp: Some(known.and_then(|e| e.last_timestamp).map_or(last, |l| l.max(last))),
        source: EventSource {
            component: note.component.to_owned(),
            host: note.host,
        },
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|i| message.is_char_boundary(*i));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    message
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
