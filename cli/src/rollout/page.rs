//! An update on a line and as an object, and a history as a table. Called by the command.
//!
//! Invariant: pure; ages are by the coordinator's clock.

use proto::{
    model::Time,
    wire::{UpdateRevision, UpdateView},
};
use serde_json::{Value, json};

use super::lines;
use crate::{age, output::clean, table};

/// `web → web-v2: updating, step 2 of 3, 2 + 1 replicas, 3 of 3 available`.
pub fn line(view: &UpdateView) -> String {
    let (old, new) = (view.old_side.unwrap_or_default(), view.new_side.unwrap_or_default());
    let names = format!("{} → {}", view.old, view.new);
    let ended = match view.phase.as_str() {
        lines::UPDATED if view.renames => Some(format!("{} was updated", view.old)),
        lines::UPDATED => Some(format!("{} was replaced by {}", view.old, view.new)),
        lines::ROLLED_BACK => Some(format!("{} was rolled back", view.old)),
        lines::ABANDONED => Some(format!("the update of {} was given up", view.old)),
        _ => None,
    };
    if let Some(ended) = ended {
        let took = view.ended_ms.saturating_sub(view.since_ms) / 1000;
        return clean(&format!("{ended} in {}", age::duration(took)));
    }
    let at = view.steps_before + u32::try_from(view.steps.len()).unwrap_or(u32::MAX);
    let phase = match view.phase.as_str() {
        "RollingBack" => "rolling back".to_owned(),
        other => other.to_lowercase(),
    };
    let why = if view.why.is_empty() {
        String::new()
    } else {
        format!(": {}", view.why.join("; "))
    };
    clean(&format!(
        "{names}: {phase}, step {at} of {}, {} + {} replicas, {} of {} available{why}",
        view.steps_in_all.max(at),
        old.replicas,
        new.replicas,
        old.available + new.available,
        view.target
    ))
}

/// For programs.
pub fn object(view: &UpdateView) -> Value {
    let time = |ms: u64| (ms > 0).then(|| Time::from_millis(ms).to_string());
    let side = |side: Option<proto::wire::UpdateSide>| {
        let side = side.unwrap_or_default();
        json!({"replicas": side.replicas, "available": side.available})
    };
    let steps: Vec<Value> = view
        .steps
        .iter()
        .map(|s| json!({"old": s.old, "new": s.new, "back": s.back, "done": s.done}))
        .collect();
    json!({
        "namespace": view.namespace, "old": view.old, "new": view.new, "id": view.id, "phase": view.phase,
        "by": view.by, "cause": view.cause, "since": time(view.since_ms), "ended": time(view.ended_ms),
        "renames": view.renames, "target": view.target, "stepsBefore": view.steps_before, "steps": steps,
        "stepsInAll": view.steps_in_all, "oldSide": side(view.old_side), "newSide": side(view.new_side),
        "paused": view.paused, "failed": view.failed, "why": view.why, "back": view.back, "backWhy": view.back_why,
    })
}

pub fn history(revisions: &[UpdateRevision], now: Time) -> String {
    let rows: Vec<Vec<String>> = revisions
        .iter()
        .map(|r| {
            let or = |text: &str, none: &str| if text.is_empty() { none } else { text }.to_owned();
            let at = i64::try_from(r.at_ms / 1000).unwrap_or_default();
            vec![
                r.number.to_string(),
                r.name.clone(),
                r.images.join(","),
                age::duration(now.since(Time(at))),
                or(r.by.strip_prefix("user/").unwrap_or(&r.by), "-"),
                or(&r.cause, "<none>"),
            ]
        })
        .collect();
    table::table(&["REVISION", "NAME", "IMAGES", "AGE", "BY", "CHANGE-CAUSE"], &rows)
}

/// For programs.
pub fn revisions(revisions: &[UpdateRevision]) -> Value {
    let all = revisions.iter().map(|r| {
        json!({"revision": r.number, "name": r.name, "images": r.images, "by": r.by, "cause": r.cause,
               "at": Time::from_millis(r.at_ms).to_string()})
    });
    json!({"revisions": all.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use proto::wire::{UpdateSide, UpdateStep};

    use super::*;

    fn view() -> UpdateView {
        UpdateView {
            old: "web".into(),
            new: "web-v2".into(),
            phase: "Updating".into(),
            since_ms: 1_000_000,
            target: 3,
            steps: vec![UpdateStep::default(); 2],
            steps_in_all: 3,
            old_side: Some(UpdateSide {
                replicas: 2,
                available: 2,
            }),
            new_side: Some(UpdateSide {
                replicas: 2,
                available: 1,
            }),
            ..UpdateView::default()
        }
    }

    #[test]
    fn an_update_on_a_line() {
        let of = |change: fn(&mut UpdateView)| {
            let mut view = view();
            change(&mut view);
            line(&view)
        };
        for (change, words) in [
            (
                (|_| {}) as fn(&mut UpdateView),
                "web → web-v2: updating, step 2 of 3, 2 + 2 replicas, 3 of 3 available",
            ),
            (
                |v| {
                    v.phase = "Blocked".into();
                    v.why = vec!["no room".into()];
                },
                "web → web-v2: blocked, step 2 of 3, 2 + 2 replicas, 3 of 3 available: no room",
            ),
            (
                |v| (v.phase, v.ended_ms) = ("Updated".into(), 1_012_000),
                "web was replaced by web-v2 in 12s",
            ),
            (
                |v| (v.phase, v.ended_ms, v.renames) = ("Updated".into(), 1_012_000, true),
                "web was updated in 12s",
            ),
            (
                |v| (v.phase, v.ended_ms) = ("RolledBack".into(), 1_190_000),
                "web was rolled back in 3m10s",
            ),
        ] {
            assert_eq!(of(change), words);
        }
    }

    #[test]
    fn a_history_is_a_table() {
        let revision = |number, cause: &str, by: &str| UpdateRevision {
            number,
            name: "web".into(),
            cause: cause.into(),
            by: by.into(),
            at_ms: 1_000_000,
            images: vec![format!("web:{number}")],
            controller: Vec::new(),
        };
        let text = history(
            &[
                revision(1, "", ""),
                revision(2, "rolling-update web --image=web:2", "user/admin"),
            ],
            Time(1060),
        );
        assert_eq!(
            text,
            "REVISION   NAME   IMAGES   AGE   BY      CHANGE-CAUSE
1          web    web:1    60s   -       <none>
2          web    web:2    60s   admin   rolling-update web --image=web:2
"
        );
    }
}
