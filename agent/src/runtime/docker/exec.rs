//! Commands in containers, for probes and hooks. Called by the trait's `exec`.
//!
//! Invariant: Docker cannot end a command that it began, so a command that hangs is begun once: until it is over the
//! same one is not begun again in that container.

use std::{collections::HashMap, time::Duration};

use bollard::exec::{CreateExecOptions, StartExecResults};
use futures::StreamExt as _;
use tokio::time::{Instant, timeout};

use super::{DockerRuntime, LOOK_AGAIN, errors::Problem, locked};
use crate::runtime::Executed;

/// Most bytes of a command's output that are kept.
const OUTPUT: usize = 4096;

/// Id of a container and a command → id of the exec.
pub(super) type Unended = HashMap<(String, Vec<String>), String>;

impl DockerRuntime {
    /// `id` is one of this node's containers, and runs.
    pub(super) async fn execute(&self, id: &str, command: &[String], limit: Duration) -> Result<Executed, Problem> {
        let key = (id.to_owned(), command.to_vec());
        let earlier = locked(&self.unended).get(&key).cloned();
        if let Some(earlier) = earlier {
            if self.exit_code(&earlier).await?.is_none() {
                return Ok(Executed::Earlier);
            }
            locked(&self.unended).remove(&key);
        }
        let docker = self.docker()?;
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..CreateExecOptions::default()
        };
        let create = docker.create_exec(id, options);
        let exec = self.call(self.settings.inspect_timeout, create).await?.id;
        let deadline = Instant::now() + limit;
        let output = match timeout(limit, self.read(&exec)).await {
            Ok(output) => output?,
            Err(_) => {
                locked(&self.unended).insert(key, exec);
                return Ok(Executed::Unended(limit));
            }
        };
        // The output may end before the engine notices the exit, or while a child goes on without it.
        loop {
            if let Some(code) = self.exit_code(&exec).await? {
                return Ok(Executed::Exited { code, output });
            }
            if Instant::now() >= deadline {
                locked(&self.unended).insert(key, exec);
                return Ok(Executed::Unended(limit));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Starts it and reads to the end of its output; keeps the beginning.
    async fn read(&self, exec: &str) -> Result<String, Problem> {
        let started = self.docker()?.start_exec(exec, None).await.map_err(Problem::from)?;
        let mut text = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(chunk) = output.next().await {
                let chunk = chunk.map_err(Problem::from)?.into_bytes();
                let room = OUTPUT.saturating_sub(text.len()).min(chunk.len());
                text.extend_from_slice(&chunk[..room]);
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Of a command that has ended; one that the engine does not know any more has, with its container.
    async fn exit_code(&self, exec: &str) -> Result<Option<i64>, Problem> {
        let look = self.docker()?.inspect_exec(exec);
        match self.call(self.settings.inspect_timeout, look).await {
            Ok(seen) if seen.running == Some(true) => Ok(None),
            Ok(seen) => Ok(seen.exit_code),
            Err(Problem::Said { status: 404, .. }) => Ok(Some(GONE)),
            Err(problem) => Err(problem),
        }
    }

    /// Forgets commands of containers that are gone.
    pub(super) fn forget_commands(&self, there: impl Fn(&String) -> bool) {
        locked(&self.unended).retain(|(id, _), _| there(id));
    }
}

/// As if killed.
const GONE: i64 = 137;
