//! Whether to believe a coordinator. PURE: the ledger and a message in, a new ledger or a refusal out. Called by
//! [`super::Keeper`].
//!
//! Invariants: a lower term, another incarnation, or another history is refused as a whole, and then nothing
//! changes: all pods keep running. No answer stops a pod but an explicit stop entry.

use std::{collections::BTreeSet, sync::Arc};

use proto::wire;

use super::{Fence, Ledger, PodEntry, StopIntent};

/// An accepted message: the ledger after it, to be made durable before anything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerChange {
    pub next: Ledger,
    /// Uids whose entry is new or wants something else than before.
    pub touched: BTreeSet<String>,
}

/// Why a coordinator is not believed. The session ends; everything keeps running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "the coordinator serves another history (incarnation {theirs}, this agent accepted {ours}): restored or replaced data? see `wharf cluster accept-restore`"
    )]
    OtherIncarnation { ours: String, theirs: String },
    #[error(
        "the coordinator's term {theirs} is older than the accepted term {ours}: a deposed leader or an old copy of its data"
    )]
    OldTerm { ours: u64, theirs: u64 },
    #[error(
        "the coordinator's term {term} is not the one accepted under that number: its data were replaced by a copy"
    )]
    OtherTerm { term: u64 },
    #[error(
        "the coordinator's data do not hold the accepted term {ours}: they were emptied or replaced by an older copy"
    )]
    UnknownTerm { ours: u64 },
    #[error(
        "the coordinator's data end term {term} at revision {ended_at}, but revision {ours} was accepted under it: they were replaced by an older copy"
    )]
    LaterThanHistory { term: u64, ended_at: u64, ours: u64 },
    #[error("the assignments lead back from revision {ours} to {theirs}")]
    Backward { ours: u64, theirs: u64 },
    #[error("the assignments apply to revision {theirs}, the ledger is at {ours}: a gap")]
    Gap { ours: u64, theirs: u64 },
    #[error("another coordinator's word was accepted while this one answered")]
    Moved,
    #[error("pod {namespace}/{name} ({uid}) came with another spec: a pod's spec is immutable")]
    SpecChanged {
        uid: String,
        namespace: String,
        name: String,
    },
    #[error("the coordinator broke the protocol: {0}")]
    Protocol(String),
}

impl Refusal {
    /// A new session may put it right at once; the others need an operator or another coordinator.
    pub fn is_gap(&self) -> bool {
        matches!(self, Self::Gap { .. } | Self::Moved)
    }
}

/// What a Hello said of the ledger; its answer is worth nothing for another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub fence: Option<Fence>,
    pub revision: u64,
}

impl Said {
    pub fn of(ledger: &Ledger) -> Self {
        Self {
            fence: ledger.fence.clone(),
            revision: ledger.revision,
        }
    }
}

/// As [`accept_welcome`], of the answer to a Hello that said `said`.
pub fn accept_answer(ledger: &Ledger, said: &Said, welcome: &wire::Welcome) -> Result<LedgerChange, Refusal> {
    let change = accept_welcome(ledger, welcome)?;
    // Whether its history holds what was accepted since was not asked.
    if Said::of(ledger) == *said {
        Ok(change)
    } else {
        Err(Refusal::Moved)
    }
}

/// Judges the Welcome of an active coordinator: fence, history, and the list of coordinators.
pub fn accept_welcome(ledger: &Ledger, welcome: &wire::Welcome) -> Result<LedgerChange, Refusal> {
    let goes_on = goes_on(ledger, welcome);
    let fence = if goes_on {
        // Of the history before nothing can be checked here: an operator has the word for it.
        check_fence(&Ledger::default(), welcome.fence.as_ref())?
    } else {
        check_fence(ledger, welcome.fence.as_ref())?
    };
    if let Some(ours) = ledger.fence.as_ref().filter(|_| !goes_on) {
        if !welcome.your_term_known {
            return Err(Refusal::UnknownTerm { ours: ours.term });
        }
        let ended_at = welcome.your_term_ended_at;
        if ended_at != 0 && ended_at <= ledger.revision {
            return Err(Refusal::LaterThanHistory {
                term: ours.term,
                ended_at,
                ours: ledger.revision,
            });
        }
    }
    let mut next = ledger.clone();
    next.fence = Some(fence);
    if goes_on {
        next.revision = 0;
    }
    if !welcome.coordinators.is_empty() {
        next.coordinators.clone_from(&welcome.coordinators);
    }
    next.ready_after_ms = welcome.settings.and_then(|s| s.ready_after_ms);
    Ok(LedgerChange {
        next,
        touched: BTreeSet::new(),
    })
}

/// Another incarnation that goes on from the accepted one, after a restore that an operator accepted.
fn goes_on(ledger: &Ledger, welcome: &wire::Welcome) -> bool {
    let theirs = welcome
        .fence
        .as_ref()
        .map(|f| f.incarnation.as_str())
        .unwrap_or_default();
    let ours = ledger.fence.as_ref().map(|f| f.incarnation.as_str());
    ours.is_some_and(|ours| ours != theirs && welcome.replaces.iter().any(|r| r == ours))
}

/// Judges assignments. `now_ms` becomes the time of acceptance of what is new.
pub fn accept_assignments(ledger: &Ledger, message: &wire::Assignments, now_ms: u64) -> Result<LedgerChange, Refusal> {
    let fence = check_fence(ledger, message.fence.as_ref())?;
    let kind = message.kind();
    let mut change = Change {
        next: ledger.clone(),
        touched: BTreeSet::new(),
        now_ms,
    };
    match kind {
        wire::assignments::Kind::Unspecified => {
            return Err(Refusal::Protocol("assignments of no kind".into()));
        }
        wire::assignments::Kind::Unchanged => {
            if !(message.run.is_empty() && message.stop.is_empty() && message.forget.is_empty()) {
                return Err(Refusal::Protocol("UNCHANGED assignments with content".into()));
            }
            if message.applies_to != ledger.revision {
                return Err(Refusal::Gap {
                    ours: ledger.revision,
                    theirs: message.applies_to,
                });
            }
        }
        wire::assignments::Kind::Complete => {}
        wire::assignments::Kind::Incremental => {
            if message.applies_to != ledger.revision {
                return Err(Refusal::Gap {
                    ours: ledger.revision,
                    theirs: message.applies_to,
                });
            }
        }
    }
    if message.results_in < ledger.revision {
        return Err(Refusal::Backward {
            ours: ledger.revision,
            theirs: message.results_in,
        });
    }
    for run in &message.run {
        change.run(run)?;
    }
    for stop in &message.stop {
        change.stop(stop)?;
    }
    for uid in &message.forget {
        change.edit(uid, |pod| pod.forgotten = true);
    }
    if kind == wire::assignments::Kind::Complete {
        change.mark_absent(message);
    }
    change.next.fence = Some(fence);
    change.next.revision = message.results_in;
    Ok(LedgerChange {
        next: change.next,
        touched: change.touched,
    })
}

fn check_fence(ledger: &Ledger, theirs: Option<&wire::Fence>) -> Result<Fence, Refusal> {
    let theirs = theirs
        .map(Fence::from)
        .filter(|f| !f.incarnation.is_empty())
        .ok_or_else(|| Refusal::Protocol("a message without its fence".into()))?;
    let Some(ours) = &ledger.fence else {
        return Ok(theirs);
    };
    if theirs.incarnation != ours.incarnation {
        return Err(Refusal::OtherIncarnation {
            ours: ours.incarnation.clone(),
            theirs: theirs.incarnation,
        });
    }
    if theirs.term < ours.term {
        return Err(Refusal::OldTerm {
            ours: ours.term,
            theirs: theirs.term,
        });
    }
    if theirs.term == ours.term && theirs.nonce != ours.nonce {
        return Err(Refusal::OtherTerm { term: theirs.term });
    }
    Ok(theirs)
}

struct Change {
    next: Ledger,
    touched: BTreeSet<String>,
    now_ms: u64,
}

impl Change {
    fn edit(&mut self, uid: &str, edit: impl FnOnce(&mut PodEntry)) {
        let Some(known) = self.next.pods.get_mut(uid) else {
            return;
        };
        let mut entry = PodEntry::clone(known);
        edit(&mut entry);
        if !entry.same_wish(known) {
            self.touched.insert(uid.to_owned());
        }
        *known = Arc::new(entry);
    }

    fn run(&mut self, run: &wire::Run) -> Result<(), Refusal> {
        if run.uid.is_empty() || run.name.is_empty() || run.namespace.is_empty() {
            return Err(Refusal::Protocol("a pod without uid, namespace or name".into()));
        }
        let spec_json = std::str::from_utf8(&run.spec_json)
            .map_err(|_| Refusal::Protocol(format!("the spec of pod {} is not UTF-8", run.uid)))?;
        match self.next.pods.get(&run.uid) {
            // Of a pod known only by its stop entry, the spec may still come.
            Some(known) if !known.spec_json.is_empty() && known.spec_hash != run.spec_hash => {
                return Err(Refusal::SpecChanged {
                    uid: run.uid.clone(),
                    namespace: run.namespace.clone(),
                    name: run.name.clone(),
                });
            }
            Some(_) => self.edit(&run.uid, |pod| {
                if pod.spec_json.is_empty() {
                    spec_json.clone_into(&mut pod.spec_json);
                    pod.spec_hash.clone_from(&run.spec_hash);
                }
                pod.labels = run.labels.clone().into_iter().collect();
                pod.annotations = run.annotations.clone().into_iter().collect();
                pod.unexpected = false;
                pod.forgotten = false;
            }),
            None => self.add(PodEntry {
                uid: run.uid.clone(),
                namespace: run.namespace.clone(),
                name: run.name.clone(),
                spec_json: spec_json.to_owned(),
                spec_hash: run.spec_hash.clone(),
                labels: run.labels.clone().into_iter().collect(),
                annotations: run.annotations.clone().into_iter().collect(),
                accepted_ms: self.now_ms,
                ..PodEntry::default()
            }),
        }
        Ok(())
    }

    fn add(&mut self, entry: PodEntry) {
        self.touched.insert(entry.uid.clone());
        self.next.pods.insert(entry.uid.clone(), Arc::new(entry));
    }

    /// A stop of a pod that the ledger does not hold is kept all the same: its containers may be here.
    fn stop(&mut self, stop: &wire::Stop) -> Result<(), Refusal> {
        if stop.uid.is_empty() {
            return Err(Refusal::Protocol("a stop entry without uid".into()));
        }
        let now_ms = self.now_ms;
        if !self.next.pods.contains_key(&stop.uid) {
            self.add(PodEntry {
                uid: stop.uid.clone(),
                namespace: stop.namespace.clone(),
                name: stop.name.clone(),
                accepted_ms: now_ms,
                ..PodEntry::default()
            });
        }
        self.edit(&stop.uid, |pod| {
            pod.unexpected = false;
            pod.forgotten = false;
            match &mut pod.stop {
                Some(intent) => {
                    intent.grace_seconds = stop.grace_seconds;
                    intent.drain_ms = intent.drain_ms.min(stop.endpoint_drain_ms);
                }
                None => {
                    pod.stop = Some(StopIntent {
                        reason: stop.reason.clone(),
                        grace_seconds: stop.grace_seconds,
                        accepted_ms: now_ms,
                        drain_ms: stop.endpoint_drain_ms,
                    });
                }
            }
        });
        Ok(())
    }

    /// What a complete set does not name is kept and reported, never stopped.
    fn mark_absent(&mut self, message: &wire::Assignments) {
        let named: BTreeSet<&str> = message
            .run
            .iter()
            .map(|r| r.uid.as_str())
            .chain(message.stop.iter().map(|s| s.uid.as_str()))
            .collect();
        let absent: Vec<_> = self
            .next
            .pods
            .keys()
            .filter(|uid| !named.contains(uid.as_str()))
            .cloned()
            .collect();
        for uid in absent {
            self.edit(&uid, |pod| pod.unexpected = true);
        }
    }
}
