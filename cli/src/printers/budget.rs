//! The table of budgets (PodDisruptionBudgets).

use proto::model::{IntOrPercent, PodDisruptionBudget, PodSelector};

use super::Context;
use crate::age;

pub const COLUMNS: (&[&str], &[&str]) = (
    &["NAME", "MIN AVAILABLE", "MAX UNAVAILABLE", "ALLOWED DISRUPTIONS", "AGE"],
    &["CURRENT", "DESIRED", "EXPECTED", "SELECTOR"],
);

pub fn cells(budget: &PodDisruptionBudget, context: &Context) -> Vec<String> {
    let (spec, status) = (&budget.spec, budget.status.clone().unwrap_or_default());
    vec![
        budget.metadata.name.clone(),
        amount(spec.min_available),
        amount(spec.max_unavailable),
        status.disruptions_allowed.to_string(),
        age::since(budget.metadata.creation_timestamp, context.now),
        status.current_healthy.to_string(),
        status.desired_healthy.to_string(),
        status.expected_pods.to_string(),
        selector(spec.selector.as_ref()),
    ]
}

/// As it was written, or that it was not.
pub fn amount(amount: Option<IntOrPercent>) -> String {
    amount.map_or_else(|| "N/A".to_owned(), |a| a.to_string())
}

/// `app=web,tier in (a,b)`.
pub fn selector(selector: Option<&PodSelector>) -> String {
    match selector.map(ToString::to_string) {
        None => "<none>".to_owned(),
        Some(text) if text.is_empty() => "<all pods>".to_owned(),
        Some(text) => text,
    }
}
