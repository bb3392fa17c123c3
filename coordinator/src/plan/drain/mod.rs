//! Emptying nodes: which pods leave a node that is being drained, when, and what comes first. `moves` is asked by
//! `replicas`, `gc` and `daemons` for the pods of their groups; the drain of a node as a whole is planned here.
//!
//! | module | decides |
//! |---|---|
//! | [`moves`] | the next step of one pod that is to leave |
//! | `failure` | whether a replacement has come to nothing |
//! | [`report`] | how a drain stands, in words |
//! | [`simulate`] | what one would do |
//!
//! Each step is a write of its own that the next one is decided on: a new pod that `replaces` the old one, the stop of the
//! old one, what became of a replacement. So a drain goes on wherever it was when a coordinator or an agent ended.
//!
//! Invariant: pure; a pod that serves leaves only after another one serves in its place, or where its owner or an
//! operator accepted that it is missed for a while. A drain is over when its node is empty, by its agent's word, and
//! what was started elsewhere is Ready.

pub(super) mod failure;
pub mod moves;
pub mod report;
pub mod simulate;

use proto::model::{EventType, HoldKind, Kind, ObjectReference, Time};
use serde_json::json;

use super::{Draft, change::Change, disruption};
use crate::{
    ca::audit::{AuditRecord, COORDINATOR},
    events::Note,
    world::{
        Key, NodeState, PodState, World,
        drains::{DrainEnd, DrainOutcome, DrainRecord, OnDeadline},
    },
};

/// Whether the pod must leave its node before the drain is over.
fn leaves(drain: &DrainRecord, pod: &PodState) -> bool {
    drain.options.stop_daemons || !pod.is_daemon()
}

/// What is still on the node and must leave, whether it is being stopped or not. What has ended by itself is not there.
pub(super) fn left<'w>(
    world: &'w World,
    node: &str,
    drain: &'w DrainRecord,
) -> impl Iterator<Item = (&'w Key, &'w PodState)> {
    world
        .pods_on(node)
        .filter(|(_, pod)| leaves(drain, pod) && !pod.is_over())
}

/// Pods that this drain started elsewhere and that are not available yet.
fn pending<'w>(
    world: &'w World,
    node: &str,
    drain: &'w DrainRecord,
    now: Time,
) -> impl Iterator<Item = (&'w Key, &'w PodState)> {
    let of_it = |pod: &PodState| pod.record.replaces.as_ref().is_some_and(|r| r.drain == drain.id);
    world
        .replacements_for(node)
        .filter(move |(_, pod)| of_it(pod) && pod.live() && !disruption::available(world, pod, now))
}

/// The drain of a node as a whole: whether it is over, and what its deadline asks for.
pub(super) fn plan(world: &World, name: &str, out: &mut Draft) {
    let Some(node) = world.nodes.get(name) else { return };
    let Some(drain) = node.draining() else { return };
    let mut waiting = pending(world, name, drain, out.now).peekable();
    if left(world, name, drain).next().is_none() && waiting.peek().is_none() {
        end(name, node, drain, DrainOutcome::Drained, out);
        return;
    }
    for (_, pod) in waiting {
        if let Some(at) = moves::available_from(world, pod).filter(|at| *at > out.now) {
            out.wake_at(at);
        }
    }
    let deadline = drain.options.deadline;
    if out.now < deadline {
        out.wake_at(deadline);
        return;
    }
    match drain.options.on_deadline {
        OnDeadline::Block => {}
        OnDeadline::Abort => end(name, node, drain, DrainOutcome::Aborted, out),
        OnDeadline::Force if drain.forced.is_none() => force(name, node, drain, out),
        OnDeadline::Force => {}
    }
}

/// Writes that it is over. One that is aborted lets go of the node.
fn end(name: &str, node: &NodeState, drain: &DrainRecord, how: DrainOutcome, out: &mut Draft) {
    let end = DrainEnd { at: out.now, how };
    let record = DrainRecord {
        ended: Some(end),
        ..drain.clone()
    };
    let (verb, why, kind) = match how {
        DrainOutcome::Drained => ("drained", "it is empty".to_owned(), EventType::Normal),
        DrainOutcome::Aborted | DrainOutcome::Cancelled => {
            let words = format!("its deadline was {}: the node takes pods again", drain.options.deadline);
            ("drain-aborted", words, EventType::Warning)
        }
    };
    let released = node
        .holds
        .as_ref()
        .filter(|_| how != DrainOutcome::Drained)
        .map(|holds| {
            let mut left = (*holds.value).clone();
            left.retain(|_, hold| hold.kind != HoldKind::Drain);
            (holds.rv, left)
        });
    write(name, node, (record, released), verb, &why, kind, out);
}

/// From now on budgets and floors hold nothing back.
fn force(name: &str, node: &NodeState, drain: &DrainRecord, out: &mut Draft) {
    let record = DrainRecord {
        forced: Some(out.now),
        ..drain.clone()
    };
    let why = format!(
        "its deadline was {}, and {} asked for --on-deadline force: budgets are overridden",
        drain.options.deadline, drain.by
    );
    write(
        name,
        node,
        (record, None),
        "drain-forced",
        &why,
        EventType::Warning,
        out,
    );
}

/// The record with its audit entry and its event.
fn write(
    name: &str,
    node: &NodeState,
    (record, holds): (
        DrainRecord,
        Option<(crate::store::Rv, crate::world::record::HoldsRecord)>,
    ),
    verb: &'static str,
    why: &str,
    kind: EventType,
    out: &mut Draft,
) {
    let Some(before) = &node.drain else { return };
    let at_ms = u64::try_from(out.now.0).unwrap_or_default().saturating_mul(1000);
    let object = format!("{}/{name}", Kind::Node.plural());
    let audit = AuditRecord::new(at_ms, COORDINATOR, verb, object, format!("drain {}", record.id))
        .because(why.to_owned())
        .about(Some(json!(&*before.value)), Some(json!(&record)));
    let change = Change::SetDrain {
        node: name.to_owned(),
        rv: before.rv,
        record,
        holds,
    };
    out.push_together(vec![change, Change::Record(audit)]);
    out.note(Note {
        involved: ObjectReference {
            kind: Kind::Node.name().to_owned(),
            namespace: String::new(),
            name: name.to_owned(),
            uid: node.node.metadata.uid.clone(),
        },
        reason: match verb {
            "drained" => "Drained",
            "drain-forced" => "DrainForced",
            _ => "DrainAborted",
        }
        .to_owned(),
        message: format!("{verb}: {why}"),
        kind,
        component: "drain",
        host: String::new(),
        at: out.now,
    });
}

#[cfg(test)]
#[path = "drain_properties.rs"]
mod properties;
#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
