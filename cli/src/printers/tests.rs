//! Tables of fixed objects against stored text, and kubectl's rules for the STATUS word.

use proto::model::parse;
use serde_json::{Value, json};

use super::*;
use crate::table::Table;

/// 2026-01-31T12:00:00Z.
const NOW: Time = Time(1_769_860_800);

fn object(kind: Kind, value: Value) -> Object {
    parse::object_value(kind, value).expect("a good object")
}

fn pod(name: &str, more: Value) -> Object {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-31T11:50:00Z",
                     "labels": {"app": "web", "example.com/tier": "front"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "web:1"}]},
        "status": {"phase": "Running", "podIP": "172.17.0.2",
                   "conditions": [{"type": "Ready", "status": "True"}],
                   "containerStatuses": [container("c", json!({"running": {}}), true, 0)]}
    });
    merge(&mut value, more);
    object(Kind::Pod, value)
}

fn container(name: &str, state: Value, ready: bool, restarts: u32) -> Value {
    json!({"name": name, "image": "web:1", "state": state, "ready": ready, "restartCount": restarts})
}

/// Objects are merged, anything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn print(objects: &[Object], options: &Options) -> String {
    let context = Context {
        now: NOW,
        pods_on: Some(BTreeMap::from([("n1".to_owned(), 3)])),
    };
    let rows: Vec<_> = objects.iter().map(|o| row(o, options, &context)).collect();
    Table::default().block(&header(objects[0].kind(), options), &rows)
}

fn wide() -> Options {
    Options {
        wide: true,
        ..Options::default()
    }
}

fn with_status(status: Value) -> Object {
    pod("x", json!({"status": status}))
}

fn word(object: &Object) -> String {
    match object {
        Object::Pod(pod) => pod_status(pod),
        _ => panic!("not a pod"),
    }
}

#[test]
fn status_words_as_kubectl() {
    let waiting =
        |reason: &str| json!({"containerStatuses": [container("c", json!({"waiting": {"reason": reason}}), false, 1)]});
    let ended = |t: Value| json!({"containerStatuses": [container("c", json!({"terminated": t}), false, 0)]});
    for (status, expected) in [
        (json!({}), "Running"),
        (json!({"phase": "Pending", "containerStatuses": []}), "Pending"),
        (waiting("ContainerCreating"), "ContainerCreating"),
        (waiting("ImagePullBackOff"), "ImagePullBackOff"),
        (waiting("CrashLoopBackOff"), "CrashLoopBackOff"),
        (waiting(""), "Running"),
        (ended(json!({"exitCode": 0, "reason": "Completed"})), "Completed"),
        (ended(json!({"exitCode": 1, "reason": "Error"})), "Error"),
        (ended(json!({"exitCode": 137, "reason": "OOMKilled"})), "OOMKilled"),
        (ended(json!({"exitCode": 3, "reason": ""})), "ExitCode:3"),
        (ended(json!({"exitCode": 137, "signal": 9, "reason": ""})), "Signal:9"),
        (
            json!({"phase": "Failed", "reason": "Evicted", "containerStatuses": []}),
            "Evicted",
        ),
        (
            json!({"containerStatuses": [
                container("a", json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), false, 0),
                container("b", json!({"running": {}}), true, 0)]}),
            "Running",
        ),
        (
            json!({"conditions": [], "containerStatuses": [
                container("a", json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), false, 0),
                container("b", json!({"running": {}}), true, 0)]}),
            "NotReady",
        ),
        (
            json!({"containerStatuses": [
                container("a", json!({"waiting": {"reason": "First"}}), false, 0),
                container("b", json!({"waiting": {"reason": "Second"}}), false, 0)]}),
            "First",
        ),
    ] {
        assert_eq!(word(&with_status(status.clone())), expected, "{status}");
    }
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-31T12:00:30Z"}});
    for (status, expected) in [
        (json!({}), "Terminating"),
        (json!({"reason": "NodeLost"}), "Unknown"),
        (
            json!({"phase": "Succeeded", "containerStatuses":
                [container("c", json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), false, 0)]}),
            "Completed",
        ),
    ] {
        let mut more = deleted.clone();
        merge(&mut more, json!({"status": status}));
        assert_eq!(word(&pod("x", more)), expected, "{status}");
    }
}

#[test]
fn pods() {
    let crashed = json!({"spec": {"containers": [{"name": "c", "image": "web:1"}, {"name": "d", "image": "d:1"}]},
        "status": {"containerStatuses": [
            container("c", json!({"running": {}}), true, 0),
            merged(container("d", json!({"waiting": {"reason": "CrashLoopBackOff"}}), false, 4),
                   json!({"lastState": {"terminated": {"exitCode": 1, "reason": "Error",
                                                       "finishedAt": "2026-01-31T11:57:00Z"}}}))]}});
    let pending = json!({"spec": {"nodeName": ""},
        "status": {"phase": "Pending", "podIP": "", "containerStatuses": [], "conditions": []}});
    let pods = [
        pod("web-bcdfg", json!({})),
        pod("web-hjklm", crashed),
        pod("web-npqrs", pending),
    ];
    insta::assert_snapshot!("pods", print(&pods, &Options::default()));
    insta::assert_snapshot!("pods_wide", print(&pods, &wide()));
    let more = Options {
        namespace: true,
        prefix: true,
        label_columns: vec!["app".into(), "example.com/tier".into(), "none".into()],
        show_labels: true,
        ..Options::default()
    };
    insta::assert_snapshot!("pods_with_labels", print(&pods, &more));
}

fn merged(mut a: Value, b: Value) -> Value {
    merge(&mut a, b);
    a
}

#[test]
fn nodes() {
    let node = |name: &str, more: Value| {
        let mut value = json!({"metadata": {"name": name, "creationTimestamp": "2026-01-28T12:00:00Z"},
            "status": {"capacity": {"cpu": "4", "memory": "16331752Ki"},
                       "allocatable": {"cpu": "3900m", "pods": "110"},
                       "conditions": [{"type": "Ready", "status": "True"}],
                       "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"}],
                       "nodeInfo": {"kernelVersion": "6.1.0", "osImage": "Debian GNU/Linux 12 (bookworm)",
                                    "containerRuntimeVersion": "docker://20.10.24", "kubeletVersion": "0.1.0"}}});
        merge(&mut value, more);
        object(Kind::Node, value)
    };
    let nodes = [
        node("n1", json!({})),
        node("n2", json!({"spec": {"unschedulable": true}})),
        node(
            "n5",
            json!({"status": {"holds": [{"kind": "automation", "owner": "user/robot", "since": "2026-01-31T11:00:00Z"}]}}),
        ),
        node(
            "n3",
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
        ),
        object(Kind::Node, json!({"metadata": {"name": "n4"}})),
    ];
    insta::assert_snapshot!("nodes", print(&nodes, &Options::default()));
    insta::assert_snapshot!("nodes_wide", print(&nodes, &wide()));
    let unknown = row(&nodes[0], &wide(), &Context::default());
    assert_eq!(unknown[8], "?/110", "pods that may not be listed");
}

#[test]
fn controllers_namespaces_and_events() {
    let rc = object(
        Kind::ReplicationController,
        json!({"metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-31T09:00:00Z"},
            "spec": {"replicas": 3, "selector": {"app": "web", "tier": "front"}, "template": {
                "metadata": {"labels": {"app": "web", "tier": "front"}},
                "spec": {"containers": [{"name": "c", "image": "web:1"}, {"name": "d", "image": "d:2"}]}}},
            "status": {"replicas": 3, "readyReplicas": 2}}),
    );
    insta::assert_snapshot!("rc_wide", print(&[rc], &wide()));
    let namespaces = [
        object(
            Kind::Namespace,
            json!({"metadata": {"name": "default", "creationTimestamp": "2025-01-31T12:00:00Z"}}),
        ),
        object(
            Kind::Namespace,
            json!({"metadata": {"name": "old"}, "status": {"phase": "Terminating"}}),
        ),
    ];
    insta::assert_snapshot!("namespaces", print(&namespaces, &Options::default()));
    let address = |ip: &str| json!({"ip": ip, "nodeName": "n1"});
    let endpoints = [
        object(
            Kind::Endpoints,
            json!({"metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-31T11:55:00Z"},
                "subsets": [
                    {"addresses": [address("192.0.2.1"), address("192.0.2.2")], "ports": [{"port": 8080}, {"port": 8081}]},
                    {"addresses": [address("2001:db8::1")], "notReadyAddresses": [address("192.0.2.3")],
                     "ports": [{"name": "http", "port": 20001}]}]}),
        ),
        object(
            Kind::Endpoints,
            json!({"metadata": {"name": "six"}, "subsets": [{"addresses": [address("2001:db8::1")], "ports": [{"port": 80}]}]}),
        ),
        object(
            Kind::Endpoints,
            json!({"metadata": {"name": "none"}, "subsets": [{"notReadyAddresses": [address("192.0.2.3")], "ports": [{"port": 80}]}]}),
        ),
    ];
    insta::assert_snapshot!("endpoints", print(&endpoints, &wide()));
    let event = |value: Value| object(Kind::Event, value);
    let events = [
        event(json!({"metadata": {"name": "web-bcdfg.1", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "web-bcdfg"}, "type": "Warning", "reason": "BackOff",
            "message": "back-off\nrestarting", "count": 5, "firstTimestamp": "2026-01-31T11:50:00Z",
            "lastTimestamp": "2026-01-31T11:59:00Z", "source": {"component": "agent", "host": "n1"}})),
        event(
            json!({"metadata": {"name": "n1.2", "creationTimestamp": "2026-01-31T11:00:00Z"},
            "involvedObject": {"kind": "Node", "name": "n1"}, "reason": "NodeReady", "message": "ready"}),
        ),
    ];
    insta::assert_snapshot!("events", print(&events, &Options::default()));
    insta::assert_snapshot!("events_wide", print(&events, &wide()));
}

#[test]
fn pods_that_ended_take_no_room() {
    let all = [
        pod("a", json!({})),
        pod("b", json!({"status": {"phase": "Failed"}})),
        pod("c", json!({"spec": {"nodeName": ""}})),
    ];
    let pods = all.iter().filter_map(|o| match o {
        Object::Pod(p) => Some(p),
        _ => None,
    });
    assert_eq!(count_pods(pods), BTreeMap::from([("n1".to_owned(), 1)]));
}
