//! Descriptions of fixed objects against stored text.

use proto::{
    model::{DaemonSet, Node, ReplicationController, parse},
    wire::{DrainView, UpdateView},
};
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
             "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1"}},
             "startupProbe": {"exec": {"command": ["/web", "--started"]}, "failureThreshold": 30},
             "readinessProbe": {"httpGet": {"port": 80, "path": "/ready"}, "periodSeconds": 2},
             "livenessProbe": {"tcpSocket": {"port": 80}, "initialDelaySeconds": 5},
             "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}},
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
        "spec": {"unschedulable": true, "taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"},
            {"key": "flaky", "effect": "PreferNoSchedule"}]},
        "status": {
            "holds": [
                {"kind": "cordon", "owner": "user/admin", "reason": "RAM swap", "since": "2026-01-31T11:00:00Z",
                 "expires": "2026-01-31T14:00:00Z"},
                {"kind": "maintenance", "owner": "m-17", "since": "2026-01-31T11:59:00Z"}],
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
    insta::assert_snapshot!("node", node::describe(&node, None, &[crashing(), ended], &[], NOW));
    insta::assert_snapshot!("node_just_made", node::describe(&Node::default(), None, &[], &[], NOW));
}

#[test]
fn a_node_with_its_drain_and_what_others_run_there() {
    let node: Node = typed(
        json!({"metadata": {"name": "n1"}, "status": {"unmanaged": {"count": 120, "containers": [
        {"name": "backup", "image": "restic:1", "state": "running"},
        {"name": "old\u{1b}[2J", "image": "busybox", "state": "exited"}]}}}),
    );
    let pod = |name: &str, step: &str, why: &str| proto::wire::DrainPod {
        namespace: "default".into(),
        name: name.into(),
        step: step.into(),
        why: why.into(),
        ..proto::wire::DrainPod::default()
    };
    let mut drain = DrainView {
        phase: "Blocked".into(),
        by: "user/ann".into(),
        reason: "RAM swap".into(),
        since_ms: 1_769_860_800_000,
        deadline_ms: 1_769_864_400_000,
        on_deadline: "block".into(),
        now_ms: 1_769_860_860_000,
        total: 2,
        left: 1,
        pods: vec![
            pod("web-1", "Blocked", "no room elsewhere: scale it down"),
            pod("log-1", "Stays", "a daemon"),
        ],
        ..DrainView::default()
    };
    let text = node::describe(&node, Some(&drain), &[], &[], NOW);
    insta::assert_snapshot!("node_draining", text);
    (drain.phase, drain.ended_ms) = ("Cancelled".into(), drain.now_ms - 5000);
    let text = node::describe(&node, Some(&drain), &[], &[], NOW);
    assert!(
        text.contains("Drain:\n  State:   cancelled, 5 s ago\n  By:      user/ann\n  Reason:  RAM swap\nAddresses:"),
        "{text}"
    );
}

#[test]
fn hardware_of_a_server_and_of_a_virtual_machine() {
    let shown = |value: Value| {
        let mut doc = Doc::default();
        hardware::describe(&mut doc, &typed(value));
        doc.finish()
    };
    let server = shown(json!({
        "system": {"manufacturer": "Dell Inc.", "product": "PowerEdge R740", "serial": "ABC1234"},
        "chassis": {"product": "rack mount chassis", "serial": "CHASSIS77", "assetTag": "rack-b-07"},
        "cpu": {"model": "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", "sockets": 2, "cores": 32, "threads": 64},
        "memory": {"total": 67_000_000_000_u64, "slots": 24, "modules": [
            {"slot": "A1", "bank": "NODE 1", "size": 34_359_738_368_u64, "type": "DDR4", "speedMts": 2666,
             "manufacturer": "Samsung", "serial": "37A1", "partNumber": "M393A4K40CB2"},
            {"slot": "B1", "size": 34_359_738_368_u64}]},
        "disks": [
            {"name": "nvme0n1", "model": "SAMSUNG MZWLJ3T8HBLS", "serial": "S4PX", "size": 3_840_755_982_336_u64},
            {"name": "sda", "model": "ST4000NM0035", "size": 4_000_787_030_016_u64, "rotational": true}],
        "nics": [
            {"name": "eno1", "mac": "b0:26:28:00:00:01", "driver": "ice", "speedMbps": 25000, "duplex": "full",
             "carrier": true, "mtu": 9000, "slot": "0000:18:00.0"},
            {"name": "eno2", "mac": "b0:26:28:00:00:02", "driver": "ice", "mtu": 1500, "slot": "0000:18:00.1"}],
        "gpus": [{"slot": "0000:86:00.0", "id": "10de:20b5", "vendor": "NVIDIA", "model": "A100\u{1b}[2J", "driver": "nvidia"}]
    }));
    insta::assert_snapshot!("hardware", server);
    let machine = shown(json!({
        "cpu": {"sockets": 1, "cores": 2, "threads": 2},
        "memory": {"total": 4_294_967_296_u64},
        "disks": [{"name": "vda", "size": 10_737_418_240_u64}],
        "nics": [{"name": "eth0", "mac": "02:fc:00:00:00:05", "carrier": true}]
    }));
    insta::assert_snapshot!("hardware_of_a_vm", machine);
    assert_eq!(shown(json!({})), "", "nothing known, nothing said");
    let node: Node = typed(json!({"metadata": {"name": "n1"}, "status": {"hardware": {"chassis": {"serial": "C7"}}}}));
    let text = node::describe(&node, None, &[], &[], NOW);
    assert!(
        text.contains("Hardware:\n  Chassis:  serial C7\nPods (0 in total):"),
        "{text}"
    );
}

#[test]
fn a_controller_its_endpoints_and_a_namespace() {
    let rc: ReplicationController = typed(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "r1", "creationTimestamp": "2026-01-31T09:00:00Z",
            "annotations": {"note": "x\u{1b}[2J"}},
        "spec": {"replicas": 2, "selector": {"app": "web"}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "web:1", "ports": [{"containerPort": 80}]}],
                     "nodeSelector": {"zone": "north"}}}},
        "status": {"replicas": 1, "readyReplicas": 0}
    }));
    insta::assert_snapshot!("rc", rc::describe(&rc, None, &[crashing()], &events()[..1], NOW));
    let update = UpdateView {
        old: "web".into(),
        new: "web-v2".into(),
        phase: "Updating".into(),
        target: 2,
        steps_in_all: 2,
        ..UpdateView::default()
    };
    let updated = rc::describe(&rc, Some(&update), &[], &[], NOW);
    let line = "Update:       web → web-v2: updating, step 0 of 2, 0 + 0 replicas, 0 of 2 available\n";
    assert!(updated.contains(line), "{updated}");
    let endpoints = typed(json!({
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-31T09:00:00Z",
            "labels": {"app": "web"}},
        "subsets": [
            {"addresses": [{"ip": "192.0.2.1", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "web-b"}}],
             "ports": [{"name": "http", "port": 20017}, {"port": 20018, "protocol": "UDP"}]},
            {"notReadyAddresses": [{"ip": "192.0.2.2", "nodeName": "n2", "targetRef": {"kind": "Pod", "name": "web-c"}}],
             "ports": [{"name": "http", "port": 31999}]}]
    }));
    insta::assert_snapshot!("endpoints", endpoints::describe(&endpoints, &[], NOW));
    let budget = typed(json!({
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-31T09:00:00Z"},
        "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}, "matchExpressions":
            [{"key": "tier", "operator": "NotIn", "values": ["test", "dev"]}]}},
        "status": {"currentHealthy": 4, "desiredHealthy": 2, "expectedPods": 4, "disruptionsAllowed": 2}
    }));
    assert_eq!(
        budget::describe(&budget, &[], NOW),
        "Name:                 web\n\
         Namespace:            default\n\
         Labels:               <none>\n\
         Annotations:          <none>\n\
         Created:              2026-01-31T09:00:00Z (3h ago)\n\
         Selector:             app=web,tier notin (test,dev)\n\
         Min Available:        50%\n\
         Pods:                 4 available / 2 must be / 4 expected\n\
         Allowed Disruptions:  2\n\
         Events:  <none>\n"
    );
    let namespace = typed(json!({"metadata": {"name": "prod"}, "status": {"phase": "Terminating"}}));
    insta::assert_snapshot!("namespace", namespace::describe(&namespace, (3, 1, 0), &[], NOW));
}

#[test]
fn a_daemon_set() {
    let set: DaemonSet = typed(json!({
        "metadata": {"name": "logs", "namespace": "default", "uid": "r1", "creationTimestamp": "2026-01-31T09:00:00Z"},
        "spec": {
            "selector": {"matchLabels": {"app": "logs"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
            "template": {"metadata": {"labels": {"app": "logs"}}, "spec": {"containers": [{"name": "c", "image": "logs:1"}]}}},
        "status": {"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1, "updatedNumberScheduled": 2,
            "numberAvailable": 1, "numberUnavailable": 2, "observedGeneration": 1, "conditions": [
                {"type": "Ready", "status": "False", "reason": "NotAllReady",
                 "message": "2 of 3 nodes have a daemon, 1 ready; n3: insufficient memory"}]}
    }));
    insta::assert_snapshot!("daemon_set", daemon_set::describe(&set, &[crashing()], &[], NOW));
    let new: DaemonSet = typed(
        json!({"metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "updateStrategy": {"type": "OnDelete"}, "template": {}}}),
    );
    let text = daemon_set::describe(&new, &[], &[], NOW);
    assert!(text.contains("Update Strategy:      OnDelete\n"), "{text}");
}
