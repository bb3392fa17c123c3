//! The probe on a made-up host below a temporary directory.

use super::*;

const GIB: u64 = 1 << 30;

/// A host with the given files.
fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

const FILES: [(&str, &str); 4] = [
    ("proc/sys/kernel/random/boot_id", "boot-1\n"),
    (
        "etc/os-release",
        "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
    ),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("srv/docker/x", ""),
];

fn options(root: &Path) -> HostOptions {
    HostOptions {
        root: root.into(),
        addresses: vec!["192.0.2.7".into()],
        machine: Some(Machine {
            cpus: 4,
            memory: 20 * GIB,
            kernel: "6.1.0-test".into(),
            hostname: "host-a".into(),
        }),
        ..HostOptions::new(root.join("data"))
    }
}

fn engine() -> EngineInfo {
    EngineInfo {
        version: "20.10.24".into(),
        root_dir: "/srv/docker".into(),
    }
}

#[test]
fn facts_of_a_host() {
    let dir = host(&FILES);
    let probe = HostProbe::new(options(dir.path())).unwrap();
    let facts = probe.collect(Some(&engine()), "");
    let (capacity, allocatable) = (facts.capacity.unwrap(), facts.allocatable.unwrap());
    assert_eq!((capacity.cpu_milli, allocatable.cpu_milli), (4000, 3900));
    assert_eq!((capacity.memory, allocatable.memory), (20 * GIB, 19 * GIB));
    assert_eq!((capacity.pods, allocatable.pods), (110, 110));
    assert_eq!(capacity.ephemeral_storage, disk(dir.path()));
    assert!(capacity.ephemeral_storage > 0);
    assert_eq!(facts.addresses, ["192.0.2.7"]);
    assert_eq!(
        (
            facts.hostname.as_str(),
            facts.kernel_version.as_str(),
            facts.boot_id.as_str()
        ),
        ("host-a", "6.1.0-test", "boot-1")
    );
    assert_eq!(facts.os_image, "Debian GNU/Linux 12 (bookworm)");
    assert_eq!(facts.machine_id, "0123456789abcdef0123456789abcdef");
    assert_eq!((facts.docker_ready, facts.docker_version.as_str()), (true, "20.10.24"));
    assert_eq!(facts.agent_version, proto::VERSION);
}

#[test]
fn a_docker_that_is_away_changes_readiness_alone() {
    let dir = host(&FILES);
    let probe = HostProbe::new(options(dir.path())).unwrap();
    let before = probe.collect(Some(&engine()), "ignored while it answers");
    let after = probe.collect(None, "connection refused");
    assert_eq!(
        (after.docker_ready, after.docker_reason.as_str()),
        (false, "connection refused")
    );
    let healed = NodeFacts {
        docker_ready: true,
        docker_reason: String::new(),
        ..after
    };
    assert_eq!(healed, before);
}

#[test]
fn a_host_that_tells_nothing_is_empty_and_no_panic() {
    let dir = host(&[]);
    let silent = HostOptions {
        machine: Some(Machine::default()),
        ..options(dir.path())
    };
    let facts = HostProbe::new(silent).unwrap().collect(None, "down");
    let capacity = facts.capacity.unwrap();
    assert_eq!((capacity.cpu_milli, capacity.memory), (0, 0));
    assert_eq!(facts.os_image, "");
}

#[test]
fn a_machine_s_id_is_the_same_for_all_its_agents() {
    let named = |files: &[(&str, &str)], hostname: &str, data: &str| {
        let dir = host(files);
        fs::create_dir_all(dir.path().join(data)).unwrap();
        machine_id(dir.path(), hostname, &dir.path().join(data))
    };
    let id = |files: &[(&str, &str)], data: &str| named(files, "h", data);
    let fresh_image = ("etc/machine-id", "uninitialized\n");
    assert_eq!(
        id(&[fresh_image, ("sys/class/dmi/id/product_uuid", "UUID-1\n")], "a"),
        "UUID-1"
    );
    let cards = [
        fresh_image,
        ("sys/class/net/eth0/address", "02:fc:00:00:00:01\n"),
        ("sys/class/net/eth0/device/x", ""),
        ("sys/class/net/lo/address", "00:00:00:00:00:00\n"),
    ];
    assert_eq!(id(&cards, "a"), id(&cards, "b"));
    // A virtual interface comes and goes: it is no part of the id.
    let veth = [
        cards.as_slice(),
        &[("sys/class/net/veth1/address", "02:00:00:00:00:09\n")],
    ]
    .concat();
    assert_eq!(id(&cards, "a"), id(&veth, "a"));
    assert_ne!(id(&cards, "a"), named(&cards, "other", "a"));
}

#[test]
fn without_anything_a_random_machine_id_is_kept() {
    let dir = host(&[("data/x", "")]);
    let data = dir.path().join("data");
    let first = machine_id(dir.path(), "h", &data);
    assert_eq!(first.len(), 32);
    assert_eq!(machine_id(dir.path(), "h", &data), first);
}

#[test]
fn a_shared_host_needs_its_part() {
    let dir = host(&FILES);
    let shared = |capacity: &str| {
        HostProbe::new(HostOptions {
            shared_host: true,
            capacity: if capacity.is_empty() {
                Capacity::default()
            } else {
                parse_capacity(capacity).unwrap()
            },
            ..options(dir.path())
        })
        .map(|_| ())
    };
    assert_eq!(shared(""), Err(HostError::SharedWithoutCapacity));
    assert_eq!(shared("cpu=2"), Err(HostError::SharedWithoutCapacity));
    assert_eq!(shared("cpu=2,memory=2Gi"), Ok(()));
}

#[test]
fn this_machine_has_facts() {
    let dir = tempfile::tempdir().unwrap();
    let facts = HostProbe::new(HostOptions::new(dir.path()))
        .unwrap()
        .collect(None, "not asked");
    let capacity = facts.capacity.unwrap();
    assert!(capacity.cpu_milli >= 1000 && capacity.memory > 0 && capacity.ephemeral_storage > 0);
    assert!(!facts.addresses.is_empty() && !facts.hostname.is_empty() && !facts.machine_id.is_empty());
    assert!(!facts.boot_id.is_empty() && !facts.kernel_version.is_empty());
}

#[test]
fn an_inventory_is_kept_for_its_time_and_read_anew_when_asked() {
    let total = |facts: &NodeFacts| facts.inventory.clone().unwrap().memory.map(|m| m.total);
    let dir = host(&FILES);
    let memory = |kib: u64| {
        fs::create_dir_all(dir.path().join("proc")).unwrap();
        fs::write(dir.path().join("proc/meminfo"), format!("MemTotal: {kib} kB\n")).unwrap();
    };
    let probe = |every| {
        HostProbe::new(HostOptions {
            inventory_every: every,
            ..options(dir.path())
        })
        .unwrap()
    };
    memory(1);
    let (kept, fresh) = (probe(Duration::from_secs(600)), probe(Duration::ZERO));
    assert_eq!(total(&kept.collect(None, "")), Some(1024));
    assert_eq!(total(&fresh.collect(None, "")), Some(1024));
    memory(2);
    assert_eq!(total(&kept.collect(None, "")), Some(1024));
    assert_eq!(total(&fresh.collect(None, "")), Some(2048));
    kept.forget_inventory();
    assert_eq!(total(&kept.collect(None, "")), Some(2048));
}

#[test]
fn nodes_that_share_a_host_report_it_each() {
    let dir = host(&FILES);
    fs::write(dir.path().join("proc/meminfo"), "MemTotal: 7 kB\n").unwrap();
    let inventory = |shared_host| {
        let opts = HostOptions {
            shared_host,
            capacity: parse_capacity("cpu=1,memory=1Gi").unwrap(),
            ..options(dir.path())
        };
        HostProbe::new(opts).unwrap().collect(None, "").inventory
    };
    assert!(inventory(true).is_some_and(|i| i.memory.is_some()));
    assert_eq!(inventory(true), inventory(false));
}
