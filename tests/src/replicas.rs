//! Three machines of a highly available cluster on this one: each a network namespace with a link of its own to a test
//! bridge, in it a member of etcd and a coordinator, as `docs/high-availability.md` sets them up, certificates included.
//! Agents run on this machine's end of the bridge, on the shared engine. For tests, for `make demo-ha` and for `make bench`.
//!
//! Invariant: a machine is reached over its link only, so that a cut is a cut; what was made is removed, whatever way a
//! test ends.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    docker::{Container, Engine, OwnEngine},
    eventually, eventually_within,
    hosts::Network,
    load,
    program::{self, Background, Output},
    wait::interrupted,
};

/// What runs on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Etcd,
    Coordinator,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Coordinators, each on a machine of its own.
    pub machines: usize,
    /// More lines of each coordinator's configuration file.
    pub coordinator: String,
    /// More lines of each agent's configuration file, in its settings.
    pub agent: String,
    pub capacity: String,
    pub engine: Engine,
    /// Each machine has a Docker engine and an agent of its own, `node1` and so on; their names begin with this.
    pub hosts: Option<&'static str>,
    /// Bytes at which etcd takes no more.
    pub quota: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            machines: 3,
            coordinator: "heartbeat-ms = 300\n".to_owned(),
            agent: "ready_after_ms = 0\nreconnect_initial_ms = 50\nreconnect_max_ms = 300\n".to_owned(),
            capacity: "cpu=8,memory=8Gi".to_owned(),
            engine: Engine::shared(),
            hosts: None,
            quota: None,
        }
    }
}

struct Machine {
    namespace: String,
    address: String,
    /// This machine's end of its link.
    link: String,
    etcd: Option<Background>,
    coordinator: Option<Background>,
    engine: Option<OwnEngine>,
}

/// Fields are dropped in this order.
pub struct Replicas {
    agents: BTreeMap<String, Background>,
    machines: Vec<Machine>,
    network: Network,
    options: Options,
    /// UUID.
    pub id: String,
    dir: tempfile::TempDir,
}

/// Ports are the product's own: each machine has its own network.
const SESSION: u16 = 7443;
const HTTP: u16 = 7445;

impl Replicas {
    /// All of it runs and one leads when it returns; no agent yet.
    pub fn start(options: Options) -> Self {
        let mut all = Self::without_coordinators(options);
        all.init().ok();
        let text = fs::read_to_string(all.data_dir(0).join("cluster.json")).expect("cluster.json");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        json["cluster"].as_str().expect("a cluster id").clone_into(&mut all.id);
        all.up(0, Part::Coordinator);
        all.leader();
        for machine in 1..all.machines.len() {
            all.join_coordinator(machine);
        }
        all.all_follow();
        all
    }

    /// Machines with etcd, which answers.
    pub fn without_coordinators(options: Options) -> Self {
        let mut network = Network::new();
        network.connect_hosts();
        let dir = tempfile::Builder::new()
            .prefix("wharf-ha-")
            .tempdir()
            .expect("a directory");
        let starts: Vec<_> = (0..options.machines)
            .map(|i| {
                let engine = options.hosts.map(|name| format!("{name}{}", i + 1));
                thread::spawn(move || engine.map(|name| OwnEngine::start(&name)))
            })
            .collect();
        // All of them are waited for first: none may come up after the others were removed.
        let engines: Vec<_> = starts.into_iter().map(thread::JoinHandle::join).collect();
        let machines = engines.into_iter().enumerate().map(|(i, engine)| {
            let engine = engine.expect("an engine");
            let namespace = match &engine {
                Some(engine) => engine.namespace().to_owned(),
                None => {
                    let namespace = format!("{}m{}", network.name(), i + 1);
                    ip(&["netns", "add", &namespace]);
                    ip(&["-n", &namespace, "link", "set", "lo", "up"]);
                    namespace
                }
            };
            let link = network.connect(i + 1, &namespace);
            Machine {
                namespace,
                address: network.address(i + 1),
                link,
                etcd: None,
                coordinator: None,
                engine,
            }
        });
        let machines = machines.collect();
        let mut all = Self {
            agents: BTreeMap::new(),
            machines,
            network,
            options,
            id: String::new(),
            dir,
        };
        all.configure_etcd();
        for machine in 0..all.machines.len() {
            all.up(machine, Part::Etcd);
        }
        all
    }

    fn configure_etcd(&self) {
        let mut command = Command::new(program::path("wharf-coordinator"));
        command.args(["etcd-config", "--out"]).arg(self.dir().join("etcd"));
        command
            .arg("--install-dir")
            .arg(self.dir().join("etcd").join("{member}"));
        command
            .arg("--etcd-data-dir")
            .arg(self.dir().join("data").join("{member}"));
        for (i, machine) in self.machines.iter().enumerate() {
            command.args(["--member", &format!("etcd{}={}", i + 1, machine.address)]);
        }
        program::run(&mut command).ok();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self, machine: usize) -> PathBuf {
        self.dir().join(name(machine))
    }

    /// Session address of a coordinator.
    pub fn address(&self, machine: usize) -> String {
        format!("{}:{SESSION}", self.machines[machine].address)
    }

    pub fn http(&self, machine: usize) -> String {
        format!("{}:{HTTP}", self.machines[machine].address)
    }

    fn enrol(&self, machine: usize) -> String {
        format!("{}:{}", self.machines[machine].address, SESSION + 1)
    }

    /// URLs of the etcd members.
    pub fn endpoints(&self) -> Vec<String> {
        self.machines
            .iter()
            .map(|m| format!("https://{}:2379", m.address))
            .collect()
    }

    /// Directory of the coordinators' certificates for etcd.
    pub fn etcd_client(&self) -> PathBuf {
        self.dir().join("etcd/coordinator")
    }

    /// The configuration file of a coordinator, written.
    pub fn config(&self, machine: usize) -> PathBuf {
        let path = self.dir().join(format!("{}.toml", name(machine)));
        let store = fs::read_to_string(self.etcd_client().join("coordinator.toml")).expect("coordinator.toml");
        let text = format!(
            "advertise = {:?}\nlisten = \"0.0.0.0:{SESSION}\"\nhttp = \"0.0.0.0:{HTTP}\"\n{store}{}",
            self.address(machine),
            self.options.coordinator
        );
        fs::write(&path, text).expect("a configuration");
        path
    }

    /// A program in a machine's network.
    pub fn on(&self, machine: usize, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.machines[machine].namespace))
            .arg(program);
        command
    }

    fn init(&self) -> Output {
        let mut command = self.on(0, &program::path("wharf-coordinator"));
        command
            .arg("init")
            .arg("--data-dir")
            .arg(self.data_dir(0))
            .args(["--name", &name(0)]);
        command
            .arg("--config")
            .arg(self.config(0))
            .args(["--advertise", &self.address(0)]);
        program::run(&mut command)
    }

    /// Joins a coordinator with a token of its own, and starts it.
    pub fn join_coordinator(&mut self, machine: usize) {
        let token = self.wharf(&["token", "create", "--role", "coordinator", "-q"]).ok();
        let file = self.dir().join(format!("{}.token", name(machine)));
        fs::write(&file, token.trim()).expect("a token");
        let mut command = self.on(machine, &program::path("wharf-coordinator"));
        command.arg("join").arg("--data-dir").arg(self.data_dir(machine));
        command.arg("--token-file").arg(&file);
        let peers: Vec<String> = (0..self.machines.len())
            .filter(|m| *m != machine)
            .map(|m| self.enrol(m))
            .collect();
        command.args(["--peers", &peers.join(","), "--name", &name(machine)]);
        command.args(["--advertise", &self.address(machine)]);
        program::run(&mut command).ok();
        self.up(machine, Part::Coordinator);
    }

    /// Starts it and waits until it answers: etcd its port, a coordinator its page.
    #[track_caller]
    pub fn up(&mut self, machine: usize, part: Part) {
        self.spawn(machine, part);
        match part {
            Part::Etcd => {}
            Part::Coordinator => {
                let http = self.http(machine);
                eventually(&format!("{} answers", name(machine)), || {
                    let at = self.machines[machine].coordinator.as_mut();
                    if let Some(status) = at.and_then(Background::ended) {
                        panic!("{} ended ({status}):\n{}", name(machine), self.log(machine, part));
                    }
                    load::get(&http, "/readyz")
                        .map(drop)
                        .map_err(|e| format!("{e}\n{}", tail(&self.log(machine, part))))
                });
            }
        }
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&mut self, machine: usize, part: Part) {
        match part {
            Part::Etcd => self.spawn_etcd(machine, &[]),
            Part::Coordinator => {
                let mut command = self.on(machine, &program::path("wharf-coordinator"));
                command.arg("run").arg("--data-dir").arg(self.data_dir(machine));
                command.arg("--config").arg(self.config(machine));
                let log = self.dir().join(format!("{}-{part:?}.log", name(machine)));
                *self.part(machine, part) = Some(Background::of(&mut command, log));
            }
        }
    }

    /// A member with other values in its environment than its file has.
    pub fn spawn_etcd(&mut self, machine: usize, other: &[(&str, &str)]) {
        let log = self.dir().join(format!("{}-{:?}.log", name(machine), Part::Etcd));
        let mut command = self.on(machine, Path::new("/usr/bin/etcd"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(self.etcd_env(machine))
            .envs(other.iter().copied());
        *self.part(machine, Part::Etcd) = Some(Background::of(&mut command, log));
    }

    /// The machine is gone for good: what runs on it is killed, what is on its disks removed.
    pub fn lose(&mut self, machine: usize) {
        self.part(machine, Part::Etcd).take();
        self.part(machine, Part::Coordinator).take();
        let member = self.dir().join("data").join(format!("etcd{}", machine + 1));
        for dir in [member, self.data_dir(machine)] {
            fs::remove_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        }
    }

    /// One more line in the configuration of every coordinator that is started from now on.
    pub fn configure(&mut self, line: &str) {
        self.options.coordinator.push_str(line);
        self.options.coordinator.push('\n');
    }

    /// `etcdctl …` with a coordinator's certificate, of these members, from that machine.
    pub fn etcdctl(&self, machine: usize, members: &[usize], args: &[&str]) -> Output {
        let endpoints: Vec<String> = members
            .iter()
            .map(|m| format!("https://{}:2379", self.machines[*m].address))
            .collect();
        let dir = self.etcd_client();
        let mut command = self.on(machine, Path::new("/usr/bin/etcdctl"));
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoints.join(",")]);
        for (flag, file) in [
            ("--cacert", "ca.crt"),
            ("--cert", "client.crt"),
            ("--key", "client.key"),
        ] {
            command.arg(flag).arg(dir.join(file));
        }
        program::run(command.args(args))
    }

    fn etcd_env(&self, machine: usize) -> Vec<(String, String)> {
        let file = self.dir().join(format!("etcd/etcd{}/etcd.env", machine + 1));
        let text = fs::read_to_string(&file).expect("etcd.env");
        let lines = text.lines().filter(|l| !l.starts_with('#'));
        let mut all: Vec<(String, String)> = lines
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        if let Some(quota) = self.options.quota {
            all.push(("ETCD_QUOTA_BACKEND_BYTES".into(), quota.to_string()));
        }
        all
    }

    fn part(&mut self, machine: usize, part: Part) -> &mut Option<Background> {
        match part {
            Part::Etcd => &mut self.machines[machine].etcd,
            Part::Coordinator => &mut self.machines[machine].coordinator,
        }
    }

    fn signal(&mut self, machine: usize, part: Part, signal: Signal) {
        let pid = self.part(machine, part).as_ref().expect("it runs").pid();
        kill(Pid::from_raw(pid), signal).expect("a signal");
    }

    /// SIGKILL.
    pub fn kill(&mut self, machine: usize, part: Part) {
        self.part(machine, part).take().expect("it runs").kill();
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self, machine: usize, part: Part) {
        self.part(machine, part).take().expect("it runs").terminate();
    }

    /// SIGSTOP.
    pub fn freeze(&mut self, machine: usize, part: Part) {
        self.signal(machine, part, Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&mut self, machine: usize, part: Part) {
        self.signal(machine, part, Signal::SIGCONT);
    }

    pub fn runs(&self, machine: usize, part: Part) -> bool {
        match part {
            Part::Etcd => self.machines[machine].etcd.is_some(),
            Part::Coordinator => self.machines[machine].coordinator.is_some(),
        }
    }

    /// Its link is down; all on it runs on.
    pub fn cut(&self, machine: usize) {
        ip(&["link", "set", &self.machines[machine].link, "down"]);
    }

    pub fn heal(&self, machine: usize) {
        ip(&["link", "set", &self.machines[machine].link, "up"]);
    }

    /// A rule of a machine's packet filter: `-A INPUT …`, `-D INPUT …`, `-F`.
    pub fn iptables(&self, machine: usize, rule: &[&str]) {
        let mut command = self.on(machine, Path::new("iptables"));
        program::run(command.arg("-w").args(rule)).ok();
    }

    pub fn log(&self, machine: usize, part: Part) -> String {
        let path = self.dir().join(format!("{}-{part:?}.log", name(machine)));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// The machine whose coordinator leads, by its own word; none: none does at this moment.
    pub fn leads(&self) -> Option<usize> {
        (0..self.machines.len())
            .find(|m| self.runs(*m, Part::Coordinator) && load::get(&self.http(*m), "/leader").is_ok())
    }

    /// Waits until one leads.
    #[track_caller]
    pub fn leader(&self) -> usize {
        eventually("a coordinator leads", || self.leads().ok_or_else(|| self.tails()))
    }

    /// Waits until another one than this leads; how long it took.
    #[track_caller]
    pub fn taken_over(&self, from: usize, within: Duration) -> (usize, Duration) {
        let began = Instant::now();
        let next = eventually_within(within, "another coordinator leads", || {
            let others = (0..self.machines.len()).filter(|m| *m != from && self.runs(*m, Part::Coordinator));
            let mut leading = others.filter(|m| load::get(&self.http(*m), "/leader").is_ok());
            leading.next().ok_or_else(|| self.tails())
        });
        (next, began.elapsed())
    }

    /// Waits until every coordinator that runs leads or follows.
    #[track_caller]
    pub fn all_follow(&self) {
        let expected = (0..self.machines.len())
            .filter(|m| self.runs(*m, Part::Coordinator))
            .count();
        eventually("all coordinators are there", || {
            let out = self.wharf(&["cluster", "status", "-o", "json"]);
            let json: Value = serde_json::from_str(&out.stdout).map_err(|e| format!("{e}: {out:?}"))?;
            let replicas = json["coordinators"].as_array().cloned().unwrap_or_default();
            let there = replicas
                .iter()
                .filter(|r| r["role"] == "active" || r["role"] == "standby");
            if there.count() == expected {
                Ok(())
            } else {
                Err(json.to_string())
            }
        });
    }

    /// `wharf …`, which knows all coordinators.
    pub fn wharf(&self, args: &[&str]) -> Output {
        self.wharf_at(None, args)
    }

    /// `wharf …` that knows one coordinator only.
    pub fn wharf_at(&self, machine: Option<usize>, args: &[&str]) -> Output {
        let admin = fs::read_to_string(self.data_dir(0).join("admin.yaml")).expect("admin.yaml");
        let addresses: Vec<String> = match machine {
            Some(machine) => vec![self.address(machine)],
            None => (0..self.machines.len()).map(|m| self.address(m)).collect(),
        };
        let list: String = addresses.iter().map(|a| format!("- {a}\n")).collect();
        let own = self.address(0);
        let text = admin.replacen(&format!("- {own}\n"), &list, 1);
        let file = self
            .dir()
            .join(machine.map_or_else(|| "admin.yaml".to_owned(), |m| format!("admin{m}.yaml")));
        // Other threads may be reading it.
        if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            fs::write(&file, text).expect("credentials");
        }
        program::run(
            Command::new(program::path("wharf"))
                .args(args)
                .env("WHARF_CONFIG", file),
        )
    }

    /// Credentials that know all coordinators.
    pub fn admin(&self) -> PathBuf {
        self.wharf(&["version"]);
        self.dir().join("admin.yaml")
    }

    /// Items of `wharf get KIND`, of all namespaces; empty when no coordinator answers.
    pub fn items(&self, kind: &str) -> Vec<Value> {
        let out = self.wharf(&["get", kind, "-A", "-o", "json"]);
        let json: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
        json["items"].as_array().cloned().unwrap_or_default()
    }

    /// Writes a file and runs `wharf create -f` on it.
    pub fn create(&self, manifest: &Value) -> Output {
        let file = self.dir().join("manifest.json");
        fs::write(&file, manifest.to_string()).expect("a manifest");
        self.wharf(&["create", "-f", file.to_str().expect("a UTF-8 path")])
    }

    /// Joins nodes with one token and waits until all are Ready. Each knows the first coordinator's address only.
    pub fn join(&mut self, names: &[&str]) {
        let uses = names.len().to_string();
        let token = self
            .wharf(&["token", "create", "-q", "--uses", &uses])
            .ok()
            .trim()
            .to_owned();
        for agent in names {
            let file = self.dir().join(format!("{agent}.token"));
            fs::write(&file, &token).expect("a token");
            self.spawn_agent(agent);
        }
        for agent in names {
            self.node_ready(agent);
        }
    }

    /// The machine of the agent of this name, `node1` and so on, where each has its own.
    fn home(&self, agent: &str) -> Option<usize> {
        self.options.hosts?;
        let number: usize = agent.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
        number.checked_sub(1).filter(|machine| *machine < self.machines.len())
    }

    pub fn spawn_agent(&mut self, agent: &str) {
        let config = self.dir().join(format!("{agent}.toml"));
        fs::write(&config, format!("[settings]\n{}", self.options.agent)).expect("a configuration");
        let program = program::path("wharf-agent");
        let home = self.home(agent);
        let mut command = home.map_or_else(|| Command::new(&program), |machine| self.on(machine, &program));
        command.arg("run").arg("--data-dir").arg(self.dir().join(agent));
        command.args(["--coordinators", &self.address(0), "--name", agent, "--shared-host"]);
        command.args([
            "--capacity",
            &self.options.capacity,
            "--docker-host",
            &home.map_or(&self.options.engine, |machine| self.engine(machine)).host,
        ]);
        command.arg("--config").arg(&config);
        command
            .arg("--token-file")
            .arg(self.dir().join(format!("{agent}.token")));
        let running = Background::of(&mut command, self.dir().join(format!("{agent}.log")));
        self.agents.insert(agent.to_owned(), running);
    }

    pub fn kill_agent(&mut self, agent: &str) {
        self.agents.remove(agent).expect("a running agent").kill();
    }

    pub fn agent_log(&self, agent: &str) -> String {
        fs::read_to_string(self.dir().join(format!("{agent}.log"))).unwrap_or_default()
    }

    #[track_caller]
    pub fn node_ready(&self, node: &str) {
        eventually(&format!("node {node} Ready"), || {
            let found = self.items("nodes").into_iter().find(|n| n["metadata"]["name"] == node);
            let conditions = found.unwrap_or_default()["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            if ready {
                Ok(())
            } else {
                Err(format!("{conditions:?}\n{}", tail(&self.agent_log(node))))
            }
        });
    }

    /// Of a machine that has its own.
    pub fn engine(&self, machine: usize) -> &Engine {
        self.machines[machine]
            .engine
            .as_ref()
            .map_or(&self.options.engine, |e| &e.engine)
    }

    /// Containers of this cluster that run.
    pub fn running(&self) -> Vec<Container> {
        if self.options.hosts.is_none() {
            return self.options.engine.running(&self.id);
        }
        (0..self.machines.len())
            .flat_map(|m| self.engine(m).running(&self.id))
            .collect()
    }

    /// Their ids, sorted: what a fault must not change.
    pub fn container_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.running().into_iter().map(|c| c.id).collect();
        ids.sort();
        ids
    }

    /// Waits until exactly `n` containers run and as many pods are Ready.
    #[track_caller]
    pub fn settled(&self, n: usize) {
        eventually(&format!("{n} pods and containers"), || {
            let ready = self.items("pods").into_iter().filter(|p| {
                let conditions = p["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            });
            let counts = (ready.count(), self.running().len());
            if counts == (n, n) {
                Ok(())
            } else {
                Err(format!("pods, containers: {counts:?}"))
            }
        });
    }

    fn tails(&self) -> String {
        let all = (0..self.machines.len()).flat_map(|m| {
            [Part::Etcd, Part::Coordinator]
                .map(|part| format!("--- {} {part:?}\n{}\n", name(m), tail(&self.log(m, part))))
        });
        all.collect()
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        if thread::panicking() && !interrupted() {
            eprintln!("{}", self.tails());
            for agent in self.agents.keys() {
                eprintln!("--- {agent}\n{}", tail(&self.agent_log(agent)));
            }
        }
        // Agents first: an agent would put back what is removed.
        self.agents.clear();
        for machine in &mut self.machines {
            machine.coordinator = None;
            machine.etcd = None;
        }
        if !self.id.is_empty() {
            self.options.engine.clean(&self.id);
        }
        for machine in self.machines.iter().filter(|m| m.engine.is_none()) {
            let _ = program::run(Command::new("ip").args(["netns", "del", &machine.namespace]));
        }
        // The bridge goes with its network.
        let _ = &self.network;
    }
}

/// Of the coordinator on a machine, counted from 0.
pub fn name(machine: usize) -> String {
    format!("c{}", machine + 1)
}

#[track_caller]
fn ip(args: &[&str]) {
    program::run(Command::new("ip").args(args)).ok();
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
