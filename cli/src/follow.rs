//! Follows objects through breaks of the connection and restarts of the coordinator. Called by `get -w` and by waits.
//!
//! A broken watch is taken up where it broke; when the coordinator no longer keeps that revision, all is listed again.
//!
//! Invariant: no change that the coordinator still keeps is left out, or comes twice between two listings.

use std::time::Duration;

use proto::wire::watch_event::Type;
use tokio::time::Instant;

use crate::{
    client::{Client, Query, Watch, WatchError},
    env::Times,
    error::Error,
    received::Received,
};

#[derive(Debug)]
pub enum Step {
    /// All that is there now: at first, and again where changes were missed.
    All(Vec<Received>),
    /// New or changed.
    Put(Received),
    /// As it last was.
    Gone(Received),
    /// For people: it broke, why, and it goes on. Once a break.
    Broken(String),
}

/// When to stop trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// After [`Times::give_up`] without an answer.
    Times,
    /// Never: whoever waits has a limit of their own.
    Endless,
}

pub struct Follow {
    client: Client,
    query: Query,
    times: Times,
    patience: Patience,
    /// None: to be listed.
    revision: Option<u64>,
    stream: Option<Watch>,
    /// Before the next attempt.
    sleep: Option<Duration>,
    pause: Duration,
    answered: Option<Instant>,
    told: bool,
}

impl Follow {
    /// `known`: a coordinator has answered this command before, so that silence is a break and no first failure.
    pub fn new(client: Client, query: Query, times: Times, patience: Patience, known: bool) -> Self {
        Self {
            client,
            query,
            times,
            patience,
            revision: None,
            stream: None,
            sleep: None,
            pause: times.reconnect.0,
            answered: known.then(Instant::now),
            told: false,
        }
    }

    /// What happened next. Errors: refusals, and no coordinator: at first, or for longer than patience allows.
    pub async fn next(&mut self) -> Result<Step, Error> {
        loop {
            if let Some(pause) = self.sleep.take() {
                tokio::time::sleep(pause).await;
            }
            let why = match self.attempt().await {
                Ok(Some(step)) => return Ok(step),
                Ok(None) => continue,
                Err(WatchError::Refused(error)) => return Err(error),
                Err(WatchError::TooOld) => {
                    self.revision = None;
                    "changes were missed; listing again".to_owned()
                }
                Err(WatchError::Broken(why)) => why,
            };
            self.stream = None;
            let Some(answered) = self.answered else {
                return Err(Error::Unreachable(why));
            };
            if self.patience == Patience::Times && answered.elapsed() >= self.times.give_up {
                return Err(Error::Unreachable(format!(
                    "the watch broke and cannot be taken up again: {why}"
                )));
            }
            self.sleep = Some(self.pause);
            self.pause = (self.pause * 2).min(self.times.reconnect.1);
            if !std::mem::replace(&mut self.told, true) {
                return Ok(Step::Broken(why));
            }
        }
    }

    /// One step; none where there is nothing to tell yet.
    async fn attempt(&mut self) -> Result<Option<Step>, WatchError> {
        let Some(revision) = self.revision else {
            let (objects, revision) = self.client.list(&self.query).await.map_err(|e| match e {
                Error::Unreachable(why) => WatchError::Broken(why),
                other => WatchError::Refused(other),
            })?;
            self.revision = Some(revision);
            self.answered = Some(Instant::now());
            return Ok(Some(Step::All(objects)));
        };
        let Some(stream) = &mut self.stream else {
            self.stream = Some(self.client.watch(&self.query, revision).await?);
            self.answered = Some(Instant::now());
            return Ok(None);
        };
        let event = self.client.next_event(stream).await;
        self.answered = Some(Instant::now());
        let Some(event) = event? else {
            return Err(WatchError::Broken("the coordinator ended the watch".to_owned()));
        };
        (self.pause, self.told) = (self.times.reconnect.0, false);
        self.revision = Some(event.resource_version.max(revision));
        let kind = event.r#type();
        let Some(object) = event.object.filter(|_| kind != Type::Bookmark) else {
            return Ok(None);
        };
        let object = Received::new(self.query.kind, object).map_err(WatchError::Refused)?;
        Ok(Some(match kind {
            Type::Deleted => Step::Gone(object),
            _ => Step::Put(object),
        }))
    }
}
