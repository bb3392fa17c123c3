//! Taints of nodes, and what pods tolerate of them. Read by the scheduler, which places by them, and by the planners
//! that take pods from a node.
//!
//! Invariant: pure; a node has at most one taint of a key and effect, so that (key, effect) is its identity.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::Time;

/// What is true of a node, and what it means for pods that do not tolerate it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    pub key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    pub effect: TaintEffect,
    /// Since when; set by the coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaintEffect {
    /// No new pods.
    NoSchedule,
    /// New pods only where no other node takes them.
    PreferNoSchedule,
    /// No new pods, and those that run there leave.
    NoExecute,
}

impl TaintEffect {
    pub const ALL: [Self; 3] = [Self::NoSchedule, Self::PreferNoSchedule, Self::NoExecute];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

impl fmt::Display for TaintEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `dedicated=db:NoSchedule`.
impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        write!(f, ":{}", self.effect)
    }
}

impl Taint {
    /// Another one with this key and effect takes its place.
    pub fn replaces(&self, other: &Self) -> bool {
        (&self.key, self.effect) == (&other.key, other.effect)
    }

    /// Gives each of `new` its time: what stood in `old` with the same value keeps the one it has.
    pub fn stamp(new: &mut [Self], old: &[Self], now: Time) {
        for taint in new {
            let before = old.iter().find(|t| t.replaces(taint) && t.value == taint.value);
            taint.time_added = Some(before.and_then(|t| t.time_added).unwrap_or(now));
        }
    }
}

/// Which taints a pod bears.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Toleration {
    /// Empty, with [`TolerationOperator::Exists`]: every key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    #[serde(skip_serializing_if = "TolerationOperator::is_equal")]
    pub operator: TolerationOperator,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// None: every effect.
    #[serde(deserialize_with = "effect", skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// How long a pod stays after a NoExecute taint came; for ever when left out, not at all when not above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TolerationOperator {
    #[default]
    Equal,
    /// Whatever the value.
    Exists,
}

impl TolerationOperator {
    fn is_equal(&self) -> bool {
        *self == Self::Equal
    }
}

/// `""` is every effect too, as in Kubernetes.
fn effect<'de, D: Deserializer<'de>>(d: D) -> Result<Option<TaintEffect>, D::Error> {
    #[derive(Deserialize)]
    enum Written {
        NoSchedule,
        PreferNoSchedule,
        NoExecute,
        #[serde(rename = "")]
        Every,
    }
    Ok(match Option::<Written>::deserialize(d)? {
        Some(Written::NoSchedule) => Some(TaintEffect::NoSchedule),
        Some(Written::PreferNoSchedule) => Some(TaintEffect::PreferNoSchedule),
        Some(Written::NoExecute) => Some(TaintEffect::NoExecute),
        Some(Written::Every) | None => None,
    })
}

/// How long a pod stays on a node with a NoExecute taint that it tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stay {
    Seconds(u64),
    Forever,
}

impl Toleration {
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|e| e == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator {
                TolerationOperator::Exists => true,
                TolerationOperator::Equal => self.value == taint.value,
            }
    }

    /// How long pods with these tolerations stay with the taint, by the first that fits; none: it is not tolerated.
    pub fn stay(tolerations: &[Self], taint: &Taint) -> Option<Stay> {
        let first = tolerations.iter().find(|t| t.tolerates(taint))?;
        Some(match first.toleration_seconds {
            None => Stay::Forever,
            Some(seconds) => Stay::Seconds(u64::try_from(seconds).unwrap_or(0)),
        })
    }

    /// As [`Toleration::stay`], for a NoExecute taint of this key without a value, such as [`UNREACHABLE`].
    pub fn toleration_seconds(tolerations: &[Self], key: &str) -> Option<Stay> {
        let taint = Taint {
            key: key.to_owned(),
            value: String::new(),
            effect: TaintEffect::NoExecute,
            time_added: None,
        };
        Self::stay(tolerations, &taint)
    }
}

/// What a node's condition says; no node carries them as taints, pods tolerate them.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Whether Kubernetes' own programs set taints of this key: what they say is in a node's conditions and holds here.
pub fn is_kubernetes(key: &str) -> bool {
    key.starts_with("node.kubernetes.io/") || key.starts_with("node.cloudprovider.kubernetes.io/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn toleration(json: serde_json::Value) -> Toleration {
        serde_json::from_value(json).expect("a toleration")
    }

    fn taint(text: &str) -> Taint {
        let (left, effect) = text.rsplit_once(':').expect("KEY[=VALUE]:EFFECT");
        let (key, value) = left.split_once('=').unwrap_or((left, ""));
        serde_json::from_value(json!({"key": key, "value": value, "effect": effect})).expect("a taint")
    }

    #[test]
    fn tolerates_as_kubernetes() {
        let taints = ["a=1:NoSchedule", "a=2:NoExecute", "a:PreferNoSchedule", "b=1:NoExecute"];
        for (json, expected) in [
            (json!({"key": "a", "value": "1"}), vec!["a=1:NoSchedule"]),
            (
                json!({"key": "a", "operator": "Equal", "value": "1", "effect": "NoExecute"}),
                vec![],
            ),
            (json!({"key": "a"}), vec!["a:PreferNoSchedule"]),
            (
                json!({"key": "a", "operator": "Exists"}),
                vec!["a=1:NoSchedule", "a=2:NoExecute", "a:PreferNoSchedule"],
            ),
            (
                json!({"key": "a", "operator": "Exists", "effect": ""}),
                vec!["a=1:NoSchedule", "a=2:NoExecute", "a:PreferNoSchedule"],
            ),
            (
                json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}),
                vec!["a=2:NoExecute"],
            ),
            (json!({"operator": "Exists"}), taints.to_vec()),
            (
                json!({"operator": "Exists", "effect": "NoExecute"}),
                vec!["a=2:NoExecute", "b=1:NoExecute"],
            ),
            (json!({"key": "c", "operator": "Exists"}), vec![]),
        ] {
            let t = toleration(json.clone());
            let found: Vec<_> = taints.into_iter().filter(|text| t.tolerates(&taint(text))).collect();
            assert_eq!(found, expected, "{json}");
        }
        for text in taints {
            assert_eq!(taint(text).to_string(), text);
        }
    }

    #[test]
    fn the_first_that_fits_says_how_long() {
        let list = [
            toleration(
                json!({"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}),
            ),
            toleration(json!({"key": UNREACHABLE, "operator": "Exists"})),
            toleration(json!({"key": NOT_READY, "operator": "Exists", "tolerationSeconds": -1})),
            toleration(json!({"key": "a", "operator": "Exists"})),
        ];
        let stay = |key| Toleration::toleration_seconds(&list, key);
        assert_eq!(stay(UNREACHABLE), Some(Stay::Seconds(5)));
        assert_eq!(stay(NOT_READY), Some(Stay::Seconds(0)));
        assert_eq!(stay("a"), Some(Stay::Forever));
        assert_eq!(stay("b"), None);
        assert!(Stay::Seconds(u64::MAX) < Stay::Forever);
    }

    #[test]
    fn a_taint_keeps_its_time_while_it_stays_the_same() {
        let old = [
            Taint {
                time_added: Some(Time(5)),
                ..taint("a=1:NoExecute")
            },
            taint("b:NoExecute"),
        ];
        let mut new = ["a=1:NoExecute", "a=1:NoSchedule", "b:NoExecute", "c:NoExecute"].map(taint);
        Taint::stamp(&mut new, &old, Time(9));
        assert_eq!(
            new.each_ref().map(|t| t.time_added),
            [5, 9, 9, 9].map(|t| Some(Time(t)))
        );
        let mut changed = [taint("a=2:NoExecute")];
        Taint::stamp(&mut changed, &old, Time(9));
        assert_eq!(changed[0].time_added, Some(Time(9)), "another value is another taint");
    }

    #[test]
    fn defaults_are_not_written() {
        let t = toleration(json!({"key": "a", "operator": "Equal", "value": "", "effect": ""}));
        assert_eq!(serde_json::to_value(&t).expect("JSON"), json!({"key": "a"}));
        assert!(serde_json::from_value::<Toleration>(json!({"effect": "Never"})).is_err());
    }
}
