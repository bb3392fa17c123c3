//! Patches: merging by the RFC's table; at the service what is refused and how, and what happens at once.

use proto::wire::PatchRequest;
use serde_json::{Value, json};
use tonic::Code;

use super::merge;
use crate::{
    api::testing::*,
    store::{Change, Expect, keys},
    world::record::{OwnerRecord, encode},
};

#[test]
fn merging_is_as_rfc_7386_has_it() {
    for (target, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let mut merged = target.clone();
        merge(&mut merged, &patch);
        assert_eq!(merged, expected, "{target} with {patch}");
    }
}

async fn node(bench: &Bench, name: &str) {
    labelled(bench, name, json!({"kubernetes.io/hostname": name, "zone": "a"})).await;
}

async fn labelled(bench: &Bench, name: &str, labels: Value) {
    let node = json!({"metadata": {"name": name, "uid": "u", "labels": labels}});
    let at = keys::object(proto::model::Kind::Node, "", name);
    bench.put(vec![Change::put(at, Expect::Any, encode(&node))]).await;
}

#[tokio::test]
async fn each_kind_takes_what_its_users_write() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    bench.make("ns", &json!({"metadata": {"name": "a"}})).await;
    bench.pod("p", "n1", None).await;
    node(&bench, "n1").await;
    let labels = json!({"metadata": {"labels": {"x": "y"}, "annotations": {"n": "m"}}});
    for (kind, name, others) in [
        ("rc", "web", json!({"app": "web"})),
        ("ns", "a", json!({})),
        ("pod", "p", json!({"app": "web"})),
        ("node", "n1", json!({"kubernetes.io/hostname": "n1", "zone": "a"})),
    ] {
        let before = bench.get(kind, "", name).await.expect("there");
        let mut expected = others.clone();
        expected["x"] = json!("y");
        let after = bench.patch(patching(kind, name, &labels)).await.expect("patched");
        assert_eq!(value(&after)["metadata"]["labels"], expected, "{kind}");
        assert_eq!(value(&after)["metadata"]["annotations"], json!({"n": "m"}), "{kind}");
        assert_ne!(after.resource_version, before.resource_version);
        let again = bench.patch(patching(kind, name, &labels)).await.expect("patched");
        assert_eq!(again, after, "nothing to do");
        let back = json!({"metadata": {"labels": {"x": null}, "annotations": null}});
        let after = value(&bench.patch(patching(kind, name, &back)).await.expect("patched"));
        let left = after["metadata"].get("labels").cloned().unwrap_or_else(|| json!({}));
        assert_eq!((left, after["metadata"].get("annotations")), (others, None), "{kind}");
    }
    let ours = json!({"metadata": {"generation": 9, "creationTimestamp": null}, "spec": {"unschedulable": false}});
    let after = bench.patch(patching("node", "n1", &ours)).await.expect("nothing to do");
    assert_eq!(after.warnings, ["no effect here, left out: metadata.generation"]);
    let cordoned = bench
        .patch(patching("node", "n1", &json!({"spec": {"unschedulable": true}})))
        .await;
    assert_eq!(value(&cordoned.expect("patched"))["spec"]["unschedulable"], true);
    let scaled = bench
        .patch(patching("rc", "web", &json!({"spec": {"replicas": 7}})))
        .await;
    let scaled = value(&scaled.expect("patched"));
    assert_eq!(
        (&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]),
        (&json!(7), &json!(2))
    );
}

#[tokio::test]
async fn refusals_name_object_field_and_remedy() {
    let bench = Bench::new().await;
    let mut manifest = rc("web");
    manifest["spec"]["template"]["spec"]["containers"] = json!([
        {"name": "c", "image": "web:1", "args": ["x"]}, {"name": "log", "image": "log:1"}]);
    let made = bench.make("rc", &manifest).await;
    bench.pod("p", "n1", None).await;
    let labels = json!({"kubernetes.io/hostname": "n1", "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"});
    labelled(&bench, "n1", labels).await;
    node(&bench, "n2").await;
    let invalid = |what: &str| {
        (
            Code::InvalidArgument,
            format!("replicationcontroller \"web\" is invalid: {what}"),
        )
    };
    let rc = |patch: Value| patching("rc", "web", &patch);
    let containers = |list: Value| rc(json!({"spec": {"template": {"spec": {"containers": list}}}}));
    let remedy = "use wharf apply -f or wharf replace -f with the whole object";
    let raw = |patch: &str| PatchRequest {
        patch: patch.into(),
        ..rc(json!({}))
    };
    let table = [
        (
            patching("rc", "nope", &json!({})),
            (Code::NotFound, "replicationcontrollers \"nope\" not found".to_owned()),
        ),
        (patching("rc", "", &json!({})), (Code::InvalidArgument, "name: required".into())),
        (
            patching("events", "e", &json!({})),
            (
                Code::InvalidArgument,
                "events are written by the coordinator and the agents; they cannot be changed".into(),
            ),
        ),
        (
            raw("[]"),
            (
                Code::InvalidArgument,
                "patch: must be a JSON object, e.g. {\"metadata\": {\"labels\": {\"a\": \"b\"}}}".into(),
            ),
        ),
        (
            raw("{"),
            (
                Code::InvalidArgument,
                "patch: not JSON: EOF while parsing an object at line 1 column 1".into(),
            ),
        ),
        (
            rc(json!({"status": {"replicas": 9}})),
            invalid("status: written by the coordinator and the agents; leave it out"),
        ),
        (rc(json!({"kind": "Pod"})), invalid("kind: must be ReplicationController, not \"Pod\"")),
        (rc(json!({"apiVersion": "v2"})), invalid("apiVersion: must be v1, not \"v2\"")),
        (
            rc(json!({"metadata": {"name": "x"}})),
            invalid("metadata.name: does not change; create another object and delete this one"),
        ),
        (
            rc(json!({"metadata": {"namespace": "x"}})),
            invalid("metadata.namespace: does not change; create another object and delete this one"),
        ),
        (
            rc(json!({"metadata": {"resourceVersion": "7"}})),
            (
                Code::Aborted,
                format!(
                    "replicationcontrollers \"web\": its resource version is {:?}, not \"7\" as asked; look and try again",
                    made.resource_version
                ),
            ),
        ),
        (
            rc(json!({"metadata": {"uid": "u"}})),
            (
                Code::Aborted,
                format!(
                    "replicationcontrollers \"web\": its uid is {:?}, not \"u\" as asked; look and try again",
                    made.uid
                ),
            ),
        ),
        (
            rc(json!({"spec": {"replica": 1}})),
            invalid("spec.replica: unknown field; did you mean `replicas`?"),
        ),
        (
            rc(json!({"metadata": {"labels": {"a": 1}}})),
            invalid("metadata.labels.a: invalid type: integer `1`, expected a string; put it in quotes"),
        ),
        (
            rc(json!({"spec": {"replicas": -1}})),
            invalid("spec.replicas: must not be negative, is -1"),
        ),
        (rc(json!({"spec": {"template": null}})), invalid("spec: missing field `template`")),
        (
            rc(json!({"spec": {"template": {"spec": {"containers": null}}}})),
            invalid("spec.template.spec.containers: at least one is required"),
        ),
        (
            containers(json!([{"name": "c", "image": "web:2"}])),
            invalid(&format!(
                "spec.template.spec.containers: the patch would replace the whole list and lose log; {remedy}"
            )),
        ),
        (
            containers(json!([{"name": "c", "image": "web:2"}, {"name": "log", "image": "log:1"}])),
            invalid(&format!(
                "spec.template.spec.containers: the patch would replace the whole list and lose what its items leave out; {remedy}"
            )),
        ),
        (
            rc(json!({"metadata": {"annotations": {"a": "x".repeat(300_000)}}})),
            invalid("it has 300037 bytes; at most 262144 fit"),
        ),
        (
            patching("pod", "p", &json!({"spec": {"containers": [{"name": "c", "image": "i:2"}]}})),
            (
                Code::InvalidArgument,
                "pod \"p\" is invalid: spec.containers[0].image, spec.containers[0].ports: a pod's spec does not change; delete it and create it anew, or change its controller's template".into(),
            ),
        ),
        (
            patching("pod", "p", &json!({"spec": {"nodeName": null}})),
            (
                Code::InvalidArgument,
                "pod \"p\" is invalid: spec.nodeName: a pod's spec does not change; delete it and create it anew, or change its controller's template".into(),
            ),
        ),
        (
            patching("pod", "p", &json!({"metadata": {"annotations": {"wharfinger.io/stop-after-disconnect": "30s"}}})),
            (
                Code::InvalidArgument,
                "pod \"p\" is invalid: metadata.annotations.wharfinger.io/stop-after-disconnect: a pod keeps it for life; change its controller's template, and delete the pod".into(),
            ),
        ),
        (
            patching("pod", "p", &json!({"metadata": {"annotations": {"wharfinger.io/singleton": "yes"}}})),
            (
                Code::InvalidArgument,
                "pod \"p\" is invalid: metadata.annotations.wharfinger.io/singleton: must be \"true\" or \"false\", is \"yes\"".into(),
            ),
        ),
        (
            rc(json!({"metadata": {"annotations": {"wharfinger.io/singleton": "true"}}})),
            invalid("metadata.annotations.wharfinger.io/singleton: says something of pods: write it into spec.template.metadata.annotations"),
        ),
        (
            patching("node", "n1", &json!({"metadata": {"labels": {"kubernetes.io/hostname": null}}})),
            (
                Code::InvalidArgument,
                "node \"n1\" is invalid: metadata.labels.kubernetes.io/hostname: set by the coordinator to n1; leave it so".into(),
            ),
        ),
        (
            patching("node", "n1", &json!({"metadata": {"labels": {"kubernetes.io/arch": "arm64", "kubernetes.io/os": null}}})),
            (
                Code::InvalidArgument,
                "node \"n1\" is invalid: metadata.labels.kubernetes.io/arch: set by the coordinator to amd64; leave it so; metadata.labels.kubernetes.io/os: set by the coordinator to linux; leave it so".into(),
            ),
        ),
        (
            patching("node", "n2", &json!({"metadata": {"labels": {"kubernetes.io/arch": "arm64"}}})),
            (
                Code::InvalidArgument,
                "node \"n2\" is invalid: metadata.labels.kubernetes.io/arch: only the coordinator sets it, as the host joins; leave it out".into(),
            ),
        ),
    ];
    let before = bench.store.keys();
    for (request, expected) in table {
        assert_eq!(refused(bench.patch(request).await), expected);
    }
    assert_eq!(bench.store.keys(), before);
    assert_eq!(bench.get("rc", "", "web").await.expect("there"), made);
}

#[tokio::test]
async fn lists_that_lose_nothing_may_be_named() {
    let bench = Bench::new().await;
    let made = bench.make("rc", &rc("web")).await;
    let spec = |spec: Value| patching("rc", "web", &json!({"spec": {"template": {"spec": spec}}}));
    // Equal to what is there, in whatever words.
    let same = spec(json!({"containers": [{"image": "web:1", "name": "c", "env": []}]}));
    assert_eq!(bench.patch(same).await.expect("nothing to do"), made);
    // Where there was none.
    let volumes = json!([{"name": "tmp", "emptyDir": {}}]);
    let after = bench.patch(spec(json!({"volumes": volumes}))).await.expect("patched");
    assert_eq!(value(&after)["spec"]["template"]["spec"]["volumes"], volumes);
    let (code, message) = refused(bench.patch(spec(json!({"volumes": []}))).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("spec.template.spec.volumes: the patch would replace the whole list and lose tmp;"));
    // Taken away as a whole, in so many words.
    let after = bench.patch(spec(json!({"volumes": null}))).await.expect("patched");
    assert_eq!(value(&after)["spec"]["template"]["spec"].get("volumes"), None);
}

#[tokio::test]
async fn the_whole_is_measured_with_what_is_there() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let note = |key: &str, len: usize| {
        let patch = json!({"metadata": {"annotations": {key: "x".repeat(len)}}});
        patching("rc", "web", &patch)
    };
    bench.patch(note("a", 100_000)).await.expect("fits");
    let (code, message) = refused(bench.patch(note("b", 200_000)).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("at most 262144 fit"), "{message}");
}

#[tokio::test]
async fn patches_of_different_fields_at_once_all_land() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    bench.pod("p", "n1", None).await;
    for (kind, name) in [("rc", "web"), ("pod", "p")] {
        let label = |key: &str| patching(kind, name, &json!({"metadata": {"labels": {key: "1"}}}));
        let (a, b, c) = tokio::join!(
            bench.patch(label("a")),
            bench.patch(label("b")),
            bench.patch(label("c"))
        );
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        let shown = value(&bench.get(kind, "", name).await.expect("there"));
        assert_eq!(
            shown["metadata"]["labels"],
            json!({"app": "web", "a": "1", "b": "1", "c": "1"}),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn of_two_that_name_the_version_exactly_one_lands() {
    let bench = Bench::new().await;
    let made = bench.make("rc", &rc("web")).await;
    let label = |key: &str| {
        let patch = json!({"metadata": {"resourceVersion": made.resource_version, "labels": {key: "1"}}});
        bench.patch(patching("rc", "web", &patch))
    };
    let (a, b) = tokio::join!(label("a"), label("b"));
    let after = a.expect("the first");
    let (code, message) = refused(b);
    assert_eq!(code, Code::Aborted);
    assert!(
        message.contains(&after.resource_version) && message.contains(&made.resource_version),
        "{message}"
    );
    assert_eq!(value(&after)["metadata"]["labels"], json!({"app": "web", "a": "1"}));
}

#[tokio::test]
async fn a_patch_is_merged_anew_into_what_a_faster_one_left() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let mut rival = bench.store.values("obj/replicationcontroller/")[0].clone();
    rival["spec"]["replicas"] = json!(5);
    let at = keys::object(proto::model::Kind::ReplicationController, "default", "web");
    bench.store.rival(vec![Change::put(at, Expect::Any, encode(&rival))]);
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    let after = value(&bench.patch(patching("rc", "web", &label)).await.expect("patched"));
    assert_eq!(
        (&after["spec"]["replicas"], &after["metadata"]["labels"]["x"]),
        (&json!(5), &json!("y"))
    );
}

#[tokio::test]
async fn dry_runs_and_repeats() {
    let bench = Bench::new().await;
    let made = bench.make("rc", &rc("web")).await;
    let request = PatchRequest {
        dry_run: true,
        request_id: "r-1".into(),
        ..patching("rc", "web", &json!({"spec": {"replicas": 9}}))
    };
    let before = (bench.hub.rv(), bench.store.keys());
    let shown = bench.patch(request.clone()).await.expect("valid");
    assert_eq!(
        (&value(&shown)["spec"]["replicas"], &shown.resource_version),
        (&json!(9), &made.resource_version)
    );
    assert_eq!((bench.hub.rv(), bench.store.keys()), before);
    let request = PatchRequest {
        dry_run: false,
        ..request
    };
    let (a, b) = tokio::join!(bench.patch(request.clone()), bench.patch(request.clone()));
    assert_eq!(a.expect("patched"), b.expect("repeated"));
    let back = patching("rc", "web", &json!({"spec": {"replicas": 1}}));
    bench.patch(back).await.expect("patched");
    let repeat = value(&bench.patch(request.clone()).await.expect("repeated"));
    assert_eq!(repeat["spec"]["replicas"], 1, "it is not done again");
    let other = PatchRequest {
        request_id: "r-1".into(),
        ..patching("rc", "web", &json!({"spec": {"replicas": 4}}))
    };
    let message = "request_id r-1 belongs to another request; choose a new one for each request";
    assert_eq!(
        refused(bench.patch(other).await),
        (Code::InvalidArgument, message.to_owned())
    );
}

#[tokio::test]
async fn a_pod_keeps_its_owner_whatever_its_labels_say() {
    let bench = Bench::new().await;
    let owner = OwnerRecord {
        name: "web".into(),
        uid: "u".into(),
        ..OwnerRecord::default()
    };
    bench.pod("p", "n1", Some(owner)).await;
    let away = json!({"metadata": {"labels": {"app": "other"}}});
    let shown = value(&bench.patch(patching("pod", "p", &away)).await.expect("patched"));
    assert_eq!(shown["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
    assert_eq!(shown["metadata"]["ownerReferences"][0]["uid"], "u");
    let free = json!({"metadata": {"ownerReferences": null}});
    assert_eq!(
        refused(bench.patch(patching("pod", "p", &free)).await).0,
        Code::InvalidArgument
    );
}
