//! The call that fetches a backup. Used by `wharf cluster backup`.
//!
//! Invariant: one attempt; a broken one is begun again by who asked, from its beginning.

use proto::wire::{self, cluster_client::ClusterClient};
use tonic::{Status, Streaming};

use super::{Client, Sending, is_broken, is_elsewhere, refused, words};
use crate::error::Error;

/// A backup's pieces, in order.
pub struct Pieces(Streaming<wire::BackupChunk>);

impl Client {
    /// Begins a backup; with the cluster's secret if there is a passphrase.
    pub async fn backup(&mut self, passphrase: &str) -> Result<Pieces, Error> {
        let address = self.address();
        let channel = match self.channel().await {
            Ok(channel) => Sending::new(channel, self.because.clone()),
            Err(Error::Unreachable(why)) => return Err(Error::Unreachable(format!("{address}: {why}"))),
            Err(e) => return Err(e),
        };
        let request = wire::BackupRequest {
            passphrase: passphrase.to_owned(),
        };
        match self.bounded(ClusterClient::new(channel).backup(request)).await {
            Some(Ok(reply)) => Ok(Pieces(reply.into_inner())),
            Some(Err(status)) => Err(self.backup_error(&status)),
            None => Err(Error::Unreachable(format!(
                "{address}: no answer; see --request-timeout"
            ))),
        }
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
