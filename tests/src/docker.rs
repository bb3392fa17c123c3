//! What the tests see of Docker, by its own command: containers of one cluster, and an engine of a test's own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{program, wait::eventually};

/// Image of the tests' containers; `make test` makes it from `deploy/demo-app`.
pub const IMAGE: &str = "wharf-test-app:1";

/// One engine, by its address.
#[derive(Clone, Debug)]
pub struct Engine {
    pub host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    pub name: String,
    pub id: String,
    pub running: bool,
    pub pod: String,
    pub node: String,
}

impl Engine {
    /// The machine's engine; made to answer by `make test`.
    pub fn shared() -> Self {
        Self { host: "unix:///var/run/docker.sock".to_owned() }
    }

    pub fn docker(&self, args: &[&str]) -> program::Output {
        program::run(Command::new("docker").arg("-H").arg(&self.host).args(args))
    }

    /// All containers of a cluster, by name.
    pub fn containers(&self, cluster: &str) -> Vec<Container> {
        let filter = format!("label=io.wharfinger.cluster={cluster}");
        let format = "{{.Names}}\t{{.ID}}\t{{.State}}\t{{.Label \"io.wharfinger.pod\"}}\t{{.Label \"io.wharfinger.node\"}}";
        let out = self.docker(&["ps", "-a", "--no-trunc", "--filter", &filter, "--format", format]).ok();
        let mut all: Vec<Container> = out
            .lines()
            .map(|line| {
                let mut parts = line.split('\t').map(str::to_owned);
                let mut next = || parts.next().unwrap_or_default();
                let (name, id, state, pod, node) = (next(), next(), next(), next(), next());
                Container { name, id, running: state == "running", pod, node }
            })
            .collect();
        all.sort();
        all
    }

    pub fn running(&self, cluster: &str) -> Vec<Container> {
        self.containers(cluster).into_iter().filter(|c| c.running).collect()
    }

    /// Removes what a cluster left, by its label.
    pub fn clean(&self, cluster: &str) {
        let ids: Vec<String> = self.containers(cluster).into_iter().map(|c| c.id).collect();
        for chunk in ids.chunks(50) {
            let mut args = vec!["rm", "-f"];
            args.extend(chunk.iter().map(String::as_str));
            let _ = self.docker(&args);
        }
    }
}

/// An engine of a test's own, on a bridge of its own, to be restarted or killed at will.
pub struct OwnEngine {
    dir: tempfile::TempDir,
    bridge: String,
    subnet: u8,
    child: Option<Child>,
    pub engine: Engine,
}

impl OwnEngine {
    /// `number` (1…200) must be unique among the tests: it names the bridge and its subnet.
    pub fn start(number: u8) -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-engine-").tempdir().expect("a directory");
        let host = format!("unix://{}", dir.path().join("d.sock").display());
        let bridge = format!("whtest{number}");
        let mut own = Self { dir, bridge, subnet: number, child: None, engine: Engine { host } };
        own.ip(&["link", "del", &own.bridge.clone()]);
        own.ip(&["link", "add", &own.bridge.clone(), "type", "bridge"]);
        own.ip(&["addr", "add", &format!("10.213.{}.1/24", own.subnet), "dev", &own.bridge.clone()]);
        own.ip(&["link", "set", &own.bridge.clone(), "up"]);
        own.up();
        own.load(IMAGE);
        own
    }

    fn ip(&self, args: &[&str]) {
        let _ = program::run(Command::new("ip").args(args));
    }

    /// Starts dockerd on the same data; waits until it answers.
    pub fn up(&mut self) {
        let at = |name: &str| -> PathBuf { self.dir.path().join(name) };
        let log = std::fs::File::options().create(true).append(true).open(at("log")).expect("log");
        let child = Command::new("dockerd")
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args(["-H", &self.engine.host, "--bridge", &self.bridge, "--iptables=false", "--ip-masq=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("dockerd");
        self.child = Some(child);
        eventually("dockerd answers", || {
            let out = self.engine.docker(&["version"]);
            if out.code == 0 { Ok(()) } else { Err(format!("{}\n{}", out.stderr, self.log_tail())) }
        });
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }

    /// Copies an image over from the shared engine.
    pub fn load(&self, image: &str) {
        let tar = self.dir.path().join("image.tar");
        let tar = tar.to_str().expect("a path");
        Engine::shared().docker(&["save", "-o", tar, image]).ok();
        self.engine.docker(&["load", "-i", tar]).ok();
    }

    /// SIGTERM or SIGKILL to dockerd alone; with SIGTERM it stops its containers, as on a host's shutdown.
    pub fn down(&mut self, signal: nix::sys::signal::Signal) {
        if let Some(mut child) = self.child.take() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
            let _ = nix::sys::signal::kill(pid, signal);
            let _ = child.wait();
        }
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if self.child.is_none() {
            self.up();
        }
        let ids = self.engine.docker(&["ps", "-aq"]).stdout;
        for id in ids.lines() {
            let _ = self.engine.docker(&["rm", "-f", id]);
        }
        self.down(nix::sys::signal::Signal::SIGTERM);
        self.ip(&["link", "del", &self.bridge.clone()]);
    }
}
