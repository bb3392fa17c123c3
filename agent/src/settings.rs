//! Every default that a test would wait for, with millisecond resolution. Set in the configuration file's
//! `[settings]` table or by `WHARF_<NAME>`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::step::{Backoff, StepSettings};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A container without a readiness probe is ready when it has run this long; the cluster's setting
    /// `ready-after`, where an operator set it, goes before.
    pub ready_after_ms: u64,
    /// Delay before the second restart in a row; doubles up to `crash_max_ms`.
    pub crash_initial_ms: u64,
    pub crash_max_ms: u64,
    /// A run this long makes the next restart immediate again.
    pub crash_reset_ms: u64,
    /// Delay after the first failed pull; doubles up to `image_max_ms`.
    pub image_initial_ms: u64,
    pub image_max_ms: u64,
    /// How often to look whether an image appeared by other means than a pull.
    pub image_recheck_ms: u64,
    /// Delay before a call is repeated whose effect is unknown; doubles up to `retry_max_ms`.
    pub retry_initial_ms: u64,
    pub retry_max_ms: u64,
    /// How long a failure shows its own reason before that of its backoff.
    pub fresh_error_ms: u64,

    /// Period of the full list of containers, which is the truth.
    pub relist_ms: u64,
    /// Period of attempts while Docker does not answer.
    pub engine_retry_ms: u64,
    /// Failed attempts in a row after which the node says that Docker is away.
    pub engine_down_after: u32,
    /// Dead containers of unknown pods are removed this long after the agent's start at the earliest.
    pub gc_grace_ms: u64,
    /// Creates and starts under way at once; 0: four a CPU, at most 8.
    pub max_starts: usize,
    /// Stops and removes under way at once; a stop mostly waits for its grace period.
    pub max_stops: usize,
    /// Pulls under way at once, each of another image.
    pub max_pulls: usize,
    /// A pull that reports no progress for this long has failed; there is no limit on the whole.
    pub pull_inactivity_ms: u64,
    /// What a registry's credential helper may take.
    pub credential_helper_ms: u64,
    /// How often a pull's progress is looked at.
    pub pull_progress_ms: u64,
    /// Wait before a pod's task is started again after a panic.
    pub task_restart_ms: u64,

    /// After a boot of the host, how long containers wait for a coordinator's word before they are started from the
    /// ledger alone; 0: they do not wait.
    pub boot_wait_ms: u64,
    /// How long the farewell to a coordinator may take when the agent stops.
    pub farewell_ms: u64,
    /// How long joining waits for Docker to answer.
    pub join_engine_ms: u64,
    /// Free space that joining needs where the agent keeps its data, and where Docker does; MiB.
    pub join_free_mib: u64,

    /// How long a change of bookkeeping may wait for its write.
    pub lazy_write_ms: u64,
    /// False only where power loss does not matter: a simulated fleet.
    pub sync_writes: bool,
    /// Period of collecting the host's facts.
    pub facts_ms: u64,
    /// How long an inventory of the hardware is good; SIGHUP has it read at once.
    pub inventory_ms: u64,
    /// Period of the file that `wharf-agent status` reads.
    pub status_file_ms: u64,

    pub connect_timeout_ms: u64,
    pub keepalive_interval_ms: u64,
    pub keepalive_timeout_ms: u64,
    /// From Hello to Welcome.
    pub welcome_timeout_ms: u64,
    /// A coordinator that takes no message for this long is hung.
    pub send_timeout_ms: u64,
    /// Ceiling of the random wait after every coordinator was tried once; doubles up to `reconnect_max_ms`.
    pub reconnect_initial_ms: u64,
    pub reconnect_max_ms: u64,
    /// Ceiling after a coordinator was refused or refuses this agent.
    pub refused_retry_ms: u64,
    /// A session this long makes the next reconnect quick again.
    pub stable_after_ms: u64,
    /// Longest wait after a renewal of the certificate failed; the shortest is half of it.
    pub renew_retry_ms: u64,
    pub renew_timeout_ms: u64,
    /// Statuses are gathered this long before they are sent.
    pub gather_ms: u64,
    /// Pipes open at once, i.e. logs that are read.
    pub max_pipes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let step = StepSettings::default();
        Self {
            ready_after_ms: step.ready_after_ms,
            crash_initial_ms: step.crash.initial_ms,
            crash_max_ms: step.crash.max_ms,
            crash_reset_ms: step.crash_reset_ms,
            image_initial_ms: step.image.initial_ms,
            image_max_ms: step.image.max_ms,
            image_recheck_ms: step.image_recheck_ms,
            retry_initial_ms: step.retry.initial_ms,
            retry_max_ms: step.retry.max_ms,
            fresh_error_ms: step.fresh_error_ms,
            relist_ms: 10_000,
            engine_retry_ms: 1_000,
            engine_down_after: 3,
            gc_grace_ms: 60_000,
            max_starts: 0,
            max_stops: 32,
            max_pulls: 4,
            pull_inactivity_ms: 60_000,
            credential_helper_ms: 10_000,
            pull_progress_ms: 2_000,
            task_restart_ms: 1_000,
            boot_wait_ms: 60_000,
            farewell_ms: 1_000,
            join_engine_ms: 10_000,
            join_free_mib: 256,
            lazy_write_ms: 1_000,
            sync_writes: true,
            facts_ms: 60_000,
            inventory_ms: 600_000,
            status_file_ms: 2_000,
            connect_timeout_ms: 5_000,
            keepalive_interval_ms: 10_000,
            keepalive_timeout_ms: 5_000,
            welcome_timeout_ms: 10_000,
            send_timeout_ms: 10_000,
            reconnect_initial_ms: 250,
            reconnect_max_ms: 3_000,
            refused_retry_ms: 30_000,
            stable_after_ms: 10_000,
            renew_retry_ms: 60_000,
            renew_timeout_ms: 30_000,
            gather_ms: 50,
            max_pipes: 64,
        }
    }
}

impl Settings {
    pub fn step(&self) -> StepSettings {
        StepSettings {
            ready_after_ms: self.ready_after_ms,
            crash: Backoff {
                initial_ms: self.crash_initial_ms,
                max_ms: self.crash_max_ms,
            },
            crash_reset_ms: self.crash_reset_ms,
            image: Backoff {
                initial_ms: self.image_initial_ms,
                max_ms: self.image_max_ms,
            },
            image_recheck_ms: self.image_recheck_ms,
            retry: Backoff {
                initial_ms: self.retry_initial_ms,
                max_ms: self.retry_max_ms,
            },
            fresh_error_ms: self.fresh_error_ms,
        }
    }

    /// Creates and starts under way at once, on this host.
    pub fn starts(&self) -> usize {
        if self.max_starts > 0 {
            return self.max_starts;
        }
        starts_for(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// The first setting that cannot work, in words.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("relist_ms", self.relist_ms),
            ("engine_retry_ms", self.engine_retry_ms),
            ("retry_initial_ms", self.retry_initial_ms),
            ("crash_initial_ms", self.crash_initial_ms),
            ("image_initial_ms", self.image_initial_ms),
            ("image_recheck_ms", self.image_recheck_ms),
            ("reconnect_initial_ms", self.reconnect_initial_ms),
            ("facts_ms", self.facts_ms),
            ("status_file_ms", self.status_file_ms),
            ("keepalive_interval_ms", self.keepalive_interval_ms),
            ("max_stops", self.max_stops as u64),
            ("max_pulls", self.max_pulls as u64),
            ("max_pipes", self.max_pipes as u64),
            ("pull_inactivity_ms", self.pull_inactivity_ms),
            ("credential_helper_ms", self.credential_helper_ms),
            ("pull_progress_ms", self.pull_progress_ms),
            ("engine_down_after", u64::from(self.engine_down_after)),
        ] {
            if value == 0 {
                return Err(format!("settings.{name}: must be at least 1"));
            }
        }
        Ok(())
    }
}

/// How many creates and starts an engine is best given at once, by its host's CPUs. A start on a bridge mostly
/// waits for the kernel: `make bench` finds that 2 CPUs start a fifth more containers a second with 8 at once
/// than with 4. With 16 they start fewer.
fn starts_for(cpus: usize) -> usize {
    cpus.saturating_mul(4).clamp(4, 8)
}

/// Milliseconds as a duration.
pub fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_follow_the_cpus_within_bounds_unless_they_are_set() {
        assert_eq!([0, 1, 2, 64].map(starts_for), [4, 4, 8, 8]);
        let set = Settings {
            max_starts: 3,
            ..Settings::default()
        };
        assert_eq!(set.starts(), 3);
    }
}
