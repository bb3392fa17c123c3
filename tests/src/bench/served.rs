//! Many agents lose the coordinator that leads: until all of them are served by the next one. Called by
//! [`super::measure`].
//!
//! Coordinators and agents are the real ones, in this process, by the real clock; their engines, their connections and
//! the store are in memory. Counted is from when the next coordinator begins its term, so that what is told is what the
//! agents add to a take-over, which [`super::ha`] measures. All of it shares the cores of this machine with a thousand
//! agents, which have one each elsewhere.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{runtime::Runtime, time::Instant};

use super::{say, stats::Sample};
use crate::fleet::Replicas;

/// All are to be served again by then, seconds.
const BOUND: f64 = 2.0;
/// Lets what the agents' coming has begun come to its end.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Served {
    pub agents: usize,
    /// Seconds.
    pub took: Sample,
}

impl Served {
    pub fn bound() -> f64 {
        BOUND
    }

    pub fn json(&self) -> Value {
        json!({"agents": self.agents, "boundSeconds": BOUND, "servedSeconds": self.took.json()})
    }
}

/// So many rounds, each with a fleet of its own.
pub fn measure(runtime: &Runtime, agents: usize, rounds: u32) -> Option<Served> {
    let took = (1..=rounds).map(|round| {
        say(&format!(
            "the coordinator of {agents} agents is killed ({round} of {rounds})"
        ));
        runtime.block_on(once(agents)).as_secs_f64()
    });
    Sample::new(took.collect()).map(|took| Served { agents, took })
}

async fn once(agents: usize) -> Duration {
    let mut fleet = Replicas::started(3, agents).await;
    tokio::time::sleep(SETTLE).await;
    fleet.kill(1).await;
    let begun = Instant::now();
    fleet.lead(2).await;
    fleet
        .until("all agents are served", |f| {
            let n = f.sent(2, "UNCHANGED") + f.sent(2, "COMPLETE");
            if n >= agents as u64 {
                Ok(())
            } else {
                Err(format!("{n} are"))
            }
        })
        .await;
    let took = begun.elapsed();
    assert_eq!(fleet.sent(2, "COMPLETE"), 0, "an agent was told all of it anew");
    took
}
