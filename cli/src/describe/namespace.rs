//! `describe namespace`.

use proto::model::{Event, Namespace, NamespacePhase, Time};

use super::{Doc, event_table, meta, when};

pub fn describe(namespace: &Namespace, pods: usize, rcs: usize, events: &[Event], now: Time) -> String {
    let mut doc = Doc::default();
    meta(&mut doc, &namespace.metadata);
    doc.field(0, "Created", when(namespace.metadata.creation_timestamp, now));
    let phase = namespace.status.as_ref().map_or(NamespacePhase::Active, |s| s.phase);
    doc.field(0, "Status", format!("{phase:?}"));
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let contents = format!("{}, {}", count(pods, "pod"), count(rcs, "replicationcontroller"));
    doc.field(0, "Contents", contents);
    event_table(&mut doc, events, now);
    doc.finish()
}
