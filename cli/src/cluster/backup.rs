//! `wharf cluster backup`: fetches the file and checks it as it comes.
//!
//! Invariant: the file has its name only once its checksum was right; another file of that name is replaced only where
//! that was asked for.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use proto::{
    backup::{BackupError, Check, Header},
    files::sync_dir,
};

use crate::{args::BackupArgs, error::Error, output::clean, session::Session};

pub async fn run(args: &BackupArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let passphrase = match &args.passphrase_file {
        Some(path) => passphrase(path)?,
        None => String::new(),
    };
    let mut part = Part::begin(&args.file, args.force)?;
    let mut pieces = session.client.backup(&passphrase).await?;
    let mut check = Check::default();
    let broken = |e: BackupError| Error::Refused(format!("{}: what arrived {e}", args.file.display()));
    while let Some(piece) = session.client.next_piece(&mut pieces).await? {
        check.feed(&piece).map_err(broken)?;
        part.write(&piece)?;
    }
    let header = check.finish().map_err(broken)?;
    let bytes = part.finish(args.force)?;
    session.out(&done(&args.file, bytes, &header))?;
    if !header.keys {
        session.warn(
            "this backup holds no keys: to restore it, a coordinator's data directory with its cluster.key is needed as well; see --with-keys",
        );
    }
    Ok(())
}

fn done(file: &Path, bytes: u64, header: &Header) -> String {
    let keys = if header.keys { ", with keys" } else { "" };
    format!(
        "{}: {} entries, {bytes} bytes, version {} of cluster {}{keys}\n",
        file.display(),
        header.count,
        header.newest,
        clean(&header.cluster)
    )
}

/// The file's first line.
fn passphrase(path: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(path).map_err(|e| Error::Refused(format!("{}: {e}", path.display())))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Error::Refused(format!(
            "{}: its first line is empty; write the passphrase there",
            path.display()
        )));
    }
    Ok(line.to_owned())
}

/// A file on its way; removed when dropped before it is whole.
struct Part {
    target: PathBuf,
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Part {
    fn begin(target: &Path, force: bool) -> Result<Self, Error> {
        refuse_taken(target, force)?;
        let name = target
            .file_name()
            .ok_or_else(|| Error::Usage(format!("{}: name a file to write", target.display())))?;
        let mut part = name.to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let path = target.with_file_name(part);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(&path, &e))?;
        Ok(Self {
            target: target.to_owned(),
            path,
            file,
            bytes: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| failed(&self.path, &e))
    }

    /// Durable and under its name; how many bytes it has.
    fn finish(self, force: bool) -> Result<u64, Error> {
        self.file.sync_all().map_err(|e| failed(&self.path, &e))?;
        refuse_taken(&self.target, force)?;
        fs::rename(&self.path, &self.target).map_err(|e| failed(&self.target, &e))?;
        sync_dir(self.target.parent().unwrap_or(Path::new("."))).map_err(|e| failed(&self.target, &e))?;
        Ok(self.bytes)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already where it got its name.
        let _ = fs::remove_file(&self.path);
    }
}

fn refuse_taken(target: &Path, force: bool) -> Result<(), Error> {
    if !force && target.symlink_metadata().is_ok() {
        return Err(Error::Refused(format!(
            "{} already exists: choose another name, or --force to replace it",
            target.display()
        )));
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::Refused(format!("{}: {error}", path.display()))
}
