//! The agent.
pub mod clock;
pub mod runtime;
pub mod step;
