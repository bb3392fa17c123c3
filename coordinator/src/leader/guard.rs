//! The mark outside the store, `D/served.json`: how far this data directory has served its cluster. Called by
//! `run` before the term is taken, after it, every few seconds and at the end.
//!
//! Invariant: a store that is older than what was served, empty, or of another history is never served; the
//! mark never goes back.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{store::Rv, world::World};

/// Its name in a data directory.
pub const FILE: &str = "served.json";

/// Content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub cluster: String,
    pub incarnation: String,
    pub term: u64,
    /// The store's revision that was served.
    pub revision: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("{path}: {what}; put back the file, or delete it only if the store beside it is the newest there is")]
    Unreadable { path: String, what: String },
    #[error(
        "the store in {dir} is empty and this coordinator has already served (revision {served}): put back the store's file, or restore a backup as a new incarnation"
    )]
    Empty { dir: String, served: u64 },
    #[error(
        "the store in {dir} is older than what this coordinator has already served (revision {found}, last served {served}): put back the newer file, or restore it as a new incarnation"
    )]
    Older { dir: String, found: u64, served: u64 },
    #[error(
        "the store in {dir} does not hold term {term}, under which this coordinator has already served: put back the newer file, or restore it as a new incarnation"
    )]
    OtherTerm { dir: String, term: u64 },
    #[error(
        "the store in {dir} is of {what} {found}, and this coordinator has served {served}: put back its own store, or use another --data-dir"
    )]
    Other {
        dir: String,
        what: &'static str,
        found: String,
        served: String,
    },
    #[error(
        "the state of this store was moved to another one by wharf-coordinator migrate: run this coordinator with the options of that one"
    )]
    Moved,
    #[error("{path} cannot be written: {what}; free space or mend the permissions there")]
    Write { path: String, what: String },
}

/// The mark of one data directory.
#[derive(Debug)]
pub struct Guard {
    dir: PathBuf,
    last: Option<Mark>,
}

impl Guard {
    /// Takes the mark of a directory whose store is lost out of the way of the one that is restored there; it stays
    /// beside it under another name.
    pub fn set_aside(dir: &Path, at_ms: u64) -> io::Result<()> {
        let path = dir.join(FILE);
        match fs::rename(&path, dir.join(format!("{FILE}.before-{at_ms}"))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => fs::File::open(dir)?.sync_all(),
        }
    }

    /// Reads the mark; none is no error. Blocks on the disk.
    pub fn open(dir: &Path) -> Result<Self, GuardError> {
        let path = dir.join(FILE);
        let unreadable = |what: String| GuardError::Unreadable {
            path: path.display().to_string(),
            what,
        };
        let last = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(unreadable(e.to_string())),
        };
        Ok(Self {
            dir: dir.to_owned(),
            last,
        })
    }

    pub fn last(&self) -> Option<&Mark> {
        self.last.as_ref()
    }

    /// Refuses a store that cannot be the one that was served.
    pub fn check(&self, cluster: &str, incarnation: &str, world: &World) -> Result<(), GuardError> {
        if world.moved {
            return Err(GuardError::Moved);
        }
        let Some(mark) = &self.last else { return Ok(()) };
        let dir = || self.dir.display().to_string();
        let other = |what, found: &str, served: &str| GuardError::Other {
            dir: dir(),
            what,
            found: found.to_owned(),
            served: served.to_owned(),
        };
        if world.rv == Rv(0) {
            Err(GuardError::Empty {
                dir: dir(),
                served: mark.revision,
            })
        } else if mark.cluster != cluster {
            Err(other("cluster", cluster, &mark.cluster))
        } else if mark.incarnation != incarnation && world.former(&mark.incarnation).is_some() {
            // It goes on from what was served, by an operator's word.
            Ok(())
        } else if mark.incarnation != incarnation {
            Err(other("incarnation", incarnation, &mark.incarnation))
        } else if world.rv.revision() < mark.revision {
            Err(GuardError::Older {
                dir: dir(),
                found: world.rv.revision(),
                served: mark.revision,
            })
        } else if world
            .terms
            .get(&mark.term)
            .is_none_or(|t| t.incarnation != mark.incarnation)
        {
            Err(GuardError::OtherTerm {
                dir: dir(),
                term: mark.term,
            })
        } else {
            Ok(())
        }
    }

    /// Records what is served, durably, if it is more than before. Blocks on the disk.
    pub fn record(&mut self, mark: Mark) -> Result<(), GuardError> {
        if self
            .last
            .as_ref()
            .is_some_and(|l| (l.term, l.revision) >= (mark.term, mark.revision))
        {
            return Ok(());
        }
        let path = self.dir.join(FILE);
        self.write(&path, &mark).map_err(|e| GuardError::Write {
            path: path.display().to_string(),
            what: e.to_string(),
        })?;
        self.last = Some(mark);
        Ok(())
    }

    fn write(&self, path: &Path, mark: &Mark) -> io::Result<()> {
        let next = self.dir.join(format!("{FILE}.tmp"));
        let mut file = fs::File::create(&next)?;
        file.write_all(&serde_json::to_vec(mark)?)?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        fs::File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
