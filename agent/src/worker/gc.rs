//! Removes what is left of pods that the ledger does not hold: dead containers, then volumes and last words.
//! Started by [`super::run`].
//!
//! Invariant: nothing is removed before assignments were accepted in this run and the grace period since the
//! agent's start has passed; what runs is never touched, nor what a container that exists may need.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Listing, Shared};

pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let from_ms = shared.clock.now_ms().saturating_add(shared.settings.gc_grace_ms);
    let mut listings = shared.listing.subscribe();
    // Pods that end in this run clean up after themselves.
    let mut leftovers = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = listings.changed() => if changed.is_err() { return },
        }
        let listing = listings.borrow_and_update().clone();
        let due = *shared.accepted.borrow() && shared.clock.now_ms() >= from_ms;
        if let Some(listing) = listing.filter(|_| due) {
            let round = async {
                // The containers are gone from the listing only next time.
                if sweep(&shared, &listing).await {
                    leftovers = true;
                } else if leftovers {
                    leftovers = !collect(&shared, &listing).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = round => {}
            }
        }
    }
}

/// Removes dead containers; true when there was one.
async fn sweep(shared: &Shared, listing: &Listing) -> bool {
    let mut found = false;
    for (uid, containers) in &listing.pods {
        // Asked anew for each pod: it may have been assigned meanwhile. A pod of which something runs is
        // reported, and is the coordinator's to decide.
        if shared.keeper.current().pods.contains_key(uid) || listing.runs(uid) {
            continue;
        }
        for container in containers {
            found = true;
            let Ok(_permit) = shared.stops.acquire().await else {
                return found;
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
    found
}

/// Removes volumes and last words of pods that neither the ledger nor the engine knows; true when nothing is left.
async fn collect(shared: &Shared, listing: &Listing) -> bool {
    let unknown = |uid: &str| !listing.pods.contains_key(uid) && !shared.keeper.current().pods.contains_key(uid);
    let mut all = true;
    match shared.on_disk(|files| files.pods()).await {
        Ok(uids) => {
            for uid in uids.into_iter().filter(|uid| unknown(uid)) {
                let removed = uid.clone();
                match shared.on_disk(move |files| files.remove_pod(&removed)).await {
                    Ok(()) => tracing::info!(pod = %uid, "removed the volumes of a pod that is not known any more"),
                    Err(e) => {
                        tracing::warn!(pod = %uid, "cannot remove the volumes of a pod that is gone: {e}");
                        all = false;
                    }
                }
            }
        }
        Err(e) => {
            tracing::warn!("cannot look for volumes of pods that are gone: {e}");
            all = false;
        }
    }
    match shared.runtime.memory_volumes().await {
        Ok(volumes) => {
            for volume in volumes.into_iter().filter(|v| unknown(&v.uid)) {
                match shared.runtime.remove_memory_volume(&volume.name).await {
                    Ok(()) => {
                        tracing::info!(volume = %volume.name, "removed a volume of a pod that is not known any more")
                    }
                    Err(e) => {
                        tracing::warn!(volume = %volume.name, "cannot remove a volume of a pod that is gone: {e}");
                        all = false;
                    }
                }
            }
        }
        Err(e) => {
            tracing::warn!("cannot look for volumes of pods that are gone: {e}");
            all = false;
        }
    }
    all
}
