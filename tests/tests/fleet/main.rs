//! The simulated fleet: what must hold for any number of hosts and whatever goes wrong. `FLEET_SEED=n` runs that
//! one schedule of faults alone; `WHARF_TEST_LONG=1` runs hundreds, each with more faults.

mod chaos;
mod cost;
mod daemons;
mod drain_agents;
mod drains;
mod every_commit;
mod failover;
mod logs;
mod losses;
mod random;
mod updates;

use std::time::Duration;

/// Longest wait for a condition that does not depend on faults any more.
const PATIENCE: Duration = Duration::from_secs(60);

fn long() -> bool {
    std::env::var_os("WHARF_TEST_LONG").is_some_and(|v| v == "1")
}
