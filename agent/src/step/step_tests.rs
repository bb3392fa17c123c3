//! Table tests of [`super::step`]: from an image to a running container, and what its end means.

use proptest::prelude::*;
use proto::model::{ContainerState, Phase, PullPolicy, RestartPolicy};

use super::{testing::*, *};
use crate::runtime::{Exit, RuntimeError, State};

#[test]
fn from_nothing_to_ready() {
    let mut pod = Pod::new(desired(&["c"]));
    let first = pod.step(&[], NOW);
    assert_eq!(first.view.status.phase, Phase::Pending);
    assert_eq!(state_of(&first), "Waiting ContainerCreating");
    let up = pod.until_running(NOW);
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
fn an_absent_image_is_looked_for_in_its_own_time_whatever_the_policy() {
    for policy in [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never] {
        let mut pod = Pod::new(with(RestartPolicy::Always, Some(policy)));
        let (mut now, mut asked) = (NOW, 0);
        // An hour, with nobody to pull from.
        while now < NOW + 3_600_000 {
            let s = pod.step(&[], now);
            let Some(action) = s.actions.first().cloned() else {
                now = s.wake_at_ms.expect("a wake-up");
                continue;
            };
            asked += 1;
            assert!(
                asked <= 400,
                "{policy:?}: asked {asked} times in {} s",
                (now - NOW) / 1000
            );
            let outcome = match action {
                Action::CheckImage { .. } => Outcome::Image(None),
                _ => Outcome::Failed(RuntimeError::Refused("no registry".into())),
            };
            pod.record(&action, outcome, now);
        }
        assert!(asked >= 12, "{policy:?}: asked only {asked} times");
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
    pod.until_running(NOW);
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
        pod.until_running(NOW);
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
        pod.until_running(NOW);
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
    let create = pod.until_create(NOW);
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
        let create = pod.until_create(NOW);
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
    let create = pod.until_create(NOW);
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
    let create = pod.until_create(NOW);
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
        config: false,
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
