//! What every program does the same at its start: the TLS provider, logging, and no dump of its memory.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Installs ring as rustls' provider. Called first in every `main` and in every test's setup; a second call
/// does nothing.
pub fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Keeps keys and tokens out of core files: none is written, to a file or to a collector, and no other process of
/// this user may look into the memory. Called first in the `main` of a program that holds a node's or a cluster's keys.
pub fn forbid_core_dumps() {
    use nix::sys::{
        prctl,
        resource::{Resource, setrlimit},
    };
    // A collector behind a pipe is not bound by the limit; the other one is what `ulimit -c` shows.
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| prctl::set_dumpable(false)) {
        tracing::warn!(%error, "core dumps could not be forbidden: a crash may write keys to disk");
    }
}

/// Logs to stderr: for people on a terminal, JSON otherwise. `WHARF_LOG` filters, e.g. `info,agent=debug`.
pub fn init_logging() {
    let filter =
        EnvFilter::try_from_env("WHARF_LOG").unwrap_or_else(|_| EnvFilter::new("info,h2=warn,hyper=warn,tonic=warn"));
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second initialisation (tests) keeps the first one.
    let _ = if std::io::stderr().is_terminal() {
        base.with_target(false).try_init()
    } else {
        base.json().flatten_event(true).with_target(false).try_init()
    };
}

#[cfg(test)]
mod tests {
    use nix::sys::{
        prctl,
        resource::{Resource, getrlimit},
    };

    use super::*;

    #[test]
    fn no_core_is_written_anywhere() {
        assert_eq!(prctl::get_dumpable(), Ok(true), "or this test shows nothing");
        forbid_core_dumps();
        assert_eq!(prctl::get_dumpable(), Ok(false));
        assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
    }
}
