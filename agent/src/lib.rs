//! The agent.
pub mod host;
pub mod runtime;
