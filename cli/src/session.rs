//! What every command has at hand: the client, the namespace, and where to write.
//!
//! Invariant: the namespace is never empty, since an empty one means all of them on the wire.

use std::{io::Write, time::Duration};

use proto::model::{Kind, Time};

use crate::{
    args::{Global, duration},
    client::Client,
    config,
    env::Env,
    error::Error,
    known::Known,
    output::clean,
};

const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Session<'e> {
    pub env: &'e mut Env,
    pub client: Client,
    /// In force when an object names none.
    pub namespace: String,
    /// The user gave it for this run.
    pub namespace_given: bool,
    color: bool,
}

impl<'e> Session<'e> {
    /// Reads the credentials; connects to nothing yet.
    pub fn open(global: &Global, env: &'e mut Env, color: bool) -> Result<Self, Error> {
        let given = global
            .namespace
            .clone()
            .or_else(|| env.var("WHARF_NAMESPACE").map(str::to_owned));
        if given.as_deref() == Some("") {
            return Err(Error::Usage(
                "--namespace: it is empty; use -A for all namespaces".into(),
            ));
        }
        let timeout = match (global.request_timeout, env.var("WHARF_REQUEST_TIMEOUT")) {
            (Some(timeout), _) => timeout,
            (None, Some(text)) => {
                duration(text).map_err(|e| Error::Usage(format!("WHARF_REQUEST_TIMEOUT {text:?}: {e}")))?
            }
            (None, None) => DEFAULT_REQUEST_TIMEOUT,
        };
        let timeout = (!timeout.is_zero()).then_some(timeout);
        let path = config::path(global.config.as_deref(), env)?;
        let credentials = config::load(&path)?;
        let known = Known::beside(&path, &credentials);
        let namespace = given
            .clone()
            .or_else(|| credentials.namespace.clone().filter(|n| !n.is_empty()))
            .unwrap_or_else(|| "default".to_owned());
        let mut client = Client::new(credentials, known, env.connect.clone(), env.times, timeout);
        if let Some(reason) = &global.reason {
            client = client
                .because(reason)
                .map_err(|what| Error::Usage(format!("--reason: {what}")))?;
        }
        Ok(Self {
            client,
            namespace,
            namespace_given: given.is_some(),
            color,
            env,
        })
    }

    /// Namespace of an object of `kind`: empty for kinds without one.
    pub fn namespace_for(&self, kind: Kind) -> String {
        if kind.namespaced() {
            self.namespace.clone()
        } else {
            String::new()
        }
    }

    pub fn now(&self) -> Time {
        (self.env.now)()
    }

    /// Writes data to stdout, at once.
    pub fn out(&mut self, text: &str) -> Result<(), Error> {
        self.env.stdout.write_all(text.as_bytes())?;
        Ok(self.env.stdout.flush()?)
    }

    /// Writes a line for people to stderr.
    pub fn note(&mut self, text: &str) {
        // A note that cannot be written is no reason to fail.
        let _ = writeln!(self.env.stderr, "{}", clean(text));
    }

    /// Writes a `warning:` line to stderr.
    pub fn warn(&mut self, text: &str) {
        let label = if self.color {
            "\u{1b}[1;33mwarning:\u{1b}[0m"
        } else {
            "warning:"
        };
        // As for a note.
        let _ = writeln!(self.env.stderr, "{label} {}", clean(text));
    }
}
