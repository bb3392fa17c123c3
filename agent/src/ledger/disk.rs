//! The ledger's file, `D/ledger.json`. Called by [`super::Keeper`] (writes, through [`Disk`]), at start and by `status`
//! (read), and by `leave` (removes).
//!
//! Invariants: a reader sees the old content or the new one, never a part; on return of [`save`] the new one
//! survives power loss. A file that cannot be read is never replaced by an empty one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Ledger;

/// Raised when an older agent could not read the file.
pub const FORMAT: u32 = 1;
const NAME: &str = "ledger.json";

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot read the ledger {}: {source}; containers keep running", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the ledger {} is damaged ({why}); containers keep running. Put a good copy back, or move the file away \
         to start with an empty ledger: pods then wait for the coordinator",
        path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error(
        "the ledger {} has format {found}, this agent reads up to {FORMAT}: start the newer agent that wrote it; \
         containers keep running",
        path.display()
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("cannot write the ledger {}: {source}; free space or repair the disk", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// First line of the file; the ledger is the second one.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    /// Over the second line: a changed byte is noticed even where the JSON still parses.
    #[serde(default)]
    checksum: String,
}

/// The ledger in a data directory; an empty one when there never was any.
pub fn load(dir: &Path) -> Result<Ledger, LedgerError> {
    let path = dir.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
        Err(source) => return Err(LedgerError::Read { path, source }),
    };
    let damaged = |why: String| LedgerError::Damaged {
        path: path.clone(),
        why,
    };
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text".into()))?;
    let (first, second) = text
        .split_once('\n')
        .ok_or_else(|| damaged("it ends within its first line".into()))?;
    let header: Header = serde_json::from_str(first).map_err(|e| damaged(e.to_string()))?;
    if header.format > FORMAT {
        return Err(LedgerError::Newer {
            path,
            found: header.format,
        });
    }
    let ledger = second.trim_end();
    if checksum(ledger) != header.checksum {
        return Err(damaged("its checksum does not match".into()));
    }
    serde_json::from_str(ledger).map_err(|e| damaged(e.to_string()))
}

/// Where [`super::Keeper`] writes. Tests put their own in between, to end an agent on either side of a write.
#[async_trait]
pub trait Disk: Send + Sync + 'static {
    /// Durable on return.
    async fn save(&self, ledger: Ledger) -> Result<(), LedgerError>;
}

/// A data directory.
pub struct DataDir {
    pub path: PathBuf,
    /// Wait until it is on the disk.
    pub sync: bool,
}

#[async_trait]
impl Disk for DataDir {
    async fn save(&self, ledger: Ledger) -> Result<(), LedgerError> {
        let (dir, sync) = (self.path.clone(), self.sync);
        let written = tokio::task::spawn_blocking(move || save(&dir, &ledger, sync)).await;
        written.unwrap_or_else(|e| {
            Err(LedgerError::Write {
                path: self.path.join(NAME),
                source: io::Error::other(e),
            })
        })
    }
}

/// Writes the ledger; `sync` waits until it is on the disk.
pub fn save(dir: &Path, ledger: &Ledger, sync: bool) -> Result<(), LedgerError> {
    let path = dir.join(NAME);
    write(dir, &path, ledger, sync).map_err(|source| LedgerError::Write { path, source })
}

/// Removes the ledger of a host that left for good.
pub fn remove(dir: &Path) -> Result<(), LedgerError> {
    let path = dir.join(NAME);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LedgerError::Write { path, source }),
        _ => Ok(()),
    }
}

fn write(dir: &Path, path: &Path, ledger: &Ledger, sync: bool) -> io::Result<()> {
    let ledger = serde_json::to_string(ledger)?;
    let header = serde_json::to_string(&Header {
        format: FORMAT,
        checksum: checksum(&ledger),
    })?;
    replace(dir, path, format!("{header}\n{ledger}\n").as_bytes(), sync)
}

fn checksum(text: &str) -> String {
    proto::ids::content_hash(text.as_bytes())
}

/// Replaces a file as a whole; private to its owner.
pub fn replace(dir: &Path, path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // One process holds the directory, so a file of this name is a leftover.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    if sync {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if sync {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
