//! What a DaemonSet must satisfy. Called by [`super::object`].
//! Source: Kubernetes' validation of the same fields.

use super::Check;
use crate::model::{DaemonSet, IntOrPercent, UpdateStrategyType};

impl Check {
    pub(super) fn daemon_set(&mut self, set: &DaemonSet) {
        let spec = &set.spec;
        if spec.min_ready_seconds < 0 {
            self.fail("spec.minReadySeconds", "must not be negative");
        }
        self.selector("spec.selector", &spec.selector);
        let labels = &spec.template.metadata.labels;
        if spec.selector.match_labels.is_empty() && spec.selector.match_expressions.is_empty() {
            self.fail(
                "spec.selector",
                "required: an empty one would be for every pod; name a label of spec.template.metadata.labels",
            );
        } else if !spec.selector.matches(|key| labels.get(key).map(String::as_str)) {
            self.fail(
                "spec.selector",
                format!("{} does not match spec.template.metadata.labels", spec.selector),
            );
        }
        self.update_strategy(set);
        let template = &spec.template;
        if !template.spec.topology_spread_constraints.is_empty() {
            self.fail(
                "spec.template.spec.topologySpreadConstraints",
                "a daemon is on each node that the set is for, so that nothing is to spread; leave it out",
            );
        }
        self.workload(&set.metadata, template);
    }

    fn update_strategy(&mut self, set: &DaemonSet) {
        let strategy = &set.spec.update_strategy;
        let at = "spec.updateStrategy.rollingUpdate";
        let Some(rolling) = &strategy.rolling_update else {
            return;
        };
        if strategy.kind != UpdateStrategyType::RollingUpdate {
            self.fail(at, "only with type: RollingUpdate; leave it out");
        }
        let at = format!("{at}.maxUnavailable");
        match rolling.max_unavailable {
            IntOrPercent::Int(n) if n < 1 => self.fail(at, format!("must be at least 1, is {n}")),
            IntOrPercent::Percent(n) if !(1..=100).contains(&n) => {
                self.fail(at, format!("must be 1% to 100%, is {n}%"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::model::{Kind, parse, validate};

    fn set() -> Value {
        json!({
            "metadata": {"name": "logs"},
            "spec": {
                "selector": {"matchLabels": {"app": "logs"}},
                "template": {"metadata": {"labels": {"app": "logs"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            },
        })
    }

    /// What is said of the set with this value in this place.
    fn check(pointer: &str, value: Value) -> String {
        let mut set = set();
        if let Some((parent, field)) = pointer.rsplit_once('/') {
            set.pointer_mut(parent).expect("a place")[field] = value;
        }
        let said = |errors: &[validate::FieldError]| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            errors.join("; ")
        };
        match parse::written(Kind::DaemonSet, set) {
            Err(errors) => said(&errors),
            Ok(written) => match validate::object(&written.object) {
                Ok(()) => "ok".to_owned(),
                Err(invalid) => said(&invalid.errors),
            },
        }
    }

    #[test]
    fn good_and_bad_sets() {
        assert_eq!(check("", json!(null)), "ok");
        for (pointer, value, expected) in [
            ("/spec/selector", json!(null), "spec: missing field `selector`"),
            (
                "/spec/selector",
                json!({}),
                "spec.selector: required: an empty one would be for every pod; name a label of spec.template.metadata.labels",
            ),
            (
                "/spec/selector",
                json!({"matchLabels": {"app": "logs"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}]}),
                "spec.selector: app=logs,tier in (a) does not match spec.template.metadata.labels",
            ),
            (
                "/spec/selector",
                json!({"matchExpressions": [{"key": "app", "operator": "In", "values": []}]}),
                "spec.selector.matchExpressions[0].values: at least one is required for In and NotIn; \
                 spec.selector: app in () does not match spec.template.metadata.labels",
            ),
            (
                "/spec/selector",
                json!({"app": "logs"}),
                "spec.selector.app: unknown field",
            ),
            (
                "/spec/template/metadata/labels",
                json!({}),
                "spec.selector: app=logs does not match spec.template.metadata.labels; \
                 spec.template.metadata.labels: required: the controller's pods are known by them",
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                "spec.template.spec.restartPolicy: must be Always in a controller's template",
            ),
            (
                "/spec/template/spec/topologySpreadConstraints",
                json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]),
                "spec.template.spec.topologySpreadConstraints: a daemon is on each node that the set is for, so that nothing \
                 is to spread; leave it out",
            ),
            (
                "/spec/minReadySeconds",
                json!(-1),
                "spec.minReadySeconds: must not be negative",
            ),
            ("/spec/revisionHistoryLimit", json!(10), "ok"),
            ("/spec/updateStrategy", json!({"type": "OnDelete"}), "ok"),
            (
                "/spec/updateStrategy",
                json!({"type": "Recreate"}),
                "spec.updateStrategy.type: `Recreate` is not one of RollingUpdate, OnDelete",
            ),
            (
                "/spec/updateStrategy",
                json!({"type": "OnDelete", "rollingUpdate": {"maxUnavailable": 2}}),
                "spec.updateStrategy.rollingUpdate: only with type: RollingUpdate; leave it out",
            ),
            (
                "/spec/updateStrategy",
                json!({"rollingUpdate": {"maxUnavailable": "50%", "maxSurge": 0}}),
                "ok",
            ),
            (
                "/spec/updateStrategy",
                json!({"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}),
                "spec.updateStrategy.rollingUpdate.maxSurge: not supported by Wharfinger yet; leave it out",
            ),
            (
                "/spec/updateStrategy",
                json!({"rollingUpdate": {"maxUnavailable": 0}}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: must be at least 1, is 0",
            ),
            (
                "/spec/updateStrategy",
                json!({"rollingUpdate": {"maxUnavailable": "101%"}}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: must be 1% to 100%, is 101%",
            ),
            (
                "/spec/updateStrategy",
                json!({"rollingUpdate": {"maxUnavailable": "some"}}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: invalid value: string \"some\", expected a whole number, \
                 or a percentage such as \"50%\"",
            ),
            ("/apiVersion", json!("v1"), "apiVersion: must be apps/v1, not \"v1\""),
        ] {
            assert_eq!(check(pointer, value.clone()), expected, "{pointer} {value}");
        }
    }
}
