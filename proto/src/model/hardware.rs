//! What a node's host is made of: `status.hardware` of a Node, Wharfinger's own extension. Made by the coordinator
//! from the agent's inventory, shown by the command.
//!
//! Invariant: what is not known is left out of the JSON; [`limits`] bound what an agent sends and a coordinator
//! takes.

use serde::{Deserialize, Serialize};

/// Bounds of an inventory. The agent cuts at them, the coordinator refuses beyond them. All of them used up make a
/// record of under a mebibyte, which is what one commit of the store takes.
pub mod limits {
    /// Bytes of a text.
    pub const TEXT: usize = 80;
    pub const MODULES: usize = 256;
    pub const DISKS: usize = 512;
    pub const NICS: usize = 128;
    pub const GPUS: usize = 64;
    /// Bytes of memory or of one disk: an exbibyte.
    pub const BYTES: u64 = 1 << 60;
    /// Sockets, cores, threads or slots.
    pub const COUNT: u32 = 1 << 20;
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hardware {
    #[serde(skip_serializing_if = "is_default")]
    pub system: HardwareUnit,
    #[serde(skip_serializing_if = "is_default")]
    pub chassis: HardwareUnit,
    #[serde(skip_serializing_if = "is_default")]
    pub cpu: Cpu,
    #[serde(skip_serializing_if = "is_default")]
    pub memory: Memory,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
}

/// The machine or its enclosure, as the firmware names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HardwareUnit {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub manufacturer: String,
    /// Product name of the machine, kind of the enclosure.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub product: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub asset_tag: String,
}

/// All sockets together; what is switched off is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cpu {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    #[serde(skip_serializing_if = "is_default")]
    pub sockets: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub cores: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub threads: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Memory {
    /// Bytes that the kernel manages.
    #[serde(skip_serializing_if = "is_default")]
    pub total: u64,
    /// Places for modules, empty ones too.
    #[serde(skip_serializing_if = "is_default")]
    pub slots: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<MemoryModule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MemoryModule {
    /// As printed on the board: `DIMM_A1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slot: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bank: String,
    /// Bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub size: u64,
    /// `DDR4`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Million transfers a second that it is made for.
    #[serde(skip_serializing_if = "is_default")]
    pub speed_mts: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub manufacturer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub part_number: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Disk {
    /// `nvme0n1`; may differ after a restart.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// World-wide name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub wwid: String,
    /// Bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub size: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rotational: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Nic {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// Megabits a second; 0 without a link.
    #[serde(skip_serializing_if = "is_default")]
    pub speed_mbps: u32,
    /// `full` or `half`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub duplex: String,
    /// Whether it has a link.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub carrier: bool,
    /// Bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub mtu: u32,
    /// PCI address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slot: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Gpu {
    /// PCI address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slot: String,
    /// PCI vendor and device: `10de:20b5`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
}
