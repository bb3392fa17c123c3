//! The agent.
pub mod host;
pub mod identity;
pub mod runtime;
