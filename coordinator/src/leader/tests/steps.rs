//! What each step of the protocol does. What decides is the code that runs: [`crate::leader::detector`], [`Lease`], [`Former`].
//!
//! Invariant: a step that is not possible is `None` and changes nothing.

use super::state::{Ask, Fault, LIMITS, Late, PATIENT, Process, Protocol, Role, State, Watcher, nonce};
use crate::leader::{
    detector::Verdict,
    lease::{Former, Lease},
};

impl Protocol {
    pub fn serve(&self, s: &mut State, i: usize) -> Option<()> {
        let term = s.all[i].term;
        let answer = match s.all[i].ask.clone()? {
            Ask::TakeOver { over, sent } => Ask::TookOver {
                sent,
                term: s.begin_term(i, over, self.fault),
            },
            Ask::Beat { sent } => {
                let fenced = s.kept.term != term;
                s.kept.beat += u8::from(!fenced);
                Ask::Beaten { sent, fenced }
            }
            Ask::Looked { .. } | Ask::TookOver { .. } | Ask::Beaten { .. } => return None,
        };
        s.all[i].ask = Some(answer);
        Some(())
    }

    /// The store answers; a standby may hear of it later. What a new term looks up is the last beat there was, so when it
    /// hears of it makes no difference.
    pub fn look(s: &mut State, i: usize) {
        let process = &mut s.all[i];
        if let Role::Begun { last, .. } = &mut process.role {
            *last = Some(Some(s.kept.beat));
        } else {
            process.ask = Some(Ask::Looked { kept: s.kept.clone() });
        }
    }

    pub fn answer(&self, s: &mut State, i: usize) -> Option<()> {
        let now = s.clock(i);
        let process = &mut s.all[i];
        match process.ask.take()? {
            Ask::Looked { kept } => {
                process.detector.change(|d| d.looked(now, now, kept.look(i)));
                process.seen = Some((kept.term, kept.beat));
            }
            Ask::TookOver { sent, term: Some(term) } => {
                let Role::Trying { former, .. } = process.role else {
                    return None;
                };
                process.detector.change(|d| d.won());
                process.term = term;
                let last = match former {
                    Former::Released => Some(None),
                    Former::Held { beat, .. } if self.fault == Some(Fault::NoLookAfter) => {
                        Some(u8::try_from(beat).ok())
                    }
                    Former::Held { .. } => None,
                };
                process.role = Role::Begun {
                    former,
                    sent,
                    answered: now,
                    last,
                };
            }
            Ask::TookOver { term: None, .. } => {
                process.detector.change(|d| d.lost());
                process.role = Role::Standby;
            }
            Ask::Beaten { fenced: true, .. } => {
                process.detector.change(|d| d.lost());
                s.stand_by(i);
            }
            Ask::Beaten { sent, .. } => {
                let sent = if self.fault == Some(Fault::CountsFromAnswer) {
                    now
                } else {
                    sent
                };
                if let Some(lease) = &mut process.lease {
                    lease.acknowledged(sent);
                }
            }
            Ask::TakeOver { .. } | Ask::Beat { .. } => return None,
        }
        Some(())
    }

    /// Nobody waits for the answer any more.
    pub fn give_up(s: &mut State, i: usize) {
        let process = &mut s.all[i];
        match process.ask.take() {
            Some(Ask::Looked { .. }) => process.detector.change(|d| d.failed()),
            Some(Ask::TakeOver { .. } | Ask::TookOver { .. }) => {
                process.detector.change(|d| d.unresolved());
                process.role = Role::Standby;
            }
            Some(Ask::Beat { .. } | Ask::Beaten { .. }) => {}
            None => {
                if let Role::Begun { last, .. } = &mut process.role {
                    *last = Some(None);
                }
            }
        }
    }

    pub fn late(s: &State, i: usize) -> Option<Late> {
        match s.all[i].ask.as_ref()? {
            Ask::TakeOver { over, .. } => Some(Late::TakeOver { by: i, over: *over }),
            Ask::Beat { .. } => Some(Late::Beat { term: s.all[i].term }),
            _ => None,
        }
    }

    pub fn arrive(&self, s: &mut State, n: usize) {
        match s.late.remove(n) {
            Late::TakeOver { by, over } => {
                s.begin_term(by, over, self.fault);
            }
            Late::Beat { term } => s.kept.beat += u8::from(s.kept.term == term),
            Late::Write { by, term } => Self::write(s, by, term),
        }
    }

    /// The store gets a write that was decided under this term.
    pub fn write(s: &mut State, by: usize, term: u8) {
        if s.kept.term == term {
            s.wrong_write |= s.kept.holder != by;
            s.kept.version += 1;
            if s.all[by].term == term && s.active(by) {
                s.all[by].world = s.kept.version;
            }
        }
    }

    pub fn decide(s: &mut State, i: usize) -> Option<()> {
        let now = s.clock(i);
        let process = &mut s.all[i];
        match process.detector.verdict(now) {
            Verdict::Wait => return None,
            Verdict::TakeOver { over, former, .. } => {
                let over = u8::try_from(over?).ok()?;
                process.role = Role::Trying { over, former };
                process.ask = Some(Ask::TakeOver { over, sent: now });
            }
            // It ends, and may be started again.
            Verdict::Twin { .. } => Self::start(s, i),
        }
        Some(())
    }

    pub fn act(&self, s: &mut State, i: usize) -> Option<()> {
        let now = s.clock(i);
        let process = &mut s.all[i];
        let Role::Begun {
            former,
            sent,
            answered,
            last,
        } = process.role
        else {
            return None;
        };
        let lease = Lease::new(LIMITS, sent);
        if now >= lease.ends_at() {
            process.detector.change(|d| d.given_up(&nonce(process.term), false));
            s.stand_by(i);
            return Some(());
        }
        let no_wait = self.fault == Some(Fault::NoWait);
        let clear = former.clear_at(&LIMITS, answered, last.unwrap_or(None).map(u64::from));
        let included = process.world_term >= process.term || self.fault == Some(Fault::EarlyFence);
        if !included || !(no_wait || (last.is_some() && now >= clear)) {
            return None;
        }
        process.role = Role::Active;
        process.lease = Some(lease);
        Some(())
    }

    pub fn expire(s: &mut State, i: usize) -> Option<()> {
        let now = s.clock(i);
        let process = &mut s.all[i];
        if now < process.lease?.ends_at() {
            return None;
        }
        process.detector.change(|d| d.given_up(&nonce(process.term), true));
        s.stand_by(i);
        Some(())
    }

    pub fn end_hand_over(&self, s: &mut State, i: usize) {
        let now = s.clock(i);
        let process = &mut s.all[i];
        if self.fault == Some(Fault::SameTermAgain) && s.kept.term == process.term {
            process.role = Role::Active;
            process.lease = Some(Lease::new(LIMITS, now));
            return;
        }
        process.detector.change(|d| d.given_up(&nonce(process.term), true));
        s.stand_by(i);
    }

    /// Whether one more look tells this one anything.
    pub fn curious(s: &State, i: usize) -> bool {
        let process = &s.all[i];
        process.seen != Some((s.kept.term, s.kept.beat)) || process.detector.verdict(s.clock(i)) == Verdict::Wait
    }

    /// A process of this name begins.
    pub fn start(s: &mut State, i: usize) {
        s.all[i] = Process {
            role: Role::Standby,
            detector: Watcher::new(),
            lease: None,
            term: 0,
            ask: None,
            seen: None,
            world: 0,
            world_term: 0,
        };
    }

    /// With nothing in the way any more, somebody leads soon, and can write.
    pub fn comes_to_rest(&self, state: &State) -> bool {
        let mut s = state.clone();
        (s.late, s.told) = (Vec::new(), None);
        for process in &mut s.all {
            process.detector.change(|d| d.follow(PATIENT));
        }
        for round in 0..60 {
            for i in 0..s.all.len() {
                match s.all[i].role {
                    Role::HandingOver => self.end_hand_over(&mut s, i),
                    Role::Active if s.all[i].ask.is_none() => s.all[i].ask = Some(Ask::Beat { sent: s.clock(i) }),
                    Role::Standby | Role::Begun { last: None, .. } if s.all[i].ask.is_none() => {
                        Self::look(&mut s, i);
                    }
                    _ => {}
                }
                self.serve(&mut s, i);
                self.answer(&mut s, i);
                (s.all[i].world, s.all[i].world_term) = (s.kept.version, s.kept.term);
                if s.all[i].role == Role::Standby {
                    Self::decide(&mut s, i);
                    // A process that was started anew.
                    s.all[i].detector.change(|d| d.follow(PATIENT));
                }
                self.act(&mut s, i);
                Self::expire(&mut s, i);
                if round > 40 && s.active(i) && s.all[i].term == s.kept.term {
                    return true;
                }
            }
            s.now += 1;
        }
        false
    }
}
