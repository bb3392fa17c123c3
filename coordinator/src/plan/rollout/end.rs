//! The end of an update: which controller goes, under which name the other one stays, and what its revisions are then.
//! Called by the module above.
//!
//! Invariant: pure; all of it is one commit, so that of two controllers there is at no time none.

use proto::model::{EventType, Kind, ReplicationController, Time};
use serde_json::json;

use super::{Work, note};
use crate::{
    ca::audit::{AuditRecord, COORDINATOR},
    plan::{Draft, change::Change},
    world::{
        ControllerState, Key,
        record::OwnerKind,
        updates::{UpdateEnd, UpdateOutcome, UpdateRecord},
    },
};

/// The controller whose pods are gone goes, and in its place comes the other one where that was asked for.
pub(super) fn finish(work: &Work<'_>, out: &mut Draft) {
    let (old, new) = (work.update.old, work.update.new);
    let before = &work.update.record;
    let how = if work.record.back {
        UpdateOutcome::RolledBack
    } else {
        UpdateOutcome::Updated
    };
    let record = UpdateRecord {
        ended: Some(UpdateEnd { at: out.now, how }),
        ..work.to_write()
    };
    let mut changes = vec![Change::SetUpdate {
        key: work.update.key.clone(),
        rv: before.rv,
        record: record.clone(),
    }];
    let (verb, reason, words) = if work.record.back {
        changes.push(remove(new));
        let words = format!("{} was turned back: {} is as it was", new.0.1, old.0.1);
        ("rolled-back", "RolledBack", words)
    } else {
        let words = replace(work, &record, &mut changes, out.now);
        ("updated", "Updated", words)
    };
    let at_ms = u64::try_from(out.now.0).unwrap_or_default().saturating_mul(1000);
    let (namespace, name) = work.update.key;
    let object = format!("{}/{namespace}/{name}", Kind::ReplicationController.plural());
    let audit = AuditRecord::new(at_ms, COORDINATOR, verb, object, format!("update {}", record.id))
        .because(words.clone())
        .about(Some(json!(&*before.value)), Some(json!(&record)));
    changes.push(Change::Record(audit));
    // Under the name that stays.
    out.of_controller(old.0, &old.1.rc.metadata.uid);
    out.push_together(changes);
    out.note(note(old, EventType::Normal, reason, words, out.now));
}

/// The new one stays, under its own name or the old one's; in words.
fn replace(work: &Work<'_>, record: &UpdateRecord, changes: &mut Vec<Change>, now: Time) -> String {
    let (old, new) = (work.update.old, work.update.new);
    let key = if record.renames { old.0 } else { new.0 };
    let mut named = (*new.1.rc).clone();
    named.metadata.name.clone_from(&key.1);
    revisions(work, record, key, &named, changes, now);
    if !record.renames {
        changes.push(remove(old));
        return format!("{} was replaced by {}", old.0.1, new.0.1);
    }
    changes.push(Change::Rename {
        from: new.0.clone(),
        from_rv: new.1.rv,
        to: old.0.clone(),
        to_rv: old.1.rv,
        controller: named,
    });
    format!("{} was replaced by {}, which has its name now", old.0.1, new.0.1)
}

/// What the controller is now goes to the revisions of its name, with what is known of those before.
fn revisions(
    work: &Work<'_>,
    record: &UpdateRecord,
    key: &Key,
    now: &ReplicationController,
    changes: &mut Vec<Change>,
    at: Time,
) {
    let old = work.update.old;
    let known = work.world.revisions.get(old.0);
    let mut past = work.world.revisions_of(old.0, &old.1.rc);
    // Its template may have been changed without an update.
    past.is_now(&old.1.rc, record.from);
    let next = past.and(at, &record.by, &record.cause, now);
    if key != old.0
        && let Some(known) = known
    {
        changes.push(Change::RemoveRevisions {
            key: old.0.clone(),
            rv: known.rv,
        });
    }
    changes.push(Change::SetRevisions {
        key: key.clone(),
        before: work.world.revisions.get(key).map(|r| r.rv),
        record: next,
    });
}

fn remove((key, state): (&Key, &ControllerState)) -> Change {
    Change::RemoveController {
        kind: OwnerKind::ReplicationController,
        key: key.clone(),
        rv: state.rv,
    }
}
