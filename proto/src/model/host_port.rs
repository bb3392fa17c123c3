//! The annotation `wharfinger.io/host-port: auto`: host ports that placement chooses. Validation, the scheduler and
//! whoever shows or sends a pod's spec read it here.
//!
//! Invariant: a port is given for life. What was given belongs, in order, to the container ports that
//! [`asking`] counts, so that the template and the numbers make the spec again.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{ContainerPort, EnvVar, PodSpec, Protocol};

/// On a pod or a controller's template.
pub const HOST_PORT: &str = "wharfinger.io/host-port";

/// The annotation's one value.
pub const AUTO: &str = "auto";

/// What is given. Below the ports that Linux takes for outgoing connections (32768 on), above well-known services.
pub const GIVEN: RangeInclusive<u16> = 20_000..=32_000;

/// Protocols of the container ports that placement is to give a host port, in their order.
pub fn asking(annotations: &BTreeMap<String, String>, spec: &PodSpec) -> Vec<Protocol> {
    if spec.host_network || annotations.get(HOST_PORT).map(String::as_str) != Some(AUTO) {
        return Vec::new();
    }
    let ports = spec.containers.iter().flat_map(|c| &c.ports);
    ports.filter(|p| p.host_port == 0).map(|p| p.protocol).collect()
}

/// The container ports that are bound to the host, each with its host port, where these were given.
pub fn bound<'a>(spec: &'a PodSpec, given: &'a [u16]) -> impl Iterator<Item = (&'a ContainerPort, u16)> {
    let mut given = given.iter();
    let ports = spec.containers.iter().flat_map(|c| &c.ports);
    ports.filter_map(move |port| match port.host_port {
        0 if spec.host_network => Some((port, port.container_port)),
        0 => given.next().map(|given| (port, *given)),
        named => Some((port, named)),
    })
}

/// Writes given host ports into the spec of a pod that asked for them, and all of its host ports into the
/// environment of each container: its containers share one network, and the one that announces the pod elsewhere
/// need not be the one that listens. A variable that the user sets stays his.
pub fn give(spec: &mut PodSpec, given: &[u16]) {
    let without = spec.containers.iter_mut().flat_map(|c| &mut c.ports);
    for (port, given) in without.filter(|p| p.host_port == 0).zip(given) {
        port.host_port = *given;
    }
    let all: Vec<Vec<(String, u16)>> = spec
        .containers
        .iter()
        .map(|c| c.ports.iter().filter(|p| p.host_port != 0))
        .map(|ports| ports.map(|p| (variable(p), p.host_port)).collect())
        .collect();
    for (i, container) in spec.containers.iter_mut().enumerate() {
        // Its own ports first: names are a container's own, and the first of a name counts.
        let (before, own) = all.split_at(i);
        let mut added: Vec<EnvVar> = Vec::new();
        for (name, port) in own.iter().chain(before).flatten() {
            let known = |vars: &[EnvVar]| vars.iter().any(|v| v.name == *name);
            if !known(&added) && !known(&container.env) {
                added.push(EnvVar {
                    name: name.clone(),
                    value: port.to_string(),
                    value_from: None,
                });
            }
        }
        // Before the user's, which may refer to them.
        container.env.splice(0..0, added);
    }
}

/// `WHARF_PORT_HTTP` for a port named `http`, `WHARF_PORT_80` for port 80 without a name.
fn variable(port: &ContainerPort) -> String {
    if port.name.is_empty() {
        format!("WHARF_PORT_{}", port.container_port)
    } else {
        format!("WHARF_PORT_{}", port.name.to_ascii_uppercase().replace('-', "_"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> PodSpec {
        serde_json::from_str(json).expect("a spec")
    }

    const TWO: &str = r#"{"containers":[
        {"name":"a","env":[{"name":"WHARF_PORT_ADMIN","value":"mine"},{"name":"X","value":"$(WHARF_PORT_HTTP)"}],
         "ports":[{"name":"http","containerPort":80},{"name":"admin","containerPort":81,"hostPort":8081},
                  {"containerPort":53,"protocol":"UDP"}]},
        {"name":"b","ports":[{"name":"http","containerPort":90},{"name":"peer-to-peer","containerPort":91}]}]}"#;

    #[test]
    fn only_ports_without_a_host_port_of_an_annotated_pod_ask() {
        let auto = BTreeMap::from([(HOST_PORT.to_owned(), AUTO.to_owned())]);
        let (udp, tcp) = (Protocol::Udp, Protocol::Tcp);
        assert_eq!(asking(&auto, &spec(TWO)), [tcp, udp, tcp, tcp]);
        assert_eq!(asking(&BTreeMap::new(), &spec(TWO)), []);
        let host = PodSpec {
            host_network: true,
            ..spec(TWO)
        };
        assert_eq!(asking(&auto, &host), []);
    }

    #[test]
    fn what_is_given_stands_in_spec_and_environment() {
        let mut pod = spec(TWO);
        give(&mut pod, &[20_001, 20_002, 20_003, 20_004]);
        let ports: Vec<_> = pod
            .containers
            .iter()
            .flat_map(|c| &c.ports)
            .map(|p| p.host_port)
            .collect();
        assert_eq!(ports, [20_001, 8081, 20_002, 20_003, 20_004]);
        let env = |i: usize| -> Vec<String> {
            let vars = pod.containers[i].env.iter();
            vars.map(|v| format!("{}={}", v.name, v.value)).collect()
        };
        assert_eq!(
            env(0),
            [
                "WHARF_PORT_HTTP=20001",
                "WHARF_PORT_53=20002",
                "WHARF_PORT_PEER_TO_PEER=20004",
                "WHARF_PORT_ADMIN=mine",
                "X=$(WHARF_PORT_HTTP)"
            ],
            "the user's variable wins, the container's own port before another's of its name"
        );
        assert_eq!(
            env(1),
            [
                "WHARF_PORT_HTTP=20003",
                "WHARF_PORT_PEER_TO_PEER=20004",
                "WHARF_PORT_ADMIN=8081",
                "WHARF_PORT_53=20002"
            ]
        );
        let (template, given) = (spec(TWO), [20_001, 20_002, 20_003, 20_004]);
        let listed: Vec<_> = bound(&template, &given).map(|(p, n)| (p.container_port, n)).collect();
        assert_eq!(
            listed,
            [(80, 20_001), (81, 8081), (53, 20_002), (90, 20_003), (91, 20_004)]
        );
        assert_eq!(bound(&template, &[]).map(|(_, n)| n).collect::<Vec<_>>(), [8081]);
        let again = pod.clone();
        give(&mut pod, &[20_001, 20_002, 20_003, 20_004]);
        assert_eq!(pod, again, "giving again changes nothing");
    }
}
