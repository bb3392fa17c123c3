//! This host's identity: joining with a token, the identity on disk, renewal. Called by the agent's `run`
//! (join or load, then renew) and by the session (credentials, the coordinators' list).
//!
//! Invariant: the token is sent only to a coordinator whose chain ends in the pinned root; with an identity on
//! disk it is never read; key and certificate on disk always belong together.

mod disk;
mod enrol;
mod renew;
#[cfg(test)]
mod tests;

pub use disk::{Identity, IdentityError};
pub use enrol::{EnrolError, EnrolOptions, EnrolTimes, enrol, join};
pub use renew::{RenewError, renew};
