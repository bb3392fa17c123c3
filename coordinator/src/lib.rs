//! The coordinator.

pub mod config;
pub mod error;
pub mod events;
pub mod http;
pub mod leader;
pub mod run;
pub mod session;
pub mod store;
pub mod world;
