//! Table tests of what [`super::step`] makes of findings: readiness, and the end of what is not healthy.

use proto::model::{ConditionStatus, RestartPolicy};

use super::{testing::*, *};
use crate::runtime::State;

/// A pod of container `c` with these fields too.
fn probed(fields: &str) -> Pod {
    let mut desired = desired(&["c"]);
    let json = format!(r#"{{"containers":[{{"name":"c","image":"app:1",{fields}}}]}}"#);
    desired.spec = Arc::new(serde_json::from_str(&json).expect("a spec"));
    Pod::new(desired)
}

const READINESS: &str = r#""readinessProbe":{"tcpSocket":{"port":80}}"#;
const STARTUP: &str = r#""startupProbe":{"tcpSocket":{"port":80}}"#;
const LIVENESS: &str = r#""livenessProbe":{"tcpSocket":{"port":80},"terminationGracePeriodSeconds":7}"#;

fn health(id: &str, started: bool, ready: bool) -> Health {
    Health {
        id: id.into(),
        started,
        ready,
        failed: None,
    }
}

fn unwell(id: &str, probe: &str, grace_seconds: Option<i64>) -> Health {
    Health {
        failed: Some(Failed {
            probe: probe.into(),
            grace_seconds,
        }),
        ..health(id, true, true)
    }
}

impl Pod {
    fn find(&mut self, health: Health) {
        self.health.insert("c".into(), health);
    }
}

/// After `READY_AFTER`.
const LATER: u64 = NOW + 60_000;

#[test]
fn when_a_container_is_ready() {
    let nothing = || None;
    let found = |started, ready| Some(health("c0", started, ready));
    for (fields, findings, at_ms, ready) in [
        // Without a readiness probe its time decides.
        (LIVENESS.to_owned(), nothing(), NOW + 1_000, false),
        (LIVENESS.to_owned(), nothing(), LATER, true),
        (STARTUP.to_owned(), nothing(), LATER, false),
        (STARTUP.to_owned(), found(false, false), LATER, false),
        (STARTUP.to_owned(), found(true, false), NOW + 1_000, false),
        (STARTUP.to_owned(), found(true, false), LATER, true),
        // With one, it alone.
        (READINESS.to_owned(), nothing(), LATER, false),
        (READINESS.to_owned(), found(true, false), LATER, false),
        (READINESS.to_owned(), found(true, true), NOW + 1_000, true),
        // Readiness without a start is no readiness.
        (format!("{STARTUP},{READINESS}"), found(false, true), LATER, false),
        (format!("{STARTUP},{READINESS}"), found(true, true), NOW + 1_000, true),
        // Findings about another attempt say nothing of this one.
        (READINESS.to_owned(), Some(health("other", true, true)), LATER, false),
        (
            format!("{READINESS},{LIVENESS}"),
            Some(unwell("c0", "liveness", None)),
            LATER,
            false,
        ),
    ] {
        let mut pod = probed(&fields);
        let up = pod.until_running(NOW);
        if let Some(findings) = findings.clone() {
            pod.find(findings);
        }
        let step = pod.step(std::slice::from_ref(&up), at_ms);
        assert_eq!(step.view.status.ready(), ready, "{fields} {findings:?} {at_ms}");
        assert_eq!(step.view.status.container_statuses[0].ready, ready);
    }
}

#[test]
fn readiness_comes_and_goes_with_the_probe_and_the_condition_says_since_when() {
    let mut pod = probed(READINESS);
    let up = pod.until_running(NOW);
    for (at_ms, ready) in [(NOW + 3_000, true), (NOW + 9_000, false), (NOW + 20_000, true)] {
        pod.find(health("c0", true, ready));
        let step = pod.step(std::slice::from_ref(&up), at_ms);
        let condition = step.view.status.condition("Ready").expect("there").clone();
        assert_eq!(condition.status == ConditionStatus::True, ready);
        assert_eq!(
            condition.last_transition_time,
            Some(proto::model::Time::from_millis(at_ms))
        );
        if !ready {
            assert_eq!(
                (condition.reason.as_str(), condition.message.as_str()),
                ("ContainersNotReady", "containers with unready status: [c]")
            );
        }
        assert_eq!(step.actions, [], "readiness stops nothing");
    }
}

#[test]
fn a_restart_of_the_agent_changes_nothing_of_what_was_found() {
    for known in [health("c0", true, true), health("c0", true, false)] {
        let mut pod = probed(&format!("{STARTUP},{READINESS}"));
        let up = pod.until_running(NOW);
        pod.find(known.clone());
        let before = pod.step(std::slice::from_ref(&up), NOW + 1_000).view;
        // The book is read back, and no probe has said anything yet.
        let text = serde_json::to_string(&pod.book).expect("text");
        pod.book = serde_json::from_str(&text).expect("reads back");
        pod.health.clear();
        let after = pod.step(std::slice::from_ref(&up), NOW + 90_000);
        assert_eq!(after.view.status.conditions, before.status.conditions);
        assert_eq!(after.targets[0].known, Some(known));
        // An attempt that replaced it meanwhile begins anew.
        let other = info("c", 1, running(NOW + 91_000));
        let step = pod.step(&[other], NOW + 91_000);
        assert!(!step.view.status.ready());
        assert_eq!(step.targets[0].known, None);
    }
}

#[test]
fn who_is_probed_and_where() {
    let mut pod = probed(READINESS);
    assert_eq!(pod.step(&[], NOW).targets, []);
    let up = pod.until_running(NOW);
    let target = pod.step(std::slice::from_ref(&up), NOW).targets;
    let since = target[0].running_since_ms;
    assert_eq!(
        (
            target[0].id.as_str(),
            target[0].ip.as_str(),
            target[0].container.as_str()
        ),
        ("c0", "172.17.0.2", "c")
    );
    assert!((NOW..NOW + 1000).contains(&since));
    pod.desired.mode = Mode::Stop {
        grace_ms: 1_000,
        drain_until_ms: NOW + 5_000,
        reason: String::new(),
    };
    assert_eq!(
        pod.step(std::slice::from_ref(&up), NOW).targets,
        [],
        "nothing of what is being stopped"
    );

    let mut host = probed(READINESS);
    let mut spec = (*host.desired.spec).clone();
    spec.host_network = true;
    host.desired.spec = Arc::new(spec);
    let up = host.until_running(NOW);
    assert_eq!(host.step(&[up], NOW).targets[0].ip, "10.0.0.1");

    let mut plain = probed(r#""ports":[{"containerPort":80}]"#);
    let up = plain.until_running(NOW);
    assert_eq!(plain.step(&[up], NOW).targets, []);
}

#[test]
fn what_is_not_alive_is_stopped_with_its_grace_and_restarted_as_a_crash() {
    for (failed, grace_ms) in [
        (unwell("c0", "liveness", Some(7)), 7_000),
        (unwell("c0", "startup", None), 30_000),
    ] {
        for (policy, restarts) in [
            (RestartPolicy::Always, true),
            // Even where it ends with code 0: it was not its own end.
            (RestartPolicy::OnFailure, true),
            (RestartPolicy::Never, false),
        ] {
            let mut pod = probed(&format!("{LIVENESS},{STARTUP}"));
            let mut spec = (*pod.desired.spec).clone();
            spec.restart_policy = policy;
            pod.desired.spec = Arc::new(spec);
            let up = pod.until_running(NOW);
            pod.find(failed.clone());
            let stop = only(&pod.step(std::slice::from_ref(&up), NOW + 20_000));
            let Action::Stop {
                grace_ms: grace, why, ..
            } = &stop
            else {
                panic!("{stop:?}")
            };
            assert_eq!(*grace, grace_ms);
            let probe = failed.failed.clone().expect("it has").probe;
            assert_eq!(*why, Why::Unhealthy(probe.clone()));
            let note = announce(&stop).expect("told");
            assert_eq!(note.reason, "Killing");
            assert!(
                note.message.contains(&format!("its {probe} probe failed")),
                "{}",
                note.message
            );
            pod.record(&stop, Outcome::Done, NOW + 21_000);
            let down = info("c", 0, exited(0, 21));
            let step = pod.step(std::slice::from_ref(&down), NOW + 21_000);
            assert!(!pod.reasons().contains(&"Killed"), "the agent did it");
            if restarts {
                assert!(matches!(only(&step), Action::CheckImage { .. }), "{policy:?}");
                assert_eq!(step.view.status.container_statuses[0].restart_count, 1);
            } else {
                assert_eq!(state_of(&step), "Terminated Completed 0");
            }
        }
    }
}

#[test]
fn one_that_is_never_alive_backs_off_like_a_crash() {
    let mut pod = probed(LIVENESS);
    pod.until_running(NOW);
    let mut at = NOW;
    for attempt in 0..3_u32 {
        let id = format!("c{attempt}");
        let up = info("c", attempt, running(at));
        pod.find(unwell(&id, "liveness", None));
        let stop = only(&pod.step(std::slice::from_ref(&up), at + 1_000));
        pod.record(&stop, Outcome::Done, at + 1_000);
        let down = info(
            "c",
            attempt,
            State::Exited(crate::runtime::Exit {
                code: 143,
                ..Default::default()
            }),
        );
        let ended = pod.step(std::slice::from_ref(&down), at + 1_000);
        let delay_ms = pod.settings.crash.delay_ms(attempt);
        if delay_ms > 0 {
            assert_eq!(ended.wake_at_ms, Some(at + 1_000 + delay_ms));
            assert_eq!(state_of(&ended), "Waiting CrashLoopBackOff");
        }
        at += 1_000 + delay_ms;
        pod.step(std::slice::from_ref(&down), at);
    }
}
