//! `describe pdb`.

use proto::model::{Event, PodDisruptionBudget, Time};

use super::{Doc, event_table, meta, when};
use crate::printers::{budget_amount, budget_selector};

pub fn describe(budget: &PodDisruptionBudget, events: &[Event], now: Time) -> String {
    let mut doc = Doc::default();
    let (spec, status) = (&budget.spec, budget.status.clone().unwrap_or_default());
    meta(&mut doc, &budget.metadata);
    doc.field(0, "Created", when(budget.metadata.creation_timestamp, now));
    doc.field(0, "Selector", budget_selector(spec.selector.as_ref()));
    match spec.max_unavailable {
        Some(max) => doc.field(0, "Max Unavailable", max.to_string()),
        None => doc.field(0, "Min Available", budget_amount(spec.min_available)),
    }
    doc.field(
        0,
        "Pods",
        format!(
            "{} available / {} must be / {} expected",
            status.current_healthy, status.desired_healthy, status.expected_pods
        ),
    );
    doc.field(0, "Allowed Disruptions", status.disruptions_allowed.to_string());
    event_table(&mut doc, events, now);
    doc.finish()
}
