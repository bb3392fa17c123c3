//! Where the model begins, which steps are possible, and what must hold.
//!
//! Invariant: the model knows no timing that the code does not enforce: a message takes as long as it likes, and the
//! detector is as hasty as can be, so that nothing is safe because somebody was slow.

use stateright::{Model, Property};

use super::state::{
    Action, Ask, COORDINATORS, Fault, Kept, LIMITS, Late, Left, Process, Protocol, Role, State, Watcher,
};
use crate::leader::lease::Lease;

impl Model for Protocol {
    type State = State;
    type Action = Action;

    /// The first leads, and both others have just seen it; its last write they have not.
    fn init_states(&self) -> Vec<State> {
        let kept = Kept {
            term: 1,
            holder: 0,
            beat: 1,
            version: 1,
        };
        let bounds = self.bounds;
        let standby = Process {
            role: Role::Standby,
            detector: Watcher::new(),
            lease: None,
            term: 0,
            ask: None,
            seen: Some((1, 1)),
            world: 0,
            world_term: 0,
        };
        let mut s = State {
            now: 0,
            phase: 0,
            kept,
            all: [standby.clone(), standby.clone(), standby],
            late: Vec::new(),
            told: None,
            left: Left {
                late: bounds.late,
                lost: bounds.lost,
                crashes: bounds.crashes,
                hand_overs: bounds.hand_overs,
            },
            wrong_write: false,
            term_fell: false,
            handed: false,
        };
        for i in 0..COORDINATORS {
            let (at, look) = (s.clock(i), s.kept.look(i));
            s.all[i].detector.change(|d| d.looked(at, at, look));
        }
        let now = s.clock(0);
        let first = &mut s.all[0];
        first.role = Role::Active;
        (first.term, first.world, first.world_term) = (1, 1, 1);
        first.lease = Some(Lease::new(LIMITS, now));
        let phases = 0..bounds.phases;
        phases.map(|phase| State { phase, ..s.clone() }).collect()
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        let bounds = &self.bounds;
        if s.now < bounds.time {
            actions.push(Action::Tick);
        }
        for (i, p) in s.all.iter().enumerate() {
            match &p.ask {
                None => match &p.role {
                    Role::Standby => {
                        actions.push(Action::Decide(i));
                        if Self::curious(s, i) {
                            actions.push(Action::Look(i));
                        }
                    }
                    Role::Begun { last: None, .. } => {
                        actions.push(Action::Look(i));
                        if s.left.lost > 0 {
                            actions.push(Action::Lose(i));
                        }
                    }
                    Role::Active if s.kept.beat < bounds.beats => actions.push(Action::Beat(i)),
                    _ => {}
                },
                Some(ask) => {
                    let served = matches!(ask, Ask::Looked { .. } | Ask::TookOver { .. } | Ask::Beaten { .. });
                    actions.push(if served { Action::Answer(i) } else { Action::Serve(i) });
                    if s.left.lost > 0 {
                        actions.push(Action::Lose(i));
                    }
                    if s.left.late > 0 && Self::late(s, i).is_some() {
                        actions.extend([Action::Delay(i), Action::Repeat(i)]);
                    }
                }
            }
            match p.role {
                Role::Begun { .. } => {
                    actions.push(Action::Act(i));
                    if (p.world, p.world_term) != (s.kept.version, s.kept.term) {
                        actions.push(Action::Sync(i));
                    }
                }
                Role::Active => {
                    if s.kept.version < bounds.writes {
                        actions.push(Action::Write(i));
                        if s.left.late > 0 {
                            actions.push(Action::WriteLate(i));
                        }
                    }
                    actions.push(Action::Expire(i));
                    if s.left.hand_overs > 0 {
                        actions.extend((0..s.all.len()).filter(|to| *to != i).map(|to| Action::HandOver(i, to)));
                    }
                }
                Role::HandingOver => actions.push(Action::EndHandOver(i)),
                Role::Standby | Role::Trying { .. } => {}
            }
            if s.left.crashes > 0 {
                actions.push(Action::Crash(i));
            }
        }
        actions.extend((0..s.late.len()).map(Action::Arrive));
        if s.told.is_some() {
            actions.push(Action::Hear);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Tick => s.now += 1,
            Action::Look(i) => Self::look(&mut s, i),
            Action::Serve(i) => self.serve(&mut s, i)?,
            Action::Answer(i) => self.answer(&mut s, i)?,
            Action::Lose(i) => {
                s.left.lost -= 1;
                Self::give_up(&mut s, i);
            }
            Action::Delay(i) => {
                s.left.late -= 1;
                s.late.push(Self::late(&s, i)?);
                Self::give_up(&mut s, i);
            }
            Action::Repeat(i) => {
                s.left.late -= 1;
                s.late.push(Self::late(&s, i)?);
                self.serve(&mut s, i)?;
            }
            Action::Arrive(n) => self.arrive(&mut s, n),
            Action::Decide(i) => Self::decide(&mut s, i)?,
            Action::Act(i) => self.act(&mut s, i)?,
            Action::Sync(i) => (s.all[i].world, s.all[i].world_term) = (s.kept.version, s.kept.term),
            Action::Beat(i) => s.all[i].ask = Some(Ask::Beat { sent: s.clock(i) }),
            Action::Write(i) => {
                let term = s.all[i].term;
                Self::write(&mut s, i, term);
            }
            Action::WriteLate(i) => {
                s.left.late -= 1;
                s.late.push(Late::Write {
                    by: i,
                    term: s.all[i].term,
                });
            }
            Action::Expire(i) => Self::expire(&mut s, i)?,
            Action::HandOver(i, to) => {
                s.left.hand_overs -= 1;
                s.told = Some((to, s.all[i].term));
                s.all[i].role = Role::HandingOver;
                if self.fault != Some(Fault::ReadsOn) {
                    s.all[i].lease = None;
                }
            }
            Action::Hear => {
                let (to, term) = s.told?;
                if s.all[to].role != Role::Standby {
                    return None;
                }
                s.all[to].detector.change(|d| d.handed_over(u64::from(term)));
                s.handed = true;
            }
            Action::EndHandOver(i) => self.end_hand_over(&mut s, i),
            Action::Crash(i) => {
                s.left.crashes -= 1;
                // What was on its way still arrives.
                s.late.extend(Self::late(&s, i));
                Self::start(&mut s, i);
            }
        }
        Some(s.sorted())
    }

    fn within_boundary(&self, s: &State) -> bool {
        s.kept.term <= self.bounds.terms
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no write is applied under a deposed term", |_, s: &State| {
                !s.wrong_write
            }),
            Property::always("terms only rise", |_, s: &State| !s.term_fell),
            Property::always("at most one acts under the present term", |_, s: &State| {
                let acts = |i: &usize| s.active(*i) && s.all[*i].term == s.kept.term;
                (0..s.all.len()).filter(acts).count() <= 1
            }),
            Property::always("no read misses an acknowledged write", |m: &Self, s: &State| {
                (0..s.all.len()).all(|i| !s.reads_stale(i, m.fault))
            }),
            // Of every state that is the end of its time.
            Property::always("somebody leads once nothing is in the way", |m: &Self, s: &State| {
                !m.settles || s.now < m.bounds.time || m.comes_to_rest(s)
            }),
            // That the above is not true because nothing happens.
            Property::sometimes("two terms later somebody acts", |_, s: &State| {
                s.kept.term >= 3 && s.active(s.kept.holder) && s.all[s.kept.holder].term == s.kept.term
            }),
            Property::sometimes(
                "one reads under its lease while another has begun a term",
                |_, s: &State| s.kept.term > 1 && s.all[0].lease.is_some_and(|l| s.clock(0) < l.readable_until()),
            ),
            Property::sometimes("a hand-over is taken", |_, s: &State| {
                s.handed && s.kept.term > 1 && s.active(s.kept.holder) && s.kept.holder != 0
            }),
        ]
    }
}
