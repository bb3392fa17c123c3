//! Whether a node is there: heartbeats stay in memory, and the node's Ready condition is written when it
//! changes. Fed by `stream` and `router`; run by `leader`'s side of the process alone.
//!
//! Invariant: a heartbeat costs no write and no lock; a condition is written only on a transition; after a
//! change of leadership no node is called lost before it had one period of silence to come back.

use std::{sync::Arc, time::Duration};

use proto::model::{ConditionStatus, EventType, Kind, NodeCondition, Time};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Settings,
    ingest::Docker,
    notes::reference,
    pulse::{Pulse, Timing, Verdict},
    registry::Handle,
};
use crate::{
    events::{Note, Recorder},
    store::{Change, CommitError, Expect, MAX_CHANGES, keys},
    world::{AGENT_DOWN, UNREACHABLE, World, hub::Hub, record},
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
}

/// Decides and writes until `signals` closes or the store refuses. Begin it once leadership is held: the
/// grace for nodes on record counts from here.
pub async fn run(
    hub: Arc<Hub>,
    recorder: Recorder,
    settings: Settings,
    mut signals: mpsc::UnboundedReceiver<Signal>,
) -> Result<(), CommitError> {
    let timing = || hub.read(|w| settings.timing(&w.settings));
    let mut pulse = Pulse::new(timing());
    pulse.await_nodes(hub.read(heard_before), Instant::now());
    let mut retry: Option<Instant> = None;
    loop {
        let wake = [pulse.next(), retry].into_iter().flatten().min();
        tokio::select! {
            signal = signals.recv() => {
                let Some(signal) = signal else { return Ok(()) };
                pulse.retime(timing());
                pulse.on(signal, Instant::now());
                // What is queued is written together.
                while let Ok(signal) = signals.try_recv() {
                    pulse.on(signal, Instant::now());
                }
            }
            () = sleep_until(wake), if wake.is_some() => {
                pulse.retime(timing());
                pulse.fire(Instant::now());
            }
        }
        retry = match write(&hub, &recorder, timing(), &mut pulse).await {
            Ok(()) => None,
            Err(CommitError::Full(what)) => {
                tracing::warn!(%what, "the store has no room; conditions of nodes wait");
                Some(Instant::now() + FULL_PAUSE)
            }
            Err(e) => return Err(e),
        };
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Nodes that were last said to be there: they must show it again.
fn heard_before(world: &World) -> Vec<String> {
    let there = |ready: &NodeCondition| ready.status != ConditionStatus::Unknown;
    world
        .nodes
        .iter()
        .filter(|(_, n)| n.ready.as_ref().is_some_and(|r| there(&r.value)))
        .map(|(name, _)| name.clone())
        .collect()
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
