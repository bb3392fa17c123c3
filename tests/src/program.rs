//! Running our own programs: where they are, their output, their end.

use std::{
    ffi::OsStr,
    fs::File,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Path of one of our programs: it lies beside this program, or above a test's executable (`make test` builds all
/// first).
pub fn path(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the test's own path");
    let own = exe.parent().expect("target directory");
    let dir = if own.ends_with("deps") {
        own.parent().unwrap_or(own)
    } else {
        own
    };
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: run `make build` first", path.display());
    path
}

/// How a finished command ended.
#[derive(Clone, Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Asserts success and returns standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "failed: {self:?}");
        self.stdout
    }

    /// Asserts the exit status and one line on standard error, and returns that line.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().filter(|l| !l.trim().is_empty()).collect();
        assert_eq!(lines.len(), 1, "one line expected: {}", self.stderr);
        lines[0].to_owned()
    }
}

/// Longest a command may take to its end: one that should refuse and serves instead must not hold the test.
const LONGEST: Duration = Duration::from_secs(90);

/// Runs a command to its end; killed, and the test failed, when that does not come.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    run_on(command, Stdio::null())
}

/// The same with this as its standard input.
#[track_caller]
pub fn run_on(command: &mut Command, stdin: Stdio) -> Output {
    let child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    let (sender, ended) = mpsc::channel();
    let waiting = std::thread::spawn(move || sender.send(child.wait_with_output()));
    let out = ended.recv_timeout(LONGEST);
    if out.is_err() {
        // Nobody else waits for it, so the pid is still its own.
        let _ = kill(pid, Signal::SIGKILL);
    }
    let _ = waiting.join();
    let out = out
        .unwrap_or_else(|_| panic!("{command:?} did not end within {LONGEST:?}"))
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Output {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// A program in the background whose output goes to a file; killed when dropped.
pub struct Background {
    child: Child,
    pub log: PathBuf,
}

impl Background {
    pub fn start(name: &str, args: &[impl AsRef<OsStr>], log: PathBuf) -> Self {
        Self::with_env(name, args, &[], log)
    }

    /// A program of the system's.
    pub fn of_system(name: &str, args: &[impl AsRef<OsStr>], log: PathBuf) -> Self {
        Self::of(Command::new(name).args(args), log)
    }

    /// With these variables beside its own.
    pub fn with_env(name: &str, args: &[impl AsRef<OsStr>], env: &[(String, String)], log: PathBuf) -> Self {
        let mut command = Command::new(path(name));
        command.args(args).envs(env.iter().map(|(k, v)| (k, v)));
        Self::of(&mut command, log)
    }

    /// Of a command that becomes the program, so that its pid is the program's.
    pub fn of(command: &mut Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).expect("log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("log file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, log }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// The end, if it has come.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// SIGKILL, and its end awaited.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and its end awaited.
    pub fn terminate(mut self) -> ExitStatus {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).expect("SIGTERM");
        let limit = Duration::from_secs(30);
        crate::wait::eventually_within(limit, "end after SIGTERM", || {
            self.ended().ok_or_else(|| self.log_text())
        })
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
