//! Lists all containers again and again: at the period, when asked to, and until the engine answers. Started by
//! [`super::run`].
//!
//! Invariant: a listing carries the tick at which it began; who acted later does not believe it.

use std::{collections::BTreeMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::{
    facts::Engine,
    runtime::{ContainerInfo, RuntimeError, State},
    settings::ms,
};

/// All of this node's containers at one moment, by pod uid.
#[derive(Debug, Default)]
pub struct Listing {
    pub begun: u64,
    pub pods: BTreeMap<String, Vec<ContainerInfo>>,
}

impl Listing {
    /// Some container of the pod runs.
    pub fn runs(&self, uid: &str) -> bool {
        self.pods
            .get(uid)
            .is_some_and(|all| all.iter().any(|c| matches!(c.state, State::Running { .. })))
    }
}

pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut failures = 0;
    loop {
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = look(&shared) => looked,
        };
        let wait = match looked {
            Ok(()) => {
                failures = 0;
                shared.settings.relist_ms
            }
            Err(error) => {
                failures += 1;
                shared.answers.send_replace(false);
                if failures >= shared.settings.engine_down_after {
                    down(&shared, &error);
                }
                shared.settings.engine_retry_ms
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ms(wait)) => {}
            // An engine that does not answer is not asked more often.
            () = shared.relist.notified(), if failures == 0 => {}
        }
    }
}

async fn look(shared: &Shared) -> Result<(), RuntimeError> {
    let begun = shared.tick();
    let all = shared.runtime.list().await?;
    if !matches!(*shared.engine.borrow(), Engine::Up(_)) || !*shared.answers.borrow() {
        // It may have come back as another version.
        let info = shared.runtime.info().await?;
        tracing::info!(version = %info.version, "Docker answers");
        shared.metrics.engine_up.set(1);
        shared.engine.send_replace(Engine::Up(info));
    }
    let mut pods: BTreeMap<String, Vec<ContainerInfo>> = BTreeMap::new();
    for info in all {
        pods.entry(info.owner.uid.clone()).or_default().push(info);
    }
    shared.listing.send_replace(Some(Arc::new(Listing { begun, pods })));
    shared.answers.send_replace(true);
    Ok(())
}

fn down(shared: &Shared, error: &RuntimeError) {
    let reason = error.to_string();
    shared.engine.send_if_modified(|engine| {
        let was_down = matches!(engine, Engine::Down(_));
        if !was_down {
            tracing::error!("{reason}; containers are left as they are");
            shared.metrics.engine_up.set(0);
        }
        let changed = *engine != Engine::Down(reason.clone());
        *engine = Engine::Down(reason);
        changed
    });
}
