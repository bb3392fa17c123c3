//! What passes, what does not, and which differences are told.

use super::*;
use crate::{session::testing::inventory, store::MAX_BYTES, world::record::encode};

fn hardware() -> Hardware {
    record(Some(&inventory())).unwrap().unwrap()
}

#[test]
fn an_inventory_becomes_a_record() {
    let json = serde_json::to_value(hardware()).unwrap();
    assert_eq!(json["chassis"]["serial"], "CH1");
    assert_eq!(json["memory"]["modules"][1]["partNumber"], "M393");
    assert_eq!(json["memory"]["modules"][1]["speedMts"], 3200);
    assert_eq!(json["disks"][0]["wwid"], "naa.1");
    assert_eq!(json["nics"][0]["speedMbps"], 25_000);
    assert!(
        json["system"].get("assetTag").is_none(),
        "what is not known is left out"
    );
    assert_eq!(serde_json::from_value::<Hardware>(json).unwrap(), hardware());
    assert_eq!(record(None), Ok(None));
    let empty = record(Some(&Inventory::default())).unwrap().unwrap();
    assert_eq!(serde_json::to_string(&empty).unwrap(), "{}");
}

#[test]
fn out_of_bounds_is_refused_by_name() {
    type Spoil = fn(&mut Inventory);
    let cases: [(&str, Spoil); 14] = [
        ("inventory.memory.modules are more than", |i| {
            let memory = i.memory.as_mut().unwrap();
            memory.modules = vec![memory.modules[0].clone(); limits::MODULES + 1];
        }),
        ("inventory.disks are more than", |i| {
            i.disks = vec![i.disks[0].clone(); limits::DISKS + 1]
        }),
        ("inventory.nics are more than", |i| {
            i.nics = vec![i.nics[0].clone(); limits::NICS + 1]
        }),
        ("inventory.gpus are more than", |i| {
            i.gpus = vec![i.gpus[0].clone(); limits::GPUS + 1]
        }),
        ("inventory.system.product", |i| {
            i.system.as_mut().unwrap().product = "p".repeat(limits::TEXT + 1)
        }),
        ("inventory.chassis.asset_tag", |i| {
            i.chassis.as_mut().unwrap().asset_tag = "a\u{1b}[2J".into()
        }),
        ("inventory.cpu.model", |i| i.cpu.as_mut().unwrap().model = "a\nb".into()),
        ("inventory.cpu.cores", |i| i.cpu.as_mut().unwrap().cores = u32::MAX),
        ("inventory.memory.total", |i| {
            i.memory.as_mut().unwrap().total = u64::MAX
        }),
        ("inventory.memory.slots", |i| {
            i.memory.as_mut().unwrap().slots = u32::MAX
        }),
        ("inventory.memory.modules.serial", |i| {
            i.memory.as_mut().unwrap().modules[0].serial = "\u{7f}".into()
        }),
        ("inventory.disks.size", |i| i.disks[0].size = u64::MAX),
        ("inventory.nics.mac", |i| i.nics[0].mac = "0".repeat(500)),
        ("inventory.gpus.driver", |i| i.gpus[0].driver = "\0".into()),
    ];
    for (words, spoil) in cases {
        let mut inventory = inventory();
        spoil(&mut inventory);
        let refused = record(Some(&inventory)).unwrap_err();
        assert!(refused.starts_with(words), "{words}: {refused}");
    }
}

#[test]
fn the_largest_inventory_fits_into_a_commit() {
    // The sign that JSON writes as two.
    let text = || "\"".repeat(limits::TEXT);
    let unit = inventory::Unit {
        manufacturer: text(),
        product: text(),
        serial: text(),
        asset_tag: text(),
    };
    let module = inventory::Module {
        slot: text(),
        bank: text(),
        size: limits::BYTES,
        r#type: text(),
        speed_mts: u32::MAX,
        manufacturer: text(),
        serial: text(),
        part_number: text(),
    };
    let disk = inventory::Disk {
        name: text(),
        model: text(),
        serial: text(),
        wwid: text(),
        size: limits::BYTES,
        rotational: true,
    };
    let nic = inventory::Nic {
        name: text(),
        mac: text(),
        driver: text(),
        speed_mbps: u32::MAX,
        duplex: text(),
        carrier: true,
        mtu: u32::MAX,
        slot: text(),
    };
    let gpu = inventory::Gpu {
        slot: text(),
        id: text(),
        vendor: text(),
        model: text(),
        driver: text(),
        serial: text(),
    };
    let largest = Inventory {
        system: Some(unit.clone()),
        chassis: Some(unit),
        cpu: Some(inventory::Cpu {
            model: text(),
            sockets: limits::COUNT,
            cores: limits::COUNT,
            threads: limits::COUNT,
        }),
        memory: Some(inventory::Memory {
            total: limits::BYTES,
            slots: limits::COUNT,
            modules: vec![module; limits::MODULES],
        }),
        disks: vec![disk; limits::DISKS],
        nics: vec![nic; limits::NICS],
        gpus: vec![gpu; limits::GPUS],
    };
    let record = record(Some(&largest)).unwrap().unwrap();
    let bytes = encode(&record).len();
    assert!(bytes + 1024 < MAX_BYTES, "{bytes}");
}

#[test]
fn differences_are_told_one_by_one() {
    type Change = fn(&mut Hardware);
    let cases: [(&[&str], Change); 14] = [
        (&[], |_| {}),
        (&["memory module A2 (16Gi, serial D2) is gone"], |h| {
            drop(h.memory.modules.pop())
        }),
        (&["memory module A2 (16Gi, serial D2) serial D9 instead of D2"], |h| {
            h.memory.modules[1].serial = "D9".into();
        }),
        (&["memory module A1 (16Gi, serial D1) is of 32Gi now, not 16Gi"], |h| {
            h.memory.modules[0].size = 32 << 30
        }),
        (&["chassis serial CH2 instead of CH1"], |h| {
            h.chassis.serial = "CH2".into()
        }),
        (&["CPU sockets 1 instead of 2", "CPU cores 16 instead of 32"], |h| {
            (h.cpu.sockets, h.cpu.cores, h.cpu.threads) = (1, 16, 32);
        }),
        (
            &[
                "disk sda (ST4000, serial K1) is gone",
                "disk sda (ST4000, serial K2) is new",
            ],
            |h| {
                h.disks[0].serial = "K2".into();
            },
        ),
        (&["NIC eno1 (b0:26:28:00:00:01) is gone"], |h| h.nics.clear()),
        (&["GPU 0000:86:00.0 (A100) id 10de:2330 instead of 10de:20b5"], |h| {
            h.gpus[0].id = "10de:2330".into()
        }),
        // Not hardware: a link, a driver, another name, and what one reading does not know.
        (&[], |h| (h.nics[0].carrier, h.nics[0].speed_mbps) = (false, 0)),
        (&[], |h| h.gpus[0].driver = "vfio-pci".into()),
        (&[], |h| h.disks[0].name = "sdb".into()),
        (&[], |h| h.memory.modules[1].serial = String::new()),
        (&[], |h| h.memory.total -= h.memory.total / 20),
    ];
    for (words, change) in cases {
        let mut new = hardware();
        change(&mut new);
        assert_eq!(differences(&hardware(), &new), words);
    }
    let mut more = hardware();
    more.nics.push(Nic {
        name: "eno2".into(),
        mac: "b0:26:28:00:00:02".into(),
        ..Nic::default()
    });
    assert_eq!(differences(&hardware(), &more), ["NIC eno2 (b0:26:28:00:00:02) is new"]);
}

#[test]
fn without_modules_the_total_speaks() {
    let of = |total| Hardware {
        memory: Memory {
            total,
            ..Memory::default()
        },
        ..Hardware::default()
    };
    let gib = 1 << 30;
    assert_eq!(
        differences(&of(64 * gib), &of(48 * gib)),
        ["memory 48Gi instead of 64Gi"]
    );
    assert!(differences(&of(64 * gib), &of(63 * gib)).is_empty());
    assert!(differences(&of(0), &of(63 * gib)).is_empty());
}

#[test]
fn modules_of_the_same_slot_name_are_told_apart() {
    let of = |serials: &[&str]| {
        let module = |serial: &&str| MemoryModule {
            slot: "DIMM 0".into(),
            serial: (*serial).to_owned(),
            ..MemoryModule::default()
        };
        Hardware {
            memory: Memory {
                modules: serials.iter().map(module).collect(),
                ..Memory::default()
            },
            ..Hardware::default()
        }
    };
    assert!(differences(&of(&["a1", "b1"]), &of(&["a1", "b1"])).is_empty());
    assert_eq!(
        differences(&of(&["a1", "b1"]), &of(&["a1", "b2"])),
        ["memory module DIMM 0 (serial b1) serial b2 instead of b1"]
    );
}
