//! The coordinator's crate: the map of its rooms. ARCHITECTURE.md says what may not happen in each.
//!
//! | module | what it is |
//! |---|---|
//! | [`store`] | durable, revisioned keys under one fence |
//! | [`world`] | the typed view of everything, and the one way to write |
//! | [`plan`] | the decisions, pure |
//! | [`control`] | runs the planners |
//! | [`session`] | the agents' streams |
//! | [`ca`] | identity and rights; [`tls`] its accept loop |
//! | [`api`] | the admin services |
//! | [`leader`] | takes the term; refuses a store that is older than what was served |
//! | [`http`] | health and metrics |
//! | [`init`] | a new cluster; [`layout`] where its files lie |
//! | [`config`], [`error`], [`events`], [`run`], [`serve`] | settings, how the process ends, notes, wiring |

pub mod api;
pub mod ca;
pub mod config;
pub mod control;
pub mod error;
pub mod events;
pub mod http;
pub mod init;
pub mod layout;
pub mod leader;
pub mod plan;
pub mod run;
pub mod serve;
pub mod session;
pub mod store;
pub mod tls;
pub mod world;
