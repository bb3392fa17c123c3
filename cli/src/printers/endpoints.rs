//! The table of endpoints.

use proto::model::Endpoints;

use super::Context;
use crate::age;

pub const COLUMNS: (&[&str], &[&str]) = (&["NAME", "ENDPOINTS", "AGE"], &[]);

/// As many as kubectl shows before it counts.
const SHOWN: usize = 3;

pub fn cells(endpoints: &Endpoints, context: &Context) -> Vec<String> {
    vec![
        endpoints.metadata.name.clone(),
        ready(endpoints),
        age::since(endpoints.metadata.creation_timestamp, context.now),
    ]
}

/// What is ready, in one cell.
fn ready(endpoints: &Endpoints) -> String {
    let all: Vec<String> = endpoints
        .each()
        .filter(|(.., ready)| *ready)
        .flat_map(|(address, ports, _)| ports.iter().map(|port| address.with_port(port.port)))
        .collect();
    match all.get(..SHOWN).filter(|shown| shown.len() < all.len()) {
        Some(shown) => format!("{} + {} more...", shown.join(","), all.len() - SHOWN),
        None if all.is_empty() => "<none>".to_owned(),
        None => all.join(","),
    }
}
