//! Chooses the next actions from the book. Second part of [`super::step`].
//!
//! Invariant: a container is created only when none of the same name runs in this pod.

use proto::{
    ids::SANDBOX,
    model::{Container, PullPolicy},
};

use super::{
    Action, Attempt, HoldKey, HoldKind, Image, Mode, PodBook, PodDesired, PodObserved, Wake, Why, needs_sandbox,
    observe::will_restart,
};
use crate::runtime::{ContainerInfo, State};

pub(super) struct Decision {
    pub actions: Vec<Action>,
    pub wake: Wake,
}

pub(super) fn decide(book: &mut PodBook, desired: &PodDesired, observed: PodObserved<'_>, now_ms: u64) -> Decision {
    let mut planner = Planner {
        book,
        desired,
        observed,
        containers: observed.containers,
        now_ms,
        actions: Vec::new(),
        wake: Wake { now_ms, at_ms: None },
    };
    match &desired.mode {
        Mode::Run if desired.invalid.is_some() => {}
        Mode::Run => planner.run(),
        Mode::Stop {
            grace_ms,
            drain_until_ms,
            reason,
        } => planner.stop(*grace_ms, *drain_until_ms, reason),
        // Nobody can have been told to go elsewhere.
        Mode::Disconnected { grace_ms, reason } => planner.stop(*grace_ms, 0, reason),
        Mode::Forget => {
            if !planner.containers.iter().any(is_running) {
                planner.remove_all();
            }
        }
    }
    Decision {
        actions: planner.actions,
        wake: planner.wake,
    }
}

pub(super) fn is_running(info: &ContainerInfo) -> bool {
    matches!(info.state, State::Running { .. })
}

fn is_sandbox(info: &ContainerInfo) -> bool {
    info.owner.container == SANDBOX
}

pub(super) struct Planner<'a> {
    pub(super) book: &'a mut PodBook,
    pub(super) desired: &'a PodDesired,
    pub(super) observed: PodObserved<'a>,
    containers: &'a [ContainerInfo],
    pub(super) now_ms: u64,
    actions: Vec<Action>,
    pub(super) wake: Wake,
}

impl Planner<'_> {
    /// Adds an action unless it is held back; then only its moment is noted.
    pub(super) fn push(&mut self, action: Action) {
        if !self.held(&action.hold_key()) {
            self.actions.push(action);
        }
    }

    fn held(&mut self, key: &HoldKey) -> bool {
        match self.book.holds.get(key) {
            Some(hold) if hold.until_ms > self.now_ms => {
                self.wake.at(hold.until_ms);
                true
            }
            _ => false,
        }
    }

    pub(super) fn stop_container(&mut self, info: &ContainerInfo, grace_ms: u64, why: Why) {
        self.push(Action::Stop {
            container: info.owner.container.clone(),
            id: info.id.clone(),
            grace_ms,
            why,
        });
    }

    fn remove(&mut self, info: &ContainerInfo) {
        self.push(Action::Remove {
            container: info.owner.container.clone(),
            id: info.id.clone(),
        });
    }

    fn stop(&mut self, grace_ms: u64, drain_until_ms: u64, reason: &str) {
        let containers = self.containers;
        let why = || Why::Asked(reason.to_owned());
        if containers.iter().any(|i| is_running(i) && !is_sandbox(i)) {
            for info in containers.iter().filter(|i| is_running(i) && !is_sandbox(i)) {
                self.stop_in_order(info, grace_ms, drain_until_ms, why());
            }
        } else if containers.iter().any(is_running) {
            for info in containers.iter().filter(|i| is_running(i)) {
                self.stop_container(info, 0, why());
            }
        } else {
            self.remove_all();
        }
    }

    fn remove_all(&mut self) {
        for info in self.containers {
            self.remove(info);
        }
    }

    fn run(&mut self) {
        let containers = self.containers;
        for info in containers.iter().filter(|i| is_running(i)) {
            if self
                .book
                .containers
                .get(&info.owner.container)
                .is_some_and(|e| info.owner.attempt < e.attempt)
            {
                self.stop_container(info, self.grace_ms(), Why::OlderAttempt);
            }
        }
        self.end_unhealthy();
        if self.all_ended() {
            for info in containers.iter().filter(|i| is_running(i) && is_sandbox(i)) {
                self.stop_container(info, 0, Why::PodEnded);
            }
        } else if needs_sandbox(&self.desired.spec) {
            if let Some((id, ip)) = self.sandbox() {
                self.advance_all(Some(&id), &ip);
            }
        } else {
            self.advance_all(None, "");
        }
        self.remove_old();
    }

    /// Stops attempts whose startup or liveness probe failed; what follows is a restart as after any other end.
    fn end_unhealthy(&mut self) {
        let containers = self.containers;
        for info in containers.iter().filter(|i| is_running(i)) {
            let Some(entry) = self.book.containers.get_mut(&info.owner.container) else {
                continue;
            };
            let health = entry.health.as_ref().filter(|h| h.id == info.id);
            let Some(failed) = health.and_then(|h| h.failed.clone()) else {
                continue;
            };
            entry.must_restart = true;
            let grace_ms = match failed.grace_seconds {
                Some(seconds) => u64::try_from(seconds).unwrap_or(0).saturating_mul(1000),
                None => self.grace_ms(),
            };
            self.stop_in_order(info, grace_ms, 0, Why::Unhealthy(failed.probe));
        }
    }

    fn grace_ms(&self) -> u64 {
        u64::try_from(self.desired.spec.grace_seconds())
            .unwrap_or(0)
            .saturating_mul(1000)
    }

    /// Every container has ended for good. Sticky: what was once shown as the end stays the end.
    fn all_ended(&self) -> bool {
        self.book.phase.is_final()
            || (!self.desired.spec.containers.is_empty()
                && self.desired.spec.containers.iter().all(|c| {
                    self.book.containers.get(&c.name).is_some_and(|entry| {
                        entry
                            .ended()
                            .is_some_and(|e| !will_restart(self.desired, &c.name, entry, e))
                    })
                }))
    }

    /// Id and address of the running sandbox; without one, works towards it.
    fn sandbox(&mut self) -> Option<(String, String)> {
        let containers = self.containers;
        let entry = self.book.containers.get(SANDBOX)?;
        if entry.running() {
            return containers
                .iter()
                .filter(|i| is_sandbox(i) && is_running(i))
                .max_by_key(|i| i.owner.attempt)
                .map(|i| (i.id.clone(), i.ip.clone()));
        }
        // A container lives in the network of the sandbox it was made with: without that, it must go first. In the
        // host's network it loses nothing.
        let mut waits = false;
        let bound = |i: &&ContainerInfo| !is_sandbox(i) && !self.desired.spec.host_network;
        for info in containers.iter().filter(bound) {
            match info.state {
                State::Running { .. } => {
                    waits = true;
                    self.stop_container(info, self.grace_ms(), Why::SandboxGone);
                    if let Some(entry) = self.book.containers.get_mut(&info.owner.container) {
                        entry.must_restart = true;
                    }
                }
                State::Created => {
                    let ended = self
                        .book
                        .containers
                        .get(&info.owner.container)
                        .is_some_and(|e| e.attempt > info.owner.attempt || e.ended().is_some());
                    if !ended {
                        waits = true;
                        self.remove(info);
                    }
                }
                State::Exited(_) => {}
            }
        }
        if !waits {
            self.advance(SANDBOX, None, None, "");
        }
        None
    }

    fn advance_all(&mut self, join: Option<&str>, ip: &str) {
        let desired = self.desired;
        for container in &desired.spec.containers {
            self.advance(&container.name, Some(container), join, ip);
        }
    }

    /// The next action of one container. `container` is `None` for the sandbox, whose image is the runtime's.
    fn advance(&mut self, name: &str, container: Option<&Container>, join: Option<&str>, ip: &str) {
        if self
            .containers
            .iter()
            .any(|i| i.owner.container == name && is_running(i))
        {
            return;
        }
        let now_ms = self.now_ms;
        let Some(entry) = self.book.containers.get_mut(name) else {
            return;
        };
        if let Attempt::Ended(ended) = &entry.state {
            if !will_restart(self.desired, name, entry, ended) {
                return;
            }
            if now_ms < entry.restart_at_ms {
                self.wake.at(entry.restart_at_ms);
                return;
            }
            entry.last = Some(ended.clone());
            entry.state = Attempt::Absent;
            entry.attempt = entry.attempt.saturating_add(1);
            entry.level = entry.level.saturating_add(1);
            entry.must_restart = false;
            entry.image = Image::Unknown;
            entry.pull_level = 0;
        }
        match &entry.state {
            Attempt::Known {
                running_since_ms: None,
                id,
                ..
            } => {
                let id = id.clone();
                self.push(Action::Start {
                    container: name.to_owned(),
                    id,
                });
            }
            Attempt::Absent => {
                let create = Action::Create {
                    container: name.to_owned(),
                    attempt: entry.attempt,
                    join: join.map(str::to_owned),
                    pod_ip: ip.to_owned(),
                };
                // A create that failed waits as a whole: its image is not looked for either.
                if !self.held(&create.hold_key()) && container.is_none_or(|c| self.image_ready(c)) {
                    self.push(create);
                }
            }
            Attempt::Known { .. } | Attempt::Ended(_) => {}
        }
    }

    /// Whether the container's image is there; without it, works towards it.
    fn image_ready(&mut self, container: &Container) -> bool {
        let Some(entry) = self.book.containers.get(&container.name) else {
            return false;
        };
        let check = Action::CheckImage {
            container: container.name.clone(),
            image: container.image.clone(),
        };
        let pull = Action::Pull {
            container: container.name.clone(),
            image: container.image.clone(),
        };
        let always = container.pull_policy() == PullPolicy::Always;
        match &entry.image {
            Image::Ready(_) => return true,
            Image::Unknown if always => self.push(pull),
            Image::Unknown => self.push(check),
            Image::Missing => self.push(pull),
            Image::Failed {
                retry_at_ms,
                recheck_at_ms,
                ..
            } => {
                let (retry_at_ms, recheck_at_ms) = (*retry_at_ms, *recheck_at_ms);
                if always && self.now_ms >= retry_at_ms {
                    self.push(pull);
                } else if !always && self.now_ms >= recheck_at_ms.min(retry_at_ms) {
                    self.push(check);
                } else {
                    self.wake.at(retry_at_ms);
                    if !always {
                        self.wake.at(recheck_at_ms);
                    }
                }
            }
        }
        false
    }

    /// Removes dead containers but the newest one of each name.
    fn remove_old(&mut self) {
        let containers = self.containers;
        for info in containers.iter().filter(|i| !is_running(i)) {
            let Some(entry) = self.book.containers.get(&info.owner.container) else {
                continue;
            };
            let current = info.owner.attempt == entry.attempt;
            if current && entry.ended().is_none() {
                continue;
            }
            let newer_dead = containers.iter().any(|other| {
                other.owner.container == info.owner.container
                    && other.owner.attempt > info.owner.attempt
                    && !is_running(other)
                    // One that is about to start is not dead.
                    && (other.owner.attempt < entry.attempt || entry.ended().is_some())
            });
            if newer_dead {
                self.remove(info);
            }
        }
    }
}

/// Whether an action of this kind on this target is held; for the view.
pub(super) fn words(book: &PodBook, kind: HoldKind, target: &str) -> Option<String> {
    book.holds.get(&(kind, target.to_owned()))?.words.clone()
}
