//! An agent's inventory, checked and made into the record that is stored; and what differs between two of them, in
//! words. Called by `greet`, `stream` and `ingest`.
//!
//! Invariant: pure; whatever an agent sends, the record is within `proto::model::hardware::limits`. A link that
//! comes or goes, a driver, another name for the same disk are no difference of hardware.

use std::{collections::BTreeMap, fmt::Write as _};

use proto::{
    model::{
        EventType, Hardware, Kind, Time,
        hardware::{Cpu, Disk, Gpu, HardwareUnit, Memory, MemoryModule, Nic, limits},
    },
    wire::{Inventory, inventory},
};

use super::{notes, registry::Handle};
use crate::events::Note;

/// Differences that one event names.
const NAMED: usize = 8;
/// Total memory moves a little from one kernel to another; a part of this size is more than that.
const MEMORY_PART: u64 = 16;

/// The record of an inventory; the error says which field is out of bounds. `None`: the agent has not looked.
pub fn record(given: Option<&Inventory>) -> Result<Option<Hardware>, String> {
    let Some(given) = given else { return Ok(None) };
    let memory = given.memory.as_ref();
    let modules = memory.map(|m| m.modules.as_slice()).unwrap_or_default();
    for (name, count, most) in [
        ("memory.modules", modules.len(), limits::MODULES),
        ("disks", given.disks.len(), limits::DISKS),
        ("nics", given.nics.len(), limits::NICS),
        ("gpus", given.gpus.len(), limits::GPUS),
    ] {
        if count > most {
            return Err(format!("inventory.{name} are more than {most}"));
        }
    }
    Ok(Some(Hardware {
        system: unit("system", given.system.as_ref())?,
        chassis: unit("chassis", given.chassis.as_ref())?,
        cpu: given.cpu.as_ref().map(cpu).transpose()?.unwrap_or_default(),
        memory: Memory {
            total: bytes("memory.total", memory.map_or(0, |m| m.total))?,
            slots: count("memory.slots", memory.map_or(0, |m| m.slots))?,
            modules: modules.iter().map(module).collect::<Result<_, _>>()?,
        },
        disks: given.disks.iter().map(disk).collect::<Result<_, _>>()?,
        nics: given.nics.iter().map(nic).collect::<Result<_, _>>()?,
        gpus: given.gpus.iter().map(gpu).collect::<Result<_, _>>()?,
    }))
}

fn text(field: &str, given: &str) -> Result<String, String> {
    if given.len() > limits::TEXT || given.chars().any(char::is_control) {
        let most = limits::TEXT;
        return Err(format!(
            "inventory.{field} is longer than {most} bytes or has control characters"
        ));
    }
    Ok(given.to_owned())
}

fn bytes(field: &str, given: u64) -> Result<u64, String> {
    if given <= limits::BYTES {
        Ok(given)
    } else {
        Err(format!("inventory.{field} ({given}) is beyond what any host has"))
    }
}

fn count(field: &str, given: u32) -> Result<u32, String> {
    if given <= limits::COUNT {
        Ok(given)
    } else {
        Err(format!("inventory.{field} ({given}) is beyond what any host has"))
    }
}

fn unit(field: &str, given: Option<&inventory::Unit>) -> Result<HardwareUnit, String> {
    let Some(given) = given else {
        return Ok(HardwareUnit::default());
    };
    Ok(HardwareUnit {
        manufacturer: text(&format!("{field}.manufacturer"), &given.manufacturer)?,
        product: text(&format!("{field}.product"), &given.product)?,
        serial: text(&format!("{field}.serial"), &given.serial)?,
        asset_tag: text(&format!("{field}.asset_tag"), &given.asset_tag)?,
    })
}

fn cpu(given: &inventory::Cpu) -> Result<Cpu, String> {
    Ok(Cpu {
        model: text("cpu.model", &given.model)?,
        sockets: count("cpu.sockets", given.sockets)?,
        cores: count("cpu.cores", given.cores)?,
        threads: count("cpu.threads", given.threads)?,
    })
}

fn module(given: &inventory::Module) -> Result<MemoryModule, String> {
    Ok(MemoryModule {
        slot: text("memory.modules.slot", &given.slot)?,
        bank: text("memory.modules.bank", &given.bank)?,
        size: bytes("memory.modules.size", given.size)?,
        kind: text("memory.modules.type", &given.r#type)?,
        speed_mts: given.speed_mts,
        manufacturer: text("memory.modules.manufacturer", &given.manufacturer)?,
        serial: text("memory.modules.serial", &given.serial)?,
        part_number: text("memory.modules.part_number", &given.part_number)?,
    })
}

fn disk(given: &inventory::Disk) -> Result<Disk, String> {
    Ok(Disk {
        name: text("disks.name", &given.name)?,
        model: text("disks.model", &given.model)?,
        serial: text("disks.serial", &given.serial)?,
        wwid: text("disks.wwid", &given.wwid)?,
        size: bytes("disks.size", given.size)?,
        rotational: given.rotational,
    })
}

fn nic(given: &inventory::Nic) -> Result<Nic, String> {
    Ok(Nic {
        name: text("nics.name", &given.name)?,
        mac: text("nics.mac", &given.mac)?,
        driver: text("nics.driver", &given.driver)?,
        speed_mbps: given.speed_mbps,
        duplex: text("nics.duplex", &given.duplex)?,
        carrier: given.carrier,
        mtu: given.mtu,
        slot: text("nics.slot", &given.slot)?,
    })
}

fn gpu(given: &inventory::Gpu) -> Result<Gpu, String> {
    Ok(Gpu {
        slot: text("gpus.slot", &given.slot)?,
        id: text("gpus.id", &given.id)?,
        vendor: text("gpus.vendor", &given.vendor)?,
        model: text("gpus.model", &given.model)?,
        driver: text("gpus.driver", &given.driver)?,
        serial: text("gpus.serial", &given.serial)?,
    })
}

/// What is other hardware in `new`, each in a few words; empty when nothing is.
pub fn differences(old: &Hardware, new: &Hardware) -> Vec<String> {
    let mut out = Vec::new();
    for (name, old, new) in [
        ("system", &old.system, &new.system),
        ("chassis", &old.chassis, &new.chassis),
    ] {
        replaced(
            &mut out,
            &format!("{name} manufacturer"),
            &old.manufacturer,
            &new.manufacturer,
        );
        replaced(&mut out, &format!("{name} product"), &old.product, &new.product);
        replaced(&mut out, &format!("{name} serial"), &old.serial, &new.serial);
    }
    replaced(&mut out, "CPU model", &old.cpu.model, &new.cpu.model);
    replaced(
        &mut out,
        "CPU sockets",
        &number(old.cpu.sockets),
        &number(new.cpu.sockets),
    );
    replaced(&mut out, "CPU cores", &number(old.cpu.cores), &number(new.cpu.cores));
    memory(&mut out, &old.memory, &new.memory);
    pairs(
        &mut out,
        &old.disks,
        &new.disks,
        disk_key,
        disk_name,
        |out, name, a, b| {
            if a.size != b.size {
                out.push(format!("{name} is of {} now", size(b.size)));
            }
        },
    );
    pairs(&mut out, &old.nics, &new.nics, nic_key, nic_name, |_, _, _, _| {});
    let slot = |g: &Gpu| g.slot.clone();
    pairs(&mut out, &old.gpus, &new.gpus, slot, gpu_name, |out, name, a, b| {
        replaced(out, &format!("{name} id"), &a.id, &b.id);
        replaced(out, &format!("{name} serial"), &a.serial, &b.serial);
    });
    out
}

/// What one of the two readings did not know is no difference.
fn replaced(out: &mut Vec<String>, what: &str, old: &str, new: &str) {
    if !old.is_empty() && !new.is_empty() && old != new {
        out.push(format!("{what} {new} instead of {old}"));
    }
}

fn number(n: u32) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

fn memory(out: &mut Vec<String>, old: &Memory, new: &Memory) {
    let slot = |m: &MemoryModule| format!("{}/{}", m.bank, m.slot);
    pairs(out, &old.modules, &new.modules, slot, module_name, |out, name, a, b| {
        replaced(out, &format!("{name} serial"), &a.serial, &b.serial);
        replaced(out, &format!("{name} part number"), &a.part_number, &b.part_number);
        if a.size != b.size && a.size > 0 && b.size > 0 {
            out.push(format!("{name} is of {} now, not {}", size(b.size), size(a.size)));
        }
    });
    // Where modules are shown they say it better.
    if old.modules.is_empty()
        && new.modules.is_empty()
        && old.total > 0
        && new.total > 0
        && old.total.abs_diff(new.total) > old.total / MEMORY_PART
    {
        out.push(format!("memory {} instead of {}", size(new.total), size(old.total)));
    }
}

/// Names what is in one list only, and compares what is in both. Of several with one key, the first is the first's
/// partner.
fn pairs<T>(
    out: &mut Vec<String>,
    old: &[T],
    new: &[T],
    key: impl Fn(&T) -> String,
    name: impl Fn(&T) -> String,
    compare: impl Fn(&mut Vec<String>, &str, &T, &T),
) {
    let keyed = |list| -> BTreeMap<(String, usize), &T> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let with_key = |item| {
            let key = key(item);
            let n = seen.entry(key.clone()).or_default();
            *n += 1;
            ((key, *n), item)
        };
        <[T]>::iter(list).map(with_key).collect()
    };
    let (old, new) = (keyed(old), keyed(new));
    for (key, item) in &old {
        match new.get(key) {
            Some(other) => compare(out, &name(item), item, other),
            None => out.push(format!("{} is gone", name(item))),
        }
    }
    let added = new.iter().filter(|(key, _)| !old.contains_key(key));
    out.extend(added.map(|(_, item)| format!("{} is new", name(item))));
}

/// A disk keeps its serial when it gets another name at a restart.
fn disk_key(disk: &Disk) -> String {
    [&disk.serial, &disk.wwid, &disk.name]
        .into_iter()
        .find(|k| !k.is_empty())
        .cloned()
        .unwrap_or_default()
}

fn nic_key(nic: &Nic) -> String {
    if nic.mac.is_empty() { &nic.name } else { &nic.mac }.clone()
}

/// `what a (b, c)`, without what is empty.
fn named(what: &str, name: &str, more: &[&str]) -> String {
    let mut out = what.to_owned();
    if !name.is_empty() {
        let _ = write!(out, " {name}");
    }
    let more: Vec<&str> = more.iter().copied().filter(|m| !m.is_empty()).collect();
    if !more.is_empty() {
        let _ = write!(out, " ({})", more.join(", "));
    }
    out
}

fn serial(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("serial {text}")
    }
}

fn module_name(m: &MemoryModule) -> String {
    let slot = if m.slot.is_empty() { &m.bank } else { &m.slot };
    named("memory module", slot, &[&size(m.size), &serial(&m.serial)])
}

fn disk_name(d: &Disk) -> String {
    named("disk", &d.name, &[&d.model, &serial(&d.serial)])
}

fn nic_name(n: &Nic) -> String {
    named("NIC", &n.name, &[&n.mac])
}

fn gpu_name(g: &Gpu) -> String {
    named("GPU", &g.slot, &[if g.model.is_empty() { &g.id } else { &g.model }])
}

/// Bytes with the largest binary unit that leaves at least one; empty for 0.
fn size(bytes: u64) -> String {
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None if bytes == 0 => String::new(),
        None => bytes.to_string(),
    }
}

/// The one event that tells of `differences`.
pub fn note(session: &Handle, differences: &[String]) -> Note {
    let mut message = differences[..differences.len().min(NAMED)].join("; ");
    if differences.len() > NAMED {
        let _ = write!(message, "; and {} more", differences.len() - NAMED);
    }
    Note {
        involved: notes::reference(Kind::Node, "", &session.node, &session.uid),
        reason: "HardwareChanged".into(),
        message,
        kind: EventType::Warning,
        component: "session",
        host: session.node.clone(),
        at: Time::now(),
    }
}

#[cfg(test)]
#[path = "hardware_tests.rs"]
mod tests;
