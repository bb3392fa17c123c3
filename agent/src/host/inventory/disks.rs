//! Disks, from `/sys/block`. Called by the inventory.
//!
//! Invariant: total; only what stands for hardware counts: a device stands behind it, and it is no optical or floppy
//! drive, no path that the kernel hides, and no part of another disk.

use proto::{model::hardware::limits, wire::inventory::Disk};

use super::tree::{Tree, real};

/// Names looked at: many loop devices may stand before the disks.
const MOST: usize = 16 << 10;
/// The kernel counts in these, whatever the disk does.
const SECTOR: u64 = 512;

pub(super) fn read(tree: &Tree) -> Vec<Disk> {
    let names = tree.names("sys/block", MOST).into_iter();
    names.filter_map(|name| disk(tree, name)).take(limits::DISKS).collect()
}

fn disk(tree: &Tree, name: String) -> Option<Disk> {
    let at = |file: &str| format!("sys/block/{name}/{file}");
    // Loop, RAM, device mapper and RAID devices have no device behind them.
    let hardware = tree.exists(&at("device"));
    let other = ["loop", "ram", "zram", "dm-", "md", "nbd", "sr", "fd"]
        .iter()
        .any(|prefix| {
            name.strip_prefix(prefix)
                .is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()))
        })
        || name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    if !hardware || other || tree.number::<u8>(&at("hidden")) == Some(1) {
        return None;
    }
    let size = tree.number::<u64>(&at("size")).unwrap_or(0).saturating_mul(SECTOR);
    // A card reader without a card.
    if size == 0 && tree.number::<u8>(&at("removable")) == Some(1) {
        return None;
    }
    let first = |files: [&str; 2]| files.iter().map(|f| tree.id(&at(f))).find(|v| !v.is_empty());
    Some(Disk {
        model: first(["device/model", "device/name"]).unwrap_or_default(),
        serial: first(["device/serial", "serial"])
            .or_else(|| page_80(&tree.bytes(&at("device/vpd_pg80"), 256)?))
            .unwrap_or_default(),
        wwid: first(["wwid", "device/wwid"]).unwrap_or_default(),
        size: size.min(limits::BYTES),
        rotational: tree.number::<u8>(&at("queue/rotational")) == Some(1),
        name: super::tree::clean(&name),
    })
}

/// The serial in a SCSI unit's page 80h: four bytes of header, the last two being the length.
fn page_80(page: &[u8]) -> Option<String> {
    let length = u16::from_be_bytes(page.get(2..4)?.try_into().ok()?);
    let text = page.get(4..)?;
    let text = &text[..usize::from(length).min(text.len())];
    Some(real(&String::from_utf8_lossy(text))).filter(|serial| !serial.is_empty())
}
