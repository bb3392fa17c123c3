//! What the tests see of Docker, by its own command: containers of one cluster, and an engine of a test's own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    program,
    wait::{eventually, interrupted},
};

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
        Self {
            host: "unix:///var/run/docker.sock".to_owned(),
        }
    }

    pub fn docker(&self, args: &[&str]) -> program::Output {
        program::run(Command::new("docker").arg("-H").arg(&self.host).args(args))
    }

    /// All containers of a cluster, by name.
    #[track_caller]
    pub fn containers(&self, cluster: &str) -> Vec<Container> {
        let filter = format!("label=io.wharfinger.cluster={cluster}");
        let format =
            "{{.Names}}\t{{.ID}}\t{{.State}}\t{{.Label \"io.wharfinger.pod\"}}\t{{.Label \"io.wharfinger.node\"}}";
        let out = self
            .docker(&["ps", "-a", "--no-trunc", "--filter", &filter, "--format", format])
            .ok();
        let mut all: Vec<Container> = out
            .lines()
            .map(|line| {
                let mut parts = line.split('\t').map(str::to_owned);
                let mut next = || parts.next().unwrap_or_default();
                let (name, id, state, pod, node) = (next(), next(), next(), next(), next());
                Container {
                    name,
                    id,
                    running: state == "running",
                    pod,
                    node,
                }
            })
            .collect();
        all.sort();
        all
    }

    pub fn running(&self, cluster: &str) -> Vec<Container> {
        self.containers(cluster).into_iter().filter(|c| c.running).collect()
    }

    /// Removes what a cluster left, by its label. Called where a test may have failed: an engine that does not
    /// answer must not make a second panic of it, which would leave everything behind.
    pub fn clean(&self, cluster: &str) {
        let filter = format!("label=io.wharfinger.cluster={cluster}");
        let ids = self.docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]).stdout;
        let ids: Vec<&str> = ids.lines().collect();
        for chunk in ids.chunks(50) {
            let mut args = vec!["rm", "-f"];
            args.extend(chunk);
            let _ = self.docker(&args);
        }
        let volumes = self.docker(&["volume", "ls", "-q", "--filter", &filter]).stdout;
        for volume in volumes.lines() {
            let _ = self.docker(&["volume", "rm", volume]);
        }
    }
}

/// An engine of a test's own, to be restarted or killed at will. It runs in a network namespace of its own: two
/// engines in one namespace would fight over `docker0`.
pub struct OwnEngine {
    dir: tempfile::TempDir,
    namespace: String,
    child: Option<Child>,
    /// More arguments of dockerd.
    more: Vec<String>,
    pub engine: Engine,
}

impl OwnEngine {
    /// `name` must be unique among the tests: it names the network namespace.
    pub fn start(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// As [`Self::start`], with more arguments of dockerd.
    pub fn with(name: &str, more: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("wharf-engine-")
            .tempdir()
            .expect("a directory");
        let host = format!("unix://{}", dir.path().join("d.sock").display());
        let namespace = format!("wharf-test-{name}-{}", std::process::id());
        let own = Self {
            dir,
            namespace,
            child: None,
            more: more.iter().map(|&a| a.to_owned()).collect(),
            engine: Engine { host },
        };
        own.ip(&["netns", "add", &own.namespace]).ok();
        own.ip(&["-n", &own.namespace, "link", "set", "lo", "up"]).ok();
        let mut own = own;
        own.up();
        own.load(IMAGE);
        own
    }

    fn ip(&self, args: &[&str]) -> program::Output {
        program::run(Command::new("ip").args(args))
    }

    /// Starts dockerd on the same data; waits until it answers.
    pub fn up(&mut self) {
        let at = |name: &str| -> PathBuf { self.dir.path().join(name) };
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(at("log"))
            .expect("log");
        // nsenter becomes dockerd, so that the child's pid is the engine's. `ip netns exec` would hide cgroups.
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(["dockerd", "--data-root"])
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args([
                "-H",
                &self.engine.host,
                "--iptables=false",
                "--ip-masq=false",
                "--shutdown-timeout=5",
            ])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("dockerd");
        self.child = Some(child);
        eventually("dockerd answers", || {
            let out = self.engine.docker(&["version"]);
            if out.code == 0 {
                Ok(())
            } else {
                Err(format!("{}\n{}", out.stderr, self.log_tail()))
            }
        });
    }

    /// Of its network namespace, as `ip netns` names it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// As when its host loses power: the engine, and all that it ran, end without a word. [`Self::up`] boots it.
    pub fn power_off(&mut self) {
        let ids = self.engine.docker(&["ps", "-q", "--no-trunc"]).ok();
        let mut first: Vec<(String, i32)> = Vec::new();
        for id in ids.lines() {
            let pid = self.engine.docker(&["inspect", "-f", "{{.State.Pid}}", id]).ok();
            first.push((id.to_owned(), pid.trim().parse().expect("a pid")));
        }
        self.down(Signal::SIGKILL);
        self.end_leftovers();
        for (id, pid) in first {
            // Only what is in that container still.
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if cgroup.contains(&id) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Of dockerd, while it is up.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// Where its sockets and data lie; removed with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
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
    pub fn down(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        let _ = kill(pid, signal);
        let _ = child.wait();
        if signal == Signal::SIGKILL {
            // Its containerd dies with it, but where nobody reaps orphans it stays a zombie, which the next
            // engine would take for a live one by its pid file.
            for file in ["exec/containerd/containerd.pid", "pid"] {
                let _ = std::fs::remove_file(self.dir.path().join(file));
            }
        }
    }

    /// Ends what still names this engine's directory: shims and containers that outlived a killed engine.
    fn end_leftovers(&self) {
        let own = self.dir.path().to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        for entry in processes {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&own) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        for place in mounts
            .lines()
            .rev()
            .filter_map(|l| l.split(' ').nth(1))
            .filter(|p| p.starts_with(&own))
        {
            let _ = program::run(Command::new("umount").args(["-l", place]));
        }
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if std::thread::panicking() && !interrupted() {
            eprintln!("--- dockerd, the last line first\n{}", self.log_tail());
        }
        if self.child.is_some() {
            let ids = self.engine.docker(&["ps", "-aq"]).stdout;
            for id in ids.lines() {
                let _ = self.engine.docker(&["rm", "-f", id]);
            }
            self.down(Signal::SIGTERM);
        }
        self.end_leftovers();
        let _ = self.ip(&["netns", "del", &self.namespace]);
    }
}
