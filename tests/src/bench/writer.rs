//! Who writes without a pause while what he writes to fails, and when his writes were begun and accepted. Called by
//! [`super::ha`] and [`super::managers`].
//!
//! Invariant: an attempt is given up after [`ATTEMPT`], and the next one goes elsewhere, as a client that tries again
//! does; what is measured is the time to the answer of the first write that was begun after a fault.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::INTERRUPTED;

/// One attempt.
pub const ATTEMPT: Duration = Duration::from_millis(250);

/// When writes were begun and accepted.
type Accepted = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// A place to write to, of several.
pub trait Place: Send + 'static {
    /// One write; `number` is its own. A failure is followed by an attempt at another place.
    fn write(&mut self, number: u64) -> impl Future<Output = Result<(), ()>> + Send;

    /// Its attempt failed or was given up.
    fn failed(&mut self) {}
}

pub struct Writer {
    accepted: Accepted,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub fn start<P: Place>(places: Vec<P>) -> Self {
        let (accepted, stop) = (Accepted::default(), Arc::new(AtomicBool::new(false)));
        let (theirs, ends) = (accepted.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(write(places, theirs, ends));
        });
        Self {
            accepted,
            stop,
            thread: Some(thread),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&[(Instant, Instant)]) -> R) -> R {
        f(&self.accepted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn last(&self) -> Option<Instant> {
        self.with(|all| all.last().map(|(_, answered)| *answered))
    }

    pub fn first_begun_after(&self, start: Instant) -> Option<Instant> {
        self.with(|all| {
            all.iter()
                .find(|(begun, _)| *begun >= start)
                .map(|(_, answered)| *answered)
        })
    }

    /// Between two accepted writes.
    pub fn longest_pause_since(&self, start: Instant) -> Duration {
        self.with(|all| {
            let first = all.iter().rposition(|(_, answered)| *answered < start).unwrap_or(0);
            let pairs = all[first..].windows(2);
            pairs.map(|w| w[1].1.duration_since(w[0].1)).max().unwrap_or_default()
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn write<P: Place>(mut places: Vec<P>, accepted: Accepted, stop: Arc<AtomicBool>) {
    let (mut at, mut number) = (0, 0_u64);
    while !stop.load(Ordering::Relaxed) && !INTERRUPTED.load(Ordering::Relaxed) {
        number += 1;
        let begun = Instant::now();
        if let Ok(Ok(())) = tokio::time::timeout(ATTEMPT, places[at].write(number)).await {
            let mut accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner);
            accepted.push((begun, Instant::now()));
        } else {
            places[at].failed();
            at = (at + 1) % places.len();
            // A refusal comes at once; where all refuse, they are not to be flooded.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
