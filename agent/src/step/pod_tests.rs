//! Table tests of [`super::step`]: adoption, stops, sandboxes, and what others do behind the agent's back.

use proto::{
    ids::SANDBOX,
    model::{EnvVar, EnvVarSource, ObjectFieldSelector, Phase, RestartPolicy},
};

use super::{testing::*, *};
use crate::runtime::State;

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
    pod.until_running(NOW);
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
    pod.until_running(NOW);
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
        drain_until_ms: 0,
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
        drain_until_ms: 0,
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
        pulling: &BTreeMap::new(),
        health: &BTreeMap::new(),
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
        drain_until_ms: 0,
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
    pod.until_running(NOW);
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
