//! When a standby takes over: pure. Called by `elector`, which tells it of each look at the store, of the stream to the
//! active coordinator and of a hand-over, and acts on its verdict; by the model in `tests/` too.
//!
//! Invariant: a holder counts as gone only by time in which the store answered us without a break and showed no beat
//! of it, so a store that is away makes nobody look gone. Safety rests on none of this: a term begins by
//! compare-and-swap, and acts once [`Former`] says that nobody reads under an older one.

use std::time::Duration;

use super::lease::Former;
use crate::store::{contest::Look, keys::TermRecord};

/// The stream to the active coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Link {
    /// Not tried yet, or not known.
    #[default]
    Unknown,
    Up,
    /// It was there and was reset.
    Reset,
    /// Nobody listens there.
    Refused,
    /// Nothing comes, and no end either.
    Silent,
}

/// What is known of the stream to the holder of `term`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heard {
    /// It says nothing about the holder of another term.
    pub term: u64,
    pub link: Link,
    /// Since when it is so; of a silent one: when it was last heard.
    pub since: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// A holder whose stream broke is gone after so long without a beat.
    pub gone: Duration,
    /// A silent holder is gone after so long without word and beat…
    pub silent: Duration,
    /// …if the store answered for so long of it.
    pub silent_answered: Duration,
    /// A holder is gone after so long without a beat, whatever its stream says.
    pub stale: Duration,
    /// A beat that is missing for longer is a sign of trouble.
    pub uneasy: Duration,
    /// Most of the time before it that one look can vouch for.
    pub vouch: Duration,
    /// Added to each, so that standbys do not all try at once.
    pub stagger: Duration,
}

/// Why a term began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nobody has ever led.
    First,
    /// The last term was begun by no coordinator (`init`, a restore).
    Unheld,
    /// The last term was an earlier process's of this name, or one of ours that we do not know the nonce of.
    OwnName,
    /// We gave it up by ourselves and nobody else took it.
    Again,
    /// The active one handed it over.
    HandedOver,
    /// Its stream broke and its beat stopped.
    Gone,
    /// It says nothing and its beat stopped.
    Silent,
    /// Its beat stopped.
    Stale,
}

impl Reason {
    /// For people and as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Unheld => "unheld",
            Self::OwnName => "own-name",
            Self::Again => "again",
            Self::HandedOver => "handed-over",
            Self::Gone => "gone",
            Self::Silent => "silent",
            Self::Stale => "stale",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Wait,
    TakeOver {
        over: Option<u64>,
        reason: Reason,
        former: Former,
    },
    /// Another process of our name took the term while we ran.
    Twin {
        term: u64,
        holder: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Detector {
    name: String,
    rules: Rules,
    seen: Option<Seen>,
    heard: Heard,
    /// The term of the first look: an earlier process of our name may hold that one, and no later one.
    at_start: Option<u64>,
    /// An attempt of ours whose outcome is unknown: a term of our name may be it.
    unresolved: bool,
    /// Nonce of a term that we gave up by ourselves, and whether we had acted under it.
    given_up: Option<(String, bool)>,
    handed: Option<u64>,
}

/// Term and beat as the store last showed them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seen {
    term: Option<Held>,
    beat: u64,
    /// When an answer first showed both. They are no younger, so what their writer sent is older.
    since: Duration,
    /// The last moment of which we know that they still stood.
    until: Duration,
    /// How long they stood while the store answered without a break.
    vouched: Duration,
    /// The last look failed, or it is from before something that we did.
    broken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    number: u64,
    coordinator: String,
    nonce: String,
    holder: String,
}

impl Held {
    fn new((number, record): (u64, TermRecord)) -> Self {
        Self {
            number,
            coordinator: record.coordinator,
            nonce: record.nonce,
            holder: record.holder,
        }
    }
}

impl Detector {
    pub fn new(name: &str, rules: Rules) -> Self {
        Self {
            name: name.to_owned(),
            rules,
            seen: None,
            heard: Heard::default(),
            at_start: None,
            unresolved: false,
            given_up: None,
            handed: None,
        }
    }

    /// Other rules from now on.
    #[cfg(test)]
    pub(super) fn follow(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// The store was asked and has answered.
    pub fn looked(&mut self, asked: Duration, answered: Duration, look: Look) {
        let term = look.term.map(Held::new);
        if let Some(seen) = &mut self.seen
            && (&seen.term, seen.beat) == (&term, look.beat)
        {
            if std::mem::take(&mut seen.broken) {
                // Nobody could beat while the store was away: the count begins anew, the age stays.
                seen.until = answered;
            } else {
                seen.vouched += asked.saturating_sub(seen.until).min(self.rules.vouch);
                seen.until = asked;
            }
            return;
        }
        if self.seen.is_none() {
            self.at_start = term.as_ref().map(|t| t.number);
        }
        if term.as_ref().is_some_and(|t| t.coordinator != self.name) {
            // It began over what ours would have begun over.
            self.unresolved &= self.number() == term.as_ref().map(|t| t.number);
        }
        self.seen = Some(Seen {
            term,
            beat: look.beat,
            since: answered,
            until: answered,
            vouched: Duration::ZERO,
            broken: false,
        });
    }

    /// The store was asked and did not answer, or what it showed is old: only the next look decides.
    pub fn failed(&mut self) {
        if let Some(seen) = &mut self.seen {
            seen.broken = true;
            seen.vouched = Duration::ZERO;
        }
    }

    pub fn heard(&mut self, heard: Heard) {
        self.heard = heard;
    }

    /// The holder of `term` hands it over to us.
    pub fn handed_over(&mut self, term: u64) {
        self.handed = Some(term);
    }

    /// Somebody else began a term: an attempt or a beat of ours was refused.
    pub fn lost(&mut self) {
        self.handed = None;
        self.failed();
    }

    /// Whether an attempt of ours began a term is unknown.
    pub fn unresolved(&mut self) {
        self.unresolved = true;
        self.lost();
    }

    /// We hold the term.
    pub fn won(&mut self) {
        self.unresolved = false;
        self.given_up = None;
        self.handed = None;
    }

    /// We hold the term with this nonce and do not act under it any more. `acted`: we did.
    pub fn given_up(&mut self, nonce: &str, acted: bool) {
        self.given_up = Some((nonce.to_owned(), acted));
        self.lost();
    }

    /// Number of the newest term seen.
    pub fn number(&self) -> Option<u64> {
        self.seen.as_ref()?.term.as_ref().map(|t| t.number)
    }

    /// Name of the coordinator that began the newest term seen.
    pub fn holder(&self) -> Option<&str> {
        let term = self.seen.as_ref()?.term.as_ref()?;
        Some(&term.coordinator)
    }

    pub fn verdict(&self, now: Duration) -> Verdict {
        if let Some(term) = self.handed
            && self.number().is_none_or(|seen| seen <= term)
        {
            return Verdict::TakeOver {
                over: Some(term),
                reason: Reason::HandedOver,
                former: Former::Released,
            };
        }
        let Some(seen) = self.seen.as_ref().filter(|s| !s.broken) else {
            return Verdict::Wait;
        };
        let held = Former::Held {
            beat: seen.beat,
            since: seen.since,
        };
        let take_over = |reason, former| Verdict::TakeOver {
            over: seen.term.as_ref().map(|t| t.number),
            reason,
            former,
        };
        let Some(term) = &seen.term else {
            return take_over(Reason::First, Former::Released);
        };
        if term.coordinator.is_empty() {
            return take_over(Reason::Unheld, held);
        }
        if term.coordinator != self.name {
            return self
                .gone(seen, term.number, now)
                .map_or(Verdict::Wait, |reason| take_over(reason, held));
        }
        match &self.given_up {
            Some((nonce, true)) if *nonce == term.nonce => take_over(Reason::Again, Former::Released),
            // We could not act under it: others get their turn, and would come too late if we were as quick as they.
            Some((nonce, false)) if *nonce == term.nonce => {
                if seen.vouched >= self.rules.stale * 2 {
                    take_over(Reason::Again, held)
                } else {
                    Verdict::Wait
                }
            }
            _ if self.unresolved || self.at_start == Some(term.number) => take_over(Reason::OwnName, held),
            _ => Verdict::Twin {
                term: term.number,
                holder: term.holder.clone(),
            },
        }
    }

    /// Why the holder of this term counts as gone, if it does.
    fn gone(&self, seen: &Seen, term: u64, now: Duration) -> Option<Reason> {
        let rules = &self.rules;
        let over = |time: Duration, limit: Duration| time >= limit + rules.stagger;
        match self.link(term) {
            Link::Reset | Link::Refused if over(seen.vouched, rules.gone) => Some(Reason::Gone),
            Link::Silent
                if over(now.saturating_sub(seen.since), rules.silent)
                    && now.saturating_sub(self.heard.since) >= rules.silent
                    && over(seen.vouched, rules.silent_answered) =>
            {
                Some(Reason::Silent)
            }
            _ if over(seen.vouched, rules.stale) => Some(Reason::Stale),
            _ => None,
        }
    }

    fn link(&self, term: u64) -> Link {
        if self.heard.term == term {
            self.heard.link
        } else {
            Link::Unknown
        }
    }

    /// How long after the last look began the next one is worth its while: `poll` in quiet, `quick` in trouble, and
    /// sooner where one more look can decide.
    pub fn pace(&self, poll: Duration, quick: Duration) -> Duration {
        let Some(seen) = self.seen.as_ref().filter(|s| !s.broken) else {
            return poll;
        };
        match self.link(self.number().unwrap_or(0)) {
            Link::Reset | Link::Refused => {
                let left = (self.rules.gone + self.rules.stagger).saturating_sub(seen.vouched);
                if left.is_zero() { quick } else { quick.min(left) }
            }
            Link::Silent => quick,
            Link::Unknown | Link::Up if seen.vouched >= self.rules.uneasy => quick,
            Link::Unknown | Link::Up => poll,
        }
    }
}

#[cfg(test)]
#[path = "detector_tests.rs"]
mod tests;
