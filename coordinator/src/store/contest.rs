//! What a store that several coordinators share adds to [`super::Store`]: who leads, and whether that one is alive.
//! Called by `leader`; a store with one coordinator has no contest.
//!
//! Invariant: a term begins by one compare-and-swap over the term that it ends, so no two begin over the same one. A
//! beat says that its writer held the term when a majority of the store took it, and nothing else rests on it.

use async_trait::async_trait;

use super::{CommitError, Fence, ReadError, keys::TermRecord};

/// Key of the beat. No object: it is in no snapshot and no watch.
pub const BEAT: &str = "beat";

/// What is on record about the leadership, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The present term; none: nobody has ever led.
    pub term: Option<(u64, TermRecord)>,
    /// Changes with every beat, whoever writes it; 0: there was none.
    pub beat: u64,
}

/// What a new term says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub incarnation: String,
    /// For people: `host:pid`.
    pub holder: String,
    /// Name of the coordinator.
    pub coordinator: String,
    /// Its session address, HOST:PORT.
    pub address: String,
}

#[async_trait]
pub trait Contest: Send + Sync + 'static {
    /// Term and beat, as a majority of the store has them after the call began. An error: it did not answer in time.
    async fn look(&self) -> Result<Look, ReadError>;

    /// Begins a term if the present one is `over`; as [`super::Store::take_term`] otherwise. `Fenced`: another one
    /// began meanwhile. `Io`: whether it began is unknown; look, and compare the nonce.
    async fn take_over(&self, over: Option<u64>, claim: &Claim) -> Result<Fence, CommitError>;

    /// Writes a beat under the fence. `Fenced`: another term began.
    async fn beat(&self, fence: &Fence) -> Result<(), CommitError>;
}
