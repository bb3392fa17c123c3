//! What the fields that place pods must satisfy: affinity, spread, tolerations, and the taints of nodes. Called by
//! [`super::object`] and by [`super::containers`].
//! Source: Kubernetes' validation of the same fields.

use std::collections::BTreeSet;

use super::Check;
use crate::model::{
    NODE_NAME_FIELD, NodeOperator, NodeSelectorRequirement, NodeSelectorTerm, NodeSpec, PodOperator, PodSelector,
    PodSpec, Taint, TaintEffect, Toleration, TolerationOperator, TopologySpreadConstraint,
    labels::{check_dns_subdomain, check_label_key, check_label_value, quoted},
    taint::is_kubernetes,
};

impl Check {
    pub(super) fn node(&mut self, spec: &NodeSpec) {
        for (i, taint) in spec.taints.iter().enumerate() {
            let at = format!("spec.taints[{i}]");
            self.taint(&at, taint);
            if spec.taints.iter().take(i).any(|t| t.replaces(taint)) {
                self.fail(&at, format!("{} with effect {} stands twice", taint.key, taint.effect));
            }
        }
    }

    fn taint(&mut self, at: &str, taint: &Taint) {
        self.need(format!("{at}.key"), check_label_key(&taint.key));
        self.need(format!("{at}.value"), check_label_value(&taint.value));
        if is_kubernetes(&taint.key) {
            self.fail(
                format!("{at}.key"),
                format!(
                    "{} is Kubernetes' own; here a node's conditions and holds say it: choose another key",
                    quoted(&taint.key)
                ),
            );
        }
    }

    pub(super) fn placement(&mut self, path: &str, spec: &PodSpec) {
        let affinity = &spec.affinity.node_affinity;
        let at = format!("{path}.affinity.nodeAffinity");
        if let Some(required) = &affinity.required {
            let at = format!("{at}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
            if required.node_selector_terms.is_empty() {
                self.fail(&at, "at least one is required");
            }
            for (i, term) in required.node_selector_terms.iter().enumerate() {
                self.term(&format!("{at}[{i}]"), term);
            }
        }
        for (i, preferred) in affinity.preferred.iter().enumerate() {
            let at = format!("{at}.preferredDuringSchedulingIgnoredDuringExecution[{i}]");
            if !(1..=100).contains(&preferred.weight) {
                self.fail(
                    format!("{at}.weight"),
                    format!("must be 1 to 100, is {}", preferred.weight),
                );
            }
            self.term(&format!("{at}.preference"), &preferred.preference);
        }
        let mut known = BTreeSet::new();
        for (i, constraint) in spec.topology_spread_constraints.iter().enumerate() {
            let at = format!("{path}.topologySpreadConstraints[{i}]");
            if !known.insert((&constraint.topology_key, constraint.is_hard())) {
                let what = format!(
                    "another constraint over {} has the same whenUnsatisfiable",
                    constraint.topology_key
                );
                self.fail(&at, what);
            }
            self.spread(&at, constraint);
        }
        for (i, toleration) in spec.tolerations.iter().enumerate() {
            self.toleration(&format!("{path}.tolerations[{i}]"), toleration);
        }
    }

    fn term(&mut self, at: &str, term: &NodeSelectorTerm) {
        for (i, r) in term.match_expressions.iter().enumerate() {
            let at = format!("{at}.matchExpressions[{i}]");
            self.need(format!("{at}.key"), check_label_key(&r.key));
            self.values(&at, r);
            if matches!(r.operator, NodeOperator::In | NodeOperator::NotIn) {
                for (j, value) in r.values.iter().enumerate() {
                    self.need(format!("{at}.values[{j}]"), check_label_value(value));
                }
            }
        }
        for (i, r) in term.match_fields.iter().enumerate() {
            let at = format!("{at}.matchFields[{i}]");
            if r.key != NODE_NAME_FIELD {
                self.fail(
                    format!("{at}.key"),
                    format!("{} is not a field to select by; use {NODE_NAME_FIELD}", quoted(&r.key)),
                );
            }
            if !matches!(r.operator, NodeOperator::In | NodeOperator::NotIn) {
                self.fail(format!("{at}.operator"), "must be In or NotIn for a field");
                continue;
            }
            match r.values.as_slice() {
                [name] => self.need(format!("{at}.values[0]"), check_dns_subdomain(name)),
                _ => self.fail(format!("{at}.values"), "must be the name of one node"),
            }
        }
    }

    /// The number of values that the operator takes.
    fn values(&mut self, at: &str, r: &NodeSelectorRequirement) {
        let problem = match (r.operator, r.values.as_slice()) {
            (NodeOperator::In | NodeOperator::NotIn, []) => "at least one is required for In and NotIn",
            (NodeOperator::Exists | NodeOperator::DoesNotExist, [_, ..]) => {
                "must be left out for Exists and DoesNotExist"
            }
            (NodeOperator::Gt | NodeOperator::Lt, [number]) if number.parse::<i64>().is_ok() => return,
            (NodeOperator::Gt | NodeOperator::Lt, _) => "must be one whole number for Gt and Lt",
            _ => return,
        };
        self.fail(format!("{at}.values"), problem);
    }

    fn spread(&mut self, at: &str, constraint: &TopologySpreadConstraint) {
        if constraint.max_skew < 1 {
            self.fail(
                format!("{at}.maxSkew"),
                format!("must be at least 1, is {}", constraint.max_skew),
            );
        }
        self.need(format!("{at}.topologyKey"), check_label_key(&constraint.topology_key));
        if let Some(selector) = &constraint.label_selector {
            self.selector(&format!("{at}.labelSelector"), selector);
        }
        match constraint.min_domains {
            Some(n) if n < 1 => self.fail(format!("{at}.minDomains"), format!("must be at least 1, is {n}")),
            Some(_) if !constraint.is_hard() => {
                self.fail(format!("{at}.minDomains"), "only with whenUnsatisfiable: DoNotSchedule");
            }
            _ => {}
        }
    }

    pub(super) fn selector(&mut self, at: &str, selector: &PodSelector) {
        self.labels(&format!("{at}.matchLabels"), &selector.match_labels);
        for (i, r) in selector.match_expressions.iter().enumerate() {
            let at = format!("{at}.matchExpressions[{i}]");
            self.need(format!("{at}.key"), check_label_key(&r.key));
            let takes = matches!(r.operator, PodOperator::In | PodOperator::NotIn);
            match (takes, r.values.is_empty()) {
                (true, true) => self.fail(format!("{at}.values"), "at least one is required for In and NotIn"),
                (false, false) => self.fail(format!("{at}.values"), "must be left out for Exists and DoesNotExist"),
                _ => {}
            }
            for (j, value) in r.values.iter().enumerate() {
                self.need(format!("{at}.values[{j}]"), check_label_value(value));
            }
        }
    }

    fn toleration(&mut self, at: &str, t: &Toleration) {
        if !t.key.is_empty() {
            self.need(format!("{at}.key"), check_label_key(&t.key));
        } else if t.operator != TolerationOperator::Exists {
            self.fail(format!("{at}.operator"), "must be Exists where the key is left out");
        }
        match t.operator {
            TolerationOperator::Exists if !t.value.is_empty() => {
                self.fail(format!("{at}.value"), "must be left out for Exists");
            }
            _ => self.need(format!("{at}.value"), check_label_value(&t.value)),
        }
        if t.toleration_seconds.is_some() && t.effect != Some(TaintEffect::NoExecute) {
            self.fail(format!("{at}.effect"), "must be NoExecute beside tolerationSeconds");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::model::{Kind, parse, validate};

    /// What is said of a pod with these fields in its spec, or of a node with these taints.
    fn check(kind: Kind, fields: Value) -> String {
        let mut spec = json!({});
        if kind == Kind::Pod {
            spec["containers"] = json!([{"name": "c", "image": "i"}]);
        }
        for (key, value) in fields.as_object().expect("fields") {
            spec[key] = value.clone();
        }
        match parse::written(kind, json!({"metadata": {"name": "x"}, "spec": spec})) {
            Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Ok(written) => match validate::object(&written.object) {
                Ok(()) => "ok".to_owned(),
                Err(invalid) => {
                    let errors = invalid.errors.iter().map(ToString::to_string);
                    errors.collect::<Vec<_>>().join("; ")
                }
            },
        }
    }

    fn required(term: Value) -> Value {
        json!({"affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
    }

    fn expression(operator: &str, values: Value) -> Value {
        required(json!({"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}))
    }

    fn constraint(changed: Value) -> Value {
        let mut one = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        for (key, value) in changed.as_object().expect("fields") {
            one[key] = value.clone();
        }
        json!({"topologySpreadConstraints": [one]})
    }

    fn toleration(t: Value) -> Value {
        json!({ "tolerations": [t] })
    }

    #[test]
    fn what_is_accepted() {
        for (kind, fields) in [
            (Kind::Pod, json!({"affinity": {}})),
            (Kind::Pod, json!({"affinity": {"nodeAffinity": {}, "podAffinity": {}}})),
            (Kind::Pod, expression("In", json!(["north", ""]))),
            (Kind::Pod, expression("NotIn", json!(["north"]))),
            (Kind::Pod, expression("Exists", json!([]))),
            (Kind::Pod, expression("DoesNotExist", Value::Null)),
            (Kind::Pod, expression("Gt", json!(["-3"]))),
            (Kind::Pod, expression("Lt", json!(["3"]))),
            (
                Kind::Pod,
                required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})),
            ),
            (Kind::Pod, constraint(json!({}))),
            (
                Kind::Pod,
                constraint(json!({"minDomains": 2, "nodeTaintsPolicy": "Honor", "nodeAffinityPolicy": "Honor"})),
            ),
            (Kind::Pod, constraint(json!({"labelSelector": null}))),
            (Kind::Pod, toleration(json!({"operator": "Exists"}))),
            (
                Kind::Pod,
                toleration(json!({"key": "a", "value": "b", "effect": "NoSchedule"})),
            ),
            (
                Kind::Pod,
                toleration(json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})),
            ),
            (
                Kind::Node,
                json!({"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoExecute"}]}),
            ),
        ] {
            assert_eq!(check(kind, fields.clone()), "ok", "{fields}");
        }
    }

    #[test]
    fn what_is_refused_and_where() {
        let at = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
        let first = format!("{at}[0].matchExpressions[0]");
        let spread = "spec.topologySpreadConstraints[0]";
        let preferred = |weight: i32| {
            json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                [{"weight": weight, "preference": {}}]}}})
        };
        for (fields, expected) in [
            (
                json!({"affinity": {"nodeAffinity":
                    {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
                format!("{at}: at least one is required"),
            ),
            (expression("In", json!([])), format!("{first}.values: at least one is required for In and NotIn")),
            (
                expression("In", json!(["a b"])),
                format!("{first}.values[0]: value \"a b\" must be empty or at most 63"),
            ),
            (
                expression("Exists", json!(["x"])),
                format!("{first}.values: must be left out for Exists and DoesNotExist"),
            ),
            (expression("Gt", json!(["x"])), format!("{first}.values: must be one whole number for Gt and Lt")),
            (
                expression("Lt", json!(["1", "2"])),
                format!("{first}.values: must be one whole number for Gt and Lt"),
            ),
            (expression("Like", json!(["1"])), format!("{first}.operator: `Like` is not one of")),
            (
                required(json!({"matchFields": [{"key": "spec.x", "operator": "In", "values": ["n1"]}]})),
                format!("{at}[0].matchFields[0].key: \"spec.x\" is not a field to select by; use metadata.name"),
            ),
            (
                required(json!({"matchFields": [{"key": "metadata.name", "operator": "Exists"}]})),
                format!("{at}[0].matchFields[0].operator: must be In or NotIn for a field"),
            ),
            (
                required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]})),
                format!("{at}[0].matchFields[0].values: must be the name of one node"),
            ),
            (
                preferred(0),
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: must be 1 to 100, is 0"
                    .to_owned(),
            ),
            (
                preferred(101),
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: must be 1 to 100, is 101"
                    .to_owned(),
            ),
            (
                json!({"affinity": {"podAntiAffinity": {"x": 1}}}),
                "spec.affinity.podAntiAffinity: not supported by Wharfinger yet".to_owned(),
            ),
            (constraint(json!({"maxSkew": 0})), format!("{spread}.maxSkew: must be at least 1, is 0")),
            (constraint(json!({"topologyKey": ""})), format!("{spread}.topologyKey: key \"\" must be")),
            (
                constraint(json!({"minDomains": 0})),
                format!("{spread}.minDomains: must be at least 1, is 0"),
            ),
            (
                constraint(json!({"minDomains": 2, "whenUnsatisfiable": "ScheduleAnyway"})),
                format!("{spread}.minDomains: only with whenUnsatisfiable: DoNotSchedule"),
            ),
            (
                constraint(json!({"nodeAffinityPolicy": "Ignore"})),
                format!("{spread}.nodeAffinityPolicy: not supported by Wharfinger yet"),
            ),
            (
                constraint(json!({"labelSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}})),
                format!("{spread}.labelSelector.matchExpressions[0].values: at least one is required"),
            ),
            (
                constraint(
                    json!({"labelSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}}),
                ),
                format!("{spread}.labelSelector.matchExpressions[0].values: must be left out"),
            ),
            (
                json!({"topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
                    {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]}),
                "spec.topologySpreadConstraints[1]: another constraint over zone has the same whenUnsatisfiable".to_owned(),
            ),
            (toleration(json!({})), "spec.tolerations[0].operator: must be Exists where the key is left out".to_owned()),
            (
                toleration(json!({"key": "a", "operator": "Exists", "value": "b"})),
                "spec.tolerations[0].value: must be left out for Exists".to_owned(),
            ),
            (toleration(json!({"key": "a b"})), "spec.tolerations[0].key: key \"a b\" must be".to_owned()),
            (
                toleration(json!({"key": "a", "tolerationSeconds": 3})),
                "spec.tolerations[0].effect: must be NoExecute beside tolerationSeconds".to_owned(),
            ),
        ] {
            let found = check(Kind::Pod, fields.clone());
            assert!(found.starts_with(&expected), "{fields}: {found}");
            assert!(!found.contains("; spec"), "one error: {found}");
        }
        for (taints, expected) in [
            (
                json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoSchedule"}]),
                "spec.taints[1]: a with effect NoSchedule stands twice",
            ),
            (json!([{"key": "a"}]), "spec.taints[0]"),
            (
                json!([{"key": "a", "effect": "Never"}]),
                "spec.taints[0].effect: `Never` is not one of",
            ),
            (
                json!([{"key": "a/b/c", "effect": "NoSchedule"}]),
                "spec.taints[0].key: key \"a/b/c\" must be",
            ),
            (
                json!([{"key": "a", "effect": "NoSchedule"}, {"key": "node.kubernetes.io/x", "effect": "NoSchedule"}]),
                "spec.taints[1].key: \"node.kubernetes.io/x\" is Kubernetes' own",
            ),
        ] {
            let found = check(Kind::Node, json!({ "taints": taints }));
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
