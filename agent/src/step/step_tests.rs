//! Table tests of [`super::step`]: what is seen, and what is done and said about it.

use proptest::prelude::*;
use proto::{
    ids::SANDBOX,
    model::{
        Container, ContainerState, EnvVar, EnvVarSource, ObjectFieldSelector, Phase, PullPolicy, RestartPolicy, Time,
    },
};

use super::*;
use crate::runtime::{Exit, Owner, RuntimeError, State};

/// A moment of whole seconds, so that engine times and the clock agree.
const NOW: u64 = 1_700_000_000_000;

pub(super) fn desired(containers: &[&str]) -> PodDesired {
    let spec = PodSpec {
        containers: containers
            .iter()
            .map(|name| Container {
                name: (*name).into(),
                image: "app:1".into(),
                ..Container::default()
            })
            .collect(),
        ..PodSpec::default()
    };
    PodDesired {
        uid: "u1".into(),
        namespace: "default".into(),
        name: "web".into(),
        spec: Arc::new(spec),
        invalid: None,
        mode: Mode::Run,
        accepted_ms: NOW,
    }
}

fn with(policy: RestartPolicy, pull: Option<PullPolicy>) -> PodDesired {
    let mut d = desired(&["c"]);
    let mut spec = (*d.spec).clone();
    spec.restart_policy = policy;
    spec.containers[0].image_pull_policy = pull;
    d.spec = Arc::new(spec);
    d
}

fn info(container: &str, attempt: u32, state: State) -> ContainerInfo {
    ContainerInfo {
        id: format!("{container}{attempt}"),
        owner: Owner {
            uid: "u1".into(),
            container: container.into(),
            attempt,
            ..Owner::default()
        },
        state,
        image: "app:1".into(),
        image_id: "sha256:1".into(),
        ip: "172.17.0.2".into(),
    }
}

fn running(at_ms: u64) -> State {
    State::Running {
        started_at: Some(Time::from_millis(at_ms)),
    }
}

fn exited(code: i32, ran_s: i64) -> State {
    let end = Time::from_millis(NOW);
    State::Exited(Exit {
        code,
        started_at: Some(Time(end.0 - ran_s)),
        finished_at: Some(end),
        ..Exit::default()
    })
}

struct Pod {
    desired: PodDesired,
    book: PodBook,
    settings: StepSettings,
    notes: Vec<Note>,
}

impl Pod {
    fn new(desired: PodDesired) -> Self {
        Self {
            desired,
            book: PodBook::default(),
            settings: StepSettings::default(),
            notes: Vec::new(),
        }
    }

    fn step(&mut self, containers: &[ContainerInfo], now_ms: u64) -> Step {
        let look = |book: &PodBook| {
            let observed = PodObserved {
                book,
                containers,
                host_ip: "10.0.0.1",
                in_flight: false,
            };
            step(&self.desired, observed, now_ms, &self.settings)
        };
        let first = look(&self.book);
        let again = look(&first.book);
        assert_eq!(
            (&again.actions, &again.view, &again.book, again.wake_at_ms),
            (&first.actions, &first.view, &first.book, first.wake_at_ms),
            "a second step changes nothing"
        );
        assert_eq!(again.notes, [], "nothing is told twice");
        self.book = first.book.clone();
        self.notes.extend(first.notes.clone());
        first
    }

    fn record(&mut self, action: &Action, outcome: Outcome, now_ms: u64) {
        let (book, notes) = record(
            self.book.clone(),
            &self.desired,
            action,
            &outcome,
            now_ms,
            &self.settings,
        );
        self.book = book;
        self.notes.extend(notes);
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.notes.iter().map(|n| n.reason).collect()
    }

    /// Steps with nothing there until a create is due, the image being present.
    fn to_create(&mut self, now_ms: u64) -> Action {
        let check = only(&self.step(&[], now_ms));
        assert!(matches!(check, Action::CheckImage { .. }), "{check:?}");
        self.record(&check, Outcome::Image(Some("sha256:1".into())), now_ms);
        only(&self.step(&[], now_ms))
    }

    /// Runs attempt 0 of container `c` from `now_ms` on.
    fn to_running(&mut self, now_ms: u64) -> ContainerInfo {
        let create = self.to_create(now_ms);
        self.record(&create, Outcome::Created("c0".into()), now_ms);
        let start = only(&self.step(&[info("c", 0, State::Created)], now_ms));
        self.record(&start, Outcome::Done, now_ms);
        let up = info("c", 0, running(now_ms));
        assert_eq!(self.step(std::slice::from_ref(&up), now_ms).actions, []);
        up
    }
}

fn only(step: &Step) -> Action {
    assert_eq!(step.actions.len(), 1, "{:?}", step.actions);
    step.actions[0].clone()
}

fn state_of(step: &Step) -> String {
    describe(&step.view.status.container_statuses[0].state)
}

fn describe(state: &ContainerState) -> String {
    match state {
        ContainerState::Waiting(w) => format!("Waiting {}", w.reason),
        ContainerState::Running(_) => "Running".into(),
        ContainerState::Terminated(t) => format!("Terminated {} {}", t.reason, t.exit_code),
    }
}

fn message_of(step: &Step) -> String {
    match &step.view.status.container_statuses[0].state {
        ContainerState::Waiting(w) => w.message.clone(),
        ContainerState::Running(_) => String::new(),
        ContainerState::Terminated(t) => t.message.clone(),
    }
}

#[test]
fn from_nothing_to_ready() {
    let mut pod = Pod::new(desired(&["c"]));
    let first = pod.step(&[], NOW);
    assert_eq!(first.view.status.phase, Phase::Pending);
    assert_eq!(state_of(&first), "Waiting ContainerCreating");
    let up = pod.to_running(NOW);
    let running = pod.step(std::slice::from_ref(&up), NOW + 4_999);
    assert_eq!(running.view.status.phase, Phase::Running);
    assert!(!running.view.status.ready());
    // The engine's start time has whole seconds, so it may count for a second more.
    let ready_at = running.wake_at_ms.expect("waits for readiness");
    assert!((NOW + 5_000..=NOW + 5_999).contains(&ready_at));
    let ready = pod.step(&[up], ready_at);
    assert!(ready.view.status.ready());
    assert_eq!(ready.wake_at_ms, None);
    assert_eq!(ready.view.status.pod_ip, "172.17.0.2");
    assert_eq!(ready.view.status.host_ip, "10.0.0.1");
    assert_eq!(ready.view.status.container_statuses[0].container_id, "docker://c0");
    assert_eq!(pod.reasons(), ["Pulled", "Created", "Started"]);
}

#[test]
fn pull_policies() {
    // (policy, image present) → actions until a create or a wait, state then
    for (policy, present, expected, state) in [
        (
            Some(PullPolicy::IfNotPresent),
            true,
            "check-image create",
            "Waiting ContainerCreating",
        ),
        (
            Some(PullPolicy::IfNotPresent),
            false,
            "check-image pull",
            "Waiting ErrImagePull",
        ),
        (Some(PullPolicy::Always), true, "pull", "Waiting ErrImagePull"),
        (Some(PullPolicy::Always), false, "pull", "Waiting ErrImagePull"),
        (
            Some(PullPolicy::Never),
            true,
            "check-image create",
            "Waiting ContainerCreating",
        ),
        (
            Some(PullPolicy::Never),
            false,
            "check-image",
            "Waiting ErrImageNeverPull",
        ),
        (None, false, "check-image pull", "Waiting ErrImagePull"),
    ] {
        let mut pod = Pod::new(with(RestartPolicy::Always, policy));
        let mut done = Vec::new();
        let last = loop {
            let s = pod.step(&[], NOW);
            let Some(action) = s.actions.first().cloned() else {
                break s;
            };
            done.push(action.verb());
            let outcome = match action {
                Action::CheckImage { .. } => Outcome::Image(present.then(|| "sha256:1".into())),
                // No registry is there.
                Action::Pull { .. } => Outcome::Failed(RuntimeError::Refused("no registry".into())),
                _ => break s,
            };
            pod.record(&action, outcome, NOW);
        };
        assert_eq!(done.join(" "), expected, "{policy:?} {present}");
        assert_eq!(state_of(&last), state, "{policy:?} {present}");
    }
}

#[test]
fn image_backoff_doubles_and_heals_when_the_image_appears() {
    let mut pod = Pod::new(desired(&["c"]));
    let mut now = NOW;
    for expected_s in [10, 20, 40, 80, 160, 300, 300] {
        // Looks for the image every ten seconds meanwhile, but does not pull.
        let pull = loop {
            let s = pod.step(&[], now);
            match s.actions.first() {
                Some(pull @ Action::Pull { .. }) => break pull.clone(),
                Some(check) => pod.record(&check.clone(), Outcome::Image(None), now),
                None => now = s.wake_at_ms.expect("a wake-up"),
            }
        };
        let words = "manifest unknown".to_owned();
        pod.record(&pull, Outcome::Failed(RuntimeError::Refused(words)), now);
        let s = pod.step(&[], now);
        assert_eq!(state_of(&s), "Waiting ErrImagePull");
        assert_eq!(message_of(&s), "manifest unknown");
        let later = pod.step(&[], now + 2_000);
        assert_eq!(state_of(&later), "Waiting ImagePullBackOff");
        assert!(message_of(&later).contains("manifest unknown"));
        let Image::Failed { retry_at_ms, .. } = pod.book.containers["c"].image else {
            panic!("failed");
        };
        assert_eq!(retry_at_ms - now, expected_s * 1000);
    }
    let wake = pod.step(&[], now + 2_000).wake_at_ms.expect("a wake-up");
    assert_eq!(wake, now + 10_000);
    let check = only(&pod.step(&[], wake));
    pod.record(&check, Outcome::Image(Some("sha256:1".into())), wake);
    assert!(matches!(only(&pod.step(&[], wake)), Action::Create { .. }));
}

#[test]
fn restarts_at_once_then_backs_off_and_resets_after_a_long_run() {
    let mut pod = Pod::new(desired(&["c"]));
    pod.to_running(NOW);
    let mut now = NOW;
    for (attempt, expected_s) in [0, 10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        let attempt = u32::try_from(attempt).expect("small");
        let dead = info("c", attempt, exited(1, 1));
        let s = pod.step(std::slice::from_ref(&dead), now);
        if expected_s > 0 {
            assert_eq!(s.actions, [], "attempt {attempt}");
            assert_eq!(state_of(&s), "Waiting CrashLoopBackOff");
            let last = &s.view.status.container_statuses[0].last_state;
            assert_eq!(last.as_ref().map(describe).as_deref(), Some("Terminated Error 1"));
            assert_eq!(s.wake_at_ms, Some(now + expected_s * 1000));
            assert_eq!(s.view.status.phase, Phase::Running);
            let early = pod.step(std::slice::from_ref(&dead), now + expected_s * 1000 - 1);
            assert_eq!(early.actions, []);
        }
        now += expected_s * 1000;
        let check = only(&pod.step(std::slice::from_ref(&dead), now));
        pod.record(&check, Outcome::Image(Some(String::new())), now);
        let s = pod.step(std::slice::from_ref(&dead), now);
        assert!(matches!(&s.actions[0], Action::Create { attempt: n, .. } if *n == attempt + 1));
        assert_eq!(s.view.status.container_statuses[0].restart_count, attempt + 1);
        let create = s.actions[0].clone();
        pod.record(&create, Outcome::Created(format!("c{}", attempt + 1)), now);
        pod.step(&[dead, info("c", attempt + 1, running(now))], now);
    }
    // Ten minutes of running: at once again.
    let dead = info("c", 8, exited(1, 600));
    assert!(matches!(
        only(&pod.step(&[dead], now + 600_000)),
        Action::CheckImage { .. }
    ));
}

#[test]
fn restart_policies() {
    for (policy, code, restarts, phase) in [
        (RestartPolicy::Always, 0, true, Phase::Running),
        (RestartPolicy::Always, 1, true, Phase::Running),
        (RestartPolicy::OnFailure, 0, false, Phase::Succeeded),
        (RestartPolicy::OnFailure, 1, true, Phase::Running),
        (RestartPolicy::Never, 0, false, Phase::Succeeded),
        (RestartPolicy::Never, 1, false, Phase::Failed),
    ] {
        let mut pod = Pod::new(with(policy, None));
        pod.to_running(NOW);
        let s = pod.step(&[info("c", 0, exited(code, 3))], NOW + 3_000);
        assert_eq!(!s.actions.is_empty(), restarts, "{policy:?} {code}");
        assert_eq!(s.view.status.phase, phase, "{policy:?} {code}");
        // Final stays final, even when the dead container goes too.
        let s = pod.step(&[], NOW + 4_000);
        assert_eq!(!s.actions.is_empty(), restarts);
        assert_eq!(s.view.status.phase, phase);
    }
}

#[test]
fn words_for_exits() {
    for (exit, expected, signal) in [
        (
            Exit {
                code: 0,
                ..Exit::default()
            },
            "Terminated Completed 0",
            None,
        ),
        (
            Exit {
                code: 3,
                ..Exit::default()
            },
            "Terminated Error 3",
            None,
        ),
        (
            Exit {
                code: 137,
                oom: true,
                ..Exit::default()
            },
            "Terminated OOMKilled 137",
            Some(9),
        ),
        (
            Exit {
                code: 137,
                ..Exit::default()
            },
            "Terminated Error 137",
            Some(9),
        ),
        // A child was killed for memory; the container itself went on.
        (
            Exit {
                code: 0,
                oom: true,
                ..Exit::default()
            },
            "Terminated Completed 0",
            None,
        ),
        (
            Exit {
                code: 143,
                ..Exit::default()
            },
            "Terminated Error 143",
            Some(15),
        ),
        (
            Exit {
                code: 127,
                ..Exit::default()
            },
            "Terminated StartError 127",
            None,
        ),
        (
            Exit {
                code: 255,
                ..Exit::default()
            },
            "Terminated Error 255",
            None,
        ),
    ] {
        let mut pod = Pod::new(with(RestartPolicy::Never, None));
        pod.to_running(NOW);
        let s = pod.step(&[info("c", 0, State::Exited(exit.clone()))], NOW);
        assert_eq!(state_of(&s), expected);
        let ContainerState::Terminated(t) = &s.view.status.container_statuses[0].state else {
            panic!("terminated");
        };
        assert_eq!(t.signal, signal, "{exit:?}");
    }
}

#[test]
fn a_refused_start_uses_the_attempt_up() {
    let mut pod = Pod::new(desired(&["c"]));
    let create = pod.to_create(NOW);
    pod.record(&create, Outcome::Created("c0".into()), NOW);
    let mut dead = vec![info("c", 0, State::Created)];
    let start = only(&pod.step(&dead, NOW));
    let words = "exec: \"nosuch\": executable file not found in $PATH";
    pod.record(&start, Outcome::Failed(RuntimeError::Refused(words.into())), NOW);
    // The second attempt comes at once, the third after ten seconds.
    let check = only(&pod.step(&dead, NOW));
    pod.record(&check, Outcome::Image(Some(String::new())), NOW);
    let create = pod.step(&dead, NOW).actions[0].clone();
    assert!(matches!(create, Action::Create { attempt: 1, .. }));
    pod.record(&create, Outcome::Created("c1".into()), NOW);
    dead.push(info("c", 1, State::Created));
    let start = pod.step(&dead, NOW).actions[0].clone();
    pod.record(&start, Outcome::Failed(RuntimeError::Refused(words.into())), NOW);
    let s = pod.step(&dead, NOW);
    assert_eq!(state_of(&s), "Waiting RunContainerError");
    assert_eq!(message_of(&s), words);
    assert_eq!(
        s.actions,
        [Action::Remove {
            container: "c".into(),
            id: "c0".into()
        }]
    );
    let s = pod.step(&dead[1..], NOW + 5_000);
    assert_eq!(state_of(&s), "Waiting CrashLoopBackOff");
    assert!(message_of(&s).contains(words) && message_of(&s).contains("code 127"));
    assert_eq!(s.wake_at_ms, Some(NOW + 10_000));
}

#[test]
fn a_start_that_failed_but_took_effect_is_adopted() {
    for error in [
        RuntimeError::Unavailable("lost".into()),
        RuntimeError::Refused("what".into()),
    ] {
        let mut pod = Pod::new(desired(&["c"]));
        let create = pod.to_create(NOW);
        pod.record(&create, Outcome::Created("c0".into()), NOW);
        let start = only(&pod.step(&[info("c", 0, State::Created)], NOW));
        pod.record(&start, Outcome::Failed(error), NOW);
        let s = pod.step(&[info("c", 0, running(NOW))], NOW + 30_000);
        assert_eq!(s.actions, []);
        assert_eq!(state_of(&s), "Running");
        assert_eq!(s.view.status.container_statuses[0].restart_count, 0);
    }
}

#[test]
fn a_create_whose_reply_was_lost_is_repeated_not_doubled() {
    let mut pod = Pod::new(desired(&["c"]));
    let create = pod.to_create(NOW);
    let lost = Outcome::Failed(RuntimeError::Unavailable("lost".into()));
    pod.record(&create, lost, NOW);
    let s = pod.step(&[], NOW);
    assert_eq!((s.actions.len(), s.wake_at_ms), (0, Some(NOW + 1_000)));
    assert_eq!(only(&pod.step(&[], NOW + 1_000)), create, "the same attempt");
    // It was there after all.
    assert!(matches!(
        only(&pod.step(&[info("c", 0, State::Created)], NOW)),
        Action::Start { .. }
    ));
}

#[test]
fn a_refused_create_says_so_and_waits() {
    let mut pod = Pod::new(desired(&["c"]));
    let create = pod.to_create(NOW);
    let words = "Minimum memory limit allowed is 6MB";
    pod.record(&create, Outcome::Failed(RuntimeError::Refused(words.into())), NOW);
    let s = pod.step(&[], NOW);
    assert_eq!(state_of(&s), "Waiting CreateContainerError");
    assert_eq!(message_of(&s), words);
    assert_eq!(s.wake_at_ms, Some(NOW + 10_000));
    assert_eq!(s.view.status.phase, Phase::Pending);
    assert_eq!(only(&pod.step(&[], NOW + 10_000)), create);
}

#[test]
fn adoption_after_a_restart_of_the_agent() {
    // A running container of whatever attempt is adopted, and no restart is counted.
    for attempt in [0, 4] {
        let mut pod = Pod::new(desired(&["c"]));
        let s = pod.step(&[info("c", attempt, running(NOW - 60_000))], NOW);
        assert_eq!(s.actions, []);
        assert!(s.view.status.ready(), "it ran for a minute already");
        assert_eq!(s.view.status.container_statuses[0].restart_count, attempt);
    }
    // One that ended meanwhile is followed by the next attempt.
    let mut pod = Pod::new(desired(&["c"]));
    let s = pod.step(&[info("c", 4, exited(1, 60))], NOW);
    assert!(matches!(s.actions[0], Action::CheckImage { .. }));
    assert_eq!(pod.book.containers["c"].attempt, 5);
    // One that was created and never started is started.
    let mut pod = Pod::new(desired(&["c"]));
    let s = pod.step(&[info("c", 0, State::Created)], NOW);
    assert!(matches!(only(&s), Action::Start { .. }));
}

#[test]
fn removed_or_killed_behind_our_back() {
    let mut pod = Pod::new(desired(&["c"]));
    pod.to_running(NOW);
    let s = pod.step(&[], NOW + 60_000);
    assert!(matches!(only(&s), Action::CheckImage { .. }));
    let status = &s.view.status.container_statuses[0];
    assert_eq!(status.restart_count, 1);
    assert_eq!(
        status.last_state.as_ref().map(describe).as_deref(),
        Some("Terminated ContainerRemoved 137")
    );
    assert_eq!(pod.notes.last().map(|n| (n.reason, n.warning)), Some(("Removed", true)));

    let mut pod = Pod::new(desired(&["c"]));
    pod.to_running(NOW);
    pod.step(&[info("c", 0, exited(137, 60))], NOW + 60_000);
    assert_eq!(pod.notes.last().map(|n| (n.reason, n.warning)), Some(("Killed", true)));
}

#[test]
fn a_stop_ends_everything_once_and_only_stops_and_removes() {
    let mut pod = Pod::new(desired(&["a", "b"]));
    let all = [
        info(SANDBOX, 0, running(NOW)),
        info("a", 0, running(NOW)),
        info("b", 0, running(NOW)),
    ];
    assert_eq!(pod.step(&all, NOW).actions, []);
    pod.desired.mode = Mode::Stop {
        grace_ms: 7_000,
        reason: "scaled down".into(),
    };
    let s = pod.step(&all, NOW);
    let stops: Vec<_> = s.actions.iter().map(|a| (a.verb(), a.container())).collect();
    assert_eq!(stops, [("stop", "a"), ("stop", "b")], "the sandbox goes last");
    assert!(matches!(s.actions[0], Action::Stop { grace_ms: 7_000, .. }));
    assert!(!s.view.stopped && !s.view.status.ready());
    let left = [all[0].clone(), info("a", 0, exited(0, 1)), info("b", 0, exited(143, 1))];
    let s = pod.step(&left, NOW);
    assert!(matches!(only(&s), Action::Stop { .. }));
    let dead = [info(SANDBOX, 0, exited(143, 1)), left[1].clone(), left[2].clone()];
    let s = pod.step(&dead, NOW);
    assert!(s.view.stopped && !s.view.gone);
    assert_eq!(s.view.status.phase, Phase::Failed);
    assert_eq!(s.actions.len(), 3);
    assert!(s.actions.iter().all(|a| matches!(a, Action::Remove { .. })));
    let s = pod.step(&[], NOW);
    assert!(s.view.stopped && s.view.gone);
    assert_eq!(s.actions, []);
}

#[test]
fn a_stop_before_anything_was_made_is_done_at_once() {
    let mut pod = Pod::new(desired(&["c"]));
    pod.desired.mode = Mode::Stop {
        grace_ms: 0,
        reason: String::new(),
    };
    let s = pod.step(&[], NOW);
    assert!(s.view.stopped && s.view.gone && s.actions.is_empty());
    // One that never started is removed first: it could still come to run.
    let s = pod.step(&[info("c", 0, State::Created)], NOW);
    assert!(!s.view.stopped);
    assert!(matches!(only(&s), Action::Remove { .. }));
    // While a create or a start is under way, nothing is said to be over.
    let observed = PodObserved {
        book: &pod.book,
        containers: &[],
        host_ip: "",
        in_flight: true,
    };
    let s = step(&pod.desired, observed, NOW, &pod.settings);
    assert!(!s.view.stopped && !s.view.gone);
}

#[test]
fn a_stop_entry_for_a_pod_without_a_known_spec() {
    let mut pod = Pod::new(desired(&[]));
    pod.desired.mode = Mode::Stop {
        grace_ms: 0,
        reason: "unknown to the coordinator".into(),
    };
    let s = pod.step(&[info("x", 3, running(NOW))], NOW);
    assert!(matches!(only(&s), Action::Stop { .. }));
    let s = pod.step(&[info("x", 3, exited(0, 1))], NOW);
    assert!(s.view.stopped);
    assert!(matches!(only(&s), Action::Remove { .. }));
}

#[test]
fn a_forgotten_pod_is_never_stopped() {
    let mut pod = Pod::new(desired(&["a", "b"]));
    pod.desired.mode = Mode::Forget;
    let up = info("a", 0, running(NOW));
    let s = pod.step(&[up, info("b", 0, exited(1, 1))], NOW);
    assert_eq!(s.actions, []);
    assert!(!s.view.gone && !s.view.stopped);
    let s = pod.step(&[info("a", 0, exited(1, 1)), info("b", 0, exited(1, 1))], NOW);
    assert_eq!(s.actions.len(), 2, "not restarted, cleaned up");
    assert!(s.actions.iter().all(|a| matches!(a, Action::Remove { .. })));
}

#[test]
fn the_sandbox_comes_first_and_takes_the_pod_with_it() {
    let mut pod = Pod::new(desired(&["a", "b"]));
    let s = pod.step(&[], NOW);
    assert!(matches!(&s.actions[..], [Action::Create { container, .. }] if container == SANDBOX));
    pod.record(&s.actions[0], Outcome::Created("POD0".into()), NOW);
    let start = only(&pod.step(&[info(SANDBOX, 0, State::Created)], NOW));
    pod.record(&start, Outcome::Done, NOW);
    let sandbox = info(SANDBOX, 0, running(NOW));
    let s = pod.step(std::slice::from_ref(&sandbox), NOW);
    assert_eq!(s.actions.len(), 2, "both images are looked for at once");
    for action in &s.actions {
        pod.record(action, Outcome::Image(Some(String::new())), NOW);
    }
    let s = pod.step(std::slice::from_ref(&sandbox), NOW);
    assert!(
        s.actions.iter().all(
            |a| matches!(a, Action::Create { join: Some(id), pod_ip, .. } if id == "POD0" && pod_ip == "172.17.0.2")
        )
    );
    let up = [info("a", 0, running(NOW)), info("b", 0, running(NOW))];
    let all = [sandbox, up[0].clone(), up[1].clone()];
    assert_eq!(pod.step(&all, NOW).view.status.phase, Phase::Running);
    // The sandbox dies: its containers go first, then a new one comes, then new attempts.
    let dead = info(SANDBOX, 0, exited(137, 1));
    let s = pod.step(&[dead.clone(), up[0].clone(), up[1].clone()], NOW);
    assert_eq!(s.actions.len(), 2);
    assert!(s.actions.iter().all(|a| matches!(
        a,
        Action::Stop {
            why: Why::SandboxGone,
            ..
        }
    )));
    let ended = [info("a", 0, exited(0, 1)), info("b", 0, exited(143, 1))];
    let s = pod.step(&[dead, ended[0].clone(), ended[1].clone()], NOW);
    assert!(matches!(&s.actions[0], Action::Create { container, attempt: 1, .. } if container == SANDBOX));
    let new = info(SANDBOX, 1, running(NOW));
    let s = pod.step(&[new, ended[0].clone(), ended[1].clone()], NOW);
    assert_eq!(s.actions.len(), 2);
    let counts: Vec<_> = s
        .view
        .status
        .container_statuses
        .iter()
        .map(|c| c.restart_count)
        .collect();
    assert_eq!(counts, [1, 1]);
}

#[test]
fn a_container_of_the_old_sandbox_that_never_ran_is_made_anew() {
    let mut pod = Pod::new(desired(&["a", "b"]));
    let dead = info(SANDBOX, 0, exited(137, 1));
    let s = pod.step(&[dead, info("a", 0, State::Created)], NOW);
    assert!(matches!(only(&s), Action::Remove { .. }));
    let s = pod.step(&[info(SANDBOX, 1, running(NOW))], NOW);
    assert_eq!(s.actions.len(), 2);
    assert_eq!(s.view.status.container_statuses[0].restart_count, 0);
}

#[test]
fn after_a_dead_sandbox_even_success_is_run_again_unless_never() {
    for (policy, again) in [(RestartPolicy::OnFailure, true), (RestartPolicy::Never, false)] {
        let mut pod = Pod::new(desired(&["a", "b"]));
        let mut spec = (*pod.desired.spec).clone();
        spec.restart_policy = policy;
        pod.desired.spec = Arc::new(spec);
        let up = [info("a", 0, running(NOW)), info("b", 0, running(NOW))];
        pod.step(&[info(SANDBOX, 0, running(NOW)), up[0].clone(), up[1].clone()], NOW);
        let dead = info(SANDBOX, 0, exited(1, 1));
        pod.step(&[dead.clone(), up[0].clone(), up[1].clone()], NOW);
        let s = pod.step(&[dead, info("a", 0, exited(0, 1)), info("b", 0, exited(0, 1))], NOW);
        assert_eq!(!s.actions.is_empty(), again, "{policy:?}");
        assert_eq!(s.view.status.phase.is_final(), !again);
    }
}

#[test]
fn when_all_have_ended_the_sandbox_goes() {
    let mut pod = Pod::new(desired(&["a", "b"]));
    let mut spec = (*pod.desired.spec).clone();
    spec.restart_policy = RestartPolicy::Never;
    pod.desired.spec = Arc::new(spec);
    let s = pod.step(
        &[
            info(SANDBOX, 0, running(NOW)),
            info("a", 0, exited(0, 1)),
            info("b", 0, exited(0, 1)),
        ],
        NOW,
    );
    assert!(matches!(only(&s), Action::Stop { why: Why::PodEnded, .. }));
    assert_eq!(s.view.status.phase, Phase::Succeeded);
    let end = [
        info(SANDBOX, 0, exited(143, 1)),
        info("a", 0, exited(0, 1)),
        info("b", 0, exited(0, 1)),
    ];
    assert_eq!(pod.step(&end, NOW + 60_000).actions, []);
}

#[test]
fn a_sandbox_only_where_one_is_needed() {
    assert!(!needs_sandbox(&desired(&["c"]).spec));
    assert!(needs_sandbox(&desired(&["c", "d"]).spec));
    let mut spec = (*desired(&["c"]).spec).clone();
    let from = |path: &str| EnvVar {
        name: "X".into(),
        value_from: Some(EnvVarSource {
            field_ref: ObjectFieldSelector {
                field_path: path.into(),
                ..ObjectFieldSelector::default()
            },
        }),
        ..EnvVar::default()
    };
    spec.containers[0].env = vec![from("status.hostIP")];
    assert!(!needs_sandbox(&spec));
    spec.containers[0].env.push(from("status.podIP"));
    assert!(needs_sandbox(&spec));
}

#[test]
fn keeps_the_newest_dead_attempt() {
    let mut pod = Pod::new(desired(&["c"]));
    let s = pod.step(
        &[
            info("c", 0, exited(1, 1)),
            info("c", 1, State::Created),
            info("c", 2, exited(1, 1)),
            info("c", 3, running(NOW)),
        ],
        NOW,
    );
    let removed: Vec<_> = s.actions.iter().map(|a| format!("{a:?}")).collect();
    assert_eq!(s.actions.len(), 2, "{removed:?}");
    assert!(removed[0].contains("c0") && removed[1].contains("c1"));
}

#[test]
fn an_older_attempt_that_was_revived_is_stopped() {
    let mut pod = Pod::new(desired(&["c"]));
    let s = pod.step(&[info("c", 0, running(NOW)), info("c", 1, running(NOW))], NOW);
    assert!(matches!(&only(&s), Action::Stop { id, why: Why::OlderAttempt, .. } if id == "c0"));
    // One that comes back to life before its successor was made is simply the current one.
    let mut pod = Pod::new(desired(&["c"]));
    pod.to_running(NOW);
    pod.step(&[info("c", 0, exited(1, 1))], NOW);
    let attempt = pod.book.containers["c"].attempt;
    let s = pod.step(&[info("c", 0, running(NOW))], NOW + 1_000);
    assert!(attempt == 1 && s.actions.iter().all(|a| !matches!(a, Action::Create { .. })));
}

#[test]
fn an_action_without_visible_effect_is_not_repeated_at_once() {
    let mut pod = Pod::new(desired(&["c"]));
    let created = [info("c", 0, State::Created)];
    let mut now = NOW;
    for expected_s in [1, 2, 4, 8, 16, 30, 30] {
        let start = only(&pod.step(&created, now));
        pod.record(&start, Outcome::Done, now);
        let s = pod.step(&created, now);
        assert_eq!((s.actions.len(), s.wake_at_ms), (0, Some(now + expected_s * 1000)));
        now += expected_s * 1000;
    }
}

#[test]
fn an_unusable_spec_is_said_and_nothing_is_done() {
    let mut pod = Pod::new(desired(&["c"]));
    pod.desired.invalid = Some("spec.volumes: unknown field".into());
    let s = pod.step(&[], NOW);
    assert_eq!(s.actions, []);
    assert_eq!(s.view.status.reason, "InvalidSpec");
    assert_eq!(s.view.status.message, "spec.volumes: unknown field");
}

#[test]
fn the_book_says_when_it_must_be_on_disk_first() {
    let mut before = PodBook::default();
    before.containers.insert("c".into(), ContainerBook::default());
    let mut after = before.clone();
    assert!(!after.must_persist_after(&before));
    after.containers.get_mut("c").expect("there").attempt = 1;
    assert!(after.must_persist_after(&before) && !after.must_persist_after(&after));
    let mut ended = before.clone();
    ended.phase = Phase::Failed;
    assert!(ended.must_persist_after(&before) && ended.differs_on_disk(&before));
    let mut held = before.clone();
    let hold = Hold {
        until_ms: 1,
        level: 1,
        words: None,
    };
    held.holds.insert((HoldKind::Create, "c".into()), hold);
    assert!(!held.differs_on_disk(&before));
}

proptest! {
    #[test]
    fn backoffs_double_and_never_pass_their_maximum(initial in 1u64..100_000, max in 1u64..1_000_000, level in 0u32..200) {
        let backoff = Backoff { initial_ms: initial, max_ms: max };
        let (delay, next) = (backoff.delay_ms(level), backoff.delay_ms(level + 1));
        prop_assert!(delay <= next && next <= max);
        prop_assert!(next <= delay.saturating_mul(2).max(initial));
        prop_assert_eq!(delay == 0, level == 0);
    }
}
