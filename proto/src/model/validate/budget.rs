//! What a PodDisruptionBudget must satisfy. Called by [`super::object`].
//! Source: Kubernetes' validation of policy/v1.

use super::Check;
use crate::model::{IntOrPercent, PdbSpec};

impl Check {
    pub(super) fn budget(&mut self, spec: &PdbSpec) {
        match (spec.min_available, spec.max_unavailable) {
            (None, None) => self.fail("spec", "needs minAvailable or maxUnavailable, e.g. `minAvailable: 1`"),
            (Some(_), Some(_)) => self.fail("spec", "has minAvailable and maxUnavailable; leave one out"),
            _ => {}
        }
        for (at, amount) in [
            ("spec.minAvailable", spec.min_available),
            ("spec.maxUnavailable", spec.max_unavailable),
        ] {
            match amount {
                Some(IntOrPercent::Int(n)) if n < 0 => self.fail(at, format!("must not be negative, is {n}")),
                Some(IntOrPercent::Percent(p)) if p > 100 => self.fail(at, format!("must be 0% to 100%, is {p}%")),
                _ => {}
            }
        }
        match &spec.selector {
            None => self.fail(
                "spec.selector",
                "required, e.g. `matchLabels: {app: web}`; an empty one, `{}`, selects all pods of the namespace",
            ),
            Some(selector) => self.selector("spec.selector", selector),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::model::{Kind, parse, validate};

    /// What is said of a budget with this spec.
    fn check(spec: Value) -> String {
        let words = |errors: Vec<validate::FieldError>| {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            all.join("; ")
        };
        match parse::written(
            Kind::PodDisruptionBudget,
            json!({"apiVersion": "policy/v1", "metadata": {"name": "x"}, "spec": spec}),
        ) {
            Err(errors) => words(errors),
            Ok(written) => match validate::object(&written.object) {
                Ok(()) => "ok".to_owned(),
                Err(invalid) => words(invalid.errors),
            },
        }
    }

    #[test]
    fn a_budget_says_one_amount_of_selected_pods() {
        for (spec, expected) in [
            (json!({"minAvailable": 0, "selector": {}}), "ok"),
            (
                json!({"maxUnavailable": "100%", "selector": {"matchLabels": {"app": "web"}, "matchExpressions":
                    [{"key": "tier", "operator": "NotIn", "values": ["test"]}, {"key": "x", "operator": "Exists"}]}}),
                "ok",
            ),
            (
                json!({"selector": {}}),
                "spec: needs minAvailable or maxUnavailable, e.g. `minAvailable: 1`",
            ),
            (
                json!({"minAvailable": 1, "maxUnavailable": "1%", "selector": {}}),
                "spec: has minAvailable and maxUnavailable; leave one out",
            ),
            (
                json!({"minAvailable": -1, "selector": {}}),
                "spec.minAvailable: must not be negative, is -1",
            ),
            (
                json!({"maxUnavailable": "101%", "selector": {}}),
                "spec.maxUnavailable: must be 0% to 100%, is 101%",
            ),
            (
                json!({"minAvailable": "2", "selector": {}}),
                "spec.minAvailable: invalid value: string \"2\", expected a whole number, or a percentage such \
                 as \"50%\"; leave out the quotes",
            ),
            (
                json!({"minAvailable": "half", "selector": {}}),
                "spec.minAvailable: invalid value: string \"half\", expected a whole number, or a percentage \
                 such as \"50%\"",
            ),
            (
                json!({"minAvailable": 1}),
                "spec.selector: required, e.g. `matchLabels: {app: web}`; an empty one, `{}`, selects all pods of the \
                 namespace",
            ),
            (
                json!({"minAvailable": 1, "selector": {"matchExpressions": [{"key": "app", "operator": "In"}]}}),
                "spec.selector.matchExpressions[0].values: at least one is required for In and NotIn",
            ),
            (
                json!({"minAvailable": 1, "selector": {"matchLabels": {"a b": "c"}}}),
                "spec.selector.matchLabels: key \"a b\" must be [DNS-subdomain/]name, the name at most 63 of A-Z, a-z, 0-9, \
                 '-', '_' and '.', beginning and ending with a letter or digit",
            ),
            (
                json!({"minAvailible": 1, "selector": {}}),
                "spec.minAvailible: unknown field; did you mean `minAvailable`?",
            ),
        ] {
            assert_eq!(check(spec.clone()), expected, "{spec}");
        }
        let v1 = parse::written(
            Kind::PodDisruptionBudget,
            json!({"apiVersion": "v1", "metadata": {"name": "x"}}),
        );
        let errors = v1.expect_err("another group");
        assert_eq!(errors[0].to_string(), "apiVersion: must be policy/v1, not \"v1\"");
    }
}
