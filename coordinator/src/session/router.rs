//! Wakes the sessions that a change concerns. One task of `session::Driver`.
//!
//! Invariant: costs what changed; a session whose pods changed is woken, and one that lagged reads all anew.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering};

use proto::wire::goodbye::Reason;
use tokio::sync::broadcast::error::RecvError;

use super::{Sessions, liveness::Signal};
use crate::world::{Key, Touched, World, hub::Batch};

/// Runs until the hub is dropped.
pub async fn run(sessions: &Sessions) {
    let mut feed = sessions.hub.subscribe();
    let mut homes = sessions.hub.read(homes_of);
    loop {
        match feed.recv().await {
            Ok(batch) => route(sessions, &mut homes, &batch),
            Err(RecvError::Lagged(_)) => {
                feed = sessions.hub.subscribe();
                homes = sessions.hub.read(homes_of);
                for handle in sessions.registry.all() {
                    if sessions.hub.read(|w| replaced(sessions, w, &handle.node)) {
                        deleted(sessions, &handle.node);
                    }
                    handle.dirty.notify_one();
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Where each placed pod is: a deleted one must be found, too.
fn homes_of(world: &World) -> HashMap<Key, String> {
    let placed = world.pods.iter().filter(|(_, p)| !p.record.node.is_empty());
    placed.map(|(k, p)| (k.clone(), p.record.node.clone())).collect()
}

fn route(sessions: &Sessions, homes: &mut HashMap<Key, String>, batch: &Arc<Batch>) {
    let mut wake: Vec<String> = Vec::new();
    let mut gone: Vec<String> = Vec::new();
    let mut templates = false;
    sessions.hub.read(|world| {
        for touched in &batch.touched {
            match touched {
                Touched::Pod(key) => {
                    let now = world.pods.get(key).map(|p| p.record.node.as_str()).unwrap_or_default();
                    let before = homes.get(key).map(String::as_str).unwrap_or_default();
                    if before != now {
                        wake.push(before.to_owned());
                        if now.is_empty() {
                            homes.remove(key);
                        } else {
                            homes.insert(key.clone(), now.to_owned());
                        }
                    }
                    wake.push(now.to_owned());
                }
                Touched::Template(_) => templates = true,
                Touched::Node(name) if replaced(sessions, world, name) => gone.push(name.clone()),
                _ => {}
            }
        }
    });
    wake.sort_unstable();
    wake.dedup();
    for node in wake {
        if let Some(handle) = sessions.registry.get(&node) {
            handle.dirty.notify_one();
        }
    }
    if templates {
        let waiting = sessions.registry.all().into_iter();
        for handle in waiting.filter(|h| h.incomplete.load(Ordering::Relaxed)) {
            handle.dirty.notify_one();
        }
    }
    for node in gone {
        deleted(sessions, &node);
    }
}

/// Whether the node is gone, or another one of its name has taken its place.
fn replaced(sessions: &Sessions, world: &World, name: &str) -> bool {
    match (world.nodes.get(name), sessions.registry.get(name)) {
        (None, _) => true,
        (Some(node), Some(handle)) => node.node.metadata.uid != handle.uid,
        (Some(_), None) => false,
    }
}

fn deleted(sessions: &Sessions, node: &str) {
    if let Some(handle) = sessions.registry.get(node) {
        handle.kick(Reason::Revoked, "the node was deleted");
    }
    sessions.signal(Signal::Deleted(node.to_owned()));
}
