//! What security settings must satisfy. Called by [`super::containers`].
//! Source of the names: capabilities(7).

use super::Check;
use crate::model::{Capabilities, PodSpec, SecurityContext, labels::quoted, parse::hint};

/// Largest id of a user or group, as in Kubernetes.
const MAX_ID: i64 = i32::MAX as i64;

/// Every capability of Linux, without `CAP_`, and the word for all of them.
const CAPABILITIES: [&str; 42] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

impl Check {
    pub(super) fn pod_security(&mut self, at: &str, spec: &PodSpec) {
        let given = &spec.security_context;
        self.id(at, "runAsUser", given.run_as_user);
        self.id(at, "runAsGroup", given.run_as_group);
        for (i, group) in given.supplemental_groups.iter().enumerate() {
            self.id(at, &format!("supplementalGroups[{i}]"), Some(*group));
        }
        self.not_root(at, given.run_as_user, given.run_as_non_root);
    }

    /// `pod` has what the container leaves out.
    pub(super) fn security(&mut self, at: &str, given: &SecurityContext, pod: &PodSpec) {
        self.id(at, "runAsUser", given.run_as_user);
        self.id(at, "runAsGroup", given.run_as_group);
        self.capabilities(at, &given.capabilities);
        let pod = &pod.security_context;
        // What is the pod's alone was refused there.
        if given.run_as_user.is_some() || given.run_as_non_root.is_some() {
            self.not_root(
                at,
                given.run_as_user.or(pod.run_as_user),
                given.run_as_non_root.or(pod.run_as_non_root),
            );
        }
    }

    fn not_root(&mut self, at: &str, user: Option<i64>, non_root: Option<bool>) {
        if user == Some(0) && non_root == Some(true) {
            self.fail(
                at,
                "runAsUser 0 is root, which runAsNonRoot forbids; change one of them",
            );
        }
    }

    fn id(&mut self, at: &str, field: &str, id: Option<i64>) {
        if id.is_some_and(|id| !(0..=MAX_ID).contains(&id)) {
            self.fail(format!("{at}.{field}"), format!("must be 0 to {MAX_ID}"));
        }
    }

    fn capabilities(&mut self, at: &str, given: &Capabilities) {
        for (part, names) in [("add", &given.add), ("drop", &given.drop)] {
            for (i, name) in names.iter().enumerate() {
                let path = format!("{at}.capabilities.{part}[{i}]");
                if let Some(bare) = name.strip_prefix("CAP_").filter(|n| CAPABILITIES.contains(n)) {
                    self.fail(path, format!("write it without CAP_: {bare}"));
                } else if !CAPABILITIES.contains(&name.as_str()) {
                    let problem = format!("{} is no capability{}", quoted(name), hint(name, &CAPABILITIES));
                    self.fail(path, problem);
                }
            }
        }
    }
}
