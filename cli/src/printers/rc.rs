//! The table of replication controllers.

use proto::model::ReplicationController;

use super::Context;
use crate::{age, output::pairs};

pub const COLUMNS: (&[&str], &[&str]) = (
    &["NAME", "DESIRED", "CURRENT", "READY", "AGE"],
    &["CONTAINERS", "IMAGES", "SELECTOR"],
);

pub fn cells(rc: &ReplicationController, context: &Context) -> Vec<String> {
    let status = rc.status.clone().unwrap_or_default();
    let containers = &rc.spec.template.spec.containers;
    let join = |parts: Vec<&str>| parts.join(",");
    vec![
        rc.metadata.name.clone(),
        rc.spec.replicas.to_string(),
        status.replicas.to_string(),
        status.ready_replicas.to_string(),
        age::since(rc.metadata.creation_timestamp, context.now),
        join(containers.iter().map(|c| c.name.as_str()).collect()),
        join(containers.iter().map(|c| c.image.as_str()).collect()),
        pairs(&rc.spec.selector),
    ]
}
