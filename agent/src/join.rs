//! Who this agent is and how it reaches coordinators. Made by the program from the identity on disk, by tests and
//! the simulated fleet from whatever they have; used by the session.
//!
//! Invariant: a renewed certificate is a new connector; the session then starts anew and running work is not
//! touched.

use std::sync::Arc;

use async_trait::async_trait;
use proto::credentials::{ChannelTimes, Credentials};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::settings::{Settings, ms};

/// Opens a connection to one coordinator. The error is one line for an operator.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    async fn connect(&self, address: &str) -> Result<Channel, String>;
}

/// Mutual TLS by the cluster's CA.
pub struct TlsConnector {
    credentials: Credentials,
    times: ChannelTimes,
}

impl TlsConnector {
    pub fn new(credentials: Credentials, settings: &Settings) -> Self {
        let times = ChannelTimes {
            connect: ms(settings.connect_timeout_ms),
            keepalive_interval: ms(settings.keepalive_interval_ms),
            keepalive_timeout: ms(settings.keepalive_timeout_ms),
        };
        Self { credentials, times }
    }
}

#[async_trait]
impl Connector for TlsConnector {
    async fn connect(&self, address: &str) -> Result<Channel, String> {
        self.credentials
            .connect(address, self.times)
            .await
            .map_err(|e| e.to_string())
    }
}

/// See the module's head.
#[derive(Clone)]
pub struct Join {
    /// Name of this node, as in its certificate.
    pub node: String,
    /// First contact, HOST:PORT; the ledger's list goes before it, and these are tried when none of it can be reached.
    pub coordinators: Vec<String>,
    pub connector: watch::Receiver<Arc<dyn Connector>>,
    /// The channel of the session with the active coordinator, or else of one with a standby, while there is one: renewals go
    /// over it.
    pub channel: Arc<watch::Sender<Option<Channel>>>,
}

impl Join {
    /// An identity whose renewals are sent as new connectors ([`TlsConnector`]); sessions end with the sender.
    pub fn renewing(
        node: impl Into<String>,
        credentials: Credentials,
        settings: &Settings,
    ) -> (Self, watch::Sender<Arc<dyn Connector>>) {
        let coordinators = credentials.coordinators.clone();
        Self::with(node, coordinators, Arc::new(TlsConnector::new(credentials, settings)))
    }

    /// Any connector.
    pub fn with(
        node: impl Into<String>,
        coordinators: Vec<String>,
        connector: Arc<dyn Connector>,
    ) -> (Self, watch::Sender<Arc<dyn Connector>>) {
        let (sender, connector) = watch::channel(connector);
        let join = Self {
            node: node.into(),
            coordinators,
            connector,
            channel: Arc::default(),
        };
        (join, sender)
    }
}
