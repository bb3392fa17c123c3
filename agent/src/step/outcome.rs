//! Writes an action's outcome into the book. Called by the worker after each action, before it looks again.
//!
//! Invariant: every outcome, good or bad, holds the same action back until its effect is seen or its backoff
//! has passed; so nothing here can loop tightly, whatever the engine answers.

use proto::{
    ids::SANDBOX,
    model::{Container, PullPolicy},
};

use super::{
    Action, Attempt, Backoff, Ended, Hold, HoldKind, Image, Note, PodBook, PodDesired, StepSettings, Why,
    observe::{back_off, seconds, will_restart},
};
use crate::runtime::RuntimeError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of `CheckImage`: the image's id, if it is there.
    Image(Option<String>),
    /// Of `Pull`, with the time it took.
    Pulled {
        took_ms: u64,
    },
    /// Of `Create`: the engine's id.
    Created(String),
    /// Of `Start`, `PreStop`, `Stop` and `Remove`.
    Done,
    Failed(RuntimeError),
}

/// The book after `action` ended with `outcome`, and what to tell.
pub fn record(
    mut book: PodBook,
    desired: &PodDesired,
    action: &Action,
    outcome: &Outcome,
    now_ms: u64,
    settings: &StepSettings,
) -> (PodBook, Vec<Note>) {
    let mut recorder = Recorder {
        book: &mut book,
        desired,
        now_ms,
        settings,
        notes: Vec::new(),
    };
    recorder.record(action, outcome);
    let notes = recorder.notes;
    (book, notes)
}

struct Recorder<'a> {
    book: &'a mut PodBook,
    desired: &'a PodDesired,
    now_ms: u64,
    settings: &'a StepSettings,
    notes: Vec<Note>,
}

impl Recorder<'_> {
    fn record(&mut self, action: &Action, outcome: &Outcome) {
        match (action, outcome) {
            (Action::PreStop { container, id, .. }, outcome) => self.hook_over(container, id, outcome),
            (_, Outcome::Failed(error)) => self.failed(action, error),
            (Action::CheckImage { container, image }, Outcome::Image(found)) => {
                self.image(container, image, found.clone());
            }
            (Action::Pull { container, image }, Outcome::Pulled { took_ms }) => {
                self.notes.push(Note::normal(
                    "Pulled",
                    format!("Pulled image {image:?} in {}", seconds(*took_ms)),
                ));
                self.set_image(container, Image::Ready(String::new()));
            }
            (Action::Create { container, .. }, Outcome::Created(id)) => {
                if let Some(entry) = self.book.containers.get_mut(container) {
                    entry.state = Attempt::Known {
                        id: id.clone(),
                        running_since_ms: None,
                        started_at: None,
                    };
                }
                self.hold(action, self.settings.retry, None);
                self.notes
                    .push(Note::normal("Created", format!("Created {}", noun(container))));
            }
            (Action::Start { container, .. }, _) => {
                self.hold(action, self.settings.retry, None);
                self.notes
                    .push(Note::normal("Started", format!("Started {}", noun(container))));
            }
            (_, _) => self.hold(action, self.settings.retry, None),
        }
    }

    fn failed(&mut self, action: &Action, error: &RuntimeError) {
        let words = error.to_string();
        if matches!(error, RuntimeError::Unavailable(_)) {
            // Nothing is known of its effect: look again, and do not hurry to repeat it.
            self.hold(action, self.settings.retry, Some(words));
            return;
        }
        match action {
            Action::CheckImage { container, image } => {
                self.hold(action, self.settings.image, Some(words.clone()));
                self.notes.push(Note::warning(
                    "Failed",
                    format!("Container {container}: cannot look for image {image:?}: {words}"),
                ));
            }
            Action::Pull { container, image } => {
                self.notes.push(Note::warning(
                    "Failed",
                    format!("Failed to pull image {image:?}: {words}"),
                ));
                let delay_ms = self.image_failed(container, words, false);
                self.notes.push(Note::warning(
                    "BackOff",
                    format!("back-off {} pulling image {image:?}", seconds(delay_ms)),
                ));
            }
            Action::Create { container, .. } => {
                if matches!(error, RuntimeError::NoSuchImage(_)) {
                    self.set_image(container, Image::Unknown);
                }
                self.hold(action, self.settings.crash, Some(words.clone()));
                if let Some(hold) = self.book.holds.get_mut(&action.hold_key()) {
                    hold.config = matches!(error, RuntimeError::Config(_));
                }
                self.notes.push(Note::warning(
                    "Failed",
                    format!("Failed to create {}: {words}", noun(container)),
                ));
            }
            Action::Start { container, id } => self.start_failed(action, container, id, error, words),
            Action::Stop { container, .. } => {
                self.hold(action, self.settings.retry, Some(words.clone()));
                self.notes.push(Note::warning(
                    "FailedKill",
                    format!("Failed to stop {}: {words}", noun(container)),
                ));
            }
            Action::Remove { .. } => self.hold(action, self.settings.retry, Some(words)),
            // Recorded where good and bad ends of a hook are.
            Action::PreStop { .. } => {}
        }
    }

    /// However a hook ended, the stop goes on.
    fn hook_over(&mut self, container: &str, id: &str, outcome: &Outcome) {
        if let Outcome::Failed(error) = outcome {
            self.notes.push(Note::warning(
                "FailedPreStopHook",
                format!("preStop of container {container} failed: {error}; its stop goes on"),
            ));
        }
        let entry = self.book.containers.get_mut(container);
        if let Some(hook) = entry.and_then(|e| e.pre_stop.as_mut()).filter(|h| h.id == id) {
            hook.over_ms = Some(self.now_ms);
        }
    }

    /// A refused start uses the attempt up: what refused it (a taken port, a bad command) may need time.
    fn start_failed(&mut self, action: &Action, container: &str, id: &str, error: &RuntimeError, words: String) {
        self.notes.push(Note::warning(
            "Failed",
            format!("Failed to start {}: {words}", noun(container)),
        ));
        if matches!(error, RuntimeError::NoSuchContainer(_)) {
            self.hold(action, self.settings.retry, Some(words));
            return;
        }
        let Some(entry) = self.book.containers.get_mut(container) else {
            return;
        };
        let ended = Ended {
            id: id.to_owned(),
            exit_code: start_error_code(&words),
            reason: "StartError".into(),
            message: words,
            started_at: None,
            finished_at: None,
            observed_ms: self.now_ms,
        };
        entry.delay_ms = self.settings.crash.delay_ms(entry.level);
        entry.restart_at_ms = self.now_ms.saturating_add(entry.delay_ms);
        if entry.delay_ms > 0 && will_restart(self.desired, container, entry, &ended) {
            let message = back_off(self.desired, container, entry.delay_ms, &ended);
            self.notes.push(Note::warning("BackOff", message));
        }
        entry.state = Attempt::Ended(ended);
    }

    fn image(&mut self, container: &str, image: &str, found: Option<String>) {
        self.book.holds.remove(&(HoldKind::Image, container.to_owned()));
        if let Some(id) = found {
            self.notes.push(Note::normal(
                "Pulled",
                format!("Container image {image:?} already present on machine"),
            ));
            self.set_image(container, Image::Ready(id));
            return;
        }
        let policy = self
            .spec_of(container)
            .map_or(PullPolicy::IfNotPresent, Container::pull_policy);
        let Some(entry) = self.book.containers.get_mut(container) else {
            return;
        };
        let (now_ms, recheck_ms) = (self.now_ms, self.settings.image_recheck_ms);
        match &mut entry.image {
            Image::Failed {
                never: true,
                retry_at_ms,
                recheck_at_ms,
                ..
            } => {
                // It is never pulled: looking again is all there is to do, and that in its own time.
                *recheck_at_ms = now_ms.saturating_add(recheck_ms);
                *retry_at_ms = *recheck_at_ms;
            }
            Image::Failed {
                retry_at_ms,
                recheck_at_ms,
                ..
            } if now_ms < *retry_at_ms => *recheck_at_ms = now_ms.saturating_add(recheck_ms),
            _ if policy == PullPolicy::Never => {
                let words = format!("container image {image:?} is not present with pull policy of Never");
                self.notes.push(Note::warning("ErrImageNeverPull", words.clone()));
                self.image_failed(container, words, true);
            }
            state => *state = Image::Missing,
        }
    }

    fn image_failed(&mut self, container: &str, words: String, never: bool) -> u64 {
        let Some(entry) = self.book.containers.get_mut(container) else {
            return 0;
        };
        entry.pull_level = entry.pull_level.saturating_add(1);
        let delay_ms = self.settings.image.delay_ms(entry.pull_level);
        entry.image = Image::Failed {
            words,
            never,
            at_ms: self.now_ms,
            delay_ms,
            retry_at_ms: self.now_ms.saturating_add(delay_ms),
            recheck_at_ms: self.now_ms.saturating_add(self.settings.image_recheck_ms),
        };
        delay_ms
    }

    fn set_image(&mut self, container: &str, image: Image) {
        self.book.holds.remove(&(HoldKind::Image, container.to_owned()));
        if let Some(entry) = self.book.containers.get_mut(container) {
            if matches!(image, Image::Ready(_)) {
                entry.pull_level = 0;
            }
            entry.image = image;
        }
    }

    fn spec_of(&self, container: &str) -> Option<&Container> {
        self.desired.spec.containers.iter().find(|c| c.name == container)
    }

    fn hold(&mut self, action: &Action, backoff: Backoff, words: Option<String>) {
        let key = action.hold_key();
        let level = self.book.holds.get(&key).map_or(0, |h| h.level).saturating_add(1);
        self.book.holds.insert(
            key,
            Hold {
                until_ms: self.now_ms.saturating_add(backoff.delay_ms(level)),
                level,
                words,
                config: false,
            },
        );
    }
}

/// What to tell before an action begins, if anything.
pub fn announce(action: &Action) -> Option<Note> {
    match action {
        Action::Pull { image, .. } => Some(Note::normal("Pulling", format!("Pulling image {image:?}"))),
        Action::Stop { container, why, .. } => {
            let name = noun(container);
            Some(match why {
                Why::Asked(reason) if reason.is_empty() => Note::normal("Killing", format!("Stopping {name}")),
                Why::Asked(reason) => Note::normal("Killing", format!("Stopping {name}: {reason}")),
                Why::Unhealthy(probe) => Note::normal("Killing", format!("Stopping {name}: its {probe} probe failed")),
                Why::SandboxGone => Note::warning(
                    "SandboxChanged",
                    format!("Stopping {name}: the pod's sandbox ended and is made anew"),
                ),
                Why::OlderAttempt => Note::warning(
                    "Killing",
                    format!("Stopping {name}: an older attempt was started behind the agent's back"),
                ),
                Why::PodEnded => Note::normal("Killing", format!("Stopping {name}: all containers have ended")),
            })
        }
        Action::CheckImage { .. }
        | Action::Create { .. }
        | Action::Start { .. }
        | Action::PreStop { .. }
        | Action::Remove { .. } => None,
    }
}

fn noun(container: &str) -> String {
    if container == SANDBOX {
        "the pod's sandbox".to_owned()
    } else {
        format!("container {container}")
    }
}

/// Docker gives 127 to a command that it cannot find and 128 to any other refusal.
fn start_error_code(words: &str) -> i32 {
    let words = words.to_ascii_lowercase();
    let not_found = ["executable file not found", "no such file or directory"];
    if not_found.iter().any(|w| words.contains(w)) {
        127
    } else {
        128
    }
}
