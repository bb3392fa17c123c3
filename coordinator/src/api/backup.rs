//! Cluster.Backup: the store as a file, sent in pieces. Called by `cluster`.
//!
//! Invariant: one at a time; what was sent is on record, with who asked for it, before its first byte leaves.

use std::sync::Arc;

use futures::{StreamExt as _, stream, stream::BoxStream};
use proto::{model::Time, wire::BackupChunk};
use tonic::{Code, Status};

use super::{
    Api,
    errors::{ApiError, one_line},
};
use crate::{
    backup::{self, BackupRecord, Keys, TakeError},
    ca::{
        audit::AuditRecord,
        secret::{
            ClusterKey,
            passphrase::{Cost, PassphraseError},
        },
    },
};

/// Bytes of one piece.
const PIECE: usize = 64 << 10;

/// Reads the cluster's secret, which lies beside the store and not in it. The error says what is wrong with its file.
pub type SecretSource = Arc<dyn Fn() -> Result<ClusterKey, String> + Send + Sync>;

/// A backup's pieces.
pub type Pieces = BoxStream<'static, Result<BackupChunk, Status>>;

impl Api {
    pub(super) async fn backup(
        &self,
        caller: &str,
        reason: &str,
        passphrase: &str,
        secret: &SecretSource,
    ) -> Result<Pieces, Status> {
        let seat = Arc::clone(&self.backups)
            .try_acquire_owned()
            .map_err(|_| ApiError::Busy("another backup is being made; try again once it is done".into()))?;
        let keys = match passphrase {
            "" => None,
            words => Some(Keys {
                secret: Arc::new(secret().map_err(|e| ApiError::Internal(format!("the cluster's secret: {e}")))?),
                passphrase: words.to_owned(),
                cost: Cost::default(),
            }),
        };
        let now_ms = u64::try_from(Time::now().0).unwrap_or(0).saturating_mul(1000);
        let taken = backup::take(&**self.hub.store(), keys, now_ms)
            .await
            .map_err(|e| refusal(&e))?;
        let record = BackupRecord::new(&taken, caller, String::new());
        let keys = if record.keys { ", with keys" } else { "" };
        let detail = format!("version {}, {} bytes{keys}", record.version, record.bytes);
        let audit = AuditRecord::new(now_ms, caller, "backup", "cluster", detail).because(reason);
        let changes = vec![record.change(), audit.change()];
        self.hub.commit(changes).await.map_err(ApiError::Commit)?;
        // The seat is kept until the last piece has left.
        let pieces = stream::unfold((taken.bytes, 0, seat), |(bytes, at, seat)| async move {
            let end = bytes.len().min(at + PIECE);
            let data = bytes.get(at..end).filter(|d| !d.is_empty())?.to_vec();
            Some((Ok(BackupChunk { data }), (bytes, end, seat)))
        });
        Ok(pieces.boxed())
    }
}

fn refusal(error: &TakeError) -> Status {
    let code = match error {
        TakeError::Passphrase(PassphraseError::Short) => Code::InvalidArgument,
        TakeError::Read(_) => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, one_line(&format!("backup: {error}")))
}
