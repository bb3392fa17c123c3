//! Removes dead containers of pods that the ledger does not hold. Started by [`super::run`].
//!
//! Invariant: nothing is removed before assignments were accepted in this run and the grace period since the
//! agent's start has passed; what runs is never touched.

use std::sync::{Arc, atomic::Ordering};

use tokio_util::sync::CancellationToken;

use super::{Listing, Shared};

pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let from_ms = shared.clock.now_ms().saturating_add(shared.settings.gc_grace_ms);
    let mut listings = shared.listing.subscribe();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = listings.changed() => if changed.is_err() { return },
        }
        let listing = listings.borrow_and_update().clone();
        let due = shared.accepted.load(Ordering::SeqCst) && shared.clock.now_ms() >= from_ms;
        if let Some(listing) = listing.filter(|_| due) {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sweep(&shared, &listing) => {}
            }
        }
    }
}

async fn sweep(shared: &Shared, listing: &Listing) {
    for (uid, containers) in &listing.pods {
        // Asked anew for each pod: it may have been assigned meanwhile. A pod of which something runs is
        // reported, and is the coordinator's to decide.
        if shared.keeper.current().pods.contains_key(uid) || listing.runs(uid) {
            continue;
        }
        for container in containers {
            let Ok(_permit) = shared.stops.acquire().await else {
                return;
            };
            match shared.runtime.remove(&container.id).await {
                Ok(()) => tracing::info!(
                    id = %container.id,
                    pod = %format!("{}/{}", container.owner.namespace, container.owner.pod),
                    "removed a dead container of a pod that is not known any more"
                ),
                Err(e) => tracing::warn!(id = %container.id, "cannot remove a dead container: {e}"),
            }
        }
    }
}
