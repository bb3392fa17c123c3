//! The agent.
pub mod runtime;
