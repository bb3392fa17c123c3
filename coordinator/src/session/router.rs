//! Wakes the sessions that a change concerns. One task of `session::Driver`.
//!
//! Invariant: costs what changed; a session whose pods changed is woken, and one that lagged reads all anew.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering};

use proto::wire::goodbye::Reason;
use tokio::sync::broadcast::error::RecvError;

use super::{
    Sessions,
    liveness::Signal,
    registry::{Handle, Mode},
};
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
                    review(sessions, &handle.node);
                    handle.dirty.notify_one();
                    handle.retell.notify_one();
                }
                retime(sessions);
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
    let mut nodes: Vec<String> = Vec::new();
    let (mut templates, mut settings, mut restored, mut coordinators) = (false, false, false, false);
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
                Touched::Settings => settings = true,
                Touched::Coordinators => coordinators = true,
                Touched::Node(name) => nodes.push(name.clone()),
                Touched::Orphans(name) => wake.push(name.clone()),
                Touched::Restored => restored = true,
                _ => {}
            }
        }
    });
    wake.sort_unstable();
    wake.dedup();
    for node in wake {
        for handle in sessions.registry.all_of(&node) {
            handle.dirty.notify_one();
        }
    }
    if templates || settings {
        let concerned = |h: &Arc<Handle>| settings || h.incomplete.load(Ordering::Relaxed);
        for handle in sessions.registry.all().into_iter().filter(concerned) {
            handle.dirty.notify_one();
        }
    }
    if coordinators {
        for handle in sessions.registry.all() {
            handle.retell.notify_one();
        }
    }
    for node in nodes {
        review(sessions, &node);
    }
    if settings {
        retime(sessions);
    }
    if restored {
        for handle in sessions.registry.all() {
            review(sessions, &handle.node);
        }
    }
}

/// Has agents begin anew that were told another period of heartbeats than the one that holds.
fn retime(sessions: &Sessions) {
    let handles = sessions.registry.all();
    let stale: Vec<_> = sessions.hub.read(|world| {
        let stale = handles
            .iter()
            .filter_map(|handle| Some((handle, retimed(sessions, world, handle)?)));
        stale.collect()
    });
    for (handle, (reason, words)) in stale {
        handle.kick(reason, words);
    }
}

/// Why a session may not go on whose agent keeps another period of heartbeats, if it does.
pub fn retimed(sessions: &Sessions, world: &World, handle: &Handle) -> Option<(Reason, &'static str)> {
    let changed = handle.silence() != sessions.settings.silence(&world.settings);
    changed.then_some((
        Reason::Resync,
        "the period of heartbeats is another one now; start again",
    ))
}

/// Ends the sessions of a node that are no longer what the world says they should be.
fn review(sessions: &Sessions, node: &str) {
    let handles = sessions.registry.all_of(node);
    let (gone, ends) = sessions.hub.read(|world| {
        let uid = world.nodes.get(node).map(|n| n.node.metadata.uid.as_str());
        let replaced = handles
            .iter()
            .any(|h| matches!(h.mode, Mode::Full | Mode::Cloned(_)) && Some(h.uid.as_str()) != uid);
        let ends: Vec<_> = handles
            .iter()
            .filter_map(|handle| Some((handle, misplaced(world, handle)?)))
            .collect();
        (uid.is_none() || replaced, ends)
    });
    for (handle, (reason, words)) in ends {
        handle.kick(reason, words);
    }
    if gone {
        sessions.signal(Signal::Deleted(node.to_owned()));
    }
}

/// Why a session of this mode may not go on, if so.
pub fn misplaced(world: &World, handle: &Handle) -> Option<(Reason, &'static str)> {
    let tombstone = world.tombstones.get(&handle.node);
    let mine = tombstone.is_some_and(|t| t.value.uid == handle.uid);
    if mine && matches!(handle.mode, Mode::Standby(_)) {
        return None;
    }
    if handle.mode == Mode::Deleted {
        return (!mine).then_some((Reason::Revoked, "the deleted node is remembered no longer"));
    }
    let Some(node) = world
        .nodes
        .get(&handle.node)
        .filter(|n| n.node.metadata.uid == handle.uid)
    else {
        return Some((Reason::Revoked, "the node was deleted"));
    };
    let vacant = node.holder.as_ref().is_some_and(|h| h.value.is_vacant());
    if handle.mode == Mode::Full && node.off.is_some() && !handle.returning.load(Ordering::Relaxed) {
        return Some((
            Reason::Resync,
            "the node was confirmed off and is heard; start again: what was replaced is to be stopped first",
        ));
    }
    if let Mode::Standby(_) = handle.mode {
        // Which agents may be at work is for the active coordinator to say.
        return None;
    }
    match (handle.mode, node.rival()) {
        (Mode::Restored, _) if !world.restore_pending() => {
            Some((Reason::Resync, "the restore was accepted; start again"))
        }
        (Mode::Restored, _) => None,
        (Mode::Full, _) if vacant => Some((
            Reason::Revoked,
            "another host joined under this node's name; this identity is revoked",
        )),
        (Mode::Full, Some(_)) => Some((Reason::Resync, "two agents hold this node's identity; start again")),
        (Mode::Cloned(_), None) => Some((Reason::Resync, "the node was readmitted; start again")),
        _ => None,
    }
}
