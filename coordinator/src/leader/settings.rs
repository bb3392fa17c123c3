//! The times of a leadership, each a setting. Read by `elector` and `leadership`.
//!
//! Invariant: [`Settings::check`] refuses what could not work; what would only be slow passes.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use super::{detector::Rules, lease::Limits};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The active one beats so often.
    pub beat: Duration,
    /// A standby looks at the store so often…
    pub poll: Duration,
    /// …and so often once there is a sign of trouble.
    pub poll_quick: Duration,
    /// See [`Rules`].
    pub gone: Duration,
    pub silent: Duration,
    pub silent_answered: Duration,
    pub stale: Duration,
    /// Most that is added to these on one standby; how much follows from its name.
    pub stagger: Duration,
    /// See [`Limits`].
    pub demote: Duration,
    pub read_lease: Duration,
    pub read_margin: Duration,
    /// A look that takes longer counts as failed.
    pub look: Duration,
    /// An attempt to begin a term that takes longer counts as failed, its outcome as unknown.
    pub attempt: Duration,
    /// So long the active one waits for commits in flight before it hands over, and for its successor after that.
    pub hand_over: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            beat: ms(100),
            poll: ms(100),
            poll_quick: ms(25),
            gone: ms(200),
            silent: ms(1000),
            silent_answered: ms(600),
            stale: ms(1500),
            stagger: ms(20),
            demote: ms(1000),
            read_lease: ms(200),
            read_margin: ms(20),
            look: ms(500),
            attempt: ms(1000),
            hand_over: ms(1000),
        }
    }
}

impl Settings {
    pub fn rules(&self, name: &str) -> Rules {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        // One of four steps is apart enough: what they race for is decided by the store.
        let step = u32::try_from(hasher.finish() % 4).unwrap_or(0);
        Rules {
            gone: self.gone,
            silent: self.silent,
            silent_answered: self.silent_answered,
            stale: self.stale,
            uneasy: self.beat.max(self.poll) * 3 / 2,
            vouch: self.poll * 3 / 2,
            stagger: self.stagger * step / 3,
        }
    }

    pub fn limits(&self) -> Limits {
        Limits {
            read: self.read_lease,
            margin: self.read_margin,
            demote: self.demote,
        }
    }

    /// What cannot work, as `option: why and what would`.
    pub fn check(&self) -> Result<(), String> {
        let ms = |d: Duration| d.as_millis();
        let all = [
            ("beat", self.beat),
            ("poll", self.poll),
            ("poll-quick", self.poll_quick),
            ("look", self.look),
            ("attempt", self.attempt),
            ("hand-over", self.hand_over),
        ];
        if let Some((name, _)) = all.iter().find(|(_, d)| d.is_zero()) {
            return Err(format!("{name} is 0 ms; give at least 1"));
        }
        let pairs = [
            // A beat that is on time must not look late.
            ("gone", self.gone, "beat", self.beat),
            ("stale", self.stale, "gone", self.gone),
            ("silent", self.silent, "gone", self.gone),
            ("demote", self.demote, "beat", self.beat),
            ("demote", self.demote, "read-lease", self.read_lease),
            ("read-lease", self.read_lease, "read-margin", self.read_margin),
        ];
        for (more, a, less, b) in pairs {
            if a <= b {
                return Err(format!("{more} ({} ms) must be more than {less} ({} ms)", ms(a), ms(b)));
            }
        }
        if self.poll_quick > self.poll {
            return Err(format!(
                "poll-quick ({} ms) must not be more than poll ({} ms)",
                ms(self.poll_quick),
                ms(self.poll)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_what_cannot_is_named() {
        assert_eq!(Settings::default().check(), Ok(()));
        let ms = Duration::from_millis;
        type Spoil = fn(&mut Settings);
        let table: [(Spoil, &str); 7] = [
            (|s| s.beat = Duration::ZERO, "beat is 0 ms"),
            (|s| s.gone = s.beat, "gone (100 ms) must be more than beat (100 ms)"),
            (|s| s.stale = s.gone, "stale (200 ms) must be more than gone"),
            (|s| s.silent = s.beat, "silent (100 ms) must be more than gone"),
            (
                |s| s.demote = s.read_lease,
                "demote (200 ms) must be more than read-lease",
            ),
            (
                |s| s.read_margin = s.read_lease,
                "read-lease (200 ms) must be more than read-margin",
            ),
            (
                |s| s.poll_quick = s.poll * 2,
                "poll-quick (200 ms) must not be more than poll",
            ),
        ];
        for (spoil, expected) in table {
            let mut settings = Settings::default();
            spoil(&mut settings);
            let refused = settings.check().unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
        // Where a test wants all of it quick.
        let quick = Settings {
            beat: ms(10),
            gone: ms(20),
            ..Settings::default()
        };
        assert_eq!(quick.check(), Ok(()));
    }

    #[test]
    fn the_stagger_follows_from_the_name_and_stays_within_its_bound() {
        let settings = Settings::default();
        let of = |name: &str| settings.rules(name).stagger;
        assert_eq!(of("ha1"), of("ha1"));
        let all: Vec<_> = (0..50).map(|i| of(&format!("ha{i}"))).collect();
        assert!(all.iter().all(|s| *s <= settings.stagger));
        assert!(all.iter().any(|s| *s != all[0]), "all the same: {all:?}");
    }
}
