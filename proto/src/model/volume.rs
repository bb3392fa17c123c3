//! What a pod mounts.
//!
//! Invariant: a default is never written, for a pod's identity is the hash of what is.

use serde::{Deserialize, Serialize};

use super::Quantity;

/// A directory or file that containers of the pod mount by its name. Exactly one source is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Volume {
    /// DNS label, unique in the pod.
    pub name: String,
    /// Empty when the pod starts, shared by its containers, gone with the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolume>,
    /// A path of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolume>,
}

impl Volume {
    /// An emptyDir in memory.
    pub fn in_memory(&self) -> bool {
        self.empty_dir
            .as_ref()
            .is_some_and(|e| e.medium == StorageMedium::Memory)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EmptyDirVolume {
    #[serde(skip_serializing_if = "StorageMedium::is_disk")]
    pub medium: StorageMedium,
    /// Most bytes; enforced for memory only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<Quantity>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageMedium {
    #[default]
    #[serde(rename = "")]
    Disk,
    Memory,
}

impl StorageMedium {
    fn is_disk(&self) -> bool {
        *self == Self::Disk
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HostPathVolume {
    /// Absolute.
    pub path: String,
    #[serde(rename = "type", skip_serializing_if = "HostPathType::is_any")]
    pub kind: HostPathType,
}

/// What must be at the path before a container that mounts it is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathType {
    /// Anything that exists.
    #[default]
    #[serde(rename = "")]
    Any,
    Directory,
    /// A directory, made (mode 0755) where there is nothing.
    DirectoryOrCreate,
    File,
    /// A file, made empty (mode 0644) where there is nothing.
    FileOrCreate,
    Socket,
    CharDevice,
    BlockDevice,
}

impl HostPathType {
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VolumeMount {
    /// Of a volume of the pod.
    pub name: String,
    /// Absolute path in the container.
    pub mount_path: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}
