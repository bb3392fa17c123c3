//! The coordinator.

pub mod api;
pub mod events;
pub mod store;
pub mod world;
