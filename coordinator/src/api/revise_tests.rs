//! A replace by what is shown, for any world; any sequence of writes against a simple model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::{
    model::{Node, PodTemplate, ReplicationController, Time, validate},
    wire::ScaleRequest,
};
use serde_json::json;
use tonic::Code;

use super::*;
use crate::{
    api::{patch::Patch, replace::Replace, testing::*},
    store::{Rv, Update},
    world::record::{FactsRecord, OwnerRecord, StatusRecord, StopRecord, TemplateRecord},
};

fn marks() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop_oneof![Just("app"), Just("tier"), Just("wharfinger.io/x"), Just("note")];
    prop::collection::btree_map(key.prop_map(str::to_owned), "[a-z]{0,2}", 0..4)
}

fn changed() -> impl Strategy<Value = BTreeMap<String, Option<String>>> {
    let key = prop_oneof![Just("app"), Just("tier"), Just("note")];
    prop::collection::btree_map(key.prop_map(str::to_owned), prop::option::of("[a-z]{1,2}"), 0..3)
}

/// A template as the api stores it: defaulted.
fn template() -> impl Strategy<Value = PodTemplate> {
    let container = (any::<bool>(), any::<bool>(), any::<bool>(), 0..3_u8).prop_map(|(env, port, limit, pull)| {
        let mut c = json!({"image": "i:1"});
        if env {
            c["env"] = json!([{"name": "A", "value": "1"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        }
        if port {
            c["ports"] = json!([{"containerPort": 80}]);
            c["terminationMessagePath"] = json!("/dev/termination-log");
        }
        if limit {
            c["resources"] = json!({"limits": {"cpu": "1500m", "memory": "64Mi"}});
            c["securityContext"] = json!({"allowPrivilegeEscalation": false});
        }
        match pull {
            0 => c["imagePullPolicy"] = json!("Always"),
            1 => c["imagePullPolicy"] = json!("IfNotPresent"),
            _ => {}
        }
        c
    });
    (
        marks(),
        marks(),
        prop::collection::vec(container, 1..3),
        0..3_u8,
        any::<bool>(),
    )
        .prop_map(|(labels, annotations, mut containers, grace, node)| {
            for (i, c) in containers.iter_mut().enumerate() {
                c["name"] = json!(format!("c{i}"));
            }
            let mut labels = labels;
            labels.insert("app".into(), "web".into());
            let mut spec = json!({"containers": containers});
            if grace > 0 {
                spec["terminationGracePeriodSeconds"] = json!(grace * 15);
            }
            if node {
                spec["nodeName"] = json!("n1");
            }
            let template = json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec});
            serde_json::from_value(template).expect("a template")
        })
}

#[derive(Clone, Debug)]
struct Case {
    template: PodTemplate,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    label_changes: BTreeMap<String, Option<String>>,
    annotation_changes: BTreeMap<String, Option<String>>,
    replicas: i32,
    flags: [bool; 6],
}

fn case() -> impl Strategy<Value = Case> {
    (
        template(),
        marks(),
        marks(),
        changed(),
        changed(),
        0..9_i32,
        any::<[bool; 6]>(),
    )
        .prop_map(
            |(template, labels, annotations, label_changes, annotation_changes, replicas, flags)| Case {
                template,
                labels,
                annotations,
                label_changes,
                annotation_changes,
                replicas,
                flags,
            },
        )
}

/// One object of each kind, with what others write of it.
fn world(case: &Case) -> World {
    let [placed, owned, marked, reported, hostname, unschedulable] = case.flags;
    let meta = |name: &str, namespace: &str| ObjectMeta {
        name: name.into(),
        namespace: namespace.into(),
        uid: format!("uid-{name}"),
        creation_timestamp: Some(Time(1000)),
        labels: case.labels.clone(),
        annotations: case.annotations.clone(),
        ..ObjectMeta::default()
    };
    let mut rc = Object::ReplicationController(ReplicationController {
        metadata: ObjectMeta {
            generation: Some(3),
            deletion_timestamp: marked.then_some(Time(2000)),
            finalizers: if marked { vec!["orphan".into()] } else { Vec::new() },
            ..meta("web", "default")
        },
        spec: proto::model::RcSpec {
            replicas: case.replicas,
            template: case.template.clone(),
            ..proto::model::RcSpec::default()
        },
        status: None,
    });
    validate::default(&mut rc);
    let mut pod = Object::Pod(Pod {
        spec: case.template.spec.clone(),
        ..Pod::default()
    });
    validate::default(&mut pod);
    let (Object::ReplicationController(rc), Object::Pod(pod)) = (rc, pod) else {
        unreachable!("made above");
    };
    let (hash, stored) = TemplateRecord::of(&case.template.metadata, &pod.spec).encode();
    let record = PodRecord {
        uid: "uid-p".into(),
        template: hash.clone(),
        created: Time(1500),
        node: if placed { "n1".into() } else { String::new() },
        owner: owned.then(|| OwnerRecord {
            name: "web".into(),
            uid: "uid-web".into(),
            ..OwnerRecord::default()
        }),
        labels: case.label_changes.clone(),
        annotations: case.annotation_changes.clone(),
        stop: marked.then(|| StopRecord {
            at: Time(1700),
            grace: 7,
            reason: "deleted".into(),
            lost: false,
            drain: None,
        }),
        ports: Vec::new(),
        waiting: "no node has joined".into(),
        ..PodRecord::default()
    };
    let mut node = Node {
        metadata: meta("n1", ""),
        ..Node::default()
    };
    // As an earlier release wrote it.
    node.spec.unschedulable = unschedulable && hostname;
    if hostname {
        node.metadata.labels = labels::own("n1", "amd64", "linux");
    }
    let status = json!({"phase": "Running", "containerStatuses": [{"name": "c0", "ready": true, "restartCount": 2,
        "image": "i:1", "state": {"running": {"startedAt": "2026-01-31T12:00:00Z"}}}]});
    let status = StatusRecord {
        uid: "uid-p".into(),
        status: serde_json::from_value(status).expect("a status"),
        ..StatusRecord::default()
    };
    let facts = json!({"capacity": {"cpu": "4"}, "allocatable": {"cpu": "3900m"}, "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]});
    let facts = FactsRecord {
        status: serde_json::from_value(facts).expect("facts"),
        ..FactsRecord::default()
    };
    let mut namespace = json!({"metadata": meta("default", "")});
    if marked {
        namespace["status"] = json!({"phase": "Terminating"});
    }
    let mut entries = vec![
        (keys::template(&hash), stored),
        (keys::object(Kind::Namespace, "", "default"), encode(&namespace)),
        (keys::object(Kind::Node, "", "n1"), encode(&node)),
        (keys::object(Kind::ReplicationController, "default", "web"), encode(&rc)),
        (keys::object(Kind::Pod, "default", "p"), encode(&record)),
    ];
    if unschedulable && !hostname {
        let hold = json!({"kind": "cordon", "owner": "user/bob", "since": "2026-01-31T12:00:00Z"});
        entries.push((keys::holds("n1"), encode(&json!({"cordon/user/bob": hold}))));
    }
    if reported {
        entries.push((keys::pod_status("default", "p"), encode(&status)));
        entries.push((keys::node_facts("n1"), encode(&facts)));
    }
    let mut world = World::default();
    for (i, (key, value)) in (1..).zip(entries) {
        let update = Update {
            rv: Rv::new(i, 0),
            key,
            value: Some(value.into()),
        };
        world.apply(&update).expect("reads");
    }
    world
}

const OBJECTS: [(Kind, &str, &str); 4] = [
    (Kind::Namespace, "", "default"),
    (Kind::Node, "", "n1"),
    (Kind::ReplicationController, "default", "web"),
    (Kind::Pod, "default", "p"),
];

proptest! {
    #[test]
    fn what_is_shown_replaces_itself_without_a_change(case in case()) {
        let world = world(&case);
        for (kind, namespace, name) in OBJECTS {
            let shown = world.object(kind, namespace, name).expect("there");
            let mut value = shown.to_json();
            let json = value.to_string().into_bytes();
            let names = create::subject(kind, "", &json);
            let replace = Replace::new(kind, &names, &json).expect("reads");
            let decision = replace.decide(&world, "user/admin", Time(0)).expect("valid");
            prop_assert!(decision.changes.is_empty(), "{}", decision.detail);
            prop_assert_eq!(&decision.object, &shown);
            value.as_object_mut().expect("a map").shift_remove("status");
            for patch in [value, json!({})] {
                let patch = Patch::new(kind, namespace, name, patch.to_string().as_bytes()).expect("reads");
                // A patch that names the field is the caller's word; its owner's changes nothing.
                let owner = world.nodes["n1"].held().map_or("user/admin", |h| &h.owner);
                let decision = patch.decide(&world, owner, Time(0)).expect("valid");
                prop_assert!(decision.changes.is_empty(), "{}", decision.detail);
            }
        }
    }

    /// Whatever the labels and annotations become, they are what is shown, and all else is what it was.
    #[test]
    fn labels_and_annotations_become_what_is_asked(case in case(), labels in marks(), annotations in marks()) {
        let world = world(&case);
        for (kind, namespace, name) in OBJECTS {
            let shown = world.object(kind, namespace, name).expect("there");
            let mut wanted = shown.clone();
            wanted.meta_mut().labels.clone_from(&labels);
            wanted.meta_mut().annotations.clone_from(&annotations);
            let own = shown.meta().labels.iter().filter(|(k, _)| labels::OWN.contains(&k.as_str()));
            wanted.meta_mut().labels.extend(own.map(|(k, v)| (k.clone(), v.clone())));
            validate::default(&mut wanted);
            let revision = Revision { caller: "user/admin", now: Time(0), missing: Missing::Kept, cordon: None };
            let decision = revise(&world, &shown, wanted.clone(), revision).expect("valid");
            let mut after = world.clone();
            for change in &decision.changes {
                let Expect::At(rv) = change.expect else { panic!("without expectation") };
                prop_assert!(rv > Rv(0));
                let update = Update { rv: Rv::new(99, 0), key: change.key.clone(), value: change.value.clone() };
                after.apply(&update).expect("reads");
            }
            let mut read = after.object(kind, namespace, name).expect("there");
            prop_assert_eq!(read == shown, decision.changes.is_empty());
            read.meta_mut().resource_version.clone_from(&shown.meta().resource_version);
            prop_assert_eq!(&read, &decision.object, "what is answered is what is stored");
            prop_assert_eq!(&read.meta().labels, &wanted.meta().labels);
            prop_assert_eq!(&read.meta().annotations, &wanted.meta().annotations);
            let mut same = read.clone();
            same.meta_mut().labels.clone_from(&shown.meta().labels);
            same.meta_mut().annotations.clone_from(&shown.meta().annotations);
            prop_assert_eq!(without_status(&same), without_status(&shown));
        }
    }
}

/// A controller's own is derived from its template's labels.
fn without_status(object: &Object) -> Value {
    let mut value = object.to_json();
    if object.kind() == Kind::ReplicationController {
        value.as_object_mut().expect("a map").shift_remove("status");
    }
    value
}

#[derive(Clone, Debug)]
enum Op {
    Scale(i32),
    PatchReplicas(i32),
    Label(String, Option<String>),
    Annotate(String, Option<String>),
    Replace(i32, BTreeMap<String, String>),
    Image(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let pair = || ("[ab]", prop::option::of("[xy]"));
    prop_oneof![
        (-1..4_i32).prop_map(Op::Scale),
        (-1..4_i32).prop_map(Op::PatchReplicas),
        pair().prop_map(|(k, v)| Op::Label(k, v)),
        pair().prop_map(|(k, v)| Op::Annotate(k, v)),
        (-1..4_i32, prop::collection::btree_map("[ab]", "[xy]", 0..3)).prop_map(|(n, l)| Op::Replace(n, l)),
        (1..3_u8).prop_map(Op::Image),
    ]
}

/// What the controller should be.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    replicas: i32,
    image: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn set(map: &mut BTreeMap<String, String>, key: &str, value: Option<&String>) {
    match value {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

impl Model {
    fn manifest(&self) -> Value {
        let mut rc = with(rc("web"), "/spec/replicas", json!(self.replicas));
        rc["metadata"]["labels"] = json!(self.labels);
        rc["metadata"]["annotations"] = json!(self.annotations);
        rc["spec"]["template"]["spec"]["containers"][0]["image"] = json!(self.image);
        rc
    }

    /// After the op; `None`: it is refused.
    fn after(&self, op: &Op) -> Option<Self> {
        let mut next = self.clone();
        match op {
            Op::Scale(n) | Op::PatchReplicas(n) => next.replicas = *n,
            Op::Label(key, value) => set(&mut next.labels, key, value.as_ref()),
            Op::Annotate(key, value) => set(&mut next.annotations, key, value.as_ref()),
            Op::Replace(n, labels) => {
                next.replicas = *n;
                next.labels.clone_from(labels);
                next.annotations.clear();
            }
            Op::Image(n) => next.image = format!("web:{n}"),
        }
        if next.labels.is_empty() {
            next.labels.insert("app".into(), "web".into());
        }
        (next.replicas >= 0).then_some(next)
    }
}

async fn perform(bench: &Bench, op: &Op, model: &Model) -> Result<(), tonic::Status> {
    let patch = |patch: Value| bench.patch(patching("rc", "web", &patch));
    let manifest = |model: &Model| bench.replace(replacing("rc", &model.manifest()));
    match op {
        Op::Scale(n) => {
            let request = ScaleRequest {
                kind: "rc".into(),
                name: "web".into(),
                replicas: *n,
                ..ScaleRequest::default()
            };
            bench.scale(request).await.map(|_| ())
        }
        Op::PatchReplicas(n) => patch(json!({"spec": {"replicas": n}})).await.map(|_| ()),
        Op::Label(key, value) => patch(json!({"metadata": {"labels": {key: value}}})).await.map(|_| ()),
        Op::Annotate(key, value) => patch(json!({"metadata": {"annotations": {key: value}}}))
            .await
            .map(|_| ()),
        Op::Replace(n, labels) => {
            let wanted = Model {
                replicas: *n,
                labels: labels.clone(),
                annotations: BTreeMap::new(),
                ..model.clone()
            };
            manifest(&wanted).await.map(|_| ())
        }
        Op::Image(n) => {
            let wanted = Model {
                image: format!("web:{n}"),
                ..model.clone()
            };
            manifest(&wanted).await.map(|_| ())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_writes_does_what_a_simple_model_says(ops in prop::collection::vec(op(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let bench = Bench::new().await;
            bench.make("rc", &rc("web")).await;
            let mut model = Model {
                replicas: 2,
                image: "web:1".into(),
                labels: [("app".to_owned(), "web".to_owned())].into(),
                annotations: BTreeMap::new(),
            };
            let mut generation = 1;
            for op in &ops {
                let before = bench.get("rc", "", "web").await.expect("there");
                let done = perform(&bench, op, &model).await;
                let after = bench.get("rc", "", "web").await.expect("there");
                let Some(next) = model.after(op) else {
                    prop_assert_eq!(done.map_err(|s| s.code()), Err(Code::InvalidArgument));
                    prop_assert_eq!(after, before);
                    continue;
                };
                prop_assert!(done.is_ok(), "{op:?}: {done:?}");
                prop_assert_eq!(after.resource_version != before.resource_version, next != model, "{:?}", op);
                let respecified = (next.replicas, &next.image) != (model.replicas, &model.image);
                generation += i64::from(respecified);
                model = next;
                let shown = value(&after);
                prop_assert_eq!(&shown["metadata"]["labels"], &json!(model.labels));
                let none = json!({});
                prop_assert_eq!(shown["metadata"].get("annotations").unwrap_or(&none), &json!(model.annotations));
                prop_assert_eq!(&shown["spec"]["replicas"], &json!(model.replicas));
                prop_assert_eq!(&shown["spec"]["template"]["spec"]["containers"][0]["image"], &json!(model.image));
                prop_assert_eq!(&shown["metadata"]["generation"], &json!(generation));
            }
            Ok(())
        })?;
    }
}
