//! Members of an etcd cluster as an operator writes them, `NAME=HOST`, and what is refused or said of a set of them.
//! Called by [`super::plan`].
//!
//! Invariant: pure; what passes is a name and an address that etcd takes, each once.

use std::{fmt, net::IpAddr, str::FromStr};

use proto::model::labels::{check_dns_label, check_dns_subdomain, quoted};
use serde::{Deserialize, Serialize};

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    Ip(IpAddr),
    /// A DNS name.
    Name(String),
}

impl Host {
    /// For a URL: `https://{host}:{port}`.
    pub fn url(&self, port: u16) -> String {
        match self {
            Self::Ip(IpAddr::V6(ip)) => format!("https://[{ip}]:{port}"),
            _ => format!("https://{self}:{port}"),
        }
    }

    /// Address that the member itself listens on; etcd takes no names there.
    pub fn listen_url(&self, port: u16) -> String {
        match self {
            Self::Ip(_) => self.url(port),
            Self::Name(_) => format!("https://0.0.0.0:{port}"),
        }
    }

    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.to_string()
    }
}

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text
            .strip_prefix('[')
            .and_then(|t| t.strip_suffix(']'))
            .filter(|t| t.contains(':'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return if ip.is_unspecified() || ip.is_multicast() {
                Err(format!("{bare} is no address of one host"))
            } else {
                Ok(Self::Ip(ip))
            };
        }
        if text.contains("://") {
            return Err(format!(
                "{} is a URL: give the address alone, the ports by --client-port and --peer-port",
                quoted(text)
            ));
        }
        if text.contains('%') {
            return Err(format!(
                "{} has a zone, which other hosts do not share: give a global address",
                quoted(text)
            ));
        }
        let port = text.rsplit_once(':').map(|(_, port)| port);
        if port.is_some_and(|p| p.parse::<u16>().is_ok()) {
            return Err(format!(
                "{} has a port: give the address alone, the ports by --client-port and --peer-port",
                quoted(text)
            ));
        }
        check_dns_subdomain(text).map_err(|_| format!("{} is neither an IP address nor a host name", quoted(text)))?;
        // No name ends so; an address with a slip of the pen does.
        let last = text.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{} is neither an IP address nor a host name", quoted(text)));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// A DNS label; its directory's name, too.
    pub name: String,
    pub host: Host,
}

/// Names of what lies beside the members' directories.
const TAKEN: [&str; 2] = ["ca", "coordinator"];

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, host) = text
            .split_once('=')
            .ok_or_else(|| format!("{} is not NAME=ADDRESS as in etcd1=10.0.0.1", quoted(text)))?;
        check_dns_label(name)?;
        if TAKEN.contains(&name) {
            return Err(format!(
                "{name:?} names another directory of --out: choose another name"
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            host: host.parse()?,
        })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.host)
    }
}

/// The first name or address that stands twice.
pub fn check_distinct(members: &[Member]) -> Result<(), String> {
    for (i, member) in members.iter().enumerate() {
        for other in &members[..i] {
            if other.name == member.name {
                return Err(format!("member {} is named twice", member.name));
            }
            if other.host == member.host {
                return Err(format!(
                    "members {} and {} have one address, {}: each needs a host of its own",
                    other.name, member.name, member.host
                ));
            }
        }
    }
    Ok(())
}

/// What is allowed and likely a mistake, each a sentence.
pub fn warnings(members: &[Member]) -> Vec<String> {
    let mut said = Vec::new();
    match members.len() {
        1 => said.push("one member: its loss is the loss of the cluster's state; have three".to_owned()),
        2 => said.push("two members: the loss of either stops all writes; have three".to_owned()),
        n if n % 2 == 0 => said.push(format!(
            "{n} members bear the loss of {}, as {} do: an odd number is better",
            (n - 1) / 2,
            n - 1
        )),
        n if n > 7 => said.push(format!("{n} members make each write slower; three or five are usual")),
        _ => {}
    }
    let loopback: Vec<&str> = members
        .iter()
        .filter(|m| m.host.is_loopback())
        .map(|m| m.name.as_str())
        .collect();
    if !loopback.is_empty() {
        said.push(format!(
            "{} on a loopback address: other hosts cannot reach it",
            loopback.join(", ")
        ));
    }
    said
}
