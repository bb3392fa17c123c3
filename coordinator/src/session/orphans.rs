//! Pods that an agent runs and that the restored state does not know. Called by `greet` before Welcome, and by `stream`
//! for what an agent tells of them later.
//!
//! Invariant: they are on record before the agent takes the new history for its own, for from then on what is not on
//! record was deleted; a record goes when the agent has nothing of it left.

use std::collections::BTreeSet;

use proto::{
    model::Time,
    wire::{Hello, Run, Stop, goodbye::Reason},
};

use super::{
    Sessions,
    greet::End,
    hello::{Lineage, UNKNOWN_GRACE},
    turns::store_failed,
};
use crate::{
    store::{Change, CommitError, Expect, MAX_BYTES, MAX_CHANGES, keys},
    world::{
        World,
        record::encode,
        restored::{OrphanRecord, OrphanRun},
    },
};

/// Most bytes of one pod's spec, labels and annotations; a larger one is kept without them and cannot be adopted.
const MAX_RUN: usize = 256 << 10;

/// Puts on record what a Hello shows. On return it is durable.
pub async fn settle(shared: &Sessions, node: &str, hello: &Hello, lineage: &Lineage) -> Result<(), End> {
    let now = Time::now();
    let changes = shared.hub.read(|w| found(w, node, hello, lineage, now));
    let orphans = changes.iter().filter(|c| c.value.is_some()).count();
    if orphans > 0 {
        tracing::warn!(
            node,
            orphans,
            "pods run here that the restored state does not know; see `wharf cluster orphan list`"
        );
    }
    commit(shared, changes, MAX_CHANGES).await
}

/// Pure: new orphans, and those of which nothing is left.
fn found(world: &World, node: &str, hello: &Hello, lineage: &Lineage, now: Time) -> Vec<Change> {
    let observed: BTreeSet<&str> = hello.observed.iter().map(|o| o.uid.as_str()).collect();
    // Without its engine an agent does not know.
    let knows = hello.facts.as_ref().is_some_and(|f| f.docker_ready);
    let gone = world
        .orphans_on(node)
        .filter(|(uid, _)| knows && !observed.contains(uid.as_str()))
        .map(|(uid, record)| Change::delete(keys::orphan(uid), Expect::At(record.rv)));
    let new = hello
        .observed
        .iter()
        .filter(|o| *lineage == Lineage::Beyond && !o.uid.is_empty())
        .filter(|o| world.pod_by_uid(&o.uid).is_none() && !world.orphans.contains_key(&o.uid))
        .map(|o| {
            let record = OrphanRecord {
                node: node.to_owned(),
                namespace: o.namespace.clone(),
                name: o.name.clone(),
                found: now,
                ..OrphanRecord::default()
            };
            Change::put(keys::orphan(&o.uid), Expect::Absent, encode(&record))
        });
    gone.chain(new).collect()
}

/// Puts on record what an agent keeps running of them.
pub async fn describe(shared: &Sessions, node: &str, runs: Vec<Run>) -> Result<(), End> {
    let changes = shared.hub.read(|w| described(w, node, runs));
    commit(shared, changes, MAX_BYTES / MAX_RUN / 2).await
}

/// Pure.
fn described(world: &World, node: &str, runs: Vec<Run>) -> Vec<Change> {
    let one = |run: Run| {
        let known = world.orphans.get(&run.uid).filter(|o| o.value.node == node)?;
        let marks: usize = run
            .labels
            .iter()
            .chain(&run.annotations)
            .map(|(k, v)| k.len() + v.len())
            .sum();
        if known.value.run.is_some() || run.spec_json.len() + marks > MAX_RUN {
            return None;
        }
        let record = OrphanRecord {
            run: Some(OrphanRun {
                spec: String::from_utf8(run.spec_json).ok()?,
                spec_hash: run.spec_hash,
                labels: run.labels.into_iter().collect(),
                annotations: run.annotations.into_iter().collect(),
            }),
            ..(*known.value).clone()
        };
        Some(Change::put(
            keys::orphan(&run.uid),
            Expect::At(known.rv),
            encode(&record),
        ))
    };
    let mut seen = BTreeSet::new();
    runs.into_iter()
        .filter(|run| seen.insert(run.uid.clone()))
        .filter_map(one)
        .collect()
}

/// Removes the records of orphans whose end was seen.
pub async fn ended(shared: &Sessions, node: &str, uids: &[String]) -> Result<(), End> {
    let changes = shared.hub.read(|w| {
        let known = uids.iter().filter_map(|uid| Some((uid, w.orphans.get(uid)?)));
        known
            .filter(|(_, o)| o.value.node == node)
            .map(|(uid, o)| Change::delete(keys::orphan(uid), Expect::At(o.rv)))
            .collect()
    });
    commit(shared, changes, MAX_CHANGES).await
}

/// The stop entries of those that an operator wants gone.
pub fn stops<'w>(world: &'w World, node: &str) -> impl Iterator<Item = Stop> + use<'w> {
    let unwanted: Vec<_> = world.orphans_on(node).filter(|(_, o)| o.value.delete).collect();
    unwanted.into_iter().map(|(uid, orphan)| Stop {
        uid: uid.clone(),
        reason: "an orphan that an operator deleted".to_owned(),
        grace_seconds: UNKNOWN_GRACE,
        namespace: orphan.value.namespace.clone(),
        name: orphan.value.name.clone(),
        endpoint_drain_ms: 0,
    })
}

/// So many at a time as surely fit.
async fn commit(shared: &Sessions, changes: Vec<Change>, most: usize) -> Result<(), End> {
    for batch in changes.chunks(most) {
        match shared.hub.commit(batch.to_vec()).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => {
                let words = "an orphan of this node changed at this moment; start again";
                return Err(End::Goodbye(Reason::Resync, words.into()));
            }
            Err(CommitError::Full(what)) => {
                let words = format!("the coordinator's store has no room ({what}); start again");
                return Err(End::Goodbye(Reason::Resync, words));
            }
            Err(e) => return Err(store_failed(shared, e)),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "orphans_tests.rs"]
mod tests;
