//! The replicas of the coordinator, as the store has them, and which of them leads. Read by `session` (whom agents are
//! told), `leader` and `api`.
//!
//! Invariant: who leads is what the newest term says, not what anybody was told.

use proto::model::Time;
use serde::{Deserialize, Serialize};

use super::World;
use crate::store::keys::TermRecord;

/// `coordinator/<name>`: one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorRecord {
    /// Where agents, the command and its peers reach it, HOST:PORT.
    pub address: String,
    /// Where hosts join, HOST:PORT.
    pub enrol: String,
    pub joined: Time,
    /// Its release, `MAJOR.MINOR.PATCH`.
    #[serde(default)]
    pub version: String,
}

impl World {
    /// The newest term and what it says of its holder.
    pub fn leader(&self) -> Option<(u64, &TermRecord)> {
        self.terms.last_key_value().map(|(term, record)| (*term, record))
    }

    /// Session addresses of all replicas, the leader's first, the others by name; empty where none is on record.
    pub fn coordinator_addresses(&self) -> Vec<String> {
        let leader = self.leader().map(|(_, record)| record.coordinator.as_str());
        let mut all: Vec<_> = self.coordinators.iter().collect();
        all.sort_by_key(|(name, _)| (Some(name.as_str()) != leader, name.as_str()));
        all.into_iter()
            .map(|(_, record)| record.value.address.clone())
            .collect()
    }
}
