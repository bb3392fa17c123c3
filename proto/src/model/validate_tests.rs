//! Table of what validation refuses, by changing one field of a good controller.

use serde_json::{Value, json};

use super::*;
use crate::model::parse;

fn rc() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"app": "web"}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "web:1",
                "ports": [{"containerPort": 80, "hostPort": 8080}],
                "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": 1, "memory": "64Mi"}}}]}}}
    })
}

fn check(value: Value) -> String {
    let mut object = match parse::object_value(Kind::ReplicationController, value) {
        Ok(object) => object,
        Err(e) => return e.to_string(),
    };
    default(&mut object);
    match super::object(&object) {
        Ok(()) => "ok".to_owned(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_good_controller_passes() {
    assert_eq!(check(rc()), "ok");
}

#[test]
fn refusals_name_the_field() {
    let container = "/spec/template/spec/containers/0";
    for (pointer, value, expected) in [
        (
            "/metadata/name".to_owned(),
            json!("Web"),
            "metadata.name: \"Web\" must be a DNS subdomain",
        ),
        ("/metadata/name".to_owned(), json!(""), "metadata.name: required"),
        (
            "/metadata/name".to_owned(),
            json!("a".repeat(201)),
            "metadata.name: at most 200 characters",
        ),
        (
            "/spec/replicas".to_owned(),
            json!(-1),
            "spec.replicas: must not be negative, is -1",
        ),
        (
            "/spec/selector/app".to_owned(),
            json!("api"),
            "spec.selector: app=api does not match spec.template.metadata.labels, which has app=web",
        ),
        (
            "/spec/selector".to_owned(),
            json!({"x": "y"}),
            "spec.selector: x=y does not match spec.template.metadata.labels, which has no x",
        ),
        (
            "/spec/template/metadata/labels".to_owned(),
            json!({}),
            "spec.template.metadata.labels: required",
        ),
        (
            "/spec/template/metadata/labels".to_owned(),
            json!({"a b": "c"}),
            "spec.template.metadata.labels: key \"a b\" must be",
        ),
        (
            "/spec/template/spec/containers".to_owned(),
            json!([]),
            "spec.template.spec.containers: at least one is required",
        ),
        (
            format!("{container}/name"),
            json!("C"),
            "spec.template.spec.containers[0].name: \"C\" must be a DNS label",
        ),
        (
            format!("{container}/image"),
            json!(""),
            "spec.template.spec.containers[0].image: required",
        ),
        (
            format!("{container}/image"),
            json!("a b"),
            "spec.template.spec.containers[0].image: must be an image reference",
        ),
        (
            format!("{container}/ports/0/containerPort"),
            json!(0),
            "spec.template.spec.containers[0].ports[0].containerPort: must be 1 to 65535",
        ),
        (
            format!("{container}/ports/0/containerPort"),
            json!(70000),
            "spec.template.spec.containers[0].ports[0].containerPort: invalid value",
        ),
        (
            format!("{container}/ports"),
            json!([{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]),
            "spec.template.spec.containers[0].ports[1].hostPort: 5 is taken twice",
        ),
        (
            format!("{container}/env/0/name"),
            json!("1X"),
            "spec.template.spec.containers[0].env[0].name: must be letters",
        ),
        (
            format!("{container}/env/0/valueFrom/fieldRef/fieldPath"),
            json!("spec.x"),
            "spec.template.spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: `spec.x` is not one of",
        ),
        (
            format!("{container}/resources/requests/cpu"),
            json!("2"),
            "spec.template.spec.containers[0].resources.requests.cpu: must not exceed the limit 1",
        ),
        (
            format!("{container}/resources/requests/cpu"),
            json!("-1"),
            "spec.template.spec.containers[0].resources.requests.cpu: must not be negative",
        ),
        (
            format!("{container}/resources/requests"),
            json!({"gpu": 1}),
            "spec.template.spec.containers[0].resources.requests.gpu: not a resource",
        ),
        (
            format!("{container}/resources/limits/memory"),
            json!("64mb"),
            "spec.template.spec.containers[0].resources.limits.memory: `64mb` is not a quantity",
        ),
        (
            "/spec/template/spec/restartPolicy".to_owned(),
            json!("Never"),
            "spec.template.spec.restartPolicy: must be Always",
        ),
        (
            "/spec/template/spec/terminationGracePeriodSeconds".to_owned(),
            json!(-1),
            "spec.template.spec.terminationGracePeriodSeconds: must be 0 to 86400",
        ),
    ] {
        let mut object = rc();
        match object.pointer_mut(&pointer) {
            Some(place) => *place = value,
            None => {
                let (parent, field) = pointer.rsplit_once('/').expect("a path");
                object.pointer_mut(parent).expect(parent)[field] = value;
            }
        }
        let message = check(object);
        assert!(message.contains(expected), "{pointer}: {message}");
    }
}

#[test]
fn the_selector_defaults_to_the_labels() {
    let mut value = rc();
    value["spec"].as_object_mut().expect("object").shift_remove("selector");
    let mut object = parse::object_value(Kind::ReplicationController, value).expect("parses");
    default(&mut object);
    let Object::ReplicationController(rc) = object else {
        panic!("kind")
    };
    assert_eq!(rc.spec.selector, rc.spec.template.metadata.labels);
    assert_eq!(
        rc.spec.template.spec.containers[0].resources.requests["memory"].to_string(),
        "64Mi"
    );
}

#[test]
fn a_namespace_is_a_dns_label() {
    for (name, ok) in [("prod", true), ("a.b", false), ("", false)] {
        let object = parse::object_value(Kind::Namespace, json!({"metadata": {"name": name}})).expect("parses");
        assert_eq!(super::object(&object).is_ok(), ok, "{name}");
    }
}
