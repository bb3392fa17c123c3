//! What the agents of tests say of their hosts.

use proto::wire::{Inventory, NodeFacts, ResourceAmounts, inventory};

pub fn facts() -> NodeFacts {
    let amounts = ResourceAmounts {
        cpu_milli: 2000,
        memory: 1 << 30,
        ephemeral_storage: 1 << 33,
        pods: 110,
    };
    NodeFacts {
        capacity: Some(amounts),
        allocatable: Some(amounts),
        addresses: vec!["192.0.2.7".into()],
        hostname: "host7".into(),
        docker_version: "20.10.24".into(),
        agent_version: proto::VERSION.into(),
        docker_ready: true,
        ..NodeFacts::default()
    }
}

/// A small server's: two modules, a disk, a card, a GPU.
pub fn inventory() -> Inventory {
    let module = |slot: &str, serial: &str| inventory::Module {
        slot: slot.into(),
        size: 16 << 30,
        r#type: "DDR4".into(),
        speed_mts: 3200,
        serial: serial.into(),
        part_number: "M393".into(),
        ..inventory::Module::default()
    };
    Inventory {
        system: Some(inventory::Unit {
            manufacturer: "Dell Inc.".into(),
            product: "PowerEdge R740".into(),
            serial: "SY1".into(),
            ..inventory::Unit::default()
        }),
        chassis: Some(inventory::Unit {
            serial: "CH1".into(),
            ..inventory::Unit::default()
        }),
        cpu: Some(inventory::Cpu {
            model: "Xeon".into(),
            sockets: 2,
            cores: 32,
            threads: 64,
        }),
        memory: Some(inventory::Memory {
            total: 31 << 30,
            slots: 4,
            modules: vec![module("A1", "D1"), module("A2", "D2")],
        }),
        disks: vec![inventory::Disk {
            name: "sda".into(),
            model: "ST4000".into(),
            serial: "K1".into(),
            wwid: "naa.1".into(),
            size: 4_000_000_000_000,
            rotational: true,
        }],
        nics: vec![inventory::Nic {
            name: "eno1".into(),
            mac: "b0:26:28:00:00:01".into(),
            speed_mbps: 25_000,
            carrier: true,
            ..inventory::Nic::default()
        }],
        gpus: vec![inventory::Gpu {
            slot: "0000:86:00.0".into(),
            id: "10de:20b5".into(),
            model: "A100".into(),
            ..inventory::Gpu::default()
        }],
    }
}
