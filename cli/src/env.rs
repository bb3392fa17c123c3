//! What a run sees of the outside. `main` takes the process's; tests bring their own streams, clock and network.
//!
//! Invariant: no other module reads the process's environment, clock or standard streams.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Read, Write},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use proto::{
    credentials::{ChannelError, ChannelTimes, ConnectError, Credentials, root_cause},
    model::Time,
};
use tonic::transport::Channel;

use crate::error::Error;

/// Connects to one coordinator, `HOST:PORT`. Errors: [`Error::Unreachable`] (why, without the address: another
/// one may answer), or a refusal that no other coordinator changes.
pub type Connect =
    Arc<dyn Fn(Credentials, String, ChannelTimes) -> BoxFuture<'static, Result<Channel, Error>> + Send + Sync>;

pub struct Env {
    pub stdin: Box<dyn Read + Send>,
    pub stdout: Box<dyn Write + Send>,
    pub stderr: Box<dyn Write + Send>,
    /// Questions are for people only.
    pub stdin_is_terminal: bool,
    /// Colours and progress are for people only.
    pub stderr_is_terminal: bool,
    /// Environment variables.
    pub vars: BTreeMap<String, String>,
    pub now: fn() -> Time,
    pub connect: Connect,
    /// Completes when the user presses Ctrl-C. Polled by waits only: elsewhere the signal ends the process.
    pub interrupt: Shared<BoxFuture<'static, ()>>,
    pub times: Times,
}

/// Waits between attempts, and how long to go on.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub channel: ChannelTimes,
    /// Before the second round over the coordinators.
    pub retry_pause: Duration,
    /// Between looks at an object that is being deleted: the first wait, doubling up to the second.
    pub poll: (Duration, Duration),
    /// Between attempts to take up a broken watch: the first wait, doubling up to the second.
    pub reconnect: (Duration, Duration),
    /// A watch gives up when no coordinator has answered for this long.
    pub give_up: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            channel: ChannelTimes::default(),
            retry_pause: Duration::from_millis(500),
            poll: (Duration::from_millis(50), Duration::from_secs(1)),
            reconnect: (Duration::from_millis(200), Duration::from_secs(5)),
            give_up: Duration::from_secs(120),
        }
    }
}

impl Env {
    /// The process's own surroundings.
    pub fn of_process() -> Self {
        Self {
            stdin: Box::new(io::stdin()),
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
            stdin_is_terminal: io::stdin().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            vars: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
            now: Time::now,
            connect: Arc::new(|credentials, address, times| {
                async move { credentials.connect(&address, times).await.map_err(failure) }.boxed()
            }),
            interrupt: async {
                // Without a handler the signal still ends the process.
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            .boxed()
            .shared(),
            times: Times::default(),
        }
    }

    /// A variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }
}

/// Bad credentials are bad for every coordinator.
fn failure(error: ConnectError) -> Error {
    match error {
        ConnectError::Connect { source, .. } => Error::Unreachable(root_cause(&source)),
        ConnectError::Channel(ChannelError::Credentials(source)) => {
            Error::Refused(format!("the credentials cannot be used: {}", root_cause(&source)))
        }
        ConnectError::Channel(e) => Error::Refused(format!("credentials: coordinators: {e}")),
    }
}
