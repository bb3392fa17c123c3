//! Leadership of one process: taking the term, and acting only after the world includes it. Called by `run`.
//! [`take`] is for a store with one coordinator; [`elector`] for one that several share.
//!
//! Invariant: the hub gets its fence after the world holds the term's record, so nothing is decided on a world
//! from before this leadership. [`guard`] keeps the mark outside the store.

pub mod clock;
pub mod detector;
pub mod elector;
pub mod guard;
pub mod leadership;
pub mod lease;
pub mod marks;
pub mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use proto::model::Time;

use crate::{
    store::{CommitError, Fence, Rv},
    world::hub::Hub,
};

/// Between attempts to take the term of a store that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// First version of a term: every version handed out under an earlier one is below it.
pub fn starts_at(term: u64) -> Rv {
    Rv::new(term, 0)
}

/// Who leads, for people: `host:pid`.
pub fn holder() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|h| h.into_string().ok())
        .unwrap_or_else(|| "localhost".into());
    format!("{host}:{}", std::process::id())
}

/// Begins a leadership and waits until the world includes it; the caller hands the fence to the hub once the
/// mark of `guard` is written. [`Hub::run`] must be running.
pub async fn take(hub: &Hub, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
    let fence = loop {
        match hub.store().take_term(incarnation, holder).await {
            Err(CommitError::Unavailable(why)) => {
                tracing::warn!("the term cannot be taken yet, trying again: the store does not answer: {why}");
                tokio::time::sleep(RETRY).await;
            }
            other => break other?,
        }
    };
    included(hub, &fence).await;
    tracing::info!(term = fence.term, incarnation = %fence.incarnation, holder, since = %Time::now(), "leading");
    Ok(fence)
}

/// Returns once the world includes the begin of this term, and with it all that was written before.
async fn included(hub: &Hub, fence: &Fence) {
    let mut feed = hub.subscribe();
    let included = || hub.read(|w| w.terms.get(&fence.term).is_some_and(|t| t.nonce == *fence.nonce));
    while !included() {
        // Lagging is as good as a batch: look again. It does not close: the hub has the other end.
        let _ = feed.recv().await;
    }
}
