//! The coordinator.

pub mod ca;
pub mod init;
pub mod store;
pub mod tls;
