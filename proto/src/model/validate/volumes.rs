//! What volumes and their mounts must satisfy. Called by [`super::containers`].

use std::collections::BTreeSet;

use super::Check;
use crate::model::{
    Quantity, Volume, VolumeMount,
    labels::{check_dns_label, quoted},
    parse::hint,
};

/// As Linux has it.
const MAX_PATH: usize = 4096;

/// An absolute path.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        Err(format!("{} must be an absolute path", quoted(path)))
    } else if path.len() > MAX_PATH || path.chars().any(char::is_control) {
        Err(format!(
            "must be at most {MAX_PATH} characters, none of them a control character"
        ))
    } else {
        Ok(())
    }
}

/// An absolute path that stays below what it names.
fn check_path_down(path: &str) -> Result<(), String> {
    check_path(path)?;
    if path.split('/').any(|part| part == "..") {
        return Err(format!("{} must not contain '..'", quoted(path)));
    }
    Ok(())
}

/// The same for every way to write a path.
fn plain(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect()
}

impl Check {
    pub(super) fn volumes(&mut self, path: &str, volumes: &[Volume]) {
        let mut names = BTreeSet::new();
        for (i, volume) in volumes.iter().enumerate() {
            let at = format!("{path}.volumes[{i}]");
            self.need(format!("{at}.name"), check_dns_label(&volume.name));
            if !names.insert(&volume.name) {
                self.fail(
                    format!("{at}.name"),
                    format!("{:?} is the name of another volume of this pod", volume.name),
                );
            }
            match (&volume.empty_dir, &volume.host_path) {
                (Some(_), Some(_)) => self.fail(&at, "has two sources; leave emptyDir or hostPath out"),
                (None, None) => self.fail(&at, "needs a source: emptyDir: {} or hostPath"),
                (Some(empty), None) => {
                    if empty.size_limit.as_ref().is_some_and(Quantity::is_negative) {
                        self.fail(format!("{at}.emptyDir.sizeLimit"), "must not be negative");
                    }
                }
                (None, Some(host)) => self.need(format!("{at}.hostPath.path"), check_path_down(&host.path)),
            }
        }
    }

    pub(super) fn mounts(&mut self, at: &str, mounts: &[VolumeMount], volumes: &[Volume]) {
        let mut taken = BTreeSet::new();
        for (j, mount) in mounts.iter().enumerate() {
            let at = format!("{at}.volumeMounts[{j}]");
            if !volumes.iter().any(|v| v.name == mount.name) {
                let known: Vec<_> = volumes.iter().map(|v| v.name.as_str()).collect();
                self.fail(
                    format!("{at}.name"),
                    format!(
                        "{} is no volume of this pod{}",
                        quoted(&mount.name),
                        hint(&mount.name, &known)
                    ),
                );
            }
            let path = format!("{at}.mountPath");
            let place = plain(&mount.mount_path);
            if let Err(problem) = check_path_down(&mount.mount_path) {
                self.fail(path, problem);
            } else if mount.mount_path.contains(':') {
                self.fail(path, "must not contain ':'");
            } else if place.is_empty() {
                self.fail(path, "must not be the root of the container's files");
            } else if !taken.insert(place) {
                self.fail(path, format!("{} is mounted twice", quoted(&mount.mount_path)));
            }
        }
    }
}
