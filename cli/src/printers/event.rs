//! The event table.

use proto::model::{Event, EventType, Kind, Time};

use super::Context;
use crate::{age, output::or_none};

pub const COLUMNS: (&[&str], &[&str]) = (
    &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"],
    &["SOURCE", "FIRST SEEN", "COUNT", "NAME"],
);

/// When it happened last.
pub fn last_seen(event: &Event) -> Option<Time> {
    event
        .last_timestamp
        .or(event.first_timestamp)
        .or(event.metadata.creation_timestamp)
}

/// Sorts by time; what happened within one second by when it was written.
pub fn order(event: &Event) -> (Option<Time>, u64) {
    let written = event.metadata.resource_version.parse().unwrap_or_default();
    (last_seen(event), written)
}

/// `pod/x`.
pub fn object_name(event: &Event) -> String {
    let object = &event.involved_object;
    let kind = Kind::parse(&object.kind).map_or_else(|| object.kind.to_lowercase(), |k| k.singular().to_owned());
    format!("{kind}/{}", object.name)
}

pub fn type_name(event: &Event) -> &'static str {
    match event.kind {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

pub fn cells(event: &Event, context: &Context) -> Vec<String> {
    let source = match event.source.host.as_str() {
        "" => event.source.component.clone(),
        host => format!("{}, {host}", event.source.component),
    };
    vec![
        age::since(last_seen(event), context.now),
        type_name(event).to_owned(),
        event.reason.clone(),
        object_name(event),
        event.message.clone(),
        or_none(source),
        age::since(event.first_timestamp.or_else(|| last_seen(event)), context.now),
        event.count.max(1).to_string(),
        event.metadata.name.clone(),
    ]
}
