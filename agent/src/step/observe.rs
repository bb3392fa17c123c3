//! Folds what the engine shows into the book. First half of [`super::step`].
//!
//! Invariant: an attempt ends only because its exit was seen, its start was refused, or a container that was
//! seen to run is gone.

use proto::{ids::SANDBOX, model::RestartPolicy};

use super::{
    Attempt, ContainerBook, Ended, HoldKind, Image, Mode, Note, PodBook, PodDesired, StepSettings, needs_sandbox,
};
use crate::runtime::{ContainerInfo, Exit, State};

/// Exit code of a container that vanished: as if killed.
const REMOVED_CODE: i32 = 137;
/// Most characters of a container's last words in a message about something else.
const WORDS: usize = 200;

pub(super) fn observe(
    book: &mut PodBook,
    desired: &PodDesired,
    containers: &[ContainerInfo],
    now_ms: u64,
    settings: &StepSettings,
    notes: &mut Vec<Note>,
) {
    for container in &desired.spec.containers {
        book.containers.entry(container.name.clone()).or_default();
    }
    if needs_sandbox(&desired.spec) {
        book.containers.entry(SANDBOX.to_owned()).or_default();
    }
    // A stop entry may name a pod whose spec this agent never had.
    for info in containers {
        book.containers.entry(info.owner.container.clone()).or_default();
    }
    for (name, entry) in &mut book.containers {
        let mine: Vec<_> = containers.iter().filter(|i| i.owner.container == *name).collect();
        let fold = Fold {
            name,
            desired,
            now_ms,
            settings,
        };
        fold.container(entry, &mine, notes);
    }
    release_holds(book, containers);
}

struct Fold<'a> {
    name: &'a str,
    desired: &'a PodDesired,
    now_ms: u64,
    settings: &'a StepSettings,
}

impl Fold<'_> {
    fn container(&self, entry: &mut ContainerBook, mine: &[&ContainerInfo], notes: &mut Vec<Note>) {
        let newest = mine
            .iter()
            .copied()
            .filter(|i| i.owner.attempt >= entry.attempt)
            .max_by_key(|i| (i.owner.attempt, matches!(i.state, State::Running { .. })));
        let Some(newest) = newest else {
            self.missing(entry, notes);
            return;
        };
        if newest.owner.attempt > entry.attempt {
            // The book is older than the engine: the agent ended before it was saved.
            entry.attempt = newest.owner.attempt;
            entry.last = mine
                .iter()
                .filter(|i| i.owner.attempt < newest.owner.attempt)
                .max_by_key(|i| i.owner.attempt)
                .and_then(|i| match &i.state {
                    State::Exited(exit) => Some(ended(&i.id, exit, self.now_ms)),
                    State::Created | State::Running { .. } => None,
                })
                .or(entry.last.take());
            entry.state = Attempt::Absent;
            entry.must_restart = false;
            entry.image = Image::Unknown;
        }
        let same_end = entry.ended().is_some_and(|e| e.id == newest.id);
        match &newest.state {
            // A refused start leaves it in this state; that attempt is over.
            State::Created if same_end => {}
            State::Created => {
                entry.state = Attempt::Known {
                    id: newest.id.clone(),
                    running_since_ms: None,
                    started_at: None,
                };
            }
            State::Running { started_at } => {
                let since = match &entry.state {
                    Attempt::Known {
                        id,
                        running_since_ms: Some(since),
                        started_at: known,
                    } if *id == newest.id && known == started_at => *since,
                    // Adopted: it may have been running for long. The engine's time has whole seconds.
                    _ => started_at
                        .and_then(|t| u64::try_from(t.0).ok())
                        .map_or(self.now_ms, |s| (s.saturating_mul(1000) + 999).min(self.now_ms)),
                };
                entry.state = Attempt::Known {
                    id: newest.id.clone(),
                    running_since_ms: Some(since),
                    started_at: *started_at,
                };
            }
            State::Exited(_) if same_end => {}
            State::Exited(exit) => self.end(entry, ended(&newest.id, exit, self.now_ms), exit.oom, notes),
        }
    }

    /// No container of the current attempt is there.
    fn missing(&self, entry: &mut ContainerBook, notes: &mut Vec<Note>) {
        let Attempt::Known {
            id,
            running_since_ms,
            started_at,
        } = &entry.state
        else {
            return;
        };
        if running_since_ms.is_none() {
            // It never ran: the same attempt may be made again.
            entry.state = Attempt::Absent;
            return;
        }
        let gone = Ended {
            id: id.clone(),
            exit_code: REMOVED_CODE,
            reason: "ContainerRemoved".into(),
            message: "the container was removed behind the agent's back".into(),
            started_at: *started_at,
            finished_at: None,
            observed_ms: self.now_ms,
        };
        self.end(entry, gone, false, notes);
    }

    fn end(&self, entry: &mut ContainerBook, ended: Ended, oom: bool, notes: &mut Vec<Note>) {
        if ran_ms(entry, &ended) >= self.settings.crash_reset_ms {
            entry.level = 0;
        }
        entry.delay_ms = self.settings.crash.delay_ms(entry.level);
        entry.restart_at_ms = self.now_ms.saturating_add(entry.delay_ms);
        if self.desired.mode == Mode::Run {
            self.tell(entry, &ended, oom, notes);
        }
        entry.state = Attempt::Ended(ended);
    }

    fn tell(&self, entry: &ContainerBook, ended: &Ended, oom: bool, notes: &mut Vec<Note>) {
        let name = self.name;
        if ended.reason == "ContainerRemoved" {
            notes.push(Note::warning(
                "Removed",
                format!("Container {name} was removed behind the agent's back"),
            ));
        } else if ended.reason == "OOMKilled" {
            notes.push(Note::warning(
                "OOMKilled",
                format!("Container {name} went over its memory limit and was killed"),
            ));
        } else if let Some(signal) = signal(ended.exit_code).filter(|_| !entry.must_restart && !oom) {
            notes.push(Note::warning(
                "Killed",
                format!("Container {name} ended by signal {signal}, which the agent did not send"),
            ));
        } else if ended.reason == "StartError" {
            notes.push(Note::warning(
                "Failed",
                format!("Failed to start container {name}: {}", ended.message),
            ));
        }
        if entry.delay_ms > 0 && will_restart(self.desired, self.name, entry, ended) {
            notes.push(Note::warning(
                "BackOff",
                back_off(self.desired, name, entry.delay_ms, ended),
            ));
        }
    }
}

/// Whether an ended attempt is followed by another one, by the pod's restart policy.
pub(super) fn will_restart(desired: &PodDesired, name: &str, entry: &ContainerBook, ended: &Ended) -> bool {
    if name == SANDBOX {
        return true;
    }
    match desired.spec.restart_policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => ended.exit_code != 0 || entry.must_restart,
        RestartPolicy::Never => false,
    }
}

/// Why a container is not restarted yet, with how it ended.
pub(super) fn back_off(desired: &PodDesired, name: &str, delay_ms: u64, ended: &Ended) -> String {
    // A container's last words may be long; its state shows them whole.
    let words = ended.message.lines().next_back().unwrap_or_default();
    let words: String = words.chars().take(WORDS).collect();
    let colon = if words.is_empty() { "" } else { ": " };
    format!(
        "back-off {} restarting failed container {name} of pod {}/{} (last exit: {}, code {}{colon}{})",
        seconds(delay_ms),
        desired.namespace,
        desired.name,
        ended.reason,
        ended.exit_code,
        words
    )
}

/// `10s`, or `1500ms` where seconds would lie.
pub(super) fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1000) {
        format!("{}s", ms / 1000)
    } else {
        format!("{ms}ms")
    }
}

/// The signal that an exit code tells of.
pub(super) fn signal(code: i32) -> Option<i32> {
    (129..=192).contains(&code).then_some(code - 128)
}

/// An exit in Kubernetes' words.
pub(super) fn ended(id: &str, exit: &Exit, now_ms: u64) -> Ended {
    let reason = match exit.code {
        // A child may have been killed for memory while the container went on: that is not this.
        137 if exit.oom => "OOMKilled",
        // With an init in the container the engine starts that, and only the init learns that the command
        // cannot run; its words are the exit's error.
        126 | 127 if !exit.error.is_empty() => "StartError",
        127 | 128 if exit.started_at.is_none() => "StartError",
        0 => "Completed",
        _ => "Error",
    };
    Ended {
        id: id.to_owned(),
        exit_code: exit.code,
        reason: reason.into(),
        message: if exit.error.is_empty() {
            exit.message.clone()
        } else {
            exit.error.clone()
        },
        started_at: exit.started_at,
        finished_at: exit.finished_at,
        observed_ms: now_ms,
    }
}

fn ran_ms(entry: &ContainerBook, ended: &Ended) -> u64 {
    match (ended.started_at, ended.finished_at, &entry.state) {
        (Some(from), Some(to), _) => to.since(from).saturating_mul(1000),
        (
            _,
            _,
            Attempt::Known {
                running_since_ms: Some(since),
                ..
            },
        ) => ended.observed_ms.saturating_sub(*since),
        _ => 0,
    }
}

/// Drops holds on actions whose effect is visible or which no longer make sense.
fn release_holds(book: &mut PodBook, containers: &[ContainerInfo]) {
    let PodBook {
        holds,
        containers: entries,
        ..
    } = book;
    holds.retain(|(kind, target), _| {
        let seen = || containers.iter().find(|i| i.id == *target).map(|i| &i.state);
        match kind {
            HoldKind::Image | HoldKind::Create => entries.get(target).is_some_and(|e| e.state == Attempt::Absent),
            HoldKind::Start => matches!(seen(), Some(State::Created)),
            HoldKind::PreStop | HoldKind::Stop => matches!(seen(), Some(State::Running { .. })),
            HoldKind::Remove => seen().is_some(),
        }
    });
}
