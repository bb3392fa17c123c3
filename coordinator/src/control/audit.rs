//! Removes audit records whose time is over. Spawned by `control::run`.
//!
//! Invariant: bounded work a pass, the oldest first, read by key: what is kept costs nothing.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;

use super::{ControlError, Settings};
use crate::{
    ca::system_clock,
    store::{Change, CommitError, Expect, MAX_CHANGES, Order, Span, keys},
    world::{hub::Hub, settings::AUDIT_KEEP},
};

/// Commits of one pass.
const COMMITS: usize = 64;

/// Runs until the store fails.
pub async fn run(hub: Arc<Hub>, settings: Settings) -> Result<(), ControlError> {
    let mut ticks = tokio::time::interval(Duration::from_millis(settings.audit_expiry_ms.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let clock = system_clock();
    loop {
        ticks.tick().await;
        let set = hub.read(|world| world.settings.given(&AUDIT_KEEP));
        let keep = set.unwrap_or(settings.audit_keep_ms);
        expire(&hub, clock().saturating_sub(keep)).await?;
    }
}

/// Removes records from before `before_ms`, as long as this process leads.
async fn expire(hub: &Hub, before_ms: u64) -> Result<(), ControlError> {
    let Some(fence) = hub.fence() else { return Ok(()) };
    for _ in 0..COMMITS {
        let span = Span {
            from: keys::AUDIT.to_owned(),
            until: keys::audit(before_ms, ""),
            order: Order::Ascending,
            limit: MAX_CHANGES,
        };
        let old = match hub.store().scan(span).await {
            Ok(old) => old,
            Err(error) => {
                tracing::warn!(%error, "old audit records cannot be read; trying again");
                return Ok(());
            }
        };
        if old.is_empty() {
            return Ok(());
        }
        let last = old.len() < MAX_CHANGES;
        let changes = old
            .into_iter()
            .map(|e| Change::delete(e.key, Expect::At(e.rv)))
            .collect();
        match hub.commit_under(&fence, changes).await {
            Ok(_) if last => return Ok(()),
            Ok(_) => {}
            Err(error @ (CommitError::Io(_) | CommitError::Closed)) => return Err(ControlError::Store(error)),
            Err(error) => {
                tracing::debug!(%error, "old audit records stay until the next pass");
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
