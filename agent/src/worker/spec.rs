//! What a container is created from. PURE. Called by the pod's task for each create.
//!
//! Invariants: environment references are resolved here and nowhere else; host ports go to the container that
//! owns the pod's network; what the pod asks for and this host cannot give is refused here, in the pod's words.

use std::{collections::BTreeMap, time::Duration};

use proto::{
    ids::{self, SANDBOX},
    model::{Container, EnvVar, ResourceList, Volume},
};

use super::{files::PodFiles, security::RunAs};
use crate::{
    runtime::{CreateContainer, Mount, Owner, RuntimeError, Source},
    step::PodDesired,
};

/// What lies outside the pod's spec.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    pub node: &'a str,
    pub host_ip: &'a str,
    pub pod_ip: &'a str,
    pub incarnation: &'a str,
    pub spec_hash: &'a str,
    /// Engine id of the sandbox.
    pub join: Option<String>,
    pub files: &'a PodFiles,
    /// USER of the container's image; asked for only where [`asks_image`] says so.
    pub image_user: &'a str,
}

/// Whether the user of the container's image must be known.
pub(super) fn asks_image(pod: &PodDesired, container: &Container) -> bool {
    RunAs::of(&pod.spec.security_context, &container.security_context).asks_image()
}

/// Name of a pod's volume in memory, on the engine.
pub(super) fn memory_volume(uid: &str, volume: &str) -> String {
    format!("wharf_{uid}_{volume}")
}

/// Refuses with [`RuntimeError::Config`] what the pod asks for and cannot have.
pub fn create_container(
    pod: &PodDesired,
    container: &str,
    attempt: u32,
    around: &Surroundings<'_>,
) -> Result<CreateContainer, RuntimeError> {
    let host_network = pod.spec.host_network;
    let base = CreateContainer {
        name: ids::container_name(container, &pod.name, &pod.namespace, &pod.uid, attempt),
        owner: Owner {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: container.to_owned(),
            attempt,
            spec_hash: around.spec_hash.to_owned(),
        },
        stop_grace: Duration::from_secs(u64::try_from(pod.spec.grace_seconds()).unwrap_or(0)),
        labels: BTreeMap::from([(ids::label::INCARNATION.to_owned(), around.incarnation.to_owned())]),
        host_network,
        ..CreateContainer::default()
    };
    if container == SANDBOX {
        // Its image is the runtime's own affair.
        return Ok(CreateContainer {
            ports: pod.spec.containers.iter().flat_map(|c| c.ports.clone()).collect(),
            hostname: pod.name.clone(),
            mounts: keeps_memory(pod),
            ..base
        });
    }
    let spec = pod.spec.containers.iter().find(|c| c.name == container);
    let spec = spec.ok_or_else(|| RuntimeError::Config(format!("the pod has no container {container:?}")))?;
    let security = &spec.security_context;
    let user = RunAs::of(&pod.spec.security_context, security)
        .user(&spec.image, around.image_user)
        .map_err(RuntimeError::Config)?;
    let env = environment(pod, &spec.env, around);
    let alone = around.join.is_none();
    let limits = &spec.resources.limits;
    let units = |list: &ResourceList, name: &str| list.get(name).map_or(0, |q| q.units());
    Ok(CreateContainer {
        image: spec.image.clone(),
        command: spec.command.iter().map(|text| expand(text, &env)).collect(),
        args: spec.args.iter().map(|text| expand(text, &env)).collect(),
        ports: if alone { spec.ports.clone() } else { Vec::new() },
        // A container in another one's network has that one's host name.
        hostname: if alone { pod.name.clone() } else { String::new() },
        cpu_limit_milli: limits.get("cpu").map_or(0, |q| q.milli()),
        cpu_request_milli: spec.resources.requests.get("cpu").map_or(0, |q| q.milli()),
        memory_limit: units(limits, "memory"),
        pids_limit: units(limits, "pids"),
        // In the host's network a sandbox only keeps the memory.
        join_network_of: around.join.clone().filter(|_| !host_network),
        working_dir: spec.working_dir.clone(),
        user,
        groups: pod.spec.security_context.supplemental_groups.clone(),
        read_only_root: security.read_only_root_filesystem,
        may_escalate: security.allow_privilege_escalation.unwrap_or(false),
        add_capabilities: security.capabilities.add.clone(),
        drop_capabilities: security.capabilities.drop.clone(),
        mounts: mounts(pod, spec, attempt, around.files)?,
        env,
        ..base
    })
}

/// A sandbox mounts the pod's memory too, so that it outlasts the containers' restarts.
fn keeps_memory(pod: &PodDesired) -> Vec<Mount> {
    let volumes = pod.spec.volumes.iter().filter(|v| v.in_memory());
    let kept = |volume: &Volume| Mount {
        target: format!("/volumes/{}", volume.name),
        read_only: true,
        source: memory(pod, volume),
    };
    volumes.map(kept).collect()
}

fn memory(pod: &PodDesired, volume: &Volume) -> Source {
    let size = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref());
    Source::Memory {
        name: memory_volume(&pod.uid, &volume.name),
        size: size.map(|q| q.units()),
    }
}

/// The container's volumes, and the file for its last words.
fn mounts(pod: &PodDesired, container: &Container, attempt: u32, files: &PodFiles) -> Result<Vec<Mount>, RuntimeError> {
    let refused = |what: String| RuntimeError::Config(format!("container {}: {what}", container.name));
    let mut mounts = Vec::with_capacity(container.volume_mounts.len() + 1);
    for mount in &container.volume_mounts {
        let volume = pod.spec.volumes.iter().find(|v| v.name == mount.name);
        let volume = volume.ok_or_else(|| refused(format!("the pod has no volume {:?}", mount.name)))?;
        let source = match (&volume.host_path, &volume.empty_dir) {
            (Some(host), _) => Source::Host {
                volume: volume.name.clone(),
                path: host.path.clone(),
                kind: host.kind,
            },
            (None, Some(_)) if volume.in_memory() => memory(pod, volume),
            (None, Some(_)) => Source::Directory(
                files
                    .volume(&pod.uid, &volume.name)
                    .ok_or_else(|| refused(format!("{:?} is no name of a volume", volume.name)))?,
            ),
            (None, None) => return Err(refused(format!("volume {:?} has no source", volume.name))),
        };
        mounts.push(Mount {
            target: mount.mount_path.clone(),
            read_only: mount.read_only,
            source,
        });
    }
    let target = match container.termination_message_path.as_str() {
        "" => Container::TERMINATION_LOG,
        path => path,
    };
    let taken = |m: &Mount| m.target.trim_end_matches('/') == target;
    // Where a volume is mounted at that very place, its content is not the agent's to read.
    if !mounts.iter().any(taken) {
        let path = files.message(&pod.uid, &container.name, attempt);
        mounts.push(Mount {
            target: target.to_owned(),
            read_only: false,
            source: Source::File(path.ok_or_else(|| refused("its name is no name of a container".into()))?),
        });
    }
    Ok(mounts)
}

/// Resolves values in order; a value may refer to an earlier one as `$(NAME)`, and a later entry of the same
/// name replaces an earlier one.
fn environment(pod: &PodDesired, vars: &[EnvVar], around: &Surroundings<'_>) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::with_capacity(vars.len());
    for var in vars {
        let value = match &var.value_from {
            Some(from) => field(pod, &from.field_ref.field_path, around).to_owned(),
            None => expand(&var.value, &env),
        };
        match env.iter_mut().find(|(name, _)| *name == var.name) {
            Some(earlier) => earlier.1 = value,
            None => env.push((var.name.clone(), value)),
        }
    }
    env
}

/// The coordinator admits only [`proto::model::validate::FIELD_REFS`].
fn field<'a>(pod: &'a PodDesired, path: &str, around: &'a Surroundings<'_>) -> &'a str {
    match path {
        "metadata.name" => &pod.name,
        "metadata.namespace" => &pod.namespace,
        "metadata.uid" => &pod.uid,
        "spec.nodeName" => around.node,
        "status.hostIP" => around.host_ip,
        "status.podIP" if pod.spec.host_network => around.host_ip,
        "status.podIP" => around.pod_ip,
        _ => "",
    }
}

/// Kubernetes' references: `$(NAME)` is replaced if known and left if not; `$$` is a dollar sign.
fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match env.iter().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::model::PodSpec;

    use super::*;
    use crate::step::Mode;

    fn pod(json: &str) -> PodDesired {
        let spec: PodSpec = serde_json::from_str(json).expect("a spec");
        PodDesired {
            uid: "0123456789ab".into(),
            namespace: "default".into(),
            name: "web".into(),
            spec: Arc::new(spec),
            invalid: None,
            mode: Mode::Run,
            accepted_ms: 0,
        }
    }

    const TWO: &str = r#"{"containers":[
        {"name":"a","image":"app:1","command":["sh"],"args":["-c","echo $(WHO) $$(WHO) $(NO) $ 5$"],
         "env":[{"name":"WHO","value":"me"},{"name":"BOTH","value":"$(WHO)-$(LATER)"},{"name":"LATER","value":"x"},
                {"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
                {"name":"NODE","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}},
                {"name":"WHO","value":"you"}],
         "ports":[{"containerPort":80,"hostPort":8080}],
         "resources":{"limits":{"cpu":"500m","memory":"64Mi"},"requests":{"cpu":"0.1"}}},
        {"name":"b","image":"app:2","ports":[{"containerPort":81}]}]}"#;

    fn around() -> Surroundings<'static> {
        Surroundings {
            node: "n1",
            host_ip: "10.0.0.1",
            pod_ip: "172.17.0.9",
            incarnation: "i",
            spec_hash: "h",
            join: Some("sandbox".into()),
            files: Box::leak(Box::new(
                PodFiles::new(std::path::Path::new("/data")).expect("absolute"),
            )),
            image_user: "",
        }
    }

    #[test]
    fn resolves_everything() {
        let made = create_container(&pod(TWO), "a", 2, &around()).expect("made");
        assert_eq!(made.name, "wharf_a_web_default_01234567_2");
        assert_eq!(made.args, ["-c", "echo you $(WHO) $(NO) $ 5$"]);
        let env: Vec<_> = made.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            env,
            ["WHO=you", "BOTH=me-$(LATER)", "LATER=x", "IP=172.17.0.9", "NODE=n1"]
        );
        assert_eq!(
            (made.cpu_limit_milli, made.cpu_request_milli, made.memory_limit),
            (500, 100, 64 << 20)
        );
        assert_eq!(made.stop_grace.as_secs(), 30);
        assert_eq!(made.labels["io.wharfinger.incarnation"], "i");
        assert!(made.ports.is_empty() && made.hostname.is_empty());
        assert_eq!(made.join_network_of.as_deref(), Some("sandbox"));
    }

    #[test]
    fn ports_and_host_name_belong_to_the_network() {
        let sandbox = create_container(&pod(TWO), SANDBOX, 0, &around()).expect("made");
        assert_eq!(sandbox.ports.len(), 2);
        assert_eq!(sandbox.hostname, "web");
        assert_eq!(sandbox.join_network_of, None);
        let alone = Surroundings { join: None, ..around() };
        let made = create_container(&pod(TWO), "a", 0, &alone).expect("made");
        assert_eq!((made.ports.len(), made.hostname.as_str()), (1, "web"));
        assert!(create_container(&pod(TWO), "nobody", 0, &alone).is_err());
    }

    fn made(json: &str, container: &str) -> CreateContainer {
        create_container(&pod(json), container, 1, &around()).expect("made")
    }

    #[test]
    fn mounts_by_their_source() {
        let json = r#"{"containers":[{"name":"a","image":"i","terminationMessagePath":"/w","volumeMounts":[
                {"name":"h","mountPath":"/h","readOnly":true},{"name":"d","mountPath":"/d"},{"name":"m","mountPath":"/m"}]}],
            "volumes":[{"name":"h","hostPath":{"path":"/srv","type":"File"}},{"name":"d","emptyDir":{}},
                {"name":"m","emptyDir":{"medium":"Memory","sizeLimit":"1Ki"}}]}"#;
        let memory = Source::Memory {
            name: "wharf_0123456789ab_m".into(),
            size: Some(1024),
        };
        let seen: Vec<_> = made(json, "a")
            .mounts
            .into_iter()
            .map(|m| (m.target, m.read_only, m.source))
            .collect();
        let host = Source::Host {
            volume: "h".into(),
            path: "/srv".into(),
            kind: proto::model::HostPathType::File,
        };
        assert_eq!(
            seen,
            [
                ("/h".into(), true, host),
                (
                    "/d".into(),
                    false,
                    Source::Directory("/data/volumes/0123456789ab/d".into())
                ),
                ("/m".into(), false, memory.clone()),
                (
                    "/w".into(),
                    false,
                    Source::File("/data/messages/0123456789ab/a.1".into())
                ),
            ]
        );
        // The sandbox keeps the memory, and nothing else.
        let kept = made(json, SANDBOX).mounts;
        assert_eq!((kept.len(), &kept[0].source), (1, &memory));
    }

    #[test]
    fn last_words_have_their_place_unless_a_volume_is_there() {
        let plain = made(r#"{"containers":[{"name":"a","image":"i"}]}"#, "a").mounts;
        assert_eq!((plain.len(), plain[0].target.as_str()), (1, "/dev/termination-log"));
        let taken = r#"{"containers":[{"name":"a","image":"i","volumeMounts":[
            {"name":"d","mountPath":"/dev/termination-log/"}]}],"volumes":[{"name":"d","emptyDir":{}}]}"#;
        let taken = made(taken, "a").mounts;
        assert_eq!((taken.len(), taken[0].target.as_str()), (1, "/dev/termination-log/"));
    }

    #[test]
    fn what_cannot_be_had_is_refused_in_the_pod_s_words() {
        for (json, words) in [
            (
                r#"{"containers":[{"name":"a","image":"i","volumeMounts":[{"name":"x","mountPath":"/x"}]}]}"#,
                "no volume \"x\"",
            ),
            (
                r#"{"containers":[{"name":"a","image":"i","volumeMounts":[{"name":"x","mountPath":"/x"}]}],
                    "volumes":[{"name":"x"}]}"#,
                "no source",
            ),
            (
                r#"{"containers":[{"name":"a","image":"i","volumeMounts":[{"name":"../x","mountPath":"/x"}]}],
                    "volumes":[{"name":"../x","emptyDir":{}}]}"#,
                "no name of a volume",
            ),
            (
                r#"{"containers":[{"name":"a","image":"i","securityContext":{"runAsNonRoot":true}}]}"#,
                "image i runs as root",
            ),
        ] {
            let error = create_container(&pod(json), "a", 0, &around()).expect_err("refused");
            assert!(
                matches!(&error, RuntimeError::Config(w) if w.contains(words)),
                "{error}"
            );
        }
    }

    #[test]
    fn settings_of_pod_and_container() {
        let json = r#"{"containers":[
                {"name":"a","image":"i","workingDir":"/w","resources":{"limits":{"pids":"50"}},
                 "securityContext":{"runAsUser":7,"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":true,
                    "capabilities":{"add":["NET_ADMIN"],"drop":["ALL"]}}},
                {"name":"b","image":"i"}],
            "securityContext":{"runAsUser":1,"runAsGroup":2,"supplementalGroups":[3,4]}}"#;
        let a = made(json, "a");
        assert_eq!(
            (a.user.as_str(), a.working_dir.as_str(), a.pids_limit),
            ("7:2", "/w", 50)
        );
        assert!(a.read_only_root && a.may_escalate);
        assert_eq!(
            (a.add_capabilities, a.drop_capabilities),
            (vec!["NET_ADMIN".into()], vec!["ALL".into()])
        );
        let b = made(json, "b");
        assert_eq!((b.user.as_str(), b.groups, b.pids_limit), ("1:2", vec![3, 4], 0));
        assert!(!b.read_only_root && !b.may_escalate && !b.host_network);
    }

    #[test]
    fn in_the_host_s_network_nothing_is_joined_and_the_address_is_the_host_s() {
        let json = r#"{"hostNetwork":true,"containers":[{"name":"a","image":"i","env":[
            {"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}]}]}"#;
        let a = made(json, "a");
        assert_eq!((a.host_network, a.join_network_of), (true, None));
        assert_eq!(a.env, [("IP".to_owned(), "10.0.0.1".to_owned())]);
        assert!(made(json, SANDBOX).host_network);
    }
}
