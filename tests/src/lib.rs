//! The harness of the end-to-end tests: real processes, real Docker, real SIGKILL. Used by `tests/e2e` only.
//!
//! Invariant: a test touches only containers that carry its own cluster's label, and whatever way it ends,
//! its processes and containers are removed.

pub mod cluster;
pub mod docker;
pub mod program;
pub mod wait;

pub use cluster::{Cluster, Options};
pub use wait::{eventually, eventually_within};
