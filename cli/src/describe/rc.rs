//! `describe rc`, and what other controllers show in the same words.

use proto::{
    model::{Event, Phase, Pod, PodTemplate, ReplicationController, Time},
    wire::UpdateView,
};

use super::{Doc, event_table, meta, pod::containers, when};
use crate::rollout;

/// `update`: the one that goes on and that this controller is one side of.
pub fn describe(
    rc: &ReplicationController,
    update: Option<&UpdateView>,
    pods: &[Pod],
    events: &[Event],
    now: Time,
) -> String {
    let mut doc = Doc::default();
    let status = rc.status.clone().unwrap_or_default();
    meta(&mut doc, &rc.metadata);
    doc.pairs(0, "Selector", &rc.spec.selector);
    doc.field(0, "Created", when(rc.metadata.creation_timestamp, now));
    doc.field(
        0,
        "Replicas",
        format!(
            "{} current / {} desired, {} ready",
            status.replicas, rc.spec.replicas, status.ready_replicas
        ),
    );
    doc.field(0, "Pods Status", phases(pods));
    if let Some(update) = update {
        doc.field(0, "Update", rollout::line(update));
    }
    doc.heading(0, "Pod Template");
    doc.group();
    template(&mut doc, &rc.spec.template, now);
    event_table(&mut doc, events, now);
    doc.finish()
}

/// How many pods are in each phase.
pub fn phases(pods: &[Pod]) -> String {
    let count = |phase: Phase| {
        let phases = pods
            .iter()
            .map(|p| p.status.as_ref().map_or(Phase::Pending, |s| s.phase));
        phases.filter(|p| *p == phase).count()
    };
    format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count(Phase::Running),
        count(Phase::Pending),
        count(Phase::Succeeded),
        count(Phase::Failed)
    )
}

/// What a controller's pods are made from.
pub fn template(doc: &mut Doc, template: &PodTemplate, now: Time) {
    doc.pairs(2, "Labels", &template.metadata.labels);
    if !template.metadata.annotations.is_empty() {
        doc.pairs(2, "Annotations", &template.metadata.annotations);
    }
    doc.pairs(2, "Node-Selectors", &template.spec.node_selector);
    doc.field(2, "Grace Period", format!("{}s", template.spec.grace_seconds()));
    containers(doc, 2, &template.spec, None, now);
}
