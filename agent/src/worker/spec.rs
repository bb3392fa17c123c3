//! What a container is created from. PURE. Called by the pod's task for each create.
//!
//! Invariant: environment references are resolved here and nowhere else; host ports go to the container that
//! owns the pod's network.

use std::{collections::BTreeMap, time::Duration};

use proto::{
    ids::{self, SANDBOX},
    model::{Container, EnvVar},
};

use crate::{
    runtime::{CreateContainer, Owner},
    step::PodDesired,
};

/// What lies outside the pod's spec.
#[derive(Clone, Debug, Default)]
pub struct Surroundings<'a> {
    pub node: &'a str,
    pub host_ip: &'a str,
    pub pod_ip: &'a str,
    pub incarnation: &'a str,
    pub spec_hash: &'a str,
    /// Engine id of the sandbox.
    pub join: Option<String>,
}

/// `None` when the pod has no container of that name.
pub fn create_container(
    pod: &PodDesired,
    container: &str,
    attempt: u32,
    around: &Surroundings<'_>,
) -> Option<CreateContainer> {
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
        ..CreateContainer::default()
    };
    if container == SANDBOX {
        // Its image is the runtime's own affair.
        return Some(CreateContainer {
            ports: pod.spec.containers.iter().flat_map(|c| c.ports.clone()).collect(),
            hostname: pod.name.clone(),
            ..base
        });
    }
    let spec = pod.spec.containers.iter().find(|c| c.name == container)?;
    let env = environment(pod, &spec.env, around);
    let alone = around.join.is_none();
    let amount = |list: &proto::model::ResourceList, name: &str| list.get(name).cloned();
    Some(CreateContainer {
        image: spec.image.clone(),
        command: spec.command.iter().map(|text| expand(text, &env)).collect(),
        args: spec.args.iter().map(|text| expand(text, &env)).collect(),
        ports: if alone { spec.ports.clone() } else { Vec::new() },
        // A container in another one's network has that one's host name.
        hostname: if alone { pod.name.clone() } else { String::new() },
        cpu_limit_milli: amount(&spec.resources.limits, "cpu").map_or(0, |q| q.milli()),
        cpu_request_milli: cpu_request(spec),
        memory_limit: amount(&spec.resources.limits, "memory").map_or(0, |q| q.units()),
        join_network_of: around.join.clone(),
        env,
        ..base
    })
}

fn cpu_request(spec: &Container) -> u64 {
    spec.resources.requests.get("cpu").map_or(0, |q| q.milli())
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
        assert!(create_container(&pod(TWO), "nobody", 0, &alone).is_none());
    }
}
