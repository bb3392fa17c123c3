//! Performs one action of a pod and looks at what it did. Called by the pod's task, which keeps at most one
//! action a container under way.
//!
//! Invariant: creates and starts, and stops and removes wait in two separate queues, so that neither starves the
//! other; pulls wait for nobody here, the runtime shares and bounds them.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Shared, spec,
    spec::{Surroundings, create_container},
};
use crate::{
    ledger::PodEntry,
    probe::hook,
    runtime::{ContainerInfo, RuntimeError},
    settings::ms,
    step::{Action, Outcome, PodDesired, announce},
};

/// An action that has ended.
pub(super) struct Landed {
    pub action: Action,
    /// `None`: it was called off before it began, or while it only waited.
    pub outcome: Option<Outcome>,
    /// The container it was about, seen after it; `None` when that could not be seen.
    pub seen: Option<Seen>,
}

/// One container by id; `info` is `None` when it is gone.
pub(super) struct Seen {
    pub id: String,
    pub info: Option<ContainerInfo>,
}

pub(super) struct Flight {
    pub shared: Arc<Shared>,
    pub entry: Arc<PodEntry>,
    pub desired: Arc<PodDesired>,
    pub action: Action,
    /// Of the container that is removed.
    pub attempt: Option<u32>,
    pub call_off: CancellationToken,
}

impl Flight {
    pub(super) async fn fly(self) -> Landed {
        let shared = self.shared.clone();
        let queue = match &self.action {
            Action::CheckImage { .. } | Action::Pull { .. } | Action::PreStop { .. } => None,
            Action::Create { .. } | Action::Start { .. } => Some(&shared.starts),
            Action::Stop { .. } | Action::Remove { .. } => Some(&shared.stops),
        };
        let permit = match queue {
            None => None,
            Some(queue) => tokio::select! {
                biased;
                () = self.call_off.cancelled() => return self.called_off(),
                permit = queue.acquire() => permit.ok(),
            },
        };
        if let Some(note) = announce(&self.action) {
            self.shared.notes.push(&self.entry, note);
        }
        // A create or a start is never left half-way: what it did would be unknown.
        let waits_only = matches!(
            self.action,
            Action::CheckImage { .. } | Action::Pull { .. } | Action::PreStop { .. } | Action::Stop { .. }
        );
        let outcome = tokio::select! {
            // A hook that is waited for no longer counts as over: it was begun.
            () = self.call_off.cancelled(), if waits_only => {
                matches!(self.action, Action::PreStop { .. }).then_some(Outcome::Done)
            }
            outcome = self.perform() => Some(outcome),
        };
        drop(permit);
        let Some(outcome) = outcome else {
            return self.called_off();
        };
        self.shared.metrics.action(&self.action, &outcome);
        let seen = self.look(&outcome).await;
        Landed {
            action: self.action,
            outcome: Some(outcome),
            seen,
        }
    }

    fn called_off(self) -> Landed {
        Landed {
            action: self.action,
            outcome: None,
            seen: None,
        }
    }

    async fn perform(&self) -> Outcome {
        let runtime = &self.shared.runtime;
        let done = |result: Result<(), RuntimeError>| result.map_or_else(Outcome::Failed, |()| Outcome::Done);
        match &self.action {
            Action::CheckImage { image, .. } => runtime.image(image).await.map_or_else(Outcome::Failed, Outcome::Image),
            Action::Pull { image, .. } => {
                let from_ms = self.shared.clock.now_ms();
                match runtime.pull(image).await {
                    Ok(()) => Outcome::Pulled {
                        took_ms: self.shared.clock.now_ms() - from_ms,
                    },
                    Err(e) => Outcome::Failed(e),
                }
            }
            Action::Create {
                container,
                attempt,
                join,
                pod_ip,
            } => self
                .create(container, *attempt, join.clone(), pod_ip)
                .await
                .map_or_else(Outcome::Failed, Outcome::Created),
            Action::Start { id, .. } => done(runtime.start(id).await),
            Action::PreStop {
                container,
                id,
                ip,
                limit_ms,
            } => done(self.pre_stop(container, id, ip, ms(*limit_ms)).await),
            Action::Stop { id, grace_ms, .. } => done(runtime.stop(id, ms(*grace_ms)).await),
            Action::Remove { container, id } => done(self.remove(container, id).await),
        }
    }

    async fn pre_stop(&self, container: &str, id: &str, ip: &str, limit: Duration) -> Result<(), RuntimeError> {
        let found = self.desired.spec.containers.iter().find(|c| c.name == container);
        match found {
            Some(found) => hook::run(&*self.shared.runtime, found, id, ip, limit).await,
            None => Ok(()),
        }
    }

    /// Removes the container, then its last words.
    async fn remove(&self, container: &str, id: &str) -> Result<(), RuntimeError> {
        self.shared.runtime.remove(id).await?;
        if let Some(attempt) = self.attempt {
            let (uid, container) = (self.entry.uid.clone(), container.to_owned());
            let removed = self
                .shared
                .on_disk(move |files| files.remove_message(&uid, &container, attempt));
            if let Err(e) = removed.await {
                // They go with the pod at the latest.
                tracing::warn!(pod = %self.entry.name, "cannot remove a container's last words: {e}");
            }
        }
        Ok(())
    }

    /// USER of the container's image, where the pod's settings depend on it.
    async fn image_user(&self, container: &str) -> Result<String, RuntimeError> {
        let found = self.desired.spec.containers.iter().find(|c| c.name == container);
        match found.filter(|c| spec::asks_image(&self.desired, c)) {
            Some(container) => self.shared.runtime.image_user(&container.image).await,
            None => Ok(String::new()),
        }
    }

    async fn create(
        &self,
        container: &str,
        attempt: u32,
        join: Option<String>,
        pod_ip: &str,
    ) -> Result<String, RuntimeError> {
        let image_user = self.image_user(container).await?;
        let host_ip = self.shared.host_ip.borrow().clone();
        let ledger = self.shared.keeper.current();
        let around = Surroundings {
            node: &self.shared.node,
            host_ip: &host_ip,
            pod_ip,
            incarnation: ledger.fence.as_ref().map_or("", |f| f.incarnation.as_str()),
            spec_hash: &self.entry.spec_hash,
            join,
            files: &self.shared.files,
            image_user: &image_user,
        };
        let spec = create_container(&self.desired, container, attempt, &around)?;
        let mounts = spec.mounts.clone();
        let prepared = self.shared.on_disk(move |files| Ok(files.prepare(&mounts))).await;
        prepared
            .unwrap_or_else(|e| Err(e.to_string()))
            .map_err(RuntimeError::Config)?;
        self.shared.runtime.create(&spec).await
    }

    /// Looks at the container right after the action. What failed in an unknown way is left to the next list.
    async fn look(&self, outcome: &Outcome) -> Option<Seen> {
        let id = match (&self.action, outcome) {
            (_, Outcome::Failed(RuntimeError::Unavailable(_))) => return None,
            (Action::Create { .. }, Outcome::Created(id)) => id,
            (
                Action::Start { id, .. }
                | Action::PreStop { id, .. }
                | Action::Stop { id, .. }
                | Action::Remove { id, .. },
                _,
            ) => id,
            (_, _) => return None,
        };
        let info = self.shared.runtime.inspect(id).await.ok()?;
        Some(Seen { id: id.clone(), info })
    }
}

/// Looks at containers by id; `None` when the engine did not answer for one of them.
pub(super) async fn inspect(shared: &Shared, ids: Vec<String>) -> Option<Vec<Seen>> {
    let mut all = Vec::with_capacity(ids.len());
    for id in ids {
        let info = shared.runtime.inspect(&id).await.ok()?;
        all.push(Seen { id, info });
    }
    Some(all)
}

/// Wait before a write to a disk that refused one is tried again.
pub(super) const DISK_RETRY: Duration = Duration::from_secs(1);
