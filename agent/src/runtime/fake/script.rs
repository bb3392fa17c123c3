//! What the engine in memory is told to do.

use std::time::Duration;

use crate::runtime::RuntimeError;

/// A call of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Info,
    List,
    Inspect,
    Image,
    Pull,
    Create,
    Start,
    Stop,
    Remove,
    Exec,
    Log,
    Volumes,
    RemoveVolume,
}

/// How the main process of a container behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    Forever,
    Exit {
        code: i32,
        after: Duration,
    },
    /// Killed for memory after a while.
    OutOfMemory {
        after: Duration,
    },
}

/// One image: whether it is there, how it is pulled, and how its containers behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageScript {
    pub present: bool,
    /// USER of the image.
    pub user: String,
    pub pull_takes: Duration,
    /// What a pull under way tells of itself.
    pub progress: Option<String>,
    /// The engine's words.
    pub pull_error: Option<String>,
    pub create_error: Option<String>,
    pub start_error: Option<String>,
    pub run: Run,
    /// From the stop signal to the exit; longer than the grace: it is killed.
    pub stop_takes: Duration,
    /// What its containers have written.
    pub log: String,
}

impl Default for ImageScript {
    fn default() -> Self {
        Self {
            present: true,
            user: String::new(),
            pull_takes: Duration::ZERO,
            progress: None,
            pull_error: None,
            create_error: None,
            start_error: None,
            run: Run::Forever,
            stop_takes: Duration::ZERO,
            log: String::new(),
        }
    }
}

impl ImageScript {
    /// Not on the host, and no registry has it.
    pub fn absent(words: &str) -> Self {
        Self {
            present: false,
            pull_error: Some(words.to_owned()),
            ..Self::default()
        }
    }

    /// Not on the host; a pull brings it after a while.
    pub fn slow_pull(takes: Duration) -> Self {
        Self {
            present: false,
            pull_takes: takes,
            ..Self::default()
        }
    }

    pub fn exits(code: i32, after: Duration) -> Self {
        Self {
            run: Run::Exit { code, after },
            ..Self::default()
        }
    }

    pub fn refuses_create(words: &str) -> Self {
        Self {
            create_error: Some(words.to_owned()),
            ..Self::default()
        }
    }

    pub fn refuses_start(words: &str) -> Self {
        Self {
            start_error: Some(words.to_owned()),
            ..Self::default()
        }
    }
}

/// How a command in a container ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub code: i64,
    pub takes: Duration,
}

/// An injected failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub error: RuntimeError,
    /// The call does its work and fails all the same.
    pub took_effect: bool,
}

impl Failure {
    /// No answer, and no effect.
    pub fn lost() -> Self {
        Self {
            error: RuntimeError::Unavailable("injected: no answer".into()),
            took_effect: false,
        }
    }

    /// No answer, but the call took effect.
    pub fn lost_reply() -> Self {
        Self {
            took_effect: true,
            ..Self::lost()
        }
    }

    pub fn refused(words: &str) -> Self {
        Self {
            error: RuntimeError::Refused(words.to_owned()),
            took_effect: false,
        }
    }
}
