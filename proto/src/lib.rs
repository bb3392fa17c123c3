//! All that Wharfinger's programs agree on. Used by coordinator, agent and command; uses none of them.
//!
//! | module | what it is |
//! |---|---|
//! | [`wire`] | generated messages and services of `wharfinger/v1/*.proto` |
//! | [`model`] | the Kubernetes-shaped objects, their validation, quantities and selectors; no I/O |
//! | [`ids`] | uids, pod name suffixes, container names and labels |
//! | [`capability`] | what an agent must be able to do for a pod |
//! | [`order`] | which of two observed states is the later one |
//! | [`identity`] | the URI in a certificate and the name of the coordinators' certificate |
//! | [`reason`] | why somebody asks for a change, as a header carries it |
//! | [`token`] | the joining token's text |
//! | [`backup`] | the form of a backup file |
//! | [`digest`] | the digest over a node's assignments |
//! | [`credentials`] | `admin.yaml` / PEM bundle, and a channel made from it |
//! | [`pin`] | a connection that trusts one root by its key's hash: joining |
//! | [`flow`] | HTTP/2 windows: what may wait on a connection |
//! | [`files`] | private files that are whole or absent |
//! | [`program`] | what every program does the same at its start: logging, the TLS provider |
//!
//! Invariant: everything but [`credentials`], [`files`], [`pin`] and [`program`] is pure.

pub mod backup;
pub mod capability;
pub mod credentials;
pub mod digest;
pub mod files;
pub mod flow;
pub mod identity;
pub mod ids;
pub mod model;
pub mod order;
pub mod pin;
pub mod program;
pub mod reason;
pub mod token;

/// Generated from `wharfinger/v1/*.proto`; the documentation of each message stands there.
pub mod wire {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("wharfinger.v1");
    /// Encoded `FileDescriptorSet`, for the reflection service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wharfinger.bin"));
}

/// Release of this build, `MAJOR.MINOR.PATCH`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
