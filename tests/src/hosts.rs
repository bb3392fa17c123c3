//! Hosts of their own on one machine: each has a network namespace with a link to a test bridge, a Docker engine, a
//! machine id and a boot id. For tests of what happens when hosts are cut off, frozen, lose power and come back.
//!
//! Invariant: the coordinator is on this machine's end of the bridge and reaches no host but over its link, so that a
//! cut is a cut. What was made is removed, whatever way a test ends.

use std::{fs, process::Command, sync::atomic::AtomicU16, sync::atomic::Ordering, thread};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Cluster, Options,
    cluster::Home,
    docker::{Container, OwnEngine},
    eventually, program,
};

/// Fields are dropped in this order: agents before their engines, engines before their links.
pub struct Hosts {
    pub cluster: Cluster,
    hosts: Vec<Host>,
    network: Network,
}

struct Host {
    name: String,
    engine: OwnEngine,
    address: String,
    /// This machine's end of its link.
    link: String,
    /// Directory of its machine id and boot id.
    identity: tempfile::TempDir,
    boots: u32,
}

impl Hosts {
    /// From now on the hosts reach each other, and nothing beyond: what they ask of elsewhere fails at once instead of
    /// after a while. Without it they reach this machine only, where its Docker drops the rest.
    pub fn reach_each_other(&mut self) {
        self.network.connect_hosts();
        for host in &self.hosts {
            let namespace = host.engine.namespace();
            ip(&["-n", namespace, "route", "replace", "unreachable", "default"]);
        }
    }

    /// Hosts `n1`, `n2`, … ([`Options::host`]) with their agents, all Ready. `test` names their engines; unique among the tests.
    pub fn start(test: &str, count: usize, options: Options) -> Self {
        let mut all = Self::without_agents(test, count, options);
        for host in &all.hosts {
            all.cluster.house(&host.name, host.home());
        }
        let names: Vec<String> = all.names();
        all.cluster.join(&names.iter().map(String::as_str).collect::<Vec<_>>());
        all
    }

    /// As [`Self::start`], but no agent runs yet.
    pub fn without_agents(test: &str, count: usize, options: Options) -> Self {
        let network = Network::new();
        let starts: Vec<_> = (1..=count)
            .map(|i| {
                let engine = format!("{test}{i}");
                thread::spawn(move || OwnEngine::start(&engine))
            })
            .collect();
        // All of them are waited for first: none may come up after the others were removed.
        let engines: Vec<_> = starts.into_iter().map(thread::JoinHandle::join).collect();
        let hosts = engines.into_iter().enumerate().map(|(i, engine)| {
            let engine = engine.expect("an engine");
            let link = network.connect(i + 1, engine.namespace());
            let identity = tempfile::tempdir().expect("a directory");
            let mut host = Host {
                name: format!("{}{}", options.host, i + 1),
                engine,
                address: network.address(i + 1),
                link,
                identity,
                boots: 0,
            };
            host.write("machine-id", &format!("{:024x}{i:08x}", std::process::id()));
            host.new_boot();
            host
        });
        let hosts: Vec<Host> = hosts.collect();
        let cluster = Cluster::with(Options {
            listen: network.address(0),
            ..options
        });
        Self {
            cluster,
            hosts,
            network,
        }
    }

    /// Starts agents of these names on one host and its engine; all Ready when it returns.
    pub fn join_on(&mut self, host: &str, names: &[&str]) {
        for name in names {
            let home = self.host(host).home();
            self.cluster.house(name, home);
        }
        self.cluster.join(names);
    }

    pub fn names(&self) -> Vec<String> {
        self.hosts.iter().map(|h| h.name.clone()).collect()
    }

    fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|h| h.name == name).expect("a host")
    }

    fn host_mut(&mut self, name: &str) -> &mut Host {
        self.hosts.iter_mut().find(|h| h.name == name).expect("a host")
    }

    /// Where its ports can be reached from this machine.
    pub fn address(&self, name: &str) -> &str {
        &self.host(name).address
    }

    /// Its link is down; all on it runs on.
    pub fn cut(&self, name: &str) {
        ip(&["link", "set", &self.host(name).link, "down"]);
    }

    pub fn heal(&self, name: &str) {
        ip(&["link", "set", &self.host(name).link, "up"]);
    }

    /// SIGSTOP to its agent: heartbeats stop, the connection stays.
    pub fn freeze(&self, name: &str) {
        self.signal(name, Signal::SIGSTOP);
    }

    pub fn thaw(&self, name: &str) {
        self.signal(name, Signal::SIGCONT);
    }

    fn signal(&self, name: &str, signal: Signal) {
        kill(Pid::from_raw(self.cluster.agent_pid(name)), signal).expect("a signal to a running agent");
    }

    /// It loses its link, then all that runs on it ends at once.
    pub fn power_off(&mut self, name: &str) {
        self.cut(name);
        self.cluster.kill_agent(name);
        self.host_mut(name).engine.power_off();
    }

    /// It boots: engine, then agent, with a new boot id; waits for neither the node nor its pods.
    pub fn boot(&mut self, name: &str) {
        self.heal(name);
        let host = self.host_mut(name);
        host.new_boot();
        host.engine.up();
        self.cluster.spawn_agent(name, None);
    }

    /// What runs on it of this cluster; nothing while it has no power.
    pub fn running(&self, name: &str) -> Vec<Container> {
        let engine = &self.host(name).engine;
        if engine.pid().is_none() {
            return Vec::new();
        }
        engine.engine.running(&self.cluster.id)
    }

    /// What runs on all hosts of this cluster.
    pub fn running_anywhere(&self) -> Vec<Container> {
        self.hosts.iter().flat_map(|h| self.running(&h.name)).collect()
    }

    /// Its engine, for a look at it with `docker`.
    pub fn engine(&self, name: &str) -> &OwnEngine {
        &self.host(name).engine
    }

    /// Waits until exactly `n` pods are on record, all Ready, and `n` containers run, one a pod.
    #[track_caller]
    pub fn settled(&self, n: usize) {
        eventually(&format!("{n} pods and containers"), || {
            let running = self.running_anywhere();
            let pods: std::collections::BTreeSet<_> = running.iter().map(|c| &c.pod).collect();
            let counts = (
                self.cluster.items("pods").len(),
                self.cluster.ready_pods().len(),
                running.len(),
                pods.len(),
            );
            if counts == (n, n, n, n) {
                Ok(())
            } else {
                Err(format!("pods, ready, containers, pods of those: {counts:?}"))
            }
        });
    }

    /// Waits until the node's Ready condition has this status and reason.
    #[track_caller]
    pub fn condition(&self, name: &str, status: &str, reason: &str) {
        eventually(&format!("node {name} is {status} ({reason})"), || {
            let found = self.cluster.node_condition(name);
            if found == (status.to_owned(), reason.to_owned()) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
    }
}

impl Host {
    fn write(&self, name: &str, text: &str) {
        fs::write(self.identity.path().join(name), format!("{text}\n")).expect("an identity");
    }

    fn new_boot(&mut self) {
        self.boots += 1;
        self.write("boot-id", &format!("00000000-0000-4000-8000-{:012}", self.boots));
    }

    /// In its network, and in a mount namespace where the machine and its boot are its own.
    fn home(&self) -> Home {
        let dir = self.identity.path().display();
        let script = format!(
            "mount --bind {dir}/machine-id /etc/machine-id && \
             mount --bind {dir}/boot-id /proc/sys/kernel/random/boot_id && exec \"$@\""
        );
        let net = format!("--net=/run/netns/{}", self.engine.namespace());
        let words = ["nsenter", &net, "unshare", "--mount", "sh", "-c", &script, "host"];
        Home {
            engine: self.engine.engine.clone(),
            enter: words.map(str::to_owned).into(),
        }
    }
}

/// A bridge with an address of its own; gone when dropped, and the links with it.
pub(crate) struct Network {
    bridge: String,
    /// First three bytes of its addresses.
    subnet: String,
    /// Its hosts reach each other.
    forwards: bool,
}

impl Network {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let bridge = format!("wt{:x}{number}", pid % 0x00ff_ffff);
        // Tests run as many processes: each begins at a place of its own, and takes the next where one is taken.
        for step in 0..200_u32 {
            let place = (pid + u32::from(number) * 7 + step) % 10_000;
            let subnet = format!("10.{}.{}", 200 + place % 40, place / 40);
            let taken = program::run(Command::new("ip").args(["-4", "-o", "address"])).ok();
            if taken.contains(&format!(" {subnet}.")) {
                continue;
            }
            let network = Self {
                bridge,
                subnet,
                forwards: false,
            };
            ip(&["link", "add", &network.bridge, "type", "bridge"]);
            let address = format!("{}/24", network.address(0));
            ip(&["address", "add", &address, "dev", &network.bridge]);
            ip(&["link", "set", &network.bridge, "up"]);
            return network;
        }
        panic!("no free subnet");
    }

    /// Of the bridge; short, and no other test's.
    pub(crate) fn name(&self) -> &str {
        &self.bridge
    }

    /// Of the `n`th host; 0: this machine.
    pub(crate) fn address(&self, n: usize) -> String {
        format!("{}.{}", self.subnet, n + 1)
    }

    /// Links a namespace to the bridge; returns this machine's end.
    pub(crate) fn connect(&self, n: usize, namespace: &str) -> String {
        let (here, there) = (format!("{}h{n}", self.bridge), "eth0");
        ip(&[
            "link", "add", &here, "type", "veth", "peer", "name", there, "netns", namespace,
        ]);
        ip(&["link", "set", &here, "master", &self.bridge]);
        ip(&["link", "set", &here, "up"]);
        let address = format!("{}/24", self.address(n));
        ip(&["-n", namespace, "address", "add", &address, "dev", there]);
        ip(&["-n", namespace, "link", "set", there, "up"]);
        let gateway = self.address(0);
        ip(&["-n", namespace, "route", "add", "default", "via", &gateway]);
        here
    }
}

impl Network {
    /// Its hosts reach each other from now on.
    pub(crate) fn connect_hosts(&mut self) {
        program::run(&mut self.forward("-I")).ok();
        self.forwards = true;
    }

    /// The rule by which packets from host to host pass: where a Docker runs on this machine its rules drop what is
    /// forwarded, bridged packets too.
    fn forward(&self, verb: &str) -> Command {
        let mut command = Command::new("iptables");
        command.args([
            "-w",
            verb,
            "FORWARD",
            "-i",
            &self.bridge,
            "-o",
            &self.bridge,
            "-j",
            "ACCEPT",
        ]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if self.forwards {
            let _ = program::run(&mut self.forward("-D"));
        }
        let _ = program::run(Command::new("ip").args(["link", "del", &self.bridge]));
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    program::run(Command::new("ip").args(args)).ok();
}
