//! Descriptions of fixed objects against stored text.

use proto::model::{Node, ReplicationController, parse};
use serde_json::{Value, json};

use super::*;

/// 2026-01-31T12:00:00Z.
const NOW: Time = Time(1_769_860_800);

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    parse::typed(value).expect("a good object")
}

fn crashing() -> Pod {
    typed(json!({
        "metadata": {"name": "web-bcdfg", "namespace": "default", "uid": "u1",
            "creationTimestamp": "2026-01-31T11:50:00Z", "labels": {"app": "web", "tier": "front"},
            "deletionTimestamp": "2026-01-31T12:00:30Z", "deletionGracePeriodSeconds": 30,
            "ownerReferences": [{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "r1",
                                 "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "app", "image": "web:1", "command": ["/web", "--port", "80"],
             "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "protocol": "UDP"}],
             "env": [{"name": "MODE", "value": "fast"},
                     {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
             "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1"}}},
            {"name": "side", "image": "side:2"}]},
        "status": {"phase": "Running", "hostIP": "10.0.0.1", "podIP": "172.17.0.2",
            "startTime": "2026-01-31T11:50:01Z",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-31T11:50:00Z"},
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "app is not ready",
                 "lastTransitionTime": "2026-01-31T11:59:00Z"}],
            "containerStatuses": [{"name": "app", "image": "web:1", "imageID": "sha256:1", "containerID": "docker://c1",
                "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                "lastState": {"terminated": {"exitCode": 137, "signal": 9, "reason": "OOMKilled",
                    "startedAt": "2026-01-31T11:58:00Z", "finishedAt": "2026-01-31T11:59:00Z"}}}]}
    }))
}

fn events() -> Vec<Event> {
    vec![
        typed(
            json!({"type": "Normal", "reason": "Scheduled", "message": "default/web-bcdfg assigned to n1",
            "count": 1, "lastTimestamp": "2026-01-31T11:50:00Z", "source": {"component": "scheduler"}}),
        ),
        typed(
            json!({"type": "Warning", "reason": "BackOff", "message": "back-off restarting app", "count": 4,
            "firstTimestamp": "2026-01-31T11:55:00Z", "lastTimestamp": "2026-01-31T11:59:30Z",
            "source": {"component": "agent", "host": "n1"}}),
        ),
    ]
}

#[test]
fn a_pod() {
    insta::assert_snapshot!("pod", pod::describe(&crashing(), &events(), NOW));
    let bare: Pod = typed(json!({"metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}}));
    insta::assert_snapshot!("pod_just_made", pod::describe(&bare, &[], NOW));
}

#[test]
fn a_node() {
    let node: Node = typed(json!({
        "metadata": {"name": "n1", "uid": "n", "creationTimestamp": "2026-01-28T12:00:00Z", "labels": {"zone": "north"}},
        "spec": {"unschedulable": true},
        "status": {
            "capacity": {"cpu": "4", "memory": "16Gi", "pods": "110", "ephemeral-storage": "100Gi"},
            "allocatable": {"cpu": "3900m", "memory": "15Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "False", "reason": "DockerUnavailable",
                "message": "docker: connection refused", "lastTransitionTime": "2026-01-31T11:58:00Z"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"}],
            "nodeInfo": {"machineID": "m", "bootID": "b", "kernelVersion": "6.1.0", "osImage": "Debian",
                "operatingSystem": "linux", "architecture": "amd64",
                "containerRuntimeVersion": "docker://20.10.24", "kubeletVersion": "0.1.0"}}
    }));
    let mut ended = crashing();
    ended.status.get_or_insert_default().phase = proto::model::Phase::Failed;
    insta::assert_snapshot!("node", node::describe(&node, &[crashing(), ended], &[], NOW));
    insta::assert_snapshot!("node_just_made", node::describe(&Node::default(), &[], &[], NOW));
}

#[test]
fn a_controller_and_a_namespace() {
    let rc: ReplicationController = typed(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "r1", "creationTimestamp": "2026-01-31T09:00:00Z",
            "annotations": {"note": "x\u{1b}[2J"}},
        "spec": {"replicas": 2, "selector": {"app": "web"}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "web:1", "ports": [{"containerPort": 80}]}],
                     "nodeSelector": {"zone": "north"}}}},
        "status": {"replicas": 1, "readyReplicas": 0}
    }));
    insta::assert_snapshot!("rc", rc::describe(&rc, &[crashing()], &events()[..1], NOW));
    let namespace = typed(json!({"metadata": {"name": "prod"}, "status": {"phase": "Terminating"}}));
    insta::assert_snapshot!("namespace", namespace::describe(&namespace, 3, 1, &[], NOW));
}
