//! Which agent process holds a node's identity. Called by `greet` for every Hello, before anything is assigned.
//!
//! A certificate says which node calls, not which of two copies of its data directory. But each start of an agent
//! raises its epoch on disk and draws a random instance. So a copy shows itself: by an epoch that another one
//! has passed, or by the same epoch with another instance. A directory put back from a backup looks the same, and
//! is as bad: what it does not remember may still run.
//!
//! A host that joined again under its node's name has a new identity, of a later generation: it begins to count
//! anew, and whatever has the earlier identity is nobody.
//!
//! Invariant: the highest start that was ever welcomed is durable before it is welcomed; two holders are both kept
//! from running anything new until an operator has spoken, whatever restarts meanwhile.

use proto::model::{EventType, Kind, Time};
use tonic::Status;

use super::{Sessions, greet::End, notes};
use crate::{
    events::Note,
    store::{Change, CommitError, Expect, keys},
    world::{
        clone_words,
        record::{Claim, HolderRecord, Rival, encode},
    },
};

/// How often a claim is judged again after another one was faster.
const TRIES: usize = 8;
/// Longest instance.
const MAX_INSTANCE: usize = 64;

/// What a claim is to what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The holder itself, on another connection.
    Holder,
    /// A later start, to be put on record.
    Next(HolderRecord),
    /// A second holder, to be put on record.
    Rival(HolderRecord),
    /// There were two before it came.
    Quarantined,
    /// Another host has the node's identity by now.
    Outdated,
}

/// Pure.
pub fn judge(known: Option<&HolderRecord>, claim: &Claim, now: Time) -> Judged {
    match known {
        Some(known) if known.holder.generation > claim.generation => Judged::Outdated,
        Some(known) if known.holder.generation < claim.generation => Judged::Next(HolderRecord {
            holder: claim.clone(),
            rival: None,
            unsettled: true,
        }),
        Some(known) if known.rival.is_some() => Judged::Quarantined,
        Some(known) if known.holder.same_start(claim) => Judged::Holder,
        Some(known) if known.holder.epoch >= claim.epoch => Judged::Rival(HolderRecord {
            holder: known.holder.clone(),
            rival: Some(Rival {
                claim: claim.clone(),
                since: now,
            }),
            unsettled: known.unsettled,
        }),
        known => Judged::Next(HolderRecord {
            holder: claim.clone(),
            rival: None,
            unsettled: known.is_some_and(|k| k.unsettled),
        }),
    }
}

/// Tells those apart that hold one identity: 1 the holder on record, 2 its rival, 3 any other.
pub fn number(known: &HolderRecord, claim: &Claim) -> u8 {
    match &known.rival {
        _ if known.holder.same_start(claim) => 1,
        Some(rival) if rival.claim.same_start(claim) => 2,
        _ => 3,
    }
}

/// The error says what of it the protocol does not allow.
pub fn check_instance(instance: &str) -> Result<(), String> {
    let plain = instance.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if plain && instance.len() <= MAX_INSTANCE {
        Ok(())
    } else {
        Err(format!(
            "instance is longer than {MAX_INSTANCE} or not letters, digits and dashes"
        ))
    }
}

/// Puts a claim on record. False: the node is in quarantine.
pub async fn admit(shared: &Sessions, node: &str, claim: &Claim) -> Result<bool, End> {
    for _ in 0..TRIES {
        let now = Time::now();
        let (judged, expect, seen) = shared.hub.read(|w| {
            let known = w.nodes.get(node).and_then(|n| n.holder.clone());
            let expect = known.as_ref().map_or(Expect::Absent, |k| Expect::At(k.rv));
            (judge(known.as_ref().map(|k| &*k.value), claim, now), expect, w.rv)
        });
        let record = match judged {
            Judged::Holder => return Ok(true),
            Judged::Quarantined => return Ok(false),
            Judged::Outdated => return Err(outdated(node)),
            Judged::Next(record) | Judged::Rival(record) => record,
        };
        let change = Change::put(keys::holder(node), expect, encode(&record));
        match shared.hub.commit(vec![change]).await {
            Ok(_) => {
                let Some(rival) = &record.rival else { return Ok(true) };
                detected(shared, node, &record.holder, rival);
                return Ok(false);
            }
            // What was faster is on its way to the world; a deletion has no version of its own.
            Err(CommitError::Conflict { actual, .. }) => {
                let newer = actual.unwrap_or(crate::store::Rv(seen.0 + 1));
                let wait = shared.hub.wait_for(newer);
                let _ = tokio::time::timeout(shared.settings.stall, wait).await;
            }
            Err(e) if e.passes() => {
                return Err(End::Refused(Status::unavailable(format!(
                    "the coordinator cannot write just now ({e}); retry later"
                ))));
            }
            Err(e) => return Err(super::turns::store_failed(shared, e)),
        }
    }
    Err(End::Refused(Status::unavailable(
        "several agents of this node come at once; retry later",
    )))
}

pub fn outdated(node: &str) -> End {
    End::Refused(Status::unauthenticated(format!(
        "node {node}: another host joined under this name; this identity is revoked"
    )))
}

/// Said once, by whoever put it on record.
fn detected(shared: &Sessions, node: &str, holder: &Claim, rival: &Rival) {
    let message = clone_words(node, holder, rival);
    tracing::error!(node, "{message}");
    let uid = shared
        .hub
        .read(|w| w.nodes.get(node).map(|n| n.node.metadata.uid.clone()));
    shared.recorder.note(Note {
        involved: notes::reference(Kind::Node, "", node, &uid.unwrap_or_default()),
        reason: "CloneDetected".into(),
        message,
        kind: EventType::Warning,
        component: "session",
        host: String::new(),
        at: rival.since,
    });
}

#[cfg(test)]
#[path = "holder_tests.rs"]
mod tests;
