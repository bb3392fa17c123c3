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
    /// Certificate identity of who made it (`user/admin`; of a drain, who began it), or the name of the maintenance.
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

/// `cordon by admin: RAM swap`, `maintenance m-17, replace DIMM B2`.
impl fmt::Display for NodeHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_str();
        let between = match self.kind {
            HoldKind::Maintenance => {
                write!(f, "{kind} {}", self.owner)?;
                ", "
            }
            HoldKind::Cordon | HoldKind::Drain | HoldKind::Automation => {
                let owner = self.owner.strip_prefix("user/").unwrap_or(&self.owner);
                write!(f, "{kind} by {owner}")?;
                ": "
            }
        };
        if !self.reason.is_empty() {
            write!(f, "{between}{}", self.reason)?;
        }
        Ok(())
    }
}

/// All of them, as a line ends in them.
pub fn words<'a>(holds: impl IntoIterator<Item = &'a NodeHold>) -> String {
    let holds: Vec<String> = holds.into_iter().map(ToString::to_string).collect();
    holds.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_in_words() {
        let hold = |kind, owner: &str, reason: &str| NodeHold {
            kind,
            owner: owner.into(),
            reason: reason.into(),
            since: Time(0),
            expires: None,
        };
        let all = [
            hold(HoldKind::Automation, "host", "disk"),
            hold(HoldKind::Cordon, "user/admin", "RAM swap"),
            hold(HoldKind::Cordon, "user/bob", ""),
            hold(HoldKind::Maintenance, "m-17", "replace DIMM B2"),
        ];
        assert_eq!(
            words(&all),
            "automation by host: disk; cordon by admin: RAM swap; cordon by bob; maintenance m-17, replace DIMM B2"
        );
        assert_eq!(all[1].id(), "cordon/user/admin");
        let until = |at| NodeHold {
            expires: at,
            ..all[1].clone()
        };
        let at = |hold: NodeHold| [9, 10].map(|now| hold.expired(Time(now)));
        assert_eq!(at(until(Some(Time(10)))), [false, true]);
        assert_eq!(at(until(None)), [false, false]);
    }
}
