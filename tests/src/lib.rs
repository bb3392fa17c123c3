//! The harness of the tests. For `tests/e2e`: real processes, real Docker, real SIGKILL. For `tests/fleet`: the
//! simulated fleet ([`fleet`]), all in this process. For `make bench`: the program `wharf-bench` ([`bench`]).
//!
//! Invariant: a test touches only containers that carry its own cluster's label, and whatever way it ends,
//! its processes and containers are removed.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod docker;
pub mod drains;
pub mod etcd;
pub mod fleet;
pub mod history;
pub mod hosts;
pub mod load;
pub mod program;
pub mod replicas;
pub mod updates;
pub mod wait;

pub use cluster::{Cluster, Options};
pub use hosts::Hosts;
pub use wait::{eventually, eventually_within};
