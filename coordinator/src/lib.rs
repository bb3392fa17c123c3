//! The coordinator.

pub mod events;
pub mod store;
pub mod world;
