//! A Docker engine of a test's own, for what must not happen to the shared one: restarts and deaths.
//!
//! Invariants: everything of it lies below one temporary directory, and its processes end with the value. It runs
//! in a network namespace of its own: an engine that is told to have no bridge deletes `docker0` where it finds
//! it, and on the machine's own network that is the shared engine's.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{PATIENCE, try_docker};

pub struct OwnDockerd {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl OwnDockerd {
    /// Started and answering.
    pub fn start() -> Self {
        // A short path: a socket's is limited to 107 bytes.
        let dir = tempfile::Builder::new()
            .prefix("wharf-dockerd-")
            .tempdir_in("/tmp")
            .expect("temporary directory");
        let mut engine = Self { dir, child: None };
        engine.up();
        engine
    }

    /// For `-H` and for the runtime.
    pub fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock"))
    }

    /// Starts it over the same data and waits until it answers.
    pub fn up(&mut self) {
        assert!(self.child.is_none(), "the engine runs already");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("log file");
        // `unshare` becomes dockerd, so that the child's pid is the engine's.
        let child = Command::new("unshare")
            .args(["--net", "dockerd"])
            .args(["--data-root", &self.path("data"), "--exec-root", &self.path("exec")])
            .args(["--pidfile", &self.path("pid"), "-H", &self.host()])
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip-masq=false",
                "--shutdown-timeout=5",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log file"))
            .stderr(log)
            .spawn()
            .expect("unshare");
        self.child = Some(child);
        let began = Instant::now();
        while !try_docker(&self.host(), &["version"]).status.success() {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().ok()).flatten();
            assert!(
                ended.is_none(),
                "dockerd ended: {ended:?}; is it installed, and are we root?\n{}",
                self.log()
            );
            assert!(began.elapsed() < PATIENCE, "dockerd does not answer\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as an operator would; containers end with it.
    pub fn stop(&mut self) {
        self.end(Signal::SIGTERM);
    }

    /// Ends it as a crash would; containers go on.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
        // Its containerd dies with it. Where nobody reaps orphans it stays as a zombie, which the next engine
        // takes for a live one by its pid file, and waits for in vain.
        let file = self.path("exec/containerd/containerd.pid");
        let pid = fs::read_to_string(&file).unwrap_or_default();
        let began = Instant::now();
        while is_alive(pid.trim()) {
            assert!(began.elapsed() < PATIENCE, "containerd outlives its dockerd");
            thread::sleep(Duration::from_millis(10));
        }
        for file in [file, self.path("pid")] {
            let _ = fs::remove_file(file);
        }
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        let _ = kill(pid_of(&child), signal);
        let began = Instant::now();
        while !matches!(child.try_wait(), Ok(Some(_))) {
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for OwnDockerd {
    fn drop(&mut self) {
        self.stop();
        // After a crash its containerd, shims and containers are still there: they name the directory.
        let own = self.dir.path().to_string_lossy().into_owned();
        for _ in 0..50 {
            let left = processes_of(&own);
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = kill(pid, Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(20));
        }
        unmount_below(self.dir.path());
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// Neither gone nor a zombie.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !pid.is_empty() && !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

/// Processes with `text` on their command line, and the children of such (containers of its shims).
fn processes_of(text: &str) -> Vec<Pid> {
    let all: Vec<(i32, i32, String)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let mut after_name = stat.rsplit(')').next()?.split_whitespace();
            let (state, parent) = (after_name.next()?, after_name.next()?);
            (state != "Z").then_some(())?;
            Some((pid, parent.parse().ok()?, String::from_utf8_lossy(&line).into_owned()))
        })
        .collect();
    let own: Vec<i32> = all
        .iter()
        .filter(|(pid, _, line)| line.contains(text) && *pid != i32::try_from(std::process::id()).unwrap_or(0))
        .map(|(pid, ..)| *pid)
        .collect();
    all.iter()
        .filter(|(pid, parent, _)| own.contains(pid) || own.contains(parent))
        .map(|(pid, ..)| Pid::from_raw(*pid))
        .collect()
}

/// What is mounted below the directory would keep it from being removed.
fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut points: Vec<&str> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .filter(|p| Path::new(p).starts_with(dir))
        .collect();
    // The deepest first.
    points.sort_unstable_by_key(|p| std::cmp::Reverse(p.len()));
    for point in points {
        let _ = Command::new("umount").args(["-l", point]).output();
    }
}
