//! The machine that the numbers are of: its line for the table, its disk, and what a process takes of it. Called
//! by [`super::measure`] and [`super::idle`].

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{engine::Bed, stats::Sample};

/// What to know of a machine when its numbers are read.
#[derive(Clone, Debug)]
pub struct Machine {
    pub cores: usize,
    pub cpu: String,
    pub kernel: String,
    /// Version, storage driver, cgroups.
    pub engine: String,
    /// Device and type of the file system that the run's store lies on.
    pub disk: String,
}

impl Machine {
    pub fn look(bed: &Bed) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name"));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: model.map_or_else(String::new, |m| m.trim_start_matches([' ', '\t', ':']).to_owned()),
            kernel: kernel.trim().to_owned(),
            engine: bed.engine_line(),
            disk: disk_of(
                bed.cluster.dir(),
                &fs::read_to_string("/proc/mounts").unwrap_or_default(),
            ),
        }
    }

    pub fn line(&self) -> String {
        let Self {
            cores,
            cpu,
            kernel,
            engine,
            disk,
        } = self;
        format!("{cores} × {cpu} · Linux {kernel} · {engine} · store on {disk}")
    }

    pub fn json(&self) -> Value {
        json!({"cores": self.cores, "cpu": self.cpu, "kernel": self.kernel, "engine": self.engine, "disk": self.disk})
    }
}

/// Device and type of the mount that a path lies on.
fn disk_of(path: &Path, mounts: &str) -> String {
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    // The later of two mounts of the same place hides the earlier one.
    fields
        .filter(|(_, place, _)| path.starts_with(place))
        .max_by_key(|(_, place, _)| place.len())
        .map_or_else(|| "?".to_owned(), |(device, _, kind)| format!("{device} ({kind})"))
}

/// How long the disk takes to make 4 KiB durable, in milliseconds: what every acknowledged write waits for.
#[derive(Clone, Debug)]
pub struct Fsync(pub Sample);

impl Fsync {
    const TIMES: u64 = 300;
    const BLOCK: usize = 4096;

    /// Overwrites blocks of a file in this directory, one after the other, as a write-ahead log does.
    pub fn measure(dir: &Path) -> Self {
        let path = dir.join("fdatasync");
        let file = fs::File::create(&path).expect("a file beside the store");
        let block = vec![0x5a_u8; Self::BLOCK];
        let at = |n: u64| (n % 64) * Self::BLOCK as u64;
        for n in 0..64 {
            file.write_all_at(&block, at(n)).expect("a write");
        }
        file.sync_all().expect("fsync");
        let once = |n| {
            let start = Instant::now();
            file.write_all_at(&block, at(n)).expect("a write");
            file.sync_data().expect("fdatasync");
            start.elapsed().as_secs_f64() * 1000.0
        };
        let sample = Sample::new((0..Self::TIMES).map(once).collect()).expect("values");
        let _ = fs::remove_file(path);
        Self(sample)
    }
}

/// What a process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, shared pages counted by share; KiB.
    pub pss_kib: u64,
    /// Resident memory, shared pages counted in full; KiB.
    pub rss_kib: u64,
    /// User and system time since its start.
    pub cpu: Duration,
}

impl Usage {
    pub fn of(pid: i32) -> Self {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
        let ticks = ticks.ok().flatten().and_then(|t| u64::try_from(t).ok()).unwrap_or(100);
        Self {
            pss_kib: kib(&rollup, "Pss:"),
            rss_kib: kib(&rollup, "Rss:"),
            cpu: Duration::from_millis(cpu_ticks(&stat) * 1000 / ticks.max(1)),
        }
    }
}

fn kib(rollup: &str, field: &str) -> u64 {
    let value = rollup.lines().find_map(|line| line.strip_prefix(field));
    value
        .and_then(|v| v.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default()
}

/// `utime` + `stime` of `/proc/PID/stat`; the second field may hold blanks and parentheses.
fn cpu_ticks(stat: &str) -> u64 {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let fields: Vec<&str> = after.split_whitespace().collect();
    [11, 12]
        .iter()
        .filter_map(|&i| fields.get(i)?.parse::<u64>().ok())
        .sum()
}

/// The children of a process whose command has this name.
pub fn children(parent: i32, name: &str) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        is_child(&stat, parent, name)
    })
    .collect()
}

fn is_child(stat: &str, parent: i32, name: &str) -> bool {
    let Some((before, after)) = stat.rsplit_once(')') else {
        return false;
    };
    let ppid = after.split_whitespace().nth(1).and_then(|p| p.parse::<i32>().ok());
    ppid == Some(parent) && before.split_once('(').is_some_and(|(_, comm)| comm == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b) S 3 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1 0";

    #[test]
    fn reads_what_the_kernel_says_of_a_process() {
        assert_eq!(cpu_ticks(STAT), 300);
        assert_eq!(cpu_ticks(""), 0);
        assert!(is_child(STAT, 3, "a) b"));
        assert!(!is_child(STAT, 4, "a) b") && !is_child(STAT, 3, "a"));
        let rollup = "5581-7ffd ---p 00000000 00:00 0 [rollup]\nRss:    10240 kB\nPss:      4096 kB\nPss_Dirty: 7 kB\n";
        assert_eq!((kib(rollup, "Pss:"), kib(rollup, "Rss:")), (4096, 10240));
        let own = Usage::of(i32::try_from(std::process::id()).expect("a pid"));
        assert!(own.rss_kib > 0 && own.pss_kib <= own.rss_kib, "{own:?}");
    }

    #[test]
    fn finds_the_innermost_mount() {
        let mounts =
            "rootfs / rootfs rw 0 0\n/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmpx xfs rw 0 0\n";
        assert_eq!(disk_of(Path::new("/tmp/a"), mounts), "tmpfs (tmpfs)");
        assert_eq!(disk_of(Path::new("/var"), mounts), "/dev/vda (ext4)");
        assert_eq!(disk_of(Path::new("/var"), ""), "?");
    }
}
