//! Creates at the service: what is stored, what is refused and how, repeats and rivals.

use std::sync::Arc;

use proto::{
    model::{Kind, NamespacePhase},
    wire::{CreateRequest, resources_server::Resources},
};
use serde_json::json;
use tonic::Code;

use crate::{
    api::{Settings, testing::*},
    store::{Change, CommitError, Expect, keys},
};

#[tokio::test]
async fn a_controller_is_stored_new_whatever_an_export_carries() {
    let bench = Bench::new().await;
    let mut export = rc("web");
    export["apiVersion"] = "v1".into();
    export["kind"] = "ReplicationController".into();
    export["metadata"] = json!({"name": "web", "namespace": "default", "uid": "old", "resourceVersion": "7",
        "generation": 9, "creationTimestamp": "2020-01-01T00:00:00Z"});
    export["status"] = json!({"replicas": 5, "readyReplicas": 5});
    let mut made = bench.make("rc", &export).await;
    assert_eq!(
        std::mem::take(&mut made.warnings),
        ["no effect here, left out: metadata.generation, metadata.creationTimestamp, status"]
    );
    assert_eq!(
        (
            made.kind.as_str(),
            made.api_version.as_str(),
            made.namespace.as_str(),
            made.name.as_str()
        ),
        ("ReplicationController", "v1", "default", "web")
    );
    let shown = value(&made);
    assert_eq!(shown["metadata"]["uid"], made.uid.as_str());
    assert_eq!(made.uid.len(), 36);
    assert_eq!(shown["metadata"]["generation"], 1);
    assert_ne!(shown["metadata"]["creationTimestamp"], "2020-01-01T00:00:00Z");
    assert_eq!(shown["spec"]["selector"], json!({"app": "web"}));
    assert_eq!(shown["status"]["replicas"], 0);
    assert_eq!(bench.get("rc", "", "web").await.expect("there"), made);
    // Derived and server-owned fields are not in the store.
    let stored = &bench.store.values("obj/replicationcontroller/")[0];
    assert_eq!(stored.get("status"), None);
    assert_eq!(stored["metadata"].get("resourceVersion"), None);
    let audit = &bench.store.values("audit/")[0];
    assert_eq!(
        (&audit["caller"], &audit["verb"], &audit["object"]),
        (
            &json!("user/admin"),
            &json!("create"),
            &json!("replicationcontrollers/default/web")
        )
    );
}

#[tokio::test]
async fn a_bare_pod_waits_unplaced_and_keeps_the_chosen_node_in_its_template() {
    let bench = Bench::new().await;
    let pod = with(bare("one"), "/spec/nodeName", json!("n9"));
    let made = bench.make("pod", &pod).await;
    let shown = value(&made);
    assert_eq!(shown["spec"].get("nodeName"), None);
    assert_eq!(shown["metadata"]["labels"], json!({"app": "one"}));
    assert_eq!(shown["status"]["phase"], "Pending");
    assert_eq!(
        made.warnings,
        ["spec.nodeName: nodes \"n9\" not found; pods wait until it joins"]
    );
    assert_eq!(bench.store.values("template/")[0]["spec"]["nodeName"], "n9");
    let record = &bench.store.values("obj/pod/")[0];
    assert_eq!((record.get("n"), record.get("o")), (None, None));
}

#[tokio::test]
async fn generated_names() {
    let bench = Bench::new().await;
    let pod = with(
        with(bare("x"), "/metadata/name", json!("")),
        "/metadata/generateName",
        json!("job-"),
    );
    let (a, b) = (bench.make("pod", &pod).await, bench.make("pod", &pod).await);
    assert!(a.name.starts_with("job-") && a.name.len() == 9, "{}", a.name);
    assert_ne!(a.name, b.name);
    let long = with(
        with(rc("x"), "/metadata/name", json!("")),
        "/metadata/generateName",
        json!("a.".repeat(99)),
    );
    let (code, message) = refused(bench.create(creating("rc", &long)).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        message.ends_with("is invalid: metadata.name: at most 200 characters"),
        "{message}"
    );
}

#[tokio::test]
async fn refusals_name_object_field_and_remedy() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    bench.make("ns", &json!({"metadata": {"name": "old"}})).await;
    bench.delete(deleting("ns", "old")).await.expect("deleted");
    let two = with(
        with(rc("x"), "/spec/replicas", json!(-1)),
        "/spec/selector",
        json!({"app": "y"}),
    );
    let table = [
        (
            creating("deployments", &rc("x")),
            Code::InvalidArgument,
            "\"deployments\" is not a kind; use nodes, namespaces, replicationcontrollers, daemonsets, pods, poddisruptionbudgets, endpoints, events",
        ),
        (
            creating("rc", &rc("web")),
            Code::AlreadyExists,
            "replicationcontrollers \"web\" already exists",
        ),
        (
            creating("ns", &json!({"metadata": {"name": "default"}})),
            Code::AlreadyExists,
            "namespaces \"default\" already exists",
        ),
        (
            creating("rc", &with(rc("x"), "/spec/replicas", json!(-1))),
            Code::InvalidArgument,
            "replicationcontroller \"x\" is invalid: spec.replicas: must not be negative, is -1",
        ),
        (
            creating("rc", &with(rc("x"), "/spec/replicas", json!(100_001))),
            Code::InvalidArgument,
            "replicationcontroller \"x\" is invalid: spec.replicas: must be at most 100000, is 100001",
        ),
        (
            creating("rc", &two),
            Code::InvalidArgument,
            "replicationcontroller \"x\" is invalid: spec.replicas: must not be negative, is -1; spec.selector: app=y does not match spec.template.metadata.labels, which has app=x",
        ),
        (
            creating("rc", &with(rc("x"), "/spec/replica", json!(1))),
            Code::InvalidArgument,
            "replicationcontroller \"x\" is invalid: spec.replica: unknown field; did you mean `replicas`?",
        ),
        (
            creating("rc", &bare("x")),
            Code::InvalidArgument,
            "replicationcontroller \"x\" is invalid: spec.containers: unknown field",
        ),
        (
            creating("rc", &with(rc("x"), "/kind", json!("Pod"))),
            Code::InvalidArgument,
            "replicationcontroller \"x\" is invalid: kind: must be ReplicationController, not \"Pod\"",
        ),
        (
            creating("pod", &with(bare("x"), "/metadata/name", json!("X"))),
            Code::InvalidArgument,
            "pod \"X\" is invalid: metadata.name: \"X\" must be a DNS subdomain: at most 253 of a-z, 0-9, '-' and '.', beginning and ending with a-z or 0-9",
        ),
        (
            creating("pod", &with(bare("x"), "/metadata/labels", json!({"a": "b c"}))),
            Code::InvalidArgument,
            "pod \"x\" is invalid: metadata.labels.a: value \"b c\" must be empty or at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit",
        ),
        (
            creating("pod", &with(bare("x"), "/metadata/name", json!(""))),
            Code::InvalidArgument,
            "pod \"\" is invalid: metadata.name: required",
        ),
        (
            creating("pod", &with(bare("x"), "/metadata/finalizers", json!(["a"]))),
            Code::InvalidArgument,
            "pod \"x\" is invalid: metadata.finalizers: not supported by Wharfinger yet; leave it out",
        ),
        (
            creating(
                "pod",
                &with(bare("x"), "/metadata/deletionTimestamp", json!("2020-01-01T00:00:00Z")),
            ),
            Code::InvalidArgument,
            "pod \"x\" is invalid: metadata.deletionTimestamp: set by the coordinator; leave it out",
        ),
        (
            creating(
                "pod",
                &with(
                    bare("x"),
                    "/metadata/ownerReferences",
                    json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "u"}]),
                ),
            ),
            Code::InvalidArgument,
            "pod \"x\" is invalid: metadata.ownerReferences: set by the coordinator; leave it out, a controller adopts pods that match its selector",
        ),
        (
            creating("pod", &with(bare("x"), "/metadata/namespace", json!("nowhere"))),
            Code::NotFound,
            "namespaces \"nowhere\" not found",
        ),
        (
            CreateRequest {
                namespace: "default".into(),
                ..creating("pod", &with(bare("x"), "/metadata/namespace", json!("other")))
            },
            Code::InvalidArgument,
            "pod \"x\" is invalid: metadata.namespace: is \"other\", but the request is for \"default\"; make them equal or leave one out",
        ),
        (
            CreateRequest {
                json: br#"{"metadata": {"name": "x", "namespace": "a", "namespace": "b"}}"#.to_vec(),
                ..creating("pod", &json!({}))
            },
            Code::InvalidArgument,
            "pod \"\" is invalid: metadata.namespace: stands twice; leave one",
        ),
        (
            creating("pod", &with(bare("x"), "/metadata/namespace", json!("old"))),
            Code::FailedPrecondition,
            "namespaces \"old\": it is being deleted; nothing new can be created in it",
        ),
        (
            creating("ns", &json!({"metadata": {"name": "a", "namespace": "b"}})),
            Code::InvalidArgument,
            "namespace \"a\" is invalid: metadata.namespace: a namespace has no namespace; leave it out",
        ),
        (
            creating("node", &json!({"metadata": {"name": "n9"}})),
            Code::InvalidArgument,
            "nodes are not created; nodes join by token: wharf token create",
        ),
        (
            creating("event", &json!({})),
            Code::InvalidArgument,
            "events are written by the coordinator and the agents; they cannot be created",
        ),
        (
            CreateRequest {
                json: b"{".to_vec(),
                ..creating("pod", &json!({}))
            },
            Code::InvalidArgument,
            "pod \"\" is invalid: not JSON: EOF while parsing an object at line 1 column 1",
        ),
        (
            creating(
                "pod",
                &with(bare("x"), "/metadata/annotations", json!({"a": "x".repeat(300_000)})),
            ),
            Code::InvalidArgument,
            "pod \"x\" is invalid: it has 300122 bytes; at most 262144 fit",
        ),
        (
            CreateRequest {
                request_id: "a/b".into(),
                ..creating("pod", &bare("x"))
            },
            Code::InvalidArgument,
            "request_id: at most 128 of letters, digits, '-', '_', '.' and ':', e.g. a UUID",
        ),
    ];
    let before = bench.store.keys();
    for (request, code, message) in table {
        assert_eq!(refused(bench.create(request).await), (code, message.to_owned()));
    }
    assert_eq!(bench.store.keys(), before);
}

#[tokio::test]
async fn overlapping_selectors_are_legal_and_warned_of() {
    let bench = Bench::new().await;
    assert!(bench.make("rc", &rc("web")).await.warnings.is_empty());
    assert!(bench.make("rc", &rc("api")).await.warnings.is_empty());
    // The pair of a rolling update: the new one's pods carry the old one's label and one more.
    let mut next = rc("web-2");
    next["spec"]["template"]["metadata"]["labels"] = json!({"app": "web", "deployment": "2"});
    let made = bench.make("rc", &next).await;
    assert_eq!(made.warnings.len(), 1);
    assert!(
        made.warnings[0].contains("replicationcontrollers \"web\""),
        "{:?}",
        made.warnings
    );
    // Daemon sets adopt, too, and are told of each other.
    let set = |name: &str, label: serde_json::Value| {
        json!({"metadata": {"name": name}, "apiVersion": "apps/v1", "spec": {
            "selector": {"matchLabels": label}, "template": {"metadata": {"labels": label},
                "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
    };
    assert!(
        bench
            .make("ds", &set("logs", json!({"app": "logs"})))
            .await
            .warnings
            .is_empty()
    );
    for (kind, manifest, others) in [
        (
            "ds",
            set("agent", json!({"app": "api"})),
            ["replicationcontrollers \"api\""],
        ),
        (
            "ds",
            set("logs-2", json!({"app": "logs", "v": "2"})),
            ["daemonsets \"logs\""],
        ),
        (
            "rc",
            with(rc("logs"), "/spec/template/metadata/labels", json!({"app": "logs"})),
            ["daemonsets \"logs\""],
        ),
    ] {
        let warnings = bench.make(kind, &manifest).await.warnings;
        let found = others.iter().all(|other| {
            let of_it = |w: &&String| w.contains(&format!("spec.selector: overlaps with that of {other}; each keeps"));
            warnings.iter().filter(of_it).count() == 1
        });
        assert!(found, "{manifest}: {warnings:?}");
    }
    // Another namespace is another matter.
    bench.make("ns", &json!({"metadata": {"name": "other"}})).await;
    let elsewhere = with(rc("web"), "/metadata/namespace", json!("other"));
    assert!(bench.make("rc", &elsewhere).await.warnings.is_empty());
}

#[tokio::test]
async fn a_dry_run_answers_and_stores_nothing() {
    let bench = Bench::new().await;
    let before = bench.store.keys();
    for (kind, manifest) in [
        ("rc", rc("web")),
        ("pod", bare("p")),
        ("ns", json!({"metadata": {"name": "a"}})),
    ] {
        let request = CreateRequest {
            dry_run: true,
            request_id: "r".into(),
            ..creating(kind, &manifest)
        };
        let shown = bench.create(request).await.expect("valid");
        assert_eq!((shown.uid.len(), shown.resource_version.as_str()), (36, ""), "{kind}");
        assert_eq!(bench.store.keys(), before);
    }
    let bad = CreateRequest {
        dry_run: true,
        ..creating("rc", &with(rc("x"), "/spec/replicas", json!(-1)))
    };
    assert_eq!(refused(bench.create(bad).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_repeat_returns_the_first_result() {
    let bench = Bench::new().await;
    let request = CreateRequest {
        request_id: "r-1".into(),
        ..creating("rc", &rc("web"))
    };
    // Concurrent duplicates decide on the same world; one commits, the other finds its record.
    let (a, b) = tokio::join!(bench.create(request.clone()), bench.create(request.clone()));
    let (a, b) = (a.expect("made"), b.expect("repeated"));
    assert_eq!(a, b);
    assert_eq!(bench.create(request.clone()).await.expect("repeated"), a);
    assert_eq!(bench.store.values("audit/").len(), 1);
    // Even in a namespace that takes nothing new, and when the object is gone.
    bench.delete(deleting("rc", "web")).await.expect("deleted");
    assert_eq!(bench.create(request.clone()).await.expect("repeated").uid, a.uid);
    assert_eq!(refused(bench.get("rc", "", "web").await).0, Code::NotFound);
    // The id belongs to that request and that caller.
    let other = CreateRequest {
        request_id: "r-1".into(),
        ..creating("rc", &rc("api"))
    };
    let message = "request_id r-1 belongs to another request; choose a new one for each request".to_owned();
    assert_eq!(
        refused(bench.create(other).await),
        (Code::InvalidArgument, message.clone())
    );
    let mut foreign = tonic::Request::new(request);
    foreign.extensions_mut().insert(As("user/other"));
    let refusal = bench.resources.create(foreign).await.map(|_| ());
    assert_eq!(refused(refusal), (Code::InvalidArgument, message));
}

#[tokio::test]
async fn without_a_request_id_the_second_of_two_is_refused() {
    let bench = Bench::new().await;
    let request = creating("rc", &rc("web"));
    let (a, b) = tokio::join!(bench.create(request.clone()), bench.create(request));
    assert!(a.is_ok());
    assert_eq!(refused(b).0, Code::AlreadyExists);
}

#[tokio::test]
async fn the_store_decides() {
    let bench = Bench::new().await;
    for (fault, code, words) in [
        (
            CommitError::Full("/d".into()),
            Code::ResourceExhausted,
            "the disk of the store is full: /d",
        ),
        (
            CommitError::Fenced { ours: 1, current: 2 },
            Code::Unavailable,
            "this coordinator is not the active one",
        ),
        (
            CommitError::Io("torn".into()),
            Code::Unavailable,
            "whether the change was made is unknown",
        ),
    ] {
        bench.store.fail(fault);
        let (is, message) = refused(bench.create(creating("rc", &rc("web"))).await);
        assert_eq!(is, code);
        assert!(message.contains(words), "{message}");
    }
    bench.hub.set_fence(None);
    let refusal = refused(bench.create(creating("rc", &rc("web"))).await);
    assert_eq!(
        refusal,
        (Code::Unavailable, "this coordinator is not the active one".to_owned())
    );
    // Who only looks is answered: where others share the store, a standby may.
    assert_eq!(refused(bench.get("rc", "", "web").await).0, Code::NotFound);
    assert!(bench.list(listing("rc", "", "")).await.is_ok());
}

#[tokio::test]
async fn attempts_end_when_others_are_always_faster() {
    let bench = Bench::with(
        Arc::new(AllowAll),
        Settings {
            attempts: 3,
            ..Settings::default()
        },
    )
    .await;
    bench.make("ns", &json!({"metadata": {"name": "a"}})).await;
    let at = keys::object(Kind::Namespace, "", "a");
    for i in 0..3 {
        let changed = json!({"metadata": {"name": "a", "uid": "u", "labels": {"i": i.to_string()}}, "status": {"phase": NamespacePhase::Active}});
        bench
            .store
            .rival(vec![Change::put(at.clone(), Expect::Any, changed.to_string())]);
    }
    let refusal = refused(bench.delete(deleting("ns", "a")).await);
    assert_eq!(
        refusal,
        (
            Code::Aborted,
            "namespaces \"a\": others keep changing it; try again".to_owned()
        )
    );
    bench.delete(deleting("ns", "a")).await.expect("no rival any more");
}

#[tokio::test]
async fn asking_for_host_ports_without_a_port_is_said_to_be_without_effect() {
    let bench = Bench::new().await;
    let manifest = with(
        rc("web"),
        "/spec/template/metadata/annotations",
        json!({"wharfinger.io/host-port": "auto"}),
    );
    assert_eq!(
        bench.make("rc", &manifest).await.warnings,
        [
            "spec.template.metadata.annotations.wharfinger.io/host-port: without effect, for no container has a \
          containerPort without hostPort"
        ]
    );
    let ports = json!([{"containerPort": 80}]);
    let manifest = with(manifest, "/spec/template/spec/containers/0/ports", ports);
    let manifest = with(manifest, "/metadata/name", json!("api"));
    let warnings = bench.make("rc", &manifest).await.warnings;
    assert!(warnings.iter().all(|w| !w.contains("host-port")), "{warnings:?}");
}
