//! Where things lie in a coordinator's data directory, and the mark that it belongs to a cluster. Used by
//! [`crate::init`], [`crate::join`], the ca and the coordinator's start.
//!
//! Invariant: no other module spells a file name of this directory's identity.

use std::{
    io,
    path::{Path, PathBuf},
};

use proto::files::{FileError, file_error};
use serde::{Deserialize, Serialize};

use crate::{ca::issue::Issuer, leader::guard};

/// Where things lie in a coordinator's data directory.
#[derive(Clone, Debug)]
pub struct Layout(PathBuf);

impl Layout {
    pub fn new(data_dir: &Path) -> Self {
        Self(data_dir.to_owned())
    }

    /// The mark that this directory belongs to a cluster, [`ClusterFile`].
    pub fn cluster_file(&self) -> PathBuf {
        self.0.join("cluster.json")
    }

    /// The cluster secret K.
    pub fn cluster_key(&self) -> PathBuf {
        self.0.join("cluster.key")
    }

    pub fn admin_file(&self) -> PathBuf {
        self.0.join("admin.yaml")
    }

    pub(crate) fn ca_dir(&self) -> PathBuf {
        self.0.join("ca")
    }

    pub fn intermediate_key(&self) -> PathBuf {
        self.ca_dir().join("intermediate.key")
    }

    /// The intermediate, then the root.
    pub fn intermediate_cert(&self) -> PathBuf {
        self.ca_dir().join("intermediate.crt")
    }

    /// Audit records of commands on this host, until the coordinator takes them in.
    pub fn audit_dir(&self) -> PathBuf {
        self.ca_dir().join("audit")
    }

    /// Where scheduled backups lie.
    pub fn backup_dir(&self) -> PathBuf {
        self.0.join("backups")
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    /// What `init` works in before anything has its name.
    pub(crate) fn staging(&self) -> PathBuf {
        self.0.join(".init")
    }

    /// What `join` works in before anything has its name.
    pub(crate) fn joining(&self) -> PathBuf {
        self.0.join(".join")
    }

    /// How far this directory has served its cluster, [`guard::Mark`].
    pub(crate) fn served_file(&self) -> PathBuf {
        self.0.join(guard::FILE)
    }

    /// Reads this coordinator's intermediate; the error names the file.
    pub(crate) fn issuer(&self, cluster: &str) -> Result<Issuer, FileError> {
        let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(|e| file_error(&path, e));
        let chain = read(self.intermediate_cert())?;
        let key = read(self.intermediate_key())?;
        Issuer::new(cluster, &chain, &key).map_err(|e| file_error(&self.intermediate_cert(), e))
    }
}

/// `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFile {
    /// UUID.
    pub cluster: String,
    /// UUID of the state history that this directory served last.
    pub incarnation: String,
    /// Name of this coordinator, a DNS subdomain.
    pub name: String,
    /// Session addresses at the time of `init` or `join`.
    pub addresses: Vec<String>,
}

impl ClusterFile {
    /// The error is for people and does not name the path.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                "no cluster in this data directory; run `wharf-coordinator init` first".to_owned()
            }
            _ => e.to_string(),
        })?;
        serde_json::from_slice(&bytes).map_err(|e| format!("damaged ({e}); put back the undamaged file"))
    }
}
