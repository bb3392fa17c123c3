//! Real etcd for tests: one or three members, each with its own directory and ports, killed when dropped. Used by the
//! tests of this crate and, by its path, by those of the coordinator's store; so it names nothing of ours.
//!
//! Invariant: it acts on the processes that it started and on nothing else.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How etcd is started.
#[derive(Clone, Debug, Default)]
pub struct EtcdSettings {
    /// Bytes; 0: etcd's own.
    pub quota: u64,
    /// CA, certificate and key for members and clients; `None`: without TLS.
    pub tls: Option<(PathBuf, PathBuf, PathBuf)>,
    /// The program; empty: the one on the PATH.
    pub program: String,
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    child: Mutex<Option<Child>>,
}

/// A cluster of etcd.
pub struct Etcd {
    members: Vec<Member>,
    settings: EtcdSettings,
    dir: tempfile::TempDir,
}

impl Etcd {
    /// Started and answering.
    pub fn start(members: usize) -> Self {
        Self::with(members, EtcdSettings::default())
    }

    pub fn with(members: usize, settings: EtcdSettings) -> Self {
        // A port that was free may be taken before etcd has it.
        for _ in 0..5 {
            let ports = free_ports(members * 2);
            let member = |i: usize| Member {
                name: format!("m{i}"),
                client: ports[i * 2],
                peer: ports[i * 2 + 1],
                child: Mutex::new(None),
            };
            let etcd = Self {
                members: (0..members).map(member).collect(),
                settings: settings.clone(),
                // Not below a target directory: what it keeps must not be built from.
                dir: tempfile::Builder::new()
                    .prefix("wharf-etcd-")
                    .tempdir()
                    .expect("a directory"),
            };
            for i in 0..members {
                etcd.launch(i);
            }
            if (0..members).all(|i| etcd.wait_for(i, Duration::from_secs(20))) {
                return etcd;
            }
        }
        panic!("etcd does not start; is it installed (deploy/dev/ensure-etcd.sh)?");
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn endpoint(&self, i: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.members[i].client)
    }

    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|i| self.endpoint(i)).collect()
    }

    pub fn port(&self, i: usize) -> u16 {
        self.members[i].client
    }

    /// What it said.
    pub fn log(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", self.members[i].name))
    }

    pub fn kill(&self, i: usize) {
        if let Some(mut child) = self.child(i).take() {
            // Also where it is stopped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Hangs it; [`Self::resume`] lets it go on.
    pub fn pause(&self, i: usize) {
        self.signal(i, Signal::SIGSTOP);
    }

    pub fn resume(&self, i: usize) {
        self.signal(i, Signal::SIGCONT);
    }

    /// After a kill, on the same data. Does not wait for it.
    pub fn restart(&self, i: usize) {
        self.kill(i);
        self.launch(i);
    }

    /// True once it serves.
    pub fn wait_for(&self, i: usize, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            let ended = self
                .child(i)
                .as_mut()
                .is_none_or(|c| c.try_wait().is_ok_and(|e| e.is_some()));
            if ended {
                return false;
            }
            if self.healthy(i) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn healthy(&self, i: usize) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.members[i].client)) else {
            return false;
        };
        if self.settings.tls.is_some() {
            return true;
        }
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let mut answer = String::new();
        stream.write_all(b"GET /health HTTP/1.0\r\nHost: etcd\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains(r#""health":"true""#)
    }

    fn scheme(&self) -> &'static str {
        if self.settings.tls.is_some() { "https" } else { "http" }
    }

    fn child(&self, i: usize) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.members[i]
            .child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn signal(&self, i: usize, signal: Signal) {
        if let Some(child) = self.child(i).as_ref() {
            // Not waited for, so the pid is still its own.
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
            kill(pid, signal).expect("a signal to our own child");
        }
    }

    fn launch(&self, i: usize) {
        let member = &self.members[i];
        let scheme = self.scheme();
        let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
        let cluster: Vec<_> = self
            .members
            .iter()
            .map(|m| format!("{}={}", m.name, url(m.peer)))
            .collect();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(i))
            .expect("a log");
        let program = match self.settings.program.as_str() {
            "" => "etcd",
            other => other,
        };
        // It goes with the thread that started it, should this process be killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program, "--name", &member.name]);
        command.arg("--data-dir").arg(self.data_dir(i));
        command.args([
            "--listen-client-urls",
            &url(member.client),
            "--advertise-client-urls",
            &url(member.client),
        ]);
        command.args([
            "--listen-peer-urls",
            &url(member.peer),
            "--initial-advertise-peer-urls",
            &url(member.peer),
        ]);
        command.args([
            "--initial-cluster",
            &cluster.join(","),
            "--initial-cluster-state",
            "new",
        ]);
        command.args([
            "--heartbeat-interval",
            "50",
            "--election-timeout",
            "500",
            "--logger",
            "zap",
        ]);
        if self.settings.quota > 0 {
            command.args(["--quota-backend-bytes", &self.settings.quota.to_string()]);
        }
        if let Some((ca, cert, key)) = &self.settings.tls {
            for (flag, file) in [("trusted-ca-file", ca), ("cert-file", cert), ("key-file", key)] {
                command.arg(format!("--{flag}")).arg(file);
                command.arg(format!("--peer-{flag}")).arg(file);
            }
            command.args(["--client-cert-auth", "--peer-client-cert-auth"]);
        }
        let child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("etcd starts; deploy/dev/ensure-etcd.sh installs it");
        *self.child(i) = Some(child);
    }

    fn data_dir(&self, i: usize) -> PathBuf {
        self.dir.path().join(&self.members[i].name)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for i in 0..self.members.len() {
            self.kill(i);
        }
    }
}

fn free_ports(n: usize) -> Vec<u16> {
    let held: Vec<_> = (0..n)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a port"))
        .collect();
    held.iter()
        .map(|l| l.local_addr().expect("an address").port())
        .collect()
}
