//! NodeHold: a named, owned reason why a node takes no new pods. Shown in a node's `status.holds`; stored by the
//! coordinator as it stands here.
//!
//! Invariant: a node has at most one hold of a kind and owner, so that (kind, owner) is its identity.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Time;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeHold {
    pub kind: HoldKind,
    /// Certificate identity of who made it (`user/admin`), or the name of the maintenance.
    pub owner: String,
    /// For people; may be empty for a cordon.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub since: Time,
    /// It ends by itself then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HoldKind {
    /// By a person; `spec.unschedulable` shows whether there is one.
    Cordon,
    Drain,
    Maintenance,
    /// By a program.
    Automation,
}

impl HoldKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cordon => "cordon",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
            Self::Automation => "automation",
        }
    }
}

impl NodeHold {
    /// KIND/OWNER.
    pub fn id(&self) -> String {
        format!("{}/{}", self.kind.as_str(), self.owner)
    }

    pub fn expired(&self, now: Time) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

/// `cordon by admin: RAM swap`.
impl fmt::Display for NodeHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            HoldKind::Maintenance | HoldKind::Drain => write!(f, "{} {}", self.kind.as_str(), self.owner)?,
            HoldKind::Cordon | HoldKind::Automation => {
                let owner = self.owner.strip_prefix("user/").unwrap_or(&self.owner);
                write!(f, "{} by {owner}", self.kind.as_str())?;
            }
        }
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}
