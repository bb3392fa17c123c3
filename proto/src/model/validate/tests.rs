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
    let mut object = match parse::written(Kind::ReplicationController, value) {
        Ok(written) => written.object,
        Err(errors) => return errors.iter().map(|e| format!("{e}; ")).collect(),
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

/// Puts `spec` and `container` over those of the good controller; every message, without the paths' common part.
fn changed(spec: Value, container: Value) -> Vec<String> {
    let mut value = rc();
    let whole = &mut value["spec"]["template"]["spec"];
    for (part, at) in [(spec, "".to_owned()), (container, "/containers/0".to_owned())] {
        let target = whole.pointer_mut(&at).expect("there").as_object_mut().expect("a map");
        target.extend(part.as_object().expect("a map").clone());
    }
    let message = check(value);
    let message = message
        .strip_prefix("replicationcontroller \"web\" is invalid: ")
        .unwrap_or(&message);
    message
        .split("spec.template.spec.")
        .map(|m| m.trim_end_matches("; ").to_owned())
        .filter(|m| !m.is_empty())
        .collect()
}

#[test]
fn volumes_and_their_mounts() {
    let mount = |name: &str, path: &str| json!({"volumeMounts": [{"name": name, "mountPath": path}]});
    let good = json!([
        {"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        {"name": "logs", "hostPath": {"path": "/var/log", "type": "DirectoryOrCreate"}},
    ]);
    let two = json!({"volumeMounts": [
        {"name": "data", "mountPath": "/data"}, {"name": "logs", "mountPath": "/logs", "readOnly": true}]});
    assert_eq!(changed(json!({"volumes": good}), two), ["ok"]);
    for (volumes, container, expected) in [
        (
            json!([{"name": "D", "emptyDir": {}}]),
            json!({}),
            "volumes[0].name: \"D\" must be a DNS label",
        ),
        (
            json!([{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]),
            json!({}),
            "volumes[1].name: \"a\" is the name of another volume of this pod",
        ),
        (
            json!([{"name": "a"}]),
            json!({}),
            "volumes[0]: needs a source: emptyDir: {} or hostPath",
        ),
        (
            json!([{"name": "a", "emptyDir": null}]),
            json!({}),
            "volumes[0]: needs a source",
        ),
        (
            json!([{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]),
            json!({}),
            "volumes[0]: has two sources; leave emptyDir or hostPath out",
        ),
        (
            json!([{"name": "a", "emptyDir": {"sizeLimit": "-1Mi"}}]),
            json!({}),
            "volumes[0].emptyDir.sizeLimit: must not be negative",
        ),
        (
            json!([{"name": "a", "hostPath": {"path": "var"}}]),
            json!({}),
            "volumes[0].hostPath.path: \"var\" must be an absolute path",
        ),
        (
            json!([{"name": "a", "hostPath": {}}]),
            json!({}),
            "volumes[0].hostPath.path: \"\" must be an absolute path",
        ),
        (
            json!([{"name": "a", "hostPath": {"path": "/var/../etc"}}]),
            json!({}),
            "volumes[0].hostPath.path: \"/var/../etc\" must not contain '..'",
        ),
        (
            json!([{"name": "a", "hostPath": {"path": "/a\nb"}}]),
            json!({}),
            "volumes[0].hostPath.path: must be at most 4096 characters, none of them a control character",
        ),
        (
            good.clone(),
            mount("dat", "/d"),
            "containers[0].volumeMounts[0].name: \"dat\" is no volume of this pod; did you mean `data`?",
        ),
        (
            good.clone(),
            mount("data", "d"),
            "containers[0].volumeMounts[0].mountPath: \"d\" must be an absolute path",
        ),
        (
            good.clone(),
            mount("data", "/d:ro"),
            "containers[0].volumeMounts[0].mountPath: must not contain ':'",
        ),
        (
            good.clone(),
            mount("data", "/d/.."),
            "containers[0].volumeMounts[0].mountPath: \"/d/..\" must not contain '..'",
        ),
        (
            good.clone(),
            mount("data", "//."),
            "containers[0].volumeMounts[0].mountPath: must not be the root of the container's files",
        ),
        (
            good.clone(),
            json!({"volumeMounts": [{"name": "data", "mountPath": "/d"}, {"name": "logs", "mountPath": "/d/"}]}),
            "containers[0].volumeMounts[1].mountPath: \"/d/\" is mounted twice",
        ),
    ] {
        let found = changed(json!({"volumes": volumes}), container);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{found:?}\nexpected {expected}"
        );
    }
}

#[test]
fn settings_of_pods_and_containers() {
    let security = |s: Value| json!({"securityContext": s});
    let max = i64::from(i32::MAX);
    for (spec, container, expected) in [
        (
            security(json!({"runAsUser": 0, "runAsGroup": max, "runAsNonRoot": false, "supplementalGroups": [7]})),
            security(
                json!({"runAsUser": 7, "runAsNonRoot": true, "privileged": false, "allowPrivilegeEscalation": true,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "readOnlyRootFilesystem": true}),
            ),
            "ok",
        ),
        (
            security(json!({"runAsUser": -1})),
            json!({}),
            "securityContext.runAsUser: must be 0 to 2147483647",
        ),
        (
            security(json!({"runAsGroup": max + 1})),
            json!({}),
            "securityContext.runAsGroup: must be 0 to",
        ),
        (
            security(json!({"supplementalGroups": [1, -1]})),
            json!({}),
            "securityContext.supplementalGroups[1]: must be 0 to",
        ),
        (
            json!({}),
            security(json!({"runAsUser": -1})),
            "containers[0].securityContext.runAsUser: must be 0 to",
        ),
        (
            json!({}),
            security(json!({"runAsGroup": -1})),
            "containers[0].securityContext.runAsGroup: must be 0 to",
        ),
        (
            security(json!({"runAsUser": 0, "runAsNonRoot": true})),
            json!({}),
            "securityContext: runAsUser 0 is root, which runAsNonRoot forbids",
        ),
        (
            security(json!({"runAsNonRoot": true})),
            security(json!({"runAsUser": 0})),
            "containers[0].securityContext: runAsUser 0 is root",
        ),
        (
            security(json!({"runAsUser": 0})),
            security(json!({"runAsNonRoot": true})),
            "containers[0].securityContext: runAsUser 0 is root",
        ),
        (
            json!({}),
            security(json!({"capabilities": {"add": ["CAP_NET_ADMIN"]}})),
            "containers[0].securityContext.capabilities.add[0]: write it without CAP_: NET_ADMIN",
        ),
        (
            json!({}),
            security(json!({"capabilities": {"drop": ["net_admn"]}})),
            "containers[0].securityContext.capabilities.drop[0]: \"net_admn\" is no capability; did you mean `NET_ADMIN`?",
        ),
        (
            json!({}),
            security(json!({"privileged": true})),
            "containers[0].securityContext.privileged: not supported by Wharfinger yet; leave it out",
        ),
        (
            json!({}),
            json!({"workingDir": "/srv", "terminationMessagePath": "/dev/x"}),
            "ok",
        ),
        (
            json!({}),
            json!({"workingDir": "srv"}),
            "containers[0].workingDir: \"srv\" must be an absolute path",
        ),
        (
            json!({}),
            json!({"terminationMessagePath": "x"}),
            "containers[0].terminationMessagePath: \"x\" must be an absolute path",
        ),
        (json!({}), json!({"resources": {"limits": {"pids": 100}}}), "ok"),
        (
            json!({}),
            json!({"resources": {"limits": {"pids": "500m"}}}),
            "containers[0].resources.limits.pids: must be a whole number, at least 1",
        ),
        (
            json!({}),
            json!({"resources": {"limits": {"pids": -1}}}),
            "containers[0].resources.limits.pids: must be",
        ),
        (
            json!({}),
            json!({"resources": {"requests": {"pids": 1}}}),
            "containers[0].resources.requests.pids: only a limit; write it under limits",
        ),
        (
            json!({}),
            json!({"resources": {"limits": {"gpu": 1}}}),
            "containers[0].resources.limits.gpu: not a resource; use cpu, memory, ephemeral-storage, pids",
        ),
        (
            json!({}),
            json!({"resources": {"requests": {"ephemeral-storage": "1Gi"}}}),
            "ok",
        ),
        (
            json!({"hostNetwork": true}),
            json!({}),
            "containers[0].ports[0].hostPort: must be 80, as containerPort, or be left out: the pod uses the host's network",
        ),
        (
            json!({"hostNetwork": true}),
            json!({"ports": [{"containerPort": 80}]}),
            "ok",
        ),
        (
            json!({"hostNetwork": true}),
            json!({"ports": [{"containerPort": 80}, {"containerPort": 80}]}),
            "containers[0].ports[1].hostPort: 80 is taken twice in this pod",
        ),
    ] {
        let found = changed(spec, container);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{found:?}\nexpected {expected}"
        );
    }
}

#[test]
fn a_limit_of_processes_is_no_request_and_ports_on_the_hosts_network_are_the_hosts() {
    let mut value = rc();
    let spec = &mut value["spec"]["template"]["spec"];
    spec["hostNetwork"] = json!(true);
    spec["containers"][0]["ports"] = json!([{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]);
    spec["containers"][0]["resources"] = json!({"limits": {"pids": 9, "cpu": 1}});
    let mut object = parse::written(Kind::ReplicationController, value)
        .expect("parses")
        .object;
    let ports = |object: &Object| match object {
        Object::ReplicationController(rc) => rc.spec.template.spec.host_ports().collect::<Vec<_>>(),
        _ => panic!("kind"),
    };
    let expected = vec![(80, crate::model::Protocol::Tcp), (53, crate::model::Protocol::Udp)];
    assert_eq!(ports(&object), expected, "before it is defaulted");
    default(&mut object);
    assert_eq!(ports(&object), expected);
    let container = &object.to_json()["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"][1]["hostPort"], 53);
    assert_eq!(container["resources"]["requests"], json!({"cpu": "1"}));
}

#[test]
fn the_annotation_for_host_ports() {
    let with = |value: &str, host_network: bool| {
        let mut rc = rc();
        let template = &mut rc["spec"]["template"];
        template["metadata"]["annotations"] = json!({"wharfinger.io/host-port": value});
        template["spec"]["hostNetwork"] = json!(host_network);
        template["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
        check(rc)
    };
    let at = "replicationcontroller \"web\" is invalid: spec.template.metadata.annotations.wharfinger.io/host-port: ";
    assert_eq!(with("auto", false), "ok");
    assert_eq!(
        with("8080", false),
        format!(
            "{at}must be auto, is \"8080\"; for a port of your choice leave it out and write hostPort beside containerPort"
        )
    );
    assert_eq!(
        with("auto", true),
        format!(
            "{at}cannot stand beside hostNetwork, where every containerPort is a port of the host; leave one of both out"
        )
    );
    let pod = json!({"metadata": {"name": "p", "annotations": {"wharfinger.io/host-port": ""}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = parse::written(Kind::Pod, pod).expect("reads").object;
    let refused = super::object(&pod).expect_err("an empty value").to_string();
    assert!(
        refused.contains("metadata.annotations.wharfinger.io/host-port: must be auto, is \"\""),
        "{refused}"
    );
}
