//! Which pods are over when a host joined again under its node's name, with a new disk: those of which its engine
//! shows nothing. Called by `stream` before the first assignments of a session.
//!
//! Invariant: a pod is over only by the first inventory of an identity that was never assigned anything, taken while
//! its Docker answered; that it is over is durable before anything is assigned. A pod that the engine still has goes
//! on as it is.

use std::collections::BTreeSet;

use proto::{
    model::{EventType, Kind, Time},
    wire::{Hello, goodbye::Reason},
};

use super::{Sessions, greet::End, ingest::Start, notes, turns::store_failed};
use crate::{
    events::Note,
    store::{Change, CommitError, Expect, MAX_CHANGES, keys},
    world::{
        World,
        record::{HolderRecord, StatusRecord, encode},
    },
};

/// True: all is on record, assignments may follow. False: Docker does not answer on that host, so nobody knows yet.
pub async fn settle(shared: &Sessions, node: &str, start: Start, hello: &Hello) -> Result<bool, End> {
    let Some((rv, holder, uid)) = shared.hub.read(|w| {
        let state = w.nodes.get(node)?;
        let known = state.holder.as_ref().filter(|h| h.value.unsettled)?;
        Some((known.rv, (*known.value).clone(), state.node.metadata.uid.clone()))
    }) else {
        return Ok(true);
    };
    if !hello.facts.as_ref().is_some_and(|f| f.docker_ready) {
        return Ok(false);
    }
    let mut changes = shared.hub.read(|w| vanished(w, node, start, hello));
    let pods = changes.len();
    let settled = HolderRecord {
        unsettled: false,
        ..holder
    };
    // Last: a coordinator that dies in between begins anew.
    changes.push(Change::put(keys::holder(node), Expect::At(rv), encode(&settled)));
    for batch in changes.chunks(MAX_CHANGES) {
        match shared.hub.commit(batch.to_vec()).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => {
                let words = "the node's identity changed at this moment; start again";
                return Err(End::Goodbye(Reason::Resync, words.into()));
            }
            Err(e) if e.passes() => {
                let words = format!("the coordinator cannot write just now ({e}); start again");
                return Err(End::Goodbye(Reason::Resync, words));
            }
            Err(e) => return Err(store_failed(shared, e)),
        }
    }
    let message = format!("the host joined again without its data; {pods} pods that ran there are over");
    tracing::warn!(node, "{message}");
    shared.recorder.note(Note {
        involved: notes::reference(Kind::Node, "", node, &uid),
        reason: "HostReplaced".into(),
        message,
        kind: EventType::Warning,
        component: "session",
        host: String::new(),
        at: Time::now(),
    });
    Ok(true)
}

/// Pure: one status for each pod bound to the node that the agent does not observe.
fn vanished(world: &World, node: &str, start: Start, hello: &Hello) -> Vec<Change> {
    let observed: BTreeSet<&str> = hello.observed.iter().map(|o| o.uid.as_str()).collect();
    let gone = world
        .pods_on(node)
        .filter(|(_, pod)| !pod.vanished() && !observed.contains(pod.record.uid.as_str()));
    let status = |pod: &crate::world::PodState| {
        let last = pod.status.as_ref().map(|s| (*s.value).clone()).unwrap_or_default();
        StatusRecord {
            uid: pod.record.uid.clone(),
            generation: start.generation,
            epoch: start.epoch,
            seq: 0,
            vanished: true,
            ..last
        }
    };
    // The node's sessions alone write these statuses, and the one before this has written its last. Where the pod
    // is deleted at this moment, a status without a pod is left, which control removes.
    gone.map(|(key, pod)| Change::put(keys::pod_status(&key.0, &key.1), Expect::Any, encode(&status(pod))))
        .collect()
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
