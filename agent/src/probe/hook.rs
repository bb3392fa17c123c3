//! Runs one `preStop` hook. Called by the pod's task when a container is to be stopped.
//!
//! Invariant: it ends within its limit; whatever comes of it, the stop goes on.

use std::time::Duration;

use proto::model::{Container, Hook};
use tokio::time::timeout;

use super::check::{address, http_get, words};
use crate::runtime::{Executed, Runtime, RuntimeError};

/// An error is in words for people.
pub async fn run(
    runtime: &dyn Runtime,
    container: &Container,
    id: &str,
    ip: &str,
    limit: Duration,
) -> Result<(), RuntimeError> {
    let Some(hook) = &container.lifecycle.pre_stop else {
        return Ok(());
    };
    let slow = || RuntimeError::Refused(format!("it did not end within its grace of {}s", limit.as_secs_f32()));
    match hook {
        Hook { exec: Some(exec), .. } => match runtime.exec(id, &exec.command, limit).await? {
            Executed::Exited { code: 0, .. } => Ok(()),
            Executed::Unended(_) => Err(slow()),
            executed => Err(RuntimeError::Refused(words(&executed))),
        },
        Hook {
            http_get: Some(get), ..
        } => {
            let Some((host, port)) = address(container, &get.host, ip, &get.port) else {
                return Err(RuntimeError::Refused("the pod has no address".into()));
            };
            match timeout(limit, http_get(get, &host, port)).await {
                Ok(asked) => asked.map_err(RuntimeError::Refused),
                Err(_) => Err(slow()),
            }
        }
        Hook { sleep: Some(sleep), .. } => {
            let whole = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
            tokio::time::sleep(whole.min(limit)).await;
            if whole > limit { Err(slow()) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}
