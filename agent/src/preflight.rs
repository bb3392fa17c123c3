//! What must hold on this host before it joins: an engine that answers and is not too old, and room on the disks.
//! Called by [`crate::wiring`] where no identity is on disk; a host that has joined keeps its containers whatever
//! becomes of these.
//!
//! Invariant: nothing of the token is sent before; a refusal is one line that names what, why and the remedy.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    runtime::{
        EngineInfo, RuntimeError,
        docker::{DEFAULT_HOST, DockerRuntime},
    },
    settings::{Settings, ms},
};

/// The oldest release of Docker whose calls and options are all used as they are meant.
const OLDEST_DOCKER: (u64, u64) = (20, 10);
/// Pause between two questions to an engine that may be starting.
const ASK_AGAIN: Duration = Duration::from_millis(500);
const UNUSED: &str = "the join token was not used";

/// All checks, in turn.
pub async fn check(data_dir: &Path, docker_host: Option<&str>, settings: &Settings) -> Result<(), String> {
    let least = settings.join_free_mib;
    room(&format!("--data-dir {}", data_dir.display()), free_mib(data_dir), least)?;
    let engine = answers(docker_host, ms(settings.join_engine_ms)).await?;
    let endpoint = docker_host.unwrap_or(DEFAULT_HOST);
    release(endpoint, &engine.version)?;
    // An engine of another machine has its directory there.
    let root = Path::new(&engine.root_dir);
    let here = endpoint.starts_with('/') || endpoint.starts_with("unix:");
    if here && root.is_absolute() && root.exists() {
        room(&format!("Docker's directory {}", root.display()), free_mib(root), least)?;
    }
    Ok(())
}

/// Waits for the engine: on a host that boots it may still be starting.
async fn answers(docker_host: Option<&str>, most: Duration) -> Result<EngineInfo, String> {
    let until = Instant::now() + most;
    loop {
        let error = match DockerRuntime::ask(docker_host).await {
            Ok(engine) => return Ok(engine),
            Err(e @ RuntimeError::Refused(_)) => return Err(e.to_string()),
            Err(e) => e,
        };
        if Instant::now() + ASK_AGAIN > until {
            return Err(format!("{error}: start Docker, or give --docker-host; {UNUSED}"));
        }
        tracing::debug!("asked again: {error}");
        sleep(ASK_AGAIN).await;
    }
}

/// A release that is no number is somebody's own build, and his business.
fn release(endpoint: &str, version: &str) -> Result<(), String> {
    let mut numbers = version.split('.').map(|part| part.parse::<u64>().ok());
    if let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next())
        && (major, minor) < OLDEST_DOCKER
    {
        let (major, minor) = OLDEST_DOCKER;
        return Err(format!(
            "Docker at {endpoint} is release {version}, and {major}.{minor} is the oldest that works: update it; {UNUSED}"
        ));
    }
    Ok(())
}

fn room(what: &str, free: Result<u64, String>, least: u64) -> Result<(), String> {
    let free = free.map_err(|e| format!("{what}: cannot tell its free space: {e}; {UNUSED}"))?;
    if free >= least {
        return Ok(());
    }
    Err(format!(
        "{what}: {free} MiB are free, and joining needs {least} MiB (settings.join_free_mib): free space, or use another directory; {UNUSED}"
    ))
}

/// What this user may still write there.
fn free_mib(path: &Path) -> Result<u64, String> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|e| e.to_string())?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_too_old_is_named_and_any_other_taken() {
        for good in ["20.10.24+dfsg1", "23.0.1", "29.0.0", "24.0", "dev", ""] {
            assert_eq!(release("unix:///x.sock", good), Ok(()), "{good}");
        }
        for old in ["19.03.15", "20.9.0", "1.13.1"] {
            let words = release("unix:///x.sock", old).expect_err(old);
            for part in ["unix:///x.sock", old, "20.10", UNUSED] {
                assert!(words.contains(part), "{words}");
            }
        }
    }

    #[test]
    fn too_little_room_is_told_in_numbers() {
        assert_eq!(room("--data-dir /d", Ok(256), 256), Ok(()));
        let words = room("--data-dir /d", Ok(12), 256).expect_err("too little");
        assert!(
            words.starts_with("--data-dir /d: 12 MiB are free, and joining needs 256 MiB"),
            "{words}"
        );
        assert!(free_mib(Path::new("/")).is_ok());
        let nowhere = room("x", free_mib(Path::new("/no/such/place")), 1).expect_err("nowhere");
        assert!(nowhere.starts_with("x: cannot tell"), "{nowhere}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_does_not_answer_is_waited_for_and_then_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("docker.sock");
        let host = format!("unix://{}", socket.display());
        let begun = Instant::now();
        let words = answers(Some(&host), Duration::from_secs(10)).await.expect_err("nobody");
        assert!((9..=10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        for part in ["docker.sock", "start Docker", "--docker-host", UNUSED] {
            assert!(words.contains(part), "{words}");
        }
        assert_eq!(words.lines().count(), 1);
    }
}
