//! One agent a data directory. Taken by the program before it reads anything in it.
//!
//! Invariant: the lock is the kernel's, so it ends with its process however that ends; the text in the file is
//! for people.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another agent ({holder}) uses the data directory {}: stop it, or give this one another --data-dir", path.display())]
    Held { path: PathBuf, holder: String },
    #[error(
        "cannot use the data directory {}: {source}; give --data-dir a directory that this user may write to and that has room",
        path.display()
    )]
    Io { path: PathBuf, source: io::Error },
}

/// Held while it lives.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Makes the directory (0700) if it is not there, and locks it.
pub fn lock(dir: &Path) -> Result<DataDirLock, LockError> {
    let io = |source| LockError::Io {
        path: dir.to_owned(),
        source,
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join("lock"))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Without its text it is still held.
            let _ = file.read_to_string(&mut holder);
            return Err(LockError::Held {
                path: dir.to_owned(),
                holder: holder.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    let text = format!("pid {}", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{text}"))
        .map_err(io)?;
    Ok(DataDirLock { _file: file })
}

/// Who holds the directory, if anyone: for `status`.
pub fn holder(dir: &Path) -> Option<String> {
    let file = File::open(dir.join("lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => fs::read_to_string(dir.join("lock")).ok().map(|t| t.trim().to_owned()),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("a/b");
        assert_eq!(holder(&data), None);
        let first = lock(&data).expect("free");
        let me = format!("pid {}", std::process::id());
        assert_eq!(holder(&data), Some(me.clone()));
        let error = lock(&data).expect_err("held").to_string();
        assert!(error.contains(&me) && error.contains("--data-dir"), "{error}");
        drop(first);
        assert_eq!(holder(&data), None);
        lock(&data).expect("free again");
    }
}
