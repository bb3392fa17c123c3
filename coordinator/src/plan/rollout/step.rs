//! What the next step of an update leads to. Pure arithmetic over counts; called by the module above.
//!
//! Invariant: a step moves at least one pod, no step moves the same pod back, and the last one leaves the side that goes
//! without pods and the side that comes with as many as are wanted.

use crate::world::updates::{StepRecord, UpdateRecord};

/// Counts of both sides: of the one that comes, and of the one that goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub comes: u32,
    pub goes: u32,
}

impl Counts {
    /// What a step on record leads to.
    pub fn of(step: &StepRecord) -> Self {
        let (comes, goes) = if step.back {
            (step.old, step.new)
        } else {
            (step.new, step.old)
        };
        Self { comes, goes }
    }

    /// The step that leads to these.
    pub fn step(self, back: bool) -> StepRecord {
        let (old, new) = if back {
            (self.comes, self.goes)
        } else {
            (self.goes, self.comes)
        };
        StepRecord {
            old,
            new,
            back,
            done: None,
        }
    }
}

/// As many as the side that comes has in the end.
pub fn goal(update: &UpdateRecord) -> u32 {
    if update.back { update.from } else { update.target }
}

/// As many new pods as are tried before it pauses, where that was asked for and is still to come.
pub fn trial(update: &UpdateRecord) -> Option<u32> {
    let after = update.limits.pause_after.filter(|_| !update.back && !update.tried)?;
    let goal = i64::from(goal(update));
    u32::try_from(after.of(goal).clamp(0, goal)).ok()
}

/// Pods that one step moves.
pub fn size(update: &UpdateRecord) -> u32 {
    let size = update.surge() + update.missed();
    u32::try_from(size.max(1)).unwrap_or(u32::MAX)
}

/// What the step after these counts leads to; none: all is as wanted. Where both sides together are fewer than wanted, for
/// more were asked for meanwhile, those come first. Then, as long as both sides change, by steps of one size; what one
/// side has left is one step.
pub fn next(update: &UpdateRecord, now: Counts) -> Option<Counts> {
    let (goal, size) = (goal(update), self::size(update));
    let end = Counts { comes: goal, goes: 0 };
    if now == end {
        return None;
    }
    let lacking = update
        .from
        .min(update.target)
        .saturating_sub(now.comes.saturating_add(now.goes));
    if lacking > 0 && now.goes > 0 && now.comes < goal {
        let comes = now.comes.saturating_add(lacking).min(goal);
        return Some(Counts { comes, ..now });
    }
    if now.comes >= goal || now.goes == 0 {
        return Some(end);
    }
    // No more than are to be tried.
    let trial = trial(update).map_or(u32::MAX, |trial| trial.saturating_sub(now.comes));
    let size = if trial == 0 { size } else { size.min(trial) };
    let comes = now.comes.saturating_add(size).min(goal);
    // Where fewer were asked for meanwhile there is no room for what comes until enough have gone.
    let room = u32::try_from(update.ceiling())
        .unwrap_or(u32::MAX)
        .saturating_sub(comes);
    let goes = now.goes.saturating_sub(size).min(room);
    Some(Counts { comes, goes })
}

/// Steps from these counts to the end.
pub fn left(update: &UpdateRecord, mut now: Counts) -> u32 {
    let mut steps = 0;
    while let Some(next) = next(update, now) {
        now = next;
        steps += 1;
    }
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::model::{IntOrPercent, Time};

    use super::*;
    use crate::world::updates::UpdateLimits;

    fn update(from: u32, target: u32, surge: i32, missed: i32) -> UpdateRecord {
        UpdateRecord {
            id: String::new(),
            by: String::new(),
            cause: String::new(),
            since: Time::default(),
            old: "o".into(),
            new: "n".into(),
            new_name: "new".into(),
            renames: false,
            from,
            target,
            limits: UpdateLimits {
                max_surge: IntOrPercent::Int(surge),
                max_unavailable: IntOrPercent::Int(missed),
                ..UpdateLimits::default()
            },
            back: false,
            back_why: String::new(),
            paused: None,
            tried: false,
            steps: Vec::new(),
            before: 0,
            progressed: Time::default(),
            held: None,
            ended: None,
        }
    }

    fn all(update: &UpdateRecord, from: Counts) -> Vec<(u32, u32)> {
        let mut steps = Vec::new();
        let mut now = from;
        while let Some(next) = next(update, now) {
            steps.push((next.goes, next.comes));
            now = next;
        }
        assert_eq!(left(update, from) as usize, steps.len());
        steps
    }

    #[test]
    fn steps_are_those_of_the_book() {
        let start = |goes| Counts { comes: 0, goes };
        assert_eq!(all(&update(3, 3, 1, 0), start(3)), [(2, 1), (1, 2), (0, 3)]);
        // Unequal counts: what is left of one side is one step.
        assert_eq!(all(&update(3, 5, 1, 0), start(3)), [(2, 1), (1, 2), (0, 3), (0, 5)]);
        assert_eq!(all(&update(5, 3, 1, 0), start(5)), [(4, 1), (3, 2), (2, 3), (0, 3)]);
        assert_eq!(all(&update(5, 5, 2, 0), start(5)), [(3, 2), (1, 4), (0, 5)]);
        assert_eq!(all(&update(4, 4, 1, 1), start(4)), [(2, 2), (0, 4)]);
        // Nothing above, nothing missed: one above.
        assert_eq!(all(&update(2, 2, 0, 0), start(2)), [(1, 1), (0, 2)]);
        // Scaled up meanwhile, from 3 to 6.
        let scaled = Counts { comes: 1, goes: 2 };
        assert_eq!(all(&update(6, 6, 1, 0), scaled), [(2, 4), (1, 5), (0, 6)]);
        // And down, from 6 to 1.
        assert_eq!(all(&update(1, 1, 1, 0), start(6)), [(1, 1), (0, 1)]);
        assert_eq!(all(&update(0, 0, 1, 0), start(0)), []);
        assert_eq!(all(&update(0, 2, 1, 0), start(0)), [(0, 2)]);
        let back = UpdateRecord {
            back: true,
            ..update(3, 3, 1, 0)
        };
        // The old ones come again.
        assert_eq!(all(&back, Counts { comes: 1, goes: 2 }), [(1, 2), (0, 3)]);
        assert_eq!(all(&back, Counts { comes: 3, goes: 0 }), []);
    }

    proptest! {
        #[test]
        fn every_update_ends(from in 0..200u32, target in 0..200u32, surge in 0..20i32, missed in 0..20i32,
                             comes in 0..250u32, goes in 0..250u32, back in any::<bool>()) {
            let update = UpdateRecord { back, ..update(from, target, surge, missed) };
            let steps = all(&update, Counts { comes, goes });
            let end = (0, goal(&update));
            prop_assert_eq!(steps.last().copied().unwrap_or((goes, comes)), end);
            let mut before = goes;
            for (goes, _) in &steps {
                prop_assert!(*goes <= before);
                before = *goes;
            }
        }
    }
}
