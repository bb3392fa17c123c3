//! Views of a drain or of an update as they come, through breaks of the connection and restarts of the coordinator. Owned
//! by a wait.
//!
//! Invariant: every view is whole, so that nothing is lost by a break; it tries again for ever: whoever waits has a limit
//! of their own.

use std::time::Duration;

use proto::wire::{DrainView, UpdateView};

use crate::{
    client::{Client, ViewWatch, WatchError},
    env::Times,
    error::Error,
    target::Reference,
};

#[derive(Debug)]
pub enum Step<V> {
    View(Box<V>),
    /// For people: it broke, why, and it goes on. Once a break.
    Broken(String),
}

/// What is watched.
pub trait Watched {
    type View;

    async fn open(&self, client: &mut Client) -> Result<ViewWatch<Self::View>, WatchError>;
}

/// The drain of this node.
pub struct OfNode(pub String);

impl Watched for OfNode {
    type View = DrainView;

    async fn open(&self, client: &mut Client) -> Result<ViewWatch<DrainView>, WatchError> {
        client.watch_drain(&self.0).await
    }
}

/// The update of this controller.
pub struct OfController(pub Reference);

impl Watched for OfController {
    type View = UpdateView;

    async fn open(&self, client: &mut Client) -> Result<ViewWatch<UpdateView>, WatchError> {
        client.watch_update(&self.0).await
    }
}

pub struct Follow<W: Watched> {
    client: Client,
    watched: W,
    times: Times,
    stream: Option<ViewWatch<W::View>>,
    /// Before the next attempt.
    sleep: Option<Duration>,
    pause: Duration,
    told: bool,
}

impl<W: Watched> Follow<W> {
    pub fn new(client: Client, watched: W, times: Times) -> Self {
        Self {
            client,
            watched,
            times,
            stream: None,
            sleep: None,
            pause: times.reconnect.0,
            told: false,
        }
    }

    /// What happened next; may be dropped and called again. Errors: refusals.
    pub async fn next(&mut self) -> Result<Step<W::View>, Error> {
        loop {
            if let Some(pause) = self.sleep {
                tokio::time::sleep(pause).await;
                self.sleep = None;
            }
            let why = match self.attempt().await {
                Ok(Some(view)) => {
                    (self.pause, self.told) = (self.times.reconnect.0, false);
                    return Ok(Step::View(Box::new(view)));
                }
                Ok(None) => "the coordinator ended the watch".to_owned(),
                Err(WatchError::Refused(error)) => return Err(error),
                Err(WatchError::TooOld) => "the watch fell behind".to_owned(),
                Err(WatchError::Broken(why)) => why,
            };
            self.stream = None;
            self.sleep = Some(self.pause);
            self.pause = (self.pause * 2).min(self.times.reconnect.1);
            if !std::mem::replace(&mut self.told, true) {
                return Ok(Step::Broken(why));
            }
        }
    }

    /// Whether views come by themselves at this moment.
    pub fn open(&self) -> bool {
        self.stream.is_some()
    }

    /// Asks anew, where it asked last.
    pub fn renew(&mut self) {
        self.stream = None;
    }

    async fn attempt(&mut self) -> Result<Option<W::View>, WatchError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.watched.open(&mut self.client).await?),
        };
        self.client.next_view(stream).await
    }
}
