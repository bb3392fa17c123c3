//! Counting and naming of events.

use proto::model::EventType;

use super::*;
use crate::{store::Rv, store::Update};

fn note(name: &str, message: &str, at: i64) -> Note {
    Note {
        involved: ObjectReference {
            kind: "Pod".into(),
            namespace: "apps".into(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
        },
        reason: "Failed".into(),
        message: message.to_owned(),
        kind: EventType::Warning,
        component: "agent",
        host: "n1".into(),
        at: Time(at),
    }
}

fn apply(world: &mut World, revision: u64, changes: Vec<Change>) {
    for change in changes {
        let update = Update {
            rv: Rv::new(revision, 0),
            key: change.key,
            value: change.value,
        };
        world.apply(&update).unwrap();
    }
}

#[test]
fn repeats_count_up_across_flushes_and_restarts() {
    let mut world = World::default();
    let mut pending = Pending::default();
    for at in [5, 3, 9] {
        pending.add(note("a", "x", at));
    }
    pending.add(note("a", "y", 4));
    pending.add(note("b", "x", 4));
    apply(&mut world, 1, pending.changes(&World::default()));
    assert_eq!(world.events.len(), 3);
    let mut pending = Pending::default();
    pending.add(note("a", "x", 20));
    let changes = pending.changes(&world);
    assert_eq!(changes.len(), 1);
    apply(&mut world, 2, changes);
    let event = world.events.values().find(|e| e.value.count == 4).unwrap();
    assert_eq!(event.value.first_timestamp, Some(Time(3)));
    assert_eq!(event.value.last_timestamp, Some(Time(20)));
    assert!(event.value.metadata.name.starts_with("a."));
    assert_eq!(event.value.metadata.namespace, "apps");
    assert_eq!(event.value.source.host, "n1");
    assert_eq!(world.events.len(), 3);
}

#[test]
fn cluster_scoped_objects_have_their_events_in_default() {
    let mut of_node = note("n1", "x", 1);
    of_node.involved.namespace.clear();
    assert_eq!(key_of(&of_node).0, "default");
}

#[test]
fn too_much_is_dropped_or_cut() {
    let mut pending = Pending::default();
    for i in 0..MAX_PENDING + 5 {
        pending.add(note(&i.to_string(), "x", 1));
    }
    assert_eq!(pending.events.len(), MAX_PENDING);
    let long = cut("ä".repeat(MAX_MESSAGE));
    assert!(long.len() <= MAX_MESSAGE + "…".len() && long.ends_with('…'));
}

#[test]
fn events_are_written_in_the_order_in_which_they_came() {
    let mut pending = Pending::default();
    let said = ["scheduled", "pulled", "created", "started", "failed"];
    for message in said {
        pending.add(note("a", message, 7));
    }
    // A repeat happened last.
    pending.add(note("a", "pulled", 7));
    let changes = pending.changes(&World::default());
    let order: Vec<usize> = changes
        .iter()
        .filter_map(|c| {
            let text = String::from_utf8_lossy(c.value.as_deref().unwrap_or_default()).into_owned();
            said.iter().position(|m| text.contains(m))
        })
        .collect();
    assert_eq!(order, [0, 2, 3, 4, 1]);
}
