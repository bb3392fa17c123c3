//! What a rolling update prints: the lines of kubectl's, step by step. Called by the command with each view.
//!
//! Invariant: pure; each line once, in order, however many steps a view brings; what was begun before the command came is
//! not told again, but for the step under way.

use proto::wire::{UpdateStep, UpdateView};

pub const UPDATED: &str = "Updated";
pub const ROLLED_BACK: &str = "RolledBack";
pub const ABANDONED: &str = "Abandoned";

/// From one view to the next.
#[derive(Debug)]
pub struct Lines {
    /// Number of the next step to be told of, from 0.
    next: u32,
    /// That one's first lines were told.
    begun: bool,
    /// Why it does not go on, as last told.
    why: Vec<String>,
    /// Why it was turned back was told.
    back: bool,
}

impl Lines {
    /// Of an update that has just begun.
    pub fn created(view: &UpdateView) -> (Self, Vec<String>) {
        let lines = Self {
            next: 0,
            begun: false,
            why: Vec::new(),
            back: false,
        };
        (lines, vec![format!("Creating {}", view.new)])
    }

    /// Of one that was there: told from the step under way on. `back`: it was turned back just now.
    pub fn resumed(view: &UpdateView, back: bool) -> (Self, Vec<String>) {
        let goes_on = if back { &view.old } else { &view.new };
        let said = vec![
            format!("Found existing update in progress ({}), resuming.", view.new),
            format!("Found desired replicas.Continuing update with existing controller {goes_on}."),
        ];
        (Self::watched(view), said)
    }

    /// Of one that is looked at.
    pub fn watched(view: &UpdateView) -> Self {
        let begun = view.steps_before + u32::try_from(view.steps.len()).unwrap_or(u32::MAX);
        let under_way = view.steps.last().is_some_and(|step| !step.done);
        Self {
            next: begun - u32::from(under_way),
            begun: false,
            why: Vec::new(),
            back: false,
        }
    }

    /// What is new in a view.
    pub fn to(&mut self, view: &UpdateView) -> Vec<String> {
        let mut lines = Vec::new();
        // Those that were forgotten before they were seen are not told.
        if self.next < view.steps_before {
            (self.next, self.begun) = (view.steps_before, false);
        }
        while let Some(step) = step(view, self.next) {
            let before = self.next.checked_sub(1).and_then(|n| self::step(view, n));
            let side = one_side(view, before, step);
            if !self.begun {
                self.begun = true;
                match &side {
                    Some(line) => lines.push(line.clone()),
                    None => {
                        lines.push(format!("At beginning of loop: {}", counts(view, step)));
                        lines.push(format!("Updating {}", counts(view, step)));
                    }
                }
            }
            if !step.done {
                return lines;
            }
            if side.is_none() {
                lines.push(format!("At end of loop: {}", counts(view, step)));
            }
            (self.next, self.begun) = (self.next + 1, false);
        }
        if view.ended_ms > 0 {
            lines.extend(end(view));
        }
        lines
    }

    /// What is to be said to people beside the lines: why it does not go on, when that changes, and why it came back.
    pub fn notes(&mut self, view: &UpdateView) -> Vec<String> {
        let told = std::mem::replace(&mut self.back, view.back);
        let back = (view.back && !told && !view.back_why.is_empty()).then(|| format!("turned back: {}", view.back_why));
        let mut notes: Vec<String> = back.into_iter().collect();
        if self.why != view.why {
            self.why.clone_from(&view.why);
            notes.extend(view.why.iter().cloned());
        }
        notes
            .into_iter()
            .map(|note| format!("update of {}: {note}", view.old))
            .collect()
    }
}

fn step(view: &UpdateView, number: u32) -> Option<&UpdateStep> {
    let at = number.checked_sub(view.steps_before)?;
    view.steps.get(usize::try_from(at).ok()?)
}

/// `web replicas: 2, web-v2 replicas: 1`; of one that is turned back, the other way round.
fn counts(view: &UpdateView, step: &UpdateStep) -> String {
    let (old, new) = (
        format!("{} replicas: {}", view.old, step.old),
        format!("{} replicas: {}", view.new, step.new),
    );
    if step.back {
        format!("{new}, {old}")
    } else {
        format!("{old}, {new}")
    }
}

/// A step that changes one side only: what is left of unequal counts.
fn one_side(view: &UpdateView, before: Option<&UpdateStep>, step: &UpdateStep) -> Option<String> {
    let before = before.filter(|b| b.back == step.back)?;
    let (comes, goes) = if step.back {
        ((&view.old, before.old, step.old), (&view.new, before.new, step.new))
    } else {
        ((&view.new, before.new, step.new), (&view.old, before.old, step.old))
    };
    match (comes, goes) {
        ((_, a, b), (name, from, to)) if a == b && to < from => {
            Some(format!("Stopping {name} replicas: {from} -> {to}"))
        }
        ((name, from, to), (_, a, b)) if a == b && to != from => {
            Some(format!("Scaling {name} replicas: {from} -> {to}"))
        }
        _ => None,
    }
}

fn end(view: &UpdateView) -> Vec<String> {
    let (old, new) = (&view.old, &view.new);
    match view.phase.as_str() {
        UPDATED if view.renames => vec![
            format!("Update succeeded. Deleting old controller: {old}"),
            format!("Renaming {new} to {old}"),
            old.clone(),
        ],
        UPDATED => vec![format!("Update succeeded. Deleting {old}"), new.clone()],
        ROLLED_BACK => vec![format!("Update succeeded. Deleting {new}"), old.clone()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(steps: &[(u32, u32, bool, bool)]) -> UpdateView {
        UpdateView {
            old: "redis-master".into(),
            new: "redis-master-v2".into(),
            phase: "Updating".into(),
            steps: steps
                .iter()
                .map(|&(old, new, back, done)| UpdateStep { old, new, back, done })
                .collect(),
            ..UpdateView::default()
        }
    }

    fn ended(mut view: UpdateView, phase: &str, renames: bool) -> UpdateView {
        view.phase = phase.into();
        view.ended_ms = 1;
        view.renames = renames;
        view
    }

    #[test]
    fn an_update_from_a_file_prints_what_the_book_prints() {
        let (mut lines, mut said) = Lines::created(&view(&[]));
        // Views as they may come: several steps at once, or none.
        for steps in [
            &[][..],
            &[(2, 1, false, false)],
            &[(2, 1, false, false)],
            &[(2, 1, false, true), (1, 2, false, true), (0, 3, false, false)],
        ] {
            said.extend(lines.to(&view(steps)));
        }
        let last = view(&[(2, 1, false, true), (1, 2, false, true), (0, 3, false, true)]);
        said.extend(lines.to(&ended(last, UPDATED, false)));
        assert_eq!(
            said.join("\n"),
            "Creating redis-master-v2
At beginning of loop: redis-master replicas: 2, redis-master-v2 replicas: 1
Updating redis-master replicas: 2, redis-master-v2 replicas: 1
At end of loop: redis-master replicas: 2, redis-master-v2 replicas: 1
At beginning of loop: redis-master replicas: 1, redis-master-v2 replicas: 2
Updating redis-master replicas: 1, redis-master-v2 replicas: 2
At end of loop: redis-master replicas: 1, redis-master-v2 replicas: 2
At beginning of loop: redis-master replicas: 0, redis-master-v2 replicas: 3
Updating redis-master replicas: 0, redis-master-v2 replicas: 3
At end of loop: redis-master replicas: 0, redis-master-v2 replicas: 3
Update succeeded. Deleting redis-master
redis-master-v2"
        );
    }

    #[test]
    fn one_by_image_ends_with_its_old_name() {
        let (mut lines, _) = Lines::created(&view(&[]));
        let said = lines.to(&ended(view(&[(0, 1, false, true)]), UPDATED, true));
        assert_eq!(
            said[3..].join("\n"),
            "Update succeeded. Deleting old controller: redis-master
Renaming redis-master-v2 to redis-master
redis-master"
        );
    }

    #[test]
    fn unequal_counts_end_in_a_line_of_their_own() {
        for (last, line) in [
            ((0, 5, false, true), "Scaling redis-master-v2 replicas: 3 -> 5"),
            ((0, 2, false, true), "Scaling redis-master-v2 replicas: 3 -> 2"),
        ] {
            let (mut lines, _) = Lines::created(&view(&[]));
            let said = lines.to(&view(&[(0, 3, false, true), last]));
            assert_eq!(said[3..], [line]);
        }
        let (mut lines, _) = Lines::created(&view(&[]));
        let said = lines.to(&view(&[(2, 3, false, true), (0, 3, false, true)]));
        assert_eq!(said[3..], ["Stopping redis-master replicas: 2 -> 0"]);
    }

    #[test]
    fn one_that_is_turned_back_says_it_the_other_way_round() {
        let before = view(&[(2, 1, false, true), (1, 2, false, true)]);
        let (mut lines, mut said) = Lines::resumed(&before, true);
        let steps = [
            (2, 1, false, true),
            (1, 2, false, true),
            (2, 1, true, true),
            (3, 0, true, true),
        ];
        said.extend(lines.to(&ended(view(&steps), ROLLED_BACK, true)));
        assert_eq!(
            said.join("\n"),
            "Found existing update in progress (redis-master-v2), resuming.
Found desired replicas.Continuing update with existing controller redis-master.
At beginning of loop: redis-master-v2 replicas: 1, redis-master replicas: 2
Updating redis-master-v2 replicas: 1, redis-master replicas: 2
At end of loop: redis-master-v2 replicas: 1, redis-master replicas: 2
At beginning of loop: redis-master-v2 replicas: 0, redis-master replicas: 3
Updating redis-master-v2 replicas: 0, redis-master replicas: 3
At end of loop: redis-master-v2 replicas: 0, redis-master replicas: 3
Update succeeded. Deleting redis-master-v2
redis-master"
        );
    }

    #[test]
    fn who_comes_later_hears_of_the_step_under_way_and_of_nothing_before() {
        let there = view(&[(2, 1, false, true), (1, 2, false, false)]);
        let (mut lines, said) = Lines::resumed(&there, false);
        assert!(said[1].ends_with("existing controller redis-master-v2."), "{said:?}");
        assert_eq!(lines.to(&there).len(), 2);
        assert_eq!(lines.to(&there).len(), 0);
        // Steps that were forgotten meanwhile.
        let mut later = view(&[(8, 92, false, false)]);
        later.steps_before = 91;
        assert_eq!(
            lines.to(&later)[0],
            "At beginning of loop: redis-master replicas: 8, redis-master-v2 replicas: 92"
        );
    }

    #[test]
    fn a_reason_is_told_when_it_changes() {
        let mut lines = Lines::watched(&view(&[]));
        let mut blocked = view(&[]);
        blocked.why = vec!["no room".into()];
        assert_eq!(lines.notes(&blocked), ["update of redis-master: no room"]);
        assert!(lines.notes(&blocked).is_empty());
        assert!(lines.notes(&view(&[])).is_empty());
        assert_eq!(lines.notes(&blocked).len(), 1);
    }
}
