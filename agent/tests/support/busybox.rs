//! An image with a shell, made from the machine's static busybox without a registry.

use std::{fs::File, process::Command};

use super::{docker, try_docker};

/// Image with busybox's commands in `/bin`, running as root.
pub const BUSYBOX: &str = "wharf-agent-test/busybox:1";

/// A tar archive of a root directory with busybox and a file of the given content.
pub fn root(content: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), content).expect("written");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/dev/busybox-root.sh");
    let made = Command::new(script).arg(file.path()).output().expect("busybox-root.sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// Puts an image by this name on the shared engine, with these changes (`USER web`), unless it is there.
pub fn import(name: &str, changes: &[&str]) {
    // Tests are processes of their own, and begin together.
    let lock = File::create(std::env::temp_dir().join("wharf-agent-test-busybox.lock")).expect("a file");
    lock.lock().expect("locked");
    if try_docker("", &["image", "inspect", name]).status.success() {
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), root(b"")).expect("written");
    let changes: Vec<String> = changes.iter().map(|c| format!("--change={c}")).collect();
    let mut args = vec!["import"];
    args.extend(changes.iter().map(String::as_str));
    args.extend([file.path().to_str().expect("text"), name]);
    docker("", &args);
}
