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
    /// Not heard here, but by these coordinators.
    Elsewhere(String),
}

/// What other coordinators hear, by their names.
#[derive(Debug, Default)]
pub struct Elsewhere(BTreeMap<String, BTreeSet<String>>);

impl Elsewhere {
    pub fn set(&mut self, peer: &str, names: Option<BTreeSet<String>>) {
        match names {
            Some(names) => self.0.insert(peer.to_owned(), names),
            None => self.0.remove(peer),
        };
    }

    /// Who hears `node`, for people; `None`: nobody.
    fn hear(&self, node: &str) -> Option<String> {
        let peers = self.0.iter().filter(|(_, names)| names.contains(node));
        let names: Vec<&str> = peers.map(|(peer, _)| peer.as_str()).collect();
        (!names.is_empty()).then(|| names.join(" and "))
    }
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
    /// It would be lost, but for those that hear it elsewhere.
    elsewhere: bool,
}

#[derive(Debug)]
pub struct Pulse {
    timing: Timing,
    nodes: HashMap<String, Node>,
    deadlines: BTreeSet<(Instant, String)>,
    news: BTreeMap<String, Verdict>,
    elsewhere: Elsewhere,
}

impl Pulse {
    pub fn new(timing: Timing, elsewhere: Elsewhere) -> Self {
        Self {
            timing,
            elsewhere,
            nodes: HashMap::new(),
            deadlines: BTreeSet::new(),
            news: BTreeMap::new(),
        }
    }

    /// What others hear outlives a leadership.
    pub fn into_elsewhere(self) -> Elsewhere {
        self.elsewhere
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

    /// Nodes that are on record as lost; unless others hear them.
    pub fn lost_before(&mut self, nodes: Vec<String>) {
        for node in nodes {
            self.set(node.clone(), Life::Lost, None);
            self.spare(&node);
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
                    self.here_again(&handle.node);
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
            Signal::Elsewhere(peer, names) => self.heard_elsewhere(&peer, names, now),
        }
    }

    fn heard_elsewhere(&mut self, peer: &str, names: Option<BTreeSet<String>>, now: Instant) {
        let before = self.elsewhere.0.get(peer).cloned().unwrap_or_default();
        let after = names.clone().unwrap_or_default();
        self.elsewhere.set(peer, names);
        for name in after.difference(&before) {
            // It counts as lost, and is not.
            let lost = self.nodes.get(name).is_some_and(|node| match node.life {
                Life::Lost => true,
                Life::Open { lost, .. } => lost,
                Life::Expected | Life::Closed(_) => node.elsewhere,
            });
            if lost {
                self.spare(name);
            }
        }
        for name in before.difference(&after) {
            if self.nodes.get(name).is_none_or(|node| !node.elsewhere) {
                continue;
            }
            if self.elsewhere.hear(name).is_some() {
                self.spare(name);
            } else {
                // As whoever is heard no more: it gets the usual time.
                let silence = self.timing.silence;
                self.arm(name, Some(now + silence));
            }
        }
    }

    /// Says by whom a node is heard that is not heard here. False: by nobody.
    fn spare(&mut self, name: &str) -> bool {
        let Some(peers) = self.elsewhere.hear(name) else {
            return false;
        };
        if let Some(node) = self.nodes.get_mut(name) {
            node.elsewhere = true;
        }
        self.arm(name, None);
        self.decide(name, Verdict::Elsewhere(peers));
        true
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
            if let Some(node) = self.nodes.get_mut(&handle.node) {
                node.life = Life::Lost;
            }
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

    /// Looks at what is due. `here` says when a node was last heard on any session of this process: after a take-over
    /// those that stood by are still on their way to being at work.
    pub fn fire(&mut self, now: Instant, here: &impl Fn(&str) -> Option<Instant>) {
        while let Some((at, name)) = self.deadlines.first().cloned() {
            if at > now {
                return;
            }
            let silence = self.timing.silence;
            let Some(node) = self.nodes.get_mut(&name) else {
                self.deadlines.remove(&(at, name));
                continue;
            };
            let due = match &mut node.life {
                Life::Expected => here(&name).map(|heard| heard + silence),
                Life::Closed(_) | Life::Lost => None,
                Life::Open { handle, lost, .. } => {
                    let due = handle.last_heard() + silence.max(handle.silence());
                    if due <= now {
                        *lost = true;
                        handle.set_lost();
                    }
                    Some(due)
                }
            };
            if let Some(due) = due.filter(|due| *due > now) {
                self.arm(&name, Some(due));
                continue;
            }
            if self.spare(&name) {
                continue;
            }
            self.lose(&name);
        }
    }

    /// Nobody hears it.
    fn lose(&mut self, name: &str) {
        self.arm(name, None);
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.elsewhere = false;
        let verdict = match &node.life {
            Life::Closed(verdict) => verdict.clone(),
            Life::Expected | Life::Lost | Life::Open { .. } => Verdict::Unreachable,
        };
        if !matches!(node.life, Life::Open { .. }) {
            node.life = Life::Lost;
        }
        self.decide(name, verdict);
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

    fn here_again(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.elsewhere = false;
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
        let node = Node {
            life,
            deadline,
            elsewhere: false,
        };
        self.nodes.insert(name, node);
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
