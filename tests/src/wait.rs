//! Waiting for a condition, never for a time.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on every wait of this process ends in a panic, so that what the waiting ones made is dropped and with that
/// removed. Called by programs whose user has had enough.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Asks again and again until `check` says Ok; panics with its last reason after 60 s.
#[track_caller]
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(Duration::from_secs(60), what, check)
}

/// As [`eventually`], with a limit of its own.
#[track_caller]
pub fn eventually_within<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        assert!(!interrupted(), "{what}: interrupted");
        match check() {
            Ok(value) => return value,
            Err(reason) if start.elapsed() > limit => panic!("{what}: not within {limit:?}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
