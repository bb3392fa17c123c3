//! What the kernel tells of the machine, by sysinfo; the one place that names it. Called by the host probe.
//!
//! Invariant: what cannot be read is 0 or empty and logged once a look, never guessed.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// CPUs, memory and names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that are switched on.
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    pub kernel: String,
    pub hostname: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        // Only what is asked for: everything would walk all processes.
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let (cpus, memory) = match System::new_with_specifics(kinds) {
            Ok(system) => (system.cpus().len() as u64, system.total_memory()),
            Err(error) => {
                tracing::warn!(%error, "cannot read this host's CPUs and memory; give --capacity cpu=N,memory=N");
                (0, 0)
            }
        };
        Self {
            cpus,
            memory,
            kernel: System::kernel_version().unwrap_or_default(),
            hostname: System::host_name().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_what_the_kernel_says() {
        let here = Machine::here();
        let online = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        assert!(here.cpus >= online, "{here:?}");
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = text
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
        assert_eq!(kib.map(|k: u64| k * 1024), Some(here.memory));
        assert!(!here.kernel.is_empty() && !here.hostname.is_empty(), "{here:?}");
    }
}
