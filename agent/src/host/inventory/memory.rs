//! Memory: all of it as the kernel counts, and its modules where the firmware shows them. Called by the inventory.
//!
//! Invariant: total.

use proto::{model::hardware::limits, wire::inventory::Memory};

use super::{smbios::Tables, tree::Tree};

pub(super) fn read(tree: &Tree, tables: &Tables) -> Memory {
    let info = tree.text("proc/meminfo");
    let kib = info.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    Memory {
        total: kib.unwrap_or(0).saturating_mul(1024).min(limits::BYTES),
        slots: tables.slots,
        modules: tables.modules.clone(),
    }
}
