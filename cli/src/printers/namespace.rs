//! The namespace table.

use proto::model::{Namespace, NamespacePhase};

use super::Context;
use crate::age;

pub const COLUMNS: (&[&str], &[&str]) = (&["NAME", "STATUS", "AGE"], &[]);

pub fn cells(namespace: &Namespace, context: &Context) -> Vec<String> {
    let phase = namespace.status.as_ref().map_or(NamespacePhase::Active, |s| s.phase);
    let status = match phase {
        NamespacePhase::Active => "Active",
        NamespacePhase::Terminating => "Terminating",
    };
    vec![
        namespace.metadata.name.clone(),
        status.to_owned(),
        age::since(namespace.metadata.creation_timestamp, context.now),
    ]
}
