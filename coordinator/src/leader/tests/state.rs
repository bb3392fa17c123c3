//! What the model of the takeover protocol consists of: the store, the coordinators, what is under way between them.
//!
//! Invariant: all that can differ between two runs is in [`State`], and nothing else is.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use crate::{
    leader::{
        detector::{Detector, Rules, Verdict},
        lease::{Former, Lease, Limits},
    },
    store::{contest::Look, keys::TermRecord},
};

/// The active one and two standbys.
pub const COORDINATORS: usize = 3;

/// What each calls itself, and what it calls the others. A detector only asks whether a name is its own, so that two
/// coordinators of which only the places differ are the same.
const OWN: &str = "own";
const OTHER: &str = "other";

pub const LIMITS: Limits = Limits {
    read: ticks(3),
    margin: ticks(1),
    demote: ticks(4),
};

/// Whoever has seen a term may take it over.
pub const RULES: Rules = Rules {
    gone: ticks(0),
    silent: ticks(0),
    silent_answered: ticks(0),
    stale: ticks(0),
    uneasy: ticks(1),
    vouch: ticks(0),
    stagger: ticks(0),
};

/// For what is to come to rest: as in the product, nobody is missed sooner than a new term may have to wait.
pub const PATIENT: Rules = Rules {
    gone: ticks(8),
    silent: ticks(8),
    silent_answered: ticks(8),
    stale: ticks(8),
    vouch: ticks(1),
    ..RULES
};

pub const fn ticks(n: u8) -> Duration {
    Duration::from_millis(n as u64)
}

/// What is wrong with the protocol on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A term begins without a look at the one that it ends.
    NoCompare,
    /// A lease is used to its last moment.
    NoMargin,
    /// A new term acts at once.
    NoWait,
    /// What was seen before the term began counts as the last beat.
    NoLookAfter,
    /// The fence is set before the world includes the term.
    EarlyFence,
    /// Who hands over reads on.
    ReadsOn,
    /// Who failed to hand over goes on under the same term.
    SameTermAgain,
    /// Leases count from the acknowledgement of a beat.
    CountsFromAnswer,
}

/// How far it goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub time: u8,
    pub terms: u8,
    pub beats: u8,
    pub writes: u8,
    /// Messages that are late or come twice.
    pub late: u8,
    pub lost: u8,
    pub crashes: u8,
    pub hand_overs: u8,
    /// In how many ways the slow clock may stand at the beginning.
    pub phases: u8,
    /// How many steps.
    pub steps: usize,
}

#[derive(Clone, Debug)]
pub struct Protocol {
    pub fault: Option<Fault>,
    pub bounds: Bounds,
    /// Whether it is looked into that somebody leads again, which takes long.
    pub settles: bool,
}

/// What the store has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kept {
    pub term: u8,
    pub holder: usize,
    pub beat: u8,
    /// How many writes were applied. Each is acknowledged at once: nobody could hear of it sooner.
    pub version: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Standby,
    /// Its attempt is under way.
    Trying {
        over: u8,
        former: Former,
    },
    /// Its term has begun.
    Begun {
        former: Former,
        sent: Duration,
        answered: Duration,
        last: Option<Option<u8>>,
    },
    Active,
    HandingOver,
}

/// What a coordinator asked of the store; one question at a time. Of a look it does not matter when it was asked, only
/// what the store had when it answered: the detector here counts nothing from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    Looked {
        kept: Kept,
    },
    TakeOver {
        over: u8,
        sent: Duration,
    },
    /// `Some`: that term has begun.
    TookOver {
        sent: Duration,
        term: Option<u8>,
    },
    Beat {
        sent: Duration,
    },
    Beaten {
        sent: Duration,
        fenced: bool,
    },
}

/// What the store may get long after its sender gave it up, or for the second time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Late {
    TakeOver { by: usize, over: u8 },
    Beat { term: u8 },
    Write { by: usize, term: u8 },
}

/// A detector that states share until it changes, and whose hash is taken once.
#[derive(Clone, Debug)]
pub struct Watcher(Arc<(u64, Detector)>);

impl Watcher {
    pub fn new() -> Self {
        Self::of(Detector::new(OWN, RULES))
    }

    fn of(detector: Detector) -> Self {
        // This one has fixed keys.
        let mut hasher = DefaultHasher::new();
        detector.hash(&mut hasher);
        Self(Arc::new((hasher.finish(), detector)))
    }

    pub fn change(&mut self, change: impl FnOnce(&mut Detector)) {
        let mut detector = self.0.1.clone();
        change(&mut detector);
        *self = Self::of(detector);
    }

    pub fn verdict(&self, now: Duration) -> Verdict {
        self.0.1.verdict(now)
    }
}

impl PartialEq for Watcher {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Watcher {}

impl Hash for Watcher {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.0);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub role: Role,
    pub detector: Watcher,
    /// Of the term that it holds, while it reads under it.
    pub lease: Option<Lease>,
    /// Its newest term.
    pub term: u8,
    pub ask: Option<Ask>,
    /// Term and beat of its last look, so that it looks again only where there is something new.
    pub seen: Option<(u8, u8)>,
    /// How many writes its world includes, and which term.
    pub world: u8,
    pub world_term: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub now: u8,
    /// How soon the slow clock falls behind for the first time.
    pub phase: u8,
    pub kept: Kept,
    pub all: [Process; COORDINATORS],
    pub late: Vec<Late>,
    /// A hand-over that was said: to whom, of which term. It may be heard any time, and more than once.
    pub told: Option<(usize, u8)>,
    pub left: Left,
    /// A write was applied for a process that had lost its term.
    pub wrong_write: bool,
    /// A term began that is no higher than the one before.
    pub term_fell: bool,
    pub handed: bool,
}

/// What may still go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    pub late: u8,
    pub lost: u8,
    pub crashes: u8,
    pub hand_overs: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Tick,
    Look(usize),
    /// The store takes what this one asked.
    Serve(usize),
    /// The answer arrives.
    Answer(usize),
    /// What it asked, or the answer, is lost.
    Lose(usize),
    /// What it asked is given up and arrives later, or arrives now and once more later.
    Delay(usize),
    Repeat(usize),
    Arrive(usize),
    Decide(usize),
    Act(usize),
    Sync(usize),
    Beat(usize),
    Write(usize),
    WriteLate(usize),
    Expire(usize),
    HandOver(usize, usize),
    Hear,
    /// The hand-over has failed, or it saw the next term.
    EndHandOver(usize),
    /// It ends and is started again. How long that takes need not be said: nobody has to do anything soon.
    Crash(usize),
}

pub fn nonce(term: u8) -> String {
    term.to_string()
}

impl Kept {
    /// As this one sees it.
    pub fn look(&self, i: usize) -> Look {
        let record = TermRecord {
            nonce: nonce(self.term),
            coordinator: if self.holder == i { OWN } else { OTHER }.into(),
            ..TermRecord::default()
        };
        Look {
            term: Some((u64::from(self.term), record)),
            beat: u64::from(self.beat),
        }
    }
}

impl State {
    /// What this one's clock shows: that of the first is slow, as far as the margin allows for.
    pub fn clock(&self, i: usize) -> Duration {
        let slow = if i == 0 { (self.now + 3 - self.phase) / 4 } else { 0 };
        ticks(100 + self.now - slow)
    }

    pub fn active(&self, i: usize) -> bool {
        self.all[i].role == Role::Active
    }

    /// It answers reads from its own view now, and that view lacks a write that was acknowledged.
    pub fn reads_stale(&self, i: usize, fault: Option<Fault>) -> bool {
        let process = &self.all[i];
        let Some(lease) = process.lease else { return false };
        let margin = if fault == Some(Fault::NoMargin) {
            LIMITS.margin
        } else {
            ticks(0)
        };
        self.clock(i) < lease.readable_until() + margin && process.world < self.kept.version
    }

    pub fn begin_term(&mut self, by: usize, over: u8, fault: Option<Fault>) -> Option<u8> {
        if self.kept.term != over && fault != Some(Fault::NoCompare) {
            return None;
        }
        let term = self.kept.term + 1;
        self.term_fell |= term <= self.kept.term;
        (self.kept.term, self.kept.holder) = (term, by);
        Some(term)
    }

    /// The process stops acting. Its world is of no use any more: a new term needs a newer one.
    pub fn stand_by(&mut self, i: usize) {
        let process = &mut self.all[i];
        (process.role, process.lease, process.ask) = (Role::Standby, None, None);
        (process.term, process.world, process.world_term) = (0, 0, 0);
    }

    /// The two that began as standbys are alike, so states that differ by which one is which are the same one. Which of
    /// the two comes first may be left open: that only costs time.
    pub fn sorted(mut self) -> Self {
        let key = |i: usize| {
            let p: &Process = &self.all[i];
            let role = match &p.role {
                Role::Standby => 0,
                Role::Trying { over, .. } => 1 + *over,
                Role::Begun { last, .. } => 10 + u8::from(last.is_some()),
                Role::Active => 20,
                Role::HandingOver => 21,
            };
            let ask = match &p.ask {
                None => 0,
                Some(Ask::Looked { kept }) => 1 + kept.term * 4 + kept.beat,
                Some(Ask::TakeOver { .. }) => 50,
                Some(Ask::TookOver { term, .. }) => 51 + term.unwrap_or(0),
                Some(Ask::Beat { .. }) => 70,
                Some(Ask::Beaten { .. }) => 71,
            };
            (role, ask, p.term, p.world, p.seen, self.kept.holder == i)
        };
        if key(1) <= key(2) {
            return self;
        }
        let other = |i: &mut usize| {
            if *i != 0 {
                *i = 3 - *i;
            }
        };
        self.all.swap(1, 2);
        other(&mut self.kept.holder);
        for process in &mut self.all {
            if let Some(Ask::Looked { kept }) = &mut process.ask {
                other(&mut kept.holder);
            }
        }
        for late in &mut self.late {
            if let Late::TakeOver { by, .. } | Late::Write { by, .. } = late {
                other(by);
            }
        }
        if let Some((to, _)) = &mut self.told {
            other(to);
        }
        self
    }
}
