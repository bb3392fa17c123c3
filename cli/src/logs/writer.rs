//! Writes to stdout in a thread of its own: a reader such as `less` may leave it full for as long as it likes, and
//! meanwhile the connection must be kept alive. Used by `logs`.
//!
//! Invariant: what is written is in order and bounded; nothing is lost when it ends by [`Writer::finish`].

use std::io::{self, Write};

use tokio::sync::{mpsc, oneshot};

/// Messages that wait to be written.
const WAITING: usize = 16;

type Stdout = Box<dyn Write + Send>;

pub struct Writer {
    bytes: mpsc::Sender<Vec<u8>>,
    done: oneshot::Receiver<(Stdout, io::Result<()>)>,
}

impl Writer {
    /// Takes stdout over.
    pub fn start(mut stdout: Stdout) -> io::Result<Self> {
        let (bytes, mut waiting) = mpsc::channel::<Vec<u8>>(WAITING);
        let (tell, done) = oneshot::channel();
        std::thread::Builder::new().name("stdout".into()).spawn(move || {
            let mut result = Ok(());
            while let Some(bytes) = waiting.blocking_recv() {
                result = stdout
                    .write_all(&bytes)
                    .and_then(|()| if waiting.is_empty() { stdout.flush() } else { Ok(()) });
                if result.is_err() {
                    break;
                }
            }
            // Senders learn of the failure before they are told.
            drop(waiting);
            let _ = tell.send((stdout, result));
        })?;
        Ok(Self { bytes, done })
    }

    /// False: stdout has failed, as [`Writer::finish`] tells.
    pub async fn write(&self, bytes: Vec<u8>) -> bool {
        self.bytes.send(bytes).await.is_ok()
    }

    /// Resolves once stdout has failed.
    pub async fn failed(&self) {
        self.bytes.closed().await;
    }

    /// Waits until all is written, and gives stdout back.
    pub async fn finish(self) -> (Option<Stdout>, io::Result<()>) {
        drop(self.bytes);
        match self.done.await {
            Ok((stdout, result)) => (Some(stdout), result),
            Err(_) => (None, Err(io::Error::other("the thread that writes it ended"))),
        }
    }
}
