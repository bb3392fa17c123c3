//! What a client needs to speak to a cluster: `admin.yaml` for people and foreign programs, the same parts in
//! an agent's identity file; and the channel made from them. Used by command and agent.
//!
//! Invariant: the coordinators are verified by the cluster's CA and the name
//! `coordinator.<uuid>.wharfinger.internal`, never by their address.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{flow, identity::coordinator_dns_name};

/// The document `admin.yaml` (and its JSON form).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credentials {
    /// Session addresses, HOST:PORT.
    pub coordinators: Vec<String>,
    /// UUID.
    pub cluster: String,
    /// PEM: the roots to trust.
    pub ca: String,
    /// PEM: leaf, then intermediate.
    pub certificate: String,
    /// PEM, PKCS#8.
    pub key: String,
    /// Namespace used when a command names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("coordinators", &self.coordinators)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("coordinator address {address:?} is not HOST:PORT")]
    Address { address: String },
    #[error("the credentials cannot be used: {0}")]
    Credentials(tonic::transport::Error),
    #[error("the cluster's root cannot be used: {0}")]
    Verifier(String),
}

/// Timings of a channel. HTTP/2 keepalive is off by default in tonic: without it a silent partner is never
/// noticed.
#[derive(Clone, Copy, Debug)]
pub struct ChannelTimes {
    pub connect: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
}

impl Default for ChannelTimes {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
        }
    }
}

impl Credentials {
    /// An endpoint for one coordinator; nothing is connected yet.
    pub fn endpoint(&self, address: &str, times: ChannelTimes) -> Result<Endpoint, ChannelError> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .domain_name(coordinator_dns_name(&self.cluster));
        Self::bare(address, times)?
            .tls_config(tls)
            .map_err(ChannelError::Credentials)
    }

    /// The same without credentials: whoever connects brings others.
    pub fn bare(address: &str, times: ChannelTimes) -> Result<Endpoint, ChannelError> {
        let bad = || ChannelError::Address {
            address: address.to_owned(),
        };
        if address
            .rsplit_once(':')
            .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            return Err(bad());
        }
        let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(|_| bad())?;
        Ok(endpoint
            .connect_timeout(times.connect)
            .http2_keep_alive_interval(times.keepalive_interval)
            .keep_alive_timeout(times.keepalive_timeout)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .initial_stream_window_size(flow::STREAM_WINDOW)
            .initial_connection_window_size(flow::CONNECTION_WINDOW))
    }

    /// Connects to one coordinator.
    pub async fn connect(&self, address: &str, times: ChannelTimes) -> Result<Channel, ConnectError> {
        let endpoint = self.endpoint(address, times)?;
        endpoint.connect().await.map_err(|source| ConnectError::Connect {
            address: address.to_owned(),
            source,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("{address}: {}", root_cause(source))]
    Connect {
        address: String,
        source: tonic::transport::Error,
    },
}

/// The innermost error: tonic's outer ones say only `transport error`.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    plain(&current.to_string())
}

/// The library's words where they would send an operator to its manual, in ours.
fn plain(words: &str) -> String {
    match words {
        w if w.contains("close_notify") => "the connection broke".into(),
        w if w.contains("error reading a body from connection") => "the connection broke".into(),
        w if w.contains("InvalidContentType") => "it does not speak TLS there; is the port right?".into(),
        // Its words name both times.
        w if w.contains("not valid yet") || w.contains("certificate expired") => {
            format!("{w}; is a clock wrong here or there? set both by NTP")
        }
        w => w.into(),
    }
}
