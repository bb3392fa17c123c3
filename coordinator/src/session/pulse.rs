//! The timing of liveness: signals and deadlines in, verdicts out. Owned by `liveness`.
//!
//! Invariant: pure (time is an argument); a heartbeat moves no deadline: an expired one looks when the node was
//! last heard and is set anew; each change costs O(log nodes).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{ingest::Docker, liveness::Signal, registry::Handle};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// So long without a message, and the node is unreachable.
    pub silence: Duration,
    /// So long after its connection closed, and the agent is down.
    pub agent_down: Duration,
    /// As `agent_down`, of an agent that said that it restarts.
    pub restart: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ready,
    /// Docker does not answer, in its words.
    Docker(String),
    Unreachable,
    /// It had so long to come back.
    AgentDown(Duration),
}

#[derive(Debug)]
enum Life {
    /// On record before this leadership; has not come back yet.
    Expected,
    Open {
        handle: Arc<Handle>,
        docker: Docker,
        lost: bool,
    },
    /// Waits for its time to come back to pass.
    Closed(Verdict),
    Lost,
}

#[derive(Debug)]
struct Node {
    life: Life,
    deadline: Option<Instant>,
}

#[derive(Debug)]
pub struct Pulse {
    timing: Timing,
    nodes: HashMap<String, Node>,
    deadlines: BTreeSet<(Instant, String)>,
    news: BTreeMap<String, Verdict>,
}

impl Pulse {
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            nodes: HashMap::new(),
            deadlines: BTreeSet::new(),
            news: BTreeMap::new(),
        }
    }

    /// Other times from now on. What is under way keeps its deadline; an expired one looks at the new times, and at the
    /// period that the agent was told if that is longer.
    pub fn retime(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Gives each of `nodes` one period of silence to come back.
    pub fn await_nodes(&mut self, nodes: Vec<String>, now: Instant) {
        for node in nodes {
            self.set(node, Life::Expected, Some(now + self.timing.silence));
        }
    }

    pub fn on(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Opened(handle, docker) => {
                self.decide(&handle.node, verdict(&docker));
                let deadline = handle.last_heard().max(now) + self.silence(&handle);
                let life = Life::Open {
                    handle: handle.clone(),
                    docker,
                    lost: false,
                };
                self.set(handle.node.clone(), life, Some(deadline));
            }
            Signal::Docker(handle, now_docker) => {
                if let Some(Life::Open { docker, lost, .. }) = self.open_mut(&handle) {
                    let lost = *lost;
                    docker.clone_from(&now_docker);
                    if !lost {
                        self.decide(&handle.node, verdict(&now_docker));
                    }
                }
            }
            Signal::Heard(handle) => {
                if let Some(Life::Open { docker, lost, .. }) = self.open_mut(&handle)
                    && std::mem::take(lost)
                {
                    let verdict = verdict(docker);
                    self.decide(&handle.node, verdict);
                    let silence = self.silence(&handle);
                    self.arm(&handle.node, Some(handle.last_heard().max(now) + silence));
                }
            }
            Signal::Closed(handle) => self.closed(&handle, now),
            Signal::Deleted(node) => {
                self.arm(&node, None);
                self.nodes.remove(&node);
                self.news.remove(&node);
            }
        }
    }

    /// An agent beats as it was told, until it is told otherwise.
    fn silence(&self, handle: &Handle) -> Duration {
        self.timing.silence.max(handle.silence())
    }

    fn closed(&mut self, handle: &Handle, now: Instant) {
        let silence = self.silence(handle);
        let Some(Life::Open { lost, .. }) = self.open_mut(handle) else {
            return;
        };
        if *lost {
            // Its connection was given up at last; that says nothing about the agent.
            self.set(handle.node.clone(), Life::Lost, None);
        } else if handle.leaving() {
            self.down(handle, self.timing.restart, now);
        } else if now.saturating_duration_since(handle.last_heard()) > silence / 2 {
            // It had been silent: a dead link closes a connection as well as a dying agent does.
            let deadline = handle.last_heard() + silence;
            self.set(
                handle.node.clone(),
                Life::Closed(Verdict::Unreachable),
                Some(deadline.max(now)),
            );
        } else {
            self.down(handle, self.timing.agent_down, now);
        }
    }

    /// Its agent has ended, and has so long to come back.
    fn down(&mut self, handle: &Handle, within: Duration, now: Instant) {
        let life = Life::Closed(Verdict::AgentDown(within));
        self.set(handle.node.clone(), life, Some(now + within));
    }

    /// Looks at what is due.
    pub fn fire(&mut self, now: Instant) {
        while let Some((at, name)) = self.deadlines.first().cloned() {
            if at > now {
                return;
            }
            let silence = self.timing.silence;
            let Some(node) = self.nodes.get_mut(&name) else {
                self.deadlines.remove(&(at, name));
                continue;
            };
            let (life, verdict) = match &mut node.life {
                Life::Expected | Life::Lost => (Some(Life::Lost), Verdict::Unreachable),
                Life::Closed(verdict) => (Some(Life::Lost), verdict.clone()),
                Life::Open { handle, lost, .. } => {
                    let due = handle.last_heard() + silence.max(handle.silence());
                    if due > now {
                        self.arm(&name, Some(due));
                        continue;
                    }
                    *lost = true;
                    handle.set_lost();
                    (None, Verdict::Unreachable)
                }
            };
            if let Some(life) = life {
                node.life = life;
            }
            self.arm(&name, None);
            self.decide(&name, verdict);
        }
    }

    /// The next moment at which something is due.
    pub fn next(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// At most `most` verdicts that are not written yet.
    pub fn news(&self, most: usize) -> Vec<(String, Verdict)> {
        self.news
            .iter()
            .take(most)
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect()
    }

    /// What [`Pulse::news`] gave is on record.
    pub fn written(&mut self, news: &[(String, Verdict)]) {
        for (node, verdict) in news {
            if self.news.get(node) == Some(verdict) {
                self.news.remove(node);
            }
        }
    }

    fn open_mut(&mut self, handle: &Handle) -> Option<&mut Life> {
        let node = self.nodes.get_mut(&handle.node)?;
        match &node.life {
            Life::Open { handle: open, .. } if open.id == handle.id => Some(&mut node.life),
            _ => None,
        }
    }

    fn decide(&mut self, node: &str, verdict: Verdict) {
        self.news.insert(node.to_owned(), verdict);
    }

    fn set(&mut self, name: String, life: Life, deadline: Option<Instant>) {
        if let Some(old) = self.nodes.get(&name).and_then(|n| n.deadline) {
            self.deadlines.remove(&(old, name.clone()));
        }
        if let Some(at) = deadline {
            self.deadlines.insert((at, name.clone()));
        }
        self.nodes.insert(name, Node { life, deadline });
    }

    fn arm(&mut self, name: &str, deadline: Option<Instant>) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        if let Some(old) = std::mem::replace(&mut node.deadline, deadline) {
            self.deadlines.remove(&(old, name.to_owned()));
        }
        if let Some(at) = deadline {
            self.deadlines.insert((at, name.to_owned()));
        }
    }
}

fn verdict(docker: &Docker) -> Verdict {
    match docker {
        Ok(()) => Verdict::Ready,
        Err(words) => Verdict::Docker(words.clone()),
    }
}
