//! The coordinator: keeps the fleet's state, decides, and talks to agents. `main` and tests call [`run`].
//!
//! Invariant: this file is the map and the wiring of modules only.

pub mod config;
pub mod error;
pub mod events;
pub mod http;
pub mod leader;
pub mod run;
pub mod session;
pub mod store;
pub mod world;
