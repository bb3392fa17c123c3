//! Coordinators among each other: a standby follows the active one, and passes on to it what it may not do itself.
//! Wired by `serve`; nothing of it exists where one coordinator is alone.
//!
//! | module | what it is |
//! |---|---|
//! | [`link`] | a standby's one stream to the active one, and what its state says about that one's life |
//! | [`service`] | the other end of that stream |
//! | [`standing`] | how all of them are, for `wharf cluster` |
//! | [`wiring`] | puts them together |
//! | [`forward`] | the layer that answers here what any replica may answer, and passes on the rest |
//!
//! Invariant: a standby writes nothing; a call is passed on once at most and keeps its caller, whom the active one
//! authorizes anew; what may have been received is never sent a second time.

pub mod forward;
pub mod link;
pub mod service;
pub mod standing;
pub mod wiring;

use std::sync::Arc;

use async_trait::async_trait;
use tonic::transport::Channel;

use crate::world::{World, hub::Hub};

/// Why a peer cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Its host answers, and nothing listens there.
    #[error("connection refused")]
    Refused,
    #[error("{0}")]
    Other(String),
}

/// Connects to peers, as this coordinator.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// An open connection to the session port at HOST:PORT, whose other end has proven to be a coordinator of this
    /// cluster.
    async fn dial(&self, address: &str) -> Result<Channel, DialError>;
}

/// The active coordinator, by the newest term on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub term: u64,
    pub name: String,
    pub address: String,
}

impl Leader {
    /// `None`: nobody else leads, as far as is known here. `own`: this coordinator's name; its own earlier term has
    /// nobody to reach behind it.
    pub fn of(world: &World, own: &str) -> Option<Self> {
        let (term, record) = world.leader()?;
        let other = record.coordinator != own && !record.address.is_empty();
        other.then(|| Self {
            term,
            name: record.coordinator.clone(),
            // Where it is now, if it has moved since its term began.
            address: world
                .coordinators
                .get(&record.coordinator)
                .map_or_else(|| record.address.clone(), |c| c.value.address.clone()),
        })
    }
}

/// Resolves when another one may lead: a term began, or this coordinator came to lead or ceased to.
pub async fn leader_changed(hub: &Hub, before: Option<&Leader>, own: &str) {
    let mut feed = hub.subscribe();
    let mut fences = hub.fences();
    let led = fences.borrow_and_update().is_some();
    loop {
        if hub.read(|w| Leader::of(w, own)).as_ref() != before || fences.borrow().is_some() != led {
            return;
        }
        tokio::select! {
            // Lagging is as good as a batch: look again.
            _ = feed.recv() => {}
            _ = fences.changed() => {}
        }
    }
}

/// What both ends know of this process.
#[derive(Clone, Debug)]
pub struct Own {
    pub name: String,
    /// Session address, HOST:PORT.
    pub address: String,
    /// Where hosts join here, HOST:PORT.
    pub enrol: String,
}

/// Connects by the authority's certificates; see [`Dial`].
pub type Dialer = Arc<dyn Dial>;

/// Whether a connection was refused, so that nothing can have been received.
fn refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(e) = source {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        source = e.source();
    }
    false
}
