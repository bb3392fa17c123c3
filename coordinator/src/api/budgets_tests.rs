//! Budgets at the service: their whole life, what two of them may not share, and what is said of scaling.

use std::time::Duration;

use futures::StreamExt;
use proto::{
    model::Phase,
    wire::{ScaleRequest, watch_event::Type},
};
use serde_json::{Value, json};
use tonic::Code;

use crate::{api::testing::*, world::record::OwnerRecord};

fn pdb(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec})
}

/// For pods with this app.
fn of(app: &str, min: Value) -> Value {
    json!({"minAvailable": min, "selector": {"matchLabels": {"app": app}}})
}

/// A controller `web` of two, with as many pods of it on node n1, Ready if so.
async fn web(bench: &Bench, ready: &[bool]) {
    bench.make("rc", &rc("web")).await;
    bench.node("n1", true).await;
    let uid = bench.get("rc", "", "web").await.expect("there").uid;
    for (i, ready) in ready.iter().enumerate() {
        let owner = OwnerRecord {
            name: "web".into(),
            uid: uid.clone(),
            ..OwnerRecord::default()
        };
        let name = format!("web-{i}");
        bench.pod(&name, "n1", Some(owner)).await;
        bench.status(&name, Phase::Running, *ready).await;
    }
}

async fn status(bench: &Bench, name: &str) -> Value {
    let shown = value(&bench.get("pdb", "", name).await.expect("there"));
    let status = &shown["status"];
    let counts = ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"];
    json!(counts.map(|field| status[field].clone()))
}

#[tokio::test]
async fn its_whole_life() {
    let bench = Bench::new().await;
    web(&bench, &[true, true]).await;
    let mut export = pdb("web", of("web", json!(1)));
    export["status"] = json!({"currentHealthy": 9, "disruptedPods": {}});
    let made = bench.make("pdb", &export).await;
    assert_eq!(made.warnings, ["no effect here, left out: status"]);
    assert_eq!(
        (made.kind.as_str(), made.api_version.as_str()),
        ("PodDisruptionBudget", "policy/v1")
    );
    let shown = value(&made);
    assert_eq!(
        (&shown["metadata"]["generation"], &shown["status"]["observedGeneration"]),
        (&json!(1), &json!(1))
    );
    let condition = &shown["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("DisruptionAllowed"), &json!("True"), &json!("SufficientPods"))
    );
    assert_eq!(status(&bench, "web").await, json!([2, 1, 2, 1]));
    assert_eq!(bench.store.values("obj/poddisruptionbudget/")[0].get("status"), None);

    let (code, words) = refused(bench.create(creating("pdb", &export)).await);
    assert_eq!(
        (code, words.as_str()),
        (Code::AlreadyExists, "poddisruptionbudgets \"web\" already exists")
    );
    let after = bench
        .replace(replacing(
            "pdb",
            &pdb("web", json!({"maxUnavailable": "50%", "selector": {}})),
        ))
        .await
        .expect("replaced");
    assert_eq!(value(&after)["metadata"]["generation"], 2);
    let patch = json!({"spec": {"maxUnavailable": null, "minAvailable": "100%"}, "metadata": {"labels": {"a": "b"}}});
    let after = value(&bench.patch(patching("pdb", "web", &patch)).await.expect("patched"));
    assert_eq!(after["spec"], json!({"minAvailable": "100%", "selector": {}}));
    assert_eq!(
        (
            &after["status"]["disruptionsAllowed"],
            &after["status"]["observedGeneration"]
        ),
        (&json!(0), &json!(3))
    );
    let listed = bench
        .list(listing("pdb", "a=b", "metadata.name=web"))
        .await
        .expect("listed");
    assert_eq!(listed.items.len(), 1);
    let (code, words) = refused(
        bench
            .patch(patching("pdb", "web", &json!({"spec": {"maxUnavailable": 1}})))
            .await,
    );
    assert_eq!(
        (code, words.as_str()),
        (
            Code::InvalidArgument,
            "poddisruptionbudget \"web\" is invalid: spec: has minAvailable and maxUnavailable; leave one out"
        )
    );
    let (code, words) = refused(
        bench
            .patch(patching("pdb", "web", &json!({"spec": {"selector": null}})))
            .await,
    );
    assert_eq!(code, Code::InvalidArgument);
    assert!(words.contains("spec.selector: required"), "{words}");

    bench.delete(deleting("pdb", "web")).await.expect("deleted");
    assert_eq!(refused(bench.get("pdb", "", "web").await).0, Code::NotFound);
    let audit = bench.store.values("audit/");
    let verbs: Vec<_> = audit
        .iter()
        .filter(|a| a["object"] == "poddisruptionbudgets/default/web")
        .map(|a| a["verb"].as_str().unwrap_or_default())
        .collect();
    for verb in ["create", "replace", "patch", "delete"] {
        assert!(verbs.contains(&verb), "{verbs:?}");
    }
}

#[tokio::test]
async fn a_pod_has_one_budget() {
    let bench = Bench::new().await;
    web(&bench, &[]).await;
    bench.make("pdb", &pdb("web", of("web", json!(1)))).await;
    let everything = pdb("all", json!({"maxUnavailable": 1, "selector": {}}));
    let words = "poddisruptionbudgets \"all\": spec.selector: takes in pods of replicationcontroller \"web\", as \
                 poddisruptionbudget \"web\" does; a pod has one budget: change one of the two selectors";
    let refusal = (Code::FailedPrecondition, words.to_owned());
    assert_eq!(refused(bench.create(creating("pdb", &everything)).await), refusal);
    let mut dry = creating("pdb", &everything);
    dry.dry_run = true;
    assert_eq!(refused(bench.create(dry).await), refusal);
    // Others may be selected.
    bench.make("pdb", &pdb("all", of("api", json!(0)))).await;
    assert_eq!(refused(bench.replace(replacing("pdb", &everything)).await), refusal);
    let patch = json!({"spec": {"selector": {"matchLabels": null}}});
    assert_eq!(refused(bench.patch(patching("pdb", "all", &patch)).await), refusal);
    // A pod without a controller is an example too.
    bench.delete(deleting("rc", "web")).await.expect("deleted");
    bench.pod("lone", "n1", None).await;
    let (_, words) = refused(bench.create(creating("pdb", &pdb("third", of("web", json!(0))))).await);
    assert!(
        words.contains("takes in pod \"lone\", as poddisruptionbudget \"web\" does"),
        "{words}"
    );
    // Labels may bring it about later; who writes the pods is told, and the budgets can still be changed.
    let (mut one, label) = (bare("one"), json!("api"));
    one["metadata"]["labels"] = json!({"app": "web", "tier": "api"});
    bench
        .make(
            "pdb",
            &pdb(
                "tier",
                json!({"minAvailable": 0, "selector": {"matchLabels": {"tier": "api"}}}),
            ),
        )
        .await;
    assert_eq!(
        bench.make("pod", &one).await.warnings,
        [
            "metadata.labels: poddisruptionbudgets \"tier\" and \"web\" both select such pods; none of them can be \
             drained until one of the selectors is changed"
        ]
    );
    let patch = json!({"spec": {"minAvailable": 1}, "metadata": {"labels": {"x": label}}});
    bench
        .patch(patching("pdb", "tier", &patch))
        .await
        .expect("its selector stays");
    // So is a daemon set, before it has a pod.
    let set = json!({"metadata": {"name": "logs"}, "apiVersion": "apps/v1", "spec": {
        "selector": {"matchLabels": {"app": "logs"}},
        "template": {"metadata": {"labels": {"app": "logs"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
    bench.make("ds", &set).await;
    bench.make("pdb", &pdb("logs", of("logs", json!(0)))).await;
    let (_, words) = refused(bench.create(creating("pdb", &pdb("more", of("logs", json!(1))))).await);
    assert!(
        words.contains("takes in pods of daemonset \"logs\", as poddisruptionbudget \"logs\" does"),
        "{words}"
    );
    // In another namespace it selects others.
    bench.make("ns", &json!({"metadata": {"name": "other"}})).await;
    let mut elsewhere = everything.clone();
    elsewhere["metadata"]["namespace"] = json!("other");
    bench.make("pdb", &elsewhere).await;
}

#[tokio::test]
async fn of_two_that_would_share_a_pod_written_at_once_one_is_refused() {
    let bench = Bench::new().await;
    web(&bench, &[true]).await;
    for round in 0..20 {
        let name = |i: u32| format!("b{round}-{i}");
        let [a, b] = [1, 2].map(|i| creating("pdb", &pdb(&name(i), of("web", json!(1)))));
        let (a, b) = tokio::join!(bench.create(a), bench.create(b));
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        let made = a.or(b).expect("one").name;
        bench.delete(deleting("pdb", &made)).await.expect("deleted");
    }
}

#[tokio::test]
async fn a_watch_tells_what_its_pods_do_to_it() {
    let bench = Bench::new().await;
    web(&bench, &[true, false]).await;
    bench.make("pdb", &pdb("web", of("web", json!(1)))).await;
    bench.make("pdb", &pdb("other", of("other", json!(1)))).await;
    let mut watch = bench.watch(listing("pdb", "", "")).await.expect("watching");
    let mut next = async || {
        let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        let event = event.expect("in time").expect("goes on").expect("an event");
        let object = event.object.clone().unwrap_or_default();
        let allowed = if object.json.is_empty() {
            Value::Null
        } else {
            value(&object)["status"]["disruptionsAllowed"].clone()
        };
        (event.r#type(), object.name, allowed, event.resource_version)
    };
    for _ in 0..2 {
        assert_eq!(next().await.0, Type::Added);
    }
    assert_eq!(next().await.0, Type::Bookmark);
    let changed = |n: i32| (Type::Modified, "web".to_owned(), json!(n));
    let mut told = async |expected| {
        let (kind, name, allowed, version) = next().await;
        assert_eq!((kind, name, allowed), expected);
        version
    };
    bench.status("web-1", Phase::Running, true).await;
    told(changed(1)).await;
    bench.node("n1", false).await;
    told(changed(0)).await;
    bench.node("n1", true).await;
    told(changed(1)).await;
    bench
        .change_pod("web-0", |r| {
            r.labels.insert("app".into(), Some("other".into()));
        })
        .await;
    let mut seen = [next().await, next().await].map(|(_, name, allowed, _)| (name, allowed));
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(seen, [("other".into(), json!(0)), ("web".into(), json!(0))]);
    let scale = ScaleRequest {
        kind: "rc".into(),
        name: "web".into(),
        replicas: 1,
        ..ScaleRequest::default()
    };
    bench.scale(scale).await.expect("scaled");
    let (_, _, _, version) = next().await;
    // A watch that begins again with a version is told what was missed since.
    bench.status("web-1", Phase::Running, false).await;
    let again = proto::wire::ListRequest {
        resource_version: version,
        ..listing("pdb", "", "metadata.name=web")
    };
    let mut watch = bench.watch(again).await.expect("watching");
    let event = watch.next().await.expect("an event").expect("an event");
    assert_eq!(
        value(&event.object.clone().unwrap_or_default())["status"]["currentHealthy"],
        0
    );
}

#[tokio::test]
async fn scaling_down_is_done_and_what_it_undercuts_is_said() {
    let bench = Bench::new().await;
    web(&bench, &[true, true]).await;
    bench.make("pdb", &pdb("web", of("web", json!(2)))).await;
    let scale = |replicas| ScaleRequest {
        kind: "rc".into(),
        name: "web".into(),
        replicas,
        ..ScaleRequest::default()
    };
    let said = |n: i32| {
        format!(
            "spec.replicas: poddisruptionbudget \"web\" asks for 2 available pods, and {n} are left; scaling is not held \
             back by it, draining is"
        )
    };
    let mut dry = scale(0);
    dry.dry_run = true;
    assert_eq!(bench.scale(dry).await.expect("valid").warnings, [said(0)]);
    assert_eq!(bench.scale(scale(3)).await.expect("scaled").warnings, [""; 0]);
    assert_eq!(bench.scale(scale(2)).await.expect("scaled").warnings, [""; 0]);
    assert_eq!(bench.scale(scale(1)).await.expect("scaled").warnings, [said(1)]);
    let replicas = |n: i32| json!({"spec": {"replicas": n}});
    bench.patch(patching("rc", "web", &replicas(2))).await.expect("patched");
    let after = bench.patch(patching("rc", "web", &replicas(1))).await.expect("patched");
    assert_eq!(after.warnings, [said(1)]);
    bench.patch(patching("rc", "web", &replicas(2))).await.expect("patched");
    let mut manifest = rc("web");
    manifest["spec"]["replicas"] = json!(0);
    assert_eq!(
        bench
            .replace(replacing("rc", &manifest))
            .await
            .expect("replaced")
            .warnings,
        [said(0)]
    );
    // A share is of what is desired then.
    bench.patch(patching("rc", "web", &replicas(2))).await.expect("patched");
    let share = json!({"spec": {"minAvailable": "50%"}});
    bench.patch(patching("pdb", "web", &share)).await.expect("patched");
    assert_eq!(bench.scale(scale(1)).await.expect("scaled").warnings, [""; 0]);
}

#[tokio::test]
async fn who_asks_for_more_than_there_are_to_be_is_told() {
    let bench = Bench::new().await;
    web(&bench, &[true, true]).await;
    let made = bench.make("pdb", &pdb("web", of("web", json!(3)))).await;
    assert_eq!(
        made.warnings,
        ["spec.minAvailable: 3 pods must be available and 2 are to be there; none of them can be drained"]
    );
    let after = bench
        .patch(patching("pdb", "web", &json!({"spec": {"minAvailable": 2}})))
        .await;
    assert_eq!(after.expect("patched").warnings, [""; 0]);
    // Before the first pod there is nothing to compare with.
    let made = bench.make("pdb", &pdb("early", of("early", json!(3)))).await;
    assert_eq!(made.warnings, [""; 0]);
}
