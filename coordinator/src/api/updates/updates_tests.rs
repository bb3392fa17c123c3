//! The service over a store in memory: what an update that begins makes, what is refused, and what steers it.

use std::sync::Arc;

use futures::StreamExt;
use proto::wire::{self, BeginUpdateReply, updates_server::Updates};
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

use super::*;
use crate::{
    api::testing::*,
    store::{Change, Expect, keys},
    world::{
        record::encode,
        updates::{StepRecord, UpdateRecord},
    },
};

fn service(bench: &Bench) -> UpdateService {
    UpdateService(Arc::clone(&bench.api))
}

/// `web` with two replicas, and a pod of it.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench.make("rc", &with(rc("web"), "/spec/replicas", json!(2))).await;
    let uid = uid(&bench, "web");
    let owner = crate::world::record::OwnerRecord {
        name: "web".into(),
        uid,
        ..crate::world::record::OwnerRecord::default()
    };
    bench.pod("web-1", "n1", Some(owner)).await;
    bench
}

fn uid(bench: &Bench, name: &str) -> String {
    let key = ("default".to_owned(), name.to_owned());
    bench.hub.read(|w| w.controllers[&key].rc.metadata.uid.clone())
}

fn by_file(file: &Value) -> BeginUpdateRequest {
    BeginUpdateRequest {
        name: "web".into(),
        controller: file.to_string().into_bytes(),
        ..BeginUpdateRequest::default()
    }
}

fn by_image(image: &str) -> BeginUpdateRequest {
    BeginUpdateRequest {
        name: "web".into(),
        image: image.into(),
        ..BeginUpdateRequest::default()
    }
}

/// `web-v2`, told apart by a version.
fn second() -> Value {
    let mut next = rc("web-v2");
    for at in ["/spec/selector", "/spec/template/metadata/labels"] {
        if let Some(labels) = next.pointer_mut(at) {
            labels["version"] = json!("2");
        }
    }
    if next["spec"]["selector"].is_null() {
        next["spec"]["selector"] = next["spec"]["template"]["metadata"]["labels"].clone();
    }
    next["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2");
    next
}

async fn begin(bench: &Bench, request: BeginUpdateRequest) -> Result<BeginUpdateReply, Status> {
    service(bench)
        .begin(Request::new(request))
        .await
        .map(tonic::Response::into_inner)
}

async fn steer(bench: &Bench, name: &str, action: &str) -> Result<wire::SteerUpdateReply, Status> {
    let request = SteerUpdateRequest {
        name: name.into(),
        action: action.into(),
        ..SteerUpdateRequest::default()
    };
    service(bench)
        .steer(Request::new(request))
        .await
        .map(tonic::Response::into_inner)
}

fn scaling(name: &str, replicas: i32) -> wire::ScaleRequest {
    wire::ScaleRequest {
        kind: "rc".into(),
        name: name.into(),
        replicas,
        ..wire::ScaleRequest::default()
    }
}

fn record(bench: &Bench) -> UpdateRecord {
    let key = ("default".to_owned(), "web".to_owned());
    bench.hub.read(|w| (*w.updates[&key].value).clone())
}

fn says(result: Result<impl std::fmt::Debug, Status>, code: Code, words: &str) {
    let (is, said) = refused(result);
    assert!(is == code && said.contains(words), "{is:?}: {said}");
}

#[tokio::test]
async fn a_file_makes_the_new_controller_with_no_pod_and_the_update_in_one_commit() {
    let bench = bench().await;
    let reply = begin(&bench, by_file(&with(second(), "/spec/replicas", json!(5))))
        .await
        .unwrap();
    assert!(reply.began);
    assert_eq!(reply.warnings.len(), 1, "{:?}", reply.warnings);
    assert!(
        reply.warnings[0].contains("5 in the file is not taken, web has 2"),
        "{:?}",
        reply.warnings
    );
    let view = reply.view.unwrap();
    assert_eq!(
        (view.old.as_str(), view.new.as_str(), view.target, view.renames),
        ("web", "web-v2", 2, false)
    );
    let made = value(&bench.get("rc", "default", "web-v2").await.unwrap());
    assert_eq!(made["spec"]["replicas"], 0);
    let (a, b) = (record(&bench), bench.store.values("update/"));
    assert_eq!((a.from, a.target, b.len()), (2, 2, 1));
    let audit = bench.store.values("audit/");
    assert!(audit.iter().any(|a| a["verb"] == "rolling-update"), "{audit:?}");
    // The same once more is that one; its limits may be others.
    let again = begin(&bench, by_file(&second())).await.unwrap();
    assert!(!again.began && again.view.is_some());
    let mut more = by_file(&second());
    more.limits = Some(wire::UpdateLimits {
        max_unavailable: "1".into(),
        ..wire::UpdateLimits::default()
    });
    assert!(!begin(&bench, more).await.unwrap().began);
    assert_eq!(record(&bench).missed(), 1);
    let other = with(second(), "/spec/template/spec/containers/0/image", json!("web:3"));
    says(
        begin(&bench, by_file(&other)).await,
        Code::FailedPrecondition,
        "another update of it is in progress, to web-v2 (web:2)",
    );
}

#[tokio::test]
async fn its_own_count_is_taken_where_asked_for() {
    let bench = bench().await;
    let mut request = by_file(&with(second(), "/spec/replicas", json!(5)));
    request.own_replicas = true;
    assert_eq!(begin(&bench, request).await.unwrap().view.unwrap().target, 5);
}

#[tokio::test]
async fn files_that_break_a_rule_are_refused_by_its_name() {
    let bench = bench().await;
    let same = with(second(), "/metadata/name", json!("web"));
    says(
        begin(&bench, by_file(&same)).await,
        Code::InvalidArgument,
        "metadata.name: is the name of the controller that is replaced",
    );
    let elsewhere = with(second(), "/metadata/namespace", json!("other"));
    says(
        begin(&bench, by_file(&elsewhere)).await,
        Code::InvalidArgument,
        "metadata.namespace",
    );
    let mut equal = rc("web-v2");
    let web = value(&bench.get("rc", "default", "web").await.unwrap());
    equal["spec"]["selector"] = web["spec"]["selector"].clone();
    equal["spec"]["template"]["metadata"]["labels"] = web["spec"]["selector"].clone();
    says(
        begin(&bench, by_file(&equal)).await,
        Code::InvalidArgument,
        "spec.selector: is that of web",
    );
    let mut none = by_file(&second());
    none.name = "nothing".into();
    says(
        begin(&bench, none).await,
        Code::NotFound,
        "replicationcontrollers \"nothing\" not found",
    );
    says(
        begin(
            &bench,
            BeginUpdateRequest {
                name: "web".into(),
                ..BeginUpdateRequest::default()
            },
        )
        .await,
        Code::InvalidArgument,
        "give the new controller or an image",
    );
    let mut both = by_file(&second());
    both.image = "x".into();
    says(begin(&bench, both).await, Code::InvalidArgument, "not both");
    // One that is there with another spec.
    bench
        .make(
            "rc",
            &with(second(), "/spec/template/spec/containers/0/image", json!("else")),
        )
        .await;
    says(
        begin(&bench, by_file(&second())).await,
        Code::FailedPrecondition,
        "exists already with another spec",
    );
    assert!(bench.store.values("update/").is_empty());
}

#[tokio::test]
async fn an_image_labels_the_old_ones_and_restarts_none() {
    let bench = bench().await;
    let template = |bench: &Bench| {
        let key = ("default".to_owned(), "web-1".to_owned());
        bench.hub.read(|w| w.pods[&key].record.template.clone())
    };
    let before = template(&bench);
    let reply = begin(&bench, by_image("web:2")).await.unwrap();
    let view = reply.view.unwrap();
    let hash = view.new.strip_prefix("web-").unwrap();
    assert_eq!(hash.len(), 32);
    assert!(hash.bytes().all(|b| b.is_ascii_hexdigit()) && view.renames);
    let new = value(&bench.get("rc", "default", &view.new).await.unwrap());
    assert_eq!(new["spec"]["selector"]["deployment"], hash);
    assert_eq!(new["spec"]["template"]["metadata"]["labels"]["deployment"], hash);
    assert_eq!(new["spec"]["template"]["spec"]["containers"][0]["image"], "web:2");
    let old = value(&bench.get("rc", "default", "web").await.unwrap());
    let label = old["spec"]["selector"]["deployment"].as_str().unwrap().to_owned();
    assert_ne!(label, hash);
    let pod = value(&bench.get("pod", "default", "web-1").await.unwrap());
    assert_eq!(pod["metadata"]["labels"]["deployment"], label);
    assert_eq!(template(&bench), before, "it runs on");
    // The same image is that update; another one is not.
    assert!(!begin(&bench, by_image("web:2")).await.unwrap().began);
    says(
        begin(&bench, by_image("web:3")).await,
        Code::FailedPrecondition,
        "another update of it is in progress",
    );
    let mut of_new = by_image("web:4");
    of_new.name.clone_from(&view.new);
    says(
        begin(&bench, of_new).await,
        Code::FailedPrecondition,
        "it replaces web just now",
    );
}

#[tokio::test]
async fn images_that_change_nothing_and_containers_that_are_not_there_are_refused() {
    let bench = bench().await;
    let image =
        value(&bench.get("rc", "default", "web").await.unwrap())["spec"]["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned();
    says(
        begin(&bench, by_image(&image)).await,
        Code::InvalidArgument,
        "--image-pull-policy",
    );
    let mut once_more = by_image(&image);
    once_more.image_pull_policy = "Always".into();
    once_more.dry_run = true;
    assert!(begin(&bench, once_more.clone()).await.unwrap().began);
    once_more.image_pull_policy = "Sometimes".into();
    says(
        begin(&bench, once_more).await,
        Code::InvalidArgument,
        "image_pull_policy: must be Always",
    );
    let mut container = by_image("web:2");
    container.container = "db".into();
    says(
        begin(&bench, container).await,
        Code::InvalidArgument,
        "there is no container \"db\"",
    );
    let mut key = by_image("web:2");
    key.label_key = "a b".into();
    says(begin(&bench, key).await, Code::InvalidArgument, "label_key");
    let mut named = by_image("web:2");
    named.new_name = "web".into();
    says(begin(&bench, named).await, Code::InvalidArgument, "a name of its own");
    let mut named = by_image("web:2");
    named.new_name = "web-next".into();
    named.dry_run = true;
    let reply = begin(&bench, named).await.unwrap();
    let new: Value = serde_json::from_slice(&reply.new).unwrap();
    assert_eq!(new["metadata"]["name"], "web-next");
    assert!(bench.store.values("update/").is_empty(), "dry runs change nothing");
}

#[tokio::test]
async fn many_pods_are_labelled_before_it_begins() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench.make("rc", &with(rc("web"), "/spec/replicas", json!(70))).await;
    let owner = crate::world::record::OwnerRecord {
        name: "web".into(),
        uid: uid(&bench, "web"),
        ..crate::world::record::OwnerRecord::default()
    };
    for n in 0..70 {
        bench.pod(&format!("web-{n}"), "n1", Some(owner.clone())).await;
    }
    begin(&bench, by_image("web:2")).await.unwrap();
    let key = ("default".to_owned(), "web".to_owned());
    let unlabelled = bench.hub.read(|w| {
        let selector = w.controllers[&key].rc.spec.selector.clone();
        let pods = w.pods_of(&owner.uid);
        pods.filter(|(_, p)| p.label("deployment") != selector.get("deployment").map(String::as_str))
            .count()
    });
    assert_eq!(unlabelled, 0);
}

#[tokio::test]
async fn it_is_paused_resumed_and_turned_back_by_either_name() {
    let bench = bench().await;
    says(
        steer(&bench, "web", "rollback").await,
        Code::NotFound,
        "no update of web in progress",
    );
    says(
        steer(&bench, "nothing", "pause").await,
        Code::NotFound,
        "\"nothing\" not found",
    );
    begin(&bench, by_file(&second())).await.unwrap();
    says(
        steer(&bench, "web", "stop").await,
        Code::InvalidArgument,
        "must be pause, resume or rollback",
    );
    let paused = steer(&bench, "web-v2", "pause").await.unwrap();
    assert!(paused.changed);
    let view = paused.view.unwrap();
    assert!(
        view.paused && !view.failed && view.phase == "Paused" && view.why[0].starts_with("paused by admin"),
        "{view:?}"
    );
    assert!(!steer(&bench, "web", "pause").await.unwrap().changed);
    assert!(steer(&bench, "web", "resume").await.unwrap().changed);
    assert!(!steer(&bench, "web", "resume").await.unwrap().changed);
    let back = steer(&bench, "web", "rollback").await.unwrap();
    assert!(back.changed && record(&bench).back);
    assert!(!steer(&bench, "web", "rollback").await.unwrap().changed);
    says(
        begin(&bench, by_file(&second())).await,
        Code::FailedPrecondition,
        "is being rolled back",
    );
}

#[tokio::test]
async fn scaling_either_side_sets_the_count_of_the_end() {
    let bench = bench().await;
    begin(&bench, by_file(&second())).await.unwrap();
    for (name, count, before) in [("web", 4, 2), ("web-v2", 6, 4)] {
        let request = wire::ScaleRequest {
            current_replicas: Some(before),
            ..scaling(name, count)
        };
        let reply = bench.scale(request).await.unwrap();
        assert_eq!((reply.previous_replicas, reply.replicas), (before, count));
        assert!(
            reply.warnings[0].contains("the update ends with"),
            "{:?}",
            reply.warnings
        );
        let record = record(&bench);
        let count = u32::try_from(count).unwrap();
        assert_eq!((record.from, record.target), (count, count));
    }
    assert_eq!(
        value(&bench.get("rc", "default", "web").await.unwrap())["spec"]["replicas"],
        2
    );
    // So does who applies or patches another count.
    bench
        .patch(patching("rc", "web", &json!({"spec": {"replicas": 3}})))
        .await
        .unwrap();
    assert_eq!(record(&bench).target, 3);
    assert_eq!(
        value(&bench.get("rc", "default", "web").await.unwrap())["spec"]["replicas"],
        2
    );
}

#[tokio::test]
async fn a_scale_ends_the_step_under_way_so_that_the_next_is_reckoned_anew() {
    let bench = bench().await;
    begin(&bench, by_file(&second())).await.unwrap();
    let mut under_way = record(&bench);
    under_way.begin(StepRecord {
        old: 1,
        new: 1,
        back: false,
        done: None,
    });
    let change = Change::put(keys::update("default", "web"), Expect::Any, encode(&under_way));
    bench.put(vec![change]).await;
    bench.scale(scaling("web", 1)).await.unwrap();
    let scaled = record(&bench);
    assert!(scaled.step().is_none() && scaled.begun() == 1, "{:?}", scaled.steps);
    // Asked for the same count again nothing changes.
    bench.scale(scaling("web-v2", 1)).await.unwrap();
    assert_eq!(record(&bench), scaled);
}

#[tokio::test]
async fn templates_stay_and_labels_may_change_meanwhile() {
    let bench = bench().await;
    begin(&bench, by_file(&second())).await.unwrap();
    for name in ["web", "web-v2"] {
        let patch = json!({"spec": {"template": {"metadata": {"labels": {"x": "y"}}}}});
        says(
            bench.patch(patching("rc", name, &patch)).await,
            Code::FailedPrecondition,
            "template and selector of both stay as they are",
        );
        bench
            .patch(patching("rc", name, &json!({"metadata": {"labels": {"x": "y"}}})))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn deleting_the_new_one_turns_it_back_and_the_old_one_needs_force() {
    let bench = bench().await;
    begin(&bench, by_file(&second())).await.unwrap();
    says(
        bench.delete(deleting("rc", "web")).await,
        Code::FailedPrecondition,
        "--force",
    );
    let gone = bench.delete(deleting("rc", "web-v2")).await.unwrap();
    assert!(gone.warnings.is_empty() || gone.warnings[0].contains("rolled back"));
    assert!(record(&bench).back);
    bench
        .get("rc", "default", "web-v2")
        .await
        .expect("it goes with its last pod");
    let mut force = deleting("rc", "web");
    force.force = true;
    bench.delete(force).await.unwrap();
    assert_eq!(record(&bench).ended.map(|e| e.how.as_str()), Some("Abandoned"));
    bench.get("rc", "default", "web").await.expect_err("gone");
    bench.get("rc", "default", "web-v2").await.expect("it stays as it is");
}

#[tokio::test]
async fn updates_that_go_on_are_listed_by_namespace() {
    let bench = bench().await;
    let listed = |namespace: &str| {
        let request = ListUpdatesRequest {
            namespace: namespace.into(),
        };
        let service = service(&bench);
        async move {
            let reply = service.list(Request::new(request)).await.unwrap().into_inner();
            let views = reply.updates.into_iter();
            views.map(|v| (v.namespace, v.old, v.new, v.phase)).collect::<Vec<_>>()
        }
    };
    assert!(listed("").await.is_empty());
    begin(&bench, by_file(&second())).await.unwrap();
    steer(&bench, "web", "pause").await.unwrap();
    let web = ["default", "web", "web-v2", "Paused"].map(str::to_owned);
    let [a, b, c, d] = web;
    assert_eq!(listed("").await, [(a, b, c, d)]);
    assert_eq!(listed("default").await.len(), 1);
    assert!(listed("shop").await.is_empty());
    let mut force = deleting("rc", "web");
    force.force = true;
    bench.delete(force).await.unwrap();
    assert!(listed("").await.is_empty(), "it is over");
}

#[tokio::test]
async fn what_runs_is_what_a_rollback_leads_to() {
    let bench = bench().await;
    // Its template is another one by now than the one that its pod is of.
    let image = |rc: &Value| rc["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let before = value(&bench.get("rc", "default", "web").await.unwrap());
    assert_ne!(image(&before), "i:1");
    begin(&bench, by_image("web:9")).await.unwrap();
    let old = value(&bench.get("rc", "default", "web").await.unwrap());
    assert_eq!(image(&old), "i:1");
    let new = record(&bench).new_name;
    let new = value(&bench.get("rc", "default", &new).await.unwrap());
    assert_eq!(image(&new), "web:9");
    // What it is selected by stays.
    let selector = old["spec"]["selector"].as_object().unwrap();
    let labels = &old["spec"]["template"]["metadata"]["labels"];
    assert!(selector.iter().all(|(k, v)| labels[k] == *v), "{old}");
}

#[tokio::test]
async fn what_changes_in_the_same_moment_is_not_lost() {
    let bench = bench().await;
    let key = ("default".to_owned(), "web".to_owned());
    let mut six = bench.hub.read(|w| (*w.controllers[&key].rc).clone());
    six.spec.replicas = 6;
    let at = keys::object(Kind::ReplicationController, "default", "web");
    bench.store.rival(vec![Change::put(at, Expect::Any, encode(&six))]);
    begin(&bench, by_file(&second())).await.unwrap();
    assert_eq!((record(&bench).from, record(&bench).target), (6, 6));
}

#[tokio::test]
async fn what_is_refused_leaves_no_label_behind() {
    let bench = bench().await;
    let request = BeginUpdateRequest {
        label_key: "bad key!".into(),
        ..by_image("web:2")
    };
    says(begin(&bench, request).await, Code::InvalidArgument, "label_key");
    let pods = bench.list(listing("pods", "", "")).await.unwrap().items;
    for pod in pods {
        assert_eq!(value(&pod)["metadata"]["labels"]["bad key!"], Value::Null);
    }
}

#[tokio::test]
async fn a_rollback_takes_limits_and_goes_on_from_its_pause() {
    let bench = bench().await;
    begin(&bench, by_file(&second())).await.unwrap();
    steer(&bench, "web", "rollback").await.unwrap();
    assert!(record(&bench).back && record(&bench).back_why.is_empty());
    steer(&bench, "web", "pause").await.unwrap();
    let request = SteerUpdateRequest {
        name: "web".into(),
        action: "rollback".into(),
        limits: Some(wire::UpdateLimits {
            max_unavailable: "1".into(),
            ..wire::UpdateLimits::default()
        }),
        ..SteerUpdateRequest::default()
    };
    let reply = service(&bench)
        .steer(Request::new(request.clone()))
        .await
        .unwrap()
        .into_inner();
    assert!(reply.changed && reply.view.is_some_and(|v| v.back && !v.paused));
    assert_eq!(record(&bench).missed(), 1);
    let again = service(&bench).steer(Request::new(request)).await.unwrap().into_inner();
    assert!(!again.changed);
}

#[tokio::test]
async fn a_history_is_the_controller_itself_until_it_is_updated() {
    let bench = bench().await;
    let history = |name: &str| {
        let request = UpdateHistoryRequest {
            name: name.into(),
            ..UpdateHistoryRequest::default()
        };
        let service = service(&bench);
        async move {
            service
                .history(Request::new(request))
                .await
                .map(|r| r.into_inner().revisions)
        }
    };
    let one = history("web").await.unwrap();
    assert_eq!((one.len(), one[0].number, one[0].images.len()), (1, 1, 1));
    says(history("nothing").await, Code::NotFound, "not found");
    let undo = |to_revision| {
        let service = service(&bench);
        async move {
            let request = UndoUpdateRequest {
                name: "web".into(),
                to_revision,
                ..UndoUpdateRequest::default()
            };
            service
                .undo(Request::new(request))
                .await
                .map(tonic::Response::into_inner)
        }
    };
    says(undo(0).await, Code::FailedPrecondition, "no earlier revision");
    says(undo(1).await, Code::FailedPrecondition, "revision 1 is the present one");
    says(undo(7).await, Code::FailedPrecondition, "there is no revision 7");
    let key = ("default".to_owned(), "web".to_owned());
    let present = bench.hub.read(|w| (*w.controllers[&key].rc).clone());
    let mut former = present.clone();
    former.metadata.name = "web-v0".into();
    former.spec.selector.insert("version".into(), "0".into());
    former
        .spec
        .template
        .metadata
        .labels
        .insert("version".into(), "0".into());
    let mut older = present.clone();
    older.spec.template.spec.containers[0].image = "web:0".into();
    let revisions =
        RevisionsRecord::of(&former)
            .and(Time(1), "user/a", "x", &older)
            .and(Time(2), "user/b", "y", &present);
    let change = crate::store::Change::put(
        crate::store::keys::revisions("default", "web"),
        crate::store::Expect::Any,
        crate::world::record::encode(&revisions),
    );
    bench.put(vec![change]).await;
    // Back to another image under the same name, and to another name.
    let mut dry = UndoUpdateRequest {
        name: "web".into(),
        dry_run: true,
        ..UndoUpdateRequest::default()
    };
    let reply = service(&bench)
        .undo(Request::new(dry.clone()))
        .await
        .unwrap()
        .into_inner();
    let new: Value = serde_json::from_slice(&reply.new).unwrap();
    assert_eq!(new["spec"]["template"]["spec"]["containers"][0]["image"], "web:0");
    assert!(new["metadata"]["name"].as_str().unwrap().starts_with("web-"), "{new}");
    dry.to_revision = 1;
    let reply = service(&bench).undo(Request::new(dry)).await.unwrap().into_inner();
    let new: Value = serde_json::from_slice(&reply.new).unwrap();
    assert_eq!(new["metadata"]["name"], "web-v0");
    let reply = undo(0).await.unwrap();
    assert_eq!(reply.view.unwrap().cause, "undo to revision 2");
}

#[tokio::test]
async fn a_watch_begins_with_what_is_and_ends_with_the_update() {
    let bench = bench().await;
    let watch = |name: &str| {
        let request = WatchUpdateRequest {
            name: name.into(),
            ..WatchUpdateRequest::default()
        };
        let service = service(&bench);
        async move {
            service
                .watch(Request::new(request))
                .await
                .map(tonic::Response::into_inner)
        }
    };
    says(
        watch("web").await.map(|_| ()),
        Code::NotFound,
        "no update of web in progress",
    );
    says(
        watch("nothing").await.map(|_| ()),
        Code::NotFound,
        "\"nothing\" not found",
    );
    begin(&bench, by_file(&second())).await.unwrap();
    let mut views = watch("web-v2").await.unwrap();
    let first = tokio::time::timeout(std::time::Duration::from_secs(20), views.next()).await;
    assert_eq!(first.unwrap().unwrap().unwrap().old, "web");
    let mut force = deleting("rc", "web");
    force.force = true;
    bench.delete(force).await.unwrap();
    let last = tokio::time::timeout(std::time::Duration::from_secs(20), views.next()).await;
    assert_eq!(last.unwrap().unwrap().unwrap().phase, "Abandoned");
    assert!(views.next().await.is_none());
}
