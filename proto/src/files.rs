//! Files that must be whole or absent, and private. Used by the coordinator (keys, credentials) and the agent
//! (identity, ledger).
//!
//! Invariant: a reader sees the old content or the new one, never a part; what [`write_private`] wrote is
//! readable by its owner only, from its first byte on.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// What is wrong with a file, and which one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct FileError {
    pub path: String,
    pub what: String,
}

pub fn file_error(path: &Path, what: impl ToString) -> FileError {
    FileError {
        path: path.display().to_string(),
        what: what.to_string(),
    }
}

/// Writes `bytes` to `path` with mode 0600 by way of a temporary file beside it; durable on return. Replaces
/// what is there.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
    };
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    let temporary = dir.join(temporary);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Nothing half-written stays; the first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    sync_dir(dir)
}

/// Creates a directory and its missing parents with mode 0700; one that is there keeps its mode.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes creations, renames and removals in a directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn private_whole_and_nothing_left_beside() {
        let dir = std::env::temp_dir().join(format!("wharf-files-{}", uuid::Uuid::new_v4()));
        create_private_dir(&dir).expect("directory");
        let path = dir.join("secret");
        for content in [&b"one"[..], b"two"] {
            write_private(&path, content).expect("write");
            assert_eq!(std::fs::read(&path).expect("read"), content);
        }
        let mode = |p: &Path| std::fs::metadata(p).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir)), (0o600, 0o700));
        // The target is a directory: the rename fails and the temporary file goes.
        std::fs::create_dir(dir.join("taken")).expect("directory");
        assert!(write_private(&dir.join("taken"), b"x").is_err());
        assert_eq!(std::fs::read_dir(&dir).expect("list").count(), 2);
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
