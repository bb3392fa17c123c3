//! Leadership of one process: taking the term, and acting only after the world includes it. Called by `run`.
//!
//! Invariant: the hub gets its fence after the world holds the term's record, so nothing is decided on a world
//! from before this leadership. [`guard`] keeps the mark outside the store.

pub mod guard;

use proto::model::Time;

use crate::{
    store::{CommitError, Fence, Rv},
    world::hub::Hub,
};

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
    let mut feed = hub.subscribe();
    let fence = hub.store().take_term(incarnation, holder).await?;
    let included = || hub.read(|w| w.terms.get(&fence.term).is_some_and(|t| t.nonce == *fence.nonce));
    while !included() {
        // Lagging is as good as a batch: look again.
        if let Err(tokio::sync::broadcast::error::RecvError::Closed) = feed.recv().await {
            return Err(CommitError::Closed);
        }
    }
    tracing::info!(term = fence.term, incarnation = %fence.incarnation, holder, since = %Time::now(), "leading");
    Ok(fence)
}
