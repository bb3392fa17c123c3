//! A drain as text and as an object. Called by the command, by `describe node` and by `wharf status`.
//!
//! Invariant: pure; ages are by the coordinator's clock.

use std::collections::BTreeMap;

use proto::{
    model::Time,
    wire::{DrainPod, DrainView},
};
use serde_json::{Value, json};

use crate::{age, output::clean, table};

pub const DRAINED: &str = "Drained";
pub const PLANNED: &str = "Planned";
pub const BLOCKED: &str = "Blocked";

/// Rows of a table that stands on a terminal.
const ROWS: usize = 16;

/// Names of unmanaged containers that one line tells.
const NAMES: usize = 10;

/// A reason that changes is told again after so long, ms.
const AGAIN: u64 = 30_000;

/// `4.1 s`, `3m10s`.
pub fn took(ms: u64) -> String {
    if ms < 120_000 {
        let tenths = ms.div_ceil(100);
        format!("{}.{} s", tenths / 10, tenths % 10)
    } else {
        age::duration(ms / 1000)
    }
}

/// `12 s`, `59m`.
fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    if seconds < 120 {
        format!("{seconds} s")
    } else {
        age::duration(seconds)
    }
}

/// `draining, 3 of 8 left, since 12 s, deadline in 59m, about 20 s to go`.
pub fn state(view: &DrainView, now_ms: u64) -> String {
    let mut words = vec![view.phase.to_lowercase()];
    if view.ended_ms > 0 {
        words.push(format!("{} ago", span(now_ms.saturating_sub(view.ended_ms))));
        return words.join(", ");
    }
    // Daemons and pods that came meanwhile are counted when they are to leave.
    words.push(format!("{} of {} left", view.left, view.total.max(view.left)));
    words.push(format!("since {}", span(now_ms.saturating_sub(view.since_ms))));
    if view.forced_ms > 0 {
        let since = span(now_ms.saturating_sub(view.forced_ms));
        words.push(format!("over budgets since {since}"));
    } else if view.deadline_ms > now_ms {
        words.push(format!("deadline in {}", span(view.deadline_ms - now_ms)));
    } else {
        words.push(format!("deadline {} ago", span(now_ms - view.deadline_ms)));
    }
    if view.eta_ms > now_ms {
        words.push(format!("about {} to go", span(view.eta_ms - now_ms)));
    }
    words.join(", ")
}

/// `default/web-x1 → web-k9 on node3`.
fn moves(pod: &DrainPod) -> String {
    let from = format!("{}/{}", pod.namespace, pod.name);
    format!("{from}{}", goes_to(pod))
}

fn goes_to(pod: &DrainPod) -> String {
    match (pod.new_name.as_str(), pod.new_node.as_str()) {
        ("", "") => String::new(),
        ("", node) => format!(" → {node}"),
        (name, "") => format!(" → {name}"),
        (name, node) => format!(" → {name} on {node}"),
    }
}

/// What needs the operator, what happens, what waits, what stays.
fn rank(pod: &DrainPod) -> usize {
    let order = ["Blocked", "Stopped", "Stopping", "Starting", "Waiting", "Stays"];
    order.iter().position(|s| *s == pod.step).unwrap_or(order.len())
}

/// The drain on a screen: a line, reasons, and a table of the pods.
pub fn standing(view: &DrainView, now_ms: u64) -> String {
    let mut out = clean(&format!("{}: {}", view.node, state(view, now_ms))) + "\n";
    for why in &view.why {
        out.push_str(&format!("  {}\n", clean(why)));
    }
    out + &pod_table(view, now_ms, ROWS)
}

/// The pods, those first that need the operator; at most so many.
pub fn pod_table(view: &DrainView, now_ms: u64, most: usize) -> String {
    let mut pods: Vec<&DrainPod> = view.pods.iter().collect();
    pods.sort_by_key(|pod| rank(pod));
    let shown = if pods.len() > most {
        most.saturating_sub(1)
    } else {
        pods.len()
    };
    let rows: Vec<Vec<String>> = pods[..shown]
        .iter()
        .map(|pod| {
            let since = match pod.since_ms {
                0 => "-".to_owned(),
                at => age::duration(now_ms.saturating_sub(at) / 1000),
            };
            vec![moves(pod), pod.step.to_lowercase(), since, pod.why.clone()]
        })
        .collect();
    let mut out = table::Table::default().rows(&rows);
    if shown < pods.len() {
        out.push_str(&format!("and {} more\n", pods.len() - shown));
    }
    out
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub text: String,
    /// For who has the table before him, too.
    pub lasting: bool,
}

/// What was told of a pod.
struct Told {
    step: String,
    to: String,
    why: String,
    at: u64,
}

/// From one view to the next.
pub struct Changes {
    /// In force: its pods go by their names alone.
    namespace: String,
    head: Option<(String, Vec<String>, u64)>,
    pods: BTreeMap<(String, String), Told>,
}

impl Changes {
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            head: None,
            pods: BTreeMap::new(),
        }
    }

    pub fn to(&mut self, view: &DrainView) -> Vec<Change> {
        let mut out = Vec::new();
        self.whole(view, &mut out);
        let mut now: BTreeMap<(String, String), &DrainPod> = BTreeMap::new();
        for pod in &view.pods {
            now.insert((pod.namespace.clone(), pod.name.clone()), pod);
        }
        self.pods.retain(|key, told| {
            let there = now.contains_key(key);
            if !there {
                // Whatever became of one that was to stay is no part of the drain.
                let words = if told.to.is_empty() { "stopped" } else { "moved" };
                let text = format!("{}{}: {words}", pod_words(&self.namespace, key), told.to);
                out.push(Change { text, lasting: false });
            }
            there
        });
        for (key, pod) in now {
            let to = goes_to(pod);
            let blocked = pod.step == BLOCKED;
            let known = self.pods.get(&key);
            let news = match known {
                Some(told) => {
                    told.step != pod.step
                        || told.to != to
                        || (blocked && told.why != pod.why && view.now_ms >= told.at.saturating_add(AGAIN))
                }
                // What only waits for its turn is in the first line.
                None => !matches!(pod.step.as_str(), "Waiting" | "Stays"),
            };
            if news && !matches!(pod.step.as_str(), "Waiting" | "Stays") {
                let mut text = format!("{}{to}: {}", pod_words(&self.namespace, &key), pod.step.to_lowercase());
                if blocked && !pod.why.is_empty() {
                    text = format!("{text}: {}", pod.why);
                }
                out.push(Change { text, lasting: blocked });
            }
            if news || known.is_none() {
                let told = Told {
                    step: pod.step.clone(),
                    to,
                    why: pod.why.clone(),
                    at: view.now_ms,
                };
                self.pods.insert(key, told);
            }
        }
        out
    }

    /// The drain itself: its first line, and where it stands otherwise than before.
    fn whole(&mut self, view: &DrainView, out: &mut Vec<Change>) {
        let now = (view.phase.clone(), view.why.clone());
        let news = match &self.head {
            None => true,
            Some((phase, why, at)) => *phase != now.0 || (*why != now.1 && view.now_ms >= at.saturating_add(AGAIN)),
        };
        if !news {
            return;
        }
        let first = self.head.is_none();
        self.head = Some((now.0, now.1, view.now_ms));
        if view.ended_ms > 0 {
            return;
        }
        let text = format!("{}: {}", view.node, state(view, view.now_ms));
        out.push(Change { text, lasting: false });
        if first && !view.unmanaged.is_empty() {
            out.push(Change {
                text: unmanaged(view),
                lasting: true,
            });
        }
        for why in &view.why {
            let text = format!("{}: {why}", view.node);
            out.push(Change { text, lasting: true });
        }
    }
}

fn pod_words(home: &str, (namespace, name): &(String, String)) -> String {
    if namespace == home {
        format!("pod/{name}")
    } else {
        format!("pod/{name} ({namespace})")
    }
}

/// `not managed here, and left alone: db, backup and 3 more`.
fn unmanaged(view: &DrainView) -> String {
    let names = &view.unmanaged;
    let shown = names.get(..NAMES).unwrap_or(names).join(", ");
    let more = match names.len().saturating_sub(NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{}: containers that are not managed here run on the host and are left alone: {shown}{more}",
        view.node
    )
}

/// Something would keep the drain from its end.
pub fn stays_behind(view: &DrainView) -> bool {
    view.pods.iter().any(|pod| pod.step == BLOCKED)
}

/// What a drain would do.
pub fn plan(view: &DrainView) -> String {
    let mut pods: Vec<&DrainPod> = view.pods.iter().collect();
    pods.sort_by_key(|pod| rank(pod));
    let rows: Vec<Vec<String>> = pods
        .iter()
        .map(|pod| {
            let what = match (pod.step.as_str(), pod.new_node.as_str()) {
                ("Waiting", "") => "stops",
                ("Waiting", _) => "moves",
                ("Blocked", _) => "cannot leave",
                ("Stopping", _) => "is leaving",
                ("Stays", _) => "stays",
                (other, _) => other,
            };
            let to = if pod.new_node.is_empty() { "-" } else { &pod.new_node };
            let name = format!("{}/{}", pod.namespace, pod.name);
            vec![name, what.to_owned(), to.to_owned(), pod.why.clone()]
        })
        .collect();
    let mut out = if rows.is_empty() {
        String::new()
    } else {
        table::table(&["POD", "WHAT", "TO", "WHY"], &rows) + "\n"
    };
    let count = |step: &str, elsewhere: Option<bool>| {
        let of_step = view.pods.iter().filter(|p| p.step == step);
        of_step
            .filter(|p| elsewhere.is_none_or(|e| e != p.new_node.is_empty()))
            .count()
    };
    let counts = [
        (count("Waiting", Some(true)), "would move"),
        (count("Waiting", Some(false)), "would be stopped for good"),
        (count("Stopping", None), "leaving already"),
        (count(BLOCKED, None), "cannot leave"),
        (count("Stays", None), "staying"),
    ];
    let words: Vec<String> = counts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, words)| format!("{n} {words}"))
        .collect();
    let summary = if words.is_empty() {
        "no pods are on it".to_owned()
    } else {
        words.join(", ")
    };
    out.push_str(&(clean(&format!("{}: {summary} (dry run)", view.node)) + "\n"));
    for why in &view.why {
        out.push_str(&(clean(&format!("{}: {why}", view.node)) + "\n"));
    }
    if !view.unmanaged.is_empty() {
        out.push_str(&(clean(&unmanaged(view)) + "\n"));
    }
    out
}

/// Why a drain ended otherwise than it should.
pub fn given_up(view: &DrainView) -> String {
    let how = view.phase.to_lowercase();
    let why = match view.why.as_slice() {
        [] if view.phase == "Aborted" => ": its deadline passed".to_owned(),
        [] => String::new(),
        why => format!(": {}", why.join("; ")),
    };
    format!(
        "nodes {:?}: its drain was {how}{why}; what has moved stays where it is, and the node takes pods again; see `wharf audit`, and begin anew: wharf drain {}",
        view.node, view.node
    )
}

/// The first thing that an operator should look at.
pub fn trouble(view: &DrainView) -> Option<String> {
    let blocked: Vec<&DrainPod> = view.pods.iter().filter(|p| p.step == BLOCKED).collect();
    let more = match blocked.len() {
        0 | 1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    let pod = blocked
        .first()
        .map(|p| format!("pod {}/{}: {}{more}", p.namespace, p.name, p.why));
    view.why.first().cloned().or(pod)
}

/// See docs/drain.md.
pub fn object(view: &DrainView) -> Value {
    let time = |ms: u64| (ms > 0).then(|| Time::from_millis(ms));
    let pods = view.pods.iter().map(|pod| {
        let mut shown = json!({"namespace": pod.namespace, "name": pod.name, "uid": pod.uid, "step": pod.step});
        for (field, value) in [
            ("newName", &pod.new_name),
            ("newNode", &pod.new_node),
            ("why", &pod.why),
        ] {
            if !value.is_empty() {
                shown[field] = json!(value);
            }
        }
        if let Some(since) = time(pod.since_ms) {
            shown["since"] = json!(since);
        }
        shown
    });
    let mut status = json!({
        "phase": view.phase,
        "total": view.total,
        "left": view.left,
        "why": view.why,
        "pods": pods.collect::<Vec<_>>(),
        "unmanagedContainers": view.unmanaged,
    });
    for (field, ms) in [
        ("since", view.since_ms),
        ("ended", view.ended_ms),
        ("forced", view.forced_ms),
        ("eta", view.eta_ms),
    ] {
        if let Some(at) = time(ms) {
            status[field] = json!(at);
        }
    }
    json!({
        "apiVersion": "wharfinger.io/v1",
        "kind": "Drain",
        "metadata": {"name": view.node, "uid": view.id},
        "spec": {"node": view.node, "by": view.by, "reason": view.reason, "deadline": time(view.deadline_ms),
            "onDeadline": view.on_deadline},
        "status": status,
    })
}
