//! Whether a node is there: heartbeats stay in memory, and the node's Ready condition is written when it
//! changes, by the coordinator that leads. Fed by `stream` and `router`, and with what other coordinators hear.
//!
//! Invariant: a heartbeat costs no write and no lock; a condition is written only on a transition; after a
//! change of leadership no node is called lost before it had one period of silence to come back; a node that any
//! coordinator hears is not called lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proto::model::{ConditionStatus, EventType, Kind, NodeCondition, Time};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Settings,
    ingest::Docker,
    notes::reference,
    pulse::{Elsewhere, Pulse, Timing, Verdict},
    registry::Handle,
};
use crate::{
    events::{Note, Recorder},
    store::{Change, CommitError, Expect, Fence, MAX_CHANGES, keys},
    world::{AGENT_DOWN, HEARD_ELSEWHERE, UNREACHABLE, World, hub::Hub, record},
};

/// Pause before a write is tried again while the store's disk is full.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// What liveness is told.
#[derive(Clone, Debug)]
pub enum Signal {
    /// A session's first facts are durable.
    Opened(Arc<Handle>, Docker),
    /// Whether Docker answers has changed or was said again.
    Docker(Arc<Handle>, Docker),
    /// A node that was called lost is heard again.
    Heard(Arc<Handle>),
    Closed(Arc<Handle>),
    /// The node was deleted.
    Deleted(String),
    /// Another coordinator, and all the nodes that it hears; `None`: it is gone.
    Elsewhere(String, Option<BTreeSet<String>>),
}

/// Decides and writes while this coordinator leads, until `signals` closes or the store fails. `here` says when a node
/// was last heard on any session of this process. The grace for nodes on record counts from when this coordinator
/// begins to lead.
pub async fn run(
    hub: Arc<Hub>,
    recorder: Recorder,
    settings: Settings,
    here: impl Fn(&str) -> Option<Instant>,
    mut signals: mpsc::UnboundedReceiver<Signal>,
) -> Result<(), CommitError> {
    let mut fences = hub.fences();
    let mut elsewhere = Elsewhere::default();
    loop {
        let fence = fences.borrow_and_update().clone();
        if fence.is_none() {
            // Who leads is told by other means; nothing is decided here.
            tokio::select! {
                biased;
                changed = fences.changed() => if changed.is_err() { return Ok(()) },
                signal = signals.recv() => match signal {
                    None => return Ok(()),
                    Some(Signal::Elsewhere(peer, names)) => elsewhere.set(&peer, names),
                    Some(_) => {}
                },
            }
            continue;
        }
        let watch = Watch {
            hub: &hub,
            recorder: &recorder,
            settings: &settings,
            here: &here,
        };
        match watch.lead(&mut fences, &mut elsewhere, &mut signals).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(CommitError::Fenced { .. }) if settings.contested => {
                // Until this process knows, too.
                let same = |now: &Option<Arc<Fence>>| *now == fence;
                if fences.wait_for(|now| !same(now)).await.is_err() {
                    return Ok(());
                }
            }
            Err(e) => return Err(e),
        }
    }
}

struct Watch<'a, H> {
    hub: &'a Hub,
    recorder: &'a Recorder,
    settings: &'a Settings,
    here: &'a H,
}

impl<H: Fn(&str) -> Option<Instant>> Watch<'_, H> {
    /// One leadership. True: it is over; false: nobody signals any more.
    async fn lead(
        &self,
        fences: &mut watch::Receiver<Option<Arc<Fence>>>,
        elsewhere: &mut Elsewhere,
        signals: &mut mpsc::UnboundedReceiver<Signal>,
    ) -> Result<bool, CommitError> {
        tokio::select! {
            biased;
            changed = fences.changed() => return Ok(changed.is_ok()),
            // Until then every agent is in quarantine, and none is lost.
            () = self.hub.accepted() => {}
        }
        let timing = || self.hub.read(|w| self.settings.timing(&w.settings));
        let mut pulse = Pulse::new(timing(), std::mem::take(elsewhere));
        let (heard, lost) = self.hub.read(before);
        pulse.await_nodes(heard, Instant::now());
        pulse.lost_before(lost);
        let mut retry: Option<Instant> = None;
        loop {
            let wake = [pulse.next(), retry].into_iter().flatten().min();
            tokio::select! {
                biased;
                changed = fences.changed() => {
                    *elsewhere = pulse.into_elsewhere();
                    return Ok(changed.is_ok());
                }
                signal = signals.recv() => {
                    let Some(signal) = signal else { return Ok(false) };
                    pulse.retime(timing());
                    pulse.on(signal, Instant::now());
                    // What is queued is written together.
                    while let Ok(signal) = signals.try_recv() {
                        pulse.on(signal, Instant::now());
                    }
                }
                () = sleep_until(wake), if wake.is_some() => {
                    pulse.retime(timing());
                    pulse.fire(Instant::now(), self.here);
                }
            }
            retry = match write(self.hub, self.recorder, timing(), &mut pulse).await {
                Ok(()) => None,
                Err(e) if e.passes() => {
                    tracing::warn!("conditions of nodes wait: {e}");
                    Some(Instant::now() + FULL_PAUSE)
                }
                Err(e) => {
                    *elsewhere = pulse.into_elsewhere();
                    return Err(e);
                }
            };
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Nodes that were last said to be there, which must show it again, and those that were lost.
fn before(world: &World) -> (Vec<String>, Vec<String>) {
    let there = |ready: &NodeCondition| ready.status != ConditionStatus::Unknown;
    let known = world
        .nodes
        .iter()
        .filter_map(|(name, n)| Some((name.clone(), n.ready.as_ref()?)));
    let (heard, lost): (Vec<_>, Vec<_>) = known.partition(|(_, ready)| there(&ready.value));
    let names = |nodes: Vec<(String, _)>| nodes.into_iter().map(|(name, _)| name).collect();
    (names(heard), names(lost))
}

/// Writes what has been decided and not yet stored.
async fn write(hub: &Hub, recorder: &Recorder, timing: Timing, pulse: &mut Pulse) -> Result<(), CommitError> {
    while pulse.has_news() {
        let news = pulse.news(MAX_CHANGES);
        let now = Time::now();
        let conditions: Vec<(Note, NodeCondition, String)> = hub.read(|w| {
            let changed = news.iter().filter_map(|(name, verdict)| {
                let node = w.nodes.get(name)?;
                let old = node.ready.as_ref().map(|r| &*r.value);
                let new = condition(verdict, timing, old, now)?;
                Some((note(name, &node.node.metadata.uid, &new, old), new, name.clone()))
            });
            changed.collect()
        });
        if !conditions.is_empty() {
            let change = |(_, c, name): &(Note, NodeCondition, String)| {
                Change::put(keys::node_ready(name), Expect::Any, record::encode(c))
            };
            hub.commit(conditions.iter().map(change).collect()).await?;
        }
        pulse.written(&news);
        for (note, condition, node) in conditions {
            let words = format_args!("{}: {}", condition.reason, condition.message);
            if condition.status == ConditionStatus::True {
                tracing::info!(node, "node is Ready; {words}");
            } else {
                tracing::warn!(node, "node is NotReady; {words}");
            }
            recorder.note(note);
        }
    }
    Ok(())
}

/// The condition that says `verdict`; `None`: the stored one says it already.
fn condition(verdict: &Verdict, timing: Timing, old: Option<&NodeCondition>, now: Time) -> Option<NodeCondition> {
    let (status, reason, message) = match verdict {
        Verdict::Ready => (
            ConditionStatus::True,
            "AgentReady",
            "the agent is connected and Docker answers".to_owned(),
        ),
        Verdict::Elsewhere(peers) => (
            ConditionStatus::False,
            HEARD_ELSEWHERE,
            format!(
                "the active coordinator does not hear the agent, and {peers} does: nothing new is assigned to it, and \
                 nothing of it is replaced"
            ),
        ),
        Verdict::Docker(words) => (ConditionStatus::False, "DockerUnavailable", words.clone()),
        Verdict::Unreachable => (
            ConditionStatus::Unknown,
            UNREACHABLE,
            format!("no heartbeat for {}", humantime::format_duration(timing.silence)),
        ),
        Verdict::AgentDown(within) => (
            ConditionStatus::Unknown,
            AGENT_DOWN,
            format!(
                "the agent's connection closed and it did not come back within {}",
                humantime::format_duration(*within)
            ),
        ),
    };
    if old.is_some_and(|o| o.status == status && o.reason == reason && o.message == message) {
        return None;
    }
    let since = old.filter(|o| o.status == status).and_then(|o| o.last_transition_time);
    Some(NodeCondition {
        kind: "Ready".to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: Some(since.unwrap_or(now)),
        last_heartbeat_time: None,
    })
}

fn note(name: &str, uid: &str, new: &NodeCondition, old: Option<&NodeCondition>) -> Note {
    let ready = new.status == ConditionStatus::True;
    Note {
        involved: reference(Kind::Node, "", name, uid),
        reason: if ready { "NodeReady" } else { "NodeNotReady" }.to_owned(),
        message: match old {
            Some(old) if ready => format!("{} (was {})", new.message, old.reason),
            None if ready => new.message.clone(),
            _ => format!("{}: {}", new.reason, new.message),
        },
        kind: if ready { EventType::Normal } else { EventType::Warning },
        component: "liveness",
        host: String::new(),
        at: new.last_transition_time.unwrap_or_default(),
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
