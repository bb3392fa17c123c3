//! Sockets, cores, threads and the model of the CPUs that are switched on. Called by the inventory.
//!
//! Invariant: total; a kernel that tells no topology gives threads alone.

use std::collections::BTreeSet;

use proto::{model::hardware::limits, wire::inventory::Cpu};

use super::{
    smbios::Tables,
    tree::{Tree, clean},
};

/// More CPUs than any kernel is built for.
const MOST: usize = 16 << 10;

pub(super) fn read(tree: &Tree, tables: &Tables) -> Cpu {
    let (mut sockets, mut cores, mut threads) = (BTreeSet::new(), BTreeSet::new(), 0_usize);
    for name in tree.names("sys/devices/system/cpu", MOST) {
        let number = name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok());
        let topology = format!("sys/devices/system/cpu/{name}/topology");
        // A CPU that is switched off has none.
        if !number || !tree.exists(&topology) {
            continue;
        }
        threads += 1;
        let field = |file: &str| tree.value(&format!("{topology}/{file}"));
        let socket = field("physical_package_id");
        // The threads of a core name each other; numbers of cores are not unique on every machine.
        cores.insert(match field("thread_siblings_list") {
            none if none.is_empty() => format!("{socket}/{}/{}", field("die_id"), field("core_id")),
            siblings => siblings,
        });
        sockets.insert(socket);
    }
    let info = tree.text("proc/cpuinfo");
    if threads == 0 {
        threads = info.lines().filter(|l| field_of(l, "processor").is_some()).count();
    }
    let model = info.lines().find_map(|l| field_of(l, "model name"));
    Cpu {
        model: match model.map(clean) {
            Some(model) if !model.is_empty() => model,
            // ARM servers name it in the firmware's tables only.
            _ => tables.processor.clone(),
        },
        sockets: count(sockets.len()),
        cores: count(cores.len()),
        threads: count(threads),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(limits::COUNT).min(limits::COUNT)
}

/// The value of `key : value`.
fn field_of<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    (found.trim() == key).then_some(value.trim())
}
