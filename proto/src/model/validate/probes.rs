//! What probes and lifecycle hooks must satisfy. Called by [`super::containers`].
//! Source: Kubernetes' validation of core/v1, and that a port's name is one of the container's.

use super::Check;
use crate::model::{Container, Exec, HttpGet, PortRef, Probe, labels::quoted};

/// Longest of the times and counts of a probe.
const MOST: i32 = 86_400;

impl Check {
    pub(super) fn probes(&mut self, at: &str, c: &Container) {
        let probe = |check: &mut Self, name: &str, probe: &Option<Probe>, restarts: bool| {
            if let Some(probe) = probe {
                check.probe(&format!("{at}.{name}"), c, probe, restarts, name == "readinessProbe");
            }
        };
        probe(self, "startupProbe", &c.startup_probe, true);
        probe(self, "readinessProbe", &c.readiness_probe, false);
        probe(self, "livenessProbe", &c.liveness_probe, true);
        if let Some(hook) = &c.lifecycle.pre_stop {
            let at = format!("{at}.lifecycle.preStop");
            let given = [hook.exec.is_some(), hook.http_get.is_some(), hook.sleep.is_some()];
            self.exactly_one(&at, &given, "exec, httpGet and sleep");
            self.http_get(&at, c, hook.http_get.as_ref());
            self.exec(&at, hook.exec.as_ref());
            if let Some(sleep) = &hook.sleep
                && !(0..=i64::from(MOST)).contains(&sleep.seconds)
            {
                self.fail(format!("{at}.sleep.seconds"), format!("must be 0 to {MOST}"));
            }
        }
    }

    fn probe(&mut self, at: &str, c: &Container, probe: &Probe, one_success: bool, readiness: bool) {
        let given = [
            probe.http_get.is_some(),
            probe.tcp_socket.is_some(),
            probe.exec.is_some(),
        ];
        self.exactly_one(at, &given, "httpGet, tcpSocket and exec");
        self.http_get(at, c, probe.http_get.as_ref());
        if let Some(tcp) = &probe.tcp_socket {
            self.port_ref(&format!("{at}.tcpSocket.port"), c, &tcp.port);
            self.host(&format!("{at}.tcpSocket.host"), &tcp.host);
        }
        self.exec(at, probe.exec.as_ref());
        for (field, value) in [
            ("initialDelaySeconds", probe.initial_delay_seconds),
            ("timeoutSeconds", probe.timeout_seconds),
            ("periodSeconds", probe.period_seconds),
            ("successThreshold", probe.success_threshold),
            ("failureThreshold", probe.failure_threshold),
        ] {
            if !(0..=MOST).contains(&value) {
                self.fail(format!("{at}.{field}"), format!("must be 0 to {MOST}"));
            }
        }
        if one_success && probe.successes() != 1 {
            self.fail(
                format!("{at}.successThreshold"),
                "must be 1: only a readiness probe may ask for more",
            );
        }
        let path = format!("{at}.terminationGracePeriodSeconds");
        match probe.termination_grace_period_seconds {
            Some(_) if readiness => self.fail(path, "a readiness probe stops nothing; leave it out"),
            Some(seconds) if !(1..=i64::from(MOST)).contains(&seconds) => {
                self.fail(path, format!("must be 1 to {MOST}"));
            }
            _ => {}
        }
    }

    fn exactly_one(&mut self, at: &str, given: &[bool], names: &str) {
        match given.iter().filter(|g| **g).count() {
            1 => {}
            0 => self.fail(at, format!("needs one of {names}")),
            _ => self.fail(at, format!("must have only one of {names}")),
        }
    }

    fn http_get(&mut self, at: &str, c: &Container, get: Option<&HttpGet>) {
        let Some(get) = get else { return };
        self.port_ref(&format!("{at}.httpGet.port"), c, &get.port);
        if !get.path.bytes().all(|b| b.is_ascii_graphic()) {
            self.fail(
                format!("{at}.httpGet.path"),
                "must be of printable ASCII; write the rest in percent encoding, a blank as %20",
            );
        }
        self.host(&format!("{at}.httpGet.host"), &get.host);
        for (i, header) in get.http_headers.iter().enumerate() {
            let at = format!("{at}.httpGet.httpHeaders[{i}]");
            if header.name.is_empty() || !header.name.bytes().all(is_token) {
                self.fail(
                    format!("{at}.name"),
                    format!("{} must be the name of an HTTP header", quoted(&header.name)),
                );
            }
            if header.value.bytes().any(|b| b != b'\t' && (b < 0x20 || b == 0x7f)) {
                self.fail(format!("{at}.value"), "must not contain control characters");
            }
        }
    }

    fn host(&mut self, at: &str, host: &str) {
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if !host.bytes().all(name) && host.parse::<std::net::IpAddr>().is_err() {
            self.fail(at, format!("{} must be a host name or an IP address", quoted(host)));
        }
    }

    fn exec(&mut self, at: &str, exec: Option<&Exec>) {
        if exec.is_some_and(|e| e.command.is_empty()) {
            self.fail(
                format!("{at}.exec.command"),
                "required: the program and its arguments, e.g. [\"cat\", \"/ok\"]",
            );
        }
    }

    fn port_ref(&mut self, at: &str, c: &Container, port: &PortRef) {
        match port {
            PortRef::Number(0) => self.fail(at, "required: 1 to 65535, or the name of a port of the container"),
            PortRef::Number(_) => {}
            PortRef::Name(name) if c.port(port).is_none() || name.is_empty() => self.fail(
                at,
                format!(
                    "no port of the container has the name {}; add it to ports",
                    quoted(name)
                ),
            ),
            PortRef::Name(_) => {}
        }
    }
}

/// As RFC 9110 has it.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::model::{Kind, parse, validate};

    /// What is said of a pod whose one container has these fields too.
    fn check(fields: Value) -> String {
        let mut container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "web"}]});
        let all = container.as_object_mut().expect("an object");
        all.extend(fields.as_object().expect("an object").clone());
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}});
        let said = match parse::written(Kind::Pod, pod) {
            Ok(written) => validate::object(&written.object).err().map(|e| e.to_string()),
            Err(errors) => Some(errors.iter().map(|e| format!("{e}; ")).collect()),
        };
        said.unwrap_or_else(|| "ok".into())
    }

    #[test]
    fn what_kubernetes_accepts_passes() {
        for fields in [
            json!({"readinessProbe": {"httpGet": {"port": "web"}, "successThreshold": 3}}),
            json!({"livenessProbe": {"httpGet": {"port": 80, "path": "/healthz?full=1", "scheme": "HTTPS", "host": "::1",
                "httpHeaders": [{"name": "X-Custom", "value": "a b"}]}, "terminationGracePeriodSeconds": 1}}),
            // As kubectl exports it.
            json!({"startupProbe": {"tcpSocket": {"port": 80}, "failureThreshold": 3, "periodSeconds": 10,
                "successThreshold": 1, "timeoutSeconds": 1}}),
            json!({"livenessProbe": {"exec": {"command": ["cat", "/ok"]}, "initialDelaySeconds": 0}}),
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 0}}}}),
            json!({"lifecycle": {}}),
        ] {
            assert_eq!(check(fields.clone()), "ok", "{fields}");
        }
    }

    #[test]
    fn refusals_name_the_field() {
        let probe = |more: Value| {
            let mut probe = json!({"tcpSocket": {"port": 80}});
            probe
                .as_object_mut()
                .expect("an object")
                .extend(more.as_object().expect("an object").clone());
            probe
        };
        for (fields, expected) in [
            (
                json!({"livenessProbe": {}}),
                ".livenessProbe: needs one of httpGet, tcpSocket and exec",
            ),
            (
                json!({"livenessProbe": probe(json!({"exec": {"command": ["x"]}}))}),
                ".livenessProbe: must have only one of",
            ),
            (
                json!({"livenessProbe": probe(json!({"successThreshold": 2}))}),
                ".livenessProbe.successThreshold: must be 1",
            ),
            (
                json!({"startupProbe": probe(json!({"successThreshold": 2}))}),
                ".startupProbe.successThreshold: must be 1",
            ),
            (
                json!({"readinessProbe": probe(json!({"terminationGracePeriodSeconds": 2}))}),
                ".readinessProbe.terminationGracePeriodSeconds: a readiness probe stops nothing",
            ),
            (
                json!({"livenessProbe": probe(json!({"terminationGracePeriodSeconds": 0}))}),
                ".livenessProbe.terminationGracePeriodSeconds: must be 1 to",
            ),
            (
                json!({"readinessProbe": probe(json!({"periodSeconds": -1}))}),
                ".readinessProbe.periodSeconds: must be 0 to",
            ),
            (
                json!({"readinessProbe": {"httpGet": {"path": "/"}}}),
                ".readinessProbe.httpGet.port: required",
            ),
            (
                json!({"readinessProbe": {"httpGet": {"port": "admin"}}}),
                ".readinessProbe.httpGet.port: no port of the container has the name \"admin\"",
            ),
            (
                json!({"readinessProbe": {"httpGet": {"port": 80, "path": "/a b"}}}),
                ".readinessProbe.httpGet.path: must be of printable ASCII",
            ),
            (
                json!({"readinessProbe": {"tcpSocket": {"port": 80, "host": "a/b"}}}),
                ".readinessProbe.tcpSocket.host: \"a/b\" must be a host name",
            ),
            (
                json!({"readinessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "A:", "value": "x"}]}}}),
                ".readinessProbe.httpGet.httpHeaders[0].name: \"A:\" must be",
            ),
            (
                json!({"readinessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "A", "value": "x\ny"}]}}}),
                ".readinessProbe.httpGet.httpHeaders[0].value: must not",
            ),
            (
                json!({"livenessProbe": {"exec": {}}}),
                ".livenessProbe.exec.command: required",
            ),
            (
                json!({"livenessProbe": {"grpc": {"port": 1}}}),
                ".livenessProbe.grpc: not supported",
            ),
            (json!({"livenessProbe": {"httpGet": {"port": 80000}}}), "1 to 65535"),
            (
                json!({"lifecycle": {"preStop": {}}}),
                ".lifecycle.preStop: needs one of exec, httpGet and sleep",
            ),
            (
                json!({"lifecycle": {"preStop": {"sleep": {"seconds": -1}}}}),
                ".lifecycle.preStop.sleep.seconds: must be 0 to",
            ),
            (
                json!({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}),
                ".lifecycle.postStart: not supported",
            ),
        ] {
            let said = check(fields.clone());
            assert!(said.contains(expected), "{fields}: {said}\nexpected {expected}");
        }
    }

    #[test]
    fn a_drain_that_cannot_be_read_is_refused() {
        let check = |text: &str| {
            let pod = json!({"metadata": {"name": "p", "annotations": {"wharfinger.io/endpoint-drain": text}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}});
            let written = parse::written(Kind::Pod, pod).expect("parses");
            validate::object(&written.object).map_err(|e| e.to_string())
        };
        assert_eq!(check("0s"), Ok(()));
        let refused = check("5").expect_err("refused");
        assert!(
            refused.contains("metadata.annotations.wharfinger.io/endpoint-drain: \"5\" must be a time"),
            "{refused}"
        );
    }
}
