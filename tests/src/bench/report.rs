//! All that a run measured, as the table on standard output and as JSON. Filled and printed by [`super::main`].
//! Pure but for its time stamp.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    arrival::{Arrival, TARGET_MS},
    drain::{Drain, GOAL as DRAIN_GOAL},
    engine::now_ns,
    ha::Ha,
    idle::Idle,
    loss::Loss,
    machine::{Fsync, Machine},
    pods::{GOAL_MS, Pods},
    scale::{GOAL, Scale, TARGET},
    served::Served,
    stats::{Contenders, Sample},
    update::{GOAL as UPDATE_GOAL, Update},
};

pub struct Report {
    /// Seconds since 1970.
    pub taken_s: i64,
    profile: String,
    machine: Machine,
    fsync_before: Fsync,
    pub fsync_after: Option<Fsync>,
    pub scale: Option<Scale>,
    pub pods: Option<Pods>,
    pub arrival: Option<Arrival>,
    pub drain: Option<Drain>,
    pub update: Option<Update>,
    pub loss: Option<Loss>,
    pub served: Option<Served>,
    pub ha: Option<Ha>,
    /// By the number of containers.
    pub idle: Vec<(u32, Vec<Idle>)>,
}

/// How to take the numbers again.
pub fn repeat_hint(profile: &str) -> String {
    let mut hint = String::new();
    if profile != "release" {
        let _ = write!(hint, " PROFILE={profile}");
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !words.is_empty() {
        let _ = write!(hint, " BENCH=\"{}\"", words.join(" "));
    }
    hint
}

fn verdict(pass: bool) -> &'static str {
    if pass { "pass" } else { "MISS" }
}

impl Report {
    pub fn new(machine: Machine, fsync_before: Fsync, profile: String) -> Self {
        Self {
            taken_s: now_ns() / 1_000_000_000,
            profile,
            machine,
            fsync_before,
            fsync_after: None,
            scale: None,
            pods: None,
            arrival: None,
            drain: None,
            update: None,
            loss: None,
            served: None,
            ha: None,
            idle: Vec::new(),
        }
    }

    pub fn table(&self) -> String {
        // Writing to a String cannot fail.
        let mut out = String::new();
        let _ = writeln!(out, "{}", self.machine.line());
        let fsync = |f: &Fsync| format!("p50 {:.2} ms, p99 {:.2} ms", f.0.median(), f.0.quantile(0.99));
        let _ = write!(out, "fdatasync of 4 KiB there: before {}", fsync(&self.fsync_before));
        if let Some(after) = &self.fsync_after {
            let _ = write!(out, "; after {}", fsync(after));
        }
        let _ = writeln!(out);
        if self.profile != "release" {
            let _ = writeln!(
                out,
                "built as {}: these numbers are not those of a release",
                self.profile
            );
        }
        if let Some(scale) = &self.scale {
            scale_table(&mut out, scale);
        }
        if let Some(pods) = &self.pods {
            pods_table(&mut out, pods);
        }
        if let Some(arrival) = &self.arrival {
            arrival_table(&mut out, arrival);
        }
        if let Some(drain) = &self.drain {
            drain_table(&mut out, drain);
        }
        if let Some(update) = &self.update {
            update_table(&mut out, update);
        }
        if let Some(loss) = &self.loss {
            loss_table(&mut out, loss);
        }
        if let Some(served) = &self.served {
            served_table(&mut out, served);
        }
        if let Some(ha) = &self.ha {
            ha_table(&mut out, ha);
        }
        idle_table(&mut out, &self.idle);
        out
    }

    pub fn json(&self) -> Value {
        let fsync = |f: &Fsync| f.0.json();
        let idle = self.idle.iter().map(|(n, programs)| {
            let programs: Vec<Value> = programs.iter().map(Idle::json).collect();
            json!({"containers": n, "programs": programs})
        });
        json!({
            "takenAt": self.taken_s, "profile": self.profile, "machine": self.machine.json(),
            "fdatasyncMs": {"before": fsync(&self.fsync_before), "after": self.fsync_after.as_ref().map(fsync)},
            "scale": self.scale.as_ref().map(Scale::json), "pod": self.pods.as_ref().map(Pods::json),
            "drain": self.drain.as_ref().map(Drain::json),
            "update": self.update.as_ref().map(Update::json),
            "loss": self.loss.as_ref().map(Loss::json),
            "agentsServed": self.served.as_ref().map(Served::json),
            "ha": self.ha.as_ref().map(Ha::json),
            "join": self.arrival.as_ref().map(Arrival::json),
            "idle": idle.collect::<Vec<_>>(),
        })
    }
}

/// The columns of those that took turns, after labels of so many characters.
fn contest_head(width: usize) -> String {
    format!("{:width$}{:>8}{:>8}{:>8}{:>8}", "", "median", "min", "max", "/ raw")
}

fn contest_line(width: usize, label: &str, sample: &Sample, of: &Contenders) -> String {
    let (median, min, max) = (sample.median(), sample.min(), sample.max());
    format!("{label:width$}{median:8.2}{min:8.2}{max:8.2}{:8.2}", of.ratio(sample))
}

fn scale_table(out: &mut String, scale: &Scale) {
    let rounds = scale.contenders.rounds();
    let n = scale.containers;
    let _ = writeln!(
        out,
        "\n+{n} containers on one engine, from the command until all {n} run, s ({rounds} rounds in turn)"
    );
    let _ = writeln!(out, "{}", contest_head(24));
    for (name, sample) in &scale.contenders.0 {
        let label = match *name {
            "raw" => format!("raw Docker, {} at once", scale.parallel),
            "swarm" => "docker service scale".to_owned(),
            _ => "wharf scale".to_owned(),
        };
        let ratio = scale.contenders.ratio(sample);
        let _ = write!(out, "{}", contest_line(24, &label, sample, &scale.contenders));
        if *name == "wharf" {
            let (target, goal) = (verdict(ratio <= TARGET), verdict(ratio <= GOAL));
            let _ = write!(out, "  target ≤ {TARGET}: {target} (goal {GOAL}: {goal})");
        }
        let _ = writeln!(out);
    }
    let search = scale.search.iter().map(|(p, s)| format!("{p}: {s:.2}"));
    let _ = writeln!(
        out,
        "raw Docker by parallelism: {}",
        search.collect::<Vec<_>>().join("  ")
    );
}

fn pods_table(out: &mut String, pods: &Pods) {
    let _ = writeln!(
        out,
        "\nOne pod on an idle node, ms ({} pods)",
        pods.accepted_to_call.len()
    );
    let _ = writeln!(out, "{:40}{:>8}{:>8}{:>8}", "", "p50", "p99", "max");
    let mut line = |label: &str, sample: &Sample, note: &str| {
        let (p50, p99) = (sample.median(), sample.quantile(0.99));
        let _ = writeln!(out, "{label:40}{p50:8.2}{p99:8.2}{:8.2}{note}", sample.max());
    };
    let (p50, p99) = GOAL_MS;
    let pass = pods.accepted_to_call.median() <= p50 && pods.accepted_to_call.quantile(0.99) <= p99;
    let note = format!("  goal ≤ {p50:.0} and {p99:.0}: {}", verdict(pass));
    line("create accepted → Docker create called", &pods.accepted_to_call, &note);
    line("create sent → create accepted", &pods.sent_to_accepted, "");
    line("create sent → Docker create called", &pods.sent_to_call, "");
}

fn arrival_table(out: &mut String, arrival: &Arrival) {
    let _ = writeln!(out, "\nA host joins, ms ({} hosts)", arrival.to_ready.len());
    let _ = writeln!(out, "{:40}{:>8}{:>8}", "", "median", "max");
    let mut line = |label: &str, sample: &Sample| {
        let pass = verdict(sample.max() <= TARGET_MS);
        let _ = writeln!(
            out,
            "{label:40}{:8.0}{:8.0}  target ≤ {TARGET_MS:.0}: {pass}",
            sample.median(),
            sample.max()
        );
    };
    line("agent start → Ready", &arrival.to_ready);
    line("agent start → first pod started", &arrival.to_running);
}

fn drain_table(out: &mut String, drain: &Drain) {
    let rounds = drain.contenders.rounds();
    let (n, parallel) = (drain.pods, Drain::parallel());
    let _ = writeln!(
        out,
        "\nA node of {n} pods drained to two others, {parallel} pods at once, s ({rounds} rounds in turn)"
    );
    let _ = writeln!(out, "{}", contest_head(32));
    let line = |label: &str, sample: &Sample| contest_line(32, label, sample, &drain.contenders);
    for (name, sample) in &drain.contenders.0 {
        match *name {
            "raw" => {
                let _ = writeln!(out, "{}", line("raw Docker: start one, stop one", sample));
            }
            "swarm" => {
                let note = "stops all first; an engine a node";
                let _ = writeln!(out, "{}  {note}", line("docker node update … drain", sample));
            }
            _ => {
                let goal = verdict(drain.contenders.ratio(sample) <= DRAIN_GOAL);
                let _ = writeln!(out, "{}  goal ≤ {DRAIN_GOAL}: {goal}", line("wharf drain", sample));
                let _ = writeln!(out, "{}", line("  its last container ended", &drain.ended));
            }
        }
    }
    let _ = writeln!(
        out,
        "{:32}{:8.2}  once; ready-after and endpoint-drain as shipped",
        "wharf drain, as shipped", drain.shipped
    );
}

fn update_table(out: &mut String, update: &Update) {
    let rounds = update.contenders.rounds();
    let (n, surge) = (update.pods, Update::surge());
    let _ = writeln!(
        out,
        "\n{n} pods replaced by those of another image, {surge} at once, s ({rounds} rounds in turn)"
    );
    let _ = writeln!(out, "{}", contest_head(32));
    let line = |label: &str, sample: &Sample| contest_line(32, label, sample, &update.contenders);
    for (name, sample) in &update.contenders.0 {
        match *name {
            "raw" => {
                let _ = writeln!(out, "{}", line("raw Docker: start 5, stop 5", sample));
            }
            "swarm" => {
                let _ = writeln!(out, "{}", line("docker service update", sample));
            }
            _ => {
                let goal = verdict(update.contenders.ratio(sample) <= UPDATE_GOAL);
                let _ = writeln!(
                    out,
                    "{}  goal ≤ {UPDATE_GOAL}: {goal}",
                    line("wharf rolling-update", sample)
                );
                let _ = writeln!(out, "{}", line("  its command ended", &update.said));
            }
        }
    }
    let _ = writeln!(
        out,
        "{:32}{:8.2}  once; ready-after and endpoint-drain as shipped",
        "wharf rolling-update, as shipped", update.shipped
    );
}

fn loss_table(out: &mut String, loss: &Loss) {
    let (limit, n) = (Loss::limit(), loss.not_ready.len());
    let _ = writeln!(
        out,
        "\nA host loses power, s ({n} hosts; three heartbeats of silence: {limit})"
    );
    let _ = writeln!(out, "{:40}{:>8}{:>8}{:>10}", "", "median", "max", "/ silence");
    for (label, sample) in [
        ("power lost → node NotReady", &loss.not_ready),
        ("power lost → out of Endpoints", &loss.out_of_endpoints),
        ("power lost → replacements Ready", &loss.replaced),
    ] {
        let (median, most) = (sample.median(), sample.max());
        let _ = writeln!(out, "{label:40}{median:8.2}{most:8.2}{:10.2}", median / limit);
    }
}

fn served_table(out: &mut String, served: &Served) {
    let (took, bound) = (&served.took, Served::bound());
    let _ = writeln!(
        out,
        "\n{} agents in this process, a coordinator begins to lead → all are served, s ({} kills): median {:.2}, max {:.2}; at most {bound}: {}",
        served.agents,
        took.len(),
        took.median(),
        took.max(),
        verdict(took.max() <= bound)
    );
}

fn idle_table(out: &mut String, idle: &[(u32, Vec<Idle>)]) {
    for (containers, programs) in idle {
        let _ = writeln!(out, "\nIdle with {containers} containers");
        let _ = writeln!(
            out,
            "{:24}{:>12}{:>12}{:>18}",
            "", "PSS MiB", "RSS MiB", "CPU ‰ of a core"
        );
        for Idle {
            program,
            pss_kib,
            rss_kib,
            cpu_per_mille,
        } in programs
        {
            let _ = writeln!(
                out,
                "{program:24}{:>12}{:>12}{cpu_per_mille:18.2}",
                mib(*pss_kib),
                mib(*rss_kib)
            );
        }
    }
}

/// With one digit after the point.
fn mib(kib: u64) -> String {
    let tenths = (kib * 10 + 512) / 1024;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn ha_table(out: &mut String, ha: &Ha) {
    let _ = writeln!(
        out,
        "\nThree coordinators on etcd: from the active one's end to the first accepted write, ms"
    );
    let _ = writeln!(
        out,
        "{:34}{:>7}{:>9}{:>9}{:>9}{:>9}",
        "", "times", "p50", "p99", "max", "bound"
    );
    for (fault, sample) in &ha.faults {
        let (about, p50, p99) = fault.about();
        let pass = sample.quantile(0.99) <= p99 && p50.is_none_or(|p50| sample.median() <= p50);
        let _ = writeln!(
            out,
            "{about:34}{:>7}{:>9.0}{:>9.0}{:>9.0}{p99:>9.0}  {}",
            sample.len(),
            sample.median(),
            sample.quantile(0.99),
            sample.max(),
            verdict(pass)
        );
    }
    if let Some(sample) = &ha.swarm {
        let _ = writeln!(
            out,
            "{:34}{:>7}{:>9.0}{:>9.0}{:>9.0}",
            "Swarm, its leader by SIGKILL",
            sample.len(),
            sample.median(),
            sample.quantile(0.99),
            sample.max()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ha::Fault;

    fn sample(values: &[f64]) -> Sample {
        Sample::new(values.to_vec()).expect("values")
    }

    fn scale(wharf: f64) -> Scale {
        Scale {
            containers: 50,
            parallel: 6,
            search: vec![(4, 5.5), (6, 5.0)],
            contenders: Contenders(vec![("raw", sample(&[5.0])), ("wharf", sample(&[wharf]))]),
        }
    }

    fn table(wharf: f64) -> String {
        let mut out = String::new();
        scale_table(&mut out, &scale(wharf));
        out
    }

    #[test]
    fn a_ratio_is_held_against_target_and_goal() {
        assert!(
            table(5.2).contains("target ≤ 1.15: pass (goal 1.05: pass)"),
            "{}",
            table(5.2)
        );
        assert!(
            table(5.5).contains("1.10  target ≤ 1.15: pass (goal 1.05: MISS)"),
            "{}",
            table(5.5)
        );
        assert!(
            table(6.0).contains("target ≤ 1.15: MISS (goal 1.05: MISS)"),
            "{}",
            table(6.0)
        );
        assert_eq!(scale(5.5).json()["contenders"]["wharf"]["ratio"], 1.1);
    }

    #[test]
    fn a_drain_is_held_against_its_goal() {
        let drain = |wharf: f64| Drain {
            pods: 50,
            contenders: Contenders(vec![
                ("raw", sample(&[10.0, 8.0, 9.0])),
                ("wharf", sample(&[wharf])),
                ("swarm", sample(&[18.0])),
            ]),
            ended: sample(&[9.0]),
            shipped: 80.0,
        };
        let table = |wharf: f64| {
            let mut out = String::new();
            drain_table(&mut out, &drain(wharf));
            out
        };
        let (met, missed) = (table(11.25), table(11.3));
        assert!(met.contains("1.25  goal ≤ 1.25: pass"), "{met}");
        assert!(missed.contains("1.26  goal ≤ 1.25: MISS"), "{missed}");
        // The others are held against nothing.
        assert_eq!(
            missed.matches("MISS").count() + missed.matches("pass").count(),
            1,
            "{missed}"
        );
        assert!(met.contains("(3 rounds in turn)"), "{met}");
        assert_eq!(drain(18.0).json()["contenders"]["swarm"]["ratio"], 2.0);
    }

    #[test]
    fn an_update_is_held_against_its_goal() {
        let table = |wharf: f64| {
            let mut out = String::new();
            let update = Update {
                pods: 50,
                contenders: Contenders(vec![
                    ("raw", sample(&[10.0, 8.0, 9.0])),
                    ("wharf", sample(&[wharf])),
                    ("swarm", sample(&[18.0])),
                ]),
                said: sample(&[wharf]),
                shipped: 80.0,
            };
            update_table(&mut out, &update);
            out
        };
        let (met, missed) = (table(11.25), table(11.3));
        assert!(met.contains("1.25  goal ≤ 1.25: pass"), "{met}");
        assert!(missed.contains("1.26  goal ≤ 1.25: MISS"), "{missed}");
        assert_eq!(
            missed.matches("MISS").count() + missed.matches("pass").count(),
            1,
            "{missed}"
        );
    }

    #[test]
    fn the_slowest_host_is_held_against_the_target() {
        let mut out = String::new();
        let arrival = Arrival {
            to_ready: sample(&[300.0, 400.0]),
            to_running: sample(&[700.0, 2100.0]),
        };
        arrival_table(&mut out, &arrival);
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[3].contains("350     400  target ≤ 2000: pass"), "{out}");
        assert!(lines[4].contains("1400    2100  target ≤ 2000: MISS"), "{out}");
    }

    #[test]
    fn a_loss_is_held_against_the_silence() {
        let mut out = String::new();
        let loss = Loss {
            not_ready: sample(&[6.0, 5.4]),
            out_of_endpoints: sample(&[6.0]),
            replaced: sample(&[7.5, 9.0, 6.9]),
        };
        loss_table(&mut out, &loss);
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[3].ends_with("5.70    6.00      0.95"), "{out}");
        assert!(lines[5].ends_with("7.50    9.00      1.25"), "{out}");
    }

    #[test]
    fn a_takeover_is_held_against_both_bounds() {
        let table = |kill: f64, swarm: Option<Sample>| {
            let mut out = String::new();
            let faults = vec![(Fault::Kill, sample(&[kill, kill])), (Fault::Hang, sample(&[2999.0]))];
            ha_table(&mut out, &Ha { faults, swarm });
            out
        };
        let (met, missed) = (table(290.0, None), table(310.0, Some(sample(&[9000.0]))));
        assert_eq!(met.matches("pass").count(), 2, "{met}");
        // Its median is over the bound, its 99th percentile is not. Swarm is held against nothing.
        assert_eq!(
            (missed.matches("pass").count(), missed.matches("MISS").count()),
            (1, 1),
            "{missed}"
        );
        let last = missed.lines().last().unwrap_or_default();
        assert!(last.starts_with("Swarm") && last.ends_with("9000"), "{missed}");
    }

    #[test]
    fn kibibytes_in_mebibytes() {
        assert_eq!([0, 1024, 8140, 1 << 20].map(mib), ["0.0", "1.0", "7.9", "1024.0"]);
    }
}
