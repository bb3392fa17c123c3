//! Made-up hosts below a temporary directory, laid out as the kernel does: a server, a virtual machine, and hosts
//! whose files are damaged.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use proptest::prelude::*;
use proto::{
    model::hardware::limits,
    wire::inventory::{Cpu, Disk, Gpu, Nic},
};

use super::{smbios::tests as tables, *};

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(path), text).unwrap();
    }

    fn files(&self, below: &str, files: &[(&str, &str)]) {
        for (name, text) in files {
            self.file(&format!("{below}/{name}"), format!("{text}\n"));
        }
    }

    /// A link to a directory below the root, which is made.
    fn link(&self, path: &str, to: &str) {
        let to = self.0.path().join(to);
        fs::create_dir_all(&to).unwrap();
        symlink(to, self.path(path)).unwrap();
    }

    fn read(&self) -> Inventory {
        super::read(self.0.path())
    }

    fn cpus(&self, sockets: u32, cores: u32) {
        let mut info = String::new();
        for cpu in 0..sockets * cores * 2 {
            let core = cpu % (sockets * cores);
            let (socket, core) = (core % sockets, core / sockets);
            let first = socket + core * sockets;
            let below = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            let siblings = format!("{first},{}", first + sockets * cores);
            self.files(
                &below,
                &[
                    ("physical_package_id", &socket.to_string()),
                    ("core_id", &core.to_string()),
                    ("thread_siblings_list", &siblings),
                ],
            );
            info += &format!(
                "processor\t: {cpu}\nmodel name\t: Intel(R)  Xeon(R) Gold 6130 CPU @ 2.10GHz\nflags\t: a b\n\n"
            );
        }
        self.file("proc/cpuinfo", info);
        // Beside the CPUs, and one that is switched off.
        self.file("sys/devices/system/cpu/cpufreq/x", "");
        self.file("sys/devices/system/cpu/cpu999/online", "0\n");
    }

    /// Two sockets, four modules, an NVMe and two SATA disks, a card of two ports, a GPU beside the board's own.
    fn server() -> Self {
        let host = Self::new();
        host.cpus(2, 4);
        host.file("proc/meminfo", "MemTotal:       131731072 kB\nMemFree: 1 kB\n");
        host.file("sys/firmware/dmi/tables/DMI", tables::server());
        host.file("sys/firmware/dmi/tables/smbios_entry_point", tables::entry(0xffff));
        host.files(
            "sys/class/dmi/id",
            &[("sys_vendor", "not asked"), ("product_serial", "not asked")],
        );
        host.disks();
        host.cards();
        host
    }

    fn disks(&self) {
        let nvme = "sys/devices/pci0000:3a/0000:3b:00.0/nvme/nvme0";
        self.files(
            nvme,
            &[
                ("model", "SAMSUNG MZWLJ3T8HBLS-00007             "),
                ("serial", "S4PXNG0M800001      "),
            ],
        );
        self.files(
            "sys/block/nvme0n1",
            &[
                ("size", "7501476528"),
                ("wwid", "eui.34503038"),
                ("queue/rotational", "0"),
            ],
        );
        self.link("sys/block/nvme0n1/device", nvme);
        for (name, page, rotational) in [
            ("sda", &b"\0\x80\0\x14            ZC1ABCDE"[..], "1"),
            ("sdb", b"\0\x80", "1"),
        ] {
            let scsi = format!("sys/devices/pci0000:00/0000:00:11.5/ata1/host0/target0:0:0/{name}");
            self.files(
                &scsi,
                &[
                    ("model", "ST4000NM0035-1V4"),
                    ("vendor", "ATA"),
                    ("wwid", "naa.5000c500a1b2c3d4"),
                ],
            );
            self.file(&format!("{scsi}/vpd_pg80"), page);
            self.files(
                &format!("sys/block/{name}"),
                &[
                    ("size", "7814037168"),
                    ("queue/rotational", rotational),
                    ("removable", "0"),
                ],
            );
            self.link(&format!("sys/block/{name}/device"), &scsi);
        }
        for name in ["loop0", "ram0", "zram0", "dm-0", "md127"] {
            self.files(&format!("sys/block/{name}"), &[("size", "1024")]);
        }
        // Devices that are no disks of their own.
        for (name, more) in [
            ("sr0", ("size", "2097151")),
            ("nvme0c0n1", ("hidden", "1")),
            ("sdz", ("removable", "1")),
        ] {
            self.files(&format!("sys/block/{name}"), &[("size", "0"), more]);
            self.link(&format!("sys/block/{name}/device"), &format!("sys/devices/{name}"));
        }
    }

    fn cards(&self) {
        for (name, function, more) in [
            (
                "eno1",
                0,
                &[
                    ("speed", "25000"),
                    ("duplex", "full"),
                    ("carrier", "1"),
                    ("bonding_slave/perm_hwaddr", "b0:26:28:00:00:01"),
                ][..],
            ),
            ("eno2", 1, &[("speed", "-1"), ("duplex", "unknown"), ("carrier", "0")]),
        ] {
            let device = format!("sys/devices/pci0000:17/0000:17:00.0/0000:18:00.{function}");
            let below = format!("{device}/net/{name}");
            self.files(
                &below,
                &[
                    ("address", &format!("b0:26:28:00:00:0{}", 9 - function)),
                    ("mtu", "1500"),
                ],
            );
            self.files(&below, more);
            self.link(&format!("{below}/device"), &device);
            self.link(&format!("{device}/driver"), "sys/bus/pci/drivers/ice");
            self.link(&format!("sys/class/net/{name}"), &below);
        }
        // A virtual function, and interfaces without a card.
        self.files(
            "sys/class/net/eno1v0",
            &[("address", "02:00:00:00:00:01"), ("device/physfn/x", "")],
        );
        self.files("sys/class/net/lo", &[("address", "00:00:00:00:00:00")]);
        self.files("sys/class/net/docker0", &[("address", "02:42:00:00:00:01")]);

        let pci = "sys/bus/pci/devices";
        self.files(
            &format!("{pci}/0000:03:00.0"),
            &[("class", "0x030000"), ("vendor", "0x102b"), ("device", "0x0536")],
        );
        self.files(
            &format!("{pci}/0000:86:00.0"),
            &[("class", "0x030200"), ("vendor", "0x10de"), ("device", "0x20b5")],
        );
        self.link(&format!("{pci}/0000:86:00.0/driver"), "sys/bus/pci/drivers/nvidia");
        self.files(
            &format!("{pci}/0000:18:00.0"),
            &[("class", "0x020000"), ("vendor", "0x8086"), ("device", "0x1593")],
        );
        self.file(
            "proc/driver/nvidia/gpus/0000:86:00.0/information",
            "Model: \t\t NVIDIA A100 80GB PCIe\nIRQ:   \t\t 110\nGPU UUID: \t GPU-????????-????\n",
        );
    }
}

#[test]
fn a_server() {
    let found = Host::server().read();
    assert_eq!(
        found.cpu,
        Some(Cpu {
            model: "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz".into(),
            sockets: 2,
            cores: 8,
            threads: 16
        })
    );
    let memory = found.memory.unwrap();
    assert_eq!(
        (memory.total, memory.slots, memory.modules.len()),
        (131_731_072 << 10, 6, 4)
    );
    assert_eq!(found.system.unwrap().serial, "ABC1234", "the tables come first");
    assert_eq!(found.chassis.unwrap().serial, "CHASSIS77");
    let disk = |name: &str, serial: &str| Disk {
        name: name.into(),
        model: "ST4000NM0035-1V4".into(),
        serial: serial.into(),
        wwid: "naa.5000c500a1b2c3d4".into(),
        size: 7_814_037_168 * 512,
        rotational: true,
    };
    assert_eq!(
        found.disks,
        [
            Disk {
                name: "nvme0n1".into(),
                model: "SAMSUNG MZWLJ3T8HBLS-00007".into(),
                serial: "S4PXNG0M800001".into(),
                wwid: "eui.34503038".into(),
                size: 7_501_476_528 * 512,
                rotational: false,
            },
            disk("sda", "ZC1ABCDE"),
            disk("sdb", ""),
        ]
    );
    let nic = |name: &str, mac: &str, slot: &str| Nic {
        name: name.into(),
        mac: mac.into(),
        driver: "ice".into(),
        mtu: 1500,
        slot: slot.into(),
        ..Nic::default()
    };
    assert_eq!(
        found.nics,
        [
            Nic {
                speed_mbps: 25_000,
                duplex: "full".into(),
                carrier: true,
                ..nic("eno1", "b0:26:28:00:00:01", "0000:18:00.0")
            },
            nic("eno2", "b0:26:28:00:00:08", "0000:18:00.1"),
        ]
    );
    assert_eq!(
        found.gpus,
        [
            Gpu {
                slot: "0000:03:00.0".into(),
                id: "102b:0536".into(),
                vendor: "Matrox".into(),
                ..Gpu::default()
            },
            Gpu {
                slot: "0000:86:00.0".into(),
                id: "10de:20b5".into(),
                vendor: "NVIDIA".into(),
                model: "NVIDIA A100 80GB PCIe".into(),
                driver: "nvidia".into(),
                ..Gpu::default()
            },
        ]
    );
}

#[test]
fn a_virtual_machine_without_firmware_tables() {
    let host = Host::new();
    host.cpus(1, 1);
    host.file("proc/meminfo", "MemTotal:  4096 kB\n");
    host.files(
        "sys/block/vda",
        &[("size", "2048"), ("serial", "rootfs"), ("queue/rotational", "1")],
    );
    host.link("sys/block/vda/device", "sys/devices/platform/virtio1");
    let net = "sys/devices/platform/virtio2/net/eth0";
    host.files(
        net,
        &[
            ("address", "02:fc:00:00:00:05"),
            ("speed", "4294967295"),
            ("carrier", "1"),
            ("mtu", "1500"),
        ],
    );
    host.link(&format!("{net}/device"), "sys/devices/platform/virtio2");
    host.link("sys/class/net/eth0", net);
    let found = host.read();
    assert_eq!((found.system, found.chassis), (None, None));
    let memory = found.memory.unwrap();
    assert_eq!((memory.total, memory.slots), (4 << 20, 0));
    assert_eq!(
        (found.disks[0].serial.as_str(), found.disks[0].size),
        ("rootfs", 1 << 20)
    );
    let nic = &found.nics[0];
    assert_eq!((nic.slot.as_str(), nic.speed_mbps, nic.carrier), ("", 0, true));
}

#[test]
fn the_kernel_s_copies_serve_where_the_tables_cannot_be_read() {
    let host = Host::new();
    host.files(
        "sys/class/dmi/id",
        &[
            ("sys_vendor", "Supermicro"),
            ("product_name", "To Be Filled By O.E.M."),
            ("product_serial", "S123456X"),
            ("chassis_serial", "0123456789"),
            ("chassis_asset_tag", "Default string"),
        ],
    );
    let found = host.read();
    let system = found.system.unwrap();
    assert_eq!(
        (
            system.manufacturer.as_str(),
            system.product.as_str(),
            system.serial.as_str()
        ),
        ("Supermicro", "", "S123456X")
    );
    assert_eq!(found.chassis, None);
}

#[test]
fn a_host_without_any_file_has_an_empty_inventory() {
    assert_eq!(Host::new().read(), Inventory::default());
}

#[test]
fn this_machine_has_cpus_and_memory() {
    let found = super::read(Path::new("/"));
    let online = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(found.cpu.is_some_and(|c| c.threads as usize >= online));
    assert!(found.memory.is_some_and(|m| m.total > 0));
}

/// Every file of the server, below its root.
fn all_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            all_files(&entry.path(), out);
        } else if kind.is_file() {
            out.push(entry.path());
        }
    }
}

/// Within what a coordinator takes.
fn bounded(found: &Inventory) -> bool {
    let texts = [&found.system, &found.chassis]
        .into_iter()
        .flatten()
        .flat_map(|u| [&u.manufacturer, &u.product, &u.serial, &u.asset_tag])
        .chain(found.disks.iter().flat_map(|d| [&d.name, &d.model, &d.serial, &d.wwid]))
        .chain(
            found
                .nics
                .iter()
                .flat_map(|n| [&n.name, &n.mac, &n.driver, &n.duplex, &n.slot]),
        )
        .chain(
            found
                .gpus
                .iter()
                .flat_map(|g| [&g.slot, &g.id, &g.model, &g.driver, &g.serial]),
        )
        .chain(found.cpu.iter().map(|c| &c.model));
    let good = |t: &String| t.len() <= limits::TEXT && !t.chars().any(char::is_control);
    texts.into_iter().all(good) && found.disks.iter().all(|d| d.size <= limits::BYTES)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each file in turn is garbage, empty, or a directory.
    #[test]
    fn damaged_files_leave_a_bounded_inventory(seed in any::<u64>(), garbage in proptest::collection::vec(any::<u8>(), 0..300)) {
        let host = Host::server();
        let mut files = Vec::new();
        all_files(host.0.path(), &mut files);
        files.sort();
        for (n, file) in files.iter().enumerate() {
            match seed.rotate_left(u32::try_from(n % 64).unwrap()) % 4 {
                0 => fs::write(file, &garbage).unwrap(),
                1 => fs::write(file, b"").unwrap(),
                2 => {
                    fs::remove_file(file).unwrap();
                    fs::create_dir(file).unwrap();
                }
                _ => {}
            }
        }
        prop_assert!(bounded(&host.read()));
    }
}

#[test]
fn huge_files_and_numbers_are_borne() {
    let host = Host::server();
    host.file("proc/cpuinfo", "model name : x".repeat(1 << 20));
    host.file("proc/meminfo", "MemTotal: 99999999999999999999 kB\n");
    host.file("sys/firmware/dmi/tables/DMI", vec![17; 4 << 20]);
    host.file("sys/block/sda/size", u64::MAX.to_string());
    host.file("sys/block/sdb/device/model", vec![0xff; 1 << 20]);
    for n in 0..limits::NICS + 3 {
        host.files(&format!("sys/class/net/x{n:03}"), &[("device/x", "")]);
    }
    let found = host.read();
    assert!(bounded(&found));
    assert_eq!(found.nics.len(), limits::NICS);
    assert_eq!(found.memory.unwrap_or_default().total, 0);
    let sdb = found.disks.iter().find(|d| d.name == "sdb").unwrap();
    assert_eq!(sdb.model, "");
}
