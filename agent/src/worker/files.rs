//! What the agent keeps on disk for pods: their volumes (`D/volumes/<uid>/<volume>`), and the files into which
//! containers write their last words (`D/messages/<uid>/<container>.<attempt>`). Called by the pod's task and the
//! collector.
//!
//! Invariants: all that is made, read or removed here is reached from an opened directory, the agent's own, which no
//! absolute name, no `..` and no symbolic link leaves; a name that is not a plain one has no place here. All but the
//! paths block.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, DirBuilder, DirBuilderExt as _, OpenOptions, OpenOptionsExt as _, Permissions, PermissionsExt as _},
};
use nix::fcntl::OFlag;

use super::host_path;
use crate::runtime::{Mount, Source};

/// Directories below the agent's own.
const VOLUMES: &str = "volumes";
const MESSAGES: &str = "messages";
/// The host's other users come to neither.
const PRIVATE: u32 = 0o700;
/// Containers of any user write there, as with Kubernetes.
const VOLUME: u32 = 0o777;
const MESSAGE: u32 = 0o666;

/// See the module's head.
#[derive(Clone, Debug)]
pub struct PodFiles {
    /// The agent's data directory.
    root: PathBuf,
}

impl PodFiles {
    /// Below the agent's data directory, which must be there once anything is made. The paths are absolute: the
    /// engine mounts them.
    pub fn new(data_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            root: std::path::absolute(data_dir)?,
        })
    }

    /// Place of a volume; `None` for names that are not plain.
    pub fn volume(&self, uid: &str, volume: &str) -> Option<PathBuf> {
        Some(self.root.join(VOLUMES).join(plain(uid)?).join(plain(volume)?))
    }

    /// Place of a container's last words; `None` for names that are not plain.
    pub fn message(&self, uid: &str, container: &str, attempt: u32) -> Option<PathBuf> {
        let name = format!("{}.{attempt}", plain(container)?);
        Some(self.root.join(MESSAGES).join(plain(uid)?).join(name))
    }

    /// Makes and checks what a container's mounts need of the host. The error is for the pod's state.
    pub fn prepare(&self, mounts: &[Mount]) -> Result<(), String> {
        for mount in mounts {
            let (path, made) = match &mount.source {
                Source::Memory { .. } => continue,
                Source::Host { volume, path, kind } => {
                    host_path::check(volume, path, *kind)?;
                    continue;
                }
                Source::Directory(path) => (path, self.make(VOLUMES, path, make_directory)),
                Source::File(path) => (path, self.make(MESSAGES, path, make_file)),
            };
            made.map_err(|e| format!("cannot make {} on this host: {e}", path.display()))?;
        }
        Ok(())
    }

    /// The last `limit` bytes of a container's last words, as text; empty when there is no such file, which an older
    /// agent did not make.
    pub fn last_words(&self, path: &Path, limit: usize) -> String {
        match self.tail(path, limit) {
            Ok(bytes) => text(&bytes, limit),
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => {
                tracing::warn!("cannot read {}: {e}", path.display());
                String::new()
            }
        }
    }

    /// Removes all that is here of a pod. What is gone already is no error.
    pub fn remove_pod(&self, uid: &str) -> io::Result<()> {
        plain(uid).map_or(Ok(()), |name| self.remove_tree(name))
    }

    /// Removes the last words of one attempt.
    pub fn remove_message(&self, uid: &str, container: &str, attempt: u32) -> io::Result<()> {
        let Some(path) = self.message(uid, container, attempt) else {
            return Ok(());
        };
        ignore_absent(
            self.open(MESSAGES)
                .and_then(|dir| dir.remove_file(self.below(MESSAGES, &path)?)),
        )
    }

    /// Uids of the pods of which something is here.
    pub fn pods(&self) -> io::Result<BTreeSet<String>> {
        let mut uids = BTreeSet::new();
        for area in [VOLUMES, MESSAGES] {
            let entries = match self.open(area).and_then(|dir| dir.entries()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                // A name that is no text is not ours.
                uids.extend(entry?.file_name().into_string().ok());
            }
        }
        Ok(uids)
    }

    /// The only place that trusts a path as such: the one that the agent was given.
    fn open_root(&self) -> io::Result<Dir> {
        Dir::open_ambient_dir(&self.root, ambient_authority())
    }

    fn open(&self, area: &str) -> io::Result<Dir> {
        self.open_root()?.open_dir(area)
    }

    /// A path of [`PodFiles::volume`] or [`PodFiles::message`], as seen from its opened directory.
    fn below<'a>(&self, area: &str, path: &'a Path) -> io::Result<&'a Path> {
        let outside = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("not in the agent's {area}"));
        path.strip_prefix(self.root.join(area)).map_err(outside)
    }

    fn make(&self, area: &str, path: &Path, make: fn(&Dir, &Path) -> io::Result<()>) -> io::Result<()> {
        let path = self.below(area, path)?;
        let root = self.open_root()?;
        make_private(&root, Path::new(area))?;
        let dir = root.open_dir(area)?;
        if let Some(pod) = path.parent() {
            make_private(&dir, pod)?;
        }
        make(&dir, path)
    }

    fn tail(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
        let mut file = self.open(MESSAGES)?.open_with(self.below(MESSAGES, path)?, &options)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit as u64)))?;
        let mut bytes = Vec::new();
        file.take(limit as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A symbolic link is removed itself, not even followed when it is exchanged for a directory meanwhile.
    fn remove_tree(&self, name: &str) -> io::Result<()> {
        for area in [VOLUMES, MESSAGES] {
            ignore_absent(self.open(area).and_then(|dir| dir.remove_dir_all(name)))?;
        }
        Ok(())
    }
}

/// The end of what a container wrote, as text of at most `limit` bytes without control characters.
pub fn text(bytes: &[u8], limit: usize) -> String {
    let text: String = String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect();
    let mut from = text.len().saturating_sub(limit);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..).unwrap_or_default().trim_end().to_owned()
}

fn plain(name: &str) -> Option<&str> {
    let ok = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    (ok && !name.is_empty() && !name.starts_with('.')).then_some(name)
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_private(dir: &Dir, path: &Path) -> io::Result<()> {
    match dir.create_dir_with(path, DirBuilder::new().mode(PRIVATE)) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn make_directory(dir: &Dir, path: &Path) -> io::Result<()> {
    match dir.create_dir(path) {
        // The umask had its say at the creation.
        Ok(()) => dir.set_permissions(path, Permissions::from_mode(VOLUME)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.symlink_metadata(path)?.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

fn make_file(dir: &Dir, path: &Path) -> io::Result<()> {
    match dir.open_with(path, OpenOptions::new().write(true).create_new(true)) {
        Ok(file) => file.set_permissions(Permissions::from_mode(MESSAGE)),
        // A repeated create of the same attempt.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.symlink_metadata(path)?.is_file() => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn files() -> (tempfile::TempDir, PodFiles) {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("made");
        let files = PodFiles::new(&data).expect("a path");
        (dir, files)
    }

    fn mount(source: Source) -> Mount {
        Mount {
            target: "/t".into(),
            read_only: false,
            source,
        }
    }

    #[test]
    fn what_is_made_is_for_any_user_and_is_kept_by_a_repeat() {
        let (_dir, files) = files();
        let volume = files.volume("u1", "data").expect("plain");
        let message = files.message("u1", "app", 3).expect("plain");
        assert!(volume.is_absolute() && message.ends_with("messages/u1/app.3"));
        let mounts = [
            mount(Source::Directory(volume.clone())),
            mount(Source::File(message.clone())),
        ];
        assert_eq!(files.prepare(&mounts), Ok(()));
        let mode = |p: &Path| fs::metadata(p).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode(&volume), mode(&message)), (0o777, 0o666));
        // The host's other users come to neither.
        assert_eq!(mode(volume.parent().expect("one")), 0o700);
        fs::write(volume.join("x"), "kept").expect("written");
        fs::write(&message, "bye\n").expect("written");
        assert_eq!(files.prepare(&mounts), Ok(()));
        assert_eq!(fs::read_to_string(volume.join("x")).expect("read"), "kept");
        assert_eq!(files.last_words(&message, 4096), "bye");
        assert_eq!(files.pods().expect("listed"), BTreeSet::from(["u1".to_owned()]));

        files.remove_message("u1", "app", 3).expect("removed");
        files.remove_message("u1", "app", 3).expect("a repeat");
        assert_eq!(files.last_words(&message, 4096), "");
        files.remove_pod("u1").expect("removed");
        files.remove_pod("u1").expect("a repeat");
        assert_eq!(files.pods().expect("listed"), BTreeSet::new());
    }

    #[test]
    fn no_link_leads_out() {
        let (dir, files) = files();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("precious"), "x").expect("made");
        let volume = files.volume("u1", "data").expect("plain");
        files
            .prepare(&[mount(Source::Directory(volume.clone()))])
            .expect("made");
        symlink(&outside, volume.join("link")).expect("made");
        // A pod's whole place may be a link, made by whoever.
        let (volumes, messages) = (files.root.join(VOLUMES), files.root.join(MESSAGES));
        symlink(&outside, volumes.join("u2")).expect("made");
        assert_eq!(files.pods().expect("listed").len(), 2);
        let through = mount(Source::Directory(files.volume("u2", "new").expect("plain")));
        assert!(files.prepare(&[through]).is_err());
        assert!(!outside.join("new").exists());
        for uid in ["u1", "u2"] {
            files.remove_pod(uid).expect("no error");
        }
        assert!(outside.join("precious").exists());
        assert_eq!(files.pods().expect("listed"), BTreeSet::new());

        // Nor is a link taken for a volume or for last words.
        let (volumes, messages) = (volumes.join("u3"), messages.join("u3"));
        for place in [&volumes, &messages] {
            fs::create_dir_all(place).expect("made");
        }
        symlink(&outside, volumes.join("v")).expect("made");
        assert!(files.prepare(&[mount(Source::Directory(volumes.join("v")))]).is_err());
        fs::write(messages.join("other"), "another's").expect("made");
        let targets = [outside.join("precious"), messages.join("other"), "other".into()];
        for (name, target) in ["l", "m", "n"].into_iter().zip(targets) {
            let link = messages.join(name);
            symlink(target, &link).expect("made");
            assert!(files.prepare(&[mount(Source::File(link.clone()))]).is_err());
            assert_eq!(files.last_words(&link, 4096), "", "{name}");
        }
    }

    /// What lies below must hold without the check of names.
    #[test]
    fn no_name_leads_out() {
        let (dir, files) = files();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("precious"), "x").expect("made");
        let of = |area: &str, name: &str| files.root.join(area).join(name);
        // Also once the directories are there.
        for _ in 0..2 {
            for name in ["../../outside", "../../outside/new", "u/../../../outside/new", "../new"] {
                for source in [Source::Directory(of(VOLUMES, name)), Source::File(of(MESSAGES, name))] {
                    assert!(files.prepare(&[mount(source)]).is_err(), "{name}");
                }
            }
            for path in [outside.join("new"), files.root.join("new")] {
                assert!(files.prepare(&[mount(Source::Directory(path.clone()))]).is_err());
                assert!(files.prepare(&[mount(Source::File(path.clone()))]).is_err());
                assert!(!path.exists());
            }
            for name in ["../../outside/precious", "u/../../../outside/precious"] {
                assert_eq!(files.last_words(&of(MESSAGES, name), 4096), "", "{name}");
            }
            for name in ["../../outside", outside.to_str().expect("text")] {
                assert!(files.remove_tree(name).is_err(), "{name}");
            }
            assert_eq!(fs::read_to_string(outside.join("precious")).expect("there"), "x");
            let volume = mount(Source::Directory(files.volume("u", "v").expect("plain")));
            let message = mount(Source::File(files.message("u", "c", 0).expect("plain")));
            files.prepare(&[volume, message]).expect("made");
        }
    }

    #[test]
    fn names_that_are_not_plain_have_no_place() {
        let (_dir, files) = files();
        for bad in ["", ".", "..", "../x", "a/b", "/", "a\0", "ä"] {
            assert_eq!(files.volume(bad, "v"), None, "{bad}");
            assert_eq!(files.volume("u", bad), None, "{bad}");
            assert_eq!(files.message("u", bad, 0), None, "{bad}");
        }
    }

    #[test]
    fn last_words_are_bounded_text() {
        let (_dir, files) = files();
        let path = files.message("u", "c", 0).expect("plain");
        files.prepare(&[mount(Source::File(path.clone()))]).expect("made");
        let said = |bytes: &[u8], limit: usize| {
            fs::write(&path, bytes).expect("written");
            files.last_words(&path, limit)
        };
        let mut long = vec![b'a'; 10_000];
        long.extend(b"the end\n");
        let words = said(&long, 4096);
        assert!(words.len() <= 4096 && words.ends_with("athe end"), "{}", words.len());
        // What is no text becomes longer as text.
        assert!(said(&[0xff; 4096], 4096).len() <= 4096);
        assert_eq!(said(b"a\x1b[31m\0b\tc\nd", 4096), "a[31mb\tc\nd");
        // Cut within a character.
        assert_eq!(said("ää".as_bytes(), 3), "ä");
        let directory = path.parent().expect("one");
        assert_eq!(files.last_words(directory, 10), "", "a directory says nothing");
    }
}
