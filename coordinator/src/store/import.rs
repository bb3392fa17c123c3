//! Filling an empty store with what another one had, versions and all. Called by `backup::restore` and
//! `backup::migrate`; nothing else writes without a fence.
//!
//! Invariant: into an empty store only; before all is there, nothing of it can be read or served; every version handed out
//! later is above all that are imported.

use async_trait::async_trait;

use super::{CommitError, Entry, Rv};

/// Highest base: versions must stay below the sign of 64 bits.
const MOST: u64 = 1 << 46;

/// What a store is to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// By key, each once.
    pub entries: Vec<Entry>,
    /// Newest version that counts as handed out; a watch cannot be taken up from before it.
    pub newest: Rv,
    /// Every later transaction has a revision above this.
    pub base: u64,
}

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum ImportError {
    #[error("the store is not empty")]
    NotEmpty,
    /// A fault of the caller, or numbers that are used up.
    #[error("what is to be imported is not in order: {0}")]
    Invalid(&'static str),
    /// Another process fills it.
    #[error("{0}")]
    Busy(String),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Imported {
    pub fn check(&self) -> Result<(), ImportError> {
        let sorted = self.entries.windows(2).all(|w| matches!(w, [a, b] if a.key < b.key));
        if !sorted {
            return Err(ImportError::Invalid("a key stands twice, or they are not sorted"));
        }
        if self.entries.iter().any(|e| e.rv > self.newest) {
            return Err(ImportError::Invalid("an entry is newer than the newest version"));
        }
        if self.newest.revision() > self.base || self.base > MOST {
            return Err(ImportError::Invalid(
                "the base does not lie above the newest version, or versions are used up",
            ));
        }
        Ok(())
    }
}

#[async_trait]
pub trait Import: super::Store {
    /// Durable on return; on an error the store counts as empty, unless the error says that this is unknown.
    async fn import(&self, state: Imported) -> Result<(), ImportError>;

    /// Takes an import back that this process made and nobody has led since. What lies in files, the caller removes.
    async fn withdraw(&self) -> Result<(), ImportError> {
        Ok(())
    }
}
