//! How a container is asked whether it started, works and can serve: probes, with Kubernetes' fields and defaults.
//! Part of [`super::Container`]; run by the agent.
//!
//! Invariant: what was left out stays left out, so that a spec's hash does not change; what is in force is read
//! through the methods.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Asked again and again; exactly one of `http_get`, `tcp_socket` and `exec` is set. A number that is 0 is the
/// default, as in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Probe {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// From the container's start to the first time.
    #[serde(skip_serializing_if = "is_zero")]
    pub initial_delay_seconds: i32,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout_seconds: i32,
    #[serde(skip_serializing_if = "is_zero")]
    pub period_seconds: i32,
    /// Successes in a row after a failure that count as one.
    #[serde(skip_serializing_if = "is_zero")]
    pub success_threshold: i32,
    /// Failures in a row that count as one.
    #[serde(skip_serializing_if = "is_zero")]
    pub failure_threshold: i32,
    /// Grace of the stop that a failure leads to; the pod's when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<i64>,
}

impl Probe {
    pub fn timeout(&self) -> u32 {
        in_force(self.timeout_seconds, 1)
    }

    pub fn period(&self) -> u32 {
        in_force(self.period_seconds, 10)
    }

    pub fn initial_delay(&self) -> u32 {
        in_force(self.initial_delay_seconds, 0)
    }

    pub fn successes(&self) -> u32 {
        in_force(self.success_threshold, 1)
    }

    pub fn failures(&self) -> u32 {
        in_force(self.failure_threshold, 3)
    }
}

/// For people: `http-get http://:8080/healthz delay=0s timeout=1s period=10s #success=1 #failure=3`.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self {
                http_get: Some(get), ..
            } => write!(f, "http-get {get}")?,
            Self {
                tcp_socket: Some(tcp), ..
            } => write!(f, "tcp-socket {}:{}", tcp.host, tcp.port)?,
            Self { exec: Some(exec), .. } => write!(f, "exec {exec}")?,
            _ => f.write_str("unknown")?,
        }
        write!(
            f,
            " delay={}s timeout={}s period={}s #success={} #failure={}",
            self.initial_delay(),
            self.timeout(),
            self.period(),
            self.successes(),
            self.failures()
        )
    }
}

fn in_force(given: i32, default: u32) -> u32 {
    u32::try_from(given).ok().filter(|n| *n > 0).unwrap_or(default)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// A request that is answered with a status from 200 to 399.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpGet {
    /// With its query, `/` when left out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    pub port: PortRef,
    /// Of the connection, the pod's address when left out. Another name for virtual hosts is the header `Host`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    #[serde(skip_serializing_if = "Scheme::is_http")]
    pub scheme: Scheme,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<HttpHeader>,
}

impl HttpGet {
    /// With the leading slash.
    pub fn target(&self) -> String {
        if self.path.starts_with('/') {
            self.path.clone()
        } else {
            format!("/{}", self.path)
        }
    }
}

impl fmt::Display for HttpGet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.target())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// The server's certificate is not verified.
    #[serde(rename = "HTTPS")]
    Https,
}

impl Scheme {
    fn is_http(&self) -> bool {
        *self == Self::Http
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpHeader {
    pub name: String,
    pub value: String,
}

/// A connection that is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TcpSocket {
    pub port: PortRef,
    /// The pod's address when left out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
}

/// A command in the container, without a shell, that ends with code 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.command.join(" "))
    }
}

/// A port of the container by its number, or by the name that it has among the container's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    Number(u16),
    Name(String),
}

/// No port; what a required field holds that was left out.
impl Default for PortRef {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Serialize for PortRef {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(n) => s.serialize_u16(*n),
            Self::Name(name) => s.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(PortVisitor)
    }
}

struct PortVisitor;

impl PortVisitor {
    fn number<E: de::Error>(n: Option<u16>, shown: impl fmt::Display) -> Result<PortRef, E> {
        n.map(PortRef::Number).ok_or_else(|| {
            E::custom(format!(
                "{shown} is no port: it must be 1 to 65535, or the name of a port"
            ))
        })
    }
}

impl de::Visitor<'_> for PortVisitor {
    type Value = PortRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port's number or name")
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<PortRef, E> {
        Self::number(u16::try_from(n).ok(), n)
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<PortRef, E> {
        Self::number(u16::try_from(n).ok(), n)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<PortRef, E> {
        Ok(PortRef::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_stays_left_out_and_has_kubernetes_default() {
        let text = r#"{"httpGet":{"port":"web"}}"#;
        let probe: Probe = serde_json::from_str(text).expect("a probe");
        assert_eq!(serde_json::to_string(&probe).expect("text"), text);
        assert_eq!(
            probe.to_string(),
            "http-get http://:web/ delay=0s timeout=1s period=10s #success=1 #failure=3"
        );
        // A zero is as good as left out.
        let zeros: Probe =
            serde_json::from_str(r#"{"httpGet":{"port":"web"},"periodSeconds":0,"failureThreshold":0}"#).expect("one");
        assert_eq!(zeros, probe);
    }

    #[test]
    fn for_people() {
        for (json, words) in [
            (
                r#"{"httpGet":{"port":80,"path":"ok?x=1","host":"h","scheme":"HTTPS"},"initialDelaySeconds":3,"timeoutSeconds":2,
                   "periodSeconds":4,"successThreshold":5,"failureThreshold":6}"#,
                "http-get https://h:80/ok?x=1 delay=3s timeout=2s period=4s #success=5 #failure=6",
            ),
            (
                r#"{"tcpSocket":{"port":6379}}"#,
                "tcp-socket :6379 delay=0s timeout=1s period=10s #success=1 #failure=3",
            ),
            (
                r#"{"exec":{"command":["cat","/ok"]}}"#,
                "exec [cat /ok] delay=0s timeout=1s period=10s #success=1 #failure=3",
            ),
        ] {
            let probe: Probe = serde_json::from_str(json).expect("a probe");
            assert_eq!(probe.to_string(), words);
        }
    }

    #[test]
    fn ports_are_numbers_or_names() {
        let port = |json: &str| serde_json::from_str::<PortRef>(json).map_err(|e| e.to_string());
        assert_eq!(port("80"), Ok(PortRef::Number(80)));
        assert_eq!(port("\"web\""), Ok(PortRef::Name("web".into())));
        for bad in ["65536", "-1"] {
            let error = port(bad).expect_err("refused");
            assert!(error.contains("1 to 65535"), "{error}");
        }
        assert!(port("true").expect_err("refused").contains("a port's number or name"));
    }
}
