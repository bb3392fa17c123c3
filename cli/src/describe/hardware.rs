//! The hardware section of `describe node`: one line for each module, disk and card.
//!
//! Invariant: pure; what the host does not show is left out, and so is the section when nothing is known.

use proto::model::{Hardware, hardware::HardwareUnit};

use super::Doc;
use crate::{output::bytes, table::table};

pub fn describe(doc: &mut Doc, hardware: &Hardware) {
    if *hardware == Hardware::default() {
        return;
    }
    doc.heading(0, "Hardware");
    doc.group();
    doc.field_if(2, "System", unit(&hardware.system));
    doc.field_if(2, "Chassis", unit(&hardware.chassis));
    let cpu = &hardware.cpu;
    // Sockets of unequal CPUs have no one number of cores.
    let cores = match (cpu.sockets, cpu.cores) {
        (0, _) | (_, 0) => String::new(),
        (sockets, cores) if cores % sockets == 0 => format!("{sockets} x {}", plural(cores / sockets, "core")),
        (sockets, cores) => format!("{cores} cores on {}", plural(sockets, "socket")),
    };
    let threads = if cpu.threads == 0 {
        String::new()
    } else {
        plural(cpu.threads, "thread")
    };
    doc.field_if(2, "CPU", joined(&[&cores, &threads, &cpu.model]));
    let memory = &hardware.memory;
    let total = if memory.total == 0 {
        String::new()
    } else {
        format!("{} usable", bytes(memory.total))
    };
    let modules = if memory.modules.is_empty() {
        String::new()
    } else {
        let installed = memory.modules.iter().fold(0_u64, |sum, m| sum.saturating_add(m.size));
        format!(
            "{} in {} of {} slots",
            bytes(installed),
            memory.modules.len(),
            memory.slots
        )
    };
    doc.field_if(2, "Memory", joined(&[&modules, &total]));
    let modules = memory.modules.iter().map(|m| {
        vec![
            m.slot.clone(),
            size(m.size),
            m.kind.clone(),
            with_unit(m.speed_mts, "MT/s"),
            m.manufacturer.clone(),
            m.part_number.clone(),
            m.serial.clone(),
        ]
    });
    list(
        doc,
        &["DIMM", "Size", "Type", "Speed", "Manufacturer", "Part", "Serial"],
        modules.collect(),
    );
    let disks = hardware.disks.iter().map(|d| {
        let kind = if d.rotational { "rotating" } else { "solid" };
        vec![
            d.name.clone(),
            size(d.size),
            kind.to_owned(),
            d.model.clone(),
            d.serial.clone(),
        ]
    });
    list(doc, &["Disk", "Size", "Kind", "Model", "Serial"], disks.collect());
    let nics = hardware.nics.iter().map(|n| {
        let link = match (n.carrier, n.speed_mbps) {
            (false, _) => "down".to_owned(),
            (true, 0) => "up".to_owned(),
            (true, speed) => format!("{speed} Mb/s {}", n.duplex).trim_end().to_owned(),
        };
        vec![
            n.name.clone(),
            n.mac.clone(),
            link,
            n.driver.clone(),
            with_unit(n.mtu, ""),
            n.slot.clone(),
        ]
    });
    list(doc, &["NIC", "MAC", "Link", "Driver", "MTU", "Slot"], nics.collect());
    let gpus = hardware.gpus.iter().map(|g| {
        vec![
            g.slot.clone(),
            g.id.clone(),
            words(&[&g.vendor, &g.model], " "),
            g.driver.clone(),
            g.serial.clone(),
        ]
    });
    list(doc, &["GPU", "ID", "Model", "Driver", "Serial"], gpus.collect());
}

/// `-` stands where nothing is known, so that columns stay columns.
fn list(doc: &mut Doc, header: &[&str], mut rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    for cell in rows.iter_mut().flatten().filter(|cell| cell.is_empty()) {
        "-".clone_into(cell);
    }
    doc.block(2, &table(header, &rows));
}

fn unit(unit: &HardwareUnit) -> String {
    let of = |word: &str, text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            format!("{word} {text}")
        }
    };
    joined(&[
        &words(&[&unit.manufacturer, &unit.product], " "),
        &of("serial", &unit.serial),
        &of("asset tag", &unit.asset_tag),
    ])
}

fn joined(parts: &[&str]) -> String {
    words(parts, ", ")
}

fn words(parts: &[&str], between: &str) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    parts.join(between)
}

fn size(n: u64) -> String {
    if n == 0 { String::new() } else { bytes(n) }
}

fn plural(n: u32, word: &str) -> String {
    if n == 1 {
        format!("1 {word}")
    } else {
        format!("{n} {word}s")
    }
}

fn with_unit(n: u32, unit: &str) -> String {
    if n == 0 {
        String::new()
    } else {
        format!("{n} {unit}").trim_end().to_owned()
    }
}
