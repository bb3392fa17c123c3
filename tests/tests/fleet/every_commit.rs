//! What was asked for comes about although the coordinator ends at one of the commits that it is made of. Used by
//! `drains` and `updates`, which ask again with each next commit until none was met.
//!
//! Invariant: when it returns a coordinator runs, and what was asked for is done.

use std::{fmt::Debug, time::Duration};

use harness::fleet::{Fleet, Side};
use tonic::Status;

use crate::PATIENCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// The coordinator ended, and another one went on.
    Commit,
    /// It ended by something that was written after the end.
    Later,
    /// It is made of fewer commits.
    Nothing,
}

/// Asks, with the coordinator ending at that commit, and waits until it is done. `what`: that comes to its end.
pub async fn meet<T: Debug + Send + 'static>(
    fleet: &mut Fleet,
    (commit, side): (u32, Side),
    what: &str,
    asking: impl Future<Output = Result<T, Status>> + Send + 'static,
    done: impl Fn(&Fleet) -> Result<(), String>,
) -> Met {
    fleet.crash_at(commit, side);
    let asking = tokio::spawn(asking);
    while !fleet.fell() && done(fleet).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let fell = fleet.fell();
    if fell {
        restart(fleet).await;
    }
    asking.await.expect("no panic").expect("acknowledged at last");
    let what = format!("{what} ends, crashed {side:?} commit {commit}");
    fleet.until(&what, PATIENCE, done).await;
    let later = fleet.fell();
    if later {
        restart(fleet).await;
    }
    match (fell, later) {
        (true, _) => Met::Commit,
        (false, true) => Met::Later,
        (false, false) => Met::Nothing,
    }
}

async fn restart(fleet: &mut Fleet) {
    fleet.kill_coordinator().await;
    fleet.start_coordinator().await;
}
