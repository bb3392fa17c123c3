//! Where a pod may and would rather run: node affinity, and the spread of pods over the values of a node label.
//! Read by the scheduler and by the check of its plans.
//!
//! Invariant: pure; each requirement judges labels as Kubernetes does, also where a key is absent.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

type Labels = BTreeMap<String, String>;

/// A pod's `affinity`. That between pods is not supported yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Affinity {
    #[serde(skip_serializing_if = "NodeAffinity::is_empty")]
    pub node_affinity: NodeAffinity,
}

impl Affinity {
    pub fn is_empty(&self) -> bool {
        self.node_affinity.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeAffinity {
    /// The node must match; judged when the pod is placed, never again.
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        skip_serializing_if = "Option::is_none"
    )]
    pub required: Option<NodeSelector>,
    /// Nodes that match are chosen first.
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub preferred: Vec<PreferredSchedulingTerm>,
}

impl NodeAffinity {
    pub fn is_empty(&self) -> bool {
        self.required.is_none() && self.preferred.is_empty()
    }

    /// Whether the node may take the pod.
    pub fn admits(&self, name: &str, labels: &Labels) -> bool {
        self.required.as_ref().is_none_or(|r| r.matches(name, labels))
    }

    /// Sum of the weights that the node matches.
    pub fn weight(&self, name: &str, labels: &Labels) -> u32 {
        let matching = self.preferred.iter().filter(|t| t.preference.matches(name, labels));
        matching.map(|t| t.weight.unsigned_abs()).fold(0, u32::saturating_add)
    }
}

/// Terms of which one must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSelector {
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

impl NodeSelector {
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector_terms.iter().any(|t| t.matches(name, labels))
    }
}

/// Requirements that must all hold; none at all match nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeSelectorTerm {
    /// On the node's labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<NodeSelectorRequirement>,
    /// On the node's fields: `metadata.name` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<NodeSelectorRequirement>,
}

impl NodeSelectorTerm {
    pub fn is_empty(&self) -> bool {
        self.match_expressions.is_empty() && self.match_fields.is_empty()
    }

    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let field = |key: &str| (key == NODE_NAME_FIELD).then_some(name);
        !self.is_empty()
            && self
                .match_expressions
                .iter()
                .all(|r| r.holds(labels.get(&r.key).map(String::as_str)))
            && self.match_fields.iter().all(|r| r.holds(field(&r.key)))
    }
}

/// The one field of a node that can be selected by.
pub const NODE_NAME_FIELD: &str = "metadata.name";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSelectorRequirement {
    pub key: String,
    pub operator: NodeOperator,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeOperator {
    In,
    /// Holds too where the key is absent.
    NotIn,
    Exists,
    DoesNotExist,
    /// The label's value, a whole number, is greater than the one value.
    Gt,
    Lt,
}

impl NodeSelectorRequirement {
    /// `value`: of the key, none where it is absent.
    pub fn holds(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|w| w == v);
        let numbers = || {
            let bound = self.values.first()?;
            Some((value?.parse::<i64>().ok()?, bound.parse::<i64>().ok()?))
        };
        match self.operator {
            NodeOperator::In => value.is_some_and(listed),
            NodeOperator::NotIn => !value.is_some_and(listed),
            NodeOperator::Exists => value.is_some(),
            NodeOperator::DoesNotExist => value.is_none(),
            NodeOperator::Gt => numbers().is_some_and(|(is, bound)| is > bound),
            NodeOperator::Lt => numbers().is_some_and(|(is, bound)| is < bound),
        }
    }
}

/// `zone in (north,south)`, `!gpu`, `cores > 8`.
impl fmt::Display for NodeSelectorRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            NodeOperator::In => write!(f, "{key} in ({values})"),
            NodeOperator::NotIn => write!(f, "{key} notin ({values})"),
            NodeOperator::Exists => write!(f, "{key}"),
            NodeOperator::DoesNotExist => write!(f, "!{key}"),
            NodeOperator::Gt => write!(f, "{key} > {values}"),
            NodeOperator::Lt => write!(f, "{key} < {values}"),
        }
    }
}

/// Requirements joined by commas.
impl fmt::Display for NodeSelectorTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.match_expressions.iter().chain(&self.match_fields);
        f.write_str(&all.map(ToString::to_string).collect::<Vec<_>>().join(","))
    }
}

/// Terms joined by `or`.
impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = self.node_selector_terms.iter().map(ToString::to_string);
        f.write_str(&terms.collect::<Vec<_>>().join(" or "))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreferredSchedulingTerm {
    /// 1 to 100.
    pub weight: i32,
    pub preference: NodeSelectorTerm,
}

/// How unevenly the pods that a selector chooses may lie over the values of a node label, each value a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopologySpreadConstraint {
    /// Most that a domain may have beyond the one with the least.
    pub max_skew: i32,
    /// Node label whose values are the domains; a node without it is in none.
    pub topology_key: String,
    pub when_unsatisfiable: WhenUnsatisfiable,
    /// Which pods of the namespace count; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<PodSelector>,
    /// With fewer domains the least is taken to be 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_domains: Option<i32>,
    #[serde(default, skip_serializing_if = "NodeTaintsPolicy::is_ignore")]
    pub node_taints_policy: NodeTaintsPolicy,
}

impl TopologySpreadConstraint {
    pub fn is_hard(&self) -> bool {
        self.when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule
    }

    /// Whether a pod with these labels counts.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.label_selector
            .as_ref()
            .is_some_and(|s| s.matches(|k| labels.get(k).map(String::as_str)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenUnsatisfiable {
    DoNotSchedule,
    /// Nodes of domains with fewer pods are chosen first.
    ScheduleAnyway,
}

/// Whether a node that takes no pods, or none of this pod for its taints, is part of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeTaintsPolicy {
    /// It is.
    #[default]
    Ignore,
    /// It is not.
    Honor,
}

impl NodeTaintsPolicy {
    fn is_ignore(&self) -> bool {
        *self == Self::Ignore
    }
}

/// A label selector within an object; an empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodSelector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<PodSelectorRequirement>,
}

/// As on a command line: `app=web,tier in (a,b),!old`.
impl fmt::Display for PodSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.match_labels.iter().map(|(k, v)| format!("{k}={v}"));
        let requirements = self.match_expressions.iter().map(|r| {
            let (key, values) = (&r.key, r.values.join(","));
            match r.operator {
                PodOperator::In => format!("{key} in ({values})"),
                PodOperator::NotIn => format!("{key} notin ({values})"),
                PodOperator::Exists => key.clone(),
                PodOperator::DoesNotExist => format!("!{key}"),
            }
        });
        let parts: Vec<String> = pairs.chain(requirements).collect();
        f.write_str(&parts.join(","))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSelectorRequirement {
    pub key: String,
    pub operator: PodOperator,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodOperator {
    In,
    /// Holds too where the key is absent.
    NotIn,
    Exists,
    DoesNotExist,
}

impl PodSelector {
    /// `label`: the value of a pod's label.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.match_labels.iter().all(|(k, v)| label(k) == Some(v))
            && self.match_expressions.iter().all(|r| {
                let value = label(&r.key);
                let listed = value.is_some_and(|v| r.values.iter().any(|w| w == v));
                match r.operator {
                    PodOperator::In => listed,
                    PodOperator::NotIn => !listed,
                    PodOperator::Exists => value.is_some(),
                    PodOperator::DoesNotExist => value.is_none(),
                }
            })
    }

    /// A key with the values of which every pod that it selects has one; none where it asks for none.
    pub fn pinned(&self) -> Option<(&str, Vec<&str>)> {
        if let Some((key, value)) = self.match_labels.first_key_value() {
            return Some((key, vec![value]));
        }
        let listed = self.match_expressions.iter().find(|r| r.operator == PodOperator::In)?;
        Some((&listed.key, listed.values.iter().map(String::as_str).collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn read<T: serde::de::DeserializeOwned>(json: Value) -> T {
        serde_json::from_value(json).expect("it reads")
    }

    /// Each operator against a label that is there, one with another value, one that is no number, and none.
    #[test]
    fn operators_on_nodes() {
        let values = [Some("8"), Some("9"), Some("-3"), Some("x"), Some(""), None];
        for (operator, list, expected) in [
            ("In", json!(["8", "x"]), [true, false, false, true, false, false]),
            ("NotIn", json!(["8", "x"]), [false, true, true, false, true, true]),
            ("Exists", json!([]), [true, true, true, true, true, false]),
            ("DoesNotExist", json!([]), [false, false, false, false, false, true]),
            ("Gt", json!(["8"]), [false, true, false, false, false, false]),
            ("Lt", json!(["8"]), [false, false, true, false, false, false]),
            ("Gt", json!(["x"]), [false; 6]),
            ("Lt", json!([]), [false; 6]),
        ] {
            let r: NodeSelectorRequirement = read(json!({"key": "cores", "operator": operator, "values": list}));
            assert_eq!(values.map(|v| r.holds(v)), expected, "{operator} {list}");
        }
        for text in [
            "cores in (8,9)",
            "cores notin (8)",
            "cores",
            "!cores",
            "cores > 8",
            "cores < 8",
        ] {
            let (operator, list) = match text {
                "cores" => ("Exists", json!([])),
                "!cores" => ("DoesNotExist", json!([])),
                "cores > 8" => ("Gt", json!(["8"])),
                "cores < 8" => ("Lt", json!(["8"])),
                "cores notin (8)" => ("NotIn", json!(["8"])),
                _ => ("In", json!(["8", "9"])),
            };
            let r: NodeSelectorRequirement = read(json!({"key": "cores", "operator": operator, "values": list}));
            assert_eq!(r.to_string(), text);
        }
    }

    #[test]
    fn terms_are_alternatives_and_their_requirements_are_not() {
        let affinity: NodeAffinity = read(json!({
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [
                    {"key": "zone", "operator": "In", "values": ["north"]},
                    {"key": "disk", "operator": "Exists"}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n9"]}]},
                {}]},
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 30, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}},
                {"weight": 5, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}},
                {"weight": 100, "preference": {}}],
        }));
        for (name, map, admits, weight) in [
            ("n1", labels(&[("zone", "north"), ("disk", "ssd")]), true, 35),
            ("n1", labels(&[("zone", "north")]), false, 5),
            ("n1", labels(&[("disk", "ssd")]), false, 30),
            ("n9", labels(&[]), true, 0),
            ("n1", labels(&[]), false, 0),
        ] {
            assert_eq!(affinity.admits(name, &map), admits, "{name} {map:?}");
            assert_eq!(affinity.weight(name, &map), weight, "{name} {map:?}");
        }
        let required = affinity.required.expect("it is there");
        assert_eq!(
            required.to_string(),
            "zone in (north),disk or metadata.name in (n9) or "
        );
        assert!(NodeAffinity::default().admits("n1", &labels(&[])));
        let none: NodeSelector = read(json!({"nodeSelectorTerms": []}));
        assert!(!none.matches("n1", &labels(&[])));
        let other: NodeSelectorTerm =
            read(json!({"matchFields": [{"key": "spec.x", "operator": "NotIn", "values": ["n1"]}]}));
        assert!(other.matches("n1", &labels(&[])), "an unknown field is absent");
    }

    #[test]
    fn pods_that_count() {
        let l = labels(&[("app", "web"), ("tier", "front")]);
        for (selector, expected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "web", "tier": "back"}}), false),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "web"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "new", "operator": "NotIn", "values": ["web"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "new", "operator": "DoesNotExist"}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "new", "operator": "Exists"}]}),
                false,
            ),
        ] {
            assert_eq!(
                read::<PodSelector>(selector.clone()).matches(|k| l.get(k).map(String::as_str)),
                expected,
                "{selector}"
            );
        }
        let constraint: TopologySpreadConstraint =
            read(json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}));
        assert!(!constraint.selects(&l), "no selector selects nothing");
        assert!(constraint.is_hard());
    }

    /// What `pinned` names, every selected pod has.
    #[test]
    fn a_pinned_key() {
        for (selector, expected) in [
            (json!({}), None),
            (json!({"matchLabels": {"b": "2", "a": "1"}}), Some(("a", vec!["1"]))),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "Exists"},
                    {"key": "b", "operator": "In", "values": ["1", "2"]}]}),
                Some(("b", vec!["1", "2"])),
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}),
                None,
            ),
        ] {
            assert_eq!(read::<PodSelector>(selector.clone()).pinned(), expected, "{selector}");
        }
    }
}
