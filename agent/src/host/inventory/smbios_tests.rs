//! Tables built structure by structure, then damaged.

use proptest::prelude::*;

use super::*;

/// A structure with its formatted part after the header, and its texts.
pub(crate) fn structure(kind: u8, fields: &[u8], texts: &[&str]) -> Vec<u8> {
    let length = u8::try_from(fields.len() + 4).unwrap();
    let mut out = vec![kind, length, 0, kind];
    out.extend(fields);
    for text in texts {
        out.extend(text.bytes());
        out.push(0);
    }
    out.extend(if texts.is_empty() { &[0, 0][..] } else { &[0] });
    out
}

/// A memory device of SMBIOS 3.3: fields set by their offset, texts numbered from 1: slot, bank, manufacturer,
/// serial, part number.
pub(crate) fn device(size: u16, extended: u32, speed: u16, texts: &[&str; 5]) -> Vec<u8> {
    let mut f = [0_u8; 0x5c];
    f[0x0c..0x0e].copy_from_slice(&size.to_le_bytes());
    (f[0x10], f[0x11], f[0x12]) = (1, 2, 0x1a);
    f[0x15..0x17].copy_from_slice(&speed.to_le_bytes());
    (f[0x17], f[0x18], f[0x1a]) = (3, 4, 5);
    f[0x1c..0x20].copy_from_slice(&extended.to_le_bytes());
    f[0x54..0x58].copy_from_slice(&8800_u32.to_le_bytes());
    structure(17, &f[4..], texts)
}

/// A server's table: system, chassis, two processors, four modules in six slots, an end, and what lies behind it.
pub(crate) fn server() -> Vec<u8> {
    let system = structure(
        1,
        &[1, 2, 0, 3, 0, 0, 0, 0],
        &["Dell Inc.", "PowerEdge R740", "ABC1234"],
    );
    let chassis = structure(
        3,
        &[1, 0x97, 0, 2, 3, 0, 0, 0],
        &["Dell Inc.", "CHASSIS77", "rack-b-07"],
    );
    let mut processor = [0_u8; 0x14];
    processor[0x0c] = 1;
    let processor = structure(4, &processor, &["Intel(R) Xeon(R) Gold 6130"]);
    let module = |slot: &str, serial: &str| {
        device(
            0x7fff,
            32 << 10,
            2666,
            &[slot, "NODE 1", "Samsung", serial, "M393A4K40CB2"],
        )
    };
    let empty = |slot: &str| device(0, 0, 0, &[slot, "NODE 1", "NO DIMM", "NO DIMM", "NO DIMM"]);
    let mut table = [system, chassis, processor.clone(), processor].concat();
    for (slot, serial) in [
        ("A1", "37A10001"),
        ("A2", "37A10002"),
        ("B1", "37A10003"),
        ("B2", "37A10004"),
    ] {
        table.extend(module(slot, serial));
    }
    table.extend(empty("A3"));
    table.extend(empty("B3"));
    table.extend(structure(127, &[], &[]));
    table.extend(module("C1", "behind the end"));
    table
}

/// A 64-bit entry point for a table of this length.
pub(crate) fn entry(length: u32) -> Vec<u8> {
    let mut entry = b"_SM3_\x00\x18\x03\x03\x00\x01\x00".to_vec();
    entry.extend(length.to_le_bytes());
    entry.extend([0; 8]);
    entry
}

#[test]
fn a_server_s_table() {
    let table = server();
    let found = parse(&entry(u32::try_from(table.len()).unwrap()), &table);
    assert_eq!(
        (
            found.system.manufacturer.as_str(),
            found.system.product.as_str(),
            found.system.serial.as_str()
        ),
        ("Dell Inc.", "PowerEdge R740", "ABC1234")
    );
    assert_eq!(
        (
            found.chassis.product.as_str(),
            found.chassis.serial.as_str(),
            found.chassis.asset_tag.as_str()
        ),
        ("rack mount chassis", "CHASSIS77", "rack-b-07")
    );
    assert_eq!(found.processor, "Intel(R) Xeon(R) Gold 6130");
    assert_eq!((found.slots, found.modules.len()), (6, 4), "{:?}", found.modules);
    assert_eq!(
        found.modules[2],
        Module {
            slot: "B1".into(),
            bank: "NODE 1".into(),
            size: 32 << 30,
            r#type: "DDR4".into(),
            speed_mts: 2666,
            manufacturer: "Samsung".into(),
            serial: "37A10003".into(),
            part_number: "M393A4K40CB2".into(),
        }
    );
}

#[test]
fn sizes_and_speeds_in_all_their_forms() {
    let of = |size, extended, speed| {
        let found = parse(&[], &device(size, extended, speed, &["A", "B", "C", "D9", "E"]));
        found.modules.first().map(|m| (m.size, m.speed_mts))
    };
    assert_eq!(of(0, 0, 2666), None, "an empty slot");
    assert_eq!(of(0xffff, 0, 0), Some((0, 0)), "size not known");
    assert_eq!(of(16384, 0, 3200), Some((16 << 30, 3200)));
    assert_eq!(of(0x8000 | 512, 0, 0), Some((512 << 10, 0)), "KiB");
    assert_eq!(
        of(0x7fff, 0x8000_0000 | (256 << 10), 0xffff),
        Some((256 << 30, 8800)),
        "extended"
    );
    // Before SMBIOS 2.3 the structure ends before speed and serial.
    let short = structure(
        17,
        &device(2048, 0, 2666, &["A", "B", "C", "D9", "E"])[4..0x15],
        &["A", "B"],
    );
    let found = parse(&[], &short);
    assert_eq!((found.modules[0].size, found.modules[0].speed_mts), (2 << 30, 0));
    assert_eq!(
        (found.modules[0].slot.as_str(), found.modules[0].serial.as_str()),
        ("A", "")
    );
}

#[test]
fn the_entry_point_bounds_the_table() {
    let table = server();
    let first = structure(
        1,
        &[1, 2, 0, 3, 0, 0, 0, 0],
        &["Dell Inc.", "PowerEdge R740", "ABC1234"],
    )
    .len();
    let found = parse(&entry(u32::try_from(first).unwrap()), &table);
    assert_eq!(
        (found.system.serial.as_str(), found.chassis.serial.as_str()),
        ("ABC1234", "")
    );
    let mut old = vec![0; 0x1f];
    old[..4].copy_from_slice(b"_SM_");
    old[0x16] = u8::try_from(first).unwrap();
    assert_eq!(parse(&old, &table), found);
    for whole in [
        &b""[..],
        b"_SM3_",
        b"garbage that is no entry point at all",
        &entry(0),
        &entry(u32::MAX),
    ] {
        assert_eq!(parse(whole, &table).modules.len(), 4, "{whole:?}");
    }
}

#[test]
fn a_table_that_is_cut_off_gives_what_came_before() {
    let (table, whole) = (server(), parse(&[], &server()));
    for length in 0..table.len() {
        let found = parse(&[], &table[..length]);
        assert!(
            found.modules.len() <= whole.modules.len() && found.slots <= whole.slots,
            "{length}"
        );
        let same = found.modules.iter().zip(&whole.modules).filter(|(a, b)| a == b).count();
        assert!(
            same + 1 >= found.modules.len(),
            "only the last one may be damaged, {length}: {found:?}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_give_bounded_tables(bytes in proptest::collection::vec(any::<u8>(), 0..2048), head in proptest::collection::vec(any::<u8>(), 0..64)) {
        sound(&parse(&head, &bytes))?;
    }

    /// Random bytes are rarely structures; these are, with some bytes changed.
    #[test]
    fn a_damaged_table_gives_bounded_tables(hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let mut table = server();
        for (at, byte) in hits {
            let at = at.index(table.len());
            table[at] = byte;
        }
        sound(&parse(&[], &table))?;
    }
}

fn sound(found: &Tables) -> Result<(), TestCaseError> {
    prop_assert!(found.modules.len() <= limits::MODULES && found.modules.len() <= found.slots as usize);
    for m in &found.modules {
        for text in [&m.slot, &m.bank, &m.manufacturer, &m.serial, &m.part_number] {
            prop_assert!(
                text.len() <= limits::TEXT && !text.chars().any(char::is_control),
                "{:?}",
                text
            );
        }
        prop_assert!(m.size <= limits::BYTES);
    }
    Ok(())
}

#[test]
fn more_modules_than_any_machine_has_are_cut() {
    let one = device(1024, 0, 0, &["A", "B", "C", "D9", "E"]);
    let found = parse(&[], &one.repeat(limits::MODULES + 5));
    assert_eq!(found.modules.len(), limits::MODULES);
    assert_eq!(found.slots as usize, limits::MODULES + 5);
}
