//! Backups that nobody has to ask for: the active coordinator writes one into `D/backups` every `backup-every` and keeps
//! `backup-keep` of them. Started by `serve`.
//!
//! Invariant: a file here is whole or absent, 0600; only files of the schedule's own names are ever removed, the oldest
//! first, and never the one just written.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use proto::files;
use tokio_util::sync::CancellationToken;

use super::{BackupRecord, take};
use crate::{
    ca::{Clock, audit::COORDINATOR},
    store::CommitError,
    world::{
        hub::Hub,
        settings::{BACKUP_EVERY, BACKUP_KEEP},
    },
};

const PREFIX: &str = "wharf-";
const SUFFIX: &str = ".backup";
/// How often the settings are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a backup that failed.
const RETRY_MS: u64 = 60_000;

/// Name of the backup taken at a time; names sort by it.
fn file_name(at_ms: u64) -> String {
    format!("{PREFIX}{at_ms:013}{SUFFIX}")
}

fn taken_at(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let plain = digits.len() >= 13 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// When the next one is due, if the schedule is on. A last one in the future was made under another clock.
fn due(last: Option<u64>, every: Duration, now_ms: u64) -> Option<u64> {
    let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
    (every > 0).then(|| {
        last.filter(|last| *last <= now_ms)
            .map_or(now_ms, |last| last.saturating_add(every))
    })
}

/// The schedule's own files, the oldest first.
fn own(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        if let Some(at) = entry.file_name().to_str().and_then(taken_at) {
            found.push((at, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a backup and removes those beyond `keep`.
fn write(dir: &Path, at_ms: u64, bytes: &[u8], keep: usize) -> io::Result<PathBuf> {
    files::create_private_dir(dir)?;
    let path = dir.join(file_name(at_ms));
    files::write_private(&path, bytes)?;
    let mut all = own(dir)?;
    all.retain(|(_, other)| *other != path);
    let excess = (all.len() + 1).saturating_sub(keep.max(1));
    for (_, old) in all.into_iter().take(excess) {
        std::fs::remove_file(&old)?;
    }
    Ok(path)
}

/// Runs until `stopping`; acts while this process leads. What fails is said and tried again.
pub async fn run(hub: Arc<Hub>, dir: PathBuf, clock: Clock, stopping: CancellationToken) {
    let mut not_before = 0;
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now_ms = clock();
        if now_ms < not_before || hub.fence().is_none() {
            continue;
        }
        if let Err(problem) = tick(&hub, &dir, now_ms).await {
            not_before = now_ms.saturating_add(RETRY_MS);
            tracing::error!(dir = %dir.display(), "the scheduled backup failed, the next try is in a minute: {problem}");
        }
    }
}

/// Makes a backup if one is due.
async fn tick(hub: &Hub, dir: &Path, now_ms: u64) -> Result<Option<PathBuf>, String> {
    let (every, keep) = hub.read(|w| (w.settings.time(&BACKUP_EVERY), w.settings.get(&BACKUP_KEEP)));
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let looked = dir.to_owned();
    let last = blocking(move || own(&looked)).await?.last().map(|(at, _)| *at);
    if due(last, every, now_ms).is_none_or(|due| due > now_ms) {
        return Ok(None);
    }
    let taken = take(&**hub.store(), None, now_ms).await.map_err(|e| e.to_string())?;
    let (bytes, to) = (taken.bytes.clone(), dir.to_owned());
    let path = blocking(move || write(&to, now_ms, &bytes, keep)).await?;
    tracing::info!(file = %path.display(), bytes = taken.bytes.len(), version = taken.header.newest, "backup made");
    let record = BackupRecord::new(&taken, COORDINATOR, path.display().to_string());
    match hub.commit(vec![record.change()]).await {
        // The file is there; another leader's record says more.
        Ok(_) | Err(CommitError::Fenced { .. }) => Ok(Some(path)),
        Err(e) => Err(e.to_string()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
