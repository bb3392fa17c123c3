//! The call that fetches a backup. Used by `wharf cluster backup`.
//!
//! Invariant: it begins at whichever coordinator answers; one that breaks off is begun again by who asked, from its
//! beginning.

use proto::wire::{self, cluster_client::ClusterClient};
use tonic::{Status, Streaming};

use super::{Call, Client, is_broken, is_elsewhere, refused, words};
use crate::error::Error;

/// A backup's pieces, in order.
pub struct Pieces(Streaming<wire::BackupChunk>);

impl Client {
    /// Begins a backup; with the cluster's secret if there is a passphrase.
    pub async fn backup(&mut self, passphrase: &str) -> Result<Pieces, Error> {
        let request = wire::BackupRequest {
            passphrase: passphrase.to_owned(),
        };
        // Begun twice it is taken twice, which changes nothing.
        let pieces = self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { ClusterClient::new(channel).backup(request).await }
        });
        Ok(Pieces(pieces.await?))
    }

    /// The next piece; `None`: there are no more. The time limit is for each.
    pub async fn next_piece(&mut self, pieces: &mut Pieces) -> Result<Option<Vec<u8>>, Error> {
        match self.bounded(pieces.0.message()).await {
            Some(Ok(piece)) => Ok(piece.map(|p| p.data)),
            Some(Err(status)) => Err(self.backup_error(&status)),
            None => {
                let address = self.address();
                Err(Error::Unreachable(format!(
                    "{address}: the backup stopped coming; see --request-timeout"
                )))
            }
        }
    }

    fn backup_error(&mut self, status: &Status) -> Error {
        if !is_elsewhere(status) {
            return refused(status);
        }
        let address = self.address();
        if is_broken(status) {
            return Error::Unreachable(format!("{address}: {}", words(status)));
        }
        refused(status)
    }
}
