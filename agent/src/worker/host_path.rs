//! What must be at a path of the host before a container that mounts it is created. Called by [`super::files`].
//!
//! Invariant: only a type that says so makes anything, and never in the place of what is there.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use proto::model::HostPathType;

/// Modes of what is made.
const DIRECTORY: u32 = 0o755;
const FILE: u32 = 0o644;

/// Checks, and makes what is missing where the type says so. The error names the volume and the remedy. Blocks.
pub(super) fn check(volume: &str, path: &str, kind: HostPathType) -> Result<(), String> {
    let told = |what: String| format!("volume {volume}: host path {path} {what}");
    let place = Path::new(path);
    if !place.is_absolute() {
        return Err(told("is not absolute".into()));
    }
    match fs::metadata(place) {
        Ok(found) => match wanted(kind) {
            Some((what, is)) if !is(&found.file_type()) => {
                Err(told(format!("is {}, not {what}", name(&found.file_type()))))
            }
            _ => Ok(()),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => match kind {
            HostPathType::DirectoryOrCreate => {
                make_directory(place).map_err(|e| told(format!("cannot be made a directory: {e}")))
            }
            HostPathType::FileOrCreate => make_file(place).map_err(|e| told(format!("cannot be made a file: {e}"))),
            HostPathType::Any | HostPathType::Directory => Err(told(
                "does not exist on this host: make it, or use type DirectoryOrCreate".into(),
            )),
            HostPathType::File => Err(told(
                "does not exist on this host: make it, or use type FileOrCreate".into(),
            )),
            HostPathType::Socket | HostPathType::CharDevice | HostPathType::BlockDevice => {
                Err(told("does not exist on this host".into()))
            }
        },
        Err(e) => Err(told(format!("cannot be looked at: {e}"))),
    }
}

type Test = fn(&fs::FileType) -> bool;

fn wanted(kind: HostPathType) -> Option<(&'static str, Test)> {
    Some(match kind {
        HostPathType::Any => return None,
        HostPathType::Directory | HostPathType::DirectoryOrCreate => ("a directory", fs::FileType::is_dir),
        HostPathType::File | HostPathType::FileOrCreate => ("a file", fs::FileType::is_file),
        HostPathType::Socket => ("a socket", |t| t.is_socket()),
        HostPathType::CharDevice => ("a character device", |t| t.is_char_device()),
        HostPathType::BlockDevice => ("a block device", |t| t.is_block_device()),
    })
}

fn name(found: &fs::FileType) -> &'static str {
    if found.is_dir() {
        "a directory"
    } else if found.is_file() {
        "a file"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_char_device() {
        "a character device"
    } else if found.is_block_device() {
        "a block device"
    } else {
        "something else"
    }
}

/// With its parents. The mode is set afterwards: the agent's umask is not the pod's affair.
fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY))
}

/// Its directory must be there.
fn make_file(path: &Path) -> io::Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(FILE).open(path)?;
    made.set_permissions(Permissions::from_mode(FILE))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    #[test]
    fn types_are_checked_and_only_some_make_what_is_missing() {
        use HostPathType::*;
        let root = tempfile::tempdir().expect("a directory");
        let at = |name: &str| root.path().join(name).to_str().expect("text").to_owned();
        fs::create_dir(at("dir")).expect("made");
        fs::write(at("file"), "kept").expect("made");
        symlink(at("dir"), at("link")).expect("made");
        symlink(at("nowhere"), at("dangling")).expect("made");
        let _socket = UnixListener::bind(at("socket")).expect("made");
        for (path, good, bad) in [
            (
                at("dir"),
                vec![Any, Directory, DirectoryOrCreate],
                vec![File, FileOrCreate, Socket, CharDevice, BlockDevice],
            ),
            (at("link"), vec![Any, Directory], vec![File]),
            (
                at("file"),
                vec![Any, File, FileOrCreate],
                vec![Directory, DirectoryOrCreate, Socket, CharDevice],
            ),
            (at("socket"), vec![Any, Socket], vec![File, Directory]),
            ("/dev/null".into(), vec![Any, CharDevice], vec![File, BlockDevice]),
            (
                at("none"),
                vec![],
                vec![Any, Directory, File, Socket, CharDevice, BlockDevice],
            ),
            (at("no/parent"), vec![], vec![FileOrCreate]),
            (at("dangling"), vec![], vec![Any, FileOrCreate]),
            ("relative".into(), vec![], vec![Any, DirectoryOrCreate]),
        ] {
            for kind in good {
                assert_eq!(check("v", &path, kind), Ok(()), "{path} {kind:?}");
            }
            for kind in bad {
                let error = check("v", &path, kind).expect_err("refused");
                assert!(error.starts_with(&format!("volume v: host path {path} ")), "{error}");
                assert!(!error.contains('\n'), "{error}");
            }
        }
        assert!(!root.path().join("none").exists() && !root.path().join("nowhere").exists());
        assert_eq!(fs::read_to_string(at("file")).expect("read"), "kept");

        let mode = |name: &str| fs::metadata(at(name)).expect("there").permissions().mode() & 0o7777;
        assert_eq!(check("v", &at("new/dir"), DirectoryOrCreate), Ok(()));
        assert_eq!(check("v", &at("new/file"), FileOrCreate), Ok(()));
        assert_eq!((mode("new/dir"), mode("new/file")), (0o755, 0o644));
    }
}
