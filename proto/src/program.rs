//! What every program does the same at its start: the TLS provider and logging.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Installs ring as rustls' provider. Called first in every `main` and in every test's setup; a second call
/// does nothing.
pub fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
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
