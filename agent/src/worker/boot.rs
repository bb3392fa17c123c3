//! After a boot of the host: containers wait for a coordinator's word. Called by [`super::run`].
//!
//! A host that was away long enough comes back to find its pods replaced elsewhere. Its ledger does not know that: the
//! coordinator does, and says so in the first assignments of a session. Without a coordinator the ledger is all there
//! is, and after a while the containers are started from it.
//!
//! Invariant: between a boot and the first accepted assignments, or the end of the wait, no container is started; the
//! boot is on record only when the wait is over, so that a restart of the agent meanwhile waits too. Stops and
//! reports go on. With the same boot nothing waits.

use proto::model::Time;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::Shared;
use crate::settings::ms;

/// The wait, if there is one.
pub(super) struct Wait(Option<Waiting>);

struct Waiting {
    accepted: watch::Receiver<bool>,
    until: Instant,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Accepted,
    Late,
}

impl Wait {
    /// Lets everything start at once, unless the host has booted since the pods of the ledger were taken up.
    pub(super) async fn begin(shared: &Shared) -> Self {
        let ledger = shared.keeper.current();
        let known = !ledger.boot.is_empty() && !shared.boot.is_empty();
        let runs = ledger.pods.values().any(|p| p.stop.is_none() && !p.forgotten);
        if !(known && ledger.boot != shared.boot && runs && shared.settings.boot_wait_ms > 0) {
            release(shared).await;
            return Self(None);
        }
        let most = ms(shared.settings.boot_wait_ms);
        tracing::warn!(
            "the host has booted since this agent last ran: containers wait for a coordinator, at most until {}",
            Time::from_millis(shared.clock.now_ms().saturating_add(shared.settings.boot_wait_ms))
        );
        Self(Some(Waiting {
            accepted: shared.accepted.subscribe(),
            until: Instant::now() + most,
        }))
    }

    /// Resolves when the wait is over, once.
    pub(super) async fn over(&mut self) -> Over {
        let Some(waiting) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            // The sender lives as long as the worker.
            _ = waiting.accepted.wait_for(|accepted| *accepted) => Over::Accepted,
            () = sleep_until(waiting.until) => Over::Late,
        }
    }

    /// Lets everything start.
    pub(super) async fn end(&mut self, shared: &Shared, over: Over) {
        self.0 = None;
        match over {
            Over::Accepted => tracing::info!("a coordinator has spoken: containers start"),
            Over::Late => tracing::warn!("no coordinator has spoken: containers start from the ledger"),
        }
        release(shared).await;
    }
}

async fn release(shared: &Shared) {
    if !shared.boot.is_empty()
        && shared.keeper.current().boot != shared.boot
        && let Err(e) = shared.keeper.boot(shared.boot.clone()).await
    {
        // The next start of the agent then waits once more.
        tracing::warn!("which boot of the host this is cannot be kept: {e}");
    }
    shared.may_start.send_replace(true);
}

#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;
