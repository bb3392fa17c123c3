//! Renewal over an open channel. Called by the agent's `run` when [`Identity::renewal_due`].
//!
//! Invariant: each renewal has a new key; the old identity stays on disk until the new one is whole.

use std::path::Path;

use proto::wire::{self, agent_client::AgentClient};
use tonic::{Code, Status, transport::Channel};

use super::disk::{self, Identity, IdentityError};

#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the certificate was not renewed: {}", .0.message())]
    Refused(Status),
}

impl RenewError {
    /// Whether trying again later can succeed; otherwise this host must join again.
    pub fn transient(&self) -> bool {
        match self {
            Self::Identity(_) => true,
            Self::Refused(status) => !matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied),
        }
    }
}

/// Asks for a new certificate with a new key and writes it to disk. Connections made from now on should use
/// it: its first use ends the old one's validity.
pub async fn renew(identity: &Identity, data_dir: &Path, channel: Channel) -> Result<Identity, RenewError> {
    let key = disk::new_key()?;
    let request = wire::RenewRequest {
        csr_der: disk::csr(&key)?,
    };
    let issued = AgentClient::new(channel)
        .renew(request)
        .await
        .map_err(RenewError::Refused)?
        .into_inner();
    let renewed = Identity::from_issued(
        &identity.cluster,
        &identity.node,
        identity.coordinators.clone(),
        &key,
        issued,
    )?;
    renewed.save(data_dir)?;
    tracing::info!(
        node = renewed.node,
        not_after = %proto::model::Time(i64::try_from(renewed.not_after).unwrap_or(i64::MAX)),
        "certificate renewed"
    );
    Ok(renewed)
}
