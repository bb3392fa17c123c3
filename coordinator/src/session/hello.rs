//! What a Hello must fulfil, and what its answer says about terms and unknown pods. Called by `stream` at the
//! start of a session.
//!
//! Invariant: pure; without proof that the agent's last accepted revision is of this history, nothing that it
//! runs and the world does not know is stopped or forgotten.

use std::time::Duration;

use proto::wire::{Fence, Hello, Stop};

use crate::{leader, store::Rv, world::World};

/// Seconds to end for a pod that the world no longer knows, as for one whose spec says nothing.
pub const UNKNOWN_GRACE: u32 = 30;
/// How many releases behind ours an agent may be.
const RELEASES_BEHIND: u64 = 2;

/// How the agent's history relates to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// The agent has accepted nothing yet, or has lost its ledger.
    Fresh,
    /// What it last accepted was decided here, or in a history that this one goes on from before it was taken up.
    Proven,
    /// What it last accepted was decided in a history that this one goes on from, after the backup was taken.
    Beyond,
    /// What it last accepted was not; the text says what does not fit.
    Broken(String),
}

/// Whether this history holds the term in `fence`, and the version at which it ended (0: it is the current one).
/// A fence that names nothing is known.
pub fn term_of(world: &World, fence: Option<&Fence>) -> (bool, Rv) {
    let Some(fence) = fence else { return (true, Rv(0)) };
    let known = world
        .terms
        .get(&fence.term)
        .is_some_and(|t| t.nonce == fence.nonce && t.incarnation == fence.incarnation);
    let ended = fence
        .term
        .checked_add(1)
        .and_then(|next| world.terms.range(next..).next())
        .map_or(Rv(0), |(next, _)| leader::starts_at(*next));
    (known, ended)
}

pub fn lineage(world: &World, hello: &Hello) -> Lineage {
    let Some(fence) = &hello.fence else {
        return Lineage::Fresh;
    };
    let (known, ended) = term_of(world, Some(fence));
    let revision = Rv(hello.revision);
    if let Some(former) = world.former(&fence.incarnation) {
        let before = revision <= former.newest && (ended == Rv(0) || revision < ended);
        return if known && before {
            Lineage::Proven
        } else {
            Lineage::Beyond
        };
    }
    if !known {
        Lineage::Broken(format!("term {} is not on record here", fence.term))
    } else if ended != Rv(0) && revision >= ended {
        Lineage::Broken(format!(
            "revision {revision} was accepted under term {}, which ended here at {ended}",
            fence.term
        ))
    } else if revision > world.rv {
        Lineage::Broken(format!(
            "revision {revision} is beyond the newest one here ({})",
            world.rv
        ))
    } else {
        Lineage::Proven
    }
}

/// Releases N−2…N within one major release.
pub fn check_version(ours: &str, theirs: &str) -> Result<(), String> {
    let refused = || {
        format!(
            "the agent is release {theirs:?} and the coordinator {ours}; install an agent of release {ours} or of one of the two before it"
        )
    };
    let (Some((our_major, our_minor)), Some((major, minor))) = (release(ours), release(theirs)) else {
        return Err(refused());
    };
    let fits = major == our_major && minor <= our_minor && our_minor - minor <= RELEASES_BEHIND;
    if fits { Ok(()) } else { Err(refused()) }
}

/// Major and minor number.
pub fn release(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    let (major, minor, _patch) = (parts.next()?, parts.next()?, parts.next()?);
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Both clocks in milliseconds since the Unix epoch.
pub fn check_clock(ours: u64, theirs: u64, most: Duration) -> Result<(), String> {
    let apart = Duration::from_millis(ours.abs_diff(theirs));
    if apart <= most {
        return Ok(());
    }
    let show = |ms: u64| proto::model::Time::from_millis(ms).to_string();
    Err(format!(
        "the agent's clock says {} and the coordinator's {}; more than {} apart is refused: set the clocks by NTP",
        show(theirs),
        show(ours),
        humantime::format_duration(most)
    ))
}

/// What to say about pods that the agent observes and that are not this node's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strays {
    pub stop: Vec<Stop>,
    pub forget: Vec<String>,
}

impl Strays {
    /// Stops what would be forgotten.
    pub fn stop_all(&mut self, hello: &Hello) {
        let forget = std::mem::take(&mut self.forget);
        let named = hello.observed.iter().filter(|p| forget.contains(&p.uid));
        self.stop.extend(named.map(|p| unknown(&p.uid, &p.namespace, &p.name)));
    }
}

pub fn strays(world: &World, node: &str, hello: &Hello, lineage: &Lineage) -> Strays {
    let mut strays = Strays::default();
    for pod in &hello.observed {
        match world.pod_by_uid(&pod.uid) {
            Some((_, state)) if state.record.node == node || state.record.node.is_empty() => {}
            Some((_, state)) => {
                let reason = format!("it is bound to node {}", state.record.node);
                strays
                    .stop
                    .push(stop_unknown(&pod.uid, &pod.namespace, &pod.name, reason));
            }
            None if *lineage != Lineage::Proven => {}
            // An operator has the word.
            None if world.nodes.contains_key(node) && world.is_orphan(&pod.uid, node) => {}
            None if pod.running => strays.stop.push(unknown(&pod.uid, &pod.namespace, &pod.name)),
            None => strays.forget.push(pod.uid.clone()),
        }
    }
    strays
}

/// The stop entry for a pod whose record is gone.
pub fn unknown(uid: &str, namespace: &str, name: &str) -> Stop {
    stop_unknown(
        uid,
        namespace,
        name,
        "unknown to the coordinator: it was deleted".into(),
    )
}

fn stop_unknown(uid: &str, namespace: &str, name: &str, reason: String) -> Stop {
    Stop {
        uid: uid.to_owned(),
        reason,
        grace_seconds: UNKNOWN_GRACE,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        endpoint_drain_ms: 0,
    }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
