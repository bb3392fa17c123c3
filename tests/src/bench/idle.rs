//! What agent, coordinator and engine take while nothing happens. Called by [`super::measure`], once without
//! containers and once with all of them.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    engine::{Bed, NODE},
    machine::{Usage, children},
    pause,
};

/// After the last change: readiness (5 s), lazy writes and the first full lists are over.
const CALM: Duration = Duration::from_secs(15);

/// One program over the idle time.
#[derive(Clone, Debug)]
pub struct Idle {
    pub program: &'static str,
    pub pss_kib: u64,
    pub rss_kib: u64,
    /// Thousandths of a core.
    pub cpu_per_mille: f64,
}

impl Idle {
    pub fn json(&self) -> Value {
        json!({"program": self.program, "pssKiB": self.pss_kib, "rssKiB": self.rss_kib, "cpuPerMille": self.cpu_per_mille})
    }
}

/// Lets the programs rest, then watches them for `time`. Memory is that at the end.
pub fn measure(bed: &mut Bed, time: Duration) -> Vec<Idle> {
    let dockerd = bed.engine.pid().expect("a running engine");
    let mut engine = vec![dockerd];
    engine.extend(children(dockerd, "containerd"));
    let programs = [
        ("agent", vec![bed.cluster.agent_pid(NODE)]),
        ("coordinator", vec![bed.cluster.coordinator().pid()]),
        ("dockerd, containerd", engine),
    ];
    pause(CALM);
    let before = programs.each_ref().map(|(_, pids)| usage(pids));
    pause(time);
    let after = programs.each_ref().map(|(_, pids)| usage(pids));
    let told = programs.iter().zip(before).zip(after);
    told.map(|(((program, _), before), after)| Idle {
        program,
        pss_kib: after.pss_kib,
        rss_kib: after.rss_kib,
        cpu_per_mille: (after.cpu - before.cpu).as_secs_f64() / time.as_secs_f64() * 1000.0,
    })
    .collect()
}

/// Of several processes together.
fn usage(pids: &[i32]) -> Usage {
    pids.iter()
        .map(|&pid| Usage::of(pid))
        .fold(Usage::default(), |a, b| Usage {
            pss_kib: a.pss_kib + b.pss_kib,
            rss_kib: a.rss_kib + b.rss_kib,
            cpu: a.cpu + b.cpu,
        })
}
