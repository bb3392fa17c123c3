//! Network cards, from `/sys/class/net`, and graphics cards, from `/sys/bus/pci`. Called by the inventory.
//!
//! Invariant: total; virtual functions of a card are not counted beside it.

use std::path::Path;

use proto::{
    model::hardware::limits,
    wire::inventory::{Gpu, Nic},
};

use super::tree::{Tree, clean, real};

/// Names looked at: a host of many containers has as many interfaces.
const MOST: usize = 64 << 10;

pub(super) fn nics(tree: &Tree) -> Vec<Nic> {
    let names = tree.names("sys/class/net", MOST).into_iter();
    names.filter_map(|name| nic(tree, name)).take(limits::NICS).collect()
}

fn nic(tree: &Tree, name: String) -> Option<Nic> {
    let at = |file: &str| format!("sys/class/net/{name}/{file}");
    if !tree.exists(&at("device")) || tree.exists(&at("device/physfn")) {
        return None;
    }
    // A member of a bond shows the bond's address as its own.
    let own = tree.value(&at("bonding_slave/perm_hwaddr"));
    Some(Nic {
        mac: if own.is_empty() {
            tree.value(&at("address"))
        } else {
            own
        },
        driver: tree.link_name(&at("device/driver")),
        // -1, its unsigned twin, or unreadable without a link.
        speed_mbps: tree.number(&at("speed")).filter(|s| *s != u32::MAX).unwrap_or(0),
        duplex: Some(tree.value(&at("duplex")))
            .filter(|d| d == "full" || d == "half")
            .unwrap_or_default(),
        carrier: tree.number::<u8>(&at("carrier")) == Some(1),
        mtu: tree.number(&at("mtu")).unwrap_or(0),
        slot: slot(&tree.resolved(&at("device"))),
        name: clean(&name),
    })
}

/// The innermost PCI address on the way to a device: a card of a bus on top of PCI has the address of its bridge.
fn slot(device: &Path) -> String {
    let mut parts = device.iter().filter_map(|part| part.to_str());
    parts.rfind(|part| is_address(part)).unwrap_or_default().to_owned()
}

/// `0000:3b:00.1`.
fn is_address(text: &str) -> bool {
    let hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
    let mut parts = text.split([':', '.']);
    let (Some(domain), Some(bus), Some(device), Some(function), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    (4..=8).contains(&domain.len()) && hex(domain, domain.len()) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
}

pub(super) fn gpus(tree: &Tree) -> Vec<Gpu> {
    let slots = tree.names("sys/bus/pci/devices", MOST).into_iter();
    slots.filter_map(|slot| gpu(tree, slot)).take(limits::GPUS).collect()
}

fn gpu(tree: &Tree, slot: String) -> Option<Gpu> {
    let at = |file: &str| format!("sys/bus/pci/devices/{slot}/{file}");
    let hex = |file: &str| u32::from_str_radix(tree.value(&at(file)).strip_prefix("0x")?, 16).ok();
    // Base class 03: display controllers.
    if hex("class")? >> 16 != 0x03 || tree.exists(&at("physfn")) {
        return None;
    }
    let (vendor, device) = (hex("vendor").unwrap_or(0), hex("device").unwrap_or(0));
    let driver = tree.link_name(&at("driver"));
    let model = match vendor {
        0x10de => nvidia_model(&tree.text(&format!("proc/driver/nvidia/gpus/{slot}/information"))),
        _ => tree.id(&at("product_name")),
    };
    Some(Gpu {
        id: format!("{vendor:04x}:{device:04x}"),
        vendor: vendor_name(vendor).to_owned(),
        model,
        driver,
        serial: tree.id(&at("serial_number")),
        slot: clean(&slot),
    })
}

fn nvidia_model(information: &str) -> String {
    let model = information.lines().find_map(|l| l.strip_prefix("Model:"));
    real(model.unwrap_or_default())
}

/// Empty for a vendor that we do not know; its number is in the id.
fn vendor_name(vendor: u32) -> &'static str {
    match vendor {
        0x1002 => "AMD",
        0x102b => "Matrox",
        0x10de => "NVIDIA",
        0x1234 => "QEMU",
        0x1414 => "Microsoft",
        0x15ad => "VMware",
        0x1a03 => "ASPEED",
        0x1af4 | 0x1b36 => "Red Hat",
        0x8086 => "Intel",
        _ => "",
    }
}
