//! Directories that appear whole or not at all. Called by [`super::run`].
//!
//! Invariant: all is written and durable under a staging directory before anything has its name; where a step fails,
//! what had its name before has it again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use proto::files;

/// Name of the staging directory in `--out`; it keeps a second run out as well.
pub const STAGING: &str = ".etcd-config";

/// A run's staging directory; removed when dropped.
pub struct Staging {
    out: PathBuf,
    dir: PathBuf,
    /// Names of the directories to be placed.
    names: Vec<String>,
    out_existed: bool,
    keep: bool,
}

impl Staging {
    /// `AlreadyExists`: another run is at work, or one was interrupted.
    pub fn begin(out: &Path) -> io::Result<Self> {
        let out_existed = out.exists();
        files::create_private_dir(out)?;
        let dir = out.join(STAGING);
        fs::create_dir(&dir)?;
        Ok(Self {
            out: out.to_owned(),
            dir,
            names: Vec::new(),
            out_existed,
            keep: false,
        })
    }

    /// Writes a file, 0600, of a directory that [`Self::place`] gives its name.
    pub fn write(&mut self, dir: &str, file: &str, text: &str) -> io::Result<()> {
        let at = self.dir.join(dir);
        if !self.names.iter().any(|n| n == dir) {
            files::create_private_dir(&at)?;
            self.names.push(dir.to_owned());
        }
        files::write_private(&at.join(file), text.as_bytes())
    }

    /// Gives every directory its name; what has a name already is replaced. `finish` puts on record that it was done.
    pub fn place(mut self, finish: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut done = 0;
        let mut result = Ok(());
        for name in &self.names {
            result = self.swap(name);
            if result.is_err() {
                break;
            }
            done += 1;
        }
        let result = result.and_then(|()| files::sync_dir(&self.out)).and_then(|()| finish());
        if result.is_err() {
            let undone = self.names.iter().take(done).all(|name| self.undo(name).is_ok());
            // What could not be put back must not go with the rest.
            self.keep = !undone;
        }
        result
    }

    fn old(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.old"))
    }

    fn swap(&self, name: &str) -> io::Result<()> {
        let (target, old) = (self.out.join(name), self.old(name));
        let there = target.symlink_metadata().is_ok();
        if there {
            fs::rename(&target, &old)?;
        }
        let placed = fs::rename(self.dir.join(name), &target);
        match placed {
            Err(_) if there => fs::rename(&old, &target).and(placed),
            other => other,
        }
    }

    fn undo(&self, name: &str) -> io::Result<()> {
        let (target, old) = (self.out.join(name), self.old(name));
        fs::rename(&target, self.dir.join(name))?;
        if old.exists() { fs::rename(old, target) } else { Ok(()) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // Made by this run alone: `begin` refuses one that was there.
        let _ = fs::remove_dir_all(&self.dir);
        if !self.out_existed {
            // Only if nothing got its name.
            let _ = fs::remove_dir(&self.out);
        }
    }
}
