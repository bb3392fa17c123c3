//! Runs a command line against coordinators in this process, and keeps what it wrote. Used by every test here.
//!
//! Invariant: nothing of the machine's own surroundings reaches the command.

use std::{
    collections::BTreeMap,
    future::Future,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use proto::{
    credentials::{ChannelTimes, Credentials},
    model::Time,
};
use serde_json::json;
use tokio::sync::watch;
use tonic::transport::Endpoint;
use wharf::{Env, Times};

use crate::fake::{NOW, Server};

/// A test that hangs fails here.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("the test took too long")
}

/// Text that a command wrote, and a way to wait for it.
#[derive(Clone)]
pub struct Sink(watch::Sender<String>);

impl Sink {
    pub fn new() -> Self {
        Self(watch::Sender::new(String::new()))
    }

    pub fn text(&self) -> String {
        self.0.borrow().clone()
    }

    pub async fn until(&self, done: impl Fn(&str) -> bool) {
        let mut reader = self.0.subscribe();
        let seen = tokio::time::timeout(Duration::from_secs(30), reader.wait_for(|t| done(t))).await;
        assert!(seen.is_ok(), "never written; so far:\n{}", self.text());
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_modify(|t| t.push_str(&String::from_utf8_lossy(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One command line's surroundings.
pub struct Command {
    pub env: Env,
    pub out: Sink,
    pub err: Sink,
    pub interrupt: Option<tokio::sync::oneshot::Sender<()>>,
    pub dir: tempfile::TempDir,
}

#[derive(Debug)]
pub struct Done {
    pub code: u8,
    pub out: String,
    pub err: String,
}

impl Command {
    /// For a cluster with coordinators at these addresses.
    pub fn new(addresses: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = dir.path().join("admin.yaml");
        let text = json!({"coordinators": addresses, "cluster": "0f8fad5b-d9cb-469f-a165-70867728950e",
            "ca": "-", "certificate": "-", "key": "-"});
        std::fs::write(&config, text.to_string()).expect("written");
        let (out, err) = (Sink::new(), Sink::new());
        let (interrupt, interrupted) = tokio::sync::oneshot::channel();
        let env = Env {
            stdin: Box::new(io::empty()),
            stdout: Box::new(out.clone()),
            stderr: Box::new(err.clone()),
            stdin_is_terminal: false,
            stderr_is_terminal: false,
            vars: BTreeMap::from([("WHARF_CONFIG".to_owned(), config.display().to_string())]),
            now: || Time(NOW),
            connect: Arc::new(|_: Credentials, address: String, times: ChannelTimes| {
                async move {
                    Endpoint::from_shared(format!("http://{address}"))
                        .expect("an address")
                        .connect_timeout(times.connect)
                        .connect()
                        .await
                        .map_err(|e| wharf::Error::Unreachable(proto::credentials::root_cause(&e)))
                }
                .boxed()
            }),
            interrupt: async move {
                if interrupted.await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            .boxed()
            .shared(),
            times: Times {
                retry_pause: Duration::from_millis(10),
                poll: (Duration::from_millis(5), Duration::from_millis(20)),
                reconnect: (Duration::from_millis(5), Duration::from_millis(20)),
                ..Times::default()
            },
        };
        Self {
            env,
            out,
            err,
            interrupt: Some(interrupt),
            dir,
        }
    }

    /// A file beside the credentials.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    pub fn stdin(mut self, text: &str) -> Self {
        self.env.stdin = Box::new(io::Cursor::new(text.as_bytes().to_vec()));
        self
    }

    /// Runs `wharf` with these words.
    pub async fn run(self, line: &str) -> Done {
        self.run_words(line.split_whitespace().map(str::to_owned)).await
    }

    pub async fn run_words(mut self, words: impl Iterator<Item = String>) -> Done {
        let args = std::iter::once("wharf".to_owned()).chain(words).map(Into::into);
        let code = within(wharf::run(args, &mut self.env)).await;
        Done {
            code,
            out: self.out.text(),
            err: self.err.text(),
        }
    }
}

/// Runs `line` against one coordinator.
pub async fn wharf(server: &Server, line: &str) -> Done {
    Command::new(&[&server.address]).run(line).await
}
