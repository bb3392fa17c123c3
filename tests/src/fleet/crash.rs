//! What ends at one of its steps, as SIGKILL would end it there: a coordinator at a commit, an agent at a write of its
//! ledger or a call of its engine. Asked at each step by the fleet's store, and by `brittle` for agents; armed by tests.
//!
//! Invariant: from that step on nothing more is done for it and nothing is answered, until the test has killed it.

use std::{
    future::pending,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// On which side of the step it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It was not taken.
    Before,
    /// It was, and nobody was told.
    After,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    /// So many steps from now, counted from one.
    Armed(u32, Side),
    /// Its last step is on its way.
    Falling,
    /// At a step of this kind.
    Fallen(&'static str),
}

/// See the module's head.
#[derive(Default)]
pub struct Crash(Mutex<State>);

impl Crash {
    pub fn arm(&self, step: u32, side: Side) {
        *self.lock() = State::Armed(step, side);
    }

    /// The next one lives.
    pub fn disarm(&self) {
        *self.lock() = State::Idle;
    }

    /// At what kind of step it ended, if it has.
    pub fn fell(&self) -> Option<&'static str> {
        match *self.lock() {
            State::Fallen(kind) => Some(kind),
            State::Idle | State::Armed(..) | State::Falling => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step of this kind, unless it has ended before.
    pub(super) async fn step<T>(&self, kind: &'static str, step: impl Future<Output = T>) -> T {
        if self.last(kind).await {
            step.await;
            *self.lock() = State::Fallen(kind);
            pending().await
        } else {
            step.await
        }
    }

    /// Does what is no step of its own, unless it has ended.
    pub(super) async fn alive<T>(&self, work: impl Future<Output = T>) -> T {
        let ended = matches!(*self.lock(), State::Falling | State::Fallen(_));
        if ended { pending().await } else { work.await }
    }

    /// Whether the next step is the last one. Never returns to what has ended.
    async fn last(&self, kind: &'static str) -> bool {
        let goes = {
            let mut state = self.lock();
            let (next, goes) = match *state {
                State::Idle => (State::Idle, Some(false)),
                State::Armed(n, side) if n > 1 => (State::Armed(n - 1, side), Some(false)),
                State::Armed(_, Side::After) => (State::Falling, Some(true)),
                State::Armed(_, Side::Before) => (State::Fallen(kind), None),
                gone @ (State::Falling | State::Fallen(_)) => (gone, None),
            };
            *state = next;
            goes
        };
        match goes {
            Some(last) => last,
            None => pending().await,
        }
    }
}
