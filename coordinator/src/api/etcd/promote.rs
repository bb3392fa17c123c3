//! Gives learners their vote once they have caught up. Run by the listener for as long as the process runs; it acts only
//! while this coordinator leads.
//!
//! Invariant: etcd itself says whether a learner has caught up; one that has not stays one. On record is what was done,
//! after it, since most attempts are refused.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Asked, Members,
    admin::{AdminError, StoreKind},
    object,
};
use crate::{
    api::write::now_ms,
    ca::audit::{AuditRecord, COORDINATOR},
};

/// Between two looks at the members.
pub const PERIOD: Duration = Duration::from_secs(5);

pub async fn run(members: Arc<Members>, period: Duration, stopping: CancellationToken) {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = tick.tick() => {}
        }
        members.promote().await;
    }
}

impl Members {
    /// One look: every learner that answers is given a vote, if etcd finds that it has caught up.
    async fn promote(&self) {
        let Ok(fence) = self.api.active() else { return };
        let _turn = self.one_by_one.lock().await;
        let status = self.admin.status().await;
        if status.kind != StoreKind::Etcd {
            return;
        }
        for learner in status.members.iter().filter(|m| m.learner && m.answers()) {
            match self.admin.promote_member(learner.id).await {
                Ok(()) => {
                    tracing::info!(member = learner.label(), "the learner has caught up and has a vote now");
                    let record = AuditRecord::new(
                        now_ms(),
                        COORDINATOR,
                        "promote",
                        object(&learner.label()),
                        "has caught up",
                    );
                    let asked = Asked {
                        caller: COORDINATOR.to_owned(),
                        reason: String::new(),
                        fence: fence.clone(),
                    };
                    if let Err(e) = self.commit(&asked, &record).await {
                        tracing::error!(member = learner.label(), "its promotion is not on record: {e}");
                    }
                }
                Err(AdminError::Refused(why)) => {
                    tracing::debug!(member = learner.label(), "a learner stays one: {why}");
                }
                Err(AdminError::Unknown(why)) => {
                    tracing::warn!(
                        member = learner.label(),
                        "whether the learner has a vote now is unknown: {why}"
                    );
                }
            }
        }
    }
}
