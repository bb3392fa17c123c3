//! The page from objects as the coordinator sends them.

use proto::{
    model::{Kind, Object, Time, parse},
    wire,
};
use serde_json::{Value, json};

use super::{
    page::{Page, Seen},
    show,
};

/// 2026-01-31T12:00:00Z.
const NOW: Time = Time(1_769_860_800);

fn ago(seconds: i64) -> String {
    Time(NOW.0 - seconds).to_string()
}

fn seen() -> Seen {
    let setting = |name: &str, value: &str| wire::Setting {
        name: name.into(),
        value: value.into(),
        ..wire::Setting::default()
    };
    Seen {
        now: NOW,
        home: "default".into(),
        info: wire::InfoReply {
            caller: "user/admin".into(),
            version: "1.2.3".into(),
            fence: Some(wire::Fence::default()),
            ..wire::InfoReply::default()
        },
        settings: wire::ShowSettingsReply {
            settings: vec![
                setting("replace-unreachable-after", "60s"),
                setting("replace-agent-down-after", "5m"),
            ],
            ..wire::ShowSettingsReply::default()
        },
        ..Seen::default()
    }
}

fn read(kind: Kind, value: Value) -> Object {
    parse::object_value(kind, value).expect("an object")
}

impl Seen {
    fn node(mut self, name: &str, ready: (&str, &str, i64), holds: Value) -> Self {
        let (status, reason, seconds) = ready;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"holds": holds,
            "conditions": [{"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": ago(seconds)}]}});
        let Object::Node(node) = read(Kind::Node, node) else {
            panic!("a node")
        };
        self.nodes.push(node);
        self
    }

    fn rc(mut self, namespace: &str, name: &str, desired: i32, ready: i32) -> Self {
        let rc = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name,
            "namespace": namespace, "uid": format!("uid-{name}"), "creationTimestamp": ago(900)},
            "spec": {"replicas": desired, "selector": {"app": name}, "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "web:1"}]}}},
            "status": {"replicas": desired, "readyReplicas": ready}});
        let Object::ReplicationController(rc) = read(Kind::ReplicationController, rc) else {
            panic!("an rc")
        };
        self.controllers.push(rc);
        self
    }

    fn pod(mut self, name: &str, owner: &str, node: &str, status: Value) -> Self {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "web:1"}]}, "status": status});
        if !owner.is_empty() {
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ReplicationController",
                "name": owner, "uid": format!("uid-{owner}"), "controller": true}]);
        }
        let Object::Pod(pod) = read(Kind::Pod, pod) else {
            panic!("a pod")
        };
        self.pods.push(pod);
        self
    }
}

fn running(ready: &str, seconds: i64) -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": ago(seconds)}],
        "containerStatuses": [{"name": "c", "state": {"running": {}}, "ready": ready == "True"}]})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{"name": "c",
        "state": {"waiting": {"reason": reason, "message": message}}}]})
}

fn unplaced() -> Value {
    json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/2 nodes: 2 held", "lastTransitionTime": ago(30)}]})
}

fn show(seen: &Seen) -> String {
    show::text(&Page::of(seen), seen)
}

#[test]
fn all_well_is_one_line() {
    let seen = seen()
        .node("n1", ("True", "AgentReady", 5), json!([]))
        .rc("default", "web", 1, 1)
        .pod("web-1", "web", "n1", running("True", 60));
    assert_eq!(show(&seen), "all is well: 1 node, 1 controller, 1 pod\n");
    assert_eq!(show::object(&Page::of(&seen), &seen)["well"], true);
}

#[test]
fn what_is_worst_stands_first_with_its_remedy() {
    let hold = |kind: &str, owner: &str, reason: &str| json!({"kind": kind, "owner": owner, "reason": reason, "since": ago(7200)});
    let mut seen = seen()
        .node(
            "n1",
            ("True", "AgentReady", 5),
            json!([hold("cordon", "user/admin", "RAM swap")]),
        )
        .node("n2", ("Unknown", "Unreachable", 20), json!([]))
        .node("n3", ("False", "Quarantined", 5), json!([]))
        .node(
            "n4",
            ("False", "AgentDown", 30),
            json!([hold("cordon", "user/ann", "")]),
        )
        .node(
            "n5",
            ("True", "AgentReady", 5),
            json!([hold("cordon", "user/admin", "x"), hold("automation", "user/bot", "y")]),
        )
        .rc("shop", "cart", 2, 0)
        .rc("default", "web", 4, 1)
        .pod("web-1", "web", "n1", running("True", 60))
        .pod("web-2", "web", "n1", waiting("ImagePullBackOff", "no such image web:1"))
        .pod("web-3", "web", "n1", waiting("ImagePullBackOff", "no such image web:1"))
        .pod("web-4", "web", "", unplaced())
        .pod("lost-1", "web", "n2", running("Unknown", 60))
        .pod("lost-2", "web", "n2", running("Unknown", 60))
        .pod("alone", "", "", unplaced())
        .pod(
            "job",
            "",
            "n1",
            json!({"phase": "Failed", "reason": "Evicted", "message": "the disk was full"}),
        );
    insta::assert_snapshot!(show(&seen), @r"
    11 problems: 5 nodes (2 ready), 2 controllers (0 ready), 8 pods (1 ready)

    OBJECT           SINCE    REMEDY                           WHAT
    node/n2          20s      wharf describe node n2           NotReady (Unreachable); its pods are started elsewhere in 40s
    node/n4          30s      wharf describe node n4           NotReady (AgentDown)
    node/n3          5s       wharf node readmit n3            in quarantine
    node/n1          120m     wharf uncordon n1                held: cordon by admin: RAM swap
    node/n4          120m     wharf uncordon n4 --all-owners   held: cordon by ann
    node/n5          120m     wharf describe node n5           held: cordon by admin: x; automation by bot: y
    rc/web           60s      wharf describe rc web            1 of 4 ready: 2 ImagePullBackOff (no such image web:1), 2 Unknown, 1 Pending (0/2 nodes: 2 held)
    rc/cart (shop)   15m      wharf describe rc cart -n shop   0 of 2 ready
    node/n2          <none>   wharf get pods -A --node n2      2 pods Unknown: lost-1, lost-2
    pod/alone        <none>   wharf describe pod alone         Pending: 0/2 nodes: 2 held
    pod/job          <none>   wharf describe pod job           Evicted: the disk was full
    ");
    seen.settings.freeze = Some(wire::Freeze {
        by: "user/ann".into(),
        reason: "power work".into(),
        since_ms: (NOW.0 as u64 - 300) * 1000,
        until_ms: (NOW.0 as u64 + 3600) * 1000,
    });
    seen.settings.brake = "3 of 5 nodes are lost; ends when 2 are back".into();
    let text = show(&seen);
    insta::assert_snapshot!(text.lines().skip(2).take(4).collect::<Vec<_>>().join("\n"), @r"
    OBJECT           SINCE    REMEDY                           WHAT
    freeze           5m       wharf unfreeze                   frozen by ann: power work; nothing is replaced, evicted, drained or updated; ends in 60m
    brake            <none>   wharf get nodes                  3 of 5 nodes are lost; ends when 2 are back
    node/n2          20s      wharf describe node n2           NotReady (Unreachable); its pods are not started elsewhere while all is frozen
    ");
    let worst = show::object(&Page::of(&seen), &seen)["problems"][0].clone();
    assert_eq!(
        (&worst["area"], &worst["since"], &worst["remedy"]),
        (
            &json!("freeze"),
            &json!("2026-01-31T11:55:00Z"),
            &json!("wharf unfreeze")
        )
    );
}

#[test]
fn what_is_wrong_with_coordinators_and_their_store_has_its_place() {
    use wire::cluster_problem::Area;
    let told = |area: Area, object: &str, what: &str, remedy: &str| wire::ClusterProblem {
        area: area.into(),
        object: object.into(),
        what: what.into(),
        remedy: remedy.into(),
    };
    let mut seen = seen()
        .node("n2", ("Unknown", "Unreachable", 20), json!([]))
        .pod("alone", "", "", unplaced());
    seen.replicas = Some(wire::ReplicasStatusReply {
        problems: vec![
            told(
                Area::Alarm,
                "member/etcd1",
                "its quota is used up",
                "wharf cluster defrag",
            ),
            told(Area::Member, "etcd", "no member of etcd leads", "wharf cluster health"),
            told(
                Area::Member,
                "member/etcd2",
                "unreachable: refused",
                "systemctl status wharf-etcd",
            ),
            told(
                Area::Replica,
                "coordinator/c3",
                "missing",
                "systemctl status wharf-coordinator",
            ),
            told(
                Area::Space,
                "member/etcd3",
                "80 % of its quota",
                "wharf cluster defrag etcd3",
            ),
            told(Area::Clock, "coordinator/c2", "3.2 s behind c1's", "timedatectl"),
            told(
                Area::Certificate,
                "certificate",
                "ends in 6 d",
                "wharf-coordinator etcd-config",
            ),
            told(Area::Backup, "backup", "none was made", "wharf cluster backup FILE"),
        ],
        ..wire::ReplicasStatusReply::default()
    });
    insta::assert_snapshot!(show(&seen), @r"
    10 problems: 1 node (0 ready), 0 controllers, 1 pod (0 ready)

    OBJECT           SINCE    REMEDY                               WHAT
    member/etcd1     <none>   wharf cluster defrag                 its quota is used up
    etcd             <none>   wharf cluster health                 no member of etcd leads
    member/etcd2     <none>   systemctl status wharf-etcd          unreachable: refused
    coordinator/c3   <none>   systemctl status wharf-coordinator   missing
    node/n2          20s      wharf describe node n2               NotReady (Unreachable)
    pod/alone        <none>   wharf describe pod alone             Pending: 0/2 nodes: 2 held
    member/etcd3     <none>   wharf cluster defrag etcd3           80 % of its quota
    coordinator/c2   <none>   timedatectl                          3.2 s behind c1's
    certificate      <none>   wharf-coordinator etcd-config        ends in 6 d
    backup           <none>   wharf cluster backup FILE            none was made
    ");
    let object = show::object(&Page::of(&seen), &seen);
    let areas: Vec<&str> = object["problems"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|p| p["area"].as_str())
        .collect();
    assert_eq!(
        areas,
        [
            "storeAlarm",
            "memberUnreachable",
            "memberUnreachable",
            "coordinatorMissing",
            "nodeNotReady",
            "podFailed",
            "storeNearlyFull",
            "clocksApart",
            "certificateEnds",
            "backupLate"
        ]
    );
    // An area that a newer coordinator has and this command does not know.
    let newer = wire::ClusterProblem {
        area: 99,
        ..told(Area::Backup, "x", "y", "z")
    };
    seen.replicas.as_mut().expect("there").problems = vec![newer];
    assert!(show(&seen).contains("x           <none>   z"), "{}", show(&seen));
}

#[test]
fn updates_are_listed_where_they_wait_for_somebody() {
    let update = |old: &str, available: u32, why: &[&str]| wire::UpdateView {
        namespace: "default".into(),
        old: old.into(),
        new: format!("{old}-v2"),
        phase: "Updating".into(),
        since_ms: (NOW.0 as u64 - 300) * 1000,
        target: 3,
        steps_in_all: 3,
        old_side: Some(wire::UpdateSide { replicas: 3, available }),
        new_side: Some(wire::UpdateSide {
            replicas: 1,
            available: 0,
        }),
        why: why.iter().map(|w| (*w).to_owned()).collect(),
        ..wire::UpdateView::default()
    };
    let side = |seen: Seen, name: &str, desired, ready| seen.rc("default", name, desired, ready);
    let mut seen = side(seen(), "web", 3, 3);
    seen = side(seen, "web-v2", 1, 0);
    seen.updates = vec![update("web", 3, &[])];
    assert_eq!(show(&seen), "all is well: 0 nodes, 2 controllers (1 ready), 0 pods\n");
    // A pod of the old ones is lost meanwhile.
    let mut fewer = side(side(self::seen(), "web", 3, 2), "web-v2", 1, 0);
    fewer.updates = vec![update("web", 2, &[])];
    assert!(show(&fewer).contains("2 of 3 ready"), "{}", show(&fewer));
    let paused = wire::UpdateView {
        phase: "Paused".into(),
        paused: true,
        ..update("api", 3, &["paused by ann"])
    };
    let failed = wire::UpdateView {
        failed: true,
        namespace: "shop".into(),
        old: "cart".into(),
        new: "cart-v2".into(),
        ..paused.clone()
    };
    let blocked = wire::UpdateView {
        phase: "Blocked".into(),
        ..update("web", 3, &["web-v2-x has no place"])
    };
    seen.updates = vec![paused, failed, blocked];
    insta::assert_snapshot!(show(&seen), @r"
    3 problems: 0 nodes, 2 controllers (1 ready), 0 pods

    OBJECT           SINCE   REMEDY                                         WHAT
    rc/api           5m      wharf rollout resume rc api                    api → api-v2: paused, step 0 of 3, 3 + 1 replicas, 3 of 3 available: paused by ann
    rc/web           5m      wharf rollout status rc web                    web → web-v2: blocked, step 0 of 3, 3 + 1 replicas, 3 of 3 available: web-v2-x has no place
    rc/cart (shop)   5m      wharf rolling-update cart --rollback -n shop   cart → cart-v2: paused, step 0 of 3, 3 + 1 replicas, 3 of 3 available: paused by ann
    ");
    // What waits for the thaw only is told with the freeze.
    seen.settings.freeze = Some(wire::Freeze::default());
    assert!(!show(&seen).contains("has no place") && show(&seen).contains("rc/api"));
}

#[test]
fn a_node_without_pods_has_nothing_to_start_elsewhere() {
    let lost = seen().node("n2", ("Unknown", "Unreachable", 20), json!([]));
    assert!(!show(&lost).contains("elsewhere"));
    let late = seen()
        .node("n2", ("Unknown", "Unreachable", 90), json!([]))
        .pod("p", "x", "n2", running("Unknown", 60));
    assert!(
        show(&late).contains("its pods are started elsewhere, but for"),
        "{}",
        show(&late)
    );
}

#[test]
fn ten_thousand_pods_fit_a_screen() {
    let mut many = seen();
    for i in 0..100 {
        many = many.node(&format!("n{i:02}"), ("Unknown", "Unreachable", 20), json!([]));
    }
    for i in 0..10_000 {
        let node = format!("n{:02}", i % 100);
        many = many.pod(&format!("p{i}"), "", &node, running("Unknown", 60));
    }
    for i in 0..45 {
        many = many.pod(&format!("q{i:02}"), "", "n1", waiting("CrashLoopBackOff", "exit 1"));
    }
    let text = show(&many);
    assert!(text.lines().count() < 40, "{text}");
    assert!(
        text.contains("and 37 more") && text.contains("37 more pods") && text.contains("92 more nodes not Ready"),
        "{text}"
    );
    assert!(text.contains("100 pods Unknown: p0, p100, p200 and 97 more"), "{text}");
    let all = show::object(&Page::of(&many), &many);
    assert_eq!(all["problems"].as_array().map(Vec::len), Some(245));
}
