//! What recurs: following the store, renewing the coordinator's certificate, taking in audit records left by
//! commands on the host, forgetting tokens long useless. Run once by the coordinator's wiring.
//!
//! Invariant: nothing here is needed for a decision to be right; if it fails it is logged and tried again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Authority, AuthorityError, audit::AuditRecord, tokens::TokenRecord};
use crate::store::{Change, CommitError, Expect, MAX_CHANGES, ReadError, keys};

impl Authority {
    /// Runs until `shutdown`. Its own errors are logged and tried again.
    pub async fn run(&self, shutdown: CancellationToken) {
        let period = Duration::from_millis(self.0.settings.upkeep_ms.max(1));
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let work = async {
            loop {
                tick.tick().await;
                self.upkeep().await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow(period) => {}
            () = work => {}
        }
    }

    /// One round of everything but following.
    pub async fn upkeep(&self) {
        match self.renew_server_certificate() {
            Ok(true) => tracing::info!("this coordinator's certificate renewed"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "this coordinator's certificate could not be renewed"),
        }
        if let Err(error) = self.take_in_audit().await {
            tracing::warn!(%error, "audit records left on this host could not be taken in");
        }
        if let Err(error) = self.forget_tokens().await {
            tracing::warn!(%error, "old tokens could not be removed");
        }
    }

    /// True if it was time.
    pub fn renew_server_certificate(&self) -> Result<bool, AuthorityError> {
        let inner = &self.0;
        inner.tls.renew_if_due(
            &inner.issuer,
            &inner.file.name,
            inner.settings.server_life_ms,
            &inner.clock,
        )
    }

    /// Keeps the view up to date; never returns.
    async fn follow(&self, pause: Duration) {
        loop {
            if let Err(error) = self.follow_once().await {
                tracing::warn!(%error, "the certificate registry cannot follow the store; trying again");
                tokio::time::sleep(pause.min(Duration::from_secs(1))).await;
            }
        }
    }

    async fn follow_once(&self) -> Result<(), ReadError> {
        let snapshot = self.0.store.load().await?;
        self.0.view.load(&snapshot);
        let mut watch = self.0.store.watch(snapshot.rv).await?;
        while let Some(updates) = watch.recv().await {
            self.0.view.apply(&updates);
        }
        Err(ReadError::Io("the watch ended".into()))
    }

    /// Commits the records that `admin-credentials` left in the data directory, then removes them. Their keys
    /// come from their file names, so that a repeat after a crash writes the same record.
    async fn take_in_audit(&self) -> Result<(), String> {
        let dir = self.0.layout.audit_dir();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(format!("{}: {e}", dir.display())),
        };
        for entry in entries.take(MAX_CHANGES) {
            let path = entry.map_err(|e| format!("{}: {e}", dir.display()))?.path();
            let (Some("json"), Some(id)) = (
                path.extension().and_then(|e| e.to_str()),
                path.file_stem().and_then(|s| s.to_str()),
            ) else {
                continue;
            };
            let Some(fence) = (self.0.fence)() else { return Ok(()) };
            let at = |e: String| format!("{}: {e}", path.display());
            let bytes = std::fs::read(&path).map_err(|e| at(e.to_string()))?;
            let record: AuditRecord = serde_json::from_slice(&bytes).map_err(|e| at(e.to_string()))?;
            self.commit(&fence, vec![record.change_with_id(id)])
                .await
                .map_err(|e| at(e.to_string()))?;
            std::fs::remove_file(&path).map_err(|e| at(e.to_string()))?;
        }
        Ok(())
    }

    /// Removes tokens that could not be used for `keep_tokens_ms`.
    async fn forget_tokens(&self) -> Result<(), CommitError> {
        let now_ms = self.now_ms();
        let keep = self.0.settings.keep_tokens_ms;
        let useless = |record: &TokenRecord| now_ms > record.expires_at_ms.saturating_add(keep);
        let changes: Vec<Change> = self
            .0
            .view
            .tokens()
            .into_iter()
            .filter(|(_, _, record)| useless(record))
            .take(MAX_CHANGES)
            .map(|(id, rv, _)| Change::delete(keys::token(&id), Expect::At(rv)))
            .collect();
        match (self.0.fence)() {
            Some(fence) if !changes.is_empty() => match self.commit(&fence, changes).await {
                // It changed just now; the next round sees it.
                Err(CommitError::Conflict { .. }) => Ok(()),
                other => other,
            },
            _ => Ok(()),
        }
    }
}
