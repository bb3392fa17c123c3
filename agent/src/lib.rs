//! The agent.
pub mod identity;
pub mod host;
pub mod runtime;
