//! The agent.
pub mod identity;
pub mod runtime;
