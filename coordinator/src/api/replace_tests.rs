//! Replaces at the service: what each kind lets its user change, what is refused and how, and what stays.

use proto::{
    model::{Kind, Phase, Time},
    wire::ReplaceRequest,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    api::testing::*,
    store::{Change, Expect, keys},
    world::record::{OwnerRecord, StopRecord, encode},
};

async fn node(bench: &Bench, name: &str, labels: &Value) {
    let node = json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "labels": labels}});
    let at = keys::object(Kind::Node, "", name);
    bench.put(vec![Change::put(at, Expect::Any, encode(&node))]).await;
}

#[tokio::test]
async fn a_controller_takes_what_its_manifest_says_and_loses_what_it_leaves_out() {
    let bench = Bench::new().await;
    let mut first = rc("web");
    first["metadata"]["labels"] = json!({"team": "a", "tier": "front"});
    first["metadata"]["annotations"] = json!({"note": "old"});
    let made = bench.make("rc", &first).await;
    let mut second = rc("web");
    second["metadata"]["labels"] = json!({"team": "b"});
    let after = bench.replace(replacing("rc", &second)).await.expect("replaced");
    let (old, new) = (value(&made), value(&after));
    assert_eq!(new["metadata"]["labels"], json!({"team": "b"}));
    assert_eq!(new["metadata"].get("annotations"), None);
    for field in ["uid", "creationTimestamp", "generation"] {
        assert_eq!(new["metadata"][field], old["metadata"][field], "{field}");
    }
    assert_ne!(after.resource_version, made.resource_version);
    assert_eq!(bench.get("rc", "", "web").await.expect("there"), after);
    second["spec"]["replicas"] = json!(5);
    second["spec"]["minReadySeconds"] = json!(3);
    second["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2");
    second["status"] = json!({"replicas": 77});
    let after = value(&bench.replace(replacing("rc", &second)).await.expect("replaced"));
    assert_eq!(after["metadata"]["generation"], 2);
    assert_eq!(after["spec"]["replicas"], 5);
    assert_eq!(after["spec"]["minReadySeconds"], 3);
    assert_eq!(after["spec"]["template"]["spec"]["containers"][0]["image"], "web:2");
    assert_eq!(after["status"]["replicas"], 0, "what others write is ignored");
    second["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    let after = bench.replace(replacing("rc", &second)).await.expect("nothing to do");
    assert_eq!(
        after.warnings,
        ["no effect here, left out: metadata.creationTimestamp, status"]
    );
    assert_eq!(
        value(&after)["metadata"]["creationTimestamp"],
        old["metadata"]["creationTimestamp"]
    );
    let audit = bench.store.values("audit/");
    let details: Vec<_> = audit
        .iter()
        .filter(|a| a["verb"] == "replace")
        .map(|a| &a["detail"])
        .collect();
    assert!(details.contains(&&json!(
        "metadata.labels.team, metadata.labels.tier, metadata.annotations"
    )));
    assert!(details.contains(&&json!(
        "spec.replicas, spec.template.spec.containers[0].image, spec.minReadySeconds"
    )));
    let stored = &bench.store.values("obj/replicationcontroller/")[0];
    assert_eq!(
        (stored.get("status"), stored["metadata"].get("resourceVersion")),
        (None, None)
    );
}

#[tokio::test]
async fn a_replace_without_a_change_commits_nothing() {
    let bench = Bench::new().await;
    bench.make("ns", &json!({"metadata": {"name": "a"}})).await;
    node(&bench, "n1", &json!({"kubernetes.io/hostname": "n1"})).await;
    let with_limits = with(
        rc("web"),
        "/spec/template/spec/containers/0/resources",
        json!({"limits": {"cpu": "500m"}}),
    );
    let made = [
        ("rc", with_limits.clone(), bench.make("rc", &with_limits).await),
        ("pod", bare("p"), bench.make("pod", &bare("p")).await),
        (
            "ns",
            json!({"metadata": {"name": "a"}}),
            bench.get("ns", "", "a").await.expect("there"),
        ),
        (
            "node",
            json!({"metadata": {"name": "n1"}}),
            bench.get("node", "", "n1").await.expect("there"),
        ),
    ];
    let before = (bench.hub.rv(), bench.store.keys());
    for (kind, manifest, object) in made {
        // The file that made it, and the export of it.
        for json in [manifest.to_string().into_bytes(), object.json.clone()] {
            let request = ReplaceRequest {
                json,
                ..replacing(kind, &manifest)
            };
            let mut answer = bench.replace(request).await.expect("valid");
            // An export has fields without effect.
            answer.warnings.clear();
            assert_eq!(answer, object, "{kind}");
        }
    }
    assert_eq!((bench.hub.rv(), bench.store.keys()), before);
}

#[tokio::test]
async fn refusals_name_object_field_and_remedy() {
    let bench = Bench::new().await;
    let made = bench.make("rc", &rc("web")).await;
    node(&bench, "n1", &json!({"kubernetes.io/hostname": "n1"})).await;
    let version = &made.resource_version;
    let invalid = |what: &str| {
        (
            Code::InvalidArgument,
            format!("replicationcontroller \"web\" is invalid: {what}"),
        )
    };
    let set = |pointer: &str, value: Value| replacing("rc", &with(rc("web"), pointer, value));
    let table = [
        (replacing("rc", &rc("nope")), (Code::NotFound, "replicationcontrollers \"nope\" not found".into())),
        (
            replacing("events", &json!({"metadata": {"name": "e"}})),
            (
                Code::InvalidArgument,
                "events are written by the coordinator and the agents; they cannot be changed".into(),
            ),
        ),
        (
            set("/metadata/uid", json!("other")),
            (
                Code::Aborted,
                format!(
                    "replicationcontrollers \"web\": its uid is {:?}, not \"other\" as asked; look and try again",
                    made.uid
                ),
            ),
        ),
        (
            set("/metadata/resourceVersion", json!("7")),
            (
                Code::Aborted,
                format!(
                    "replicationcontrollers \"web\": its resource version is {version:?}, not \"7\" as asked; look and try again"
                ),
            ),
        ),
        (
            replacing("rc", &json!({"metadata": {"generateName": "web-"}, "spec": rc("web")["spec"]})),
            (
                Code::InvalidArgument,
                "replicationcontroller \"web-\" is invalid: metadata.name: required: the object to replace".into(),
            ),
        ),
        (
            set("/metadata/generateName", json!("web-")),
            invalid("metadata.generateName: set by the coordinator; leave it out"),
        ),
        (
            set("/metadata/deletionTimestamp", json!("2020-01-01T00:00:00Z")),
            invalid("metadata.deletionTimestamp: set by the coordinator; leave it out"),
        ),
        (
            set("/metadata/finalizers", json!(["a"])),
            invalid("metadata.finalizers: not supported by Wharfinger yet; leave it out"),
        ),
        (
            set("/metadata/ownerReferences", json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u"}])),
            invalid(
                "metadata.ownerReferences: set by the coordinator; leave it out, a controller adopts pods that match its selector",
            ),
        ),
        (
            set("/metadata/labels", json!({"a b": "c"})),
            invalid(
                "metadata.labels: key \"a b\" must be [DNS-subdomain/]name, the name at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit",
            ),
        ),
        (set("/spec/replicas", json!(100_001)), invalid("spec.replicas: must be at most 100000, is 100001")),
        (
            set("/spec/selector", json!({"app": "other"})),
            invalid("spec.selector: app=other does not match spec.template.metadata.labels, which has app=web"),
        ),
        (set("/spec/replica", json!(1)), invalid("spec.replica: unknown field; did you mean `replicas`?")),
        (set("/kind", json!("Pod")), invalid("kind: must be ReplicationController, not \"Pod\"")),
        (
            ReplaceRequest {
                namespace: "a".into(),
                ..set("/metadata/namespace", json!("b"))
            },
            invalid("metadata.namespace: is \"b\", but the request is for \"a\"; make them equal or leave one out"),
        ),
        (
            set("/metadata/annotations", json!({"a": "x".repeat(300_000)})),
            invalid("it has 300174 bytes; at most 262144 fit"),
        ),
        (
            replacing("node", &json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n2"}}})),
            (
                Code::InvalidArgument,
                "node \"n1\" is invalid: metadata.labels.kubernetes.io/hostname: set by the coordinator to n1; leave it so"
                    .into(),
            ),
        ),
    ];
    let before = bench.store.keys();
    for (request, expected) in table {
        assert_eq!(refused(bench.replace(request).await), expected);
    }
    assert_eq!(bench.store.keys(), before);
    assert_eq!(bench.get("rc", "", "web").await.expect("there"), made);
}

#[tokio::test]
async fn a_pod_keeps_its_spec_and_its_record_the_differences() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let owner = OwnerRecord {
        name: "web".into(),
        uid: "u".into(),
        ..OwnerRecord::default()
    };
    bench.pod("p", "n1", Some(owner)).await;
    bench.status("p", Phase::Running, true).await;
    let mut export = value(&bench.get("pod", "", "p").await.expect("there"));
    let record = || bench.store.values("obj/pod/")[0].clone();
    export["metadata"]["resourceVersion"].take();
    export["metadata"]
        .as_object_mut()
        .expect("a map")
        .remove("resourceVersion");
    export["metadata"]["labels"] = json!({"tier": "front"});
    export["metadata"]["annotations"] = json!({"note": "x"});
    let after = bench.replace(replacing("pod", &export)).await.expect("replaced");
    let shown = value(&after);
    assert_eq!(shown["metadata"]["labels"], json!({"tier": "front"}));
    assert_eq!(shown["metadata"]["annotations"], json!({"note": "x"}));
    assert_eq!(shown["metadata"]["ownerReferences"][0]["uid"], "u");
    assert_eq!(
        (&shown["spec"]["nodeName"], &shown["status"]["phase"]),
        (&json!("n1"), &json!("Running"))
    );
    assert_eq!(record()["l"], json!({"app": null, "tier": "front"}));
    assert_eq!(record()["a"], json!({"note": "x"}));
    // As the template has them: no difference is left.
    export["metadata"]["labels"] = json!({"app": "web"});
    export["metadata"]["annotations"] = json!({});
    // A manifest need not have what others write, nor what is the default.
    for field in ["ownerReferences", "uid", "creationTimestamp"] {
        export["metadata"].as_object_mut().expect("a map").remove(field);
    }
    export["spec"].as_object_mut().expect("a map").remove("nodeName");
    export["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
    let after = value(&bench.replace(replacing("pod", &export)).await.expect("replaced"));
    assert_eq!(
        after["metadata"]["ownerReferences"],
        shown["metadata"]["ownerReferences"]
    );
    assert_eq!((record().get("l"), record().get("a")), (None, None));
    // Every field that differs is named, and nothing is done.
    let mut other = with(export, "/spec/containers/0/image", json!("i:2"));
    other["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    other["spec"]["nodeName"] = json!("n2");
    other["spec"]["terminationGracePeriodSeconds"] = json!(8);
    other["metadata"]["labels"] = json!({"a": "b"});
    let before = record();
    assert_eq!(
        refused(bench.replace(replacing("pod", &other)).await),
        (
            Code::InvalidArgument,
            "pod \"p\" is invalid: spec.containers[0].image, spec.containers[0].env, spec.terminationGracePeriodSeconds, spec.nodeName: a pod's spec does not change; delete it and create it anew, or change its controller's template"
                .to_owned()
        )
    );
    assert_eq!(record(), before);
}

#[tokio::test]
async fn a_pod_that_waits_may_name_the_node_that_its_author_chose() {
    let bench = Bench::new().await;
    let mut pod = with(bare("p"), "/spec/nodeName", json!("n9"));
    bench.make("pod", &pod).await;
    pod["metadata"]["labels"]["x"] = json!("y");
    bench.replace(replacing("pod", &pod)).await.expect("the same spec");
    bench.change_pod("p", |r| r.node = "n9".into()).await;
    pod["metadata"]["labels"]["x"] = json!("z");
    bench.replace(replacing("pod", &pod)).await.expect("the same spec");
    pod["spec"]["nodeName"] = json!("n8");
    let (_, message) = refused(bench.replace(replacing("pod", &pod)).await);
    assert!(message.contains("invalid: spec.nodeName: a pod's spec"), "{message}");
}

#[tokio::test]
async fn a_node_keeps_its_own_label_and_says_which_ones_went() {
    let bench = Bench::new().await;
    let labels =
        json!({"kubernetes.io/hostname": "n1", "kubernetes.io/arch": "arm64", "zone": "a", "disk": "ssd", "rack": "7"});
    node(&bench, "n1", &labels).await;
    let manifest = json!({"metadata": {"name": "n1", "labels": {"rack": "8"}, "annotations": {"note": "x"}},
        "spec": {"unschedulable": true}, "status": {"capacity": {"cpu": "99"}, "allocatable": {"cpu": "99"}}});
    let after = bench.replace(replacing("node", &manifest)).await.expect("replaced");
    assert_eq!(
        after.warnings,
        [
            "metadata.labels: disk, zone removed; the manifest has no such label",
            "no effect here, left out: status"
        ]
    );
    let shown = value(&after);
    assert_eq!(
        shown["metadata"]["labels"],
        json!({"kubernetes.io/arch": "arm64", "kubernetes.io/hostname": "n1", "rack": "8"})
    );
    assert_eq!(shown["metadata"]["annotations"], json!({"note": "x"}));
    assert_eq!(shown["spec"]["unschedulable"], true);
    assert_eq!(shown["status"]["capacity"].get("cpu"), None);
    let stored = &bench.store.values("obj/node/")[0];
    assert_eq!(
        (stored.get("status"), &stored["metadata"]["uid"]),
        (None, &json!("uid-n1"))
    );
    // Left out: it takes pods again.
    let after = bench
        .replace(replacing(
            "node",
            &json!({"metadata": {"name": "n1", "labels": {"rack": "8"}}}),
        ))
        .await;
    assert_eq!(value(&after.expect("replaced"))["spec"].get("unschedulable"), None);
}

#[tokio::test]
async fn taints_get_their_time_from_the_coordinator_and_keep_it() {
    let bench = Bench::new().await;
    node(&bench, "n1", &json!({})).await;
    let taints = |value: Value| json!({"metadata": {"name": "n1"}, "spec": {"taints": value}});
    let shown = |object: &proto::wire::Object| value(object)["spec"]["taints"].clone();
    let one = json!([{"key": "a", "value": "1", "effect": "NoExecute", "timeAdded": "2020-01-01T00:00:00Z"}]);
    let first = bench
        .replace(replacing("node", &taints(one.clone())))
        .await
        .expect("replaced");
    assert_eq!(first.warnings, ["no effect here, left out: spec.taints[0].timeAdded"]);
    let added = shown(&first)[0]["timeAdded"].clone();
    assert!(added.as_str().is_some_and(|t| t > "2026"), "{added}");
    // Written again, and beside another one, it is the same taint.
    let again = bench
        .replace(replacing("node", &taints(one)))
        .await
        .expect("nothing to do");
    assert_eq!(again.resource_version, first.resource_version);
    let two = json!({"spec": {"taints": [{"key": "b", "effect": "NoSchedule"}, {"key": "a", "value": "1", "effect": "NoExecute"}]}});
    let both = shown(&bench.patch(patching("node", "n1", &two)).await.expect("patched"));
    assert_eq!(both[1]["timeAdded"], added);
    let left = bench
        .patch(patching("node", "n1", &json!({"metadata": {"labels": {"x": "y"}}})))
        .await;
    assert_eq!(shown(&left.expect("patched")), both, "another patch leaves them alone");
    let own = json!([{"key": "node.kubernetes.io/x", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]);
    let (code, said) = refused(bench.replace(replacing("node", &taints(own))).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        said.starts_with("node \"n1\" is invalid: spec.taints[0].key: "),
        "{said}"
    );
    let none = bench
        .replace(replacing("node", &json!({"metadata": {"name": "n1"}})))
        .await;
    assert_eq!(shown(&none.expect("replaced")), Value::Null);
}

#[tokio::test]
async fn a_namespace_has_labels_and_annotations() {
    let bench = Bench::new().await;
    bench
        .make("ns", &json!({"metadata": {"name": "a", "labels": {"x": "1"}}}))
        .await;
    let manifest = json!({"metadata": {"name": "a", "labels": {"y": "2"}, "annotations": {"n": "m"}},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}});
    let shown = value(&bench.replace(replacing("ns", &manifest)).await.expect("replaced"));
    assert_eq!(shown["metadata"]["labels"], json!({"y": "2"}));
    assert_eq!(shown["metadata"]["annotations"], json!({"n": "m"}));
    assert_eq!((shown.get("spec"), &shown["status"]["phase"]), (None, &json!("Active")));
}

#[tokio::test]
async fn what_is_being_deleted_takes_labels_and_annotations_only() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let orphan = proto::wire::DeleteRequest {
        cascade: proto::wire::delete_request::Cascade::Orphan.into(),
        ..deleting("rc", "web")
    };
    bench.delete(orphan).await.expect("marked");
    let mut export = value(&bench.get("rc", "", "web").await.expect("still there"));
    export["metadata"]["labels"]["x"] = json!("y");
    let shown = value(&bench.replace(replacing("rc", &export)).await.expect("replaced"));
    assert_eq!(shown["metadata"]["labels"]["x"], "y");
    assert_eq!(shown["metadata"]["finalizers"], json!(["orphan"]));
    assert_eq!(
        refused(
            bench
                .replace(replacing("rc", &with(rc("web"), "/spec/replicas", json!(9))))
                .await
        ),
        (
            Code::FailedPrecondition,
            "replicationcontrollers \"web\": it is being deleted; only its labels and annotations can change"
                .to_owned()
        )
    );
    bench.pod("p", "n1", None).await;
    bench
        .change_pod("p", |r| {
            r.stop = Some(StopRecord {
                at: Time(5000),
                grace: 9,
                reason: "deleted by user/admin".into(),
                lost: false,
                drain: None,
            });
        })
        .await;
    let mut export = value(&bench.get("pod", "", "p").await.expect("still there"));
    export["metadata"]["labels"]["x"] = json!("y");
    bench.replace(replacing("pod", &export)).await.expect("replaced");
    assert_eq!(bench.store.values("obj/pod/")[0]["d"]["g"], 9);
}

#[tokio::test]
async fn a_changed_spec_is_warned_of_as_a_new_one_is() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let mut next = rc("web-2");
    next["spec"]["template"]["metadata"]["labels"] = json!({"app": "web", "deployment": "2"});
    bench.make("rc", &next).await;
    next["spec"]["template"]["spec"]["nodeName"] = json!("n9");
    let after = bench.replace(replacing("rc", &next)).await.expect("replaced");
    assert_eq!(after.warnings.len(), 2, "{:?}", after.warnings);
    assert!(after.warnings[0].starts_with("spec.template.spec.nodeName: nodes \"n9\" not found"));
    assert!(after.warnings[1].contains("replicationcontrollers \"web\""));
    next["metadata"]["annotations"] = json!({"note": "x"});
    let after = bench.replace(replacing("rc", &next)).await.expect("replaced");
    assert!(after.warnings.is_empty(), "the spec is as it was: {:?}", after.warnings);
}

#[tokio::test]
async fn a_dry_run_answers_as_it_would_be_and_stores_nothing() {
    let bench = Bench::new().await;
    let made = bench.make("rc", &rc("web")).await;
    let before = (bench.hub.rv(), bench.store.keys());
    let request = ReplaceRequest {
        dry_run: true,
        request_id: "r".into(),
        ..replacing("rc", &with(rc("web"), "/spec/replicas", json!(9)))
    };
    let shown = bench.replace(request.clone()).await.expect("valid");
    assert_eq!(value(&shown)["spec"]["replicas"], 9);
    assert_eq!(value(&shown)["metadata"]["generation"], 2);
    assert_eq!(value(&shown)["status"]["observedGeneration"], 2);
    assert_eq!(shown.resource_version, made.resource_version);
    assert_eq!((bench.hub.rv(), bench.store.keys()), before);
    let bad = ReplaceRequest {
        json: with(rc("web"), "/spec/replicas", json!(-1)).to_string().into_bytes(),
        ..request
    };
    assert_eq!(refused(bench.replace(bad).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_repeat_returns_the_result_and_does_nothing_again() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let request = ReplaceRequest {
        request_id: "r-1".into(),
        ..replacing("rc", &with(rc("web"), "/spec/replicas", json!(9)))
    };
    let (a, b) = tokio::join!(bench.replace(request.clone()), bench.replace(request.clone()));
    assert_eq!(a.expect("replaced"), b.expect("repeated"));
    // Somebody else's later wish is not undone by the first one's repeat.
    bench.replace(replacing("rc", &rc("web"))).await.expect("replaced");
    let repeat = value(&bench.replace(request).await.expect("repeated"));
    assert_eq!(repeat["spec"]["replicas"], 2);
    assert_eq!(repeat["metadata"]["generation"], 3);
}

#[tokio::test]
async fn a_pod_keeps_the_ports_that_it_was_given() {
    let bench = Bench::new().await;
    let ports = json!([{"name": "http", "containerPort": 80}]);
    let manifest = with(bare("p"), "/spec/containers/0/ports", ports);
    let manifest = with(
        manifest,
        "/metadata/annotations",
        json!({"wharfinger.io/host-port": "auto"}),
    );
    bench.make("pod", &manifest).await;
    bench
        .change_pod("p", |r| {
            r.node = "n1".into();
            r.ports = vec![23_456];
        })
        .await;
    let shown = value(&bench.get("pod", "", "p").await.expect("there"));
    assert_eq!(shown["spec"]["containers"][0]["ports"][0]["hostPort"], json!(23_456));
    assert_eq!(
        shown["spec"]["containers"][0]["env"],
        json!([{"name": "WHARF_PORT_HTTP", "value": "23456"}])
    );
    // Its author's manifest and what is shown mean the same pod.
    for same in [&manifest, &shown] {
        let labelled = with(same.clone(), "/metadata/labels", json!({"app": "p", "n": "1"}));
        let mut labelled = labelled;
        labelled["metadata"]["resourceVersion"] = Value::Null;
        bench.replace(replacing("pod", &labelled)).await.expect("replaced");
    }
    bench
        .patch(patching("pod", "p", &json!({"metadata": {"labels": {"n": "2"}}})))
        .await
        .expect("patched");
    let other = with(shown, "/spec/containers/0/ports/0/hostPort", json!(23_457));
    let mut other = other;
    other["metadata"]["resourceVersion"] = Value::Null;
    let (code, words) = refused(bench.replace(replacing("pod", &other)).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        words.contains("spec.containers[0].ports[0].hostPort: a pod's spec does not change"),
        "{words}"
    );
    for annotations in [json!({}), json!({"wharfinger.io/host-port": null})] {
        let patch = json!({"metadata": {"annotations": annotations}});
        let patched = bench.patch(patching("pod", "p", &patch)).await;
        if annotations == json!({}) {
            patched.expect("nothing changes");
        } else {
            assert_eq!(
                refused(patched).1,
                "pod \"p\" is invalid: metadata.annotations.wharfinger.io/host-port: is for a pod's life; delete it \
                 and create it anew, or change its controller's template"
            );
        }
    }
}
