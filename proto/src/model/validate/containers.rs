//! What a pod's spec and its containers must satisfy. Called by the module above.

use std::collections::BTreeSet;

use super::{Check, FIELD_REFS, PIDS, RESOURCES, volumes::check_path};
use crate::model::{
    Container, EnvVar, PodSpec, Protocol, ResourceList, Volume,
    labels::{check_dns_label, check_dns_subdomain},
};

impl Check {
    pub(super) fn pod_spec(&mut self, path: &str, spec: &PodSpec) {
        if spec.containers.is_empty() {
            self.fail(format!("{path}.containers"), "at least one is required");
        }
        if spec.containers.len() > 16 {
            self.fail(format!("{path}.containers"), "at most 16");
        }
        if !(0..=86_400).contains(&spec.grace_seconds()) {
            self.fail(format!("{path}.terminationGracePeriodSeconds"), "must be 0 to 86400");
        }
        if !spec.node_name.is_empty() {
            self.need(format!("{path}.nodeName"), check_dns_subdomain(&spec.node_name));
        }
        self.labels(&format!("{path}.nodeSelector"), &spec.node_selector);
        self.volumes(path, &spec.volumes);
        self.pod_security(&format!("{path}.securityContext"), spec);
        self.placement(path, spec);
        let mut names = BTreeSet::new();
        let mut host_ports = BTreeSet::new();
        for (i, c) in spec.containers.iter().enumerate() {
            let at = format!("{path}.containers[{i}]");
            self.need(format!("{at}.name"), check_dns_label(&c.name));
            if !names.insert(&c.name) {
                self.fail(
                    format!("{at}.name"),
                    format!("{:?} is the name of another container of this pod", c.name),
                );
            }
            self.container(&at, c, &spec.volumes);
            self.ports(&at, c, spec.host_network, &mut host_ports);
            self.security(&format!("{at}.securityContext"), &c.security_context, spec);
        }
    }

    fn container(&mut self, at: &str, c: &Container, volumes: &[Volume]) {
        self.image(at, &c.image);
        for (j, var) in c.env.iter().enumerate() {
            self.env(&format!("{at}.env[{j}]"), var);
        }
        self.resources(&format!("{at}.resources"), &c.resources.requests, &c.resources.limits);
        self.mounts(at, &c.volume_mounts, volumes);
        for (field, path) in [
            ("workingDir", &c.working_dir),
            ("terminationMessagePath", &c.termination_message_path),
        ] {
            if !path.is_empty() {
                self.need(format!("{at}.{field}"), check_path(path));
            }
        }
    }

    fn ports(&mut self, at: &str, c: &Container, host_network: bool, taken: &mut BTreeSet<(u16, Protocol)>) {
        for (j, port) in c.ports.iter().enumerate() {
            let at = format!("{at}.ports[{j}]");
            if port.container_port == 0 {
                self.fail(format!("{at}.containerPort"), "must be 1 to 65535");
            }
            if !port.host_ip.is_empty() && port.host_ip.parse::<std::net::IpAddr>().is_err() {
                self.fail(format!("{at}.hostIP"), "must be an IP address");
            }
            if !port.name.is_empty() {
                self.need(format!("{at}.name"), check_dns_label(&port.name));
            }
            if host_network && port.host_port != port.container_port {
                self.fail(
                    format!("{at}.hostPort"),
                    format!(
                        "must be {}, as containerPort, or be left out: the pod uses the host's network",
                        port.container_port
                    ),
                );
            } else if port.host_port != 0 && !taken.insert((port.host_port, port.protocol)) {
                self.fail(
                    format!("{at}.hostPort"),
                    format!("{} is taken twice in this pod", port.host_port),
                );
            }
        }
    }

    fn image(&mut self, at: &str, image: &str) {
        let path = format!("{at}.image");
        if image.is_empty() {
            self.fail(path, "required, e.g. redis:7");
        } else if image.len() > 512
            || image.starts_with('-')
            || image.chars().any(|c| c.is_whitespace() || c.is_control())
        {
            self.fail(path, "must be an image reference such as redis:7");
        }
    }

    fn env(&mut self, at: &str, var: &EnvVar) {
        let ok = var
            .name
            .chars()
            .enumerate()
            .all(|(i, c)| c.is_ascii_alphabetic() || matches!(c, '_' | '-' | '.') || (i > 0 && c.is_ascii_digit()));
        if var.name.is_empty() || !ok {
            self.fail(
                format!("{at}.name"),
                "must be letters, digits, '_', '-' and '.', not beginning with a digit",
            );
        }
        if var.value.contains('\0') {
            self.fail(format!("{at}.value"), "must not contain a NUL");
        }
        if let Some(from) = &var.value_from {
            let path = &from.field_ref.field_path;
            if !var.value.is_empty() {
                self.fail(format!("{at}.valueFrom"), "cannot stand beside value");
            }
            if !FIELD_REFS.contains(&path.as_str()) {
                self.fail(
                    format!("{at}.valueFrom.fieldRef.fieldPath"),
                    format!("`{path}` is not one of {}", FIELD_REFS.join(", ")),
                );
            }
        }
    }

    fn resources(&mut self, at: &str, requests: &ResourceList, limits: &ResourceList) {
        for (part, list) in [("requests", requests), ("limits", limits)] {
            for (name, amount) in list {
                let path = format!("{at}.{part}.{name}");
                if name == PIDS {
                    if part == "requests" {
                        self.fail(path, "only a limit; write it under limits");
                    } else if amount.milli() == 0 || amount.milli() % 1000 != 0 {
                        self.fail(path, "must be a whole number, at least 1");
                    }
                    continue;
                }
                if !RESOURCES.contains(&name.as_str()) {
                    let more = if part == "limits" {
                        format!(", {PIDS}")
                    } else {
                        String::new()
                    };
                    self.fail(&path, format!("not a resource; use {}{more}", RESOURCES.join(", ")));
                }
                if amount.is_negative() {
                    self.fail(path, "must not be negative");
                }
            }
        }
        for (name, limit) in limits {
            if requests.get(name).is_some_and(|r| r > limit) {
                self.fail(
                    format!("{at}.requests.{name}"),
                    format!("must not exceed the limit {limit}"),
                );
            }
        }
    }
}
