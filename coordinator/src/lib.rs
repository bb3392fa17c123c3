//! The coordinator.

pub mod control;
pub mod events;
pub mod plan;
pub mod store;
pub mod world;
