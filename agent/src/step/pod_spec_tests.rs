//! What pods ask for beyond a plain container, as [`super::step`] sees it: volumes in memory, the host's network,
//! what the host lacks, and last words.

use proto::{
    ids::SANDBOX,
    model::{ContainerState, RestartPolicy},
};

use super::{testing::*, *};
use crate::runtime::{Exit, RuntimeError, State};

fn spec_of(json: &str) -> PodDesired {
    PodDesired {
        spec: Arc::new(serde_json::from_str(json).expect("a spec")),
        ..desired(&[])
    }
}

#[test]
fn memory_needs_a_sandbox_and_the_host_s_network_does_not() {
    let memory = r#""volumes":[{"name":"m","emptyDir":{"medium":"Memory"}}]"#;
    for (more, needs) in [
        (r#""volumes":[{"name":"m","emptyDir":{}}]"#, false),
        (memory, true),
        (r#""hostNetwork":true"#, false),
    ] {
        let pod = spec_of(&format!(r#"{{"containers":[{{"name":"a"}}],{more}}}"#));
        assert_eq!(needs_sandbox(&pod.spec), needs, "{more}");
    }
    let two = |more: &str| {
        spec_of(&format!(
            r#"{{"containers":[{{"name":"a"}},{{"name":"b"}}],"hostNetwork":true{more}}}"#
        ))
    };
    assert!(!needs_sandbox(&two("").spec));
    assert!(needs_sandbox(&two(&format!(",{memory}")).spec));
}

#[test]
fn in_the_host_s_network_the_pod_s_address_is_the_host_s() {
    let mut pod = Pod::new(spec_of(
        r#"{"containers":[{"name":"a","image":"i:1"},{"name":"b","image":"i:1"}],"hostNetwork":true}"#,
    ));
    // Both at once, without a sandbox.
    let s = pod.step(&[], NOW);
    assert_eq!(s.actions.len(), 2, "{:?}", s.actions);
    assert_eq!(s.view.status.pod_ip, "");
    let up = |name: &str| ContainerInfo {
        ip: String::new(),
        ..info(name, 0, running(NOW))
    };
    let s = pod.step(&[info("a", 0, exited(1, 1)), up("b")], NOW);
    assert_eq!(s.view.status.pod_ip, "10.0.0.1");
}

#[test]
fn in_the_host_s_network_a_lost_sandbox_stops_nothing() {
    let mut pod = Pod::new(spec_of(
        r#"{"containers":[{"name":"a","image":"i:1"}],"hostNetwork":true,
            "volumes":[{"name":"m","emptyDir":{"medium":"Memory"}}]}"#,
    ));
    let a = info("a", 0, running(NOW));
    assert_eq!(pod.step(&[info(SANDBOX, 0, running(NOW)), a.clone()], NOW).actions, []);
    let s = pod.step(&[info(SANDBOX, 0, exited(137, 1)), a], NOW);
    assert!(
        matches!(&only(&s), Action::Create { container, attempt: 1, .. } if container == SANDBOX),
        "{:?}",
        s.actions
    );
}

#[test]
fn what_the_host_lacks_has_a_reason_of_its_own() {
    for (error, reason) in [
        (
            RuntimeError::Config("volume v: no".into()),
            "Waiting CreateContainerConfigError",
        ),
        (RuntimeError::Refused("no".into()), "Waiting CreateContainerError"),
    ] {
        let mut pod = Pod::new(desired(&["c"]));
        let create = pod.until_create(NOW);
        pod.record(&create, Outcome::Failed(error.clone()), NOW);
        for (later, actions) in [(9_999, 0), (10_000, 1)] {
            let s = pod.step(&[], NOW + later);
            assert_eq!((s.actions.len(), state_of(&s).as_str()), (actions, reason), "{later}");
            assert_eq!(message_of(&s), error.to_string());
        }
        // Again, after twice the time.
        pod.record(&create, Outcome::Failed(error), NOW + 10_000);
        assert_eq!(pod.step(&[], NOW + 10_000).wake_at_ms, Some(NOW + 30_000));
    }
}

#[test]
fn an_exit_shows_what_the_engine_said_before_what_the_container_said() {
    for (error, said, shown) in [("", "bye", "bye"), ("exec x: no", "bye", "exec x: no"), ("", "", "")] {
        let mut pod = Pod::new(with(RestartPolicy::Never, None));
        pod.until_running(NOW);
        let exit = Exit {
            code: 1,
            error: error.into(),
            message: said.into(),
            ..Exit::default()
        };
        let s = pod.step(&[info("c", 0, State::Exited(exit))], NOW);
        assert_eq!(message_of(&s), shown);
    }
}

#[test]
fn a_message_about_a_backoff_quotes_little() {
    let mut pod = Pod::new(desired(&["c"]));
    pod.until_running(NOW);
    pod.book.containers.get_mut("c").expect("there").level = 1;
    let exit = Exit {
        code: 1,
        message: format!("first\n{}", "x".repeat(4000)),
        ..Exit::default()
    };
    let s = pod.step(&[info("c", 0, State::Exited(exit))], NOW);
    assert_eq!(state_of(&s), "Waiting CrashLoopBackOff");
    let words = message_of(&s);
    assert!(
        words.ends_with("xx)") && words.len() < 400 && !words.contains("first"),
        "{words}"
    );
    // Whole, as the attempt that ended.
    let last = s.view.status.container_statuses[0].last_state.clone();
    assert!(matches!(last, Some(ContainerState::Terminated(t)) if t.message.len() > 4000));
}
