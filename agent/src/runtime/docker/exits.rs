//! What an inspection does not tell of an exit: the init's words where it could not execute the command, and
//! memory kills that the engine learned of too late. Called for each look at an ended container.
//!
//! Invariant: each container is asked about once; an answer that cannot be had takes nothing away from the
//! exit code.

use std::{collections::HashMap, pin::pin, time::Duration};

use bollard::{
    models::ContainerInspectResponse,
    query_parameters::{EventsOptionsBuilder, LogsOptions, LogsOptionsBuilder},
};
use futures::StreamExt as _;

use super::{DockerRuntime, errors::Problem, locked, observe};
use crate::runtime::Exit;

/// How long the engine's word of a memory kill may come after that of the exit.
const LATE: Duration = Duration::from_secs(2);
/// Most of a log that is kept while it is read.
const LOG_BYTES: usize = 64 << 10;

/// What was learned of an ended container.
#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    /// The init's words, if it could not execute the command.
    init: Option<Option<String>>,
    memory_kill: Option<bool>,
}

impl DockerRuntime {
    /// Completes an exit by what only the log and the events tell.
    pub(super) async fn explain(&self, seen: &ContainerInspectResponse, exit: &mut Exit) {
        let Some(id) = seen.id.as_deref() else { return };
        if exit.error.is_empty()
            && observe::NOT_EXECUTED.contains(&exit.code)
            && let Some(words) = self.init_failure(id).await
        {
            exit.error = words;
        }
        let limited = seen.host_config.as_ref().and_then(|h| h.memory).is_some_and(|m| m > 0);
        if limited && exit.code == 137 && !exit.oom {
            exit.oom = self.memory_kill(id).await;
        }
    }

    /// Forgets containers that are gone.
    pub(super) fn forget_exits(&self, there: impl Fn(&String) -> bool) {
        locked(&self.exits).retain(|id, _| there(id));
    }

    /// Why the init could not execute the container's command, if that is why it ended.
    async fn init_failure(&self, id: &str) -> Option<String> {
        if let Some(known) = locked(&self.exits).get(id).and_then(|l| l.init.clone()) {
            return known;
        }
        let options = LogsOptionsBuilder::default().stderr(true).tail("5").build();
        let words = match self.read_log(id, options).await {
            Ok(log) => observe::init_failure(&log),
            // Asked again at the next look.
            Err(Problem::Silent(_) | Problem::Slow(_)) => return None,
            Err(problem) => {
                tracing::debug!(container = %id, ?problem, "cannot read the log of a container that was not executed");
                None
            }
        };
        locked(&self.exits).entry(id.to_owned()).or_default().init = Some(words.clone());
        words
    }

    /// The lines of a log that `options` choose.
    pub(super) async fn read_log(&self, id: &str, options: LogsOptions) -> Result<String, Problem> {
        let docker = self.docker()?;
        let read = async {
            let mut text = String::new();
            let mut lines = pin!(docker.logs(id, Some(options)));
            while let Some(line) = lines.next().await {
                text.push_str(&line?.to_string());
                // Docker bounds the lines of a log, but not a line's length.
                let mut from = text.len().saturating_sub(LOG_BYTES);
                while !text.is_char_boundary(from) {
                    from += 1;
                }
                text.drain(..from);
            }
            Ok(text)
        };
        self.call(self.settings.inspect_timeout, read).await
    }

    /// Whether the kernel killed the container for its memory. The engine sets its flag only if it hears of that
    /// before it hears of the exit; under load it is the other way round, and only an event tells.
    async fn memory_kill(&self, id: &str) -> bool {
        if let Some(known) = locked(&self.exits).get(id).and_then(|l| l.memory_kill) {
            return known;
        }
        let Ok(docker) = self.docker() else { return false };
        let filters = HashMap::from([("container", vec![id.to_owned()]), ("event", vec!["oom".to_owned()])]);
        // From long before the exit on; the ring of events is short anyway.
        let options = EventsOptionsBuilder::default().since("1").filters(&filters).build();
        let first = async {
            let mut events = pin!(docker.events(Some(options)));
            let found = tokio::time::timeout(LATE, events.next()).await;
            Ok(matches!(found, Ok(Some(Ok(_)))))
        };
        let Ok(killed) = self.call(self.settings.inspect_timeout, first).await else {
            return false;
        };
        locked(&self.exits).entry(id.to_owned()).or_default().memory_kill = Some(killed);
        killed
    }
}
