//! The agent.
pub mod clock;
pub mod ledger;
pub mod runtime;
pub mod step;
