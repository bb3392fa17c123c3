//! What the machine is made of, read from `/proc`, `/sys` and the firmware's tables. Called by the host probe, which
//! keeps the result for some minutes.
//!
//! Invariant: every reader is total: what is absent, damaged or makes no sense is left out, never an error and never
//! a guess. The result is within `proto::model::hardware::limits`, whatever the files hold.

mod cpu;
mod disks;
mod memory;
mod pci;
mod smbios;
mod tree;

use std::path::Path;

use proto::wire::{Inventory, inventory::Unit};

use self::{smbios::Tables, tree::Tree};

/// The inventory of the host whose files are below `root`. Reads some hundred small files; may block.
pub(super) fn read(root: &Path) -> Inventory {
    let tree = Tree::new(root);
    let tables = smbios::read(&tree);
    let (system, chassis) = units(&tree, &tables);
    Inventory {
        system: known(system),
        chassis: known(chassis),
        cpu: known(cpu::read(&tree, &tables)),
        memory: known(memory::read(&tree, &tables)),
        disks: disks::read(&tree),
        nics: pci::nics(&tree),
        gpus: pci::gpus(&tree),
    }
}

/// `None` for a part of which nothing is known.
fn known<T: Default + PartialEq>(part: T) -> Option<T> {
    (part != T::default()).then_some(part)
}

/// The machine and its enclosure: from the tables, else as the kernel copied them from there.
fn units(tree: &Tree, tables: &Tables) -> (Unit, Unit) {
    let field = |found: &str, file: &str| match found {
        "" => tree.id(&format!("sys/class/dmi/id/{file}")),
        found => found.to_owned(),
    };
    let (system, chassis) = (&tables.system, &tables.chassis);
    (
        Unit {
            manufacturer: field(&system.manufacturer, "sys_vendor"),
            product: field(&system.product, "product_name"),
            serial: field(&system.serial, "product_serial"),
            asset_tag: String::new(),
        },
        Unit {
            manufacturer: field(&chassis.manufacturer, "chassis_vendor"),
            product: chassis.product.clone(),
            serial: field(&chassis.serial, "chassis_serial"),
            asset_tag: field(&chassis.asset_tag, "chassis_asset_tag"),
        },
    )
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
