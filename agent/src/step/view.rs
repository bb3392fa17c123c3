//! The pod's status as Kubernetes words it. Last part of [`super::step`].
//!
//! Invariant: a pure function of book and containers; what it says changes only when one of them does, or at a
//! moment that is among the wake-ups.

use proto::{
    ids::SANDBOX,
    model::{
        ConditionStatus, Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, Phase, PodCondition, PodStatus, Time,
    },
};

use super::{
    Attempt, ContainerBook, Ended, HoldKind, Image, Mode, PodBook, PodDesired, PodObserved, StepSettings, View, Wake,
    decide::{is_running, words},
    health::may_serve,
    needs_sandbox,
    observe::{back_off, seconds, signal, will_restart},
};
use crate::runtime::State;

pub(super) fn view(
    book: &mut PodBook,
    desired: &PodDesired,
    observed: PodObserved<'_>,
    now_ms: u64,
    settings: &StepSettings,
    wake: &mut Wake,
) -> View {
    let mut statuses = Vec::with_capacity(desired.spec.containers.len());
    for container in &desired.spec.containers {
        let empty = ContainerBook::default();
        let entry = book.containers.get(&container.name).unwrap_or(&empty);
        let look = Look {
            book,
            desired,
            observed,
            now_ms,
            settings,
        };
        statuses.push(look.container(container, entry, wake));
    }
    let stopping = matches!(desired.mode, Mode::Stop { .. });
    let live = |state: &State| !matches!(state, State::Exited(_));
    let over = !observed.in_flight && !observed.containers.iter().any(|i| live(&i.state));
    let stopped = stopping && over;
    let cut_off = match &desired.mode {
        Mode::Disconnected { reason, .. } => Some(reason),
        _ => None,
    };
    book.phase = book.phase.max(match cut_off {
        // It ended early, whatever its containers said of it.
        Some(_) if over => Phase::Failed,
        _ => phase(book, desired, stopped),
    });

    let ready = !statuses.is_empty() && statuses.iter().all(|s| s.ready);
    if ready != book.ready || book.ready_since_ms == 0 {
        book.ready = ready;
        book.ready_since_ms = now_ms;
    }
    let (reason, message) = match (&desired.invalid, cut_off) {
        (Some(why), _) => ("InvalidSpec".to_owned(), why.clone()),
        (None, Some(why)) => ("Disconnected".to_owned(), why.clone()),
        (None, None) => (String::new(), String::new()),
    };
    View {
        status: PodStatus {
            phase: book.phase,
            conditions: conditions(book, desired, &statuses),
            reason,
            message,
            host_ip: observed.host_ip.to_owned(),
            pod_ip: pod_ip(desired, observed),
            start_time: Some(Time::from_millis(desired.accepted_ms)),
            container_statuses: statuses,
        },
        stopped,
        gone: matches!(desired.mode, Mode::Stop { .. } | Mode::Forget)
            && !observed.in_flight
            && observed.containers.is_empty(),
    }
}

/// The address at which the pod can be reached: the host's in its network, else that of the container that holds
/// the pod's own.
pub(super) fn pod_ip(desired: &PodDesired, observed: PodObserved<'_>) -> String {
    let mut running = observed.containers.iter().filter(|i| is_running(i));
    if desired.spec.host_network {
        return running.next().map(|_| observed.host_ip.to_owned()).unwrap_or_default();
    }
    let holder = if needs_sandbox(&desired.spec) {
        Some(SANDBOX)
    } else {
        desired.spec.containers.first().map(|c| c.name.as_str())
    };
    running
        .rfind(|i| Some(i.owner.container.as_str()) == holder)
        .map(|i| i.ip.clone())
        .unwrap_or_default()
}

/// Kubernetes' rule: Pending until every container was started once; ended only by the restart policy, or by
/// a stop entry.
fn phase(book: &PodBook, desired: &PodDesired, stopped: bool) -> Phase {
    let entries = || {
        desired
            .spec
            .containers
            .iter()
            .map(|c| (c.name.as_str(), book.containers.get(&c.name)))
    };
    if desired.spec.containers.is_empty() {
        return if stopped { Phase::Failed } else { Phase::Pending };
    }
    let all_started = entries().all(|(_, e)| e.is_some_and(ContainerBook::was_started));
    let ended = || entries().filter_map(|(name, e)| Some((name, e?, e?.ended()?)));
    let for_good = ended()
        .filter(|(name, entry, e)| stopped || !will_restart(desired, name, entry, e))
        .count();
    if for_good == desired.spec.containers.len() {
        if ended().all(|(_, _, e)| e.exit_code == 0) {
            Phase::Succeeded
        } else {
            Phase::Failed
        }
    } else if stopped {
        Phase::Failed
    } else if all_started {
        Phase::Running
    } else {
        Phase::Pending
    }
}

struct Look<'a> {
    book: &'a PodBook,
    desired: &'a PodDesired,
    observed: PodObserved<'a>,
    now_ms: u64,
    settings: &'a StepSettings,
}

impl Look<'_> {
    fn container(&self, container: &Container, entry: &ContainerBook, wake: &mut Wake) -> ContainerStatus {
        let mut ready = false;
        let mut last = entry.last.as_ref();
        let state = match &entry.state {
            Attempt::Known {
                running_since_ms: Some(since),
                started_at,
                ..
            } => {
                ready = self.desired.mode == Mode::Run && may_serve(container, entry.health.as_ref());
                if self.desired.mode == Mode::Run && container.readiness_probe.is_none() {
                    let ready_at = since.saturating_add(self.settings.ready_after_ms);
                    ready &= self.now_ms >= ready_at;
                    wake.at(ready_at);
                }
                ContainerState::Running(ContainerStateRunning {
                    started_at: *started_at,
                })
            }
            Attempt::Known { id, .. } => match words(self.book, HoldKind::Start, id) {
                Some(why) => waiting("RunContainerError", why),
                None => waiting("ContainerCreating", String::new()),
            },
            Attempt::Absent => self.absent(container, entry, wake),
            Attempt::Ended(ended) if entry.delay_ms > 0 && self.goes_on(container, entry, ended) => {
                last = Some(ended);
                self.backing_off(container, entry, ended, wake)
            }
            Attempt::Ended(ended) => terminated(ended),
        };
        let current = self
            .observed
            .containers
            .iter()
            .filter(|i| i.owner.container == container.name && i.owner.attempt == entry.attempt)
            .max_by_key(|i| matches!(i.state, State::Running { .. }));
        let id = match &entry.state {
            Attempt::Known { id, .. } => id.as_str(),
            Attempt::Ended(e) => e.id.as_str(),
            Attempt::Absent => "",
        };
        ContainerStatus {
            name: container.name.clone(),
            state,
            last_state: last.map(terminated),
            ready,
            restart_count: entry.attempt,
            image: container.image.clone(),
            image_id: current.map(|i| i.image_id.clone()).unwrap_or_default(),
            container_id: docker_id(id),
        }
    }

    fn goes_on(&self, container: &Container, entry: &ContainerBook, ended: &Ended) -> bool {
        self.desired.mode == Mode::Run
            && !self.book.phase.is_final()
            && will_restart(self.desired, &container.name, entry, ended)
    }

    /// Whether a failure of `at_ms` still shows its own reason.
    fn fresh(&self, at_ms: u64, delay_ms: u64, wake: &mut Wake) -> bool {
        let until = at_ms.saturating_add(self.settings.fresh_error_ms.min(delay_ms / 2));
        wake.at(until);
        self.now_ms < until
    }

    fn backing_off(
        &self,
        container: &Container,
        entry: &ContainerBook,
        ended: &Ended,
        wake: &mut Wake,
    ) -> ContainerState {
        if ended.reason == "StartError" && self.fresh(ended.observed_ms, entry.delay_ms, wake) {
            return waiting("RunContainerError", ended.message.clone());
        }
        let message = back_off(self.desired, &container.name, entry.delay_ms, ended);
        waiting("CrashLoopBackOff", message)
    }

    fn absent(&self, container: &Container, entry: &ContainerBook, wake: &mut Wake) -> ContainerState {
        if let Some(hold) = self.book.holds.get(&(HoldKind::Create, container.name.clone()))
            && let Some(why) = &hold.words
        {
            let reason = if hold.config {
                "CreateContainerConfigError"
            } else {
                "CreateContainerError"
            };
            return waiting(reason, why.clone());
        }
        if let Some(far) = self.observed.pulling.get(&container.name) {
            return waiting("ContainerCreating", far.clone());
        }
        if let Image::Failed {
            words,
            never,
            at_ms,
            delay_ms,
            ..
        } = &entry.image
        {
            return if *never {
                waiting("ErrImageNeverPull", words.clone())
            } else if self.fresh(*at_ms, *delay_ms, wake) {
                waiting("ErrImagePull", words.clone())
            } else {
                let message = format!(
                    "back-off {} pulling image {:?}: {words}",
                    seconds(*delay_ms),
                    container.image
                );
                waiting("ImagePullBackOff", message)
            };
        }
        if let Some(why) = words(self.book, HoldKind::Image, &container.name) {
            return waiting("ImageInspectError", why);
        }
        if let Some(why) = self.sandbox_words() {
            return waiting("CreateContainerError", format!("sandbox: {why}"));
        }
        waiting("ContainerCreating", String::new())
    }

    /// Why the sandbox is not there, if something is wrong with it.
    fn sandbox_words(&self) -> Option<String> {
        let entry = self.book.containers.get(SANDBOX)?;
        match &entry.state {
            Attempt::Absent => words(self.book, HoldKind::Create, SANDBOX),
            Attempt::Ended(e) if e.reason == "StartError" => Some(e.message.clone()),
            Attempt::Known {
                running_since_ms: None,
                id,
                ..
            } => words(self.book, HoldKind::Start, id),
            Attempt::Known { .. } | Attempt::Ended(_) => None,
        }
    }
}

fn waiting(reason: &str, message: String) -> ContainerState {
    ContainerState::Waiting(ContainerStateWaiting {
        reason: reason.into(),
        message,
    })
}

fn docker_id(id: &str) -> String {
    if id.is_empty() {
        String::new()
    } else {
        format!("docker://{id}")
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState::Terminated(ContainerStateTerminated {
        exit_code: ended.exit_code,
        signal: signal(ended.exit_code),
        reason: ended.reason.clone(),
        message: ended.message.clone(),
        started_at: ended.started_at,
        finished_at: ended.finished_at,
        container_id: docker_id(&ended.id),
    })
}

fn conditions(book: &PodBook, desired: &PodDesired, statuses: &[ContainerStatus]) -> Vec<PodCondition> {
    let since = Some(Time::from_millis(book.ready_since_ms));
    let unready: Vec<_> = statuses.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let (status, reason, message) = if book.ready {
        (ConditionStatus::True, "", String::new())
    } else {
        let reason = match book.phase {
            Phase::Succeeded => "PodCompleted",
            Phase::Failed => "PodFailed",
            Phase::Pending | Phase::Running => "ContainersNotReady",
        };
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        (ConditionStatus::False, reason, message)
    };
    let ready = |kind: &str| PodCondition {
        kind: kind.into(),
        status,
        reason: reason.into(),
        message: message.clone(),
        last_transition_time: since,
    };
    let scheduled = PodCondition {
        kind: "PodScheduled".into(),
        status: ConditionStatus::True,
        reason: String::new(),
        message: String::new(),
        last_transition_time: Some(Time::from_millis(desired.accepted_ms)),
    };
    vec![scheduled, ready("ContainersReady"), ready("Ready")]
}
