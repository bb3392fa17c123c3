//! What a container is created from, in Docker's terms. Called by [`super::DockerRuntime::create`]. Pure.
//!
//! Invariants: every container carries all identity labels; Docker never restarts or removes one by itself
//! (attempts are the agent's, and an exit code must stay readable); nothing is bound by `Binds`, which creates
//! missing host directories as root.

use std::{collections::HashMap, time::Duration};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use proto::{ids::label, model::Protocol};

use super::{DockerSettings, Scope, pull, volumes};
use crate::runtime::CreateContainer;

/// Kernel's limit of a host name.
const HOSTNAME_MAX: usize = 63;
/// Length of a scheduling period, µs; the kernel's default, and the one Kubernetes uses.
const CPU_PERIOD: u64 = 100_000;
/// The kernel takes no quota below 1 ms.
const CPU_QUOTA_MIN: u64 = 1000;
/// The kernel takes no weight below 2 and none above 262144.
const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

pub(super) fn body(spec: &CreateContainer, scope: &Scope, settings: &DockerSettings) -> ContainerCreateBody {
    let joins = spec.join_network_of.as_deref();
    let own_network = joins.is_none() && !spec.host_network;
    ContainerCreateBody {
        image: Some(pull::normalize(&spec.image)),
        // Replacing the entrypoint also drops the image's CMD, as Kubernetes has it.
        entrypoint: some_unless_empty(spec.command.clone()),
        cmd: some_unless_empty(spec.args.clone()),
        env: some_unless_empty(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(labels(spec, scope)),
        working_dir: some_text(&spec.working_dir),
        user: some_text(&spec.user),
        // A joined container has its sandbox's host name, and Docker refuses another one.
        hostname: own_network.then(|| hostname(&spec.hostname)).filter(|h| !h.is_empty()),
        exposed_ports: own_network.then(|| {
            spec.ports
                .iter()
                .map(|p| port_key(p.container_port, p.protocol))
                .collect()
        }),
        // The stop signal stays the image's own, TERM where it names none.
        stop_timeout: i64::try_from(whole_seconds(spec.stop_grace)).ok(),
        host_config: Some(HostConfig {
            init: Some(settings.init),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            auto_remove: Some(false),
            log_config: Some(HostConfigLogConfig {
                typ: Some("local".into()),
                config: Some(HashMap::from([
                    ("max-size".into(), settings.log_max_size.clone()),
                    ("max-file".into(), settings.log_max_files.to_string()),
                ])),
            }),
            security_opt: (!spec.may_escalate).then(|| vec!["no-new-privileges".into()]),
            pids_limit: limit(spec.pids_limit).or(Some(settings.pids_limit)),
            readonly_rootfs: Some(spec.read_only_root),
            cap_add: some_unless_empty(spec.add_capabilities.clone()),
            cap_drop: some_unless_empty(spec.drop_capabilities.clone()),
            group_add: some_unless_empty(spec.groups.iter().map(i64::to_string).collect()),
            mounts: some_unless_empty(
                spec.mounts
                    .iter()
                    .map(|m| volumes::mount(m, &spec.owner, scope))
                    .collect(),
            ),
            network_mode: match joins {
                _ if spec.host_network => Some("host".into()),
                Some(id) => Some(format!("container:{id}")),
                None => None,
            },
            port_bindings: own_network.then(|| port_bindings(spec)),
            memory: limit(spec.memory_limit),
            // Equal to the memory limit: no swap beside it.
            memory_swap: limit(spec.memory_limit),
            // A quota, not NanoCpus: Docker refuses NanoCpus above the host's CPUs, and limits may overcommit.
            cpu_period: limit(if spec.cpu_limit_milli == 0 { 0 } else { CPU_PERIOD }),
            cpu_quota: limit(cpu_quota(spec.cpu_limit_milli)),
            cpu_shares: limit(cpu_shares(spec.cpu_request_milli)),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Docker counts grace in whole seconds: rounded up, so that nobody is killed early.
pub(super) fn whole_seconds(grace: Duration) -> u64 {
    grace.as_secs() + u64::from(grace.subsec_nanos() > 0)
}

fn labels(spec: &CreateContainer, scope: &Scope) -> HashMap<String, String> {
    let owner = &spec.owner;
    let attempt = owner.attempt.to_string();
    // Identity comes last: no other label may stand in its place.
    [(label::INCARNATION, scope.incarnation.as_str())]
        .into_iter()
        .chain(spec.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())))
        .chain([
            (label::CLUSTER, scope.cluster.as_str()),
            (label::NODE, scope.node.as_str()),
            (label::NAMESPACE, owner.namespace.as_str()),
            (label::POD, owner.pod.as_str()),
            (label::UID, owner.uid.as_str()),
            (label::CONTAINER, owner.container.as_str()),
            (label::ATTEMPT, attempt.as_str()),
            (label::SPEC_HASH, owner.spec_hash.as_str()),
        ])
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// Cut to what the kernel takes, as Kubernetes does with a pod's name.
fn hostname(name: &str) -> String {
    name.chars()
        .take(HOSTNAME_MAX)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

fn port_key(port: u16, protocol: Protocol) -> String {
    match protocol {
        Protocol::Tcp => format!("{port}/tcp"),
        Protocol::Udp => format!("{port}/udp"),
    }
}

/// One container port may have several host ports; those without one are not published.
fn port_bindings(spec: &CreateContainer) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut map: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in spec.ports.iter().filter(|p| p.host_port != 0) {
        map.entry(port_key(port.container_port, port.protocol))
            .or_default()
            .get_or_insert_default()
            .push(PortBinding {
                host_ip: Some(port.host_ip.clone()),
                host_port: Some(port.host_port.to_string()),
            });
    }
    map
}

fn cpu_quota(milli: u64) -> u64 {
    if milli == 0 {
        return 0;
    }
    (milli.saturating_mul(CPU_PERIOD) / 1000).max(CPU_QUOTA_MIN)
}

/// The kernel's default weight, 1024, stands for one CPU.
fn cpu_shares(milli: u64) -> u64 {
    if milli == 0 {
        return 0;
    }
    (milli.saturating_mul(1024) / 1000).clamp(*CPU_SHARES.start(), *CPU_SHARES.end())
}

fn limit(amount: u64) -> Option<i64> {
    (amount != 0).then(|| i64::try_from(amount).unwrap_or(i64::MAX))
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn some_unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use proto::model::ContainerPort;

    use super::*;
    use crate::runtime::{Mount, Owner, Source};

    fn spec() -> CreateContainer {
        CreateContainer {
            name: "wharf_app_web_default_01234567_0".into(),
            owner: Owner {
                uid: "u".into(),
                namespace: "default".into(),
                pod: "web".into(),
                container: "app".into(),
                attempt: 2,
                spec_hash: "h".into(),
            },
            image: "registry:5000/app".into(),
            hostname: "web".into(),
            ports: vec![
                ContainerPort {
                    container_port: 80,
                    host_port: 8080,
                    ..Default::default()
                },
                ContainerPort {
                    container_port: 80,
                    host_port: 8081,
                    host_ip: "127.0.0.1".into(),
                    ..Default::default()
                },
                ContainerPort {
                    container_port: 53,
                    protocol: Protocol::Udp,
                    ..Default::default()
                },
            ],
            ..Default::default()
        }
    }

    fn scope() -> Scope {
        Scope {
            cluster: "c".into(),
            node: "n".into(),
            incarnation: "i".into(),
        }
    }

    fn host(spec: &CreateContainer) -> HostConfig {
        body(spec, &scope(), &DockerSettings::default())
            .host_config
            .unwrap_or_default()
    }

    #[test]
    fn no_label_takes_the_place_of_identity() {
        let mut spec = spec();
        spec.labels.insert(label::NODE.into(), "forged".into());
        spec.labels.insert("team".into(), "a".into());
        let labels = labels(&spec, &scope());
        assert_eq!(labels.get(label::NODE).map(String::as_str), Some("n"));
        assert_eq!(labels.get(label::ATTEMPT).map(String::as_str), Some("2"));
        assert_eq!(labels.get("team").map(String::as_str), Some("a"));
        assert_eq!(labels.len(), 10);
    }

    #[test]
    fn several_host_ports_and_unpublished_ones() {
        let bindings = host(&spec()).port_bindings.unwrap_or_default();
        assert_eq!(bindings.len(), 1, "an exposed port without host port is not published");
        let tcp = bindings.get("80/tcp").cloned().flatten().unwrap_or_default();
        let ports: Vec<_> = tcp.iter().filter_map(|b| b.host_port.as_deref()).collect();
        assert_eq!(ports, ["8080", "8081"]);
    }

    #[test]
    fn a_joined_container_leaves_network_settings_to_its_sandbox() {
        let mut spec = spec();
        spec.join_network_of = Some("abc".into());
        let body = body(&spec, &scope(), &DockerSettings::default());
        assert_eq!(body.hostname, None);
        assert_eq!(body.exposed_ports, None);
        let host = body.host_config.unwrap_or_default();
        assert_eq!(host.network_mode.as_deref(), Some("container:abc"));
        assert_eq!(host.port_bindings, None);
    }

    #[test]
    fn in_the_host_s_network_nothing_is_published() {
        let mut spec = spec();
        spec.host_network = true;
        let body = body(&spec, &scope(), &DockerSettings::default());
        assert_eq!((body.hostname, body.exposed_ports), (None, None));
        let host = body.host_config.unwrap_or_default();
        assert_eq!((host.network_mode.as_deref(), host.port_bindings), (Some("host"), None));
    }

    #[test]
    fn whom_it_runs_as_and_what_it_may() {
        let settings = DockerSettings::default();
        let plain = body(&spec(), &scope(), &settings);
        assert_eq!((plain.user, plain.working_dir), (None, None));
        let host = plain.host_config.unwrap_or_default();
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        assert_eq!(
            (host.cap_add, host.cap_drop, host.group_add, host.mounts),
            (None, None, None, None)
        );
        assert_eq!(
            (host.readonly_rootfs, host.pids_limit, host.privileged),
            (Some(false), Some(settings.pids_limit), None)
        );

        let spec = CreateContainer {
            user: "5:6".into(),
            working_dir: "/w".into(),
            groups: vec![7, 8],
            may_escalate: true,
            read_only_root: true,
            pids_limit: 9,
            add_capabilities: vec!["NET_ADMIN".into()],
            drop_capabilities: vec!["ALL".into()],
            ..spec()
        };
        let full = body(&spec, &scope(), &settings);
        assert_eq!(
            (full.user.as_deref(), full.working_dir.as_deref()),
            (Some("5:6"), Some("/w"))
        );
        let host = full.host_config.unwrap_or_default();
        assert_eq!(host.security_opt, None);
        assert_eq!((host.readonly_rootfs, host.pids_limit), (Some(true), Some(9)));
        let list = |words: &[&str]| Some(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            (host.cap_add, host.cap_drop, host.group_add),
            (list(&["NET_ADMIN"]), list(&["ALL"]), list(&["7", "8"]))
        );
    }

    #[test]
    fn mounts_are_bound_by_mounts_and_memory_carries_our_labels() {
        let mounts = vec![
            Mount {
                target: "/h".into(),
                read_only: true,
                source: Source::Host {
                    volume: "v".into(),
                    path: "/srv/x".into(),
                    kind: proto::model::HostPathType::Any,
                },
            },
            Mount {
                target: "/m".into(),
                read_only: false,
                source: Source::Memory {
                    name: "wharf_u_m".into(),
                    size: Some(4096),
                },
            },
        ];
        let host = host(&CreateContainer { mounts, ..spec() });
        assert_eq!(host.binds, None);
        let made = host.mounts.unwrap_or_default();
        assert_eq!(
            (made[0].source.as_deref(), made[0].target.as_deref(), made[0].read_only),
            (Some("/srv/x"), Some("/h"), Some(true))
        );
        assert_eq!(made[1].source.as_deref(), Some("wharf_u_m"));
        let options = made[1].volume_options.clone().unwrap_or_default();
        let labels = options.labels.unwrap_or_default();
        assert_eq!(labels.get(label::NODE).map(String::as_str), Some("n"));
        assert_eq!(labels.get(label::UID).map(String::as_str), Some("u"));
        let driver = options.driver_config.and_then(|d| d.options).unwrap_or_default();
        assert_eq!(driver.get("o").map(String::as_str), Some("size=4096,mode=1777"));
        assert_eq!(driver.get("type").map(String::as_str), Some("tmpfs"));
    }

    #[test]
    fn limits_in_the_kernel_s_units() {
        let mut spec = spec();
        let none = host(&spec);
        assert_eq!((none.memory, none.cpu_quota, none.cpu_shares), (None, None, None));
        (spec.cpu_limit_milli, spec.cpu_request_milli, spec.memory_limit) = (1500, 250, 64 << 20);
        let some = host(&spec);
        assert_eq!((some.cpu_period, some.cpu_quota), (Some(100_000), Some(150_000)));
        assert_eq!(some.cpu_shares, Some(256));
        assert_eq!((some.memory, some.memory_swap), (Some(64 << 20), Some(64 << 20)));
        (spec.cpu_limit_milli, spec.cpu_request_milli) = (1, 1);
        let least = host(&spec);
        assert_eq!((least.cpu_quota, least.cpu_shares), (Some(1000), Some(2)));
    }

    #[test]
    fn docker_neither_restarts_nor_removes() {
        let host = host(&spec());
        assert_eq!(
            host.restart_policy.and_then(|p| p.name),
            Some(RestartPolicyNameEnum::NO)
        );
        assert_eq!(host.auto_remove, Some(false));
        assert_eq!(host.binds, None);
    }

    #[test]
    fn long_host_names_are_cut_to_a_valid_one() {
        let name = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        assert_eq!(hostname(&name), "a".repeat(62));
    }

    #[test]
    fn grace_is_rounded_up() {
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(2000)), 2);
    }
}
