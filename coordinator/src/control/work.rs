//! What the driver has to do and when: dirty groups, groups on hold after a fault, groups to wake. Owned by
//! `driver`; the time is an argument.
//!
//! Invariant: a group on hold is not lost: it stays dirty until its hold ends.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::plan::{Group, dirty::Dirty};

#[derive(Debug, Default)]
pub struct Work {
    pub dirty: Dirty,
    /// How long things are kept may be another now: what has expired is looked for at once.
    pub expire: bool,
    held: HashMap<Group, Hold>,
    wakes: BTreeMap<Group, Instant>,
}

#[derive(Debug)]
struct Hold {
    until: Instant,
    /// The last pause of a parked group; zero for a hold without a fault of ours.
    parked: Duration,
}

impl Work {
    /// Up to `most` groups that may be planned now; they are no longer dirty.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<Group> {
        let due: Vec<Group> = self
            .wakes
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(g, _)| g.clone())
            .collect();
        for group in due {
            self.wakes.remove(&group);
            self.dirty.groups.insert(group);
        }
        let free = |group: &&Group| self.held.get(*group).is_none_or(|h| h.until <= now);
        let taken: Vec<Group> = self.dirty.groups.iter().filter(free).take(most).cloned().collect();
        for group in &taken {
            self.dirty.groups.remove(group);
        }
        taken
    }

    /// The next moment at which [`Work::take`] may give more without an update.
    pub fn next(&self) -> Option<Instant> {
        let held = self
            .dirty
            .groups
            .iter()
            .filter_map(|g| self.held.get(g).map(|h| h.until));
        self.wakes.values().copied().chain(held).min()
    }

    /// Plans the group again, not before `pause` has passed.
    pub fn retry(&mut self, group: Group, now: Instant, pause: Duration) {
        let parked = self.held.get(&group).map(|h| h.parked).unwrap_or_default();
        let until = now + pause;
        self.held.insert(group.clone(), Hold { until, parked });
        self.dirty.groups.insert(group);
    }

    /// Plans the group again after a pause that doubles with every fault in a row. Returns the pause.
    pub fn park(&mut self, group: Group, now: Instant, first: Duration, most: Duration) -> Duration {
        let last = self.held.get(&group).map(|h| h.parked).unwrap_or_default();
        let parked = (last * 2).clamp(first, most.max(first));
        let until = now + parked;
        self.held.insert(group.clone(), Hold { until, parked });
        self.dirty.groups.insert(group);
        parked
    }

    /// The group was planned without a fault.
    pub fn well(&mut self, group: &Group) {
        self.held.remove(group);
    }

    pub fn wake(&mut self, group: Group, at: Instant) {
        self.wakes.insert(group, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(10);
    const MOST: Duration = Duration::from_millis(35);

    fn group(name: &str) -> Group {
        Group::Namespace(name.to_owned())
    }

    #[test]
    fn a_parked_group_waits_longer_each_time_and_others_go_on() {
        let start = Instant::now();
        let mut work = Work::default();
        let pauses: Vec<u64> = (0..4)
            .map(|_| {
                let pause = work.park(group("a"), start, FIRST, MOST);
                u64::try_from(pause.as_millis()).unwrap()
            })
            .collect();
        assert_eq!(pauses, [10, 20, 35, 35]);
        work.dirty.groups.insert(group("b"));
        assert_eq!(work.take(start, 8), [group("b")]);
        assert_eq!(work.next(), Some(start + MOST));
        assert_eq!(work.take(start + MOST, 8), [group("a")]);
        work.well(&group("a"));
        assert_eq!(work.park(group("a"), start, FIRST, MOST), FIRST);
    }

    #[test]
    fn a_retry_keeps_the_group_and_a_wake_brings_it_back() {
        let start = Instant::now();
        let mut work = Work::default();
        work.retry(group("a"), start, FIRST);
        assert!(work.take(start, 8).is_empty());
        assert_eq!(work.take(start + FIRST, 8), [group("a")]);
        assert_eq!(work.next(), None);
        work.wake(group("a"), start + MOST);
        assert_eq!(work.next(), Some(start + MOST));
        assert!(work.take(start, 8).is_empty());
        assert_eq!(work.take(start + MOST, 8), [group("a")]);
    }

    #[test]
    fn takes_no_more_than_asked() {
        let mut work = Work::default();
        work.dirty.groups.extend([group("a"), group("b"), group("c")]);
        let now = Instant::now();
        assert_eq!(work.take(now, 2).len(), 2);
        assert_eq!(work.take(now, 2), [group("c")]);
    }
}
