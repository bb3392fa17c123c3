//! The firmware's tables (SMBIOS, DMI type 1, 3, 4 and 17), by their published layout (DMTF DSP0134). Called by the
//! inventory; pure but for [`read`].
//!
//! Invariant: total: any bytes give some tables; a structure that is cut off or shorter than a field lacks the field.

use proto::{
    model::hardware::limits,
    wire::inventory::{Module, Unit},
};

use super::tree::{Tree, real};

/// Bytes of a table: the largest machines have some ten thousand.
const MOST: u64 = 1 << 20;

/// What we use of the tables; the first structure of a type counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tables {
    pub system: Unit,
    pub chassis: Unit,
    /// Model of the first processor.
    pub processor: String,
    /// Places for memory modules, empty ones too.
    pub slots: u32,
    /// At most `limits::MODULES`.
    pub modules: Vec<Module>,
}

pub(super) fn read(tree: &Tree) -> Tables {
    let entry = tree.bytes("sys/firmware/dmi/tables/smbios_entry_point", 64);
    let table = tree.bytes("sys/firmware/dmi/tables/DMI", MOST);
    parse(&entry.unwrap_or_default(), &table.unwrap_or_default())
}

/// `entry` bounds the table's length where it can be read.
pub(super) fn parse(entry: &[u8], table: &[u8]) -> Tables {
    let length = table_length(entry).unwrap_or(table.len()).min(table.len());
    let mut found = Tables::default();
    let (mut systems, mut chassis) = (0, 0);
    let mut rest = &table[..length];
    while let Some((structure, after)) = Structure::first(rest) {
        rest = after;
        match structure.kind() {
            1 if systems == 0 => {
                systems += 1;
                found.system = Unit {
                    manufacturer: structure.text(0x04),
                    product: structure.text(0x05),
                    serial: structure.text(0x07),
                    asset_tag: String::new(),
                };
            }
            3 if chassis == 0 => {
                chassis += 1;
                found.chassis = Unit {
                    manufacturer: structure.text(0x04),
                    // The highest bit says that there is a lock.
                    product: enclosure(structure.byte(0x05).unwrap_or(0) & 0x7f).to_owned(),
                    serial: structure.text(0x07),
                    asset_tag: structure.text(0x08),
                };
            }
            4 if found.processor.is_empty() => found.processor = structure.text(0x10),
            17 if found.slots < limits::COUNT => {
                found.slots += 1;
                found.modules.extend(module(&structure));
                found.modules.truncate(limits::MODULES);
            }
            127 => break,
            _ => {}
        }
    }
    found
}

/// What the entry point says of the table's length, for both kinds of entry point.
fn table_length(entry: &[u8]) -> Option<usize> {
    let at = |from: usize, bytes: usize| {
        let field = entry.get(from..from + bytes)?;
        Some(field.iter().rev().fold(0_usize, |n, b| n << 8 | usize::from(*b)))
    };
    let length = if entry.starts_with(b"_SM3_") {
        at(0x0c, 4)
    } else if entry.starts_with(b"_SM_") {
        at(0x16, 2)
    } else {
        None
    };
    length.filter(|n| *n > 0)
}

/// One structure: its formatted part, header included, and its texts.
struct Structure<'a> {
    fixed: &'a [u8],
    texts: &'a [u8],
}

impl<'a> Structure<'a> {
    /// The first structure of `table` and what follows it; `None` at the end and where no further one can begin.
    fn first(table: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = usize::from(*table.get(1)?);
        if length < 4 || table.len() < 4 {
            return None;
        }
        // The last structure of a table that is cut off gives what it has.
        let (fixed, after) = table.split_at(length.min(table.len()));
        let end = after.windows(2).position(|pair| pair == [0, 0]);
        let (texts, rest) = match end {
            Some(end) => (&after[..end], &after[end + 2..]),
            None => (after, &after[after.len()..]),
        };
        Some((Self { fixed, texts }, rest))
    }

    fn kind(&self) -> u8 {
        self.fixed.first().copied().unwrap_or(127)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.fixed.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        let bytes = self.fixed.get(at..at + 2)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?))
    }

    fn dword(&self, at: usize) -> Option<u32> {
        let bytes = self.fixed.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The text that the field's number names, empty where there is none or it is a placeholder.
    fn text(&self, at: usize) -> String {
        let Some(index) = self.byte(at).and_then(|n| usize::from(n).checked_sub(1)) else {
            return String::new();
        };
        let text = self.texts.split(|b| *b == 0).nth(index).unwrap_or_default();
        real(&String::from_utf8_lossy(text))
    }
}

/// A memory device; `None` for an empty slot.
fn module(structure: &Structure) -> Option<Module> {
    const MIB: u64 = 1 << 20;
    let size = match structure.word(0x0c)? {
        0 => return None,
        // Not known: there is a module all the same.
        0xffff => 0,
        0x7fff => u64::from(structure.dword(0x1c).unwrap_or(0) & 0x7fff_ffff) * MIB,
        kib if kib & 0x8000 != 0 => u64::from(kib & 0x7fff) << 10,
        mib => u64::from(mib) * MIB,
    };
    let speed = match structure.word(0x15) {
        None | Some(0) => 0,
        Some(0xffff) => structure.dword(0x54).unwrap_or(0) & 0x7fff_ffff,
        Some(speed) => speed.into(),
    };
    Some(Module {
        slot: structure.text(0x10),
        bank: structure.text(0x11),
        size,
        r#type: memory_type(structure.byte(0x12).unwrap_or(0)).to_owned(),
        speed_mts: speed,
        manufacturer: structure.text(0x17),
        serial: structure.text(0x18),
        part_number: structure.text(0x1a),
    })
}

/// Empty for what no server has had for twenty years.
fn memory_type(code: u8) -> &'static str {
    match code {
        0x12 => "DDR",
        0x13 => "DDR2",
        0x18 => "DDR3",
        0x1a => "DDR4",
        0x1b => "LPDDR",
        0x1c => "LPDDR2",
        0x1d => "LPDDR3",
        0x1e => "LPDDR4",
        0x1f => "NVDIMM",
        0x20 => "HBM",
        0x21 => "HBM2",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        0x24 => "HBM3",
        _ => "",
    }
}

/// Empty for `other`, `unknown` and what is not an enclosure of a server.
fn enclosure(code: u8) -> &'static str {
    match code {
        0x03 | 0x04 | 0x0f | 0x10 | 0x18 | 0x23 => "desktop",
        0x06 | 0x07 => "tower",
        0x08..=0x0a | 0x0e => "portable",
        0x11 => "main server chassis",
        0x12 => "expansion chassis",
        0x13 => "sub-chassis",
        0x17 => "rack mount chassis",
        0x1c => "blade",
        0x1d => "blade enclosure",
        _ => "",
    }
}

#[cfg(test)]
#[path = "smbios_tests.rs"]
pub(super) mod tests;
