//! What an agent must be able to do for a pod. The agent says in Hello what it can; the scheduler places a pod only
//! where nothing of [`needed`] is missing.
//!
//! Invariant: a pod that uses only what the first agents knew needs nothing, so its placement costs nothing.

use crate::model::{Container, PodSpec};

/// Several containers in one network.
pub const SANDBOX: &str = "sandbox";
/// `volumes` and `volumeMounts`.
pub const VOLUMES: &str = "volumes";
/// `securityContext` of pod and containers.
pub const SECURITY_CONTEXT: &str = "security-context";
/// `hostNetwork`.
pub const HOST_NETWORK: &str = "host-network";
/// `workingDir`, `terminationMessagePath` and its policy, `resources.limits.pids`.
pub const CONTAINER_SETTINGS: &str = "container-settings";
/// `startupProbe`, `readinessProbe` and `livenessProbe`.
pub const PROBES: &str = "probes";
/// `lifecycle.preStop`.
pub const LIFECYCLE: &str = "lifecycle";

/// Opens a pipe when it is asked to, and sends a container's log over it. No pod needs it.
pub const LOGS: &str = "logs";

/// The annotation `wharfinger.io/stop-after-disconnect`.
pub const STOP_AFTER_DISCONNECT: &str = "stop-after-disconnect";

/// All that an agent of this build can do.
pub const ALL: [&str; 9] = [
    SANDBOX,
    VOLUMES,
    SECURITY_CONTEXT,
    HOST_NETWORK,
    CONTAINER_SETTINGS,
    LOGS,
    PROBES,
    LIFECYCLE,
    STOP_AFTER_DISCONNECT,
];

/// What the pod needs beyond what every agent can do. An agent without it would refuse the pod, or run it
/// without the limit that was asked for.
pub fn needed(spec: &PodSpec) -> Vec<&'static str> {
    let containers = &spec.containers;
    let security = !spec.security_context.is_empty() || containers.iter().any(|c| !c.security_context.is_empty());
    let settings = containers.iter().any(|c| {
        !c.working_dir.is_empty()
            || !c.termination_message_path.is_empty()
            || c.termination_message_policy.is_some()
            || c.resources.limits.contains_key("pids")
    });
    [
        (!spec.volumes.is_empty(), VOLUMES),
        (security, SECURITY_CONTEXT),
        (spec.host_network, HOST_NETWORK),
        (settings, CONTAINER_SETTINGS),
        (containers.iter().any(Container::has_probes), PROBES),
        (containers.iter().any(|c| !c.lifecycle.is_empty()), LIFECYCLE),
    ]
    .into_iter()
    .filter_map(|(needs, name)| needs.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_needs_what_its_spec_uses() {
        for (json, names) in [
            (r#"{"containers":[{"name":"a","ports":[{"containerPort":1}]}]}"#, vec![]),
            (
                r#"{"containers":[{"name":"a"}],"volumes":[{"name":"v","emptyDir":{}}]}"#,
                vec![VOLUMES],
            ),
            (
                r#"{"containers":[{"name":"a"}],"hostNetwork":true}"#,
                vec![HOST_NETWORK],
            ),
            (
                r#"{"containers":[{"name":"a"}],"securityContext":{"runAsUser":1}}"#,
                vec![SECURITY_CONTEXT],
            ),
            (
                r#"{"containers":[{"name":"a"},{"name":"b","securityContext":{"allowPrivilegeEscalation":false}}]}"#,
                vec![SECURITY_CONTEXT],
            ),
            (
                r#"{"containers":[{"name":"a","workingDir":"/x"}]}"#,
                vec![CONTAINER_SETTINGS],
            ),
            (
                r#"{"containers":[{"name":"a","terminationMessagePath":"/x"}]}"#,
                vec![CONTAINER_SETTINGS],
            ),
            (
                r#"{"containers":[{"name":"a","terminationMessagePolicy":"FallbackToLogsOnError"}]}"#,
                vec![CONTAINER_SETTINGS],
            ),
            (
                r#"{"containers":[{"name":"a","terminationMessagePolicy":"File"}]}"#,
                vec![CONTAINER_SETTINGS],
            ),
            (
                r#"{"containers":[{"name":"a","resources":{"limits":{"pids":"9"}}}]}"#,
                vec![CONTAINER_SETTINGS],
            ),
            (
                r#"{"containers":[{"name":"a"},{"name":"b","startupProbe":{"tcpSocket":{"port":1}}}]}"#,
                vec![PROBES],
            ),
            (
                r#"{"containers":[{"name":"a","livenessProbe":{},"lifecycle":{"preStop":{"sleep":{"seconds":1}}}}]}"#,
                vec![PROBES, LIFECYCLE],
            ),
            (r#"{"containers":[{"name":"a","lifecycle":{}}]}"#, vec![]),
        ] {
            let spec: PodSpec = serde_json::from_str(json).expect("a spec");
            assert_eq!(needed(&spec), names, "{json}");
            assert!(names.iter().all(|n| ALL.contains(n)));
        }
    }
}
