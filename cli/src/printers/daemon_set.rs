//! The table of daemon sets.

use proto::model::DaemonSet;

use super::Context;
use crate::{
    age,
    output::{or_none, pairs},
};

pub const COLUMNS: (&[&str], &[&str]) = (
    &[
        "NAME",
        "DESIRED",
        "CURRENT",
        "READY",
        "UP-TO-DATE",
        "AVAILABLE",
        "NODE SELECTOR",
        "AGE",
    ],
    &["CONTAINERS", "IMAGES", "SELECTOR"],
);

pub fn cells(set: &DaemonSet, context: &Context) -> Vec<String> {
    let status = set.status.clone().unwrap_or_default();
    let spec = &set.spec.template.spec;
    let join = |parts: Vec<&str>| parts.join(",");
    vec![
        set.metadata.name.clone(),
        status.desired_number_scheduled.to_string(),
        status.current_number_scheduled.to_string(),
        status.number_ready.to_string(),
        status.updated_number_scheduled.to_string(),
        status.number_available.to_string(),
        pairs(&spec.node_selector),
        age::since(set.metadata.creation_timestamp, context.now),
        join(spec.containers.iter().map(|c| c.name.as_str()).collect()),
        join(spec.containers.iter().map(|c| c.image.as_str()).collect()),
        or_none(set.spec.selector.to_string()),
    ]
}
