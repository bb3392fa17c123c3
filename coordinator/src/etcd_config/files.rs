//! The text of the files: a member's environment file, and the coordinators' part of their configuration. Called by
//! [`super::make`].
//!
//! Invariant: pure; complete: etcd starts on the environment file alone, with nothing left to fill in.

use super::member::Member;

/// What all files of a cluster share.
pub struct Site<'a> {
    /// All members of the cluster as this file's reader must know them.
    pub members: &'a [Member],
    pub token: &'a str,
    pub client_port: u16,
    pub peer_port: u16,
    /// Where a host keeps the files; `{member}` stands for the member's name.
    pub install_dir: &'a str,
    /// Where a host keeps etcd's data; `{member}` likewise.
    pub data_dir: &'a str,
}

/// What takes the place of a member's name in a directory of the coordinators.
pub const COORDINATOR: &str = "coordinator";

/// Common name of the members' certificates towards each other; etcd takes no other one on its peer port.
pub const PEER_NAME: &str = "wharf-etcd-peer";

/// Milliseconds; for hosts on one LAN.
const HEARTBEAT_MS: u32 = 50;
const ELECTION_MS: u32 = 500;
/// Bytes of data at which etcd takes no more writes.
pub const QUOTA: u64 = 2 << 30;

impl Site<'_> {
    fn dir(&self, pattern: &str, name: &str) -> String {
        pattern.replace("{member}", name).trim_end_matches('/').to_owned()
    }

    /// Where the files of a member, or of the coordinators, belong.
    pub fn installed(&self, name: &str) -> String {
        self.dir(self.install_dir, name)
    }

    pub fn client_urls(&self) -> Vec<String> {
        self.members.iter().map(|m| m.host.url(self.client_port)).collect()
    }

    /// `etcd.env`. `state`: `new` for a cluster's first members, `existing` for one that is added.
    pub fn env(&self, member: &Member, state: &str) -> String {
        let files = self.installed(&member.name);
        let cluster: Vec<String> = self
            .members
            .iter()
            .map(|m| format!("{}={}", m.name, m.host.url(self.peer_port)))
            .collect();
        let pairs = [
            ("NAME", member.name.clone()),
            ("DATA_DIR", self.dir(self.data_dir, &member.name)),
            ("LISTEN_PEER_URLS", member.host.listen_url(self.peer_port)),
            ("LISTEN_CLIENT_URLS", member.host.listen_url(self.client_port)),
            ("INITIAL_ADVERTISE_PEER_URLS", member.host.url(self.peer_port)),
            ("ADVERTISE_CLIENT_URLS", member.host.url(self.client_port)),
            ("INITIAL_CLUSTER", cluster.join(",")),
            ("INITIAL_CLUSTER_STATE", state.to_owned()),
            ("INITIAL_CLUSTER_TOKEN", self.token.to_owned()),
            ("STRICT_RECONFIG_CHECK", "true".to_owned()),
            ("CERT_FILE", format!("{files}/server.crt")),
            ("KEY_FILE", format!("{files}/server.key")),
            ("TRUSTED_CA_FILE", format!("{files}/ca.crt")),
            ("CLIENT_CERT_AUTH", "true".to_owned()),
            ("PEER_CERT_FILE", format!("{files}/peer.crt")),
            ("PEER_KEY_FILE", format!("{files}/peer.key")),
            ("PEER_TRUSTED_CA_FILE", format!("{files}/ca.crt")),
            ("PEER_CLIENT_CERT_AUTH", "true".to_owned()),
            ("PEER_CERT_ALLOWED_CN", PEER_NAME.to_owned()),
            ("HEARTBEAT_INTERVAL", HEARTBEAT_MS.to_string()),
            ("ELECTION_TIMEOUT", ELECTION_MS.to_string()),
            // A member that was cut off would otherwise depose the leader as it comes back.
            ("PRE_VOTE", "true".to_owned()),
            ("QUOTA_BACKEND_BYTES", QUOTA.to_string()),
            // The coordinator compacts: it alone knows what its watches still need.
            ("AUTO_COMPACTION_RETENTION", "0".to_owned()),
            ("LOGGER", "zap".to_owned()),
            ("LOG_OUTPUTS", "stderr".to_owned()),
        ];
        let mut text = format!(
            "# etcd member {}, made by wharf-coordinator etcd-config. This directory belongs to {files} on {}.\n",
            member.name, member.host
        );
        for (name, value) in pairs {
            text.push_str(&format!("ETCD_{name}={value}\n"));
        }
        text
    }

    /// The lines of a coordinator's configuration file.
    pub fn coordinator_toml(&self) -> String {
        let files = self.installed(COORDINATOR);
        let urls: Vec<String> = self.client_urls().iter().map(|u| format!("{u:?}")).collect();
        format!(
            "# For each coordinator's configuration file, made by wharf-coordinator etcd-config.\n\
             # This directory belongs to {files} on each coordinator's host.\n\
             store = \"etcd\"\n\
             etcd-endpoints = [{}]\n\
             etcd-ca = \"{files}/ca.crt\"\n\
             etcd-cert = \"{files}/client.crt\"\n\
             etcd-key = \"{files}/client.key\"\n",
            urls.join(", ")
        )
    }
}
