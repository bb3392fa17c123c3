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
//! | [`leader`] | who leads; refuses a store that is older than what was served |
//! | [`peer`] | coordinators among each other |
//! | [`http`] | health and metrics |
//! | [`init`] | a new cluster; [`join`] one more coordinator; [`layout`] where their files lie |
//! | [`backup`] | a store as a file, and back |
//! | [`etcd_config`] | the files of an etcd cluster's hosts |
//! | [`config`], [`error`], [`events`], [`run`], [`serve`] | settings, how the process ends, notes, wiring |

pub mod api;
pub mod backup;
pub mod ca;
pub mod config;
pub mod control;
pub mod error;
pub mod etcd_config;
pub mod events;
pub mod http;
pub mod init;
pub mod join;
pub mod layout;
pub mod leader;
pub mod peer;
pub mod plan;
pub mod run;
pub mod serve;
pub mod session;
pub mod store;
pub mod tls;
pub mod world;
