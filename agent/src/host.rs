//! Facts of the host: what it has, where it is reached, what it runs. Called by the session at its start and
//! whenever facts are looked at again.
//!
//! Invariant: facts are read, never guessed at silently: what cannot be read is 0 or empty and logged. Identity,
//! labels and holds are not among them. All files are read below one root directory, `/` outside of tests.

mod addresses;
mod capacity;
mod inventory;
mod machine;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use proto::{
    ids::content_hash,
    wire::{Inventory, NodeFacts, ResourceAmounts},
};

pub use self::{
    capacity::{Capacity, CapacityError, Reserved, parse_capacity},
    machine::Machine,
};
use crate::runtime::EngineInfo;

/// Pods a node takes unless `--capacity` says otherwise.
const PODS: u64 = 110;

/// Where and how to look.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The agent's own directory; keeps the machine id of a host that has none.
    pub data_dir: PathBuf,
    /// Docker's root directory while the engine has not told it yet.
    pub docker_root: PathBuf,
    /// What this node is said to have; the rest is read from the host.
    pub capacity: Capacity,
    /// Another agent runs on this machine too.
    pub shared_host: bool,
    /// Addresses to report instead of the host's own, the first one being where its ports can be reached.
    pub addresses: Vec<String>,
    /// CPUs, memory and names; `None`: looked up on this machine at each look.
    pub machine: Option<Machine>,
    /// Where the host's files are: `/`.
    pub root: PathBuf,
    pub reserved: Reserved,
    /// How long an inventory is good: hardware does not change by the minute, and reading it is some hundred files.
    pub inventory_every: Duration,
}

impl HostOptions {
    /// Everything as found on this host.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            docker_root: "/var/lib/docker".into(),
            capacity: Capacity::default(),
            shared_host: false,
            addresses: Vec::new(),
            machine: None,
            root: "/".into(),
            reserved: Reserved::default(),
            inventory_every: Duration::from_secs(600),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("--shared-host needs --capacity with this node's part of cpu and memory, e.g. --capacity cpu=2,memory=2Gi")]
    SharedWithoutCapacity,
}

/// See the module's head.
#[derive(Debug)]
pub struct HostProbe {
    opts: HostOptions,
    machine_id: String,
    /// As last told by the engine: its version and disk do not vanish from the node while it is away.
    engine: Mutex<Option<EngineInfo>>,
    /// As last read, and when.
    inventory: Mutex<Option<(Instant, Inventory)>>,
}

impl HostProbe {
    pub fn new(opts: HostOptions) -> Result<Self, HostError> {
        if opts.shared_host && (opts.capacity.cpu_milli.is_none() || opts.capacity.memory.is_none()) {
            return Err(HostError::SharedWithoutCapacity);
        }
        let hostname = opts.machine.clone().unwrap_or_else(Machine::here).hostname;
        let machine_id = machine_id(&opts.root, &hostname, &opts.data_dir);
        Ok(Self {
            opts,
            machine_id,
            engine: Mutex::new(None),
            inventory: Mutex::new(None),
        })
    }

    /// What tells this machine from others.
    pub fn machine_id(&self) -> &str {
        &self.machine_id
    }

    pub fn boot_id(&self) -> String {
        line(&self.opts.root, "proc/sys/kernel/random/boot_id").unwrap_or_default()
    }

    /// The next look reads the inventory anew.
    pub fn forget_inventory(&self) {
        *self.inventory.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn inventory(&self) -> Inventory {
        let mut kept = self.inventory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, inventory)) = &*kept
            && at.elapsed() < self.opts.inventory_every
        {
            return inventory.clone();
        }
        let read = inventory::read(&self.opts.root);
        *kept = Some((Instant::now(), read.clone()));
        read
    }

    /// The facts now. `engine` is `None` while Docker does not answer; then `docker_reason` says why.
    pub fn collect(&self, engine: Option<&EngineInfo>, docker_reason: &str) -> NodeFacts {
        let root = &self.opts.root;
        let known = {
            let mut known = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(engine) = engine {
                *known = Some(engine.clone());
            }
            known.clone()
        };
        let (version, root_dir) = known.map_or_else(Default::default, |e| (e.version, e.root_dir));
        let docker_root = match root_dir.as_str() {
            "" => self.opts.docker_root.as_path(),
            told => Path::new(told),
        };
        let machine = self.opts.machine.clone().unwrap_or_else(Machine::here);
        let host = ResourceAmounts {
            cpu_milli: machine.cpus * 1000,
            memory: machine.memory,
            ephemeral_storage: disk(&below(root, docker_root)),
            pods: PODS,
        };
        let (capacity, allocatable) = self.opts.capacity.apply(&host, &self.opts.reserved);
        let addresses = if self.opts.addresses.is_empty() {
            addresses::of_host(root)
        } else {
            self.opts.addresses.clone()
        };
        NodeFacts {
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            addresses,
            hostname: machine.hostname,
            operating_system: OPERATING_SYSTEM.into(),
            os_image: os_image(root),
            kernel_version: machine.kernel,
            architecture: architecture().into(),
            docker_version: version,
            agent_version: proto::VERSION.into(),
            boot_id: self.boot_id(),
            machine_id: self.machine_id.clone(),
            docker_ready: engine.is_some(),
            docker_reason: if engine.is_some() {
                String::new()
            } else {
                docker_reason.to_owned()
            },
            inventory: Some(self.inventory()),
            // Asked of the engine by itself.
            unmanaged: Vec::new(),
            unmanaged_count: 0,
        }
    }
}

/// An absolute path of the host, below `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

/// A file of one line; `None` when it is absent or empty.
fn line(root: &Path, path: &str) -> Option<String> {
    read(root, path)
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
}

/// As Kubernetes and image manifests name it.
pub const OPERATING_SYSTEM: &str = std::env::consts::OS;

/// As Kubernetes and image manifests name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

/// Size of the file system at `path`, or of the one that it would be made on.
fn disk(path: &Path) -> u64 {
    let Some(found) = path.ancestors().find(|p| p.exists()) else {
        return 0;
    };
    match nix::sys::statvfs::statvfs(found) {
        Ok(v) => v.blocks().saturating_mul(v.fragment_size()),
        Err(error) => {
            tracing::warn!(path = %found.display(), %error, "cannot measure the file system");
            0
        }
    }
}

/// `PRETTY_NAME` of os-release.
fn os_image(root: &Path) -> String {
    let text = read(root, "etc/os-release").or_else(|| read(root, "usr/lib/os-release"));
    let text = text.unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
            .map(|v| v.trim().trim_matches(['"', '\'']).to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_default()
}

/// What tells this machine from others. It must be the same for all agents of one machine, since they share its
/// ports, and the same after a reboot. In this order: systemd's id, D-Bus's, the firmware's, a hash over host name
/// and the hardware addresses of real network cards, and, for a host with none of these, a random one kept in the
/// agent's own directory.
fn machine_id(root: &Path, hostname: &str, data_dir: &Path) -> String {
    let files = [
        "etc/machine-id",
        "var/lib/dbus/machine-id",
        "sys/class/dmi/id/product_uuid",
    ];
    // systemd writes "uninitialized" into an image's file.
    if let Some(id) = files
        .iter()
        .filter_map(|file| line(root, file))
        .find(|id| id != "uninitialized")
    {
        return id;
    }
    let cards = addresses::hardware(root);
    if !cards.is_empty() {
        return content_hash(format!("{hostname}|{}", cards.join("|")).as_bytes());
    }
    let file = data_dir.join("machine-id");
    if let Some(id) = line(data_dir, "machine-id") {
        return id;
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    if let Err(error) = fs::write(&file, format!("{id}\n")) {
        tracing::warn!(file = %file.display(), %error, "this host has no machine id and a new one cannot be kept");
    }
    id
}

#[cfg(test)]
#[path = "host/host_tests.rs"]
mod tests;
