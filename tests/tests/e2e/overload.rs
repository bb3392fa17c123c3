//! Peers that say nothing, and a process without descriptors: others are served, and the coordinator comes back.

use std::{
    fs,
    io::Read as _,
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use harness::{Cluster, eventually, program};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// This process needs many sockets itself.
fn raise_own_limit() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("raised");
    assert!(
        most > 3000,
        "the hard limit of open files is {most}: raise it for this test"
    );
}

fn silent(port: u16, many: usize) -> Vec<TcpStream> {
    (0..many)
        .map(|i| TcpStream::connect(("127.0.0.1", port)).unwrap_or_else(|e| panic!("socket {i}: {e}")))
        .collect()
}

#[test]
fn a_thousand_silent_sockets_on_each_port_are_dropped_and_others_served() {
    raise_own_limit();
    let cluster = Cluster::start();
    let begun = Instant::now();
    let mut sockets = silent(cluster.port, 1000);
    sockets.extend(silent(cluster.port + 1, 1000));
    let opened = begun.elapsed();
    // While all of them are open: the command, and a join.
    cluster.wharf(&["get", "nodes"]).ok();
    let token = cluster.token(&["--ttl", "1h"]);
    let line = cluster.run_agent("n1", &format!("{token}x")).refused(1);
    assert!(line.contains("damaged"), "{line}");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    proto::program::install_tls_provider();
    let options = agent::identity::EnrolOptions {
        data_dir: cluster.dir().join("joined"),
        coordinators: vec![cluster.address()],
        enrol: Vec::new(),
        token,
        name: "n1".into(),
        machine_id: String::new(),
        shared_host: true,
        architecture: String::new(),
        operating_system: String::new(),
        times: agent::identity::EnrolTimes::default(),
    };
    runtime.block_on(agent::identity::enrol(&options)).expect("joins");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "served only after {:?}, when the silent ones were gone",
        begun.elapsed()
    );
    for (i, socket) in sockets.iter_mut().enumerate() {
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        match socket.read(&mut [0; 16]) {
            Ok(0) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("socket {i}: {other:?}"),
        }
    }
    let all = begun.elapsed();
    assert!(all >= Duration::from_millis(4900), "dropped before their time: {all:?}");
    assert!(
        all < opened + Duration::from_secs(15),
        "the last one stayed for {all:?}"
    );
}

/// The beginning of a log that may grow without end.
fn head(log: &Path) -> String {
    let mut bytes = Vec::new();
    let file = fs::File::open(log).expect("a log");
    file.take(1 << 20).read_to_end(&mut bytes).expect("read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Ticks of CPU that a process has used.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields[11..13].iter().map(|f| f.parse::<u64>().expect("ticks")).sum()
}

#[test]
fn without_descriptors_nothing_spins_and_it_recovers() {
    raise_own_limit();
    let mut cluster = Cluster::start();
    let pid = cluster.coordinator().pid();
    program::run(Command::new("prlimit").args([format!("--pid={pid}"), "--nofile=64:64".into()])).ok();
    let mut sockets = silent(cluster.port, 200);
    sockets.extend(silent(cluster.port + 1, 200));
    let log = cluster.dir().join("coordinator.log");
    eventually("it has no descriptors left", || {
        let head = head(&log);
        if head.contains("cannot accept connections") {
            Ok(())
        } else {
            Err(head)
        }
    });
    let (before, begun) = (cpu_ticks(pid), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_ticks(pid) - before;
    let per_second = used as f64 / begun.elapsed().as_secs_f64();
    // A hundred ticks are one whole CPU.
    assert!(per_second < 50.0, "{per_second} ticks a second: it spins");
    let warnings = head(&log).matches("cannot accept connections").count();
    assert!(warnings < 200, "{warnings} warnings");
    drop(sockets);
    eventually("it serves again", || {
        let out = cluster.wharf(&["get", "nodes"]);
        if out.code == 0 { Ok(()) } else { Err(out.stderr) }
    });
}
