//! What the demonstrations share: how one is run, ended and told. Used by `wharf-demo-drain` and `wharf-demo-ha`.
//!
//! Invariant: whatever way a demonstration ends, what it made is dropped and by that removed before the program ends.

use std::{
    fmt::Display,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    thread,
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::{eventually_within, load::Load, wait};

/// Runs it to its end, which says how many requests failed; Ctrl-C ends it sooner. Only as root.
pub fn run(program: &str, show: impl FnOnce() -> u64) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("error: {program}: user: must be root, to make network namespaces and engines; use sudo");
        return ExitCode::FAILURE;
    }
    end_on_signals();
    panic::set_hook(Box::new(|what| {
        if !wait::interrupted() {
            let text = what.payload_as_str().unwrap_or("it panicked");
            eprintln!("error: {text}");
        }
    }));
    match panic::catch_unwind(AssertUnwindSafe(show)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(_) if wait::interrupted() => {
            eprintln!("interrupted; all of it is removed");
            ExitCode::from(130)
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Ctrl-C and its like end the wait of the moment, and by that all of it.
fn end_on_signals() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let [mut a, mut b, mut c] = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .map(|kind| signal(kind).expect("a signal's handler"));
            tokio::select! {
                _ = a.recv() => {}
                _ = b.recv() => {}
                _ = c.recv() => {}
            }
        });
        wait::interrupt();
    });
}

/// A paragraph of its own.
pub fn say(what: impl Display) {
    println!("\n{what}");
}

/// Waits until so many more requests were answered, well or not.
pub fn answered(load: &Load, more: u32) {
    let before = load.so_far().sent;
    let limit = Duration::from_secs(120);
    eventually_within(limit, "the service answers", || match load.so_far() {
        now if now.sent >= before + u64::from(more) => Ok(()),
        now => Err(now.to_string()),
    });
}

/// `12,431`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
