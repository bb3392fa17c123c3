//! What a node should run, and what has to be said to an agent that knows an earlier state of it. Called by
//! `stream` for every session.
//!
//! Invariant: pure; a chain of changes leaves an agent's ledger with the digest that the complete set would
//! give it; nothing but a stop entry ever asks for a stop.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use proto::{
    digest, ids,
    model::lifecycle,
    wire::{AgentSettings, Run, Stop},
};

use crate::world::{
    Key, PodState, World,
    record::StopRecord,
    settings::{ENDPOINT_DRAIN, READY_AFTER},
};

/// What one pod should be doing on the node.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    Run(Arc<Run>),
    Stop(Stop),
}

/// By uid.
pub type Desired = BTreeMap<String, Wanted>;

/// The message between two states.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    pub run: Vec<Run>,
    pub stop: Vec<Stop>,
    pub forget: Vec<String>,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.run.is_empty() && self.stop.is_empty() && self.forget.is_empty()
    }
}

/// The cluster's settings as agents are told them: what nobody set is the agent's own affair.
pub fn agent_settings(world: &World) -> AgentSettings {
    let ready_after = world.settings.given(&READY_AFTER);
    AgentSettings {
        ready_after_ms: ready_after.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)),
    }
}

/// All pods of `node` that are not over, with whether some pod had to be left out because its template has not come yet.
/// `known` spares building what was built before.
pub fn desired(world: &World, node: &str, known: &Desired) -> (Desired, bool) {
    let mut missing = false;
    let mut wanted = Desired::new();
    // What vanished with an earlier host of the node is over: nothing is left to stop, and nothing to run again.
    for (key, pod) in world.pods_on(node).filter(|(_, p)| !p.vanished()) {
        let uid = &pod.record.uid;
        match one(world, key, pod, known.get(uid)) {
            Some(entry) => {
                wanted.insert(uid.clone(), entry);
            }
            None => missing = true,
        }
    }
    (wanted, missing)
}

fn one(world: &World, key: &Key, pod: &PodState, known: Option<&Wanted>) -> Option<Wanted> {
    if let Some(stop) = &pod.record.stop {
        if let Some(Wanted::Stop(sent)) = known
            && (sent.grace_seconds, &sent.reason) == (stop.grace, &stop.reason)
        {
            // It was counted with the settings of its time.
            return Some(Wanted::Stop(sent.clone()));
        }
        return Some(Wanted::Stop(Stop {
            uid: pod.record.uid.clone(),
            reason: stop.reason.clone(),
            grace_seconds: stop.grace,
            namespace: key.0.clone(),
            name: key.1.clone(),
            endpoint_drain_ms: drain_ms(world, pod, stop),
        }));
    }
    // Without it there is no spec to run.
    pod.template.as_ref()?;
    let (labels, annotations) = (World::labels_of(pod), World::annotations_of(pod));
    if let Some(Wanted::Run(run)) = known
        && same(&run.labels, &labels)
        && same(&run.annotations, &annotations)
    {
        // The spec of a uid never changes; only its labels and annotations do.
        return Some(Wanted::Run(run.clone()));
    }
    let spec_json = crate::world::record::encode(&pod.spec().placed_on(&pod.record.node));
    Some(Wanted::Run(Arc::new(Run {
        uid: pod.record.uid.clone(),
        namespace: key.0.clone(),
        name: key.1.clone(),
        spec_hash: ids::content_hash(&spec_json),
        spec_json,
        labels: labels.into_iter().collect(),
        annotations: annotations.into_iter().collect(),
    })))
}

/// How long the pod serves on after it left its Endpoints: as it asks for itself, else the cluster's setting if
/// somebody can have its address. Not at all where nothing serves any more, or where all is to end at once.
fn drain_ms(world: &World, pod: &PodState, stop: &StopRecord) -> u32 {
    let spec = &pod.template_record().spec;
    let at_once = stop.grace == 0 && spec.grace_seconds() > 0;
    if stop.lost || at_once {
        return 0;
    }
    let drain = match lifecycle::endpoint_drain(&World::annotations_of(pod)) {
        Some(drain) => drain,
        None if spec.containers.iter().all(|c| c.ports.is_empty()) => Duration::ZERO,
        None => world.settings.time(&ENDPOINT_DRAIN),
    };
    u32::try_from(drain.as_millis()).unwrap_or(u32::MAX)
}

fn same(sent: &HashMap<String, String>, now: &BTreeMap<String, String>) -> bool {
    sent.len() == now.len() && now.iter().all(|(k, v)| sent.get(k) == Some(v))
}

/// What turns `sent` into `wanted`.
pub fn delta(sent: &Desired, wanted: &Desired) -> Delta {
    let mut delta = Delta::default();
    for (uid, entry) in wanted {
        if sent.get(uid) != Some(entry) {
            push(&mut delta, entry);
        }
    }
    delta.forget = sent.keys().filter(|uid| !wanted.contains_key(*uid)).cloned().collect();
    delta
}

/// All of `wanted`, for an agent of which nothing is known.
pub fn complete(wanted: &Desired) -> Delta {
    let mut delta = Delta::default();
    for entry in wanted.values() {
        push(&mut delta, entry);
    }
    delta
}

fn push(delta: &mut Delta, entry: &Wanted) {
    match entry {
        Wanted::Run(run) => delta.run.push((**run).clone()),
        Wanted::Stop(stop) => delta.stop.push(stop.clone()),
    }
}

/// The digest that an agent's ledger has when it holds just this.
pub fn digest(wanted: &Desired) -> String {
    digest::assignments(wanted.iter().map(|(uid, entry)| match entry {
        Wanted::Run(run) => digest::Item {
            uid,
            spec_hash: &run.spec_hash,
            marks: digest::marks(&run.labels, &run.annotations),
            stop: None,
        },
        Wanted::Stop(stop) => digest::Item {
            uid,
            spec_hash: "",
            marks: String::new(),
            stop: Some(stop.grace_seconds),
        },
    }))
}

#[cfg(test)]
#[path = "assignments_tests.rs"]
mod tests;
