//! The lock of a data directory: one coordinator at a time. Taken by `SqliteStore::open`, held by the writer
//! thread until its connection is closed.
//!
//! Invariant: whoever holds `D/lock` has written its pid and its start into it, so that a second one can be
//! refused by name. The kernel frees the lock when its holder dies; the file stays.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use crate::store::OpenError;

/// Held while this value lives.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "it is the open file that holds the lock")] File);

/// How often a refused one looks for the holder's name, which the holder writes right after locking.
const LOOKS: u32 = 20;
const LOOK_PAUSE: Duration = Duration::from_millis(5);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("lock");
        let failed = |what: &str, e: std::io::Error| OpenError::Io {
            path: path.display().to_string(),
            what: format!("cannot {what} the lock file: {e}"),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed("open", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&path, &file)),
            Err(TryLockError::Error(e)) => return Err(failed("lock", e)),
        }
        let text = format!("pid {} since {:.0}\n", std::process::id(), jiff::Timestamp::now());
        // Written before it is cut to length: a reader never finds it empty.
        file.write_all_at(text.as_bytes(), 0)
            .and_then(|()| file.set_len(text.len() as u64))
            .and_then(|()| file.set_permissions(PermissionsExt::from_mode(0o600)))
            .map_err(|e| failed("write", e))?;
        Ok(Self(file))
    }
}

fn in_use(path: &Path, file: &File) -> OpenError {
    let mut named = None;
    for _ in 0..LOOKS {
        named = holder(file);
        if named.is_some() {
            break;
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    let (pid, since) = named.unwrap_or((0, "at an unknown time".to_owned()));
    OpenError::InUse {
        path: path.parent().unwrap_or(path).display().to_string(),
        pid,
        since,
    }
}

fn holder(file: &File) -> Option<(u32, String)> {
    let mut text = [0; 128];
    let length = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    let (pid, since) = text.lines().next()?.strip_prefix("pid ")?.split_once(" since ")?;
    Some((pid.parse().ok()?, since.to_owned()))
}
