//! Table tests of stops in order: hook, drain, signal, grace.

use super::{testing::*, *};
use crate::runtime::RuntimeError;

const HOOK: &str = r#""lifecycle":{"preStop":{"exec":{"command":["bye"]}}}"#;

fn running_pod(hook: bool) -> (Pod, ContainerInfo) {
    let mut desired = desired(&["c"]);
    if hook {
        let json = format!(r#"{{"containers":[{{"name":"c","image":"app:1",{HOOK}}}]}}"#);
        desired.spec = Arc::new(serde_json::from_str(&json).expect("a spec"));
    }
    let mut pod = Pod::new(desired);
    let up = pod.until_running(NOW);
    (pod, up)
}

fn stop(grace_ms: u64, drain_ms: u64) -> Mode {
    Mode::Stop {
        grace_ms,
        drain_until_ms: NOW + drain_ms,
        reason: "scaled down".into(),
    }
}

/// What happens from [`NOW`] on, in milliseconds after it, when the hook takes so long: `hook@0/<limit>`, and
/// `stop@<when>/<grace>`.
fn timeline(pod: &mut Pod, up: &ContainerInfo, hook_takes_ms: u64) -> String {
    let mut said = Vec::new();
    let mut hook: Option<(u64, Action)> = None;
    let mut now = NOW;
    loop {
        let step = pod.step(std::slice::from_ref(up), now);
        for action in &step.actions {
            match action {
                Action::PreStop { limit_ms, .. } if hook.is_none() => {
                    said.push(format!("hook@{}/{limit_ms}", now - NOW));
                    hook = Some((now + hook_takes_ms.min(*limit_ms), action.clone()));
                }
                Action::PreStop { .. } => {}
                Action::Stop { grace_ms, .. } => {
                    said.push(format!("stop@{}/{grace_ms}", now - NOW));
                    return said.join(" ");
                }
                other => panic!("{other:?}"),
            }
        }
        let ends = hook.as_ref().map(|(at, _)| *at).filter(|at| *at > now);
        now = ends
            .into_iter()
            .chain(step.wake_at_ms)
            .min()
            .expect("something is awaited");
        if let Some((at, action)) = &hook
            && *at == now
        {
            pod.record(&action.clone(), Outcome::Done, now);
        }
    }
}

#[test]
fn hook_and_drain_run_together_and_the_grace_covers_the_rest_of_the_hook() {
    for (hook_takes_ms, grace_ms, drain_ms, expected) in [
        // (no hook)
        (None, 30_000, 0, "stop@0/30000"),
        (None, 30_000, 5_000, "stop@5000/30000"),
        (None, 0, 5_000, "stop@5000/0"),
        // A hook that fits into the drain costs nothing of the grace.
        (Some(1_000), 30_000, 5_000, "hook@0/35000 stop@5000/30000"),
        (Some(8_000), 30_000, 5_000, "hook@0/35000 stop@8000/27000"),
        (Some(8_000), 30_000, 0, "hook@0/30000 stop@8000/22000"),
        // One that takes all of it leaves two seconds, or as much as was given.
        (Some(60_000), 30_000, 5_000, "hook@0/35000 stop@35000/2000"),
        (Some(60_000), 1_000, 0, "hook@0/1000 stop@1000/1000"),
        // At once is at once.
        (Some(8_000), 0, 0, "stop@0/0"),
    ] {
        let (mut pod, up) = running_pod(hook_takes_ms.is_some());
        pod.desired.mode = stop(grace_ms, drain_ms);
        let said = timeline(&mut pod, &up, hook_takes_ms.unwrap_or(0));
        assert_eq!(said, expected, "{hook_takes_ms:?} {grace_ms} {drain_ms}");
    }
}

#[test]
fn a_restart_of_the_agent_neither_shortens_nor_repeats() {
    let (mut pod, up) = running_pod(true);
    pod.desired.mode = stop(30_000, 5_000);
    let hook = only(&pod.step(std::slice::from_ref(&up), NOW));
    // It comes back after three seconds: the hook's end is not known, so it is done again, within the same time.
    let text = serde_json::to_string(&pod.book).expect("text");
    pod.book = serde_json::from_str(&text).expect("reads back");
    let again = only(&pod.step(std::slice::from_ref(&up), NOW + 3_000));
    let limit = |action: &Action| match action {
        Action::PreStop { limit_ms, .. } => *limit_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!((limit(&hook), limit(&again)), (35_000, 32_000));
    pod.record(&again, Outcome::Done, NOW + 4_000);
    let step = pod.step(std::slice::from_ref(&up), NOW + 4_000);
    assert_eq!((step.actions, step.wake_at_ms), (vec![], Some(NOW + 5_000)));
    // Once it is over it stays over.
    let text = serde_json::to_string(&pod.book).expect("text");
    pod.book = serde_json::from_str(&text).expect("reads back");
    let stop = only(&pod.step(std::slice::from_ref(&up), NOW + 5_000));
    assert!(matches!(stop, Action::Stop { grace_ms: 30_000, .. }), "{stop:?}");

    // An agent that was away for the whole time does not begin the hook then.
    let (mut pod, up) = running_pod(true);
    pod.desired.mode = self::stop(30_000, 5_000);
    pod.step(std::slice::from_ref(&up), NOW);
    let stop = only(&pod.step(std::slice::from_ref(&up), NOW + 100_000));
    assert!(matches!(stop, Action::Stop { grace_ms: 2_000, .. }), "{stop:?}");
}

#[test]
fn a_more_urgent_entry_shortens() {
    let (mut pod, up) = running_pod(true);
    pod.desired.mode = stop(30_000, 5_000);
    let hook = only(&pod.step(std::slice::from_ref(&up), NOW));
    pod.desired.mode = stop(0, 0);
    let kill = only(&pod.step(std::slice::from_ref(&up), NOW + 1_000));
    assert!(matches!(kill, Action::Stop { grace_ms: 0, .. }), "{kill:?}");

    // With some grace left the hook counts as over; the signal comes when the shorter drain is.
    pod.desired.mode = stop(4_000, 2_000);
    pod.record(&hook, Outcome::Done, NOW + 1_000);
    let step = pod.step(std::slice::from_ref(&up), NOW + 1_000);
    assert_eq!((step.actions, step.wake_at_ms), (vec![], Some(NOW + 2_000)));
    let stop = only(&pod.step(std::slice::from_ref(&up), NOW + 2_000));
    assert!(matches!(stop, Action::Stop { grace_ms: 4_000, .. }), "{stop:?}");
}

#[test]
fn a_failed_hook_is_told_and_the_stop_goes_on() {
    for error in [
        RuntimeError::Refused("the command ended with code 1".into()),
        RuntimeError::Unavailable("away".into()),
    ] {
        let (mut pod, up) = running_pod(true);
        pod.desired.mode = stop(30_000, 0);
        let hook = only(&pod.step(std::slice::from_ref(&up), NOW));
        pod.record(&hook, Outcome::Failed(error), NOW + 1_000);
        assert_eq!(pod.reasons().last(), Some(&"FailedPreStopHook"));
        let stop = only(&pod.step(std::slice::from_ref(&up), NOW + 1_000));
        assert!(matches!(stop, Action::Stop { grace_ms: 29_000, .. }), "{stop:?}");
    }
}

#[test]
fn what_does_not_run_needs_neither_hook_nor_drain() {
    let (mut pod, _) = running_pod(true);
    pod.desired.mode = stop(30_000, 5_000);
    let dead = info("c", 0, exited(1, 5));
    let remove = only(&pod.step(std::slice::from_ref(&dead), NOW));
    assert!(matches!(remove, Action::Remove { .. }), "{remove:?}");
    // Nor is it started again meanwhile.
    assert!(pod.step(&[], NOW).view.gone);
}

#[test]
fn what_is_not_alive_has_its_hook_too() {
    let (mut pod, up) = running_pod(true);
    let mut spec = (*pod.desired.spec).clone();
    spec.containers[0].liveness_probe = Some(proto::model::Probe::default());
    pod.desired.spec = Arc::new(spec);
    pod.health.insert(
        "c".into(),
        Health {
            id: "c0".into(),
            started: true,
            ready: false,
            failed: Some(Failed {
                probe: "liveness".into(),
                grace_seconds: Some(9),
            }),
        },
    );
    let hook = only(&pod.step(std::slice::from_ref(&up), NOW));
    assert!(matches!(hook, Action::PreStop { limit_ms: 9_000, .. }), "{hook:?}");
    // A stop entry that comes meanwhile does not begin it again, and waits for its own drain.
    pod.desired.mode = stop(30_000, 6_000);
    pod.record(&hook, Outcome::Done, NOW + 2_000);
    let step = pod.step(std::slice::from_ref(&up), NOW + 2_000);
    assert_eq!((step.actions, step.wake_at_ms), (vec![], Some(NOW + 6_000)));
}
