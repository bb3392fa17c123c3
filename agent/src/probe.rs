//! Probes the containers of one pod, and runs their `preStop` hooks. A [`Prober`] belongs to the pod's task, which
//! aims it after every step and hands its findings to the next one.
//!
//! | file | what it is |
//! |---|---|
//! | [`watch`] | the probes of one attempt in time: startup before the others |
//! | [`tally`] | thresholds; pure |
//! | [`check`] | asks once: HTTP, TCP or a command |
//! | [`http`] | one request |
//! | [`hook`] | one `preStop` hook |
//!
//! Invariants: a finding is about one attempt and is dropped with it. What was not learned (Docker does not answer,
//! no address yet) counts for nothing. The probes of one attempt do not wait for each other.

mod check;
pub mod hook;
mod http;
mod tally;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::watch as channel;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ledger::PodEntry,
    step::{Health, PodDesired, Target},
    worker::Shared,
};

/// What is known of a pod's containers, by name.
pub type Findings = BTreeMap<String, Health>;

/// See the module's head.
pub struct Prober {
    shared: Arc<Shared>,
    findings: channel::Sender<Findings>,
    /// By container name.
    attempts: BTreeMap<String, Attempt>,
}

struct Attempt {
    id: String,
    ip: channel::Sender<String>,
    _task: AbortOnDropHandle<()>,
}

impl Prober {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            findings: channel::Sender::default(),
            attempts: BTreeMap::new(),
        }
    }

    pub fn findings(&self) -> channel::Receiver<Findings> {
        self.findings.subscribe()
    }

    /// Probes just these attempts from now on; those that it probes already go on undisturbed.
    pub fn aim(&mut self, targets: Vec<Target>, entry: &Arc<PodEntry>, desired: &PodDesired) {
        let stays = |name: &String, a: &mut Attempt| targets.iter().any(|t| t.container == *name && t.id == a.id);
        self.attempts.retain(stays);
        if self
            .findings
            .borrow()
            .keys()
            .any(|name| !self.attempts.contains_key(name))
        {
            // Nobody has to be told of what the step knows already.
            self.findings.send_if_modified(|all| {
                all.retain(|name, _| self.attempts.contains_key(name));
                false
            });
        }
        for target in targets {
            match self.attempts.get(&target.container) {
                Some(attempt) => {
                    attempt.ip.send_if_modified(|ip| {
                        let changed = *ip != target.ip;
                        ip.clone_from(&target.ip);
                        changed
                    });
                }
                None => self.begin(target, entry, desired),
            }
        }
    }

    fn begin(&mut self, target: Target, entry: &Arc<PodEntry>, desired: &PodDesired) {
        let found = desired.spec.containers.iter().find(|c| c.name == target.container);
        let Some(container) = found.cloned() else {
            return;
        };
        let (ip, ip_seen) = channel::channel(target.ip);
        let attempt = watch::Attempt {
            shared: self.shared.clone(),
            entry: entry.clone(),
            container,
            id: target.id.clone(),
            ip: ip_seen,
            running_since_ms: target.running_since_ms,
            adopted: target.known.is_some(),
            health: Mutex::new(target.known.unwrap_or_else(|| Health {
                id: target.id.clone(),
                ..Health::default()
            })),
            findings: self.findings.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(attempt.run()));
        let begun = Attempt {
            id: target.id,
            ip,
            _task: task,
        };
        self.attempts.insert(target.container, begun);
    }
}
