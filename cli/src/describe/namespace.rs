//! `describe namespace`.

use proto::model::{Event, Namespace, NamespacePhase, Time};

use super::{Doc, event_table, meta, when};

pub fn describe(
    namespace: &Namespace,
    (pods, rcs, sets): (usize, usize, usize),
    events: &[Event],
    now: Time,
) -> String {
    let mut doc = Doc::default();
    meta(&mut doc, &namespace.metadata);
    doc.field(0, "Created", when(namespace.metadata.creation_timestamp, now));
    let phase = namespace.status.as_ref().map_or(NamespacePhase::Active, |s| s.phase);
    doc.field(0, "Status", format!("{phase:?}"));
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut contents = format!("{}, {}", count(pods, "pod"), count(rcs, "replicationcontroller"));
    if sets > 0 {
        contents = format!("{contents}, {}", count(sets, "daemonset"));
    }
    doc.field(0, "Contents", contents);
    event_table(&mut doc, events, now);
    doc.finish()
}
